//! The state of one CSTA application session after the other, without I/O: start, renewal, matching of answers, the window of
//! outstanding requests, deadlines, monitors, signs of life (ECMA-354; ecss10-interfaces §3). A driver hands it what arrives and
//! the time, and writes what it has to say.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use ecss_switch::{
    Alias, Dialect, Domain,
    link::{LinkCounters, LinkKind, Tap, Way},
};
use rand::Rng;
use secrecy::SecretString;

use crate::{
    frame::{Frame, Framing, InvokeId},
    message::{Answer, AnswerBody, Event, Incoming, Request, Service, XmlError, redacted},
    monitors::{MonitorProgress, Monitors, Next},
    observe::DeviceForm,
};

/// Octets that wait to be written, above which no further request is begun.
const MOST_WAITING_OCTETS: usize = 64 * 1024;
/// How long an id whose answer never came is left alone, so that a late answer meets nobody else's request.
const QUARANTINE: Duration = Duration::from_secs(60);
/// How long the answer to the last message is waited for.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// What a session needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The user name of the session.
    pub domain: Domain,
    /// Its password.
    pub password: SecretString,
    /// How long a session is to last without renewal.
    pub duration: Duration,
    /// Within which time a dead link is noticed.
    pub half_open_after: Duration,
    /// How long an answer is waited for.
    pub command_timeout: Duration,
    /// The most requests without answer.
    pub window: usize,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is no connection.
    Idle,
    /// The first message has been sent.
    Starting,
    /// Commands may be sent.
    Active,
    /// The last message has been sent.
    Stopping,
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The switch does not open it: domain, password, or CSTA is not enabled.
    #[error("the switch refused the session: {0}")]
    Refused(String),
    /// Nothing was heard in time.
    #[error("the switch has not been heard of in time")]
    Silent,
    /// The switch did not renew it in time.
    #[error("the session was not renewed: {0}")]
    Expired(String),
    /// We have ended it.
    #[error("the session was ended")]
    Stopped,
    /// The connection is gone.
    #[error("the connection was lost: {0}")]
    Connection(String),
}

/// How a command ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Its last octet did not leave: it surely was not executed.
    NotSent(&'static str),
    /// It left and was not answered.
    Unknown(&'static str),
}

/// What the driver is told.
#[derive(Debug)]
pub enum Output<T> {
    /// The session is active.
    Active,
    /// Every wanted monitor has been started or refused, for the first time in this session.
    Ready,
    /// Monitors were started later than that: what happened to their devices before may have been missed.
    Late,
    /// A command has ended.
    Reply(T, Result<AnswerBody, Failure>),
    /// The session is over; the connection is to be closed.
    Lost(Loss),
}

/// What an outstanding request is for.
enum Purpose<T> {
    Start,
    Renew,
    Stop,
    MonitorStart(Alias),
    MonitorStop,
    Command(T),
}

struct Pending<T> {
    purpose: Purpose<T>,
    service: Service,
    deadline: Instant,
    sent: Instant,
    /// Where in the stream of this connection its last octet is.
    end: u64,
}

struct Waiting<T> {
    token: T,
    request: Request,
    deadline: Instant,
}

/// The session. `T` is what the driver knows a command by.
pub struct Session<T> {
    settings: Settings,
    framing: Framing,
    namespace: String,
    device_form: DeviceForm,
    keepalive: Option<(String, Duration)>,
    counters: Arc<LinkCounters>,
    tap: Option<Arc<dyn Tap>>,
    phase: Phase,
    id: SecretString,
    duration: Duration,
    renew_at: Instant,
    expires_at: Instant,
    keepalive_at: Instant,
    heard_at: Instant,
    renewing: bool,
    ready: bool,
    next_id: u16,
    pending: HashMap<u16, Pending<T>>,
    deadlines: BTreeSet<(Instant, u16)>,
    quarantined: HashMap<u16, Instant>,
    waiting: VecDeque<Waiting<T>>,
    monitors: Monitors,
    out: BytesMut,
    text: String,
    queued: u64,
    written: u64,
    outputs: VecDeque<Output<T>>,
}

impl<T> fmt::Debug for Session<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Session");
        shown.field("phase", &self.phase).field("pending", &self.pending.len()).field("waiting", &self.waiting.len());
        shown.field("monitors", &self.monitors.progress()).finish_non_exhaustive()
    }
}

