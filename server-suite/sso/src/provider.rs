//! The provider: what all its parts share, and its work in the background.

use std::{collections::HashMap, sync::Arc, time::Duration};

use elph_kit::{
    Kit, Service,
    database::{Database, DatabaseError},
};
use elph_shell::{config::Span, oidc::Issuer};
use jsonwebtoken::jwk::JwkSet;
use rand::Rng;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Keys, KeysError, PREFIX, SsoSettings, Store, api, farewell,
    metrics::Metrics,
    now,
    people::People,
    settings::ClientSettings,
    store::{Grant, Session, User},
    vault::{Broken, Vault, hash, same},
};

/// How often keys are looked at and what is over is removed.
const TURN: Duration = Duration::from_secs(60);
/// How exactly it is known when a session was used, in milliseconds.
const USED: i64 = 60_000;
/// The types of our tokens (RFC 9068, 2.1; OpenID Connect Back-Channel Logout 1.0, 2.4).
pub(crate) const ACCESS: &str = "at+jwt";
pub(crate) const IDENTITY: &str = "JWT";
pub(crate) const LOGOUT: &str = "logout+jwt";
/// What a refresh token is tagged for.
const REFRESH: &str = "refresh";

/// Why there is no provider.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// A key of the configuration, and what is wrong with it.
    #[error("{0}: {1}")]
    Settings(String, String),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The signing keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The library.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// What all parts share. It can be opened without serving: then it is only known which tokens are ours.
pub struct Provider {
    pub(crate) settings: SsoSettings,
    pub(crate) domains: Vec<String>,
    pub(crate) keys: Keys,
    pub(crate) vault: Arc<Vault>,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    /// Hashes of clients' secrets.
    secrets: HashMap<String, String>,
}

/// A provider that serves.
pub(crate) struct Serving {
    pub(crate) provider: Arc<Provider>,
    pub(crate) people: People,
}

impl std::ops::Deref for Serving {
    type Target = Provider;

    fn deref(&self) -> &Provider {
        &self.provider
    }
}

/// Begins to serve.
pub fn start(kit: &Kit, provider: &Arc<Provider>) -> Result<Service, ProviderError> {
    let people = People::new(&provider.settings.realms, kit).map_err(|(key, what)| ProviderError::Settings(key, what))?;
    provider.metrics.register(&kit.metrics);
    let serving = Arc::new(Serving { provider: provider.clone(), people });
    kit.tasks.spawn(turn(provider.clone(), kit.stop.clone()));
    kit.tasks.spawn(farewell::deliver(provider.clone(), kit.stop.clone()));
    Ok(Service { name: "sso", prefix: PREFIX, routes: api::routes(serving), document: api::document() })
}

/// Keys that are due, and what is over, every now and then.
async fn turn(provider: Arc<Provider>, stop: tokio_util::sync::CancellationToken) {
    loop {
        // Not all copies at the same moment.
        let wait = TURN.mul_f64(rand::rng().random_range(0.5..=1.0));
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
        if let Err(error) = provider.keys.turn().await {
            tracing::warn!(error = elph_shell::told(&error), "the signing keys could not be looked at");
        }
        let (idle, _) = provider.alive();
        let forget = now() - millis(provider.settings.lockout.forget);
        if let Err(error) = provider.store.sweep(now(), idle, forget).await {
            tracing::warn!(error = elph_shell::told(&error), "what is over could not be removed");
        }
    }
}

// === impl Provider ===

