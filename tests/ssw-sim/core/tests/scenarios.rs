//! Calls and conferences as people make them.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use ssw_core::{
    Answer, Cause, ConferenceRequest, DomainOptions, GroupKind, HistoryFilter, LegState, LicenceKind, ManualClock, MergeInto, Outcome,
    ParticipantStatus, RefusalCause, Role, Switch, SwitchOptions, Template,
};

const D: &str = "biysk.local";

fn switch_with(merge_into: MergeInto) -> (Switch, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new("2026-11-24T10:00:00Z".parse().unwrap()));
    let switch = Switch::new(SwitchOptions { clock: clock.clone(), merge_into, ..SwitchOptions::default() });
    switch.add_domain(DomainOptions::new(D, 20)).unwrap();
    (switch, clock)
}

fn switch() -> (Switch, Arc<ManualClock>) {
    switch_with(MergeInto::Held)
}

fn states(switch: &Switch, call: &str) -> Vec<(String, LegState)> {
    switch.call(D, call).unwrap().live_legs().map(|leg| (leg.id.clone(), leg.state)).collect()
}

fn talk(switch: &Switch, from: &str, to: &str) -> Outcome {
    let made = switch.dial(D, from, to).unwrap();
    switch.answer(D, &made.call, to).unwrap();
    made
}

#[test]
fn click_to_call_rings_the_caller_first() {
    let (switch, clock) = switch();
    let made = switch.make_call(D, "1001", "1002", true).unwrap();
    assert_eq!(states(&switch, &made.call), [("1001".into(), LegState::Initiated)]);
    switch.answer(D, &made.call, &made.leg).unwrap();
    assert_eq!(states(&switch, &made.call), [("1001".into(), LegState::Connected), ("1002".into(), LegState::Alerting)]);
    clock.advance(Duration::from_secs(2));
    switch.answer(D, &made.call, "1002").unwrap();
    clock.advance(Duration::from_secs(7));
    switch.release_leg(D, &made.call, "1001").unwrap();
    let record = &switch.history(D, &HistoryFilter::default()).unwrap()[0];
    assert_eq!((record.answered_by.as_deref(), record.cause, record.talk_seconds(switch.now())), (Some("1002"), Some(Cause::Normal), 7));
    assert_eq!(switch.answer(D, &made.call, "1002").unwrap_err().cause, RefusalCause::NoSuchCall);
}

#[test]
fn who_answers_a_multicall_is_named_and_the_others_learn_it() {
    let (switch, _) = switch();
    switch.declare_group(D, "600", GroupKind::Ring, vec!["1002".into(), "1003".into(), "1004".into()]).unwrap();
    let made = switch.dial(D, "1001", "600").unwrap();
    switch.answer(D, &made.call, "1003").unwrap();
    let call = switch.call(D, &made.call).unwrap();
    assert_eq!(call.answered_by.as_deref(), Some("1003"));
    let elsewhere: Vec<_> =
        call.legs.iter().filter(|leg| leg.cause == Some(Cause::AnsweredElsewhere)).map(|leg| leg.device.as_str()).collect();
    assert_eq!(elsewhere, ["1002", "1004"]);
}

#[test]
fn a_call_rings_every_device_of_an_alias() {
    let (switch, _) = switch();
    switch.register(D, "1002", "sip:1002@10.1.1.1").unwrap();
    let made = switch.dial(D, "1001", "1002").unwrap();
    switch.answer(D, &made.call, "1002|2").unwrap();
    let call = switch.call(D, &made.call).unwrap();
    assert_eq!(call.live_legs().count(), 2);
    assert!(call.legs.iter().all(|leg| leg.call_ref == call.legs[0].call_ref), "one reference on a direct call");
}

#[test]
fn a_queue_call_has_one_id_and_a_reference_per_leg() {
    let (switch, clock) = switch();
    switch.declare_group(D, "700", GroupKind::Queue, vec!["1002".into(), "1003".into()]).unwrap();
    talk(&switch, "1002", "1004");
    talk(&switch, "1003", "1005");
    let made = switch.dial(D, "1001", "700").unwrap();
    assert_eq!(states(&switch, &made.call)[1], ("700".into(), LegState::Queued));
    switch.device_hang_up(D, "1003").unwrap();
    assert_eq!(states(&switch, &made.call)[1], ("1003".into(), LegState::Alerting));
    clock.advance(Duration::from_secs(31));
    switch.tick();
    assert_eq!(states(&switch, &made.call)[1].1, LegState::Alerting, "it goes on to ring at a free member");
    switch.device_answer(D, "1003").unwrap();
    let call = switch.call(D, &made.call).unwrap();
    let mut references: Vec<_> = call.legs.iter().filter(|leg| leg.device != "1001").map(|leg| leg.call_ref.as_str()).collect();
    let count = references.len();
    references.dedup();
    assert!(references.len() == count && count >= 3, "{references:?}");
    assert_eq!(call.answered_by.as_deref(), Some("1003"));
}

