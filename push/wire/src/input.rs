//! What the peer's frames mean (RFC 9113 §5, §6 and §8). Whatever they are, memory is bounded: by the streams that are open, by the
//! longest header block, by the longest body, and by the number of frames that are answered before the answers are written.

use crate::{
    Answer, Broken, Code, Connection, Event, Failure, Fields,
    connection::{Stream, WINDOW},
    frame::{self, ACK, END_HEADERS, END_STREAM, FIRST_WINDOW, HEAD, Head, LARGEST_WINDOW, PADDED, WITH_PRIORITY},
};

/// A header block that came in pieces is not longer.
const LONGEST_BLOCK: usize = 64 * 1024;
/// Nor in more pieces.
const MOST_PIECES: usize = 32;
/// Pings and settings that are answered without the answers being taken to be written.
const MOST_REPLIES: usize = 10_000;
/// The text of a GOAWAY is cut here.
const LONGEST_TEXT: usize = 200;

/// What is known of what comes.
#[derive(Debug, Default)]
pub(crate) struct Receiving {
    /// The peer's settings, which come first, have come.
    begun: bool,
    /// Octets of bodies since it was last told to go on.
    octets: u32,
}

/// A header block of which more follows.
#[derive(Debug)]
pub(crate) struct Fragment {
    stream: u32,
    ends_stream: bool,
    pieces: usize,
    block: Vec<u8>,
}

/// A header block, read.
#[derive(Debug, Default)]
struct Block {
    status: Option<u16>,
    fields: Fields,
    size: usize,
    regular: bool,
    pseudo: bool,
    wrong: Option<&'static str>,
}

fn broken(code: Code, why: &'static str) -> Broken {
    Broken { code, why }
}

fn protocol(why: &'static str) -> Broken {
    broken(Code::PROTOCOL_ERROR, why)
}

