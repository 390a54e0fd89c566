//! The pushes of one application: three queues by class, those that wait for their next attempt, and those whose deadlines are watched.
//! What begins next, and what an outcome leads to.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use push_core::{AppName, Capacity, Class, Outcome, Provider, Reason, Sender};
use rand::Rng;
use tokio::sync::Notify;

use crate::{
    core::{Core, Ending, Told},
    count::{ByClass, Counts},
    flow::{Flow, Trouble},
    index::{Index, Place, Stage, Ticket},
    life::{Job, State},
    options::{Options, span},
    outbox::Wanted,
    record::{put_begun, put_retried},
    run::Verdict,
};

/// Void tickets that are tolerated in a queue beside as many as there are valid ones.
const VOID: usize = 1024;
/// Expired pushes that are ended, and pushes that are begun, under one lock.
const BATCH: usize = 256;
/// How often a push is tried again whose token is said to be gone, but was registered later.
const REGISTERED_LATER: u8 = 3;
/// Devices that are spared for a while because they got too many; with more of them, only the push that was refused waits.
const DELAYED: usize = 1024;

/// One application.
pub(crate) struct Lane {
    pub(crate) app: AppName,
    pub(crate) provider: Provider,
    pub(crate) sender: Option<Arc<dyn Sender>>,
    /// Changes with the sender.
    version: u32,
    pub(crate) notify: Arc<Notify>,
    pub(crate) flow: Flow,
    pub(crate) counts: Counts,
    pub(crate) depth: ByClass<usize>,
    ready: ByClass<VecDeque<Ticket>>,
    deferred: BinaryHeap<Reverse<(u64, Ticket)>>,
    deadlines: BinaryHeap<Reverse<(u64, Ticket)>>,
    /// Targets to which no push but a call is sent before then.
    delayed: HashMap<u64, u64>,
    calls_under_way: usize,
    others_under_way: usize,
}

/// A push to be sent, or to be read back first.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) ticket: Ticket,
    pub(crate) class: Class,
    pub(crate) place: Place,
    pub(crate) round: u32,
    pub(crate) job: Option<Box<Job>>,
}

/// An attempt that ended.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) ticket: Ticket,
    pub(crate) class: Class,
    pub(crate) round: u32,
    pub(crate) outcome: Outcome,
    /// Of a token that is gone.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) job: Box<Job>,
}

/// What a lane is told when it has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// When to look again at the latest.
    pub(crate) wake: Option<u64>,
    /// More can be done at once.
    pub(crate) again: bool,
    pub(crate) version: u32,
    pub(crate) closing: bool,
    /// The log has something to write.
    pub(crate) wanted: Wanted,
}

// === impl Lane ===

impl Lane {
    pub(crate) fn new(app: AppName, provider: Provider, flow: Flow) -> Self {
        Self {
            app,
            provider,
            sender: None,
            version: 0,
            notify: Arc::new(Notify::new()),
            flow,
            counts: Counts::default(),
            depth: ByClass::default(),
            ready: ByClass::default(),
            deferred: BinaryHeap::new(),
            deadlines: BinaryHeap::new(),
            delayed: HashMap::new(),
            calls_under_way: 0,
            others_under_way: 0,
        }
    }

    /// Pushes that have not ended.
    pub(crate) fn waiting(&self) -> usize {
        self.depth.list().iter().map(|(_, depth)| depth).sum()
    }

    pub(crate) fn under_way(&self) -> usize {
        self.calls_under_way + self.others_under_way
    }

    fn under_way_of(&mut self, class: Class) -> &mut usize {
        if class == Class::Call { &mut self.calls_under_way } else { &mut self.others_under_way }
    }

    /// Drops void tickets before they are more than the valid ones.
    fn tidy(&mut self, index: &Index) {
        let most = 2 * self.waiting() + VOID;
        if self.deadlines.len() > most {
            self.deadlines.retain(|Reverse((_, ticket))| index.valid(*ticket).is_some());
        }
        if self.deferred.len() > most {
            self.deferred.retain(|Reverse((_, ticket))| index.is(*ticket, Stage::Deferred));
        }
        for class in crate::count::CLASSES {
            let ready = self.ready.of_mut(class);
            if ready.len() > most {
                ready.retain(|ticket| index.is(*ticket, Stage::Ready));
            }
        }
    }

    /// Pushes at the same time, and how many of them may be no calls.
    fn limits(&self, capacity: Capacity, options: &Options) -> (usize, usize) {
        // A sender that takes none is asked with one: nothing else would tell when that has changed.
        let most = capacity.concurrent.min(options.in_flight).max(1);
        let kept = (most / 16).clamp(1, 64);
        let others = most.saturating_sub(kept).max(1);
        (most.max(others + kept), others)
    }
}

