//! Every choice about the switch's protocols that the public documents leave open ([INF] inferred, [UNKNOWN] unknown), as one
//! value. The first capture from a real switch corrects a file of this shape, and nothing else.
//!
//! A dialect is a TOML file. Two are built in: `documented` (what is documented or seen in the field; it cannot name what is
//! not) and `sim` (the simulator's, seed 0). A configuration starts from one of them and overrides single fields.

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

/// A request of the HTTP terminal outside the commands.
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

/// How an answer says that the session has expired. Any of the two is enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionExpired {
    /// HTTP statuses that say so, whatever the body.
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
    /// [FIELD] Path of a command over HTTP; `{domain}`, `{service}` and `{command}` are replaced.
    pub command_path: String,
    /// [UNKNOWN] Path of the WebSocket upgrade; `{domain}` is replaced. Absent: no WebSocket; commands go over HTTP, events are polled.
    pub websocket_path: Option<String>,
    /// [UNKNOWN] The character that fills the 32-character name field.
    pub pad: Pad,
    /// [UNKNOWN] What the frame's length counts.
    pub length_unit: LengthUnit,
    /// [UNKNOWN] What stands before a command's name in the name field when the frame goes to a service: `{service}/` or nothing.
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
    /// The file or override does not fit.
    #[error("the dialect does not fit: {0}")]
    Shape(String),
}

impl Dialect {
    /// A built-in dialect: `documented` or `sim`.
    pub fn built_in(name: &str) -> Result<Self, DialectError> {
        Self::with_overrides(name, &toml::Table::new())
    }

    /// A built-in dialect with single fields replaced. Tables are merged; everything else is replaced; an empty string in place of a
    /// table or text that may be absent makes it absent.
    pub fn with_overrides(base: &str, overrides: &toml::Table) -> Result<Self, DialectError> {
        let text = match base {
            "documented" => include_str!("../dialects/documented.toml"),
            "sim" => include_str!("../dialects/sim.toml"),
            other => return Err(DialectError::UnknownBase(other.to_owned())),
        };
        let mut table: toml::Table = toml::from_str(text).map_err(|error| DialectError::Shape(error.to_string()))?;
        if !overrides.is_empty() {
            table.insert("name".to_owned(), toml::Value::String(format!("{base}+overrides")));
        }
        merge(&mut table, overrides);
        let dialect: Self = table.try_into().map_err(|error: toml::de::Error| DialectError::Shape(error.to_string()))?;
        dialect.check()?;
        Ok(dialect)
    }

    /// What the words and frames must fulfil beyond their shape.
    fn check(&self) -> Result<(), DialectError> {
        let shape = |text: &str| Err(DialectError::Shape(text.to_owned()));
        match &self.call_api.event_frame {
            EventFrame::Status { status } if status.chars().count() != 3 => {
                return shape("call_api.event_frame.status must have three characters");
            }
            EventFrame::RequestId { request_id } if request_id.chars().count() != 4 => {
                return shape("call_api.event_frame.request_id must have four characters");
            }
            _ => {}
        }
        for command in self.operations.values() {
            let framed = self.call_api.name_prefix.replace("{service}", &command.service) + &command.name;
            if command.service != "terminal" && framed.chars().count() > 32 {
                return Err(DialectError::Shape(format!("the command name '{framed}' is longer than the 32 characters of its field")));
            }
        }
        Ok(())
    }

    /// The meaning of a refusal's text.
    pub fn refusal(&self, text: &str) -> RefusalReason {
        let text = text.to_lowercase();
        let found = self.refusals.iter().filter(|(key, _)| text.contains(&key.to_lowercase())).max_by_key(|(key, _)| key.len());
        found.map_or(RefusalReason::Other, |(_, reason)| *reason)
    }
}

/// The canonical word that `text` stands for in a vocabulary of `Words`.
pub fn canonical<'a>(vocabulary: &'a BTreeMap<String, Vec<String>>, text: &str) -> Option<&'a str> {
    let text = text.trim();
    let hit = |words: &[String]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    vocabulary.iter().find(|(_, words)| hit(words)).map(|(key, _)| key.as_str())
}

/// The switch's word for a canonical one.
pub fn written<'a>(vocabulary: &'a BTreeMap<String, Vec<String>>, canonical: &str) -> Option<&'a str> {
    vocabulary.get(canonical)?.first().map(String::as_str)
}

fn merge(into: &mut toml::Table, from: &toml::Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) if !replaces(old, new) => merge(old, new),
            (Some(toml::Value::Table(_)) | None, toml::Value::String(text)) if text.is_empty() => {
                into.remove(key);
            }
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

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
            &table("[call_api]\npad = \"nul\"\nevent_frame = { kind = \"status\", status = \"EVT\" }\n[terminal]\nkeepalive = \"\""),
        )
        .unwrap();
        assert_eq!(dialect.call_api.pad, Pad::Nul);
        assert_eq!(dialect.call_api.event_frame, EventFrame::Status { status: "EVT".into() });
        assert_eq!(dialect.terminal.keepalive, None);
        assert_eq!(dialect.name, "sim+overrides");
        for wrong in ["pda = 1", "[call_api]\npad = \"dots\"", "[call_api]\nevent_frame = { kind = \"status\", status = \"EVENT\" }"] {
            assert!(Dialect::with_overrides("sim", &table(wrong)).is_err(), "{wrong}");
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