impl<T> Connection<T> {
    /// Reads whole frames and says how many octets they were; what is left is the beginning of the next one. An error is for good: what is
    /// left to write says good-bye, then the connection is to be closed and `end`ed.
    pub fn receive(&mut self, input: &[u8], mut event: impl FnMut(Event<T>)) -> Result<usize, Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let mut rest = input;
        while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
            let head = Head::read(*head);
            let result = if head.length > frame::LARGEST {
                Err(broken(Code::FRAME_SIZE_ERROR, "a frame is larger than was agreed"))
            } else {
                let Some((payload, next)) = after.split_at_checked(head.length) else { break };
                rest = next;
                self.frame(head, payload, &mut event)
            };
            if let Err(broken) = result {
                self.broken = Some(broken);
                frame::put_goaway(&mut self.output, broken.code);
                return Err(broken);
            }
        }
        Ok(input.len() - rest.len())
    }

    fn frame(&mut self, head: Head, payload: &[u8], event: &mut impl FnMut(Event<T>)) -> Result<(), Broken> {
        if !self.receiving.begun && (head.kind != frame::SETTINGS || head.has(ACK)) {
            return Err(protocol("settings do not come first"));
        }
        if let Some(fragment) = &self.fragment
            && (head.kind != frame::CONTINUATION || head.stream != fragment.stream)
        {
            return Err(protocol("a header block is interrupted"));
        }
        match head.kind {
            frame::DATA => self.data(head, payload, event),
            frame::HEADERS => self.headers(head, payload, event),
            frame::CONTINUATION => self.continuation(head, payload, event),
            frame::RST_STREAM => self.reset_by_peer(head, payload, event),
            frame::SETTINGS => self.settings(head, payload, event),
            frame::PUSH_PROMISE => Err(protocol("a push, which was not asked for")),
            frame::PING => self.pinged(head, payload, event),
            frame::GOAWAY => self.go_away(head, payload, event),
            frame::WINDOW_UPDATE => self.window_update(head, payload, event),
            frame::PRIORITY if head.stream == 0 => Err(protocol("a priority without a stream")),
            frame::PRIORITY if head.length != 5 => Err(broken(Code::FRAME_SIZE_ERROR, "a priority of a wrong size")),
            // Priorities, and what a later standard adds.
            _ => Ok(()),
        }
    }

    /// Whether the stream is not one of those that were opened here.
    fn is_idle(&self, stream: u32) -> bool {
        stream.is_multiple_of(2) || stream >= self.next
    }

    /// The stream ends by the peer's fault; the others go on.
    fn malformed(&mut self, stream: u32, why: &'static str, event: &mut impl FnMut(Event<T>)) {
        if let Some(it) = self.streams.remove(&stream) {
            frame::put_reset(&mut self.output, stream, Code::PROTOCOL_ERROR);
            event(Event::Failed(it.token, Failure::Malformed(why)));
        }
    }

    /// The stream has its answer.
    fn answered(&mut self, number: u32, stream: Stream<T>, answer: Answer, event: &mut impl FnMut(Event<T>)) {
        if !stream.rest.is_empty() {
            // The peer does not want the rest of the body (§8.1).
            frame::put_reset(&mut self.output, number, Code::CANCEL);
        }
        event(Event::Answered(stream.token, answer));
    }

    // === bodies ===

    fn data(&mut self, head: Head, payload: &[u8], event: &mut impl FnMut(Event<T>)) -> Result<(), Broken> {
        let number = head.stream;
        if self.is_idle(number) {
            return Err(protocol("a body for a stream that was not opened"));
        }
        self.receiving.octets += head.length as u32;
        if self.receiving.octets > WINDOW {
            return Err(broken(Code::FLOW_CONTROL_ERROR, "more octets of bodies than were allowed"));
        }
        if self.receiving.octets >= WINDOW / 2 {
            frame::put_window_update(&mut self.output, 0, self.receiving.octets);
            self.receiving.octets = 0;
        }
        let payload = without_padding(head, payload)?;
        // One that was given up: what is on its way is ignored.
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
        let Some(answer) = &mut stream.answer else {
            self.malformed(number, "a body without a head", event);
            return Ok(());
        };
        let free = self.limits.body.saturating_sub(answer.body.len());
        answer.body.extend(payload.iter().take(free));
        let cut = payload.len() > free;
        if (head.has(END_STREAM) || cut)
            && let Some(mut stream) = self.streams.remove(&number)
            && let Some(answer) = stream.answer.take()
        {
            if !head.has(END_STREAM) {
                stream.rest.clear();
                frame::put_reset(&mut self.output, number, Code::CANCEL);
            }
            self.answered(number, stream, *answer, event);
        }
        Ok(())
    }

    // === heads ===

    fn headers(&mut self, head: Head, payload: &[u8], event: &mut impl FnMut(Event<T>)) -> Result<(), Broken> {
        if self.is_idle(head.stream) {
            return Err(protocol("an answer on a stream that was not opened"));
        }
        let mut block = without_padding(head, payload)?;
        if head.has(WITH_PRIORITY) {
            block = block.get(5..).ok_or(protocol("a priority that is too short"))?;
        }
        if head.has(END_HEADERS) {
            return self.block(head.stream, head.has(END_STREAM), block, event);
        }
        let fragment = Fragment { stream: head.stream, ends_stream: head.has(END_STREAM), pieces: 1, block: block.to_vec() };
        self.fragment = Some(fragment);
        Ok(())
    }

    fn continuation(&mut self, head: Head, payload: &[u8], event: &mut impl FnMut(Event<T>)) -> Result<(), Broken> {
        let Some(mut fragment) = self.fragment.take() else { return Err(protocol("a header block goes on that did not begin")) };
        fragment.pieces += 1;
        if fragment.pieces > MOST_PIECES || fragment.block.len() + payload.len() > LONGEST_BLOCK {
            return Err(broken(Code::ENHANCE_YOUR_CALM, "a header block is too long"));
        }
        fragment.block.extend_from_slice(payload);
        if head.has(END_HEADERS) {
            return self.block(fragment.stream, fragment.ends_stream, &fragment.block, event);
        }
        self.fragment = Some(fragment);
        Ok(())
    }

    /// A whole block. It is read also if nobody wants it: the table must follow the peer's.
    fn block(&mut self, number: u32, ends: bool, octets: &[u8], event: &mut impl FnMut(Event<T>)) -> Result<(), Broken> {
        let (wanted, most) = (self.limits.wanted, self.limits.header_list);
        let mut block = Block::default();
        self.decoder
            .decode(octets, |name, value| block.add(name, value, wanted, most))
            .map_err(|_| broken(Code::COMPRESSION_ERROR, "a header block cannot be read"))?;
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
        if let Some(why) = block.wrong {
            self.malformed(number, why, event);
            return Ok(());
        }
        match (block.status, &mut stream.answer) {
            (Some(100..=199), None) if !ends => {}
            (Some(status @ 200..), None) => {
                let answer = Answer { status, fields: block.fields, body: Vec::new() };
                if !ends {
                    stream.answer = Some(Box::new(answer));
                } else if let Some(stream) = self.streams.remove(&number) {
                    self.answered(number, stream, answer, event);
                }
            }
            (None, Some(_)) if ends && !block.pseudo => {
                if let Some(mut stream) = self.streams.remove(&number)
                    && let Some(answer) = stream.answer.take()
                {
                    self.answered(number, stream, *answer, event);
                }
            }
            (_, Some(_)) => self.malformed(number, "trailers that are none", event),
            (Some(_), None) => self.malformed(number, "an interim answer that is the last", event),
            (None, None) => self.malformed(number, "an answer without a status", event),
        }
        Ok(())
    }

    // === streams and connection ===

    fn reset_by_peer(&mut self, head: Head, payload: &[u8], event: &mut impl FnMut(Event<T>)) -> Result<(), Broken> {
        let code = Code(u32::from_be_bytes(exactly(payload)?));
        if self.is_idle(head.stream) {
            return Err(protocol("a reset of a stream that was not opened"));
        }
        if let Some(stream) = self.streams.remove(&head.stream) {
            let refused = code == Code::REFUSED_STREAM && stream.answer.is_none();
            event(stream.ended(if refused { Failure::NotProcessed(code) } else { Failure::Reset(code) }));
        }
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8], event: &mut impl FnMut(Event<T>)) -> Result<(), Broken> {
        if head.stream != 0 {
            return Err(protocol("settings on a stream"));
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() || (head.has(ACK) && !payload.is_empty()) {
            return Err(broken(Code::FRAME_SIZE_ERROR, "settings of a wrong size"));
        }
        if head.has(ACK) {
            return Ok(());
        }
        let before = self.peer.streams;
        if !std::mem::replace(&mut self.receiving.begun, true) {
            // Without a word about it there is no limit.
            self.peer.streams = usize::MAX;
        }
        for [w0, w1, v0, v1, v2, v3] in settings {
            self.set(u16::from_be_bytes([*w0, *w1]), u32::from_be_bytes([*v0, *v1, *v2, *v3]))?;
        }
        self.reply(frame::SETTINGS, &[])?;
        if self.peer.streams != before {
            event(Event::Limit(self.peer.streams));
        }
        self.put_bodies();
        Ok(())
    }

    fn reply(&mut self, kind: u8, payload: &[u8]) -> Result<(), Broken> {
        self.replies += 1;
        if self.replies > MOST_REPLIES {
            return Err(broken(Code::ENHANCE_YOUR_CALM, "it asks and does not read the answers"));
        }
        frame::put(&mut self.output, kind, ACK, 0, payload);
        Ok(())
    }

    fn set(&mut self, which: u16, value: u32) -> Result<(), Broken> {
        match which {
            frame::HEADER_TABLE_SIZE => self.resize_table(value as usize),
            frame::ENABLE_PUSH if value != 0 => return Err(protocol("a server that wants to be pushed to")),
            frame::MAX_CONCURRENT_STREAMS => self.peer.streams = value as usize,
            frame::INITIAL_WINDOW_SIZE => {
                let window = i64::from(value);
                if window > LARGEST_WINDOW {
                    return Err(broken(Code::FLOW_CONTROL_ERROR, "a window is too large"));
                }
                let more = window - self.peer.window;
                self.peer.window = window;
                for stream in self.streams.values_mut() {
                    stream.window += more;
                    if stream.window > LARGEST_WINDOW {
                        return Err(broken(Code::FLOW_CONTROL_ERROR, "a window became too large"));
                    }
                }
            }
            frame::MAX_FRAME_SIZE => {
                self.peer.frame = value as usize;
                if !(frame::LARGEST..1 << 24).contains(&self.peer.frame) {
                    return Err(protocol("a size of frames that is not allowed"));
                }
                // Larger ones have no use here.
                self.peer.frame = frame::LARGEST;
            }
            frame::MAX_HEADER_LIST_SIZE => self.peer.header_list = value as usize,
            _ => {}
        }
        Ok(())
    }

    fn pinged(&mut self, head: Head, payload: &[u8], event: &mut impl FnMut(Event<T>)) -> Result<(), Broken> {
        let octets: [u8; 8] = exactly(payload)?;
        if head.stream != 0 {
            return Err(protocol("a ping on a stream"));
        }
        if !head.has(ACK) {
            self.reply(frame::PING, &octets)?;
        } else if self.ping == Some(u64::from_be_bytes(octets)) {
            self.ping = None;
            event(Event::Pong);
        }
        Ok(())
    }

    fn go_away(&mut self, head: Head, payload: &[u8], event: &mut impl FnMut(Event<T>)) -> Result<(), Broken> {
        if head.stream != 0 {
            return Err(protocol("a good-bye on a stream"));
        }
        let Some(([l0, l1, l2, l3, c0, c1, c2, c3], text)) = payload.split_first_chunk::<8>() else {
            return Err(broken(Code::FRAME_SIZE_ERROR, "a good-bye that is too short"));
        };
        let last = u32::from_be_bytes([*l0 & 0x7f, *l1, *l2, *l3]);
        let code = Code(u32::from_be_bytes([*c0, *c1, *c2, *c3]));
        if self.last.is_some_and(|before| last > before) {
            return Err(protocol("a good-bye that takes back what was said"));
        }
        self.last = Some(last);
        let text = String::from_utf8_lossy(text.get(..LONGEST_TEXT).unwrap_or(text)).into_owned();
        event(Event::GoAway(code, text));
        // Answers that have begun are of requests that were looked at, whatever it says.
        for (_, stream) in self.streams.extract_if(|number, stream| *number > last && stream.answer.is_none()) {
            event(Event::Failed(stream.token, Failure::NotProcessed(code)));
        }
        Ok(())
    }

    fn window_update(&mut self, head: Head, payload: &[u8], event: &mut impl FnMut(Event<T>)) -> Result<(), Broken> {
        let by = i64::from(u32::from_be_bytes(exactly(payload)?) & 0x7fff_ffff);
        let connection = head.stream == 0;
        if !connection && self.is_idle(head.stream) {
            return Err(protocol("a window for a stream that was not opened"));
        }
        let window = if connection {
            &mut self.window
        } else {
            match self.streams.get_mut(&head.stream) {
                Some(stream) => &mut stream.window,
                None => return Ok(()),
            }
        };
        *window += by;
        if by > 0 && *window <= LARGEST_WINDOW {
            self.put_bodies();
        } else if connection {
            return Err(broken(if by == 0 { Code::PROTOCOL_ERROR } else { Code::FLOW_CONTROL_ERROR }, "a window that cannot be"));
        } else {
            self.malformed(head.stream, "a window that cannot be", event);
        }
        Ok(())
    }
}

