//! State and journal under one lock: what a subscriber's snapshot shows is exactly what the journal's cursor says. Readers hold the lock
//! for as long as it takes to copy; the writer never waits for a subscriber.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use ecss_switch::{
    event::{Observation, SwitchEvent},
    ids::{Domain, SwitchCallId, SwitchConferenceId},
};
use elph_proto::{v1, view::View};
use jiff::Timestamp;
use parking_lot::{RwLock, RwLockWriteGuard};
use tokio::sync::watch;

use crate::{
    call::{CallSnapshot, Calls, FinishedCall},
    conference::{ConferenceChange, ConferenceSnapshot, Conferences},
    convert,
    journal::{Journal, JournalError, Ring},
    subscription::{Filter, Start, Subscription},
};

/// Where an observation comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// From polling the switch's lists.
    pub polled: bool,
    /// Pieced together after a time without events.
    pub reconstructed: bool,
}

/// When and whence of one observation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) tick: u64,
    pub(crate) now: Timestamp,
    pub(crate) switch_time: Option<Timestamp>,
    pub(crate) origin: Origin,
}

impl Stamp {
    pub(crate) fn at(&self) -> Timestamp {
        self.switch_time.unwrap_or(self.now)
    }
}

/// A place in the order of observations, taken before a snapshot is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u64);

/// Bounds.
#[derive(Debug, Clone)]
pub struct CoreOptions {
    /// Events kept in memory for resuming.
    pub max_events: usize,
    /// Bytes of events kept in memory.
    pub max_bytes: usize,
    /// Directory of the segment files; none: the journal does not survive a restart.
    pub directory: Option<PathBuf>,
    /// Bytes of all segment files together.
    pub disk_bytes: u64,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Ended calls and conferences kept for late observations and `Get`.
    pub keep_ended: usize,
}

impl Default for CoreOptions {
    fn default() -> Self {
        Self { max_events: 100_000, max_bytes: 64 << 20, directory: None, disk_bytes: 256 << 20, segment_bytes: 32 << 20, keep_ended: 2000 }
    }
}

/// Totals for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct CoreCounters {
    pub events: u64,
    /// Of calls, conferences, links.
    pub events_by_kind: [u64; 3],
    pub stale_observations: u64,
    pub active_calls: u64,
    pub active_conferences: u64,
    pub journal_events: u64,
    pub journal_bytes: u64,
    pub disk_events_skipped: u64,
    /// Because a cursor was too old, the epoch another one, a subscriber too slow.
    pub resyncs_sent: [u64; 3],
}

/// What goes on in one domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct DomainCounts {
    pub calls: u64,
    pub conferences: u64,
    pub participants: u64,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; none: this was the last.
    pub next: Option<(i64, String)>,
}

pub(crate) struct Inner {
    calls: Calls,
    conferences: Conferences,
    links: BTreeMap<String, v1::Link>,
    tick: u64,
    pub(crate) ring: Ring,
    journal: Option<Journal>,
    options: CoreOptions,
}

/// The model and its journal.
pub struct Core {
    pub(crate) inner: RwLock<Inner>,
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) resyncs_sent: [std::sync::atomic::AtomicU64; 3],
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("newest", &*self.changed.borrow()).finish_non_exhaustive()
    }
}

impl Core {
    /// Opens the journal, if there is one, and takes the state over from it.
    pub fn open(options: CoreOptions) -> Result<Self, JournalError> {
        let mut ring = Ring::new(options.max_events, options.max_bytes);
        let mut view = View::default();
        let journal = match &options.directory {
            Some(directory) => Some(Journal::open(directory, options.disk_bytes, options.segment_bytes, &mut ring, &mut view)?),
            None => None,
        };
        let (changed, _) = watch::channel(ring.newest());
        let mut inner =
            Inner { calls: Calls::default(), conferences: Conferences::default(), links: BTreeMap::new(), tick: 0, ring, journal, options };
        view.calls.into_values().for_each(|call| inner.calls.restore(call));
        view.conferences.into_values().for_each(|conference| inner.conferences.restore(conference));
        if inner.journal.is_some() {
            inner.checkpoint();
        }
        Ok(Self { inner: RwLock::new(inner), changed, resyncs_sent: Default::default() })
    }

