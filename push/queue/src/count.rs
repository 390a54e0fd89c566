//! Counters and gauges, as a snapshot: whoever exports them names the metrics.

use std::time::Duration;

use jiff::Timestamp;
use push_core::{AppName, Class, Provider};

use crate::life::State;

/// Upper bounds of the buckets of `Latency`.
const BOUNDS: [Duration; 10] = [
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
];

pub(crate) const CLASSES: [Class; 3] = [Class::Background, Class::Interactive, Class::Call];

/// Steps of one application's pushes by class and state.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts([[u64; 9]; 3]);

/// Values by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ByClass<T>([T; 3]);

/// Durations of writes with their sync.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Latency {
    counts: [u64; 11],
    sum: Duration,
    longest: Duration,
}

/// The queue in numbers.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Each application that has a sender or had pushes, by name.
    pub apps: Vec<AppSnapshot>,
    /// Waiting pushes by class, those under way included.
    pub depth: Vec<(Class, usize)>,
    /// How old the oldest waiting push is, by class.
    pub oldest: Vec<(Class, Duration)>,
    /// Octets of records that wait.
    pub waiting_bytes: u64,
    /// Of these, in memory.
    pub memory_bytes: usize,
    /// Octets of all files.
    pub disk_bytes: u64,
    /// Pushes that were found under way after a crash and sent again, and attempts repeated after an unknown outcome.
    pub possible_duplicates: u64,
    /// Damaged records found when the queue was opened.
    pub damaged: u64,
    /// How long the disk takes to confirm a batch.
    pub sync: Latency,
    /// Why nothing can be accepted, while the disk is in trouble.
    pub disk_trouble: Option<String>,
}

/// One application in numbers.
#[derive(Debug, Clone)]
pub struct AppSnapshot {
    /// Its name.
    pub app: AppName,
    /// Who delivers.
    pub provider: Provider,
    /// False: its pushes wait for a sender to be configured, until their deadlines.
    pub has_sender: bool,
    /// Steps so far, those that happened.
    pub counts: Vec<(Class, State, u64)>,
    /// Waiting pushes by class, those under way included.
    pub depth: Vec<(Class, usize)>,
    /// When the oldest of them was asked for.
    pub oldest: Option<Timestamp>,
    /// Attempts that run.
    pub under_way: usize,
    /// How many may run.
    pub window: usize,
    /// How long it pauses yet because its provider is in trouble.
    pub paused: Option<Duration>,
}

// === impl Counts ===

impl Counts {
    pub(crate) fn add(&mut self, class: Class, state: State) {
        if let Some(count) = self.0.get_mut(class as usize).and_then(|states| states.get_mut(state as usize)) {
            *count += 1;
        }
    }

    pub(crate) fn list(&self) -> Vec<(Class, State, u64)> {
        let states = CLASSES.into_iter().zip(&self.0).flat_map(|(class, states)| {
            let counted = State::ALL.into_iter().map(move |state| (class, state, states.get(state as usize).copied().unwrap_or(0)));
            counted.collect::<Vec<_>>()
        });
        states.filter(|(_, _, count)| *count > 0).collect()
    }
}

// === impl ByClass ===

impl<T> ByClass<T> {
    pub(crate) fn of_mut(&mut self, class: Class) -> &mut T {
        let [background, interactive, call] = &mut self.0;
        match class {
            Class::Background => background,
            Class::Interactive => interactive,
            Class::Call => call,
        }
    }

    pub(crate) fn list(&self) -> Vec<(Class, T)>
    where
        T: Copy,
    {
        CLASSES.into_iter().zip(self.0.iter().copied()).collect()
    }
}

// === impl Latency ===

impl Latency {
    pub(crate) fn add(&mut self, took: Duration) {
        let bucket = BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += took;
        self.longest = self.longest.max(took);
    }

    /// How many took no longer than each bound and longer than the one before; the last has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        BOUNDS.into_iter().map(Some).chain([None]).zip(self.counts)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// How often pushes of the application and class came into the state.
    pub fn count(&self, app: &str, class: Class, state: State) -> u64 {
        let counts = self.apps.iter().filter(|it| it.app.as_str() == app).flat_map(|it| &it.counts);
        counts.filter(|(of, is, _)| (*of, *is) == (class, state)).map(|(_, _, count)| count).sum()
    }

    /// Waiting pushes of all classes.
    pub fn waiting(&self) -> usize {
        self.depth.iter().map(|(_, depth)| depth).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_list_what_happened_and_nothing_else() {
        let mut counts = Counts::default();
        counts.add(Class::Call, State::Failed);
        counts.add(Class::Call, State::Failed);
        counts.add(Class::Background, State::Received);
        assert_eq!(counts.list(), [(Class::Background, State::Received, 1), (Class::Call, State::Failed, 2)]);
    }
}
