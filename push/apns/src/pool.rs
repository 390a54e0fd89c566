//! Which connection takes the next request, who waits for one, and when another connection is wanted. Pure bookkeeping under one short
//! lock: wakers are called after it, connections are opened by others.
//!
//! A *seat* is a connection that takes requests. A request is *granted* room on a seat; what waits is granted in the order of class,
//! then of arrival. A seat that has nothing to prove takes as many requests as its peer allows. One that is *unproven* (a token Apple
//! has not accepted yet) takes one at a time. One that is *asked* (silent for long, a ping is on its way) takes none until it answers.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use push_core::{Backoff, Class};
use tokio::time::Instant;

use crate::link::Link;

/// Every so many-th place of a connection is kept for calls.
const FOR_CALLS: usize = 16;

/// Calls first, then by arrival.
type Place = (Reverse<Class>, u64);

/// What the decisions depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) max_connections: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) max_waiting: usize,
    /// A connection starts unproven.
    pub(crate) one_first: bool,
    pub(crate) trusted_for: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// What is inside is finished, nothing new is taken.
    Closing,
    /// Nothing is done any more.
    Closed,
}

pub(crate) struct State {
    rules: Rules,
    phase: Phase,
    /// Somebody has sent something: there is to be a connection.
    wanted: bool,
    opening: bool,
    seats: Vec<Seat>,
    waiting: BTreeMap<Place, Waker>,
    granted: HashMap<u64, Arc<Link>>,
    arrivals: u64,
    in_flight: usize,
    /// What a proven connection was last seen to take.
    known_limit: usize,
    backoff: Backoff,
    /// The last attempt or connection was in vain.
    in_vain: bool,
    last_error: Option<String>,
}

struct Seat {
    link: Arc<Link>,
    limit: usize,
    asked: bool,
    doubted: bool,
}

/// Load of a connection, written under the pool's lock, read by the connection's own task.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: AtomicUsize,
    /// Milliseconds since the connection began.
    busy_since: AtomicU64,
    idle_since: AtomicU64,
    proven: AtomicBool,
}

/// Answer to somebody who wants to send.
pub(crate) enum Room {
    Granted(Arc<Link>),
    /// Called when there is room.
    Waiting(u64),
    /// Too many wait already.
    Full,
    Closed,
}

/// What is to be done after the lock was released.
#[must_use]
#[derive(Default)]
pub(crate) struct Todo {
    one: Option<Waker>,
    more: Vec<Waker>,
    /// Open another connection.
    pub(crate) open: bool,
    /// Nothing is inside any more, and somebody waits for that.
    pub(crate) finished: bool,
}

// === impl Todo ===

impl Todo {
    /// Calls those who were granted room.
    pub(crate) fn wake(&mut self) {
        self.one.take().into_iter().chain(self.more.drain(..)).for_each(Waker::wake);
    }

    fn called(&mut self, waker: Waker) {
        if self.one.is_none() { self.one = Some(waker) } else { self.more.push(waker) }
    }
}

// === impl Load ===

impl Load {
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The provider has accepted who we are.
    pub(crate) fn proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// When the first of the requests on their way was sent; the last ended.
    pub(crate) fn since(&self, began: Instant) -> Instant {
        let since = if self.in_flight() > 0 { &self.busy_since } else { &self.idle_since };
        began + Duration::from_millis(since.load(Ordering::Relaxed))
    }

    fn add(&self, began: Instant) {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            self.busy_since.store(millis(began), Ordering::Relaxed);
        }
    }

    fn sub(&self, began: Instant) {
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.idle_since.store(millis(began), Ordering::Relaxed);
        }
    }
}

