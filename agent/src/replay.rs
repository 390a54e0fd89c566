//! Replays a recording: everything that was received goes through the production codecs again, with any dialect, and is counted as
//! understood or not. A recording from a real switch becomes a test in this way.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use ecss_switch::{Dialect, Domain, Observation};
use mediator_client::{
    call_api::{
        frame::{Frame, Framing},
        shape::EventTable,
        tree,
    },
    csta::{
        message::{AnswerBody, Incoming},
        observe::Observer,
    },
    terminal::{
        command::{calls, conferences},
        xml,
    },
};
use serde::Serialize;

use crate::record::{Recorded, Recording};

/// Characters of a problem's first example.
const EXAMPLE: usize = 160;
/// Commands whose answers are waited for.
const MOST_ASKED: usize = 65_536;

/// What a recording holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Messages from us.
    pub sent: u64,
    /// Messages of the switch.
    pub received: u64,
    /// Of these, those that were understood.
    pub understood: u64,
    /// Messages of the switch by link and kind.
    pub kinds: BTreeMap<String, u64>,
    /// What became of them.
    pub observations: BTreeMap<String, u64>,
    /// What was not understood.
    pub problems: BTreeMap<String, Problem>,
}

/// One kind of problem.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Problem {
    /// How often.
    pub count: u64,
    /// The first, shortened.
    pub first: String,
}

struct Replay<'a> {
    dialect: &'a Dialect,
    framing: Framing,
    events: EventTable,
    observer: Observer,
    /// The name of the command that went out under an id, by link.
    asked: HashMap<String, String>,
    summary: Summary,
}

/// Reads a recording with a dialect. `domain` is the one that sessions were opened for.
pub fn run(recording: &Recording, dialect: &Arc<Dialect>, domain: &Domain) -> Summary {
    let mut replay = Replay {
        dialect,
        framing: Framing::of(&dialect.call_api),
        events: EventTable::new(dialect.clone(), domain.clone()),
        observer: Observer::new(dialect, domain),
        asked: HashMap::new(),
        summary: Summary::default(),
    };
    for message in &recording.messages {
        if message.way == "sent" { replay.sent(message) } else { replay.received(message) }
    }
    replay.summary
}

