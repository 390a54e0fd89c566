//! HPACK (RFC 7541), the reading half: header blocks into names and values without an allocation for fields that are indexed.
//!
//! Own, because the kept crates look Huffman codes up bit by bit in hash maps, which alone would cost more than the whole answer.
//! Answers need no encoder: they are written as literals of the static table.

use std::{collections::VecDeque, sync::LazyLock};

/// Lengths of the Huffman codes of the bytes and of the end mark (RFC 7541, appendix B). The code is canonical: lengths are enough.
const CODE_LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10,
    10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6,
    7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23,
    21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22,
    22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27,
    26, 30,
];

/// The static table (RFC 7541, appendix A); index 1 is the first.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What a table entry costs beside its bytes (RFC 7541 §4.1).
const ENTRY_OVERHEAD: usize = 32;
/// The size that both sides start with; we never announce another.
const TABLE_SIZE: usize = 4096;

/// A block that does not follow RFC 7541: the connection ends with COMPRESSION_ERROR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("header block breaks the rules of HPACK")]
pub(crate) struct Malformed;

/// A header block decoder with its dynamic table.
#[derive(Debug)]
pub(crate) struct Decoder {
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    /// Name, then value.
    bytes: Box<[u8]>,
    name: usize,
}

// === impl Entry ===

impl Entry {
    fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked(self.name).unwrap_or_default()
    }
}

// === impl Decoder ===

impl Default for Decoder {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: TABLE_SIZE, name: Vec::new(), value: Vec::new() }
    }
}

impl Decoder {
    /// Hands each field of a whole block to `field`.
    pub(crate) fn decode(&mut self, block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        let mut rest = block;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                let (name, value) = self.indexed(index)?;
                field(name, value);
            } else if first & 0x40 != 0 {
                let index = integer(&mut rest, 6)?;
                self.literal(index, &mut rest)?;
                field(&self.name, &self.value);
                self.insert();
            } else if first & 0x20 != 0 {
                let limit = integer(&mut rest, 5)?;
                if limit > TABLE_SIZE {
                    return Err(Malformed);
                }
                self.limit = limit;
                self.evict(0);
            } else {
                // without indexing, and never indexed: the same to a reader
                let index = integer(&mut rest, 4)?;
                self.literal(index, &mut rest)?;
                field(&self.name, &self.value);
            }
        }
        Ok(())
    }

    fn indexed(&self, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
        let index = index.checked_sub(1).ok_or(Malformed)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        self.entries.get(index - STATIC.len()).map(Entry::parts).ok_or(Malformed)
    }

    /// Reads a literal field into `name` and `value`.
    fn literal(&mut self, index: usize, rest: &mut &[u8]) -> Result<(), Malformed> {
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        let named = if index == 0 { string(rest, &mut name) } else { self.indexed(index).map(|(known, _)| name.extend_from_slice(known)) };
        self.name = name;
        named?;
        self.value.clear();
        string(rest, &mut self.value)
    }

    fn insert(&mut self) {
        let size = self.name.len() + self.value.len() + ENTRY_OVERHEAD;
        self.evict(size);
        if size <= self.limit {
            let mut bytes = Vec::with_capacity(self.name.len() + self.value.len());
            bytes.extend_from_slice(&self.name);
            bytes.extend_from_slice(&self.value);
            self.entries.push_front(Entry { bytes: bytes.into_boxed_slice(), name: self.name.len() });
            self.size += size;
        }
    }

    /// Makes room for `wanted` bytes, as far as there is anything to throw out.
    fn evict(&mut self, wanted: usize) {
        while self.size + wanted > self.limit {
            let Some(old) = self.entries.pop_back() else { return };
            self.size -= old.bytes.len() + ENTRY_OVERHEAD;
        }
    }
}

/// An integer with a prefix of `bits` bits (RFC 7541 §5.1).
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, Malformed> {
    let (&first, mut tail) = rest.split_first().ok_or(Malformed)?;
    let mask = (1usize << bits) - 1;
    let mut value = usize::from(first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&byte, after) = tail.split_first().ok_or(Malformed)?;
            tail = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(Malformed);
            }
        }
    }
    *rest = tail;
    Ok(value)
}

/// A string (RFC 7541 §5.2), appended to `out`.
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let huffman = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = after;
    if huffman {
        decode_huffman(bytes, out)
    } else {
        out.extend_from_slice(bytes);
        Ok(())
    }
}

// === Huffman ===

/// One step of the automaton: it reads a byte in state `s` and emits up to one symbol per code that ends in it.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    /// Symbols that end here; at most two, for a code has at least five bits.
    count: u8,
    symbols: [u8; 2],
    /// The end mark or a code that is none.
    bad: bool,
}

struct Automaton {
    /// `steps[state * 256 + byte]`; 256 inner nodes of the code tree are the states.
    steps: Vec<Step>,
    /// Whether the input may end in this state: at most seven bits of padding, all ones.
    may_end: [bool; 256],
}

static AUTOMATON: LazyLock<Automaton> = LazyLock::new(Automaton::new);

