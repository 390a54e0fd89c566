//! Who is calling, what they may do and in whose name: peer credentials or a client certificate name the caller, a grant gives it
//! scopes and domains, and a moderator's access token names the person. Metadata alone is recorded as a claim and trusted in nothing.

mod attempts;
pub mod audit;
mod denied;
mod grant;
mod peer;

use std::sync::Arc;

use arc_swap::ArcSwap;
use ecss_switch::Domain;
use http::Extensions;
use tonic::metadata::MetadataMap;

pub use elph_shell::tokens::{Actor, TokenError, Tokens};

pub use self::{
    attempts::Attempts,
    denied::{Denied, ERROR_DOMAIN},
    grant::{DomainFilter, Grant, Grants},
    peer::{CertificateNames, Peer},
};
use crate::config::{Config, ModeratorToken, Scope};

/// Metadata with the person that the caller says it acts for. Recorded, not trusted.
pub const CLAIMED_ACTOR: &str = "elph-actor";

/// The longest claim that is recorded.
const CLAIM_LONGEST: usize = 256;

/// What a request needs.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    /// The service.
    pub scope: Scope,
    /// Whether it changes something.
    pub mutating: bool,
    /// The domain it is about. None for requests over all domains: those go through [`Principal::domains`].
    pub domain: Option<&'a Domain>,
}

/// Who a request comes from, once it is allowed.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The caller's grant.
    pub grant: Arc<Grant>,
    /// How it was recognised.
    pub peer: Peer,
    /// The person, verified.
    pub actor: Option<Actor>,
    /// The person, as the caller says.
    pub claimed_actor: Option<String>,
}

/// The rules in force. SIGHUP replaces them.
pub struct Access {
    rules: ArcSwap<Rules>,
    attempts: Attempts,
}

struct Rules {
    grants: Grants,
    tokens: Tokens,
}

// === impl Access ===

impl Access {
    /// The configuration's rules. Fails with the key at fault and why.
    pub fn new(config: &Config) -> Result<Self, (String, String)> {
        Ok(Self { rules: ArcSwap::from_pointee(Rules::new(config)?), attempts: Attempts::new(&config.limits) })
    }

    /// Replaces the rules; running requests keep what they were given.
    pub fn reload(&self, config: &Config) -> Result<(), (String, String)> {
        let rules = Rules::new(config)?;
        rules.tokens.inherit(&self.rules.load().tokens);
        self.rules.store(Arc::new(rules));
        self.attempts.reload(&config.limits);
        Ok(())
    }

    /// Limits on `AuthenticateSubscriber`.
    pub fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// The name of the grant that a peer has, whatever it may do.
    pub fn caller(&self, peer: &Peer) -> Option<String> {
        self.rules.load().grants.of(peer).map(|grant| grant.name.clone())
    }

    /// The name of the caller whose grant has the scope, in whatever domain.
    pub fn granted(&self, extensions: &Extensions, scope: Scope, mutating: bool) -> Result<String, Denied> {
        let peer = Peer::of(extensions).ok_or(Denied::CallerUnknown)?;
        let grant = self.rules.load().grants.of(&peer).ok_or(Denied::CallerUnknown)?;
        grant.allows(scope, mutating, None)?;
        Ok(grant.name.clone())
    }

    /// Decides on a tonic request.
    pub async fn authorize_request<T>(&self, request: &tonic::Request<T>, need: Need<'_>) -> Result<Principal, Denied> {
        self.authorize(request.metadata(), request.extensions(), need).await
    }

    /// Decides by what came with the request and the connection.
    pub async fn authorize(&self, metadata: &MetadataMap, extensions: &Extensions, need: Need<'_>) -> Result<Principal, Denied> {
        let peer = Peer::of(extensions).ok_or(Denied::CallerUnknown)?;
        let rules = self.rules.load_full();
        let grant = rules.grants.of(&peer).ok_or(Denied::CallerUnknown)?;
        grant.allows(need.scope, need.mutating, need.domain)?;
        let actor = match (grant.moderator_token, bearer(metadata)?) {
            (ModeratorToken::Ignored, _) => None,
            (ModeratorToken::Required, None) if need.mutating && need.scope == Scope::Conferences => {
                return Err(Denied::ModeratorTokenRequired);
            }
            (_, None) => None,
            (_, Some(token)) => Some(rules.tokens.verify(token).await?),
        };
        if let (Some(actor), Some(domain)) = (&actor, need.domain)
            && actor.domain != domain.as_str()
        {
            return Err(Denied::ModeratorOfOtherDomain { domain: domain.clone() });
        }
        // A moderator's command that names no domain could be about anybody's conference.
        if actor.is_some() && need.mutating && need.domain.is_none() && need.scope == Scope::Conferences {
            return Err(Denied::DomainNeeded);
        }
        Ok(Principal { grant, peer, actor, claimed_actor: claimed(metadata) })
    }
}

impl Rules {
    fn new(config: &Config) -> Result<Self, (String, String)> {
        Ok(Self { grants: Grants::new(config), tokens: Tokens::new(&config.oidc)? })
    }
}

// === impl Principal ===

impl Principal {
    /// The domains whose facts may be shown: every list and event stream goes through this.
    pub fn domains(&self) -> &DomainFilter {
        &self.grant.domains
    }

    /// The caller's name.
    pub fn caller(&self) -> &str {
        &self.grant.name
    }
}

/// The access token of `authorization: Bearer …` (RFC 6750).
fn bearer(metadata: &MetadataMap) -> Result<Option<&str>, Denied> {
    let mut values = metadata.get_all("authorization").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().map_err(|_| TokenError::Malformed)?;
    let token = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    match (token, values.next()) {
        (Some(token), None) if !token.is_empty() => Ok(Some(token)),
        _ => Err(TokenError::Malformed.into()),
    }
}

/// The person that the caller says it acts for.
fn claimed(metadata: &MetadataMap) -> Option<String> {
    let text = metadata.get(CLAIMED_ACTOR)?.to_str().ok()?;
    Some(text.chars().filter(|c| !c.is_control()).take(CLAIM_LONGEST).collect())
}
