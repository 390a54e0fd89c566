//! Calls as state machines. Observations may come late, twice, out of order and from several monitors: a state of lower rank never
//! replaces a higher one, and what is released stays released.

use std::collections::{HashMap, VecDeque};

use ecss_switch::{
    event::{CallsMerged, Cause, Direction, LegObservation, LegState},
    ids::SwitchCallId,
};
use elph_proto::v1;
use jiff::Timestamp;

use crate::{convert, core::Stamp, ids};

/// A call as a snapshot of the switch lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct CallSnapshot {
    /// The switch's id.
    pub call: SwitchCallId,
    /// Its legs; empty: only the numbers below are known.
    pub legs: Vec<LegObservation>,
    /// When the switch says it began.
    pub start: Option<Timestamp>,
    /// The start that our id is derived from: `start`, or none where the backend's events do not state it (CSTA), so that a call
    /// gets the same id whether it was first seen in an event or in a list.
    pub id_start: Option<Timestamp>,
    /// When it was answered.
    pub answer: Option<Timestamp>,
    /// Caller and called number, where known.
    pub numbers: Option<(String, String)>,
}

/// A call that ended, as the switch's history lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedCall {
    /// The switch's id.
    pub call: SwitchCallId,
    /// When it was answered, if it was.
    pub answer: Option<Timestamp>,
    /// When it ended.
    pub end: Option<Timestamp>,
    /// Who answered.
    pub answered_by: Option<String>,
    /// Why it ended.
    pub cause: Option<Cause>,
}

/// A call and what is known beside its public state.
#[derive(Debug, Clone)]
struct Entry {
    call: v1::Call,
    /// When each leg was last observed, by leg id.
    leg_ticks: HashMap<String, u64>,
    tick: u64,
}

/// All calls: those that go on, and the latest that have ended.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    entries: HashMap<String, Entry>,
    /// Our id by (domain, switch id); ended calls stay until they are forgotten, so that late observations find them.
    by_switch_id: HashMap<(String, String), String>,
    /// Switch ids that went over into another call; late observations of them are dropped.
    retired: VecDeque<((String, String), u64)>,
    ended: VecDeque<String>,
    pub(crate) active: usize,
    /// Observations that came too late or too often to change anything.
    pub(crate) stale: u64,
}

/// How many switch ids of merged calls are remembered.
const MAX_RETIRED: usize = 4096;

/// How far a leg has come; a lower rank never replaces a higher one.
fn rank(state: v1::LegState) -> u8 {
    match state {
        v1::LegState::Unspecified | v1::LegState::Initiated => 0,
        v1::LegState::Queued | v1::LegState::Alerting => 1,
        v1::LegState::Connected | v1::LegState::Held => 2,
        v1::LegState::Failed => 3,
        v1::LegState::Released => 4,
    }
}

fn is_up(leg: &v1::Leg) -> bool {
    matches!(leg.state(), v1::LegState::Connected | v1::LegState::Held)
}

