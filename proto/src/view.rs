//! A subscriber's view: applies a stream of `SubscribeResponse`s and always holds what the agent holds. The agent rebuilds its own state
//! with it after a restart, `elphctl` and the suite show it, and tests compare it with the switch.

use std::collections::BTreeMap;

use crate::v1::{
    Call, CallState, Conference, ConferenceState, Cursor, Event, Link, Participant, ParticipantChange, ParticipantStatus, Snapshot,
    SubscribeResponse, event::Change, subscribe_response::Message,
};

/// Calls, conferences and links as of a cursor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// Calls that go on, by our id.
    pub calls: BTreeMap<String, Call>,
    /// Conferences that go on, by our id.
    pub conferences: BTreeMap<String, Conference>,
    /// Links by name.
    pub links: BTreeMap<String, Link>,
    /// Resume after this.
    pub cursor: Option<Cursor>,
    /// False between a resync (or the start with a snapshot) and the last part of the snapshot.
    pub complete: bool,
    /// How often a resync was sent.
    pub resyncs: u64,
    /// Between the first and the last part of a snapshot.
    pub in_snapshot: bool,
}

impl View {
    /// Applies one message of the stream.
    pub fn apply(&mut self, response: SubscribeResponse) {
        if let Some(cursor) = response.cursor {
            self.cursor = Some(cursor);
        }
        match response.message {
            Some(Message::Event(event)) => self.apply_event(event),
            Some(Message::Snapshot(snapshot)) => self.apply_snapshot(snapshot),
            Some(Message::Resync(_)) => {
                self.resyncs += 1;
                self.complete = false;
                self.in_snapshot = false;
            }
            Some(Message::Heartbeat(_)) | None => {}
        }
    }

    /// Applies one change.
    pub fn apply_event(&mut self, event: Event) {
        match event.change {
            Some(Change::Call(call)) if call.state() == CallState::Ended => {
                self.calls.remove(&call.id);
            }
            Some(Change::Call(call)) => {
                self.calls.insert(call.id.clone(), call);
            }
            Some(Change::Conference(conference)) => self.apply_conference(conference),
            Some(Change::Participant(change)) => {
                if let Some(conference) = self.conferences.get_mut(&change.conference_id) {
                    conference.reconstructed |= event.reconstructed;
                    conference.polled = event.polled;
                    apply_participant(conference, change);
                }
            }
            Some(Change::Link(link)) => {
                self.links.insert(link.name.clone(), link);
            }
            None => {}
        }
    }

    fn apply_conference(&mut self, mut conference: Conference) {
        if conference.state() == ConferenceState::Ended {
            self.conferences.remove(&conference.id);
            return;
        }
        // The roster comes along only when the conference is new to the stream; else it is as it was.
        if let Some(mut known) = self.conferences.remove(&conference.id)
            && conference.participants.is_empty()
        {
            if conference.connected_count == 0 && conference.pending_count == 0 {
                known.participants.retain(|it| counts(std::slice::from_ref(it)) == (0, 0));
            }
            conference.participants = known.participants;
        }
        self.conferences.insert(conference.id.clone(), conference);
    }

    fn apply_snapshot(&mut self, snapshot: Snapshot) {
        if !self.in_snapshot {
            self.calls.clear();
            self.conferences.clear();
            self.links.clear();
            self.in_snapshot = true;
        }
        self.calls.extend(snapshot.calls.into_iter().map(|call| (call.id.clone(), call)));
        self.conferences.extend(snapshot.conferences.into_iter().map(|conference| (conference.id.clone(), conference)));
        self.links.extend(snapshot.links.into_iter().map(|link| (link.name.clone(), link)));
        if snapshot.complete {
            self.complete = true;
            self.in_snapshot = false;
        }
    }
}

/// Applies a participant's change to its conference: who has left is taken out, counts and version follow.
pub fn apply_participant(conference: &mut Conference, change: ParticipantChange) {
    let Some(participant) = change.participant else { return };
    let place = conference.participants.iter().position(|known| known.id == participant.id);
    match (place, participant.status() == ParticipantStatus::Disconnected) {
        (Some(place), true) => {
            conference.participants.remove(place);
        }
        (Some(place), false) => {
            if let Some(known) = conference.participants.get_mut(place) {
                *known = participant;
            }
        }
        (None, true) => {}
        (None, false) => conference.participants.push(participant),
    }
    conference.version = change.conference_version;
    (conference.connected_count, conference.pending_count) = counts(&conference.participants);
}

/// Connected (or held) and pending participants of a roster: the only way counts come about, so they equal it always.
pub fn counts(roster: &[Participant]) -> (u32, u32) {
    let mut connected = 0;
    let mut pending = 0;
    for participant in roster {
        match participant.status() {
            ParticipantStatus::Connected | ParticipantStatus::OnHold => connected += 1,
            ParticipantStatus::Pending | ParticipantStatus::DialingOut | ParticipantStatus::DialingIn | ParticipantStatus::Alerting => {
                pending += 1
            }
            _ => {}
        }
    }
    (connected, pending)
}
