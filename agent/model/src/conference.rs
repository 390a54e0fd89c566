//! Conferences as state machines, in the terms of RFC 4575. Counts come from the roster and from nowhere else; who has left stays away
//! until the switch says otherwise with a later time or in a list.

use std::collections::{HashMap, HashSet, VecDeque};

use ecss_switch::{
    event::{ConferenceObservation, ParticipantObservation, ParticipantStatus},
    ids::SwitchConferenceId,
};
use elph_proto::{v1, view::counts};
use jiff::Timestamp;

use crate::{convert, core::Stamp, ids, retired::Retired};

/// A conference as a snapshot of the switch lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct ConferenceSnapshot {
    /// The conference; its id is set.
    pub conference: ConferenceObservation,
    /// Its members; `None`: the list does not say.
    pub members: Option<Vec<ParticipantObservation>>,
}

/// What changed, as the journal writes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ConferenceChange {
    /// As a whole; the roster is in it when the conference is new.
    Conference(v1::Conference),
    /// One participant.
    Participant(v1::ParticipantChange),
}

#[derive(Debug, Clone)]
struct Entry {
    conference: v1::Conference,
    /// When each participant was last observed, those who left included.
    member_ticks: HashMap<String, u64>,
    /// When each participant left.
    left: HashMap<String, Timestamp>,
    tick: u64,
}

/// All conferences: those that go on, and the latest that have ended.
#[derive(Debug, Default)]
pub(crate) struct Conferences {
    entries: HashMap<String, Entry>,
    by_switch_id: HashMap<(String, String), String>,
    ended: VecDeque<String>,
    /// Conferences that ended before they were known here, by domain and switch id.
    unseen: Retired<(String, String)>,
    /// Members who left a conference that was not known here, by domain, the conference's switch id and their own.
    unseen_members: Retired<(String, String, String)>,
    pub(crate) active: usize,
    /// Observations that came too late or too often to change anything.
    pub(crate) stale: u64,
}

/// A member after a change.
#[derive(Debug)]
struct ChangedMember {
    participant: v1::Participant,
    /// False: only who talks has changed. That is no new version, or no decision would ever be made on the present one.
    counts: bool,
}

/// A member that is not as the switch lists it.
enum Difference<'a> {
    Gone(String),
    Listed(&'a ParticipantObservation),
}

/// How many members of one conference that have left are remembered.
const MAX_LEFT: usize = 4096;

impl Conferences {
    pub(crate) fn get(&self, id: &str) -> Option<&v1::Conference> {
        self.entries.get(id).map(|entry| &entry.conference)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &v1::Conference> {
        self.entries.values().map(|entry| &entry.conference)
    }

    pub(crate) fn by_switch_id(&self, domain: &str, switch_id: &str) -> Option<&v1::Conference> {
        self.get(self.by_switch_id.get(&(domain.to_owned(), switch_id.to_owned()))?)
    }

    /// Whether the participant was in the conference and has left.
    pub(crate) fn has_left(&self, id: &str, participant: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.left.contains_key(participant))
    }

    /// Takes over a conference from before a restart.
    pub(crate) fn restore(&mut self, conference: v1::Conference) {
        self.by_switch_id.insert((conference.domain.clone(), conference.switch_conference_id.clone()), conference.id.clone());
        self.active += 1;
        let id = conference.id.clone();
        self.entries.insert(id, Entry { conference, member_ticks: HashMap::new(), left: HashMap::new(), tick: 0 });
    }

    /// Forgets the oldest ended conferences beyond `keep`.
    pub(crate) fn forget(&mut self, keep: usize) {
        while self.ended.len() > keep {
            let Some(entry) = self.ended.pop_front().and_then(|id| self.entries.remove(&id)) else { continue };
            let key = (entry.conference.domain, entry.conference.switch_conference_id);
            if self.by_switch_id.get(&key) == Some(&entry.conference.id) {
                self.by_switch_id.remove(&key);
            }
        }
    }

