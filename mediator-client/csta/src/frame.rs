//! The framing of ECMA-323 Annex J.2 (TCP without SOAP): two zero octets, a 16-bit big-endian length, four ASCII digits, XML.
//! What the length counts is the dialect's ([INF], ecss10-interfaces §3). Pure: no I/O.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ecss_switch::dialect::CstaLength;

/// Octets of a frame's header.
pub const HEADER: usize = 8;
/// The most octets that the 16-bit length can count.
pub const MAX_LENGTH: usize = u16::MAX as usize;

/// What an answer is matched by: `0000` to `9998`, or `9999` for an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvokeId(u16);

impl InvokeId {
    /// Marks an event from the switch.
    pub const EVENT: Self = Self(9999);
    /// The id of a keep-alive message.
    pub const KEEPALIVE: Self = Self(0);

    /// The id with this number, if it has four digits.
    pub fn new(number: u16) -> Option<Self> {
        (number <= 9999).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }

    fn digits(self) -> [u8; 4] {
        let digit = |unit: u16| u8::try_from(self.0 / unit % 10).unwrap_or(0) + b'0';
        [digit(1000), digit(100), digit(10), digit(1)]
    }

    fn parse(digits: [u8; 4]) -> Option<Self> {
        let add = |number: u16, digit: &u8| digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0'));
        digits.iter().try_fold(0, add).map(Self)
    }
}

impl fmt::Display for InvokeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

impl fmt::Debug for InvokeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it answers, or that it is an event.
    pub invoke: InvokeId,
    /// The XML, not yet looked at.
    pub body: Bytes,
}

/// Why a byte stream is no sequence of frames. There is nothing to find the next frame by: the link has to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first two octets are not zero.
    #[error("a frame begins with {0:02x}{1:02x} instead of 0000")]
    Marker(u8, u8),
    /// The length counts the header and is shorter than it.
    #[error("a frame of {0} octets is shorter than its header")]
    Length(u16),
    /// The invoke id is not four digits.
    #[error("an invoke id is not four digits")]
    InvokeId,
}

impl FrameError {
    /// One word for counting and for logging once per kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Marker(..) => "frame marker",
            Self::Length(_) => "frame length",
            Self::InvokeId => "frame invoke id",
        }
    }
}

/// A message does not fit a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} octets does not fit a frame")]
pub struct TooLong(pub usize);

/// Reads and writes frames.
#[derive(Debug, Clone, Copy)]
pub struct Framing {
    counts_header: bool,
}

impl Framing {
    /// Frames whose length counts what the dialect says.
    pub fn new(length: CstaLength) -> Self {
        Self { counts_header: length == CstaLength::Whole }
    }

    /// Takes the first frame out of the buffer, if it is there as a whole. Never holds more than one frame's octets back.
    pub fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(&[first, second, high, low, a, b, c, d]) = buffer.first_chunk::<HEADER>() else {
            return Self::check_partial(buffer);
        };
        if (first, second) != (0, 0) {
            return Err(FrameError::Marker(first, second));
        }
        let invoke = InvokeId::parse([a, b, c, d]).ok_or(FrameError::InvokeId)?;
        let length = u16::from_be_bytes([high, low]);
        let body = if self.counts_header {
            usize::from(length).checked_sub(HEADER).ok_or(FrameError::Length(length))?
        } else {
            usize::from(length)
        };
        if buffer.len() < HEADER + body {
            buffer.reserve(HEADER + body - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEADER);
        Ok(Some(Frame { invoke, body: buffer.split_to(body).freeze() }))
    }

    /// Junk is noticed by its first octet, not when eight of them are there.
    fn check_partial(buffer: &BytesMut) -> Result<Option<Frame>, FrameError> {
        let mut octets = buffer.iter().copied();
        match (octets.next().unwrap_or(0), octets.next().unwrap_or(0)) {
            (0, 0) => Ok(None),
            (first, second) => Err(FrameError::Marker(first, second)),
        }
    }

