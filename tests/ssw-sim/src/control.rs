//! The control API: HTTP/JSON on its own port. Looks into the switch, plays its subscribers, injects faults. `GET /` explains it.

use std::time::Duration;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use ssw_core::{Answer, ConferenceRequest, HistoryFilter, LegState, LicenceKind, Refusal};
use tokio::net::TcpListener;

use crate::{
    faults::{CutPoint, Link, MessageFault},
    sim::{Core, NodeAddresses},
};

const MANUAL: &str = "\
ssw-sim control API. Bodies and answers are JSON; a refusal of the switch is 409 {\"cause\", \"text\"}.

GET    /state                                     seed, addresses, domains, licences, sessions
GET    /dialect                                   the dialect in use (TOML: overrides of the agent's `sim`)
GET    /sessions                                  sessions of every protocol
GET    /domains/{domain}/calls                    calls going on
GET    /domains/{domain}/history                  finished calls, newest first (?limit=)
GET    /domains/{domain}/conferences              conferences going on, with members
GET    /domains/{domain}/conferences/ended        conferences that have ended
GET    /domains/{domain}/phones/{alias}           a subscriber and its legs
POST   /domains/{domain}/phones/{alias}/{action}
         answer | reject | hang_up | hold | retrieve
         dial        {\"to\": \"1002\"}
         behave      {\"answer\": \"after\", \"ms\": 800} | {\"answer\": \"never\"} | {\"answer\": \"reject\"} | {\"answer\": \"busy\"}
         register    {\"uri\": \"sip:1001@10.0.0.9\"}
         unregister  {\"uri\": \"...\"} (without uri: every device)
POST   /domains/{domain}/conferences              {\"name\", \"initiator\", \"room\", \"template\", \"groups\", \"members\", \"limit\", \"seconds\",
                                                  \"ends_when_empty\"}, all optional; answers {\"id\"}
POST   /domains/{domain}/conferences/{id}/end
POST   /domains/{domain}/conferences/{id}/members/{number or member id}/{action}
         join | pick_up | leave | mute | unmute | ask_floor | withdraw_floor | talk | silence
PUT    /licences/{calls|conferences|members}      {\"limit\": 10, \"expires_at\": \"2030-01-01T00:00:00Z\"}; absent = none
POST   /restart                                   {\"keep_state\": true}
DELETE /faults                                    ends every fault
POST   /faults                                    one of (link: terminal | call_api | csta; node from 0, default 0)
         {\"fault\": \"drop\", \"link\"}                                   cut the connections now
         {\"fault\": \"half_open\", \"link\", \"on\": true}                 keep them, but read and write nothing
         {\"fault\": \"slow\", \"link\", \"delay_ms\": 500}
         {\"fault\": \"messages\", \"link\", \"what\": \"duplicate\", \"count\": 1}
              what: duplicate | reorder | truncate | garbage | oversize | wrong_pad
         {\"fault\": \"expire_sessions\", \"link\"?, \"node\"?}              absent = all
         {\"fault\": \"refuse_in_200\", \"command\": \"name or *\", \"count\": 1}
         {\"fault\": \"swallow_answer\", \"command\": \"name or *\", \"cut\": \"before\", \"count\": 1}
              cut: before | during | after | never (carried out, not answered, link stays)
         {\"fault\": \"node\", \"node\": 0, \"up\": false}
";

#[derive(Clone)]
struct Control {
    core: Core,
    nodes: Vec<NodeAddresses>,
}

/// An answer that says no.
enum Failure {
    Switch(Refusal),
    BadRequest(String),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Switch(refusal)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Switch(refusal) => (StatusCode::CONFLICT, Json(json!({ "cause": refusal.cause, "text": refusal.text }))).into_response(),
            Self::BadRequest(text) => (StatusCode::BAD_REQUEST, Json(json!({ "text": text }))).into_response(),
        }
    }
}

type Reply = Result<Json<Value>, Failure>;

/// Serves the control API until the simulator ends.
pub(crate) async fn serve(listener: TcpListener, core: Core, nodes: Vec<NodeAddresses>) {
    let shutdown = core.shutdown.clone();
    let router = Router::new()
        .route("/", get(async || MANUAL))
        .route("/state", get(state))
        .route("/dialect", get(async |State(control): State<Control>| control.core.dialect.to_toml()))
        .route("/sessions", get(async |State(control): State<Control>| Json(control.core.sessions.list())))
        .route("/domains/{domain}/calls", get(calls))
        .route("/domains/{domain}/history", get(history))
        .route("/domains/{domain}/conferences", get(conferences).post(create_conference))
        .route("/domains/{domain}/conferences/ended", get(ended_conferences))
        .route("/domains/{domain}/conferences/{conference}/end", post(end_conference))
        .route("/domains/{domain}/conferences/{conference}/members/{who}/{action}", post(member))
        .route("/domains/{domain}/phones/{alias}", get(phone))
        .route("/domains/{domain}/phones/{alias}/{action}", post(phone_action))
        .route("/licences/{kind}", put(licence))
        .route("/restart", post(restart))
        .route("/faults", post(fault).delete(clear_faults))
        .with_state(Control { core, nodes });
    let stop = shutdown.clone();
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    tokio::select! {
        result = served => if let Err(error) = result { tracing::warn!(%error, "the control api ended") },
        // Open keep-alive connections do not hold the end up.
        () = async { shutdown.cancelled().await; tokio::time::sleep(Duration::from_millis(200)).await } => {}
    }
}

/// A body, or nothing where everything in it is optional.
fn body<T: for<'de> Deserialize<'de>>(bytes: &Bytes) -> Result<T, Failure> {
    let bytes = if bytes.is_empty() { b"{}".as_slice() } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| Failure::BadRequest(error.to_string()))
}

fn done() -> Reply {
    Ok(Json(json!({})))
}

// === Looking ===

async fn state(State(Control { core, nodes }): State<Control>) -> Json<Value> {
    let domains = core.switch.domains().into_iter().map(|domain| {
        json!({
            "aliases": core.switch.alias_count(&domain).unwrap_or_default(),
            "calls": core.switch.call_count(Some(&domain)),
            "conferences": core.switch.conferences(Some(&domain)).len(),
            "name": domain,
        })
    });
    Json(json!({
        "seed": core.dialect.seed,
        "nodes": nodes,
        "domains": domains.collect::<Vec<_>>(),
        "licences": core.switch.licences(),
        "sessions": core.sessions.list(),
    }))
}

async fn calls(State(control): State<Control>, Path(domain): Path<String>) -> Reply {
    Ok(Json(json!(control.core.switch.calls(Some(&domain)))))
}

#[derive(Deserialize)]
struct Limit {
    #[serde(default)]
    limit: usize,
}

async fn history(State(control): State<Control>, Path(domain): Path<String>, Query(Limit { limit }): Query<Limit>) -> Reply {
    let filter = HistoryFilter { kind: ssw_core::HistoryKind::Finished, limit, ..HistoryFilter::default() };
    Ok(Json(json!(control.core.switch.history(&domain, &filter)?)))
}

async fn conferences(State(control): State<Control>, Path(domain): Path<String>) -> Reply {
    Ok(Json(json!(control.core.switch.conferences(Some(&domain)))))
}

async fn ended_conferences(State(control): State<Control>, Path(domain): Path<String>) -> Reply {
    Ok(Json(json!(control.core.switch.ended_conferences(&domain)?)))
}

async fn phone(State(control): State<Control>, Path((domain, alias)): Path<(String, String)>) -> Reply {
    let switch = &control.core.switch;
    Ok(Json(json!({ "subscriber": switch.subscriber(&domain, &alias)?, "legs": switch.device_legs(&domain, &alias)? })))
}

// === Playing the subscribers ===

#[derive(Deserialize)]
struct Dial {
    to: String,
}

#[derive(Deserialize)]
struct Device {
    uri: String,
}

#[derive(Deserialize)]
struct MaybeDevice {
    uri: Option<String>,
}

async fn phone_action(
    State(control): State<Control>,
    Path((domain, alias, action)): Path<(String, String, String)>,
    bytes: Bytes,
) -> Reply {
    let switch = &control.core.switch;
    match action.as_str() {
        "answer" => switch.device_answer(&domain, &alias)?,
        "reject" => switch.device_reject(&domain, &alias)?,
        "hang_up" => {
            let count = switch.device_hang_up(&domain, &alias)?;
            return Ok(Json(json!({ "legs": count })));
        }
        "hold" | "retrieve" => {
            let wanted = if action == "hold" { LegState::Connected } else { LegState::Held };
            let legs = switch.device_legs(&domain, &alias)?;
            let Some(leg) = legs.iter().find(|leg| leg.state == wanted) else {
                return Err(Failure::Switch(Refusal::new(ssw_core::RefusalCause::BadState, "no leg is in the right state")));
            };
            if action == "hold" {
                switch.hold(&domain, &leg.call, &leg.id)?;
            } else {
                switch.retrieve(&domain, &leg.call, &leg.id)?;
            }
        }
        "dial" => {
            let made = switch.dial(&domain, &alias, &body::<Dial>(&bytes)?.to)?;
            return Ok(Json(json!({ "call": made.call, "leg": made.leg })));
        }
        "behave" => switch.set_answer(&domain, &alias, body::<Answer>(&bytes)?)?,
        "register" => switch.register(&domain, &alias, &body::<Device>(&bytes)?.uri)?,
        "unregister" => switch.unregister(&domain, &alias, body::<MaybeDevice>(&bytes)?.uri.as_deref())?,
        other => return Err(Failure::BadRequest(format!("a phone cannot {other}"))),
    }
    done()
}

async fn create_conference(State(control): State<Control>, Path(domain): Path<String>, bytes: Bytes) -> Reply {
    let request: ConferenceRequest = body(&bytes)?;
    Ok(Json(json!({ "id": control.core.switch.create_conference(&domain, request)? })))
}

async fn end_conference(State(control): State<Control>, Path((domain, conference)): Path<(String, String)>) -> Reply {
    control.core.switch.end_conference(&domain, &conference)?;
    done()
}

async fn member(State(control): State<Control>, Path((domain, conference, who, action)): Path<(String, String, String, String)>) -> Reply {
    let switch = &control.core.switch;
    if action == "join" {
        return Ok(Json(json!({ "id": switch.dial_in(&domain, &conference, &who)? })));
    }
    let id = switch.participant(&domain, &conference, &who)?.id;
    match action.as_str() {
        "pick_up" => switch.pick_up(&domain, &conference, &id)?,
        "leave" => switch.leave(&domain, &conference, &id)?,
        "mute" => switch.mute_self(&domain, &conference, &id)?,
        "unmute" => switch.unmute_self(&domain, &conference, &id)?,
        "ask_floor" => switch.request_floor(&domain, &conference, &id)?,
        "withdraw_floor" => switch.withdraw_floor(&domain, &conference, &id)?,
        "talk" => switch.set_talking(&domain, &conference, &id, true)?,
        "silence" => switch.set_talking(&domain, &conference, &id, false)?,
        other => return Err(Failure::BadRequest(format!("a member cannot {other}"))),
    }
    done()
}

#[derive(Deserialize)]
struct Licence {
    limit: Option<u32>,
    expires_at: Option<Timestamp>,
}

async fn licence(State(control): State<Control>, Path(kind): Path<LicenceKind>, bytes: Bytes) -> Reply {
    let Licence { limit, expires_at } = body(&bytes)?;
    control.core.switch.set_licence(kind, limit, expires_at);
    Ok(Json(json!(control.core.switch.licences())))
}

// === Faults ===

#[derive(Deserialize)]
struct Restart {
    keep_state: bool,
}

async fn restart(State(control): State<Control>, bytes: Bytes) -> Reply {
    control.core.restart(body::<Restart>(&bytes)?.keep_state);
    done()
}

async fn clear_faults(State(control): State<Control>) -> Reply {
    control.core.faults.clear();
    done()
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

/// The body of `POST /faults`.
#[derive(Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
enum Fault {
    Drop {
        link: Link,
        #[serde(default)]
        node: usize,
    },
    HalfOpen {
        link: Link,
        #[serde(default)]
        node: usize,
        #[serde(default = "yes")]
        on: bool,
    },
    Slow {
        link: Link,
        #[serde(default)]
        node: usize,
        delay_ms: u64,
    },
    Messages {
        link: Link,
        #[serde(default)]
        node: usize,
        what: MessageFault,
        #[serde(default = "one")]
        count: u32,
    },
    ExpireSessions {
        link: Option<Link>,
        node: Option<usize>,
    },
    #[serde(rename = "refuse_in_200")]
    RefuseIn200 {
        command: String,
        #[serde(default = "one")]
        count: u32,
    },
    SwallowAnswer {
        command: String,
        cut: CutPoint,
        #[serde(default = "one")]
        count: u32,
    },
    Node {
        #[serde(default)]
        node: usize,
        up: bool,
    },
}

async fn fault(State(control): State<Control>, bytes: Bytes) -> Reply {
    let faults = &control.core.faults;
    match body::<Fault>(&bytes)? {
        Fault::Drop { link, node } => faults.drop_now(link, node),
        Fault::HalfOpen { link, node, on } => faults.set_half_open(link, node, on),
        Fault::Slow { link, node, delay_ms } => faults.set_delay(link, node, Duration::from_millis(delay_ms)),
        Fault::Messages { link, node, what, count } => faults.next_messages(link, node, what, count),
        Fault::ExpireSessions { link, node } => {
            return Ok(Json(json!({ "expired": control.core.sessions.expire(link, node) })));
        }
        Fault::RefuseIn200 { command, count } => faults.refuse_in_200(&command, count),
        Fault::SwallowAnswer { command, cut, count } => faults.swallow_answer(&command, cut, count),
        Fault::Node { node, up } => faults.set_node(node, up),
    }
    done()
}
