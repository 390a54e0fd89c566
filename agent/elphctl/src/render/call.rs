//! Calls for people.

use elph_proto::v1::{Call, CallState, EndCause, Leg, LegDirection, LegState};

use super::{Cell, Grid, Tone, clean, duration, facts, full_time, id, marks, short_time, since, word};
use crate::output::Look;

/// The word for a call's state.
pub(crate) fn state(state: CallState) -> String {
    word(state.as_str_name(), "CALL_STATE_")
}

/// The word for a leg's state.
pub(crate) fn leg_state(state: LegState) -> String {
    word(state.as_str_name(), "LEG_STATE_")
}

/// The words for a cause.
pub(crate) fn cause(cause: EndCause) -> String {
    word(cause.as_str_name(), "END_CAUSE_")
}

fn tone(state: CallState) -> Tone {
    match state {
        CallState::Connected => Tone::Good,
        CallState::Alerting | CallState::Initiated => Tone::Warn,
        _ => Tone::Dim,
    }
}

fn leg_tone(state: LegState) -> Tone {
    match state {
        LegState::Connected => Tone::Good,
        LegState::Alerting | LegState::Initiated | LegState::Queued | LegState::Held => Tone::Warn,
        LegState::Failed => Tone::Bad,
        _ => Tone::Dim,
    }
}

/// `1042 -> 1043`.
pub(crate) fn parties(call: &Call) -> String {
    let shown = |number: &str| if number.is_empty() { "?".to_owned() } else { clean(number) };
    format!("{} -> {}", shown(&call.calling_number), shown(&call.called_number))
}

fn talk(call: &Call, look: &Look) -> String {
    match (call.talk_duration, call.answer_time) {
        (Some(_), None) => String::new(),
        (Some(_), _) => duration(call.talk_duration),
        (None, answered) => since(answered, look),
    }
}

/// A list of calls. Several domains have a column.
pub(crate) fn list(calls: &[Call], look: &Look) -> Grid {
    let several = calls.iter().any(|call| Some(&call.domain) != calls.first().map(|first| &first.domain));
    let mut grid = Grid::new(&[
        ("ID", 0),
        ("DOMAIN", 3),
        ("STATE", 0),
        ("FROM", 0),
        ("TO", 0),
        ("ANSWERED BY", 4),
        ("STARTED", 1),
        ("TALK>", 0),
        ("LEGS>", 5),
        ("END", 2),
        ("NOTE", 6),
    ]);
    for call in calls {
        let open = call.legs.iter().filter(|leg| leg.state() != LegState::Released).count();
        grid.row(vec![
            id(&call.id, look).into(),
            if several || look.wide { call.domain.as_str() } else { "" }.into(),
            Cell::toned(state(call.state()), tone(call.state())),
            call.calling_number.as_str().into(),
            call.called_number.as_str().into(),
            call.answered_by.as_str().into(),
            short_time(call.start_time, look).into(),
            talk(call, look).into(),
            open.to_string().into(),
            cause(call.end_cause()).into(),
            Cell::toned(marks(call.reconstructed, call.polled), Tone::Dim),
        ]);
    }
    grid
}

/// One call, without its legs.
pub(crate) fn facts_of(call: &Call, look: &Look) -> Vec<String> {
    let talked = talk(call, look);
    facts(&[
        ("Call", call.id.clone()),
        ("Domain", call.domain.clone()),
        ("State", state(call.state())),
        ("Parties", parties(call)),
        ("Answered by", call.answered_by.clone()),
        ("Started", full_time(call.start_time, look)),
        ("Answered", full_time(call.answer_time, look)),
        ("Ended", full_time(call.end_time, look)),
        ("Talk", talked),
        ("Cause", cause(call.end_cause())),
        ("Continued in", call.continued_in.clone()),
        ("Switch's id", call.switch_call_id.clone()),
        ("Version", call.version.to_string()),
        ("Note", marks(call.reconstructed, call.polled).to_owned()),
    ])
}

/// The legs of a call.
pub(crate) fn legs(legs: &[Leg], look: &Look) -> Grid {
    let mut grid =
        Grid::new(&[("LEG", 0), ("DEVICE", 0), ("STATE", 0), ("END", 3), ("STARTED", 1), ("ANSWERED", 2), ("ENDED", 4), ("CAUSE", 1)]);
    for leg in legs {
        let end = match leg.direction() {
            LegDirection::Originating => "caller",
            LegDirection::Terminating => "called",
            LegDirection::Unspecified => "",
        };
        grid.row(vec![
            leg.id.as_str().into(),
            leg.device.as_str().into(),
            Cell::toned(leg_state(leg.state()), leg_tone(leg.state())),
            end.into(),
            short_time(leg.start_time, look).into(),
            short_time(leg.answer_time, look).into(),
            short_time(leg.end_time, look).into(),
            cause(leg.end_cause()).into(),
        ]);
    }
    grid
}

/// A call in a line: state, parties and what is to be said about it.
pub(crate) fn line(call: &Call, look: &Look) -> (String, String) {
    let mut rest = parties(call);
    let mut add = |text: &str, value: String| {
        if !value.is_empty() {
            rest.push_str(&format!(", {text}{}", clean(&value)));
        }
    };
    add("answered by ", if call.answered_by == call.called_number { String::new() } else { call.answered_by.clone() });
    if call.state() == CallState::Ended {
        add("", cause(call.end_cause()));
        add("talked ", talk(call, look));
        add("continued in ", id(&call.continued_in, look));
    }
    let held = call.legs.iter().filter(|leg| leg.state() == LegState::Held).map(|leg| leg.device.as_str()).collect::<Vec<_>>();
    add("held by ", held.join(" and "));
    (state(call.state()), rest)
}

/// The tone of a call's line.
pub(crate) fn line_tone(call: &Call) -> Tone {
    tone(call.state())
}