    /// Something about a conference as a whole was seen.
    pub(crate) fn conference(&mut self, domain: &str, seen: &ConferenceObservation, stamp: &Stamp) -> Vec<ConferenceChange> {
        let Some(switch_id) = &seen.conference else { return Vec::new() };
        // What is told of a conference just after its end is no new one: only a later start is.
        let id = match self.known(domain, switch_id.as_str()) {
            Some(ended) if ended.has_ended() && seen.started_at.is_none() => None,
            None if self.was_over(domain, switch_id, seen.started_at.or(stamp.switch_time)) => None,
            _ => Some(self.find_or_create(domain, switch_id, seen.started_at.or(stamp.switch_time), stamp)),
        };
        let entry = id.and_then(|id| self.entries.get_mut(&id)).filter(|entry| !entry.has_ended());
        let changed = entry.and_then(|entry| entry.observe(seen, stamp).then(|| ConferenceChange::Conference(entry.settled(stamp))));
        if changed.is_none() {
            self.stale += 1;
        }
        changed.into_iter().collect()
    }

    /// A member was seen.
    pub(crate) fn participant(&mut self, domain: &str, seen: &ParticipantObservation, stamp: &Stamp) -> Vec<ConferenceChange> {
        // Only who is in it, or on the way there, shows that there is a conference; who leaves or falls silent comes after its end, too.
        let known = self.known(domain, seen.conference.as_str()).map(|entry| entry.conference.id.clone());
        let id = match seen.status {
            Some(ParticipantStatus::Disconnected) if known.is_none() => {
                self.unseen_members.add(member_key(domain, seen), stamp.tick, stamp.at());
                None
            }
            None | Some(ParticipantStatus::Disconnected) => known,
            Some(_) if known.is_none() && self.is_late(domain, seen, stamp) => None,
            Some(_) => Some(self.find_or_create(domain, &seen.conference, stamp.switch_time, stamp)),
        };
        let Some(entry) = id.and_then(|id| self.entries.get_mut(&id)).filter(|entry| !entry.has_ended()) else {
            self.stale += 1;
            return Vec::new();
        };
        let mut changes = Vec::new();
        if entry.conference.version == 0 {
            changes.push(ConferenceChange::Conference(entry.settled(stamp)));
        }
        match entry.observe_member(seen, stamp, false) {
            Some(changed) => changes.push(entry.member_settled(changed, stamp)),
            None => self.stale += 1,
        }
        changes
    }

    fn known(&self, domain: &str, switch_id: &str) -> Option<&Entry> {
        self.entries.get(self.by_switch_id.get(&(domain.to_owned(), switch_id.to_owned()))?)
    }

    /// Whether a conference ended before it was known here, and what is told now is from before that.
    fn was_over(&self, domain: &str, switch_id: &SwitchConferenceId, at: Option<Timestamp>) -> bool {
        let end = self.unseen.when(&(domain.to_owned(), switch_id.to_string()));
        end.is_some_and(|end| at.is_none_or(|at| at <= end))
    }

    /// Whether a member of a conference that is not known here was told to be in it after they had left, or after its end.
    fn is_late(&self, domain: &str, seen: &ParticipantObservation, stamp: &Stamp) -> bool {
        let left = self.unseen_members.when(&member_key(domain, seen));
        self.was_over(domain, &seen.conference, stamp.switch_time) || left.is_some_and(|left| stamp.switch_time.is_none_or(|at| at <= left))
    }

    /// A conference is over.
    pub(crate) fn ended(&mut self, domain: &str, switch_id: &SwitchConferenceId, stamp: &Stamp) -> Vec<ConferenceChange> {
        let key = (domain.to_owned(), switch_id.to_string());
        let id = self.by_switch_id.get(&key).cloned();
        if id.is_none() {
            // A list that was read before its end may still name it.
            self.unseen.add(key, stamp.tick, stamp.at());
            self.stale += 1;
        }
        id.and_then(|id| self.end(&id, stamp)).into_iter().collect()
    }

    /// Compares the domain's conferences with what the switch lists, and makes them equal, except what was observed after the snapshot began.
    pub(crate) fn resync(&mut self, domain: &str, began: u64, snapshot: &[ConferenceSnapshot], stamp: &Stamp) -> Vec<ConferenceChange> {
        let listed: HashSet<&str> = snapshot.iter().filter_map(|listed| listed.conference.conference.as_ref()).map(AsRef::as_ref).collect();
        let gone = |entry: &&Entry| {
            let here = entry.conference.domain == domain && !entry.has_ended();
            here && entry.last_tick() <= began && !listed.contains(entry.conference.switch_conference_id.as_str())
        };
        let gone: Vec<String> = self.entries.values().filter(gone).map(|entry| entry.conference.id.clone()).collect();
        let mut changes: Vec<ConferenceChange> = gone.iter().filter_map(|id| self.end(id, stamp)).collect();
        for listed in snapshot {
            changes.extend(self.resync_one(domain, began, listed, stamp));
        }
        changes
    }

