//! Our senders, with the simulated providers at the other end: what these received is what was on the wire.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use push_apns::{Apns, Auth, ProviderTokens, SystemClock};
use push_core::{
    ApnsPayload, ApnsPushType, Class, CollapseKey, Environment, FcmPayload, Outcome, Payload, Priority, PushId, Request, Sender, Target,
    Token, connect::HostPort,
};
use push_fcm::Fcm;
use push_sim::{Arrival, Device, Effect, FirstToken, Options, Provider, PushSim, TokenUpdates};
use serde_json::{Value, json};

/// What every push here is called.
pub const PUSH: &str = "a push beside the oracles";
/// The application at Apple.
pub const BUNDLE: &str = "org.elph.phone";
/// A device of Apple's.
pub const IPHONE: &str = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";
/// A device of Google's.
pub const ANDROID: &str = "cUO2_device-one:APA91bExample0123456789";
/// The time by which pushes of these comparisons are worthless, and the same as Apple wants it.
pub const UNTIL: (&str, u64) = ("2030-01-01T00:00:30Z", 1_893_456_030);
/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a push is worth something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// Until [`UNTIL`].
    Until,
    /// For a minute.
    Minute,
    /// For as long as the provider likes.
    Long,
    /// Now or never.
    Now,
}

/// The delivery that a push asks for; the agent sets it for what it tells by itself, the caller for what is asked for over the API.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    pub class: Class,
    pub priority: Priority,
    pub lasts: Lasts,
    pub collapse: Option<&'static str>,
}

/// Both providers and a sender to each.
pub struct Wire {
    sim: PushSim,
    apns: Apns,
    fcm: Fcm,
}

/// An id of a push that is the same in every run.
pub fn id() -> PushId {
    PushId::of(PUSH)
}

/// A device's token, as it would be registered.
pub fn device(provider: push_core::Provider, token: &str) -> Target {
    Target::Device(Token::parse(provider, token).unwrap())
}

/// A payload that the caller wrote.
pub fn own_apns(push_type: ApnsPushType, body: &Value) -> Payload {
    Payload::Apns(ApnsPayload { push_type, body: body.to_string().into() })
}

/// A message that the caller wrote.
pub fn own_fcm(message: &Value) -> Payload {
    Payload::Fcm(FcmPayload { message: Bytes::from(message.to_string()) })
}

// === impl Delivery ===

impl Delivery {
    /// The request that a sender is handed.
    pub fn of(self, target: Target, payload: Payload) -> Request {
        let deadline = match self.lasts {
            Lasts::Until => Some(UNTIL.0.parse().unwrap()),
            Lasts::Minute => Some(Timestamp::now() + SignedDuration::from_mins(1)),
            Lasts::Long | Lasts::Now => None,
        };
        Request {
            id: id(),
            target,
            class: self.class,
            priority: self.priority,
            deadline,
            store: self.lasts != Lasts::Now,
            collapse: self.collapse.map(|key| CollapseKey::parse(key).unwrap()),
            payload,
        }
    }
}

// === impl Wire ===

impl Wire {
    pub async fn start() -> Self {
        let options = Options { first_token: FirstToken::Count, token_updates: TokenUpdates::PerConnection, ..Options::default() };
        let sim = PushSim::start(options).await.unwrap();
        sim.add_device(Device::apns(IPHONE));
        sim.add_device(Device::fcm(ANDROID));
        let (apns, fcm) = (apns(&sim), fcm(&sim));
        Self { sim, apns, fcm }
    }

    /// The header fields and the document that Apple got, and for which device.
    pub async fn apns(&self, request: Request) -> Value {
        let arrival = self.accepted(&self.apns, request).await;
        let headers: serde_json::Map<_, _> = arrival.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        json!({ "header": headers, "device": arrival.device, "body": arrival.json() })
    }

