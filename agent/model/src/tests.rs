//! The model under late, doubled, disordered and random observations; the journal across restarts.

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
    view::{View, counts},
};
use jiff::Timestamp;
use proptest::prelude::*;
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

#[test]
fn a_call_rings_is_answered_held_and_ends_with_its_times_and_cause() {
    let core = core();
    core.legs(&[out("1", "1001", LegState::Initiated), inn("1", "1002", LegState::Alerting)]);
    assert_eq!(core.the_call("1").state(), v1::CallState::Alerting);
    core.legs(&[out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Connected)]);
    let call = core.the_call("1");
    assert_eq!((call.state(), call.answered_by.as_str(), call.calling_number.as_str()), (v1::CallState::Connected, "1002", "1001"));
    core.legs(&[inn("1", "1002", LegState::Held)]);
    assert_eq!(core.the_call("1").legs[1].state(), v1::LegState::Held);
    core.legs(&[inn("1", "1002", LegState::Connected), out("1", "1001", LegState::Released), inn("1", "1002", LegState::Released)]);
    let call = core.the_call("1");
    assert_eq!((call.state(), call.end_cause()), (v1::CallState::Ended, v1::EndCause::Normal));
    assert!(call.talk_duration.is_some() && call.end_time.is_some());
    assert_eq!(core.counters().active_calls, 0);
}

#[test]
fn a_final_state_stays_whatever_comes_late() {
    let core = core();
    core.legs(&[out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Connected), inn("1", "1002", LegState::Alerting)]);
    assert_eq!(core.the_call("1").legs[1].state(), v1::LegState::Connected);
    core.legs(&[out("1", "1001", LegState::Released), inn("1", "1002", LegState::Released)]);
    let ended = core.the_call("1");
    core.legs(&[inn("1", "1002", LegState::Alerting), inn("1", "1002", LegState::Connected), inn("1", "1003", LegState::Released)]);
    assert_eq!(core.the_call("1"), ended);
    assert_eq!(core.calls(None, 10, |_| true).items.len(), 1);
}

#[test]
fn why_an_unanswered_call_ended_is_told() {
    let with = |cause, leg: LegObservation| LegObservation { cause: Some(cause), ..leg };
    let ring = [out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Alerting)];
    for (ends, cause) in [
        ([with(Cause::Busy, inn("1", "1002", LegState::Released)), out("1", "1001", LegState::Released)], v1::EndCause::Busy),
        ([with(Cause::NoAnswer, inn("1", "1002", LegState::Released)), out("1", "1001", LegState::Released)], v1::EndCause::NoAnswer),
        ([inn("1", "1002", LegState::Released), out("1", "1001", LegState::Released)], v1::EndCause::Rejected),
        ([out("1", "1001", LegState::Released), inn("1", "1002", LegState::Released)], v1::EndCause::CallerGaveUp),
    ] {
        let core = core();
        core.legs(&ring);
        core.legs(&ends);
        let call = core.the_call("1");
        assert_eq!((call.state(), call.end_cause()), (v1::CallState::Ended, cause));
        assert!(call.answered_by.is_empty() && call.answer_time.is_none());
    }
}

#[test]
fn trial_27_a_queue_call_is_one_call_and_who_answered_a_multicall_is_named() {
    let core = core();
    core.legs(&[out("7", "1001", LegState::Connected), inn("7", "q100", LegState::Queued)]);
    core.legs(&[inn("7", "2001", LegState::Alerting), inn("7", "2002", LegState::Alerting)]);
    let elsewhere = LegObservation { cause: Some(Cause::AnsweredElsewhere), ..inn("7", "2001", LegState::Released) };
    core.legs(&[inn("7", "2002", LegState::Connected), elsewhere, inn("7", "q100", LegState::Released)]);
    assert_eq!(core.calls(None, 10, |_| true).items.len(), 1);
    assert_eq!(core.the_call("7").answered_by, "2002");
    core.legs(&[inn("7", "2002", LegState::Released), out("7", "1001", LegState::Released)]);
    let call = core.the_call("7");
    assert_eq!(call.end_cause(), v1::EndCause::Normal, "answered on one device is not missed");
}