// === impl Block ===

impl Block {
    fn add(&mut self, name: &[u8], value: &[u8], wanted: &'static [&'static str], most: usize) {
        self.size += name.len() + value.len() + crate::hpack::FIELD;
        if self.size > most {
            self.wrong = Some("an answer with too many fields");
            return;
        }
        if name.first() == Some(&b':') {
            let status = status(value).filter(|_| name == b":status" && self.status.is_none() && !self.regular);
            self.pseudo = true;
            self.status = status.or(self.status);
            if status.is_none() {
                self.wrong = Some("an answer with wrong pseudo-fields");
            }
            return;
        }
        self.regular = true;
        if name.is_empty() || name.iter().any(|octet| octet.is_ascii_uppercase() || *octet <= b' ' || *octet >= 0x7f || *octet == b':') {
            self.wrong = Some("an answer with a field that has no name");
        }
        if value.iter().any(|octet| matches!(octet, 0 | b'\r' | b'\n')) {
            self.wrong = Some("an answer with a value that is none");
        }
        self.fields.add(name, value, wanted);
    }
}

/// 100 to 999.
fn status(value: &[u8]) -> Option<u16> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = value else { return None };
    Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
}

fn exactly<const N: usize>(payload: &[u8]) -> Result<[u8; N], Broken> {
    payload.try_into().map_err(|_| broken(Code::FRAME_SIZE_ERROR, "a frame of a wrong size"))
}

fn without_padding(head: Head, payload: &[u8]) -> Result<&[u8], Broken> {
    if !head.has(PADDED) {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(protocol("padding that is too short"))?;
    let length = rest.len().checked_sub(usize::from(*padding)).ok_or(protocol("padding that is too long"))?;
    Ok(rest.get(..length).unwrap_or_default())
}

const _: () = assert!(WINDOW as i64 > FIRST_WINDOW, "it is only ever enlarged");
