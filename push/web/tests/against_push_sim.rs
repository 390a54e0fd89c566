//! The sender against the simulated push service, over real sockets and TLS: it decrypts and verifies on its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use bytes::Bytes;
use jiff::{Timestamp, ToSpan};
use push_core::{Class, CollapseKey, Outcome, Payload, Priority, PushId, Request, Sender, Target, Token, WebKeys, WebPayload, WebUrgency};
use push_sim::{Effect, Fault, Options, Provider, PushSim, Subscription};
use push_web::{Allowed, LARGEST, Settings, WebPush};

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
const OTHER_KEY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI";

fn web(sim: &PushSim, key: &str) -> WebPush {
    let mut settings = Settings::new(key, "mailto:ops@example.org").unwrap();
    settings.ca_pem = Some(sim.ca_pem().as_bytes().to_vec());
    settings.allowed = Allowed::only([sim.addresses().web_push.to_string().as_str()]).unwrap();
    let connect = settings.connector().unwrap();
    WebPush::new(settings, connect).unwrap()
}

fn push(to: &Subscription, body: impl Into<Bytes>) -> Request {
    let keys = WebKeys { p256dh: to.p256dh.clone(), auth: to.auth.clone() };
    Request {
        id: PushId::new(),
        target: Target::Browser(Token::parse(push_core::Provider::Web, &to.endpoint).unwrap(), keys),
        class: Class::Interactive,
        priority: Priority::High,
        deadline: Some(Timestamp::now() + 60.seconds()),
        store: true,
        collapse: None,
        payload: Payload::Web(WebPayload { body: body.into(), urgency: WebUrgency::High }),
    }
}

async fn start() -> (PushSim, WebPush, Subscription) {
    let sim = PushSim::start(Options::default()).await.unwrap();
    let web = web(&sim, KEY);
    let subscription = sim.subscribe().unwrap();
    (sim, web, subscription)
}

#[tokio::test]
async fn a_browser_reads_what_was_sent_with_time_to_live_urgency_and_topic() {
    let (sim, web, subscription) = start().await;
    let mut request = push(&subscription, r#"{"event":"message","from":"Анна"}"#);
    request.collapse = CollapseKey::parse("chat-7");
    let outcome = web.send(request).await;
    assert!(matches!(&outcome, Outcome::Accepted { provider_id: Some(_) }), "{outcome:?}");
    for body in [Bytes::new(), vec![b'x'; LARGEST].into()] {
        let outcome = web.send(push(&subscription, body)).await;
        assert_eq!(outcome.name(), "accepted", "{outcome:?}");
    }
    let arrived = sim.arrived();
    assert_eq!(arrived[0].json()["from"], "Анна");
    assert_eq!((arrived[0].header("urgency"), arrived[0].header("topic")), (Some("high"), Some("chat-7")));
    assert!((50..=60).contains(&arrived[0].header("ttl").unwrap().parse::<i64>().unwrap()));
    assert_eq!((arrived[0].sender.as_str(), arrived[2].body.len()), ("mailto:ops@example.org", LARGEST));
    web.close().await;
    sim.shutdown().await;
}

#[tokio::test]
async fn a_burst_goes_over_a_few_connections() {
    let (sim, web, subscription) = start().await;
    let sends: Vec<_> = (0..300).map(|_| tokio::spawn(web.send(push(&subscription, "x")))).collect();
    for send in sends {
        let outcome = send.await.unwrap();
        assert_eq!(outcome.name(), "accepted", "{outcome:?}");
    }
    assert!(sim.counters().web_push.connections <= 2, "{:?}", sim.counters().web_push);
    sim.shutdown().await;
}

#[tokio::test]
async fn trial_20_a_subscription_that_is_gone_or_anothers_is_told() {
    let (sim, web, subscription) = start().await;
    assert_eq!(web.send(push(&subscription, "x")).await.name(), "accepted");
    let foreign = self::web(&sim, OTHER_KEY).send(push(&subscription, "x")).await;
    assert_eq!(foreign.name(), "fatal", "{foreign:?}");
    let mut gone = subscription.clone();
    gone.endpoint = subscription.endpoint.replace(&subscription.id, "AAAAAAAAAAAAAAAAAAAAAAAA");
    let outcome = web.send(push(&gone, "x")).await;
    assert_eq!(outcome.name(), "token_gone", "{outcome:?}");
    sim.shutdown().await;
}

#[tokio::test]
async fn trial_14_what_goes_wrong_at_the_service_is_read_for_what_it_is() {
    let (sim, web, subscription) = start().await;
    let strike = async |effect: Effect| {
        sim.fault(Fault::new(Provider::WebPush, effect).times(1));
        web.send(push(&subscription, "x")).await
    };
    assert!(matches!(strike(Effect::HtmlBadGateway).await, Outcome::RetryAfter { after: None, .. }));
    match strike(Effect::answer_retry_after(429, "slow down", "7")).await {
        Outcome::Throttled { after, .. } => assert_eq!(after, Some(Duration::from_secs(7))),
        other => panic!("{other:?}"),
    }
    for (status, wanted) in
        [(410, "token_gone"), (404, "token_gone"), (413, "bad_payload"), (401, "credentials_expired"), (500, "retry_after")]
    {
        assert_eq!(strike(Effect::answer(status, "")).await.name(), wanted, "{status}");
    }
    assert_eq!(strike(Effect::Cut).await.name(), "unknown");
    assert_eq!(web.send(push(&subscription, "x")).await.name(), "accepted");
    sim.shutdown().await;
}
