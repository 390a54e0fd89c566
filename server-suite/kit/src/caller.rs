//! Who is calling: an access token in `Authorization: Bearer`, or, from browsers' WebSockets, which cannot set that field, in
//! `Sec-WebSocket-Protocol: elph, elph.bearer.<token>`. Never in the address, which gets into logs.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use elph_shell::{
    oidc::{Issuer, Oidc},
    tokens::{Actor, OwnKeys, TokenError, Tokens},
};

use crate::{
    limits::Limits,
    problem::{Code, Problem},
};

/// The subprotocol that our WebSockets speak.
pub const PROTOCOL: &str = "elph";
/// What begins the subprotocol that carries a token.
const PROTOCOL_BEARER: &str = "elph.bearer.";

/// A person, as the issuer vouches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's `sub`.
    pub subject: String,
    /// The tenant.
    pub domain: String,
    /// The subscriber's number in it.
    pub alias: String,
    /// The roles.
    pub roles: Vec<String>,
    /// When the token ends, in seconds since 1970.
    pub expires_at: u64,
}

/// Verifies access tokens.
pub struct Verifier(Tokens);

// === impl Verifier ===

impl Verifier {
    /// The trusted issuers. Fails with the key at fault and why.
    pub fn new(oidc: &Oidc) -> Result<Self, (String, String)> {
        Tokens::new(oidc).map(Self)
    }

    /// Trusts an issuer that is a part of this program.
    pub fn trust(&mut self, issuer: Issuer, keys: OwnKeys) {
        self.0.trust(issuer, keys);
    }

    /// Who a token is of.
    pub async fn verify(&self, token: &str) -> Result<Caller, Problem> {
        let Actor { subject, domain, username, roles, expires_at, .. } = self.0.verify(token).await.map_err(refused)?;
        let alias = if username.is_empty() { subject.clone() } else { username };
        Ok(Caller { subject, domain, alias, roles, expires_at })
    }
}

fn refused(error: TokenError) -> Problem {
    match error {
        TokenError::KeysUnavailable => Problem::new(Code::Unavailable, "the issuer's keys cannot be had at the moment; try again"),
        other => Problem::new(Code::Unauthenticated, format!("the access token is not accepted: {other}")),
    }
}

/// Needs the verifier and the limits as extensions of the request; the server puts them there.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let token = token(parts)?;
        let verifier = parts.extensions.get::<Arc<Verifier>>().cloned();
        let verifier = verifier.ok_or_else(|| Problem::new(Code::Unavailable, "nobody can be recognised here"))?;
        let caller = verifier.verify(&token).await?;
        if let Some(limits) = parts.extensions.get::<Arc<Limits>>() {
            limits.user(&caller)?;
        }
        Ok(caller)
    }
}

fn token(parts: &Parts) -> Result<String, Problem> {
    let missing = || Problem::new(Code::Unauthenticated, "send an access token: Authorization: Bearer …");
    let mut fields = parts.headers.get_all(http::header::AUTHORIZATION).iter();
    if let Some(field) = fields.next() {
        let text = field.to_str().map_err(|_| missing())?;
        let token = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        // Two of them: which one is checked must not be a matter of who looks.
        return token.filter(|token| !token.is_empty() && fields.next().is_none()).map(str::to_owned).ok_or_else(missing);
    }
    let protocols = parts.headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|field| field.to_str().ok());
    let offered = protocols.flat_map(|field| field.split(',')).map(str::trim);
    offered.filter_map(|name| name.strip_prefix(PROTOCOL_BEARER)).map(str::to_owned).next().ok_or_else(missing)
}
