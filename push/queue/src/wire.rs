//! Fields of records in the wire format of protocol buffers: a number, a wire type, a value; unknown ones are skipped, so that records
//! can grow. Written and read without building messages: the queue does it for every push.

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Octets(&'a [u8]),
}

/// Not fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record's fields cannot be read")]
pub(crate) struct Malformed;

/// Writes a number; zero is what an absent one is read as.
pub(crate) fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(field) << 3);
        put_varint(out, value);
    }
}

/// Writes octets, also none.
pub(crate) fn put_octets(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The fields of a record.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

// === impl Fields ===

impl<'a> Fields<'a> {
    pub(crate) fn of(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn octets(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (octets, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(octets)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        loop {
            let key = self.varint()?;
            let field = u32::try_from(key >> 3).map_err(|_| Malformed)?;
            match key & 7 {
                0 => return Ok((field, Value::Number(self.varint()?))),
                2 => {
                    let length = self.varint()?;
                    return Ok((field, Value::Octets(self.octets(length)?)));
                }
                1 => drop(self.octets(8)?),
                5 => drop(self.octets(4)?),
                _ => return Err(Malformed),
            }
            if self.rest.is_empty() {
                // A last field of a type that is not used here.
                return Ok((0, Value::Number(0)));
            }
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

// === impl Value ===

impl<'a> Value<'a> {
    pub(crate) fn number(self) -> Result<u64, Malformed> {
        if let Self::Number(number) = self { Ok(number) } else { Err(Malformed) }
    }

    pub(crate) fn octets(self) -> Result<&'a [u8], Malformed> {
        if let Self::Octets(octets) = self { Ok(octets) } else { Err(Malformed) }
    }

    pub(crate) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.octets()?).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn fields_are_read_as_they_were_written(numbers in proptest::collection::vec((1_u32..1000, 1_u64..), 0..20), text in ".{0,300}") {
            let mut out = Vec::new();
            for (field, number) in &numbers {
                put_number(&mut out, *field, *number);
            }
            put_octets(&mut out, 7, text.as_bytes());
            let mut read: Vec<_> = Fields::of(&out).collect::<Result<_, _>>().unwrap();
            assert_eq!(read.pop(), Some((7, Value::Octets(text.as_bytes()))));
            assert_eq!(read, numbers.into_iter().map(|(field, number)| (field, Value::Number(number))).collect::<Vec<_>>());
        }

        #[test]
        fn no_octets_make_it_panic_or_run_for_ever(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            assert!(Fields::of(&octets).count() <= octets.len() + 1);
        }
    }
}
