//! What can be set, with values that fit one agent. Times are wall-clock: deadlines are.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;

/// Bounds and waits of the queue.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most pushes that wait, calls included.
    pub most_pushes: usize,
    /// Most octets of records that wait, calls included.
    pub most_bytes: u64,
    /// Of `most_pushes`: kept for calls.
    pub call_pushes: usize,
    /// Of `most_bytes`: kept for calls.
    pub call_bytes: u64,
    /// Octets of waiting pushes kept in memory; others are read back from disk when their turn comes. Calls may use twice as much.
    pub memory_bytes: usize,
    /// A new file begins when one has so many octets.
    pub segment_bytes: u64,
    /// Octets of files kept for the history when nothing in them waits any more.
    pub kept_bytes: u64,
    /// How long they are kept.
    pub kept_age: Duration,
    /// Most attempts of one application at the same time; the sender's capacity counts, too.
    pub in_flight: usize,
    /// Most attempts of one push that reached the provider, or may have, and failed.
    pub attempts: u8,
    /// A push without deadline, or with a later one, is given up at this age.
    pub most_age: Duration,
    /// Waits between attempts of one push.
    pub retry: Waits,
    /// The same of a call.
    pub call_retry: Waits,
    /// Pauses of an application whose provider is in trouble.
    pub pause: Waits,
    /// An attempt without any outcome after this time is given up: it guards against senders that do not end.
    pub attempt_patience: Duration,
    /// The disk is in trouble when it has not answered for so long.
    pub disk_patience: Duration,
    /// Ended pushes whose ids are remembered, so that a repetition is known as one.
    pub remembered: usize,
    /// Steps that wait for a slow watcher at most.
    pub watch_backlog: usize,
    /// The time.
    pub clock: Clock,
}

/// Waits that double from `first` to `most`; the half of each is left to chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// The first.
    pub first: Duration,
    /// The longest.
    pub most: Duration,
}

/// Where the time comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            most_pushes: 500_000,
            most_bytes: 512 << 20,
            call_pushes: 10_000,
            call_bytes: 16 << 20,
            memory_bytes: 8 << 20,
            segment_bytes: 8 << 20,
            kept_bytes: 256 << 20,
            kept_age: Duration::from_secs(7 * 86_400),
            in_flight: 4000,
            attempts: 12,
            most_age: Duration::from_secs(86_400),
            retry: Waits { first: Duration::from_millis(500), most: Duration::from_secs(60) },
            call_retry: Waits { first: Duration::from_millis(100), most: Duration::from_secs(2) },
            pause: Waits { first: Duration::from_millis(250), most: Duration::from_secs(60) },
            attempt_patience: Duration::from_secs(120),
            disk_patience: Duration::from_secs(30),
            remembered: 65_536,
            watch_backlog: 4096,
            clock: Clock::system(),
        }
    }
}

// === impl Waits ===

impl Waits {
    /// The wait after the `count`th failure, counted from one; `chance` is in 0..1.
    pub(crate) fn after(self, count: u32, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(count.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.most).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

// === impl Clock ===

impl Clock {
    /// The system's.
    pub fn system() -> Self {
        Self(Arc::new(Timestamp::now))
    }

    /// Starts at `start` and goes as tokio's clock does, which tests can pause.
    pub fn with_tokio(start: Timestamp) -> Self {
        let begin = tokio::time::Instant::now();
        Self(Arc::new(move || start.saturating_add(begin.elapsed()).unwrap_or(Timestamp::MAX)))
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// Now, in milliseconds since the epoch.
    pub(crate) fn millis(&self) -> u64 {
        millis(self.now())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock(…)")
    }
}

/// Milliseconds since the epoch; times before it are zero.
pub(crate) fn millis(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

/// The time of milliseconds since the epoch; absurd ones are the last there is.
pub(crate) fn time(millis: u64) -> Timestamp {
    i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

/// A duration in whole milliseconds.
pub(crate) fn span(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_half_of_each_is_chance() {
        let waits = Waits { first: Duration::from_millis(100), most: Duration::from_secs(2) };
        assert_eq!(waits.after(1, 1.0), Duration::from_millis(100));
        assert_eq!(waits.after(3, 0.0), Duration::from_millis(200));
        assert_eq!(waits.after(40, 1.0), Duration::from_secs(2));
    }
}
