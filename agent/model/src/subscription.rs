//! One subscriber's stream: a cursor into the ring and a filter. It holds no queue: who reads slowly falls behind alone, and is told so.

use std::{collections::HashSet, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use elph_proto::v1::{self, subscribe_response::Message};
use jiff::Timestamp;
use parking_lot::RwLockReadGuard;
use prost::Message as _;
use tokio::sync::watch;

use crate::{
    convert,
    core::{Core, Inner},
    journal::{Entry, Kind, link_domain},
};

/// What a subscriber wants and may see. Empty lists mean everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Kinds.
    pub kinds: Vec<v1::EventKind>,
    /// Domains; `None`: all.
    pub domains: Option<HashSet<String>>,
    /// Numbers.
    pub aliases: HashSet<String>,
    /// Our ids of conferences.
    pub conferences: HashSet<String>,
}

/// Where a stream starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// With new events.
    Now,
    /// With a snapshot.
    Snapshot,
    /// After a cursor.
    After(v1::Cursor),
}

/// One message of the stream, encoded: a `SubscribeResponse`.
pub type Frame = Bytes;

/// Most events per turn, so that one subscriber does not hold the lock for long.
const BATCH: usize = 256;

/// Most calls or conferences in one part of a snapshot.
const SNAPSHOT_PART: usize = 500;

/// A subscriber's stream.
pub struct Subscription {
    core: Arc<Core>,
    filter: Filter,
    next: Next,
    changed: watch::Receiver<u64>,
    /// Conferences that one of the wanted numbers takes part in.
    relevant: HashSet<String>,
    /// Wakes the stream up to see whether a heartbeat is due. It is not put off with every event: that would cost more than the event.
    quiet: Option<Pin<Box<tokio::time::Sleep>>>,
}

#[derive(Debug, Clone)]
enum Next {
    Resync(v1::resync::Reason, u64),
    Snapshot,
    /// With new events: a heartbeat first tells the cursor.
    Now(u64),
    After(u64),
    /// After a position, once it is known again which conferences the wanted numbers take part in.
    Recall(u64),
}

/// What a turn gave.
enum Turn {
    Frames(Vec<Frame>),
    /// Nothing for this subscriber so far, but more to look through.
    More,
    Nothing,
}

impl Filter {
    fn kind(&self, kind: v1::EventKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind) || self.kinds.contains(&v1::EventKind::Unspecified)
    }

    fn domain(&self, domain: &str) -> bool {
        self.domains.as_ref().is_none_or(|domains| domains.contains(domain))
    }

    fn call(&self, call: &v1::Call) -> bool {
        let wanted = |number: &str| self.aliases.contains(number);
        let concerns = wanted(&call.calling_number) || wanted(&call.called_number) || call.legs.iter().any(|leg| wanted(&leg.device));
        let by_alias = if self.aliases.is_empty() { self.conferences.is_empty() } else { concerns };
        self.kind(v1::EventKind::Call) && self.domain(&call.domain) && by_alias
    }

    fn conference(&self, conference: &v1::Conference) -> bool {
        let member = || conference.participants.iter().any(|member| self.aliases.contains(&member.number));
        self.kind(v1::EventKind::Conference)
            && self.domain(&conference.domain)
            && (self.conferences.is_empty() || self.conferences.contains(&conference.id))
            && (self.aliases.is_empty() || member())
    }

    /// A link of a domain, or of all domains. Another tenant's links are not shown.
    fn link(&self, domain: &str) -> bool {
        self.kind(v1::EventKind::Link) && (domain.is_empty() || self.domain(domain))
    }

    /// Whether an entry passes by what the ring knows without decoding it.
    fn entry(&self, entry: &Entry) -> bool {
        match entry.kind {
            Kind::Call => {
                self.kind(v1::EventKind::Call) && self.domain(&entry.domain) && (self.conferences.is_empty() || !self.aliases.is_empty())
            }
            Kind::Conference => {
                self.kind(v1::EventKind::Conference)
                    && self.domain(&entry.domain)
                    && (self.conferences.is_empty() || self.conferences.contains(&*entry.conference))
            }
            Kind::Link => self.link(&entry.domain),
        }
    }
}

