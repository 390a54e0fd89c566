//! The static table (RFC 7541 Appendix A) and dynamic ones.

use std::collections::VecDeque;

use super::{FIELD, TABLE};

/// Numbered from one.
#[rustfmt::skip]
pub(crate) const STATIC: [(&str, &str); 61] = [
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

/// A dynamic table: the newest entry has the lowest number.
#[derive(Debug)]
pub(crate) struct Table {
    entries: VecDeque<Entry>,
    octets: usize,
    most: usize,
}

/// A field in one piece of memory.
#[derive(Debug)]
pub(crate) struct Entry {
    name: usize,
    text: Box<[u8]>,
}

// === impl Entry ===

impl Entry {
    pub(crate) fn new(name: &[u8], value: &[u8]) -> Self {
        Self { name: name.len(), text: [name, value].concat().into_boxed_slice() }
    }

    fn field(&self) -> (&[u8], &[u8]) {
        self.text.split_at_checked(self.name).unwrap_or_default()
    }

    fn size(&self) -> usize {
        self.text.len() + FIELD
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::new(), octets: 0, most: TABLE }
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    pub(crate) fn resize(&mut self, most: usize) {
        self.most = most;
        self.shrink(most);
    }

    fn shrink(&mut self, to: usize) {
        while self.octets > to
            && let Some(oldest) = self.entries.pop_back()
        {
            self.octets -= oldest.size();
        }
    }

    /// One that is larger than the table empties it (§4.4).
    pub(crate) fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        self.shrink(self.most.saturating_sub(size));
        if size <= self.most {
            self.octets += size;
            self.entries.push_front(entry);
        }
    }

    /// The field of this number, static or dynamic.
    pub(crate) fn get(&self, number: usize) -> Option<(&[u8], &[u8])> {
        let index = number.checked_sub(1)?;
        match STATIC.get(index) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => self.entries.get(index - STATIC.len()).map(Entry::field),
        }
    }

    /// The number of a field, and whether its value is the same, too.
    pub(crate) fn find(&self, name: &[u8], value: &[u8]) -> Option<(usize, bool)> {
        let known = STATIC.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let mut by_name = None;
        for (number, field) in (1..).zip(known.chain(self.entries.iter().map(Entry::field))) {
            if field.0 == name {
                if field.1 == value {
                    return Some((number, true));
                }
                by_name.get_or_insert((number, false));
            }
        }
        by_name
    }

    /// The number of a name that is in the dynamic table; those of the static one are known to who writes them.
    pub(crate) fn find_name(&self, name: &[u8]) -> Option<usize> {
        let at = self.entries.iter().position(|entry| entry.name == name.len() && entry.field().0 == name)?;
        Some(STATIC.len() + 1 + at)
    }

    #[cfg(test)]
    pub(crate) fn octets(&self) -> usize {
        self.octets
    }
}
