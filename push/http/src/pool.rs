//! The connections to one origin and who waits for room on them. One task opens them, one after the other, while they are wanted.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use push_core::{Backoff, Capacity, Class, Reason, connect::Connect};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use crate::{
    Limits, Origin,
    connection::{self, Connection},
};

/// A client of one origin. Clones are the same client; when the last one is gone, its connections are closed.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) origin: Origin,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) limits: Limits,
    state: Mutex<State>,
    /// Wakes the task that opens connections while it waits.
    nudge: Arc<Notify>,
    /// Connections that have not ended.
    live: watch::Sender<usize>,
}

struct State {
    connections: Vec<Arc<Connection>>,
    waiting: BTreeMap<Place, oneshot::Sender<Result<Room, Reason>>>,
    /// Places given out; the number is the order.
    places: u64,
    opened: u64,
    /// A task opens connections.
    opening: bool,
    used: bool,
    closed: bool,
    backoff: Backoff,
    not_before: Instant,
    warm_backoff: Backoff,
    warm_not_before: Instant,
    last_failure: Option<Reason>,
    /// What one connection took when one was last open.
    usual: usize,
}

type Place = (Reverse<Class>, u64);

/// A request's place in the line. It has it since `Pool::ask`, whenever it is polled.
pub struct Asked {
    pool: Pool,
    class: Class,
    turn: Turn,
}

enum Turn {
    Now(Room),
    Later(Later),
    Refused(Reason),
}

struct Later {
    pool: Arc<Inner>,
    place: Place,
    receiver: oneshot::Receiver<Result<Room, Reason>>,
}

/// Room for one request on a connection; given back when this is dropped.
pub(crate) struct Room {
    pool: Arc<Inner>,
    connection: Arc<Connection>,
}

/// A connection that ends so soon without having answered anything counts as one that failed to open.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// What is believed of a peer that nobody has talked to.
const USUAL_STREAMS: usize = 100;

// === impl Pool ===

impl Pool {
    /// A client of `origin`. Nothing is opened yet.
    pub fn new(origin: Origin, connect: Arc<dyn Connect>, limits: Limits) -> Self {
        let now = Instant::now();
        let state = State {
            connections: Vec::new(),
            waiting: BTreeMap::new(),
            places: 0,
            opened: 0,
            opening: false,
            used: false,
            closed: false,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
            not_before: now,
            warm_backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(60)),
            warm_not_before: now,
            last_failure: None,
            usual: USUAL_STREAMS.min(limits.streams),
        };
        let inner = Inner { origin, connect, limits, state: Mutex::new(state), nudge: Arc::default(), live: watch::Sender::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// Whose client this is.
    pub fn origin(&self) -> &Origin {
        &self.inner.origin
    }

    /// Opens the first connection ahead of the first request. Must be called within a runtime.
    pub fn warm(&self) {
        let mut state = self.inner.state.lock();
        state.used = true;
        self.inner.open_more(&mut state);
    }

    /// Takes a place in the line, or room at once.
    pub fn ask(&self, class: Class) -> Asked {
        let turn = self.inner.ask(class);
        Asked { pool: self.clone(), class, turn }
    }

    /// What is taken at the same time.
    pub fn capacity(&self) -> Capacity {
        let state = self.inner.state.lock();
        let open = state.connections.iter().filter(|it| !it.gauge.leaving()).map(|it| it.gauge.limit.load(Ordering::Relaxed));
        let (count, sum) = open.fold((0_usize, 0_usize), |(count, sum), limit| (count + 1, sum + limit));
        let more = self.inner.limits.connections.saturating_sub(count).saturating_mul(state.usual);
        Capacity { concurrent: sum.saturating_add(more), connected: count > 0 }
    }

    /// Requests under way, and requests that wait for room.
    pub fn load(&self) -> (usize, usize) {
        let state = self.inner.state.lock();
        (state.connections.iter().map(|it| it.gauge.in_flight.load(Ordering::Relaxed)).sum(), state.waiting.len())
    }

    /// Refuses what waits and what comes, waits until what is under way is answered, and closes the connections.
    pub async fn close(&self) {
        let (waiting, connections) = {
            let mut state = self.inner.state.lock();
            state.closed = true;
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.connections))
        };
        for (_, waiter) in waiting {
            let _gone = waiter.send(Err(Reason::known(CLOSED)));
        }
        for connection in connections {
            connection.leave();
        }
        self.inner.nudge.notify_one();
        let mut live = self.inner.live.subscribe();
        let all = async { live.wait_for(|live| *live == 0).await.map(|_| ()) };
        let _late = tokio::time::timeout(self.inner.limits.answer + connection::GOODBYE, all).await;
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("origin", &self.inner.origin).finish_non_exhaustive()
    }
}

