//! Room for so many at the same time; who waits gets it by class, then in the order of asking.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use push_core::Class;
use tokio::sync::{oneshot, watch};

pub(crate) struct Turns {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    taken: watch::Sender<usize>,
}

type Place = (Reverse<Class>, u64);

struct State {
    most: usize,
    taken: usize,
    asked: u64,
    waiting: BTreeMap<Place, oneshot::Sender<Taken>>,
    closed: bool,
}

pub(crate) enum Turn {
    Now(Taken),
    Later(Later),
    Closed,
}

/// Room that is given back when this is dropped.
pub(crate) struct Taken {
    inner: Arc<Inner>,
}

/// A place in the line; given up when this is dropped.
pub(crate) struct Later {
    receiver: oneshot::Receiver<Taken>,
    place: Place,
    inner: Arc<Inner>,
}

// === impl Turns ===

impl Turns {
    pub(crate) fn new(most: usize) -> Self {
        let state = State { most, taken: 0, asked: 0, waiting: BTreeMap::new(), closed: false };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), taken: watch::Sender::new(0) }) }
    }

    pub(crate) fn most(&self) -> usize {
        self.inner.state.lock().most
    }

    pub(crate) fn set_most(&self, most: usize) {
        self.inner.state.lock().most = most;
        hand_out(&self.inner);
    }

    pub(crate) fn ask(&self, class: Class) -> Turn {
        let mut state = self.inner.state.lock();
        if state.closed {
            return Turn::Closed;
        }
        if state.taken < state.most {
            state.taken += 1;
            self.inner.taken.send_replace(state.taken);
            return Turn::Now(Taken { inner: self.inner.clone() });
        }
        let (sender, receiver) = oneshot::channel();
        state.asked += 1;
        let place = (Reverse(class), state.asked);
        state.waiting.insert(place, sender);
        Turn::Later(Later { receiver, place, inner: self.inner.clone() })
    }

    /// Nobody gets room any more; waits until all of it is back.
    pub(crate) async fn close(&self) {
        {
            let mut state = self.inner.state.lock();
            state.closed = true;
            state.waiting.clear();
        }
        let mut taken = self.inner.taken.subscribe();
        drop(taken.wait_for(|taken| *taken == 0).await);
    }
}

impl Later {
    /// `None`: closed meanwhile.
    pub(crate) async fn turn(mut self) -> Option<Taken> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        self.inner.state.lock().waiting.remove(&self.place);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        {
            let mut state = self.inner.state.lock();
            state.taken -= 1;
            self.inner.taken.send_replace(state.taken);
        }
        hand_out(&self.inner);
    }
}

/// Gives free room to the first in the line.
fn hand_out(inner: &Arc<Inner>) {
    loop {
        let (waiter, taken) = {
            let mut state = inner.state.lock();
            if state.taken >= state.most {
                return;
            }
            let Some((_, waiter)) = state.waiting.pop_first() else { return };
            state.taken += 1;
            inner.taken.send_replace(state.taken);
            (waiter, Taken { inner: inner.clone() })
        };
        // Whoever gave up in this moment gives the room back by dropping it; the lock is not held here.
        drop(waiter.send(taken));
    }
}