#[test]
fn a_transfer_keeps_the_id_of_the_held_call_and_ends_the_consultation() {
    let core = core();
    core.legs(&[out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Held)]);
    core.legs(&[out("2", "1002", LegState::Connected), inn("2", "1003", LegState::Connected)]);
    let (held, consultation) = (core.the_call("1").id, core.the_call("2").id);
    let merge = CallsMerged {
        primary: call_id("1"),
        secondary: Some(call_id("2")),
        into: call_id("3"),
        cause: Cause::Transfer,
        leaving: Some(Alias::parse("1002").unwrap()),
        legs: vec![out("3", "1001", LegState::Connected), inn("3", "1003", LegState::Connected)],
    };
    // Two monitors report it.
    core.observe(&seen(Observation::Merged(merge.clone())), Origin::default());
    core.observe(&seen(Observation::Merged(merge)), Origin::default());
    let call = core.the_call("3");
    assert_eq!((call.id.as_str(), call.state()), (held.as_str(), v1::CallState::Connected));
    let states: Vec<_> = call.legs.iter().map(|leg| (leg.device.as_str(), leg.state())).collect();
    assert_eq!(states, [("1001", v1::LegState::Connected), ("1002", v1::LegState::Released), ("1003", v1::LegState::Connected)]);
    let ended = core.call(&consultation).unwrap();
    assert_eq!((ended.end_cause(), ended.continued_in.as_str()), (v1::EndCause::Transferred, held.as_str()));
    // Late clearing of the old connections changes nothing.
    core.legs(&[inn("1", "1002", LegState::Released), inn("2", "1003", LegState::Released)]);
    assert_eq!(core.the_call("3"), call);
    assert_eq!(core.counters().active_calls, 1);
}

#[test]
fn after_an_outage_the_calls_equal_the_list_and_are_marked_reconstructed() {
    let core = core();
    core.legs(&[out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Connected), inn("2", "1003", LegState::Alerting)]);
    let (gone, lost) = (core.the_call("1").id, core.the_call("2").id);
    let began = core.begin_snapshot();
    // This one is observed while the list is on its way: it is fresher than the list.
    core.legs(&[inn("9", "1009", LegState::Alerting)]);
    let listed = CallSnapshot {
        call: call_id("5"),
        legs: vec![out("5", "1005", LegState::Connected), inn("5", "1006", LegState::Connected)],
        start: Some(Timestamp::from_second(1_790_000_000).unwrap()),
        id_start: None,
        answer: None,
        numbers: Some(("1005".into(), "1006".into())),
    };
    let end = Timestamp::from_second(1_790_000_100).unwrap();
    let finished = FinishedCall { call: call_id("1"), answer: None, end: Some(end), answered_by: None, cause: Some(Cause::Normal) };
    core.resync_calls(&domain(), began, std::slice::from_ref(&listed), &[finished], Origin { reconstructed: true, polled: false });
    let ended = core.call(&gone).unwrap();
    assert_eq!((ended.state(), ended.end_time.unwrap().seconds, ended.reconstructed), (v1::CallState::Ended, 1_790_000_100, true));
    assert_eq!(core.call(&lost).unwrap().end_cause(), v1::EndCause::Lost);
    assert_eq!(core.the_call("5").state(), v1::CallState::Connected);
    assert_eq!(core.the_call("9").state(), v1::CallState::Alerting);
    let before = core.counters().events;
    core.resync_calls(
        &domain(),
        core.begin_snapshot(),
        &[
            listed,
            CallSnapshot {
                call: call_id("9"),
                legs: vec![inn("9", "1009", LegState::Alerting)],
                start: None,
                id_start: None,
                answer: None,
                numbers: None,
            },
        ],
        &[],
        Origin::default(),
    );
    assert_eq!(core.counters().events, before, "an equal list changes nothing");
}

