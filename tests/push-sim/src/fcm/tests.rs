//! Google's rules and the faults, over HTTP/1.1 and HTTP/2.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    Device, DeviceState, Effect, Fault, Options, Provider, PushSim,
    jwt::sign,
    testing::{Reply, post},
};

const TOKEN: &str = "dGVzdC1kZXZpY2U:APA91bElph-phone_1";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

async fn sim(options: Options) -> PushSim {
    let sim = PushSim::start(options).await.unwrap();
    sim.add_device(Device::fcm(TOKEN));
    sim
}

fn claims(account: &Value, token_url: &str) -> Value {
    let now = jiff::Timestamp::now().as_second();
    json!({ "iss": account["client_email"], "aud": token_url, "scope": SCOPE, "iat": now, "exp": now + 3600 })
}

fn assertion(account: &Value, claims: Value) -> String {
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": account["private_key_id"] });
    sign::rs256(account["private_key"].as_str().unwrap(), header, claims)
}

async fn exchange(sim: &PushSim, assertion: &str) -> Reply {
    let body = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
    post(sim, sim.addresses().fcm, false, "/token", &[FORM], body).await.unwrap()
}

async fn access(sim: &PushSim, account: &str) -> String {
    let account: Value = serde_json::from_str(account).unwrap();
    let reply = exchange(sim, &assertion(&account, claims(&account, &sim.token_url()))).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    format!("Bearer {}", reply.json()["access_token"].as_str().unwrap())
}

async fn send(sim: &PushSim, bearer: &str, message: Value) -> Reply {
    try_send(sim, bearer, message, true).await.unwrap()
}

async fn try_send(sim: &PushSim, bearer: &str, message: Value, http2: bool) -> Result<Reply, Box<dyn std::error::Error>> {
    let headers = [("authorization", bearer), ("content-type", "application/json")];
    let body = json!({ "message": message }).to_string();
    post(sim, sim.addresses().fcm, http2, "/v1/projects/elph-demo/messages:send", &headers, body).await
}

