//! Making the model equal to the switch: asked for after every doubt and from time to time, done one at a time, repeated with back-off
//! until it succeeds.

use std::{future::Future, sync::Arc, time::Duration};

use mediator_client::switch::{CommandError, backoff::Backoff};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Comparisons begin this far apart at least: doubts that come thick and fast, as from a queue that overflows, are one.
const SPACING: Duration = Duration::from_millis(100);

/// Asks for a comparison, and knows which have been done.
#[derive(Debug)]
pub struct Resync {
    asked: watch::Sender<u64>,
    done: watch::Sender<u64>,
}

/// How a comparison is repeated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between two, when nobody asks.
    pub(super) period: Duration,
    /// After a failure: at first, at most.
    pub(super) first: Duration,
    pub(super) most: Duration,
}

impl Default for Resync {
    fn default() -> Self {
        Self { asked: watch::channel(0).0, done: watch::channel(0).0 }
    }
}

impl Resync {
    /// Asks; many askings before it begins are one.
    pub fn ask(&self) -> u64 {
        let mut ticket = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            ticket = *asked;
        });
        ticket
    }

    /// Asks, and waits until one that began later has succeeded; false: not in time.
    pub async fn ask_and_wait(&self, within: Duration) -> bool {
        let ticket = self.ask();
        let mut done = self.done.subscribe();
        matches!(tokio::time::timeout(within, done.wait_for(|done| *done >= ticket)).await, Ok(Ok(_)))
    }

    /// Does what is asked, by `compare`, until `stop`. `told` hears how each comparison went and how long it took.
    pub(super) async fn run<F>(
        self: Arc<Self>,
        pace: Pace,
        stop: CancellationToken,
        mut compare: impl FnMut() -> F,
        told: impl Fn(Result<(), &CommandError>, Duration),
    ) where
        F: Future<Output = Result<(), CommandError>>,
    {
        let mut asked = self.asked.subscribe();
        let mut backoff = Backoff::new(pace.first, pace.most);
        loop {
            let ticket = *asked.borrow_and_update();
            let began = tokio::time::Instant::now();
            let Some(outcome) = stop.run_until_cancelled(compare()).await else { return };
            told(outcome.as_ref().copied(), began.elapsed());
            let wait = match outcome {
                Ok(()) => {
                    self.done.send_replace(ticket);
                    backoff.reset();
                    pace.period
                }
                Err(_) => backoff.next_wait(),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                // The sender lives in self: this cannot fail.
                _ = asked.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
            if stop.run_until_cancelled(tokio::time::sleep_until(began + SPACING)).await.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_failed_comparison_is_repeated_and_a_waiter_waits_for_one_that_began_later() {
        let resync = Arc::new(Resync::default());
        let stop = CancellationToken::new();
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let pace = Pace { period: Duration::from_secs(3600), first: Duration::from_millis(100), most: Duration::from_secs(1) };
        let compare = move || {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move { if run < 3 { Err(CommandError::not_sent("down")) } else { Ok(()) } }
        };
        let task = tokio::spawn(resync.clone().run(pace, stop.clone(), compare, |_, _| {}));
        assert!(resync.ask_and_wait(Duration::from_secs(60)).await);
        let before = runs.load(Ordering::SeqCst);
        assert!(before >= 4);
        assert!(resync.ask_and_wait(Duration::from_secs(60)).await);
        assert_eq!(runs.load(Ordering::SeqCst), before + 1);
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_doubts_does_not_become_a_storm_of_questions() {
        let resync = Arc::new(Resync::default());
        let stop = CancellationToken::new();
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let pace = Pace { period: Duration::from_secs(3600), first: Duration::from_millis(1), most: Duration::from_millis(1) };
        let compare = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Err(CommandError::not_sent("down")) }
        };
        let task = tokio::spawn(resync.clone().run(pace, stop.clone(), compare, |_, _| {}));
        for _ in 0..1000 {
            resync.ask();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(runs.load(Ordering::SeqCst) <= 11, "{} in a second", runs.load(Ordering::SeqCst));
        stop.cancel();
        task.await.unwrap();
    }
}
