//! Moderators and what goes wrong between them: privacy, two at once, people who leave meanwhile, churn, size, licences.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use e2e::{
    Stack, StackOptions, Watch, eventually,
    meetings::{id_of, member, numbers, sound},
    moderate,
    phones::reason,
};
use elph_proto::{reason::Reason, v1, view::View};
use rand::{Rng, SeedableRng, rngs::StdRng};
use ssw_core::{Answer, ConferenceRequest, LicenceKind, RefusalCause, Role, Switch};
use ssw_sim::{Link, SimOptions, load::LoadOptions};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> anyhow::Result<Reason> {
    reason(answer.map(Response::new))
}

fn aliases(count: u32) -> StackOptions {
    StackOptions { sim: SimOptions { aliases: count, ..SimOptions::default() }, ..StackOptions::default() }
}

#[tokio::test]
async fn trial_21_mute_all_says_whether_people_may_unmute_themselves() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());
    let mut watch = stack.watch().await?;
    let conference = stack.gathered("1001", &["1002", "1003"]).await?;
    let (id, at) = (conference.id.clone(), conference.switch_conference_id.clone());
    let (two, three) = (id_of(&conference, "1002")?, id_of(&conference, "1003")?);

    // It must be said: there is no default that could be meant.
    let unsaid = moderate!(stack, mute_all, MuteAllRequest { conference_id: id.clone() });
    let violations = unsaid.err().and_then(|status| status.get_details_bad_request()).context("was not refused")?.field_violations;
    ensure!(violations.iter().map(|it| it.field.as_str()).eq(["may_unmute_themselves"]), "{violations:?}");

    // They may not: their own unmute is refused until a moderator asks one of them.
    let answer = moderate!(stack, mute_all, MuteAllRequest { conference_id: id.clone(), may_unmute_themselves: Some(false) })?;
    ensure!(answer.conference.is_some_and(|it| !it.may_unmute_themselves));
    ensure!(switch.unmute_self(&domain, &at, &two).is_err_and(|it| it.cause == RefusalCause::NoRight));
    moderate!(stack, ask_to_unmute, AskToUnmuteRequest { conference_id: id.clone(), participant_id: two.clone() })?;
    switch.unmute_self(&domain, &at, &two)?;
    ensure!(switch.unmute_self(&domain, &at, &three).is_err(), "only the one who was asked");
    let muted = |it: &v1::Conference, number: &str| member(it, number).is_ok_and(|it| it.muted);
    watch.meeting("only 1002 is heard", &id, |it| !it.may_unmute_themselves && !muted(it, "1002") && muted(it, "1003")).await?;

    // They may: each by itself. One who comes in meanwhile with a microphone does not spoil the answer.
    switch.dial_in(&domain, &at, "1004")?;
    let answer = moderate!(stack, mute_all, MuteAllRequest { conference_id: id.clone(), may_unmute_themselves: Some(true) })?;
    ensure!(answer.conference.is_some_and(|it| it.may_unmute_themselves));
    switch.unmute_self(&domain, &at, &three)?;
    watch.meeting("1003 is heard", &id, |it| it.may_unmute_themselves && member(it, "1003").is_ok_and(|it| !it.muted)).await?;

    // Of an empty room, and again of one where all are muted, the answer says it too.
    let empty = stack.meeting(ConferenceRequest::default()).await?;
    for may in [false, true, false] {
        let answer = moderate!(stack, mute_all, MuteAllRequest { conference_id: empty.id.clone(), may_unmute_themselves: Some(may) })?;
        ensure!(answer.conference.is_some_and(|it| it.may_unmute_themselves == may));
    }
    stack.same_as_switch(&id).await?;
    stack.stop().await
}

