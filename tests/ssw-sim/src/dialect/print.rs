//! Prints a dialect as the agent's configuration takes it: overrides of its built-in `sim`.

use ssw_core::RefusalCause;
use toml::{Table, Value};

use super::{EventFrame, HttpCall, Names, RecordShape, RequestShape, SimDialect, TimeFormat};

/// What each refusal means, in the words of the agent's dialect file.
fn meaning(cause: RefusalCause) -> &'static str {
    match cause {
        RefusalCause::NoSuchSubscriber => "unknown_alias",
        RefusalCause::NoSuchCall => "unknown_call",
        RefusalCause::NoSuchConference => "unknown_conference",
        RefusalCause::NoSuchParticipant => "unknown_participant",
        RefusalCause::ConferenceFull => "conference_full",
        RefusalCause::ConferenceLocked => "conference_locked",
        RefusalCause::NoRight => "missing_right",
        RefusalCause::LicenceLimit => "licence_exhausted",
        RefusalCause::LicenceExpired => "licence_expired",
        RefusalCause::DomainLimit => "limit_reached",
        RefusalCause::Busy => "busy",
        RefusalCause::BadState => "wrong_state",
        RefusalCause::AlreadyExists => "already_exists",
        RefusalCause::ObjectLocked => "locked",
        RefusalCause::NotSupported => "not_supported",
    }
}

