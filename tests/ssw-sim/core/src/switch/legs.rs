//! What all call commands are made of: finding a leg, adding one, changing its state, ringing a number, ending a call.

use std::sync::Arc;

use super::{Call, Domain, Tx, push_bounded, subscribers::no_such_subscriber};
use crate::{
    call::{CallKind, CallView, Cause, Direction, LegState, LegView},
    event::{CallChange, CallEvent, EventKind},
    licence::LicenceKind,
    refusal::{Refusal, RefusalCause},
    subscriber::{Answer, GroupKind},
};

pub(super) fn no_such_call() -> Refusal {
    Refusal::new(RefusalCause::NoSuchCall, "there is no such call")
}

pub(super) fn bad_state(text: &str) -> Refusal {
    Refusal::new(RefusalCause::BadState, text)
}

impl Call {
    pub(super) fn leg(&self, leg: &str) -> Option<&LegView> {
        self.view.legs.iter().find(|candidate| candidate.id == leg)
    }

    pub(super) fn leg_mut(&mut self, leg: &str) -> Option<&mut LegView> {
        self.view.legs.iter_mut().find(|candidate| candidate.id == leg)
    }

    /// Legs not released.
    pub(super) fn live(&self) -> impl Iterator<Item = &LegView> {
        self.view.live_legs()
    }

    /// Whether somebody other than `leg` is on the line with it.
    pub(super) fn talks_with_another(&self, leg: &str) -> bool {
        self.view.answered_at.is_some() && self.live().any(|other| other.id != leg && is_on_line(other.state))
    }

    /// An id for a further leg of `device`.
    pub(super) fn free_leg_id(&self, device: &str) -> String {
        let mut id = device.to_owned();
        let mut next = 2;
        while self.leg(&id).is_some() {
            id = format!("{device}|{next}");
            next += 1;
        }
        id
    }
}

pub(super) fn is_on_line(state: LegState) -> bool {
    matches!(state, LegState::Connected | LegState::Held)
}

impl Domain {
    pub(super) fn call(&mut self, call: &str) -> Result<&mut Call, Refusal> {
        self.calls.get_mut(call).ok_or_else(no_such_call)
    }

    pub(super) fn index(&mut self, device: &str, call: &str) {
        self.devices.entry(device.to_owned()).or_default().insert(call.to_owned());
    }

    /// Forgets that a device is on a call, unless another leg of it still is.
    pub(super) fn unindex(&mut self, device: &str, call: &str) {
        let still = self.calls.get(call).is_some_and(|call| call.live().any(|leg| leg.device == device));
        if still {
            return;
        }
        if let Some(calls) = self.devices.get_mut(device) {
            calls.remove(call);
            if calls.is_empty() {
                self.devices.remove(device);
            }
        }
    }

    pub(super) fn is_free(&self, alias: &str) -> bool {
        !self.devices.contains_key(alias)
    }
}

