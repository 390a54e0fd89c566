//! One leg of a call: what an observation of it changes. A state of lower rank never replaces a higher one, and what is released stays
//! released, except where a list of the switch says otherwise.

use ecss_switch::event::{Direction, LegObservation, LegState};
use elph_proto::v1;

use super::Entry;
use crate::{convert, core::Stamp};

/// Legs of one call that are remembered; beyond it the oldest released ones go. A hunt group may ring for hours.
const MAX_LEGS: usize = 256;

/// How far a leg has come; a lower rank never replaces a higher one.
fn rank(state: v1::LegState) -> u8 {
    match state {
        v1::LegState::Unspecified | v1::LegState::Initiated => 0,
        v1::LegState::Queued | v1::LegState::Alerting => 1,
        v1::LegState::Connected | v1::LegState::Held => 2,
        v1::LegState::Failed => 3,
        v1::LegState::Released => 4,
    }
}

pub(super) fn is_up(leg: &v1::Leg) -> bool {
    matches!(leg.state(), v1::LegState::Connected | v1::LegState::Held)
}

/// Sets a text that is not known yet.
pub(super) fn fill(text: &mut String, value: &str) -> bool {
    let unknown = text.is_empty() && !value.is_empty();
    if unknown {
        value.clone_into(text);
    }
    unknown
}

pub(super) fn release(leg: &mut v1::Leg, cause: v1::EndCause, stamp: &Stamp) {
    leg.set_state(v1::LegState::Released);
    leg.end_time = Some(convert::timestamp(stamp.at()));
    leg.set_end_cause(cause);
}

/// Applies one observation of a leg. `authoritative`: from a list of the switch, so that a released leg may come back.
pub(super) fn observe_leg(entry: &mut Entry, seen: &LegObservation, stamp: &Stamp, authoritative: bool) -> bool {
    let call = &mut entry.call;
    let state = convert::leg_state(seen.state);
    let at = Some(convert::timestamp(stamp.at()));
    entry.leg_ticks.insert(seen.leg.to_string(), stamp.tick);
    let place = call.legs.iter().position(|leg| leg.id == seen.leg.as_str());
    let mut changed = false;
    let place = match place {
        Some(place) => place,
        None if seen.state == LegState::Released => return false,
        None => {
            if call.legs.len() >= MAX_LEGS
                && let Some(oldest) = call.legs.iter().position(|leg| leg.state() == v1::LegState::Released)
            {
                let oldest = call.legs.remove(oldest);
                entry.leg_ticks.remove(&oldest.id);
            }
            call.legs.push(v1::Leg { id: seen.leg.to_string(), start_time: at, ..Default::default() });
            changed = true;
            call.legs.len() - 1
        }
    };
    let Some(leg) = call.legs.get_mut(place) else { return false };
    if leg.state() == v1::LegState::Released {
        if !authoritative || seen.state == LegState::Released {
            return false;
        }
        *leg = v1::Leg { id: std::mem::take(&mut leg.id), device: std::mem::take(&mut leg.device), start_time: at, ..Default::default() };
        changed = true;
    }
    if let Some(device) = &seen.device {
        changed |= fill(&mut leg.device, device.as_str());
    }
    if let Some(direction) = seen.direction
        && leg.direction() == v1::LegDirection::Unspecified
    {
        leg.set_direction(convert::direction(direction));
        changed = true;
    }
    if (rank(state) >= rank(leg.state()) || authoritative) && leg.state() != state {
        leg.set_state(state);
        changed = true;
        if state == v1::LegState::Released {
            leg.end_time = at;
        }
    }
    if state == leg.state() && matches!(state, v1::LegState::Released | v1::LegState::Failed) {
        let cause = seen.cause.map_or(v1::EndCause::Normal, convert::end_cause);
        if leg.end_cause() == v1::EndCause::Unspecified {
            leg.set_end_cause(cause);
            changed = true;
        }
    }
    if is_up(leg) && leg.answer_time.is_none() {
        leg.answer_time = seen.answered_at.map(convert::timestamp).or(at);
        changed = true;
    }
    changed | numbers(call, seen)
}

/// Caller and called number, as far as a leg tells.
fn numbers(call: &mut v1::Call, seen: &LegObservation) -> bool {
    let device = seen.device.as_ref().map_or("", |device| device.as_str());
    let remote = seen.remote.as_ref().map_or("", |remote| remote.as_str());
    match seen.direction {
        Some(Direction::Originating) => fill(&mut call.calling_number, device) | fill(&mut call.called_number, remote),
        Some(Direction::Terminating) => fill(&mut call.calling_number, remote) | fill(&mut call.called_number, device),
        None => false,
    }
}

/// Where a list gives two numbers and no legs, each number stands for a leg.
pub(super) fn legs_from_numbers(entry: &mut Entry, answered: bool, stamp: &Stamp) -> bool {
    let call = &mut entry.call;
    let state = if answered { v1::LegState::Connected } else { v1::LegState::Alerting };
    let ends = [
        (call.calling_number.clone(), v1::LegDirection::Originating, v1::LegState::Connected),
        (call.called_number.clone(), v1::LegDirection::Terminating, state),
    ];
    let mut changed = false;
    for (number, direction, state) in ends.into_iter().filter(|(number, ..)| !number.is_empty()) {
        let at = Some(convert::timestamp(stamp.at()));
        let leg = match call.legs.iter().position(|leg| leg.id == number) {
            Some(place) => call.legs.get_mut(place),
            None => {
                changed = true;
                call.legs.push(v1::Leg { id: number.clone(), device: number, start_time: at, ..Default::default() });
                call.legs.last_mut()
            }
        };
        let Some(leg) = leg else { continue };
        if leg.state() != state {
            leg.set_state(state);
            leg.set_direction(direction);
            leg.answer_time = if is_up(leg) { call.answer_time.or(at) } else { None };
            changed = true;
        }
    }
    changed
}
