//! Every command of `ConferenceService` through the real agent, its effect seen in the answer, by a subscriber, and on the switch: in the
//! simulator's own dialect and in others, by configuration alone.

use anyhow::{Context, ensure};
use e2e::{
    Stack, StackOptions, Watch, eventually,
    meetings::{id_of, member, numbers, sound},
    moderate,
    phones::reason,
    request_id,
};
use elph_proto::{reason::Reason, v1};
use ssw_core::{Answer, ConferenceRequest, LicenceKind, ParticipantStatus, Recording, RefusalCause, Role};
use ssw_sim::SimOptions;
use tonic::{Response, Status};

#[expect(clippy::print_stdout, reason = "the seed of a random run must be told")]
fn seeded(seed: u64) -> StackOptions {
    println!("ssw-sim seed {seed}");
    StackOptions { sim: SimOptions { seed: Some(seed), ..SimOptions::default() }, ..StackOptions::default() }
}

fn texts(numbers: &[&str]) -> Vec<String> {
    numbers.iter().map(|number| (*number).to_owned()).collect()
}

/// The conference of an answer, if it is in order.
fn whole(conference: Option<v1::Conference>) -> anyhow::Result<v1::Conference> {
    let conference = conference.context("an answer without a conference")?;
    sound(&conference).map(|()| conference)
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> anyhow::Result<Reason> {
    reason(answer.map(Response::new))
}

/// A command about one participant; the conference after it.
macro_rules! member_command {
    ($stack:expr, $method:ident, $request:ident, $conference:expr, $number:expr) => {{
        let participant_id = id_of($conference, $number)?;
        match moderate!($stack, $method, $request { conference_id: $conference.id.clone(), participant_id: participant_id }) {
            Ok(answer) => whole(answer.conference),
            Err(status) => Err(status.into()),
        }
    }};
}

/// A command about a whole conference; the conference after it.
macro_rules! whole_command {
    ($stack:expr, $method:ident, $request:ident, $conference:expr) => {{
        let answer = moderate!($stack, $method, $request { conference_id: $conference.id.clone() })?;
        whole(answer.conference)
    }};
}

/// Every way to create a conference.
async fn creation(stack: &Stack, watch: &mut Watch) -> anyhow::Result<()> {
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());

    // Ad hoc, with numbers. One of them is busy: it is called, and the subscriber hears why it did not come.
    switch.set_answer(&domain, "1008", Answer::Busy)?;
    let adhoc = moderate!(
        stack,
        create_conference,
        CreateConferenceRequest {
            domain: domain.clone(),
            name: "Планёрка".to_owned(),
            initiator_alias: "1001".to_owned(),
            numbers: texts(&["1002", "1003", "1008"]),
            max_participants: 10,
        }
    )?;
    let adhoc = whole(adhoc.conference)?;
    ensure!(adhoc.name == "Планёрка" && adhoc.max_participants == 10 && adhoc.room.is_empty() && adhoc.domain == domain, "{adhoc:?}");
    ensure!(adhoc.state() == v1::ConferenceState::Active && !adhoc.locked && adhoc.version > 0, "{adhoc:?}");
    let on_switch = stack.conference_on_switch(&adhoc)?;
    ensure!(on_switch.initiator == "1001" && on_switch.limit == 10, "{on_switch:?}");
    let busy = stack.member_on_switch(&adhoc, "1008").map(|it| it.id);
    watch
        .meeting("all but the busy one ring", &adhoc.id, |it| {
            numbers(it) == ["1001", "1002", "1003"] && it.participants.iter().all(|it| it.status() == v1::ParticipantStatus::Alerting)
        })
        .await?;
    if let Ok(busy) = busy {
        ensure!(watch.leaving(&adhoc.id, &busy).await?.end_cause() == v1::EndCause::Busy);
    }
    let adhoc = stack.all_pick_up(&adhoc).await?;
    ensure!((adhoc.connected_count, adhoc.pending_count) == (3, 0), "{adhoc:?}");
    ensure!(adhoc.participants.iter().all(|it| it.join_time.is_some() && !it.display_name.is_empty()), "{adhoc:?}");
    ensure!(member(&adhoc, "1001")?.role() == v1::ParticipantRole::Presenter);

    // In a room, which then is taken.
    let room = Some(v1::create_conference_request::Source::Room("800".to_owned()));
    let in_room = moderate!(stack, create_conference, CreateConferenceRequest { domain: domain.clone(), source: room.clone() })?;
    let in_room = whole(in_room.conference)?;
    ensure!(in_room.room == "800" && in_room.participants.is_empty(), "{in_room:?}");
    watch.meeting("the conference in the room", &in_room.id, |it| it.room == "800").await?;
    let taken = moderate!(stack, create_conference, CreateConferenceRequest { domain: domain.clone(), source: room });
    ensure!(refusal(taken)? == Reason::AlreadyExists);

    // From a template with its groups: presenter, members without a microphone, a limit and a planned end.
    let template = Some(v1::create_conference_request::Source::Template("briefing".to_owned()));
    let briefing = moderate!(stack, create_conference, CreateConferenceRequest { domain: domain.clone(), source: template })?;
    let briefing = whole(briefing.conference)?;
    let briefing = watch.meeting("all of the template", &briefing.id, |it| it.participants.len() == 7).await?;
    ensure!(numbers(&briefing) == ["1001", "1002", "1003", "1004", "1005", "1006", "1007"], "{briefing:?}");
    ensure!(member(&briefing, "1001")?.role() == v1::ParticipantRole::Presenter && !member(&briefing, "1001")?.muted);
    ensure!(member(&briefing, "1004")?.muted && briefing.max_participants == 50, "{briefing:?}");
    let (start, end) = (briefing.start_time.context("start")?, briefing.planned_end_time.context("planned end")?);
    ensure!((3599..=3601).contains(&(end.seconds - start.seconds)), "{briefing:?}");
    stack.same_as_switch(&briefing.id).await?;

    // Ad hoc with numeric groups.
    let grouped = moderate!(stack, create_conference, CreateConferenceRequest { domain: domain.clone(), groups: texts(&["100", "200"]) })?;
    let grouped = whole(grouped.conference)?;
    watch.meeting("both groups", &grouped.id, |it| numbers(it) == ["1002", "1003", "1004", "1005", "1006", "1007"]).await?;

    // What does not exist.
    for source in [
        v1::create_conference_request::Source::Room("899".to_owned()),
        v1::create_conference_request::Source::Template("no such".to_owned()),
    ] {
        let unknown = moderate!(stack, create_conference, CreateConferenceRequest { domain: domain.clone(), source: Some(source) });
        ensure!(refusal(unknown)? == Reason::UnknownConference);
    }
    let stranger = moderate!(stack, create_conference, CreateConferenceRequest { domain: domain.clone(), numbers: texts(&["9999"]) });
    ensure!(refusal(stranger)? == Reason::UnknownAlias);
    switch.set_manager(&domain, "1020", false)?;
    let forbidden =
        moderate!(stack, create_conference, CreateConferenceRequest { domain: domain.clone(), initiator_alias: "1020".to_owned() });
    ensure!(refusal(forbidden)? == Reason::MissingRight);

    for created in [adhoc, in_room, briefing, grouped] {
        let ended = whole_command!(stack, end_conference, EndConferenceRequest, &created)?;
        ensure!(ended.state() == v1::ConferenceState::Ended && ended.end_time.is_some() && ended.participants.is_empty(), "{ended:?}");
        ensure!(stack.conference_on_switch(&created).is_err(), "the switch goes on with it");
        watch.until("the end of the conference", |view| (!view.conferences.contains_key(&created.id)).then_some(())).await?;
    }
    Ok(())
}

