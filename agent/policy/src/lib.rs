//! Which event of the switch becomes which push. Nothing here does I/O: changes of calls and conferences go in, what is to be told to
//! whom comes out; devices, queue and providers are the agent's business.

mod calls;
mod conferences;
mod notice;
mod template;

use std::collections::HashMap;

use elph_proto::v1;
use jiff::Timestamp;

use self::{calls::Rings, conferences::Invitations, notice::Seen};
pub use self::{
    notice::{Fields, Kind, Notice, Occasion, Step, Why},
    template::{BadTemplate, Content, Template, Templates, default_text},
};

/// What is pushed in a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// A ringing call rings the devices.
    pub calls: bool,
    /// How long a call rings: the push is worth nothing after it.
    pub ring_time: std::time::Duration,
    /// Only while no phone of the alias rings over SIP yet (no 180 so far).
    pub only_unless_ringing: bool,
    /// A call that nobody answered is told.
    pub missed_calls: bool,
    /// Who is invited into a conference is told.
    pub conferences: bool,
}

/// The policy's memory: who rings and who is invited.
#[derive(Debug, Default)]
pub struct Policy {
    rules: HashMap<String, Rules>,
    rings: Rings,
    invitations: Invitations,
    /// When the first list was read.
    began: Option<Timestamp>,
}

/// Where nothing is told, what was told before is still taken back.
const NOTHING: Rules =
    Rules { calls: false, ring_time: std::time::Duration::ZERO, only_unless_ringing: false, missed_calls: false, conferences: false };

impl Policy {
    /// A policy with these rules by domain. In a domain without rules nothing is pushed.
    pub fn new(rules: HashMap<String, Rules>) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Other rules from now on.
    pub fn set_rules(&mut self, rules: HashMap<String, Rules>) {
        self.rules = rules;
    }

    /// A call has changed.
    pub fn call(&mut self, call: &v1::Call, now: Timestamp) -> Vec<Notice> {
        let seen = self.seen(calls::time(call.start_time.as_ref()));
        self.rings.call(call, rules(&self.rules, &call.domain), seen, now)
    }

    /// A conference as a whole has changed.
    pub fn conference(&mut self, conference: &v1::Conference, now: Timestamp) -> Vec<Notice> {
        let seen = self.seen(calls::time(conference.start_time.as_ref()));
        self.invitations.conference(conference, rules(&self.rules, &conference.domain), seen, now)
    }

    /// A participant has changed.
    pub fn participant(&mut self, domain: &str, change: &v1::ParticipantChange, now: Timestamp) -> Vec<Notice> {
        self.invitations.participant(domain, change, rules(&self.rules, domain), now)
    }

    fn seen(&self, start: Option<Timestamp>) -> Seen {
        match (self.began, start) {
            (None, _) => Seen::Listed,
            (Some(began), Some(start)) if start >= began => Seen::Whole,
            _ => Seen::Older,
        }
    }

    /// All that goes on, after events were missed: what is no longer in it has ended.
    pub fn snapshot(&mut self, calls: &[v1::Call], conferences: &[v1::Conference], now: Timestamp) -> Vec<Notice> {
        let mut notices = self.rings.gone(calls);
        notices.extend(self.invitations.gone(conferences));
        for call in calls {
            notices.extend(self.call(call, now));
        }
        for conference in conferences {
            notices.extend(self.conference(conference, now));
        }
        self.began = self.began.or(Some(now));
        notices
    }

    /// What has been told to a user and is not over: for a device of theirs that was not there.
    pub fn open_of(&self, domain: &str, alias: &str) -> Vec<Notice> {
        [self.rings.open_of(domain, alias), self.invitations.open_of(domain, alias)].concat()
    }

    /// Whoever rings or is invited now.
    pub fn open(&self) -> usize {
        self.rings.len() + self.invitations.len()
    }
}

fn rules<'a>(all: &'a HashMap<String, Rules>, domain: &str) -> &'a Rules {
    all.get(domain).unwrap_or(&NOTHING)
}
