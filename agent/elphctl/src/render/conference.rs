//! Conferences for people.

use elph_proto::{
    reason::Reason,
    v1::{Conference, ConferenceState, InvitationResult, Participant, ParticipantRole, ParticipantStatus, RecordingState},
};

use super::{Cell, Grid, Tone, call::cause, clean, duration, facts, full_time, id, left, marks, short_time, since, word};
use crate::output::Look;

/// The word for a conference's state.
pub(crate) fn state(state: ConferenceState) -> String {
    word(state.as_str_name(), "CONFERENCE_STATE_")
}

/// The words for a participant's status.
pub(crate) fn status(status: ParticipantStatus) -> String {
    word(status.as_str_name(), "PARTICIPANT_STATUS_")
}

fn recording(state: RecordingState) -> String {
    word(state.as_str_name(), "RECORDING_STATE_")
}

fn role(role: ParticipantRole) -> String {
    word(role.as_str_name(), "PARTICIPANT_ROLE_")
}

fn people(conference: &Conference) -> String {
    match conference.pending_count {
        0 => conference.connected_count.to_string(),
        pending => format!("{} +{pending}", conference.connected_count),
    }
}

fn title(conference: &Conference) -> String {
    match (conference.name.is_empty(), conference.room.is_empty()) {
        (false, true) => conference.name.clone(),
        (false, false) => format!("{} ({})", conference.name, conference.room),
        (true, false) => format!("room {}", conference.room),
        (true, true) => "-".into(),
    }
}

/// A list of conferences. Several domains have a column.
pub(crate) fn list(conferences: &[Conference], look: &Look) -> Grid {
    let first = conferences.first().map(|first| first.domain.as_str());
    let several = conferences.iter().any(|conference| Some(conference.domain.as_str()) != first);
    let ended = conferences.iter().any(|conference| conference.state() == ConferenceState::Ended);
    let mut grid = Grid::new(&[
        ("ID", 0),
        ("DOMAIN", 3),
        ("NAME", 0),
        ("STATE", 2),
        ("PEOPLE>", 0),
        ("STARTED", 1),
        ("DURATION>", 0),
        ("LEFT>", 4),
        ("LOCKED", 1),
        ("RECORDING", 2),
        ("NOTE", 6),
    ]);
    for conference in conferences {
        let recorded = recording(conference.recording());
        grid.row(vec![
            id(&conference.id, look).into(),
            if several || look.wide { conference.domain.as_str() } else { "" }.into(),
            title(conference).into(),
            if ended { state(conference.state()) } else { String::new() }.into(),
            people(conference).into(),
            short_time(conference.start_time, look).into(),
            duration(conference.duration).into(),
            if conference.end_time.is_none() { left(conference.planned_end_time, look) } else { String::new() }.into(),
            Cell::toned(if conference.locked { "locked" } else { "" }, Tone::Warn),
            Cell::toned(if recorded == "off" { "" } else { &recorded }, Tone::Warn),
            Cell::toned(marks(conference.reconstructed, conference.polled), Tone::Dim),
        ]);
    }
    grid
}

/// One conference, without its participants.
pub(crate) fn facts_of(conference: &Conference, look: &Look) -> Vec<String> {
    let yes = |flag: bool, text: &str| if flag { text.to_owned() } else { String::new() };
    let muted = match (conference.may_unmute_themselves, conference.participants.iter().any(|participant| participant.muted)) {
        (true, _) => "may unmute themselves",
        (false, true) => "may not unmute themselves",
        (false, false) => "",
    };
    let most = if conference.max_participants == 0 { String::new() } else { format!(" of at most {}", conference.max_participants) };
    facts(&[
        ("Conference", conference.id.clone()),
        ("Domain", conference.domain.clone()),
        ("Name", conference.name.clone()),
        ("Room", conference.room.clone()),
        ("State", state(conference.state())),
        ("People", format!("{} connected, {} pending{most}", conference.connected_count, conference.pending_count)),
        ("Locked", yes(conference.locked, "yes")),
        ("Recording", recording(conference.recording())),
        ("Muted people", muted.to_owned()),
        ("Started", full_time(conference.start_time, look)),
        ("Planned end", full_time(conference.planned_end_time, look)),
        ("Ended", full_time(conference.end_time, look)),
        ("Duration", duration(conference.duration)),
        ("Switch's id", conference.switch_conference_id.clone()),
        ("Version", conference.version.to_string()),
        ("Note", marks(conference.reconstructed, conference.polled).to_owned()),
    ])
}