fn table(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

fn names(names: &Names) -> Value {
    Value::Table(names.iter().map(|(key, value)| (key.clone(), text(value))).collect())
}

fn http(call: &HttpCall) -> Value {
    table([("method", text(&call.method)), ("path", text(&call.path))])
}

fn record(shape: &RecordShape) -> Value {
    table([("element", text(&shape.element)), ("fields", names(&shape.fields))])
}

fn request(shape: &RequestShape) -> Value {
    let whole = [("element", text(&shape.element)), ("fields", names(&shape.fields))];
    table(whole.into_iter().chain(shape.child.as_ref().map(|child| ("child", record(child)))))
}

fn expired(status: u16, word: &str, without_document: bool) -> Value {
    table([
        ("statuses", Value::Array(vec![Value::Integer(i64::from(status))])),
        ("words", Value::Array(vec![text(word)])),
        ("without_document", Value::Boolean(without_document)),
    ])
}

impl SimDialect {
    /// The whole dialect as a TOML document: the override table for the agent's built-in dialect `sim`.
    pub fn to_toml(&self) -> String {
        // Only tables, texts, numbers and lists are in it; they always print.
        toml::to_string(&self.to_table()).unwrap_or_default()
    }

    /// The same as a table.
    pub fn to_table(&self) -> Table {
        let mut whole = Table::new();
        whole.insert("name".to_owned(), text(&self.name));
        whole.insert("terminal".to_owned(), self.terminal_table());
        whole.insert("call_api".to_owned(), self.call_api_table());
        whole.insert("csta".to_owned(), self.csta_table());
        let operations = self.operations.iter().map(|(key, shape)| {
            let mut entry = Table::new();
            entry.insert("service".to_owned(), text(&shape.service));
            entry.insert("name".to_owned(), text(&shape.name));
            for (key, names_of) in [("fields", &shape.fields), ("fixed", &shape.fixed), ("result", &shape.result)] {
                if !names_of.is_empty() {
                    entry.insert(key.to_owned(), names(names_of));
                }
            }
            if let Some(record) = &shape.record {
                entry.insert("record".to_owned(), text(record));
            }
            (key.clone(), Value::Table(entry))
        });
        whole.insert("operations".to_owned(), Value::Table(operations.collect()));
        let events = self.events.iter().map(|(key, shape)| {
            let entry = table([
                ("service", text(&shape.service)),
                ("name", text(&shape.name)),
                ("record", text(&shape.record)),
                ("fields", names(&shape.fields)),
            ]);
            (key.clone(), entry)
        });
        whole.insert("events".to_owned(), Value::Table(events.collect()));
        let words = self.words.iter().map(|(vocabulary, words)| {
            let words = words.iter().map(|(key, word)| (key.clone(), Value::Array(vec![text(word)])));
            (vocabulary.clone(), Value::Table(words.collect()))
        });
        whole.insert("words".to_owned(), Value::Table(words.collect()));
        let refusals = self.refusals.iter().map(|(cause, word)| (word.clone(), text(meaning(*cause))));
        whole.insert("refusals".to_owned(), Value::Table(refusals.collect()));
        whole
    }

    fn terminal_table(&self) -> Value {
        let side = &self.terminal;
        let requests = side.requests.iter().map(|(command, shape)| (command.clone(), request(shape)));
        let progress = table([
            ("method", text(&side.progress_method)),
            ("path", text(&side.progress_path)),
            ("interval_ms", Value::Integer(i64::from(side.progress_interval_ms))),
        ]);
        table([
            ("session_cookie", text(&side.session_cookie)),
            // An empty text takes the built-in one away.
            ("keepalive", side.keepalive.as_ref().map_or_else(|| text(""), http)),
            ("keepalive_interval_s", Value::Integer(i64::from(side.keepalive_interval_s))),
            ("liveness_command", text(&side.liveness_command)),
            ("session_expired", expired(side.expired_status, &side.expired_word, side.expired_without_document)),
            ("logout", http(&side.logout)),
            ("progress", progress),
            ("confirmation", table([("name", text(&side.confirm_name)), ("value", text(&side.confirm_value))])),
            ("utc_offset_minutes", Value::Integer(i64::from(side.utc_offset_minutes))),
            ("error_cause", text(&side.error_cause)),
            ("requests", Value::Table(requests.collect())),
            ("aliases", record(&side.aliases)),
            ("calls", record(&side.calls)),
            ("conferences", record(&side.conferences)),
            ("meetings", record(&side.meetings)),
            ("members", record(&side.members)),
        ])
    }

    fn call_api_table(&self) -> Value {
        let side = &self.call_api;
        let event_frame = match &side.event_frame {
            EventFrame::Status(status) => table([("kind", text("status")), ("status", text(status))]),
            EventFrame::RequestId(id) => table([("kind", text("request_id")), ("request_id", text(id))]),
        };
        let keepalive = match &side.keepalive_command {
            None => table([("kind", text("ping"))]),
            Some(name) => table([("kind", text("command")), ("name", text(name))]),
        };
        let time_format = match side.time_format {
            TimeFormat::YmdSlash => "ymd_slash",
            TimeFormat::DmyDot => "dmy_dot",
            TimeFormat::UnixMs => "unix_ms",
        };
        table([
            ("login_path", text(&side.login_path)),
            ("login_attributes", names(&side.login_attributes)),
            ("session_cookie", text(&side.session_cookie)),
            ("session_expired", expired(side.expired_status, &side.expired_word, side.expired_without_document)),
            ("logout", http(&side.logout)),
            ("command_path", text(&side.command_path)),
            ("websocket_path", text(&side.websocket_path)),
            ("pad", text(if side.pad == '\0' { "nul" } else { "space" })),
            ("length_unit", text(if side.length_in_bytes { "bytes" } else { "characters" })),
            ("name_prefix", text(&side.name_prefix)),
            ("event_frame", event_frame),
            ("keepalive", keepalive),
            ("keepalive_interval_s", Value::Integer(i64::from(side.keepalive_interval_s))),
            ("list_separator", text(&side.list_separator)),
            ("time_format", text(time_format)),
            ("utc_offset_minutes", Value::Integer(i64::from(side.utc_offset_minutes))),
        ])
    }

    fn csta_table(&self) -> Value {
        let side = &self.csta;
        table([
            ("length", text(if side.length_whole { "whole" } else { "body" })),
            ("namespace", text(&side.namespace)),
            ("keepalive", text(&side.keepalive)),
            ("keepalive_interval_s", Value::Integer(i64::from(side.keepalive_interval_s))),
            ("device", text(&side.device)),
            ("auto_originate", text(&side.auto_originate)),
            ("generate_digits", Value::Boolean(side.generate_digits)),
        ])
    }
}