#[test]
fn busy_unknown_rejected_and_unanswered_calls_end_with_their_cause() {
    let (switch, clock) = switch();
    switch.set_answer(D, "1002", Answer::Busy).unwrap();
    switch.set_answer(D, "1003", Answer::Reject).unwrap();
    switch.unregister(D, "1005", None).unwrap();
    for to in ["1002", "77", "1003", "1004", "1005"] {
        switch.dial(D, "1001", to).unwrap();
        clock.advance(Duration::from_millis(1));
        switch.tick();
    }
    clock.advance(Duration::from_secs(31));
    switch.tick();
    let mut causes: Vec<_> =
        switch.history(D, &HistoryFilter::default()).unwrap().into_iter().map(|call| (call.called.clone(), call.cause.unwrap())).collect();
    causes.sort();
    let expected = [
        ("1002", Cause::Busy),
        ("1003", Cause::Rejected),
        ("1004", Cause::NoAnswer),
        ("1005", Cause::Unobtainable),
        ("77", Cause::Unobtainable),
    ];
    assert_eq!(causes, expected.map(|(to, cause)| (to.to_owned(), cause)));
    let made = switch.dial(D, "1001", "1004").unwrap();
    switch.release_leg(D, &made.call, "1001").unwrap();
    assert_eq!(switch.history(D, &HistoryFilter::default()).unwrap()[0].cause, Some(Cause::CallerGaveUp));
}

#[test]
fn a_consultation_ends_in_a_transfer_a_three_way_or_nothing() {
    for style in [MergeInto::Held, MergeInto::Active, MergeInto::New] {
        let (switch, _) = switch_with(style);
        let consult = |from: &str, to: &str, third: &str| {
            let first = talk(&switch, from, to);
            let second = switch.consult(D, &first.call, from, third).unwrap();
            switch.answer(D, &second.call, third).unwrap();
            (first, second)
        };
        let refs = |outcome: &Outcome| (outcome.call.clone(), outcome.leg.clone());
        let pair = |a: &(String, String), b: &(String, String)| ((a.0.clone(), a.1.clone()), (b.0.clone(), b.1.clone()));

        let (first, second) = consult("1001", "1002", "1003");
        let (held, active) = pair(&refs(&first), &refs(&second));
        let made = switch.transfer_complete(D, (&held.0, &held.1), (&active.0, &active.1)).unwrap();
        let mut parties: Vec<_> =
            switch.call(D, &made.call).unwrap().live_legs().map(|leg| (leg.device.clone(), leg.remote.clone())).collect();
        parties.sort();
        assert_eq!(parties, [("1002".into(), "1003".into()), ("1003".into(), "1002".into())], "{style:?}");
        assert!(switch.device_legs(D, "1001").unwrap().is_empty());

        let (first, second) = consult("1004", "1005", "1006");
        let (held, active) = pair(&refs(&first), &refs(&second));
        let made = switch.join(D, (&held.0, &held.1), (&active.0, &active.1)).unwrap();
        let three = switch.call(D, &made.call).unwrap();
        assert_eq!(three.live_legs().filter(|leg| leg.state == LegState::Connected).count(), 3, "{style:?}");
        assert_eq!(switch.device_legs(D, "1004").unwrap().len(), 1);

        let (first, second) = consult("1007", "1008", "1009");
        switch.transfer_cancel(D, (&first.call, &first.leg), (&second.call, &second.leg)).unwrap();
        assert_eq!(states(&switch, &first.call)[0], ("1007".into(), LegState::Connected));
        assert!(switch.call(D, &second.call).is_err());
        assert_eq!(switch.licences()[0].used, 3);
    }
}

#[test]
fn a_blind_transfer_leaves_the_transferring_device_out_and_rings_the_target() {
    for style in [MergeInto::Held, MergeInto::Active, MergeInto::New] {
        let (switch, _) = switch_with(style);
        let made = talk(&switch, "1001", "1002");
        let moved = switch.transfer_blind(D, &made.call, "1002", "1003").unwrap();
        assert_eq!(states(&switch, &moved.call), [("1001".into(), LegState::Connected), ("1003".into(), LegState::Alerting)]);
        switch.answer(D, &moved.call, "1003").unwrap();
        assert_eq!(switch.call(D, &moved.call).unwrap().live_legs().next().unwrap().remote, "1003");
        assert!(switch.device_legs(D, "1002").unwrap().is_empty());
    }
}

