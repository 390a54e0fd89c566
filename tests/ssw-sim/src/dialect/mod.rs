//! Every choice about the protocols that the public documents leave open, as this simulator makes it: fixed for seed 0, different in
//! every open field for any other seed. Printed as the TOML override that corrects an agent (its format is the agent's, its code is not).

mod base;
mod print;
mod seeded;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::DateTime, tz::Offset};
use ssw_core::{MergeInto, RefusalCause};

/// Canonical name → the name on the wire.
pub type Names = BTreeMap<String, String>;

/// The whole.
#[derive(Debug, Clone, PartialEq)]
pub struct SimDialect {
    /// What it was made from.
    pub seed: u64,
    /// Its name.
    pub name: String,
    /// The HTTP terminal's side.
    pub terminal: TerminalSide,
    /// The Call API's side.
    pub call_api: CallApiSide,
    /// CSTA's side.
    pub csta: CstaSide,
    /// By operation (`call_make`).
    pub operations: BTreeMap<String, OperationShape>,
    /// By kind (`leg`, `merged`, `call_released`, `conference`, `conference_ended`, `participant`, `participant_left`).
    pub events: BTreeMap<String, EventShape>,
    /// By vocabulary (`boolean`, `leg_state`, `direction`, `participant_status`, `role`, `recording`, `cause`), then canonical word.
    pub words: BTreeMap<String, BTreeMap<String, String>>,
    /// How each refusal is spelt.
    pub refusals: BTreeMap<RefusalCause, String>,
    /// Which call goes on after a transfer or join. Not part of the printed dialect: a client must cope with any.
    pub merge_into: MergeInto,
}

/// A request outside the commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// `GET` or `POST`.
    pub method: String,
    /// Absolute path.
    pub path: String,
}

/// The terminal's open choices.
#[derive(Debug, Clone, PartialEq)]
pub struct TerminalSide {
    /// Cookie of a session.
    pub session_cookie: String,
    /// Keep-alive; `None`: there is none, a command does.
    pub keepalive: Option<HttpCall>,
    /// Seconds between keep-alives.
    pub keepalive_interval_s: u32,
    /// A read-only command that shows life.
    pub liveness_command: String,
    /// Status of an expired session's answer.
    pub expired_status: u16,
    /// Word in an expired session's answer.
    pub expired_word: String,
    /// Whether that answer has no `<out>` document.
    pub expired_without_document: bool,
    /// Logout.
    pub logout: HttpCall,
    /// Method of a progress poll.
    pub progress_method: String,
    /// Path of a progress poll, with `{name}` and `{request_id}`.
    pub progress_path: String,
    /// Milliseconds between polls.
    pub progress_interval_ms: u32,
    /// Header that confirms: name.
    pub confirm_name: String,
    /// Header that confirms: value.
    pub confirm_value: String,
    /// Minutes ahead of UTC.
    pub utc_offset_minutes: i32,
    /// Attribute of an `<error>` with its cause.
    pub error_cause: String,
    /// Requests of documented commands whose form is not documented, by command.
    pub requests: BTreeMap<String, RequestShape>,
    /// Record of `alias_list`.
    pub aliases: RecordShape,
    /// Record of `calls_history`.
    pub calls: RecordShape,
    /// Record of `conference_list`.
    pub conferences: RecordShape,
    /// Record of `tc_meetings_active_info`.
    pub meetings: RecordShape,
    /// Member of such a record.
    pub members: RecordShape,
}

/// A request: an element with attributes, and perhaps one inside it with more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestShape {
    /// Local name.
    pub element: String,
    /// Attribute by canonical field.
    pub fields: Names,
    /// The element inside it.
    pub child: Option<RecordShape>,
}

/// The element of a record and its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordShape {
    /// Local name.
    pub element: String,
    /// Attribute by canonical field.
    pub fields: Names,
}

/// The Call API's open choices.
#[derive(Debug, Clone, PartialEq)]
pub struct CallApiSide {
    /// Login path with `{domain}`.
    pub login_path: String,
    /// Attributes of the login's `<request>`; values with `{login}` and `{password}`.
    pub login_attributes: Names,
    /// Cookie of a session.
    pub session_cookie: String,
    /// Status of an expired session's answer.
    pub expired_status: u16,
    /// Word in an expired session's answer.
    pub expired_word: String,
    /// Whether that answer has no `<out>` document.
    pub expired_without_document: bool,
    /// Logout, with `{domain}`.
    pub logout: HttpCall,
    /// Path of a command with `{domain}`, `{service}`, `{command}`.
    pub command_path: String,
    /// Path of the upgrade with `{domain}`.
    pub websocket_path: String,
    /// What fills the name field: ' ' or '\0'.
    pub pad: char,
    /// Whether lengths count octets (else characters).
    pub length_in_bytes: bool,
    /// What stands before a command's name in the name field, with `{service}`.
    pub name_prefix: String,
    /// How an event frame looks.
    pub event_frame: EventFrame,
    /// Name of the framed keep-alive command; `None`: WebSocket pings.
    pub keepalive_command: Option<String>,
    /// Seconds between keep-alives.
    pub keepalive_interval_s: u32,
    /// Between members of a list.
    pub list_separator: String,
    /// How times are written.
    pub time_format: TimeFormat,
    /// Minutes ahead of UTC.
    pub utc_offset_minutes: i32,
}

