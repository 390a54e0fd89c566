//! Calls that went over into another one: transfers and three-ways. The primary keeps our id, the secondary ends. Every monitor of a
//! call reports the same merge, so a report that says nothing new changes nothing.

use ecss_switch::{
    event::{CallsMerged, LegState},
    ids::{Alias, SwitchCallId, SwitchLegId},
};
use elph_proto::v1;

use super::{
    Calls,
    leg::{observe_leg, release},
};
use crate::{convert, core::Stamp};

/// What makes two reports the same merge: how the legs are by now is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Merge {
    primary: SwitchCallId,
    secondary: Option<SwitchCallId>,
    into: SwitchCallId,
    leaving: Option<Alias>,
    legs: Vec<SwitchLegId>,
}

impl From<&CallsMerged> for Merge {
    fn from(seen: &CallsMerged) -> Self {
        let mut legs: Vec<SwitchLegId> = seen.legs.iter().map(|leg| leg.leg.clone()).collect();
        legs.sort_unstable();
        Self {
            primary: seen.primary.clone(),
            secondary: seen.secondary.clone(),
            into: seen.into.clone(),
            leaving: seen.leaving.clone(),
            legs,
        }
    }
}

impl Calls {
    /// Calls went over into another one: the primary keeps its id, the secondary ends.
    pub(crate) fn merged(&mut self, domain: &str, merge: &CallsMerged, stamp: &Stamp) -> Vec<v1::Call> {
        let key = |id: &SwitchCallId| (domain.to_owned(), id.to_string());
        let secondary = merge.secondary.as_ref().and_then(|id| self.by_switch_id.get(&key(id)).cloned());
        // Where the report does not say who is in the resulting call, those of the secondary are who do not leave.
        let moved = match &secondary {
            Some(secondary) if merge.legs.is_empty() => self.legs_that_stay(secondary, merge.leaving.as_ref()),
            _ => Vec::new(),
        };
        let is_call = !moved.is_empty() || merge.legs.iter().any(|leg| leg.state != LegState::Released);
        let Some(primary) = self.primary(domain, merge, is_call, stamp) else {
            self.stale += 1;
            return Vec::new();
        };
        let seen = Merge::from(merge);
        // What has ended stays so, and the call that goes on keeps the switch's id.
        let news = |entry: &&mut super::Entry| entry.call.state() != v1::CallState::Ended && entry.last_merge.as_ref() != Some(&seen);
        let Some(entry) = self.entries.get_mut(&primary).filter(news) else {
            self.stale += 1;
            return Vec::new();
        };
        entry.last_merge = Some(seen);
        entry.merge_tick = stamp.tick;

        let mut changes = Vec::new();
        if let Some(secondary) = secondary.filter(|secondary| *secondary != primary) {
            if let Some(entry) = self.entries.get_mut(&secondary).filter(|entry| entry.call.state() != v1::CallState::Ended) {
                entry.call.continued_in.clone_from(&primary);
            }
            changes.extend(self.end(&secondary, Some(convert::end_cause(merge.cause)), stamp));
        }
        let into = key(&merge.into);
        for old in [Some(&merge.primary), merge.secondary.as_ref()].into_iter().flatten().map(key) {
            if old != into && self.by_switch_id.remove(&old).is_some() {
                self.retired.add(old, stamp.tick, stamp.now);
            }
        }
        self.by_switch_id.insert(into.clone(), primary.clone());
        self.retired.take_back(&into);
        let change = self.change(&primary, stamp, |entry| {
            let mut changed = entry.call.version == 0 || entry.call.switch_call_id != into.1;
            entry.call.switch_call_id = into.1;
            if let Some(leaving) = &merge.leaving {
                let goes = |leg: &&mut v1::Leg| leg.device == leaving.as_str() && leg.state() != v1::LegState::Released;
                for leg in entry.call.legs.iter_mut().filter(goes) {
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

    /// Our id of the call that stays. It is made if the merge is the first that is heard of it, and says who is in it.
    fn primary(&mut self, domain: &str, merge: &CallsMerged, is_call: bool, stamp: &Stamp) -> Option<String> {
        let key = (domain.to_owned(), merge.primary.to_string());
        if let Some(id) = self.by_switch_id.get(&key) {
            return Some(id.clone());
        }
        // A second monitor reports the same merge: the primary's old id is retired already.
        if self.retired.has(&key) {
            return self.by_switch_id.get(&(domain.to_owned(), merge.into.to_string())).cloned();
        }
        is_call.then(|| self.create(key, stamp.switch_time, stamp))
    }

    /// Legs of an ending call that go over into the other one.
    fn legs_that_stay(&self, call: &str, leaving: Option<&Alias>) -> Vec<v1::Leg> {
        let leaves = |leg: &v1::Leg| leaving.is_some_and(|leaving| leg.device == leaving.as_str());
        let legs = self.entries.get(call).map(|entry| entry.call.legs.as_slice()).unwrap_or_default();
        legs.iter().filter(|leg| leg.state() != v1::LegState::Released && !leaves(leg)).cloned().collect()
    }
}
