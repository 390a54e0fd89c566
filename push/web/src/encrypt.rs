//! Encryption of a message for one subscription: RFC 8291 (keys) and RFC 8188 (content encoding `aes128gcm`, one record).

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey},
    agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    rand,
};
use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use push_core::WebKeys;

/// Browsers are free to pad; some libraries use the other alphabet.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

const SALT: usize = 16;
const POINT: usize = 65;
const AUTH: usize = 16;

/// What a service must take (RFC 8030 §7.2): 4096 octets of body.
const RECORD: u32 = 4096;

/// Salt, record size, length of the key's id, the key.
const HEADER: usize = SALT + 4 + 1 + POINT;

/// Most octets of a message: what is left in a record beside header, tag and delimiter.
pub const LARGEST: usize = RECORD as usize - HEADER - MAX_TAG_LEN - 1;

/// Why a subscription's keys cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    /// `p256dh`.
    #[error("p256dh must be an uncompressed point on P-256 in base64url")]
    PublicKey,
    /// `auth`.
    #[error("auth must be 16 octets in base64url")]
    Auth,
}

/// Why a message was not encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    #[error(transparent)]
    Keys(#[from] BadKeys),
    #[error("a message to a browser has at most {LARGEST} octets")]
    TooLarge,
    #[error("the message could not be encrypted")]
    Crypto,
}

/// Checks the keys of a subscription, ahead of its registration.
pub fn check_keys(keys: &WebKeys) -> Result<(), BadKeys> {
    let (public, _) = decoded(keys)?;
    // Only an agreement shows that the point is on the curve.
    let ours = PrivateKey::generate(&ECDH_P256).map_err(|_| BadKeys::PublicKey)?;
    agree(&ours, UnparsedPublicKey::new(&ECDH_P256, public.as_slice()), BadKeys::PublicKey, |_| Ok(()))
}

/// The body of the request.
pub(crate) fn encrypt(keys: &WebKeys, message: &[u8]) -> Result<Vec<u8>, Failed> {
    let mut salt = [0; SALT];
    rand::fill(&mut salt).map_err(|_| Failed::Crypto)?;
    let ours = PrivateKey::generate(&ECDH_P256).map_err(|_| Failed::Crypto)?;
    encrypt_with(keys, message, &ours, salt)
}

fn encrypt_with(keys: &WebKeys, message: &[u8], ours: &PrivateKey, salt: [u8; SALT]) -> Result<Vec<u8>, Failed> {
    let (theirs, auth) = decoded(keys)?;
    if message.len() > LARGEST {
        return Err(Failed::TooLarge);
    }
    let our_public = ours.compute_public_key().map_err(|_| Failed::Crypto)?;
    let our_public = our_public.as_ref();
    let peer = UnparsedPublicKey::new(&ECDH_P256, theirs.as_slice());
    let ikm = agree(ours, peer, Failed::Keys(BadKeys::PublicKey), |shared| {
        let prk = Salt::new(HKDF_SHA256, &auth).extract(shared);
        expand::<32>(&prk, &[b"WebPush: info\0", &theirs, our_public]).map_err(|_| Failed::Crypto)
    })?;
    seal(&ikm, salt, our_public, message).map_err(|_| Failed::Crypto)
}

/// RFC 8188 with a single record, the last one.
fn seal(ikm: &[u8], salt: [u8; SALT], key_id: &[u8], message: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let prk = Salt::new(HKDF_SHA256, &salt).extract(ikm);
    let key = expand::<16>(&prk, &[b"Content-Encoding: aes128gcm\0"])?;
    let nonce = expand::<NONCE_LEN>(&prk, &[b"Content-Encoding: nonce\0"])?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key)?);
    let mut body = Vec::with_capacity(SALT + 5 + key_id.len() + message.len() + 1 + MAX_TAG_LEN);
    body.extend_from_slice(&salt);
    body.extend_from_slice(&RECORD.to_be_bytes());
    body.push(u8::try_from(key_id.len()).map_err(|_| Unspecified)?);
    body.extend_from_slice(key_id);
    let mut record = Vec::with_capacity(message.len() + 1 + MAX_TAG_LEN);
    record.extend_from_slice(message);
    // The delimiter of the last record.
    record.push(2);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut record)?;
    body.extend_from_slice(&record);
    Ok(body)
}

fn expand<const N: usize>(prk: &Prk, info: &[&[u8]]) -> Result<[u8; N], Unspecified> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut out = [0; N];
    prk.expand(info, Length(N))?.fill(&mut out)?;
    Ok(out)
}