#[tokio::test]
async fn trial_21_a_moderator_asks_and_cannot_force_one_to_be_heard_who_muted_himself() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());
    let mut watch = stack.watch().await?;
    let conference = stack.gathered("1001", &["1002"]).await?;
    let (conference_id, at) = (conference.id.clone(), conference.switch_conference_id.clone());
    let participant_id = id_of(&conference, "1002")?;
    switch.mute_self(&domain, &at, &participant_id)?;
    watch.meeting("1002 has muted itself", &conference_id, |it| member(it, "1002").is_ok_and(|it| it.muted)).await?;

    let forced = moderate!(
        stack,
        unmute_participant,
        UnmuteParticipantRequest { conference_id: conference_id.clone(), participant_id: participant_id.clone() }
    );
    ensure!(refusal(forced)? == Reason::MissingRight);
    moderate!(stack, ask_to_unmute, AskToUnmuteRequest { conference_id: conference_id.clone(), participant_id: participant_id.clone() })?;
    ensure!(member(&stack.same_as_switch(&conference_id).await?, "1002")?.muted, "nobody was made to be heard");
    switch.unmute_self(&domain, &at, &participant_id)?;
    watch.meeting("1002 is heard", &conference_id, |it| member(it, "1002").is_ok_and(|it| !it.muted)).await?;

    // A moderator's mute is a moderator's to take back.
    let ids = (conference_id.clone(), participant_id.clone());
    moderate!(stack, mute_participant, MuteParticipantRequest { conference_id: ids.0, participant_id: ids.1 })?;
    moderate!(stack, unmute_participant, UnmuteParticipantRequest { conference_id: conference_id, participant_id: participant_id })?;
    stack.stop().await
}

#[tokio::test]
async fn trial_22_of_two_moderators_with_the_same_version_one_wins_and_the_other_is_told() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let conference = stack.gathered("1001", &["1002", "1003"]).await?;
    let (conference_id, two) = (conference.id.clone(), id_of(&conference, "1002")?);
    for round in 0..10 {
        let now = stack.same_as_switch(&conference_id).await?;
        let expected_version = now.version;
        // Each changes something: a command that changes nothing makes no new version.
        let (first, second) = tokio::join!(
            async {
                let (conference_id, participant_id) = (conference_id.clone(), two.clone());
                if round == 9 {
                    let answer = moderate!(
                        stack,
                        remove_participant,
                        RemoveParticipantRequest {
                            conference_id: conference_id,
                            participant_id: participant_id,
                            expected_version: expected_version,
                        }
                    );
                    answer.map(|answer| answer.conference)
                } else if member(&now, "1002").is_ok_and(|it| it.muted) {
                    let answer = moderate!(
                        stack,
                        unmute_participant,
                        UnmuteParticipantRequest {
                            conference_id: conference_id,
                            participant_id: participant_id,
                            expected_version: expected_version,
                        }
                    );
                    answer.map(|answer| answer.conference)
                } else {
                    let answer = moderate!(
                        stack,
                        mute_participant,
                        MuteParticipantRequest {
                            conference_id: conference_id,
                            participant_id: participant_id,
                            expected_version: expected_version,
                        }
                    );
                    answer.map(|answer| answer.conference)
                }
            },
            async {
                let conference_id = conference_id.clone();
                if now.locked {
                    let answer = moderate!(
                        stack,
                        unlock_conference,
                        UnlockConferenceRequest { conference_id: conference_id, expected_version: expected_version }
                    );
                    answer.map(|answer| answer.conference)
                } else {
                    let answer = moderate!(
                        stack,
                        lock_conference,
                        LockConferenceRequest { conference_id: conference_id, expected_version: expected_version }
                    );
                    answer.map(|answer| answer.conference)
                }
            }
        );
        let (won, lost) = match (first, second) {
            (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
            other => anyhow::bail!("round {round}: not one of them won: {other:?}"),
        };
        let won = won.context("an answer without a conference")?;
        ensure!(won.version > expected_version, "{won:?}");
        ensure!(Reason::of(&lost) == Some(Reason::VersionChanged) && lost.code() == Code::Aborted, "{lost:?}");
        let told = lost.get_details_error_info().and_then(|info| info.metadata.get("version").cloned());
        ensure!(told.is_some_and(|it| it.parse::<u64>().is_ok_and(|it| it > expected_version)), "{lost:?}");
        stack.same_as_switch(&conference_id).await?;
    }
    // Who names no version decides on whatever there is.
    moderate!(stack, lock_conference, LockConferenceRequest { conference_id: conference_id })?;
    stack.stop().await
}

