//! How much one application sends at the same time. Additive increase, multiplicative decrease: a failure that concerns all of a
//! provider's pushes halves the window; when most attempts fail, or the provider says so, there is a pause, and one push goes first.
//! Calls do not obey it, only the places that are kept for them: they are few and worthless later.

use std::time::Duration;

use push_core::Backoff;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::options::{Waits, span};

/// The longest pause that a provider can ask for.
const LONGEST: Duration = Duration::from_secs(600);

/// The window of one application.
#[derive(Debug)]
pub(crate) struct Flow {
    window: f64,
    /// Below it the window doubles per round trip, above it grows by one.
    threshold: f64,
    /// Share of recent attempts that did not meet trouble.
    health: f64,
    /// Changes with every decrease: attempts that began before say nothing about what came after.
    round: u32,
    paused_until: u64,
    backoff: Backoff,
    pause: Waits,
    rng: SmallRng,
}

/// How far trouble goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// An attempt failed, others may succeed.
    One,
    /// Nothing can succeed now: no connection, no credentials.
    All,
    /// The provider names the time.
    Until(Duration),
}

// === impl Flow ===

impl Flow {
    pub(crate) fn new(pause: Waits) -> Self {
        Self {
            window: f64::INFINITY,
            threshold: f64::INFINITY,
            health: 1.0,
            round: 0,
            paused_until: 0,
            backoff: Backoff::new(pause.first, pause.most),
            pause,
            rng: SmallRng::from_os_rng(),
        }
    }

    /// Forgets all trouble: the sender is another one.
    pub(crate) fn reset(&mut self) {
        *self = Self { round: self.round.wrapping_add(1), ..Self::new(self.pause) };
    }

    /// Attempts that begin now carry it.
    pub(crate) fn round(&self) -> u32 {
        self.round
    }

    /// When the pause ends, if there is one.
    pub(crate) fn paused(&self, now: u64) -> Option<u64> {
        Some(self.paused_until).filter(|until| *until > now)
    }

    /// The window, of at most `most`.
    pub(crate) fn window(&self, most: usize) -> usize {
        (self.window.min(most as f64) as usize).max(1)
    }

    /// Whether another push that is no call may begin.
    pub(crate) fn allows(&self, now: u64, under_way: usize, most: usize) -> bool {
        self.paused(now).is_none() && under_way < self.window(most)
    }

    /// The provider answered sensibly.
    pub(crate) fn success(&mut self, round: u32, now: u64) {
        if round != self.round || self.paused(now).is_some() {
            return;
        }
        self.health += (1.0 - self.health) / 16.0;
        self.backoff.reset();
        if self.window.is_finite() {
            self.window += if self.window < self.threshold { 1.0 } else { 1.0 / self.window };
        }
    }

    /// It did not.
    pub(crate) fn trouble(&mut self, round: u32, now: u64, under_way: usize, trouble: Trouble) {
        if self.paused(now).is_some() {
            if let Trouble::Until(after) = trouble {
                self.pause_until(now, after);
            }
            return;
        }
        self.health -= self.health / 16.0;
        if let Trouble::Until(after) = trouble {
            self.pause_until(now, after);
        } else if trouble == Trouble::All || self.health < 0.5 {
            let wait = self.backoff.next_wait();
            self.pause_until(now, wait);
        } else if round == self.round {
            self.round = self.round.wrapping_add(1);
            self.window = self.halved(under_way);
            self.threshold = self.window;
        }
    }

    fn halved(&self, under_way: usize) -> f64 {
        (self.window.min(under_way as f64) / 2.0).max(1.0)
    }

    fn pause_until(&mut self, now: u64, after: Duration) {
        // Agents that were told the same time do not come back in the same moment.
        let wait = after.min(LONGEST).mul_f64(self.rng.random_range(1.0..1.1));
        self.paused_until = self.paused_until.max(now.saturating_add(span(wait).max(1)));
        self.round = self.round.wrapping_add(1);
        self.window = 1.0;
        // What the provider takes when it is well again is not known from when it was not.
        self.threshold = f64::INFINITY;
        // The first failure after the pause leads to the next one.
        self.health = 0.5;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow::new(Waits { first: Duration::from_millis(100), most: Duration::from_secs(10) })
    }

    #[test]
    fn rare_failures_halve_the_window_once_per_round_and_never_stop_the_rest() {
        let mut flow = flow();
        let round = flow.round();
        for _ in 0..5 {
            flow.trouble(round, 0, 1000, Trouble::One);
        }
        assert_eq!((flow.window(1000), flow.paused(0)), (500, None));
        for _ in 0..20_000 {
            flow.success(flow.round(), 0);
        }
        assert!(flow.window(1000) > 500 && flow.window(1000) < 1000);
    }

    #[test]
    fn when_all_fail_there_is_a_pause_then_one_goes_first_and_each_failure_makes_the_pause_longer() {
        let mut flow = flow();
        let mut now = 1;
        let mut pauses = Vec::new();
        let mut attempts = 0;
        for _ in 0..8 {
            while flow.allows(now, 0, 1000) {
                flow.trouble(flow.round(), now, 1000, Trouble::One);
                attempts += 1;
            }
            let until = flow.paused(now).unwrap();
            pauses.push(until - now);
            now = until;
            assert_eq!(flow.window(1000), 1);
        }
        assert!(attempts <= 20, "{attempts}");
        assert!(pauses.last().unwrap() > &4000 && pauses.iter().all(|pause| *pause <= 11_000), "{pauses:?}");
        let mut rounds = 0;
        while flow.window(1000) < 400 {
            for _ in 0..flow.window(1000) {
                flow.success(flow.round(), now);
            }
            rounds += 1;
        }
        assert!(rounds < 12, "{rounds} rounds until it is fast again");
    }

    #[test]
    fn a_time_that_the_provider_names_is_kept_and_an_absurd_one_is_bounded() {
        let mut flow = flow();
        flow.trouble(flow.round(), 0, 10, Trouble::Until(Duration::from_secs(30)));
        assert!(!flow.allows(29_999, 0, 10) && flow.allows(33_001, 0, 10));
        flow.trouble(flow.round(), 40_000, 10, Trouble::Until(Duration::MAX));
        assert!(flow.allows(40_000 + 660_001, 0, 10));
    }

    #[test]
    fn what_began_before_a_pause_neither_ends_nor_lengthens_it() {
        let mut flow = flow();
        let old = flow.round();
        flow.trouble(old, 0, 10, Trouble::All);
        let until = flow.paused(0).unwrap();
        for _ in 0..100 {
            flow.trouble(old, 1, 10, Trouble::All);
            flow.success(old, 1);
        }
        assert_eq!((flow.paused(0), flow.window(10)), (Some(until), 1));
        flow.success(old, until);
        assert_eq!(flow.window(10), 1);
    }
}
