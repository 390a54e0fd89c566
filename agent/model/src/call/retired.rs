//! Switch ids that went over into another call: late observations of them are dropped.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;

/// How many are remembered.
const MAX_RETIRED: usize = 4096;

/// Domain and switch id.
type Key = (String, String);

/// The retired ids, and when each was.
#[derive(Debug, Default)]
pub(super) struct Retired {
    ticks: HashMap<Key, (u64, Timestamp)>,
    /// In the order they were retired; one that was taken back or retired anew leaves a trace that `ticks` does not confirm.
    order: VecDeque<(Key, u64)>,
}

impl Retired {
    /// Whether the id went over into another call.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.ticks.contains_key(key)
    }

    /// Whether it did so after a place in the order of observations.
    pub(super) fn after(&self, key: &Key, tick: u64) -> bool {
        self.ticks.get(key).is_some_and(|(retired, _)| *retired > tick)
    }

    /// When it did.
    pub(super) fn when(&self, key: &Key) -> Option<Timestamp> {
        self.ticks.get(key).map(|(_, when)| *when)
    }

    pub(super) fn add(&mut self, key: Key, tick: u64, now: Timestamp) {
        while self.order.len() >= MAX_RETIRED {
            let Some((oldest, tick)) = self.order.pop_front() else { break };
            if self.ticks.get(&oldest).is_some_and(|(retired, _)| *retired == tick) {
                self.ticks.remove(&oldest);
            }
        }
        self.ticks.insert(key.clone(), (tick, now));
        self.order.push_back((key, tick));
    }

    /// The switch uses the id again.
    pub(super) fn take_back(&mut self, key: &Key) {
        self.ticks.remove(key);
    }
}
