//! Waits between attempts: doubled up to a bound, with jitter, and over at once when we end.

use std::time::Duration;

use rand::Rng;
use tokio_util::sync::CancellationToken;

const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));

#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// Waits; false: we end.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let wait = WAITS.0.saturating_mul(1 << self.attempts.min(8)).min(WAITS.1);
        self.attempts = self.attempts.saturating_add(1);
        let wait = wait.mul_f64(rand::rng().random_range(0.5..=1.0));
        stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some()
    }
}