/// Everything a moderator does in a conference.
async fn moderation(stack: &Stack, watch: &mut Watch) -> anyhow::Result<()> {
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());
    let conference = stack.gathered("1001", &["1002", "1003", "1004"]).await?;
    let (id, on_switch) = (conference.id.clone(), conference.switch_conference_id.clone());

    // Invite one, invite many.
    let invite = |numbers: &[&str], role: v1::ParticipantRole| {
        let (conference_id, numbers) = (id.clone(), texts(numbers));
        async move {
            moderate!(
                stack,
                invite_participants,
                InviteParticipantsRequest { conference_id: conference_id, numbers: numbers, role: role.into() }
            )
        }
    };
    let one = invite(&["1010"], v1::ParticipantRole::Presenter).await?;
    let [result] = one.results.as_slice() else { anyhow::bail!("{one:?}") };
    ensure!(result.number == "1010" && result.reason.is_empty(), "{result:?}");
    let invited = watch.meeting("1010 rings", &id, |it| member(it, "1010").is_ok_and(|it| it.status() == v1::ParticipantStatus::Alerting));
    let invited = invited.await?;
    ensure!(result.participant_id == id_of(&invited, "1010")? && member(&invited, "1010")?.role() == v1::ParticipantRole::Presenter);
    ensure!(stack.member_on_switch(&invited, "1010")?.role == Role::Presenter);
    let many = invite(&["1011", "9999", "1002", "1012"], v1::ParticipantRole::Unspecified).await?;
    let reasons: Vec<(&str, &str)> = many.results.iter().map(|it| (it.number.as_str(), it.reason.as_str())).collect();
    ensure!(reasons == [("1011", ""), ("9999", "UNKNOWN_ALIAS"), ("1002", "ALREADY_EXISTS"), ("1012", "")], "{many:?}");
    for result in &many.results {
        ensure!(result.participant_id.is_empty() != result.reason.is_empty() && result.message.is_empty() == result.reason.is_empty());
    }
    let many = whole(many.conference)?;
    ensure!(numbers(&many) == ["1001", "1002", "1003", "1004", "1010", "1011", "1012"], "{many:?}");
    ensure!(refusal(invite(&["9999"], v1::ParticipantRole::Unspecified).await)? == Reason::UnknownAlias);

    // Cancel an invitation: only of one who has not answered.
    let after = member_command!(stack, cancel_invitation, CancelInvitationRequest, &many, "1010")?;
    ensure!(member(&after, "1010").is_err() && stack.member_on_switch(&after, "1010").is_err());
    ensure!(watch.leaving(&id, &id_of(&many, "1010")?).await?.end_cause() == v1::EndCause::CallerGaveUp);
    let answered = member_command!(stack, cancel_invitation, CancelInvitationRequest, &many, "1002");
    ensure!(answered.is_err() && stack.member_on_switch(&after, "1002").is_ok(), "one who has answered is not called any more");

    // Remove.
    let after = stack.all_pick_up(&after).await?;
    let gone = id_of(&after, "1012")?;
    let after = member_command!(stack, remove_participant, RemoveParticipantRequest, &after, "1012")?;
    ensure!(member(&after, "1012").is_err() && stack.member_on_switch(&after, "1012").is_err());
    ensure!(watch.leaving(&id, &gone).await?.end_cause() == v1::EndCause::Normal);

    // Mute, ask to unmute, unmute.
    let two = id_of(&after, "1002")?;
    let muted = member_command!(stack, mute_participant, MuteParticipantRequest, &after, "1002")?;
    ensure!(member(&muted, "1002")?.muted && !stack.member_on_switch(&muted, "1002")?.voice);
    watch.meeting("1002 is muted", &id, |it| member(it, "1002").is_ok_and(|it| it.muted)).await?;
    let asked = member_command!(stack, ask_to_unmute, AskToUnmuteRequest, &muted, "1002")?;
    ensure!(member(&asked, "1002")?.muted, "asking forces nobody");
    ensure!(stack.member_on_switch(&muted, "1002")?.asked_to_unmute);
    let heard = member_command!(stack, unmute_participant, UnmuteParticipantRequest, &muted, "1002")?;
    ensure!(!member(&heard, "1002")?.muted && stack.member_on_switch(&heard, "1002")?.voice);
    watch.meeting("1002 is heard", &id, |it| member(it, "1002").is_ok_and(|it| !it.muted)).await?;

    // Mute all except presenters, saying whether they may unmute themselves.
    for may in [false, true] {
        let silent = moderate!(stack, mute_all, MuteAllRequest { conference_id: id.clone(), may_unmute_themselves: Some(may) })?;
        let silent = whole(silent.conference)?;
        ensure!(silent.may_unmute_themselves == may, "{silent:?}");
        ensure!(silent.participants.iter().all(|it| it.muted != (it.role() == v1::ParticipantRole::Presenter)), "{silent:?}");
        watch
            .meeting("all are muted", &id, |it| {
                it.may_unmute_themselves == may && it.participants.iter().all(|it| it.muted != (it.number == "1001"))
            })
            .await?;
        let own = switch.unmute_self(&domain, &on_switch, &two);
        if may {
            own?;
            watch.meeting("1002 has unmuted itself", &id, |it| member(it, "1002").is_ok_and(|it| !it.muted)).await?;
        } else {
            ensure!(own.is_err_and(|refusal| refusal.cause == RefusalCause::NoRight));
        }
    }

    // The floor: asked for one after the other, listed in that order, granted and denied.
    let waiting = [id_of(&after, "1004")?, id_of(&after, "1003")?, id_of(&after, "1011")?];
    for (place, participant) in waiting.iter().enumerate() {
        switch.request_floor(&domain, &on_switch, participant)?;
        let asking =
            |it: &v1::Conference| it.participants.iter().filter(|it| it.floor_requested && it.floor_request_time.is_some()).count();
        watch.meeting("one more asks for the floor", &id, |it| asking(it) == place + 1).await?;
    }
    let list = async || stack.conferences().list_floor_requests(v1::ListFloorRequestsRequest { conference_id: id.clone() }).await;
    let asking = list().await?.into_inner();
    ensure!(asking.participants.iter().map(|it| &it.id).eq(&waiting), "{asking:?}");
    let current = stack.conference(&id).await?;
    ensure!(asking.version == current.version);
    let granted = member_command!(stack, grant_floor, GrantFloorRequest, &current, "1004")?;
    ensure!(!member(&granted, "1004")?.muted && !member(&granted, "1004")?.floor_requested);
    ensure!(stack.member_on_switch(&granted, "1004")?.voice);
    let denied = member_command!(stack, deny_floor, DenyFloorRequest, &current, "1003")?;
    ensure!(member(&denied, "1003")?.muted && !member(&denied, "1003")?.floor_requested);
    ensure!(!stack.member_on_switch(&denied, "1003")?.floor);
    let asking = list().await?.into_inner().participants;
    ensure!(asking.iter().map(|it| it.number.as_str()).eq(["1011"]), "{asking:?}");
    let nothing = member_command!(stack, grant_floor, GrantFloorRequest, &current, "1003");
    ensure!(nothing.is_err(), "who does not ask is not given the floor");

    // Roles.
    for (role, on_switch) in [(v1::ParticipantRole::Presenter, Role::Presenter), (v1::ParticipantRole::Participant, Role::Participant)] {
        let participant_id = id_of(&current, "1003")?;
        let request =
            moderate!(stack, set_role, SetRoleRequest { conference_id: id.clone(), participant_id: participant_id, role: role.into() })?;
        let changed = whole(request.conference)?;
        ensure!(member(&changed, "1003")?.role() == role && stack.member_on_switch(&changed, "1003")?.role == on_switch);
        watch.meeting("1003's role", &id, |it| member(it, "1003").is_ok_and(|it| it.role() == role)).await?;
    }

    // Lock: who dials in is refused, and so is an invitation; then it is open again.
    let locked = whole_command!(stack, lock_conference, LockConferenceRequest, &current)?;
    ensure!(locked.locked && stack.conference_on_switch(&locked)?.locked);
    watch.meeting("it is locked", &id, |it| it.locked).await?;
    let outside = switch.dial_in(&domain, &on_switch, "1015");
    ensure!(outside.is_err_and(|refusal| refusal.cause == RefusalCause::ConferenceLocked));
    ensure!(refusal(invite(&["1015"], v1::ParticipantRole::Unspecified).await)? == Reason::ConferenceLocked);
    let open = whole_command!(stack, unlock_conference, UnlockConferenceRequest, &current)?;
    ensure!(!open.locked && !stack.conference_on_switch(&open)?.locked);
    switch.dial_in(&domain, &on_switch, "1015")?;
    let current = watch.meeting("1015 is in", &id, |it| member(it, "1015").is_ok_and(|it| it.status() == v1::ParticipantStatus::Connected));
    let current = current.await?;

    // Hold and retrieve: held ones count as connected.
    let before = current.connected_count;
    let held = member_command!(stack, hold_participant, HoldParticipantRequest, &current, "1015")?;
    ensure!(member(&held, "1015")?.status() == v1::ParticipantStatus::OnHold && held.connected_count == before, "{held:?}");
    ensure!(stack.member_on_switch(&held, "1015")?.status == ParticipantStatus::OnHold);
    watch.meeting("1015 is on hold", &id, |it| member(it, "1015").is_ok_and(|it| it.status() == v1::ParticipantStatus::OnHold)).await?;
    let back = member_command!(stack, retrieve_participant, RetrieveParticipantRequest, &current, "1015")?;
    ensure!(member(&back, "1015")?.status() == v1::ParticipantStatus::Connected);
    ensure!(stack.member_on_switch(&back, "1015")?.status == ParticipantStatus::Connected);

    // Move to another conference.
    let other = stack.gathered("1021", &["1022"]).await?;
    let moved = moderate!(
        stack,
        move_participant,
        MoveParticipantRequest { conference_id: id.clone(), participant_id: id_of(&current, "1015")?, to_conference_id: other.id.clone() }
    )?;
    let (left, joined) = (whole(moved.conference)?, whole(moved.to_conference)?);
    ensure!(member(&left, "1015").is_err() && member(&joined, "1015").is_ok(), "{joined:?}");
    ensure!(stack.member_on_switch(&other, "1015").is_ok() && stack.member_on_switch(&current, "1015").is_err());
    let connected = |it: &v1::Conference| member(it, "1015").is_ok_and(|it| it.status() == v1::ParticipantStatus::Connected);
    watch.meeting("1015 is in the other conference", &other.id, connected).await?;
    watch.meeting("1015 is not in the first any more", &id, |it| member(it, "1015").is_err()).await?;

    // Recording, through its states and no others.
    use v1::RecordingState::{Off, On, Paused};
    let recording = |wanted: v1::RecordingState| move |it: &v1::Conference| it.recording() == wanted;
    let is = async |wanted: Recording, conference: &v1::Conference| -> anyhow::Result<()> {
        ensure!(stack.conference_on_switch(conference)?.recording == wanted);
        Ok(())
    };
    let after = whole_command!(stack, start_recording, StartRecordingRequest, &current)?;
    ensure!(after.recording() == On);
    is(Recording::On, &after).await?;
    watch.meeting("it is recorded", &id, recording(On)).await?;
    let again = moderate!(stack, start_recording, StartRecordingRequest { conference_id: id.clone() });
    ensure!(refusal(again)? == Reason::WrongState);
    let after = whole_command!(stack, pause_recording, PauseRecordingRequest, &current)?;
    ensure!(after.recording() == Paused);
    is(Recording::Paused, &after).await?;
    watch.meeting("recording pauses", &id, recording(Paused)).await?;
    let after = whole_command!(stack, resume_recording, ResumeRecordingRequest, &current)?;
    ensure!(after.recording() == On);
    is(Recording::On, &after).await?;
    let after = whole_command!(stack, stop_recording, StopRecordingRequest, &current)?;
    ensure!(after.recording() == Off);
    is(Recording::Off, &after).await?;
    watch.meeting("it is no longer recorded", &id, recording(Off)).await?;

    // Extend: only where there is an end to move.
    let by = Some(prost_types::Duration { seconds: 600, nanos: 0 });
    let endless = moderate!(stack, extend_conference, ExtendConferenceRequest { conference_id: id.clone(), by: by });
    ensure!(refusal(endless)? == Reason::WrongState);
    let timed = stack.meeting(ConferenceRequest { seconds: 900, ..ConferenceRequest::default() }).await?;
    let longer = moderate!(stack, extend_conference, ExtendConferenceRequest { conference_id: timed.id.clone(), by: by })?;
    let longer = whole(longer.conference)?;
    let end = |it: &v1::Conference| it.planned_end_time.map(|at| at.seconds);
    ensure!(end(&longer) == end(&timed).map(|at| at + 600), "{longer:?}");
    ensure!(stack.conference_on_switch(&timed)?.ends_at.map(|at| at.as_second()) == end(&longer));
    watch.meeting("it goes on for longer", &timed.id, |it| end(it) == end(&longer)).await?;

    // All of it is what the switch has, for the subscriber too.
    let current = stack.same_as_switch(&id).await?;
    let seen = watch.meeting("the subscriber is up to date", &id, |it| it.version == current.version).await?;
    ensure!(seen.participants == current.participants, "{seen:?} is not {current:?}");

    // End.
    for conference in [&current, &other, &timed] {
        let ended = whole_command!(stack, end_conference, EndConferenceRequest, conference)?;
        ensure!(ended.state() == v1::ConferenceState::Ended, "{ended:?}");
        let late = moderate!(stack, lock_conference, LockConferenceRequest { conference_id: conference.id.clone() });
        ensure!(refusal(late)? == Reason::ConferenceEnded);
    }
    watch.until("all have ended", |view| view.conferences.is_empty().then_some(())).await?;
    ensure!(switch.conferences(None).is_empty());
    Ok(())
}

