//! The HTTP API and the WebSocket. A caller sees the people of its own domain and changes itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::Response,
    routing::{get, post, put},
};
use elph_kit::{
    Caller, Kit, Problem,
    input::{Check, Json, Path},
    live::{self, Close, Live, Upgrade},
    metrics,
    openapi::{Alias, Common, Problems},
    problem::Code,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::{OpenApi, ToSchema};

use crate::{
    board::{Board, Key, News, Watcher},
    copies::Copies,
    service::{self, Availability, Choice, Device, Note, Person, Status},
    store::Store,
};

/// People that are looked up at once, or watched over one socket.
const MOST_PEOPLE: usize = 2000;
/// Devices of one user.
const MOST_DEVICES: usize = 16;
/// Characters of a note.
const LONGEST_NOTE: usize = 140;
/// How long a device counts as there after it was heard of, if it does not say.
const DEVICE_TTL: u32 = 90;
/// Changes are collected for so long before they are sent, so that a busy moment is one message.
const COLLECT: Duration = Duration::from_millis(20);

#[derive(Clone)]
struct Api {
    board: Arc<Board>,
    copies: Arc<Copies>,
    store: Store,
    metrics: Arc<metrics::Metrics>,
    stop: CancellationToken,
}

/// Everything about oneself.
#[derive(Debug, Serialize, ToSchema)]
struct Me {
    /// As others see it.
    status: Status,
    /// What was chosen.
    choice: Choice,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    choice_until: Option<Timestamp>,
    /// Who sees when one was last here.
    last_seen: LastSeen,
    /// Devices that are there.
    devices: BTreeMap<String, Availability>,
}

/// A choice.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetChoice {
    /// What.
    choice: Choice,
    /// Until when; absent: until it is changed.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// A note.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetNote {
    /// 1 to 140 characters.
    #[schema(min_length = 1, max_length = 140, pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$")]
    text: String,
    /// Until when it is shown; absent: until it is changed.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// Who sees what.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetPrivacy {
    /// Who sees when one was last here.
    last_seen: LastSeen,
}

/// Who sees when one was last here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum LastSeen {
    /// Everybody in the domain.
    Everyone,
    /// Nobody.
    Nobody,
}

/// What a device says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetDevice {
    /// Whether its user is at it.
    availability: Availability,
    /// Seconds for which it counts as there without being heard of: 10 to 3600.
    #[schema(minimum = 10, maximum = 3600)]
    ttl: Option<u32>,
}

/// Whom to look up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Lookup {
    /// 1 to 2000 numbers.
    #[schema(min_items = 1, max_items = 2000, value_type = Vec<Alias>)]
    aliases: Vec<String>,
}

/// Who was looked up.
#[derive(Debug, Serialize, ToSchema)]
struct Found {
    /// In the order asked for. Who is not known is offline.
    statuses: Vec<Status>,
}

/// What a client says over the socket.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum FromClient {
    /// Whom to watch from now on, in place of those before.
    Watch {
        /// Up to 2000 numbers.
        aliases: Vec<String>,
        /// What the last message before the connection was lost had as its cursor: only what has changed since is sent.
        after: Option<String>,
    },
    /// This client is a device of its user and there as long as the socket is open.
    Device {
        /// Which: 1 to 64 characters.
        id: String,
        /// Whether the user is at it.
        availability: Availability,
    },
}

/// What a client is told over the socket.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(dead_code, reason = "written by hand, since the statuses are in JSON already; this is for the document")]
enum ToClient {
    /// How people are shown.
    Statuses {
        /// To go on after.
        cursor: String,
        /// Those who have changed; after `watch` everybody, or everybody since the cursor.
        statuses: Vec<Status>,
    },
    /// A message was not understood. Nothing has changed.
    Problem {
        /// What was wrong.
        detail: String,
    },
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Elph Status Service", description = "Who is there, away, in a call, or does not want to be disturbed. All under /elph_status."),
    paths(me, set_choice, set_note, clear_note, set_privacy, set_device, remove_device, one, lookup, watch),
    components(schemas(FromClient, ToClient)),
    modifiers(&Common)
)]
struct Document;

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

