//! One connection's state on the server's side: bytes in, whole requests out, answers and control frames into a buffer to be written.
//! RFC 9113; sections are named where a rule is not obvious.

use std::collections::{HashMap, VecDeque};

use super::{
    frame::{self, Head},
    hpack::Decoder,
    request::Request,
};

/// How much more than the default the client may send on the connection before we say so again.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// What RFC 9113 gives each stream; no push needs more.
const STREAM_WINDOW: usize = 65_535;
/// Bytes of a header block, all its frames together.
const MAX_BLOCK: usize = 64 * 1024;
/// Answers to PING and SETTINGS, and resets, that may wait to be written; more is a flood.
const MAX_UNREAD: usize = 4 << 20;
/// Requests whose buffers are kept for the next ones.
const POOL: usize = 1024;

/// How a connection starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerOptions {
    /// SETTINGS_MAX_CONCURRENT_STREAMS.
    pub(crate) max_streams: u32,
    /// Whether streams above it are refused (they are counted in any case).
    pub(crate) refuse_streams: bool,
    /// Body bytes that are kept of a request; one with more is ready before its end.
    pub(crate) max_body: usize,
}

/// Why a connection ends: an error code of RFC 9113 §7 and a word about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (code {code})")]
pub(crate) struct ConnectionError {
    pub(crate) code: u32,
    pub(crate) what: &'static str,
}

/// What a client did that it should not, and what became of its streams; added up by the owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Streams opened above the limit that the client has acknowledged.
    pub(crate) above_limit: u64,
    /// Streams opened above the limit that we have sent, acknowledged or not.
    pub(crate) above_sent_limit: u64,
    /// Streams refused with REFUSED_STREAM.
    pub(crate) refused: u64,
    /// Streams opened after a GOAWAY, above its last stream.
    pub(crate) above_goaway: u64,
    /// PINGs that came.
    pub(crate) pings: u64,
    /// Streams that the client reset.
    pub(crate) resets: u64,
}

#[derive(Debug)]
struct Stream {
    /// Until it is ready.
    request: Option<Request>,
    /// The client has said everything.
    ended: bool,
    received: usize,
    send_window: i64,
    /// The rest of an answer's body that the client's windows do not let through yet.
    waiting: Vec<u8>,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    end_stream: bool,
    bytes: Vec<u8>,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Server {
    options: ServerOptions,
    decoder: Decoder,
    input: Vec<u8>,
    preface_read: bool,
    block: Option<Block>,
    streams: HashMap<u32, Stream>,
    highest: u32,
    highest_answered: u32,
    last_stream: Option<u32>,
    /// What the client has acknowledged of our limit; `None` = it knows of none yet.
    agreed_streams: Option<u32>,
    unacknowledged: VecDeque<Option<u32>>,
    send_window: i64,
    initial_send_window: i64,
    received: u32,
    pool: Vec<Request>,
    /// Frames to be written.
    pub(crate) out: Vec<u8>,
    /// Whole requests, in the order in which they became whole.
    pub(crate) ready: Vec<(u32, Request)>,
    /// Streams that the client gave up, answered or not.
    pub(crate) given_up: Vec<u32>,
    /// What has happened since it was last taken.
    pub(crate) tally: Tally,
}

fn broken(what: &'static str) -> ConnectionError {
    ConnectionError { code: frame::PROTOCOL_ERROR, what }
}

// === impl Server ===

impl Server {
    pub(crate) fn new(options: ServerOptions) -> Self {
        let mut out = Vec::with_capacity(64 * 1024);
        let settings = [(frame::SETTING_MAX_CONCURRENT_STREAMS, options.max_streams), (frame::SETTING_MAX_HEADER_LIST_SIZE, 8000)];
        frame::settings(&mut out, &settings);
        frame::window_update(&mut out, 0, CONNECTION_WINDOW);
        Self {
            options,
            decoder: Decoder::default(),
            input: Vec::new(),
            preface_read: false,
            block: None,
            streams: HashMap::new(),
            highest: 0,
            highest_answered: 0,
            last_stream: None,
            agreed_streams: None,
            unacknowledged: VecDeque::from([Some(options.max_streams)]),
            send_window: 65_535,
            initial_send_window: 65_535,
            received: 0,
            pool: Vec::new(),
            out,
            ready: Vec::new(),
            given_up: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Streams that wait for their answer or its end.
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn highest_stream(&self) -> u32 {
        self.highest
    }

    /// Last stream of the GOAWAY that was sent.
    pub(crate) fn last_stream(&self) -> Option<u32> {
        self.last_stream
    }

    /// Changes SETTINGS_MAX_CONCURRENT_STREAMS in flight.
    pub(crate) fn set_max_streams(&mut self, max_streams: u32, refuse: bool) {
        self.options.refuse_streams = refuse;
        if self.options.max_streams != max_streams {
            self.options.max_streams = max_streams;
            self.unacknowledged.push_back(Some(max_streams));
            frame::settings(&mut self.out, &[(frame::SETTING_MAX_CONCURRENT_STREAMS, max_streams)]);
        }
    }

    /// Says that streams above `last` are not processed, forgets them and names those that were open. Never below one that was answered.
    pub(crate) fn goaway(&mut self, last: u32, code: u32, debug: &[u8]) -> Vec<u32> {
        let last = last.max(self.highest_answered).min(self.last_stream.unwrap_or(u32::MAX));
        self.last_stream = Some(last);
        frame::goaway(&mut self.out, last, code, debug);
        let mut dropped: Vec<u32> = self.streams.keys().copied().filter(|stream| *stream > last).collect();
        dropped.sort_unstable();
        for stream in &dropped {
            self.forget(*stream);
        }
        self.ready.retain(|(stream, _)| *stream <= last);
        dropped
    }

    /// Takes what the client sent. After an error only what is in `out` may still be written.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let result = if self.input.is_empty() {
            self.frames(bytes).map(|used| self.input.extend_from_slice(bytes.get(used..).unwrap_or_default()))
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            self.frames(&input).map(|used| {
                input.drain(..used);
                self.input = input;
            })
        };
        result.inspect_err(|error| frame::goaway(&mut self.out, self.highest, error.code, error.what.as_bytes()))
    }

