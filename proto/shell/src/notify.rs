//! What systemd is told (sd_notify(3)) and the watchdog. A ping is sent only after a fresh task has been scheduled and every
//! registered loop has shown that it still turns: a stuck agent is restarted, not kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use sd_notify::NotifyState;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Tells systemd. Without systemd nothing happens; a failure is logged and changes nothing.
pub fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// A reload begins. systemd wants the time with it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd could not be told of the reload"),
    }
}

/// The loops that must turn for the agent to count as alive.
#[derive(Clone)]
pub struct Heart {
    begun: Instant,
    pulses: Arc<Mutex<Vec<Pulse>>>,
}

/// One loop's sign of life.
#[derive(Clone)]
pub struct Pulse {
    name: &'static str,
    silence: Duration,
    begun: Instant,
    last_ms: Arc<AtomicU64>,
}

// === impl Heart ===

impl Default for Heart {
    fn default() -> Self {
        Self { begun: Instant::now(), pulses: Arc::default() }
    }
}

impl Heart {
    /// Registers a loop that promises to beat at least once in `silence`. Dropping the pulse ends the promise.
    pub fn pulse(&self, name: &'static str, silence: Duration) -> Pulse {
        let pulse = Pulse { name, silence, begun: self.begun, last_ms: Arc::default() };
        pulse.beat();
        self.pulses.lock().push(pulse.clone());
        pulse
    }

    /// A loop that has been silent for too long.
    pub fn silent(&self) -> Option<&'static str> {
        let mut pulses = self.pulses.lock();
        pulses.retain(|pulse| Arc::strong_count(&pulse.last_ms) > 1);
        pulses.iter().find(|pulse| pulse.since_last() > pulse.silence).map(|pulse| pulse.name)
    }

    /// Pings systemd's watchdog at half its interval until `stop`.
    pub async fn watchdog(self, interval: Duration, stop: CancellationToken) {
        let period = interval / 2;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            // Another worker must take this up: a runtime whose workers are all stuck does not.
            let scheduled = tokio::time::timeout(period, tokio::spawn(async {})).await.is_ok();
            match self.silent() {
                None if scheduled => tell(&[NotifyState::Watchdog]),
                None => tracing::error!("watchdog not pinged: the runtime does not schedule tasks"),
                Some(stuck) => tracing::error!(stuck, "watchdog not pinged: a loop is stuck"),
            }
        }
    }
}

// === impl Pulse ===

impl Pulse {
    /// The loop turns.
    pub fn beat(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn since_last(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_loop_is_found_and_a_dropped_one_is_forgotten() {
        let heart = Heart::default();
        let model = heart.pulse("model", Duration::from_secs(5));
        let journal = heart.pulse("journal", Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(heart.silent(), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(heart.silent(), Some("model"));
        model.beat();
        assert_eq!(heart.silent(), None);
        tokio::time::advance(Duration::from_secs(6)).await;
        drop(model);
        assert_eq!(heart.silent(), None);
        drop(journal);
    }
}