#[tokio::test]
async fn trial_22_acting_on_one_who_has_just_left_says_so_whether_the_agent_has_heard_of_it_or_not() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());
    let conference = stack.gathered("1001", &[]).await?;
    let (conference_id, at) = (conference.id.clone(), conference.switch_conference_id.clone());
    for round in 0..20 {
        let participant_id = switch.dial_in(&domain, &at, "1002")?;
        stack.conference_when(&conference_id, "1002 is in", |it| member(it, "1002").is_ok()).await?;
        switch.leave(&domain, &at, &participant_id)?;
        // At once: now and then the command is faster than the news.
        let (conference_id, participant_id) = (conference_id.clone(), participant_id.clone());
        let refused = match round % 4 {
            0 => refusal(moderate!(
                stack,
                remove_participant,
                RemoveParticipantRequest { conference_id: conference_id, participant_id: participant_id }
            )),
            1 => refusal(moderate!(
                stack,
                mute_participant,
                MuteParticipantRequest { conference_id: conference_id, participant_id: participant_id }
            )),
            2 => refusal(moderate!(
                stack,
                set_role,
                SetRoleRequest {
                    conference_id: conference_id,
                    participant_id: participant_id,
                    role: v1::ParticipantRole::Presenter.into(),
                }
            )),
            _ => refusal(moderate!(
                stack,
                hold_participant,
                HoldParticipantRequest { conference_id: conference_id, participant_id: participant_id }
            )),
        };
        ensure!(refused? == Reason::ParticipantLeft, "round {round}");
    }
    // With the news held up on the way it is surely the switch that says it.
    let participant_id = switch.dial_in(&domain, &at, "1003")?;
    stack.conference_when(&conference_id, "1003 is in", |it| member(it, "1003").is_ok()).await?;
    stack.sim.faults().set_delay(Link::CallApi, 0, Duration::from_millis(300));
    switch.leave(&domain, &at, &participant_id)?;
    let late =
        moderate!(stack, mute_participant, MuteParticipantRequest { conference_id: conference_id.clone(), participant_id: participant_id });
    ensure!(refusal(late)? == Reason::ParticipantLeft);
    switch.end_conference(&domain, &at)?;
    let over = moderate!(stack, lock_conference, LockConferenceRequest { conference_id: conference_id.clone() });
    ensure!(refusal(over)? == Reason::ConferenceEnded);
    stack.sim.faults().clear();
    let other = stack.gathered("1004", &[]).await?;
    let never = moderate!(
        stack,
        mute_participant,
        MuteParticipantRequest { conference_id: other.id.clone(), participant_id: "p-never".to_owned() }
    );
    ensure!(refusal(never)? == Reason::UnknownParticipant);
    stack.stop().await
}

#[tokio::test]
async fn trial_22_the_last_moderator_leaves_and_the_conference_goes_on_or_ends_as_on_the_switch() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());
    let mut watch = stack.watch().await?;
    for ends_when_empty in [false, true] {
        let request = ConferenceRequest {
            initiator: "1001".to_owned(),
            members: vec!["1002".to_owned(), "1003".to_owned()],
            ends_when_empty,
            ..ConferenceRequest::default()
        };
        let conference = stack.meeting(request).await?;
        let (id, at) = (conference.id.clone(), conference.switch_conference_id.clone());
        switch.leave(&domain, &at, &id_of(&conference, "1001")?)?;
        let without = watch.meeting("no presenter is left", &id, |it| numbers(it) == ["1002", "1003"]).await?;
        ensure!(without.participants.iter().all(|it| it.role() == v1::ParticipantRole::Participant), "{without:?}");
        ensure!(without.state() == v1::ConferenceState::Active && without.connected_count == 2, "{without:?}");
        // A moderator from outside makes another one.
        let participant_id = id_of(&conference, "1002")?;
        moderate!(
            stack,
            set_role,
            SetRoleRequest { conference_id: id.clone(), participant_id: participant_id, role: v1::ParticipantRole::Presenter.into() }
        )?;
        for number in ["1002", "1003"] {
            switch.leave(&domain, &at, &id_of(&conference, number)?)?;
        }
        if ends_when_empty {
            watch.until("it has ended with its last member", |view| (!view.conferences.contains_key(&id)).then_some(())).await?;
            ensure!(stack.conference(&id).await?.state() == v1::ConferenceState::Ended);
            ensure!(switch.conference(&domain, &at).is_err());
        } else {
            let empty = watch.meeting("it goes on, empty", &id, |it| it.participants.is_empty()).await?;
            ensure!(empty.state() == v1::ConferenceState::Active && (empty.connected_count, empty.pending_count) == (0, 0));
            stack.same_as_switch(&id).await?;
        }
    }
    stack.stop().await
}

