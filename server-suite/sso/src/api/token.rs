//! The token endpoint and what belongs to it: introspection (RFC 7662), revocation (RFC 7009), userinfo (OpenID Connect Core 1.0, 5.3).

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reqwest::Url;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Entered, Errors, Refusal, Visit, once};
use crate::{
    authorize::Parameters,
    metrics::Issued,
    now, people,
    provider::{Serving, about, millis},
    settings::{ClientSettings, GrantType},
    store::{DeviceState, Grant, Poll, Redeemed, Rotated, User},
    vault::{hash, same},
};

/// What codes and devices' codes are tagged for.
pub(super) const CODE: &str = "code";
pub(super) const DEVICE: &str = "device";

/// Exchanges a code, a refresh token or a device's code for tokens.
#[utoipa::path(
    post, path = "/realms/{domain}/protocol/openid-connect/token", tag = "tokens", security(()),
    params(("domain" = String, Path, description = "The domain.")),
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "RFC 6749, 4.1.3 and 6; RFC 8628, 3.4."),
    responses(
        (status = 200, description = "RFC 6749, 5.1.", body = Object),
        Errors
    )
)]
pub(super) async fn token(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Response {
    let mut grant = "other";
    let answered = async {
        let given = once(entered.0)?;
        let client = client(&serving, &visit, &given)?;
        let wanted = given.get("grant_type").ok_or_else(|| Refusal::new("invalid_request", "grant_type is missing"))?;
        let kind = match wanted {
            "authorization_code" => GrantType::AuthorizationCode,
            "refresh_token" => GrantType::RefreshToken,
            "urn:ietf:params:oauth:grant-type:device_code" => GrantType::DeviceCode,
            _ => {
                return Err(Refusal::new(
                    "unsupported_grant_type",
                    "grant_type must be authorization_code, refresh_token or urn:ietf:params:oauth:grant-type:device_code",
                ));
            }
        };
        grant = match kind {
            GrantType::AuthorizationCode => "authorization_code",
            GrantType::RefreshToken => "refresh_token",
            GrantType::DeviceCode => "device_code",
        };
        if !client.grant_types.contains(&kind) {
            return Err(Refusal::new("unauthorized_client", format!("this client may not use {grant}")));
        }
        match kind {
            GrantType::AuthorizationCode => by_code(&serving, &visit, client, &given).await,
            GrantType::RefreshToken => by_refresh(&serving, &visit, client, &given).await,
            GrantType::DeviceCode => by_device(&serving, &visit, client, &given).await,
        }
    };
    let answer: Result<Value, Refusal> = answered.await;
    let outcome = answer.as_ref().map_or_else(Refusal::error, |_| "ok");
    serving.metrics.tokens.get_or_create(&Issued { grant, outcome }).inc();
    match answer {
        Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn by_code(serving: &Serving, visit: &Visit, client: &ClientSettings, given: &Parameters) -> Result<Value, Refusal> {
    let wrong = || Refusal::new("invalid_grant", "the code is wrong, used, too old, or of another client, address or verifier");
    let code = given.get("code").ok_or_else(|| Refusal::new("invalid_request", "code is missing"))?;
    let verifier = given.get("code_verifier").ok_or_else(|| Refusal::new("invalid_request", "code_verifier is missing"))?;
    let id = serving.vault.untagged(CODE, code).ok_or_else(wrong)?;
    let code = serving.store.code(&visit.domain, id).await?.ok_or_else(wrong)?;
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    let fits = code.client == client.client_id
        && given.get("redirect_uri") == Some(&code.redirect_uri)
        && code.expires > now()
        && code.challenge.as_deref().is_some_and(|kept| same(kept, &challenge));
    if !fits {
        return Err(wrong());
    }
    let (session, user) = serving.store.session(&visit.domain, &code.session_id, serving.alive()).await?.ok_or_else(wrong)?;
    let grant = match serving.store.redeem(&visit.domain, id, &code, &user.id, now()).await? {
        Redeemed::Grant(grant) => grant,
        Redeemed::Reused => {
            serving.metrics.reuses.inc();
            tracing::warn!(client = client.client_id, domain = visit.domain, "a code was used a second time; what came of it is revoked");
            return Err(wrong());
        }
    };
    serving.used(&session).await?;
    let refresh = client.grant_types.contains(&GrantType::RefreshToken);
    Ok(serving.tokens(client, &grant, &user, &session, refresh)?)
}

async fn by_refresh(serving: &Serving, visit: &Visit, client: &ClientSettings, given: &Parameters) -> Result<Value, Refusal> {
    let wrong = || Refusal::new("invalid_grant", "the refresh token is wrong, used, revoked, too old, or of another client");
    let token = given.get("refresh_token").ok_or_else(|| Refusal::new("invalid_request", "refresh_token is missing"))?;
    let (id, generation) = serving.refresh_token(token).ok_or_else(wrong)?;
    // Looked at before it is used: another client must not use up what is not its own.
    let kept = serving.store.grant(&visit.domain, id).await?.filter(|grant| grant.client == client.client_id).ok_or_else(wrong)?;
    let (session, user) = serving.store.session(&visit.domain, &kept.session_id, serving.alive()).await?.ok_or_else(wrong)?;
    if let Some(scope) = given.get("scope") {
        // Less, but not more (RFC 6749, 6).
        let granted: Vec<&str> = kept.scope.split(' ').collect();
        if let Some(scope) = scope.split(' ').find(|scope| !granted.contains(scope)) {
            let scope: String = scope.chars().filter(char::is_ascii_graphic).take(40).collect();
            return Err(Refusal::new("invalid_scope", format!("{scope} was not granted")));
        }
    }
    // Before the token is used up: when this cannot be answered the client can try again.
    let user = still(serving, &user).await?.ok_or_else(wrong)?;
    let mut grant = match serving.store.rotate(&visit.domain, id, generation, now()).await? {
        Rotated::Grant(grant) => grant,
        Rotated::Reused => {
            serving.metrics.reuses.inc();
            tracing::warn!(
                client = client.client_id,
                domain = visit.domain,
                "a refresh token was used a second time; the grant is revoked"
            );
            return Err(wrong());
        }
        Rotated::Gone => return Err(wrong()),
    };
    if let Some(scope) = given.get("scope") {
        grant.scope = scope.to_owned();
    }
    serving.used(&session).await?;
    Ok(serving.tokens(client, &grant, &user, &session, true)?)
}

/// Somebody as they are now; none: they are gone, and so are their sessions.
async fn still(serving: &Serving, user: &User) -> Result<Option<User>, Refusal> {
    if now() - user.checked < millis(serving.settings.lifetimes.recheck) {
        return Ok(Some(user.clone()));
    }
    match serving.people.still(&user.domain, &user.alias).await {
        Ok(person) => Ok(Some(serving.store.put_user(&user.domain, &person, now()).await?)),
        // Whoever cannot be asked must not throw anybody out.
        Err(people::Refusal::Unavailable(why)) => {
            tracing::warn!(domain = user.domain, why, "it cannot be asked whether people still exist; they stay signed in");
            Ok(Some(user.clone()))
        }
        Err(people::Refusal::Wrong | people::Refusal::NotSubscriber) => {
            tracing::info!(domain = user.domain, subject = user.id, "a person is gone; their sessions end");
            serving.sign_out(user).await?;
            Ok(None)
        }
    }
}

async fn by_device(serving: &Serving, visit: &Visit, client: &ClientSettings, given: &Parameters) -> Result<Value, Refusal> {
    let code = given.get("device_code").ok_or_else(|| Refusal::new("invalid_request", "device_code is missing"))?;
    let expired = || Refusal::new("expired_token", "the device code is wrong or its time is over; begin anew");
    let id = serving.vault.untagged(DEVICE, code).map(hash).ok_or_else(expired)?;
    let device = match serving.store.poll(&visit.domain, &client.client_id, &id, now()).await? {
        Poll::Unknown => return Err(expired()),
        Poll::SlowDown => return Err(Refusal::new("slow_down", "asked too often; wait 5 seconds longer between requests")),
        Poll::Device(device) => device,
    };
    let session_id = match device.state {
        DeviceState::Pending => return Err(Refusal::new("authorization_pending", "nobody has entered the code yet")),
        DeviceState::Denied => return Err(Refusal::new("access_denied", "the person has said no")),
        DeviceState::Used => return Err(Refusal::new("invalid_grant", "the device code was used before")),
        DeviceState::Approved(session) => session,
    };
    let gone = || Refusal::new("access_denied", "the person has signed out meanwhile");
    let (approved, user) = serving.store.session(&visit.domain, &session_id, serving.alive()).await?.ok_or_else(gone)?;
    let methods: Vec<&str> = approved.methods.iter().map(String::as_str).collect();
    // A session of its own: it goes on when the browser signs out, and shows as a device of its own in the list.
    let opened = serving.store.open_session(&user, &methods, &visit.address, client.title(), now()).await?;
    let grant = Grant {
        id: Uuid::now_v7().to_string(),
        client: client.client_id.clone(),
        user_id: user.id.clone(),
        session_id: opened.id.clone(),
        scope: device.scope,
        nonce: None,
        generation: 1,
    };
    serving.store.put_grant(&visit.domain, &grant, now()).await?;
    let (session, user) = serving.store.session(&visit.domain, &opened.id, serving.alive()).await?.ok_or_else(gone)?;
    let refresh = client.grant_types.contains(&GrantType::RefreshToken);
    Ok(serving.tokens(client, &grant, &user, &session, refresh)?)
}

/// Says whether a token is good, to a client with a secret.
#[utoipa::path(
    post, path = "/realms/{domain}/protocol/openid-connect/token/introspect", tag = "tokens", security(()),
    params(("domain" = String, Path, description = "The domain.")),
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "RFC 7662, 2.1."),
    responses(
        (status = 200, description = "RFC 7662, 2.2.", body = Object),
        Errors
    )
)]
pub(super) async fn introspect(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Result<Json<Value>, Refusal> {
    let given = once(entered.0)?;
    let client = client(&serving, &visit, &given)?;
    if !serving.is_confidential(&client.client_id) {
        return Err(Refusal::client());
    }
    let token = given.get("token").ok_or_else(|| Refusal::new("invalid_request", "token is missing"))?;
    if let Some((claims, _, user)) = serving.access_token(&visit.domain, token).await? {
        let mut answer = Map::from_iter([("active".to_owned(), json!(true)), ("token_type".to_owned(), json!("Bearer"))]);
        answer.insert("username".to_owned(), json!(user.alias));
        answer.extend(claims.into_iter().filter(|(name, _)| name != "typ"));
        return Ok(Json(Value::Object(answer)));
    }
    if let Some((id, generation)) = serving.refresh_token(token)
        && let Some(grant) = serving.store.grant(&visit.domain, id).await?.filter(|grant| grant.generation == generation)
        && let Some((session, user)) = serving.store.session(&visit.domain, &grant.session_id, serving.alive()).await?
    {
        let ends = session.last_used + millis(serving.settings.lifetimes.session_idle);
        return Ok(Json(json!({
            "active": true, "token_type": "refresh_token", "client_id": grant.client, "sub": user.id, "username": user.alias,
            "scope": grant.scope, "iss": serving.settings.issuer(&visit.domain), "sid": session.id, "exp": ends / 1000,
        })));
    }
    Ok(Json(json!({ "active": false })))
}

/// Ends what a token is good for.
#[utoipa::path(
    post, path = "/realms/{domain}/protocol/openid-connect/revoke", tag = "tokens", security(()),
    params(("domain" = String, Path, description = "The domain.")),
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "RFC 7009, 2.1."),
    responses(
        (status = 200, description = "It is good for nothing now, or was not before."),
        Errors
    )
)]
pub(super) async fn revoke(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Result<StatusCode, Refusal> {
    let given = once(entered.0)?;
    let client = client(&serving, &visit, &given)?;
    let token = given.get("token").ok_or_else(|| Refusal::new("invalid_request", "token is missing"))?;
    let of_access = async || -> Result<Option<String>, sqlx::Error> {
        let claims = serving.access_token(&visit.domain, token).await?.map(|(claims, _, _)| claims);
        Ok(claims.and_then(|claims| claims.get("jti")?.as_str()?.split('.').next().map(str::to_owned)))
    };
    let grant = match serving.refresh_token(token) {
        Some((id, _)) => Some(id.to_owned()),
        None => of_access().await?,
    };
    if let Some(grant) = grant {
        serving.store.revoke(&visit.domain, &client.client_id, &grant, now()).await?;
    }
    Ok(StatusCode::OK)
}

/// Who the holder of an access token is.
#[utoipa::path(
    method(get, post), path = "/realms/{domain}/protocol/openid-connect/userinfo", tag = "tokens",
    params(("domain" = String, Path, description = "The domain.")),
    responses(
        (status = 200, description = "OpenID Connect Core 1.0, 5.3.2.", body = Object),
        Errors
    )
)]
pub(super) async fn userinfo(State(serving): State<Arc<Serving>>, visit: Visit) -> Response {
    let field = visit.headers.get(header::AUTHORIZATION).and_then(|field| field.to_str().ok());
    let token = field.and_then(|field| field.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let found = match token {
        Some((_, token)) => serving.access_token(&visit.domain, token.trim()).await,
        None => Ok(None),
    };
    match found {
        Ok(Some((claims, _, user))) => {
            let scope = claims.get("scope").and_then(Value::as_str).unwrap_or_default();
            let mut answer = about(&user, scope);
            answer.extend([
                ("sub".to_owned(), json!(user.id)),
                ("preferred_username".to_owned(), json!(user.alias)),
                ("domain".to_owned(), json!(user.domain)),
                ("realm_access".to_owned(), json!({ "roles": user.roles })),
            ]);
            Json(answer).into_response()
        }
        Ok(None) => {
            let refusal = Refusal::new("invalid_token", "the access token is missing, wrong, revoked or too old");
            let mut response = Refusal { status: StatusCode::UNAUTHORIZED, ..refusal }.into_response();
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
            response
        }
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// Which client asks, and whether it is that (RFC 6749, 2.3).
pub(super) fn client<'a>(serving: &'a Serving, visit: &Visit, given: &Parameters) -> Result<&'a ClientSettings, Refusal> {
    let header = basic(&visit.headers)?;
    let (id, secret) = match (&header, given.get("client_id"), given.get("client_secret")) {
        (Some(_), _, Some(_)) => return Err(Refusal::new("invalid_request", "the client's secret comes in two ways")),
        (Some((id, _)), Some(named), None) if id != named => return Err(Refusal::new("invalid_request", "client_id comes in two ways")),
        (Some((id, secret)), _, None) => (id.as_str(), Some(secret.as_str())),
        (None, Some(id), secret) => (id, secret),
        (None, None, _) => return Err(Refusal::client()),
    };
    let client = serving.settings.client(&visit.domain, id).ok_or_else(Refusal::client)?;
    match (serving.is_confidential(id), secret) {
        (true, Some(secret)) if serving.is_secret(id, secret) => Ok(client),
        // A public client has no secret; some libraries send an empty one.
        (false, None | Some("")) => Ok(client),
        _ => Err(Refusal::client()),
    }
}

/// Name and secret of `Authorization: Basic`, decoded twice (RFC 6749, 2.3.1).
fn basic(headers: &HeaderMap) -> Result<Option<(String, String)>, Refusal> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Refusal::new("invalid_request", "Authorization comes more than once"));
    }
    let decoded = field.to_str().ok().and_then(|field| field.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    let decoded = decoded.and_then(|(_, text)| STANDARD.decode(text.trim()).ok()).and_then(|octets| String::from_utf8(octets).ok());
    let (id, secret) = decoded.as_deref().and_then(|text| text.split_once(':')).ok_or_else(Refusal::client)?;
    Ok(Some((form_decoded(id), form_decoded(secret))))
}

fn form_decoded(text: &str) -> String {
    let mut url = match Url::parse("x:") {
        Ok(url) => url,
        Err(_) => return text.to_owned(),
    };
    url.set_query(Some(&format!("v={}", text.replace('&', "%26").replace('#', "%23"))));
    url.query_pairs().next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_secret_may_have_any_characters() {
        assert_eq!(form_decoded("a%2Bb+c%3A%26"), "a+b c:&");
        assert_eq!(form_decoded("plain-_.~"), "plain-_.~");
        assert_eq!(form_decoded("a&b#c=d"), "a&b#c=d");
    }
}