async fn everything(options: StackOptions) -> anyhow::Result<()> {
    let stack = Stack::start(options).await?;
    let mut watch = stack.watch().await?;
    creation(&stack, &mut watch).await.context("creation")?;
    moderation(&stack, &mut watch).await.context("moderation")?;
    let complained = stack.agent.log().lines().filter(|line| line.contains("panicked")).count();
    ensure!(complained == 0, "the agent panicked");
    stack.stop().await
}

#[tokio::test]
async fn every_command_works_in_the_dialect_of_seed_0() -> anyhow::Result<()> {
    everything(seeded(0)).await
}

#[tokio::test]
async fn every_command_works_in_the_dialect_of_seed_1() -> anyhow::Result<()> {
    everything(seeded(1)).await
}

#[tokio::test]
async fn every_command_works_in_the_dialect_of_seed_2() -> anyhow::Result<()> {
    everything(seeded(2)).await
}

#[tokio::test]
async fn every_command_works_in_the_dialect_of_a_random_seed() -> anyhow::Result<()> {
    everything(seeded(rand::random::<u64>() >> 32)).await
}

#[tokio::test]
async fn invitations_say_for_each_number_what_became_of_it() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let (domain, switch) = (stack.domain().to_owned(), stack.sim.switch());
    let mut watch = stack.watch().await?;
    let full = stack.meeting(ConferenceRequest { limit: 3, initiator: "1001".to_owned(), ..ConferenceRequest::default() }).await?;
    let invite = |conference: &v1::Conference, numbers: &[&str]| {
        let (conference_id, numbers) = (conference.id.clone(), texts(numbers));
        let stack = &stack;
        async move { moderate!(stack, invite_participants, InviteParticipantsRequest { conference_id: conference_id, numbers: numbers }) }
    };
    let result = invite(&full, &["1002", "1003", "1004", "1005"]).await?;
    let refused: Vec<&str> = result.results.iter().map(|it| it.reason.as_str()).filter(|it| !it.is_empty()).collect();
    ensure!(refused == ["CONFERENCE_FULL", "CONFERENCE_FULL"], "{result:?}");
    ensure!(refusal(invite(&full, &["1006"]).await)? == Reason::ConferenceFull);

    // Busy, refusing and unreachable phones: called, and the subscriber hears why they did not come.
    switch.set_answer(&domain, "1012", Answer::Busy)?;
    switch.set_answer(&domain, "1013", Answer::Reject)?;
    switch.unregister(&domain, "1014", None)?;
    let open = stack.gathered("1011", &[]).await?;
    let result = invite(&open, &["1012", "1013", "1014"]).await?;
    for (result, cause) in result.results.iter().zip([v1::EndCause::Busy, v1::EndCause::Rejected, v1::EndCause::Unobtainable]) {
        ensure!(result.reason.is_empty() && !result.participant_id.is_empty(), "{result:?}");
        let left = watch.leaving(&open.id, &result.participant_id).await?;
        ensure!(left.end_cause() == cause, "{left:?}");
    }
    ensure!(numbers(&stack.same_as_switch(&open.id).await?) == ["1011"]);

    // Licences: none left, then expired.
    switch.set_licence(LicenceKind::Members, Some(0), None);
    ensure!(refusal(invite(&open, &["1020"]).await)? == Reason::LicenceExhausted);
    switch.set_licence(LicenceKind::Members, None, Some("2020-01-01T00:00:00Z".parse()?));
    ensure!(refusal(invite(&open, &["1020"]).await)? == Reason::LicenceExpired);
    let both = invite(&open, &["1020", "1021"]).await?;
    ensure!(both.results.iter().all(|it| it.reason == "LICENCE_EXPIRED" && !it.message.is_empty()), "{both:?}");
    switch.set_licence(LicenceKind::Conferences, Some(0), None);
    let none = moderate!(stack, create_conference, CreateConferenceRequest { domain: domain.clone() });
    ensure!(refusal(none)? == Reason::LicenceExhausted);
    stack.stop().await
}

