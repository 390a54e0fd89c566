//! A switch that can be made to do one thing after another, each of which is one event for a subscriber: legs are held and retrieved
//! (told over CSTA, once per monitored party), conference members begin and cease to talk (told over the Call API).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, bail};
use e2e::{Stack, StackOptions};
use elph_proto::v1::{self, event::Change, subscribe_response::Message};
use prost::Message as _;
use ssw_core::{ConferenceRequest, LegState, Switch};
use ssw_sim::SimOptions;

use crate::feed::{Clock, Receipt};

/// What changes back and forth.
#[derive(Debug, Clone)]
enum Object {
    Leg { call: String, leg: String },
    Member { conference: String, participant: String },
}

/// The switch and when each change was made.
#[derive(Clone)]
pub(crate) struct Busy {
    switch: Switch,
    domain: String,
    objects: Arc<Vec<Object>>,
    /// Of each object, the times of its changes: first on, then off, and so on.
    made: Arc<Vec<Mutex<Vec<u64>>>>,
    /// How many changes there have been: clones go on from one another.
    next: Arc<AtomicUsize>,
}

/// What is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) aliases: u32,
    pub(crate) calls: usize,
    pub(crate) conferences: usize,
    pub(crate) members: usize,
}

/// A switch and an agent that are ready.
pub(crate) async fn stack(aliases: u32) -> anyhow::Result<Stack> {
    let sim = SimOptions { aliases, ..SimOptions::default() };
    Stack::start(StackOptions { sim, extra: String::new(), ..StackOptions::default() }).await
}

/// Sets up calls that talk and conferences whose members are connected.
pub(crate) fn furnish(switch: &Switch, domain: &str, size: Size) -> anyhow::Result<()> {
    let aliases = switch.aliases(domain, 0, size.aliases as usize)?;
    for pair in aliases.chunks_exact(2).take(size.calls) {
        if let [from, to] = pair {
            talk(switch, domain, from, to)?;
        }
    }
    for number in 0..size.conferences {
        let from = (number * size.members) % aliases.len().saturating_sub(size.members).max(1);
        let members = aliases.iter().skip(from).take(size.members).cloned().collect();
        let request = ConferenceRequest { name: format!("Bench {number}"), members, ..ConferenceRequest::default() };
        let conference = switch.create_conference(domain, request)?;
        for member in switch.conference(domain, &conference)?.members {
            switch.pick_up(domain, &conference, &member.id)?;
        }
    }
    Ok(())
}

/// A call that has been answered.
pub(crate) fn talk(switch: &Switch, domain: &str, from: &str, to: &str) -> anyhow::Result<String> {
    let made = switch.dial(domain, from, to)?;
    let legs = switch.call(domain, &made.call)?.legs;
    let ringing = legs.iter().find(|leg| leg.state == LegState::Alerting).context("a call does not ring")?;
    switch.answer(domain, &made.call, &ringing.id)?;
    Ok(made.call)
}

impl Busy {
    /// All that is going on in the switch.
    pub(crate) fn of(switch: &Switch, domain: &str) -> Self {
        let legs = switch.calls(Some(domain)).into_iter().filter_map(|call| {
            let leg = call.legs.into_iter().find(|leg| leg.state == LegState::Connected)?;
            Some(Object::Leg { call: leg.call, leg: leg.id })
        });
        let members = switch.conferences(Some(domain)).into_iter().flat_map(|conference| conference.members);
        let members = members.map(|member| Object::Member { conference: member.conference, participant: member.id });
        // In turn, so that both protocols are at work all the time.
        let (mut legs, mut members) = (legs.collect::<Vec<_>>().into_iter(), members.collect::<Vec<_>>().into_iter());
        let mut objects = Vec::new();
        loop {
            let before = objects.len();
            objects.extend(legs.next());
            objects.extend(members.next());
            if objects.len() == before {
                break;
            }
        }
        let made = objects.iter().map(|_| Mutex::default()).collect();
        Self { switch: switch.clone(), domain: domain.to_owned(), objects: Arc::new(objects), made: Arc::new(made), next: Arc::default() }
    }

    /// One change.
    pub(crate) fn change(&self, clock: Clock) -> anyhow::Result<()> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let at = next % self.objects.len().max(1);
        let on = (next / self.objects.len().max(1)).is_multiple_of(2);
        let (Some(object), Some(made)) = (self.objects.get(at), self.made.get(at)) else { bail!("nothing goes on in the switch") };
        made.lock().unwrap_or_else(PoisonError::into_inner).push(clock.now());
        let (switch, domain) = (&self.switch, &*self.domain);
        match object {
            Object::Leg { call, leg } if on => switch.hold(domain, call, leg)?,
            Object::Leg { call, leg } => switch.retrieve(domain, call, leg)?,
            Object::Member { conference, participant } => switch.set_talking(domain, conference, participant, on)?,
        }
        Ok(())
    }

    /// How many changes bring everything back to where it was.
    pub(crate) fn round(&self) -> usize {
        2 * self.objects.len()
    }

    /// Forgets when changes were made. Only after whole rounds.
    pub(crate) fn forget_times(&self) {
        self.forget_noted();
        self.next.store(0, Ordering::Relaxed);
    }

    /// Forgets when changes were made, and goes on where it is.
    pub(crate) fn forget_noted(&self) {
        for made in self.made.iter() {
            made.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// When the change was made that each position tells of.
    pub(crate) fn made(&self, receipts: &[Receipt]) -> anyhow::Result<HashMap<u64, u64>> {
        let id = |object: &Object| match object {
            Object::Leg { call, .. } => call.clone(),
            Object::Member { participant, .. } => participant.clone(),
        };
        let index: HashMap<String, usize> = self.objects.iter().enumerate().map(|(at, object)| (id(object), at)).collect();
        let mut seen = vec![0_usize; self.objects.len()];
        let mut made = HashMap::new();
        for receipt in receipts {
            let frame = receipt.frame.clone().context("the message was not kept")?;
            let Some((id, on)) = told(&v1::SubscribeResponse::decode(frame)?) else { continue };
            let Some(at) = index.get(&id).copied() else { continue };
            let (Some(count), Some(times)) = (seen.get_mut(at), self.made.get(at)) else { continue };
            if count.is_multiple_of(2) != on {
                continue;
            }
            let times = times.lock().unwrap_or_else(PoisonError::into_inner);
            let time = times.get(*count).copied().context("an event came before it was made")?;
            *count += 1;
            made.insert(receipt.sequence, time);
        }
        Ok(made)
    }
}

/// The object that an event is about and whether it is on hold or talks.
fn told(response: &v1::SubscribeResponse) -> Option<(String, bool)> {
    let Some(Message::Event(event)) = &response.message else { return None };
    match event.change.as_ref()? {
        Change::Call(call) => {
            let held = call.legs.iter().any(|leg| leg.state() == v1::LegState::Held);
            Some((call.switch_call_id.clone(), held))
        }
        Change::Participant(change) => {
            let participant = change.participant.as_ref()?;
            Some((participant.id.clone(), participant.talking))
        }
        _ => None,
    }
}