pub(crate) fn routes(kit: &Kit, copies: Arc<Copies>, board: Arc<Board>, store: Store) -> Router {
    let api = Api { board, copies, store, metrics: kit.metrics.clone(), stop: kit.stop.clone() };
    Router::new()
        .route("/v1/me", get(me))
        .route("/v1/me/choice", put(set_choice))
        .route("/v1/me/note", put(set_note).delete(clear_note))
        .route("/v1/me/privacy", put(set_privacy))
        .route("/v1/me/devices/{device}", put(set_device).delete(remove_device))
        .route("/v1/users/lookup", post(lookup))
        .route("/v1/users/{alias}", get(one))
        .route("/v1/watch", get(watch))
        .with_state(api)
}

fn key(caller: &Caller) -> Key {
    Key::new(&caller.domain, &caller.alias)
}

impl Api {
    fn me(&self, caller: &Caller) -> Me {
        let (person, now) = (self.board.person(&key(caller)), Timestamp::now());
        Me {
            status: person.status(&caller.alias, now),
            choice: person.choice_at(now),
            choice_until: person.choice_until.filter(|until| *until > now),
            last_seen: if person.hides_last_seen { LastSeen::Nobody } else { LastSeen::Everyone },
            devices: person.every_device().map(|(id, device)| (id.clone(), device.availability)).collect(),
        }
    }

    /// Changes what is written down: first on disk, then shown.
    async fn change(&self, caller: &Caller, change: impl Fn(&mut Person)) -> Result<Json<Me>, Problem> {
        let key = key(caller);
        let chosen = self.store.change(&key, change).await?;
        self.board.take([(key, chosen)]);
        Ok(Json(self.me(caller)))
    }

    fn device(&self, key: &Key, id: &str, device: Device) -> Result<(), Problem> {
        self.board.update(key, |person| {
            if person.every_device().all(|(known, _)| known != id) && person.every_device().count() >= MOST_DEVICES {
                return Err(Problem::new(Code::Conflict, format!("{MOST_DEVICES} devices are there already")));
            }
            person.devices.insert(id.to_owned(), device);
            Ok(())
        })?;
        self.copies.tell_devices(key);
        Ok(())
    }

    /// The device has left. When it was the last one, that is when its user was last seen.
    async fn left(&self, key: &Key, id: &str) -> Result<(), Problem> {
        let now = service::now();
        let (was, last) = self.board.remove_own(key, id, now);
        if was {
            self.copies.tell_devices(key);
        }
        if last {
            let chosen = self.store.change(key, |person| person.last_seen = person.last_seen.max(Some(now))).await?;
            self.board.take([(key.clone(), chosen)]);
        }
        Ok(())
    }
}

fn future(check: &mut Check, pointer: &str, until: Option<Timestamp>) {
    if until.is_some_and(|until| until <= Timestamp::now()) {
        check.say(pointer, "is past");
    }
}

fn device_id(check: &mut Check, pointer: &str, id: &str) {
    if id.is_empty() || id.len() > 64 || !id.chars().all(|c| c.is_ascii_graphic()) {
        check.say(pointer, "is no id of a device: 1 to 64 printable ASCII characters");
    }
}

fn people(check: &mut Check, aliases: &[String]) {
    if aliases.len() > MOST_PEOPLE {
        check.say("/aliases", format!("has {}; at most {MOST_PEOPLE} are taken", aliases.len()));
    }
    for (index, alias) in aliases.iter().enumerate().take(MOST_PEOPLE) {
        check.alias(&format!("/aliases/{index}"), alias);
    }
}

