//! Requests on one connection: who waits for which answer, until when. The futures of pushes and the connection's task share it under one
//! short lock; nobody writes or reads a socket under it.

use std::task::{Context, Poll, Waker};

use push_core::Reason;
use push_wire::{Answer, Broken, Connection, Event, Failure, Limits, Refused, Request};
use tokio::time::Instant;

/// A header list of an answer is not longer.
const HEADER_LIST: usize = 16 * 1024;
/// More of a refusal's body is not read; a document of Apple's has some eighty octets.
const LONGEST_BODY: usize = 4096;
/// Until the peer's settings are there, one request at a time is taken.
pub(crate) const BEFORE_SETTINGS: usize = 1;

/// A request's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// How a request on a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Answered(Answer),
    /// It surely was not processed.
    NotProcessed(Reason),
    Lost(Reason),
    /// There is no answer, and its time is over.
    Late,
}

/// What the connection's task is to know of what was received.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The peer takes so many.
    pub(crate) limit: Option<usize>,
    /// The peer leaves; its words.
    pub(crate) farewell: Option<String>,
}

pub(crate) struct Exchange {
    connection: Connection<Slot>,
    places: Vec<Place>,
    free: Vec<Slot>,
    /// No deadline is earlier.
    earliest: Option<Instant>,
    /// Takes no more requests.
    retired: bool,
}

enum Place {
    Free,
    Waits { stream: u32, by: Instant, waker: Option<Waker> },
    Done(Reply),
}

// === impl Exchange ===

impl Exchange {
    pub(crate) fn new() -> Self {
        let wanted = &["apns-id", "retry-after"];
        let limits = Limits { streams_at_first: BEFORE_SETTINGS, header_list: HEADER_LIST, body: LONGEST_BODY, wanted };
        Self { connection: Connection::new(limits), places: Vec::new(), free: Vec::new(), earliest: None, retired: false }
    }

    /// Writes a request whose answer is worth something until then. True: the task is to be woken.
    pub(crate) fn send(&mut self, request: &Request<'_>, by: Instant) -> Result<(Slot, bool), Refused> {
        if self.retired {
            return Err(Refused::Leaving);
        }
        let wake = self.connection.output_length() == 0;
        let slot = self.free.last().copied().unwrap_or(Slot(self.places.len()));
        let stream = self.connection.request(request, slot)?;
        let place = Place::Waits { stream, by, waker: None };
        self.free.pop();
        match self.places.get_mut(slot.0) {
            Some(free) => *free = place,
            None => self.places.push(place),
        }
        if self.earliest.is_none_or(|earliest| by < earliest) {
            self.earliest = Some(by);
        }
        Ok((slot, wake))
    }

    /// The answer. The place is free once it is taken.
    pub(crate) fn poll(&mut self, slot: Slot, cx: &Context<'_>) -> Poll<Reply> {
        let Some(place) = self.places.get_mut(slot.0) else { return Poll::Pending };
        if let Place::Waits { waker, .. } = place {
            match waker {
                Some(known) => known.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let Place::Done(reply) = std::mem::replace(place, Place::Free) else { return Poll::Pending };
        self.free.push(slot);
        Poll::Ready(reply)
    }

    /// Nobody waits for the answer any more. What was to be called is handed back, for what its end sets off must not happen under a lock.
    #[must_use]
    pub(crate) fn forget(&mut self, slot: Slot) -> Option<Waker> {
        let place = std::mem::replace(self.places.get_mut(slot.0)?, Place::Free);
        self.free.push(slot);
        let Place::Waits { stream, waker, .. } = place else { return None };
        let _token = self.connection.reset(stream);
        waker
    }

    /// Ends what is late, and says when the next might be. Those who wait for it are to be woken.
    pub(crate) fn expire(&mut self, now: Instant, woken: &mut Vec<Waker>) -> Option<Instant> {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return self.earliest;
        }
        self.earliest = None;
        for place in &mut self.places {
            let Place::Waits { stream, by, waker } = place else { continue };
            if *by <= now {
                let _token = self.connection.reset(*stream);
                woken.extend(waker.take());
                *place = Place::Done(Reply::Late);
            } else {
                self.earliest = Some(self.earliest.map_or(*by, |earliest| earliest.min(*by)));
            }
        }
        self.earliest
    }

    /// Reads what was received, and says how much of it.
    pub(crate) fn receive(&mut self, input: &[u8], news: &mut News, woken: &mut Vec<Waker>) -> Result<usize, Broken> {
        let Self { connection, places, .. } = self;
        connection.receive(input, |event| match event {
            Event::Answered(slot, answer) => done(places, slot, Reply::Answered(answer), woken),
            Event::Failed(slot, failure) => done(places, slot, failed(failure), woken),
            Event::Limit(limit) => news.limit = Some(limit),
            Event::GoAway(code, text) if text.is_empty() => news.farewell = Some(format!("GOAWAY, {code}")),
            Event::GoAway(code, text) => news.farewell = Some(format!("GOAWAY, {code}: {text}")),
            Event::Pong => {}
        })
    }

    /// The connection has ended.
    pub(crate) fn end(&mut self, woken: &mut Vec<Waker>) {
        let Self { connection, places, retired, .. } = self;
        *retired = true;
        connection.end(|event| match event {
            Event::Answered(slot, answer) => done(places, slot, Reply::Answered(answer), woken),
            Event::Failed(slot, failure) => done(places, slot, failed(failure), woken),
            _ => {}
        });
    }

    pub(crate) fn retire(&mut self) {
        self.retired = true;
    }

    /// Nothing is under way and nothing comes any more: says good-bye, once.
    pub(crate) fn is_done(&mut self) -> bool {
        let done = self.retired && self.connection.open() == 0;
        if done {
            self.connection.goodbye();
        }
        done
    }

    pub(crate) fn ping(&mut self) {
        self.connection.ping();
    }

    /// Takes what is to be written and leaves the empty buffer. False: there is nothing.
    pub(crate) fn swap_output(&mut self, empty: &mut Vec<u8>) -> bool {
        let any = self.connection.output_length() > 0;
        if any {
            self.connection.swap_output(empty);
        }
        any
    }
}

fn done(places: &mut [Place], slot: Slot, reply: Reply, woken: &mut Vec<Waker>) {
    let Some(place) = places.get_mut(slot.0) else { return };
    if let Place::Waits { waker, .. } = place {
        woken.extend(waker.take());
        *place = Place::Done(reply);
    }
}

/// RFC 9113 §6.8 and §8.7: above GOAWAY's last stream and with REFUSED_STREAM nothing was processed. All else is not known.
fn failed(failure: Failure) -> Reply {
    match failure {
        Failure::NotProcessed(code) => Reply::NotProcessed(Reason::told(&format!("the provider has not processed it: {code}"))),
        Failure::Reset(code) => Reply::Lost(Reason::told(&format!("the provider ended the request: {code}"))),
        Failure::Malformed(why) => Reply::Lost(Reason::told(&format!("the provider's answer cannot be read: {why}"))),
        Failure::Lost => Reply::Lost(Reason::known("the connection ended before there was an answer")),
    }
}
