//! Access tokens: signed JWTs (RFC 7519, RFC 9068) of a configured issuer. The key is chosen by `kid` from the issuer's
//! JWK set; only asymmetric algorithms that the configuration names are accepted, and only with a key of their own kind.

use std::{path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, decode, decode_header,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use serde_json::{Map, Value};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    config::read_bounded,
    oidc::{Issuer, Oidc, SignatureAlgorithm},
    told,
};

/// The longest token that is looked at.
const TOKEN_LONGEST: usize = 16 * 1024;
/// Most bytes of a JWK set.
const KEYS_LONGEST: usize = 256 * 1024;
/// How often an unknown `kid` may cause the keys to be fetched.
const FETCH_INTERVAL: Duration = Duration::from_secs(30);
/// How often keys of our own are looked at: they are in memory.
const OWN_MAX_AGE: Duration = Duration::from_secs(30);
/// For how many times their age limit keys still serve while the issuer cannot be reached.
const STALE_FACTOR: u32 = 10;
/// The longest name of a domain.
const DOMAIN_LONGEST: usize = 255;
/// Most roles that are kept of a token.
const MOST_ROLES: usize = 256;

/// A person, as an issuer has vouched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The `sub` claim.
    pub subject: String,
    /// The `iss` claim.
    pub issuer: String,
    /// The tenant.
    pub domain: String,
    /// The name that the issuer knows the person by (`preferred_username`); empty if it says none.
    pub username: String,
    /// The roles.
    pub roles: Vec<String>,
    /// The `exp` claim: when the token ends, in seconds since 1970.
    pub expires_at: u64,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no signed JWT.
    #[error("it is no signed token")]
    Malformed,
    /// Its issuer is not configured.
    #[error("its issuer is not trusted")]
    Issuer,
    /// Its algorithm is not accepted, or does not fit the key.
    #[error("its signature algorithm is not accepted")]
    Algorithm,
    /// Its key is not among the issuer's.
    #[error("its key is not known")]
    UnknownKey,
    /// The signature is wrong.
    #[error("its signature does not hold")]
    Signature,
    /// `exp` is past.
    #[error("it has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("it is not valid yet")]
    NotYetValid,
    /// It was made for somebody else.
    #[error("its audience is another")]
    Audience,
    /// A needed claim is missing.
    #[error("a claim is missing")]
    Claims,
    /// The issuer's keys cannot be had.
    #[error("the issuer's keys cannot be had at the moment")]
    KeysUnavailable,
}

/// Every trusted issuer.
pub struct Tokens {
    issuers: Vec<Trusted>,
    leeway: Duration,
}

struct Trusted {
    issuer: Issuer,
    source: Source,
    max_age: Duration,
    keys: ArcSwapOption<Fetched>,
    /// When the keys were last asked for. Held while they are, so that one request asks for all.
    attempted: Mutex<Option<Instant>>,
}

enum Source {
    File(std::path::PathBuf),
    Address {
        url: String,
        client: reqwest::Client,
    },
    /// The issuer's description says where they are.
    Described {
        client: reqwest::Client,
    },
    /// They are in this program.
    Own(OwnKeys),
}

/// Shows the keys of an issuer that is a part of this program.
pub type OwnKeys = Arc<dyn Fn() -> JwkSet + Send + Sync>;

struct Fetched {
    set: JwkSet,
    at: Instant,
}

// === impl TokenError ===

impl TokenError {
    /// A stable word for programs.
    pub fn fault(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Issuer => "issuer",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Audience => "audience",
            Self::Claims => "claims",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }
}

// === impl Tokens ===

impl Tokens {
    /// The configured issuers. Keys are fetched when first needed. Fails with the key at fault and why.
    pub fn new(oidc: &Oidc) -> Result<Self, (String, String)> {
        let mut issuers = Vec::new();
        for (index, issuer) in oidc.issuers.iter().enumerate() {
            let source = match (&issuer.jwks_file, &issuer.jwks_url) {
                (Some(path), _) => Source::File(path.clone()),
                (None, Some(url)) => {
                    let client = client(issuer.ca_file.as_deref(), oidc.keys_timeout.0);
                    let client = client.map_err(|what| (format!("oidc.issuers[{index}].ca_file"), what))?;
                    Source::Address { url: url.clone(), client }
                }
                (None, None) => {
                    let client = client(issuer.ca_file.as_deref(), oidc.keys_timeout.0);
                    Source::Described { client: client.map_err(|what| (format!("oidc.issuers[{index}].ca_file"), what))? }
                }
            };
            issuers.push(Trusted::new(issuer.clone(), source, oidc.keys_max_age.0));
        }
        Ok(Self { issuers, leeway: oidc.leeway.0 })
    }

    /// Trusts an issuer that is a part of this program.
    pub fn trust(&mut self, issuer: Issuer, keys: OwnKeys) {
        self.issuers.push(Trusted::new(issuer, Source::Own(keys), OWN_MAX_AGE));
    }

