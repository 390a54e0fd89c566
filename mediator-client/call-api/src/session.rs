//! A session on the framed WebSocket, without I/O and without a clock: request ids, matching, deadlines, keep-alive, expiry
//! (ecss10-interfaces §2). What was handed to the socket and what was not is known exactly, so that each command ends as
//! executed, surely not executed, or unknown.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ecss_switch::{
    CommandError, Dialect, Domain, Operation, SwitchEvent,
    dialect::{EventFrame, Field, WebSocketKeepalive},
    link::LinkCounters,
};

use crate::{
    frame::{BadFrame, Frame, FrameError, Framing},
    shape::{Answer, EventTable, Outcome, name_in_frame, read_answer, read_outcome, request_tree},
    tree::{Element, from_json, to_json},
};

/// Request ids run from 1 to this.
const LAST_ID: u16 = 9999;
/// How many unanswered commands whose deadline has passed a session may have; then it is given up.
const MOST_ABANDONED: usize = 1024;
/// How long outstanding answers are waited for once the session is known to have expired.
const DRAIN: Duration = Duration::from_secs(1);

/// What a session needs to know beyond the dialect.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The domain that commands and events are about.
    pub domain: Domain,
    /// How many commands may wait for their answers at a time, and as many again for their turn.
    pub window: usize,
    /// The longest silence of a living link.
    pub half_open_after: Duration,
}

/// A command on its way.
#[derive(Debug)]
pub struct Command<W> {
    /// What it is.
    pub operation: Operation,
    /// Its facts.
    pub fields: BTreeMap<Field, String>,
    /// When its caller gives up.
    pub deadline: Instant,
    /// Whom to tell.
    pub waiter: W,
}

/// Where the session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is none: commands are refused as not sent.
    Down,
    /// It expired, and outstanding answers are waited for until then.
    Expired {
        /// The end of the wait.
        until: Instant,
    },
    /// It expired and is being opened again: commands wait.
    Reopening,
    /// It is up.
    Up,
}

/// What the driver is to write next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit {
    /// A text message. With this return it counts as handed to the socket.
    Text(String),
    /// An RFC 6455 ping.
    Ping,
}

/// What the driver is to do about time that has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Alive,
    /// Nothing was heard for too long, or too many commands went unanswered: give the connection up.
    Lost(&'static str),
    /// The session has expired: log in again at the same node.
    Relogin,
}

