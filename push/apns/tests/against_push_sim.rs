//! The sender against a simulated APNs that was written from Apple's documents by others: real sockets, real TLS, real provider tokens
//! and client certificates.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use push_apns::{Apns, Auth, Certificate, Clock, ProviderTokens, Settings, SystemClock};
use push_core::{
    ApnsPayload, ApnsPushType, Class, CollapseKey, Environment, Outcome, Payload, Priority, Provider, PushId, Request, Sender, Target,
    Token, connect::HostPort,
};
use push_sim::{Device, DeviceState, Effect, Fault, GoAway, Options, PushSim, When};

const BUNDLE: &str = "org.elph.phone";

async fn sim() -> PushSim {
    PushSim::start(Options { accept_unknown_devices: true, ..Options::default() }).await.unwrap()
}

fn token_auth(sim: &PushSim) -> Auth {
    let team = sim.team();
    Auth::Token(ProviderTokens::new(team.p8.as_bytes(), &team.key_id, &team.team_id, Arc::new(SystemClock)).unwrap())
}

fn certificate_auth(sim: &PushSim, topics: &[&str], valid_for: Duration) -> Auth {
    let made = sim.client_certificate(topics, valid_for).unwrap();
    Auth::Certificate(Arc::new(Certificate::from_pem(made.certificate_pem.as_bytes(), made.key_pem.as_bytes()).unwrap()))
}

fn settings(sim: &PushSim, auth: Auth) -> Settings {
    let address = sim.addresses().apns;
    let mut settings = Settings::new(Environment::Production, BUNDLE, auth);
    settings.at = HostPort { host: address.ip().to_string(), port: address.port() };
    settings.ca_pem = Some(sim.ca_pem().as_bytes().to_vec());
    settings
}

fn sender(settings: Settings) -> Arc<Apns> {
    settings.check().unwrap();
    let connect = settings.connector().unwrap();
    Arc::new(Apns::new(settings, connect).unwrap())
}

fn device(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

fn push(device: &str, push_type: ApnsPushType) -> Request {
    Request {
        id: PushId::new(),
        target: Target::Device(Token::parse(Provider::Apns, device).unwrap()),
        class: Class::Interactive,
        priority: Priority::High,
        deadline: None,
        store: false,
        collapse: None,
        payload: Payload::Apns(ApnsPayload { push_type, body: Bytes::from_static(br#"{"aps":{"alert":"hello"}}"#) }),
    }
}

/// Sends many at once; all are accepted.
async fn send_all(apns: &Arc<Apns>, pushes: usize) {
    let answers: Vec<_> = (0..pushes).map(|_| tokio::spawn(apns.send(push(&device(7), ApnsPushType::Alert)))).collect();
    for answer in answers {
        let outcome = answer.await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}");
    }
}

#[tokio::test]
async fn every_push_type_is_accepted_with_a_token_and_with_a_certificate() {
    let sim = sim().await;
    let topics: Vec<String> = ApnsPushType::ALL.iter().map(|(push_type, _)| format!("{BUNDLE}{}", push_type.topic_suffix())).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    for auth in [token_auth(&sim), certificate_auth(&sim, &topics, Duration::from_secs(3600))] {
        let apns = sender(settings(&sim, auth));
        for (push_type, name) in ApnsPushType::ALL {
            let mut request = push(&device(1), push_type);
            request.collapse = CollapseKey::parse("room-7");
            let outcome = apns.send(request.clone()).await;
            let Outcome::Accepted { provider_id: Some(id) } = outcome else { unreachable!("{name}: {outcome:?}") };
            assert_eq!(id.to_ascii_lowercase(), request.id.to_string());
        }
        apns.close().await;
    }
    let counters = sim.counters();
    assert_eq!((counters.apns.accepted, counters.apns.connections), (22, 2), "{counters:?}");
    sim.shutdown().await;
}

#[tokio::test]
async fn trial_18_apple_finds_nothing_to_complain_about_in_how_many_pushes_are_sent() {
    let sim = sim().await;
    sim.set_max_streams(40);
    let apns = sender(settings(&sim, token_auth(&sim)));
    send_all(&apns, 500).await;
    sim.set_max_streams(5);
    send_all(&apns, 200).await;
    sim.set_max_streams(200);
    send_all(&apns, 500).await;
    apns.close().await;
    let counters = sim.counters();
    assert_eq!(counters.apns.accepted, 1200);
    let clients = counters.apns_clients;
    let wrong = (clients.streams_above_limit, clients.streams_before_first_token, clients.early_token_updates, clients.protocol_errors);
    assert_eq!(wrong, (0, 0, 0, 0), "{clients:?}");
    sim.shutdown().await;
}

#[tokio::test]
async fn trial_10_goaway_in_the_middle_of_many_pushes_loses_none_and_repeats_none() {
    let sim = sim().await;
    let apns = sender(settings(&sim, token_auth(&sim)));
    for requests in [1, 50, 120, 120] {
        sim.goaway(&GoAway { when: When::AfterRequests(requests), ..GoAway::default() });
        send_all(&apns, 300).await;
    }
    apns.close().await;
    let mut ids: Vec<_> = sim.arrived().into_iter().filter(|arrival| arrival.status == 200).map(|arrival| arrival.id).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), count), (1200, 1200));
    assert!(apns.statistics().goaways >= 1, "{:?}", apns.statistics());
    sim.shutdown().await;
}

