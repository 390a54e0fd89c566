//! What the sender counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of a sender. Counters begin with zero when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Connections that take requests.
    pub connections: usize,
    /// Requests on their way, over all connections, those that are being drained included.
    pub in_flight: usize,
    /// Requests that wait inside.
    pub waiting: usize,
    /// Requests at the same time that the connections take now.
    pub limit: usize,
    /// Connections opened.
    pub opened: u64,
    /// Attempts to connect that failed.
    pub failed: u64,
    /// Connections that the provider asked to leave.
    pub goaways: u64,
    /// Connections given up because a ping was not answered.
    pub pings_missed: u64,
    /// Provider tokens renewed, by all senders that share them.
    pub tokens_renewed: u64,
    /// Requests sent again because they surely had not been processed.
    pub resent: u64,
    /// Why the last connection or attempt ended; none: never one did.
    pub last_error: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) opened: Counter,
    pub(crate) failed: Counter,
    pub(crate) goaways: Counter,
    pub(crate) pings_missed: Counter,
    pub(crate) resent: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

// === impl Counter ===

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
