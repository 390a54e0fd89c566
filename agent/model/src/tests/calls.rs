//! Calls.

use super::*;

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
fn what_rings_after_the_switch_had_no_such_call_is_a_new_call_even_if_the_switch_states_no_times() {
    let untimed = |state| SwitchEvent { at: None, ..at(0, Observation::Leg(inn("1", "1002", state))) };
    let core = core();
    core.observe(&untimed(LegState::Connected), Origin::default());
    let first = core.the_call("1");
    // The switch restarted and lost its calls.
    core.resync_calls(&domain(), core.begin_snapshot(), &[], &[], Origin::default());
    core.observe(&untimed(LegState::Connected), Origin::default());
    assert_eq!(core.the_call("1").end_cause(), v1::EndCause::Lost, "an event of the old call is late");
    core.observe(&untimed(LegState::Alerting), Origin::default());
    let second = core.the_call("1");
    assert_eq!(second.state(), v1::CallState::Alerting);
    assert_ne!(first.id, second.id);
}

#[test]
fn an_id_that_went_over_into_another_call_may_ring_again_later() {
    let core = core();
    core.observe(&at(0, Observation::Leg(inn("1", "1002", LegState::Connected))), Origin::default());
    core.observe(&at(0, Observation::Leg(inn("2", "1003", LegState::Connected))), Origin::default());
    core.observe(&at(1, merge("2", Some("1"), "2", "1001", vec![inn("2", "1003", LegState::Connected)])), Origin::default());
    core.observe(&at(1, Observation::Leg(inn("1", "1002", LegState::Alerting))), Origin::default());
    assert!(core.call_by_switch_id(&domain(), &call_id("1")).is_none_or(|call| call.state() == v1::CallState::Ended), "a late event");
    let rings = at(0, Observation::Leg(inn("1", "1002", LegState::Alerting)));
    let much_later = SwitchEvent { at: Some(Timestamp::now() + jiff::SignedDuration::from_secs(60)), ..rings };
    core.observe(&much_later, Origin::default());
    assert_eq!(core.the_call("1").state(), v1::CallState::Alerting);
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

fn merge(primary: &str, secondary: Option<&str>, into: &str, leaving: &str, legs: Vec<LegObservation>) -> Observation {
    Observation::Merged(CallsMerged {
        primary: call_id(primary),
        secondary: secondary.map(call_id),
        into: call_id(into),
        cause: Cause::Transfer,
        leaving: Some(Alias::parse(leaving).unwrap()),
        legs,
    })
}

fn states(call: &v1::Call) -> Vec<(&str, v1::LegState)> {
    call.legs.iter().map(|leg| (leg.device.as_str(), leg.state())).collect()
}

#[test]
fn a_merge_that_a_second_monitor_tells_late_raises_nobody_from_the_dead() {
    let core = core();
    core.legs(&[out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Connected)]);
    let told = merge("1", None, "1", "1002", vec![out("1", "1001", LegState::Connected), inn("1", "1003", LegState::Connected)]);
    core.observe(&seen(told.clone()), Origin::default());
    core.legs(&[inn("1", "1004", LegState::Connected), inn("1", "1003", LegState::Released)]);
    let before = core.the_call("1");
    core.observe(&seen(told), Origin::default());
    assert_eq!(core.the_call("1"), before, "1003 has hung up");
}

#[test]
fn a_list_read_before_a_transfer_brings_back_nobody_whichever_call_went_on() {
    for into in ["1", "2", "3"] {
        let core = core();
        core.legs(&[out("1", "1001", LegState::Held), inn("1", "1002", LegState::Connected)]);
        core.legs(&[out("2", "1001", LegState::Connected), inn("2", "1003", LegState::Connected)]);
        let listed = |call: &str, legs: Vec<LegObservation>| CallSnapshot {
            call: call_id(call),
            legs,
            start: None,
            id_start: None,
            answer: None,
            numbers: None,
        };
        let before = [
            listed("1", vec![out("1", "1001", LegState::Held), inn("1", "1002", LegState::Connected)]),
            listed("2", vec![out("2", "1001", LegState::Connected), inn("2", "1003", LegState::Connected)]),
        ];
        let began = core.begin_snapshot();
        let legs = vec![inn(into, "1002", LegState::Connected), inn(into, "1003", LegState::Connected)];
        core.observe(&seen(merge("1", Some("2"), into, "1001", legs)), Origin::default());
        let call = core.the_call(into);
        core.resync_calls(&domain(), began, &before, &[], Origin { reconstructed: true, polled: false });
        assert_eq!(states(&core.the_call(into)), states(&call), "into {into}");
        assert_eq!(core.counters().active_calls, 1, "into {into}");
    }
}