/// Everything about oneself.
#[utoipa::path(get, path = "/v1/me", responses((status = 200, body = Me), Problems))]
async fn me(State(api): State<Api>, caller: Caller) -> Json<Me> {
    Json(api.me(&caller))
}

/// Chooses how to be shown.
#[utoipa::path(put, path = "/v1/me/choice", request_body = SetChoice,
    responses((status = 200, body = Me), Problems))]
async fn set_choice(State(api): State<Api>, caller: Caller, Json(asked): Json<SetChoice>) -> Result<Json<Me>, Problem> {
    let mut check = Check::default();
    future(&mut check, "/until", asked.until);
    check.done()?;
    api.change(&caller, |person| (person.choice, person.choice_until) = (asked.choice, asked.until)).await
}

/// Says something.
#[utoipa::path(put, path = "/v1/me/note", request_body = SetNote,
    responses((status = 200, body = Me), Problems))]
async fn set_note(State(api): State<Api>, caller: Caller, Json(asked): Json<SetNote>) -> Result<Json<Me>, Problem> {
    let mut check = Check::default();
    future(&mut check, "/until", asked.until);
    check.text("/text", &asked.text, LONGEST_NOTE);
    if asked.text.trim().is_empty() {
        check.say("/text", "is empty; DELETE takes a note away");
    }
    check.done()?;
    api.change(&caller, |person| person.note = Some(Note { text: asked.text.clone(), until: asked.until })).await
}

/// Says nothing any more.
#[utoipa::path(delete, path = "/v1/me/note", responses((status = 200, body = Me), Problems))]
async fn clear_note(State(api): State<Api>, caller: Caller) -> Result<Json<Me>, Problem> {
    api.change(&caller, |person| person.note = None).await
}

/// Chooses who sees what.
#[utoipa::path(put, path = "/v1/me/privacy", request_body = SetPrivacy,
    responses((status = 200, body = Me), Problems))]
async fn set_privacy(State(api): State<Api>, caller: Caller, Json(asked): Json<SetPrivacy>) -> Result<Json<Me>, Problem> {
    api.change(&caller, |person| person.hides_last_seen = asked.last_seen == LastSeen::Nobody).await
}

/// A device is there. To be repeated before its time is over; clients with a socket say it there.
#[utoipa::path(put, path = "/v1/me/devices/{device}", params(("device" = String, Path, pattern = "^[!-~]{1,64}$")), request_body = SetDevice,
    responses((status = 204), Problems))]
async fn set_device(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Json(asked): Json<SetDevice>,
) -> Result<StatusCode, Problem> {
    let mut check = Check::default();
    device_id(&mut check, "device", &id);
    let ttl = asked.ttl.unwrap_or(DEVICE_TTL);
    if !(10..=3600).contains(&ttl) {
        check.say("/ttl", "is out of range; must be from 10 to 3600");
    }
    check.done()?;
    let until = Timestamp::now().checked_add(SignedDuration::from_secs(ttl.into())).ok();
    api.device(&key(&caller), &id, Device { availability: asked.availability, until, since: service::now() })?;
    Ok(StatusCode::NO_CONTENT)
}

/// A device is gone.
#[utoipa::path(delete, path = "/v1/me/devices/{device}", params(("device" = String, Path, pattern = "^[!-~]{1,64}$")),
    responses((status = 204), Problems))]
async fn remove_device(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    api.left(&key(&caller), &id).await?;
    api.copies.tell_left(&key(&caller), &id);
    Ok(StatusCode::NO_CONTENT)
}

/// One person.
#[utoipa::path(get, path = "/v1/users/{alias}", params(("alias" = Alias, Path)),
    responses((status = 200, body = Status), Problems))]
async fn one(State(api): State<Api>, caller: Caller, Path(alias): Path<String>) -> Result<Json<Status>, Problem> {
    let mut check = Check::default();
    check.alias("alias", &alias);
    check.done()?;
    let statuses = api.board.statuses([Key::new(&caller.domain, &alias)]);
    statuses.into_iter().next().map(Json).ok_or_else(Problem::not_found)
}