    /// Applies an observation from a link.
    pub fn observe(&self, event: &SwitchEvent, origin: Origin) {
        self.observe_all([event], origin);
    }

    /// Applies what a link has told, in its order. Subscribers are woken once for all of it: under load waking costs more than the change.
    pub fn observe_all<'a>(&self, events: impl IntoIterator<Item = &'a SwitchEvent>, origin: Origin) {
        let mut inner = self.inner.write();
        for event in events {
            inner.observe(event, origin);
        }
        self.announce(inner);
    }

    /// Call before a snapshot is asked for: what is observed from now on is fresher than it.
    pub fn begin_snapshot(&self) -> Tick {
        Tick(self.inner.read().tick)
    }

    /// Makes the calls of a domain equal to the switch's list.
    pub fn resync_calls(&self, domain: &Domain, began: Tick, calls: &[CallSnapshot], finished: &[FinishedCall], origin: Origin) {
        let mut inner = self.inner.write();
        let stamp = inner.stamp(None, origin);
        let changes = inner.calls.resync(domain.as_str(), began.0, calls, finished, &stamp);
        inner.write_calls(changes, &stamp);
        self.announce(inner);
    }

    /// Makes the conferences of a domain equal to the switch's list.
    pub fn resync_conferences(&self, domain: &Domain, began: Tick, conferences: &[ConferenceSnapshot], origin: Origin) {
        let mut inner = self.inner.write();
        let stamp = inner.stamp(None, origin);
        let changes = inner.conferences.resync(domain.as_str(), began.0, conferences, &stamp);
        inner.write_conferences(domain.as_str(), changes, &stamp);
        self.announce(inner);
    }

    /// A link's state has changed.
    pub fn link_changed(&self, link: v1::Link) {
        let mut inner = self.inner.write();
        if inner.links.insert(link.name.clone(), link.clone()).as_ref() == Some(&link) {
            return;
        }
        let stamp = inner.stamp(None, Origin::default());
        inner.write("", v1::event::Change::Link(link), &stamp);
        self.announce(inner);
    }

    /// Wakes who waits, once they can have the lock.
    fn announce(&self, inner: RwLockWriteGuard<'_, Inner>) {
        let newest = inner.ring.newest();
        drop(inner);
        self.changed.send_if_modified(|known| {
            let news = newest > *known;
            *known = newest.max(*known);
            news
        });
    }

    // --- reading

    /// A call by our id.
    pub fn call(&self, id: &str) -> Option<v1::Call> {
        self.inner.read().calls.get(id).cloned()
    }

    /// A call by the switch's id.
    pub fn call_by_switch_id(&self, domain: &Domain, id: &SwitchCallId) -> Option<v1::Call> {
        self.inner.read().calls.by_switch_id(domain.as_str(), id.as_str()).cloned()
    }

    /// A conference by our id, its duration as of now.
    pub fn conference(&self, id: &str) -> Option<v1::Conference> {
        self.inner.read().conferences.get(id).cloned().map(with_duration)
    }

    /// A conference by the switch's id.
    pub fn conference_by_switch_id(&self, domain: &Domain, id: &SwitchConferenceId) -> Option<v1::Conference> {
        self.inner.read().conferences.by_switch_id(domain.as_str(), id.as_str()).cloned().map(with_duration)
    }

    /// Whether the participant was in the conference and has left.
    pub fn has_left(&self, conference: &str, participant: &str) -> bool {
        self.inner.read().conferences.has_left(conference, participant)
    }

    /// Calls that match, newest first, from a place on.
    pub fn calls(&self, after: Option<&(i64, String)>, limit: usize, matches: impl Fn(&v1::Call) -> bool) -> Page<v1::Call> {
        let inner = self.inner.read();
        let key = |call: &v1::Call| (newest_first(call.start_time), call.id.clone());
        let mut found: Vec<_> = inner.calls.iter().filter(|call| matches(call)).map(|call| (key(call), call)).collect();
        page(&mut found, after, limit, |call| call.clone())
    }

    /// Conferences that match, newest first, from a place on.
    pub fn conferences(
        &self,
        after: Option<&(i64, String)>,
        limit: usize,
        rosters: bool,
        matches: impl Fn(&v1::Conference) -> bool,
    ) -> Page<v1::Conference> {
        let inner = self.inner.read();
        let key = |conference: &v1::Conference| (newest_first(conference.start_time), conference.id.clone());
        let mut found: Vec<_> = inner.conferences.iter().filter(|conference| matches(conference)).map(|it| (key(it), it)).collect();
        page(&mut found, after, limit, |conference| {
            let participants = if rosters { conference.participants.clone() } else { Vec::new() };
            with_duration(v1::Conference { participants, ..without_roster(conference) })
        })
    }

    /// The links by name.
    pub fn links(&self) -> Vec<v1::Link> {
        self.inner.read().links.values().cloned().collect()
    }

    /// Epoch, oldest sequence after which a stream can resume, newest sequence.
    pub fn journal_range(&self) -> (String, u64, u64) {
        let inner = self.inner.read();
        (inner.ring.epoch().to_owned(), inner.ring.oldest_resumable(), inner.ring.newest())
    }

    /// What goes on, by domain.
    pub fn counts_by_domain(&self) -> BTreeMap<String, DomainCounts> {
        let inner = self.inner.read();
        let mut counts: BTreeMap<String, DomainCounts> = BTreeMap::new();
        for call in inner.calls.iter().filter(|call| call.state() != v1::CallState::Ended) {
            counts.entry(call.domain.clone()).or_default().calls += 1;
        }
        for conference in inner.conferences.iter().filter(|it| it.state() != v1::ConferenceState::Ended) {
            let domain = counts.entry(conference.domain.clone()).or_default();
            domain.conferences += 1;
            domain.participants += conference.participants.len() as u64;
        }
        counts
    }

    /// Totals for metrics.
    pub fn counters(&self) -> CoreCounters {
        let inner = self.inner.read();
        CoreCounters {
            events: inner.ring.appended().iter().sum(),
            events_by_kind: inner.ring.appended(),
            stale_observations: inner.calls.stale + inner.conferences.stale,
            active_calls: inner.calls.active as u64,
            active_conferences: inner.conferences.active as u64,
            journal_events: inner.ring.len() as u64,
            journal_bytes: inner.ring.bytes() as u64,
            disk_events_skipped: inner.journal.as_ref().map_or(0, Journal::skipped),
            resyncs_sent: self.resyncs_sent.each_ref().map(|count| count.load(std::sync::atomic::Ordering::Relaxed)),
        }
    }

    /// Starts a stream of events.
    pub fn subscribe(self: &std::sync::Arc<Self>, filter: Filter, start: Start) -> Subscription {
        Subscription::new(self.clone(), filter, start)
    }

    /// Waits until `read` gives something, or the time is over.
    pub async fn wait<T>(&self, within: Duration, mut read: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = read(self) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(within, wait).await.ok().flatten()
    }

    /// Writes everything to disk that is not there yet. Call at shutdown.
    pub async fn close(&self) {
        let closed = {
            let mut inner = self.inner.write();
            inner.checkpoint();
            inner.journal.take().map(Journal::close)
        };
        if let Some(closed) = closed {
            closed.await;
        }
    }
}

