//! What a connection has yet to write, and what the message faults make of it.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::time::Instant;

use crate::{
    csta::frame::{EVENT_ID, Framing, HEADER, InvokeId},
    faults::Action,
};

/// How long a message that is kept for a swap waits for the next one.
const SWAP: Duration = Duration::from_millis(200);

/// What becomes of the connection after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It goes on.
    More,
    /// It ends when everything is written.
    Last,
}

/// Octets to be written, in order.
pub(super) struct Outbox {
    framing: Framing,
    /// What the socket takes next.
    pub(super) octets: BytesMut,
    held_back: Option<(Instant, BytesMut)>,
    garbled: u32,
}

// === impl Outbox ===

impl Outbox {
    pub(super) fn new(framing: Framing) -> Self {
        Self { framing, octets: BytesMut::new(), held_back: None, garbled: 0 }
    }

    /// Queues a message, or what `action` makes of it. One too long for its length field is left out and logged.
    pub(super) fn send(&mut self, action: Action, id: InvokeId, text: &str) -> Sent {
        let start = self.octets.len();
        if !self.encode(id, text.as_bytes()) {
            return Sent::More;
        }
        match action {
            Action::Pass => {}
            Action::Duplicate => {
                let copy = self.octets.get(start..).unwrap_or_default().to_vec();
                self.octets.extend_from_slice(&copy);
            }
            Action::HoldBack => {
                let message = self.octets.split_off(start);
                self.release();
                self.held_back = Some((Instant::now(), message));
                return Sent::More;
            }
            Action::Truncate => {
                let half = start + (self.octets.len() - start) / 2;
                self.octets.truncate(half);
                return Sent::Last;
            }
            Action::Garbage => {
                self.octets.truncate(start);
                self.garbled += 1;
                // In turn: a message whose text means nothing, and octets that are no message.
                if self.garbled.is_multiple_of(2) {
                    self.octets.put_slice(b"\xde\xad\xbe\xef\x00garbage\xff\xff\x00\x01");
                } else {
                    self.encode(id, b"\xff\xfe<garbage");
                }
            }
            Action::Oversize => {
                let message = self.octets.split_off(start);
                let filler = vec![b'x'; usize::from(u16::MAX) - HEADER - "<Oversize></Oversize>".len()];
                self.encode(EVENT_ID, &[b"<Oversize>".as_slice(), &filler, b"</Oversize>"].concat());
                self.octets.extend_from_slice(&message);
            }
            Action::WrongPad => {
                if let Some([_, _, high, low]) = self.octets.get_mut(start..start + 4) {
                    [*high, *low] = u16::from_be_bytes([*high, *low]).wrapping_add(3).to_be_bytes();
                }
            }
        }
        self.release();
        Sent::More
    }

    /// Queues half a message.
    pub(super) fn send_half(&mut self, id: InvokeId, text: &str) {
        self.send(Action::Truncate, id, text);
    }

    /// When the message that is kept for a swap is to be written at the latest.
    pub(super) fn swap_due(&self) -> Option<Instant> {
        self.held_back.as_ref().map(|(since, _)| *since + SWAP)
    }

    /// Writes the message that is kept for a swap.
    pub(super) fn release(&mut self) {
        if let Some((_, message)) = self.held_back.take() {
            self.octets.extend_from_slice(&message);
        }
    }

    fn encode(&mut self, id: InvokeId, xml: &[u8]) -> bool {
        let encoded = self.framing.encode(id, xml, &mut self.octets);
        if let Err(error) = &encoded {
            tracing::warn!(%error, octets = xml.len(), "a csta message is left out");
        }
        encoded.is_ok()
    }
}