/// One random thing happens in a random conference.
fn stir(switch: &Switch, domain: &str, rng: &mut StdRng) {
    let conferences = switch.conferences(Some(domain));
    let Some(conference) = conferences.get(rng.random_range(0..conferences.len().max(1))) else { return };
    let at = conference.id.as_str();
    let number = (1001 + rng.random_range(0..200)).to_string();
    let somebody = conference.members.get(rng.random_range(0..conference.members.len().max(1))).map(|it| it.id.clone());
    let who = somebody.as_deref().unwrap_or("nobody");
    // A refusal is as good as any other answer here.
    let _ = match rng.random_range(0..12) {
        0..=2 => switch.dial_in(domain, at, &number).map(drop),
        3..=4 => switch.leave(domain, at, who),
        5 => switch.invite(domain, at, &number, Role::Participant).map(drop),
        6 => switch.pick_up(domain, at, who),
        7 => switch.hold_member(domain, at, who),
        8 => switch.retrieve_member(domain, at, who),
        9 => switch.set_talking(domain, at, who, rng.random_bool(0.5)),
        10 => switch.mute_all(domain, at, true),
        _ => switch.unmute_self(domain, at, who),
    };
}

/// Applies what has come to a view of its own and looks at every step.
struct Judge {
    view: View,
    joined: BTreeSet<String>,
    left: BTreeSet<String>,
    read: usize,
}

impl Judge {
    fn judge(&mut self, watch: &Watch) -> anyhow::Result<()> {
        for message in watch.messages.get(self.read..).unwrap_or_default() {
            self.view.apply(message.clone());
            let changed = match &message.message {
                Some(v1::subscribe_response::Message::Event(event)) => event.change.clone(),
                _ => None,
            };
            if let Some(v1::event::Change::Participant(change)) = changed {
                let conference = self.view.conferences.get(&change.conference_id).context("an event of an unknown conference")?;
                let counts = (change.connected_count, change.pending_count);
                ensure!(counts == (conference.connected_count, conference.pending_count), "{change:?} in {conference:?}");
                let it = change.participant.context("a change without a participant")?;
                if it.status() == v1::ParticipantStatus::Disconnected {
                    ensure!(self.joined.contains(&it.id), "left without having joined: {it:?}");
                    ensure!(self.left.insert(it.id.clone()), "left twice: {it:?}");
                    ensure!(!it.talking && !it.floor_requested, "who has left neither talks nor asks: {it:?}");
                } else {
                    ensure!(!self.left.contains(&it.id), "is back with the same id: {it:?}");
                    self.joined.insert(it.id);
                }
            } else {
                self.joined.extend(self.view.conferences.values().flat_map(|it| &it.participants).map(|it| it.id.clone()));
            }
            for conference in self.view.conferences.values() {
                sound(conference)?;
            }
        }
        self.read = watch.messages.len();
        Ok(())
    }
}

