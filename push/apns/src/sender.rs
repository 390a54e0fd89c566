//! [`Apns`]: a push goes through checks, waits for room, is sent, and its answer becomes an outcome – all in the future that the caller
//! drives. There is no task, no channel and no timer per push: the connection wakes the caller.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use push_core::{Backoff, Capacity, Class, Outcome, Provider, Reason, Request, Sender, Sending, connect::Connect};
use push_wire::Refused;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use crate::{
    Auth, Settings, SettingsError, Statistics, answer,
    exchange::Reply,
    link::{self, Answering, Link},
    message::{Message, Template},
    pool::{Phase, Room, Rules, State, Todo},
    statistics::Counters,
    token::{Bearer, Rejected},
};

/// Connections that do not say good-bye within this are dropped.
const FAREWELL: Duration = Duration::from_secs(1);

/// Sends to one application's devices. Connections are opened when the first push comes, or by [`Apns::start`]; from then on there is
/// always one.
pub struct Apns {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) pool: Mutex<State>,
    pub(crate) counters: Counters,
    /// Connections whose task runs.
    pub(crate) alive: AtomicUsize,
    /// Such a task ended.
    pub(crate) ended: Notify,
    template: Template,
    finished: Notify,
    numbers: AtomicU64,
    runtime: OnceLock<Handle>,
}

/// Room on a connection; given back when dropped.
struct Permit {
    shared: Arc<Shared>,
    link: Arc<Link>,
    proven: bool,
}

/// Waits for room.
struct Enter<'a> {
    shared: &'a Arc<Shared>,
    class: Class,
    again: bool,
    arrival: Option<u64>,
}

enum NoRoom {
    Closed,
    Full,
}

// === impl Apns ===

