//! Every choice about the switch's protocols that the public documents leave open ([INF] inferred, [UNKNOWN] unknown), as one
//! value. The first capture from a real switch corrects a file of this shape, and nothing else.
//!
//! How one is corrected from a capture: `dialects/README.md`.
//!
//! A dialect is a TOML file. Two are built in: `documented` (what is documented or seen in the field; it cannot name what is
//! not) and `sim` (the simulator's, seed 0). A configuration starts from one of them and overrides single fields.

mod check;
mod schema;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{command::Operation, error::RefusalReason};

/// The open choices. Every field has a value in both built-in dialects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dialect {
    /// Its name, shown by `AgentService` and `doctor`.
    pub name: String,
    /// The mediator's HTTP terminal.
    pub terminal: TerminalDialect,
    /// The Call API.
    pub call_api: CallApiDialect,
    /// CSTA.
    pub csta: CstaDialect,
    /// The switch's command for each operation; an operation without an entry is UNIMPLEMENTED.
    #[serde(default)]
    pub operations: BTreeMap<Operation, CommandShape>,
    /// The Call API's events; an event without an entry is never seen and its facts are polled.
    #[serde(default)]
    pub events: BTreeMap<EventKind, EventShape>,
    /// The switch's words for fixed vocabularies.
    pub words: Words,
    /// The switch's refusal texts (or causes, or codes) and what they mean. Compared without regard to case; a text that
    /// contains the key matches; the longest key wins.
    #[serde(default)]
    pub refusals: BTreeMap<String, RefusalReason>,
}

/// Choices of the HTTP terminal (ecss10-interfaces §1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalDialect {
    /// [UNKNOWN] The session cookie's name. Absent: every cookie that the login sets is sent back.
    pub session_cookie: Option<String>,
    /// [UNKNOWN] The keep-alive request. Absent: `liveness_command` is sent instead.
    pub keepalive: Option<HttpCall>,
    /// [UNKNOWN] Seconds between keep-alives.
    pub keepalive_interval_s: u32,
    /// [INF] The read-only documented command that shows the session is alive when there is no keep-alive request.
    pub liveness_command: String,
    /// [UNKNOWN] What an expired session answers.
    pub session_expired: SessionExpired,
    /// [UNKNOWN] The logout request. Absent: the session is left to time out.
    pub logout: Option<HttpCall>,
    /// [UNKNOWN] How a 206 goes on. Absent: it is reported as an unknown outcome.
    pub progress: Option<Progress>,
    /// [UNKNOWN] How the question of a 300 is answered. Absent: it is reported as `ConfirmationRequired`.
    pub confirmation: Option<Header>,
    /// [INF] Minutes that the switch's clock is ahead of UTC, for `DD.MM.YYYY HH:MM:SS`.
    pub utc_offset_minutes: i32,
    /// [INF] Attribute of an `<error>` whose value is looked up in `refusals` before all its other words are (documented: that a
    /// `<warning>` has a `cause` and an `<error>` a `description`).
    pub error_cause: String,
    /// The requests of documented commands of which only the answer is documented.
    pub requests: TerminalRequests,
    /// Names in the answer of `alias_list` ([DOC]: the element, domain, interface, interface_type; [INF]: which attribute has the number).
    pub aliases: RecordShape<AliasField>,
    /// [INF] Names in the answer of `calls_history` (only its request is documented).
    pub calls: RecordShape<CallField>,
    /// Names in the answer of `conference_list` (documented: space, room, legs_count, calls_limit, destroy_mode, timestamp;
    /// the rest is [UNKNOWN]).
    pub conferences: RecordShape<ConferenceField>,
    /// Names of a meeting in the answer of `tc_meetings_active_info` (documented: id, name, description).
    pub meetings: RecordShape<ConferenceField>,
    /// Names of a meeting's member (documented: id, voice, state, master, hold; the rest is [UNKNOWN]).
    pub members: RecordShape<MemberField>,
}

/// Requests of documented commands whose form is not documented. The field's name is the command's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalRequests {
    /// [INF] Carries: domain.
    pub alias_profile_list: RequestShape,
    /// [INF] Carries: domain.
    pub conference_list: RequestShape,
    /// [INF] Carries: domain.
    pub ss_package_list: RequestShape,
    /// [INF] Carries: domain, address.
    pub get_extended_subscriber_card: RequestShape,
    /// [INF] Carries: domain, address, interface, active (`words.boolean`).
    pub sip_user_declare: RequestShape,
    /// Carries: domain and limit ([DOC], on an element `domain`), and kind, fax, from, to and address ([DOC] what may be said, [INF]
    /// where and under which names).
    pub calls_history: RequestShape,
}