const CLOSED: &str = "the sender is closed";

// === impl Inner ===

impl Inner {
    fn ask(self: &Arc<Self>, class: Class) -> Turn {
        let mut state = self.state.lock();
        if state.closed {
            return Turn::Refused(Reason::known(CLOSED));
        }
        state.used = true;
        // Room that is just being given back belongs to those who wait.
        if state.waiting.is_empty()
            && let Some(connection) = state.with_room()
        {
            return Turn::Now(Room { pool: self.clone(), connection });
        }
        if state.waiting.len() >= self.limits.waiting {
            return Turn::Refused(Reason::known("too many requests wait for room"));
        }
        // Nobody waits for an attempt that comes too late.
        let hopeless = state.connections.is_empty() && state.not_before > Instant::now() + self.limits.wait;
        if hopeless {
            return Turn::Refused(state.last_failure.clone().unwrap_or(Reason::known("no connection")));
        }
        let (sender, receiver) = oneshot::channel();
        state.places += 1;
        let place = (Reverse(class), state.places);
        state.waiting.insert(place, sender);
        if !self.open_more(&mut state) {
            state.waiting.remove(&place);
            return Turn::Refused(Reason::known("not within a runtime"));
        }
        Turn::Later(Later { pool: self.clone(), place, receiver })
    }

    /// Starts the task that opens connections, or wakes it. False: there is no runtime.
    fn open_more(self: &Arc<Self>, state: &mut State) -> bool {
        if state.opening {
            self.nudge.notify_one();
            return true;
        }
        if state.next_attempt(&self.limits).is_none() {
            return true;
        }
        let Ok(runtime) = Handle::try_current() else { return false };
        state.opening = true;
        runtime.spawn(open_while_wanted(Arc::downgrade(self), self.nudge.clone()));
        true
    }

    /// Gives free room to the first in the line.
    pub(crate) fn hand_out(self: &Arc<Self>) {
        loop {
            let (waiter, room) = {
                let mut state = self.state.lock();
                if state.waiting.is_empty() {
                    return;
                }
                let Some(connection) = state.with_room() else { return };
                let room = Room { pool: self.clone(), connection };
                match state.waiting.pop_first() {
                    Some((_, waiter)) => (waiter, room),
                    None => return,
                }
            };
            // Whoever gave up in this moment gives the room back by dropping it; the lock is not held here.
            drop(waiter.send(Ok(room)));
        }
    }

    /// The connection takes no more requests: it is not counted any more. What is under way on it goes on.
    pub(crate) fn leave(self: &Arc<Self>, connection: u64) {
        let left = {
            let mut state = self.state.lock();
            let at = state.connections.iter().position(|it| it.id == connection);
            let left = at.map(|at| state.connections.remove(at));
            if left.is_some() {
                if state.connections.is_empty() {
                    let wait = state.warm_backoff.next_wait();
                    state.warm_not_before = Instant::now() + wait;
                }
                self.open_more(&mut state);
            }
            left
        };
        drop(left);
    }

    /// The connection has ended after `life`.
    pub(crate) fn ended(self: &Arc<Self>, connection: u64, proved: bool, life: Duration) {
        {
            let mut state = self.state.lock();
            if !proved && life < SHORT_LIFE {
                let wait = state.backoff.next_wait();
                state.not_before = Instant::now() + wait;
                state.last_failure = Some(Reason::known("the service closes connections at once"));
            } else {
                state.backoff.reset();
            }
        }
        self.leave(connection);
    }

    /// Whether the connection may be closed since it is not used.
    pub(crate) fn is_superfluous(&self) -> bool {
        !self.limits.warm || self.state.lock().connections.len() > 1
    }

    fn opened(self: &Arc<Self>, connection: Arc<Connection>) {
        let closed = {
            let mut state = self.state.lock();
            state.usual = connection.gauge.limit.load(Ordering::Relaxed);
            if !state.closed {
                state.connections.push(connection.clone());
            }
            state.closed
        };
        if closed {
            connection.leave();
        }
        self.hand_out();
    }

