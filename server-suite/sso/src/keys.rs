//! What tokens are signed with: for each domain keys of both algorithms, kept sealed in the database and shared by all copies. A new key
//! is shown some time before it is used and stays as long after it was, so that nobody meets a token whose key they cannot know
//! (OpenID Connect Core 1.0, 10.1.1).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use elph_kit::database::Database;
use jsonwebtoken::{
    DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, JwkSet},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sqlx::Row;
use uuid::Uuid;

use crate::{
    now,
    settings::{Lifetimes, Signature},
    vault::{Broken, Vault},
};

/// What a sealed key is sealed for.
const PURPOSE: &str = "signing key";

/// The keys of all domains.
pub struct Keys {
    database: Database,
    vault: Arc<Vault>,
    lifetimes: Lifetimes,
    domains: Vec<String>,
    rings: ArcSwap<HashMap<String, Ring>>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The database.
    #[error("the signing keys cannot be read")]
    Database(#[from] sqlx::Error),
    /// They were sealed with another secret.
    #[error(
        "the signing keys of '{0}' were sealed with another secret; put the old one back, or delete the rows of sso_keys: then everybody has to sign in again"
    )]
    Secret(String),
    /// The library.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// The keys of one domain.
#[derive(Default)]
struct Ring {
    /// By algorithm, the oldest first.
    keys: BTreeMap<Signature, Vec<Key>>,
    public: JwkSet,
}

struct Key {
    id: String,
    pair: Pair,
    active_from: i64,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
}

/// A row of the table.
struct Stored {
    algorithm: Signature,
    number: i64,
    id: String,
    sealed: Vec<u8>,
    active_from: i64,
}

// === impl Keys ===

impl Keys {
    /// Reads the keys, and makes those that are missing.
    pub async fn open(database: &Database, vault: Arc<Vault>, lifetimes: Lifetimes, domains: Vec<String>) -> Result<Self, KeysError> {
        let keys = Self { database: database.clone(), vault, lifetimes, domains, rings: ArcSwap::default() };
        keys.turn().await?;
        Ok(keys)
    }

    /// Makes the keys that are due, forgets those that are over, and takes over what other copies have made.
    pub async fn turn(&self) -> Result<(), KeysError> {
        let mut rings = HashMap::new();
        for domain in &self.domains {
            for algorithm in Signature::ALL {
                self.renew(domain, algorithm).await?;
            }
            rings.insert(domain.clone(), self.read(domain).await?);
        }
        self.rings.store(Arc::new(rings));
        Ok(())
    }

    /// Two copies that make a key at the same moment make the same number: one of them is refused.
    async fn renew(&self, domain: &str, algorithm: Signature) -> Result<(), KeysError> {
        let (now, overlap) = (now(), millis(self.lifetimes.key_overlap));
        let stored = self.stored(domain).await?;
        let newest = stored.iter().filter(|key| key.algorithm == algorithm).max_by_key(|key| key.number);
        let (number, active_from) = match newest {
            None => (1, now),
            Some(newest) if newest.active_from + millis(self.lifetimes.key) - overlap <= now => {
                (newest.number + 1, (newest.active_from + millis(self.lifetimes.key)).max(now + overlap))
            }
            Some(_) => return Ok(()),
        };
        let pkcs8 = tokio::task::spawn_blocking(move || generate(algorithm)).await.map_err(|_| Broken)??;
        sqlx::query("INSERT INTO sso_keys (domain, algorithm, number, id, sealed, active_from, created) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING")
            .bind(domain)
            .bind(algorithm.as_str())
            .bind(number)
            .bind(Uuid::now_v7().to_string())
            .bind(self.vault.seal(PURPOSE, &pkcs8)?)
            .bind(active_from)
            .bind(now)
            .execute(self.database.pool())
            .await?;
        tracing::info!(domain, algorithm = algorithm.as_str(), number, "a signing key was made");
        // A key signs until the next one does; what it has signed is good for the life of a token.
        let over: Vec<i64> = stored
            .iter()
            .filter(|key| key.algorithm == algorithm)
            .filter(|key| {
                stored.iter().any(|next| {
                    next.algorithm == algorithm
                        && next.number == key.number + 1
                        && next.active_from + overlap + millis(self.lifetimes.token) < now
                })
            })
            .map(|key| key.number)
            .collect();
        for number in over {
            sqlx::query("DELETE FROM sso_keys WHERE domain = $1 AND algorithm = $2 AND number = $3")
                .bind(domain)
                .bind(algorithm.as_str())
                .bind(number)
                .execute(self.database.pool())
                .await?;
        }
        Ok(())
    }

    async fn stored(&self, domain: &str) -> Result<Vec<Stored>, sqlx::Error> {
        let rows = sqlx::query("SELECT algorithm, number, id, sealed, active_from FROM sso_keys WHERE domain = $1 ORDER BY number");
        let rows = rows.bind(domain).fetch_all(self.database.pool()).await?;
        let mut stored = Vec::with_capacity(rows.len());
        for row in rows {
            let name: String = row.try_get("algorithm")?;
            // Made by a newer version, perhaps.
            let Some(algorithm) = Signature::ALL.into_iter().find(|known| known.as_str() == name) else { continue };
            stored.push(Stored {
                algorithm,
                number: row.try_get("number")?,
                id: row.try_get("id")?,
                sealed: row.try_get("sealed")?,
                active_from: row.try_get("active_from")?,
            });
        }
        Ok(stored)
    }

