//! Events in words: what the event stream says, compared with how things were before.

use elph_proto::{
    v1::{
        Call, CallState, Conference, ConferenceState, EndCause, Event, LegState, LinkState, Participant, ParticipantChange,
        ParticipantStatus, RecordingState, event::Change,
    },
    view::View,
};

use e2e::pushes::{event, field};
use push_sim::{Arrival, Provider};

use crate::seen::word;

/// The news in an event, if it is worth a line.
pub(super) fn tell(before: &View, event: &Event) -> Option<String> {
    match event.change.as_ref()? {
        Change::Call(call) => call_news(before.calls.get(&call.id), call),
        Change::Conference(conference) => conference_news(before.conferences.get(&conference.id), conference),
        Change::Participant(change) => participant_news(before, change),
        Change::Link(link) => {
            let changed = before.links.get(&link.name).is_none_or(|old| old.state() != link.state());
            changed.then(|| format!("link {} is {}", link.name, word(link.state().as_str_name(), "LINK_STATE_")))
        }
    }
}

/// What a provider got, if it is a push.
pub(super) fn push(arrival: &Arrival) -> Option<String> {
    let phone = match arrival.provider {
        Provider::Apns => "iPhone",
        Provider::Fcm => "Android",
        _ => return None,
    };
    let alias = field(arrival, "alias");
    let what = match event(arrival).as_str() {
        "call" => format!("rings: {} calls", field(arrival, "caller")),
        "cancel" => format!("stops ringing ({})", field(arrival, "reason").replace('_', " ")),
        "missed_call" => format!("shows a missed call from {}", field(arrival, "caller")),
        "invitation" => format!("shows an invitation to {}", field(arrival, "conference_name")),
        "invitation_cancel" => "takes the invitation away".to_owned(),
        _ => return None,
    };
    Some(format!("push: {alias}'s {phone} {what}"))
}

/// How things are, in one line.
pub(super) fn now(view: &View) -> String {
    let calls = view.calls.len();
    let mut text = format!("{calls} call{}", if calls == 1 { "" } else { "s" });
    for conference in view.conferences.values() {
        let count = |which: fn(&Participant) -> bool| conference.participants.iter().filter(|member| which(member)).count();
        text.push_str(&format!(" · {}: {} in, {} muted", name(conference), conference.connected_count, count(|member| member.muted)));
        if conference.pending_count > 0 {
            text.push_str(&format!(", {} ringing", conference.pending_count));
        }
        if conference.locked {
            text.push_str(", locked");
        }
        for member in conference.participants.iter().filter(|member| member.talking) {
            text.push_str(&format!(", {} talks", member.number));
        }
    }
    let down: Vec<_> = view.links.values().filter(|link| link.state() != LinkState::Up).map(|link| link.name.as_str()).collect();
    if !down.is_empty() {
        text.push_str(&format!(" · down: {}", down.join(", ")));
    }
    text
}

fn name(conference: &Conference) -> &str {
    if conference.name.is_empty() { "conference" } else { &conference.name }
}

fn conference_news(before: Option<&Conference>, conference: &Conference) -> Option<String> {
    let name = name(conference);
    let Some(before) = before else {
        return (conference.state() == ConferenceState::Active).then(|| format!("{name} begins"));
    };
    if conference.state() == ConferenceState::Ended {
        return Some(format!("{name} has ended"));
    }
    if before.locked != conference.locked {
        return Some(format!("{name} is {}", if conference.locked { "locked" } else { "open again" }));
    }
    if before.may_unmute_themselves != conference.may_unmute_themselves {
        let may = if conference.may_unmute_themselves { "may" } else { "may not" };
        return Some(format!("{name}: the muted {may} unmute themselves"));
    }
    (before.recording() != conference.recording()).then(|| match conference.recording() {
        RecordingState::On => format!("{name} is being recorded"),
        RecordingState::Paused => format!("{name}: the recording is paused"),
        _ => format!("{name} is no longer recorded"),
    })
}

fn participant_news(before: &View, change: &ParticipantChange) -> Option<String> {
    let conference = before.conferences.get(&change.conference_id)?;
    let member = change.participant.as_ref()?;
    let old = conference.participants.iter().find(|other| other.id == member.id);
    let what = match (old, member.status()) {
        (_, ParticipantStatus::Disconnected) if old.is_some_and(|old| old.join_time.is_none()) => "does not come",
        (_, ParticipantStatus::Disconnected) => "leaves",
        (old, ParticipantStatus::Connected) if old.is_none_or(|old| old.join_time.is_none()) => "joins",
        (old, status) if old.is_none_or(|old| old.status() != status) => match status {
            ParticipantStatus::Alerting => "is called",
            ParticipantStatus::OnHold => "is put on hold",
            ParticipantStatus::Connected => "is back from hold",
            _ => return None,
        },
        (Some(old), _) if old.role() != member.role() => "has another role",
        (Some(old), _) if old.floor_requested && !member.floor_requested && member.muted => "does not get the floor",
        (Some(old), _) if old.floor_requested && !member.muted => "has the floor",
        (Some(old), _) if !old.floor_requested && member.floor_requested => "asks for the floor",
        (Some(old), _) if old.muted != member.muted => {
            if member.muted {
                "is muted"
            } else {
                "is no longer muted"
            }
        }
        (Some(old), _) if !old.talking && member.talking => "talks",
        _ => return None,
    };
    Some(format!("{}: {} {what}", name(conference), who(member)))
}

fn who(member: &Participant) -> String {
    if member.display_name.is_empty() { member.number.clone() } else { format!("{} ({})", member.display_name, member.number) }
}

fn call_news(before: Option<&Call>, call: &Call) -> Option<String> {
    let pair = format!("{} → {}", call.calling_number, call.called_number);
    let held = |call: &Call| call.legs.iter().any(|leg| leg.state() == LegState::Held);
    let what = match call.state() {
        state if before.is_none_or(|before| before.state() != state) => match state {
            CallState::Alerting => "rings".to_owned(),
            CallState::Connected => format!("talk ({} answered)", call.answered_by),
            CallState::Ended => ended(call),
            _ => return None,
        },
        CallState::Connected if before.is_some_and(|before| held(before) != held(call)) => {
            if held(call) { "on hold" } else { "talk again" }.to_owned()
        }
        _ => return None,
    };
    Some(format!("call {pair}: {what}"))
}

fn ended(call: &Call) -> String {
    let seconds = call.talk_duration.map_or(0, |talk| talk.seconds);
    match call.end_cause() {
        EndCause::Normal if call.answer_time.is_some() => format!("ended after {seconds} s"),
        EndCause::Unspecified => "ended".to_owned(),
        cause => format!("ended: {}", word(cause.as_str_name(), "END_CAUSE_").replace('_', " ")),
    }
}