#[derive(Clone, Copy)]
enum Node {
    Nothing,
    Inner(u8),
    Leaf(u16),
}

// === impl Automaton ===

impl Automaton {
    #[expect(clippy::indexing_slicing, reason = "fixed tables: 257 symbols make 256 inner nodes, and a byte indexes 256 steps")]
    fn new() -> Self {
        let mut symbols: Vec<u16> = (0..257).collect();
        symbols.sort_by_key(|symbol| (CODE_LENGTHS[usize::from(*symbol)], *symbol));
        let mut tree = [[Node::Nothing; 2]; 256];
        let (mut used, mut code, mut last_length) = (1u16, 0u32, CODE_LENGTHS[usize::from(symbols[0])]);
        for symbol in symbols {
            let length = CODE_LENGTHS[usize::from(symbol)];
            code <<= length - last_length;
            last_length = length;
            let mut node = 0usize;
            for bit in (0..length).rev() {
                let side = usize::from(code >> bit & 1 == 1);
                if bit == 0 {
                    tree[node][side] = Node::Leaf(symbol);
                } else if let Node::Inner(next) = tree[node][side] {
                    node = usize::from(next);
                } else {
                    tree[node][side] = Node::Inner(u8::try_from(used).unwrap_or_default());
                    node = usize::from(used);
                    used += 1;
                }
            }
            code += 1;
        }
        let mut steps = Vec::with_capacity(256 * 256);
        for state in 0..256usize {
            for byte in 0..=255u8 {
                let mut step = Step { next: 0, count: 0, symbols: [0; 2], bad: false };
                let mut node = state;
                for bit in (0..8).rev() {
                    match tree[node][usize::from(byte >> bit & 1)] {
                        Node::Inner(next) => node = usize::from(next),
                        Node::Leaf(symbol) if symbol < 256 => {
                            step.symbols[usize::from(step.count)] = u8::try_from(symbol).unwrap_or_default();
                            step.count += 1;
                            node = 0;
                        }
                        Node::Leaf(_) | Node::Nothing => {
                            step.bad = true;
                            break;
                        }
                    }
                }
                step.next = u8::try_from(node).unwrap_or_default();
                steps.push(step);
            }
        }
        let mut may_end = [false; 256];
        let mut node = 0usize;
        for _ in 0..8 {
            may_end[node] = true;
            match tree[node][1] {
                Node::Inner(next) => node = usize::from(next),
                Node::Leaf(_) | Node::Nothing => break,
            }
        }
        Self { steps, may_end }
    }
}

fn decode_huffman(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let automaton = &*AUTOMATON;
    let mut state = 0u8;
    for &byte in bytes {
        let step = automaton.steps.get(usize::from(state) << 8 | usize::from(byte)).ok_or(Malformed)?;
        if step.bad {
            return Err(Malformed);
        }
        match step.count {
            0 => {}
            1 => out.push(step.symbols[0]),
            _ => out.extend_from_slice(&step.symbols),
        }
        state = step.next;
    }
    if automaton.may_end.get(usize::from(state)).copied().unwrap_or_default() { Ok(()) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
        let mut fields = Vec::new();
        decoder.decode(block, |name, value| {
            fields.push((String::from_utf8(name.to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap()));
        })?;
        Ok(fields)
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_requests_of_appendix_c_4_are_read_with_huffman_and_a_growing_table() {
        let mut decoder = Decoder::default();
        let first = decode(&mut decoder, &bytes("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")).unwrap();
        assert_eq!(first, pairs(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]));
        let second = decode(&mut decoder, &bytes("8286 84be 5886 a8eb 1064 9cbf")).unwrap();
        assert_eq!(second.last().unwrap(), &pairs(&[("cache-control", "no-cache")])[0]);
        let third = decode(&mut decoder, &bytes("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf")).unwrap();
        assert_eq!(third[3..], pairs(&[(":authority", "www.example.com"), ("custom-key", "custom-value")]));
        assert_eq!(decoder.size, 164);
    }

    #[test]
    fn old_entries_leave_when_the_table_is_full() {
        let mut decoder = Decoder::default();
        // the table shrinks to 64 bytes: one entry of 42 fits
        let block = [bytes("3f21").as_slice(), &bytes("4001 6104 61616161"), &bytes("4001 6204 62626262")].concat();
        decode(&mut decoder, &block).unwrap();
        assert_eq!(decode(&mut decoder, &bytes("be")).unwrap(), pairs(&[("b", "bbbb")]));
        assert_eq!(decode(&mut decoder, &bytes("bf")), Err(Malformed));
        // one that is too big for the table empties it and is still read
        decode(&mut decoder, &[bytes("4001 61 28").as_slice(), &[b'x'; 40]].concat()).unwrap();
        assert_eq!(decode(&mut decoder, &bytes("be")), Err(Malformed));
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        for block in ["80", "ff", "7f", "4005 6161", "ffffffffff", "3fe21f 3fe2ff03", "0081 ff 8187", "0084 ffffffff 00", "c6"] {
            assert_eq!(decode(&mut Decoder::default(), &bytes(block)), Err(Malformed), "{block}");
        }
    }
}