// === impl Core ===

impl Core {
    pub(crate) fn set_sender(&mut self, lane: u16, sender: Option<Arc<dyn Sender>>) {
        let Some(it) = self.lanes.get_mut(lane as usize) else { return };
        let same = match (&it.sender, &sender) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        if let Some(sender) = &sender {
            it.provider = sender.provider();
        }
        it.sender = sender;
        it.version = it.version.wrapping_add(1);
        it.flow.reset();
        // What waited because of the old one's trouble goes at once.
        for Reverse((_, ticket)) in std::mem::take(&mut it.deferred).into_sorted_vec() {
            if let Some(entry) = self.index.valid_mut(ticket).filter(|entry| entry.stage == Stage::Deferred) {
                entry.stage = Stage::Ready;
                it.ready.of_mut(entry.class).push_front(ticket);
            }
        }
        it.notify.notify_one();
    }

    pub(crate) fn sender(&self, lane: u16) -> Option<Arc<dyn Sender>> {
        self.lanes.get(lane as usize)?.sender.clone()
    }

    /// A stored push waits for its turn from now on.
    pub(crate) fn enqueue(&mut self, ticket: Ticket, now: u64) {
        let Some(entry) = self.index.valid_mut(ticket) else { return };
        let Some(lane) = self.lanes.get_mut(entry.lane as usize) else { return };
        lane.deadlines.push(Reverse((entry.deadline, ticket)));
        if entry.due > now {
            entry.stage = Stage::Deferred;
            lane.deferred.push(Reverse((entry.due, ticket)));
        } else {
            entry.stage = Stage::Ready;
            lane.ready.of_mut(entry.class).push_back(ticket);
        }
        lane.tidy(&self.index);
    }

    /// What begins now, calls first. Pushes that are not in memory are taken only if `may_load`, unless they are calls.
    pub(crate) fn take(&mut self, lane: u16, now: u64, capacity: Option<Capacity>, may_load: bool, starts: &mut Vec<Start>) -> Turn {
        let expired = self.expire(lane, now);
        self.revive(lane, now);
        let mut more = false;
        if !self.closing()
            && let Some(capacity) = capacity
        {
            more = self.start(lane, now, capacity, may_load, starts);
        }
        let closing = self.closing();
        let wanted = self.outbox.wanted();
        let Some(it) = self.lanes.get_mut(lane as usize) else {
            return Turn { wake: None, again: false, version: 0, closing, wanted };
        };
        let sends = it.sender.is_some() && !closing;
        let deadline = it.deadlines.peek().map(|Reverse((at, _))| *at);
        let due = it.deferred.peek().filter(|_| sends).map(|Reverse((at, _))| *at);
        let pause = it.flow.paused(now).filter(|_| sends);
        let wake = [deadline, due, pause].into_iter().flatten().min();
        Turn { wake, again: expired || more, version: it.version, closing, wanted }
    }

    /// Ends what is too late; true: there may be more.
    fn expire(&mut self, lane: u16, now: u64) -> bool {
        for _ in 0..BATCH {
            let Some(it) = self.lanes.get_mut(lane as usize) else { return false };
            let Some(Reverse((at, ticket))) = it.deadlines.peek().copied().filter(|Reverse((at, _))| *at <= now) else { return false };
            it.deadlines.pop();
            let Some(entry) = self.index.valid(ticket) else { continue };
            if entry.stage != Stage::UnderWay && entry.deadline <= at {
                self.end(ticket.slot, Ending::of(State::Expired, &Reason::known("deadline passed")), now, None);
            }
        }
        true
    }

