//! Two calls become one: transfers and the three-way. Which call goes on is an option of the switch.

use super::{Call, MergeInto, Switch, Tx, legs::bad_state};
use crate::{
    call::{CallKind, CallView, Cause, LegState, LegView, Outcome},
    event::{EventKind, Merge},
    refusal::{Refusal, RefusalCause},
};

/// Most parties of a three-way.
const THREE: usize = 3;

impl Switch {
    /// Transfers the leg's other parties to `to` at once (ECMA-269 single step transfer).
    pub fn transfer_blind(&self, domain: &str, call: &str, leg: &str, to: &str) -> Result<Outcome, Refusal> {
        self.with(|tx| {
            let found = tx.live_leg(domain, call, leg)?;
            tx.require_number(domain, to)?;
            let talks = matches!(found.state, LegState::Connected | LegState::Held);
            if !talks || !tx.domain(domain)?.call(call)?.talks_with_another(leg) {
                return Err(bad_state("the leg does not talk"));
            }
            let merge = tx.merge(domain, (call, leg), None, Cause::Transfer, to)?;
            let outcome = outcome_of(&merge, "");
            let into = merge.into.clone();
            tx.emit_in(domain, EventKind::Merged(merge));
            tx.ring(domain, &into, to);
            tx.serve_queues(domain);
            Ok(outcome)
        })
    }

    /// Joins the held and the consulted party and leaves the consulting device out. The consulted one may still ring.
    pub fn transfer_complete(&self, domain: &str, held: (&str, &str), active: (&str, &str)) -> Result<Outcome, Refusal> {
        self.with(|tx| {
            tx.held_and_active(domain, held, active)?;
            if tx.domain(domain)?.call(active.0)?.live().count() < 2 {
                return Err(bad_state("nobody is left on the consultation call"));
            }
            let merge = tx.merge(domain, held, Some(active), Cause::Transfer, "")?;
            let outcome = outcome_of(&merge, "");
            let into = merge.into.clone();
            tx.emit_in(domain, EventKind::Merged(merge));
            tx.schedule_moved(domain, &into);
            tx.end_if_alone(domain, &into, Cause::Normal);
            tx.serve_queues(domain);
            Ok(outcome)
        })
    }

    /// Joins held and active call into a three-way.
    pub fn join(&self, domain: &str, held: (&str, &str), active: (&str, &str)) -> Result<Outcome, Refusal> {
        self.with(|tx| {
            let (first, _) = tx.held_and_active(domain, held, active)?;
            let at = tx.domain(domain)?;
            if !at.call(active.0)?.talks_with_another(active.1) {
                return Err(bad_state("the consulted party has not answered"));
            }
            if at.call(held.0)?.live().count() + at.call(active.0)?.live().count() - 1 > THREE {
                return Err(Refusal::new(RefusalCause::ConferenceFull, "a three-way has three parties"));
            }
            let merge = tx.merge(domain, held, Some(active), Cause::Conference, "")?;
            let outcome = outcome_of(&merge, &first.device);
            tx.emit_in(domain, EventKind::Merged(merge));
            Ok(outcome)
        })
    }
}

fn outcome_of(merge: &Merge, device: &str) -> Outcome {
    let leg = merge.legs.iter().find(|leg| leg.device == device).or(merge.legs.first());
    Outcome { call: merge.into.clone(), leg: leg.map(|leg| leg.id.clone()).unwrap_or_default() }
}

