//! The terminal's session without I/O: which request goes next, what an answer means, and what becomes of each command when the
//! session expires or the link breaks (ecss10-interfaces §1). The driver in `client` carries requests out and reports back.
//!
//! A command is sent again only if it was surely not executed (never written, or met an expired session), or if it only reads.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use ecss_switch::{Dialect, dialect::HttpCall, error::CommandError, link::LinkCounters};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    judge::{self, Verdict},
    xml::Element,
};

/// Sessions in a row that expired without a single good answer before the node counts as failed.
const BARREN_SESSIONS: u32 = 3;
/// How often a command that was never written is tried.
const UNWRITTEN_TRIES: u32 = 3;

/// What a session needs to know.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The user of the switch.
    pub login: String,
    /// Its password.
    pub password: SecretString,
    /// Most commands on their way at a time.
    pub max_parallel: usize,
    /// Most commands that wait for their turn.
    pub max_waiting: usize,
    /// From submission to result, waiting and logging in again included.
    pub command_timeout: Duration,
    /// Between an answer and the next keep-alive.
    pub keepalive_after: Duration,
    /// How long a keep-alive may take.
    pub keepalive_timeout: Duration,
}

/// A command on behalf of a caller.
#[derive(Debug, Clone)]
pub struct Command {
    /// The switch's name for it: the last part of its path, and its schema.
    pub name: String,
    /// What stands inside `<in>`.
    pub request: Element,
    /// It changes nothing and may be sent again whatever became of it.
    pub read_only: bool,
    /// A confirmation question may be answered with yes.
    pub confirm: bool,
    /// What an `<error>` in the answer means.
    pub errors: Errors,
    /// The status of success, for commands whose status says more than an empty body.
    pub success_status: Option<u16>,
    /// Secrets in the request that the switch might quote.
    pub secrets: Vec<SecretString>,
}

/// What an `<error>` in an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// The command was refused.
    Refuse,
    /// It is part of the answer; the caller reads it.
    Keep,
}

impl Command {
    /// A command that only reads.
    pub fn read(name: &str, request: Element) -> Self {
        Self { read_only: true, ..Self::change(name, request) }
    }

    /// A command that changes something.
    pub fn change(name: &str, request: Element) -> Self {
        Self {
            name: name.to_owned(),
            request,
            read_only: false,
            confirm: false,
            errors: Errors::Refuse,
            success_status: None,
            secrets: Vec::new(),
        }
    }
}

/// An answer to a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// HTTP status. Says little: the body decides.
    pub status: u16,
    /// The `<out>` document; empty where the answer had none.
    pub document: Element,
}

/// A command's number inside this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Opens the session.
    Login,
    /// Carries a command.
    Command(Ticket),
    /// Asks how a long command goes on.
    Progress(Ticket),
    /// Keeps the session alive and shows that the link is.
    Keepalive,
    /// Closes the session.
    Logout,
}

/// A request for the driver to carry out.
pub struct Request {
    /// Its number, by which the driver reports back.
    pub serial: u64,
    /// Its `P-Request-Id`.
    pub id: String,
    /// What it is for.
    pub purpose: Purpose,
    /// HTTP method.
    pub method: String,
    /// Absolute path.
    pub path: String,
    /// The `Cookie` header.
    pub cookie: Option<SecretString>,
    /// One further header.
    pub header: Option<(String, String)>,
    /// Texts that no recording may hold, should the switch quote them.
    pub secrets: Vec<SecretString>,
    /// The body where it is a document.
    pub document: Option<Element>,
    /// The body where it is none.
    pub body: String,
    /// When its answer comes too late.
    pub deadline: Instant,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { serial, id, purpose, method, path, document, .. } = self;
        write!(f, "Request {{ {serial} {id} {purpose:?} {method} {path} {document:?} }}")
    }
}

/// What an answer's body is.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Nothing.
    Empty,
    /// A document.
    Document(Element),
    /// Something else; why it is no document.
    Unreadable(String),
}

/// An answer as the driver received it.
#[derive(Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Every `P-Request-Id` header.
    pub request_ids: Vec<String>,
    /// Every `Set-Cookie` header.
    pub set_cookies: Vec<SecretString>,
    /// The body.
    pub content: Content,
}

