//! A sender that speaks to nobody and is predictable: what it answers is scripted per token, and what it was given is kept.
//! It keeps the rules of `push_core::Sender` (bounded at the same time, calls first, nothing after `close`), so that what drives it is
//! tested against them.

mod turn;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use push_core::{Capacity, Outcome, Provider, Reason, Request, Sender, Sending, Target};
use tokio::{sync::watch, time::Instant};

use crate::turn::{Turn, Turns};

/// Most requests that are kept of what it was given; older ones are forgotten, the count goes on.
pub const KEPT: usize = 100_000;

/// One scripted answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How the attempt ends.
    pub outcome: Outcome,
    /// How long it takes.
    pub delay: Duration,
}

/// A request that it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The request itself.
    pub request: Request,
    /// When its attempt began, that is: when there was room for it.
    pub at: Instant,
    /// The same by the wall clock.
    pub at_time: Timestamp,
}

/// The predictable sender. Every attempt that nothing is scripted for is accepted at once. Clones are the same sender.
#[derive(Clone)]
pub struct Stub {
    shared: Arc<Shared>,
}

struct Shared {
    provider: Provider,
    turns: Turns,
    state: Mutex<State>,
    /// Attempts wait here while it is true.
    held: watch::Sender<bool>,
    /// Changes whenever an attempt begins or ends.
    counts: watch::Sender<Counts>,
}

struct State {
    scripts: HashMap<String, VecDeque<Answer>>,
    otherwise: Answer,
    given: VecDeque<Given>,
    connected: bool,
    expires_at: Option<Timestamp>,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Attempts that began.
    pub begun: u64,
    /// Attempts that ended or were dropped.
    pub ended: u64,
    /// Most attempts at the same time.
    pub most_at_once: u64,
    /// Requests that had to wait inside because there was no room.
    pub waited: u64,
}

// === impl Answer ===

impl Answer {
    /// Ends so at once.
    pub fn of(outcome: Outcome) -> Self {
        Self { outcome, delay: Duration::ZERO }
    }

    /// Accepted at once.
    pub fn accepted() -> Self {
        Self::of(Outcome::Accepted { provider_id: None })
    }

    /// The token is gone since `since`.
    pub fn gone(since: Option<Timestamp>) -> Self {
        Self::of(Outcome::TokenGone { since, reason: Reason::known("Scripted") })
    }

    /// To be tried again after `after`.
    pub fn retry_after(after: Option<Duration>) -> Self {
        Self::of(Outcome::RetryAfter { after, reason: Reason::known("Scripted") })
    }

    /// Too many; of this device only, or of all.
    pub fn throttled(after: Option<Duration>, device_only: bool) -> Self {
        Self::of(Outcome::Throttled { after, device_only, reason: Reason::known("Scripted") })
    }

    /// Nobody knows whether it arrived.
    pub fn unknown() -> Self {
        Self::of(Outcome::Unknown { reason: Reason::known("Scripted") })
    }

    /// It surely did not arrive.
    pub fn not_sent() -> Self {
        Self::of(Outcome::NotSent { reason: Reason::known("Scripted") })
    }

