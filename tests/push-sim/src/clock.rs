//! The simulator's clock: the machine's, and what tests have moved it ahead by. Lifetimes of tokens are measured with it, delays are not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

/// Cheap to clone; all clones are one clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Arc<AtomicI64>);

// === impl Clock ===

impl Clock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn now_ms(&self) -> i64 {
        Timestamp::now().as_millisecond().saturating_add(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn now_s(&self) -> i64 {
        self.now_ms().div_euclid(1000)
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.now_ms()).unwrap_or(Timestamp::MAX)
    }
}