    /// Makes ready what is due.
    fn revive(&mut self, lane: u16, now: u64) {
        let Some(it) = self.lanes.get_mut(lane as usize) else { return };
        while let Some(Reverse((_, ticket))) = it.deferred.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            it.deferred.pop();
            if let Some(entry) = self.index.valid_mut(ticket).filter(|entry| entry.stage == Stage::Deferred) {
                entry.stage = Stage::Ready;
                // It is older than what waits there.
                it.ready.of_mut(entry.class).push_front(ticket);
            }
        }
    }

    fn start(&mut self, lane: u16, now: u64, capacity: Capacity, may_load: bool, starts: &mut Vec<Start>) -> bool {
        for class in [Class::Call, Class::Interactive, Class::Background] {
            loop {
                let Some(it) = self.lanes.get(lane as usize) else { return false };
                let (all, others) = it.limits(capacity, &self.options);
                let room = match class {
                    Class::Call => it.under_way() < all.max(others + 1),
                    _ => it.under_way() < all && it.flow.allows(now, it.others_under_way, others),
                };
                if !room {
                    break;
                }
                if starts.len() >= BATCH {
                    return true;
                }
                let Some(ticket) = self.next_ready(lane, class, now) else { break };
                let in_memory = self.index.valid(ticket).is_some_and(|entry| entry.job.is_some());
                let Some(it) = self.lanes.get_mut(lane as usize) else { return false };
                if !in_memory && !may_load && class != Class::Call {
                    it.ready.of_mut(class).push_front(ticket);
                    break;
                }
                *it.under_way_of(class) += 1;
                let round = it.flow.round();
                let Some(entry) = self.index.valid_mut(ticket) else { continue };
                entry.stage = Stage::Loading;
                let place = entry.place;
                let job = entry.job.take();
                if job.is_some() {
                    self.released(place.length);
                    self.begin(ticket, now, job.as_deref());
                }
                starts.push(Start { ticket, class, place, round, job });
            }
        }
        false
    }

    /// The next push of a class whose device may get one.
    fn next_ready(&mut self, lane: u16, class: Class, now: u64) -> Option<Ticket> {
        let it = self.lanes.get_mut(lane as usize)?;
        loop {
            let ticket = it.ready.of_mut(class).pop_front()?;
            let Some(entry) = self.index.valid_mut(ticket).filter(|entry| entry.stage == Stage::Ready) else { continue };
            if entry.deadline <= now {
                // More have expired than were ended in this turn: the next one ends it.
                continue;
            }
            match it.delayed.get(&entry.target).copied().filter(|until| *until > now && class != Class::Call) {
                Some(until) => {
                    entry.stage = Stage::Deferred;
                    it.deferred.push(Reverse((until, ticket)));
                }
                None => return Some(ticket),
            }
        }
    }

    fn begin(&mut self, ticket: Ticket, now: u64, job: Option<&Job>) {
        let Some(entry) = self.index.valid_mut(ticket) else { return };
        entry.stage = Stage::UnderWay;
        entry.attempts = entry.attempts.saturating_add(1);
        let (id, lane, class, attempts) = (entry.id, entry.lane, entry.class, entry.attempts);
        if entry.reached {
            self.possible_duplicates += 1;
        }
        if let Some(out) = self.outbox.step() {
            put_begun(out, id, now, attempts);
        }
        self.tell(lane, class, id, now, Told { attempt: attempts, job, ..Told::of(State::Sent) });
    }

    /// A push was read back: it is begun, unless it has ended meanwhile. Without `job` it could not be read.
    pub(crate) fn loaded(&mut self, lane: u16, start: Start, now: u64, starts: &mut Vec<Start>) {
        let ticket = start.ticket;
        let waits = self.index.valid(ticket).filter(|entry| entry.stage == Stage::Loading);
        let (late, moved) = waits.map_or((false, false), |entry| (entry.deadline <= now, entry.place != start.place));
        let waits = waits.is_some();
        if waits && !late && start.job.is_some() {
            self.begin(ticket, now, start.job.as_deref());
            starts.push(start);
            return;
        }
        let Some(it) = self.lanes.get_mut(lane as usize) else { return };
        let under_way = it.under_way_of(start.class);
        *under_way = under_way.saturating_sub(1);
        if late {
            self.end(ticket.slot, Ending::of(State::Expired, &Reason::known("deadline passed")), now, start.job.as_deref());
        } else if moved && let Some(entry) = self.index.valid_mut(ticket) {
            // It was moved to another file while it was read.
            entry.stage = Stage::Ready;
            it.ready.of_mut(start.class).push_front(ticket);
        } else if waits {
            self.end(ticket.slot, Ending::of(State::Failed, &Reason::known("it cannot be read back from disk")), now, None);
        }
    }

    /// An attempt ended.
    pub(crate) fn finish(&mut self, lane: u16, landed: Landed, now: u64, connected: bool) {
        let Landed { ticket, class, round, outcome, verdict, job } = landed;
        let Some(it) = self.lanes.get_mut(lane as usize) else { return };
        let under_way = it.under_way();
        *it.under_way_of(class) = it.under_way_of(class).saturating_sub(1);
        match trouble(&outcome, connected) {
            Some(trouble) => it.flow.trouble(round, now, under_way, trouble),
            None => it.flow.success(round, now),
        }
        let reason = outcome.reason();
        match &outcome {
            Outcome::Accepted { provider_id } => {
                let ending = Ending { state: State::Accepted, reason: None, provider_id: provider_id.as_deref() };
                self.end(ticket.slot, ending, now, Some(&job));
            }
            Outcome::TokenGone { .. } if verdict != Some(Verdict::RegisteredLater) => {
                self.gone(ticket, Ending { state: State::TokenGone, reason, provider_id: None }, now, &job);
            }
            Outcome::BadPayload { .. } | Outcome::Fatal { .. } => {
                self.end(ticket.slot, Ending { state: State::Failed, reason, provider_id: None }, now, Some(&job));
            }
            _ => self.retry(lane, ticket, &outcome, now, job),
        }
    }

    /// The token is gone: this push and all others that wait for it have ended.
    fn gone(&mut self, ticket: Ticket, ending: Ending<'_>, now: u64, job: &Job) {
        let others = self.index.valid(ticket).map(|entry| self.index.of_target(entry.target)).unwrap_or_default();
        self.end(ticket.slot, ending, now, Some(job));
        for slot in others {
            if slot != ticket.slot && self.index.get(slot).is_some_and(|entry| !matches!(entry.stage, Stage::UnderWay | Stage::Storing)) {
                self.end(slot, ending, now, None);
            }
        }
    }

    fn retry(&mut self, lane: u16, ticket: Ticket, outcome: &Outcome, now: u64, job: Box<Job>) {
        let chance = self.rng.random();
        let replaced = self.index.is_replaced(ticket.slot);
        let (attempts, waits, call_waits) = (self.options.attempts, self.options.retry, self.options.call_retry);
        let Some(entry) = self.index.valid_mut(ticket) else { return };
        let mut most = attempts;
        match outcome {
            // The push itself has not been looked at.
            Outcome::NotSent { .. } | Outcome::CredentialsExpired { .. } => {}
            Outcome::TokenGone { .. } => {
                most = REGISTERED_LATER;
                entry.spent = entry.spent.saturating_add(1);
            }
            Outcome::Unknown { .. } => {
                entry.reached = true;
                entry.spent = entry.spent.saturating_add(1);
            }
            _ => entry.spent = entry.spent.saturating_add(1),
        }
        let reason = outcome.reason();
        let failed = Ending { state: State::Failed, reason, provider_id: None };
        let (cancelled, replaced_reason) = (Reason::known("cancelled"), Reason::known("replaced"));
        let late = Reason::known("deadline passed");
        let ending = if entry.cancelled {
            Some(Ending::of(State::Dropped, &cancelled))
        } else if replaced {
            Some(Ending::of(State::Dropped, &replaced_reason))
        } else if entry.deadline <= now {
            Some(Ending::of(State::Expired, &late))
        } else {
            (entry.spent >= most).then_some(failed)
        };
        if let Some(ending) = ending {
            return self.end(ticket.slot, ending, now, Some(&job));
        }
        let waits = if entry.class == Class::Call { call_waits } else { waits };
        let own = waits.after(u32::from(entry.attempts), chance);
        let due = now.saturating_add(span(own.max(named(outcome).unwrap_or_default())).max(1));
        entry.stage = Stage::Deferred;
        entry.due = due;
        let (id, class, target, length, progress) = (entry.id, entry.class, entry.target, entry.place.length, entry.progress());
        if let Some(out) = self.outbox.step() {
            put_retried(out, id, now, progress, reason);
        }
        let told = Told { attempt: progress.attempts, job: Some(&job), reason, due: Some(due), ..Told::of(State::Retried) };
        self.tell(lane, class, id, now, told);
        let job = self.remember(class, job, length);
        match self.index.valid_mut(ticket) {
            Some(entry) => entry.job = job,
            None => return,
        }
        let Some(it) = self.lanes.get_mut(lane as usize) else { return };
        it.deferred.push(Reverse((due, ticket)));
        it.tidy(&self.index);
        if matches!(outcome, Outcome::Throttled { device_only: true, .. }) {
            if it.delayed.len() >= DELAYED {
                it.delayed.retain(|_, until| *until > now);
            }
            if it.delayed.len() < DELAYED {
                it.delayed.insert(target, due);
            }
        }
    }
}

/// The time that the provider named.
fn named(outcome: &Outcome) -> Option<Duration> {
    match outcome {
        Outcome::RetryAfter { after, .. } | Outcome::Throttled { after, .. } => *after,
        _ => None,
    }
}

/// How far the trouble goes that an outcome tells of.
fn trouble(outcome: &Outcome, connected: bool) -> Option<Trouble> {
    match outcome {
        Outcome::Throttled { device_only: true, .. } => None,
        Outcome::RetryAfter { after, .. } | Outcome::Throttled { after, .. } => Some(after.map_or(Trouble::One, Trouble::Until)),
        Outcome::CredentialsExpired { .. } => Some(Trouble::All),
        Outcome::NotSent { .. } | Outcome::Unknown { .. } => Some(if connected { Trouble::One } else { Trouble::All }),
        Outcome::Accepted { .. } | Outcome::TokenGone { .. } | Outcome::BadPayload { .. } | Outcome::Fatal { .. } => None,
    }
}
