//! Google's service accounts and the access tokens that they get for a signed assertion (RFC 7523).
//! Facts: Google, "Using OAuth 2.0 for server to server applications".

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use anyhow::Context;
use parking_lot::Mutex;
use rand::{Rng, distr::Alphanumeric};
use rcgen::{KeyPair, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};
use serde::Deserialize;
use serde_json::json;

use crate::jwt::{Algorithm, Jwt};

/// Scopes that let a token send messages.
const SCOPES: [&str; 2] = ["https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"];
/// The audience that Google's own libraries write whatever the file says.
const GOOGLES_AUDIENCE: &str = "https://oauth2.googleapis.com/token";
/// How far a sender's clock may be off.
const SKEW_S: i64 = 300;
/// An assertion lives at most an hour.
const MAX_LIFETIME_S: i64 = 3600;
/// Access tokens that are remembered; the oldest leave.
const MAX_TOKENS: usize = 10_000;

/// A known account.
#[derive(Debug)]
struct Account {
    project: String,
    key_id: String,
    public: Vec<u8>,
}

/// An access token's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) email: String,
    pub(crate) project: String,
    expires_s: i64,
}

#[derive(Debug, Default)]
struct Tokens {
    by_text: HashMap<String, Access>,
    order: VecDeque<String>,
}

/// All accounts, and the access tokens given out.
#[derive(Debug, Default)]
pub(crate) struct Google {
    accounts: Mutex<HashMap<String, Account>>,
    tokens: Mutex<Tokens>,
}

#[derive(Deserialize)]
struct Assertion {
    iss: String,
    aud: String,
    scope: String,
    iat: i64,
    exp: i64,
}

/// Why no token is given: the members `error` and `error_description` of the answer.
pub(crate) type OauthError = (&'static str, &'static str);

// === impl Google ===

impl Google {
    /// Makes an account and answers the file that its owner downloads. Making the RSA key takes a moment.
    pub(crate) fn make_account(&self, project: &str, token_uri: &str) -> anyhow::Result<String> {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).context("make a service account's key")?;
        let email = format!("push@{project}.iam.gserviceaccount.com");
        let key_id: String = {
            let mut random = rand::rng();
            (0..40).map(|_| char::from_digit(random.random_range(0..16), 16).unwrap_or('0')).collect()
        };
        let file = json!({
            "type": "service_account",
            "project_id": project,
            "private_key_id": key_id,
            "private_key": key.serialize_pem(),
            "client_email": email,
            "client_id": "100000000000000000001",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": token_uri,
            "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
            "universe_domain": "googleapis.com",
        });
        let account = Account { project: project.to_owned(), key_id, public: key.subject_public_key_info() };
        self.accounts.lock().insert(email, account);
        Ok(format!("{file:#}\n"))
    }

    /// Forgets a project's account: its assertions are refused from now on.
    pub(crate) fn revoke_account(&self, project: &str) -> bool {
        let mut accounts = self.accounts.lock();
        let before = accounts.len();
        accounts.retain(|_, account| account.project != project);
        accounts.len() < before
    }

    pub(crate) fn is_project(&self, project: &str) -> bool {
        self.accounts.lock().values().any(|account| account.project == project)
    }

    /// Gives an access token for a good assertion. `token_uris` are the names that this endpoint goes by.
    pub(crate) fn exchange(
        &self,
        assertion: &str,
        token_uris: &[String],
        now_s: i64,
        lifetime: Duration,
    ) -> Result<(String, Access), OauthError> {
        const BAD_SIGNATURE: OauthError = ("invalid_grant", "Invalid JWT Signature.");
        let jwt = Jwt::parse(assertion.as_bytes()).map_err(|_| ("invalid_grant", "Invalid JWT: Failed to decode."))?;
        let claims: Assertion = jwt.claims().map_err(|_| ("invalid_grant", "Invalid JWT: Missing or malformed claims."))?;
        let project = {
            let accounts = self.accounts.lock();
            let account = accounts.get(&claims.iss).ok_or(("invalid_grant", "Invalid grant: account not found"))?;
            if jwt.kid().is_some_and(|kid| kid != account.key_id) {
                return Err(BAD_SIGNATURE);
            }
            jwt.verify(Algorithm::Rs256, &account.public).map_err(|_| BAD_SIGNATURE)?;
            account.project.clone()
        };
        if claims.aud != GOOGLES_AUDIENCE && !token_uris.contains(&claims.aud) {
            return Err(("invalid_grant", "Invalid JWT: aud is not this token endpoint."));
        }
        if claims.iat > now_s + SKEW_S || claims.exp < now_s - SKEW_S {
            return Err(("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."));
        }
        if claims.exp - claims.iat > MAX_LIFETIME_S {
            return Err(("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes)."));
        }
        if !claims.scope.split(' ').any(|scope| SCOPES.contains(&scope)) {
            return Err(("invalid_scope", "Invalid OAuth scope or ID token audience provided."));
        }
        let text: String = rand::rng().sample_iter(Alphanumeric).take(96).map(char::from).collect();
        let text = format!("ya29.{text}");
        let expires_s = now_s + i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 2);
        let access = Access { email: claims.iss, project, expires_s };
        let mut tokens = self.tokens.lock();
        if tokens.order.len() == MAX_TOKENS
            && let Some(oldest) = tokens.order.pop_front()
        {
            tokens.by_text.remove(&oldest);
        }
        tokens.order.push_back(text.clone());
        tokens.by_text.insert(text.clone(), access.clone());
        Ok((text, access))
    }

    /// The owner of an access token that is still good.
    pub(crate) fn access(&self, token: &str, now_s: i64) -> Option<Access> {
        self.tokens.lock().by_text.get(token).filter(|access| now_s < access.expires_s).cloned()
    }

    /// Every access token given out so far is refused from now on.
    pub(crate) fn revoke_tokens(&self) {
        *self.tokens.lock() = Tokens::default();
    }
}
