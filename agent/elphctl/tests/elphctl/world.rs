//! Calls and conferences that the tests show.

use elph_proto::{v1::*, view::counts};

use crate::support::{Fake, at, before};

pub const DOMAIN: &str = "biysk.local";
pub const TALKING: &str = "3f2a91bc-1111-5000-8000-000000000001";
pub const RINGING: &str = "3f2b0000-1111-5000-8000-000000000002";
pub const OVER: &str = "77aa0000-1111-5000-8000-000000000003";
pub const MEETING: &str = "5f0c0000-2222-5000-8000-000000000001";
pub const ROOM: &str = "60ff0000-2222-5000-8000-000000000002";

pub fn leg(id: &str, device: &str, state: LegState, direction: LegDirection) -> Leg {
    Leg { id: id.into(), device: device.into(), state: state.into(), direction: direction.into(), start_time: at(0), ..Default::default() }
}

pub fn call(id: &str, from: &str, to: &str, state: CallState, legs: Vec<Leg>) -> Call {
    Call {
        id: id.into(),
        domain: DOMAIN.into(),
        switch_call_id: "0a1b".into(),
        state: state.into(),
        legs,
        calling_number: from.into(),
        called_number: to.into(),
        start_time: at(0),
        version: 4,
        ..Default::default()
    }
}

fn participant(id: &str, number: &str, name: &str, status: ParticipantStatus) -> Participant {
    Participant {
        id: id.into(),
        number: number.into(),
        display_name: name.into(),
        role: ParticipantRole::Participant.into(),
        status: status.into(),
        join_time: if status == ParticipantStatus::Connected { at(5) } else { None },
        ..Default::default()
    }
}

pub fn conference(id: &str, name: &str, participants: Vec<Participant>) -> Conference {
    let (connected_count, pending_count) = counts(&participants);
    Conference {
        id: id.into(),
        domain: DOMAIN.into(),
        switch_conference_id: "tc-17".into(),
        name: name.into(),
        state: ConferenceState::Active.into(),
        start_time: at(0),
        duration: Some(prost_types::Duration { seconds: 3725, nanos: 0 }),
        recording: RecordingState::Off.into(),
        connected_count,
        pending_count,
        participants,
        version: 17,
        ..Default::default()
    }
}

/// One domain with three calls, two conferences and a link that is down.
pub fn world() -> Fake {
    let fake = Fake::default();
    let mut state = fake.state();
    state.domains = vec![Domain { name: DOMAIN.into(), subscriber_count: 3, subscribers_time: at(60) }];
    let talking = Call {
        answered_by: "1043".into(),
        answer_time: at(7),
        talk_duration: Some(prost_types::Duration { seconds: 185, nanos: 0 }),
        ..call(
            TALKING,
            "1042",
            "1043",
            CallState::Connected,
            vec![
                leg("L1", "1042", LegState::Held, LegDirection::Originating),
                leg("L2", "1043", LegState::Connected, LegDirection::Terminating),
            ],
        )
    };
    let ringing = call(
        RINGING,
        "89131234567",
        "1044",
        CallState::Alerting,
        vec![
            leg("L1", "89131234567", LegState::Connected, LegDirection::Originating),
            leg("L2", "1044", LegState::Alerting, LegDirection::Terminating),
        ],
    );
    let over = Call {
        end_cause: EndCause::NoAnswer.into(),
        end_time: at(30),
        talk_duration: Some(prost_types::Duration::default()),
        polled: true,
        ..call(OVER, "1045", "1042", CallState::Ended, Vec::new())
    };
    state.calls = vec![talking, ringing, over];
    let presenter = Participant {
        role: ParticipantRole::Presenter.into(),
        talking: true,
        ..participant("p-1", "1042", "Анна Серова", ParticipantStatus::Connected)
    };
    let muted =
        Participant { muted: true, floor_requested: true, ..participant("p-2", "1043", "Ivan \u{1b}[2J", ParticipantStatus::Connected) };
    let called = participant("q-3", "89131234567", "", ParticipantStatus::Alerting);
    let meeting = Conference { locked: true, max_participants: 50, ..conference(MEETING, "Planning", vec![presenter, muted, called]) };
    let room = Conference { room: "7001".into(), recording: RecordingState::On.into(), ..conference(ROOM, "", Vec::new()) };
    state.conferences = vec![meeting, room];
    state.subscribers = ["1042", "1043", "1044"]
        .map(|alias| Subscriber {
            alias: alias.into(),
            domain: DOMAIN.into(),
            interface: format!("sip{alias}"),
            interface_type: "sip_user".into(),
        })
        .to_vec();
    let since = Some(before(2 * 86_400 + 3 * 3600 + 1800));
    let up = Link {
        name: "terminal".into(),
        state: LinkState::Up.into(),
        since,
        node: "10.0.0.1:9999".into(),
        sessions: 2,
        ..Default::default()
    };
    let down = Link {
        name: "csta/biysk.local".into(),
        state: LinkState::Down.into(),
        since,
        node: "10.0.0.1:4721".into(),
        last_error: "connection refused".into(),
        sessions: 1,
        ..Default::default()
    };
    state.links = vec![up, down];
    drop(state);
    fake
}
