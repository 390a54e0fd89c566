//! Who we are to a push service: an ES256 token for its origin and our public key (RFC 8292).

use std::{fmt, time::Duration};

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderValue, Uri};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use push_http::Origin;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Serialize;

use crate::encrypt::octets;

/// How long a token is good for; services take at most a day.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// How long it is used: clocks of services differ from ours.
const USED: Duration = Duration::from_secs(10 * 3600);

/// Our key and whom a service may write to.
#[derive(Clone)]
pub struct Vapid {
    key: EncodingKey,
    public: String,
    subject: String,
}

/// A token for one origin.
pub(crate) struct Signed {
    pub(crate) authorization: HeaderValue,
    at: Timestamp,
}

/// Why key or subject cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadVapid {
    /// The key.
    #[error("the VAPID key must be a private key on P-256 (prime256v1): PEM, or its 32 octets in base64url")]
    Key,
    /// The subject.
    #[error("the VAPID subject must be mailto:NAME@HOST or an https address: push services write there when something is wrong")]
    Subject,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    exp: i64,
    sub: &'a str,
}

impl Vapid {
    /// Reads key and subject.
    pub fn new(key: &str, subject: &str) -> Result<Self, BadVapid> {
        let subject = subject_of(subject)?;
        let pair = key_pair(key.trim())?;
        let public = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let document = pair.to_pkcs8v1().map_err(|_| BadVapid::Key)?;
        let key = EncodingKey::from_ec_der(document.as_ref());
        Ok(Self { key, public, subject })
    }

    /// What a page gives to `pushManager.subscribe` as `applicationServerKey`.
    pub fn public_key(&self) -> &str {
        &self.public
    }

    pub(crate) fn sign(&self, origin: &Origin, now: Timestamp) -> Option<Signed> {
        let exp = now.as_second().saturating_add(i64::try_from(LIFETIME.as_secs()).ok()?);
        let claims = Claims { aud: &origin.to_string(), exp, sub: &self.subject };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key).ok()?;
        let mut authorization = HeaderValue::from_str(&format!("vapid t={token}, k={}", self.public)).ok()?;
        authorization.set_sensitive(true);
        Some(Signed { authorization, at: now })
    }
}

impl Signed {
    pub(crate) fn is_good(&self, now: Timestamp) -> bool {
        // Also not when the clock was put back.
        let age = now.duration_since(self.at);
        !age.is_negative() && age.as_secs().unsigned_abs() < USED.as_secs()
    }
}

impl fmt::Debug for Vapid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vapid").field("public", &self.public).field("subject", &self.subject).finish_non_exhaustive()
    }
}

fn key_pair(text: &str) -> Result<EcdsaKeyPair, BadVapid> {
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    if !text.starts_with("-----") {
        let raw = octets(text).filter(|raw| raw.len() == 32).ok_or(BadVapid::Key)?;
        let public = PrivateKey::from_private_key(&ECDH_P256, &raw).map_err(|_| BadVapid::Key)?;
        let public = public.compute_public_key().map_err(|_| BadVapid::Key)?;
        return EcdsaKeyPair::from_private_key_and_public_key(algorithm, &raw, public.as_ref()).map_err(|_| BadVapid::Key);
    }
    match PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| BadVapid::Key)? {
        PrivateKeyDer::Pkcs8(der) => EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der()).map_err(|_| BadVapid::Key),
        PrivateKeyDer::Sec1(der) => EcdsaKeyPair::from_private_key_der(algorithm, der.secret_sec1_der()).map_err(|_| BadVapid::Key),
        _ => Err(BadVapid::Key),
    }
}

fn subject_of(text: &str) -> Result<String, BadVapid> {
    let clean = text.len() <= 200 && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"'));
    let mail = || {
        text.strip_prefix("mailto:").and_then(|mail| mail.split_once('@')).is_some_and(|(name, host)| !name.is_empty() && host.len() > 2)
    };
    let page = || text.starts_with("https://") && text.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    if clean && (mail() || page()) { Ok(text.to_owned()) } else { Err(BadVapid::Subject) }
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    /// The private key of RFC 8292's and of nobody else's examples: 32 octets that are a number below the order.
    pub(crate) const RAW: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

    fn origin() -> Origin {
        Origin::of(&Uri::from_static("https://push.example/x")).unwrap()
    }

    #[test]
    fn the_token_names_origin_end_and_subject_and_its_signature_holds_against_the_key_beside_it() {
        let vapid = Vapid::new(RAW, "mailto:ops@example.org").unwrap();
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let signed = vapid.sign(&origin(), now).unwrap();
        let text = signed.authorization.to_str().unwrap();
        let (token, key) = text.strip_prefix("vapid t=").unwrap().split_once(", k=").unwrap();
        let (signed_part, signature) = token.rsplit_once('.').unwrap();
        let parts: Vec<Value> =
            signed_part.split('.').map(|part| serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()).collect();
        assert_eq!(parts[0]["alg"], "ES256");
        assert_eq!((&parts[1]["aud"], &parts[1]["sub"]), (&"https://push.example".into(), &"mailto:ops@example.org".into()));
        assert_eq!(parts[1]["exp"].as_i64().unwrap() - now.as_second(), 12 * 3600);
        let key = BASE64_URL_SAFE_NO_PAD.decode(key).unwrap();
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(signed_part.as_bytes(), &signature).unwrap();
    }

    #[test]
    fn a_token_is_used_again_until_well_before_its_end_and_not_after_the_clock_was_put_back() {
        let vapid = Vapid::new(RAW, "https://example.org/contact").unwrap();
        let at: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let signed = vapid.sign(&origin(), at).unwrap();
        for (hours, wanted) in [(0, true), (9, true), (10, false), (100, false), (-1, false)] {
            assert_eq!(signed.is_good(at + jiff::SignedDuration::from_hours(hours)), wanted, "{hours}");
        }
    }

    #[test]
    fn a_key_may_be_pem_of_either_kind_or_raw_and_is_not_shown() {
        let raw = Vapid::new(RAW, "mailto:a@example.org").unwrap();
        let pair = key_pair(RAW).unwrap();
        let pem = |kind: &str, der: &[u8]| {
            format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", base64::prelude::BASE64_STANDARD.encode(der))
        };
        let pkcs8 = pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref());
        let sec1: aws_lc_rs::encoding::EcPrivateKeyRfc5915Der<'_> = aws_lc_rs::encoding::AsDer::as_der(&pair.private_key()).unwrap();
        let sec1 = pem("EC PRIVATE KEY", sec1.as_ref());
        for text in [pkcs8, sec1] {
            let same = Vapid::new(&text, "mailto:a@example.org").unwrap();
            assert_eq!(same.public_key(), raw.public_key());
            assert!(same.sign(&origin(), Timestamp::now()).is_some());
        }
        assert!(!format!("{raw:?}").contains(RAW));
        for wrong in ["", "AQEB", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", &"A".repeat(43), &"/".repeat(43)] {
            assert!(Vapid::new(wrong, "mailto:a@example.org").is_err(), "{wrong}");
        }
        for wrong in [
            "",
            "a@example.org",
            "mailto:",
            "mailto:@x.org",
            "mailto:<a@example.org>",
            "http://example.org",
            "https://",
            "mailto:a b@c.org",
        ] {
            assert!(Vapid::new(RAW, wrong).is_err(), "{wrong}");
        }
    }
}