// === impl Inner ===

impl Inner {
    fn stamp(&mut self, switch_time: Option<Timestamp>, origin: Origin) -> Stamp {
        self.tick += 1;
        Stamp { tick: self.tick, now: Timestamp::now(), switch_time, origin }
    }

    fn observe(&mut self, event: &SwitchEvent, origin: Origin) {
        let stamp = self.stamp(event.at, origin);
        let domain = event.domain.as_str();
        match &event.observation {
            Observation::Leg(leg) => {
                let changes = self.calls.leg(domain, leg, &stamp);
                self.write_calls(changes, &stamp);
            }
            Observation::Merged(merge) => {
                let changes = self.calls.merged(domain, merge, &stamp);
                self.write_calls(changes, &stamp);
            }
            Observation::CallReleased { call, cause } => {
                let changes = self.calls.released(domain, call, *cause, &stamp);
                self.write_calls(changes, &stamp);
            }
            Observation::Conference(conference) => {
                let changes = self.conferences.conference(domain, conference, &stamp);
                self.write_conferences(domain, changes, &stamp);
            }
            Observation::Participant(participant) => {
                let changes = self.conferences.participant(domain, participant, &stamp);
                self.write_conferences(domain, changes, &stamp);
            }
            Observation::ConferenceEnded { conference } => {
                let changes = self.conferences.ended(domain, conference, &stamp);
                self.write_conferences(domain, changes, &stamp);
            }
        }
    }

