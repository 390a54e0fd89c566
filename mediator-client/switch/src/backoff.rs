//! Jittered exponential back-off: every loop over the network waits by it.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// The waits between attempts: full jitter over a doubling bound.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempt: u32,
    rng: SmallRng,
}

impl Backoff {
    /// Waits of `first` at the start that grow to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, attempt: 0, rng: SmallRng::from_os_rng() }
    }

    /// The same waits for the same seed.
    pub fn seeded(first: Duration, most: Duration, seed: u64) -> Self {
        Self { first, most, attempt: 0, rng: SmallRng::seed_from_u64(seed) }
    }

    /// The next wait: between half and all of the bound reached so far.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.attempt.min(16)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        bound.mul_f64(self.rng.random_range(0.5..=1.0))
    }

    /// An attempt succeeded: begin anew.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_with_jitter() {
        let mut backoff = Backoff::seeded(Duration::from_millis(100), Duration::from_secs(5), 7);
        let mut bound = 100.0;
        for _ in 0..40 {
            let wait = backoff.next_wait().as_secs_f64() * 1000.0;
            assert!(wait >= bound / 2.0 - 0.001 && wait <= bound + 0.001, "{wait} {bound}");
            bound = f64::min(bound * 2.0, 5000.0);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