fn code(reply: &Reply) -> String {
    let json = reply.json();
    let details = json["error"]["details"].as_array().cloned().unwrap_or_default();
    details.iter().find_map(|detail| detail["errorCode"].as_str()).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_message_arrives_over_both_versions_of_http() {
    let sim = sim(Options::default()).await;
    let bearer = access(&sim, sim.service_account_json()).await;
    let message = json!({ "token": TOKEN, "data": { "event": "ring" }, "android": { "priority": "HIGH", "ttl": "30s" } });
    for http2 in [false, true] {
        let reply = try_send(&sim, &bearer, message.clone(), http2).await.unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        let arrived = sim.arrived();
        let last = arrived.last().unwrap();
        assert_eq!(reply.json()["name"], last.id);
        assert!(last.id.starts_with("projects/elph-demo/messages/0:"));
        assert_eq!((last.device.as_str(), last.status, last.sender.as_str()), (TOKEN, 200, "push@elph-demo.iam.gserviceaccount.com"));
        assert_eq!((last.json()["message"].clone(), last.header("authorization")), (message.clone(), None));
    }
    let counters = sim.counters();
    assert_eq!((counters.fcm.accepted, counters.fcm_token.accepted), (2, 1));
    let shown = serde_json::to_string(&sim.arrived()).unwrap();
    assert!(!shown.contains("ya29.") && !shown.contains("eyJ"), "neither tokens nor assertions are shown");
    sim.shutdown().await;
}

#[tokio::test]
async fn the_token_endpoint_believes_only_a_good_assertion_of_a_known_account() {
    let sim = sim(Options::default()).await;
    let account: Value = serde_json::from_str(sim.service_account_json()).unwrap();
    let url = sim.token_url();
    let good = claims(&account, &url);
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let now = jiff::Timestamp::now().as_second();
    let other: Value = serde_json::from_str(&sim.add_service_account("other").unwrap()).unwrap();
    let mut impostor = account.clone();
    impostor["private_key"] = other["private_key"].clone();
    let cases = [
        (assertion(&account, good.clone()), ""),
        (assertion(&account, with("aud", json!("https://oauth2.googleapis.com/token"))), ""),
        (assertion(&account, with("scope", json!("openid https://www.googleapis.com/auth/cloud-platform"))), ""),
        (assertion(&impostor, good.clone()), "invalid_grant"),
        (assertion(&account, with("iss", json!("nobody@example.com"))), "invalid_grant"),
        (assertion(&account, with("aud", json!("https://example.com/token"))), "invalid_grant"),
        (assertion(&account, with("exp", json!(now - 400))), "invalid_grant"),
        (assertion(&account, with("exp", json!(now + 3700))), "invalid_grant"),
        (assertion(&account, with("iat", json!(now + 400))), "invalid_grant"),
        (assertion(&account, with("scope", json!("https://www.googleapis.com/auth/drive"))), "invalid_scope"),
        ("nonsense".to_owned(), "invalid_grant"),
    ];
    for (number, (assertion, error)) in cases.iter().enumerate() {
        let reply = exchange(&sim, assertion).await;
        let json = reply.json();
        if error.is_empty() {
            assert_eq!((reply.status, &json["token_type"], &json["expires_in"]), (200, &json!("Bearer"), &json!(3599)), "case {number}");
        } else {
            assert_eq!((reply.status, json["error"].as_str()), (400, Some(*error)), "case {number}");
        }
    }
    let reply = post(&sim, sim.addresses().fcm, false, "/token", &[FORM], "grant_type=password&assertion=x").await.unwrap();
    assert_eq!(reply.json()["error"], "unsupported_grant_type");
    assert!(sim.revoke_service_account("elph-demo"));
    assert_eq!(exchange(&sim, &assertion(&account, good)).await.json()["error"], "invalid_grant");
    sim.shutdown().await;
}

#[tokio::test]
async fn an_access_token_is_good_for_its_hour_and_its_project() {
    let sim = sim(Options::default()).await;
    let message = || json!({ "token": TOKEN });
    let bearer = access(&sim, sim.service_account_json()).await;
    let other = access(&sim, &sim.add_service_account("other").unwrap()).await;
    assert_eq!(send(&sim, &bearer, message()).await.status, 200);
    let reply = send(&sim, &other, message()).await;
    assert_eq!((reply.status, reply.json()["error"]["status"].as_str()), (403, Some("PERMISSION_DENIED")));
    for wrong in ["Bearer ya29.unknown", "Basic abc", "Bearer"] {
        let reply = send(&sim, wrong, message()).await;
        assert_eq!((reply.status, reply.json()["error"]["status"].as_str()), (401, Some("UNAUTHENTICATED")));
        assert!(reply.header("www-authenticate").is_some());
    }
    sim.advance(Duration::from_secs(3599));
    assert_eq!(send(&sim, &bearer, message()).await.status, 401);
    let bearer = access(&sim, sim.service_account_json()).await;
    assert_eq!(send(&sim, &bearer, message()).await.status, 200);
    sim.revoke_access_tokens();
    assert_eq!(send(&sim, &bearer, message()).await.status, 401);
    sim.shutdown().await;
}

#[tokio::test]
async fn fields_are_checked_as_google_documents_them() {
    let sim = sim(Options::default()).await;
    let bearer = access(&sim, sim.service_account_json()).await;
    let data = |length: usize| json!({ "token": TOKEN, "data": { "k": "x".repeat(length - 1) } });
    let long = |seconds: &str| json!({ "token": TOKEN, "android": { "ttl": seconds } });
    // the field that is wrong; empty = the message is good
    let cases = [
        (json!({ "topic": "news" }), ""),
        (json!({ "condition": "'a' in topics && ('b' in topics || 'c' in topics)" }), ""),
        (
            json!({ "token": TOKEN, "notification": { "title": "t", "body": "b" }, "apns": { "headers": { "apns-priority": "10" }, "payload": {} } }),
            "",
        ),
        (
            json!({ "token": TOKEN, "webpush": { "headers": { "Urgency": "high" }, "notification": { "title": "t" } }, "fcm_options": {} }),
            "",
        ),
        (json!({ "token": TOKEN, "android": { "collapse_key": "c", "priority": "normal", "direct_boot_ok": true } }), ""),
        (long("3.5s"), ""),
        (long("2419200s"), ""),
        (data(4096), ""),
        (data(4097), "message"),
        (json!({}), "message"),
        (json!({ "token": TOKEN, "topic": "news" }), "message"),
        (json!({ "token": "short" }), "message.token"),
        (json!({ "token": 7 }), "message.token"),
        (json!({ "topic": "no spaces" }), "message.topic"),
        (json!({ "condition": "a and b" }), "message.condition"),
        (json!({ "token": TOKEN, "data": { "n": 1 } }), "message.data[0].value"),
        (json!({ "token": TOKEN, "data": { "from": "x" } }), "message.data"),
        (json!({ "token": TOKEN, "data": { "google.x": "x" } }), "message.data"),
        (json!({ "token": TOKEN, "android": { "priority": "urgent" } }), "message.android.priority"),
        (long("30"), "message.android.ttl"),
        (long("-1s"), "message.android.ttl"),
        (long("2419201s"), "message.android.ttl"),
        (json!({ "token": TOKEN, "android": { "ttl": 30 } }), "message.android.ttl"),
        (json!({ "token": TOKEN, "unknown": 1 }), "message"),
        (json!({ "token": TOKEN, "apns": { "payload": "text" } }), "message.apns.payload"),
    ];
    for (message, field) in cases {
        let reply = send(&sim, &bearer, message.clone()).await;
        if field.is_empty() {
            assert_eq!(reply.status, 200, "{message} {reply:?}");
            continue;
        }
        assert_eq!((reply.status, code(&reply).as_str()), (400, "INVALID_ARGUMENT"), "{message}");
        let json = reply.json();
        let violations = json["error"]["details"].as_array().unwrap().iter().find_map(|detail| detail["fieldViolations"].as_array());
        assert_eq!(violations.unwrap()[0]["field"], field, "{message}");
    }
    let headers = [("authorization", bearer.as_str())];
    let path = "/v1/projects/elph-demo/messages:send";
    let reply = post(&sim, sim.addresses().fcm, true, path, &headers, "{").await.unwrap();
    assert_eq!((reply.status, reply.json()["error"]["status"].as_str()), (400, Some("INVALID_ARGUMENT")));
    let dry = json!({ "validate_only": true, "message": { "token": TOKEN } }).to_string();
    let reply = post(&sim, sim.addresses().fcm, true, path, &headers, dry).await.unwrap();
    assert_eq!(reply.json()["name"], "projects/elph-demo/messages/fake_message_id");
    let reply = post(&sim, sim.addresses().fcm, true, "/v2/anything", &headers, "{}").await.unwrap();
    assert_eq!(reply.status, 404);
    sim.shutdown().await;
}

#[tokio::test]
async fn devices_that_are_gone_or_another_sender_s_are_refused() {
    let sim = sim(Options::default()).await;
    let bearer = access(&sim, sim.service_account_json()).await;
    let message = json!({ "token": TOKEN });
    for (state, status, expected) in
        [(DeviceState::Unregistered { since_ms: 0 }, 404, "UNREGISTERED"), (DeviceState::OtherSender, 403, "SENDER_ID_MISMATCH")]
    {
        assert!(sim.set_device_state(Provider::Fcm, TOKEN, state));
        let reply = send(&sim, &bearer, message.clone()).await;
        assert_eq!((reply.status, code(&reply).as_str()), (status, expected));
    }
    assert!(sim.remove_device(Provider::Fcm, TOKEN));
    assert_eq!(code(&send(&sim, &bearer, message).await), "UNREGISTERED");
    sim.shutdown().await;
}

#[tokio::test]
async fn errors_come_in_google_s_shape_with_any_retry_after() {
    let sim = sim(Options::default()).await;
    let bearer = access(&sim, sim.service_account_json()).await;
    let message = || json!({ "token": TOKEN });
    let faults = [
        (Effect::answer_retry_after(429, "QUOTA_EXCEEDED", "30"), 429, "RESOURCE_EXHAUSTED", Some("30")),
        (Effect::answer_retry_after(429, "QUOTA_EXCEEDED", "soon-ish"), 429, "RESOURCE_EXHAUSTED", Some("soon-ish")),
        (Effect::answer(503, "UNAVAILABLE"), 503, "UNAVAILABLE", None),
        (Effect::answer(500, "INTERNAL"), 500, "INTERNAL", None),
        (Effect::answer(401, "THIRD_PARTY_AUTH_ERROR"), 401, "UNAUTHENTICATED", None),
    ];
    for (effect, status, name, retry_after) in faults {
        sim.fault(Fault::new(Provider::Fcm, effect.clone()).times(1));
        let reply = send(&sim, &bearer, message()).await;
        let Effect::Answer { reason, .. } = effect else { unreachable!() };
        assert_eq!((reply.status, code(&reply)), (status, reason));
        assert_eq!((reply.json()["error"]["status"].as_str(), reply.header("retry-after")), (Some(name), retry_after));
    }
    sim.fault(Fault::new(Provider::Fcm, Effect::answer_retry_date(429, "QUOTA_EXCEEDED", 60)).times(1));
    let reply = send(&sim, &bearer, message()).await;
    assert!(reply.header("retry-after").unwrap().ends_with(" GMT"));
    sim.fault(Fault::new(Provider::Fcm, Effect::HtmlBadGateway).times(1));
    let reply = send(&sim, &bearer, message()).await;
    assert_eq!((reply.status, reply.header("content-type")), (502, Some("text/html; charset=utf-8")));
    assert!(reply.body.starts_with(b"<!DOCTYPE html>"));
    sim.fault(Fault::new(Provider::FcmToken, Effect::answer(500, "internal_failure")).times(1));
    let account: Value = serde_json::from_str(sim.service_account_json()).unwrap();
    let reply = exchange(&sim, &assertion(&account, claims(&account, &sim.token_url()))).await;
    assert_eq!((reply.status, reply.json()["error"].as_str()), (500, Some("internal_failure")));
    sim.shutdown().await;
}

#[tokio::test]
async fn connections_break_as_asked_for() {
    let sim = sim(Options::default()).await;
    let bearer = access(&sim, sim.service_account_json()).await;
    let before = sim.arrived().len();
    for http2 in [false, true] {
        for effect in [Effect::Cut, Effect::CutMidAnswer, Effect::Reset { code: 8 }] {
            sim.fault(Fault::new(Provider::Fcm, effect.clone()).times(1));
            let broken = try_send(&sim, &bearer, json!({ "token": TOKEN }), http2).await;
            assert!(broken.is_err(), "{effect:?} over http/2: {http2}: {broken:?}");
        }
    }
    // only where an answer had begun was anything delivered
    assert_eq!(sim.arrived().len() - before, 2);
    sim.fault(Fault::new(Provider::Fcm, Effect::HalfOpen));
    let waits = tokio::time::timeout(Duration::from_millis(50), try_send(&sim, &bearer, json!({ "token": TOKEN }), true)).await;
    assert!(waits.is_err());
    sim.clear_faults();
    assert_eq!(send(&sim, &bearer, json!({ "token": TOKEN })).await.status, 200);
    sim.shutdown().await;
}
