//! The sender against the simulated Google, over real sockets and TLS: it verifies assertions, tokens and messages on its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::{Timestamp, ToSpan};
use push_core::{Class, CollapseKey, FcmPayload, Outcome, Payload, Priority, PushId, Request, Sender, Target, Token};
use push_fcm::{Fcm, Settings};
use push_sim::{Device, DeviceState, Effect, Fault, Options, Provider, PushSim};
use serde_json::{Value, json};

const TOKEN: &str = "cUO2_device-one:APA91bExample0123456789";

fn settings(sim: &PushSim) -> Settings {
    let mut settings = Settings::from_service_account(sim.service_account_json()).unwrap().with_endpoint(&sim.fcm_url()).unwrap();
    settings.ca_pem = Some(sim.ca_pem().as_bytes().to_vec());
    settings
}

async fn start() -> (PushSim, Fcm) {
    let sim = PushSim::start(Options::default()).await.unwrap();
    sim.add_device(Device::fcm(TOKEN));
    let settings = settings(&sim);
    let connect = settings.connector().unwrap();
    (sim, Fcm::new(settings, connect).unwrap())
}

fn to(target: Target, message: &Value) -> Request {
    Request {
        id: PushId::new(),
        target,
        class: Class::Call,
        priority: Priority::High,
        deadline: Some(Timestamp::now() + 60.seconds()),
        store: true,
        collapse: None,
        payload: Payload::Fcm(FcmPayload { message: Bytes::from(message.to_string()) }),
    }
}

fn device(token: &str) -> Target {
    Target::Device(Token::parse(push_core::Provider::Fcm, token).unwrap())
}

fn call() -> Request {
    to(device(TOKEN), &json!({"data": {"event": "call", "id": "7"}}))
}

#[tokio::test]
async fn messages_of_every_kind_arrive_as_they_were_meant() {
    let (sim, fcm) = start().await;
    let mut call = call();
    call.collapse = CollapseKey::parse("call-7");
    let outcome = fcm.send(call).await;
    assert!(
        matches!(&outcome, Outcome::Accepted { provider_id: Some(id) } if id.starts_with("projects/elph-demo/messages/")),
        "{outcome:?}"
    );
    let blocks = json!({
        "notification": {"title": "Anna", "body": "Grüße"}, "android": {"notification": {"channel_id": "chat"}},
        "apns": {"payload": {"aps": {"sound": "x"}}}, "webpush": {"headers": {"Urgency": "high"}},
    });
    let mut news = to(Target::Topic("news".to_owned()), &blocks);
    news.priority = Priority::Normal;
    news.store = false;
    assert_eq!(fcm.send(news).await.name(), "accepted");
    let condition = "'news' in topics && 'sport' in topics";
    assert_eq!(fcm.send(to(Target::Condition(condition.to_owned()), &json!({}))).await.name(), "accepted");

    let arrived: Vec<_> = sim.arrived().into_iter().filter(|arrival| arrival.provider == Provider::Fcm).collect();
    assert_eq!(arrived.iter().map(|it| it.device.as_str()).collect::<Vec<_>>(), [TOKEN, "topic:news", &format!("condition:{condition}")]);
    let message = &arrived[0].json()["message"];
    let ttl = message["android"]["ttl"].as_str().unwrap().trim_end_matches('s').parse::<i64>().unwrap();
    assert!((50..=60).contains(&ttl), "{ttl}");
    assert_eq!((&message["android"]["priority"], &message["android"]["collapse_key"]), (&json!("HIGH"), &json!("call-7")));
    assert_eq!(message["data"], json!({"event": "call", "id": "7"}));
    let message = &arrived[1].json()["message"];
    assert_eq!(message["android"], json!({"priority": "NORMAL", "ttl": "0s", "notification": {"channel_id": "chat"}}));
    assert_eq!(
        (&message["notification"], &message["apns"], &message["webpush"]),
        (&blocks["notification"], &blocks["apns"], &blocks["webpush"])
    );
    fcm.close().await;
    sim.shutdown().await;
}

#[tokio::test]
async fn trial_18_many_pushes_need_one_token_and_a_revoked_one_is_replaced_once() {
    let (sim, fcm) = start().await;
    let burst = async || {
        let sends: Vec<_> = (0..300).map(|_| tokio::spawn(fcm.send(call()))).collect();
        for send in sends {
            let outcome = send.await.unwrap();
            assert_eq!(outcome.name(), "accepted", "{outcome:?}");
        }
        sim.arrived().iter().filter(|arrival| arrival.provider == Provider::FcmToken).count()
    };
    assert_eq!(burst().await, 1);
    sim.revoke_access_tokens();
    assert_eq!(burst().await, 2);
    fcm.close().await;
    sim.shutdown().await;
}

