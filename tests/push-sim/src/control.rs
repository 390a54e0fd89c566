//! The control API: HTTP/JSON on its own port, the library's functions for those who start the program. `GET /` explains it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    apns::GoAway,
    device::{Device, DeviceState, Provider},
    fault::Fault,
    state::Core,
};

const MANUAL: &str = "\
push-sim control API. Bodies and answers are JSON; what cannot be done is 400 {\"text\"}. provider: apns | fcm | fcm_token | web_push

GET    /state                     addresses, names, how many devices and subscriptions, the faults in force
GET    /arrived?after=0&limit=100 requests, oldest first, each with its number; the list is bounded
DELETE /arrived                   forgets them
GET    /counters                  per provider, with what APNs clients did that they must not
POST   /devices                   one or a list of {\"provider\", \"token\", \"topic\"?, \"environment\"?, \"state\"?}
         state: \"active\" | \"other_sender\" | {\"unregistered\": {\"since_ms\": 0}} | {\"expired\": {\"since_ms\": 0}}
POST   /devices/state             {\"provider\", \"token\", \"state\"} (web_push: token is the subscription's id)
POST   /devices/remove            {\"provider\", \"token\"}
POST   /subscriptions             a new web push subscription, as a browser's page gets it
POST   /teams                     {\"team_id\", \"key_id\", \"topics\": []}; answers the key, {\"p8\"}
POST   /teams/revoke              {\"key_id\"}
POST   /certificates              {\"topics\": [], \"valid_s\": 3600}; answers {\"certificate\", \"key\"} (PEM); 0 = has expired
POST   /service-accounts          {\"project\"}; answers the account's file
POST   /service-accounts/revoke   {\"project\"}
POST   /access-tokens/revoke      every Google access token given out so far
GET    /faults                    those in force
DELETE /faults                    ends every fault
POST   /faults                    {\"provider\", \"device\"?, \"times\"?, \"effect\": ...}; device and times absent = all, until cleared
         {\"effect\": \"answer\", \"status\": 429, \"reason\": \"TooManyRequests\", \"retry_after\"?: \"5\", \"retry_date_s\"?: 30,
          \"timestamp_ms\"?: 0, \"body\"?: \"<html>\"}
         {\"effect\": \"html_bad_gateway\"}                 502 with a page
         {\"effect\": \"delay\", \"ms\": 40}
         {\"effect\": \"silence\"}                          delivered, never answered; the connection lives
         {\"effect\": \"reset\", \"code\": 7}                 the stream alone
         {\"effect\": \"cut\"}                              the connection, without an answer
         {\"effect\": \"cut_mid_answer\"}                   delivered, half an answer, then the connection
       of connections, old and new (not mute: until cleared):
         {\"effect\": \"mute\"}                             apns: reads, writes nothing, not even PING's answer; for ever
         {\"effect\": \"half_open\"}                        neither reads nor writes
         {\"effect\": \"slow_reading\", \"bytes_per_second\": 1000}
         {\"effect\": \"refuse_connections\"}               new ones are reset
POST   /cut                       {\"provider\"}: ends its connections now
POST   /goaway                    {\"when\": \"now\" | {\"after_requests\": 10}, \"last_stream\": \"highest\" | {\"before\": 2} | {\"exactly\": 7},
                                   \"code\": 0, \"reason\": \"Shutdown\" | null, \"close\": true}, all optional; apns
POST   /settings                  {\"max_streams\"?: 4, \"delay_ms\"?: 40}
POST   /clock                     {\"advance_s\": 3600}: tokens age
";

/// Connections that are open keep the end up for this long.
const LINGER: Duration = Duration::from_millis(200);

/// Something that cannot be done, and why.
struct Failure(String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({ "text": self.0 }))).into_response()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

type Reply = Result<Json<Value>, Failure>;
type Sim = State<Arc<Core>>;

/// Serves the control API until the simulator ends.
pub(crate) async fn serve(listener: TcpListener, core: Arc<Core>) {
    let shutdown = core.shutdown.clone();
    let router = Router::new()
        .route("/", get(async || MANUAL))
        .route("/state", get(state))
        .route("/arrived", get(arrived).delete(forget))
        .route("/counters", get(async |State(core): Sim| Json(json!(core.counters()))))
        .route("/devices", post(devices))
        .route("/devices/state", post(device_state))
        .route("/devices/remove", post(remove_device))
        .route("/subscriptions", post(async |State(core): Sim| -> Reply { Ok(Json(core.subscribe()?.to_json())) }))
        .route("/teams", post(team))
        .route("/teams/revoke", post(revoke_team))
        .route("/certificates", post(certificate))
        .route("/service-accounts", post(service_account))
        .route("/service-accounts/revoke", post(revoke_service_account))
        .route("/access-tokens/revoke", post(async |State(core): Sim| done_after(|| core.google.revoke_tokens())))
        .route("/faults", get(async |State(core): Sim| Json(json!(core.faults.list()))).post(fault).delete(clear_faults))
        .route("/cut", post(cut))
        .route("/goaway", post(goaway))
        .route("/settings", post(settings))
        .route("/clock", post(clock))
        .with_state(core);
    let stop = shutdown.clone();
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    tokio::select! {
        result = served => if let Err(error) = result { tracing::warn!(%error, "the control api ended") },
        () = async { shutdown.cancelled().await; tokio::time::sleep(LINGER).await } => {}
    }
}

/// A body, or nothing where everything in it is optional.
fn body<T: for<'de> Deserialize<'de>>(bytes: &Bytes) -> Result<T, Failure> {
    let bytes = if bytes.is_empty() { b"{}".as_slice() } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| Failure(error.to_string()))
}

fn done_after(act: impl FnOnce()) -> Reply {
    act();
    Ok(Json(json!({})))
}

fn known(was: bool) -> Reply {
    if was { Ok(Json(json!({}))) } else { Err(Failure("not known".to_owned())) }
}

// === Looking ===

async fn state(State(core): Sim) -> Json<Value> {
    let mut state = core.ready_json();
    let more = json!({
        "devices": { "apns": core.devices.count(Provider::Apns), "fcm": core.devices.count(Provider::Fcm), "web_push": core.browsers.count() },
        "faults": core.faults.list(),
    });
    if let (Some(members), Value::Object(more)) = (state.as_object_mut(), more) {
        members.extend(more);
    }
    Json(state)
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

async fn arrived(State(core): Sim, Query(page): Query<Page>) -> Json<Value> {
    Json(json!(core.arrivals.after(page.after, page.limit.unwrap_or(100))))
}

async fn forget(State(core): Sim) -> Reply {
    done_after(|| core.arrivals.clear())
}

// === Who receives, who sends ===

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Device),
    Many(Vec<Device>),
}

async fn devices(State(core): Sim, bytes: Bytes) -> Reply {
    let devices = match body(&bytes)? {
        OneOrMany::One(device) => vec![device],
        OneOrMany::Many(devices) => devices,
    };
    done_after(|| devices.into_iter().for_each(|device| core.devices.put(device)))
}

#[derive(Deserialize)]
struct Which {
    provider: Provider,
    #[serde(default)]
    token: String,
    #[serde(default)]
    state: DeviceState,
}

async fn device_state(State(core): Sim, bytes: Bytes) -> Reply {
    let which: Which = body(&bytes)?;
    known(core.set_state(which.provider, &which.token, which.state))
}

async fn remove_device(State(core): Sim, bytes: Bytes) -> Reply {
    let which: Which = body(&bytes)?;
    known(core.devices.remove(which.provider, &which.token))
}

#[derive(Deserialize)]
struct Team {
    #[serde(default)]
    team_id: String,
    key_id: String,
    #[serde(default)]
    topics: Vec<String>,
}

async fn team(State(core): Sim, bytes: Bytes) -> Reply {
    let team: Team = body(&bytes)?;
    let topics: Vec<&str> = team.topics.iter().map(String::as_str).collect();
    let made = core.teams.make(&team.team_id, &team.key_id, &topics)?;
    Ok(Json(json!({ "team_id": made.team_id, "key_id": made.key_id, "p8": made.p8 })))
}

async fn revoke_team(State(core): Sim, bytes: Bytes) -> Reply {
    let team: Team = body(&bytes)?;
    known(core.teams.revoke(&team.key_id))
}

#[derive(Deserialize)]
struct Certificate {
    topics: Vec<String>,
    valid_s: u64,
}

async fn certificate(State(core): Sim, bytes: Bytes) -> Reply {
    let wanted: Certificate = body(&bytes)?;
    let topics: Vec<&str> = wanted.topics.iter().map(String::as_str).collect();
    let made = core.client_certificate(&topics, Duration::from_secs(wanted.valid_s.min(10 * 365 * 86_400)))?;
    Ok(Json(json!({ "certificate": made.certificate_pem, "key": made.key_pem })))
}

#[derive(Deserialize)]
struct Project {
    project: String,
}

async fn service_account(State(core): Sim, bytes: Bytes) -> Reply {
    let Project { project } = body(&bytes)?;
    let made = tokio::task::spawn_blocking(move || {
        let token_url = core.token_urls.first().cloned().unwrap_or_default();
        core.google.make_account(&project, &token_url)
    });
    let file = made.await.map_err(|error| Failure(error.to_string()))??;
    Ok(Json(serde_json::from_str(&file).unwrap_or_default()))
}

async fn revoke_service_account(State(core): Sim, bytes: Bytes) -> Reply {
    let Project { project } = body(&bytes)?;
    known(core.google.revoke_account(&project))
}

// === What goes wrong ===

async fn fault(State(core): Sim, bytes: Bytes) -> Reply {
    let fault: Fault = body(&bytes)?;
    done_after(|| core.add_fault(fault))
}

async fn clear_faults(State(core): Sim) -> Reply {
    done_after(|| core.clear_faults())
}

async fn cut(State(core): Sim, bytes: Bytes) -> Reply {
    let which: Which = body(&bytes)?;
    done_after(|| core.cut(which.provider))
}

async fn goaway(State(core): Sim, bytes: Bytes) -> Reply {
    let goaway: GoAway = body(&bytes)?;
    done_after(|| core.apns.goaway(&goaway))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    max_streams: Option<u32>,
    delay_ms: Option<u64>,
}

async fn settings(State(core): Sim, bytes: Bytes) -> Reply {
    let settings: Settings = body(&bytes)?;
    if let Some(streams) = settings.max_streams {
        core.apns.set_max_streams(streams);
    }
    if let Some(ms) = settings.delay_ms {
        core.apns.set_delay(Duration::from_millis(ms));
    }
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Clock {
    advance_s: u64,
}

async fn clock(State(core): Sim, bytes: Bytes) -> Reply {
    let Clock { advance_s } = body(&bytes)?;
    done_after(|| core.clock.advance(Duration::from_secs(advance_s)))
}