/// A request: an element with attributes, and at most one element inside it. A field without an attribute is not sent; one that is
/// in both places is sent twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestShape {
    /// Name of the element inside `<in>`.
    pub element: String,
    /// Its attribute for each field.
    pub fields: BTreeMap<RequestField, String>,
    /// The element inside it. Absent: there is none.
    #[serde(default)]
    pub child: Option<RecordShape<RequestField>>,
}

/// What the requests in [`TerminalRequests`] carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestField {
    /// The domain.
    Domain,
    /// Which calls: `active`, `history` or `all` [DOC].
    Kind,
    /// Which fax transmissions: `success`, `failed` or `all` [DOC].
    Fax,
    /// Calls that began at or after, `DD.MM.YYYY HH:MM:SS`.
    From,
    /// Calls that began at or before, likewise.
    To,
    /// A number; of `calls_history` a comma list of patterns [DOC].
    Address,
    /// Most records.
    Limit,
    /// The interface of a subscriber.
    Interface,
    /// Whether a subscriber is in service at once.
    Active,
}

/// A request of the HTTP terminal outside the commands, or of the Call API outside its services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCall {
    /// `GET` or `POST`.
    pub method: String,
    /// Absolute path.
    pub path: String,
    /// Body; empty for none.
    #[serde(default)]
    pub body: String,
}

/// A header that is added to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// How an answer says that the session has expired. Any of the three is enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionExpired {
    /// Statuses (of HTTP, or of a frame) that say so, whatever the body.
    pub statuses: Vec<u16>,
    /// Words in an `<error>`'s attributes or text that say so, whatever the status.
    pub words: Vec<String>,
    /// Whether a 4xx answer whose body is no `<out>` document says so too.
    pub without_document: bool,
}

/// How a 206 (progress) goes on: the same request id is asked for until it is something else than 206.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// `GET` or `POST`.
    pub method: String,
    /// Path; `{name}` is the command's name, `{request_id}` its `P-Request-Id`.
    pub path: String,
    /// Milliseconds between two polls.
    pub interval_ms: u32,
}

/// The names in a list's answer: the element of one record and the attribute of each field. A field without an attribute is not known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound(deserialize = "F: Deserialize<'de> + Ord"))]
pub struct RecordShape<F: Ord> {
    /// Local name of the element that is one record, at any depth of the answer.
    pub element: String,
    /// Attribute of each field.
    pub fields: BTreeMap<F, String>,
}

/// Fields of an alias in `alias_list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AliasField {
    /// Its domain; the one asked about where there is none.
    Domain,
    /// Its number.
    Address,
    /// The interface it belongs to.
    Interface,
    /// What kind of interface that is.
    InterfaceType,
}

/// Fields of a call in `calls_history`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallField {
    /// The switch's id of the call, the same as in CSTA and Call API.
    Id,
    /// The caller's number.
    From,
    /// The called number.
    To,
    /// Who answered, if anyone.
    AnsweredBy,
    /// Start, `DD.MM.YYYY HH:MM:SS`.
    Start,
    /// Answer, `DD.MM.YYYY HH:MM:SS`; empty or absent: not answered.
    Answer,
    /// End, `DD.MM.YYYY HH:MM:SS`; empty or absent: active now.
    End,
    /// Talk time in seconds.
    Duration,
    /// Why it ended, in `words.cause`.
    Cause,
}

/// Fields of a conference in `conference_list`, and of a meeting in `tc_meetings_active_info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConferenceField {
    /// The conference's id, the same in both lists and in the Call API.
    Id,
    /// Its name.
    Name,
    /// Free text.
    Description,
    /// The room.
    Room,
    /// Start, in `DD.MM.YYYY HH:MM:SS` or seconds since 1970.
    Start,
    /// Planned end, likewise.
    EndsAt,
    /// Most participants.
    Limit,
    /// Participants now.
    Count,
    /// Locked, in `words.boolean`.
    Locked,
    /// Recording, in `words.recording`.
    Recording,
    /// Whether the muted may unmute themselves, in `words.boolean`.
    MayUnmute,
}

