//! Calls as state machines. Observations may come late, twice, out of order and from several monitors: a state of lower rank never
//! replaces a higher one, and what is released stays released.

mod leg;
mod merge;
mod state;

use std::collections::{HashMap, VecDeque};

use ecss_switch::{
    event::{Cause, LegObservation, LegState},
    ids::SwitchCallId,
};
use elph_proto::v1;
use jiff::Timestamp;

use self::{
    leg::{fill, legs_from_numbers, observe_leg, release},
    merge::Merge,
    state::{derive, finish},
};
use crate::{convert, core::Stamp, ids, retired::Retired};

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
    /// The merge that it went through last: every monitor tells it again.
    last_merge: Option<Merge>,
    /// When that was.
    merge_tick: u64,
    tick: u64,
    /// It ended because a list of the switch did not have it any more.
    unlisted: bool,
}

/// Seconds after a call's end in which an observation of it may still come late or twice.
const LATEST_SECONDS: i64 = 3;

fn rings(leg: &LegObservation) -> bool {
    matches!(leg.state, LegState::Initiated | LegState::Alerting | LegState::Queued)
}

/// Whether what is observed belongs to a time after an end, and not to what comes of it late or twice.
fn is_later(end: i64, stamp: &Stamp) -> bool {
    match stamp.switch_time {
        Some(at) => convert::timestamp(at).seconds > end,
        None => stamp.now.as_second() > end + LATEST_SECONDS,
    }
}

/// All calls: those that go on, and the latest that have ended.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    entries: HashMap<String, Entry>,
    /// Our id by (domain, switch id); ended calls stay until they are forgotten, so that late observations find them.
    by_switch_id: HashMap<(String, String), String>,
    retired: Retired<(String, String)>,
    ended: VecDeque<String>,
    pub(crate) active: usize,
    /// Observations that came too late or too often to change anything.
    pub(crate) stale: u64,
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
        self.entries
            .insert(call.id.clone(), Entry { call, leg_ticks: HashMap::new(), last_merge: None, merge_tick: 0, tick: 0, unlisted: false });
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

    /// Whether an observation is about a new call that the switch gave the id of an ended one: it rings after that one's end. Where the
    /// switch states no times (CSTA need not), what rings although the switch had said that there is no such call, or long after the
    /// end, is new.
    fn is_reused(&self, id: &str, leg: &LegObservation, stamp: &Stamp) -> bool {
        let Some(entry) = self.entries.get(id) else { return false };
        let end = entry.call.end_time.as_ref().map(|end| end.seconds);
        rings(leg) && entry.call.state() == v1::CallState::Ended && (entry.unlisted || end.is_some_and(|end| is_later(end, stamp)))
    }

    /// The same of an id that went over into another call.
    fn is_retired(&self, key: &(String, String), leg: &LegObservation, stamp: &Stamp) -> bool {
        self.retired.when(key).is_some_and(|when| !(rings(leg) && is_later(when.as_second(), stamp)))
    }

    /// A leg was seen in a state.
    pub(crate) fn leg(&mut self, domain: &str, leg: &LegObservation, stamp: &Stamp) -> Vec<v1::Call> {
        let key = (domain.to_owned(), leg.call.to_string());
        let known = self.by_switch_id.get(&key).cloned();
        let id = match known {
            Some(id) if !self.is_reused(&id, leg, stamp) => id,
            Some(_) => self.create(key, stamp.switch_time, stamp),
            None if leg.state == LegState::Released || self.is_retired(&key, leg, stamp) => {
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
        let key = (domain.to_owned(), call.to_string());
        let Some(id) = self.by_switch_id.get(&key).cloned() else {
            // A list that was read before its end may still name it.
            self.retired.add(key, stamp.tick, stamp.at());
            self.stale += 1;
            return Vec::new();
        };
        self.end(&id, cause.map(convert::end_cause), stamp).into_iter().collect()
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
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.unlisted = true;
            }
        }
        for call in snapshot {
            changes.extend(self.resync_one(domain, began, call, stamp));
        }
        changes
    }

    fn resync_one(&mut self, domain: &str, began: u64, listed: &CallSnapshot, stamp: &Stamp) -> Option<v1::Call> {
        let key = (domain.to_owned(), listed.call.to_string());
        if self.retired.after(&key, began) {
            return None;
        }
        let known = self.by_switch_id.get(&key).and_then(|id| self.entries.get(id));
        let id = match known {
            Some(entry) if entry.call.state() == v1::CallState::Ended && entry.tick > began => return None,
            // Listed before other legs came into it under this id, and its own left: nothing of the list is about the call as it is.
            Some(entry) if entry.merge_tick > began => return None,
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
            // Lists state whole seconds: they do not take the place of a time that events told more exactly.
            if let Some(start) = listed.start.map(convert::timestamp)
                && entry.call.start_time.is_none_or(|known| known.seconds.abs_diff(start.seconds) > 1)
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
        self.retired.take_back(&key);
        self.by_switch_id.insert(key, id.clone());
        self.active += 1;
        self.entries.insert(
            id.clone(),
            Entry { call, leg_ticks: HashMap::new(), last_merge: None, merge_tick: 0, tick: stamp.tick, unlisted: false },
        );
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
            entry.last_merge = None;
            self.ended.push_back(id.to_owned());
            self.active -= 1;
        }
        Some(entry.call.clone())
    }
}
