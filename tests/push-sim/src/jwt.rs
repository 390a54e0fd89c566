//! Reading and verifying signed JSON Web Tokens (RFC 7515, 7518, 7519), as far as the providers use them: ES256 and RS256, compact form.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::DeserializeOwned;

/// The longest token that is looked at.
const MAX_TOKEN: usize = 8 * 1024;

/// A token in its parts, nothing verified yet.
#[derive(Debug)]
pub(crate) struct Jwt<'a> {
    signed: &'a [u8],
    signature: Vec<u8>,
    header: Header,
    claims: Vec<u8>,
}

#[derive(Debug, serde::Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
}

/// How a token may be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Es256,
    Rs256,
}

/// Why a token is no good; the providers answer all of these alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bad {
    #[error("not a compact JWT")]
    Form,
    #[error("signed with another algorithm")]
    Algorithm,
    #[error("the signature does not fit the key")]
    Signature,
    #[error("claims are missing or of a wrong type")]
    Claims,
}

// === impl Algorithm ===

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    fn verifier(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        }
    }
}

// === impl Jwt ===

impl<'a> Jwt<'a> {
    pub(crate) fn parse(token: &'a [u8]) -> Result<Self, Bad> {
        if token.len() > MAX_TOKEN {
            return Err(Bad::Form);
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(Bad::Form);
        };
        let decode = |part: &[u8]| URL_SAFE_NO_PAD.decode(part).map_err(|_| Bad::Form);
        let signed = token.get(..header.len() + 1 + claims.len()).ok_or(Bad::Form)?;
        let header = serde_json::from_slice(&decode(header)?).map_err(|_| Bad::Form)?;
        Ok(Self { signed, signature: decode(signature)?, header, claims: decode(claims)? })
    }

    pub(crate) fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// The claims, not verified: who to ask for the key.
    pub(crate) fn claims<T: DeserializeOwned>(&self) -> Result<T, Bad> {
        serde_json::from_slice(&self.claims).map_err(|_| Bad::Claims)
    }

    /// Whether it is signed with this algorithm and key (an EC point or an RSAPublicKey, or either as SubjectPublicKeyInfo).
    pub(crate) fn verify(&self, algorithm: Algorithm, key: &[u8]) -> Result<(), Bad> {
        if self.header.alg != algorithm.name() {
            return Err(Bad::Algorithm);
        }
        let key = UnparsedPublicKey::new(algorithm.verifier(), key);
        key.verify(self.signed, &self.signature).map_err(|_| Bad::Signature)
    }
}

/// Signs for the unit tests of this crate.
#[cfg(test)]
pub(crate) mod sign {
    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::KeyPair as RsaKeyPair,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256},
    };
    use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

    use super::*;

    fn parts(header: &serde_json::Value, claims: &serde_json::Value) -> String {
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    pub(crate) fn es256(pkcs8_pem: &str, header: serde_json::Value, claims: serde_json::Value) -> String {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pkcs8_pem.as_bytes()).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der()).unwrap();
        let signed = parts(&header, &claims);
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    pub(crate) fn rs256(pkcs8_pem: &str, header: serde_json::Value, claims: serde_json::Value) -> String {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pkcs8_pem.as_bytes()).unwrap();
        let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
        let signed = parts(&header, &claims);
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
