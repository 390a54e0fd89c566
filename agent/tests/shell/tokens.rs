//! A moderator's token proves who acts, and every bad kind of token is refused with its reason.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ecss_switch::Domain;
use elph_agent::{
    access::{Access, Need, TokenError, Tokens},
    config::{Config, Scope},
};
use http::Extensions;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Value, json};
use tonic::{Code, Status, metadata::MetadataMap, transport::server::UdsConnectInfo};
use tonic_types::StatusExt;

use crate::support::{Files, WHOLE, load};

const ISSUER: &str = "https://sso.example/realms/biysk.local";

/// A signing key and its public half as a JWK.
struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    kid: &'static str,
    jwk: Value,
}

impl Signer {
    fn es256(kid: &'static str) -> Self {
        let der = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_der();
        Self::new(EncodingKey::from_ec_der(&der), Algorithm::ES256, kid)
    }

    fn ed25519(kid: &'static str) -> Self {
        let der = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_der();
        // The public half is in the longer form only; the plain PKCS #8 form is the first 48 octets with other lengths.
        let mut plain = vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        plain.extend_from_slice(&der[16..48]);
        Self::new(EncodingKey::from_ed_der(&plain), Algorithm::EdDSA, kid)
    }

    fn new(key: EncodingKey, algorithm: Algorithm, kid: &'static str) -> Self {
        let mut jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
        jwk.common.key_id = Some(kid.to_owned());
        let jwk = serde_json::to_value(&jwk).unwrap();
        Self { key, algorithm, kid, jwk }
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A good token's claims, with some replaced (null removes).
fn claims(changed: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": ["elph-agent", "other"], "sub": "u-1", "exp": now() + 300, "nbf": now() - 5,
        "domain": "biysk.local", "realm_access": { "roles": ["moderator"] },
    });
    for (key, value) in changed.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(key);
        } else {
            claims[key] = value.clone();
        }
    }
    claims
}

fn key_set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk.clone()).collect::<Vec<_>>() }).to_string()
}

fn configured(source: &str) -> Config {
    let uid = nix::unistd::getuid().as_raw();
    let text = format!(
        "[[grants]]\nname = \"suite\"\nwho = [{{ uid = {uid} }}]\ndomains = [\"*\"]\nscopes = [\"calls\", \"conferences\"]\n\
         moderator_token = \"required\"\n[[oidc.issuers]]\nissuer = \"{ISSUER}\"\naudience = \"elph-agent\"\n{source}\n[log]"
    );
    load(&WHOLE.replace("[log]", &text))
}

