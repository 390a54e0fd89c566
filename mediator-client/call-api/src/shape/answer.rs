//! Answers: `<out><response>…</response></out>` or `<out><error …/></out>`. The body decides, not the status; refusals hide in
//! 200 answers (`<error>`, or a numeric `status` on the response, seen in the field).

use std::fmt::Write as _;

use ecss_switch::{
    CommandError, Dialect, Operation, RefusalReason, SwitchCallId, SwitchConferenceId, SwitchLegId, SwitchParticipantId,
    command::{CallOutcome, ConferenceOutcome},
    dialect::{CommandShape, Field},
    event::LegObservation,
};

use super::record::Record;
use crate::tree::Element;

/// The longest refusal text that is passed on, in characters.
const MAX_TEXT: usize = 300;

/// What an answer says.
#[derive(Debug, PartialEq)]
pub enum Answer<'a> {
    /// Done; the response, or `<out>` itself where there is none.
    Done(&'a Element<'a>),
    /// The session has expired: the command was not executed.
    SessionExpired,
    /// Anything else.
    Failed(CommandError),
}

/// Reads an answer: its status and its trees, `None` where the body is not understood.
pub fn read_answer<'a>(status: &str, roots: Option<&'a [Element<'a>]>, dialect: &Dialect) -> Answer<'a> {
    let out = roots.into_iter().flatten().find(|root| matches!(root.local_name(), "out" | "response" | "error"));
    let Some(out) = out else {
        return without_document(status, dialect);
    };
    if expires(status, dialect) {
        return Answer::SessionExpired;
    }
    let mut errors = Vec::new();
    out.find("error", &mut errors);
    if let Some(error) = errors.first() {
        let text = describe(error);
        if is_expiry(&text, dialect) {
            return Answer::SessionExpired;
        }
        return refused(&text, dialect);
    }
    let response = out.children().find(|child| child.local_name() == "response").unwrap_or(out);
    let hidden = |element: &Element<'_>| {
        element.get("status").and_then(|text| text.trim().parse::<u32>().ok()).is_some_and(|code| (400..1000).contains(&code))
    };
    if hidden(response) || hidden(out) {
        let text = describe(if hidden(response) { response } else { out });
        return refused(&text, dialect);
    }
    match status.as_bytes().first() {
        Some(b'2') => Answer::Done(response),
        // an understandable body that says nothing of an error, under a status that does
        _ => match describe(response) {
            text if is_expiry(&text, dialect) => Answer::SessionExpired,
            text if text.is_empty() => without_document(status, dialect),
            text => refused(&text, dialect),
        },
    }
}

fn without_document(status: &str, dialect: &Dialect) -> Answer<'static> {
    match status {
        _ if expires(status, dialect) => Answer::SessionExpired,
        _ if status.starts_with('4') && dialect.call_api.session_expired.without_document => Answer::SessionExpired,
        _ if status.starts_with('4') => {
            Answer::Failed(CommandError::Refused { reason: RefusalReason::Other, text: format!("status {status}") })
        }
        _ => Answer::Failed(CommandError::BadAnswer { cause: format!("status {status} without an understandable body") }),
    }
}

fn refused(text: &str, dialect: &Dialect) -> Answer<'static> {
    Answer::Failed(CommandError::Refused { reason: dialect.refusal(text), text: text.to_owned() })
}

/// Whether the status alone says that the session has expired.
fn expires(status: &str, dialect: &Dialect) -> bool {
    status.parse().is_ok_and(|status: u16| dialect.call_api.session_expired.statuses.contains(&status))
}

/// Whether the words of an error say so.
fn is_expiry(text: &str, dialect: &Dialect) -> bool {
    let text = text.to_lowercase();
    dialect.call_api.session_expired.words.iter().any(|word| !word.is_empty() && text.contains(&word.to_lowercase()))
}