    fn write_calls(&mut self, changes: Vec<v1::Call>, stamp: &Stamp) {
        for call in changes {
            let domain = call.domain.clone();
            self.write(&domain, v1::event::Change::Call(call), stamp);
        }
        self.calls.forget(self.options.keep_ended);
    }

    fn write_conferences(&mut self, domain: &str, changes: Vec<ConferenceChange>, stamp: &Stamp) {
        for change in changes {
            let change = match change {
                ConferenceChange::Conference(conference) if conference.version == 1 => v1::event::Change::Conference(conference),
                ConferenceChange::Conference(conference) => v1::event::Change::Conference(without_roster(&conference)),
                ConferenceChange::Participant(change) => v1::event::Change::Participant(change),
            };
            self.write(domain, change, stamp);
        }
        self.conferences.forget(self.options.keep_ended);
    }

    fn write(&mut self, domain: &str, change: v1::event::Change, stamp: &Stamp) {
        let event = v1::Event {
            time: Some(convert::timestamp(stamp.at())),
            domain: domain.to_owned(),
            reconstructed: stamp.origin.reconstructed,
            polled: stamp.origin.polled,
            change: Some(change),
        };
        let entry = self.ring.append(&event);
        if self.journal.as_mut().is_some_and(|journal| journal.append(&entry)) {
            self.checkpoint();
        }
    }

    /// Begins a new segment with the state as it is now.
    fn checkpoint(&mut self) {
        let snapshot = self.snapshot(|_| true, |_| true);
        let newest = self.ring.newest();
        if let Some(journal) = &mut self.journal {
            journal.checkpoint(newest, &snapshot);
        }
    }

    /// The state that matches.
    pub(crate) fn snapshot(&self, call: impl Fn(&v1::Call) -> bool, conference: impl Fn(&v1::Conference) -> bool) -> v1::Snapshot {
        let goes_on = |state: v1::CallState| state != v1::CallState::Ended;
        v1::Snapshot {
            calls: self.calls.iter().filter(|it| goes_on(it.state()) && call(it)).cloned().collect(),
            conferences: self
                .conferences
                .iter()
                .filter(|it| it.state() != v1::ConferenceState::Ended && conference(it))
                .cloned()
                .map(with_duration)
                .collect(),
            links: self.links.values().cloned().collect(),
            complete: true,
        }
    }

    pub(crate) fn conference(&self, id: &str) -> Option<&v1::Conference> {
        self.conferences.get(id)
    }
}

fn without_roster(conference: &v1::Conference) -> v1::Conference {
    v1::Conference {
        id: conference.id.clone(),
        domain: conference.domain.clone(),
        switch_conference_id: conference.switch_conference_id.clone(),
        name: conference.name.clone(),
        room: conference.room.clone(),
        participants: Vec::new(),
        ..*conference
    }
}

/// A conference that goes on has a duration only when it is shown.
fn with_duration(mut conference: v1::Conference) -> v1::Conference {
    if conference.state() != v1::ConferenceState::Ended {
        conference.duration = conference.start_time.as_ref().map(|start| convert::between(start, &convert::timestamp(Timestamp::now())));
    }
    conference
}

/// Sorts what began later before what began earlier, even within a second.
fn newest_first(start: Option<prost_types::Timestamp>) -> i64 {
    start.map_or(0, |start| start.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(start.nanos)).saturating_neg())
}

fn page<T, R>(found: &mut Vec<((i64, String), &T)>, after: Option<&(i64, String)>, limit: usize, read: impl Fn(&T) -> R) -> Page<R> {
    found.retain(|(key, _)| after.is_none_or(|after| key > after));
    found.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    let more = found.len() > limit;
    found.truncate(limit);
    let next = if more { found.last().map(|(key, _)| key.clone()) } else { None };
    Page { items: found.iter().map(|(_, item)| read(item)).collect(), next }
}
