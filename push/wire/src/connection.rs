//! [`Connection`]: requests, and what is known of those that are open.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use bytes::{Buf, Bytes};

use crate::{
    Broken, Code,
    frame::{self, END_HEADERS, END_STREAM},
    hpack::{Decoder, Encoder, Field, Head},
    input::{Fragment, Receiving},
};

/// Streams are numbered by odd numbers up to this.
const LAST_STREAM: u32 = (1 << 31) - 1;
/// What all answers together may have under way; a single one is cut long before.
pub(crate) const WINDOW: u32 = 1 << 20;

/// Bounds of a connection.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests at the same time until the peer has said how many it takes.
    pub streams_at_first: usize,
    /// Octets of an answer's fields as RFC 9113 §6.5.2 counts them; the peer is told. An answer with more is refused.
    pub header_list: usize,
    /// Octets of an answer's body; the rest is not read. At most 32 KiB.
    pub body: usize,
    /// The fields of answers that are wanted; others are not kept.
    pub wanted: &'static [&'static str],
}

/// A request: a POST or whatever `head` says, whole.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `:path`, in pieces.
    pub path: &'a [&'a [u8]],
    /// All other pseudo-fields, and fields that other requests have, too.
    pub head: &'a Arc<Head>,
    /// Fields that only this one has.
    pub own: &'a [Field<'a>],
    /// The body.
    pub body: Bytes,
}

/// Why a request is not taken. Nothing of it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many are open as the peer takes.
    #[error("as many requests are open as the peer takes")]
    Full,
    /// GOAWAY was received or sent, or the connection is broken or used up: it takes no more.
    #[error("the connection takes no more requests")]
    Leaving,
    /// Its fields are longer than the peer takes.
    #[error("the request's fields are longer than the peer takes")]
    TooLong,
}

/// What came of the peer's octets.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// A request has its answer.
    Answered(T, Answer),
    /// A request has none, and gets none.
    Failed(T, Failure),
    /// The peer takes so many at the same time from now on.
    Limit(usize),
    /// The peer takes no more requests; those that it has not looked at fail by themselves. Its code, and what it says.
    GoAway(Code, String),
    /// Our ping was answered.
    Pong,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// The fields that are wanted.
    pub fields: Fields,
    /// The body, or its beginning.
    pub body: Vec<u8>,
}

/// Fields of an answer, in one piece of memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fields {
    wanted: &'static [&'static str],
    /// One after the other: which of the wanted ones, the length of its value in four octets, its value.
    octets: Vec<u8>,
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The peer says that it has not looked at it (RFC 9113 §8.7): it may be sent again.
    NotProcessed(Code),
    /// The peer ended it. It may have been processed.
    Reset(Code),
    /// Its answer is none. It may have been processed.
    Malformed(&'static str),
    /// The connection ended before it was answered.
    Lost,
}

/// A connection to one peer, seen from the client. `T` is what the caller knows a request by.
pub struct Connection<T> {
    pub(crate) limits: Limits,
    pub(crate) output: Vec<u8>,
    encoder: Encoder,
    pub(crate) decoder: Decoder,
    pub(crate) streams: HashMap<u32, Stream<T>, BuildHasherDefault<ByNumber>>,
    /// The next one to be opened.
    pub(crate) next: u32,
    pub(crate) peer: Peer,
    /// What the peer takes of all bodies.
    pub(crate) window: i64,
    /// Streams whose bodies wait for it or for their own.
    pub(crate) waiting: VecDeque<u32>,
    pub(crate) receiving: Receiving,
    pub(crate) fragment: Option<Fragment>,
    /// The last stream that the peer will look at.
    pub(crate) last: Option<u32>,
    said_goodbye: bool,
    pub(crate) ping: Option<u64>,
    pings: u64,
    pub(crate) broken: Option<Broken>,
    /// Frames that only answer the peer's, since the output was last taken.
    pub(crate) replies: usize,
}

/// What the peer has told about itself.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) streams: usize,
    pub(crate) window: i64,
    pub(crate) frame: usize,
    pub(crate) header_list: usize,
}

/// A request that is open.
pub(crate) struct Stream<T> {
    pub(crate) token: T,
    pub(crate) window: i64,
    /// What of the body could not be written yet.
    pub(crate) rest: Bytes,
    /// The answer's head has come.
    pub(crate) answer: Option<Box<Answer>>,
}

