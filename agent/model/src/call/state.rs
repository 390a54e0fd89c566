//! A call as a whole: its state, times and end, as its legs make them.

use elph_proto::v1;

use super::leg::is_up;
use crate::{convert, core::Stamp};

/// The call's state as its legs make it.
pub(super) fn derive(call: &mut v1::Call, stamp: &Stamp) {
    let up = call.legs.iter().filter(|leg| is_up(leg)).count();
    let answering = call.legs.iter().filter(|leg| is_up(leg) && leg.direction() != v1::LegDirection::Originating).min_by_key(|leg| {
        (leg.direction() != v1::LegDirection::Terminating, leg.answer_time.map_or((i64::MAX, 0), |at| (at.seconds, at.nanos)))
    });
    if let Some(leg) = answering.filter(|leg| up > 1 || leg.direction() == v1::LegDirection::Terminating) {
        if call.answer_time.is_none() {
            call.answer_time = leg.answer_time;
        }
        if call.answered_by.is_empty() {
            call.answered_by.clone_from(&leg.device);
        }
    }
    if !call.legs.is_empty() && call.legs.iter().all(|leg| leg.state() == v1::LegState::Released) {
        finish(call, None, stamp);
        return;
    }
    let rings = |leg: &v1::Leg| {
        matches!(leg.state(), v1::LegState::Alerting | v1::LegState::Queued) && leg.direction() != v1::LegDirection::Originating
    };
    call.set_state(if call.answer_time.is_some() {
        v1::CallState::Connected
    } else if call.legs.iter().any(rings) {
        v1::CallState::Alerting
    } else {
        v1::CallState::Initiated
    });
}

pub(super) fn finish(call: &mut v1::Call, cause: Option<v1::EndCause>, stamp: &Stamp) {
    let end = convert::timestamp(stamp.at());
    call.set_state(v1::CallState::Ended);
    call.end_time = Some(end);
    call.talk_duration = Some(call.answer_time.as_ref().map(|answer| convert::between(answer, &end)).unwrap_or_default());
    let cause = cause.filter(|cause| *cause != v1::EndCause::Unspecified).unwrap_or_else(|| cause_of(call));
    call.set_end_cause(cause);
}

/// Why a call ended, from how its legs did.
fn cause_of(call: &v1::Call) -> v1::EndCause {
    use v1::EndCause as Cause;
    let causes = || call.legs.iter().map(v1::Leg::end_cause);
    if call.answer_time.is_some() {
        if causes().any(|cause| cause == Cause::NoResources) {
            return Cause::NoResources;
        }
        // A leg whose end was missed while the call went on says nothing of how the call ended.
        let last = call.legs.iter().max_by_key(|leg| leg.end_time.map(|at| (at.seconds, at.nanos)));
        return last.map(v1::Leg::end_cause).filter(|cause| *cause == Cause::Lost).unwrap_or(Cause::Normal);
    }
    let telling = [
        Cause::Busy,
        Cause::Rejected,
        Cause::NoAnswer,
        Cause::CallerGaveUp,
        Cause::Unobtainable,
        Cause::NoResources,
        Cause::Redirected,
        Cause::Lost,
    ];
    if let Some(cause) = telling.into_iter().find(|telling| causes().any(|cause| cause == *telling)) {
        return cause;
    }
    let end = |direction: v1::LegDirection| {
        call.legs
            .iter()
            .filter(|leg| leg.direction() == direction)
            .filter_map(|leg| leg.end_time.as_ref())
            .map(|at| (at.seconds, at.nanos))
            .min()
    };
    match (end(v1::LegDirection::Originating), end(v1::LegDirection::Terminating)) {
        (Some(caller), Some(called)) if called < caller => Cause::Rejected,
        (Some(_), Some(_)) => Cause::CallerGaveUp,
        _ => Cause::Normal,
    }
}