impl Replay<'_> {
    fn sent(&mut self, message: &Recorded) {
        self.summary.sent += 1;
        let (key, name) = match message.link.as_str() {
            "terminal" => {
                let path = message.head.split(' ').nth(1).unwrap_or_default();
                let id = request_id(&message.head).unwrap_or_default();
                (format!("terminal {id}"), path.strip_prefix("/commands/").unwrap_or(path).to_owned())
            }
            "csta" => {
                let root = message.body.split('<').find(|part| part.starts_with(char::is_alphabetic)).unwrap_or_default();
                let root = root.split(|c: char| c.is_whitespace() || "/>".contains(c)).next().unwrap_or_default();
                (format!("csta {}", message.head), root.to_owned())
            }
            _ => {
                let id = message.head.get(12..16).unwrap_or_default();
                let name = message.head.get(16..).unwrap_or_default();
                (format!("call_api {id}"), name.trim_matches([' ', '\0']).to_owned())
            }
        };
        if self.asked.len() < MOST_ASKED {
            self.asked.insert(key, name);
        }
    }

    fn received(&mut self, message: &Recorded) {
        self.summary.received += 1;
        let outcome = match message.link.as_str() {
            "terminal" => self.terminal(message),
            "call_api" if is_frame(&message.head) => self.frame(message),
            "call_api" => self.http(message),
            "csta" => self.csta(message),
            other => Err(("unknown link", other.to_owned())),
        };
        match outcome {
            Ok(()) => self.summary.understood += 1,
            Err((kind, what)) => self.problem(&format!("{}: {kind}", message.link), &what),
        }
    }

    fn kind(&mut self, kind: String) {
        *self.summary.kinds.entry(kind).or_default() += 1;
    }

    fn observed(&mut self, kind: &str, count: usize) {
        if count > 0 {
            *self.summary.observations.entry(kind.to_owned()).or_default() += count as u64;
        }
    }

    fn problem(&mut self, kind: &str, what: &str) {
        let problem = self.summary.problems.entry(kind.to_owned()).or_default();
        problem.count += 1;
        if problem.first.is_empty() {
            problem.first = what.chars().map(|c| if c.is_control() { ' ' } else { c }).take(EXAMPLE).collect();
        }
    }

    fn terminal(&mut self, message: &Recorded) -> Result<(), (&'static str, String)> {
        let id = request_id(&message.head).unwrap_or_default();
        let command = self.asked.remove(&format!("terminal {id}")).unwrap_or_else(|| "answer to nothing".to_owned());
        self.kind(format!("terminal {command}"));
        if message.body.is_empty() {
            return Ok(());
        }
        let document = xml::parse(message.body.as_bytes()).map_err(|error| ("document", format!("{command}: {error}")))?;
        if document.local_name() != "out" {
            return Err(("root", format!("{command}: {}", document.local_name())));
        }
        if document.all("error").next().is_some() {
            self.observed("refusals", 1);
            return Ok(());
        }
        let dialect = self.dialect;
        let lost = match command.as_str() {
            "calls_history" => self.listed("calls", calls::records(dialect, &document).map(|call| call.map(|_| 0)).collect()),
            "conference_list" | "tc_meetings_active_info" => {
                let meetings = command != "conference_list";
                let shape = if meetings { &dialect.terminal.meetings } else { &dialect.terminal.conferences };
                let read: Vec<_> = conferences::records(dialect, shape, &document, meetings).collect();
                let members = read.iter().flatten().map(|(conference, _)| conference.participants.len()).sum();
                self.observed("members", members);
                let read = read.into_iter().map(|one| one.map(|(_, unread)| unread)).collect();
                self.listed(if meetings { "meetings" } else { "conferences" }, read)
            }
            "alias_list" => {
                let count = document.all("alias").count();
                self.observed("aliases", count);
                0
            }
            _ => 0,
        };
        if lost > 0 { Err(("record", format!("{command}: {lost} records are not understood"))) } else { Ok(()) }
    }

    /// Counts records, of which each may have lost some parts of it or be lost itself.
    fn listed(&mut self, kind: &str, read: Vec<Option<usize>>) -> usize {
        self.observed(kind, read.iter().flatten().count());
        read.iter().map(|one| one.unwrap_or(1)).sum()
    }

    fn http(&mut self, message: &Recorded) -> Result<(), (&'static str, String)> {
        let head = message.head.lines().next().unwrap_or_default();
        self.kind(format!("call_api HTTP {}", head.split(' ').next().unwrap_or_default()));
        if message.body.is_empty() || message.body.starts_with('(') {
            return Ok(());
        }
        xml::parse(message.body.as_bytes()).map(drop).map_err(|error| ("document", format!("{head}: {error}")))
    }

    fn frame(&mut self, message: &Recorded) -> Result<(), (&'static str, String)> {
        let text = format!("{}{}", message.head, message.body);
        let decoded = self.framing.decode(&text).map_err(|bad| ("frame", format!("{}: {}", bad.error, message.head)))?;
        let flaws = decoded.flaws;
        let outcome = match decoded.frame {
            Frame::Answer { id, status, body } => {
                let command = self.asked.remove(&format!("call_api {id}")).unwrap_or_else(|| "answer to nothing".to_owned());
                self.kind(format!("call_api {command} {status}"));
                if status.starts_with('2') { tree::from_json(&body).map(drop).map_err(|error| ("json", error.to_string())) } else { Ok(()) }
            }
            Frame::Event { name, body } => self.event(name.as_deref(), &body),
            Frame::Request { .. } => Ok(()),
        };
        outcome?;
        if flaws.padding {
            return Err(("padding", message.head.clone()));
        }
        if flaws.length { Err(("length", message.head.clone())) } else { Ok(()) }
    }

    fn event(&mut self, name: Option<&str>, body: &str) -> Result<(), (&'static str, String)> {
        let roots = tree::from_json(body).map_err(|error| ("json", error.to_string()))?;
        let name = name.or_else(|| roots.first().map(tree::Element::local_name)).unwrap_or_default().to_owned();
        self.kind(format!("call_api event {name}"));
        let reading = self.events.read(Some(&name).filter(|name| !name.is_empty()).map(String::as_str), &roots);
        for event in &reading.events {
            self.observed(kind_of(&event.observation), 1);
        }
        match (reading.unknown, reading.lost, reading.unread) {
            (true, ..) => Err(("unknown event", name)),
            (_, 1.., _) => Err(("event", format!("{name}: {} records are not understood", reading.lost))),
            (_, _, 1..) => Err(("value", format!("{name}: {} values are not understood", reading.unread))),
            _ => Ok(()),
        }
    }

    fn csta(&mut self, message: &Recorded) -> Result<(), (&'static str, String)> {
        let incoming = Incoming::read(message.body.as_bytes()).map_err(|error| (error.kind(), error.to_string()))?;
        match incoming {
            Incoming::Event(event) => {
                self.kind(format!("csta {}", event.kind.root()));
                let seen = self.observer.observe(&event, None).map_err(|error| (error.kind(), error.to_string()))?;
                self.observed(kind_of(&seen.observation), 1);
            }
            Incoming::Answer(answer) => {
                let asked = self.asked.remove(&format!("csta {}", message.head)).unwrap_or_else(|| "answer to nothing".to_owned());
                self.kind(format!("csta {asked}"));
                match &answer.body {
                    AnswerBody::Error(_) | AnswerBody::SessionRefused { .. } => self.observed("refusals", 1),
                    AnswerBody::Snapshot { calling, legs } => {
                        let seen = self.observer.snapshot(calling.as_deref(), legs, None).len();
                        self.observed("snapshot legs", seen);
                    }
                    _ => {}
                }
            }
            Incoming::SessionTerminated { .. } => self.kind("csta ApplicationSessionTerminated".to_owned()),
            Incoming::MonitorStopped { .. } => self.kind("csta MonitorStop".to_owned()),
            Incoming::Status { .. } => self.kind("csta SystemStatus".to_owned()),
            Incoming::Other => self.kind("csta other".to_owned()),
        }
        Ok(())
    }
}