/// Streams are numbered one after the other.
#[derive(Debug, Default)]
pub(crate) struct ByNumber(u64);

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { streams_at_first: 1, header_list: 16 * 1024, body: 4096, wanted: &[] }
    }
}

// === impl ByNumber ===

impl Hasher for ByNumber {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.write_u32(u32::from(*octet)));
    }

    fn write_u32(&mut self, number: u32) {
        // Neighbours get different upper bits, too: the table looks at both.
        self.0 = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

// === impl Fields ===

impl Fields {
    /// The value of the first field of this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let mut rest = &*self.octets;
        while let Some(([which, l0, l1, l2, l3], behind)) = rest.split_first_chunk::<5>() {
            let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
            let (value, next) = behind.split_at_checked(length)?;
            if self.wanted.get(usize::from(*which)) == Some(&name) {
                return Some(value);
            }
            rest = next;
        }
        None
    }

    /// Keeps it if it is one of the first 256 that are wanted.
    pub(crate) fn add(&mut self, name: &[u8], value: &[u8], wanted: &'static [&'static str]) {
        let Some(which) = wanted.iter().position(|it| it.as_bytes() == name) else { return };
        if let (Ok(which), Ok(length)) = (u8::try_from(which), u32::try_from(value.len())) {
            self.wanted = wanted;
            self.octets.reserve(value.len() + 5);
            self.octets.push(which);
            self.octets.extend_from_slice(&length.to_le_bytes());
            self.octets.extend_from_slice(value);
        }
    }
}

// === impl Connection ===

impl<T> Connection<T> {
    /// One that was just opened. Its first octets wait already.
    pub fn new(limits: Limits) -> Self {
        let mut output = Vec::with_capacity(1024);
        output.extend_from_slice(frame::PREFACE);
        let header_list = u32::try_from(limits.header_list).unwrap_or(u32::MAX);
        frame::put_settings(&mut output, &[(frame::ENABLE_PUSH, 0), (frame::MAX_HEADER_LIST_SIZE, header_list)]);
        frame::put_window_update(&mut output, 0, WINDOW - frame::FIRST_WINDOW as u32);
        let peer = Peer { streams: limits.streams_at_first, window: frame::FIRST_WINDOW, frame: frame::LARGEST, header_list: usize::MAX };
        Self {
            limits: Limits { body: limits.body.min(32 * 1024), ..limits },
            output,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            streams: HashMap::default(),
            next: 1,
            peer,
            window: frame::FIRST_WINDOW,
            waiting: VecDeque::new(),
            receiving: Receiving::default(),
            fragment: None,
            last: None,
            said_goodbye: false,
            ping: None,
            pings: 0,
            broken: None,
            replies: 0,
        }
    }

    /// Requests that are open.
    pub fn open(&self) -> usize {
        self.streams.len()
    }

    /// How many the peer takes at the same time.
    pub fn limit(&self) -> usize {
        self.peer.streams
    }

    /// Whether it takes no more requests at all.
    pub fn is_leaving(&self) -> bool {
        self.last.is_some() || self.said_goodbye || self.broken.is_some() || self.next > LAST_STREAM
    }

    /// Writes a request. The number of its stream is what it is reset by.
    pub fn request(&mut self, request: &Request<'_>, token: T) -> Result<u32, Refused> {
        if self.is_leaving() {
            return Err(Refused::Leaving);
        }
        if self.streams.len() >= self.peer.streams {
            return Err(Refused::Full);
        }
        let path: usize = request.path.iter().map(|piece| piece.len()).sum();
        let own: usize = request.own.iter().map(Field::size).sum();
        if ":path".len() + path + crate::hpack::FIELD + request.head.size() + own > self.peer.header_list {
            return Err(Refused::TooLong);
        }
        let number = self.next;
        self.next += 2;
        self.put_head(number, request);
        let mut stream = Stream { token, window: self.peer.window, rest: request.body.clone(), answer: None };
        put_body(&mut self.output, number, &mut stream, &mut self.window, self.peer.frame);
        if !stream.rest.is_empty() {
            self.waiting.push_back(number);
        }
        self.streams.insert(number, stream);
        Ok(number)
    }