/// Fields of a meeting's member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberField {
    /// The member's id; its number too, where there is no other field for that.
    Id,
    /// Its number.
    Number,
    /// Shown name.
    Name,
    /// Has a microphone, in `words.boolean`.
    Voice,
    /// Connection, in `words.participant_status`.
    State,
    /// Is a presenter, in `words.boolean`.
    Master,
    /// Is on hold, in `words.boolean`.
    Hold,
    /// Asks for the floor, in `words.boolean`.
    Floor,
    /// Talks now, in `words.boolean`.
    Talking,
}

/// Choices of the Call API (ecss10-interfaces §2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallApiDialect {
    /// [FIELD for cc/arm, INF for the others] Login path; `{domain}` is replaced.
    pub login_path: String,
    /// [UNKNOWN] Attributes of the login's `<request>`; `{login}` and `{password}` are replaced.
    pub login_attributes: BTreeMap<String, String>,
    /// [UNKNOWN] The session cookie's name. Absent: every cookie that the login sets is sent back.
    pub session_cookie: Option<String>,
    /// [UNKNOWN] What an expired session answers. [DOC, for `cc/arm`] A 403 with an error in its body is a refusal.
    pub session_expired: SessionExpired,
    /// [UNKNOWN] The logout request; `{domain}` in its path is replaced. Absent: the session is left to time out.
    pub logout: Option<HttpCall>,
    /// [FIELD] Path of a command over HTTP; `{domain}`, `{service}` and `{command}` are replaced.
    pub command_path: String,
    /// [UNKNOWN] Path of the WebSocket upgrade; `{domain}` is replaced. Absent: no WebSocket; commands go over HTTP, events are polled.
    pub websocket_path: Option<String>,
    /// [UNKNOWN] The character that fills the 32-character name field.
    pub pad: Pad,
    /// [UNKNOWN] What the frame's length counts.
    pub length_unit: LengthUnit,
    /// [UNKNOWN] What stands before a command's name in the name field when the frame goes to a service: `{service}/` or nothing.
    #[serde(default)]
    pub name_prefix: String,
    /// [UNKNOWN] How an event frame looks.
    pub event_frame: EventFrame,
    /// [UNKNOWN] The keep-alive on the WebSocket.
    pub keepalive: WebSocketKeepalive,
    /// [UNKNOWN] Seconds between keep-alives.
    pub keepalive_interval_s: u32,
    /// [INF] What separates the members of a list in one attribute.
    pub list_separator: String,
    /// [FIELD] How times are written: `ymd_slash` is `YYYY/MM/DD HH:MM:SS`.
    pub time_format: TimeFormat,
    /// [INF] Minutes that those times are ahead of UTC.
    pub utc_offset_minutes: i32,
}

/// A pad character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pad {
    /// U+0020.
    Space,
    /// U+0000.
    Nul,
}

/// What a length counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LengthUnit {
    /// Octets of the UTF-8 text.
    Bytes,
    /// Unicode scalar values.
    Characters,
}

/// How an event frame is told from an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum EventFrame {
    /// The frame is an answer with this status instead of `200`: header, 3 characters, JSON.
    Status {
        /// Three characters.
        status: String,
    },
    /// The frame is a request with this id: header, 32-character name field, JSON.
    RequestId {
        /// Four characters, never used for our own requests.
        request_id: String,
    },
}

/// What keeps the WebSocket alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum WebSocketKeepalive {
    /// RFC 6455 ping frames.
    Ping,
    /// A framed command of this name with an empty request.
    Command {
        /// The command's name.
        name: String,
    },
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeFormat {
    /// `YYYY/MM/DD HH:MM:SS`
    YmdSlash,
    /// `DD.MM.YYYY HH:MM:SS`
    DmyDot,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    UnixMs,
}