/// Public key and authentication secret.
fn decoded(keys: &WebKeys) -> Result<([u8; POINT], [u8; AUTH]), BadKeys> {
    let public: [u8; POINT] = octets(&keys.p256dh).and_then(|it| it.try_into().ok()).ok_or(BadKeys::PublicKey)?;
    if public.first() != Some(&4) {
        return Err(BadKeys::PublicKey);
    }
    let auth = octets(&keys.auth).and_then(|it| it.try_into().ok()).ok_or(BadKeys::Auth)?;
    Ok((public, auth))
}

pub(crate) fn octets(text: &str) -> Option<Vec<u8>> {
    if text.len() > 256 {
        return None;
    }
    let alphabet = if text.contains(['+', '/']) { &STANDARD } else { &URL_SAFE };
    GeneralPurpose::new(alphabet, LENIENT).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;

    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        BASE64.decode(text).unwrap().try_into().unwrap()
    }

    const PUBLIC: &str = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const SECRET: &str = "BTBZMqHH6r4Tts7J_aSIgg";

    fn keys() -> WebKeys {
        WebKeys { p256dh: PUBLIC.to_owned(), auth: SECRET.to_owned() }
    }

    #[test]
    fn the_example_of_rfc_8188_section_3_1() {
        let ikm = bytes::<16>("yqdlZ-tYemfogSmv7Ws5PQ");
        let body = seal(&ikm, bytes("I1BsxtFttlv3u_Oo94xnmw"), b"", b"I am the walrus").unwrap();
        assert_eq!(BASE64.encode(body), "I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg");
    }

    #[test]
    fn the_example_of_rfc_8291_section_5() {
        let ours = PrivateKey::from_private_key(&ECDH_P256, &bytes::<32>("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw")).unwrap();
        let message = b"When I grow up, I want to be a watermelon";
        let body = encrypt_with(&keys(), message, &ours, bytes("DGv6ra1nlYgDCS1FRnbzlw")).unwrap();
        let wanted = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_\
                      yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(BASE64.encode(body), wanted);
    }

    #[test]
    fn the_browser_of_rfc_8291_reads_what_is_encrypted_with_fresh_keys() {
        let message = vec![b'x'; LARGEST];
        let body = encrypt(&keys(), &message).unwrap();
        assert_eq!(body.len(), 4096);
        assert_ne!(body, encrypt(&keys(), &message).unwrap(), "keys and salt are fresh");
        let (salt, rest) = body.split_at(SALT);
        let ours = rest.get(5..5 + POINT).unwrap();
        let browser = PrivateKey::from_private_key(&ECDH_P256, &bytes::<32>("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")).unwrap();
        let ikm = agree(&browser, UnparsedPublicKey::new(&ECDH_P256, ours), Unspecified, |shared| {
            let prk = Salt::new(HKDF_SHA256, &bytes::<16>(SECRET)).extract(shared);
            expand::<32>(&prk, &[b"WebPush: info\0", &bytes::<65>(PUBLIC), ours])
        })
        .unwrap();
        let prk = Salt::new(HKDF_SHA256, salt).extract(&ikm);
        let key = expand::<16>(&prk, &[b"Content-Encoding: aes128gcm\0"]).unwrap();
        let nonce = expand::<NONCE_LEN>(&prk, &[b"Content-Encoding: nonce\0"]).unwrap();
        let mut record = rest.get(5 + POINT..).unwrap().to_vec();
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap());
        let plain = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut record).unwrap();
        assert_eq!(plain.split_last(), Some((&2, message.as_slice())));
    }

    #[test]
    fn keys_that_are_none_are_refused_before_anything_is_sent() {
        assert_eq!(check_keys(&keys()), Ok(()));
        let padded = WebKeys { p256dh: format!("{PUBLIC}="), auth: format!("{SECRET}==") };
        assert_eq!(check_keys(&padded), Ok(()));
        let off_curve = BASE64.encode([&[4_u8][..], &[1; 64]].concat());
        for (p256dh, auth, wanted) in [
            ("", SECRET, BadKeys::PublicKey),
            ("AAAA", SECRET, BadKeys::PublicKey),
            (off_curve.as_str(), SECRET, BadKeys::PublicKey),
            ("!", SECRET, BadKeys::PublicKey),
            (PUBLIC, "", BadKeys::Auth),
            (PUBLIC, "BTBZMqHH6r4Tts7J", BadKeys::Auth),
        ] {
            let keys = WebKeys { p256dh: p256dh.to_owned(), auth: auth.to_owned() };
            assert_eq!(check_keys(&keys), Err(wanted), "{p256dh} {auth}");
            assert_eq!(encrypt(&keys, b"x"), Err(Failed::Keys(wanted)));
        }
        assert_eq!(encrypt(&keys(), &vec![0; LARGEST + 1]), Err(Failed::TooLarge));
    }

    proptest::proptest! {
        #[test]
        fn no_keys_panic(p256dh in "\\PC{0,100}", auth in "\\PC{0,30}") {
            let _refused = check_keys(&WebKeys { p256dh, auth });
        }
    }
}