#[test]
fn a_call_that_ended_after_the_list_was_asked_for_is_not_raised_from_the_dead() {
    let core = core();
    core.legs(&[inn("1", "1002", LegState::Alerting)]);
    let began = core.begin_snapshot();
    core.legs(&[inn("1", "1002", LegState::Released)]);
    let listed = CallSnapshot {
        call: call_id("1"),
        legs: vec![inn("1", "1002", LegState::Alerting)],
        start: None,
        id_start: None,
        answer: None,
        numbers: None,
    };
    core.resync_calls(&domain(), began, &[listed], &[], Origin::default());
    assert_eq!(core.the_call("1").state(), v1::CallState::Ended);
    assert_eq!(core.counters().active_calls, 0);
}

#[test]
fn an_id_that_the_switch_uses_again_is_a_new_call() {
    let core = core();
    for (second, state) in [(0, LegState::Alerting), (5, LegState::Released), (5, LegState::Alerting)] {
        core.observe(&at(second, Observation::Leg(inn("1", "1002", state))), Origin::default());
    }
    let first = core.the_call("1");
    assert_eq!(first.state(), v1::CallState::Ended, "an event of the same second is late");
    core.observe(&at(60, Observation::Leg(inn("1", "1002", LegState::Alerting))), Origin::default());
    let second = core.the_call("1");
    assert_eq!(second.state(), v1::CallState::Alerting);
    assert_ne!(first.id, second.id);
}

#[test]
fn ids_are_equal_on_both_agents() {
    let event = at(0, Observation::Leg(inn("1", "1002", LegState::Alerting)));
    let (left, right) = (core(), core());
    left.observe(&event, Origin::default());
    let start = event.at;
    let listed = CallSnapshot {
        call: call_id("1"),
        legs: vec![inn("1", "1002", LegState::Alerting)],
        start,
        id_start: start,
        answer: None,
        numbers: None,
    };
    right.resync_calls(&domain(), right.begin_snapshot(), &[listed], &[], Origin::default());
    assert_eq!(left.the_call("1").id, right.the_call("1").id);
}

#[test]
fn trial_4_joined_and_left_doubled_lost_or_out_of_order_keep_counts_equal_to_the_roster() {
    let core = core();
    let connected = |it: &mut ParticipantObservation| it.status = Some(ParticipantStatus::Connected);
    let gone = |it: &mut ParticipantObservation| it.status = Some(ParticipantStatus::Disconnected);
    core.member("c", "ghost", gone);
    core.member("c", "a", connected);
    core.member("c", "a", connected);
    core.member("c", "b", |it| it.status = Some(ParticipantStatus::Alerting));
    core.member("c", "x", gone);
    assert_eq!((core.the_conference("c").connected_count, core.the_conference("c").pending_count), (1, 1));
    core.member("c", "b", gone);
    core.member("c", "b", gone);
    core.member("c", "b", connected);
    let conference = core.the_conference("c");
    assert_eq!((conference.connected_count, conference.pending_count, conference.participants.len()), (1, 0, 1));
    assert!(core.has_left(&conference.id, "b"));
}

#[test]
fn trial_5_a_talker_who_leaves_or_is_muted_talks_no_more() {
    let core = core();
    core.member("c", "a", |it| {
        it.status = Some(ParticipantStatus::Connected);
        it.talking = Some(true);
        it.voice = Some(true);
    });
    assert!(core.the_conference("c").participants[0].talking);
    core.member("c", "a", |it| it.voice = Some(false));
    assert!(!core.the_conference("c").participants[0].talking);
    core.member("c", "a", |it| it.talking = Some(true));
    assert!(!core.the_conference("c").participants[0].talking);
    core.member("c", "a", |it| it.voice = Some(true));
    core.member("c", "a", |it| it.talking = Some(true));
    core.member("c", "a", |it| it.status = Some(ParticipantStatus::Disconnected));
    core.member("c", "a", |it| it.talking = Some(true));
    assert!(core.the_conference("c").participants.is_empty());
}