#[tokio::test]
async fn every_bad_kind_of_token_is_refused_with_its_fault() {
    let (good, stranger, edwards) = (Signer::es256("k1"), Signer::es256("k1"), Signer::ed25519("k2"));
    let unknown = Signer::es256("k9");
    let files = Files::new("");
    let path = files.write("keys.json", key_set(&[&good, &edwards]));
    let tokens = Tokens::new(&configured(&format!("jwks_file = {path:?}")).oidc).unwrap();

    let actor = tokens.verify(&good.sign(&claims(json!({})))).await.unwrap();
    assert_eq!((actor.subject.as_str(), actor.domain.as_str()), ("u-1", "biysk.local"));
    assert_eq!((actor.issuer.as_str(), actor.roles.as_slice()), (ISSUER, &["moderator".to_owned()][..]));
    assert!(tokens.verify(&edwards.sign(&claims(json!({})))).await.is_ok());
    assert!(tokens.verify(&good.sign(&claims(json!({ "exp": now() - 10 })))).await.is_ok(), "within the leeway");

    // The public key as a shared secret: what a verifier that trusts the header's algorithm would accept.
    let public = good.jwk["x"].as_str().unwrap().as_bytes().to_vec();
    let confused = {
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(json!({})), &EncodingKey::from_secret(&public)).unwrap()
    };
    let whole = good.sign(&claims(json!({})));
    let (head, rest) = whole.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let other_body = good.sign(&claims(json!({ "sub": "root" }))).split('.').nth(1).unwrap().to_owned();
    // {"alg":"none","typ":"JWT"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.");
    let wrong_kind = {
        let header = Header { kid: Some("k2".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims(json!({})), &good.key).unwrap()
    };
    let critical = {
        let header = Header { kid: Some("k1".to_owned()), crit: Some(vec!["b64".to_owned()]), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims(json!({})), &good.key).unwrap()
    };
    let vectors: Vec<(&str, String, TokenError)> = vec![
        ("expired", good.sign(&claims(json!({ "exp": now() - 60 }))), TokenError::Expired),
        ("without an end", good.sign(&claims(json!({ "exp": null }))), TokenError::Claims),
        ("not yet valid", good.sign(&claims(json!({ "nbf": now() + 60 }))), TokenError::NotYetValid),
        ("for another audience", good.sign(&claims(json!({ "aud": "account" }))), TokenError::Audience),
        ("without audience", good.sign(&claims(json!({ "aud": null }))), TokenError::Claims),
        ("of another issuer", good.sign(&claims(json!({ "iss": "https://evil.example" }))), TokenError::Issuer),
        ("without issuer", good.sign(&claims(json!({ "iss": null }))), TokenError::Claims),
        ("without subject", good.sign(&claims(json!({ "sub": null }))), TokenError::Claims),
        ("without domain", good.sign(&claims(json!({ "domain": null }))), TokenError::Claims),
        ("with an impossible domain", good.sign(&claims(json!({ "domain": "a b" }))), TokenError::Claims),
        ("signed by a stranger with the same key id", stranger.sign(&claims(json!({}))), TokenError::Signature),
        ("with an unknown key id", unknown.sign(&claims(json!({}))), TokenError::UnknownKey),
        ("with the algorithm none", none, TokenError::Malformed),
        ("HS256 over the public key", confused, TokenError::Algorithm),
        ("with a key of another kind", wrong_kind, TokenError::Algorithm),
        ("with another body", format!("{head}.{other_body}.{signature}"), TokenError::Signature),
        ("without signature", format!("{head}.{body}."), TokenError::Signature),
        ("with a critical extension", critical, TokenError::Malformed),
        ("empty", String::new(), TokenError::Malformed),
        ("no token", "a.b.c".to_owned(), TokenError::Malformed),
        ("too long", "x".repeat(20_000), TokenError::Malformed),
    ];
    for (kind, token, fault) in vectors {
        assert_eq!(tokens.verify(&token).await.unwrap_err(), fault, "{kind}");
    }
}

fn bearer(token: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
    metadata.insert("elph-actor", "somebody else".parse().unwrap());
    metadata
}

fn this_process() -> Extensions {
    let (one, _other) = {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        (tokio::net::UnixStream::from_std(one).unwrap(), other)
    };
    let mut extensions = Extensions::new();
    extensions.insert(UdsConnectInfo { peer_addr: None, peer_cred: Some(one.peer_cred().unwrap()) });
    extensions
}

