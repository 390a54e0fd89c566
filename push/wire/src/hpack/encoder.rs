//! Writes header blocks. What requests share is a [`Head`]: it is compressed when it is first used, and copied from then on. Strings are
//! written as they are: Huffman's code saves a sixth of a push, but costs both sides more than these octets do.

use std::{borrow::Cow, sync::Arc};

use super::{
    FIELD, TABLE,
    table::{Entry, Table},
};

/// How a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It goes into the table: the next time it is one octet.
    Kept,
    /// Its value is another each time: only its name goes into the table.
    Once,
    /// A secret: never in a table, neither here nor beyond a proxy.
    Secret,
}

/// A field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// In lower case.
    pub name: &'static str,
    /// Octets that may stand in a field.
    pub value: Cow<'a, [u8]>,
    /// How it is written.
    pub way: Way,
}

/// Fields that many requests share, pseudo-fields first.
#[derive(Debug)]
pub struct Head {
    fields: Vec<Field<'static>>,
    size: usize,
}

/// One direction's table, and how blocks are written with it.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// Changes of the table's size that the peer has not been told: the lowest, and that which it has now.
    resized: Option<(usize, usize)>,
    /// Counts changes of the table: what was written before one may not be right any more.
    changes: u64,
    heads: Vec<Known>,
    /// The place in `heads` that is used next.
    next: usize,
}

/// A head as it is written.
#[derive(Debug)]
struct Known {
    head: Arc<Head>,
    changes: u64,
    octets: Vec<u8>,
}

/// Heads that are kept compressed.
const HEADS: usize = 16;
/// `:path` in the static table.
const PATH: usize = 4;

// === impl Field ===

impl<'a> Field<'a> {
    /// One that does not change.
    pub fn kept(name: &'static str, value: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { name, value: value.into(), way: Way::Kept }
    }

    /// One that is another each time.
    pub fn once(name: &'static str, value: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { name, value: value.into(), way: Way::Once }
    }

    /// A secret.
    pub fn secret(name: &'static str, value: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { name, value: value.into(), way: Way::Secret }
    }

    /// As peers count it against the longest list that they take.
    pub(crate) fn size(&self) -> usize {
        self.name.len() + self.value.len() + FIELD
    }
}

// === impl Head ===