impl Calls {
    pub(crate) fn get(&self, id: &str) -> Option<&v1::Call> {
        self.entries.get(id).map(|entry| &entry.call)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &v1::Call> {
        self.entries.values().map(|entry| &entry.call)
    }

    pub(crate) fn by_switch_id(&self, domain: &str, switch_id: &str) -> Option<&v1::Call> {
        self.get(self.by_switch_id.get(&(domain.to_owned(), switch_id.to_owned()))?)
    }

    /// Takes over a call from before a restart.
    pub(crate) fn restore(&mut self, call: v1::Call) {
        self.by_switch_id.insert((call.domain.clone(), call.switch_call_id.clone()), call.id.clone());
        self.active += 1;
        self.entries.insert(call.id.clone(), Entry { call, leg_ticks: HashMap::new(), tick: 0 });
    }

    /// Forgets the oldest ended calls beyond `keep`.
    pub(crate) fn forget(&mut self, keep: usize) {
        while self.ended.len() > keep {
            let Some(entry) = self.ended.pop_front().and_then(|id| self.entries.remove(&id)) else { continue };
            let key = (entry.call.domain, entry.call.switch_call_id);
            if self.by_switch_id.get(&key) == Some(&entry.call.id) {
                self.by_switch_id.remove(&key);
            }
        }
    }

    /// Whether an observation is about a new call that the switch gave the id of an ended one: it rings after that one's end.
    fn is_reused(&self, id: &str, leg: &LegObservation, stamp: &Stamp) -> bool {
        let end = self.get(id).and_then(|call| call.end_time);
        let later = |at: Timestamp| end.is_some_and(|end| convert::timestamp(at).seconds > end.seconds);
        matches!(leg.state, LegState::Initiated | LegState::Alerting | LegState::Queued) && stamp.switch_time.is_some_and(later)
    }

    fn is_retired(&self, key: &(String, String)) -> bool {
        self.retired.iter().any(|(retired, _)| retired == key)
    }

    fn retire(&mut self, key: (String, String), tick: u64) {
        if self.retired.len() == MAX_RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back((key, tick));
    }

    /// A leg was seen in a state.
    pub(crate) fn leg(&mut self, domain: &str, leg: &LegObservation, stamp: &Stamp) -> Vec<v1::Call> {
        let key = (domain.to_owned(), leg.call.to_string());
        let known = self.by_switch_id.get(&key).cloned();
        let id = match known {
            Some(id) if !self.is_reused(&id, leg, stamp) => id,
            Some(_) => self.create(key, stamp.switch_time, stamp),
            None if leg.state == LegState::Released || self.is_retired(&key) => {
                self.stale += 1;
                return Vec::new();
            }
            None => self.create(key, stamp.switch_time, stamp),
        };
        let changed = self.change(&id, stamp, |entry| observe_leg(entry, leg, stamp, false));
        if changed.is_none() {
            self.stale += 1;
        }
        changed.into_iter().collect()
    }

    /// The switch says that a call is over.
    pub(crate) fn released(&mut self, domain: &str, call: &SwitchCallId, cause: Option<Cause>, stamp: &Stamp) -> Vec<v1::Call> {
        let Some(id) = self.by_switch_id.get(&(domain.to_owned(), call.to_string())).cloned() else {
            self.stale += 1;
            return Vec::new();
        };
        self.end(&id, cause.map(convert::end_cause), stamp).into_iter().collect()
    }

    /// Calls went over into another one: the primary keeps its id, the secondary ends.
    pub(crate) fn merged(&mut self, domain: &str, merge: &CallsMerged, stamp: &Stamp) -> Vec<v1::Call> {
        let key = |id: &SwitchCallId| (domain.to_owned(), id.to_string());
        let find = |calls: &Self, id: &SwitchCallId| calls.by_switch_id.get(&key(id)).cloned();
        let secondary = merge.secondary.as_ref().and_then(|id| find(self, id));
        let primary = match find(self, &merge.primary) {
            Some(id) => id,
            // A second monitor reports the same merge: the primary's old id is retired already.
            None if self.is_retired(&key(&merge.primary)) => match find(self, &merge.into) {
                Some(id) => id,
                None => return Vec::new(),
            },
            None => self.create(key(&merge.primary), stamp.switch_time, stamp),
        };
        let mut changes = Vec::new();
        let mut moved = Vec::new();
        if let Some(secondary) = secondary.filter(|secondary| *secondary != primary) {
            if merge.legs.is_empty() {
                moved = self.entries.get(&secondary).map(|entry| entry.call.legs.clone()).unwrap_or_default();
                moved.retain(|leg| {
                    leg.state() != v1::LegState::Released && Some(leg.device.as_str()) != merge.leaving.as_ref().map(AsRef::as_ref)
                });
            }
            if let Some(entry) = self.entries.get_mut(&secondary).filter(|entry| entry.call.state() != v1::CallState::Ended) {
                entry.call.continued_in.clone_from(&primary);
            }
            changes.extend(self.end(&secondary, Some(convert::end_cause(merge.cause)), stamp));
        }
        let into = key(&merge.into);
        for old in [Some(&merge.primary), merge.secondary.as_ref()].into_iter().flatten().map(key) {
            if old != into && self.by_switch_id.remove(&old).is_some() {
                self.retire(old, stamp.tick);
            }
        }
        self.by_switch_id.insert(into.clone(), primary.clone());
        self.retired.retain(|(retired, _)| *retired != into);
        let change = self.change(&primary, stamp, |entry| {
            let mut changed = entry.call.switch_call_id != into.1;
            entry.call.switch_call_id = into.1;
            if let Some(leaving) = &merge.leaving {
                for leg in entry.call.legs.iter_mut().filter(|leg| leg.device == leaving.as_str() && leg.state() != v1::LegState::Released)
                {
                    release(leg, convert::end_cause(merge.cause), stamp);
                    changed = true;
                }
            }
            for leg in moved {
                if !entry.call.legs.iter().any(|known| known.id == leg.id) {
                    entry.call.legs.push(leg);
                    changed = true;
                }
            }
            for leg in &merge.legs {
                changed |= observe_leg(entry, leg, stamp, true);
            }
            changed
        });
        changes.extend(change);
        changes
    }

    /// Compares the domain's calls with what the switch lists, and makes them equal, except what was observed after the snapshot began.
    pub(crate) fn resync(
        &mut self,
        domain: &str,
        began: u64,
        snapshot: &[CallSnapshot],
        finished: &[FinishedCall],
        stamp: &Stamp,
    ) -> Vec<v1::Call> {
        let mut changes = Vec::new();
        let listed: HashMap<&str, &CallSnapshot> = snapshot.iter().map(|call| (call.call.as_str(), call)).collect();
        let gone: Vec<String> = self
            .entries
            .values()
            .filter(|entry| entry.call.domain == domain && entry.call.state() != v1::CallState::Ended && entry.tick <= began)
            .filter(|entry| !listed.contains_key(entry.call.switch_call_id.as_str()))
            .map(|entry| entry.call.id.clone())
            .collect();
        for id in gone {
            changes.extend(self.end_from_history(&id, finished, stamp));
        }
        for call in snapshot {
            changes.extend(self.resync_one(domain, began, call, stamp));
        }
        changes
    }

    fn resync_one(&mut self, domain: &str, began: u64, listed: &CallSnapshot, stamp: &Stamp) -> Option<v1::Call> {
        let key = (domain.to_owned(), listed.call.to_string());
        if self.retired.iter().any(|(retired, tick)| *retired == key && *tick > began) {
            return None;
        }
        let known = self.by_switch_id.get(&key).and_then(|id| self.entries.get(id));
        let id = match known {
            Some(entry) if entry.call.state() == v1::CallState::Ended && entry.tick > began => return None,
            // The switch has given the id to a new call, or the end was a mistake of an earlier snapshot: a new call for its users.
            Some(entry) if entry.call.state() == v1::CallState::Ended => self.create(key, listed.id_start, stamp),
            Some(entry) => entry.call.id.clone(),
            None => self.create(key, listed.id_start, stamp),
        };
        self.change(&id, stamp, |entry| {
            let mut changed = entry.call.version == 0;
            if let Some((from, to)) = &listed.numbers {
                changed |= fill(&mut entry.call.calling_number, from) | fill(&mut entry.call.called_number, to);
            }
            if let Some(start) = listed.start.map(convert::timestamp)
                && entry.call.start_time != Some(start)
            {
                entry.call.start_time = Some(start);
                changed = true;
            }
            if let Some(answer) = listed.answer
                && entry.call.answer_time.is_none()
            {
                entry.call.answer_time = Some(convert::timestamp(answer));
                changed = true;
            }
            if listed.legs.is_empty() {
                return changed | legs_from_numbers(entry, listed.answer.is_some(), stamp);
            }
            for leg in &listed.legs {
                if entry.leg_ticks.get(leg.leg.as_str()).is_none_or(|tick| *tick <= began) {
                    changed |= observe_leg(entry, leg, stamp, true);
                }
            }
            let missing =
                |leg: &&mut v1::Leg| leg.state() != v1::LegState::Released && !listed.legs.iter().any(|seen| seen.leg.as_str() == leg.id);
            for leg in entry.call.legs.iter_mut().filter(missing) {
                if entry.leg_ticks.get(&leg.id).is_none_or(|tick| *tick <= began) {
                    release(leg, v1::EndCause::Lost, stamp);
                    changed = true;
                }
            }
            changed
        })
    }

    fn end_from_history(&mut self, id: &str, finished: &[FinishedCall], stamp: &Stamp) -> Option<v1::Call> {
        let switch_id = self.entries.get(id)?.call.switch_call_id.clone();
        let Some(record) = finished.iter().find(|record| record.call.as_str() == switch_id) else {
            return self.end(id, Some(v1::EndCause::Lost), stamp);
        };
        let call = &mut self.entries.get_mut(id)?.call;
        if call.answer_time.is_none() {
            call.answer_time = record.answer.map(convert::timestamp);
        }
        if let Some(answered_by) = record.answered_by.as_ref().filter(|_| call.answer_time.is_some()) {
            fill(&mut call.answered_by, answered_by);
        }
        let at_end = Stamp { now: record.end.unwrap_or(stamp.now), ..*stamp };
        self.end(id, record.cause.map(convert::end_cause), &at_end)
    }

    fn create(&mut self, key: (String, String), start: Option<Timestamp>, stamp: &Stamp) -> String {
        let mut reuse = 0;
        let mut id = ids::call(&key.0, &key.1, start, reuse);
        while self.entries.contains_key(&id) {
            reuse += 1;
            id = ids::call(&key.0, &key.1, start, reuse);
        }
        let call = v1::Call {
            id: id.clone(),
            domain: key.0.clone(),
            switch_call_id: key.1.clone(),
            start_time: Some(convert::timestamp(start.unwrap_or(stamp.now))),
            state: v1::CallState::Initiated.into(),
            ..Default::default()
        };
        self.by_switch_id.insert(key, id.clone());
        self.active += 1;
        self.entries.insert(id.clone(), Entry { call, leg_ticks: HashMap::new(), tick: stamp.tick });
        id
    }

    /// Applies a change to a call that goes on; derives its state anew. `None`: nothing has changed.
    fn change(&mut self, id: &str, stamp: &Stamp, change: impl FnOnce(&mut Entry) -> bool) -> Option<v1::Call> {
        let entry = self.entries.get_mut(id)?;
        if entry.call.state() == v1::CallState::Ended || !change(entry) {
            return None;
        }
        entry.tick = stamp.tick;
        derive(&mut entry.call, stamp);
        self.settle(id, stamp)
    }

    fn end(&mut self, id: &str, cause: Option<v1::EndCause>, stamp: &Stamp) -> Option<v1::Call> {
        let entry = self.entries.get_mut(id)?;
        if entry.call.state() == v1::CallState::Ended {
            self.stale += 1;
            return None;
        }
        entry.tick = stamp.tick;
        for leg in entry.call.legs.iter_mut().filter(|leg| leg.state() != v1::LegState::Released) {
            release(leg, cause.unwrap_or(v1::EndCause::Normal), stamp);
        }
        finish(&mut entry.call, cause, stamp);
        self.settle(id, stamp)
    }

    /// Counts the version up, marks the origin and files the call under the ended ones if it has ended.
    fn settle(&mut self, id: &str, stamp: &Stamp) -> Option<v1::Call> {
        let entry = self.entries.get_mut(id)?;
        entry.call.version += 1;
        entry.call.reconstructed |= stamp.origin.reconstructed;
        entry.call.polled = stamp.origin.polled;
        if entry.call.state() == v1::CallState::Ended {
            entry.leg_ticks = HashMap::new();
            self.ended.push_back(id.to_owned());
            self.active -= 1;
        }
        Some(entry.call.clone())
    }
}

/// Sets a text that is not known yet.
fn fill(text: &mut String, value: &str) -> bool {
    let unknown = text.is_empty() && !value.is_empty();
    if unknown {
        value.clone_into(text);
    }
    unknown
}

fn release(leg: &mut v1::Leg, cause: v1::EndCause, stamp: &Stamp) {
    leg.set_state(v1::LegState::Released);
    leg.end_time = Some(convert::timestamp(stamp.at()));
    leg.set_end_cause(cause);
}

/// Applies one observation of a leg. `authoritative`: from a list of the switch, so that a released leg may come back.
fn observe_leg(entry: &mut Entry, seen: &LegObservation, stamp: &Stamp, authoritative: bool) -> bool {
    let call = &mut entry.call;
    let state = convert::leg_state(seen.state);
    let at = Some(convert::timestamp(stamp.at()));
    entry.leg_ticks.insert(seen.leg.to_string(), stamp.tick);
    let place = call.legs.iter().position(|leg| leg.id == seen.leg.as_str());
    let mut changed = false;
    let place = match place {
        Some(place) => place,
        None if seen.state == LegState::Released => return false,
        None => {
            call.legs.push(v1::Leg { id: seen.leg.to_string(), start_time: at, ..Default::default() });
            changed = true;
            call.legs.len() - 1
        }
    };
    let Some(leg) = call.legs.get_mut(place) else { return false };
    if leg.state() == v1::LegState::Released {
        if !authoritative || seen.state == LegState::Released {
            return false;
        }
        *leg = v1::Leg { id: std::mem::take(&mut leg.id), device: std::mem::take(&mut leg.device), start_time: at, ..Default::default() };
        changed = true;
    }
    if let Some(device) = &seen.device {
        changed |= fill(&mut leg.device, device.as_str());
    }
    if let Some(direction) = seen.direction
        && leg.direction() == v1::LegDirection::Unspecified
    {
        leg.set_direction(convert::direction(direction));
        changed = true;
    }
    if (rank(state) >= rank(leg.state()) || authoritative) && leg.state() != state {
        leg.set_state(state);
        changed = true;
        if state == v1::LegState::Released {
            leg.end_time = at;
        }
    }
    if state == leg.state() && matches!(state, v1::LegState::Released | v1::LegState::Failed) {
        let cause = seen.cause.map_or(v1::EndCause::Normal, convert::end_cause);
        if leg.end_cause() == v1::EndCause::Unspecified {
            leg.set_end_cause(cause);
            changed = true;
        }
    }
    if is_up(leg) && leg.answer_time.is_none() {
        leg.answer_time = seen.answered_at.map(convert::timestamp).or(at);
        changed = true;
    }
    changed | numbers(call, seen)
}

/// Caller and called number, as far as a leg tells.
fn numbers(call: &mut v1::Call, seen: &LegObservation) -> bool {
    let device = seen.device.as_ref().map_or("", |device| device.as_str());
    let remote = seen.remote.as_ref().map_or("", |remote| remote.as_str());
    match seen.direction {
        Some(Direction::Originating) => fill(&mut call.calling_number, device) | fill(&mut call.called_number, remote),
        Some(Direction::Terminating) => fill(&mut call.calling_number, remote) | fill(&mut call.called_number, device),
        None => false,
    }
}

/// Where a list gives two numbers and no legs, each number stands for a leg.
fn legs_from_numbers(entry: &mut Entry, answered: bool, stamp: &Stamp) -> bool {
    let call = &mut entry.call;
    let state = if answered { v1::LegState::Connected } else { v1::LegState::Alerting };
    let ends = [
        (call.calling_number.clone(), v1::LegDirection::Originating, v1::LegState::Connected),
        (call.called_number.clone(), v1::LegDirection::Terminating, state),
    ];
    let mut changed = false;
    for (number, direction, state) in ends.into_iter().filter(|(number, ..)| !number.is_empty()) {
        let at = Some(convert::timestamp(stamp.at()));
        let leg = match call.legs.iter().position(|leg| leg.id == number) {
            Some(place) => call.legs.get_mut(place),
            None => {
                changed = true;
                call.legs.push(v1::Leg { id: number.clone(), device: number, start_time: at, ..Default::default() });
                call.legs.last_mut()
            }
        };
        let Some(leg) = leg else { continue };
        if leg.state() != state {
            leg.set_state(state);
            leg.set_direction(direction);
            leg.answer_time = if is_up(leg) { call.answer_time.or(at) } else { None };
            changed = true;
        }
    }
    changed
}

/// The call's state as its legs make it.
fn derive(call: &mut v1::Call, stamp: &Stamp) {
    let up = call.legs.iter().filter(|leg| is_up(leg)).count();
    let answering = call.legs.iter().filter(|leg| is_up(leg) && leg.direction() != v1::LegDirection::Originating).min_by_key(|leg| {
        (leg.direction() != v1::LegDirection::Terminating, leg.answer_time.map_or((i64::MAX, 0), |at| (at.seconds, at.nanos)))
    });
    if let Some(leg) = answering.filter(|leg| up > 1 || leg.direction() == v1::LegDirection::Terminating) {
        if call.answer_time.is_none() {
            call.answer_time = leg.answer_time;
        }
        if call.answered_by.is_empty() {
            call.answered_by.clone_from(&leg.device);
        }
    }
    if !call.legs.is_empty() && call.legs.iter().all(|leg| leg.state() == v1::LegState::Released) {
        finish(call, None, stamp);
        return;
    }
    let rings = |leg: &v1::Leg| {
        matches!(leg.state(), v1::LegState::Alerting | v1::LegState::Queued) && leg.direction() != v1::LegDirection::Originating
    };
    call.set_state(if call.answer_time.is_some() {
        v1::CallState::Connected
    } else if call.legs.iter().any(rings) {
        v1::CallState::Alerting
    } else {
        v1::CallState::Initiated
    });
}

fn finish(call: &mut v1::Call, cause: Option<v1::EndCause>, stamp: &Stamp) {
    let end = convert::timestamp(stamp.at());
    call.set_state(v1::CallState::Ended);
    call.end_time = Some(end);
    call.talk_duration = Some(call.answer_time.as_ref().map(|answer| convert::between(answer, &end)).unwrap_or_default());
    let cause = cause.filter(|cause| *cause != v1::EndCause::Unspecified).unwrap_or_else(|| cause_of(call));
    call.set_end_cause(cause);
}

/// Why a call ended, from how its legs did.
fn cause_of(call: &v1::Call) -> v1::EndCause {
    use v1::EndCause as Cause;
    let causes = || call.legs.iter().map(v1::Leg::end_cause);
    if call.answer_time.is_some() {
        let special = |cause: &Cause| matches!(cause, Cause::NoResources | Cause::Lost);
        return causes().find(special).unwrap_or(Cause::Normal);
    }
    let telling = [
        Cause::Busy,
        Cause::Rejected,
        Cause::NoAnswer,
        Cause::CallerGaveUp,
        Cause::Unobtainable,
        Cause::NoResources,
        Cause::Redirected,
        Cause::Lost,
    ];
    if let Some(cause) = telling.into_iter().find(|telling| causes().any(|cause| cause == *telling)) {
        return cause;
    }
    let end = |direction: v1::LegDirection| {
        call.legs
            .iter()
            .filter(|leg| leg.direction() == direction)
            .filter_map(|leg| leg.end_time.as_ref())
            .map(|at| (at.seconds, at.nanos))
            .min()
    };
    match (end(v1::LegDirection::Originating), end(v1::LegDirection::Terminating)) {
        (Some(caller), Some(called)) if called < caller => Cause::Rejected,
        (Some(_), Some(_)) => Cause::CallerGaveUp,
        _ => Cause::Normal,
    }
}
