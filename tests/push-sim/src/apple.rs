//! Apple's developer teams: who may send for which apps, and the provider tokens that prove it.
//! Facts: Apple, "Establishing a token-based connection to APNs".

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Context;
use parking_lot::RwLock;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use crate::jwt::{Algorithm, Jwt};

/// How far ahead of the provider's clock a sender's may be.
const SKEW_S: i64 = 60;

/// Apple's two worlds. A device token belongs to one, and a key may be restricted to one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Environment {
    /// api.push.apple.com
    #[default]
    Production,
    /// api.sandbox.push.apple.com
    Sandbox,
}

/// A team with its signing key, made by the simulator.
#[derive(Clone)]
pub struct TeamKey {
    /// `iss` of its provider tokens.
    pub team_id: String,
    /// `kid` of its provider tokens.
    pub key_id: String,
    /// Bundle ids of its apps; their suffixed topics (`.voip` …) are included. Empty = any.
    pub topics: Vec<String>,
    /// The key as Apple hands it out: PKCS #8, PEM, in a file called `AuthKey_<key id>.p8`.
    pub p8: String,
}

impl std::fmt::Debug for TeamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TeamKey").field("team_id", &self.team_id).field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// What is known of a key: all but its secret.
#[derive(Debug)]
struct Key {
    team_id: String,
    topics: Vec<String>,
    environment: Option<Environment>,
    public: Vec<u8>,
}

/// All keys, by their id.
#[derive(Debug, Default)]
pub(crate) struct Teams {
    keys: RwLock<HashMap<String, Key>>,
    /// Counts changes, so that connections verify again what they have verified.
    generation: AtomicU64,
}

/// A provider token that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProviderToken {
    pub(crate) team_id: String,
    pub(crate) key_id: String,
    pub(crate) topics: Vec<String>,
    pub(crate) issued_s: i64,
}

/// Why one was not: Apple's reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenRefusal {
    Invalid,
    Expired,
    Environment,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    iat: i64,
}

// === impl TokenRefusal ===

impl TokenRefusal {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "InvalidProviderToken",
            Self::Expired => "ExpiredProviderToken",
            Self::Environment => "BadEnvironmentKeyIdInToken",
        }
    }
}

// === impl Teams ===

impl Teams {
    /// Makes a key for a team and knows it from now on.
    pub(crate) fn make(&self, team_id: &str, key_id: &str, topics: &[&str]) -> anyhow::Result<TeamKey> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a team's key")?;
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        self.put(team_id, key_id, topics.clone(), None, key.subject_public_key_info());
        Ok(TeamKey { team_id: team_id.to_owned(), key_id: key_id.to_owned(), topics, p8: key.serialize_pem() })
    }

    /// Knows a key that somebody else made, by its public half (SubjectPublicKeyInfo, PEM).
    pub(crate) fn register(
        &self,
        team_id: &str,
        key_id: &str,
        topics: &[&str],
        environment: Option<Environment>,
        public_pem: &str,
    ) -> anyhow::Result<()> {
        let public = SubjectPublicKeyInfoDer::from_pem_slice(public_pem.as_bytes()).context("read a public key (PEM)")?;
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        self.put(team_id, key_id, topics, environment, public.to_vec());
        Ok(())
    }

    fn put(&self, team_id: &str, key_id: &str, topics: Vec<String>, environment: Option<Environment>, public: Vec<u8>) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.keys.write().insert(key_id.to_owned(), Key { team_id: team_id.to_owned(), topics, environment, public });
    }

    /// The key is no longer good.
    pub(crate) fn revoke(&self, key_id: &str) -> bool {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.keys.write().remove(key_id).is_some()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Verifies a provider token: ES256, a known key of that team, issued within `lifetime`.
    pub(crate) fn verify(
        &self,
        token: &[u8],
        now_s: i64,
        lifetime: Duration,
        environment: Environment,
    ) -> Result<ProviderToken, TokenRefusal> {
        let jwt = Jwt::parse(token).map_err(|_| TokenRefusal::Invalid)?;
        let key_id = jwt.kid().ok_or(TokenRefusal::Invalid)?;
        let claims: Claims = jwt.claims().map_err(|_| TokenRefusal::Invalid)?;
        let keys = self.keys.read();
        let key = keys.get(key_id).filter(|key| key.team_id == claims.iss).ok_or(TokenRefusal::Invalid)?;
        jwt.verify(Algorithm::Es256, &key.public).map_err(|_| TokenRefusal::Invalid)?;
        if key.environment.is_some_and(|only| only != environment) {
            return Err(TokenRefusal::Environment);
        }
        if claims.iat > now_s + SKEW_S {
            return Err(TokenRefusal::Invalid);
        }
        let token = ProviderToken { team_id: claims.iss, key_id: key_id.to_owned(), topics: key.topics.clone(), issued_s: claims.iat };
        if token.is_expired(now_s, lifetime) { Err(TokenRefusal::Expired) } else { Ok(token) }
    }
}

// === impl ProviderToken ===

impl ProviderToken {
    pub(crate) fn is_expired(&self, now_s: i64, lifetime: Duration) -> bool {
        now_s - self.issued_s > i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::jwt::sign;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_provider_token_is_good_for_an_hour_and_only_with_the_team_s_own_key() {
        let teams = Teams::default();
        let team = teams.make("TEAM000001", "KEY0000001", &["org.elph.phone"]).unwrap();
        let stranger = Teams::default().make("TEAM000001", "KEY0000001", &[]).unwrap();
        let verify = |token: &str, now| teams.verify(token.as_bytes(), now, HOUR, Environment::Production).map(|good| good.team_id);
        let header = || json!({"alg": "ES256", "kid": "KEY0000001"});
        let claims = || json!({"iss": "TEAM000001", "iat": 1000});
        let good = sign::es256(&team.p8, header(), claims());
        assert_eq!(verify(&good, 1000), Ok("TEAM000001".to_owned()));
        assert_eq!(verify(&good, 1000 + 3600), Ok("TEAM000001".to_owned()));
        assert_eq!(verify(&good, 1000 + 3601), Err(TokenRefusal::Expired));
        assert_eq!(verify(&good, 1000 - 61), Err(TokenRefusal::Invalid), "issued in the future");
        let bad = [
            sign::es256(&stranger.p8, header(), claims()),
            sign::es256(&team.p8, json!({"alg": "ES256", "kid": "KEY0000002"}), claims()),
            sign::es256(&team.p8, json!({"alg": "ES256"}), claims()),
            sign::es256(&team.p8, json!({"alg": "HS256", "kid": "KEY0000001"}), claims()),
            sign::es256(&team.p8, header(), json!({"iss": "TEAM000002", "iat": 1000})),
            sign::es256(&team.p8, header(), json!({"iss": "TEAM000001"})),
            format!("{good}A"),
            "a.b".to_owned(),
            String::new(),
        ];
        for token in bad {
            assert_eq!(verify(&token, 1000), Err(TokenRefusal::Invalid), "{token}");
        }
        assert!(teams.revoke("KEY0000001"));
        assert_eq!(verify(&good, 1000), Err(TokenRefusal::Invalid));
    }
}
