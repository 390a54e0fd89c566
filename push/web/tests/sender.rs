//! The sender against a service in memory, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::{Timestamp, ToSpan};
use push_core::{
    Class, CollapseKey, Outcome, Payload, Priority, Provider, PushId, Request, Sender, Target, Token, WebKeys, WebPayload, WebUrgency,
};
use push_http::double::{Double, Got, Reply};
use push_web::{Allowed, Settings, WebPush};
use tokio::time::Instant;

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

fn settings() -> Settings {
    let mut settings = Settings::new(KEY, "mailto:ops@example.org").unwrap();
    settings.allowed = Allowed::only([".push.example"]).unwrap();
    settings
}

fn web(double: &Double) -> WebPush {
    WebPush::new(settings(), Arc::new(double.clone())).unwrap()
}

/// With the browser's keys of RFC 8291's example.
fn request(endpoint: &str) -> Request {
    let keys = WebKeys {
        p256dh: "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4".to_owned(),
        auth: "BTBZMqHH6r4Tts7J_aSIgg".to_owned(),
    };
    Request {
        id: PushId::new(),
        target: Target::Browser(Token::parse(Provider::Web, endpoint).unwrap(), keys),
        class: Class::Interactive,
        priority: Priority::High,
        deadline: None,
        store: true,
        collapse: None,
        payload: Payload::Web(WebPayload { body: Bytes::from_static(b"{\"event\":\"message\"}"), urgency: WebUrgency::High }),
    }
}

fn created() -> Double {
    Double::new(|_| Reply::answer(201, "").header("location", "https://a.push.example/m/1"))
}

fn field<'a>(got: &'a Got, name: &str) -> &'a str {
    got.head.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_push_has_the_headers_of_the_rfcs_and_an_encrypted_body() {
    let double = created();
    let web = web(&double);
    let mut push = request("https://a.push.example/w/secret-subscription?x=1");
    push.deadline = Some(Timestamp::now() + 30.seconds());
    push.collapse = CollapseKey::parse("chat-7");
    let outcome = web.send(push).await;
    assert_eq!(outcome, Outcome::Accepted { provider_id: Some("https://a.push.example/m/1".to_owned()) });
    let [got]: [Got; 1] = double.got().try_into().unwrap();
    assert_eq!((got.head.method.as_str(), got.head.uri.to_string().as_str()), ("POST", "https://a.push.example/w/secret-subscription?x=1"));
    assert_eq!((field(&got, "content-encoding"), field(&got, "urgency"), field(&got, "topic")), ("aes128gcm", "high", "chat-7"));
    assert!((1..=30).contains(&field(&got, "ttl").parse::<i64>().unwrap()));
    assert!(field(&got, "authorization").starts_with("vapid t=ey"));
    assert_eq!(got.body.len(), 86 + 19 + 1 + 16);
    assert!(!got.body.windows(5).any(|window| window == b"event"));
}

