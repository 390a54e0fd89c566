//! The model under late, doubled, disordered and random observations; the journal across restarts.

mod calls;
mod conferences;
mod journal;
mod random;
mod streams;

use std::{sync::Arc, time::Duration};

use ecss_switch::{
    command::Role,
    event::{
        CallsMerged, Cause, ConferenceObservation, Direction, LegObservation, LegState, Observation, ParticipantObservation,
        ParticipantStatus, SwitchEvent,
    },
    ids::{Alias, Domain, SwitchCallId, SwitchConferenceId, SwitchLegId, SwitchParticipantId},
};
use elph_proto::{
    v1::{self, SubscribeResponse},
    view::View,
};
use jiff::Timestamp;
use prost::Message;

use crate::*;

fn domain() -> Domain {
    Domain::parse("biysk.local").unwrap()
}

fn call_id(id: &str) -> SwitchCallId {
    SwitchCallId::parse(id).unwrap()
}

fn leg(call: &str, device: &str, direction: Direction, state: LegState) -> LegObservation {
    LegObservation {
        call: call_id(call),
        leg: SwitchLegId::parse(device).unwrap(),
        device: Some(Alias::parse(device).unwrap()),
        direction: Some(direction),
        remote: None,
        state,
        cause: None,
        answered_at: None,
    }
}

fn out(call: &str, device: &str, state: LegState) -> LegObservation {
    leg(call, device, Direction::Originating, state)
}

fn inn(call: &str, device: &str, state: LegState) -> LegObservation {
    leg(call, device, Direction::Terminating, state)
}

fn seen(observation: Observation) -> SwitchEvent {
    SwitchEvent { domain: domain(), at: None, observation }
}

fn at(second: i64, observation: Observation) -> SwitchEvent {
    SwitchEvent { domain: domain(), at: Some(Timestamp::from_second(1_790_000_000 + second).unwrap()), observation }
}

fn core() -> Arc<Core> {
    Arc::new(Core::open(CoreOptions::default()).unwrap())
}

impl Core {
    fn legs(&self, legs: &[LegObservation]) {
        for leg in legs {
            self.observe(&seen(Observation::Leg(leg.clone())), Origin::default());
        }
    }

    fn the_call(&self, id: &str) -> v1::Call {
        self.call_by_switch_id(&domain(), &call_id(id)).unwrap()
    }

    fn the_conference(&self, id: &str) -> v1::Conference {
        self.conference_by_switch_id(&domain(), &SwitchConferenceId::parse(id).unwrap()).unwrap()
    }

    fn member(&self, conference: &str, participant: &str, change: impl FnOnce(&mut ParticipantObservation)) {
        let mut observation =
            ParticipantObservation::of(SwitchConferenceId::parse(conference).unwrap(), SwitchParticipantId::parse(participant).unwrap());
        change(&mut observation);
        self.observe(&seen(Observation::Participant(observation)), Origin::default());
    }
}

/// Everything that a subscriber can get without waiting.
async fn drain(subscription: &mut Subscription, view: &mut View) {
    loop {
        for frame in subscription.next(Duration::ZERO).await {
            let response = SubscribeResponse::decode(frame).unwrap();
            let heartbeat = matches!(response.message, Some(v1::subscribe_response::Message::Heartbeat(_)));
            view.apply(response);
            if heartbeat {
                return;
            }
        }
    }
}

/// What a subscriber with everything should see.
fn truth(core: &Core) -> View {
    let calls = core.calls(None, usize::MAX, |call| call.state() != v1::CallState::Ended).items;
    let conferences = core.conferences(None, usize::MAX, true, |it| it.state() != v1::ConferenceState::Ended).items;
    View {
        calls: calls.into_iter().map(|call| (call.id.clone(), call)).collect(),
        conferences: conferences.into_iter().map(|it| (it.id.clone(), it)).collect(),
        ..View::default()
    }
}

fn assert_same(view: &View, truth: &View) {
    assert_eq!(view.calls, truth.calls);
    let stable = |view: &View| {
        let mut conferences: Vec<_> = view.conferences.values().cloned().collect();
        conferences.iter_mut().for_each(|conference| {
            conference.duration = None;
            conference.participants.sort_by(|left, right| left.id.cmp(&right.id));
        });
        conferences
    };
    assert_eq!(stable(view), stable(truth));
}