fn status_tone(status: ParticipantStatus) -> Tone {
    match status {
        ParticipantStatus::Connected => Tone::Good,
        ParticipantStatus::Disconnected | ParticipantStatus::Disconnecting | ParticipantStatus::Unspecified => Tone::Dim,
        _ => Tone::Warn,
    }
}

/// A participant's microphone: talks, muted, or nothing to say.
fn microphone(participant: &Participant) -> Cell {
    match (participant.talking, participant.muted) {
        (true, _) => Cell::toned("talks", Tone::Good),
        (false, true) => Cell::toned("muted", Tone::Warn),
        (false, false) => "".into(),
    }
}

/// The participants.
pub(crate) fn roster(participants: &[Participant], look: &Look) -> Grid {
    let mut grid = Grid::new(&[
        ("PARTICIPANT", 0),
        ("NUMBER", 0),
        ("NAME", 2),
        ("ROLE", 3),
        ("STATUS", 0),
        ("MIC", 0),
        ("FLOOR", 1),
        ("JOINED", 4),
        ("CAUSE", 3),
    ]);
    for participant in participants {
        let asks = match (participant.floor_requested, participant.floor_request_time) {
            (false, _) => String::new(),
            (true, None) => "asks".into(),
            (true, time) => format!("asks, {}", since(time, look)),
        };
        let shown = role(participant.role());
        grid.row(vec![
            participant.id.as_str().into(),
            participant.number.as_str().into(),
            participant.display_name.as_str().into(),
            if shown == "participant" { "" } else { &shown }.into(),
            Cell::toned(status(participant.status()), status_tone(participant.status())),
            microphone(participant),
            Cell::toned(asks, Tone::Warn),
            short_time(participant.join_time, look).into(),
            cause(participant.end_cause()).into(),
        ]);
    }
    grid
}

/// A conference's state and what is to be said about it, in a line.
pub(crate) fn line(conference: &Conference) -> (String, String) {
    let mut parts = vec![clean(&title(conference)), format!("{} in", conference.connected_count)];
    if conference.pending_count > 0 {
        parts.push(format!("{} pending", conference.pending_count));
    }
    if conference.locked {
        parts.push("locked".into());
    }
    match conference.recording() {
        RecordingState::On => parts.push("recording".into()),
        RecordingState::Paused => parts.push("recording paused".into()),
        _ => {}
    }
    if conference.state() == ConferenceState::Ended {
        parts.push(format!("lasted {}", duration(conference.duration)));
    }
    (state(conference.state()), parts.join(", "))
}

/// The line after a command.
pub(crate) fn summary(conference: &Conference, look: &Look) -> String {
    let (state, rest) = line(conference);
    format!("{} {state}: {rest} (version {})", id(&conference.id, look), conference.version)
}

/// A participant in a line.
pub(crate) fn participant_line(participant: &Participant) -> String {
    let mut parts = vec![clean(&participant.number)];
    if !participant.display_name.is_empty() {
        parts.push(format!("'{}'", clean(&participant.display_name)));
    }
    let mut flags = Vec::new();
    if participant.role() == ParticipantRole::Presenter {
        flags.push("presenter".to_owned());
    }
    for (flag, text) in [(participant.muted, "muted"), (participant.talking, "talks"), (participant.floor_requested, "asks for the floor")]
    {
        if flag {
            flags.push(text.to_owned());
        }
    }
    let cause = cause(participant.end_cause());
    if !cause.is_empty() {
        flags.push(cause);
    }
    if !flags.is_empty() {
        parts.push(format!("({})", flags.join(", ")));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

/// How invitations went.
pub(crate) fn invitations(results: &[InvitationResult]) -> Grid {
    let mut grid = Grid::new(&[("NUMBER", 0), ("PARTICIPANT", 0), ("RESULT", 0), ("SWITCH SAYS", 1)]);
    for result in results {
        let known = Reason::ALL.iter().find(|reason| reason.as_str() == result.reason);
        let text = match (result.reason.is_empty(), known) {
            (true, _) => Cell::toned("being called", Tone::Good),
            (false, Some(reason)) => Cell::toned(format!("{}: {}", reason.as_str(), reason.meaning()), Tone::Bad),
            (false, None) => Cell::toned(&result.reason, Tone::Bad),
        };
        grid.row(vec![result.number.as_str().into(), result.participant_id.as_str().into(), text, result.message.as_str().into()]);
    }
    grid
}
