//! What only this provider can make and read: sealed texts that travel through browsers and rest in the database, and tags on tokens that
//! nobody can guess. All of it derives from one secret of the configuration (HKDF, RFC 5869; AES-256-GCM; HMAC-SHA-256).

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
    hmac,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

/// The shortest secret that is taken.
pub(crate) const SECRET_SHORTEST: usize = 32;
/// Octets of a tag and of a random token.
const LENGTH: usize = 32;

/// Seals and tags.
pub struct Vault {
    seal: LessSafeKey,
    mac: hmac::Key,
}

/// The library has refused what cannot be refused: a fault of the machine.
#[derive(Debug, thiserror::Error)]
#[error("the cryptographic library failed")]
pub struct Broken;

#[derive(Clone, Copy)]
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        LENGTH
    }
}

impl Vault {
    /// Derives the keys from the secret.
    pub fn new(secret: &SecretString) -> Result<Self, Broken> {
        let derived = |label: &[u8]| {
            let mut key = [0_u8; LENGTH];
            let root = Salt::new(HKDF_SHA256, b"elph-sso").extract(secret.expose_secret().as_bytes());
            root.expand(&[label], Length).and_then(|okm| okm.fill(&mut key)).map_err(|_| Broken)?;
            Ok(key)
        };
        let seal = UnboundKey::new(&AES_256_GCM, &derived(b"seal")?).map_err(|_| Broken)?;
        Ok(Self { seal: LessSafeKey::new(seal), mac: hmac::Key::new(hmac::HMAC_SHA256, &derived(b"tag")?) })
    }

    /// Seals octets; they open only for the same purpose.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut nonce = [0_u8; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Broken)?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(purpose.as_bytes());
        self.seal.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).map_err(|_| Broken)?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Opens what was sealed for this purpose; nothing if it was not, or was changed.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.seal.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut plain).ok()?.len();
        plain.truncate(opened);
        Some(plain)
    }

    /// Seals a value into a text for an address or a form.
    pub fn ticket(&self, purpose: &str, value: &impl Serialize) -> Result<String, Broken> {
        let plain = serde_json::to_vec(value).map_err(|_| Broken)?;
        Ok(URL_SAFE_NO_PAD.encode(self.seal(purpose, &plain)?))
    }

    /// Opens such a text.
    pub fn read<T: DeserializeOwned>(&self, purpose: &str, ticket: &str) -> Option<T> {
        let sealed = URL_SAFE_NO_PAD.decode(ticket).ok()?;
        serde_json::from_slice(&self.open(purpose, &sealed)?).ok()
    }

    /// `body.tag`: a token that only we can have made.
    pub fn tagged(&self, purpose: &str, body: &str) -> String {
        let tag = hmac::sign(&self.mac, format!("{purpose}\0{body}").as_bytes());
        format!("{body}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// The body of a token that we have made for this purpose.
    pub fn untagged<'a>(&self, purpose: &str, token: &'a str) -> Option<&'a str> {
        let (body, tag) = token.rsplit_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.mac, format!("{purpose}\0{body}").as_bytes(), &tag).ok()?;
        Some(body)
    }
}

/// A text that nobody can guess, of 256 bits.
pub(crate) fn random() -> Result<String, Broken> {
    let mut octets = [0_u8; LENGTH];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| Broken)?;
    Ok(URL_SAFE_NO_PAD.encode(octets))
}

/// What is kept in place of a text that nobody shall read.
pub(crate) fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes()))
}

/// Whether two texts are the same, in a time that does not say where they differ.
pub(crate) fn same(one: &str, other: &str) -> bool {
    subtle::ConstantTimeEq::ct_eq(one.as_bytes(), other.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(secret: &str) -> Vault {
        Vault::new(&SecretString::from(secret.to_owned())).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_only_whole_for_its_purpose_and_with_its_secret() {
        let vault_ = vault("a secret of at least 32 characters");
        let sealed = vault_.seal("ticket", b"plain").unwrap();
        assert_eq!(vault_.open("ticket", &sealed).as_deref(), Some(&b"plain"[..]));
        assert_eq!(vault_.open("other", &sealed), None);
        assert_eq!(vault("another secret of 32 characters!!!").open("ticket", &sealed), None);
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(vault_.open("ticket", &changed), None, "octet {place}");
        }
        assert_eq!(vault_.open("ticket", b"short"), None);
    }

    #[test]
    fn a_tag_holds_for_one_body_and_one_purpose() {
        let vault = vault("a secret of at least 32 characters");
        let token = vault.tagged("refresh", "id.1");
        assert_eq!(vault.untagged("refresh", &token), Some("id.1"));
        assert_eq!(vault.untagged("code", &token), None);
        assert_eq!(vault.untagged("refresh", &token.replace("id.1", "id.2")), None);
        assert_eq!(vault.untagged("refresh", "no tag"), None);
    }
}