/// What a message held.
#[derive(Debug, Default, PartialEq)]
pub struct Received {
    /// Observations.
    pub events: Vec<SwitchEvent>,
    /// What was wrong with it: a kind, for the log that is written once a minute, and details without content.
    pub complaint: Option<(&'static str, String)>,
    /// An observation may have been lost.
    pub gap: bool,
}

/// The session. `W` is whom to tell how a command ended.
#[derive(Debug)]
pub struct Session<W> {
    config: SessionConfig,
    dialect: Arc<Dialect>,
    framing: Framing,
    events: EventTable,
    counters: Arc<LinkCounters>,
    phase: Phase,
    next_id: u16,
    event_id: Option<u16>,
    sequence: u64,
    queue: VecDeque<Queued<W>>,
    pending: HashMap<u16, Pending<W>>,
    abandoned: HashSet<u16>,
    settled: VecDeque<(W, Result<Outcome, CommandError>)>,
    heard_at: Option<Instant>,
    keepalive_at: Option<Instant>,
}

/// A command that waits for its turn.
#[derive(Debug)]
pub struct Queued<W> {
    /// The command.
    pub command: Command<W>,
    /// Order of arrival, kept when an expired session sends it back.
    sequence: u64,
    expired_before: bool,
}

#[derive(Debug)]
enum Pending<W> {
    Command(Queued<W>),
    Keepalive { deadline: Instant },
}

// === impl Session ===

impl<W> Session<W> {
    /// A session that is down.
    pub fn new(config: SessionConfig, dialect: Arc<Dialect>, counters: Arc<LinkCounters>) -> Self {
        let event_id = match &dialect.call_api.event_frame {
            EventFrame::RequestId { request_id } => request_id.parse().ok(),
            EventFrame::Status { .. } => None,
        };
        Self {
            framing: Framing::of(&dialect.call_api),
            events: EventTable::new(dialect.clone(), config.domain.clone()),
            config,
            dialect,
            counters,
            phase: Phase::Down,
            next_id: 1,
            event_id,
            sequence: 0,
            queue: VecDeque::new(),
            pending: HashMap::new(),
            abandoned: HashSet::new(),
            settled: VecDeque::new(),
            heard_at: None,
            keepalive_at: None,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether another command may be submitted.
    pub fn has_room(&self) -> bool {
        self.queue.len() < self.config.window
    }

    /// Takes a command; it ends in `poll_settled`.
    pub fn submit(&mut self, command: Command<W>) {
        let refusal = match self.phase {
            Phase::Down => Some(CommandError::not_sent("there is no session with the switch")),
            _ if !self.has_room() => Some(CommandError::not_sent("too many commands are waiting")),
            _ if !self.dialect.operations.contains_key(&command.operation) => Some(CommandError::Unnamed { operation: command.operation }),
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.settled.push_back((command.waiter, Err(refusal)));
            return;
        }
        self.sequence += 1;
        self.queue.push_back(Queued { command, sequence: self.sequence, expired_before: false });
    }

    /// The next command that has ended, and how.
    pub fn poll_settled(&mut self) -> Option<(W, Result<Outcome, CommandError>)> {
        self.settled.pop_front()
    }

    /// The WebSocket is open and the session up.
    pub fn opened(&mut self, now: Instant) {
        self.phase = Phase::Up;
        self.abandoned.clear();
        self.heard_at = Some(now);
        self.keepalive_at = Some(now + self.interval());
    }

    /// The session is up and has no WebSocket: commands go over HTTP, taken by `take_queued`.
    pub fn opened_without_socket(&mut self) {
        self.phase = Phase::Up;
    }

    /// The next command to be sent by other means than the WebSocket. Who takes it ends it, or gives it back.
    pub fn take_queued(&mut self, now: Instant) -> Option<Queued<W>> {
        while self.phase == Phase::Up {
            let queued = self.queue.pop_front()?;
            if queued.command.deadline > now {
                return Some(queued);
            }
            self.expire_unsent(queued);
        }
        None
    }

    /// A command that ended by other means.
    pub fn settle(&mut self, waiter: W, result: Result<Outcome, CommandError>) {
        self.settled.push_back((waiter, result));
    }

    /// The session had expired when this command reached the switch: it waits for the next one, once.
    pub fn expired(&mut self, mut queued: Queued<W>, now: Instant) {
        if self.phase == Phase::Up {
            self.phase = Phase::Expired { until: now + DRAIN };
        }
        if queued.expired_before {
            let refusal = CommandError::not_sent("the switch expires every new session at once");
            self.settled.push_back((queued.command.waiter, Err(refusal)));
            return;
        }
        queued.expired_before = true;
        let at = self.queue.partition_point(|other| other.sequence < queued.sequence);
        self.queue.insert(at, queued);
    }

    /// The connection is gone, or could not be opened: nothing waits any longer.
    pub fn lost(&mut self, cause: &str) {
        self.forget_connection(cause);
        self.phase = Phase::Down;
        for queued in self.queue.drain(..) {
            self.settled.push_back((queued.command.waiter, Err(CommandError::not_sent(cause))));
        }
    }

    /// The expired session's connection is closed and the next one is being opened: what was not sent waits for it.
    pub fn reopening(&mut self) {
        self.forget_connection("the session expired before the answer came");
        self.phase = Phase::Reopening;
    }

    fn forget_connection(&mut self, cause: &str) {
        for (_, pending) in self.pending.drain() {
            if let Pending::Command(queued) = pending {
                self.settled.push_back((queued.command.waiter, Err(CommandError::unknown(cause))));
            }
        }
        self.abandoned.clear();
        self.heard_at = None;
        self.keepalive_at = None;
    }

    /// Something came in that needs no reading: a ping or pong.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = Some(now);
    }

    /// What to write next. Only to be called when the socket can take it: what this returns counts as sent.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if self.phase != Phase::Up {
            return None;
        }
        if self.keepalive_at.is_some_and(|at| at <= now) {
            self.keepalive_at = Some(now + self.interval());
            return Some(self.keepalive(now));
        }
        while self.pending.len() < self.config.window {
            let queued = self.queue.pop_front()?;
            if queued.command.deadline <= now {
                self.expire_unsent(queued);
                continue;
            }
            let Some(shape) = self.dialect.operations.get(&queued.command.operation) else { continue };
            let name = name_in_frame(&self.dialect.call_api, &shape.service, &shape.name);
            let body = to_json(&[request_tree(shape, &queued.command.fields)]);
            let Some(id) = self.take_id() else {
                self.queue.push_front(queued);
                return None;
            };
            match self.framing.encode(&Frame::Request { id: format!("{id:04}").into(), name: name.into(), body: body.into() }) {
                Ok(text) => {
                    self.pending.insert(id, Pending::Command(queued));
                    return Some(Transmit::Text(text));
                }
                Err(error) => {
                    let refusal = CommandError::not_sent(format!("it cannot be written as a frame: {error}"));
                    self.settled.push_back((queued.command.waiter, Err(refusal)));
                }
            }
        }
        None
    }