impl Provider {
    /// Opens it: the database's tables, the secret, and the signing keys of these domains.
    pub async fn open(settings: &SsoSettings, database: &Database, domains: Vec<String>) -> Result<Arc<Self>, ProviderError> {
        let wrong = |(key, what)| ProviderError::Settings(key, what);
        let vault = Arc::new(Vault::new(&settings.read_secret().map_err(wrong)?)?);
        let mut secrets = HashMap::new();
        for (index, client) in settings.clients.iter().enumerate() {
            if let Some(source) = client.source() {
                let read = source.map_err(|problem| problem.what).and_then(|source| source.read());
                let secret = read.map_err(|what| wrong((format!("sso.clients[{index}].secret_file"), what)))?;
                secrets.insert(client.client_id.clone(), hash(secret.expose_secret()));
            }
        }
        let store = Store::open(database).await?;
        let keys = Keys::open(database, vault.clone(), settings.lifetimes, domains.clone()).await?;
        Ok(Arc::new(Self { settings: settings.clone(), domains, keys, vault, store, metrics: Metrics::default(), secrets }))
    }

    /// What verifies our access tokens: an issuer for each domain, and where its keys are.
    pub fn issuers(self: &Arc<Self>) -> Vec<(Issuer, Arc<dyn Fn() -> JwkSet + Send + Sync>)> {
        let issuer = |domain: &String| {
            let (provider, domain) = (self.clone(), domain.clone());
            let issuer = Issuer::own(self.settings.issuer(&domain), &domain);
            let keys: Arc<dyn Fn() -> JwkSet + Send + Sync> = Arc::new(move || provider.keys.public(&domain));
            (issuer, keys)
        };
        self.domains.iter().map(issuer).collect()
    }

    /// Somebody who has signed in before.
    pub async fn user(&self, domain: &str, alias: &str) -> Result<Option<User>, sqlx::Error> {
        self.store.user_of(domain, alias).await
    }

    /// Ends all sessions of somebody; how many.
    pub async fn sign_out(&self, user: &User) -> Result<usize, sqlx::Error> {
        let mut ended = 0;
        for session in self.store.sessions(&user.domain, &user.id, self.alive()).await? {
            ended += usize::from(self.store.end_session(&user.domain, &session.id, &self.told(), now()).await?);
        }
        Ok(ended)
    }

    /// Removes somebody's authenticator app; whether there was one.
    pub async fn remove_app(&self, user: &User) -> Result<bool, sqlx::Error> {
        self.store.remove_totp(&user.id).await
    }

    pub(crate) fn has(&self, domain: &str) -> bool {
        self.domains.iter().any(|known| known == domain)
    }

    /// A session was used: written down once a minute, which is near enough for weeks.
    pub(crate) async fn used(&self, session: &Session) -> Result<(), sqlx::Error> {
        if now() - session.last_used < USED {
            return Ok(());
        }
        self.store.touch(&session.id, now()).await
    }

    /// Since when a session must have been used, and been opened, to be good.
    pub(crate) fn alive(&self) -> (i64, i64) {
        let lifetimes = &self.settings.lifetimes;
        (now() - millis(lifetimes.session_idle), now() - millis(lifetimes.session))
    }

    /// Whether this is the client's secret.
    pub(crate) fn is_secret(&self, client: &str, secret: &str) -> bool {
        self.secrets.get(client).is_some_and(|kept| same(kept, &hash(secret)))
    }

    /// Whether the client has a secret.
    pub(crate) fn is_confidential(&self, client: &str) -> bool {
        self.secrets.contains_key(client)
    }

    /// Clients that want to know that a session has ended.
    pub(crate) fn told(&self) -> Vec<String> {
        let clients = self.settings.clients.iter().filter(|client| client.backchannel_logout_uri.is_some());
        clients.map(|client| client.client_id.clone()).collect()
    }