impl Subscription {
    pub(crate) fn new(core: Arc<Core>, filter: Filter, start: Start) -> Self {
        let mut changed = core.changed.subscribe();
        changed.mark_changed();
        let next = {
            let inner = core.inner.read();
            match start {
                Start::Now => Next::Now(inner.ring.newest()),
                Start::Snapshot => Next::Snapshot,
                Start::After(cursor) if cursor.epoch != inner.ring.epoch() => Next::Resync(v1::resync::Reason::EpochChanged, 0),
                Start::After(cursor) if !inner.ring.can_resume(cursor.sequence) => {
                    Next::Resync(v1::resync::Reason::CursorTooOld, inner.ring.since(cursor.sequence))
                }
                Start::After(cursor) if filter.aliases.is_empty() => Next::After(cursor.sequence),
                Start::After(cursor) => Next::Recall(cursor.sequence),
            }
        };
        Self { core, filter, next, changed, relevant: HashSet::new(), quiet: None }
    }

    /// The next messages, at least one; a heartbeat if nothing comes within the time.
    pub async fn next(&mut self, heartbeat: Duration) -> Vec<Frame> {
        let deadline = tokio::time::Instant::now() + heartbeat;
        loop {
            self.changed.borrow_and_update();
            match self.turn() {
                Turn::Frames(frames) => return frames,
                Turn::More => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Turn::Nothing => {}
            }
            let quiet = self.quiet.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if quiet.deadline() > deadline {
                quiet.as_mut().reset(deadline);
            }
            tokio::select! {
                biased;
                // An error means that the core is gone, and then the stream's caller is too.
                changed = self.changed.changed() => if changed.is_err() {
                    return vec![self.heartbeat()];
                },
                () = quiet.as_mut() => {
                    quiet.as_mut().reset(deadline);
                    if tokio::time::Instant::now() >= deadline {
                        return vec![self.heartbeat()];
                    }
                }
            }
        }
    }

    fn heartbeat(&self) -> Frame {
        let inner = self.core.inner.read();
        let sequence = match self.next {
            Next::After(sequence) | Next::Recall(sequence) => sequence,
            _ => inner.ring.newest(),
        };
        encode(&inner, sequence, heartbeat())
    }

    /// What can be sent without waiting. Looks at one batch at most: the lock is not held for longer than that.
    fn turn(&mut self) -> Turn {
        let core = self.core.clone();
        let inner = core.inner.read();
        match self.next {
            Next::Resync(reason, skipped) => {
                let [too_old, epoch, too_slow] = &core.resyncs_sent;
                let counted = match reason {
                    v1::resync::Reason::TooSlow => too_slow,
                    v1::resync::Reason::EpochChanged => epoch,
                    _ => too_old,
                };
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let resync = v1::Resync { reason: reason.into(), skipped };
                let mut frames = vec![unplaced(Message::Resync(resync))];
                frames.extend(self.snapshot(inner));
                Turn::Frames(frames)
            }
            Next::Snapshot => Turn::Frames(self.snapshot(inner)),
            Next::Now(sequence) => {
                self.next = Next::After(sequence);
                Turn::Frames(vec![encode(&inner, sequence, heartbeat())])
            }
            Next::Recall(sequence) => {
                self.next = Next::After(sequence);
                let conferences = inner.snapshot(|_| false, |it| self.filter.conference(it)).conferences;
                self.relevant = conferences.iter().map(|it| it.id.clone()).collect();
                let frames: Vec<Frame> = conferences.into_iter().map(|it| told_whole(&inner, sequence, it)).collect();
                if frames.is_empty() { Turn::More } else { Turn::Frames(frames) }
            }
            Next::After(sequence) => {
                let Some(batch) = inner.ring.after(sequence, BATCH) else {
                    self.next = Next::Resync(v1::resync::Reason::TooSlow, inner.ring.since(sequence));
                    return Turn::More;
                };
                let mut last = sequence;
                let mut frames = Vec::new();
                for entry in batch {
                    last = entry.sequence;
                    if self.filter.entry(entry) {
                        self.push(&inner, entry, &mut frames);
                    }
                }
                self.next = Next::After(last);
                match frames.is_empty() {
                    true if last == sequence => Turn::Nothing,
                    true => Turn::More,
                    false => Turn::Frames(frames),
                }
            }
        }
    }