    fn keepalive(&mut self, now: Instant) -> Transmit {
        let WebSocketKeepalive::Command { name } = &self.dialect.call_api.keepalive else { return Transmit::Ping };
        let body = to_json(&[Element::new("in").child(Element::new("request"))]);
        let name = name.clone();
        let Some(id) = self.take_id() else { return Transmit::Ping };
        let frame = Frame::Request { id: format!("{id:04}").into(), name: name.into(), body: body.into() };
        let Ok(text) = self.framing.encode(&frame) else { return Transmit::Ping };
        self.pending.insert(id, Pending::Keepalive { deadline: now + self.config.half_open_after });
        Transmit::Text(text)
    }

    /// The next free id: not outstanding, not one whose answer may still come, never the events'.
    fn take_id(&mut self) -> Option<u16> {
        for _ in 0..LAST_ID {
            let id = self.next_id;
            self.next_id = if id >= LAST_ID { 1 } else { id + 1 };
            if !self.pending.contains_key(&id) && !self.abandoned.contains(&id) && self.event_id != Some(id) {
                return Some(id);
            }
        }
        None
    }

    /// Reads a text message.
    pub fn received(&mut self, text: &str, now: Instant) -> Received {
        self.heard_at = Some(now);
        LinkCounters::add(&self.counters.messages_received);
        let mut received = Received::default();
        let decoded = match self.framing.decode(text) {
            Ok(decoded) => decoded,
            Err(bad) => {
                self.complain(&mut received, "frame", bad.error.to_string());
                received.gap = !self.is_bad_answer(&bad);
                return received;
            }
        };
        if decoded.flaws.padding {
            self.complain(&mut received, "padding", "the frame's name field is padded in another way than the dialect says".to_owned());
        } else if decoded.flaws.length {
            self.complain(&mut received, "length", "the frame's length is not what the dialect says".to_owned());
        }
        match decoded.frame {
            Frame::Event { name, body } => self.event(name.as_deref(), &body, &mut received),
            Frame::Answer { id, status, body } => self.answer(&id, &status, &body, now, &mut received),
            Frame::Request { .. } => {} // `decode` never returns one
        }
        received
    }

    /// Whether a frame that cannot be read was an answer. If it answers a command of ours, that one ends here.
    fn is_bad_answer(&mut self, bad: &BadFrame<'_>) -> bool {
        let Some(id) = bad.id.and_then(|id| id.parse::<u16>().ok()) else { return false };
        match self.pending.remove(&id) {
            Some(Pending::Command(queued)) => {
                let result = Err(CommandError::BadAnswer { cause: bad.error.to_string() });
                self.settled.push_back((queued.command.waiter, result));
                true
            }
            Some(Pending::Keepalive { .. }) => true,
            // where events have an id of their own, any other id with a status after it is an answer's; without a status it may
            // be an event in another form than the dialect says
            None => bad.error != FrameError::Name && self.event_id.is_some_and(|event| event != id),
        }
    }

    fn event(&mut self, name: Option<&str>, body: &str, received: &mut Received) {
        let roots = match from_json(body) {
            Ok(roots) => roots,
            Err(error) => {
                self.complain(received, "json", error.to_string());
                received.gap = true;
                return;
            }
        };
        let reading = self.events.read(name, &roots);
        received.events = reading.events;
        received.gap = reading.lost > 0;
        if reading.lost > 0 {
            self.complain(received, "event", format!("{} records of an event are not understood", reading.lost));
        } else if reading.unread > 0 {
            self.complain(received, "value", format!("{} values of an event are not understood", reading.unread));
        } else if reading.unknown {
            let name: String = name.unwrap_or("without name").chars().take(64).collect();
            self.complain(received, "unknown event", format!("the dialect has no event {name}"));
        }
    }

