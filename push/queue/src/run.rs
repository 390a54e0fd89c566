//! One task per application: it takes what may begin, hands it to the sender, and brings the outcomes back, many at a time. Attempts are
//! futures in this task, not tasks: a task each would cost more than the rest of the queue.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use parking_lot::Mutex;
use push_core::{AppName, Class, DeviceId, Outcome, Reason, Sender, Sending, Target, Token, UserId};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    core::{Core, Hashes},
    index::{Place, Ticket},
    lane::{Landed, Start},
    life::Job,
    log,
    options::{Options, time},
    outbox::Wanted,
};

/// The sender of each application.
pub type Senders = HashMap<AppName, Arc<dyn Sender>>;

/// A question to the registry under way.
pub type Telling = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Is told of tokens that are gone. The registry is behind it.
pub trait TokenGone: Send + Sync + 'static {
    /// The provider said so. The answer decides about the other pushes that wait for the token; it comes within the callee's own deadline.
    fn token_gone(&self, gone: Gone) -> Telling;
}

/// A token that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The application.
    pub app: AppName,
    /// The token.
    pub token: Token,
    /// Whose it was when the push was accepted.
    pub user: Option<UserId>,
    /// The device likewise.
    pub device: Option<DeviceId>,
    /// When the provider found it; `None`: it did not say.
    pub since: Option<Timestamp>,
    /// When the attempt began that found it.
    pub begun: Timestamp,
    /// The provider's word.
    pub reason: Reason,
}

/// What the registry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The token is gone: everything that waits for it ends.
    Gone,
    /// It was registered after the provider's time: the push is tried again, others wait on.
    RegisteredLater,
}

/// What the tasks share.
pub(crate) struct Shared {
    pub(crate) core: Mutex<Core>,
    pub(crate) options: Options,
    pub(crate) hashes: Hashes,
    /// The log has something to write.
    pub(crate) commit: Notify,
    pub(crate) gone: Arc<dyn TokenGone>,
    pub(crate) directory: std::path::PathBuf,
    /// Ends the lanes at once.
    pub(crate) stop: CancellationToken,
    /// Ends the log.
    pub(crate) stop_log: CancellationToken,
}

/// Pushes that are read back at the same time: so many times a batch.
const LOADS: usize = 2;
/// Outcomes that are brought back under one lock.
const LANDINGS: usize = 256;
/// After so many at once others get their turn.
const MANY: usize = 64;
/// The longest sleep: the wall clock may have been set meanwhile.
const LONGEST_SLEEP: u64 = 60_000;

type Loading = JoinHandle<Vec<Start>>;

/// An attempt.
struct Flight {
    ticket: Ticket,
    class: Class,
    round: u32,
    begun: u64,
    job: Option<Box<Job>>,
    step: Step,
    waker: Option<Waker>,
    shared: Arc<Shared>,
}

enum Step {
    Sending(Sending),
    Telling(Telling, Outcome),
    GivenUp,
}

/// Runs the lane of an application until the queue is closed.
pub(crate) async fn run(shared: Arc<Shared>, lane: u16, notify: Arc<Notify>) {
    let mut runner = Runner {
        lane,
        flights: FuturesUnordered::new(),
        loads: FuturesUnordered::new(),
        landed: Vec::new(),
        loaded: Vec::new(),
        starts: Vec::new(),
        sender: None,
        version: u32::MAX,
        alarm: Alarm { sleep: Box::pin(tokio::time::sleep(Duration::ZERO)), at: None },
        patience: Box::pin(tokio::time::sleep(shared.options.attempt_patience)),
        shared,
    };
    while let Some(wake) = runner.turn().await {
        runner.wait(wake, &notify).await;
        if runner.shared.stop.is_cancelled() {
            return;
        }
    }
}

struct Runner {
    shared: Arc<Shared>,
    lane: u16,
    flights: FuturesUnordered<Flight>,
    loads: FuturesUnordered<Loading>,
    landed: Vec<Landed>,
    loaded: Vec<Start>,
    starts: Vec<Start>,
    sender: Option<Arc<dyn Sender>>,
    version: u32,
    alarm: Alarm,
    /// When to look for attempts that do not end.
    patience: Pin<Box<Sleep>>,
}

/// A sleep that is only set anew when it must end earlier.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<u64>,
}

/// What to wait for beside attempts.
struct Wake {
    at: Option<u64>,
    now: u64,
}

// === impl Runner ===

impl Runner {
    /// Brings back what has ended and begins what may; `None`: all is done and the queue closes.
    async fn turn(&mut self) -> Option<Wake> {
        loop {
            let many = self.landed.len() >= MANY;
            let now = self.shared.options.clock.millis();
            let capacity = self.sender.as_ref().map(|sender| sender.capacity());
            let connected = capacity.is_none_or(|capacity| capacity.connected);
            let turn = {
                let mut core = self.shared.core.lock();
                for landed in self.landed.drain(..) {
                    core.finish(self.lane, landed, now, connected);
                }
                for start in self.loaded.drain(..) {
                    core.loaded(self.lane, start, now, &mut self.starts);
                }
                let turn = core.take(self.lane, now, capacity, self.loads.len() < LOADS, &mut self.starts);
                if turn.version != self.version {
                    self.sender = core.sender(self.lane);
                }
                turn
            };
            if turn.wanted != Wanted::Never {
                self.shared.commit.notify_one();
            }
            let replaced = turn.version != self.version;
            self.version = turn.version;
            self.start(now);
            if turn.closing && self.flights.is_empty() && self.loads.is_empty() {
                return None;
            }
            if many {
                tokio::task::yield_now().await;
            } else {
                tokio::task::coop::consume_budget().await;
            }
            if self.shared.stop.is_cancelled() {
                return None;
            }
            if !turn.again && !replaced {
                return Some(Wake { at: turn.wake, now });
            }
        }
    }

