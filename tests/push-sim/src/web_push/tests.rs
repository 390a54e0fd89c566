//! The rules of RFC 8030 and RFC 8292. The encryption is tested with the RFC's own example, and with a client of others.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde_json::{Value, json};

use crate::{
    DeviceState, Effect, Fault, Options, Provider, PushSim, Subscription,
    jwt::sign,
    testing::{Reply, post},
};

/// Header fields, body and the status that they get.
type Case<'a> = (Vec<(&'a str, &'a str)>, Vec<u8>, u16);

struct Server {
    key: KeyPair,
}

impl Server {
    fn new() -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    fn authorization(&self, claims: Value) -> String {
        let token = sign::es256(&self.key.serialize_pem(), json!({ "alg": "ES256", "typ": "JWT" }), claims);
        format!("vapid t={token}, k={}", URL_SAFE_NO_PAD.encode(self.key.der_bytes()))
    }
}

fn claims(sim: &PushSim) -> Value {
    let aud = format!("https://{}", sim.addresses().web_push);
    json!({ "aud": aud, "exp": jiff::Timestamp::now().as_second() + 3600, "sub": "mailto:operator@example.com" })
}

async fn push(sim: &PushSim, to: &Subscription, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    post(sim, sim.addresses().web_push, true, &format!("/push/{}", to.id), headers, body.to_vec()).await.unwrap()
}

#[tokio::test]
async fn a_push_without_a_body_is_created_and_one_that_is_wrong_is_refused() {
    let sim = PushSim::start(Options::default()).await.unwrap();
    let browser = sim.subscribe().unwrap();
    let server = Server::new();
    let good = server.authorization(claims(&sim));
    let reply = push(&sim, &browser, &[("authorization", &good), ("ttl", "30"), ("urgency", "high"), ("topic", "call-1")], b"").await;
    assert_eq!(reply.status, 201);
    let arrived = sim.arrived();
    assert_eq!((arrived[0].device.as_str(), arrived[0].sender.as_str()), (browser.id.as_str(), "mailto:operator@example.com"));
    assert!(reply.header("location").unwrap().ends_with(&format!("/message/{}", arrived[0].id)));

    let with = |name: &str, value: Value| {
        let mut claims = claims(&sim);
        claims[name] = value;
        server.authorization(claims)
    };
    let now = jiff::Timestamp::now().as_second();
    let (elsewhere, expired) = (with("aud", json!("https://example.com")), with("exp", json!(now - 1)));
    let (long, subject) = (with("exp", json!(now + 90_000)), with("sub", json!("operator")));
    let foreign = format!("{} k={}", good.split_once(' ').unwrap().0, URL_SAFE_NO_PAD.encode([4; 65]));
    let other = Server::new().authorization(claims(&sim));
    let mixed = format!("{},{}", good.split_once(',').unwrap().0, other.split_once(',').unwrap().1);
    let topic = "t".repeat(33);
    let cases: Vec<Case<'_>> = vec![
        (vec![("ttl", "30")], vec![], 401),
        (vec![("authorization", "Bearer x"), ("ttl", "30")], vec![], 401),
        (vec![("authorization", &foreign), ("ttl", "30")], vec![], 401),
        (vec![("authorization", &elsewhere), ("ttl", "30")], vec![], 403),
        (vec![("authorization", &expired), ("ttl", "30")], vec![], 403),
        (vec![("authorization", &long), ("ttl", "30")], vec![], 403),
        (vec![("authorization", &subject), ("ttl", "30")], vec![], 403),
        (vec![("authorization", &mixed), ("ttl", "30")], vec![], 403),
        (vec![("authorization", &other), ("ttl", "30")], vec![], 403),
        (vec![("authorization", &good)], vec![], 400),
        (vec![("authorization", &good), ("ttl", "30s")], vec![], 400),
        (vec![("authorization", &good), ("ttl", "30"), ("urgency", "now")], vec![], 400),
        (vec![("authorization", &good), ("ttl", "30"), ("topic", &topic)], vec![], 400),
        (vec![("authorization", &good), ("ttl", "30")], b"clear".to_vec(), 415),
        (vec![("authorization", &good), ("ttl", "30"), ("content-encoding", "aes128gcm")], vec![7; 200], 400),
        (vec![("authorization", &good), ("ttl", "30"), ("content-encoding", "aes128gcm")], vec![7; 4097], 413),
    ];
    for (number, (headers, body, status)) in cases.iter().enumerate() {
        let reply = push(&sim, &browser, headers, body).await;
        assert_eq!(reply.status, *status, "case {number}: {}", String::from_utf8_lossy(&reply.body));
    }
    let refused: u64 = sim.counters().web_push.refused.values().sum();
    assert_eq!((refused, sim.counters().web_push.accepted), (cases.len() as u64, 1));
    sim.shutdown().await;
}

#[tokio::test]
async fn a_subscription_that_ended_is_gone_and_an_unknown_one_is_not_found() {
    let sim = PushSim::start(Options::default()).await.unwrap();
    let mut browser = sim.subscribe().unwrap();
    let authorization = Server::new().authorization(claims(&sim));
    let headers = [("authorization", authorization.as_str()), ("ttl", "0")];
    sim.fault(Fault::new(Provider::WebPush, Effect::answer_retry_after(429, "slow down", "9")).device(&browser.id).times(1));
    let reply = push(&sim, &browser, &headers, b"").await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("9")));
    assert_eq!(push(&sim, &browser, &headers, b"").await.status, 201);
    sim.set_delay(Duration::from_millis(30));
    let began = std::time::Instant::now();
    assert_eq!(push(&sim, &browser, &headers, b"").await.status, 201);
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert!(sim.set_device_state(Provider::WebPush, &browser.id, DeviceState::Unregistered { since_ms: 0 }));
    assert_eq!(push(&sim, &browser, &headers, b"").await.status, 410);
    browser.id = "unknown".to_owned();
    assert_eq!(push(&sim, &browser, &headers, b"").await.status, 404);
    sim.shutdown().await;
}