#[test]
fn a_room_that_is_used_again_is_a_new_conference() {
    let core = core();
    let id = SwitchConferenceId::parse("room-1").unwrap();
    let observe = |second, observation| core.observe(&at(second, observation), Origin::default());
    let conference = |start: i64| ConferenceObservation {
        conference: Some(id.clone()),
        started_at: Some(Timestamp::from_second(1_790_000_000 + start).unwrap()),
        ..Default::default()
    };
    observe(0, Observation::Conference(conference(0)));
    let first = core.the_conference("room-1");
    observe(60, Observation::ConferenceEnded { conference: id.clone() });
    observe(50, Observation::Conference(conference(0)));
    assert_eq!(core.the_conference("room-1").state(), v1::ConferenceState::Ended);
    observe(90, Observation::Conference(conference(90)));
    let second = core.the_conference("room-1");
    assert_eq!(second.state(), v1::ConferenceState::Active);
    assert_ne!(first.id, second.id);
}

#[test]
fn a_conference_list_restores_the_roster_but_not_what_is_fresher() {
    let core = core();
    core.member("c", "a", |it| it.status = Some(ParticipantStatus::Connected));
    core.member("c", "b", |it| it.status = Some(ParticipantStatus::Connected));
    core.member("d", "z", |it| it.status = Some(ParticipantStatus::Connected));
    let began = core.begin_snapshot();
    core.member("c", "a", |it| it.voice = Some(false));
    let member = |id: &str, voice| ParticipantObservation {
        status: Some(ParticipantStatus::Connected),
        voice: Some(voice),
        role: Some(Role::Presenter),
        ..ParticipantObservation::of(SwitchConferenceId::parse("c").unwrap(), SwitchParticipantId::parse(id).unwrap())
    };
    let listed = ConferenceSnapshot {
        conference: ConferenceObservation {
            conference: Some(SwitchConferenceId::parse("c").unwrap()),
            locked: Some(true),
            ..Default::default()
        },
        members: Some(vec![member("a", true), member("n", true)]),
    };
    core.resync_conferences(&domain(), began, &[listed], Origin { reconstructed: true, polled: false });
    let conference = core.the_conference("c");
    let ids: Vec<_> = conference.participants.iter().map(|it| (it.id.as_str(), it.muted)).collect();
    assert_eq!(ids, [("a", true), ("n", false)], "b has left, n has joined, a's microphone is fresher than the list");
    assert!(conference.locked && conference.reconstructed);
    assert_eq!(core.the_conference("d").state(), v1::ConferenceState::Ended);
}

