//! Jittered exponential back-off: every loop over the network waits by it.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Waits between attempts: somewhere in the upper half of a bound that doubles.
#[derive(Debug)]
pub struct Backoff {
    bound: Duration,
    first: Duration,
    most: Duration,
    rng: SmallRng,
}

impl Backoff {
    /// Waits that begin at `first` and grow to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { bound: first, first, most, rng: SmallRng::from_os_rng() }
    }

    /// The same waits for the same seed.
    pub fn seeded(first: Duration, most: Duration, seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), ..Self::new(first, most) }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.bound.min(self.most);
        self.bound = bound.saturating_mul(2);
        bound.mul_f64(self.rng.random_range(0.5..=1.0))
    }

    /// An attempt succeeded: begin anew.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_begin_anew_after_a_success() {
        let (first, most) = (Duration::from_millis(10), Duration::from_secs(1));
        let mut backoff = Backoff::seeded(first, most, 1);
        for step in 0..50_u32 {
            let bound = first.saturating_mul(1 << step.min(20)).min(most);
            let wait = backoff.next_wait();
            assert!(wait <= bound && wait >= bound / 2, "step {step}: {wait:?} of {bound:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= first);
    }
}