#[tokio::test]
async fn trial_4_during_churn_counts_equal_the_roster_at_every_step_and_the_switch_at_the_end() -> anyhow::Result<()> {
    let seed = u64::from(rand::random::<u32>());
    println!("seed {seed}");
    let load = LoadOptions { conferences: 5, conference_size: 20, churn: true, ..LoadOptions::default() };
    let sim = SimOptions { aliases: 300, load, answer: Answer::After { ms: 20 }, ..SimOptions::default() };
    let stack = Stack::start(StackOptions { sim, ..StackOptions::default() }).await?;
    let mut watch = stack.watch().await?;
    watch.until("five conferences", |view| (view.conferences.len() == 5).then_some(())).await?;
    let mut judge = Judge { view: View::default(), joined: BTreeSet::new(), left: BTreeSet::new(), read: 0 };
    judge.judge(&watch)?;

    let mut rng = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut stirred = 0;
    while began.elapsed() < Duration::from_secs(3) {
        for _ in 0..5 {
            stir(stack.sim.switch(), stack.domain(), &mut rng);
        }
        stirred += 5;
        // A cut in the middle: what happens meanwhile is pieced together, and still everything adds up.
        if stirred == 500 {
            stack.sim.faults().drop_now(Link::CallApi, 0);
        }
        tokio::time::timeout(Duration::from_secs(10), watch.read()).await??;
        judge.judge(&watch)?;
    }
    ensure!(judge.left.len() > 20, "too little has happened: {} left", judge.left.len());
    println!("{stirred} stirred, {} messages, {} have left", watch.messages.len(), judge.left.len());
    // A subscriber that no longer reads would hold up the agent's end as long as running requests may.
    drop(watch);

    // The load never rests: compared while it stirs, until both are seen equal.
    for conference in stack.listed(false).await? {
        stack.same_as_switch(&conference.id).await?;
    }
    stack.stop().await
}

#[tokio::test]
async fn trial_5_a_talker_who_leaves_is_held_or_muted_talks_no_more_link_or_no_link() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());
    let mut watch = stack.watch().await?;
    let conference = stack.gathered("1001", &["1002", "1003", "1004", "1005"]).await?;
    let (id, at) = (conference.id.clone(), conference.switch_conference_id.clone());
    let version = stack.conference(&id).await?.version;
    for number in ["1002", "1003", "1004", "1005"] {
        switch.set_talking(&domain, &at, &id_of(&conference, number)?, true)?;
    }
    let talking = |it: &v1::Conference| it.participants.iter().filter(|it| it.talking).count();
    let all = watch.meeting("four talk", &id, |it| talking(it) == 4).await?;
    ensure!(all.version == version, "who talks is no reason to decide anew");

    switch.leave(&domain, &at, &id_of(&conference, "1002")?)?;
    let left = watch.leaving(&id, &id_of(&conference, "1002")?).await?;
    ensure!(!left.talking, "{left:?}");
    watch.meeting("three talk", &id, |it| talking(it) == 3).await?;
    let participant_id = id_of(&conference, "1003")?;
    moderate!(stack, mute_participant, MuteParticipantRequest { conference_id: id.clone(), participant_id: participant_id })?;
    watch.meeting("two talk", &id, |it| talking(it) == 2).await?;
    let participant_id = id_of(&conference, "1004")?;
    moderate!(stack, hold_participant, HoldParticipantRequest { conference_id: id.clone(), participant_id: participant_id })?;
    watch.meeting("one talks", &id, |it| talking(it) == 1).await?;

    // The talker leaves while the link is down: afterwards nobody talks.
    stack.sim.faults().set_node(0, false);
    switch.leave(&domain, &at, &id_of(&conference, "1005")?)?;
    watch
        .until("the link is down", |view| {
            view.links.values().any(|it| it.name.starts_with("call_api") && it.state() != v1::LinkState::Up).then_some(())
        })
        .await?;
    stack.sim.faults().set_node(0, true);
    let silent = watch.meeting("nobody talks", &id, |it| member(it, "1005").is_err() && talking(it) == 0).await?;
    ensure!(numbers(&silent) == ["1001", "1003", "1004"], "{silent:?}");
    ensure!(!watch.leaving(&id, &id_of(&conference, "1005")?).await?.talking);
    stack.same_as_switch(&id).await?;
    stack.stop().await
}

