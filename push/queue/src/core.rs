//! The queue's state, behind one lock that is held for batches, shortly: what waits, in which lane, what is on its way to the disk.
//! Nothing here waits for anything.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use push_core::{AppName, Class, Provider, PushId, Reason, Sender};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::{Notify, broadcast, oneshot};

use crate::{
    count::{AppSnapshot, ByClass, Latency, Snapshot},
    flow::Flow,
    index::{Entry, Index, Known, New, Place, Stage, Ticket},
    lane::Lane,
    life::{Cancelled, Job, Life, Receipt, Refused, State},
    options::{Options, millis, span, time},
    outbox::{Batch, Outbox, Storing, Synced, revoke},
    record::{self, Progress, put_ended},
};

/// What an entry costs in memory beside its record, roughly.
const OVERHEAD: usize = 200;

/// The state.
pub(crate) struct Core {
    pub(crate) index: Index,
    pub(crate) lanes: Vec<Lane>,
    apps: HashMap<Box<str>, u16>,
    pub(crate) outbox: Outbox,
    pub(crate) segments: BTreeMap<u32, Holds>,
    pub(crate) options: Options,
    pub(crate) rng: SmallRng,
    events: broadcast::Sender<Arc<Life>>,
    waiting_bytes: u64,
    memory: usize,
    pub(crate) possible_duplicates: u64,
    pub(crate) damaged: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) sync: Latency,
    /// The disk refuses; why.
    trouble: Option<String>,
    closing: bool,
}

/// What of a file still waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Holds {
    pub(crate) pushes: usize,
    pub(crate) bytes: u64,
}

/// A job, encoded.
#[derive(Debug)]
pub(crate) struct Prepared {
    job: Box<Job>,
    start: usize,
    length: u32,
    deadline: u64,
    target: u64,
    collapse: u64,
    /// What was known of it before.
    known: Option<State>,
}

/// How targets and collapse keys are told apart; another one after each start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hashes(RandomState);

/// How a push ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending<'a> {
    pub(crate) state: State,
    pub(crate) reason: Option<&'a Reason>,
    pub(crate) provider_id: Option<&'a str>,
}

/// A step that happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    pub(crate) state: State,
    pub(crate) attempt: u16,
    /// The push, where it is in memory.
    pub(crate) job: Option<&'a Job>,
    pub(crate) reason: Option<&'a Reason>,
    pub(crate) provider_id: Option<&'a str>,
    /// When the next attempt is due.
    pub(crate) due: Option<u64>,
}

/// What an acceptance waits for.
pub(crate) type Admitted = (Vec<Receipt>, Option<oneshot::Receiver<Synced>>);

// === impl Hashes ===

impl Hashes {
    pub(crate) fn target(&self, app: &str, (kind, address): (u8, &[u8])) -> u64 {
        self.0.hash_one((app, kind, address))
    }

    /// Never zero.
    pub(crate) fn collapse(&self, target: u64, key: &[u8]) -> u64 {
        self.0.hash_one((target, key)) | 1
    }
}

// === impl Prepared ===

impl Prepared {
    /// Encodes jobs one after the other.
    pub(crate) fn all(jobs: Vec<Job>, hashes: &Hashes, most_age: Duration) -> (Vec<Self>, Vec<u8>) {
        let mut frames = Vec::with_capacity(jobs.len() * 512);
        let prepared = jobs
            .into_iter()
            .map(|job| {
                let start = frames.len();
                let length = record::put_stored(&mut frames, &job);
                let request = &job.request;
                let target = hashes.target(job.app.as_str(), record::target(&request.target));
                let collapse = request.collapse.as_ref().map_or(0, |key| hashes.collapse(target, key.as_str().as_bytes()));
                let deadline = deadline(request.deadline.map(millis), millis(job.received_at), most_age);
                Self { job: Box::new(job), start, length, deadline, target, collapse, known: None }
            })
            .collect();
        (prepared, frames)
    }
}

/// When a push is given up: at its deadline, and at the longest age.
pub(crate) fn deadline(deadline: Option<u64>, received: u64, most_age: Duration) -> u64 {
    let oldest = received.saturating_add(span(most_age));
    deadline.map_or(oldest, |deadline| deadline.min(oldest))
}

// === impl Ending ===

impl<'a> Ending<'a> {
    pub(crate) fn of(state: State, reason: &'a Reason) -> Self {
        Self { state, reason: Some(reason), provider_id: None }
    }
}