impl Tx<'_> {
    /// A leg that is not released.
    pub(super) fn live_leg(&mut self, domain: &str, call: &str, leg: &str) -> Result<LegView, Refusal> {
        let call = self.domain(domain)?.call(call)?;
        let found = call.leg(leg).filter(|leg| leg.state != LegState::Released).cloned();
        found.ok_or_else(|| Refusal::new(RefusalCause::NoSuchCall, "the call has no such leg"))
    }

    pub(super) fn require_number(&mut self, domain: &str, number: &str) -> Result<(), Refusal> {
        if self.domain(domain)?.exists(number) { Ok(()) } else { Err(no_such_subscriber(number)) }
    }

    /// Opens a call without legs; takes its licence.
    pub(super) fn open_call(&mut self, domain: &str, kind: CallKind, calling: &str, called: &str) -> Result<String, Refusal> {
        let at = self.domain(domain)?;
        if at.call_limit.is_some_and(|limit| at.calls.len() >= usize::try_from(limit).unwrap_or(usize::MAX)) {
            return Err(Refusal::new(RefusalCause::DomainLimit, "the domain has all the calls it may have"));
        }
        self.take(LicenceKind::Calls, 1)?;
        let (id, now) = (self.id(), self.now);
        let view = CallView {
            id: id.clone(),
            domain: domain.to_owned(),
            kind,
            calling: calling.to_owned(),
            called: called.to_owned(),
            started_at: now,
            answered_at: None,
            answered_by: None,
            ended_at: None,
            cause: None,
            legs: Vec::new(),
        };
        self.domain(domain)?.calls.insert(id.clone(), Call { view, last_redirection: String::new(), group: None });
        Ok(id)
    }

    /// Adds a leg to a call; its id.
    pub(super) fn add_leg(
        &mut self,
        domain: &str,
        call: &str,
        device: &str,
        remote: &str,
        direction: Direction,
        state: LegState,
    ) -> String {
        let (now, serial) = (self.now, self.serial());
        let Ok(at) = self.domain(domain) else { return String::new() };
        at.index(device, call);
        let Ok(found) = at.call(call) else { return String::new() };
        let id = found.free_leg_id(device);
        let queue = found.view.kind == CallKind::Queue;
        let call_ref = if queue { format!("q{serial}") } else { format!("r{call}") };
        found.view.legs.push(LegView {
            id: id.clone(),
            call: call.to_owned(),
            device: device.to_owned(),
            remote: remote.to_owned(),
            direction,
            state,
            cause: None,
            call_ref,
            started_at: now,
            answered_at: None,
            ended_at: None,
        });
        id
    }

    /// Tells of a leg's change.
    pub(super) fn tell(&mut self, domain: &str, call: &str, leg: &str, change: CallChange, cause: Option<Cause>) {
        let Some(found) = self.state.domains.get(domain).and_then(|domain| domain.calls.get(call)) else { return };
        let Some(changed) = found.leg(leg).cloned() else { return };
        let legs = found.view.legs.iter().filter(|other| other.state != LegState::Released || other.id == leg).cloned().collect();
        let event = CallEvent {
            call: call.to_owned(),
            change,
            leg: changed,
            legs,
            calling: found.view.calling.clone(),
            called: found.view.called.clone(),
            last_redirection: found.last_redirection.clone(),
            cause,
        };
        self.emit_in(domain, EventKind::Call(event));
    }

    /// Changes a leg's state and tells of it.
    pub(super) fn change(&mut self, domain: &str, call: &str, leg: &str, state: LegState, change: CallChange, cause: Option<Cause>) {
        let now = self.now;
        let Ok(at) = self.domain(domain) else { return };
        let Some(found) = at.call(call).ok().and_then(|call| call.leg_mut(leg)) else { return };
        if found.state == LegState::Released {
            return;
        }
        found.state = state;
        if state == LegState::Released {
            (found.ended_at, found.cause) = (Some(now), cause);
            let device = found.device.clone();
            at.unindex(&device, call);
        }
        self.tell(domain, call, leg, change, cause);
    }

    pub(super) fn release(&mut self, domain: &str, call: &str, leg: &str, cause: Cause) {
        self.change(domain, call, leg, LegState::Released, CallChange::ConnectionCleared, Some(cause));
    }

    /// Rings a number on behalf of a call. What cannot be reached gets a failed leg, and the call ends if nothing else rings or talks.
    pub(super) fn ring(&mut self, domain: &str, call: &str, number: &str) {
        let Ok(at) = self.domain(domain) else { return };
        let group = at.groups.get(number).map(|group| (group.kind, group.members.clone()));
        let caller = at.call(call).map_or_else(|_| String::new(), |call| remote_for(call));
        match group {
            Some((GroupKind::Queue, _)) => {
                if let Ok(found) = at.call(call) {
                    found.view.kind = CallKind::Queue;
                    found.group = Some(number.to_owned());
                }
                let leg = self.add_leg(domain, call, number, &caller, Direction::Terminating, LegState::Queued);
                self.tell(domain, call, &leg, CallChange::Queued, None);
                self.serve_queues(domain);
            }
            Some((GroupKind::Ring, members)) => {
                if let Ok(found) = at.call(call) {
                    found.group = Some(number.to_owned());
                }
                let mut rung = 0;
                for member in &members {
                    let reachable = self.domain(domain).is_ok_and(|at| at.device_count(member) > 0 && at.answer_of(member) != Answer::Busy);
                    if reachable {
                        rung += self.ring_devices(domain, call, member, &caller);
                    }
                }
                if rung == 0 {
                    self.fail(domain, call, number, &caller, Cause::Busy);
                }
            }
            None => {
                let cause = if !at.is_subscriber(number) || at.device_count(number) == 0 {
                    Some(Cause::Unobtainable)
                } else {
                    (at.answer_of(number) == Answer::Busy).then_some(Cause::Busy)
                };
                match cause {
                    Some(cause) => self.fail(domain, call, number, &caller, cause),
                    None => {
                        self.ring_devices(domain, call, number, &caller);
                    }
                }
            }
        }
    }

    fn ring_devices(&mut self, domain: &str, call: &str, alias: &str, caller: &str) -> usize {
        let count = self.domain(domain).map_or(0, |at| at.device_count(alias));
        for _ in 0..count {
            let leg = self.add_leg(domain, call, alias, caller, Direction::Terminating, LegState::Alerting);
            self.tell(domain, call, &leg, CallChange::Delivered, None);
            self.schedule_ringing(domain, call, &leg, alias);
        }
        // The one who waits sees whom.
        if let Some(found) = self.state.domains.get_mut(domain).and_then(|at| at.calls.get_mut(call)) {
            for leg in found.view.legs.iter_mut().filter(|leg| is_on_line(leg.state) && leg.remote.is_empty()) {
                alias.clone_into(&mut leg.remote);
            }
        }
        count
    }

    fn fail(&mut self, domain: &str, call: &str, number: &str, caller: &str, cause: Cause) {
        let leg = self.add_leg(domain, call, number, caller, Direction::Terminating, LegState::Failed);
        self.tell(domain, call, &leg, CallChange::Failed, Some(cause));
        self.release(domain, call, &leg, cause);
        self.end_if_alone(domain, call, cause);
    }

    /// Gives queued calls to free members, first come, first served.
    pub(super) fn serve_queues(&mut self, domain: &str) {
        let Ok(at) = self.domain(domain) else { return };
        if !at.groups.values().any(|group| group.kind == GroupKind::Queue) {
            return;
        }
        let mut waiting: Vec<_> = at
            .calls
            .values()
            .filter(|call| call.group.is_some() && call.view.kind == CallKind::Queue)
            .filter_map(|call| {
                let leg = call.live().find(|leg| leg.state == LegState::Queued)?;
                Some((leg.started_at, call.view.id.clone(), leg.id.clone(), call.group.clone()?, remote_for(call)))
            })
            .collect();
        waiting.sort();
        for (_, call, leg, group, caller) in waiting {
            let Ok(at) = self.domain(domain) else { return };
            let tried =
                |member: &str| at.calls.get(&call).map_or(0, |call| call.view.legs.iter().filter(|leg| leg.device == member).count());
            let members = at.groups.get(&group).map(|group| group.members.clone()).unwrap_or_default();
            let free = members
                .iter()
                .filter(|member| at.is_free(member) && at.device_count(member) > 0 && at.answer_of(member) != Answer::Busy)
                .min_by_key(|member| tried(member));
            let Some(member) = free else { continue };
            self.change(domain, &call, &leg, LegState::Released, CallChange::Diverted { to: member.clone() }, Some(Cause::Redirected));
            self.ring_devices(domain, &call, member, &caller);
        }
    }

    /// After a ringing leg ended without an answer: what becomes of its call.
    pub(super) fn after_ringing(&mut self, domain: &str, call: &str, cause: Cause) {
        let Ok(at) = self.domain(domain) else { return };
        let Some(found) = at.calls.get(call) else { return };
        if found.live().any(|leg| matches!(leg.state, LegState::Alerting | LegState::Queued)) {
            return;
        }
        let queue = found.group.clone().filter(|_| found.view.kind == CallKind::Queue && found.view.answered_at.is_none());
        let attempts = found.view.legs.len();
        if let Some(group) = queue
            && found.live().any(|leg| is_on_line(leg.state))
        {
            let members = at.groups.get(&group).map_or(0, |group| group.members.len());
            if attempts < 3 + 4 * members {
                self.ring(domain, call, &group);
                return;
            }
        }
        self.end_if_alone(domain, call, cause);
    }

    /// Ends a call on which fewer than two legs are left, or nobody on the line.
    pub(super) fn end_if_alone(&mut self, domain: &str, call: &str, cause: Cause) {
        let Ok(at) = self.domain(domain) else { return };
        let Some(found) = at.calls.get(call) else { return };
        let on_line = found.live().filter(|leg| is_on_line(leg.state) || leg.state == LegState::Initiated).count();
        if found.live().count() < 2 || on_line == 0 {
            self.finish(domain, call, cause);
        }
    }

    /// Ends a call: every leg is released, it goes into the history, its licence is free.
    pub(super) fn finish(&mut self, domain: &str, call: &str, cause: Cause) {
        let Ok(at) = self.domain(domain) else { return };
        let Some(found) = at.calls.get(call) else { return };
        let live: Vec<_> = found.live().map(|leg| leg.id.clone()).collect();
        for leg in live {
            self.release(domain, call, &leg, cause);
        }
        self.bury(domain, call, cause);
        self.emit_in(domain, EventKind::CallReleased { call: call.to_owned(), cause });
        self.serve_queues(domain);
    }

    /// Moves a call whose legs are all released into the history.
    pub(super) fn bury(&mut self, domain: &str, call: &str, cause: Cause) {
        let (now, keep) = (self.now, self.options.history);
        let Ok(at) = self.domain(domain) else { return };
        let Some(mut found) = at.calls.remove(call) else { return };
        (found.view.ended_at, found.view.cause) = (Some(now), Some(cause));
        push_bounded(&mut at.history, found.view, keep);
        self.give_back(LicenceKind::Calls, 1);
    }

    pub(super) fn emit_digits(&mut self, domain: &str, call: &str, leg: &str, digits: &str) {
        let name: Option<Arc<str>> = self.state.domains.get(domain).map(|at| at.name.clone());
        if let Some(name) = name {
            self.emit(&name, EventKind::Digits { call: call.to_owned(), leg: leg.to_owned(), digits: digits.to_owned() });
        }
    }
}

/// Whom a newly rung leg sees as its other party.
fn remote_for(call: &Call) -> String {
    let on_line = call.live().find(|leg| is_on_line(leg.state)).map(|leg| leg.device.clone());
    on_line.unwrap_or_else(|| call.view.calling.clone())
}