    /// Appends one frame.
    pub fn encode(&self, invoke: InvokeId, body: &str, out: &mut BytesMut) -> Result<(), TooLong> {
        let counted = if self.counts_header { body.len() + HEADER } else { body.len() };
        let length = u16::try_from(counted).map_err(|_| TooLong(counted))?;
        out.reserve(HEADER + body.len());
        out.put_u16(0);
        out.put_u16(length);
        out.put_slice(&invoke.digits());
        out.put_slice(body.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [CstaLength; 2] = [CstaLength::Whole, CstaLength::Body];

    #[test]
    fn the_length_counts_utf8_octets_with_or_without_the_header() {
        for (length, octet) in [(CstaLength::Whole, 12), (CstaLength::Body, 4)] {
            let mut out = BytesMut::new();
            Framing::new(length).encode(InvokeId::new(7).unwrap(), "фу", &mut out).unwrap();
            assert_eq!(&out[..HEADER], [0, 0, 0, octet, b'0', b'0', b'0', b'7']);
        }
    }

    #[test]
    fn a_keepalive_of_21_octets_is_read() {
        let mut wire = BytesMut::from(&b"\0\0\0\x150000<keepalive />"[..]);
        assert_eq!(wire.len(), 21);
        let frame = Framing::new(CstaLength::Whole).decode(&mut wire).unwrap().unwrap();
        assert_eq!((frame.invoke, &frame.body[..]), (InvokeId::KEEPALIVE, &b"<keepalive />"[..]));
    }

    #[test]
    fn frames_above_32767_octets_are_read_and_longer_than_65535_refused() {
        for length in BOTH {
            let framing = Framing::new(length);
            let mut wire = BytesMut::new();
            let body = "x".repeat(MAX_LENGTH - HEADER);
            framing.encode(InvokeId::EVENT, &body, &mut wire).unwrap();
            assert_eq!(framing.decode(&mut wire).unwrap().unwrap().body.len(), body.len());
            assert!(framing.encode(InvokeId::EVENT, &"x".repeat(MAX_LENGTH + 1), &mut wire).is_err());
            assert!(wire.is_empty());
        }
    }

    #[test]
    fn broken_frames_are_errors_of_their_kind() {
        let decode = |bytes: &[u8]| Framing::new(CstaLength::Whole).decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(b"<xml"), Err(FrameError::Marker(b'<', b'x')));
        assert_eq!(decode(b"\0\0\0\x070001"), Err(FrameError::Length(7)));
        assert_eq!(decode(b"\0\0\0\x10 001"), Err(FrameError::InvokeId));
        assert_eq!(decode(b"\0\0\0"), Ok(None));
        assert_eq!(decode(b""), Ok(None));
    }

    proptest! {
        #[test]
        fn frames_survive_any_chopping_of_the_stream(
            bodies in prop::collection::vec(".{0,200}", 1..8),
            cuts in prop::collection::vec(1_usize..40, 1..200),
            whole: bool,
        ) {
            let framing = Framing::new(BOTH[usize::from(whole)]);
            let mut wire = BytesMut::new();
            for (number, body) in (0..).zip(&bodies) {
                framing.encode(InvokeId::new(number).unwrap(), body, &mut wire).unwrap();
            }
            let mut buffer = BytesMut::new();
            let mut read = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !wire.is_empty() {
                let piece = wire.split_to(cuts.next().unwrap().min(wire.len()));
                buffer.extend_from_slice(&piece);
                while let Some(frame) = framing.decode(&mut buffer).unwrap() {
                    prop_assert_eq!(usize::from(frame.invoke.number()), read.len());
                    read.push(String::from_utf8(frame.body.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(read, bodies);
        }

        #[test]
        fn any_bytes_decode_or_fail_but_never_panic(bytes: Vec<u8>, whole: bool) {
            let framing = Framing::new(BOTH[usize::from(whole)]);
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = framing.decode(&mut buffer) {}
            prop_assert!(buffer.len() <= bytes.len());
        }
    }
}
