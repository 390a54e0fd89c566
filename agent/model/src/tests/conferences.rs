//! Conferences.

use super::*;

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
fn who_asks_for_the_floor_later_in_the_same_second_has_waited_for_less_long() {
    let core = core();
    for id in ["a", "b", "c"] {
        core.member("c", id, |it| it.status = Some(ParticipantStatus::Connected));
    }
    for id in ["b", "c", "a"] {
        let mut asks = ParticipantObservation::of(SwitchConferenceId::parse("c").unwrap(), SwitchParticipantId::parse(id).unwrap());
        asks.floor_requested = Some(true);
        core.observe(&at(7, Observation::Participant(asks)), Origin::default());
    }
    let mut asking = core.the_conference("c").participants;
    asking.sort_by_key(|it| it.floor_request_time.map(|at| (at.seconds, at.nanos)));
    assert_eq!(asking.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["b", "c", "a"]);
}

#[test]
fn one_who_left_before_the_list_that_names_it_arrived_is_not_brought_in_by_it() {
    let core = core();
    core.member("c", "a", |it| it.status = Some(ParticipantStatus::Connected));
    let began = core.begin_snapshot();
    let listed = |id: &str| ParticipantObservation {
        status: Some(ParticipantStatus::Connected),
        ..ParticipantObservation::of(SwitchConferenceId::parse("c").unwrap(), SwitchParticipantId::parse(id).unwrap())
    };
    // It came while there were no events, and its leaving is heard before the list is.
    core.member("c", "b", |it| it.status = Some(ParticipantStatus::Disconnected));
    let conference = ConferenceObservation { conference: Some(SwitchConferenceId::parse("c").unwrap()), ..Default::default() };
    let snapshot = ConferenceSnapshot { conference, members: Some(vec![listed("a"), listed("b")]) };
    core.resync_conferences(&domain(), began, &[snapshot], Origin::default());
    let ids: Vec<String> = core.the_conference("c").participants.into_iter().map(|it| it.id).collect();
    assert_eq!(ids, ["a"]);
}

/// What the list of a conference `c` with these members says.
fn list(members: &[&str]) -> ConferenceSnapshot {
    let conference = || SwitchConferenceId::parse("c").unwrap();
    let member = |id: &&str| ParticipantObservation {
        status: Some(ParticipantStatus::Connected),
        ..ParticipantObservation::of(conference(), SwitchParticipantId::parse(id).unwrap())
    };
    ConferenceSnapshot {
        conference: ConferenceObservation { conference: Some(conference()), ..Default::default() },
        members: Some(members.iter().map(member).collect()),
    }
}

#[test]
fn a_list_read_before_an_unknown_conference_ended_or_a_member_left_it_brings_neither_back() {
    let core = core();
    let ended = || seen(Observation::ConferenceEnded { conference: SwitchConferenceId::parse("c").unwrap() });
    let connected = |it: &mut ParticipantObservation| it.status = Some(ParticipantStatus::Connected);
    let began = core.begin_snapshot();
    core.observe(&ended(), Origin::default());
    // Late and doubled, without a time: from before the end.
    core.member("c", "a", connected);
    core.resync_conferences(&domain(), began, &[list(&["a"])], Origin::default());
    assert!(truth(&core).conferences.is_empty());
    // A list that was asked for after it is about a new conference in the same room.
    let began = core.begin_snapshot();
    core.member("c", "b", |it| it.status = Some(ParticipantStatus::Disconnected));
    core.resync_conferences(&domain(), began, &[list(&["a", "b"])], Origin::default());
    let members = |core: &Core| core.the_conference("c").participants.into_iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!(members(&core), ["a"]);
    core.member("c", "b", connected);
    assert_eq!(members(&core), ["a"], "one who left is not brought back by a late event");
    let began = core.begin_snapshot();
    core.resync_conferences(&domain(), began, &[list(&["a", "b"])], Origin::default());
    assert_eq!(members(&core), ["a", "b"]);
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

#[test]
fn what_is_told_just_after_a_conference_has_ended_makes_no_new_one() {
    let core = core();
    let conference = || SwitchConferenceId::parse("room").unwrap();
    let member = |status, voice| {
        let one = ParticipantObservation::of(conference(), SwitchParticipantId::parse("a").unwrap());
        Observation::Participant(ParticipantObservation { status, voice, ..one })
    };
    core.observe(&at(10, member(Some(ParticipantStatus::Connected), None)), Origin::default());
    core.observe(&at(20, Observation::ConferenceEnded { conference: conference() }), Origin::default());
    let unlocked = ConferenceObservation { conference: Some(conference()), locked: Some(false), ..Default::default() };
    for late in [member(Some(ParticipantStatus::Disconnected), None), member(None, Some(false)), Observation::Conference(unlocked)] {
        core.observe(&at(25, late), Origin::default());
    }
    let all = core.conferences(None, 10, true, |_| true).items;
    assert_eq!((all.len(), all[0].state(), core.counters().active_conferences), (1, v1::ConferenceState::Ended, 0));
    // Nor does a microphone of which nobody knows the conference.
    core.observe(
        &at(
            30,
            Observation::Participant(ParticipantObservation {
                talking: Some(true),
                ..ParticipantObservation::of(SwitchConferenceId::parse("gone").unwrap(), SwitchParticipantId::parse("b").unwrap())
            }),
        ),
        Origin::default(),
    );
    assert_eq!(core.counters().active_conferences, 0);
    core.observe(&at(40, member(Some(ParticipantStatus::Connected), None)), Origin::default());
    assert_eq!(core.counters().active_conferences, 1, "who comes later is in the next one");
}