#[tokio::test]
async fn trial_23_a_list_over_all_conferences_has_start_duration_counts_lock_and_recording() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let switch = stack.sim.switch();
    let plain = stack.gathered("1001", &["1002", "1003"]).await?;
    let locked = stack.gathered("1011", &["1012"]).await?;
    whole_command!(stack, lock_conference, LockConferenceRequest, &locked)?;
    whole_command!(stack, start_recording, StartRecordingRequest, &locked)?;
    let ended = stack.gathered("1021", &["1022"]).await?;
    whole_command!(stack, end_conference, EndConferenceRequest, &ended)?;
    switch.invite(stack.domain(), &plain.switch_conference_id, "1004", Role::Participant)?;
    stack.conference_when(&plain.id, "1004 is called", |it| it.pending_count == 1).await?;

    let list = async |include_ended: bool, include_participants: bool| {
        let request =
            v1::ListConferencesRequest { domain: stack.domain().to_owned(), include_ended, include_participants, ..Default::default() };
        stack.conferences().list_conferences(request).await.map(|answer| answer.into_inner().conferences)
    };
    let goes_on = list(false, false).await?;
    ensure!(goes_on.len() == 2, "{goes_on:?}");
    let find = |id: &str| goes_on.iter().find(|it| it.id == id).context("not in the list");
    let (first, second) = (find(&plain.id)?, find(&locked.id)?);
    ensure!((first.connected_count, first.pending_count, first.locked) == (3, 1, false), "{first:?}");
    ensure!(first.recording() == v1::RecordingState::Off && second.recording() == v1::RecordingState::On && second.locked);
    ensure!((second.connected_count, second.pending_count) == (2, 0), "{second:?}");
    for it in &goes_on {
        let began = stack.conference_on_switch(it)?.started_at;
        ensure!(it.start_time.is_some_and(|at| at.seconds == began.as_second()), "{it:?}");
        let lasted = jiff::Timestamp::now().as_second() - began.as_second();
        ensure!(it.duration.is_some_and(|duration| (lasted - 2..=lasted + 2).contains(&duration.seconds)), "{it:?}");
        ensure!(it.participants.is_empty(), "the roster was not asked for");
    }
    // The duration grows while it goes on.
    let longer = |it: &v1::Conference| it.duration.map(|it| (it.seconds, it.nanos)) > first.duration.map(|it| (it.seconds, it.nanos));
    stack.conference_when(&plain.id, "the duration grows", longer).await?;

    let rosters = list(false, true).await?;
    for it in &rosters {
        sound(it)?;
    }
    let all = list(true, false).await?;
    let over = all.iter().find(|it| it.id == ended.id).context("the ended one is not in the list")?;
    ensure!(all.len() == 3 && over.state() == v1::ConferenceState::Ended, "{all:?}");
    let (start, end) = (over.start_time.context("start")?, over.end_time.context("end")?);
    let lasted = |it: &v1::Conference| it.duration.map(|it| (it.seconds, it.nanos));
    ensure!(over.duration.is_some_and(|it| (it.seconds - (end.seconds - start.seconds)).abs() <= 1), "{over:?}");
    ensure!(lasted(over) == lasted(&stack.conference(&ended.id).await?), "what is over lasts no longer");
    ensure!((over.connected_count, over.pending_count) == (0, 0), "{over:?}");
    stack.stop().await
}