#[tokio::test]
async fn a_moderators_command_needs_a_token_of_the_commands_own_domain() {
    let signer = Signer::es256("k1");
    let files = Files::new("");
    let path = files.write("keys.json", key_set(&[&signer]));
    let access = Access::new(&configured(&format!("jwks_file = {path:?}"))).unwrap();
    let extensions = this_process();
    let (own, other) = (Domain::parse("biysk.local").unwrap(), Domain::parse("barnaul.local").unwrap());
    let need = |scope, mutating, domain| Need { scope, mutating, domain };
    let token = bearer(&signer.sign(&claims(json!({}))));

    let principal = access.authorize(&token, &extensions, need(Scope::Conferences, true, Some(&own))).await.unwrap();
    assert_eq!(principal.actor.unwrap().subject, "u-1");
    assert_eq!(principal.claimed_actor.as_deref(), Some("somebody else"));

    let none = MetadataMap::new();
    assert!(access.authorize(&none, &extensions, need(Scope::Conferences, false, Some(&own))).await.is_ok(), "looking needs none");
    assert!(access.authorize(&none, &extensions, need(Scope::Calls, true, Some(&own))).await.is_ok(), "nor do calls");

    let expired = bearer(&signer.sign(&claims(json!({ "exp": now() - 60 }))));
    let mut basic = MetadataMap::new();
    basic.insert("authorization", "Basic dTpw".parse().unwrap());
    let mut twice = token.clone();
    twice.append("authorization", "Bearer x".parse().unwrap());
    let vectors = [
        (&none, need(Scope::Conferences, true, Some(&own)), Code::Unauthenticated, "MODERATOR_TOKEN_REQUIRED"),
        (&expired, need(Scope::Conferences, true, Some(&own)), Code::Unauthenticated, "MODERATOR_TOKEN_INVALID"),
        (&expired, need(Scope::Calls, true, Some(&own)), Code::Unauthenticated, "MODERATOR_TOKEN_INVALID"),
        (&basic, need(Scope::Conferences, true, Some(&own)), Code::Unauthenticated, "MODERATOR_TOKEN_INVALID"),
        (&twice, need(Scope::Conferences, true, Some(&own)), Code::Unauthenticated, "MODERATOR_TOKEN_INVALID"),
        (&token, need(Scope::Conferences, true, Some(&other)), Code::PermissionDenied, "MODERATOR_OF_OTHER_DOMAIN"),
        (&token, need(Scope::Conferences, true, None), Code::InvalidArgument, "DOMAIN_NEEDED"),
    ];
    for (metadata, need, code, reason) in vectors {
        let status = Status::from(access.authorize(metadata, &extensions, need).await.unwrap_err());
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{need:?}");
        assert!(!status.message().contains("eyJ"), "a token is never repeated");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found_but_unknown_ones_fetch_at_most_every_30_seconds() {
    let (first, second) = (Signer::es256("k1"), Signer::es256("k2"));
    let files = Files::new("");
    let path = files.write("keys.json", key_set(&[&first]));
    let tokens = Tokens::new(&configured(&format!("jwks_file = {path:?}")).oidc).unwrap();
    assert!(tokens.verify(&first.sign(&claims(json!({})))).await.is_ok());
    files.write("keys.json", key_set(&[&first, &second]));
    let rotated = second.sign(&claims(json!({})));
    assert_eq!(tokens.verify(&rotated).await, Err(TokenError::UnknownKey), "fetched a moment ago");
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(tokens.verify(&rotated).await.is_ok());
    // Keys that cannot be had any more still serve for a while, but not for ever.
    std::fs::remove_file(&path).unwrap();
    tokio::time::advance(Duration::from_secs(2 * 3600)).await;
    assert!(tokens.verify(&rotated).await.is_ok());
    tokio::time::advance(Duration::from_secs(10 * 3600)).await;
    assert_eq!(tokens.verify(&rotated).await, Err(TokenError::KeysUnavailable));
}

#[tokio::test]
async fn keys_come_from_an_address_once_for_many_requests_and_an_issuer_that_is_down_is_told_apart() {
    let signer = Signer::es256("k1");
    let (body, asked) = (key_set(&[&signer]), Arc::new(AtomicU32::new(0)));
    let counter = asked.clone();
    let router = axum::Router::new().route(
        "/keys",
        axum::routing::get(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            std::future::ready(body.clone())
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let tokens = Arc::new(Tokens::new(&configured(&format!("jwks_url = \"http://{address}/keys\"")).oidc).unwrap());
    let token = signer.sign(&claims(json!({})));
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (tokens, token) = (tokens.clone(), token.clone());
        requests.spawn(async move { tokens.verify(&token).await });
    }
    while let Some(verified) = requests.join_next().await {
        assert!(verified.unwrap().is_ok());
    }
    let unknown = Signer::es256("k9").sign(&claims(json!({})));
    assert_eq!(tokens.verify(&unknown).await, Err(TokenError::UnknownKey));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    server.abort();
    let _ = server.await;

    let access = Access::new(&configured(&format!("jwks_url = \"http://{address}/keys\""))).unwrap();
    let own = Domain::parse("biysk.local").unwrap();
    let need = Need { scope: Scope::Conferences, mutating: true, domain: Some(&own) };
    let status = Status::from(access.authorize(&bearer(&token), &this_process(), need).await.unwrap_err());
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_details_error_info().unwrap().reason, "ISSUER_UNAVAILABLE");
}