/// Attributes and texts of an element and all below it, in one bounded line, without what may be secret.
fn describe(element: &Element<'_>) -> String {
    fn gather(element: &Element<'_>, line: &mut String) {
        for (name, value) in element.attributes.iter().filter(|(name, _)| is_telling(name)) {
            if line.len() > MAX_TEXT * 4 {
                return;
            }
            let _ = write!(line, "{}{name}={value}", if line.is_empty() { "" } else { " " });
        }
        let text = element.text();
        if !text.is_empty() {
            let _ = write!(line, "{}{text}", if line.is_empty() { "" } else { " " });
        }
        for child in element.children() {
            if child.attributes.is_empty() && child.content.is_empty() {
                let _ = write!(line, "{}{}", if line.is_empty() { "" } else { " " }, child.local_name());
            }
            gather(child, line);
        }
    }
    fn is_telling(name: &str) -> bool {
        let name = name.to_lowercase();
        let schema = name.starts_with("xmlns") || name.starts_with("xs:");
        !schema && !["password", "session", "token", "cookie", "secret"].iter().any(|secret| name.contains(secret))
    }
    let mut line = String::new();
    gather(element, &mut line);
    line.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// What an operation brought, by its kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Of a call command.
    Call(CallOutcome),
    /// Of a conference command.
    Conference(ConferenceOutcome),
    /// Of `Operation::CallList`.
    Legs(Vec<LegObservation>),
}

/// Reads the response of an operation.
pub fn read_outcome(
    operation: Operation,
    shape: &CommandShape,
    response: &Element<'_>,
    dialect: &Dialect,
) -> Result<Outcome, CommandError> {
    use Operation::*;
    match operation {
        CallList => read_call_list(shape, response, dialect).map(Outcome::Legs),
        CallMake | CallAnswer | CallReject | CallReleaseLeg | CallRelease | CallHold | CallRetrieve | CallTransferBlind | CallConsult
        | CallTransferComplete | CallTransferCancel | CallJoin | CallDeflect | CallDtmf => {
            Ok(Outcome::Call(read_call_outcome(shape, response)))
        }
        _ => Ok(Outcome::Conference(read_conference_outcome(shape, response))),
    }
}

/// The results of a call command. What the switch does not name, or names unreadably, is absent.
pub fn read_call_outcome(shape: &CommandShape, response: &Element<'_>) -> CallOutcome {
    let text = |field| result(shape, response, field);
    CallOutcome {
        call: text(Field::Call).and_then(|text| SwitchCallId::parse(text).ok()),
        leg: text(Field::Leg).and_then(|text| SwitchLegId::parse(text).ok()),
    }
}

/// The results of a conference command.
pub fn read_conference_outcome(shape: &CommandShape, response: &Element<'_>) -> ConferenceOutcome {
    let text = |field| result(shape, response, field);
    ConferenceOutcome {
        conference: text(Field::Conference).and_then(|text| SwitchConferenceId::parse(text).ok()),
        participant: text(Field::Participant).and_then(|text| SwitchParticipantId::parse(text).ok()),
    }
}

fn result<'r>(shape: &CommandShape, response: &'r Element<'_>, field: Field) -> Option<&'r str> {
    response.find_attribute(shape.result.get(&field)?).map(str::trim)
}

/// The legs of a list. One record that cannot be read spoils the list: a snapshot without it would end a call that goes on.
pub fn read_call_list(shape: &CommandShape, response: &Element<'_>, dialect: &Dialect) -> Result<Vec<LegObservation>, CommandError> {
    let Some(element) = &shape.record else {
        return Err(CommandError::BadAnswer { cause: "the dialect does not name the element of one leg".to_owned() });
    };
    let mut records = Vec::new();
    response.find(element, &mut records);
    let mut legs = Vec::with_capacity(records.len());
    for element in records {
        let record = Record::new(element, &shape.result, dialect);
        let Some(leg) = record.leg() else {
            let cause = format!("record {} of the list lacks call, leg or a known state", legs.len() + 1);
            return Err(CommandError::BadAnswer { cause });
        };
        legs.push(leg);
    }
    Ok(legs)
}

#[cfg(test)]
mod tests {
    use ecss_switch::dialect::SessionExpired;

    use super::*;
    use crate::tree::from_json;

    fn sim() -> Dialect {
        Dialect::built_in("sim").unwrap()
    }

    fn kind(status: &str, json: &str) -> String {
        kind_in(&sim(), status, json)
    }

    fn kind_in(dialect: &Dialect, status: &str, json: &str) -> String {
        let roots = from_json(json).ok();
        match read_answer(status, roots.as_deref(), dialect) {
            Answer::Done(element) => format!("done {}", element.local_name()),
            Answer::SessionExpired => "expired".into(),
            Answer::Failed(error) => match error {
                CommandError::Refused { reason, .. } => format!("{reason:?}"),
                other => format!("{other:?}").split([' ', '{']).next().unwrap_or_default().to_owned(),
            },
        }
    }