    fn resync_one(&mut self, domain: &str, began: u64, listed: &ConferenceSnapshot, stamp: &Stamp) -> Vec<ConferenceChange> {
        let Some(switch_id) = &listed.conference.conference else { return Vec::new() };
        let key = (domain.to_owned(), switch_id.to_string());
        let known = self.by_switch_id.get(&key).and_then(|id| self.entries.get(id));
        match known {
            None if self.unseen.after(&key, began) => return Vec::new(),
            Some(entry) if entry.has_ended() && entry.tick > began => return Vec::new(),
            // The switch has given the id to a new conference.
            Some(entry) if entry.has_ended() => {
                self.by_switch_id.remove(&key);
            }
            _ => {}
        }
        let id = self.find_or_create(domain, switch_id, listed.conference.started_at, stamp);
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        let is_new = entry.conference.version == 0;
        if is_new {
            let listed = listed.members.iter().flatten().map(|seen| member_key(domain, seen));
            for key in listed.filter(|key| self.unseen_members.after(key, began)) {
                entry.leave_unseen(key.2, stamp);
            }
        }
        let whole = (entry.tick <= began || is_new) && entry.observe(&listed.conference, stamp);
        let mut changes = Vec::new();
        if whole && !is_new {
            changes.push(ConferenceChange::Conference(entry.settled(stamp)));
        }
        // One after the other: the counts that go with a change are those of the roster after it.
        for seen in entry.differences(listed.members.as_deref(), began) {
            let changed = match seen {
                Difference::Gone(id) => entry.remove(&id, None, stamp),
                Difference::Listed(seen) => entry.observe_member(seen, stamp, true),
            };
            // A new conference is told as a whole.
            if let Some(changed) = changed.filter(|_| !is_new) {
                changes.push(entry.member_settled(changed, stamp));
            }
        }
        if is_new {
            changes.push(ConferenceChange::Conference(entry.settled(stamp)));
        }
        changes
    }

    fn find_or_create(&mut self, domain: &str, switch_id: &SwitchConferenceId, start: Option<Timestamp>, stamp: &Stamp) -> String {
        let key = (domain.to_owned(), switch_id.to_string());
        if let Some(entry) = self.by_switch_id.get(&key).and_then(|id| self.entries.get(id)) {
            // Rooms give their id to one conference after the other: what is later than the end is about the next one.
            let later = |start: Timestamp| entry.conference.end_time.is_some_and(|end| convert::timestamp(start).seconds > end.seconds);
            if !entry.has_ended() || !start.is_some_and(later) {
                return entry.conference.id.clone();
            }
        }
        let mut reuse = 0;
        let mut id = ids::conference(domain, switch_id.as_str(), start, reuse);
        while self.entries.contains_key(&id) {
            reuse += 1;
            id = ids::conference(domain, switch_id.as_str(), start, reuse);
        }
        let conference = v1::Conference {
            id: id.clone(),
            domain: domain.to_owned(),
            switch_conference_id: switch_id.to_string(),
            state: v1::ConferenceState::Active.into(),
            start_time: Some(convert::timestamp(start.unwrap_or(stamp.now))),
            recording: v1::RecordingState::Off.into(),
            ..Default::default()
        };
        self.unseen.take_back(&key);
        self.by_switch_id.insert(key, id.clone());
        self.active += 1;
        self.entries.insert(id.clone(), Entry { conference, member_ticks: HashMap::new(), left: HashMap::new(), tick: stamp.tick });
        id
    }

    fn end(&mut self, id: &str, stamp: &Stamp) -> Option<ConferenceChange> {
        let entry = self.entries.get_mut(id).filter(|entry| !entry.has_ended());
        let Some(entry) = entry else {
            self.stale += 1;
            return None;
        };
        let end = convert::timestamp(stamp.at());
        entry.conference.set_state(v1::ConferenceState::Ended);
        entry.conference.end_time = Some(end);
        entry.conference.duration = entry.conference.start_time.as_ref().map(|start| convert::between(start, &end));
        entry.conference.participants.clear();
        entry.member_ticks = HashMap::new();
        entry.left = HashMap::new();
        self.ended.push_back(id.to_owned());
        self.active -= 1;
        Some(ConferenceChange::Conference(entry.settled(stamp)))
    }
}