#[tokio::test]
async fn trial_20_tokens_that_are_gone_foreign_or_nonsense_are_told_apart() {
    let (sim, fcm) = start().await;
    sim.add_device(Device::fcm("gone_device_0123456789").state(DeviceState::Unregistered { since_ms: 0 }));
    sim.add_device(Device::fcm("foreign_device_0123456789").state(DeviceState::OtherSender));
    for (token, wanted) in [
        ("gone_device_0123456789", "token_gone"),
        ("foreign_device_0123456789", "fatal"),
        ("never_registered_0123456789", "token_gone"),
        ("no!token", "token_gone"),
    ] {
        let outcome = fcm.send(to(device(token), &json!({"data": {}}))).await;
        assert_eq!(outcome.name(), wanted, "{token}: {outcome:?}");
    }
    let unknown_field = fcm.send(to(device(TOKEN), &json!({"surprise": 1}))).await;
    assert_eq!(unknown_field.name(), "bad_payload", "{unknown_field:?}");
    sim.shutdown().await;
}

#[tokio::test]
async fn trial_14_what_goes_wrong_at_google_is_read_for_what_it_is() {
    let (sim, fcm) = start().await;
    let strike = async |effect: Effect| {
        sim.fault(Fault::new(Provider::Fcm, effect).times(1));
        fcm.send(call()).await
    };
    assert!(matches!(strike(Effect::HtmlBadGateway).await, Outcome::RetryAfter { after: None, .. }));
    let after = |seconds| Some(Duration::from_secs(seconds));
    for (text, wanted) in [("30", after(30)), ("999999999999999999999", after(3600)), ("0", after(1))] {
        match strike(Effect::answer_retry_after(429, "QUOTA_EXCEEDED", text)).await {
            Outcome::Throttled { after, .. } => assert_eq!(after, wanted),
            other => panic!("{other:?}"),
        }
    }
    match strike(Effect::answer_retry_date(503, "UNAVAILABLE", 120)).await {
        Outcome::RetryAfter { after: Some(after), .. } => assert!((110..=120).contains(&after.as_secs()), "{after:?}"),
        other => panic!("{other:?}"),
    }
    match strike(Effect::answer_retry_after(429, "QUOTA_EXCEEDED", "whenever")).await {
        Outcome::Throttled { after: Some(after), .. } => assert!((60..=90).contains(&after.as_secs()), "{after:?}"),
        other => panic!("{other:?}"),
    }
    for (status, reason, wanted) in [
        (401, "THIRD_PARTY_AUTH_ERROR", "fatal"),
        (403, "SENDER_ID_MISMATCH", "fatal"),
        (404, "", "fatal"),
        (500, "INTERNAL", "retry_after"),
        (400, "INVALID_ARGUMENT", "bad_payload"),
        (451, "SOMETHING_NEW", "fatal"),
    ] {
        let outcome = strike(Effect::answer(status, reason)).await;
        assert_eq!(outcome.name(), wanted, "{reason}: {outcome:?}");
    }
    assert_eq!(fcm.send(call()).await.name(), "accepted");
    sim.shutdown().await;
}

#[tokio::test]
async fn broken_connections_lose_no_push_silently_and_refused_streams_are_sent_again() {
    let (sim, fcm) = start().await;
    assert_eq!(fcm.send(call()).await.name(), "accepted");
    sim.fault(Fault::new(Provider::Fcm, Effect::Reset { code: 7 }).times(1));
    assert_eq!(fcm.send(call()).await.name(), "accepted");
    for effect in [Effect::Cut, Effect::CutMidAnswer, Effect::Reset { code: 2 }] {
        sim.fault(Fault::new(Provider::Fcm, effect.clone()).times(1));
        let outcome = fcm.send(call()).await;
        // A cut in the middle may come after the status, and then it is known.
        assert!(["unknown", "accepted"].contains(&outcome.name()), "{effect:?}: {outcome:?}");
        assert!(outcome.name() == "unknown" || effect == Effect::CutMidAnswer, "{effect:?}: {outcome:?}");
    }
    sim.cut(Provider::Fcm);
    let began = Instant::now();
    while fcm.send(call()).await.name() != "accepted" {
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    sim.shutdown().await;
}

#[tokio::test]
async fn trial_19_an_account_that_was_revoked_and_a_foreign_authority_are_told() {
    let (sim, fcm) = start().await;
    assert!(sim.revoke_service_account("elph-demo"));
    let outcome = fcm.send(call()).await;
    assert_eq!(outcome.name(), "credentials_expired", "{outcome:?}");
    assert!(outcome.reason().unwrap().as_str().starts_with("token endpoint: 4"), "{outcome:?}");

    let other = PushSim::start(Options::default()).await.unwrap();
    let mut distrusting = settings(&sim);
    distrusting.ca_pem = Some(other.ca_pem().as_bytes().to_vec());
    let connect = distrusting.connector().unwrap();
    let outcome = Fcm::new(distrusting, connect).unwrap().send(call()).await;
    assert!(matches!(outcome.name(), "not_sent" | "retry_after"), "{outcome:?}");
    assert!(outcome.reason().unwrap().as_str().contains("certificate"), "{outcome:?}");
    other.shutdown().await;
    sim.shutdown().await;
}
