//! Who pushes: `Authorization: vapid t=…,k=…` (RFC 8292).

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::Refusal;
use crate::jwt::{Algorithm, Jwt};

/// A token may be good for a day at most.
const MAX_LIFETIME_S: i64 = 86_400;
/// How far a sender's clock may be ahead.
const SKEW_S: i64 = 60;

/// An application server that proved itself.
pub(super) struct ApplicationServer {
    /// Its public key in base64url.
    pub(super) key: String,
    /// How to reach its operator; empty if it does not say.
    pub(super) subject: String,
}

#[derive(Deserialize)]
struct Claims {
    aud: String,
    exp: i64,
    #[serde(default)]
    sub: String,
}

pub(super) fn verify(header: Option<&str>, origins: &[String], now_s: i64) -> Result<ApplicationServer, Refusal> {
    let header = header.ok_or((401, "Authorization is missing"))?;
    let (scheme, parameters) = header.split_once(' ').ok_or((401, "Authorization must be vapid"))?;
    if !scheme.eq_ignore_ascii_case("vapid") {
        return Err((401, "Authorization must be vapid"));
    }
    let parameter = |name: &str| {
        let all = parameters.split(',').filter_map(|part| part.trim().split_once('='));
        all.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim_matches('"').trim_end_matches('='))
    };
    let token = parameter("t").ok_or((401, "the vapid token is missing"))?;
    let key = parameter("k").ok_or((401, "the vapid key is missing"))?;
    let point = URL_SAFE_NO_PAD.decode(key).map_err(|_| (403, "the vapid key is not base64url"))?;
    if point.len() != 65 || ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).is_err() {
        return Err((403, "the vapid key is no point of P-256"));
    }
    let jwt = Jwt::parse(token.as_bytes()).map_err(|_| (403, "the vapid token is no JWT"))?;
    jwt.verify(Algorithm::Es256, &point).map_err(|_| (403, "the vapid token is not signed with its key"))?;
    let claims: Claims = jwt.claims().map_err(|_| (403, "the vapid token lacks aud or exp"))?;
    if !origins.contains(&claims.aud) {
        return Err((403, "aud is not the origin of the endpoint"));
    }
    if claims.exp <= now_s {
        return Err((403, "the vapid token has expired"));
    }
    if claims.exp > now_s + MAX_LIFETIME_S + SKEW_S {
        return Err((403, "the vapid token is good for more than a day"));
    }
    if !claims.sub.is_empty() && !claims.sub.starts_with("mailto:") && !claims.sub.starts_with("https:") {
        return Err((403, "sub is neither mailto: nor https:"));
    }
    Ok(ApplicationServer { key: key.to_owned(), subject: claims.sub })
}