    #[test]
    fn the_body_decides_and_refusals_hide_in_200() {
        for (status, json, expected) in [
            ("200", r#"[{"_name":"out","_content":[{"_name":"response","_content":[{"_name":"ok"}]}]}]"#, "done response"),
            ("200", r#"[{"_name":"out"}]"#, "done out"),
            ("200", r#"[{"_name":"out","_content":[{"_name":"error","_attributes":{"cause":"no_such_call"}}]}]"#, "UnknownCall"),
            (
                "200",
                r#"[{"_name":"out","_content":[{"_name":"response","_content":[{"_name":"error","_content":["conference_full"]}]}]}]"#,
                "ConferenceFull",
            ),
            ("200", r#"[{"_name":"out","_content":[{"_name":"error","_content":[{"_name":"busy"}]}]}]"#, "Busy"),
            ("200", r#"[{"_name":"out","_content":[{"_name":"response","_attributes":{"status":"500","code":"5"}}]}]"#, "Other"),
            ("403", r#"[{"_name":"out","_content":[{"_name":"error","_attributes":{"description":"bad_state"}}]}]"#, "WrongState"),
            ("403", r#"[{"_name":"out","_content":[{"_name":"error","_content":["session_expired"]}]}]"#, "expired"),
            ("500", r#"[{"_name":"out","_content":[{"_name":"response","_content":["licence_limit"]}]}]"#, "LicenceExhausted"),
            ("401", "", "expired"),
            ("403", "[]", "Other"),
            ("401", r#"[{"_name":"out","_content":[{"_name":"error","_content":["busy"]}]}]"#, "expired"),
            ("404", "", "Other"),
            ("500", "", "BadAnswer"),
            ("200", "", "BadAnswer"),
            ("200", r#"[{"_name":"html"}]"#, "BadAnswer"),
        ] {
            assert_eq!(kind(status, json), expected, "{status} {json}");
        }
    }

    #[test]
    fn an_expired_session_is_told_by_the_call_apis_own_part_of_the_dialect() {
        let error = |text: &str| format!(r#"[{{"_name":"out","_content":[{{"_name":"error","_content":["{text}"]}}]}}]"#);
        let documented = Dialect::built_in("documented").unwrap();
        assert_eq!(kind_in(&documented, "403", &error("cannot_perform_cmd")), "WrongState");
        assert_eq!(kind_in(&documented, "403", ""), "expired");
        let mut other = sim();
        other.terminal.session_expired.words = vec!["busy".to_owned()];
        other.call_api.session_expired = SessionExpired { statuses: vec![440], words: vec!["GONE".into()], without_document: false };
        assert_eq!(kind_in(&other, "200", &error("it is gone")), "expired");
        assert_eq!(kind_in(&other, "440", &error("busy")), "expired");
        assert_eq!(kind_in(&other, "401", &error("busy")), "Busy");
    }

    #[test]
    fn results_are_found_wherever_the_response_holds_them() {
        let dialect = sim();
        let roots = from_json(r#"[{"_name":"response","_content":[{"_name":"call","_attributes":{"call_id":" c9 ","leg_id":"bad id"}}]}]"#)
            .unwrap();
        let outcome = read_call_outcome(&dialect.operations[&Operation::CallMake], &roots[0]);
        assert_eq!((outcome.call, outcome.leg), (Some(SwitchCallId::parse("c9").unwrap()), None));
    }

    #[test]
    fn one_unreadable_record_spoils_a_list() {
        let dialect = sim();
        let list = |status: &str| {
            let json = format!(
                r#"[{{"_name":"response","_content":[{{"_name":"leg","_attributes":{{"call_id":"c","id":"1","status":"talking"}}}},{{"_name":"leg","_attributes":{{"call_id":"c","id":"2","status":"{status}"}}}}]}}]"#
            );
            let roots = from_json(&json).unwrap();
            read_call_list(&dialect.operations[&Operation::CallList], &roots[0], &dialect)
        };
        assert_eq!(list("alerting").unwrap().len(), 2);
        assert!(matches!(list("dancing"), Err(CommandError::BadAnswer { .. })));
    }
}
