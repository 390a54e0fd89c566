//! Events in memory, encoded once for all subscribers.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use elph_proto::v1::{self, event::Change, subscribe_response::Message};
use jiff::Timestamp;
use prost::Message as _;
use uuid::Uuid;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Call,
    /// A conference or its participant.
    Conference,
    /// A link.
    Link,
}

/// One event.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its position.
    pub sequence: u64,
    /// What it is about.
    pub kind: Kind,
    /// Its domain, that of the link's name for links; empty: it is about all domains.
    pub domain: Arc<str>,
    /// Our id of the conference it is about; else empty.
    pub conference: Arc<str>,
    /// The encoded `SubscribeResponse`.
    pub frame: Bytes,
}

/// The ring.
#[derive(Debug)]
pub struct Ring {
    epoch: String,
    entries: VecDeque<Entry>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
    /// The position before the first entry: the oldest after which a stream can resume.
    base: u64,
    newest: u64,
    /// Positions that were skipped at a start: `(last before, first after)`, both of which can be resumed after.
    holes: Vec<(u64, u64)>,
    /// The first position of this run: from here on positions follow one another.
    began: u64,
    appended: [u64; 3],
    domains: Vec<Arc<str>>,
}

/// The domain in a link's name (`csta/biysk.local`); empty: the link serves all domains.
pub(crate) fn link_domain(link: &v1::Link) -> &str {
    link.name.split_once('/').map_or("", |(_, domain)| domain)
}

/// What an entry weighs beside its frame.
const OVERHEAD: usize = size_of::<Entry>() + 48;

/// More events than one run leaves out of the files, however long the disk refuses them.
const UNWRITTEN: u64 = 1 << 32;

/// The position that the clock gives.
fn clock() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0)
}

impl Ring {
    /// An empty ring of a new epoch.
    pub fn new(max_events: usize, max_bytes: usize) -> Self {
        let start = clock();
        Self {
            epoch: Uuid::new_v4().to_string(),
            entries: VecDeque::new(),
            bytes: 0,
            max_events: max_events.max(1),
            max_bytes,
            base: start,
            newest: start,
            holes: Vec::new(),
            began: start,
            appended: [0; 3],
            domains: Vec::new(),
        }
    }

    /// Begins to take over what is on disk: entries follow by [`Ring::restore`], then [`Ring::leap`].
    pub(super) fn resume(&mut self, epoch: String, base: u64) {
        self.epoch = epoch;
        self.entries.clear();
        self.bytes = 0;
        self.holes.clear();
        self.base = base;
        self.newest = base;
    }

    pub(super) fn restore(&mut self, sequence: u64, response: &v1::SubscribeResponse, frame: Bytes) {
        let Some(Message::Event(event)) = &response.message else { return };
        if sequence <= self.newest {
            return;
        }
        self.newest = sequence;
        let entry = self.entry(sequence, event, frame);
        self.push(entry);
    }

    /// Leaves the positions that may have been given out before the start, even where the clock has gone backwards since then.
    pub(super) fn leap(&mut self) {
        self.leap_to(clock().max(self.newest.saturating_add(UNWRITTEN)));
    }

    pub(super) fn leap_to(&mut self, start: u64) {
        self.holes.push((self.newest, start));
        self.newest = start;
        self.began = start;
    }

    /// Adds an event.
    pub fn append(&mut self, event: &v1::Event) -> Entry {
        self.newest += 1;
        let cursor = v1::Cursor { epoch: self.epoch.clone(), sequence: self.newest };
        let response = v1::SubscribeResponse { cursor: Some(cursor), message: Some(Message::Event(event.clone())) };
        let entry = self.entry(self.newest, event, response.encode_to_vec().into());
        let [calls, conferences, links] = &mut self.appended;
        *match entry.kind {
            Kind::Call => calls,
            Kind::Conference => conferences,
            Kind::Link => links,
        } += 1;
        self.push(entry.clone());
        entry
    }

    fn entry(&mut self, sequence: u64, event: &v1::Event, frame: Bytes) -> Entry {
        let (kind, domain, conference) = match &event.change {
            Some(Change::Conference(conference)) => (Kind::Conference, event.domain.as_str(), conference.id.as_str()),
            Some(Change::Participant(change)) => (Kind::Conference, event.domain.as_str(), change.conference_id.as_str()),
            Some(Change::Link(link)) => (Kind::Link, link_domain(link), ""),
            None => (Kind::Link, "", ""),
            Some(Change::Call(_)) => (Kind::Call, event.domain.as_str(), ""),
        };
        Entry { sequence, kind, domain: self.shared(domain), conference: conference.into(), frame }
    }

    /// Domains are few: their names are kept once.
    fn shared(&mut self, domain: &str) -> Arc<str> {
        if let Some(known) = self.domains.iter().find(|known| &***known == domain) {
            return known.clone();
        }
        let name: Arc<str> = domain.into();
        if self.domains.len() < 1024 {
            self.domains.push(name.clone());
        }
        name
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.frame.len() + OVERHEAD;
        self.entries.push_back(entry);
        while self.entries.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.frame.len() + OVERHEAD;
            self.base = oldest.sequence;
        }
        let base = self.base;
        self.holes.retain(|(_, after)| *after > base);
    }

    /// Up to `limit` entries after a position; `None`: they are no longer all there.
    pub fn after(&self, sequence: u64, limit: usize) -> Option<impl Iterator<Item = &Entry>> {
        if sequence < self.base {
            return None;
        }
        let from = self.entries.partition_point(|entry| entry.sequence <= sequence);
        Some(self.entries.range(from..).take(limit))
    }

    /// Whether a stream can resume after a position.
    pub fn can_resume(&self, sequence: u64) -> bool {
        let in_hole = self.holes.iter().any(|(before, after)| sequence > *before && sequence < *after);
        sequence >= self.base && sequence <= self.newest && !in_hole
    }

    /// How many events follow a position; 0: not known, since it was given out before the last start.
    pub(crate) fn since(&self, sequence: u64) -> u64 {
        if sequence < self.began { 0 } else { self.newest.saturating_sub(sequence) }
    }

    /// Most bytes held.
    pub(super) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// The epoch.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The oldest position after which a stream can resume.
    pub fn oldest_resumable(&self) -> u64 {
        self.base
    }

    /// The newest position.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Events appended since the start: of calls, conferences, links.
    pub fn appended(&self) -> [u64; 3] {
        self.appended
    }

    /// Events held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no event is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_has_gone_backwards_gives_no_position_out_twice() {
        let mut ring = Ring::new(10, 1 << 20);
        let future = clock() + 86_400_000_000;
        ring.resume("epoch".to_owned(), future);
        // Given out before the crash, and not on disk.
        let lost = future + 1000;
        ring.leap();
        assert!(ring.newest() > lost && ring.can_resume(future) && !ring.can_resume(lost));
        assert_eq!((ring.since(future), ring.since(ring.newest())), (0, 0));
    }
}
