//! `[oidc]`: whose access tokens prove who somebody is.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Problem, Span};

/// Whom the suite's own tokens are for.
pub const OWN_AUDIENCE: &str = "elph";

/// Verification of access tokens (JWT, RFC 9068).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Oidc {
    /// The issuers that are trusted.
    pub issuers: Vec<Issuer>,
    /// How far the issuer's clock may differ from ours.
    pub leeway: Span,
    /// How old fetched keys may become before they are fetched anew.
    pub keys_max_age: Span,
    /// How long fetching the keys may take.
    pub keys_timeout: Span,
}

/// One issuer, usually one realm of the SSO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The `iss` claim, exactly.
    pub issuer: String,
    /// The `aud` claim must name this.
    pub audience: String,
    /// A file with the issuer's keys (JWK set, RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// An https address of the issuer's keys (JWK set). Without it and `jwks_file` the issuer is asked (OpenID Connect Discovery 1.0).
    pub jwks_url: Option<String>,
    /// PEM certificates of the authority to trust for `jwks_url`; the system's authorities when absent.
    pub ca_file: Option<PathBuf>,
    /// The one domain that this issuer's subjects belong to (realm = domain). Without it `domain_claim` says so.
    pub domain: Option<String>,
    /// The claim that holds the subject's domain; dots lead into objects.
    #[serde(default = "domain_claim")]
    pub domain_claim: String,
    /// The claim that holds the subject's roles; dots lead into objects.
    #[serde(default = "roles_claim")]
    pub roles_claim: String,
    /// The signature algorithms that are accepted.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<SignatureAlgorithm>,
}

/// A signature algorithm. Those with a shared key, and none at all, cannot be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are RFC 7518's and RFC 8037's")]
pub enum SignatureAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

fn domain_claim() -> String {
    "domain".to_owned()
}

fn roles_claim() -> String {
    "realm_access.roles".to_owned()
}

fn algorithms() -> Vec<SignatureAlgorithm> {
    vec![SignatureAlgorithm::RS256, SignatureAlgorithm::ES256, SignatureAlgorithm::EdDSA]
}

impl Default for Oidc {
    fn default() -> Self {
        Self { issuers: Vec::new(), leeway: Span::seconds(30), keys_max_age: Span::seconds(3600), keys_timeout: Span::seconds(5) }
    }
}

impl Issuer {
    /// One whose keys are in this program: the provider that is a part of it.
    pub fn own(issuer: String, domain: &str) -> Self {
        Self {
            issuer,
            audience: OWN_AUDIENCE.to_owned(),
            jwks_file: None,
            jwks_url: None,
            ca_file: None,
            domain: Some(domain.to_owned()),
            domain_claim: domain_claim(),
            roles_claim: roles_claim(),
            algorithms: algorithms(),
        }
    }
}

impl Oidc {
    /// What their types cannot say.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        if self.leeway > Span::seconds(300) {
            problems.push(Problem::new("oidc.leeway", "is out of range; must be at most 5m"));
        }
        if self.keys_timeout < Span::seconds(1) || self.keys_timeout > Span::seconds(60) {
            problems.push(Problem::new("oidc.keys_timeout", "is out of range; must be from 1s to 1m"));
        }
        for (index, issuer) in self.issuers.iter().enumerate() {
            let mut say = |key: &str, what: &str| problems.push(Problem::new(format!("oidc.issuers[{index}].{key}"), what));
            if issuer.issuer.is_empty() || self.issuers.iter().take(index).any(|other| other.issuer == issuer.issuer) {
                say("issuer", "must be a text of its own; each issuer is named once");
            }
            if issuer.audience.is_empty() {
                say("audience", "is empty; must be the audience that the issuer writes into its tokens for this program");
            }
            if issuer.algorithms.is_empty() {
                say("algorithms", "is empty; must name at least one");
            }
            match (&issuer.jwks_file, &issuer.jwks_url) {
                (Some(_), None) => {}
                (None, Some(url)) if url.starts_with("https://") => {}
                // Tests and an SSO on the same host.
                (None, Some(url)) if url.starts_with("http://127.0.0.1:") || url.starts_with("http://[::1]:") => {}
                (None, Some(_)) => say("jwks_url", "must begin with https://, since whoever changes the keys can be anyone"),
                // The issuer itself says where they are.
                (None, None) if issuer.issuer.starts_with("https://") || issuer.issuer.starts_with("http://127.0.0.1:") => {}
                (None, None) => say("jwks_url", "or jwks_file is needed, or an issuer that begins with https:// and can be asked"),
                (Some(_), Some(_)) => say("jwks_url", "and jwks_file are both set; only one of them is needed"),
            }
        }
    }
}