    /// The same, but later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

// === impl Stub ===

impl Stub {
    /// A sender that stands for `provider` and takes `concurrent` requests at the same time (at least one).
    pub fn new(provider: Provider, concurrent: usize) -> Self {
        let state =
            State { scripts: HashMap::new(), otherwise: Answer::accepted(), given: VecDeque::new(), connected: true, expires_at: None };
        let shared = Shared {
            provider,
            turns: Turns::new(concurrent),
            state: Mutex::new(state),
            held: watch::Sender::new(false),
            counts: watch::Sender::new(Counts::default()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The next attempts to this target (a token, a topic or a condition) end so, one after the other; later ones like every other.
    pub fn script(&self, target: &str, answers: impl IntoIterator<Item = Answer>) {
        self.shared.state.lock().scripts.entry(target.to_owned()).or_default().extend(answers);
    }

    /// Attempts that nothing is scripted for end so.
    pub fn otherwise(&self, answer: Answer) {
        self.shared.state.lock().otherwise = answer;
    }

    /// Attempts that began and those that begin do not end until `release`.
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Ends `hold`.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// From now on it takes this many at the same time. Zero: none begins.
    pub fn set_concurrent(&self, concurrent: usize) {
        self.shared.turns.set_most(concurrent);
    }

    /// What `capacity` says about the connection. Without one every attempt ends as `NotSent`.
    pub fn set_connected(&self, connected: bool) {
        self.shared.state.lock().connected = connected;
    }

    /// What `expires_at` says.
    pub fn set_expires_at(&self, at: Option<Timestamp>) {
        self.shared.state.lock().expires_at = at;
    }

    /// What it was given, in the order in which attempts began; at most the last `KEPT`.
    pub fn given(&self) -> Vec<Given> {
        self.shared.state.lock().given.iter().cloned().collect()
    }

    /// Forgets what it was given; the counts go on.
    pub fn forget(&self) {
        self.shared.state.lock().given.clear();
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until the counts are as wanted.
    pub async fn until(&self, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.shared.counts.subscribe();
        // The sender lives in `self`, so the channel is never closed.
        counts.wait_for(wanted).await.map(|counts| *counts).unwrap_or_default()
    }
}

impl Sender for Stub {
    fn provider(&self) -> Provider {
        self.shared.provider
    }

    fn send(&self, request: Request) -> Sending {
        let shared = self.shared.clone();
        // The turn is asked for here, not at the first poll: the order is that of the calls.
        let turn = shared.turns.ask(request.class);
        Box::pin(async move {
            let turn = match turn {
                Turn::Closed => return Outcome::NotSent { reason: Reason::known("the sender is closed") },
                Turn::Now(taken) => taken,
                Turn::Later(later) => {
                    shared.counts.send_modify(|counts| counts.waited += 1);
                    match later.turn().await {
                        Some(taken) => taken,
                        None => return Outcome::NotSent { reason: Reason::known("the sender is closed") },
                    }
                }
            };
            let answer = shared.begin(request);
            let _ended = Ended { shared: shared.clone() };
            if !answer.delay.is_zero() {
                tokio::time::sleep(answer.delay).await;
            }
            let mut held = shared.held.subscribe();
            drop(held.wait_for(|held| !held).await);
            drop(turn);
            answer.outcome
        })
    }

    fn capacity(&self) -> Capacity {
        Capacity { concurrent: self.shared.turns.most(), connected: self.shared.state.lock().connected }
    }

    fn expires_at(&self) -> Option<Timestamp> {
        self.shared.state.lock().expires_at
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.shared.turns.close())
    }
}

impl fmt::Debug for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stub").field("provider", &self.shared.provider).field("counts", &self.counts()).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn begin(&self, request: Request) -> Answer {
        let answer = {
            let mut state = self.state.lock();
            let scripted = state.scripts.get_mut(target(&request)).and_then(VecDeque::pop_front);
            let answer = match scripted {
                _ if !state.connected => Answer::of(Outcome::NotSent { reason: Reason::known("no connection") }),
                Some(scripted) => scripted,
                None => state.otherwise.clone(),
            };
            if state.given.len() >= KEPT {
                state.given.pop_front();
            }
            state.given.push_back(Given { request, at: Instant::now(), at_time: Timestamp::now() });
            answer
        };
        self.counts.send_modify(|counts| {
            counts.begun += 1;
            counts.most_at_once = counts.most_at_once.max(counts.begun - counts.ended);
        });
        answer
    }
}

/// Counts the end, also when the attempt is dropped.
struct Ended {
    shared: Arc<Shared>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.shared.counts.send_modify(|counts| counts.ended += 1);
    }
}

fn target(request: &Request) -> &str {
    match &request.target {
        Target::Device(token) | Target::Browser(token, _) => token.expose(),
        Target::Topic(text) | Target::Condition(text) => text,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use push_core::{Class, Payload, Priority, PushId, Token};

    use super::*;

    fn request(token: &str, class: Class) -> Request {
        Request {
            id: PushId::new(),
            target: Target::Device(Token::parse(Provider::Stub, token).unwrap()),
            class,
            priority: Priority::High,
            deadline: None,
            store: true,
            collapse: None,
            payload: Payload::Stub(Bytes::from_static(b"{}")),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_follow_the_script_of_the_token_and_then_the_common_one() {
        let stub = Stub::new(Provider::Stub, 10);
        stub.script("a", [Answer::retry_after(None), Answer::gone(None).after(Duration::from_secs(2))]);
        let began = Instant::now();
        assert_eq!(stub.send(request("a", Class::Call)).await.name(), "retry_after");
        assert_eq!(stub.send(request("b", Class::Call)).await.name(), "accepted");
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(stub.send(request("a", Class::Call)).await.name(), "token_gone");
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        assert_eq!(stub.send(request("a", Class::Call)).await.name(), "accepted");
        assert_eq!(stub.given().iter().map(|given| target(&given.request).to_owned()).collect::<Vec<_>>(), ["a", "b", "a", "a"]);
        stub.set_connected(false);
        assert_eq!(stub.send(request("a", Class::Call)).await.name(), "not_sent");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_allowed_begin_at_once_and_calls_begin_first() {
        let stub = Stub::new(Provider::Stub, 1);
        stub.hold();
        let classes = [("first", Class::Background), ("bg", Class::Background), ("chat", Class::Interactive), ("call", Class::Call)];
        let sends: Vec<_> = classes.map(|(token, class)| tokio::spawn(stub.send(request(token, class)))).into();
        stub.until(|counts| counts.begun == 1 && counts.waited == 3).await;
        stub.release();
        for send in sends {
            assert_eq!(send.await.unwrap().name(), "accepted");
        }
        let order: Vec<_> = stub.given().iter().map(|given| target(&given.request).to_owned()).collect();
        assert_eq!(order, ["first", "call", "chat", "bg"]);
        assert_eq!(stub.counts(), Counts { begun: 4, ended: 4, most_at_once: 1, waited: 3 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_attempt_gives_its_room_back_whether_it_began_or_waited() {
        let stub = Stub::new(Provider::Stub, 1);
        stub.hold();
        let begun = tokio::spawn(stub.send(request("a", Class::Background)));
        stub.until(|counts| counts.begun == 1).await;
        let waiting = stub.send(request("b", Class::Background));
        let after = tokio::spawn(stub.send(request("c", Class::Background)));
        drop(waiting);
        begun.abort();
        stub.release();
        assert_eq!(after.await.unwrap().name(), "accepted");
    }

    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_what_began_and_refuses_the_rest() {
        let stub = Stub::new(Provider::Stub, 1);
        stub.otherwise(Answer::accepted().after(Duration::from_secs(5)));
        let begun = tokio::spawn(stub.send(request("a", Class::Background)));
        stub.until(|counts| counts.begun == 1).await;
        let waiting = tokio::spawn(stub.send(request("b", Class::Background)));
        stub.until(|counts| counts.waited == 1).await;
        let began = Instant::now();
        stub.close().await;
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert_eq!((begun.await.unwrap().name(), waiting.await.unwrap().name()), ("accepted", "not_sent"));
        assert_eq!(stub.send(request("c", Class::Call)).await.name(), "not_sent");
    }

    #[tokio::test(start_paused = true)]
    async fn with_room_for_none_nothing_begins_until_there_is_room() {
        let stub = Stub::new(Provider::Stub, 0);
        let send = tokio::spawn(stub.send(request("a", Class::Call)));
        stub.until(|counts| counts.waited == 1).await;
        assert_eq!((stub.counts().begun, stub.capacity().concurrent), (0, 0));
        stub.set_concurrent(1);
        assert_eq!(send.await.unwrap().name(), "accepted");
    }
}