#[test]
fn licences_run_out_and_expire() {
    let (switch, _) = switch();
    switch.set_licence(LicenceKind::Calls, Some(1), None);
    let made = talk(&switch, "1001", "1002");
    assert_eq!(switch.dial(D, "1003", "1004").unwrap_err().cause, RefusalCause::LicenceLimit);
    assert_eq!(switch.consult(D, &made.call, "1001", "1005").unwrap_err().cause, RefusalCause::LicenceLimit);
    assert_eq!(states(&switch, &made.call)[0].1, LegState::Connected, "a refused consultation leaves the call as it was");
    switch.release_call(D, &made.call).unwrap();
    switch.set_licence(LicenceKind::Calls, None, Some(switch.now()));
    assert_eq!(switch.dial(D, "1001", "1002").unwrap_err().cause, RefusalCause::LicenceExpired);
    switch.set_licence(LicenceKind::Conferences, Some(0), None);
    let refused = switch.create_conference(D, ConferenceRequest::default()).unwrap_err();
    assert_eq!(refused.cause, RefusalCause::LicenceLimit);
}

#[test]
fn a_conference_from_a_template_calls_its_groups() {
    let (switch, clock) = switch();
    switch.set_default_answer(D, Answer::After { ms: 300 }).unwrap();
    switch.set_answer(D, "1004", Answer::Reject).unwrap();
    switch.declare_numeric_group(D, "100", vec!["1002".into(), "1003".into(), "1004".into()]).unwrap();
    let template = Template {
        name: "briefing".into(),
        description: String::new(),
        groups: vec!["100".into()],
        presenters: vec!["1001".into()],
        participants: Vec::new(),
        voice: false,
        limit: 5,
        seconds: 60,
    };
    switch.declare_template(D, template).unwrap();
    let id = switch.create_conference(D, ConferenceRequest { template: "briefing".into(), ..ConferenceRequest::default() }).unwrap();
    for _ in 0..20 {
        clock.advance(Duration::from_millis(50));
        switch.tick();
    }
    let view = switch.conference(D, &id).unwrap();
    let all: Vec<_> = view.members.iter().map(|member| (member.number.as_str(), member.role, member.status, member.voice)).collect();
    let connected = ParticipantStatus::Connected;
    let expected = [
        ("1001", Role::Presenter, connected, true),
        ("1002", Role::Participant, connected, false),
        ("1003", Role::Participant, connected, false),
    ];
    assert_eq!(all, expected);
    switch.extend(D, &id, 60).unwrap();
    clock.advance(Duration::from_secs(100));
    switch.tick();
    assert!(switch.conference(D, &id).is_ok(), "extended");
    clock.advance(Duration::from_secs(30));
    switch.tick();
    assert_eq!(switch.ended_conferences(D).unwrap().len(), 1, "ended by the clock");
    assert_eq!(switch.licences().iter().map(|licence| licence.used).sum::<u32>(), 0);
}

#[test]
fn the_muted_unmute_themselves_only_if_they_may_or_were_asked() {
    let (switch, _) = switch();
    let id = switch.create_conference(D, ConferenceRequest::default()).unwrap();
    let a = switch.dial_in(D, &id, "1001").unwrap();
    let b = switch.dial_in(D, &id, "1002").unwrap();
    let host = switch.dial_in(D, &id, "1003").unwrap();
    switch.set_role(D, &id, &host, Role::Presenter).unwrap();
    switch.set_talking(D, &id, &a, true).unwrap();
    switch.mute_all(D, &id, false).unwrap();
    let member = |who: &str| switch.participant(D, &id, who).unwrap();
    assert!(!member(&a).voice && !member(&a).talking && member(&host).voice);
    assert_eq!(switch.unmute_self(D, &id, &a).unwrap_err().cause, RefusalCause::NoRight);
    switch.ask_to_unmute(D, &id, &a).unwrap();
    assert!(!member(&a).voice, "asking forces nobody");
    switch.unmute_self(D, &id, &a).unwrap();
    switch.request_floor(D, &id, &b).unwrap();
    switch.grant_floor(D, &id, &b).unwrap();
    assert!(member(&b).voice && !member(&b).floor);
    assert_eq!(switch.grant_floor(D, &id, &b).unwrap_err().cause, RefusalCause::BadState);
    switch.mute_all(D, &id, true).unwrap();
    switch.unmute_self(D, &id, &a).unwrap();
}