    /// The document that Google got. A time to live that depends on when it was sent is checked here and written as what it means.
    pub async fn fcm(&self, request: Request) -> Value {
        let deadline = request.deadline.filter(|at| *at < Timestamp::now() + SignedDuration::from_hours(1));
        let before = Timestamp::now();
        let mut body = self.accepted(&self.fcm, request).await.json();
        if let (Some(deadline), Some(ttl)) = (deadline, body.pointer_mut("/message/android/ttl")) {
            let seconds = ttl.as_str().and_then(|ttl| ttl.strip_suffix('s')).and_then(|ttl| ttl.parse::<i64>().ok()).unwrap();
            let left = |at: Timestamp| deadline.duration_since(at).as_secs();
            assert!((left(Timestamp::now())..=left(before)).contains(&seconds), "{seconds} s, with {} s left", left(before));
            *ttl = "(seconds left)s".into();
        }
        body
    }

    /// What our sender makes of an answer; it has never sent before.
    pub async fn outcome(&self, provider: Provider, effect: Effect) -> Outcome {
        self.sim.clear_faults();
        self.sim.fault(push_sim::Fault::new(provider, effect));
        let delivery = Delivery { class: Class::Interactive, priority: Priority::High, lasts: Lasts::Until, collapse: None };
        let (sender, request): (Box<dyn Sender>, Request) = match provider {
            Provider::Apns => {
                let payload = own_apns(ApnsPushType::Alert, &json!({"aps": {"alert": "x"}}));
                (Box::new(apns(&self.sim)), delivery.of(device(push_core::Provider::Apns, IPHONE), payload))
            }
            _ => (Box::new(fcm(&self.sim)), delivery.of(device(push_core::Provider::Fcm, ANDROID), own_fcm(&json!({})))),
        };
        let outcome = send(&*sender, request).await;
        sender.close().await;
        self.sim.clear_faults();
        outcome
    }

    /// What our senders say of a request without asking anybody.
    pub async fn refused(&self, request: Request) -> Result<(), String> {
        let apns = matches!(request.payload, Payload::Apns(_));
        let outcome = if apns { send(&self.apns, request).await } else { send(&self.fcm, request).await };
        match outcome {
            Outcome::Accepted { .. } => Ok(()),
            outcome => Err(outcome.reason().map(ToString::to_string).unwrap_or_default()),
        }
    }

    pub async fn stop(self) {
        self.apns.close().await;
        self.fcm.close().await;
        self.sim.shutdown().await;
    }

    async fn accepted(&self, sender: &dyn Sender, request: Request) -> Arrival {
        let before = self.sim.arrived().last().map_or(0, |arrival| arrival.number);
        let outcome = send(sender, request).await;
        assert_eq!(outcome.name(), "accepted", "{outcome:?}");
        let mut arrived = self.sim.arrived_after(before);
        arrived.retain(|arrival| arrival.provider != Provider::FcmToken);
        assert_eq!(arrived.len(), 1, "{arrived:?}");
        arrived.into_iter().next().unwrap()
    }
}

async fn send(sender: &dyn Sender, request: Request) -> Outcome {
    tokio::time::timeout(PATIENCE, sender.send(request)).await.expect("senders end within their own deadline")
}

fn apns(sim: &PushSim) -> Apns {
    let team = sim.team();
    let tokens = ProviderTokens::new(team.p8.as_bytes(), &team.key_id, &team.team_id, Arc::new(SystemClock)).unwrap();
    let mut settings = push_apns::Settings::new(Environment::Production, BUNDLE, Auth::Token(tokens));
    let at = sim.addresses().apns;
    settings.at = HostPort { host: at.ip().to_string(), port: at.port() };
    settings.ca_pem = Some(sim.ca_pem().as_bytes().to_vec());
    let connect = settings.connector().unwrap();
    Apns::new(settings, connect).unwrap()
}

fn fcm(sim: &PushSim) -> Fcm {
    let mut settings = push_fcm::Settings::from_service_account(sim.service_account_json()).unwrap().with_endpoint(&sim.fcm_url()).unwrap();
    settings.ca_pem = Some(sim.ca_pem().as_bytes().to_vec());
    let connect = settings.connector().unwrap();
    Fcm::new(settings, connect).unwrap()
}