    /// Adds an entry that passed the cheap filter, after looking into it where numbers matter.
    fn push(&mut self, inner: &Inner, entry: &Entry, frames: &mut Vec<Frame>) {
        if self.filter.aliases.is_empty() || entry.kind == Kind::Link {
            frames.push(entry.frame.clone());
            return;
        }
        let Ok(response) = v1::SubscribeResponse::decode(entry.frame.clone()) else { return };
        let Some(Message::Event(event)) = response.message else { return };
        match event.change {
            Some(v1::event::Change::Call(call)) if self.filter.call(&call) => frames.push(entry.frame.clone()),
            Some(v1::event::Change::Participant(change)) => {
                let concerns = change.participant.as_ref().is_some_and(|it| self.filter.aliases.contains(&it.number));
                if concerns && self.relevant.insert(change.conference_id.clone()) {
                    // The subscriber has not heard of this conference: it gets the whole of it.
                    if let Some(conference) = inner.conference(&change.conference_id) {
                        frames.push(told_whole(inner, entry.sequence, conference.clone()));
                    }
                } else if self.relevant.contains(&change.conference_id) {
                    frames.push(entry.frame.clone());
                }
            }
            Some(v1::event::Change::Conference(conference)) => {
                let concerns = conference.participants.iter().any(|it| self.filter.aliases.contains(&it.number));
                if concerns {
                    self.relevant.insert(conference.id.clone());
                }
                if self.relevant.contains(&conference.id) {
                    frames.push(entry.frame.clone());
                }
                if conference.state() == v1::ConferenceState::Ended {
                    self.relevant.remove(&conference.id);
                }
            }
            _ => {}
        }
    }

    /// The state as of now. The lock is held while it is copied, not while it is encoded.
    fn snapshot(&mut self, inner: RwLockReadGuard<'_, Inner>) -> Vec<Frame> {
        let mut whole = inner.snapshot(|call| self.filter.call(call), |conference| self.filter.conference(conference));
        whole.links.retain(|link| self.filter.link(link_domain(link)));
        self.relevant = whole.conferences.iter().map(|conference| conference.id.clone()).collect();
        let cursor = v1::Cursor { epoch: inner.ring.epoch().to_owned(), sequence: inner.ring.newest() };
        drop(inner);
        self.next = Next::After(cursor.sequence);
        let mut frames = Vec::new();
        while whole.calls.len() > SNAPSHOT_PART {
            let rest = whole.calls.split_off(SNAPSHOT_PART);
            let calls = std::mem::replace(&mut whole.calls, rest);
            frames.push(unplaced(Message::Snapshot(v1::Snapshot { calls, ..Default::default() })));
        }
        // Conferences differ in size: a part holds as many as have SNAPSHOT_PART participants together.
        let mut part = v1::Snapshot::default();
        let mut size = 0;
        for conference in std::mem::take(&mut whole.conferences) {
            size += conference.participants.len() + 1;
            part.conferences.push(conference);
            if size > SNAPSHOT_PART {
                frames.push(unplaced(Message::Snapshot(std::mem::take(&mut part))));
                size = 0;
            }
        }
        whole.conferences = part.conferences;
        let last = v1::SubscribeResponse { cursor: Some(cursor), message: Some(Message::Snapshot(whole)) };
        frames.push(last.encode_to_vec().into());
        frames
    }
}

/// A conference of which the subscriber may not know, or not know everything: an event with the whole roster.
fn told_whole(inner: &Inner, sequence: u64, conference: v1::Conference) -> Frame {
    let event = v1::Event {
        time: Some(convert::timestamp(Timestamp::now())),
        domain: conference.domain.clone(),
        reconstructed: conference.reconstructed,
        polled: conference.polled,
        change: Some(v1::event::Change::Conference(conference)),
    };
    encode(inner, sequence, Message::Event(event))
}

fn heartbeat() -> Message {
    Message::Heartbeat(v1::Heartbeat { time: Some(convert::timestamp(Timestamp::now())) })
}

/// A message after which a stream cannot resume: the snapshot that it belongs to is not complete.
fn unplaced(message: Message) -> Frame {
    v1::SubscribeResponse { cursor: None, message: Some(message) }.encode_to_vec().into()
}

fn encode(inner: &Inner, sequence: u64, message: Message) -> Frame {
    let cursor = v1::Cursor { epoch: inner.ring.epoch().to_owned(), sequence };
    v1::SubscribeResponse { cursor: Some(cursor), message: Some(message) }.encode_to_vec().into()
}