    async fn read(&self, domain: &str) -> Result<Ring, KeysError> {
        let mut ring = Ring::default();
        for stored in self.stored(domain).await? {
            let opened = self.vault.open(PURPOSE, &stored.sealed).ok_or_else(|| KeysError::Secret(domain.to_owned()))?;
            let pair = Pair::read(stored.algorithm, &opened)?;
            let public = pair.public(&stored.id, stored.algorithm);
            ring.public.keys.push(public.ok_or(Broken)?);
            ring.keys.entry(stored.algorithm).or_default().push(Key { id: stored.id, pair, active_from: stored.active_from });
        }
        Ok(ring)
    }

    /// The public keys of a domain (RFC 7517).
    pub fn public(&self, domain: &str) -> JwkSet {
        self.rings.load().get(domain).map(|ring| ring.public.clone()).unwrap_or_else(|| JwkSet { keys: Vec::new() })
    }

    /// Signs claims into a JWT of a type (`typ`).
    pub fn sign(&self, domain: &str, algorithm: Signature, kind: &str, claims: &impl Serialize) -> Result<String, Broken> {
        let rings = self.rings.load();
        let keys = rings.get(domain).and_then(|ring| ring.keys.get(&algorithm)).ok_or(Broken)?;
        let now = now();
        let key = keys.iter().rev().find(|key| key.active_from <= now).or(keys.first()).ok_or(Broken)?;
        let header = json!({ "alg": algorithm.as_str(), "typ": kind, "kid": key.id });
        let part = |value: Result<Vec<u8>, serde_json::Error>| value.map(|value| URL_SAFE_NO_PAD.encode(value)).map_err(|_| Broken);
        let mut token = format!("{}.{}", part(serde_json::to_vec(&header))?, part(serde_json::to_vec(claims))?);
        let signature = URL_SAFE_NO_PAD.encode(key.pair.sign(token.as_bytes())?);
        token.push('.');
        token.push_str(&signature);
        Ok(token)
    }

    /// The claims of a token of a type that we have signed for this domain and issuer. `late`: even if its time is over.
    pub fn verify(&self, domain: &str, issuer: &str, kind: &str, token: &str, late: bool) -> Option<Map<String, Value>> {
        let header = decode_header(token).ok().filter(|header| header.typ.as_deref() == Some(kind) && header.crit.is_none())?;
        let rings = self.rings.load();
        let key = rings.get(domain)?.public.find(header.kid.as_deref()?)?;
        let named = key.common.key_algorithm.and_then(|named| jsonwebtoken::Algorithm::try_from(named).ok())?;
        // The key says with what it signs, never the token.
        let mut validation = Validation::new(named);
        validation.set_issuer(&[issuer]);
        validation.validate_aud = false;
        validation.validate_exp = !late;
        validation.leeway = 0;
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        decode::<Map<String, Value>>(token, &DecodingKey::from_jwk(key).ok()?, &validation).ok().map(|token| token.claims)
    }
}

// === impl Pair ===

impl Pair {
    fn read(algorithm: Signature, pkcs8: &[u8]) -> Result<Self, Broken> {
        match algorithm {
            Signature::RS256 => RsaKeyPair::from_pkcs8(pkcs8).map(|pair| Self::Rsa(Box::new(pair))).map_err(|_| Broken),
            Signature::ES256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8);
                pair.map(|pair| Self::Ec(Box::new(pair))).map_err(|_| Broken)
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Broken> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| Broken)?;
                Ok(signature)
            }
            Self::Ec(pair) => pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(|_| Broken),
        }
    }

    fn public(&self, id: &str, algorithm: Signature) -> Option<Jwk> {
        let text = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
        let key = match self {
            Self::Rsa(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({ "kty": "RSA", "n": text(n.big_endian_without_leading_zero()), "e": text(e.big_endian_without_leading_zero()) })
            }
            // 0x04, x, y
            Self::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref().get(1..)?.split_at_checked(32)?;
                json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y) })
            }
        };
        let mut key = key.as_object()?.clone();
        for (name, value) in [("kid", id), ("use", "sig"), ("alg", algorithm.as_str())] {
            key.insert(name.to_owned(), value.into());
        }
        serde_json::from_value(Value::Object(key)).ok()
    }
}

/// A new key as PKCS #8.
fn generate(algorithm: Signature) -> Result<Vec<u8>, Broken> {
    match algorithm {
        Signature::RS256 => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| Broken)?;
            let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'static>>::as_der(&pair).map_err(|_| Broken)?;
            Ok(der.as_ref().to_vec())
        }
        Signature::ES256 => {
            let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).map_err(|_| Broken)?;
            Ok(der.as_ref().to_vec())
        }
    }
}

fn millis(span: elph_shell::config::Span) -> i64 {
    i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX)
}
