//! What a dialect must fulfil beyond its shape, so that a slip of the pen is refused with its path and not found on the wire.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::{Dialect, DialectError, EventFrame, WebSocketKeepalive};
use crate::{
    Operation,
    words::{self, Vocabulary},
};

/// Characters of a frame's name field.
const NAME_FIELD: usize = 32;

type Check = Result<(), DialectError>;

fn refuse(path: impl Into<String>, problem: impl Into<String>) -> Check {
    Err(DialectError::Value { path: path.into(), problem: problem.into() })
}

impl Dialect {
    /// Refuses values that have the right type and yet cannot be meant.
    pub(super) fn check(&self) -> Check {
        self.check_frames()?;
        self.check_vocabularies()?;
        if !self.csta.device.contains("{alias}") {
            return refuse("csta.device", "must contain {alias}");
        }
        if self.operations.get(&Operation::CallList).is_some_and(|shape| shape.record.is_none()) {
            return refuse("operations.call_list.record", "is missing: it names the element of one leg");
        }
        for (side, minutes) in [("terminal", self.terminal.utc_offset_minutes), ("call_api", self.call_api.utc_offset_minutes)] {
            if minutes.abs() > 18 * 60 {
                return refuse(format!("{side}.utc_offset_minutes"), "must lie between -1080 and 1080");
            }
        }
        // All the rest goes by the names of keys: it is the same wherever they stand.
        match Table::try_from(self) {
            Ok(table) => check_table("", "", &table),
            Err(error) => refuse("the whole", error.to_string()),
        }
    }

    fn check_frames(&self) -> Check {
        let api = &self.call_api;
        match &api.event_frame {
            EventFrame::Status { status } => {
                let path = "call_api.event_frame.status";
                if status.chars().count() != 3 || status.chars().any(|c| c.is_whitespace() || c.is_control()) {
                    return refuse(path, "must have three characters, none of them white space");
                }
                if matches!(status.as_bytes(), [b'2'..=b'5', second, third] if second.is_ascii_digit() && third.is_ascii_digit()) {
                    return refuse(path, format!("is '{status}', which answers have"));
                }
            }
            EventFrame::RequestId { request_id } => {
                if request_id.chars().count() != 4 || request_id.chars().any(|c| c.is_whitespace() || c.is_control()) {
                    return refuse("call_api.event_frame.request_id", "must have four characters, none of them white space");
                }
            }
        }
        let fits = |path: String, framed: &str| {
            let long = framed.chars().count() > NAME_FIELD;
            if long {
                refuse(path, format!("makes '{framed}', which is longer than the {NAME_FIELD} characters of its field"))
            } else {
                Ok(())
            }
        };
        if let WebSocketKeepalive::Command { name } = &api.keepalive {
            fits("call_api.keepalive.name".to_owned(), name)?;
        }
        for (operation, shape) in self.operations.iter().filter(|(_, shape)| shape.service != "terminal") {
            let framed = api.name_prefix.replace("{service}", &shape.service) + &shape.name;
            fits(format!("operations.{}.name", key(operation)), &framed)?;
        }
        Ok(())
    }

    fn check_vocabularies(&self) -> Check {
        let all = &self.words;
        vocabulary("boolean", &all.boolean, words::BOOLEAN)?;
        vocabulary("leg_state", &all.leg_state, words::LEG_STATE)?;
        vocabulary("direction", &all.direction, words::DIRECTION)?;
        vocabulary("participant_status", &all.participant_status, words::PARTICIPANT_STATUS)?;
        vocabulary("role", &all.role, words::ROLE)?;
        vocabulary("recording", &all.recording, words::RECORDING)?;
        vocabulary("cause", &all.cause, words::CAUSE)
    }
}