/// A request that got no answer.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Whether any of it may have reached the switch.
    pub written: bool,
    /// Whether it was the deadline.
    pub timeout: bool,
    /// Whether something came that is no whole HTTP answer.
    pub bad: bool,
    /// What happened (no secrets).
    pub cause: String,
}

/// What `settings` of the login's answer say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The mediator node.
    pub md: String,
    /// The data store node.
    pub ds: String,
    /// The switch's version.
    pub version: String,
}

/// What the session tells its driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A session is open.
    LoggedIn {
        /// What the switch said.
        settings: Settings,
        /// Whether it replaces one that expired.
        again: bool,
    },
    /// The switch has ended the session; a login is the next request.
    Expired,
    /// This node gives no session, or the link to it is dead.
    Lost {
        /// Why (no secrets).
        cause: String,
    },
    /// Answers no longer match their requests: open connections must not be used again.
    DropConnections,
    /// A command has ended.
    Done(Ticket, Result<Reply, CommandError>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No node.
    Down,
    /// A node, and no session on it.
    LoggedOut,
    /// The login is on its way.
    LoggingIn,
    /// In session.
    Up,
}

#[derive(Debug)]
struct Flight {
    purpose: Purpose,
    generation: u64,
    ids: [String; 2],
}

#[derive(Debug)]
struct Pending {
    command: Command,
    deadline: Instant,
    phase: Phase,
    unwritten: u32,
    met_expiry: bool,
    read_again: bool,
    confirmed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// In the queue.
    Waiting,
    /// On its way.
    Sent,
    /// Running on the switch; asked about again at this time under this id.
    Running { ask_at: Instant, id: String },
}

/// The session.
pub struct Session {
    config: SessionConfig,
    dialect: Arc<Dialect>,
    counters: Arc<LinkCounters>,
    state: State,
    nonce: u32,
    serial: u64,
    /// Counts sessions: an answer of an older one says nothing about this one.
    generation: u64,
    cookies: Vec<(String, SecretString)>,
    flights: HashMap<u64, Flight>,
    commands: HashMap<Ticket, Pending>,
    waiting: VecDeque<Ticket>,
    tickets: u64,
    paused: bool,
    keepalive_at: Option<Instant>,
    keepalive_deadline: Option<Instant>,
    keepalive_in_flight: bool,
    keepalive_failed_once: bool,
    /// Something failed: no command is sent before the link has shown itself alive.
    suspect: bool,
    expired_before: bool,
    fruitful: bool,
    barren: u32,
    effects: VecDeque<Effect>,
}

impl Session {
    /// A session without a node. `nonce` tells its request ids from other sessions'.
    pub fn new(config: SessionConfig, dialect: Arc<Dialect>, counters: Arc<LinkCounters>, nonce: u32) -> Self {
        Self {
            config,
            dialect,
            counters,
            state: State::Down,
            nonce,
            serial: 0,
            generation: 0,
            cookies: Vec::new(),
            flights: HashMap::new(),
            commands: HashMap::new(),
            waiting: VecDeque::new(),
            tickets: 0,
            paused: false,
            keepalive_at: None,
            keepalive_deadline: None,
            keepalive_in_flight: false,
            keepalive_failed_once: false,
            suspect: false,
            expired_before: false,
            fruitful: false,
            barren: 0,
            effects: VecDeque::new(),
        }
    }

    /// There is a node to log in to.
    pub fn begin(&mut self) {
        self.state = State::LoggedOut;
        self.barren = 0;
        self.expired_before = false;
        self.paused = false;
    }

    /// The node is given up. The driver has reported every request on its way as failed before.
    pub fn link_down(&mut self) {
        self.end_session(State::Down);
        self.flights.clear();
        let lost: Vec<Ticket> =
            self.commands.iter().filter(|(_, pending)| pending.phase != Phase::Waiting).map(|(ticket, _)| *ticket).collect();
        for ticket in lost {
            self.unknown(ticket, "the link was lost while the command ran");
        }
    }