#[test]
fn a_blind_transfer_back_to_a_device_that_left_before_brings_it_back() {
    let core = core();
    core.legs(&[out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Connected)]);
    let away = merge("1", None, "1", "1002", vec![out("1", "1001", LegState::Connected), inn("1", "1003", LegState::Connected)]);
    let back = merge("1", None, "1", "1003", vec![out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Alerting)]);
    for _ in 0..2 {
        core.observe(&seen(away.clone()), Origin::default());
        let call = core.the_call("1");
        let expected = [("1001", v1::LegState::Connected), ("1002", v1::LegState::Released), ("1003", v1::LegState::Connected)];
        assert_eq!(states(&call), expected);
        core.observe(&seen(back.clone()), Origin::default());
        core.legs(&[inn("1", "1002", LegState::Connected)]);
        let call = core.the_call("1");
        let expected = [("1001", v1::LegState::Connected), ("1002", v1::LegState::Connected), ("1003", v1::LegState::Released)];
        assert_eq!(states(&call), expected);
    }
}

#[tokio::test]
async fn a_merge_of_calls_that_nobody_knows_makes_no_call() {
    let core = core();
    let mut subscription = core.subscribe(Filter::default(), Start::Snapshot);
    core.observe(&seen(merge("1", Some("2"), "1", "1002", Vec::new())), Origin::default());
    assert_eq!(core.counters().active_calls, 0);
    // One whose legs are told is a call, for subscribers too.
    core.observe(&seen(merge("3", Some("4"), "3", "1002", vec![inn("3", "1003", LegState::Connected)])), Origin::default());
    let mut view = View::default();
    drain(&mut subscription, &mut view).await;
    assert_same(&view, &truth(&core));
    assert_eq!(core.counters().active_calls, 1);
}

#[test]
fn a_late_merge_into_an_ended_call_leaves_the_one_that_goes_on_alone() {
    let core = core();
    core.legs(&[out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Connected), inn("2", "1003", LegState::Connected)]);
    core.observe(&seen(Observation::CallReleased { call: call_id("1"), cause: None }), Origin::default());
    core.observe(&seen(merge("1", Some("2"), "2", "1002", vec![inn("2", "1003", LegState::Connected)])), Origin::default());
    assert_eq!(core.the_call("1").state(), v1::CallState::Ended);
    assert_eq!(core.the_call("2").state(), v1::CallState::Connected);
}

#[test]
fn a_three_way_that_shrinks_goes_on_and_a_leg_whose_end_was_missed_is_not_why_it_ended() {
    let core = core();
    let legs = [out("1", "1001", LegState::Connected), inn("1", "1002", LegState::Connected), inn("1", "1003", LegState::Connected)];
    core.legs(&legs);
    let began = core.begin_snapshot();
    let listed = CallSnapshot { call: call_id("1"), legs: legs[..2].to_vec(), start: None, id_start: None, answer: None, numbers: None };
    core.resync_calls(&domain(), began, &[listed], &[], Origin { reconstructed: true, polled: false });
    let call = core.the_call("1");
    assert_eq!((call.state(), call.legs[2].end_cause()), (v1::CallState::Connected, v1::EndCause::Lost));
    core.observe(&at(3_000_000_000, Observation::Leg(out("1", "1001", LegState::Released))), Origin::default());
    core.observe(&at(3_000_000_000, Observation::Leg(inn("1", "1002", LegState::Released))), Origin::default());
    assert_eq!((core.the_call("1").state(), core.the_call("1").end_cause()), (v1::CallState::Ended, v1::EndCause::Normal));
}

#[test]
fn a_call_that_rings_one_device_after_the_other_for_hours_stays_bounded() {
    let core = core();
    core.legs(&[out("1", "1001", LegState::Connected)]);
    for device in 0..2000 {
        let device = format!("2{device:04}");
        core.legs(&[inn("1", &device, LegState::Alerting), inn("1", &device, LegState::Released)]);
    }
    let call = core.the_call("1");
    assert!(call.legs.len() <= 256, "{}", call.legs.len());
    assert_eq!((call.legs[0].device.as_str(), call.state()), ("1001", v1::CallState::Initiated));
}

#[test]
fn a_list_read_before_an_unknown_call_ended_does_not_bring_it_back() {
    let core = core();
    let legs = vec![out("7", "101", LegState::Connected)];
    let listed = CallSnapshot { call: call_id("7"), legs, start: None, id_start: None, answer: None, numbers: None };
    let began = core.begin_snapshot();
    core.observe(&seen(Observation::CallReleased { call: call_id("7"), cause: None }), Origin::default());
    core.resync_calls(&domain(), began, std::slice::from_ref(&listed), &[], Origin::default());
    assert!(truth(&core).calls.is_empty());
    core.resync_calls(&domain(), core.begin_snapshot(), &[listed], &[], Origin::default());
    assert_eq!(truth(&core).calls.len(), 1);
}