/// The key of an operation in the file.
fn key(operation: &Operation) -> String {
    Value::try_from(operation).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// An empty list takes a word out of use; an empty word is read, but never written.
fn vocabulary<T>(name: &str, vocabulary: &Vocabulary, meanings: &words::Meanings<T>) -> Check {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (canonical, list) in vocabulary {
        let path = format!("words.{name}.{canonical}");
        if !meanings.iter().any(|(known, _)| known == canonical) {
            let known: Vec<&str> = meanings.iter().map(|(known, _)| *known).collect();
            return refuse(path, format!("is no word of ours; they are: {}", known.join(", ")));
        }
        if list.first().is_some_and(|word| word.trim().is_empty()) {
            return refuse(path, "begins with an empty word, and the first is the one that is written");
        }
        for word in list {
            match seen.insert(word.trim().to_lowercase(), canonical) {
                Some(other) if other != canonical => {
                    return refuse(path, format!("has '{word}', which words.{name}.{other} has too"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The rules that go by a key's name. `within` is the name of the table.
fn check_table(path: &str, within: &str, table: &Table) -> Check {
    if matches!(within, "fields" | "result") {
        let mut seen = BTreeMap::new();
        for (field, value) in table {
            if let Some(other) = value.as_str().and_then(|attribute| seen.insert(attribute, field)) {
                return refuse(join(path, field), format!("is the same attribute as {other}"));
            }
        }
    }
    let refusals = within == "refusals";
    let mut meanings = BTreeSet::new();
    for (key, value) in table {
        let path = join(path, key);
        if refusals && key.trim().is_empty() {
            return refuse(path, "has an empty text, which every refusal would contain");
        }
        if refusals && !meanings.insert(key.to_lowercase()) {
            return refuse(path, "is there twice, and case does not count");
        }
        if matches!(within, "fixed" | "login_attributes") {
            name(&path, key)?;
            continue; // any value may be meant
        }
        match value {
            Value::Table(inner) => check_table(&path, key, inner)?,
            Value::String(text) => check_text(&path, within, key, text)?,
            Value::Integer(0) if key.ends_with("_s") || key.ends_with("_ms") => return refuse(path, "must be more than zero"),
            Value::Array(list) => check_list(&path, key, list)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_text(path: &str, within: &str, key: &str, text: &str) -> Check {
    if text.is_empty() {
        // Nothing in front of a name, nothing in a body.
        return if matches!(key, "body" | "name_prefix") { Ok(()) } else { refuse(path, "must not be empty") };
    }
    match key {
        "method" if !matches!(text, "GET" | "POST") => refuse(path, "must be GET or POST"),
        "path" | "login_path" | "command_path" | "websocket_path" => {
            let fits = text.starts_with('/') && !text.chars().any(|c| c.is_whitespace() || c.is_control());
            if fits { Ok(()) } else { refuse(path, "must be an absolute path without white space") }
        }
        "element" | "record" | "error_cause" | "liveness_command" | "session_cookie" => name(path, text),
        // The dialect's own name is for people.
        "name" if !within.is_empty() => name(path, text),
        _ if matches!(within, "fields" | "result") => name(path, text),
        _ => Ok(()),
    }
}

fn check_list(path: &str, key: &str, list: &[Value]) -> Check {
    for (index, value) in list.iter().enumerate() {
        match value {
            Value::Integer(status) if key == "statuses" && !(100..1000).contains(status) => {
                return refuse(format!("{path}[{index}]"), "must be a status of three digits");
            }
            Value::String(word) if key == "words" && word.trim().is_empty() => {
                return refuse(format!("{path}[{index}]"), "must not be empty: every answer would say so");
            }
            _ => {}
        }
    }
    Ok(())
}

/// What can stand for an element, attribute, command, header or cookie.
fn name(path: &str, text: &str) -> Check {
    let bad = |c: char| c.is_whitespace() || c.is_control() || "<>&\"'=/;,".contains(c);
    match text.chars().find(|c| bad(*c)) {
        _ if text.is_empty() => refuse(path, "must not be empty"),
        Some(character) => refuse(path, format!("has {character:?}, which no name may have")),
        None => Ok(()),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_path() {
        for (wrong, path) in [
            ("call_api.event_frame = { kind = 'status', status = 'EVENT' }", "call_api.event_frame.status"),
            ("call_api.event_frame = { kind = 'status', status = '200' }", "call_api.event_frame.status"),
            ("call_api.event_frame = { kind = 'status', status = '299' }", "call_api.event_frame.status"),
            ("call_api.event_frame = { kind = 'status', status = '403' }", "call_api.event_frame.status"),
            ("call_api.event_frame = { kind = 'request_id', request_id = '00 0' }", "call_api.event_frame.request_id"),
            ("call_api.event_frame = { kind = 'request_id', request_id = '00000' }", "call_api.event_frame.request_id"),
            ("call_api.keepalive = { kind = 'command', name = 'a_name_of_more_than_thirty_two_characters' }", "call_api.keepalive.name"),
            ("call_api.keepalive = { kind = 'command', name = '' }", "call_api.keepalive.name"),
            ("call_api.websocket_path = 'ws'", "call_api.websocket_path"),
            ("call_api.login_attributes = { 'a b' = 'x' }", "call_api.login_attributes.a b"),
            ("call_api.session_expired.words = ['']", "call_api.session_expired.words[0]"),
            ("call_api.logout = { method = 'PUT', path = '/x' }", "call_api.logout.method"),
            ("csta.device = 'sip:1001'", "csta.device"),
            ("terminal.session_expired.statuses = [4010]", "terminal.session_expired.statuses[0]"),
            ("terminal.keepalive = { method = 'GET', path = 'ping' }", "terminal.keepalive.path"),
            ("terminal.keepalive_interval_s = 0", "terminal.keepalive_interval_s"),
            ("terminal.utc_offset_minutes = 10800", "terminal.utc_offset_minutes"),
            ("terminal.calls = { element = 'cdr', fields = { to = '' } }", "terminal.calls.fields.to"),
            ("terminal.calls.fields.to = 'from'", "terminal.calls.fields.to"),
            ("terminal.members = { element = 'a member', fields = {} }", "terminal.members.element"),
            (
                "terminal.requests.sip_user_declare.child.fields.address = 'interface'",
                "terminal.requests.sip_user_declare.child.fields.interface",
            ),
            ("operations.call_make.fields.to = 'from'", "operations.call_make.fields.to"),
            ("operations.call_make.result.leg = 'call_id'", "operations.call_make.result.leg"),
            ("operations.call_make = { service = 'call', name = 'a_name_that_fits_without_service' }", "operations.call_make.name"),
            ("operations.call_list = { service = 'call', name = 'calls' }", "operations.call_list.record"),
            ("events.leg.fields.device = 'id'", "events.leg.fields.leg"),
            ("words.boolean.true = ['', 'yes']", "words.boolean.true"),
            ("words.leg_state.held = ['Talking']", "words.leg_state.held"),
            ("words.leg_state.holding = ['holding']", "words.leg_state.holding"),
            ("refusals = { '' = 'busy' }", "refusals."),
            ("refusals = { BUSY = 'busy' }", "refusals.busy"),
        ] {
            match Dialect::with_overrides("sim", &toml::from_str(wrong).unwrap()) {
                Err(DialectError::Value { path: at, .. }) => assert_eq!(at, path, "{wrong}"),
                other => panic!("{wrong}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_empty_word_may_be_read_and_an_empty_list_takes_a_word_out_of_use() {
        let overrides = "words = { boolean = { false = ['no', ''] }, cause = { busy = [] } }\ncall_api.name_prefix = ''";
        let dialect = Dialect::with_overrides("sim", &toml::from_str(overrides).unwrap()).unwrap();
        assert_eq!((dialect.words.boolean(""), dialect.words.boolean_word(false)), (Some(false), "no"));
        assert_eq!(dialect.words.cause("busy"), Some(crate::event::Cause::Other));
    }
}