    /// Reads whole frames; answers how many bytes they were.
    fn frames(&mut self, input: &[u8]) -> Result<usize, ConnectionError> {
        let mut used = 0;
        if !self.preface_read {
            let len = input.len().min(frame::PREFACE.len());
            if input.get(..len) != frame::PREFACE.get(..len) {
                return Err(broken("no http/2 preface"));
            }
            if len < frame::PREFACE.len() {
                return Ok(0);
            }
            self.preface_read = true;
            used = len;
        }
        while let Some(head) = input.get(used..).and_then(Head::parse) {
            if head.length > frame::MAX_FRAME {
                return Err(ConnectionError { code: frame::FRAME_SIZE_ERROR, what: "frame above 16384 bytes" });
            }
            let start = used + frame::HEADER;
            let Some(payload) = input.get(start..start + head.length) else { break };
            self.frame(head, payload)?;
            used = start + head.length;
            if self.out.len() > MAX_UNREAD {
                return Err(ConnectionError { code: frame::ENHANCE_YOUR_CALM, what: "asks for more answers than it reads" });
            }
        }
        Ok(used)
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        if self.block.is_some() && head.kind != frame::CONTINUATION {
            return Err(broken("a header block is interrupted"));
        }
        match head.kind {
            frame::DATA => self.data(head, payload),
            frame::HEADERS => self.headers(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::PING => self.ping(head, payload),
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            frame::RST_STREAM => {
                if head.stream == 0 || head.stream > self.highest || payload.len() != 4 {
                    return Err(broken("bad RST_STREAM"));
                }
                if self.streams.contains_key(&head.stream) {
                    self.tally.resets += 1;
                    self.forget(head.stream);
                    self.ready.retain(|(stream, _)| *stream != head.stream);
                    self.given_up.push(head.stream);
                }
                Ok(())
            }
            frame::PUSH_PROMISE => Err(broken("a client cannot push")),
            // the client's GOAWAY needs nothing of us: it will close
            frame::GOAWAY | frame::PRIORITY => Ok(()),
            _ => Ok(()),
        }
    }

    fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.stream.is_multiple_of(2) {
            return Err(broken("HEADERS on a stream that is not the client's"));
        }
        let mut payload = unpadded(head, payload)?;
        if head.has(frame::WITH_PRIORITY) {
            payload = payload.get(5..).ok_or(broken("HEADERS too short"))?;
        }
        let end_stream = head.has(frame::END_STREAM);
        if head.has(frame::END_HEADERS) {
            return self.whole_block(head.stream, end_stream, payload);
        }
        self.block = Some(Block { stream: head.stream, end_stream, bytes: payload.to_vec() });
        Ok(())
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        let mut block = self.block.take().filter(|block| block.stream == head.stream).ok_or(broken("CONTINUATION of nothing"))?;
        if block.bytes.len() + payload.len() > MAX_BLOCK {
            return Err(ConnectionError { code: frame::ENHANCE_YOUR_CALM, what: "header block too long" });
        }
        block.bytes.extend_from_slice(payload);
        if head.has(frame::END_HEADERS) {
            return self.whole_block(block.stream, block.end_stream, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    fn whole_block(&mut self, stream: u32, end_stream: bool, block: &[u8]) -> Result<(), ConnectionError> {
        // Read in any case: the table is the connection's (RFC 9113 §4.3).
        let mut request = self.pool.pop().unwrap_or_default();
        request.clear();
        let read = self.decoder.decode(block, |name, value| request.push(name, value));
        read.map_err(|_| ConnectionError { code: frame::COMPRESSION_ERROR, what: "bad header block" })?;
        if stream <= self.highest {
            self.recycle(request);
            // trailers, or the rest of a stream that was reset
            return if self.streams.contains_key(&stream) && end_stream { self.end(stream) } else { Ok(()) };
        }
        self.highest = stream;
        if self.last_stream.is_some_and(|last| stream > last) {
            self.tally.above_goaway += 1;
            self.recycle(request);
            return Ok(());
        }
        let open = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        if open >= self.options.max_streams {
            self.tally.above_sent_limit += 1;
            if self.allowed_streams().is_some_and(|allowed| open >= allowed) {
                self.tally.above_limit += 1;
            }
            if self.options.refuse_streams {
                self.tally.refused += 1;
                frame::rst_stream(&mut self.out, stream, frame::REFUSED_STREAM);
                self.recycle(request);
                return Ok(());
            }
        }
        if request.field(b":method").is_none() || request.field(b":path").is_none() {
            frame::rst_stream(&mut self.out, stream, frame::PROTOCOL_ERROR);
            self.recycle(request);
            return Ok(());
        }
        let send_window = self.initial_send_window;
        let request = Some(request);
        self.streams.insert(stream, Stream { request, ended: false, received: 0, send_window, waiting: Vec::new() });
        if end_stream { self.end(stream) } else { Ok(()) }
    }

    /// The most streams that the client can think it may have: what it acknowledged, or what is on its way to it.
    fn allowed_streams(&self) -> Option<u32> {
        let agreed = self.agreed_streams?;
        self.unacknowledged.iter().flatten().copied().chain([agreed]).max()
    }

    fn end(&mut self, id: u32) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        stream.ended = true;
        if let Some(request) = stream.request.take() {
            self.ready.push((id, request));
        }
        Ok(())
    }

    fn data(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.stream == 0 || head.stream > self.highest {
            return Err(broken("DATA on a stream that is not open"));
        }
        self.received = self.received.saturating_add(u32::try_from(head.length).unwrap_or_default());
        if self.received > CONNECTION_WINDOW + 65_535 {
            return Err(ConnectionError { code: frame::FLOW_CONTROL_ERROR, what: "more DATA than the connection's window" });
        }
        if self.received > CONNECTION_WINDOW / 2 {
            frame::window_update(&mut self.out, 0, self.received);
            self.received = 0;
        }
        let data = unpadded(head, payload)?;
        let Some(stream) = self.streams.get_mut(&head.stream) else { return Ok(()) };
        stream.received += head.length;
        if stream.received > STREAM_WINDOW {
            return Err(ConnectionError { code: frame::FLOW_CONTROL_ERROR, what: "more DATA than the stream's window" });
        }
        if let Some(request) = &mut stream.request {
            let room = self.options.max_body.saturating_sub(request.body.len());
            request.body.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
            if data.len() > room {
                request.body_cut = true;
                if let Some(request) = stream.request.take() {
                    self.ready.push((head.stream, request));
                }
            }
        }
        if head.has(frame::END_STREAM) { self.end(head.stream) } else { Ok(()) }
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.stream != 0 {
            return Err(broken("SETTINGS on a stream"));
        }
        if head.has(frame::ACK) {
            if let Some(Some(streams)) = self.unacknowledged.pop_front() {
                self.agreed_streams = Some(streams);
            }
            return Ok(());
        }
        if !payload.len().is_multiple_of(6) {
            return Err(ConnectionError { code: frame::FRAME_SIZE_ERROR, what: "SETTINGS of a broken length" });
        }
        for setting in payload.chunks_exact(6) {
            let [a, b, c, d, e, f] = *setting.first_chunk::<6>().unwrap_or(&[0; 6]);
            if u16::from_be_bytes([a, b]) == frame::SETTING_INITIAL_WINDOW_SIZE {
                let size = i64::from(u32::from_be_bytes([c, d, e, f]));
                if size > 0x7fff_ffff {
                    return Err(ConnectionError { code: frame::FLOW_CONTROL_ERROR, what: "window too large" });
                }
                let change = size - self.initial_send_window;
                self.initial_send_window = size;
                for stream in self.streams.values_mut() {
                    stream.send_window += change;
                }
            }
        }
        frame::head(&mut self.out, 0, frame::SETTINGS, frame::ACK, 0);
        self.send_waiting();
        Ok(())
    }

    fn ping(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        if payload.len() != 8 || head.stream != 0 {
            return Err(ConnectionError { code: frame::FRAME_SIZE_ERROR, what: "bad PING" });
        }
        if !head.has(frame::ACK) {
            self.tally.pings += 1;
            frame::head(&mut self.out, 8, frame::PING, frame::ACK, 0);
            self.out.extend_from_slice(payload);
        }
        Ok(())
    }

    fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        let bytes = payload.first_chunk::<4>().filter(|_| payload.len() == 4).ok_or(broken("bad WINDOW_UPDATE"))?;
        let increment = i64::from(u32::from_be_bytes(*bytes) & 0x7fff_ffff);
        if increment == 0 {
            return Err(broken("WINDOW_UPDATE of nothing"));
        }
        if head.stream == 0 {
            self.send_window += increment;
            if self.send_window > 0x7fff_ffff {
                return Err(ConnectionError { code: frame::FLOW_CONTROL_ERROR, what: "window too large" });
            }
        } else if let Some(stream) = self.streams.get_mut(&head.stream) {
            stream.send_window += increment;
        }
        self.send_waiting();
        Ok(())
    }

    /// Answers a stream: a header block, already encoded, and a body. Nothing happens if the client has given it up.
    pub(crate) fn answer(&mut self, id: u32, block: &[u8], body: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        self.highest_answered = self.highest_answered.max(id);
        let flags = if body.is_empty() { frame::END_HEADERS | frame::END_STREAM } else { frame::END_HEADERS };
        frame::head(&mut self.out, block.len(), frame::HEADERS, flags, id);
        self.out.extend_from_slice(block);
        if body.is_empty() {
            self.close(id);
            return;
        }
        stream.waiting.extend_from_slice(body);
        self.send_body(id);
    }

    /// Starts an answer and does not end it.
    pub(crate) fn answer_partly(&mut self, id: u32, block: &[u8], body: &[u8]) {
        frame::head(&mut self.out, block.len(), frame::HEADERS, frame::END_HEADERS, id);
        self.out.extend_from_slice(block);
        // A frame that says it is longer than what follows.
        frame::head(&mut self.out, body.len() + 16, frame::DATA, frame::END_STREAM, id);
        self.out.extend_from_slice(body);
    }

    /// Ends a stream with an error.
    pub(crate) fn reset(&mut self, id: u32, code: u32) {
        if self.streams.contains_key(&id) {
            frame::rst_stream(&mut self.out, id, code);
            self.forget(id);
        }
    }

    /// Takes a request's buffers back.
    pub(crate) fn recycle(&mut self, request: Request) {
        if self.pool.len() < POOL {
            self.pool.push(request);
        }
    }

    fn forget(&mut self, id: u32) {
        if let Some(request) = self.streams.remove(&id).and_then(|stream| stream.request) {
            self.recycle(request);
        }
    }

    /// The answer is whole; a client that still sends is told to stop (RFC 9113 §8.1).
    fn close(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|stream| !stream.ended) {
            frame::rst_stream(&mut self.out, id, frame::NO_ERROR);
        }
        self.forget(id);
    }

    fn send_body(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let room = self.send_window.min(stream.send_window).max(0);
        let length = stream.waiting.len().min(usize::try_from(room).unwrap_or(0)).min(frame::MAX_FRAME);
        if length == 0 {
            return;
        }
        let whole = length == stream.waiting.len();
        frame::head(&mut self.out, length, frame::DATA, if whole { frame::END_STREAM } else { 0 }, id);
        self.out.extend(stream.waiting.drain(..length));
        let sent = i64::try_from(length).unwrap_or_default();
        stream.send_window -= sent;
        self.send_window -= sent;
        if whole {
            self.close(id);
        }
    }

    fn send_waiting(&mut self) {
        let mut blocked: Vec<u32> = self.streams.iter().filter(|(_, stream)| !stream.waiting.is_empty()).map(|(id, _)| *id).collect();
        blocked.sort_unstable();
        for id in blocked {
            self.send_body(id);
        }
    }
}

/// A payload without its padding (RFC 9113 §6.1).
fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], ConnectionError> {
    if !head.has(frame::PADDED) {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(broken("no padding where it was said"))?;
    let length = rest.len().checked_sub(usize::from(*padding)).ok_or(broken("more padding than payload"))?;
    Ok(rest.get(..length).unwrap_or_default())
}
