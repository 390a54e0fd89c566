//! Frames (RFC 9113 §4 and §6): their heads, and those that are written here.

use crate::Code;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const ENABLE_PUSH: u16 = 2;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_FRAME_SIZE: u16 = 5;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Octets of a frame's head.
pub(crate) const HEAD: usize = 9;
/// The largest payload that nobody has to agree to; nothing larger is wanted here.
pub(crate) const LARGEST: usize = 16_384;
pub(crate) const LARGEST_WINDOW: i64 = (1 << 31) - 1;
pub(crate) const FIRST_WINDOW: i64 = 65_535;

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

// === impl Head ===

impl Head {
    pub(crate) fn read([a, b, c, kind, flags, s0, s1, s2, s3]: [u8; HEAD]) -> Self {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Self { length, kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]) }
    }

    pub(crate) fn octets(self) -> [u8; HEAD] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s0, s1, s2, s3]
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Writes a frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&Head { length: payload.len(), kind, flags, stream }.octets());
    out.extend_from_slice(payload);
}

pub(crate) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    out.extend_from_slice(&Head { length: settings.len() * 6, kind: SETTINGS, flags: 0, stream: 0 }.octets());
    for (which, value) in settings {
        out.extend_from_slice(&which.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(crate) fn put_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    put(out, RST_STREAM, 0, stream, &code.0.to_be_bytes());
}

/// Says good-bye. The peer cannot have opened streams here, so the last one is always zero.
pub(crate) fn put_goaway(out: &mut Vec<u8>, code: Code) {
    let [a, b, c, d] = code.0.to_be_bytes();
    put(out, GOAWAY, 0, 0, &[0, 0, 0, 0, a, b, c, d]);
}

pub(crate) fn put_window_update(out: &mut Vec<u8>, stream: u32, by: u32) {
    put(out, WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn heads_are_read_as_they_were_written(length in 0_usize..1 << 24, kind: u8, flags: u8, stream in 0_u32..1 << 31) {
            let head = Head { length, kind, flags, stream };
            assert_eq!(Head::read(head.octets()), head);
        }
    }
}