    /// The token endpoint's answer.
    pub(crate) fn tokens(
        &self,
        client: &ClientSettings,
        grant: &Grant,
        user: &User,
        session: &Session,
        refresh: bool,
    ) -> Result<Value, Broken> {
        let (domain, seconds) = (&user.domain, now() / 1000);
        let life = i64::try_from(self.settings.lifetimes.token.0.as_secs()).unwrap_or(i64::MAX);
        let issuer = self.settings.issuer(domain);
        let mut access = json!({
            "iss": issuer, "sub": user.id, "aud": client.audience, "azp": client.client_id, "client_id": client.client_id,
            "iat": seconds, "exp": seconds + life, "jti": format!("{}.{}", grant.id, Uuid::new_v4().simple()), "sid": session.id,
            "typ": "Bearer", "auth_time": session.signed_in / 1000,
            "scope": grant.scope, "domain": domain, "preferred_username": user.alias, "realm_access": { "roles": user.roles },
        });
        if let Some(access) = access.as_object_mut() {
            access.extend(about(user, &grant.scope));
        }
        let access = self.keys.sign(domain, crate::Signature::ES256, ACCESS, &access)?;
        let mut answer = json!({
            "access_token": access, "token_type": "Bearer", "expires_in": life, "scope": grant.scope, "session_state": session.id,
        });
        let Some(members) = answer.as_object_mut() else { return Err(Broken) };
        if grant.scope.split(' ').any(|scope| scope == "openid") {
            let mut identity = json!({
                "iss": issuer, "sub": user.id, "aud": client.client_id, "azp": client.client_id, "iat": seconds, "exp": seconds + life,
                "auth_time": session.signed_in / 1000, "sid": session.id, "amr": session.methods, "at_hash": half_hash(&access),
                "preferred_username": user.alias, "domain": domain,
            });
            if let Some(identity) = identity.as_object_mut() {
                identity.extend(about(user, &grant.scope));
                identity.extend(grant.nonce.iter().map(|nonce| ("nonce".to_owned(), json!(nonce))));
            }
            let token = self.keys.sign(domain, client.id_token_signed_response_alg, IDENTITY, &identity)?;
            members.insert("id_token".to_owned(), token.into());
        }
        if refresh {
            let token = self.vault.tagged(REFRESH, &format!("{}.{}", grant.id, grant.generation));
            members.insert("refresh_token".to_owned(), token.into());
            members.insert("refresh_expires_in".to_owned(), self.settings.lifetimes.session_idle.0.as_secs().into());
        }
        Ok(answer)
    }

    /// The grant and the generation of a refresh token that we have made.
    pub(crate) fn refresh_token<'a>(&self, token: &'a str) -> Option<(&'a str, i64)> {
        let (id, generation) = self.vault.untagged(REFRESH, token)?.split_once('.')?;
        Some((id, generation.parse().ok()?))
    }

    /// The claims of an access token that is still good, its grant and session included.
    pub(crate) async fn access_token(
        &self,
        domain: &str,
        token: &str,
    ) -> Result<Option<(serde_json::Map<String, Value>, Session, User)>, sqlx::Error> {
        let Some(claims) = self.keys.verify(domain, &self.settings.issuer(domain), ACCESS, token, false) else { return Ok(None) };
        let word = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let grant = word("jti").split('.').next().unwrap_or_default();
        if self.store.grant(domain, grant).await?.is_none() {
            return Ok(None);
        }
        let found = self.store.session(domain, word("sid"), self.alive()).await?;
        Ok(found.map(|(session, user)| (claims, session, user)))
    }
}

/// What a client may know of somebody (OpenID Connect Core 1.0, 5.4).
pub(crate) fn about(user: &User, scope: &str) -> serde_json::Map<String, Value> {
    let has = |wanted: &str| scope.split(' ').any(|scope| scope == wanted);
    let mut about = serde_json::Map::new();
    if has("profile") {
        about.extend(user.name.iter().map(|name| ("name".to_owned(), json!(name))));
    }
    if has("email") {
        about.extend(user.email.iter().map(|email| ("email".to_owned(), json!(email))));
    }
    about
}

/// `at_hash` (OpenID Connect Core 1.0, 3.1.3.6), for both of our algorithms.
fn half_hash(token: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(token.as_bytes());
    URL_SAFE_NO_PAD.encode(digest.get(..16).unwrap_or_default())
}

pub(crate) fn millis(span: Span) -> i64 {
    i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX)
}