impl<T> Session<T> {
    /// A session that is not connected.
    pub fn new(settings: Settings, dialect: &Dialect, counters: Arc<LinkCounters>, tap: Option<Arc<dyn Tap>>, now: Instant) -> Self {
        let interval = Duration::from_secs(u64::from(dialect.csta.keepalive_interval_s.max(1)));
        Self {
            framing: Framing::new(dialect.csta.length),
            namespace: dialect.csta.namespace.clone(),
            device_form: DeviceForm::new(dialect, &settings.domain),
            keepalive: dialect.csta.keepalive.clone().map(|text| (text, interval)),
            counters,
            tap,
            phase: Phase::Idle,
            id: SecretString::default(),
            duration: settings.duration,
            renew_at: now,
            expires_at: now,
            keepalive_at: now,
            heard_at: now,
            renewing: false,
            ready: false,
            next_id: 0,
            pending: HashMap::new(),
            deadlines: BTreeSet::new(),
            quarantined: HashMap::new(),
            waiting: VecDeque::new(),
            monitors: Monitors::new(rand::rng().random()),
            out: BytesMut::new(),
            text: String::new(),
            queued: 0,
            written: 0,
            outputs: VecDeque::new(),
            settings,
        }
    }

    /// The framing of this dialect.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Where the session is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How far the monitors are.
    pub fn progress(&self) -> MonitorProgress {
        self.monitors.progress()
    }

    /// How many requests have no answer yet.
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// What is to be written. The driver takes octets from its front and says so by `wrote`.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// So many octets have been handed to the connection.
    pub fn wrote(&mut self, octets: usize, now: Instant) {
        self.written += octets as u64;
        self.fill(now);
    }

    /// The next thing the driver is to know.
    pub fn next_output(&mut self) -> Option<Output<T>> {
        self.outputs.pop_front()
    }

    /// The device whose monitor sent an event.
    pub fn device_of(&self, cross_ref: &str) -> Option<&Alias> {
        self.monitors.device_of(cross_ref)
    }

    /// A connection is there: says the first message.
    pub fn connected(&mut self, now: Instant) {
        self.forget(Failure::NotSent("the link was lost"));
        self.phase = Phase::Starting;
        self.heard_at = now;
        let (domain, password) = (self.settings.domain.clone(), self.settings.password.clone());
        let request = Request::StartSession { domain, password, seconds: self.settings.duration.as_secs().max(1) };
        let patience = self.settings.command_timeout.min(self.settings.half_open_after);
        self.send(&request, Purpose::Start, patience, now);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, cause: String) {
        self.lose(Loss::Connection(cause));
    }

    /// Ends the session in good order, if there is one.
    pub fn stop(&mut self, now: Instant) {
        if self.phase != Phase::Active {
            return self.lose(Loss::Stopped);
        }
        self.phase = Phase::Stopping;
        let request = Request::StopSession { session: self.id.clone() };
        self.send(&request, Purpose::Stop, STOP_PATIENCE, now);
    }

    /// Replaces the set of devices that are to be monitored.
    pub fn watch(&mut self, devices: Vec<Alias>, now: Instant) {
        self.monitors.want(devices);
        self.fill(now);
        self.settle();
    }

    /// Sends a command, at once or as soon as the window allows.
    pub fn submit(&mut self, token: T, request: Request, now: Instant) {
        if self.phase != Phase::Active {
            return self.reply(token, Err(Failure::NotSent("there is no session")));
        }
        if self.waiting.len() >= self.window() {
            return self.reply(token, Err(Failure::NotSent("too many commands are waiting")));
        }
        self.waiting.push_back(Waiting { token, request, deadline: now + self.settings.command_timeout });
        self.fill(now);
    }