fn millis(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

// === impl Seat ===

impl Seat {
    /// What is kept for calls, so that they need not wait for a new connection, and for whatever Apple takes first on that.
    fn limit(&self, class: Class) -> usize {
        if class == Class::Call { self.limit } else { self.limit - self.limit / FOR_CALLS }
    }

    fn room(&self, class: Class) -> bool {
        let limit = if self.link.load.proven() { self.limit(class) } else { self.limit.min(1) };
        !self.asked && self.link.load.in_flight() < limit
    }

    /// Nothing but another connection would help.
    fn full(&self, class: Class) -> bool {
        self.link.load.proven() && !self.asked && self.link.load.in_flight() >= self.limit(class)
    }
}

// === impl State ===

impl State {
    pub(crate) fn new(rules: Rules, backoff: Backoff) -> Self {
        Self {
            rules,
            phase: Phase::Open,
            wanted: false,
            opening: false,
            seats: Vec::new(),
            waiting: BTreeMap::new(),
            granted: HashMap::new(),
            arrivals: 0,
            in_flight: 0,
            known_limit: rules.max_in_flight,
            backoff,
            in_vain: false,
            last_error: None,
        }
    }

    /// There is to be a connection.
    pub(crate) fn start(&mut self) -> Todo {
        self.wanted = true;
        self.settle(Todo::default())
    }

    /// Asks for room that is there, or for nothing; `None`: it must be waited for.
    pub(crate) fn enter_now(&mut self, class: Class, again: bool) -> Option<Room> {
        if self.phase == Phase::Closed || (self.phase == Phase::Closing && !again) {
            return Some(Room::Closed);
        }
        self.wanted = true;
        self.seat_with_room(class).map(Room::Granted)
    }

    /// Asks for room; `waker` is called when there is some, if there is none now. `again`: what it had was taken away.
    pub(crate) fn enter(&mut self, class: Class, again: bool, waker: &Waker) -> (Room, Todo) {
        if let Some(room) = self.enter_now(class, again) {
            return (room, Todo::default());
        }
        if self.waiting.len() >= self.rules.max_waiting {
            return (Room::Full, Todo::default());
        }
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.waiting.insert((Reverse(class), arrival), waker.clone());
        (Room::Waiting(arrival), self.settle(Todo::default()))
    }

    /// Asks again, after having waited.
    pub(crate) fn enter_again(&mut self, class: Class, arrival: u64, waker: &Waker) -> Room {
        if let Some(link) = self.granted.remove(&arrival) {
            return Room::Granted(link);
        }
        match self.waiting.get_mut(&(Reverse(class), arrival)) {
            Some(known) => {
                known.clone_from(waker);
                Room::Waiting(arrival)
            }
            None => Room::Closed,
        }
    }

    /// Somebody does not wait any more.
    pub(crate) fn leave_queue(&mut self, class: Class, arrival: u64) -> Todo {
        self.waiting.remove(&(Reverse(class), arrival));
        match self.granted.remove(&arrival) {
            Some(link) => self.leave(&link, false),
            None => self.settle(Todo::default()),
        }
    }

    /// A request has its answer, or was given up. `proven`: the answer shows that the provider knows us.
    pub(crate) fn leave(&mut self, link: &Arc<Link>, proven: bool) -> Todo {
        self.in_flight = self.in_flight.saturating_sub(1);
        link.load.sub(link.began);
        if proven && !link.load.proven() {
            link.load.proven.store(true, Ordering::Relaxed);
            if let Some(seat) = self.seat_of(link) {
                seat.doubted = false;
                self.known_limit = seat.limit;
            }
        }
        if proven && self.in_vain {
            self.succeeded();
        }
        self.settle(Todo::default())
    }

    /// A connection is there. `None`: it is not wanted any more.
    pub(crate) fn seat(&mut self, link: &Arc<Link>, limit: usize) -> Option<Todo> {
        self.opening = false;
        if self.phase == Phase::Closed {
            return None;
        }
        // It counts as a success when something came of it.
        self.in_vain = true;
        let limit = limit.min(self.rules.max_in_flight);
        link.load.proven.store(!self.rules.one_first, Ordering::Relaxed);
        let before_doubted = self.seats.iter().take_while(|seat| !seat.doubted).count();
        self.seats.insert(before_doubted, Seat { link: link.clone(), limit, asked: false, doubted: false });
        Some(self.settle(Todo::default()))
    }

    /// The peer allows this many.
    pub(crate) fn limited(&mut self, link: &Link, limit: usize) -> Todo {
        let limit = limit.min(self.rules.max_in_flight);
        if let Some(seat) = self.seat_of(link) {
            seat.limit = limit;
            if link.load.proven() {
                self.known_limit = limit;
            }
        }
        self.settle(Todo::default())
    }

    /// It answered: it lives.
    pub(crate) fn heard(&mut self, link: &Link) -> Todo {
        if let Some(seat) = self.seat_of(link) {
            seat.asked = false;
            seat.doubted &= !link.load.proven();
        }
        self.succeeded();
        self.settle(Todo::default())
    }

    /// It takes its time with its first answer, or with the sign of life it was asked for: have another beside it, and prefer that.
    pub(crate) fn doubt(&mut self, link: &Link) -> Todo {
        if let Some(at) = self.seats.iter().position(|seat| seat.link.number == link.number) {
            let seat = self.seats.remove(at);
            self.seats.push(Seat { doubted: true, ..seat });
        }
        self.settle(Todo::default())
    }

    /// It takes no more requests. False: it had been told already.
    pub(crate) fn unseat(&mut self, link: &Link, why: &str) -> (bool, Todo) {
        let before = self.seats.len();
        self.seats.retain(|seat| seat.link.number != link.number);
        let seated = self.seats.len() < before;
        if seated {
            self.last_error = Some(why.to_owned());
        }
        (seated, self.settle(Todo::default()))
    }

    /// Whether the connection is not needed: there are others. If so it takes no more requests.
    pub(crate) fn unseat_extra(&mut self, link: &Link) -> bool {
        let extra = self.seats.first().is_some_and(|first| first.link.number != link.number) && link.load.in_flight() == 0;
        if extra {
            self.seats.retain(|seat| seat.link.number != link.number);
        }
        extra
    }

    /// How long to wait before the attempt that is being made; `None`: it is not wanted any more.
    pub(crate) fn attempt(&mut self) -> Option<Duration> {
        if self.phase == Phase::Closed || (self.phase == Phase::Closing && self.in_flight == 0 && self.waiting.is_empty()) {
            self.opening = false;
            return None;
        }
        Some(if self.in_vain { self.backoff.next_wait() } else { Duration::ZERO })
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, why: String) {
        self.in_vain = true;
        self.last_error = Some(why);
    }

    /// Takes nothing new; `Closed`: those who wait are told so.
    pub(crate) fn close(&mut self, phase: Phase) -> (Vec<Arc<Link>>, Todo) {
        self.phase = phase;
        let mut todo = Todo { finished: self.in_flight == 0 && self.waiting.is_empty(), ..Todo::default() };
        let mut links = Vec::new();
        if phase == Phase::Closed {
            self.opening = false;
            std::mem::take(&mut self.waiting).into_values().for_each(|waker| todo.called(waker));
            links = self.seats.drain(..).map(|seat| seat.link).collect();
        }
        (links, todo)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seats.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn limit(&self) -> usize {
        self.seats.iter().map(|seat| seat.limit).sum()
    }

    /// What all connections would take.
    pub(crate) fn capacity(&self) -> usize {
        self.known_limit.saturating_mul(self.rules.max_connections).max(1)
    }

    pub(crate) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Grants what there is to grant, then sees whether another connection is wanted.
    fn settle(&mut self, mut todo: Todo) -> Todo {
        while let Some(place) = self.waiting.first_key_value().map(|(place, _)| *place) {
            let Some(link) = self.seat_with_room(place.0.0) else { break };
            self.granted.insert(place.1, link);
            if let Some(waker) = self.waiting.remove(&place) {
                todo.called(waker);
            }
        }
        if self.wants_another() {
            self.opening = true;
            todo.open = true;
        }
        todo.finished |= self.phase == Phase::Closing && self.in_flight == 0 && self.waiting.is_empty();
        todo
    }

    /// The first seat with room: so that connections beyond the need become idle. Silent ones are asked first.
    fn seat_with_room(&mut self, class: Class) -> Option<Arc<Link>> {
        for seat in &mut self.seats {
            if !seat.room(class) {
                continue;
            }
            if seat.link.load.in_flight() == 0 && seat.link.silent_for() > self.rules.trusted_for {
                seat.asked = true;
                seat.link.ask();
                continue;
            }
            seat.link.load.add(seat.link.began);
            self.in_flight += 1;
            return Some(seat.link.clone());
        }
        None
    }

    fn seat_of(&mut self, link: &Link) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.link.number == link.number)
    }

    fn wants_another(&self) -> bool {
        let nothing_to_do = self.phase == Phase::Closing && self.waiting.is_empty();
        if self.opening || !self.wanted || self.phase == Phase::Closed || nothing_to_do {
            return false;
        }
        let usable = || self.seats.iter().filter(|seat| !seat.doubted);
        let count = usable().count();
        if count == 0 {
            return self.seats.len() <= self.rules.max_connections;
        }
        let Some((Reverse(class), _)) = self.waiting.keys().next() else { return false };
        // For a call, or when it would be half full at once.
        let worth = *class == Class::Call || self.waiting.len().saturating_mul(2) >= self.known_limit;
        let bounded = count < self.rules.max_connections && self.seats.len() < 2 * self.rules.max_connections;
        bounded && worth && usable().all(|seat| seat.full(*class))
    }

    fn succeeded(&mut self) {
        self.in_vain = false;
        self.backoff.reset();
    }
}