impl Apns {
    /// Checks the settings; opens nothing yet.
    pub fn new(settings: Settings, connect: Arc<dyn Connect>) -> Result<Self, SettingsError> {
        settings.check_shape()?;
        let rules = Rules {
            max_connections: settings.max_connections,
            max_in_flight: settings.max_in_flight,
            max_waiting: settings.max_waiting,
            one_first: matches!(settings.auth, Auth::Token(_)),
            trusted_for: settings.trusted_for,
        };
        let shared = Shared {
            template: Template::new(&settings),
            pool: Mutex::new(State::new(rules, Backoff::new(settings.backoff.0, settings.backoff.1))),
            settings,
            connect,
            counters: Counters::default(),
            alive: AtomicUsize::new(0),
            ended: Notify::new(),
            finished: Notify::new(),
            numbers: AtomicU64::new(0),
            runtime: OnceLock::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Opens a connection before the first push, in the runtime that it is called in: a call does not wait for a handshake then.
    pub fn start(&self) {
        self.shared.runtime();
        let todo = self.shared.pool.lock().start();
        self.shared.settle(todo);
    }

    /// What it did and does.
    pub fn statistics(&self) -> Statistics {
        let counters = &self.shared.counters;
        let pool = self.shared.pool.lock();
        Statistics {
            connections: pool.connections(),
            in_flight: pool.in_flight(),
            waiting: pool.waiting(),
            limit: pool.limit(),
            opened: counters.opened.get(),
            failed: counters.failed.get(),
            goaways: counters.goaways.get(),
            pings_missed: counters.pings_missed.get(),
            tokens_renewed: match &self.shared.settings.auth {
                Auth::Token(tokens) => tokens.renewals(),
                Auth::Certificate(_) => 0,
            },
            resent: counters.resent.get(),
            last_error: pool.last_error().map(str::to_owned),
        }
    }
}

impl Sender for Apns {
    fn provider(&self) -> Provider {
        Provider::Apns
    }

    fn send(&self, request: Request) -> Sending {
        let deadline = request.deadline;
        // Before there is a future, which would be larger by the request.
        match Message::new(request) {
            Ok(message) => Box::pin(send(self.shared.clone(), message, deadline)),
            Err(outcome) => Box::pin(std::future::ready(outcome)),
        }
    }

    fn warm(&self) {
        self.start();
    }

    fn capacity(&self) -> Capacity {
        let pool = self.shared.pool.lock();
        Capacity { concurrent: pool.capacity(), connected: pool.connections() > 0 }
    }

    fn expires_at(&self) -> Option<Timestamp> {
        self.shared.settings.expires_at()
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.shared.close())
    }
}

/// What is still inside is told that the sender is closed.
impl Drop for Apns {
    fn drop(&mut self) {
        let (links, todo) = self.shared.pool.lock().close(Phase::Closed);
        links.iter().for_each(|link| link.abandon());
        self.shared.settle(todo);
    }
}

impl fmt::Debug for Apns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apns").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Where connections live: the runtime that first asked for one.
    pub(crate) fn runtime(&self) -> &Handle {
        self.runtime.get_or_init(Handle::current)
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Does what the pool decided, outside its lock.
    pub(crate) fn settle(self: &Arc<Self>, mut todo: Todo) {
        todo.wake();
        if todo.open {
            link::spawn(self);
        }
        if todo.finished {
            self.finished.notify_waiters();
        }
    }

    /// The provider leaves the connection.
    pub(crate) fn farewell(self: &Arc<Self>, link: &Link, words: &str) {
        let why = format!("the provider said good-bye: {words}");
        if self.leave(link, &why) {
            self.counters.goaways.add();
            tracing::info!(at = %self.settings.at, connection = link.number, reason = why, "apns leaves the connection");
        }
    }

    /// The connection takes no more requests. False: that was known.
    fn leave(self: &Arc<Self>, link: &Link, why: &str) -> bool {
        let (seated, todo) = self.pool.lock().unseat(link, why);
        link.retire();
        self.settle(todo);
        seated
    }

    async fn close(self: &Arc<Self>) {
        let mut finished = pin!(self.finished.notified());
        finished.as_mut().enable();
        let (_, todo) = self.pool.lock().close(Phase::Closing);
        if !todo.finished {
            // Every request has its deadline, so this one is only for the case that nobody drives them.
            drop(timeout(self.settings.request_deadline + FAREWELL, finished).await);
        }
        let (links, todo) = self.pool.lock().close(Phase::Closed);
        self.settle(todo);
        links.iter().for_each(|link| link.retire());
        let by = Instant::now() + FAREWELL;
        while self.alive.load(Ordering::Acquire) > 0 {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.alive.load(Ordering::Acquire) > 0 && timeout_at(by, ended).await.is_err() {
                break;
            }
        }
        links.iter().for_each(|link| link.abandon());
    }

    /// Room, if there is some at once or none at all; `None`: it must be waited for.
    fn room_now(self: &Arc<Self>, class: Class, again: bool) -> Option<Result<Permit, NoRoom>> {
        let room = self.pool.lock().enter_now(class, again)?;
        Some(match room {
            Room::Granted(link) => Ok(Permit { shared: self.clone(), link, proven: false }),
            _ => Err(NoRoom::Closed),
        })
    }

    /// Why a push that waited was not sent.
    fn not_sent(&self) -> Outcome {
        let pool = self.pool.lock();
        let reason = match pool.last_error().filter(|_| pool.connections() == 0) {
            Some(error) => Reason::told(error),
            None => Reason::told(&format!("no room on a connection within {:?}", self.settings.request_deadline)),
        };
        Outcome::NotSent { reason }
    }
}

// === impl Permit ===

impl Permit {
    /// Writes the request. An error means that nothing was sent.
    fn send(&self, message: &Message, bearer: Option<&Bearer>, by: Instant) -> Result<Answering<'_>, Refused> {
        message.with_request(&self.shared.template, bearer, |request| self.link.send(request, by))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let todo = self.shared.pool.lock().leave(&self.link, self.proven);
        self.shared.settle(todo);
    }
}

// === impl Enter ===

impl Future for Enter<'_> {
    type Output = Result<Permit, NoRoom>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (room, todo) = match self.arrival {
            Some(arrival) => (self.shared.pool.lock().enter_again(self.class, arrival, cx.waker()), Todo::default()),
            None => self.shared.pool.lock().enter(self.class, self.again, cx.waker()),
        };
        self.shared.settle(todo);
        self.arrival = None;
        match room {
            Room::Granted(link) => Poll::Ready(Ok(Permit { shared: self.shared.clone(), link, proven: false })),
            Room::Waiting(arrival) => {
                self.arrival = Some(arrival);
                Poll::Pending
            }
            Room::Full => Poll::Ready(Err(NoRoom::Full)),
            Room::Closed => Poll::Ready(Err(NoRoom::Closed)),
        }
    }
}

impl Drop for Enter<'_> {
    fn drop(&mut self) {
        if let Some(arrival) = self.arrival {
            let todo = self.shared.pool.lock().leave_queue(self.class, arrival);
            self.shared.settle(todo);
        }
    }
}

// === one push ===

#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, and thousands are under way")]
fn send(shared: Arc<Shared>, message: Message, deadline: Option<Timestamp>) -> impl Future<Output = Outcome> + Send {
    async move { attempts(&shared, &message, deadline).await }
}