/// Choices of CSTA (ecss10-interfaces §3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CstaDialect {
    /// [INF] What the 16-bit length counts: the whole message (the standard) or the XML after the 8-octet header.
    pub length: CstaLength,
    /// [INF] The namespace of our requests.
    pub namespace: String,
    /// [UNKNOWN] Text of a keep-alive message with invoke id 0000. Absent: the session renewal keeps the link alive.
    pub keepalive: Option<String>,
    /// [UNKNOWN] Seconds between keep-alives.
    pub keepalive_interval_s: u32,
    /// [INF] How a device is written in a request; `{alias}` and `{domain}` are replaced.
    pub device: String,
    /// [INF] `autoOriginate` of MakeCall for click to call.
    pub auto_originate: String,
    /// [INF] Whether the services of ECMA-323 that send DTMF are offered.
    pub generate_digits: bool,
}

/// What the CSTA length counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CstaLength {
    /// Header and XML.
    Whole,
    /// XML only.
    Body,
}

/// A command whose name and parameters only the dialect knows.
///
/// On the wire it is `<in><request a="…"/></in>`, over the terminal as XML at `/commands/<name>`, over the Call API as XML at
/// `command_path` or as the same tree in JSON in a frame. The answer is `<out><response>…</response></out>` or `<out><error …/></out>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandShape {
    /// Where it goes: `terminal`, or a service of the Call API (`call`, `teleconference`).
    pub service: String,
    /// The switch's name for it.
    pub name: String,
    /// Attribute of `<request>` for each field. A field without an attribute is not sent.
    #[serde(default)]
    pub fields: BTreeMap<Field, String>,
    /// Attributes of `<request>` with a fixed value.
    #[serde(default)]
    pub fixed: BTreeMap<String, String>,
    /// Attribute, of any element inside `<response>`, that holds each field of the result.
    #[serde(default)]
    pub result: BTreeMap<Field, String>,
    /// Local name of the element that is one record, for operations that list.
    #[serde(default)]
    pub record: Option<String>,
}

/// The facts that commands, results and events carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The domain.
    Domain,
    /// A call; for transfer and join the held one.
    Call,
    /// A leg; for transfer and join the held one.
    Leg,
    /// The active call of a transfer or join.
    OtherCall,
    /// The active leg of a transfer or join.
    OtherLeg,
    /// The alias whose leg it is, or that commands.
    Device,
    /// The caller.
    From,
    /// The called number; also where a transfer, deflection or invitation goes.
    To,
    /// The other party of a leg.
    Remote,
    /// Originating or terminating, in `words.direction`.
    Direction,
    /// A leg's state, in `words.leg_state`.
    LegState,
    /// When a leg was answered, in `call_api.time_format`.
    AnsweredAt,
    /// Why, in `words.cause`.
    Cause,
    /// DTMF digits.
    Digits,
    /// When it happened, in `call_api.time_format`.
    At,
    /// A conference.
    Conference,
    /// The conference to move to.
    OtherConference,
    /// A member.
    Participant,
    /// A member's number.
    Number,
    /// A shown name.
    Name,
    /// The alias that masters a conference.
    Initiator,
    /// A room.
    Room,
    /// A template.
    Template,
    /// A list of groups, joined by `call_api.list_separator`.
    Groups,
    /// A list of numbers, likewise.
    Members,
    /// Most participants.
    Limit,
    /// A role, in `words.role`.
    Role,
    /// A member's connection, in `words.participant_status`.
    Status,
    /// Has a microphone, in `words.boolean`.
    Voice,
    /// Asks for the floor, in `words.boolean`.
    Floor,
    /// Talks now, in `words.boolean`.
    Talking,
    /// Locked, in `words.boolean`.
    Locked,
    /// Recording, in `words.recording`.
    Recording,
    /// Whether the muted may unmute themselves, in `words.boolean`.
    MayUnmute,
    /// When a conference began, in `call_api.time_format`.
    StartedAt,
    /// When it will end by itself, in `call_api.time_format`.
    EndsAt,
    /// A number of seconds.
    Seconds,
    /// The call that results from a merge.
    IntoCall,
}

/// The Call API's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A leg is in a state: call, leg, device, direction, remote, leg_state, answered_at, cause.
    Leg,
    /// Calls went over into another: call (the held one), other_call, into_call, device (who leaves), cause.
    Merged,
    /// A call is over: call, cause.
    CallReleased,
    /// A conference began or changed: conference, name, room, started_at, ends_at, limit, locked, recording, may_unmute.
    Conference,
    /// A conference is over: conference.
    ConferenceEnded,
    /// A member appeared or changed: conference, participant, number, name, role, status, voice, floor, talking, cause.
    Participant,
    /// A member has left: conference, participant, cause.
    ParticipantLeft,
}