    /// Takes over keys that were fetched from the same addresses, so that a reload while an issuer is down locks nobody out. Keys in
    /// files are read anew.
    pub fn inherit(&self, before: &Self) {
        for trusted in self.issuers.iter().filter(|trusted| matches!(trusted.source, Source::Address { .. } | Source::Described { .. })) {
            if let Some(old) = before.issuers.iter().find(|old| old.issuer == trusted.issuer) {
                trusted.keys.store(old.keys.load_full());
            }
        }
    }

    /// Verifies a token.
    pub async fn verify(&self, token: &str) -> Result<Actor, TokenError> {
        if token.len() > TOKEN_LONGEST {
            return Err(TokenError::Malformed);
        }
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        // Extensions that must be understood are not.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let unverified: Map<String, Value> = jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| TokenError::Malformed)?;
        let issuer = unverified.get("iss").and_then(Value::as_str).ok_or(TokenError::Claims)?;
        let trusted = self.issuers.iter().find(|trusted| trusted.issuer.issuer == issuer).ok_or(TokenError::Issuer)?;
        if !trusted.issuer.algorithms.iter().any(|accepted| algorithm(*accepted) == header.alg) {
            return Err(TokenError::Algorithm);
        }
        let key = trusted.key(&header).await?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_audience(&[&trusted.issuer.audience]);
        validation.set_issuer(&[&trusted.issuer.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = decode::<Map<String, Value>>(token, &key, &validation).map_err(|error| fault(error.kind()))?.claims;
        trusted.actor(&claims)
    }
}

fn fault(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYetValid,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        ErrorKind::MissingRequiredClaim(_) => TokenError::Claims,
        _ => TokenError::Malformed,
    }
}

// === impl Trusted ===

impl Trusted {
    fn new(issuer: Issuer, source: Source, max_age: Duration) -> Self {
        Self { issuer, source, max_age, keys: ArcSwapOption::empty(), attempted: Mutex::new(None) }
    }

    fn actor(&self, claims: &Map<String, Value>) -> Result<Actor, TokenError> {
        let subject = claims.get("sub").and_then(Value::as_str).filter(|subject| !subject.is_empty()).ok_or(TokenError::Claims)?;
        let domain = match &self.issuer.domain {
            Some(domain) => domain.clone(),
            None => {
                let text = lookup(claims, &self.issuer.domain_claim).and_then(Value::as_str).ok_or(TokenError::Claims)?;
                let printable = |c: char| !c.is_control() && !c.is_whitespace();
                if text.is_empty() || text.len() > DOMAIN_LONGEST || !text.chars().all(printable) {
                    return Err(TokenError::Claims);
                }
                text.to_owned()
            }
        };
        let roles = lookup(claims, &self.issuer.roles_claim).and_then(Value::as_array);
        let roles = roles.into_iter().flatten().filter_map(Value::as_str).take(MOST_ROLES).map(str::to_owned).collect();
        let username = claims.get("preferred_username").and_then(Value::as_str).unwrap_or_default().to_owned();
        // Required, and looked at above; a number with a fraction is one, too (RFC 7519, 2).
        let expires_at = claims.get("exp").and_then(|exp| exp.as_u64().or_else(|| exp.as_f64().map(|exp| exp as u64))).unwrap_or(0);
        Ok(Actor { subject: subject.to_owned(), issuer: self.issuer.issuer.clone(), domain, username, roles, expires_at })
    }

    /// The key that the header names.
    async fn key(&self, header: &Header) -> Result<DecodingKey, TokenError> {
        if let Some(fetched) = self.keys.load_full()
            && fetched.at.elapsed() < self.max_age
            && let Ok(key) = choose(&fetched.set, header)
        {
            return Ok(key);
        }
        self.refresh().await;
        let fetched = self.keys.load_full().ok_or(TokenError::KeysUnavailable)?;
        if fetched.at.elapsed() >= self.max_age.saturating_mul(STALE_FACTOR) {
            return Err(TokenError::KeysUnavailable);
        }
        choose(&fetched.set, header)
    }