    fn start(&mut self, now: u64) {
        let mut to_load = Vec::new();
        for start in self.starts.drain(..) {
            let Start { ticket, class, place: _, round, job: Some(job) } = start else {
                to_load.push(start);
                continue;
            };
            let step = match &self.sender {
                Some(sender) => Step::Sending(sender.send(job.request.clone())),
                None => Step::Sending(Box::pin(std::future::ready(Outcome::NotSent { reason: Reason::known("no sender is configured") }))),
            };
            self.flights.push(Flight { ticket, class, round, begun: now, job: Some(job), step, waker: None, shared: self.shared.clone() });
        }
        if !to_load.is_empty() {
            let directory = self.shared.directory.clone();
            self.loads.push(tokio::task::spawn_blocking(move || {
                let places: Vec<Place> = to_load.iter().map(|start| start.place).collect();
                for (start, job) in to_load.iter_mut().zip(log::load(&directory, &places)) {
                    start.job = job;
                }
                to_load
            }));
        }
    }

    async fn wait(&mut self, Wake { at, now }: Wake, notify: &Notify) {
        self.alarm.set(at, now);
        let alarmed = self.alarm.at.is_some();
        let patience = self.shared.options.attempt_patience;
        tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => {}
            () = landing(&mut self.flights, &mut self.landed), if !self.flights.is_empty() => {}
            Some(loaded) = self.loads.next(), if !self.loads.is_empty() => match loaded {
                Ok(loaded) => self.loaded = loaded,
                // The runtime ends.
                Err(error) => tracing::warn!(%error, "waiting pushes could not be read back"),
            },
            () = notify.notified() => {}
            () = &mut self.alarm.sleep, if alarmed => self.alarm.at = None,
            () = &mut self.patience, if !self.flights.is_empty() => {
                self.give_up();
                self.patience.as_mut().reset(Instant::now() + patience / 4);
            }
        }
    }

    /// Attempts that a sender does not end are of unknown outcome.
    fn give_up(&mut self) {
        let now = self.shared.options.clock.millis();
        let patience = crate::options::span(self.shared.options.attempt_patience);
        for flight in self.flights.iter_mut().filter(|flight| now.saturating_sub(flight.begun) >= patience) {
            flight.step = Step::GivenUp;
            if let Some(waker) = flight.waker.take() {
                waker.wake();
            }
        }
    }
}

/// Waits for outcomes and takes all that are there.
async fn landing(flights: &mut FuturesUnordered<Flight>, landed: &mut Vec<Landed>) {
    std::future::poll_fn(|context| {
        while landed.len() < LANDINGS {
            match flights.poll_next_unpin(context) {
                Poll::Ready(Some(one)) => landed.push(one),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if landed.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

// === impl Alarm ===

impl Alarm {
    fn set(&mut self, at: Option<u64>, now: u64) {
        let Some(at) = at.map(|at| at.min(now.saturating_add(LONGEST_SLEEP))) else { return };
        // One that rings too early costs one turn; setting it for every batch costs more.
        if self.at.is_none_or(|set| set > at) {
            self.at = Some(at);
            self.sleep.as_mut().reset(Instant::now() + Duration::from_millis(at.saturating_sub(now)));
        }
    }
}

// === impl Flight ===

impl Flight {
    fn land(&mut self, outcome: Outcome, verdict: Option<Verdict>) -> Poll<Landed> {
        let Some(job) = self.job.take() else { return Poll::Pending };
        Poll::Ready(Landed { ticket: self.ticket, class: self.class, round: self.round, outcome, verdict, job })
    }

    /// The question to the registry, if the outcome asks for one.
    fn telling(&self, outcome: &Outcome) -> Option<Telling> {
        let Outcome::TokenGone { since, reason } = outcome else { return None };
        let job = self.job.as_ref()?;
        let (Target::Device(token) | Target::Browser(token, _)) = &job.request.target else { return None };
        let gone = Gone {
            app: job.app.clone(),
            token: token.clone(),
            user: job.user.clone(),
            device: job.device.clone(),
            since: *since,
            begun: time(self.begun),
            reason: reason.clone(),
        };
        Some(self.shared.gone.token_gone(gone))
    }
}

impl Future for Flight {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Landed> {
        let flight = &mut *self;
        loop {
            let pending = match &mut flight.step {
                Step::GivenUp => return flight.land(Outcome::Unknown { reason: Reason::known("the sender gave no answer") }, None),
                Step::Sending(sending) => match sending.as_mut().poll(context) {
                    Poll::Ready(outcome) => match flight.telling(&outcome) {
                        Some(telling) => {
                            flight.step = Step::Telling(telling, outcome);
                            false
                        }
                        None => return flight.land(outcome, None),
                    },
                    Poll::Pending => true,
                },
                Step::Telling(telling, outcome) => match telling.as_mut().poll(context) {
                    Poll::Ready(verdict) => {
                        let outcome = outcome.clone();
                        return flight.land(outcome, Some(verdict));
                    }
                    Poll::Pending => true,
                },
            };
            if pending {
                if flight.waker.is_none() {
                    flight.waker = Some(context.waker().clone());
                }
                return Poll::Pending;
            }
        }
    }
}
