//! [`Apns`]: a push goes through checks, waits for room, is sent, and its answer becomes an outcome – all in the future that the caller
//! drives. There is no task and no channel per push: HTTP/2 wakes the caller itself.

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

use h2::{Reason as Code, RecvStream, client::ResponseFuture};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use parking_lot::Mutex;
use push_core::{Backoff, Capacity, Class, Outcome, Provider, Reason, Request, Sender, Sending, connect::Connect};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, Sleep, sleep_until, timeout, timeout_at},
};

use crate::{
    Auth, Settings, SettingsError, Statistics, answer,
    link::{self, Link},
    message::{Message, Template},
    pool::{Phase, Room, Rules, State, Todo},
    settings::Cause,
    statistics::Counters,
    token::Rejected,
};

/// More of a refusal's body is not read; a document of Apple's has some eighty octets.
const LONGEST_BODY: usize = 4096;
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

/// How one request on one connection ended.
enum Reply {
    Answered { status: StatusCode, headers: HeaderMap, body: Vec<u8> },
    NotProcessed(Reason),
    Lost(Reason),
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
            template: Template::new(&settings)?,
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

    /// The connection takes no more requests, the provider says, or HTTP/2 does.
    pub(crate) fn retire(self: &Arc<Self>, link: &Link, error: &h2::Error) {
        let why =
            if error.is_go_away() { format!("the provider sent GOAWAY: {}", Cause::new(error)) } else { Cause::new(error).to_string() };
        let (seated, todo) = self.pool.lock().unseat(link, &why);
        link.retire();
        if seated && error.is_go_away() && error.is_remote() {
            self.counters.goaways.add();
            tracing::info!(at = %self.settings.at, connection = link.number, reason = why, "apns leaves the connection");
        }
        self.settle(todo);
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
    fn send(&self, message: &Message, authorization: Option<HeaderValue>) -> Result<ResponseFuture, Option<h2::Error>> {
        let head = self.shared.template.head(message, authorization).ok_or(None)?;
        let mut requests = self.link.requests.lock();
        let (response, mut body) = requests.as_mut().ok_or(None)?.send_request(head, false).map_err(Some)?;
        // If the stream is dead already, the response says why.
        drop(body.send_data(message.body(), true));
        Ok(response)
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
    let mut timer = pin!(sleep_until(by));
    // Boxed, as all that is rare: every push pays for the size of this future.
    let mut backoff: Option<Box<Backoff>> = None;
    let mut renewed = false;
    loop {
        let enter = Enter { shared, class: message.class, again: backoff.is_some() || renewed, arrival: None };
        let mut permit = match within(timer.as_mut(), enter).await {
            Some(Ok(permit)) => permit,
            Some(Err(NoRoom::Closed)) => return not_sent("the sender is closed"),
            Some(Err(NoRoom::Full)) => return not_sent("too many pushes wait already"),
            None => return shared.not_sent(),
        };
        if let Some(outcome) = worthless(settings, deadline) {
            return outcome;
        }
        let bearer = match &settings.auth {
            Auth::Token(tokens) => Some(tokens.current()),
            Auth::Certificate(_) => None,
        };
        let reply = match permit.send(message, bearer.as_ref().map(|bearer| bearer.value.clone())) {
            Ok(response) => match within(timer.as_mut(), response).await {
                Some(Ok(response)) => {
                    let (head, body) = response.into_parts();
                    let body = if body.is_end_stream() { Vec::new() } else { Box::pin(read(timer.as_mut(), body, head.status)).await };
                    Reply::Answered { status: head.status, headers: head.headers, body }
                }
                Some(Err(error)) => failed(&error),
                None => Reply::Lost(Reason::told(&format!("no answer within {:?}", settings.request_deadline))),
            },
            Err(Some(error)) => {
                shared.retire(&permit.link, &error);
                Reply::NotProcessed(Reason::told(&format!("the connection takes no requests: {error}")))
            }
            Err(None) => Reply::NotProcessed(Reason::known("the connection takes no more requests")),
        };
        let reason = match reply {
            Reply::Answered { status: StatusCode::OK, headers, .. } => {
                permit.proven = true;
                let id = headers.get("apns-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
                return Outcome::Accepted { provider_id: id };
            }
            Reply::Answered { status, headers, body } => {
                permit.proven = status != StatusCode::FORBIDDEN;
                let outcome = answer::refused(status, &headers, &body, settings.environment, settings.clock.now());
                if answer::is_farewell(&outcome) {
                    let (_, todo) = shared.pool.lock().unseat(&permit.link, "the provider is shutting down");
                    permit.link.retire();
                    shared.settle(todo);
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
fn worthless(settings: &Settings, deadline: Option<Timestamp>) -> Option<Outcome> {
    let expires_at = settings.expires_at();
    if deadline.is_none() && expires_at.is_none() {
        return None;
    }
    let now = settings.clock.now();
    if deadline.is_some_and(|deadline| deadline <= now) {
        return Some(not_sent("its deadline passed before it was sent"));
    }
    let expired = expires_at.is_some_and(|at| at <= now);
    expired.then(|| Outcome::CredentialsExpired { reason: Reason::known("the push certificate has expired") })
}

fn not_sent(reason: &'static str) -> Outcome {
    Outcome::NotSent { reason: Reason::known(reason) }
}

/// `None`: the time is over.
async fn within<F: Future>(timer: Pin<&mut Sleep>, future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = timer => None,
    }
}

/// The body of a refusal. Of an acceptance only its end is awaited: it has no body, and to drop an open stream is to cancel it.
async fn read(mut timer: Pin<&mut Sleep>, mut stream: RecvStream, status: StatusCode) -> Vec<u8> {
    let mut body = Vec::new();
    while !stream.is_end_stream() && body.len() < LONGEST_BODY {
        // The status is what counts; half a body is better than none.
        let Some(Some(Ok(chunk))) = within(timer.as_mut(), stream.data()).await else { break };
        drop(stream.flow_control().release_capacity(chunk.len()));
        if status != StatusCode::OK {
            body.extend(chunk.iter().take(LONGEST_BODY));
        }
    }
    body
}

/// RFC 9113 §6.8 and §8.7: above GOAWAY's last stream and with REFUSED_STREAM nothing was processed. All else is not known.
fn failed(error: &h2::Error) -> Reply {
    let refused = error.is_reset() && error.reason() == Some(Code::REFUSED_STREAM);
    let reason = Reason::told(&Cause::new(error).to_string());
    if error.is_remote() && (error.is_go_away() || refused) { Reply::NotProcessed(reason) } else { Reply::Lost(reason) }
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