// === impl Entry ===

impl Entry {
    fn has_ended(&self) -> bool {
        self.conference.state() == v1::ConferenceState::Ended
    }

    fn last_tick(&self) -> u64 {
        self.member_ticks.values().copied().chain([self.tick]).max().unwrap_or(0)
    }

    /// Applies what is known about the conference as a whole; false: nothing new.
    fn observe(&mut self, seen: &ConferenceObservation, stamp: &Stamp) -> bool {
        let conference = &mut self.conference;
        let before = conference.clone();
        if let Some(name) = &seen.name {
            conference.name.clone_from(name);
        }
        if let Some(room) = &seen.room {
            conference.room.clone_from(room);
        }
        if let Some(start) = seen.started_at {
            conference.start_time = Some(convert::timestamp(start));
        }
        if let Some(end) = seen.ends_at {
            conference.planned_end_time = Some(convert::timestamp(end));
        }
        if let Some(most) = seen.max_participants {
            conference.max_participants = most;
        }
        if let Some(locked) = seen.locked {
            conference.locked = locked;
        }
        if let Some(recording) = seen.recording {
            conference.set_recording(convert::recording(recording));
        }
        if let Some(may) = seen.may_unmute_themselves {
            conference.may_unmute_themselves = may;
        }
        let changed = *conference != before || conference.version == 0;
        if changed {
            self.tick = stamp.tick;
        }
        changed
    }

    /// Applies what is known about a member; `None`: nothing new. `authoritative`: from a list, so one who left may be back.
    fn observe_member(&mut self, seen: &ParticipantObservation, stamp: &Stamp, authoritative: bool) -> Option<ChangedMember> {
        let id = seen.participant.as_str();
        if seen.status == Some(ParticipantStatus::Disconnected) {
            return self.remove(id, seen.cause.map(convert::end_cause), stamp);
        }
        let place = self.conference.participants.iter().position(|known| known.id == id);
        if place.is_none() && !authoritative {
            let late = self.left.get(id).is_some_and(|left| stamp.switch_time.is_none_or(|at| at <= *left));
            // Without a status nothing says that the member is in: a microphone event of one who has left.
            if late || seen.status.is_none() {
                return None;
            }
        }
        self.member_ticks.insert(id.to_owned(), stamp.tick);
        self.left.remove(id);
        let known = place.and_then(|place| self.conference.participants.get(place));
        let mut participant = known.cloned().unwrap_or_else(|| v1::Participant {
            id: id.to_owned(),
            role: v1::ParticipantRole::Participant.into(),
            status: v1::ParticipantStatus::Pending.into(),
            ..Default::default()
        });
        describe(&mut participant, seen, stamp);
        if participant.floor_requested && known.is_none_or(|known| !known.floor_requested) {
            participant.floor_request_time = participant.floor_request_time.map(|at| self.after_other_requests(at));
        }
        let mut counts = true;
        match place.and_then(|place| self.conference.participants.get_mut(place)) {
            Some(known) if *known == participant => return None,
            Some(known) => {
                counts = v1::Participant { talking: known.talking, ..participant.clone() } != *known;
                *known = participant.clone();
            }
            None => self.conference.participants.push(participant.clone()),
        }
        Some(ChangedMember { participant, counts })
    }

    /// The switch's times may be whole seconds: who asks for the floor in the same second as others, but later, waits for less long.
    fn after_other_requests(&self, at: prost_types::Timestamp) -> prost_types::Timestamp {
        let others = self.conference.participants.iter().filter_map(|it| it.floor_request_time);
        match others.filter(|other| other.seconds == at.seconds).map(|other| other.nanos).max() {
            Some(nanos) if nanos >= at.nanos => prost_types::Timestamp { nanos: (nanos + 1).min(999_999_999), ..at },
            _ => at,
        }
    }