#[derive(Debug, Clone)]
enum Step {
    Leg(u8, u8, LegState),
    Merge(u8, u8),
    End(u8),
    Member(u8, u8, Option<ParticipantStatus>, Option<bool>, Option<bool>),
    Lock(u8, bool),
    EndConference(u8),
    Resync,
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
        1 => (0..4_u8, 0..4_u8).prop_map(|(left, right)| Step::Merge(left, right)),
        1 => (0..4_u8).prop_map(Step::End),
        6 => (0..3_u8, 0..6_u8, statuses, any::<Option<bool>>(), any::<Option<bool>>()).prop_map(|(c, p, s, v, t)| Step::Member(c, p, s, v, t)),
        1 => (0..3_u8, any::<bool>()).prop_map(|(conference, locked)| Step::Lock(conference, locked)),
        1 => (0..3_u8).prop_map(Step::EndConference),
        1 => Just(Step::Resync),
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
        Step::Merge(left, right) => {
            let merge = CallsMerged {
                primary: call_id(&left.to_string()),
                secondary: (left != right).then(|| call_id(&right.to_string())),
                into: call_id(&left.to_string()),
                cause: Cause::Transfer,
                leaving: Some(Alias::parse("101").unwrap()),
                legs: vec![inn(&left.to_string(), "103", LegState::Connected)],
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
        Step::Resync => {
            let calls = [CallSnapshot {
                call: call_id("2"),
                legs: vec![inn("2", "103", LegState::Alerting)],
                start: None,
                id_start: None,
                answer: None,
                numbers: None,
            }];
            core.resync_calls(&domain(), core.begin_snapshot(), &calls, &[], Origin { reconstructed: true, polled: false });
            let member = ParticipantObservation {
                status: Some(ParticipantStatus::Connected),
                ..ParticipantObservation::of(conference_id(1), SwitchParticipantId::parse("p1").unwrap())
            };
            let conference = ConferenceObservation { conference: Some(conference_id(1)), ..Default::default() };
            let listed = [ConferenceSnapshot { conference, members: Some(vec![member]) }];
            core.resync_conferences(&domain(), core.begin_snapshot(), &listed, Origin { reconstructed: true, polled: false });
        }
        Step::Read => {}
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
                }
                let active = core.calls(None, usize::MAX, |call| call.state() != v1::CallState::Ended).items.len();
                assert_eq!(core.counters().active_calls, active as u64);
                if matches!(step, Step::Read) {
                    drain(&mut prompt, &mut prompt_view).await;
                    assert_same(&prompt_view, &truth(&core));
                }
            }
            // The slow one read nothing until now: it is told so, or everything is still there; the state is the same.
            drain(&mut prompt, &mut prompt_view).await;
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

#[tokio::test]
async fn a_filter_by_number_gives_its_calls_and_the_whole_of_its_conferences() {
    let core = core();
    let filter = Filter { aliases: ["1002".to_owned()].into(), ..Default::default() };
    let mut subscription = core.subscribe(filter, Start::Snapshot);
    let mut view = View::default();
    core.legs(&[out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Alerting), inn("2", "1003", LegState::Alerting)]);
    core.member("c", "a", |it| {
        it.status = Some(ParticipantStatus::Connected);
        it.number = Some(Alias::parse("1009").unwrap());
    });
    drain(&mut subscription, &mut view).await;
    assert_eq!(view.calls.len(), 1);
    assert!(view.conferences.is_empty());
    core.member("c", "b", |it| {
        it.status = Some(ParticipantStatus::Connected);
        it.number = Some(Alias::parse("1002").unwrap());
    });
    core.member("c", "a", |it| it.voice = Some(false));
    drain(&mut subscription, &mut view).await;
    assert_same(
        &View { calls: view.calls.clone(), ..truth(&core) },
        &View { calls: view.calls.clone(), conferences: view.conferences.clone(), ..View::default() },
    );
}

#[tokio::test]
async fn a_domain_that_is_not_granted_is_never_seen() {
    let core = core();
    let filter = Filter { domains: Some(["other.local".to_owned()].into()), ..Default::default() };
    let mut subscription = core.subscribe(filter, Start::Snapshot);
    core.legs(&[inn("1", "1002", LegState::Alerting)]);
    core.member("c", "a", |it| it.status = Some(ParticipantStatus::Connected));
    let mut view = View::default();
    drain(&mut subscription, &mut view).await;
    assert!(view.calls.is_empty() && view.conferences.is_empty() && view.complete);
}

fn on_disk(directory: &std::path::Path) -> Arc<Core> {
    Arc::new(Core::open(CoreOptions { directory: Some(directory.to_owned()), ..Default::default() }).unwrap())
}