async fn attempts(shared: &Arc<Shared>, message: &Message, deadline: Option<Timestamp>) -> Outcome {
    let settings = &shared.settings;
    shared.runtime();
    let by = Instant::now() + settings.request_deadline;
    // Boxed, as all that is rare: every push pays for the size of this future.
    let mut backoff: Option<Box<Backoff>> = None;
    let mut renewed = false;
    loop {
        let again = backoff.is_some() || renewed;
        let room = match shared.room_now(message.class, again) {
            Some(room) => Some(room),
            None => Box::pin(timeout_at(by, Enter { shared, class: message.class, again, arrival: None })).await.ok(),
        };
        let mut permit = match room {
            Some(Ok(permit)) => permit,
            Some(Err(NoRoom::Closed)) => return not_sent("the sender is closed"),
            Some(Err(NoRoom::Full)) => return not_sent("too many pushes wait already"),
            None => return shared.not_sent(),
        };
        let now = settings.clock.now();
        if let Some(outcome) = worthless(settings, deadline, now) {
            return outcome;
        }
        let bearer = match &settings.auth {
            Auth::Token(tokens) => Some(tokens.current(now)),
            Auth::Certificate(_) => None,
        };
        let reply = match permit.send(message, bearer.as_ref(), by) {
            Ok(answering) => answering.await,
            Err(refused) => {
                if refused == Refused::Leaving {
                    shared.leave(&permit.link, "the connection takes no more requests");
                }
                Reply::NotProcessed(Reason::told(&refused.to_string()))
            }
        };
        let reason = match reply {
            Reply::Answered(answer) if answer.status == 200 => {
                permit.proven = true;
                let id = answer.fields.get("apns-id").and_then(|id| std::str::from_utf8(id).ok()).map(str::to_owned);
                return Outcome::Accepted { provider_id: id };
            }
            Reply::Answered(answer) => {
                permit.proven = answer.status != 403;
                let retry_after = answer.fields.get("retry-after");
                let outcome = answer::refused(answer.status, retry_after, &answer.body, settings.environment, settings.clock.now());
                if answer::is_farewell(&outcome) {
                    shared.leave(&permit.link, "the provider is shutting down");
                }
                let (Auth::Token(tokens), Some(bearer), true) = (&settings.auth, bearer, answer::is_expired_token(&outcome)) else {
                    return outcome;
                };
                match tokens.rejected(bearer.serial) {
                    Rejected::Replaced if !renewed => renewed = true,
                    Rejected::Replaced => return outcome,
                    Rejected::TooSoon(_) => {
                        let reason = Reason::known("ExpiredProviderToken, but the token is new: check this machine's clock");
                        return Outcome::CredentialsExpired { reason };
                    }
                }
                // Apple looked at the token before it looked at the push.
                shared.counters.resent.add();
                continue;
            }
            Reply::NotProcessed(reason) => reason,
            Reply::Lost(reason) => return Outcome::Unknown { reason },
            Reply::Late => {
                let reason = Reason::told(&format!("no answer within {:?}", settings.request_deadline));
                return Outcome::Unknown { reason };
            }
        };
        drop(permit);
        shared.counters.resent.add();
        // The first repetition is at once, for the connection alone was to blame.
        match &mut backoff {
            None => backoff = Some(Box::new(Backoff::new(settings.backoff.0, settings.backoff.1))),
            Some(backoff) => {
                let again = Instant::now() + backoff.next_wait();
                if again >= by {
                    return Outcome::NotSent { reason };
                }
                Box::pin(sleep_until(again)).await;
            }
        }
    }
}

/// Whether the push is not to be sent any more, or cannot be.
fn worthless(settings: &Settings, deadline: Option<Timestamp>, now: Timestamp) -> Option<Outcome> {
    let expires_at = settings.expires_at();
    if deadline.is_some_and(|deadline| deadline <= now) {
        return Some(not_sent("its deadline passed before it was sent"));
    }
    let expired = expires_at.is_some_and(|at| at <= now);
    expired.then(|| Outcome::CredentialsExpired { reason: Reason::known("the push certificate has expired") })
}

fn not_sent(reason: &'static str) -> Outcome {
    Outcome::NotSent { reason: Reason::known(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_under_way_is_small() {
        fn size_of_its_future<T>(_: impl Fn(Arc<Shared>, Message, Option<Timestamp>) -> T) -> usize {
            size_of::<T>()
        }
        // Thousands are under way, and what is larger the allocator does not keep at hand.
        let size = size_of_its_future(send);
        assert!(size <= 1024, "{size}");
    }
}