/// An event of the Call API. On the wire it is a tree `{_name: <name>, _content: [{_name: <record>, _attributes: {…}}, …]}`;
/// one event may carry several records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventShape {
    /// Service it comes from.
    pub service: String,
    /// The event's name.
    pub name: String,
    /// Local name of the element that is one record.
    pub record: String,
    /// Attribute of each field.
    pub fields: BTreeMap<Field, String>,
}

/// The switch's words. Of each list the first is written, all are read, without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// `true`, `false`.
    pub boolean: BTreeMap<String, Vec<String>>,
    /// `initiated`, `alerting`, `queued`, `connected`, `held`, `failed`, `released`.
    pub leg_state: BTreeMap<String, Vec<String>>,
    /// `originating`, `terminating`.
    pub direction: BTreeMap<String, Vec<String>>,
    /// `pending`, `dialing_out`, `dialing_in`, `alerting`, `on_hold`, `connected`, `disconnecting`, `disconnected`.
    pub participant_status: BTreeMap<String, Vec<String>>,
    /// `participant`, `presenter`.
    pub role: BTreeMap<String, Vec<String>>,
    /// `off`, `on`, `paused`.
    pub recording: BTreeMap<String, Vec<String>>,
    /// `normal`, `busy`, `no_answer`, `rejected`, `caller_gave_up`, `answered_elsewhere`, `unobtainable`, `redirected`,
    /// `transfer`, `conference`, `no_resources`, `other`.
    pub cause: BTreeMap<String, Vec<String>>,
}