// === impl Told ===

impl Told<'_> {
    pub(crate) fn of(state: State) -> Self {
        Self { state, attempt: 0, job: None, reason: None, provider_id: None, due: None }
    }
}

// === impl Core ===

impl Core {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            index: Index::default(),
            lanes: Vec::new(),
            apps: HashMap::new(),
            outbox: Outbox::default(),
            segments: BTreeMap::new(),
            events: broadcast::Sender::new(options.watch_backlog.max(1)),
            options,
            rng: SmallRng::from_os_rng(),
            waiting_bytes: 0,
            memory: 0,
            possible_duplicates: 0,
            damaged: 0,
            disk_bytes: 0,
            sync: Latency::default(),
            trouble: None,
            closing: false,
        }
    }

    /// The application's lane, made when there is none.
    pub(crate) fn lane_of(&mut self, app: &AppName, provider: Provider) -> u16 {
        if let Some(lane) = self.apps.get(app.as_str()) {
            return *lane;
        }
        let lane = self.lanes.len() as u16;
        self.lanes.push(Lane::new(app.clone(), provider, Flow::new(self.options.pause)));
        self.apps.insert(app.as_str().into(), lane);
        lane
    }

    pub(crate) fn find_lane(&self, app: &str) -> Option<u16> {
        self.apps.get(app).copied()
    }

    /// Replaces the senders; lanes that have none keep what waits. The names of those that wait in vain.
    pub(crate) fn set_senders(&mut self, senders: &HashMap<AppName, Arc<dyn Sender>>) -> Vec<(AppName, usize)> {
        for (app, sender) in senders {
            self.lane_of(app, sender.provider());
        }
        for lane in 0..self.lanes.len() as u16 {
            let sender = self.lanes.get(lane as usize).and_then(|lane| senders.get(&lane.app)).cloned();
            self.set_sender(lane, sender);
        }
        let waiting = self.lanes.iter().filter(|lane| lane.sender.is_none() && lane.waiting() > 0);
        waiting.map(|lane| (lane.app.clone(), lane.waiting())).collect()
    }

    pub(crate) fn watch(&self) -> broadcast::Receiver<Arc<Life>> {
        self.events.subscribe()
    }

    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    pub(crate) fn closing(&self) -> bool {
        self.closing
    }

    // --- taking

    /// Takes all or none.
    pub(crate) fn admit(&mut self, mut prepared: Vec<Prepared>, frames: &[u8], now: u64) -> Result<Admitted, Refused> {
        if self.closing {
            return Err(Refused::Closed);
        }
        if let Some(trouble) = &self.trouble {
            return Err(Refused::Disk(trouble.clone()));
        }
        self.check(&mut prepared, now)?;
        let alone = prepared.len() == 1;
        let mut receipts = Vec::with_capacity(prepared.len());
        let mut wait = false;
        for Prepared { job, start, length, deadline, target, collapse, known } in prepared {
            let id = job.request.id;
            // Others of the same call may have the same id.
            let duplicate = if alone { known } else { self.state(id) };
            receipts.push(Receipt { id, duplicate });
            wait |= matches!(duplicate, None | Some(State::Received));
            let lane = self.find_lane(job.app.as_str());
            let frame = frames.get(start..start + length as usize);
            let (None, Some(lane), Some(frame)) = (duplicate, lane, frame) else { continue };
            let class = job.request.class;
            self.tell(lane, class, id, now, Told { job: Some(&job), ..Told::of(State::Received) });
            let place = Place { segment: 0, offset: 0, length };
            let received = millis(job.received_at);
            let job = self.remember(class, job, length);
            let progress = Progress::default();
            let new = New { id, place, received, deadline, target, collapse, lane, class, stage: Stage::Storing, progress, job };
            let ticket = self.insert(new);
            self.outbox.store(frame, ticket);
        }
        Ok((receipts, wait.then(|| self.outbox.wait())))
    }

    fn check(&self, prepared: &mut [Prepared], now: u64) -> Result<(), Refused> {
        let (mut pushes, mut bytes, mut calls_only) = (0_usize, 0_u64, true);
        for Prepared { job, length, deadline, known, .. } in prepared {
            let id = job.request.id;
            let sender = self.find_lane(job.app.as_str()).and_then(|lane| self.lanes.get(lane as usize)).and_then(|it| it.sender.as_ref());
            if sender.is_none() {
                return Err(Refused::UnknownApp { id, app: job.app.clone() });
            }
            if *length as usize > record::LONGEST / 2 {
                return Err(Refused::TooLarge { id, bytes: *length as usize });
            }
            *known = self.state(id);
            if known.is_some() {
                continue;
            }
            if *deadline <= now {
                return Err(Refused::TooLate(id));
            }
            pushes += 1;
            bytes += u64::from(*length);
            calls_only &= job.request.class == Class::Call;
        }
        let Options { mut most_pushes, mut most_bytes, call_pushes, call_bytes, .. } = self.options;
        if !calls_only {
            most_pushes = most_pushes.saturating_sub(call_pushes);
            most_bytes = most_bytes.saturating_sub(call_bytes);
        }
        if pushes > 0 && (self.index.len() + pushes > most_pushes || self.waiting_bytes + bytes > most_bytes) {
            return Err(Refused::Full { waiting: self.index.len(), bytes: self.waiting_bytes });
        }
        Ok(())
    }

    /// Keeps the push in memory if there is room.
    pub(crate) fn remember(&mut self, class: Class, job: Box<Job>, length: u32) -> Option<Box<Job>> {
        let most = self.options.memory_bytes.saturating_mul(if class == Class::Call { 2 } else { 1 });
        let size = length as usize + OVERHEAD;
        if self.memory + size > most {
            return None;
        }
        self.memory += size;
        Some(job)
    }

    /// The push is no longer in memory, or in somebody else's hands.
    pub(crate) fn released(&mut self, length: u32) {
        self.memory = self.memory.saturating_sub(length as usize + OVERHEAD);
    }

    /// A new entry, counted where it waits.
    pub(crate) fn insert(&mut self, new: New) -> Ticket {
        self.waiting_bytes += u64::from(new.place.length);
        if let Some(lane) = self.lanes.get_mut(new.lane as usize) {
            *lane.depth.of_mut(new.class) += 1;
        }
        if new.stage != Stage::Storing {
            self.hold(new.place);
        }
        self.index.insert(new)
    }

    fn hold(&mut self, place: Place) {
        let holds = self.segments.entry(place.segment).or_default();
        holds.pushes += 1;
        holds.bytes += u64::from(place.length);
    }

    fn let_go(&mut self, place: Place) {
        if let Some(holds) = self.segments.get_mut(&place.segment) {
            holds.pushes = holds.pushes.saturating_sub(1);
            holds.bytes = holds.bytes.saturating_sub(u64::from(place.length));
            if holds.pushes == 0 {
                self.segments.remove(&place.segment);
            }
        }
    }

    /// A part of a batch is on disk: its pushes may be sent. Who is to be woken.
    pub(crate) fn publish(&mut self, storing: &[Storing], segment: u32, base: u64, now: u64) -> Vec<Arc<Notify>> {
        let mut lanes = Vec::new();
        for Storing { ticket, offset, length } in storing {
            let place = Place { segment, offset: u32::try_from(base + *offset as u64).unwrap_or(u32::MAX), length: *length };
            let Some(entry) = self.index.valid_mut(*ticket) else { continue };
            entry.place = place;
            let (id, lane, class) = (entry.id, entry.lane, entry.class);
            self.hold(place);
            let job = self.index.valid_mut(*ticket).and_then(|entry| entry.job.take());
            self.tell(lane, class, id, now, Told { job: job.as_deref(), ..Told::of(State::Stored) });
            if let Some(entry) = self.index.valid_mut(*ticket) {
                entry.job = job;
            }
            self.enqueue(*ticket, now);
            self.replace(ticket.slot, now);
            if !lanes.contains(&lane) {
                lanes.push(lane);
            }
        }
        lanes.iter().filter_map(|lane| self.lanes.get(*lane as usize)).map(|lane| lane.notify.clone()).collect()
    }

    /// The newest of a collapse key ends the one before it, unless that is being sent.
    pub(crate) fn replace(&mut self, slot: u32, now: u64) {
        let Some(older) = self.index.collapse(slot) else { return };
        if self.index.get(older).is_some_and(|older| older.stage != Stage::UnderWay) {
            self.end(older, Ending::of(State::Dropped, &Reason::known("replaced")), now, None);
        }
    }

    /// The disk refused: what was to be stored is not taken, who waits is told.
    pub(crate) fn refuse(&mut self, batch: Batch, trouble: &str, now: u64) {
        let (storing, waiters) = self.outbox.refused(batch);
        for Storing { ticket, .. } in storing {
            if self.index.is(ticket, Stage::Storing)
                && let Some(entry) = self.take_out(ticket.slot)
            {
                // A part of it may be in the file.
                revoke(&mut self.outbox, entry.id, now);
                if let Some(lane) = self.lanes.get_mut(entry.lane as usize) {
                    lane.counts.add(entry.class, State::Dropped);
                }
            }
        }
        self.in_trouble(trouble);
        for waiter in waiters {
            // Who no longer waits need not know.
            let _ = waiter.send(Err(trouble.to_owned()));
        }
    }

    /// Nothing is accepted until `mended`.
    pub(crate) fn in_trouble(&mut self, trouble: &str) {
        self.trouble = Some(trouble.to_owned());
    }

    /// The same, and those who wait for the next write need not wait.
    pub(crate) fn hangs(&mut self, trouble: &str) -> Vec<oneshot::Sender<Synced>> {
        self.in_trouble(trouble);
        self.outbox.give_up()
    }

    pub(crate) fn mended(&mut self) {
        self.trouble = None;
        self.outbox.refusing = false;
    }

    // --- ending

    /// Removes an entry and forgets it.
    pub(crate) fn take_out(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.index.remove(slot)?;
        self.discount(&entry);
        Some(entry)
    }

    /// An entry was removed: it counts no longer.
    fn discount(&mut self, entry: &Entry) {
        self.waiting_bytes = self.waiting_bytes.saturating_sub(u64::from(entry.place.length));
        if entry.stage != Stage::Storing {
            self.let_go(entry.place);
        }
        if entry.job.is_some() {
            self.released(entry.place.length);
        }
        if let Some(lane) = self.lanes.get_mut(entry.lane as usize) {
            let depth = lane.depth.of_mut(entry.class);
            *depth = depth.saturating_sub(1);
        }
    }

    /// The push has ended. `job` is it, if the caller has it.
    pub(crate) fn end(&mut self, slot: u32, ending: Ending<'_>, now: u64, job: Option<&Job>) {
        let Ending { state, reason, provider_id } = ending;
        let Some(entry) = self.index.end(slot, state, self.options.remembered) else { return };
        self.discount(&entry);
        put_ended(self.outbox.ending(), entry.id, now, entry.attempts, state, reason, provider_id);
        let job = job.or(entry.job.as_deref());
        let told = Told { attempt: entry.attempts, job, reason, provider_id, ..Told::of(state) };
        self.tell(entry.lane, entry.class, entry.id, now, told);
    }

    /// Ends the push if it waits; the caller waits for the disk.
    pub(crate) fn cancel(&mut self, id: PushId, now: u64) -> (Cancelled, Option<oneshot::Receiver<Synced>>) {
        let slot = match self.index.known(id) {
            Some(Known::Waits(slot)) => slot,
            Some(Known::Ended(State::Accepted)) => return (Cancelled::Sent, None),
            Some(Known::Ended(state)) => return (Cancelled::Finished(state), None),
            None => return (Cancelled::Unknown, None),
        };
        let Some(entry) = self.index.get_mut(slot) else { return (Cancelled::Unknown, None) };
        let reason = Reason::known("cancelled");
        let under_way = entry.stage == Stage::UnderWay;
        let found = if under_way || entry.reached { Cancelled::Sent } else { Cancelled::Dropped };
        if under_way {
            // A restart must not send it again, either.
            entry.cancelled = true;
            let attempts = entry.attempts;
            put_ended(self.outbox.ending(), id, now, attempts, State::Dropped, Some(&reason), None);
        } else {
            self.end(slot, Ending::of(State::Dropped, &reason), now, None);
        }
        (found, Some(self.outbox.wait()))
    }

    // --- telling

    /// The state of a push that waits or ended lately.
    pub(crate) fn state(&self, id: PushId) -> Option<State> {
        let slot = match self.index.known(id)? {
            Known::Waits(slot) => slot,
            Known::Ended(state) => return Some(state),
        };
        self.index.get(slot).map(|entry| match entry.stage {
            Stage::Storing => State::Received,
            Stage::UnderWay => State::Sent,
            _ if entry.attempts > 0 => State::Retried,
            _ => State::Stored,
        })
    }

    /// Counts a step and tells it to watchers.
    pub(crate) fn tell(&mut self, lane: u16, class: Class, id: PushId, now: u64, told: Told<'_>) {
        let Told { state, attempt, job, reason, provider_id, due } = told;
        let Some(lane) = self.lanes.get_mut(lane as usize) else { return };
        lane.counts.add(class, state);
        if self.events.receiver_count() == 0 {
            return;
        }
        let life = Life {
            id,
            app: lane.app.clone(),
            class,
            user: job.and_then(|job| job.user.clone()),
            device: job.and_then(|job| job.device.clone()),
            state,
            at: time(now),
            attempt,
            reason: reason.cloned(),
            provider_id: provider_id.map(str::to_owned),
            retry_at: due.map(time),
        };
        // The last watcher may just have gone.
        let _ = self.events.send(Arc::new(life));
    }

    pub(crate) fn snapshot(&self, now: u64) -> Snapshot {
        let mut depth = ByClass::<usize>::default();
        let mut oldest = ByClass::<Option<u64>>::default();
        let mut oldest_of_lanes = vec![None; self.lanes.len()];
        for (_, entry) in self.index.iter() {
            *depth.of_mut(entry.class) += 1;
            let of_lane = oldest_of_lanes.get_mut(entry.lane as usize);
            for oldest in [Some(oldest.of_mut(entry.class)), of_lane].into_iter().flatten() {
                *oldest = Some(oldest.map_or(entry.received, |other: u64| other.min(entry.received)));
            }
        }
        let lanes = self.lanes.iter().zip(oldest_of_lanes);
        let mut apps: Vec<_> = lanes.map(|(lane, oldest)| self.app_snapshot(lane, oldest, now)).collect();
        apps.sort_by(|one, other| one.app.cmp(&other.app));
        let age = |since: Option<u64>| Duration::from_millis(since.map_or(0, |since| now.saturating_sub(since)));
        Snapshot {
            apps,
            depth: depth.list(),
            oldest: oldest.list().into_iter().map(|(class, since)| (class, age(since))).collect(),
            waiting_bytes: self.waiting_bytes,
            memory_bytes: self.memory,
            disk_bytes: self.disk_bytes,
            possible_duplicates: self.possible_duplicates,
            damaged: self.damaged,
            sync: self.sync.clone(),
            disk_trouble: self.trouble.clone(),
        }
    }

    fn app_snapshot(&self, lane: &Lane, oldest: Option<u64>, now: u64) -> AppSnapshot {
        let most = lane.sender.as_ref().map_or(0, |sender| sender.capacity().concurrent).min(self.options.in_flight);
        AppSnapshot {
            app: lane.app.clone(),
            provider: lane.provider,
            has_sender: lane.sender.is_some(),
            counts: lane.counts.list(),
            depth: lane.depth.list(),
            oldest: oldest.map(time),
            under_way: lane.under_way(),
            window: lane.flow.window(most),
            paused: lane.flow.paused(now).map(|until| Duration::from_millis(until - now)),
        }
    }

    // --- compaction

    /// The oldest file in which something waits, and what that is.
    pub(crate) fn oldest_segment(&self) -> Option<(u32, Holds)> {
        self.segments.first_key_value().map(|(segment, holds)| (*segment, *holds))
    }

    /// The waiting pushes of a file.
    pub(crate) fn waiting_in(&self, segment: u32) -> Vec<(Ticket, Place, Progress, bool)> {
        let there = self.index.iter().filter(|(_, entry)| entry.place.segment == segment && entry.stage != Stage::Storing);
        let mut waiting: Vec<_> = there.map(|(ticket, entry)| (ticket, entry.place, entry.progress(), entry.cancelled)).collect();
        waiting.sort_by_key(|(_, place, ..)| *place);
        waiting
    }

    /// A waiting push was moved.
    pub(crate) fn moved(&mut self, ticket: Ticket, from: Place, to: Place) {
        let Some(entry) = self.index.valid_mut(ticket).filter(|entry| entry.place == from) else { return };
        entry.place = to;
        if entry.job.is_some() {
            self.memory = (self.memory + to.length as usize).saturating_sub(from.length as usize);
        }
        self.waiting_bytes = (self.waiting_bytes + u64::from(to.length)).saturating_sub(u64::from(from.length));
        self.let_go(from);
        self.hold(to);
    }
}