#[tokio::test]
async fn now_or_never_is_a_time_to_live_of_zero_and_a_late_push_is_not_sent() {
    let double = created();
    let web = web(&double);
    let mut push = request("https://a.push.example/w/1");
    push.store = false;
    push.deadline = Some(Timestamp::now() + 30.seconds());
    assert_eq!(web.send(push.clone()).await.name(), "accepted");
    assert_eq!(field(double.got().first().unwrap(), "ttl"), "0");
    push.deadline = Some(Timestamp::now() - 1.seconds());
    assert_eq!(web.send(push).await.name(), "not_sent");
    assert_eq!(double.got().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_signed_once_for_each_service() {
    let double = created();
    let web = web(&double);
    for _ in 0..5 {
        for host in ["a", "b"] {
            assert_eq!(web.send(request(&format!("https://{host}.push.example/w/1"))).await.name(), "accepted");
        }
    }
    let mut tokens: Vec<_> = double.got().iter().map(|got| field(got, "authorization").to_owned()).collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!((tokens.len(), double.connections().len()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_signed_anew_for_the_next_push() {
    let double = Double::new(|_| Reply::answer(401, "jwt expired"));
    let web = web(&double);
    for _ in 0..2 {
        assert_eq!(web.send(request("https://a.push.example/w/1")).await.name(), "credentials_expired");
    }
    let got = double.got();
    // ES256 signatures differ each time.
    assert_ne!(field(&got[0], "authorization"), field(&got[1], "authorization"));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_outside_the_list_is_never_connected_to() {
    let double = created();
    let web = web(&double);
    for endpoint in ["https://10.0.0.1/x", "https://push.example/x", "https://a.push.example:22/x", "https://a.push.example@10.0.0.1/x"] {
        let outcome = web.send(request(endpoint)).await;
        assert_eq!(outcome.name(), "fatal", "{endpoint}");
    }
    assert!(double.connections().is_empty() && web.services() == 0);
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_to_a_bounded_number_of_services() {
    let double = created();
    let mut settings = settings();
    settings.services = 3;
    let web = WebPush::new(settings, Arc::new(double.clone())).unwrap();
    for number in 0..50 {
        assert_eq!(web.send(request(&format!("https://s{number}.push.example/w/1"))).await.name(), "accepted");
        assert_eq!(web.send(request("https://often.push.example/w/1")).await.name(), "accepted");
        assert!(web.services() <= 3);
    }
    let often = double.connections().iter().filter(|(to, _)| to.host == "often.push.example").count();
    assert_eq!((often, double.connections().len()), (1, 51));
}

#[tokio::test(start_paused = true)]
async fn trial_13_a_service_that_never_answers_delays_no_other_ones_browsers() {
    let double = Double::new(|got| if got.to.host == "stuck.push.example" { Reply::Silence } else { Reply::answer(201, "") });
    let web = web(&double);
    let stuck: Vec<_> = (0..500).map(|_| tokio::spawn(web.send(request("https://stuck.push.example/w/1")))).collect();
    double.wait_for(200).await;
    let began = Instant::now();
    assert_eq!(web.send(request("https://a.push.example/w/1")).await.name(), "accepted");
    assert_eq!(began.elapsed(), Duration::ZERO);
    for send in stuck {
        assert!(send.await.unwrap().may_be_retried());
    }
    assert!(began.elapsed() <= Duration::from_secs(36), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn trial_11_after_two_hours_of_silence_a_push_goes_through_at_once() {
    let double = created();
    let web = web(&double);
    assert_eq!(web.send(request("https://a.push.example/w/1")).await.name(), "accepted");
    tokio::time::sleep(Duration::from_secs(7200)).await;
    let began = Instant::now();
    assert_eq!(web.send(request("https://a.push.example/w/1")).await.name(), "accepted");
    assert_eq!((began.elapsed(), double.connections().len()), (Duration::ZERO, 2));
}

#[tokio::test(start_paused = true)]
async fn trial_20_a_subscription_that_is_gone_is_told_and_its_address_is_not_shown() {
    let double = Double::new(|got| Reply::answer(410, format!("{{\"message\":\"no {}\"}}", got.head.uri.path())));
    let outcome = web(&double).send(request("https://a.push.example/w/secret-subscription-0123456789")).await;
    assert_eq!(outcome.name(), "token_gone");
    let shown = format!("{outcome:?}");
    assert!(shown.contains("HTTP 410: no /…") && !shown.contains("secret"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_encrypted_is_refused_without_a_request() {
    let double = created();
    let web = web(&double);
    let mut large = request("https://a.push.example/w/1");
    large.payload = Payload::Web(WebPayload { body: vec![0; push_web::LARGEST + 1].into(), urgency: WebUrgency::Low });
    assert_eq!(web.send(large).await.name(), "bad_payload");
    let mut keyless = request("https://a.push.example/w/1");
    if let Target::Browser(_, keys) = &mut keyless.target {
        keys.auth = String::new();
    }
    assert_eq!(web.send(keyless).await.name(), "fatal");
    let mut other = request("https://a.push.example/w/1");
    other.payload = Payload::Stub(Bytes::new());
    assert_eq!(web.send(other).await.name(), "fatal");
    assert!(double.got().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_closed_sender_refuses() {
    let double = created();
    let web = web(&double);
    assert_eq!(web.send(request("https://a.push.example/w/1")).await.name(), "accepted");
    web.close().await;
    for endpoint in ["https://a.push.example/w/1", "https://new.push.example/w/1"] {
        assert_eq!(web.send(request(endpoint)).await.name(), "not_sent");
    }
}