impl Head {
    /// Of these fields.
    pub fn new(fields: Vec<Field<'static>>) -> Self {
        let size = fields.iter().map(Field::size).sum();
        Self { fields, size }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

// === impl Encoder ===

impl Default for Encoder {
    fn default() -> Self {
        Self { table: Table::new(), resized: None, changes: 0, heads: Vec::new(), next: 0 }
    }
}

impl Encoder {
    /// The peer's table has at most so many octets from now on.
    pub fn resize(&mut self, most: usize) {
        let most = most.min(TABLE);
        if most == self.table.most() && self.resized.is_none() {
            return;
        }
        self.table.resize(most);
        self.changes += 1;
        self.resized = Some((self.resized.map_or(most, |(lowest, _)| lowest.min(most)), most));
    }

    /// Appends a block: the path, which is a secret, in pieces; what is shared; what is not.
    pub fn encode(&mut self, out: &mut Vec<u8>, path: &[&[u8]], head: &Arc<Head>, own: &[Field<'_>]) {
        if let Some((lowest, now)) = self.resized.take() {
            if lowest < now {
                put_number(out, 0x20, 5, lowest);
            }
            put_number(out, 0x20, 5, now);
        }
        put_number(out, NEVER.0, NEVER.1, PATH);
        put_number(out, 0, 7, path.iter().map(|piece| piece.len()).sum());
        path.iter().for_each(|piece| out.extend_from_slice(piece));
        match self.heads.iter().find(|known| Arc::ptr_eq(&known.head, head) && known.changes == self.changes) {
            Some(known) => out.extend_from_slice(&known.octets),
            None => self.put_head(out, head),
        }
        for field in own {
            self.put(out, field);
        }
    }

    fn put_head(&mut self, out: &mut Vec<u8>, head: &Arc<Head>) {
        let start = out.len();
        let before = self.changes;
        head.fields.iter().for_each(|field| self.put(out, field));
        if self.changes != before {
            // It is shorter the next time.
            return;
        }
        let known = Known { head: head.clone(), changes: before, octets: out.get(start..).unwrap_or_default().to_vec() };
        let at = self.heads.iter().position(|old| Arc::ptr_eq(&old.head, head)).unwrap_or_else(|| {
            self.next = (self.next + 1) % HEADS;
            self.next
        });
        match self.heads.get_mut(at) {
            Some(place) => *place = known,
            None => self.heads.push(known),
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, field: &Field<'_>) {
        let Field { name, value, way } = field;
        let (name, value) = (name.as_bytes(), &**value);
        let number = match way {
            // In the dynamic table after the first time; there it is found faster.
            Way::Once => self.table.find_name(name).or_else(|| self.table.find(name, value).map(|(number, _)| number)),
            Way::Secret => self.table.find(name, b"").map(|(number, _)| number),
            Way::Kept => match self.table.find(name, value) {
                Some((number, true)) => return put_number(out, 0x80, 7, number),
                found => found.map(|(number, _)| number),
            },
        };
        // One that would push everything else out, and that soon by the next one, stays outside.
        let fits = name.len() + value.len() + FIELD <= self.table.most() / 2;
        let kept = fits && (*way == Way::Kept || (*way == Way::Once && number.is_none()));
        let (pattern, bits) = match way {
            _ if kept => (0x40, 6),
            Way::Secret => NEVER,
            Way::Kept | Way::Once => (0x00, 4),
        };
        put_number(out, pattern, bits, number.unwrap_or(0));
        if number.is_none() {
            put_text(out, name);
        }
        put_text(out, value);
        if kept {
            self.table.insert(Entry::new(name, value));
            self.changes += 1;
        }
    }
}

const NEVER: (u8, u32) = (0x10, 4);

fn put_number(out: &mut Vec<u8>, pattern: u8, bits: u32, number: usize) {
    let most = (1_usize << bits) - 1;
    if number < most {
        return out.push(pattern | number as u8);
    }
    out.push(pattern | most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_number(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Decoder, *};

    fn head(fields: &[(&'static str, &str)]) -> Arc<Head> {
        Arc::new(Head::new(fields.iter().map(|(name, value)| Field::kept(name, value.as_bytes().to_vec())).collect()))
    }

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut fields = Vec::new();
        decoder.decode(block, |name, value| fields.push((String::from_utf8(name.to_vec()).unwrap(), value.to_vec()))).unwrap();
        fields
    }

    #[test]
    fn what_is_shared_costs_an_octet_a_field_and_secrets_are_in_no_table() {
        let head = head(&[(":method", "POST"), ("apns-topic", "com.example.phone"), ("apns-push-type", "alert")]);
        let (mut encoder, mut lengths) = (Encoder::default(), Vec::new());
        for number in 0..4 {
            let mut block = Vec::new();
            let own = [Field::once("apns-id", number.to_string().into_bytes()), Field::secret("authorization", &b"bearer x"[..])];
            encoder.encode(&mut block, &[b"/3/device/", b"token"], &head, &own);
            lengths.push(block.len());
        }
        assert_eq!(lengths[1..], [2 + 15 + 3 + 4 + 11; 3], "{lengths:?}");
        assert!(encoder.table.find_name(b"authorization").is_none() && encoder.table.find_name(b":path").is_none());
    }

    fn field() -> impl Strategy<Value = Field<'static>> {
        let name = prop::sample::select(vec![":method", ":authority", "authorization", "apns-topic", "apns-id", "x", "apns-collapse-id"]);
        let value = prop::sample::select(vec![0_usize, 1, 7, 100, 127, 128, 300, 3000, 5000]).prop_map(|length| vec![b'v'; length]);
        let way = prop::sample::select(vec![Way::Kept, Way::Once, Way::Secret]);
        (name, value, any::<u8>(), way).prop_map(|(name, mut value, first, way)| {
            value.iter_mut().take(1).for_each(|octet| *octet = first);
            Field { name, value: value.into(), way }
        })
    }

    proptest! {
        #[test]
        fn a_decoder_reads_what_was_written_whatever_the_table_does(
            heads in prop::collection::vec(prop::collection::vec(field(), 0..6), 1..4),
            requests in prop::collection::vec((any::<usize>(), prop::collection::vec(field(), 0..4), prop::option::of(0_usize..6000)), 1..40),
        ) {
            let heads: Vec<_> = heads.into_iter().map(|fields| Arc::new(Head::new(fields))).collect();
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for (which, own, resized) in requests {
                if let Some(size) = resized {
                    encoder.resize(size);
                }
                let head = &heads[which % heads.len()];
                let mut block = Vec::new();
                encoder.encode(&mut block, &[b"/", b"path"], head, &own);
                let mut expected = vec![(":path".to_owned(), b"/path".to_vec())];
                expected.extend(head.fields.iter().chain(&own).map(|field| (field.name.to_owned(), field.value.to_vec())));
                prop_assert_eq!(decoded(&mut decoder, &block), expected);
                prop_assert!(encoder.table.octets() <= encoder.table.most());
                prop_assert_eq!(encoder.table.octets(), decoder.table_octets());
            }
        }
    }
}