fn kind_of(observation: &Observation) -> &'static str {
    match observation {
        Observation::Leg(_) => "legs",
        Observation::Merged(_) => "merges",
        Observation::CallReleased { .. } => "released calls",
        Observation::Conference(_) => "conference changes",
        Observation::ConferenceEnded { .. } => "ended conferences",
        Observation::Participant(_) => "participant changes",
    }
}

fn request_id(head: &str) -> Option<&str> {
    head.lines().find_map(|line| line.strip_prefix("P-Request-Id: "))
}

fn is_frame(head: &str) -> bool {
    head.strip_prefix("01").and_then(|rest| rest.get(..10)).is_some_and(|digits| digits.bytes().all(|octet| octet.is_ascii_digit()))
}

impl Summary {
    /// Whether everything was understood.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{} messages sent, {} received, {} of them understood\n", self.sent, self.received, self.understood);
        let mut table = |title: &str, rows: &BTreeMap<String, u64>| {
            if !rows.is_empty() {
                let _ = write!(text, "\n{title}\n");
            }
            for (kind, count) in rows {
                let _ = writeln!(text, "  {count:>8}  {kind}");
            }
        };
        table("received", &self.kinds);
        table("became", &self.observations);
        if !self.problems.is_empty() {
            let _ = write!(text, "\nnot understood\n");
        }
        for (kind, problem) in &self.problems {
            let _ = writeln!(text, "  {:>8}  {kind}; the first: {}", problem.count, problem.first);
        }
        text
    }
}