    fn remove(&mut self, id: &str, cause: Option<v1::EndCause>, stamp: &Stamp) -> Option<ChangedMember> {
        let place = self.conference.participants.iter().position(|known| known.id == id);
        if self.left.len() >= MAX_LEFT {
            self.left.clear();
            self.member_ticks.retain(|id, _| self.conference.participants.iter().any(|known| known.id == *id));
        }
        // Also of one who is not known: a list that was read before may still name it, and would bring it in for ever.
        self.left.insert(id.to_owned(), stamp.at());
        self.member_ticks.insert(id.to_owned(), stamp.tick);
        let mut participant = self.conference.participants.remove(place?);
        participant.set_status(v1::ParticipantStatus::Disconnected);
        participant.set_end_cause(cause.unwrap_or(v1::EndCause::Normal));
        participant.talking = false;
        participant.floor_requested = false;
        participant.floor_request_time = None;
        Some(ChangedMember { participant, counts: true })
    }

    /// Remembers one who left before the conference was known.
    fn leave_unseen(&mut self, id: String, stamp: &Stamp) {
        self.left.insert(id.clone(), stamp.at());
        self.member_ticks.insert(id, stamp.tick);
    }

    /// Members that may differ from the list, except those that were observed after it was asked for.
    fn differences<'a>(&self, members: Option<&'a [ParticipantObservation]>, began: u64) -> Vec<Difference<'a>> {
        let Some(members) = members else { return Vec::new() };
        let fresher = |id: &str| self.member_ticks.get(id).is_some_and(|tick| *tick > began);
        let listed: HashSet<&str> = members.iter().map(|seen| seen.participant.as_str()).collect();
        let gone = self.conference.participants.iter().map(|known| known.id.as_str()).filter(|id| !listed.contains(id) && !fresher(id));
        let gone = gone.map(|id| Difference::Gone(id.to_owned()));
        gone.chain(members.iter().filter(|seen| !fresher(seen.participant.as_str())).map(Difference::Listed)).collect()
    }

    /// Counts the version up and returns the conference as it is written.
    fn settled(&mut self, stamp: &Stamp) -> v1::Conference {
        self.tick = stamp.tick;
        self.count(stamp, true);
        self.conference.clone()
    }

    fn member_settled(&mut self, changed: ChangedMember, stamp: &Stamp) -> ConferenceChange {
        let ChangedMember { participant, counts } = changed;
        self.count(stamp, counts);
        ConferenceChange::Participant(v1::ParticipantChange {
            conference_id: self.conference.id.clone(),
            participant: Some(participant),
            conference_version: self.conference.version,
            connected_count: self.conference.connected_count,
            pending_count: self.conference.pending_count,
        })
    }

    fn count(&mut self, stamp: &Stamp, counts_as_change: bool) {
        let conference = &mut self.conference;
        conference.version += u64::from(counts_as_change);
        conference.reconstructed |= stamp.origin.reconstructed;
        conference.polled = stamp.origin.polled;
        (conference.connected_count, conference.pending_count) = counts(&conference.participants);
    }
}

fn member_key(domain: &str, seen: &ParticipantObservation) -> (String, String, String) {
    (domain.to_owned(), seen.conference.to_string(), seen.participant.to_string())
}

/// Writes an observation into a participant. Whoever is not connected or has no microphone does not talk.
fn describe(participant: &mut v1::Participant, seen: &ParticipantObservation, stamp: &Stamp) {
    if let Some(number) = &seen.number {
        number.as_str().clone_into(&mut participant.number);
    }
    if let Some(name) = &seen.name {
        participant.display_name.clone_from(name);
    }
    if let Some(role) = seen.role {
        participant.set_role(convert::role(role));
    }
    if let Some(status) = seen.status {
        participant.set_status(convert::participant_status(status));
    }
    if let Some(voice) = seen.voice {
        participant.muted = !voice;
    }
    if let Some(requested) = seen.floor_requested
        && requested != participant.floor_requested
    {
        participant.floor_requested = requested;
        participant.floor_request_time = requested.then(|| convert::timestamp(stamp.at()));
    }
    if let Some(talking) = seen.talking {
        participant.talking = talking;
    }
    if let Some(cause) = seen.cause {
        participant.set_end_cause(convert::end_cause(cause));
    }
    let connected = participant.status() == v1::ParticipantStatus::Connected;
    participant.talking &= connected && !participant.muted;
    if connected && participant.join_time.is_none() {
        participant.join_time = Some(convert::timestamp(stamp.at()));
    }
}