#[tokio::test]
async fn a_cursor_survives_a_restart_and_no_position_is_given_out_twice() {
    let directory = tempfile::tempdir().unwrap();
    let core = on_disk(directory.path());
    core.legs(&[inn("1", "1002", LegState::Alerting)]);
    core.member("c", "a", |it| it.status = Some(ParticipantStatus::Connected));
    let mut view = View::default();
    drain(&mut core.subscribe(Filter::default(), Start::Snapshot), &mut view).await;
    let cursor = view.cursor.clone().unwrap();
    core.member("c", "b", |it| it.status = Some(ParticipantStatus::Connected));
    let newest = core.journal_range().2;
    core.close().await;
    drop(core);

    let core = on_disk(directory.path());
    assert_eq!(core.journal_range().0, cursor.epoch);
    assert_eq!(core.the_conference("c").connected_count, 2);
    core.legs(&[inn("1", "1002", LegState::Connected)]);
    assert!(core.journal_range().2 > newest + 1);
    let mut resumed = core.subscribe(Filter::default(), Start::After(cursor));
    drain(&mut resumed, &mut view).await;
    assert_eq!(view.resyncs, 0, "resumed, not resynchronised");
    assert_same(&view, &truth(&core));
    // A position that may have been given out and was never written cannot be resumed after.
    let lost = v1::Cursor { epoch: core.journal_range().0, sequence: newest + 1 };
    drain(&mut core.subscribe(Filter::default(), Start::After(lost)), &mut view).await;
    assert_eq!(view.resyncs, 1);
    assert_same(&view, &truth(&core));
    let foreign = v1::Cursor { epoch: "other".into(), sequence: newest };
    drain(&mut core.subscribe(Filter::default(), Start::After(foreign)), &mut view).await;
    assert_eq!(view.resyncs, 2);
    core.close().await;
    drop(core);
    let core = on_disk(directory.path());
    let mut again = View::default();
    drain(&mut core.subscribe(Filter::default(), Start::After(v1::Cursor { epoch: core.journal_range().0, sequence: newest })), &mut again)
        .await;
    assert_eq!(again.resyncs, 0, "a cursor reaches back over two starts");
}

#[tokio::test]
async fn a_journal_cut_off_anywhere_opens_and_gives_a_consistent_state() {
    let directory = tempfile::tempdir().unwrap();
    let core = on_disk(directory.path());
    for step in 0..6 {
        core.member("c", &format!("p{step}"), |it| it.status = Some(ParticipantStatus::Connected));
    }
    core.close().await;
    drop(core);
    let mut segments: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some()).collect();
    segments.sort();
    let first = std::fs::read(&segments[0]).unwrap();
    for (number, cut) in (0..first.len()).step_by(7).enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = first[..cut].to_vec();
        if number % 3 == 2 && cut > 60 {
            bytes[cut - 1] ^= 0x55;
        }
        std::fs::write(directory.path().join("00000000000000000001.journal"), bytes).unwrap();
        let core = on_disk(directory.path());
        for conference in core.conferences(None, 10, true, |_| true).items {
            assert_eq!((conference.connected_count, conference.pending_count), counts(&conference.participants));
        }
        core.close().await;
    }
}

#[test]
fn a_journal_directory_serves_one_agent() {
    let directory = tempfile::tempdir().unwrap();
    let _first = on_disk(directory.path());
    let second = Core::open(CoreOptions { directory: Some(directory.path().to_owned()), ..Default::default() });
    assert!(matches!(second, Err(journal::JournalError::InUse { .. })));
}

#[tokio::test]
async fn the_files_stay_within_their_bound_and_still_restore_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        CoreOptions { directory: Some(directory.path().to_owned()), disk_bytes: 64 << 10, segment_bytes: 8 << 10, ..Default::default() };
    let core = Arc::new(Core::open(options.clone()).unwrap());
    for round in 0..3000 {
        core.member("c", "a", |it| {
            it.status = Some(ParticipantStatus::Connected);
            it.voice = Some(round % 2 == 0);
        });
    }
    core.close().await;
    let bytes: u64 = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 100 << 10, "{bytes}");
    let before = core.the_conference("c");
    drop(core);
    let core = Core::open(options).unwrap();
    assert_eq!(v1::Conference { duration: None, ..core.the_conference("c") }, v1::Conference { duration: None, ..before });
}