/// Why a dialect cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialectError {
    /// No built-in dialect has this name.
    #[error("there is no dialect '{0}'; built in are: documented, sim")]
    UnknownBase(String),
    /// The file or override does not have a dialect's shape: a field that does not exist, or a value of another type.
    #[error("the dialect does not fit{}: {problem}", at(path))]
    Shape {
        /// Dotted path of the TOML key; empty for the whole.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A field has a value that cannot be used.
    #[error("the dialect cannot be used: {path} {problem}")]
    Value {
        /// Dotted path of the TOML key.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" at {path}") }
}

impl Dialect {
    /// A built-in dialect: `documented` or `sim`.
    pub fn built_in(name: &str) -> Result<Self, DialectError> {
        Self::with_overrides(name, &toml::Table::new())
    }

    /// A built-in dialect with single fields replaced. Tables are merged; everything else is replaced; an empty text takes
    /// away the table or text that is there (if that is a field that must be, the error says that it is missing).
    pub fn with_overrides(base: &str, overrides: &toml::Table) -> Result<Self, DialectError> {
        let text = match base {
            "documented" => include_str!("../dialects/documented.toml"),
            "sim" => include_str!("../dialects/sim.toml"),
            other => return Err(DialectError::UnknownBase(other.to_owned())),
        };
        let shape = |path: String, problem: &str| DialectError::Shape { path, problem: problem.trim().replace('\n', " ") };
        let mut table: toml::Table = toml::from_str(text).map_err(|error| shape(String::new(), error.message()))?;
        if !overrides.is_empty() {
            table.insert("name".to_owned(), toml::Value::String(format!("{base}+overrides")));
        }
        merge(&mut table, overrides);
        let dialect: Self = serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|error| {
            let path = error.path().to_string();
            // The path of a key that is an enum's is '?'; toml names it in a line of its own.
            let whole = error.inner().to_string();
            let by_toml = || whole.lines().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`')).unwrap_or(&path);
            let path = if path.contains('?') { by_toml() } else { &path };
            shape(path.trim_matches('.').to_owned(), error.inner().message())
        })?;
        dialect.check()?;
        Ok(dialect)
    }

    /// The meaning of a refusal's text.
    pub fn refusal(&self, text: &str) -> RefusalReason {
        let text = text.to_lowercase();
        let found = self.refusals.iter().filter(|(key, _)| text.contains(&key.to_lowercase())).max_by_key(|(key, _)| key.len());
        found.map_or(RefusalReason::Other, |(_, reason)| *reason)
    }
}

fn merge(into: &mut toml::Table, from: &toml::Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) if ATTRIBUTES.contains(&key.as_str()) || !replaces(old, new) => {
                merge(old, new);
            }
            (Some(toml::Value::Table(_) | toml::Value::String(_)) | None, toml::Value::String(text)) if text.is_empty() => {
                into.remove(key);
            }
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Tables of attributes by field. A field may be called `name`, which says nothing about the table.
const ATTRIBUTES: [&str; 2] = ["fields", "result"];

/// A table with another `kind` or command `name` is another thing: nothing of the old one stays.
fn replaces(old: &toml::Table, new: &toml::Table) -> bool {
    ["kind", "name", "element"].iter().any(|key| new.get(*key).is_some_and(|value| old.get(*key) != Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_names_no_undocumented_operation_and_sim_names_all() {
        let documented = Dialect::built_in("documented").unwrap();
        assert!(documented.operations.is_empty() && documented.events.is_empty());
        let sim = Dialect::built_in("sim").unwrap();
        assert_eq!(sim.operations.len(), 37);
        assert_eq!(sim.events.len(), 7);
    }

    #[test]
    fn an_override_replaces_single_fields_and_a_wrong_one_is_refused() {
        let table = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
        let dialect = Dialect::with_overrides(
            "sim",
            &table("[call_api]\npad = \"nul\"\nevent_frame = { kind = \"status\", status = \"EVT\" }\n[terminal]\nkeepalive = \"\"\nsession_cookie = \"\"\n[terminal.calls.fields]\ncause = \"\""),
        )
        .unwrap();
        assert_eq!(dialect.call_api.pad, Pad::Nul);
        assert_eq!(dialect.call_api.event_frame, EventFrame::Status { status: "EVT".into() });
        assert_eq!((dialect.terminal.keepalive, dialect.terminal.session_cookie), (None, None));
        assert_eq!(dialect.terminal.calls.fields.get(&CallField::Cause), None);
        assert_eq!(dialect.name, "sim+overrides");
        for wrong in ["pda = 1", "[call_api]\npad = \"dots\"", "[call_api]\nevent_frame = { kind = \"status\", status = \"EVENT\" }"] {
            assert!(Dialect::with_overrides("sim", &table(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_field_called_name_is_replaced_alone() {
        let overrides = toml::from_str("[terminal.members.fields]\nname = \"title\"").unwrap();
        let dialect = Dialect::with_overrides("sim", &overrides).unwrap();
        let sim = Dialect::built_in("sim").unwrap();
        assert_eq!(dialect.terminal.members.fields.get(&MemberField::Name).map(String::as_str), Some("title"));
        assert_eq!(dialect.terminal.members.fields.len(), sim.terminal.members.fields.len());
    }

    #[test]
    fn what_is_written_out_reads_the_same() {
        for name in ["documented", "sim"] {
            let dialect = Dialect::built_in(name).unwrap();
            let whole = toml::Table::try_from(&dialect).unwrap();
            assert_eq!(Dialect { name: name.to_owned(), ..Dialect::with_overrides(name, &whole).unwrap() }, dialect);
        }
    }

    #[test]
    fn a_wrong_field_is_named_by_its_path() {
        for (wrong, path) in [
            ("[terminal]\nsesion_cookie = 'x'", "terminal.sesion_cookie"),
            ("[call_api]\npad = 'dots'", "call_api.pad"),
            ("[terminal.session_expired]\nstatuses = ['401']", "terminal.session_expired.statuses[0]"),
            ("[operations.call_hold.fields]\ncall = 3", "operations.call_hold.fields.call"),
            ("[operations]\ncall_hold = { service = 'call', name = 'x', feilds = {} }", "operations.call_hold"),
        ] {
            let error = Dialect::with_overrides("sim", &toml::from_str(wrong).unwrap()).unwrap_err();
            assert!(matches!(&error, DialectError::Shape { path: at, .. } if at == path), "{error:?}");
            assert!(error.to_string().contains(path) && !error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_longest_refusal_key_wins() {
        let mut dialect = Dialect::built_in("sim").unwrap();
        dialect.refusals.insert("busy_conference".into(), RefusalReason::ConferenceFull);
        assert_eq!(dialect.refusal("line is BUSY"), RefusalReason::Busy);
        assert_eq!(dialect.refusal("busy_conference: 16"), RefusalReason::ConferenceFull);
        assert_eq!(dialect.refusal("what"), RefusalReason::Other);
    }
}
