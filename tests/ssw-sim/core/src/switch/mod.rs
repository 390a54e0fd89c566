//! The switch itself: a handle on one locked state. Every mutation emits its events before it returns, in order, under the lock.

mod calls;
mod conferences;
mod legs;
mod merge;
mod subscribers;
mod timers;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::broadcast;

use crate::{
    call::{CallView, Cause},
    clock::{Clock, SystemClock},
    conference::{ConferenceView, Room, Template},
    event::{CoreEvent, EventKind},
    licence::{LicenceKind, LicenceView},
    refusal::{Refusal, RefusalCause},
    subscriber::{Answer, GroupKind, Regime, Registration},
};

/// Events that wait for a slow listener before it has lost some.
const EVENT_BOUND: usize = 16_384;

/// Which call goes on after a transfer or join. Switches differ; a client must cope with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeInto {
    /// The held one.
    Held,
    /// The consultation.
    Active,
    /// A new one.
    New,
}

/// How a switch is set up.
#[derive(Debug, Clone)]
pub struct SwitchOptions {
    /// Seed of every random choice.
    pub seed: u64,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How long a phone rings before the attempt is given up.
    pub ring_time: Duration,
    /// How long calling a conference member takes until it rings.
    pub dial_time: Duration,
    /// Finished calls (and, apart, conferences) kept per domain.
    pub history: usize,
    /// Most members of a conference that names no limit.
    pub conference_limit: u32,
    /// Which call goes on after a transfer or join.
    pub merge_into: MergeInto,
}

impl Default for SwitchOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            clock: Arc::new(SystemClock),
            ring_time: Duration::from_secs(30),
            dial_time: Duration::from_millis(50),
            history: 10_000,
            conference_limit: 1000,
            merge_into: MergeInto::Held,
        }
    }
}

/// The switch. Cheap to clone; all clones are the same switch.
#[derive(Clone)]
pub struct Switch(Arc<Shared>);

struct Shared {
    options: SwitchOptions,
    state: Mutex<State>,
    events: broadcast::Sender<Arc<CoreEvent>>,
}

struct State {
    rng: StdRng,
    /// Number of the last event.
    seq: u64,
    /// Last number used in an id or timer.
    serial: u64,
    domains: BTreeMap<String, Domain>,
    licences: BTreeMap<LicenceKind, Licence>,
    timers: BTreeMap<(Timestamp, u64), timers::Timer>,
}

#[derive(Default)]
struct Licence {
    limit: Option<u32>,
    used: u32,
    expires_at: Option<Timestamp>,
}

/// What differs from the default alias.
#[derive(Default, Clone)]
struct Extra {
    name: Option<String>,
    password: Option<String>,
    answer: Option<Answer>,
    regime: Option<Regime>,
    registrations: Option<Vec<Registration>>,
    not_manager: bool,
}

struct Group {
    kind: GroupKind,
    members: Vec<String>,
}

/// A call with what is not shown of it.
struct Call {
    view: CallView,
    last_redirection: String,
    /// The group it was sent to, if any.
    group: Option<String>,
}

struct Domain {
    name: Arc<str>,
    /// First number of the numbered aliases, and how many there are.
    first: u64,
    count: u64,
    answer: Answer,
    call_limit: Option<u32>,
    /// Aliases that differ from the default, by number.
    extras: HashMap<String, Extra>,
    /// Aliases beside the numbered ones.
    declared: BTreeSet<String>,
    groups: BTreeMap<String, Group>,
    numeric_groups: BTreeMap<String, Vec<String>>,
    rooms: BTreeMap<String, Room>,
    templates: BTreeMap<String, Template>,
    calls: BTreeMap<String, Call>,
    /// Calls of each device that has a leg not released.
    devices: HashMap<String, BTreeSet<String>>,
    history: VecDeque<CallView>,
    conferences: BTreeMap<String, ConferenceView>,
    ended: VecDeque<ConferenceView>,
}

/// The state under its lock, with what a mutation needs.
struct Tx<'a> {
    state: &'a mut State,
    options: &'a SwitchOptions,
    now: Timestamp,
    events: &'a broadcast::Sender<Arc<CoreEvent>>,
}

