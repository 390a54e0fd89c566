//! Whatever comes, in whatever order.

use elph_proto::view::counts;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Leg(u8, u8, LegState),
    Merge(u8, u8, u8, bool),
    End(u8),
    Member(u8, u8, Option<ParticipantStatus>, Option<bool>, Option<bool>),
    Lock(u8, bool),
    EndConference(u8),
    Resync(Vec<u8>),
    Read,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let states = prop::sample::select(vec![
        LegState::Initiated,
        LegState::Alerting,
        LegState::Connected,
        LegState::Held,
        LegState::Failed,
        LegState::Released,
    ]);
    let statuses = prop::option::of(prop::sample::select(vec![
        ParticipantStatus::Alerting,
        ParticipantStatus::Connected,
        ParticipantStatus::OnHold,
        ParticipantStatus::Disconnected,
    ]));
    let step = prop_oneof![
        6 => (0..4_u8, 0..4_u8, states).prop_map(|(call, device, state)| Step::Leg(call, device, state)),
        2 => (0..4_u8, 0..4_u8, 0..4_u8, any::<bool>()).prop_map(|(left, right, into, legs)| Step::Merge(left, right, into, legs)),
        1 => (0..4_u8).prop_map(Step::End),
        6 => (0..3_u8, 0..6_u8, statuses, any::<Option<bool>>(), any::<Option<bool>>()).prop_map(|(c, p, s, v, t)| Step::Member(c, p, s, v, t)),
        1 => (0..3_u8, any::<bool>()).prop_map(|(conference, locked)| Step::Lock(conference, locked)),
        1 => (0..3_u8).prop_map(Step::EndConference),
        1 => prop::collection::vec(0..6_u8, 0..5).prop_map(Step::Resync),
        2 => Just(Step::Read),
    ];
    prop::collection::vec(step, 1..80)
}

fn take(core: &Core, step: &Step) {
    let conference_id = |id: u8| SwitchConferenceId::parse(&format!("c{id}")).unwrap();
    match step {
        Step::Leg(call, device, state) => {
            let direction = if *device == 0 { Direction::Originating } else { Direction::Terminating };
            core.legs(&[leg(&call.to_string(), &format!("10{device}"), direction, *state)]);
        }
        Step::Merge(left, right, into, legs) => {
            let merge = CallsMerged {
                primary: call_id(&left.to_string()),
                secondary: (left != right).then(|| call_id(&right.to_string())),
                into: call_id(&into.to_string()),
                cause: Cause::Transfer,
                leaving: Some(Alias::parse("101").unwrap()),
                legs: if *legs { vec![inn(&into.to_string(), "103", LegState::Connected)] } else { Vec::new() },
            };
            core.observe(&seen(Observation::Merged(merge)), Origin::default());
        }
        Step::End(call) => {
            core.observe(&seen(Observation::CallReleased { call: call_id(&call.to_string()), cause: None }), Origin::default())
        }
        Step::Member(conference, participant, status, voice, talking) => {
            core.member(&format!("c{conference}"), &format!("p{participant}"), |it| {
                it.status = *status;
                it.voice = *voice;
                it.talking = *talking;
                it.floor_requested = *talking;
            })
        }
        Step::Lock(conference, locked) => {
            let seen_one =
                ConferenceObservation { conference: Some(conference_id(*conference)), locked: Some(*locked), ..Default::default() };
            core.observe(&seen(Observation::Conference(seen_one)), Origin::default());
        }
        Step::EndConference(conference) => {
            core.observe(&seen(Observation::ConferenceEnded { conference: conference_id(*conference) }), Origin::default());
        }
        Step::Resync(members) => {
            let calls = [CallSnapshot {
                call: call_id("2"),
                legs: vec![inn("2", "103", LegState::Alerting)],
                start: None,
                id_start: None,
                answer: None,
                numbers: None,
            }];
            core.resync_calls(&domain(), core.begin_snapshot(), &calls, &[], Origin { reconstructed: true, polled: false });
            let member = |id: &u8| ParticipantObservation {
                status: Some(ParticipantStatus::Connected),
                ..ParticipantObservation::of(conference_id(1), SwitchParticipantId::parse(&format!("p{id}")).unwrap())
            };
            let conference =
                ConferenceObservation { conference: Some(conference_id(1)), locked: Some(members.len() % 2 == 0), ..Default::default() };
            let listed = [ConferenceSnapshot { conference, members: Some(members.iter().map(member).collect()) }];
            core.resync_conferences(&domain(), core.begin_snapshot(), &listed, Origin { reconstructed: true, polled: false });
        }
        Step::Read => {}
    }
}