#[test]
fn who_muted_itself_is_asked_and_not_forced_to_be_heard() {
    let (switch, _) = switch();
    let id = switch.create_conference(D, ConferenceRequest::default()).unwrap();
    let a = switch.dial_in(D, &id, "1001").unwrap();
    let voice = || switch.participant(D, &id, &a).unwrap().voice;
    switch.mute_self(D, &id, &a).unwrap();
    assert_eq!(switch.unmute(D, &id, &a).unwrap_err().cause, RefusalCause::NoRight);
    // A moderator's mute on top changes nothing about it.
    switch.mute(D, &id, &a).unwrap();
    assert_eq!(switch.unmute(D, &id, &a).unwrap_err().cause, RefusalCause::NoRight);
    switch.ask_to_unmute(D, &id, &a).unwrap();
    assert!(!voice());
    switch.unmute_self(D, &id, &a).unwrap();
    assert!(voice());
    switch.mute(D, &id, &a).unwrap();
    switch.mute_self(D, &id, &a).unwrap();
    switch.unmute(D, &id, &a).unwrap();
    assert!(voice(), "a moderator muted it, a moderator unmutes it");
}

#[test]
fn full_and_locked_conferences_let_nobody_in_and_who_has_left_is_gone() {
    let (switch, _) = switch();
    let id = switch.create_conference(D, ConferenceRequest { limit: 2, ..ConferenceRequest::default() }).unwrap();
    let other = switch.create_conference(D, ConferenceRequest::default()).unwrap();
    let a = switch.dial_in(D, &id, "1001").unwrap();
    switch.dial_in(D, &id, "1002").unwrap();
    assert_eq!(switch.invite(D, &id, "1003", Role::Participant).unwrap_err().cause, RefusalCause::ConferenceFull);
    let moved = switch.move_member(D, &id, &a, &other).unwrap();
    assert_eq!(switch.mute(D, &id, &a).unwrap_err().cause, RefusalCause::NoSuchParticipant);
    assert_eq!(switch.participant(D, &other, &moved).unwrap().number, "1001");
    switch.set_locked(D, &id, true).unwrap();
    assert_eq!(switch.dial_in(D, &id, "1004").unwrap_err().cause, RefusalCause::ConferenceLocked);
    switch.end_conference(D, &id).unwrap();
    assert_eq!(switch.end_conference(D, &id).unwrap_err().cause, RefusalCause::NoSuchConference);
}

#[test]
fn a_restart_without_state_ends_everything_in_the_history() {
    let (switch, _) = switch();
    talk(&switch, "1001", "1002");
    switch.create_conference(D, ConferenceRequest { members: vec!["1003".into()], ..ConferenceRequest::default() }).unwrap();
    switch.restart(true);
    assert_eq!((switch.calls(None).len(), switch.conferences(None).len()), (1, 1));
    switch.restart(false);
    assert_eq!((switch.calls(None).len(), switch.conferences(None).len()), (0, 0));
    assert_eq!(switch.history(D, &HistoryFilter::default()).unwrap()[0].cause, Some(Cause::NoResources));
    assert_eq!(switch.licences().iter().map(|licence| licence.used).sum::<u32>(), 0);
    talk(&switch, "1001", "1002");
}

#[test]
fn a_domain_of_a_hundred_thousand_aliases_is_known_without_being_stored() {
    let (switch, _) = switch();
    switch.add_domain(DomainOptions::new("big", 100_000)).unwrap();
    assert_eq!(switch.aliases("big", 99_999, 10).unwrap(), ["200000"]);
    assert!(switch.alias_exists("big", "100001") && !switch.alias_exists("big", "200001") && !switch.alias_exists("big", "0100001"));
    assert!(switch.check_password("big", "150000", "p150000"));
    switch.declare_alias("big", "ivan", false).unwrap();
    assert_eq!(switch.declare_alias("big", "ivan", false).unwrap_err().cause, RefusalCause::AlreadyExists);
    assert_eq!(switch.aliases("big", 100_000, 10).unwrap(), ["ivan"]);
}

#[test]
fn the_history_is_filtered_by_kind_time_limit_and_address() {
    let (switch, clock) = switch();
    for to in ["1002", "1012", "1003"] {
        let made = talk(&switch, "1001", to);
        switch.release_call(D, &made.call).unwrap();
        clock.advance(Duration::from_secs(10));
    }
    let count = |addresses: &[&str], limit| {
        let addresses = addresses.iter().map(|&text| text.to_owned()).collect();
        switch.history(D, &HistoryFilter { addresses, limit, ..HistoryFilter::default() }).unwrap().len()
    };
    assert_eq!(
        [count(&[], 0), count(&[], 2), count(&["%2"], 0), count(&["%01%"], 0), count(&["1003"], 0), count(&["10"], 0)],
        [3, 2, 2, 3, 1, 0]
    );
    let from = switch.now().checked_sub(Duration::from_secs(15)).unwrap();
    assert_eq!(switch.history(D, &HistoryFilter { from: Some(from), ..HistoryFilter::default() }).unwrap().len(), 1);
}