    /// Takes a message in; an event is handed on. An error is a message that cannot be read: the link goes on, but something
    /// may have been missed.
    pub fn receive<'f>(&mut self, frame: &'f Frame, now: Instant) -> Result<Option<Event<'f>>, XmlError> {
        self.heard_at = now;
        LinkCounters::add(&self.counters.messages_received);
        if let Some(tap) = &self.tap {
            tap.message(LinkKind::Csta, Way::Received, &frame.invoke.to_string(), &redacted(&String::from_utf8_lossy(&frame.body)));
        }
        let incoming = Incoming::read(&frame.body).inspect_err(|_| LinkCounters::add(&self.counters.messages_bad))?;
        match incoming {
            // Before the session and after it, events are about what a snapshot will tell.
            Incoming::Event(event) => return Ok(Some(event).filter(|_| self.phase == Phase::Active)),
            Incoming::Answer(answer) => self.answered(frame.invoke, answer, now),
            Incoming::SessionTerminated { reason } => self.lose(Loss::Expired(reason)),
            Incoming::MonitorStopped { cross_ref } => {
                self.monitors.stopped(&cross_ref, now);
                self.answer(frame.invoke, "MonitorStopResponse");
            }
            Incoming::Status { answer } => self.answer(frame.invoke, answer),
            Incoming::Other => {}
        }
        Ok(None)
    }

    /// Lets time pass: deadlines, renewal, keep-alives, monitors that are due again.
    pub fn poll(&mut self, now: Instant) {
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.overdue(id, now);
        }
        while self.waiting.front().is_some_and(|waiting| waiting.deadline <= now) {
            if let Some(waiting) = self.waiting.pop_front() {
                LinkCounters::add(&self.counters.timeouts);
                self.reply(waiting.token, Err(Failure::NotSent("the window of outstanding requests was full")));
            }
        }
        if self.phase != Phase::Active {
            return;
        }
        if now >= self.expires_at {
            return self.lose(Loss::Expired("its duration has passed".to_owned()));
        }
        if now >= self.probe_at() && !self.renewing {
            self.renewing = true;
            let request = Request::RenewSession { session: self.id.clone(), seconds: self.settings.duration.as_secs().max(1) };
            self.send(&request, Purpose::Renew, self.settings.half_open_after / 2, now);
        }
        if now >= self.keepalive_at
            && let Some((text, interval)) = &self.keepalive
        {
            self.keepalive_at = now + *interval;
            let text = text.clone();
            self.write(InvokeId::KEEPALIVE, &text);
        }
        self.monitors.poll(now);
        self.fill(now);
    }

    /// When `poll` has something to do.
    pub fn poll_at(&self) -> Option<Instant> {
        let active = self.phase == Phase::Active;
        let own = [
            self.deadlines.first().map(|(at, _)| *at),
            self.waiting.front().map(|waiting| waiting.deadline),
            active.then_some(self.expires_at),
            (active && !self.renewing).then(|| self.probe_at()),
            self.keepalive.as_ref().filter(|_| active).map(|_| self.keepalive_at),
            self.monitors.due().filter(|_| active),
        ];
        own.into_iter().flatten().min()
    }

    /// Renewal is also the sign of life: it is asked for when its time has come, and when nothing was heard for two fifths of the
    /// time in which a dead link is to be noticed (longer than the usual keep-alive interval). Its answer has half of that time.
    fn probe_at(&self) -> Instant {
        self.renew_at.min(self.heard_at + self.settings.half_open_after * 2 / 5)
    }

    fn window(&self) -> usize {
        self.settings.window.clamp(2, 4096)
    }

    /// Begins as many requests as window and buffer allow: commands first; a part of the window is theirs alone.
    fn fill(&mut self, now: Instant) {
        if self.phase != Phase::Active {
            return;
        }
        let window = self.window();
        while self.pending.len() < window && self.out.len() < MOST_WAITING_OCTETS {
            let Some(waiting) = self.waiting.pop_front() else { break };
            let patience = waiting.deadline.saturating_duration_since(now);
            self.send(&waiting.request, Purpose::Command(waiting.token), patience, now);
        }
        let share = window - (window / 8).max(1);
        while self.pending.len() < share && self.out.len() < MOST_WAITING_OCTETS {
            let patience = self.settings.command_timeout;
            match self.monitors.next() {
                Some(Next::Start(device)) => {
                    let request = Request::MonitorStart { device: self.device_form.write(&device) };
                    self.send(&request, Purpose::MonitorStart(device), patience, now);
                }
                Some(Next::Stop(cross_ref)) => self.send(&Request::MonitorStop { cross_ref }, Purpose::MonitorStop, patience, now),
                None => break,
            }
        }
    }

    fn send(&mut self, request: &Request, purpose: Purpose<T>, patience: Duration, now: Instant) {
        let Some(id) = self.free_id(now) else {
            return self.unsendable(purpose, "every invoke id is in use", now);
        };
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        request.write(&self.namespace, &mut text);
        let written = self.write(id, &text);
        self.text = text;
        // The password does not stay behind.
        if matches!(purpose, Purpose::Start) {
            self.text = String::new();
        }
        if !written {
            return self.unsendable(purpose, "the message does not fit a frame", now);
        }
        let deadline = now + patience;
        self.deadlines.insert((deadline, id.number()));
        let pending = Pending { purpose, service: request.service(), deadline, sent: now, end: self.queued };
        self.pending.insert(id.number(), pending);
    }

    /// Answers a request of the switch.
    fn answer(&mut self, invoke: InvokeId, root: &str) {
        if invoke != InvokeId::EVENT && self.out.len() < MOST_WAITING_OCTETS {
            let mut text = String::new();
            crate::message::xml::Writer::new(&mut text).root(root, &self.namespace, |_| {});
            self.write(invoke, &text);
        }
    }

    fn write(&mut self, id: InvokeId, text: &str) -> bool {
        let before = self.out.len();
        if self.framing.encode(id, text, &mut self.out).is_err() {
            return false;
        }
        self.queued += (self.out.len() - before) as u64;
        LinkCounters::add(&self.counters.messages_sent);
        if let Some(tap) = &self.tap {
            tap.message(LinkKind::Csta, Way::Sent, &id.to_string(), &redacted(text));
        }
        true
    }

    fn unsendable(&mut self, purpose: Purpose<T>, why: &'static str, now: Instant) {
        match purpose {
            Purpose::Command(token) => self.reply(token, Err(Failure::NotSent(why))),
            Purpose::MonitorStart(device) => self.monitors.refused(&device, now),
            Purpose::MonitorStop => {}
            Purpose::Start | Purpose::Renew | Purpose::Stop => self.lose(Loss::Connection(why.to_owned())),
        }
    }

    /// Ids go round, so that a late answer finds its id unused for as long as can be. 0000 is left to keep-alives where there are any.
    fn free_id(&mut self, now: Instant) -> Option<InvokeId> {
        let first = u16::from(self.keepalive.is_some());
        for _ in 0..InvokeId::EVENT.number() {
            let id = self.next_id.max(first);
            self.next_id = if id + 1 >= InvokeId::EVENT.number() { first } else { id + 1 };
            let resting = self.quarantined.get(&id).is_some_and(|until| *until > now);
            if !resting && !self.pending.contains_key(&id) {
                self.quarantined.remove(&id);
                return InvokeId::new(id);
            }
        }
        None
    }

    fn answered(&mut self, invoke: InvokeId, answer: Answer, now: Instant) {
        let id = invoke.number();
        let fits = |pending: &Pending<T>| answer.service.is_none_or(|service| service == pending.service);
        if !self.pending.get(&id).is_some_and(fits) {
            LinkCounters::add(&self.counters.answers_unexpected);
            // It has come after all: the id is free again.
            self.quarantined.remove(&id);
            return;
        }
        let Some(pending) = self.pending.remove(&id) else { return };
        self.deadlines.remove(&(pending.deadline, id));
        match pending.purpose {
            Purpose::Start => self.started(answer.body, now),
            Purpose::Renew => self.renewed(answer.body, pending.sent),
            Purpose::Stop => self.lose(Loss::Stopped),
            Purpose::Command(token) => self.reply(token, Ok(answer.body)),
            Purpose::MonitorStop => {}
            Purpose::MonitorStart(device) => match answer.body {
                AnswerBody::Error(_) | AnswerBody::SessionRefused { .. } => self.monitors.refused(&device, now),
                AnswerBody::Monitor { cross_ref } => self.monitors.started(&device, cross_ref),
                _ => self.monitors.started(&device, String::new()),
            },
        }
        self.fill(now);
        self.settle();
    }

    fn started(&mut self, body: AnswerBody, now: Instant) {
        match body {
            AnswerBody::Session { id, duration } => {
                self.phase = Phase::Active;
                self.id = id.unwrap_or_default().into();
                self.duration = sane(duration.unwrap_or(self.settings.duration));
                self.renewing = false;
                self.renew_at = now + self.duration / 2;
                self.expires_at = now + self.duration;
                self.keepalive_at = now + self.keepalive.as_ref().map_or(Duration::ZERO, |(_, interval)| *interval);
                self.outputs.push_back(Output::Active);
            }
            AnswerBody::SessionRefused { reason } => self.lose(Loss::Refused(reason)),
            AnswerBody::Error(error) => self.lose(Loss::Refused(error.text())),
            _ => self.lose(Loss::Refused("an answer of another kind".to_owned())),
        }
    }

    fn renewed(&mut self, body: AnswerBody, sent: Instant) {
        self.renewing = false;
        match body {
            AnswerBody::Session { duration, .. } => {
                self.duration = sane(duration.unwrap_or(self.duration));
                self.renew_at = sent + self.duration / 2;
                self.expires_at = sent + self.duration;
            }
            AnswerBody::SessionRefused { reason } => self.lose(Loss::Expired(reason)),
            AnswerBody::Error(error) => self.lose(Loss::Expired(error.text())),
            _ => self.lose(Loss::Expired("an answer of another kind".to_owned())),
        }
    }

    fn overdue(&mut self, id: u16, now: Instant) {
        let Some(pending) = self.pending.remove(&id) else {
            // The two are kept together; this only guards the loop.
            self.deadlines.retain(|(_, other)| *other != id);
            return;
        };
        self.deadlines.remove(&(pending.deadline, id));
        self.quarantined.insert(id, now + QUARANTINE);
        LinkCounters::add(&self.counters.timeouts);
        match pending.purpose {
            Purpose::Start => self.lose(Loss::Silent),
            Purpose::Stop => self.lose(Loss::Stopped),
            Purpose::Renew if self.heard_at <= pending.sent => self.lose(Loss::Silent),
            // It is slow but alive; the end of the session's duration is the last word.
            Purpose::Renew => {
                self.renewing = false;
                self.renew_at = now;
            }
            Purpose::MonitorStart(device) => self.monitors.refused(&device, now),
            Purpose::MonitorStop => {}
            // What has not left yet will: the buffer is not taken apart.
            Purpose::Command(token) => self.reply(token, Err(Failure::Unknown("no answer came in time"))),
        }
        self.fill(now);
        self.settle();
    }

    fn settle(&mut self) {
        if self.phase != Phase::Active || !self.monitors.settled() {
            return;
        }
        let fresh = self.monitors.take_fresh();
        if !self.ready {
            self.ready = true;
            self.outputs.push_back(Output::Ready);
        } else if fresh {
            self.outputs.push_back(Output::Late);
        }
    }

    fn reply(&mut self, token: T, result: Result<AnswerBody, Failure>) {
        self.outputs.push_back(Output::Reply(token, result));
    }

    fn lose(&mut self, loss: Loss) {
        if self.phase == Phase::Idle {
            return;
        }
        self.forget(Failure::Unknown("the link was lost before the answer"));
        self.phase = Phase::Idle;
        self.outputs.push_back(Output::Lost(loss));
    }

    /// Ends everything that was under way. What has left as a whole may have been executed; what has not, has not.
    fn forget(&mut self, sent: Failure) {
        let written = self.written;
        let mut pending: Vec<_> = self.pending.drain().collect();
        pending.sort_by_key(|(_, pending)| pending.end);
        for (_, pending) in pending {
            if let Purpose::Command(token) = pending.purpose {
                let failure = if pending.end <= written { sent } else { Failure::NotSent("the link was lost before it was sent") };
                self.reply(token, Err(failure));
            }
        }
        while let Some(waiting) = self.waiting.pop_front() {
            self.reply(waiting.token, Err(Failure::NotSent("the link was lost before it was sent")));
        }
        self.deadlines.clear();
        self.quarantined.clear();
        self.monitors.reset();
        self.out = BytesMut::new();
        (self.queued, self.written) = (0, 0);
        (self.renewing, self.ready) = (false, false);
        self.id = SecretString::default();
    }
}

/// A session's duration as the switch states it: one that cannot be kept up with, or reckoned with, is brought into bounds.
fn sane(duration: Duration) -> Duration {
    duration.clamp(Duration::from_secs(1), Duration::from_secs(24 * 3600))
}