/// As [`drain`], and after each single message the counts that it tells are those of the roster.
async fn drain_counting(subscription: &mut Subscription, view: &mut View) {
    use v1::{event::Change, subscribe_response::Message};
    loop {
        for frame in subscription.next(Duration::ZERO).await {
            let response = SubscribeResponse::decode(frame).unwrap();
            let message = response.message.clone();
            view.apply(response);
            match message {
                Some(Message::Heartbeat(_)) => return,
                Some(Message::Event(v1::Event { change: Some(Change::Participant(change)), .. })) => {
                    let roster = &view.conferences[&change.conference_id].participants;
                    assert_eq!((change.connected_count, change.pending_count), counts(roster));
                }
                _ => {}
            }
            for conference in view.conferences.values() {
                assert_eq!((conference.connected_count, conference.pending_count), counts(&conference.participants));
            }
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_comes_counts_equal_rosters_and_every_subscriber_sees_the_same_state(steps in steps(), ring in 1_usize..40) {
        let core = Arc::new(Core::open(CoreOptions { max_events: ring, keep_ended: 3, ..Default::default() }).unwrap());
        runtime().block_on(async {
            let mut prompt = core.subscribe(Filter::default(), Start::Snapshot);
            let mut slow = core.subscribe(Filter::default(), Start::Snapshot);
            let (mut prompt_view, mut slow_view) = (View::default(), View::default());
            for step in &steps {
                take(&core, step);
                for conference in core.conferences(None, usize::MAX, true, |_| true).items {
                    assert_eq!((conference.connected_count, conference.pending_count), counts(&conference.participants));
                    assert!(conference.participants.iter().all(|it| !it.talking || (it.status() == v1::ParticipantStatus::Connected && !it.muted)));
                }
                for call in core.calls(None, usize::MAX, |_| true).items {
                    let over = call.legs.iter().all(|leg| leg.state() == v1::LegState::Released);
                    assert_eq!(call.state() == v1::CallState::Ended, over, "{call:?}");
                    assert!(call.version > 0, "{call:?}");
                }
                let active = core.calls(None, usize::MAX, |call| call.state() != v1::CallState::Ended).items.len();
                assert_eq!(core.counters().active_calls, active as u64);
                if matches!(step, Step::Read) {
                    drain_counting(&mut prompt, &mut prompt_view).await;
                    assert_same(&prompt_view, &truth(&core));
                }
            }
            // The slow one read nothing until now: it is told so, or everything is still there; the state is the same.
            drain_counting(&mut prompt, &mut prompt_view).await;
            drain(&mut slow, &mut slow_view).await;
            assert_same(&prompt_view, &truth(&core));
            assert_same(&slow_view, &truth(&core));
            assert!(slow_view.complete);
        });
    }

    #[test]
    fn versions_grow_and_ended_calls_do_not_change(steps in steps()) {
        let core = core();
        let mut last: std::collections::HashMap<String, v1::Call> = std::collections::HashMap::new();
        for step in &steps {
            take(&core, step);
            for call in core.calls(None, usize::MAX, |_| true).items {
                if let Some(before) = last.get(&call.id) {
                    assert!(call.version >= before.version);
                    assert_eq!(call.version == before.version, call == *before);
                    if before.state() == v1::CallState::Ended {
                        assert_eq!(call, *before);
                    }
                }
                last.insert(call.id.clone(), call);
            }
        }
    }
}