    /// Fetches the keys, unless that was tried a moment ago. A failure keeps the keys that are there.
    async fn refresh(&self) {
        let mut attempted = self.attempted.lock().await;
        if attempted.is_some_and(|at| at.elapsed() < FETCH_INTERVAL) {
            return;
        }
        *attempted = Some(Instant::now());
        let fetched = match &self.source {
            Source::File(path) => {
                let path = path.clone();
                let reading = tokio::task::spawn_blocking(move || read_keys(&path)).await;
                reading.unwrap_or_else(|_| Err("reading was cut short".to_owned()))
            }
            Source::Address { url, client } => fetch(client, url).await,
            Source::Described { client } => match described(client, &self.issuer.issuer).await {
                Ok(url) => fetch(client, &url).await,
                Err(error) => Err(error),
            },
            Source::Own(keys) => Ok(keys()),
        };
        match fetched {
            Ok(set) => self.keys.store(Some(Arc::new(Fetched { set, at: Instant::now() }))),
            Err(error) => tracing::warn!(issuer = %self.issuer.issuer, %error, "the issuer's keys could not be fetched"),
        }
    }
}

/// The key by its id; without an id, the only one of the right kind. It must be one for signatures, of the algorithm's kind.
fn choose(set: &JwkSet, header: &Header) -> Result<DecodingKey, TokenError> {
    let mut fitting = set.keys.iter().filter(|key| match &header.kid {
        Some(_) => key.common.key_id == header.kid,
        None => fits(key, header.alg),
    });
    let key = match (fitting.next(), fitting.next()) {
        (Some(key), None) => key,
        _ => return Err(TokenError::UnknownKey),
    };
    if !fits(key, header.alg) {
        return Err(TokenError::Algorithm);
    }
    DecodingKey::from_jwk(key).map_err(|_| TokenError::UnknownKey)
}

/// Whether the key is meant for signatures with this algorithm. A public RSA key never verifies an HMAC.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    use Algorithm as A;
    let purpose = matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let named = key.common.key_algorithm.is_none_or(|named| Algorithm::try_from(named).is_ok_and(|named| named == algorithm));
    let kind = match &key.algorithm {
        AlgorithmParameters::RSA(_) => matches!(algorithm, A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512),
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => algorithm == A::ES256,
            EllipticCurve::P384 => algorithm == A::ES384,
            _ => false,
        },
        AlgorithmParameters::OctetKeyPair(parameters) => algorithm == A::EdDSA && parameters.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    purpose && named && kind
}

/// Reads a JWK set from a file.
pub fn read_keys(path: &Path) -> Result<JwkSet, String> {
    let bytes = read_bounded(path, KEYS_LONGEST as u64)?;
    parse_keys(&bytes).map_err(|error| format!("{} {error}", path.display()))
}

fn parse_keys(bytes: &[u8]) -> Result<JwkSet, String> {
    let set: JwkSet = serde_json::from_slice(bytes).map_err(|error| format!("is no JWK set: {error}"))?;
    if set.keys.is_empty() { Err("holds no key".to_owned()) } else { Ok(set) }
}

/// Where the issuer's keys are (OpenID Connect Discovery 1.0, 4).
async fn described(client: &reqwest::Client, issuer: &str) -> Result<String, String> {
    let body = body(client, &format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))).await?;
    let document: Map<String, Value> =
        serde_json::from_slice(&body).map_err(|error| format!("the issuer's description is no JSON: {error}"))?;
    let word = |name: &str| document.get(name).and_then(Value::as_str);
    if word("issuer") != Some(issuer) {
        return Err("the issuer's description is of another issuer".to_owned());
    }
    let url = word("jwks_uri").ok_or("the issuer's description has no jwks_uri")?;
    // Whoever changes the keys on their way can be anyone.
    if issuer.starts_with("https://") && !url.starts_with("https://") {
        return Err("the issuer's jwks_uri does not begin with https://".to_owned());
    }
    Ok(url.to_owned())
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<JwkSet, String> {
    let body = body(client, url).await?;
    parse_keys(&body).map_err(|error| format!("the answer {error}"))
}

async fn body(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
    let mut answer = client.get(url).send().await.map_err(|error| told(&error))?;
    if !answer.status().is_success() {
        return Err(format!("the issuer answered {}", answer.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| told(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > KEYS_LONGEST {
            return Err(format!("the answer is longer than {KEYS_LONGEST} bytes"));
        }
    }
    Ok(body)
}

fn client(ca_file: Option<&Path>, timeout: Duration) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .user_agent(concat!("elph/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = ca_file {
        let mut trusted = Vec::new();
        for certificate in crate::tls::certificates(path)? {
            let certificate = reqwest::Certificate::from_der(certificate.as_ref());
            trusted.push(certificate.map_err(|error| format!("{}: {error}", path.display()))?);
        }
        builder = builder.tls_certs_only(trusted);
    }
    builder.build().map_err(|error| told(&error))
}

fn algorithm(accepted: SignatureAlgorithm) -> Algorithm {
    match accepted {
        SignatureAlgorithm::RS256 => Algorithm::RS256,
        SignatureAlgorithm::RS384 => Algorithm::RS384,
        SignatureAlgorithm::RS512 => Algorithm::RS512,
        SignatureAlgorithm::PS256 => Algorithm::PS256,
        SignatureAlgorithm::PS384 => Algorithm::PS384,
        SignatureAlgorithm::PS512 => Algorithm::PS512,
        SignatureAlgorithm::ES256 => Algorithm::ES256,
        SignatureAlgorithm::ES384 => Algorithm::ES384,
        SignatureAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

/// A claim by its path: the whole name first, then object by object.
fn lookup<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    lookup(claims.get(first)?.as_object()?, rest)
}
