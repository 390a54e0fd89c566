//! Load that runs by itself: calls at a rate, a steady number of calls, conferences in which people talk, come and go.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use ssw_core::{ConferenceRequest, LegState, Outcome, ParticipantStatus, Refusal, Switch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often the load acts.
const TURN: Duration = Duration::from_millis(10);
/// How often a conference changes.
const CONFERENCE_TURN: Duration = Duration::from_millis(250);
/// Calls made per turn to reach the steady number, so that a start with many does not hold the switch up.
const CALLS_PER_TURN: usize = 50;

/// How much load.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    /// New calls per second, in all domains together.
    pub calls_per_second: f64,
    /// How long a call of that rate rings.
    pub ring: Duration,
    /// How long it talks.
    pub talk: Duration,
    /// Calls that talk all the time.
    pub calls: usize,
    /// Conferences that run all the time.
    pub conferences: usize,
    /// Members of each.
    pub conference_size: usize,
    /// Whether people talk, come and go in the conferences.
    pub churn: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            calls_per_second: 0.0,
            ring: Duration::from_millis(100),
            talk: Duration::from_secs(1),
            calls: 0,
            conferences: 0,
            conference_size: 10,
            churn: true,
        }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Answer { domain: String, call: String },
    HangUp { domain: String, call: String },
}

struct Load {
    switch: Switch,
    options: LoadOptions,
    rng: StdRng,
    due: BinaryHeap<Reverse<(Instant, Step)>>,
    /// Calls that are to talk all the time.
    steady: Vec<(String, String)>,
    /// Conferences of the load.
    conferences: Vec<(String, String)>,
}

/// Runs the load until the simulator ends.
pub(crate) async fn run(switch: Switch, options: LoadOptions, seed: u64, shutdown: CancellationToken) {
    if options.calls_per_second <= 0.0 && options.calls == 0 && options.conferences == 0 {
        return;
    }
    let mut load =
        Load { switch, options, rng: StdRng::seed_from_u64(seed), due: BinaryHeap::new(), steady: Vec::new(), conferences: Vec::new() };
    let mut interval = tokio::time::interval(TURN);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut last, mut owed, mut conference_turn) = (Instant::now(), 0.0, Instant::now());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = interval.tick() => {}
        }
        let now = Instant::now();
        owed = (owed + load.options.calls_per_second * now.duration_since(last).as_secs_f64()).min(load.options.calls_per_second.max(1.0));
        last = now;
        while owed >= 1.0 {
            owed -= 1.0;
            load.place_passing(now);
        }
        load.take_steps(now);
        load.keep_steady();
        if now.duration_since(conference_turn) >= CONFERENCE_TURN {
            conference_turn = now;
            load.keep_conferences();
        }
    }
}

impl Load {
    /// A domain and two of its subscribers.
    fn pair(&mut self) -> Option<(String, String, String)> {
        let domains = self.switch.domains();
        let domain = domains.get(self.rng.random_range(0..domains.len().max(1)))?.clone();
        let count = self.switch.alias_count(&domain).ok().filter(|count| *count > 1)?;
        let first = self.rng.random_range(0..count);
        let second = (first + self.rng.random_range(1..count)) % count;
        let alias = |at| self.switch.aliases(&domain, at, 1).ok().and_then(|mut page| page.pop());
        Some((domain.clone(), alias(first)?, alias(second)?))
    }

    fn dial(&mut self) -> Option<(String, Outcome)> {
        let (domain, from, to) = self.pair()?;
        match self.switch.dial(&domain, &from, &to) {
            Ok(outcome) => Some((domain, outcome)),
            Err(refusal) => {
                tracing::debug!(%refusal, "the load's call was refused");
                None
            }
        }
    }

    fn place_passing(&mut self, now: Instant) {
        let Some((domain, made)) = self.dial() else { return };
        let (answer, end) = (now + self.options.ring, now + self.options.ring + self.options.talk);
        self.due.push(Reverse((answer, Step::Answer { domain: domain.clone(), call: made.call.clone() })));
        self.due.push(Reverse((end, Step::HangUp { domain, call: made.call })));
    }

    fn take_steps(&mut self, now: Instant) {
        while self.due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, step))) = self.due.pop() else { return };
            // Somebody else may have ended or answered the call: that is no concern of the load's.
            let _ = match step {
                Step::Answer { domain, call } => self.answer(&domain, &call),
                Step::HangUp { domain, call } => self.switch.release_call(&domain, &call),
            };
        }
    }

    fn answer(&self, domain: &str, call: &str) -> Result<(), Refusal> {
        let legs = self.switch.call(domain, call)?.legs;
        match legs.iter().find(|leg| leg.state == LegState::Alerting) {
            Some(leg) => self.switch.answer(domain, call, &leg.id),
            None => Ok(()),
        }
    }

    fn keep_steady(&mut self) {
        if self.options.calls == 0 {
            return;
        }
        let switch = &self.switch;
        self.steady.retain(|(domain, call)| switch.call(domain, call).is_ok());
        for _ in 0..self.options.calls.saturating_sub(self.steady.len()).min(CALLS_PER_TURN) {
            let Some((domain, made)) = self.dial() else { return };
            if self.answer(&domain, &made.call).is_ok() {
                self.steady.push((domain, made.call));
            }
        }
    }

    fn keep_conferences(&mut self) {
        let switch = self.switch.clone();
        self.conferences.retain(|(domain, conference)| switch.conference(domain, conference).is_ok());
        while self.conferences.len() < self.options.conferences {
            if self.open_conference().is_none() {
                return;
            }
        }
        if self.options.churn {
            for (domain, conference) in self.conferences.clone() {
                // Members come and go by other hands too.
                let _ = self.stir(&domain, &conference);
            }
        }
    }

    fn open_conference(&mut self) -> Option<()> {
        let (domain, ..) = self.pair()?;
        let count = self.switch.alias_count(&domain).ok()?;
        let first = self.rng.random_range(0..count.saturating_sub(self.options.conference_size).max(1));
        let mut members = self.switch.aliases(&domain, first, self.options.conference_size).ok()?;
        let initiator = if members.is_empty() { String::new() } else { members.remove(0) };
        let name = format!("Load {}", self.conferences.len() + 1);
        let request = ConferenceRequest { name, initiator, members, ..ConferenceRequest::default() };
        let conference = self.switch.create_conference(&domain, request).ok()?;
        for member in self.switch.conference(&domain, &conference).ok()?.members {
            self.switch.pick_up(&domain, &conference, &member.id).ok()?;
        }
        self.conferences.push((domain, conference));
        Some(())
    }

    /// One thing happens in a conference.
    fn stir(&mut self, domain: &str, conference: &str) -> Result<(), Refusal> {
        let view = self.switch.conference(domain, conference)?;
        let connected: Vec<_> = view.members.iter().filter(|member| member.status == ParticipantStatus::Connected).collect();
        let Some(member) = connected.get(self.rng.random_range(0..connected.len().max(1))) else { return Ok(()) };
        match self.rng.random_range(0..10) {
            0 if member.number != view.initiator => {
                self.switch.leave(domain, conference, &member.id)?;
                self.switch.dial_in(domain, conference, &member.number)?;
            }
            1 if !member.voice => self.switch.request_floor(domain, conference, &member.id)?,
            _ => {
                for talker in view.members.iter().filter(|other| other.talking) {
                    self.switch.set_talking(domain, conference, &talker.id, false)?;
                }
                if member.voice {
                    self.switch.set_talking(domain, conference, &member.id, true)?;
                }
            }
        }
        Ok(())
    }
}