impl Tx<'_> {
    /// Takes the calls apart and puts the resulting one together; nothing can fail once it begins to change things.
    fn merge(&mut self, domain: &str, held: (&str, &str), active: Option<(&str, &str)>, cause: Cause, to: &str) -> Result<Merge, Refusal> {
        let new_id = self.id();
        let (now, style, history) = (self.now, self.options.merge_into, self.options.history);
        let at = self.domain(domain)?;
        let device = at.call(held.0)?.leg(held.1).map(|leg| leg.device.clone()).unwrap_or_default();
        let first = at.calls.remove(held.0).ok_or_else(super::legs::no_such_call)?;
        let second = active.and_then(|active| at.calls.remove(active.0));
        let into = match (style, &second) {
            (MergeInto::New, _) => new_id,
            (MergeInto::Active, Some(second)) => second.view.id.clone(),
            _ => first.view.id.clone(),
        };
        let mut result = result_of(&first, second.as_ref(), &into, cause, to);
        let (mut moved, mut dropped) = (Vec::new(), Vec::new());
        let mut ended = Vec::new();
        let own = |call: &str, leg: &str| (call, leg) == held || active.is_some_and(|active| active == (call, leg));
        // Of a joining device the leg stays that is on the resulting call already.
        let kept = active.filter(|active| active.0 == into).unwrap_or(held);
        // The call that goes on comes first: what it has had keeps its ids, even what is released.
        let mut sources: Vec<Call> = [Some(first), second].into_iter().flatten().collect();
        sources.sort_by_key(|source| source.view.id != into);
        for mut source in sources {
            let id = source.view.id.clone();
            let goes_on = id == into;
            // Legs released before stay in the record of their own call.
            let mut stay: Vec<LegView> = Vec::new();
            for mut leg in std::mem::take(&mut source.view.legs) {
                if leg.state == LegState::Released {
                    stay.push(leg);
                    continue;
                }
                let is_own = own(&id, &leg.id);
                let leaves = is_own && (cause == Cause::Transfer || (id.as_str(), leg.id.as_str()) != kept);
                let mut old = leg.clone();
                (old.state, old.cause, old.ended_at) = (LegState::Released, Some(cause), Some(now));
                if leaves {
                    dropped.push((id.clone(), leg.id.clone()));
                    stay.push(old);
                    continue;
                }
                if !goes_on {
                    stay.push(old);
                }
                let new_leg = if goes_on { leg.id.clone() } else { result.free_leg_id(&leg.device) };
                moved.push((id.clone(), leg.id.clone(), new_leg.clone()));
                (leg.id, leg.call) = (new_leg, into.clone());
                if is_own {
                    leg.state = LegState::Connected;
                }
                result.view.legs.push(leg);
            }
            if goes_on {
                result.view.legs.extend(stay);
            } else {
                source.view.legs = stay;
                (source.view.ended_at, source.view.cause) = (Some(now), Some(cause));
                ended.push(source.view);
            }
        }
        point_at_each_other(&mut result, to);
        let merge = Merge {
            primary: held.0.to_owned(),
            secondary: active.map(|active| active.0.to_owned()),
            into: into.clone(),
            cause,
            device,
            transferred_to: to.to_owned(),
            legs: result.live().cloned().collect(),
            moved,
            dropped,
            calling: result.view.calling.clone(),
            called: result.view.called.clone(),
        };
        let devices: Vec<String> = ended.iter().flat_map(|call| call.legs.iter().map(|leg| leg.device.clone())).collect();
        let all: Vec<String> = result.view.legs.iter().map(|leg| leg.device.clone()).chain(devices).collect();
        let live: Vec<String> = result.live().map(|leg| leg.device.clone()).collect();
        at.calls.insert(into.clone(), result);
        for device in &live {
            at.index(device, &into);
        }
        for device in &all {
            for call in [Some(held.0), active.map(|active| active.0), Some(into.as_str())].into_iter().flatten() {
                at.unindex(device, call);
            }
        }
        let released = u32::try_from(ended.len()).unwrap_or(u32::MAX);
        for call in ended {
            super::push_bounded(&mut at.history, call, history);
        }
        // A new call takes the place of one that ended.
        let created = u32::from(style == MergeInto::New);
        self.give_back(crate::licence::LicenceKind::Calls, released.saturating_sub(created));
        Ok(merge)
    }
}

/// The resulting call without its legs.
fn result_of(first: &Call, second: Option<&Call>, into: &str, cause: Cause, to: &str) -> Call {
    let goes_on = if second.is_some_and(|second| second.view.id == into) { second.unwrap_or(first) } else { first };
    let remaining = |call: &Call, but: Option<&str>| {
        call.live().find(|leg| Some(leg.device.as_str()) != but).map(|leg| leg.device.clone()).unwrap_or_default()
    };
    let keeps_record = first.view.id == into || second.is_some_and(|second| second.view.id == into);
    let view = if keeps_record {
        CallView { legs: Vec::new(), ..goes_on.view.clone() }
    } else {
        let device = second.map(|second| second.view.calling.clone());
        let called = match second {
            Some(second) => remaining(second, device.as_deref()),
            None => to.to_owned(),
        };
        let answered = second.map_or(first.view.answered_at, |second| second.view.answered_at);
        CallView {
            id: into.to_owned(),
            kind: if cause == Cause::Conference { CallKind::Consultation } else { first.view.kind },
            calling: first.view.calling.clone(),
            called,
            answered_by: second.map_or_else(|| first.view.answered_by.clone(), |second| second.view.answered_by.clone()),
            answered_at: answered,
            legs: Vec::new(),
            ..first.view.clone()
        }
    };
    let last_redirection = if to.is_empty() { goes_on.last_redirection.clone() } else { first.view.called.clone() };
    Call { view, last_redirection, group: second.and_then(|second| second.group.clone()).or_else(|| first.group.clone()) }
}

/// Each leg of two sees the other; of three the first of the others.
fn point_at_each_other(call: &mut Call, to: &str) {
    let devices: Vec<String> = call.live().map(|leg| leg.device.clone()).collect();
    for leg in call.view.legs.iter_mut().filter(|leg| leg.state != LegState::Released) {
        let other = devices.iter().find(|device| **device != leg.device).cloned();
        leg.remote = other.filter(|_| to.is_empty() || devices.len() > 1).unwrap_or_else(|| to.to_owned());
    }
}