    /// Takes a command, or fails it at once when too many wait.
    pub fn submit(&mut self, command: Command, submitted: Instant) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let full = self.waiting.len() >= self.config.max_waiting;
        let pending = Pending {
            command,
            deadline: submitted + self.config.command_timeout,
            phase: Phase::Waiting,
            unwritten: 0,
            met_expiry: false,
            read_again: false,
            confirmed: false,
        };
        self.commands.insert(ticket, pending);
        if full {
            self.done(ticket, Err(CommandError::not_sent("too many commands wait for the switch")));
        } else {
            self.waiting.push_back(ticket);
        }
        ticket
    }

    /// Ends every command that waits: there is nobody to send it to.
    pub fn fail_waiting(&mut self, cause: &str) {
        for ticket in std::mem::take(&mut self.waiting) {
            self.done(ticket, Err(CommandError::not_sent(cause)));
        }
    }

    /// Starts no further command, until `begin`.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Whether no command is on its way or running.
    pub fn is_quiet(&self) -> bool {
        self.commands.values().all(|pending| pending.phase == Phase::Waiting)
    }

    /// Whether a session is open.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// What the driver must do or pass on.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When `next_request` or `expire` will next have something to do without any further input.
    pub fn next_timer(&self) -> Option<Instant> {
        let up = self.state == State::Up;
        let keepalive = self.keepalive_at.filter(|_| up && !self.keepalive_in_flight);
        let commands = self.commands.values().filter_map(|pending| match &pending.phase {
            Phase::Waiting => Some(pending.deadline),
            Phase::Sent => None, // the driver's deadline
            Phase::Running { ask_at, .. } => Some((*ask_at).min(pending.deadline)),
        });
        commands.chain(keepalive).min()
    }

    /// Ends the commands whose time is over while they wait or run.
    pub fn expire(&mut self, now: Instant) {
        let over = |pending: &Pending| pending.deadline <= now && pending.phase != Phase::Sent;
        let tickets: Vec<Ticket> = self.commands.iter().filter(|(_, pending)| over(pending)).map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            LinkCounters::add(&self.counters.timeouts);
            let waited = self.commands.get(&ticket).is_some_and(|pending| pending.phase == Phase::Waiting && !pending.read_again);
            self.waiting.retain(|waiting| *waiting != ticket);
            self.done(
                ticket,
                Err(match waited {
                    true => CommandError::not_sent("its time was over before the switch could be asked"),
                    false => CommandError::unknown("its time was over before the switch had finished"),
                }),
            );
        }
    }

    /// The request that goes next, if one may go now.
    pub fn next_request(&mut self, now: Instant) -> Option<Request> {
        match self.state {
            State::Down | State::LoggingIn => None,
            State::LoggedOut => Some(self.login(now)),
            State::Up => self.keepalive(now).or_else(|| self.progress(now)).or_else(|| self.command(now)),
        }
    }

    /// The request that closes the session, where the dialect knows one.
    pub fn logout(&mut self, deadline: Instant) -> Option<Request> {
        let HttpCall { method, path, body } = self.dialect.terminal.logout.clone().filter(|_| self.state == State::Up)?;
        let mut request = self.request(Purpose::Logout, &method, &path, deadline);
        request.body = body;
        Some(request)
    }

    fn login(&mut self, now: Instant) -> Request {
        self.generation += 1;
        self.state = State::LoggingIn;
        self.nonce = self.nonce.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut request = self.request(Purpose::Login, "POST", "/system/login", now + self.config.command_timeout);
        let login = Element::new("login").with("user", &*self.config.login).with("password", self.config.password.expose_secret());
        request.document = Some(Element::new("in").child(login));
        request.secrets = vec![self.config.password.clone()];
        request
    }

    fn keepalive(&mut self, now: Instant) -> Option<Request> {
        if self.keepalive_in_flight || self.keepalive_at.is_none_or(|at| now < at) {
            return None;
        }
        self.keepalive_in_flight = true;
        let deadline = *self.keepalive_deadline.get_or_insert(now + self.config.keepalive_timeout);
        let terminal = &self.dialect.terminal;
        if let Some(HttpCall { method, path, body }) = terminal.keepalive.clone() {
            let mut request = self.request(Purpose::Keepalive, &method, &path, deadline);
            request.body = body;
            return Some(request);
        }
        let name = terminal.liveness_command.clone();
        let mut request = self.request(Purpose::Keepalive, "POST", &format!("/commands/{name}"), deadline);
        request.document = Some(Element::request(&name).child(Element::new("request")));
        Some(request)
    }

    fn progress(&mut self, now: Instant) -> Option<Request> {
        let progress = self.dialect.terminal.progress.clone()?;
        let due = |pending: &Pending| matches!(&pending.phase, Phase::Running { ask_at, .. } if *ask_at <= now);
        let ticket = *self.commands.iter().find(|(_, pending)| due(pending))?.0;
        let pending = self.commands.get_mut(&ticket)?;
        let Phase::Running { id, .. } = std::mem::replace(&mut pending.phase, Phase::Sent) else { return None };
        let (name, deadline) = (pending.command.name.clone(), pending.deadline);
        let secrets = pending.command.secrets.clone();
        let path = progress.path.replace("{name}", &name).replace("{request_id}", &id);
        let mut request = self.request(Purpose::Progress(ticket), &progress.method, &path, deadline);
        request.secrets = secrets;
        // Where the path does not name the command's request, the header must.
        if !progress.path.contains("{request_id}") {
            request.id.clone_from(&id);
        }
        if let Some(flight) = self.flights.get_mut(&request.serial) {
            flight.ids = [request.id.clone(), id];
        }
        Some(request)
    }

    fn command(&mut self, now: Instant) -> Option<Request> {
        let on_their_way = self.commands.values().filter(|pending| pending.phase != Phase::Waiting).count();
        if self.paused || self.suspect || on_their_way >= self.config.max_parallel {
            return None;
        }
        self.expire(now);
        let ticket = self.waiting.pop_front()?;
        let pending = self.commands.get_mut(&ticket)?;
        pending.phase = Phase::Sent;
        let (name, deadline) = (pending.command.name.clone(), pending.deadline);
        let secrets = pending.command.secrets.clone();
        let document = Element::request(&name).child(pending.command.request.clone());
        let header = self.dialect.terminal.confirmation.as_ref().filter(|_| pending.confirmed);
        let header = header.map(|header| (header.name.clone(), header.value.clone()));
        let mut request = self.request(Purpose::Command(ticket), "POST", &format!("/commands/{name}"), deadline);
        request.document = Some(document);
        request.header = header;
        request.secrets = secrets;
        Some(request)
    }

    fn request(&mut self, purpose: Purpose, method: &str, path: &str, deadline: Instant) -> Request {
        self.serial += 1;
        let id = format!("{:08x}-{}", self.nonce, self.serial);
        self.flights.insert(self.serial, Flight { purpose, generation: self.generation, ids: [id.clone(), id.clone()] });
        let cookies = self.cookies.iter().map(|(name, value)| format!("{name}={}", value.expose_secret()));
        let cookies = cookies.collect::<Vec<_>>().join("; ");
        Request {
            serial: self.serial,
            id,
            purpose,
            method: method.to_owned(),
            path: path.to_owned(),
            cookie: Some(cookies).filter(|cookies| !cookies.is_empty() && purpose != Purpose::Login).map(SecretString::from),
            header: None,
            secrets: Vec::new(),
            document: None,
            body: String::new(),
            deadline,
        }
    }

    /// An answer has come.
    pub fn on_answer(&mut self, serial: u64, answer: Answer, now: Instant) {
        let Some(flight) = self.flights.remove(&serial) else {
            LinkCounters::add(&self.counters.answers_unexpected);
            return;
        };
        // An absent id is forgiven: the connection pairs answers with requests. A wrong or doubled one shows that it does not.
        let matches = match answer.request_ids.as_slice() {
            [] => true,
            [id] => flight.ids.contains(id),
            _ => false,
        };
        if !matches {
            LinkCounters::add(&self.counters.answers_unexpected);
            LinkCounters::add(&self.counters.messages_bad);
            self.effects.push_back(Effect::DropConnections);
        }
        match flight.purpose {
            Purpose::Login if matches => self.login_answered(&answer, now),
            Purpose::Login => self.lose("the answer to the login carries another request's id"),
            Purpose::Keepalive if flight.generation != self.generation => {}
            Purpose::Keepalive if matches => self.keepalive_answered(&answer, now),
            Purpose::Keepalive => self.keepalive_failed(false, "the answer to the keep-alive carries another request's id", now),
            Purpose::Logout => {}
            Purpose::Command(ticket) | Purpose::Progress(ticket) if !matches => {
                let cause = "the answer carries another request's id".to_owned();
                self.done(ticket, Err(CommandError::BadAnswer { cause }));
            }
            Purpose::Command(ticket) | Purpose::Progress(ticket) => self.command_answered(&flight, ticket, answer, now),
        }
    }

    fn login_answered(&mut self, answer: &Answer, now: Instant) {
        if self.state != State::LoggingIn {
            return;
        }
        let document = match &answer.content {
            Content::Document(document) => document,
            Content::Empty => return self.lose(&format!("the login was refused with status {}", answer.status)),
            Content::Unreadable(cause) => {
                if answer.status < 400 {
                    LinkCounters::add(&self.counters.messages_bad);
                }
                return self.lose(&format!("the login was answered with status {} and no document: {cause}", answer.status));
            }
        };
        let Some(settings) = document.all("settings").next().filter(|_| answer.status < 400 && document.local_name() == "out") else {
            let text = judge::error_text(document).unwrap_or_default();
            let text = judge::scrub(&text, std::slice::from_ref(&self.config.password));
            return self.lose(&format!("the login was refused with status {}: {text}", answer.status));
        };
        let value = |name: &str| settings.get(name).unwrap_or_default().to_owned();
        let settings = Settings { md: value("md"), ds: value("ds"), version: value("version") };
        self.cookies.clear();
        self.take_cookies(answer);
        if let Some(name) = self.dialect.terminal.session_cookie.clone()
            && self.cookies.is_empty()
        {
            return self.lose(&format!("the login set no cookie named {name}: check the dialect's terminal.session_cookie"));
        }
        self.state = State::Up;
        self.suspect = false;
        self.fruitful = false;
        self.keepalive_at = Some(now + self.config.keepalive_after);
        self.keepalive_deadline = None;
        self.keepalive_in_flight = false;
        self.effects.push_back(Effect::LoggedIn { settings, again: self.expired_before });
    }

    fn take_cookies(&mut self, answer: &Answer) {
        for line in &answer.set_cookies {
            let pair = line.expose_secret().split(';').next().unwrap_or_default();
            let Some((name, value)) = pair.trim().split_once('=') else { continue };
            if self.dialect.terminal.session_cookie.as_ref().is_some_and(|wanted| wanted != name) || self.cookies.len() >= 32 {
                continue;
            }
            self.cookies.retain(|(known, _)| known != name);
            self.cookies.push((name.to_owned(), SecretString::from(value.to_owned())));
        }
    }

    fn keepalive_answered(&mut self, answer: &Answer, now: Instant) {
        if judge::expired(&self.dialect, answer) {
            return self.session_expired();
        }
        self.good_answer();
        self.take_cookies(answer);
        self.suspect = false;
        self.keepalive_in_flight = false;
        self.keepalive_failed_once = false;
        self.keepalive_deadline = None;
        self.keepalive_at = Some(now + self.config.keepalive_after);
    }

    /// One failure may be an idle connection that the switch has closed; a second one or silence is a dead link.
    fn keepalive_failed(&mut self, timeout: bool, cause: &str, now: Instant) {
        self.keepalive_in_flight = false;
        if timeout || std::mem::replace(&mut self.keepalive_failed_once, true) {
            return self.lose(&format!("the keep-alive failed: {cause}"));
        }
        self.suspect = true;
        self.keepalive_at = Some(now);
    }

    fn command_answered(&mut self, flight: &Flight, ticket: Ticket, answer: Answer, now: Instant) {
        let current = flight.generation == self.generation && self.state == State::Up;
        if current {
            self.take_cookies(&answer);
        }
        let Some(pending) = self.commands.get_mut(&ticket) else {
            LinkCounters::add(&self.counters.answers_unexpected);
            return;
        };
        let verdict = judge::command(&self.dialect, &pending.command, answer);
        match verdict {
            Verdict::Expired => {
                let running = matches!(flight.purpose, Purpose::Progress(_));
                if running {
                    self.unknown(ticket, "the session expired while the command ran");
                } else if std::mem::replace(&mut pending.met_expiry, true) {
                    self.done(ticket, Err(CommandError::not_sent("its session expired twice before it was executed")));
                } else {
                    self.wait_again(ticket);
                }
                if current {
                    self.session_expired();
                }
                return;
            }
            Verdict::Progress => match &self.dialect.terminal.progress {
                Some(progress) => {
                    let ask_at = now + Duration::from_millis(u64::from(progress.interval_ms.max(10)));
                    let [_, id] = flight.ids.clone();
                    pending.phase = Phase::Running { ask_at, id };
                }
                None => self
                    .done(ticket, Err(CommandError::unknown("the switch reports progress, and the dialect does not know how it goes on"))),
            },
            Verdict::Question(question) => {
                let may = pending.command.confirm && self.dialect.terminal.confirmation.is_some();
                if may && !std::mem::replace(&mut pending.confirmed, true) {
                    self.wait_again(ticket);
                } else {
                    self.done(ticket, Err(CommandError::ConfirmationRequired { question }));
                }
            }
            Verdict::Done(result) => {
                if matches!(result, Err(CommandError::BadAnswer { .. })) {
                    LinkCounters::add(&self.counters.messages_bad);
                }
                self.done(ticket, result);
            }
        }
        if current {
            self.good_answer();
        }
    }

    /// A request got no answer.
    pub fn on_failure(&mut self, serial: u64, failure: &Failure, now: Instant) {
        let Some(flight) = self.flights.remove(&serial) else { return };
        if failure.timeout {
            LinkCounters::add(&self.counters.timeouts);
        }
        let current = flight.generation == self.generation;
        match flight.purpose {
            Purpose::Login if current && self.state == State::LoggingIn => {
                self.lose(&format!("the login got no answer: {}", failure.cause))
            }
            Purpose::Keepalive if current && self.state == State::Up => self.keepalive_failed(failure.timeout, &failure.cause, now),
            Purpose::Login | Purpose::Keepalive | Purpose::Logout => {}
            Purpose::Command(ticket) => {
                self.command_failed(ticket, failure, now);
                self.suspect_link(failure, now);
            }
            Purpose::Progress(ticket) => {
                self.unknown(ticket, &failure.cause);
                self.suspect_link(failure, now);
            }
        }
    }

    fn command_failed(&mut self, ticket: Ticket, failure: &Failure, now: Instant) {
        if failure.written {
            return self.unknown(ticket, &failure.cause);
        }
        let Some(pending) = self.commands.get_mut(&ticket) else { return };
        pending.unwritten += 1;
        if pending.unwritten < UNWRITTEN_TRIES && pending.deadline > now {
            self.wait_again(ticket);
        } else {
            self.done(ticket, Err(CommandError::not_sent(failure.cause.clone())));
        }
    }

    fn suspect_link(&mut self, failure: &Failure, now: Instant) {
        if failure.timeout {
            self.effects.push_back(Effect::DropConnections);
        }
        if self.state == State::Up {
            self.suspect = true;
            self.keepalive_at = Some(now);
        }
    }

    /// Nobody knows whether it was executed: read again, or say so.
    fn unknown(&mut self, ticket: Ticket, cause: &str) {
        let Some(pending) = self.commands.get_mut(&ticket) else { return };
        if pending.command.read_only && !std::mem::replace(&mut pending.read_again, true) {
            self.wait_again(ticket);
        } else {
            self.done(ticket, Err(CommandError::unknown(cause)));
        }
    }

    fn wait_again(&mut self, ticket: Ticket) {
        if let Some(pending) = self.commands.get_mut(&ticket) {
            pending.phase = Phase::Waiting;
            self.waiting.push_front(ticket);
        }
    }

    fn done(&mut self, ticket: Ticket, result: Result<Reply, CommandError>) {
        if self.commands.remove(&ticket).is_some() {
            self.effects.push_back(Effect::Done(ticket, result));
        }
    }

    fn good_answer(&mut self) {
        self.fruitful = true;
        self.barren = 0;
    }

    fn session_expired(&mut self) {
        self.barren = if self.fruitful { 0 } else { self.barren + 1 };
        if self.barren >= BARREN_SESSIONS {
            return self.lose("every new session expires at once: check the dialect's terminal.session_expired");
        }
        self.end_session(State::LoggedOut);
        self.expired_before = true;
        LinkCounters::add(&self.counters.relogins);
        self.effects.push_back(Effect::Expired);
    }

    fn lose(&mut self, cause: &str) {
        self.end_session(State::Down);
        self.effects.push_back(Effect::Lost { cause: cause.to_owned() });
    }

    fn end_session(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
        self.cookies.clear();
        self.keepalive_at = None;
        self.keepalive_deadline = None;
        self.keepalive_in_flight = false;
        self.keepalive_failed_once = false;
        self.suspect = false;
    }
}