#[tokio::test]
async fn a_long_list_is_read_in_pages_without_one_twice_or_missing_newest_first() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let switch = stack.sim.switch();
    let mut wanted: Vec<String> = Vec::new();
    for number in 1..=23 {
        let name = format!("Meeting {number}");
        wanted.push(switch.create_conference(stack.domain(), ConferenceRequest { name, ..ConferenceRequest::default() })?);
    }
    wanted.sort_unstable();
    eventually("all are known", async || stack.listed(false).await.ok().filter(|all| all.len() == 23)).await?;
    let page = async |page_token: String| {
        let request = v1::ListConferencesRequest { domain: stack.domain().to_owned(), page_size: 5, page_token, ..Default::default() };
        stack.conferences().list_conferences(request).await.map(Response::into_inner)
    };
    let (mut token, mut found, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let answer = page(token).await?;
        pages += 1;
        found.extend(answer.conferences);
        token = answer.next_page_token;
        if pages == 2 {
            // One ends and one begins between two pages: neither makes another appear twice or go missing.
            let gone = found.first().context("an empty page")?.clone();
            switch.end_conference(stack.domain(), &gone.switch_conference_id)?;
            stack.conference_when(&gone.id, "it has ended", |it| it.state() == v1::ConferenceState::Ended).await?;
        }
        if token.is_empty() {
            break;
        }
    }
    ensure!(pages == 5, "{pages} pages");
    let starts: Vec<i64> = found.iter().filter_map(|it| it.start_time).map(|at| at.seconds).collect();
    ensure!(starts.is_sorted_by(|a, b| a >= b), "{starts:?}");
    let mut ids: Vec<String> = found.into_iter().map(|it| it.switch_conference_id).collect();
    ids.sort_unstable();
    ensure!(ids == wanted, "{ids:?} is not {wanted:?}");
    stack.stop().await
}

#[tokio::test]
async fn a_command_with_the_same_request_id_is_done_once_and_with_another_request_refused() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let request = v1::CreateConferenceRequest {
        request_id: request_id(),
        domain: stack.domain().to_owned(),
        name: "Once".to_owned(),
        numbers: texts(&["1001", "1002"]),
        ..Default::default()
    };
    let mut client = stack.conferences();
    let first = client.create_conference(request.clone()).await?.into_inner().conference.context("no conference")?;
    let again = client.create_conference(request.clone()).await?.into_inner().conference.context("no conference")?;
    ensure!(first.id == again.id && stack.sim.switch().conferences(None).len() == 1);
    ensure!(numbers(&again) == ["1001", "1002"], "the roster as it is now: {again:?}");
    let other = v1::CreateConferenceRequest { name: "Twice".to_owned(), ..request };
    ensure!(reason(client.create_conference(other).await)? == Reason::RequestIdReused);
    stack.stop().await
}
