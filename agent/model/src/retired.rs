//! What is over and must not come back: ids of the switch that went over into another call, ended before they were known, or left.
//! Late observations and lists that were read before name them still. Bounded: the oldest are forgotten first.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use jiff::Timestamp;

/// How many are remembered.
const MAX_RETIRED: usize = 4096;

/// The retired ids, and when each was.
#[derive(Debug)]
pub(crate) struct Retired<K> {
    ticks: HashMap<K, (u64, Timestamp)>,
    /// In the order they were retired; one that was taken back or retired anew leaves a trace that `ticks` does not confirm.
    order: VecDeque<(K, u64)>,
}

impl<K> Default for Retired<K> {
    fn default() -> Self {
        Self { ticks: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Eq + Hash + Clone> Retired<K> {
    /// Whether the id is retired.
    pub(crate) fn has(&self, key: &K) -> bool {
        self.ticks.contains_key(key)
    }

    /// Whether it was retired after a place in the order of observations.
    pub(crate) fn after(&self, key: &K, tick: u64) -> bool {
        self.ticks.get(key).is_some_and(|(retired, _)| *retired > tick)
    }

    /// When it was.
    pub(crate) fn when(&self, key: &K) -> Option<Timestamp> {
        self.ticks.get(key).map(|(_, when)| *when)
    }

    pub(crate) fn add(&mut self, key: K, tick: u64, when: Timestamp) {
        while self.order.len() >= MAX_RETIRED {
            let Some((oldest, tick)) = self.order.pop_front() else { break };
            if self.ticks.get(&oldest).is_some_and(|(retired, _)| *retired == tick) {
                self.ticks.remove(&oldest);
            }
        }
        self.ticks.insert(key.clone(), (tick, when));
        self.order.push_back((key, tick));
    }

    /// The switch uses the id again.
    pub(crate) fn take_back(&mut self, key: &K) {
        self.ticks.remove(key);
    }
}