/// Many people.
#[utoipa::path(post, path = "/v1/users/lookup", request_body = Lookup,
    responses((status = 200, body = Found), Problems))]
async fn lookup(State(api): State<Api>, caller: Caller, Json(asked): Json<Lookup>) -> Result<Json<Found>, Problem> {
    let mut check = Check::default();
    people(&mut check, &asked.aliases);
    if asked.aliases.is_empty() {
        check.say("/aliases", "is empty");
    }
    check.done()?;
    let keys = asked.aliases.iter().map(|alias| Key::new(&caller.domain, alias));
    Ok(Json(Found { statuses: api.board.statuses(keys) }))
}

/// Watches people over a WebSocket (subprotocol `elph`; browsers send the token as the subprotocol `elph.bearer.<token>`). Messages are
/// JSON texts, `FromClient` and `ToClient`. The socket is closed with 3000 when the token ends and with 1012 when the server restarts.
#[utoipa::path(get, path = "/v1/watch", responses((status = 101), Problems))]
async fn watch(State(api): State<Api>, caller: Caller, upgrade: Upgrade) -> Response {
    let whose = key(&caller);
    live::upgrade(upgrade, &caller, move |socket| async move {
        let open = api.metrics.sockets.get_or_create(&metrics::Service { service: "status".to_owned() }).clone();
        open.inc();
        let mut session = Session { watcher: api.board.watch(&whose.domain), device: None, api, whose };
        session.run(socket).await;
        session.end().await;
        open.dec();
    })
}

struct Session {
    api: Api,
    whose: Key,
    watcher: Watcher,
    device: Option<String>,
}

impl Session {
    async fn run(&mut self, mut socket: Live) {
        let stop = self.api.stop.clone();
        loop {
            let sent = tokio::select! {
                () = stop.cancelled() => return socket.close(Close::Restart, "the server restarts").await,
                text = socket.next() => match text {
                    Some(text) => match self.heard(&text).await {
                        Ok(Some(news)) => socket.send(told(&news)).await,
                        Ok(None) => true,
                        Err(detail) => socket.send(serde_json::json!({ "type": "problem", "detail": detail }).to_string()).await,
                    },
                    None => return,
                },
                () = self.watcher.changed() => {
                    tokio::time::sleep(COLLECT).await;
                    socket.send(told(&self.watcher.take())).await
                }
            };
            if !sent {
                return;
            }
        }
    }

    async fn heard(&mut self, text: &str) -> Result<Option<News>, String> {
        let mut check = Check::default();
        match serde_json::from_str(text).map_err(|error| error.to_string())? {
            FromClient::Watch { aliases, after } => {
                people(&mut check, &aliases);
                check.done().map_err(|problem| problem.detail().to_owned())?;
                Ok(Some(self.watcher.set(aliases.into_iter().map(Into::into), after.as_deref())))
            }
            FromClient::Device { id, availability } => {
                device_id(&mut check, "/id", &id);
                check.done().map_err(|problem| problem.detail().to_owned())?;
                if self.device.as_ref().is_some_and(|known| *known != id) {
                    return Err("one socket is one device".to_owned());
                }
                self.api
                    .device(&self.whose, &id, Device { availability, until: None, since: service::now() })
                    .map_err(|problem| problem.detail().to_owned())?;
                self.device = Some(id);
                Ok(None)
            }
        }
    }

    async fn end(&mut self) {
        if let Some(id) = self.device.take()
            && let Err(problem) = self.api.left(&self.whose, &id).await
        {
            tracing::warn!(problem = problem.detail(), "when a user was last seen could not be written down");
        }
    }
}

fn told(news: &News) -> String {
    let cursor = serde_json::Value::from(news.cursor.as_str());
    format!(r#"{{"type":"statuses","cursor":{cursor},"statuses":[{}]}}"#, news.statuses.join(","))
}