    fn failed(self: &Arc<Self>, reason: Reason) {
        let waiting = {
            let mut state = self.state.lock();
            let wait = state.backoff.next_wait();
            state.not_before = Instant::now() + wait;
            state.last_failure = Some(reason.clone());
            if state.connections.is_empty() { std::mem::take(&mut state.waiting) } else { BTreeMap::new() }
        };
        for (_, waiter) in waiting {
            let _gone = waiter.send(Err(reason.clone()));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for connection in &self.state.get_mut().connections {
            connection.leave();
        }
        self.nudge.notify_one();
    }
}

impl State {
    /// Takes room on the first connection that has some: the others become idle and are closed.
    fn with_room(&mut self) -> Option<Arc<Connection>> {
        let connection = self.connections.iter().find(|it| it.gauge.has_room())?;
        connection.gauge.in_flight.fetch_add(1, Ordering::SeqCst);
        Some(connection.clone())
    }

    /// When the next connection is to be opened; `None`: none is wanted.
    fn next_attempt(&self, limits: &Limits) -> Option<Instant> {
        let open = self.connections.iter().filter(|it| !it.gauge.leaving()).count();
        if self.closed {
            None
        } else if !self.waiting.is_empty() && open < limits.connections {
            Some(self.not_before)
        } else if limits.warm && self.used && open == 0 {
            Some(self.not_before.max(self.warm_not_before))
        } else {
            None
        }
    }
}

async fn open_while_wanted(pool: Weak<Inner>, nudge: Arc<Notify>) {
    loop {
        let at = {
            let Some(inner) = pool.upgrade() else { return };
            let mut state = inner.state.lock();
            let Some(at) = state.next_attempt(&inner.limits) else {
                state.opening = false;
                return;
            };
            at
        };
        if at > Instant::now() {
            // Someone who asks meanwhile may want it sooner than the attempt to stay warm.
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = nudge.notified() => {}
            }
            continue;
        }
        let Some((connect, origin, limits, id)) = pool.upgrade().map(|inner| {
            let mut state = inner.state.lock();
            state.opened += 1;
            (inner.connect.clone(), inner.origin.clone(), inner.limits.clone(), state.opened)
        }) else {
            return;
        };
        let deadline = limits.connect;
        let opened = tokio::time::timeout(deadline, connection::open(&*connect, &origin, limits, id)).await;
        let Some(inner) = pool.upgrade() else { return };
        match opened {
            Ok(Ok((connection, driver))) => {
                inner.live.send_modify(|live| *live += 1);
                tokio::spawn(drive(driver, Arc::downgrade(&inner), inner.live.clone()));
                inner.opened(connection);
            }
            Ok(Err(error)) => inner.failed(Reason::told(&format!("connecting to {origin} failed: {error}"))),
            Err(_) => inner.failed(Reason::told(&format!("connecting to {origin} took longer than {} s", deadline.as_secs_f32()))),
        }
    }
}

async fn drive(mut driver: connection::Driver, pool: Weak<Inner>, live: watch::Sender<usize>) {
    driver.serve(&pool).await;
    let (id, proved, life) = driver.obituary();
    drop(driver);
    live.send_modify(|live| *live -= 1);
    if let Some(pool) = pool.upgrade() {
        pool.ended(id, proved, life);
    }
}

// === impl Asked ===

impl Asked {
    pub(crate) fn class(&self) -> Class {
        self.class
    }

    pub(crate) fn pool(&self) -> Pool {
        self.pool.clone()
    }

    pub(crate) async fn room(self) -> Result<Room, Reason> {
        let mut later = match self.turn {
            Turn::Now(room) => return Ok(room),
            Turn::Refused(reason) => return Err(reason),
            Turn::Later(later) => later,
        };
        let wait = later.pool.limits.wait;
        match tokio::time::timeout(wait, &mut later.receiver).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err(Reason::known(CLOSED)),
            Err(_) => {
                let why = later.pool.state.lock().last_failure.clone();
                let why = why.map_or_else(String::new, |why| format!("; the last connection failed: {why}"));
                Err(Reason::told(&format!("no room for it within {} s{why}", wait.as_secs_f32())))
            }
        }
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("class", &self.class).finish_non_exhaustive()
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let waiter = self.pool.state.lock().waiting.remove(&self.place);
        drop(waiter);
    }
}

// === impl Room ===

impl Room {
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Deadline of an answer, and most octets of its body.
    pub(crate) fn bounds(&self) -> (Duration, usize) {
        (self.pool.limits.answer, self.pool.limits.body)
    }

    /// The connection has proved to be one.
    pub(crate) fn answered(&self) {
        if !self.connection.gauge.proved.swap(true, Ordering::Relaxed) {
            let mut state = self.pool.state.lock();
            state.backoff.reset();
            state.warm_backoff.reset();
            state.last_failure = None;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.connection.give_back();
        self.pool.hand_out();
    }
}
