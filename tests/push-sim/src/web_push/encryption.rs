//! The browser's side of message encryption: RFC 8291 on top of the content coding aes128gcm (RFC 8188).

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};

/// Salt, record size and length of the key's id.
const HEAD: usize = 16 + 4 + 1;
const TAG: usize = 16;

/// A browser's keys for one subscription.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) key: PrivateKey,
    pub(super) public: Vec<u8>,
    pub(super) auth: [u8; 16],
}

/// A length, as the key derivation wants it.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF (RFC 5869) with a one-part info.
fn derive<const N: usize>(salt: &[u8], secret: &[u8], info: &[&[u8]]) -> Result<[u8; N], &'static str> {
    let mut out = [0; N];
    let prk = Salt::new(HKDF_SHA256, salt).extract(secret);
    let okm = prk.expand(info, Length(N)).map_err(|_| "key derivation failed")?;
    okm.fill(&mut out).map_err(|_| "key derivation failed")?;
    Ok(out)
}

/// The clear text. RFC 8291 §4: one record.
pub(super) fn decrypt(keys: &Keys, body: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (head, rest) = body.split_at_checked(HEAD).ok_or("the body is too short for a header")?;
    let (salt, sizes) = head.split_at_checked(16).ok_or("the body is too short for a header")?;
    let [a, b, c, d, id_length] = *sizes.first_chunk::<5>().ok_or("the body is too short for a header")?;
    let record = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let (sender, record_bytes) = rest.split_at_checked(usize::from(id_length)).ok_or("the key id is cut off")?;
    if sender.len() != 65 {
        return Err("the key id is no point of P-256");
    }
    if record < 18 || record_bytes.len() > record {
        return Err("there is more than one record");
    }
    if record_bytes.len() < TAG + 1 {
        return Err("the record is too short");
    }
    let secret = agreement::agree(&keys.key, UnparsedPublicKey::new(&ECDH_P256, sender), "the sender's key is no good", |secret| {
        derive::<32>(&keys.auth, secret, &[b"WebPush: info\0", &keys.public, sender])
    })?;
    let content_key = derive::<16>(salt, &secret, &[b"Content-Encoding: aes128gcm\0"])?;
    let nonce = derive::<12>(salt, &secret, &[b"Content-Encoding: nonce\0"])?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &content_key).map_err(|_| "key derivation failed")?);
    let mut text = record_bytes.to_vec();
    let clear = key
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
        .map_err(|_| "the message is not encrypted for this subscription")?;
    let end = clear.iter().rposition(|byte| *byte != 0).ok_or("the record has no delimiter")?;
    if clear.get(end) != Some(&2) {
        return Err("the record is not marked as the last");
    }
    Ok(clear.get(..end).unwrap_or_default().to_vec())
}

#[cfg(test)]
mod example {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn the_message_of_rfc_8291_appendix_a_is_read() {
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let key = PrivateKey::from_private_key(&ECDH_P256, &bytes("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")).unwrap();
        let public = key.compute_public_key().unwrap().as_ref().to_vec();
        let keys = Keys { key, public, auth: bytes("BTBZMqHH6r4Tts7J_aSIgg").try_into().unwrap() };
        let body = bytes(
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT\
             pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
        );
        assert_eq!(decrypt(&keys, &body).unwrap(), b"When I grow up, I want to be a watermelon");
        let mut broken = body.clone();
        *broken.last_mut().unwrap() ^= 1;
        assert_eq!(decrypt(&keys, &broken), Err("the message is not encrypted for this subscription"));
        for length in 0..body.len() {
            decrypt(&keys, &body[..length]).unwrap_err();
        }
    }
}