    /// HEADERS, and CONTINUATION if it does not fit.
    fn put_head(&mut self, number: u32, Request { path, head, own, body }: &Request<'_>) {
        let start = self.output.len();
        self.output.extend_from_slice(&[0; frame::HEAD]);
        self.encoder.encode(&mut self.output, path, head, own);
        let length = self.output.len() - start - frame::HEAD;
        let end = if body.is_empty() { END_STREAM } else { 0 };
        if length <= self.peer.frame {
            let octets = frame::Head { length, kind: frame::HEADERS, flags: END_HEADERS | end, stream: number }.octets();
            if let Some(place) = self.output.get_mut(start..start + frame::HEAD) {
                place.copy_from_slice(&octets);
            }
            return;
        }
        let block = self.output.split_off(start);
        let pieces = block.get(frame::HEAD..).unwrap_or_default().chunks(self.peer.frame);
        let count = pieces.len();
        for (at, piece) in pieces.enumerate() {
            let (kind, end) = if at == 0 { (frame::HEADERS, end) } else { (frame::CONTINUATION, 0) };
            let flags = if at + 1 == count { END_HEADERS | end } else { end };
            frame::put(&mut self.output, kind, flags, number, piece);
        }
    }

    /// Writes what the windows allow of bodies that wait.
    pub(crate) fn put_bodies(&mut self) {
        for _ in 0..self.waiting.len() {
            if self.window <= 0 {
                return;
            }
            let Some(number) = self.waiting.pop_front() else { return };
            let Some(stream) = self.streams.get_mut(&number) else { continue };
            put_body(&mut self.output, number, stream, &mut self.window, self.peer.frame);
            if !stream.rest.is_empty() {
                self.waiting.push_back(number);
            }
        }
    }

    /// Gives a request up. The peer is told; what still comes for it is ignored.
    pub fn reset(&mut self, stream: u32) -> Option<T> {
        let stream_of = self.streams.remove(&stream)?;
        if self.broken.is_none() {
            frame::put_reset(&mut self.output, stream, Code::CANCEL);
        }
        Some(stream_of.token)
    }

    /// Writes a ping, unless one is out already.
    pub fn ping(&mut self) {
        if self.ping.is_none() && self.broken.is_none() {
            self.pings += 1;
            self.ping = Some(self.pings);
            frame::put(&mut self.output, frame::PING, 0, 0, &self.pings.to_be_bytes());
        }
    }

    /// Takes no more requests and says so. Those that are open go on.
    pub fn goodbye(&mut self) {
        if !self.said_goodbye && self.broken.is_none() {
            self.said_goodbye = true;
            frame::put_goaway(&mut self.output, Code::NO_ERROR);
        }
    }

    /// Octets that wait to be written.
    pub fn output_length(&self) -> usize {
        self.output.len()
    }

    /// Takes the octets that are to be written and leaves the empty buffer.
    pub fn swap_output(&mut self, empty: &mut Vec<u8>) {
        debug_assert!(empty.is_empty(), "it is written after what is in it");
        std::mem::swap(&mut self.output, empty);
        self.replies = 0;
    }

    /// The connection has ended: what is open gets no answer. One whose status has come is judged by that.
    pub fn end(&mut self, mut event: impl FnMut(Event<T>)) {
        self.broken.get_or_insert(Broken { code: Code::NO_ERROR, why: "the connection has ended" });
        for (_, stream) in self.streams.drain() {
            event(stream.ended(Failure::Lost));
        }
    }
}

impl<T> Stream<T> {
    /// It ends: with what there is of the answer, or without.
    pub(crate) fn ended(self, failure: Failure) -> Event<T> {
        match self.answer {
            Some(answer) => Event::Answered(self.token, *answer),
            None => Event::Failed(self.token, failure),
        }
    }
}

fn put_body<T>(out: &mut Vec<u8>, number: u32, stream: &mut Stream<T>, window: &mut i64, largest: usize) {
    while !stream.rest.is_empty() {
        let free = usize::try_from(stream.window.min(*window)).unwrap_or(0);
        let length = stream.rest.len().min(free).min(largest);
        let Some(piece) = stream.rest.get(..length).filter(|piece| !piece.is_empty()) else { return };
        let flags = if length == stream.rest.len() { END_STREAM } else { 0 };
        frame::put(out, frame::DATA, flags, number, piece);
        stream.rest.advance(length);
        stream.window -= length as i64;
        *window -= length as i64;
    }
    // The memory is not held until the answer comes.
    stream.rest = Bytes::new();
}

impl<T> Connection<T> {
    pub(crate) fn resize_table(&mut self, most: usize) {
        self.encoder.resize(most);
    }
}

impl<T> fmt::Debug for Connection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("open", &self.streams.len()).field("next", &self.next).finish_non_exhaustive()
    }
}
