//! Events for people: a line each, with time, kind, id, state and the rest.

use elph_proto::v1::{Call, Conference, Event, Link, Resync, event::Change, resync::Reason};

use super::{Tone, call, clean, conference, directory, id, marks, stream_time};
use crate::output::Look;

fn compose(time: &str, kind: &str, shown: &str, state: (&str, Tone), rest: &str, look: &Look) -> String {
    let (state, tone) = state;
    let state = tone.paint(&format!("{state:<12}"), look.colour);
    let time = Tone::Dim.paint(&format!("{time:<12}"), look.colour);
    format!("{time}  {kind:<11}  {:<8}  {state}  {rest}", clean(shown)).trim_end().to_owned()
}

fn marked(rest: String, mark: &str) -> String {
    if mark.is_empty() { rest } else { format!("{rest} [{mark}]") }
}

/// A call at a time.
pub(crate) fn call_line(time: &str, shown: &Call, mark: &str, look: &Look) -> String {
    let (state, rest) = call::line(shown, look);
    compose(time, "call", &id(&shown.id, look), (&state, call::line_tone(shown)), &marked(rest, mark), look)
}

/// A conference at a time.
pub(crate) fn conference_line(time: &str, shown: &Conference, mark: &str, look: &Look) -> String {
    let (state, rest) = conference::line(shown);
    let tone = if state == "active" { Tone::Good } else { Tone::Dim };
    compose(time, "conference", &id(&shown.id, look), (&state, tone), &marked(rest, mark), look)
}

/// A link at a time.
pub(crate) fn link_line(time: &str, shown: &Link, look: &Look) -> String {
    let state = directory::link_state(shown.state());
    let mut rest = clean(&shown.name);
    if !shown.node.is_empty() {
        rest.push_str(&format!(" at {}", clean(&shown.node)));
    }
    if !shown.last_error.is_empty() && state != "up" {
        rest.push_str(&format!(": {}", clean(&shown.last_error)));
    }
    compose(time, "link", "", (&state, directory::link_tone(shown.state())), &rest, look)
}

/// A change.
pub(crate) fn line(event: &Event, look: &Look) -> Option<String> {
    let time = stream_time(event.time, look);
    let mark = marks(event.reconstructed, event.polled);
    Some(match event.change.as_ref()? {
        Change::Call(shown) => call_line(&time, shown, mark, look),
        Change::Conference(shown) => conference_line(&time, shown, mark, look),
        Change::Link(shown) => link_line(&time, shown, look),
        Change::Participant(change) => {
            let participant = change.participant.clone().unwrap_or_default();
            let counts = format!("{} in, {} pending", change.connected_count, change.pending_count);
            let rest = marked(format!("{}; {counts}", conference::participant_line(&participant)), mark);
            let status = conference::status(participant.status());
            compose(&time, "participant", &id(&change.conference_id, look), (&status, Tone::Plain), &rest, look)
        }
    })
}

/// Why a snapshot follows.
pub(crate) fn resync(resync: &Resync, look: &Look) -> String {
    let why = match resync.reason() {
        Reason::CursorTooOld => "the cursor is older than the journal",
        Reason::EpochChanged => "the journal began anew",
        Reason::TooSlow => "this reader was too slow",
        Reason::Unspecified => "no reason given",
    };
    let skipped = if resync.skipped == 0 { String::new() } else { format!(", {} events skipped", resync.skipped) };
    compose("-", "resync", "", ("", Tone::Warn), &format!("{why}{skipped}; a snapshot follows"), look)
}

/// Marks the lines of a snapshot.
pub(crate) const SNAPSHOT: &str = "snapshot";
