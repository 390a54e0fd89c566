//! ECMA-323 Annex J.2 (TCP without SOAP), the switch's side: two zero octets, a big-endian 16-bit length, the invoke id as four
//! ASCII digits, then XML. What the length counts is the dialect's choice (ecss10-interfaces §3).

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Octets before the XML.
pub(crate) const HEADER: usize = 8;
/// The invoke id of everything that the switch sends on its own.
pub(crate) const EVENT_ID: InvokeId = InvokeId(*b"9999");
/// The invoke id of a keep-alive message.
pub(crate) const KEEPALIVE_ID: InvokeId = InvokeId(*b"0000");

/// The id that ties an answer to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvokeId(pub(crate) [u8; 4]);

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its invoke id.
    pub(crate) id: InvokeId,
    /// Its XML, not yet checked to be text.
    pub(crate) xml: Bytes,
}

/// Why a stream of octets cannot be a stream of messages: there is no way to find the next message after any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The first two octets say that the message is in another format of Annex J.
    #[error("the message does not begin with two zero octets")]
    NotPlain,
    /// The length leaves no room for the header.
    #[error("the length is smaller than the header")]
    TooShort,
    /// The invoke id is not four digits.
    #[error("the invoke id is not four digits")]
    BadInvokeId,
    /// The text does not fit into 16 bits of length.
    #[error("the message is longer than its length field can say")]
    TooLong,
}

/// Reads and writes messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Framing {
    /// Whether the length counts the header's octets, as the standard has it.
    pub(crate) counts_header: bool,
}

// === impl Framing ===

impl Framing {
    /// Takes the next whole message off the front of `buffer`; `None` while it is not all there.
    pub(crate) fn decode(self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let [zero_a, zero_b, high, low, id @ ..] = *header;
        if (zero_a, zero_b) != (0, 0) {
            return Err(FrameError::NotPlain);
        }
        if !id.iter().all(u8::is_ascii_digit) {
            return Err(FrameError::BadInvokeId);
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let whole = if self.counts_header { length } else { length + HEADER };
        if whole < HEADER {
            return Err(FrameError::TooShort);
        }
        if buffer.len() < whole {
            return Ok(None);
        }
        let mut message = buffer.split_to(whole);
        message.advance(HEADER);
        Ok(Some(Frame { id: InvokeId(id), xml: message.freeze() }))
    }

    /// Appends one message to `out`.
    pub(crate) fn encode(self, id: InvokeId, xml: &[u8], out: &mut BytesMut) -> Result<(), FrameError> {
        let counted = xml.len() + if self.counts_header { HEADER } else { 0 };
        let length = u16::try_from(counted).map_err(|_| FrameError::TooLong)?;
        out.reserve(HEADER + xml.len());
        out.put_u16(0);
        out.put_u16(length);
        out.put_slice(&id.0);
        out.put_slice(xml);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_keepalive_seen_in_captures_is_21_octets_long() {
        let mut out = BytesMut::new();
        Framing { counts_header: true }.encode(KEEPALIVE_ID, b"<keepalive />", &mut out).unwrap();
        assert_eq!(&out[..], b"\0\0\0\x150000<keepalive />");
    }

    #[test]
    fn the_length_is_unsigned_and_ends_at_65535() {
        let framing = Framing { counts_header: true };
        let mut out = BytesMut::new();
        framing.encode(EVENT_ID, &vec![b'x'; 65_535 - HEADER], &mut out).unwrap();
        assert_eq!(framing.decode(&mut out).unwrap().unwrap().xml.len(), 65_527);
        assert_eq!(framing.encode(EVENT_ID, &vec![b'x'; 65_536 - HEADER], &mut out), Err(FrameError::TooLong));
    }

    #[test]
    fn what_cannot_be_a_message_is_told_apart_from_what_is_not_all_there() {
        let framing = Framing { counts_header: true };
        let decode = |octets: &[u8]| framing.decode(&mut BytesMut::from(octets));
        assert_eq!(decode(b"\0\0\0\x150000<keep"), Ok(None));
        assert_eq!(decode(b"\x01\0\0\x150000"), Err(FrameError::NotPlain));
        assert_eq!(decode(b"\0\0\0\x0700000"), Err(FrameError::TooShort));
        assert_eq!(decode(b"\0\0\0\x1500x0"), Err(FrameError::BadInvokeId));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back_however_it_is_cut(
            texts in prop::collection::vec("[ -~а-я]{0,60}", 1..6), counts_header: bool, cut in 1usize..40,
        ) {
            let framing = Framing { counts_header };
            let mut stream = BytesMut::new();
            for text in &texts {
                framing.encode(EVENT_ID, text.as_bytes(), &mut stream).unwrap();
            }
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = framing.decode(&mut buffer).unwrap() {
                    read.push(String::from_utf8(frame.xml.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(read, texts);
        }

        #[test]
        fn garbage_never_panics(octets in prop::collection::vec(any::<u8>(), 0..64), counts_header: bool) {
            let mut buffer = BytesMut::from(&octets[..]);
            while let Ok(Some(_)) = (Framing { counts_header }).decode(&mut buffer) {}
        }
    }
}
