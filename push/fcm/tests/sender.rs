//! The sender against a service in memory, in virtual time: tokens, refusals, idleness.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa,
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use jiff::{Timestamp, ToSpan};
use push_core::{Class, FcmPayload, Outcome, Payload, Priority, Provider, PushId, Request, Sender, Target, Token, connect::Connect};
use push_fcm::{Account, Fcm, Settings};
use push_http::double::{Double, Got, Reply};
use serde_json::{Value, json};
use tokio::time::Instant;

fn settings() -> Settings {
    static FILE: LazyLock<String> = LazyLock::new(|| {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(der.as_ref()));
        json!({
            "type": "service_account", "project_id": "elph-1", "private_key_id": "key-1", "private_key": pem,
            "client_email": "push@elph-1.example", "token_uri": "https://tokens.example/token",
        })
        .to_string()
    });
    Settings::from_service_account(&FILE).unwrap()
}

fn fcm(double: &Double) -> Fcm {
    Fcm::new(settings(), Arc::new(double.clone())).unwrap()
}

fn request() -> Request {
    Request {
        id: PushId::new(),
        target: Target::Device(Token::parse(Provider::Fcm, &"t".repeat(100)).unwrap()),
        class: Class::Call,
        priority: Priority::High,
        deadline: None,
        store: true,
        collapse: None,
        payload: Payload::Fcm(FcmPayload { message: Bytes::from_static(br#"{"data":{"event":"call"}}"#) }),
    }
}

fn is_token(got: &Got) -> bool {
    got.to.host == "tokens.example"
}

fn grant(number: usize) -> Reply {
    Reply::answer(200, json!({"access_token": format!("secret-{number}"), "expires_in": 3600, "token_type": "Bearer"}).to_string())
}

fn sent() -> Reply {
    Reply::answer(200, r#"{"name":"projects/elph-1/messages/1"}"#)
}

/// Grants tokens and accepts pushes.
fn service() -> Double {
    let tokens = AtomicUsize::new(0);
    Double::new(
        move |got| {
            if is_token(got) { grant(tokens.fetch_add(1, Ordering::Relaxed) + 1).later(Duration::from_millis(50)) } else { sent() }
        },
    )
}

fn bearer(got: &Got) -> &str {
    got.head.headers.get("authorization").unwrap().to_str().unwrap()
}

fn tokens(double: &Double) -> Vec<Got> {
    double.got().into_iter().filter(is_token).collect()
}

fn pushes(double: &Double) -> Vec<Got> {
    double.got().into_iter().filter(|got| !is_token(got)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_push_is_what_fcm_documents_and_its_token_is_asked_for_by_a_signed_assertion() {
    let double = service();
    let outcome = fcm(&double).send(request()).await;
    assert_eq!(outcome, Outcome::Accepted { provider_id: Some("projects/elph-1/messages/1".to_owned()) });
    let [token, push]: [Got; 2] = double.got().try_into().unwrap();
    assert_eq!(push.head.uri.to_string(), "https://fcm.googleapis.com/v1/projects/elph-1/messages:send");
    assert_eq!((push.head.method.as_str(), bearer(&push)), ("POST", "Bearer secret-1"));
    assert_eq!(push.head.headers.get("content-type").unwrap(), "application/json");
    let body: Value = serde_json::from_slice(&push.body).unwrap();
    let wanted = json!({"message": {"token": "t".repeat(100), "android": {"priority": "HIGH"}, "data": {"event": "call"}}});
    assert_eq!(body, wanted);

    assert_eq!((token.head.uri.path(), token.head.method.as_str()), ("/token", "POST"));
    assert_eq!(token.head.headers.get("content-type").unwrap(), "application/x-www-form-urlencoded");
    let form = String::from_utf8(token.body.to_vec()).unwrap();
    let assertion = form.strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=").unwrap();
    let parts: Vec<Value> =
        assertion.split('.').take(2).map(|part| serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()).collect();
    assert_eq!((&parts[0]["alg"], &parts[0]["kid"]), (&json!("RS256"), &json!("key-1")));
    assert_eq!((&parts[1]["iss"], &parts[1]["aud"]), (&json!("push@elph-1.example"), &json!("https://tokens.example/token")));
    let lifetime = parts[1]["exp"].as_i64().unwrap() - parts[1]["iat"].as_i64().unwrap();
    assert!((60..=3600).contains(&lifetime), "{lifetime}");
}

#[tokio::test(start_paused = true)]
async fn trial_18_a_thousand_pushes_share_one_token_also_over_several_senders_of_the_account() {
    let double = service();
    let connect: Arc<dyn Connect> = Arc::new(double.clone());
    let account = Account::new(&settings(), connect.clone()).unwrap();
    let senders = [1, 2].map(|_| Fcm::with_account(settings(), account.clone(), connect.clone()).unwrap());
    let sends: Vec<_> = (0..1000).map(|number| tokio::spawn(senders[number % 2].send(request()))).collect();
    for send in sends {
        assert_eq!(send.await.unwrap().name(), "accepted");
    }
    assert_eq!((tokens(&double).len(), pushes(&double).len()), (1, 1000));
    let [first, second] = senders;
    first.close().await;
    assert_eq!(second.send(request()).await.name(), "accepted", "the account is still open");
}

#[tokio::test(start_paused = true)]
async fn trial_18_a_token_is_refreshed_once_ahead_of_its_end_and_no_push_waits_for_that() {
    let double = service();
    let fcm = fcm(&double);
    assert_eq!(fcm.send(request()).await.name(), "accepted");
    for _ in 0..(2 * 3600 / 20) {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let began = Instant::now();
        assert_eq!(fcm.send(request()).await.name(), "accepted");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
    let times: Vec<_> = tokens(&double).iter().map(|got| got.at).collect();
    assert_eq!(times.len(), 3, "the first, and one at each refresh");
    for pair in times.windows(2) {
        let between = pair[1] - pair[0];
        assert!(between >= Duration::from_secs(2500) && between < Duration::from_secs(3100), "{between:?}");
    }
    assert_eq!(double.connections().iter().filter(|(to, _)| to.host != "tokens.example").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn trial_11_after_two_hours_of_silence_one_push_goes_through_at_once_with_a_good_token() {
    let double = service();
    let fcm = fcm(&double);
    fcm.warm();
    tokio::time::sleep(Duration::from_secs(7200)).await;
    let began = Instant::now();
    assert_eq!(fcm.send(request()).await.name(), "accepted");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_ne!(bearer(pushes(&double).last().unwrap()), "Bearer secret-1");
    assert!(fcm.capacity().connected);
}

#[tokio::test(start_paused = true)]
async fn trial_18_a_refused_token_is_replaced_once_for_everybody_and_their_pushes_are_sent_again() {
    let given = AtomicUsize::new(0);
    let refusal = json!({"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "no"}}).to_string();
    let double = Double::new(move |got| {
        if is_token(got) {
            return grant(given.fetch_add(1, Ordering::Relaxed) + 1).later(Duration::from_millis(50));
        }
        if bearer(got) == "Bearer secret-1" { Reply::answer(401, refusal.clone()) } else { sent() }
    });
    let fcm = fcm(&double);
    let sends: Vec<_> = (0..50).map(|_| tokio::spawn(fcm.send(request()))).collect();
    for send in sends {
        assert_eq!(send.await.unwrap().name(), "accepted");
    }
    assert_eq!((tokens(&double).len(), pushes(&double).len()), (2, 100));
}

#[tokio::test(start_paused = true)]
async fn an_account_whose_tokens_are_always_refused_is_told_so_and_does_not_hammer_the_token_endpoint() {
    let refusal = json!({"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "disabled"}}).to_string();
    let given = AtomicUsize::new(0);
    let double =
        Double::new(
            move |got| {
                if is_token(got) { grant(given.fetch_add(1, Ordering::Relaxed) + 1) } else { Reply::answer(401, refusal.clone()) }
            },
        );
    let fcm = fcm(&double);
    for _ in 0..60 {
        let outcome = fcm.send(request()).await;
        assert_eq!(outcome.name(), "credentials_expired");
        let reason = outcome.reason().unwrap().as_str().to_owned();
        assert!(reason.contains("disabled") && !reason.contains("secret"), "{reason}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let asked = tokens(&double).len();
    assert!((2..=4).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_firebase_lacks_is_not_taken_for_our_token() {
    let body = json!({"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "Auth error from APNS or Web Push Service", "details": [
        {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "THIRD_PARTY_AUTH_ERROR"}]}});
    let double = Double::new(move |got| if is_token(got) { grant(1) } else { Reply::answer(401, body.to_string()) });
    let outcome = fcm(&double).send(request()).await;
    assert_eq!(outcome.name(), "fatal");
    assert!(outcome.reason().unwrap().as_str().contains("THIRD_PARTY_AUTH_ERROR"));
    assert_eq!((tokens(&double).len(), pushes(&double).len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_endpoint_that_is_down_is_asked_one_at_a_time_with_growing_waits_and_pushes_learn_why() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = down.clone();
    let double = Double::new(move |got| match (is_token(got), is_down.load(Ordering::Relaxed)) {
        (true, true) => Reply::answer(502, "<html>Bad Gateway</html>").later(Duration::from_millis(30)),
        (true, false) => grant(1),
        _ => sent(),
    });
    let fcm = fcm(&double);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(600) {
        let (first, second) = tokio::join!(fcm.send(request()), fcm.send(request()));
        assert_eq!((first.name(), second.name()), ("retry_after", "retry_after"));
        assert_eq!(first.reason().unwrap().as_str(), "token endpoint: 502");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let asked = tokens(&double).len();
    assert!((10..30).contains(&asked), "{asked}");
    assert_eq!((pushes(&double).len(), double.most_at_once()), (0, 1));
    down.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(fcm.send(request()).await.name(), "accepted");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_refreshed_is_used_while_it_is_good() {
    let given = AtomicUsize::new(0);
    let double = Double::new(move |got| match is_token(got) {
        true if given.fetch_add(1, Ordering::Relaxed) == 0 => grant(1),
        true => Reply::answer(503, ""),
        false => sent(),
    });
    let fcm = fcm(&double);
    assert_eq!(fcm.send(request()).await.name(), "accepted");
    tokio::time::sleep(Duration::from_secs(3500)).await;
    assert!(tokens(&double).len() > 2);
    assert_eq!(fcm.send(request()).await.name(), "accepted");
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(fcm.send(request()).await.name(), "retry_after");
}

#[tokio::test(start_paused = true)]
async fn trial_19_an_account_that_is_denied_is_told_in_the_endpoints_words() {
    let denial = json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}).to_string();
    let double = Double::new(move |_| Reply::answer(400, denial.clone()));
    let outcome = fcm(&double).send(request()).await;
    assert_eq!(outcome.name(), "credentials_expired");
    assert_eq!(outcome.reason().unwrap().as_str(), "token endpoint: 400 invalid_grant: Invalid JWT Signature.");
}

#[tokio::test(start_paused = true)]
async fn a_token_endpoint_that_never_answers_costs_a_push_no_more_than_its_wait() {
    let double = Double::new(|_| Reply::Silence);
    let began = Instant::now();
    assert_eq!(fcm(&double).send(request()).await.name(), "retry_after");
    assert_eq!(began.elapsed(), Duration::from_secs(15));
}

#[tokio::test]
async fn trial_15_a_push_whose_deadline_passed_while_it_waited_is_not_sent() {
    let double = service();
    let fcm = fcm(&double);
    assert_eq!(fcm.send(request()).await.name(), "accepted");
    let mut late = request();
    late.deadline = Some(Timestamp::now() - 1.seconds());
    assert_eq!(fcm.send(late).await.name(), "not_sent");
    let mut in_time = request();
    in_time.deadline = Some(Timestamp::now() + 30.seconds());
    assert_eq!(fcm.send(in_time).await.name(), "accepted");
    let sent = pushes(&double);
    assert_eq!(sent.len(), 2);
    let body: Value = serde_json::from_slice(&sent[1].body).unwrap();
    let ttl = body["message"]["android"]["ttl"].as_str().unwrap().trim_end_matches('s').parse::<i64>().unwrap();
    assert!((1..=30).contains(&ttl), "{ttl}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_push_to_fcm_is_never_sent() {
    let double = service();
    let fcm = fcm(&double);
    let mut stub = request();
    stub.payload = Payload::Stub(Bytes::new());
    assert_eq!(fcm.send(stub).await.name(), "fatal");
    let mut broken = request();
    broken.payload = Payload::Fcm(FcmPayload { message: Bytes::from_static(b"{") });
    assert_eq!(fcm.send(broken).await.name(), "bad_payload");
    assert_eq!(pushes(&double).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_shown_has_the_devices_token_or_a_key() {
    let double = Double::new(|got| {
        if is_token(got) {
            return grant(1);
        }
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        let text = format!("bad token {}", body["message"]["token"].as_str().unwrap());
        Reply::answer(400, json!({"error": {"status": "INVALID_ARGUMENT", "message": text}}).to_string())
    });
    let fcm = fcm(&double);
    let outcome = fcm.send(request()).await;
    let shown = format!("{fcm:?} {outcome:?}");
    assert!(shown.contains("bad token …tttttt"), "{shown}");
    assert!(!shown.contains("PRIVATE") && !shown.contains("secret-1") && !shown.contains(&"t".repeat(20)), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_closed_sender_refuses_and_opens_nothing() {
    let double = service();
    let fcm = fcm(&double);
    assert_eq!(fcm.send(request()).await.name(), "accepted");
    fcm.close().await;
    assert_eq!(fcm.send(request()).await.name(), "not_sent");
    let before = double.connections().len();
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert_eq!((double.connections().len(), tokens(&double).len()), (before, 1));
}
