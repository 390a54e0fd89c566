//! Tells clients that a session has ended (OpenID Connect Back-Channel Logout 1.0). What has to be told is in the database: it survives a
//! restart, and each copy takes its share.

use std::{sync::Arc, time::Duration};

use rand::Rng;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    metrics::Outcome,
    now,
    provider::{LOGOUT, Provider},
    settings::Signature,
    store::Farewell,
};

/// How often it is looked whether something is to be told.
const LOOK: Duration = Duration::from_secs(1);
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first wait after a failure, and the longest.
const WAITS: (i64, i64) = (2_000, 600_000);
/// After so many failures, a day or so, the client is not told.
const ATTEMPTS: i64 = 150;
/// The `events` claim.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Delivers until it is told to stop.
pub(crate) async fn deliver(provider: Arc<Provider>, stop: CancellationToken) {
    let client = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).pool_max_idle_per_host(0).build();
    let client = match client {
        Ok(client) => client,
        Err(error) => return tracing::error!(error = elph_shell::told(&error), "clients cannot be told that sessions end"),
    };
    loop {
        let wait = LOOK.mul_f64(rand::rng().random_range(0.5..=1.0));
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
        let again = now() + 2 * i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
        match provider.store.farewells(now(), again).await {
            Ok(due) => {
                // A slow client delays the others only by its time-out.
                let mut set = tokio::task::JoinSet::new();
                for farewell in due {
                    let (provider, client) = (provider.clone(), client.clone());
                    set.spawn(async move { tell(&provider, &client, &farewell).await });
                }
                set.join_all().await;
            }
            Err(error) => tracing::warn!(error = elph_shell::told(&error), "it cannot be read which clients are to be told"),
        }
    }
}

async fn tell(provider: &Provider, http: &reqwest::Client, farewell: &Farewell) {
    let address = provider.settings.client(&farewell.domain, &farewell.client);
    let outcome = match address.and_then(|client| Some((client.backchannel_logout_uri.clone()?, client.id_token_signed_response_alg))) {
        // The client is not in the configuration any more.
        None => Ok(()),
        Some((address, algorithm)) => send(provider, http, farewell, &address, algorithm).await,
    };
    let count = |outcome| provider.metrics.logouts.get_or_create(&Outcome { outcome }).inc();
    let written = match outcome {
        Ok(()) => {
            count("told");
            provider.store.told(&farewell.id).await
        }
        Err(error) if farewell.attempts >= ATTEMPTS => {
            count("given_up");
            tracing::error!(
                client = farewell.client,
                error,
                attempts = farewell.attempts,
                "a client could not be told that a session has ended"
            );
            provider.store.told(&farewell.id).await
        }
        Err(error) => {
            count("failed");
            tracing::warn!(
                client = farewell.client,
                error,
                attempts = farewell.attempts,
                "a client could not be told that a session has ended; it is tried again"
            );
            let wait = WAITS.0.saturating_mul(1 << farewell.attempts.clamp(0, 20)).min(WAITS.1);
            let wait = rand::rng().random_range(wait / 2..=wait);
            provider.store.tell_again(&farewell.id, now() + wait).await
        }
    };
    if let Err(error) = written {
        tracing::warn!(error = elph_shell::told(&error), "it could not be written down whether a client was told");
    }
}

async fn send(provider: &Provider, http: &reqwest::Client, farewell: &Farewell, address: &str, algorithm: Signature) -> Result<(), String> {
    let seconds = now() / 1000;
    let claims = json!({
        "iss": provider.settings.issuer(&farewell.domain), "aud": farewell.client, "sub": farewell.user_id, "sid": farewell.session_id,
        "iat": seconds, "exp": seconds + 120, "jti": Uuid::new_v4().to_string(), "events": { EVENT: {} },
    });
    let token = provider.keys.sign(&farewell.domain, algorithm, LOGOUT, &claims).map_err(|error| error.to_string())?;
    let answer =
        http.post(address).form(&[("logout_token", token)]).send().await.map_err(|error| elph_shell::told(&error.without_url()))?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        // RFC-like 400: it does not take this token, and will not take another one.
        status => Err(format!("it answered {}", status.as_u16())),
    }
}
