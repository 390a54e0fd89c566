//! The Huffman code of strings (RFC 7541 Appendix B). It is canonical: all of it follows from the lengths of the codes.

/// The length of each symbol's code, in bits; the last symbol is the end of a string, which must not appear.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11,
    10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8,
    15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5,
    6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23,
    23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21,
    23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26,
    28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const SYMBOLS: usize = 257;
const END: u16 = 256;
const SHORTEST: usize = 5;
const LONGEST: usize = 30;
/// Codes up to this long are found at once.
const SHORT: usize = 10;

/// Codes of one length: the first of them, how many there are, and where their symbols begin in `ORDER`.
#[derive(Clone, Copy)]
struct Group {
    first: u32,
    count: u32,
    at: u32,
}

const TABLES: ([u16; SYMBOLS], [Group; LONGEST + 1], [u16; 1 << SHORT]) = tables();
/// Symbols by the lengths of their codes, then by their numbers.
static ORDER: [u16; SYMBOLS] = TABLES.0;
static GROUPS: [Group; LONGEST + 1] = TABLES.1;
/// By the next bits: the symbol in the upper bits, the length of its code in the lower four; zero: the code is longer.
static QUICK: [u16; 1 << SHORT] = TABLES.2;

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: what is out of bounds does not compile")]
const fn tables() -> ([u16; SYMBOLS], [Group; LONGEST + 1], [u16; 1 << SHORT]) {
    let mut order = [0; SYMBOLS];
    let mut groups = [Group { first: 0, count: 0, at: 0 }; LONGEST + 1];
    let mut quick = [0; 1 << SHORT];
    let (mut code, mut filled, mut length) = (0_u32, 0, SHORTEST);
    while length <= LONGEST {
        groups[length] = Group { first: code, count: 0, at: filled as u32 };
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                order[filled] = symbol as u16;
                filled += 1;
                groups[length].count += 1;
                if length <= SHORT {
                    let mut rest = 0;
                    while rest < 1 << (SHORT - length) {
                        quick[(code << (SHORT - length)) as usize + rest] = (symbol as u16) << 4 | length as u16;
                        rest += 1;
                    }
                }
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    (order, groups, quick)
}

/// Appends the string; `None`: it is none.
pub(crate) fn unpack(packed: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.reserve(packed.len() * 8 / SHORTEST);
    let (mut bits, mut held) = (0_u64, 0_usize);
    let mut rest = packed;
    loop {
        while held <= 56
            && let Some((octet, after)) = rest.split_first()
        {
            bits = bits << 8 | u64::from(*octet);
            held += 8;
            rest = after;
        }
        // The next bits, behind the last octet filled up with ones as the padding is.
        let next = |count: usize| {
            let all = if held >= count { bits >> (held - count) } else { bits << (count - held) | ((1 << (count - held)) - 1) };
            (all & ((1 << count) - 1)) as u32
        };
        let quick = QUICK.get(next(SHORT) as usize).copied().unwrap_or_default();
        let (symbol, length) = if quick != 0 { (quick >> 4, usize::from(quick & 15)) } else { long(next)? };
        if length > held || symbol == END {
            // Padding: less than an octet of ones.
            return (held < 8 && next(SHORT) == (1 << SHORT) - 1).then_some(());
        }
        held -= length;
        out.push(symbol as u8);
    }
}

fn long(next: impl Fn(usize) -> u32) -> Option<(u16, usize)> {
    for (length, group) in GROUPS.iter().enumerate().skip(SHORT + 1) {
        let within = next(length).wrapping_sub(group.first);
        if within < group.count {
            return Some((*ORDER.get((group.at + within) as usize)?, length));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(text: &[u8]) -> Vec<u8> {
        let (mut bits, mut held, mut out) = (0_u64, 0, Vec::new());
        let mut put = |code: u32, length: usize, out: &mut Vec<u8>| {
            bits = bits << length | u64::from(code);
            held += length;
            while held >= 8 {
                held -= 8;
                out.push((bits >> held) as u8);
            }
            held
        };
        let mut left = 0;
        for octet in text {
            let length = usize::from(LENGTHS[usize::from(*octet)]);
            let group = GROUPS[length];
            let within = ORDER[group.at as usize..].iter().position(|symbol| *symbol == u16::from(*octet)).unwrap();
            left = put(group.first + within as u32, length, &mut out);
        }
        if left > 0 {
            put((1 << (8 - left)) - 1, 8 - left, &mut out);
        }
        out
    }

    fn unpacked(packed: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        unpack(packed, &mut out).map(|()| out)
    }

    #[test]
    fn strings_of_the_rfc_are_read() {
        let hex = |text: &str| (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect::<Vec<_>>();
        for (packed, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            (
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
        ] {
            assert_eq!(unpacked(&hex(packed)).map(|text| String::from_utf8(text).unwrap()).as_deref(), Some(text));
            assert_eq!(pack(text.as_bytes()), hex(packed));
        }
    }

    #[test]
    fn every_octet_has_a_code() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unpacked(&pack(&all)), Some(all));
    }

    #[test]
    fn wrong_padding_and_the_end_symbol_are_refused() {
        assert_eq!(unpacked(&[]), Some(vec![]));
        assert_eq!(unpacked(&[0xff]), None, "a whole octet of padding");
        assert_eq!(unpacked(&[0xff; 4]), None, "the end of a string");
        assert_eq!(unpacked(&[0b0001_1000]), None, "padding of zeros");
        assert_eq!(unpacked(&[0b0001_1111]), Some(b"a".to_vec()));
    }

    proptest::proptest! {
        #[test]
        fn strings_are_read_as_they_were_written(text: Vec<u8>) {
            assert_eq!(unpacked(&pack(&text)), Some(text));
        }

        #[test]
        fn what_is_read_is_written_so(packed: Vec<u8>) {
            if let Some(text) = unpacked(&packed) {
                assert_eq!(pack(&text), packed);
            }
        }
    }
}