/// An event frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventFrame {
    /// An answer with this status.
    Status(String),
    /// A request with this id.
    RequestId(String),
}

/// A time's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeFormat {
    /// `YYYY/MM/DD HH:MM:SS`
    YmdSlash,
    /// `DD.MM.YYYY HH:MM:SS`
    DmyDot,
    /// Milliseconds since 1970.
    UnixMs,
}

/// CSTA's open choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CstaSide {
    /// Whether the length counts the header too.
    pub length_whole: bool,
    /// Namespace of requests and answers.
    pub namespace: String,
    /// Text of a keep-alive with invoke id 0000.
    pub keepalive: String,
    /// Seconds between keep-alives.
    pub keepalive_interval_s: u32,
    /// How a device is written, with `{alias}` and `{domain}`.
    pub device: String,
    /// The `autoOriginate` that rings the caller first; any other does not.
    pub auto_originate: String,
    /// Whether GenerateDigits is offered.
    pub generate_digits: bool,
}

/// An operation on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperationShape {
    /// `terminal`, `call` or `teleconference`.
    pub service: String,
    /// Command name.
    pub name: String,
    /// Attribute of the request by canonical field.
    pub fields: Names,
    /// Attributes of the request that must have this value.
    pub fixed: Names,
    /// Attribute of the result by canonical field.
    pub result: Names,
    /// Element of one record, for lists.
    pub record: Option<String>,
}

/// An event on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventShape {
    /// Service.
    pub service: String,
    /// Name.
    pub name: String,
    /// Element of one record.
    pub record: String,
    /// Attribute by canonical field.
    pub fields: Names,
}

// === Look-ups ===

impl SimDialect {
    /// The dialect of a seed; 0 is the one whose values are fixed.
    pub fn from_seed(seed: u64) -> Self {
        if seed == 0 { base::base() } else { seeded::vary(base::base(), seed) }
    }

    /// The operation that a service knows by a command name.
    pub fn operation(&self, service: &str, name: &str) -> Option<(&str, &OperationShape)> {
        let found = self.operations.iter().find(|(_, shape)| shape.service == service && shape.name == name);
        found.map(|(key, shape)| (key.as_str(), shape))
    }

    /// The switch's word for a canonical one; the canonical one if the vocabulary has none.
    pub fn word<'a>(&'a self, vocabulary: &str, canonical: &'a str) -> &'a str {
        self.words.get(vocabulary).and_then(|words| words.get(canonical)).map_or(canonical, String::as_str)
    }

    /// `true` or `false` in the switch's words.
    pub fn boolean(&self, value: bool) -> &str {
        self.word("boolean", if value { "true" } else { "false" })
    }

    /// The canonical word for the switch's.
    pub fn canonical(&self, vocabulary: &str, text: &str) -> Option<&str> {
        let words = self.words.get(vocabulary)?;
        words.iter().find(|(_, word)| word.eq_ignore_ascii_case(text.trim())).map(|(key, _)| key.as_str())
    }

    /// How a refusal is spelt.
    pub fn refusal(&self, cause: RefusalCause) -> &str {
        self.refusals.get(&cause).map_or(cause.word(), String::as_str)
    }

    /// A time as the terminal writes it: `DD.MM.YYYY HH:MM:SS`.
    pub fn terminal_time(&self, at: Timestamp) -> String {
        format_time(at, "%d.%m.%Y %H:%M:%S", self.terminal.utc_offset_minutes)
    }

    /// Reads a time of the terminal.
    pub fn parse_terminal_time(&self, text: &str) -> Option<Timestamp> {
        let civil = DateTime::strptime("%d.%m.%Y %H:%M:%S", text.trim()).ok()?;
        offset(self.terminal.utc_offset_minutes).to_timestamp(civil).ok()
    }

    /// A time as the Call API writes it.
    pub fn api_time(&self, at: Timestamp) -> String {
        let minutes = self.call_api.utc_offset_minutes;
        match self.call_api.time_format {
            TimeFormat::YmdSlash => format_time(at, "%Y/%m/%d %H:%M:%S", minutes),
            TimeFormat::DmyDot => format_time(at, "%d.%m.%Y %H:%M:%S", minutes),
            TimeFormat::UnixMs => at.as_millisecond().to_string(),
        }
    }
}

fn offset(minutes: i32) -> Offset {
    Offset::from_seconds(minutes.saturating_mul(60)).unwrap_or(Offset::UTC)
}

fn format_time(at: Timestamp, format: &str, minutes: i32) -> String {
    offset(minutes).to_datetime(at).strftime(format).to_string()
}

/// Whether `path` fits `template`, whose `{name}` parts stand for one or more characters other than `/` (the last one may hold `/`
/// only if nothing follows it); the parts by name.
pub fn match_path(template: &str, path: &str) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let (mut template, mut path) = (template, path);
    loop {
        let Some((literal, rest)) = template.split_once('{') else {
            return (template == path).then_some(found);
        };
        path = path.strip_prefix(literal)?;
        let (name, after) = rest.split_once('}')?;
        let end = path.find('/').unwrap_or(path.len());
        let next = after.split('{').next().unwrap_or_default();
        let end = if next.is_empty() { end } else { path.find(next).filter(|found| *found <= end)? };
        let (value, remaining) = path.split_at_checked(end)?;
        if value.is_empty() {
            return None;
        }
        found.insert(name.to_owned(), value.to_owned());
        (template, path) = (after, remaining);
    }
}