impl Switch {
    /// A switch without domains.
    pub fn new(options: SwitchOptions) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(options.seed),
            seq: 0,
            serial: 0,
            domains: BTreeMap::new(),
            licences: LicenceKind::ALL.map(|kind| (kind, Licence::default())).into(),
            timers: BTreeMap::new(),
        };
        Self(Arc::new(Shared { options, state: Mutex::new(state), events: broadcast::channel(EVENT_BOUND).0 }))
    }

    /// The switch's time.
    pub fn now(&self) -> Timestamp {
        self.0.options.clock.now()
    }

    /// Events from now on. A reader that falls 16,384 events behind is told so (`Lagged`).
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<CoreEvent>> {
        self.0.events.subscribe()
    }

    /// The licences.
    pub fn licences(&self) -> Vec<LicenceView> {
        let state = self.0.state.lock();
        let view = |(kind, licence): (&LicenceKind, &Licence)| LicenceView {
            kind: *kind,
            limit: licence.limit,
            used: licence.used,
            expires_at: licence.expires_at,
        };
        state.licences.iter().map(view).collect()
    }

    /// Changes a licence. What is in use stays.
    pub fn set_licence(&self, kind: LicenceKind, limit: Option<u32>, expires_at: Option<Timestamp>) {
        let mut state = self.0.state.lock();
        let licence = state.licences.entry(kind).or_default();
        (licence.limit, licence.expires_at) = (limit, expires_at);
    }

    /// The switch restarts. With its state calls and conferences stay; without it they are gone and stand in the history as ended for
    /// want of resources. Sessions are the protocols' business; they learn of it by the event.
    pub fn restart(&self, keep_state: bool) {
        self.with(|tx| {
            if !keep_state {
                tx.forget_everything();
            }
            tx.emit(&Arc::from(""), EventKind::Restarted { keep_state });
        });
    }

    fn with<R>(&self, act: impl FnOnce(&mut Tx<'_>) -> R) -> R {
        let shared = &*self.0;
        let mut state = shared.state.lock();
        let now = shared.options.clock.now();
        act(&mut Tx { state: &mut state, options: &shared.options, now, events: &shared.events })
    }

    fn read<R>(&self, domain: &str, look: impl FnOnce(&Domain) -> R) -> Result<R, Refusal> {
        let state = self.0.state.lock();
        state.domains.get(domain).map(look).ok_or_else(no_such_domain)
    }
}

fn no_such_domain() -> Refusal {
    Refusal::new(RefusalCause::NoSuchSubscriber, "there is no such domain")
}

impl Tx<'_> {
    fn domain(&mut self, name: &str) -> Result<&mut Domain, Refusal> {
        self.state.domains.get_mut(name).ok_or_else(no_such_domain)
    }

    fn emit(&mut self, domain: &Arc<str>, kind: EventKind) {
        self.state.seq += 1;
        let event = CoreEvent { seq: self.state.seq, at: self.now, domain: domain.clone(), kind };
        // Nobody listening is no error.
        let _ = self.events.send(Arc::new(event));
    }

    fn emit_in(&mut self, domain: &str, kind: EventKind) {
        if let Some(name) = self.state.domains.get(domain).map(|domain| domain.name.clone()) {
            self.emit(&name, kind);
        }
    }

    fn serial(&mut self) -> u64 {
        self.state.serial += 1;
        self.state.serial
    }

    /// An opaque id that is never used twice.
    fn id(&mut self) -> String {
        let serial = self.serial();
        format!("{serial:x}_{:08x}", self.state.rng.random::<u32>())
    }

    /// Takes `wanted` licences, or says why not.
    fn take(&mut self, kind: LicenceKind, wanted: u32) -> Result<(), Refusal> {
        let now = self.now;
        let licence = self.state.licences.entry(kind).or_default();
        if licence.expires_at.is_some_and(|end| end <= now) {
            return Err(Refusal::new(RefusalCause::LicenceExpired, format!("the licence for {kind:?} has expired")));
        }
        if licence.limit.is_some_and(|limit| licence.used.saturating_add(wanted) > limit) {
            return Err(Refusal::new(RefusalCause::LicenceLimit, format!("every licence for {kind:?} is in use")));
        }
        licence.used = licence.used.saturating_add(wanted);
        Ok(())
    }

    fn give_back(&mut self, kind: LicenceKind, count: u32) {
        let licence = self.state.licences.entry(kind).or_default();
        debug_assert!(licence.used >= count, "more licences of {kind:?} given back than taken");
        licence.used = licence.used.saturating_sub(count);
    }

    fn forget_everything(&mut self) {
        let (now, keep) = (self.now, self.options.history);
        self.state.timers.clear();
        for domain in self.state.domains.values_mut() {
            for (_, mut call) in std::mem::take(&mut domain.calls) {
                for leg in call.view.legs.iter_mut().filter(|leg| leg.ended_at.is_none()) {
                    (leg.state, leg.cause, leg.ended_at) = (crate::LegState::Released, Some(Cause::NoResources), Some(now));
                }
                (call.view.ended_at, call.view.cause) = (Some(now), Some(Cause::NoResources));
                push_bounded(&mut domain.history, call.view, keep);
            }
            domain.devices.clear();
            for (_, mut conference) in std::mem::take(&mut domain.conferences) {
                (conference.ended_at, conference.cause) = (Some(now), Some(Cause::NoResources));
                conference.members.clear();
                push_bounded(&mut domain.ended, conference, keep);
            }
        }
        for licence in self.state.licences.values_mut() {
            licence.used = 0;
        }
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, bound: usize) {
    while queue.len() >= bound.max(1) {
        queue.pop_front();
    }
    queue.push_back(item);
}
