//! Reads header blocks.

use super::{
    TABLE, huffman,
    table::{Entry, Table},
};

/// Why a block cannot be read. The table is not the peer's any more: the connection is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends in the middle of a field.
    #[error("a header block ends too early")]
    Short,
    /// A number is too large.
    #[error("a number in a header block is too large")]
    Number,
    /// There is no such field.
    #[error("a header block refers to a field that there is not")]
    Index,
    /// Not a Huffman code.
    #[error("a string in a header block cannot be read")]
    Huffman,
    /// The table's size is changed in the wrong place, or beyond what was agreed.
    #[error("a header block changes the table's size wrongly")]
    Size,
}

/// One direction's table and how blocks are read with it.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// A name or a value.
enum Text<'a> {
    Plain(&'a [u8]),
    /// In a buffer of the decoder's.
    Unpacked,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: Table::new(), name: Vec::new(), value: Vec::new() }
    }
}

// === impl Decoder ===

impl Decoder {
    /// Reads a whole block and hands out its fields, names and values.
    pub fn decode(&mut self, mut block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), DecodeError> {
        let mut sizes = true;
        while let Some(first) = block.first().copied() {
            if first & 0x80 != 0 {
                let number = number(&mut block, 7)?;
                let (name, value) = self.table.get(number).ok_or(DecodeError::Index)?;
                field(name, value);
            } else if first & 0xe0 == 0x20 {
                let size = number(&mut block, 5)?;
                if !sizes || size > TABLE {
                    return Err(DecodeError::Size);
                }
                self.table.resize(size);
                continue;
            } else {
                let kept = first & 0x40 != 0;
                let known = number(&mut block, if kept { 6 } else { 4 })?;
                let literal = if known == 0 { Some(text(&mut block, &mut self.name)?) } else { None };
                let value = text(&mut block, &mut self.value)?.octets(&self.value);
                let name = match literal {
                    Some(name) => name.octets(&self.name),
                    None => self.table.get(known).ok_or(DecodeError::Index)?.0,
                };
                field(name, value);
                if kept {
                    let entry = Entry::new(name, value);
                    self.table.insert(entry);
                }
            }
            sizes = false;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn table_octets(&self) -> usize {
        self.table.octets()
    }
}

impl<'a> Text<'a> {
    fn octets(self, buffer: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Plain(octets) => octets,
            Self::Unpacked => buffer,
        }
    }
}

/// An integer whose first octet has so many bits of it (§5.1).
fn number(block: &mut &[u8], bits: u32) -> Result<usize, DecodeError> {
    let (first, rest) = block.split_first().ok_or(DecodeError::Short)?;
    *block = rest;
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value < most {
        return Ok(value);
    }
    // Four more octets are more than any length here.
    for shift in [0, 7, 14, 21] {
        let (octet, rest) = block.split_first().ok_or(DecodeError::Short)?;
        *block = rest;
        value += usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Number)
}

/// A string (§5.2).
fn text<'a>(block: &mut &'a [u8], buffer: &mut Vec<u8>) -> Result<Text<'a>, DecodeError> {
    let packed = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = number(block, 7)?;
    let (octets, rest) = block.split_at_checked(length).ok_or(DecodeError::Short)?;
    *block = rest;
    if !packed {
        return Ok(Text::Plain(octets));
    }
    buffer.clear();
    huffman::unpack(octets, buffer).ok_or(DecodeError::Huffman)?;
    Ok(Text::Unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Field = (String, String);

    fn decode(decoder: &mut Decoder, block: &str) -> Result<Vec<Field>, DecodeError> {
        let digits: String = block.split_whitespace().collect();
        let block: Vec<u8> = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
        let mut fields = Vec::new();
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        decoder.decode(&block, |name, value| fields.push((text(name), text(value)))).map(|()| fields)
    }

    fn fields(list: &[(&str, &str)]) -> Vec<Field> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_rfcs_answers_with_huffman_and_eviction_are_read() {
        // Appendix C.6, whose table has 256 octets.
        let mut decoder = Decoder::default();
        let first = "3f e101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b \
                     97c8 e9ae 82ae 43d3";
        let expected = [
            (":status", "302"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ];
        assert_eq!(decode(&mut decoder, first), Ok(fields(&expected)));
        assert_eq!(decoder.table_octets(), 222);
        let second = decode(&mut decoder, "4883 640e ffc1 c0bf").unwrap();
        assert_eq!((&*second[0].1, &second[1..]), ("307", &fields(&expected)[1..]));
        assert_eq!(decoder.table_octets(), 222);
        let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b \
                     3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
        let third = decode(&mut decoder, third).unwrap();
        assert_eq!((&*third[0].1, &*third[4].1), ("200", "gzip"));
        assert_eq!(decoder.table_octets(), 215);
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        for (block, error) in [
            ("80", DecodeError::Index),
            ("be", DecodeError::Index),
            ("7f", DecodeError::Short),
            ("ff ffffffff 01", DecodeError::Number),
            ("40 03 61", DecodeError::Short),
            ("00 81 ff 00", DecodeError::Huffman),
            ("3f e2 1f", DecodeError::Size),
            ("88 20", DecodeError::Size),
        ] {
            assert_eq!(decode(&mut Decoder::default(), block), Err(error), "{block}");
        }
        assert_eq!(decode(&mut Decoder::default(), "20 3f e1 1f 88"), Ok(fields(&[(":status", "200")])), "two changes of size");
    }

    proptest::proptest! {
        #[test]
        fn no_octets_make_it_panic_or_grow(blocks: Vec<Vec<u8>>) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let mut octets = 0;
                let result = decoder.decode(&block, |name, value| octets += name.len() + value.len());
                assert!(decoder.table_octets() <= TABLE);
                assert!(octets <= block.len() * TABLE);
                if result.is_err() {
                    break;
                }
            }
        }
    }
}