#[tokio::test]
async fn a_conference_of_500_is_invited_moderated_and_ended() -> anyhow::Result<()> {
    let stack = Stack::start(aliases(600)).await?;
    let mut watch = stack.watch().await?;
    let conference = stack.gathered("1001", &[]).await?;
    let id = conference.id.clone();
    stack.sim.switch().set_default_answer(stack.domain(), Answer::After { ms: 0 })?;
    let wanted: Vec<String> = (1002..=1500).map(|number: u32| number.to_string()).collect();
    let began = Instant::now();
    let answer = moderate!(stack, invite_participants, InviteParticipantsRequest { conference_id: id.clone(), numbers: wanted })?;
    println!("499 invited in {:?}", began.elapsed());
    ensure!(answer.results.len() == 499 && answer.results.iter().all(|it| it.reason.is_empty() && !it.participant_id.is_empty()));
    watch.meeting("all 500 are in", &id, |it| it.connected_count == 500 && it.pending_count == 0).await?;
    println!("500 connected after {:?}", began.elapsed());
    let began = Instant::now();
    let answer = moderate!(stack, mute_all, MuteAllRequest { conference_id: id.clone(), may_unmute_themselves: Some(false) })?;
    println!("499 muted in {:?}", began.elapsed());
    let muted = answer.conference.context("no conference")?.participants.iter().filter(|it| it.muted).count();
    ensure!(muted == 499, "{muted}");
    let current = stack.same_as_switch(&id).await?;
    let seen = watch.meeting("the subscriber is up to date", &id, |it| it.version == current.version).await?;
    ensure!(seen.participants == current.participants);
    let mut fresh = stack.watch().await?;
    let snapshot = fresh.until("a snapshot of it", |view| view.conferences.get(&id).cloned().filter(|_| view.complete)).await?;
    ensure!(snapshot.participants == current.participants);
    let answer = moderate!(stack, end_conference, EndConferenceRequest { conference_id: id.clone() })?;
    ensure!(answer.conference.is_some_and(|it| it.state() == v1::ConferenceState::Ended));
    watch.until("its end", |view| view.conferences.is_empty().then_some(())).await?;
    stack.stop().await
}

#[tokio::test]
async fn licences_that_run_out_while_50_are_invited_refuse_the_rest_one_by_one() -> anyhow::Result<()> {
    let stack = Stack::start(aliases(200)).await?;
    let switch = stack.sim.switch();
    let mut watch = stack.watch().await?;
    let conference = stack.gathered("1001", &["1002"]).await?;
    let id = conference.id.clone();
    switch.set_licence(LicenceKind::Members, Some(32), None);
    let wanted: Vec<String> = (1011..1061).map(|number: u32| number.to_string()).collect();
    let invite = async |numbers: Vec<String>| {
        moderate!(stack, invite_participants, InviteParticipantsRequest { conference_id: id.clone(), numbers: numbers })
    };
    let answer = invite(wanted.clone()).await?;
    ensure!(answer.results.iter().map(|it| &it.number).eq(&wanted), "in the order of the request: {answer:?}");
    let (called, refused): (Vec<_>, Vec<_>) = answer.results.iter().partition(|it| it.reason.is_empty());
    ensure!((called.len(), refused.len()) == (30, 20), "{} called", called.len());
    ensure!(refused.iter().all(|it| it.reason == "LICENCE_EXHAUSTED" && it.participant_id.is_empty()), "{refused:?}");
    let used = || switch.licences().iter().find(|it| it.kind == LicenceKind::Members).map(|it| it.used);
    ensure!(used() == Some(32), "{:?}", used());
    let full = stack.same_as_switch(&id).await?;
    ensure!((full.connected_count, full.pending_count) == (2, 30), "{full:?}");
    watch.meeting("thirty are called", &id, |it| it.pending_count == 30).await?;

    // One place is given back, and taken by one.
    let participant_id = called.first().context("nobody was called")?.participant_id.clone();
    moderate!(stack, cancel_invitation, CancelInvitationRequest { conference_id: id.clone(), participant_id: participant_id })?;
    let answer = invite(vec!["1070".to_owned(), "1071".to_owned()]).await?;
    let refused = answer.results.iter().filter(|it| it.reason == "LICENCE_EXHAUSTED").count();
    ensure!(refused == 1, "{answer:?}");
    eventually("every licence is in use", async || (used() == Some(32)).then_some(())).await?;
    stack.same_as_switch(&id).await?;
    stack.stop().await
}