#[tokio::test]
async fn trial_20_a_device_that_is_gone_is_told_with_the_time() {
    let sim = sim().await;
    let apns = sender(settings(&sim, token_auth(&sim)));
    let gone = device(9);
    sim.add_device(Device::apns(gone.clone()));
    assert!(sim.set_device_state(push_sim::Provider::Apns, &gone, DeviceState::Unregistered { since_ms: 1_767_225_600_123 }));
    let outcome = apns.send(push(&gone, ApnsPushType::Alert)).await;
    let Outcome::TokenGone { since: Some(since), reason } = outcome else { unreachable!("{outcome:?}") };
    assert_eq!((since.as_millisecond(), reason.as_str()), (1_767_225_600_123, "Unregistered"));
    sim.shutdown().await;
}

#[tokio::test]
async fn refusals_are_understood_as_they_come_over_the_wire() {
    let sim = sim().await;
    let apns = sender(settings(&sim, token_auth(&sim)));
    for (status, reason, name) in [
        (400, "BadDeviceToken", "fatal"),
        (400, "PayloadEmpty", "bad_payload"),
        (403, "InvalidProviderToken", "credentials_expired"),
        (413, "PayloadTooLarge", "bad_payload"),
        (429, "TooManyRequests", "throttled"),
        (500, "InternalServerError", "retry_after"),
        (503, "ServiceUnavailable", "retry_after"),
        (400, "NeverHeardOf", "fatal"),
    ] {
        sim.fault(Fault::new(push_sim::Provider::Apns, Effect::answer(status, reason)).times(1));
        let outcome = apns.send(push(&device(3), ApnsPushType::Alert)).await;
        assert_eq!(outcome.name(), name, "{outcome:?}");
        assert!(outcome.reason().unwrap().as_str().starts_with(reason), "{outcome:?}");
    }
    sim.fault(Fault::new(push_sim::Provider::Apns, Effect::answer_retry_after(503, "ServiceUnavailable", "7")).times(1));
    let outcome = apns.send(push(&device(3), ApnsPushType::Alert)).await;
    assert!(matches!(outcome, Outcome::RetryAfter { after: Some(after), .. } if after.as_secs() == 7), "{outcome:?}");
    sim.shutdown().await;
}

#[tokio::test]
async fn faults_of_a_connection_end_as_unknown_and_the_next_push_goes_through() {
    let sim = sim().await;
    let mut settings = settings(&sim, token_auth(&sim));
    settings.request_deadline = Duration::from_secs(2);
    settings.ping_waiting = Duration::from_millis(200);
    settings.ping_deadline = Duration::from_millis(500);
    let apns = sender(settings);
    for effect in [Effect::Cut, Effect::Silence, Effect::HalfOpen, Effect::Reset { code: 8 }] {
        send_all(&apns, 1).await;
        sim.fault(Fault::new(push_sim::Provider::Apns, effect.clone()).times(1));
        let outcome = apns.send(push(&device(3), ApnsPushType::Alert)).await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{effect:?}: {outcome:?}");
        sim.clear_faults();
    }
    sim.fault(Fault::new(push_sim::Provider::Apns, Effect::Reset { code: 7 }).times(2));
    send_all(&apns, 1).await;
    sim.fault(Fault::new(push_sim::Provider::Apns, Effect::CutMidAnswer).times(1));
    apns.send(push(&device(3), ApnsPushType::Alert)).await;
    sim.clear_faults();
    send_all(&apns, 1).await;
    sim.shutdown().await;
}

#[tokio::test]
async fn a_foreign_authority_a_foreign_key_and_a_foreign_certificate_are_told_apart() {
    let sim = sim().await;
    let mut distrusting = settings(&sim, token_auth(&sim));
    distrusting.ca_pem = None;
    distrusting.request_deadline = Duration::from_millis(500);
    if let Ok(connect) = distrusting.connector() {
        let outcome = Apns::new(distrusting, connect).unwrap().send(push(&device(1), ApnsPushType::Alert)).await;
        assert!(matches!(&outcome, Outcome::NotSent { reason } if reason.as_str().contains("certificate")), "{outcome:?}");
    }
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let team = sim.team();
    let tokens = ProviderTokens::new(other.as_bytes(), &team.key_id, &team.team_id, Arc::new(SystemClock)).unwrap();
    let outcome = sender(settings(&sim, Auth::Token(tokens))).send(push(&device(1), ApnsPushType::Alert)).await;
    assert!(matches!(&outcome, Outcome::CredentialsExpired { reason } if reason.as_str() == "InvalidProviderToken"), "{outcome:?}");
    // A certificate of another application is found before anything is sent.
    let foreign = settings(&sim, certificate_auth(&sim, &["org.example.other"], Duration::from_secs(3600)));
    let told = foreign.check().unwrap_err().to_string();
    assert!(told.contains("org.example.other") && told.contains(BUNDLE), "{told}");
    sim.shutdown().await;
}

#[tokio::test]
async fn trial_19_a_certificates_expiry_is_known_beforehand_and_said_afterwards() {
    struct Later(Timestamp);
    impl Clock for Later {
        fn now(&self) -> Timestamp {
            self.0
        }
    }
    let sim = sim().await;
    let mut settings = settings(&sim, certificate_auth(&sim, &[BUNDLE], Duration::from_secs(3600)));
    let apns = sender(settings.clone());
    let left = apns.expires_at().unwrap().duration_since(Timestamp::now());
    assert!((SignedDuration::from_mins(50)..SignedDuration::from_mins(70)).contains(&left), "{left}");
    settings.clock = Arc::new(Later(Timestamp::now().checked_add(SignedDuration::from_hours(2)).unwrap()));
    let told = settings.check().unwrap_err().to_string();
    assert!(told.contains("expired on"), "{told}");
    let connect = settings.connector().unwrap();
    let outcome = Apns::new(settings, connect).unwrap().send(push(&device(1), ApnsPushType::Alert)).await;
    assert!(matches!(outcome, Outcome::CredentialsExpired { .. }), "{outcome:?}");
    sim.shutdown().await;
}