    fn answer(&mut self, id: &str, status: &str, body: &str, now: Instant, received: &mut Received) {
        let pending = id.parse::<u16>().ok().and_then(|id| {
            self.abandoned.remove(&id);
            self.pending.remove(&id)
        });
        let Some(pending) = pending else {
            LinkCounters::add(&self.counters.answers_unexpected);
            return;
        };
        let roots = from_json(body);
        if let Err(error) = &roots
            && status.starts_with('2')
        {
            self.complain(received, "json", error.to_string());
        }
        let answer = read_answer(status, roots.as_deref().ok(), &self.dialect);
        let queued = match pending {
            Pending::Command(queued) => queued,
            Pending::Keepalive { .. } => {
                if answer == Answer::SessionExpired && self.phase == Phase::Up {
                    self.phase = Phase::Expired { until: now + DRAIN };
                }
                return;
            }
        };
        let result = match answer {
            Answer::Done(response) => match self.dialect.operations.get(&queued.command.operation) {
                Some(shape) => read_outcome(queued.command.operation, shape, response, &self.dialect),
                None => Err(CommandError::Unnamed { operation: queued.command.operation }),
            },
            Answer::Failed(error) => Err(error),
            Answer::SessionExpired => return self.expired(queued, now),
        };
        if let Err(CommandError::BadAnswer { cause }) = &result {
            let cause = cause.clone();
            self.complain(received, "answer", cause);
        }
        self.settled.push_back((queued.command.waiter, result));
    }

    fn complain(&self, received: &mut Received, kind: &'static str, detail: String) {
        if received.complaint.is_none() {
            LinkCounters::add(&self.counters.messages_bad);
        }
        received.complaint = Some((kind, detail));
    }

    /// Ends what has waited too long, and says how the link is.
    pub fn timers(&mut self, now: Instant) -> Verdict {
        self.expire_pending(now);
        while let Some(at) = self.queue.iter().position(|queued| queued.command.deadline <= now) {
            if let Some(queued) = self.queue.remove(at) {
                self.expire_unsent(queued);
            }
        }
        if self.heard_at.is_some_and(|at| now.saturating_duration_since(at) >= self.config.half_open_after) {
            LinkCounters::add(&self.counters.timeouts);
            return Verdict::Lost("nothing was heard from the switch within the time of a half-open link");
        }
        if self.abandoned.len() > MOST_ABANDONED {
            return Verdict::Lost("too many commands stayed without an answer");
        }
        match self.phase {
            Phase::Expired { until } if now >= until || !self.awaits_answers() => Verdict::Relogin,
            _ => Verdict::Alive,
        }
    }

    fn expire_pending(&mut self, now: Instant) {
        let due = |pending: &Pending<W>| pending.deadline() <= now;
        let ids: Vec<u16> = self.pending.iter().filter(|(_, pending)| due(pending)).map(|(id, _)| *id).collect();
        for id in ids {
            self.abandoned.insert(id);
            if let Some(Pending::Command(queued)) = self.pending.remove(&id) {
                LinkCounters::add(&self.counters.timeouts);
                self.settled.push_back((queued.command.waiter, Err(CommandError::unknown("no answer came in time"))));
            }
        }
    }

    fn expire_unsent(&mut self, queued: Queued<W>) {
        LinkCounters::add(&self.counters.timeouts);
        self.settled.push_back((queued.command.waiter, Err(CommandError::not_sent("its time passed before it could be sent"))));
    }

    /// Whether commands wait for their answers.
    pub fn awaits_answers(&self) -> bool {
        self.pending.values().any(|pending| matches!(pending, Pending::Command(_)))
    }

    /// Whether nothing waits, neither for its turn nor for its answer.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.awaits_answers()
    }

    /// When `timers`, or `poll_transmit` if the socket is writable, will next have something to do without further input.
    pub fn next_wakeup(&self, writable: bool) -> Option<Instant> {
        let drained = match self.phase {
            Phase::Expired { until } => Some(until),
            _ => None,
        };
        let silent = self.heard_at.map(|at| at + self.config.half_open_after);
        let keepalive = self.keepalive_at.filter(|_| writable && self.phase == Phase::Up);
        let pending = self.pending.values().map(Pending::deadline);
        let queued = self.queue.iter().map(|queued| queued.command.deadline);
        pending.chain(queued).chain(drained).chain(silent).chain(keepalive).min()
    }

    /// At least two keep-alives within the time of a half-open link.
    fn interval(&self) -> Duration {
        let wanted = Duration::from_secs(u64::from(self.dialect.call_api.keepalive_interval_s.max(1)));
        wanted.min(self.config.half_open_after / 3).max(Duration::from_millis(10))
    }
}

impl<W> Pending<W> {
    fn deadline(&self) -> Instant {
        match self {
            Self::Command(queued) => queued.command.deadline,
            Self::Keepalive { deadline } => *deadline,
        }
    }
}

#[cfg(test)]
mod tests;
