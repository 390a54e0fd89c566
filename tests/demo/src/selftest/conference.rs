//! One conference: create, invite ten, mute all, floor, lock, end.

use elph_proto::v1::{self, Conference, ConferenceState, Participant, ParticipantRole, ParticipantStatus};
use serde_json::json;

use super::{Scene, ensure, inside, refused};
use crate::{
    report::Report,
    seen::{Seen, describe_conference},
    stage::DOMAIN,
};

const INVITED: std::ops::Range<u32> = 1011..1021;

/// Our id and the switch's.
pub(super) struct Ids {
    pub(super) ours: String,
    pub(super) switch: String,
}

pub(super) async fn play(scene: &mut Scene, report: &mut Report) -> anyhow::Result<()> {
    report.group("A conference");
    let ids = report.step("CreateConference, mastered by 1001, who picks up", create(scene)).await?;
    report.step("InviteParticipants 1011 to 1020: ten are called", invite(scene, &ids)).await?;
    report.step("they answer one after the other: eleven are in", everyone_in(scene, &ids)).await?;
    report.step("MuteAll, may not unmute themselves: all but the presenter", mute_all(scene, &ids)).await?;
    report.step("1013 tries to unmute: the switch refuses, 1013 stays muted", tries_to_unmute(scene, &ids)).await?;
    report.step("1014 asks for the floor: ListFloorRequests has it", ask(scene, &ids)).await?;
    report.step("GrantFloor to 1014: it has a microphone, and talks", grant(scene, &ids)).await?;
    report.step("LockConference", lock(scene, &ids)).await?;
    report.step("1021 dials in, and is invited: refused, CONFERENCE_LOCKED", locked_out(scene, &ids)).await?;
    report.step("UnlockConference: 1021 dials in, twelve are in", unlock(scene, &ids)).await?;
    report.step("EndConference: it has ended, with its duration", end(scene, &ids)).await
}

fn member<'a>(conference: &'a Conference, number: &str) -> Option<&'a Participant> {
    conference.participants.iter().find(|member| member.number == number)
}

fn muted(seen: &Seen, id: &str, number: &str) -> Option<bool> {
    member(seen.conference(id)?, number).map(|member| member.muted)
}

async fn get(scene: &mut Scene, ids: &Ids) -> anyhow::Result<Conference> {
    let request = v1::GetConferenceRequest { conference_id: ids.ours.clone() };
    inside(scene.conferences.get_conference(request).await?.into_inner().conference, "the conference")
}

async fn create(scene: &mut Scene) -> anyhow::Result<Ids> {
    let request = v1::CreateConferenceRequest {
        request_id: e2e::request_id(),
        domain: DOMAIN.to_owned(),
        name: "Morning briefing".to_owned(),
        initiator_alias: "1001".to_owned(),
        ..v1::CreateConferenceRequest::default()
    };
    let made = inside(scene.conferences.create_conference(request).await?.into_inner().conference, "the conference")?;
    scene.control.phone("1001", "answer", json!({})).await?;
    scene
        .seen
        .until("an active conference with 1001 connected as its presenter", |seen| {
            let conference = seen.conference(&made.id)?;
            let master = member(conference, "1001")?;
            let right = master.role() == ParticipantRole::Presenter && master.status() == ParticipantStatus::Connected;
            (right && conference.state() == ConferenceState::Active && conference.connected_count == 1).then_some(())
        })
        .await?;
    Ok(Ids { ours: made.id, switch: made.switch_conference_id })
}

async fn invite(scene: &mut Scene, ids: &Ids) -> anyhow::Result<()> {
    let request = v1::InviteParticipantsRequest {
        request_id: e2e::request_id(),
        conference_id: ids.ours.clone(),
        numbers: INVITED.map(|number| number.to_string()).collect(),
        ..v1::InviteParticipantsRequest::default()
    };
    let results = scene.conferences.invite_participants(request).await?.into_inner().results;
    let called = results.iter().filter(|result| result.reason.is_empty() && !result.participant_id.is_empty()).count();
    ensure(called == 10, "ten invitations accepted", || format!("{called}"))?;
    scene
        .seen
        .until("ten participants that ring", |seen| {
            let conference = seen.conference(&ids.ours)?;
            let ringing = conference.participants.iter().filter(|member| member.status() == ParticipantStatus::Alerting).count();
            (ringing == 10 && conference.pending_count == 10).then_some(())
        })
        .await
}

async fn everyone_in(scene: &mut Scene, ids: &Ids) -> anyhow::Result<()> {
    for (before, number) in INVITED.enumerate() {
        scene.control.phone(&number.to_string(), "answer", json!({})).await?;
        let expected = format!("{number} is in, {} of eleven", before + 2);
        scene
            .seen
            .until(&expected, |seen| {
                let conference = seen.conference(&ids.ours)?;
                let joined = member(conference, &number.to_string())?.status() == ParticipantStatus::Connected;
                (joined && usize::try_from(conference.connected_count).ok()? == before + 2).then_some(())
            })
            .await?;
    }
    Ok(())
}

async fn mute_all(scene: &mut Scene, ids: &Ids) -> anyhow::Result<()> {
    let request = v1::MuteAllRequest {
        request_id: e2e::request_id(),
        conference_id: ids.ours.clone(),
        may_unmute_themselves: Some(false),
        ..v1::MuteAllRequest::default()
    };
    scene.conferences.mute_all(request).await?;
    scene
        .seen
        .until("the ten are muted, the presenter is not, nobody may unmute", |seen| {
            let conference = seen.conference(&ids.ours)?;
            let right = conference.participants.iter().all(|member| member.muted == (member.role() != ParticipantRole::Presenter));
            (right && !conference.may_unmute_themselves).then_some(())
        })
        .await
}

async fn tries_to_unmute(scene: &mut Scene, ids: &Ids) -> anyhow::Result<()> {
    refused(scene.control.member(&ids.switch, "1013", "unmute").await, "no_right")?;
    let conference = get(scene, ids).await?;
    ensure(member(&conference, "1013").is_some_and(|member| member.muted), "1013 is muted", || describe_conference(&conference))
}

async fn ask(scene: &mut Scene, ids: &Ids) -> anyhow::Result<()> {
    scene.control.member(&ids.switch, "1014", "ask_floor").await?;
    scene
        .seen
        .until("1014 asks for the floor", |seen| {
            let member = member(seen.conference(&ids.ours)?, "1014")?;
            (member.floor_requested && member.floor_request_time.is_some()).then_some(())
        })
        .await?;
    let request = v1::ListFloorRequestsRequest { conference_id: ids.ours.clone() };
    let asking = scene.conferences.list_floor_requests(request).await?.into_inner().participants;
    let numbers: Vec<_> = asking.iter().map(|member| member.number.as_str()).collect();
    ensure(numbers == ["1014"], "1014 alone asks for the floor", || format!("{numbers:?}"))
}

async fn grant(scene: &mut Scene, ids: &Ids) -> anyhow::Result<()> {
    let conference = get(scene, ids).await?;
    let id = inside(member(&conference, "1014"), "1014")?.id.clone();
    let request = v1::GrantFloorRequest {
        request_id: e2e::request_id(),
        conference_id: ids.ours.clone(),
        expected_version: conference.version,
        participant_id: id,
    };
    scene.conferences.grant_floor(request).await?;
    scene
        .seen
        .until("1014 is not muted and asks no more, 1015 is still muted", |seen| {
            let asks = member(seen.conference(&ids.ours)?, "1014")?.floor_requested;
            (!asks && !muted(seen, &ids.ours, "1014")? && muted(seen, &ids.ours, "1015")?).then_some(())
        })
        .await?;
    scene.control.member(&ids.switch, "1014", "talk").await?;
    scene.seen.until("1014 talks", |seen| member(seen.conference(&ids.ours)?, "1014")?.talking.then_some(())).await
}

async fn lock(scene: &mut Scene, ids: &Ids) -> anyhow::Result<()> {
    let request = v1::LockConferenceRequest {
        request_id: e2e::request_id(),
        conference_id: ids.ours.clone(),
        ..v1::LockConferenceRequest::default()
    };
    scene.conferences.lock_conference(request).await?;
    scene.seen.until("the conference is locked", |seen| seen.conference(&ids.ours)?.locked.then_some(())).await
}

async fn locked_out(scene: &mut Scene, ids: &Ids) -> anyhow::Result<()> {
    refused(scene.control.member(&ids.switch, "1021", "join").await, "conference_locked")?;
    let request = v1::InviteParticipantsRequest {
        request_id: e2e::request_id(),
        conference_id: ids.ours.clone(),
        numbers: vec!["1021".to_owned()],
        ..v1::InviteParticipantsRequest::default()
    };
    let reason = match scene.conferences.invite_participants(request).await {
        Ok(answer) => answer.into_inner().results.first().map(|result| result.reason.clone()).unwrap_or_default(),
        Err(status) => elph_proto::reason::Reason::of(&status).map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
    };
    ensure(reason == "CONFERENCE_LOCKED", "the reason CONFERENCE_LOCKED", || format!("'{reason}'"))?;
    let conference = get(scene, ids).await?;
    let out = member(&conference, "1021").is_none() && conference.connected_count == 11;
    ensure(out, "eleven are in, 1021 is not", || describe_conference(&conference))
}

async fn unlock(scene: &mut Scene, ids: &Ids) -> anyhow::Result<()> {
    let request = v1::UnlockConferenceRequest {
        request_id: e2e::request_id(),
        conference_id: ids.ours.clone(),
        ..v1::UnlockConferenceRequest::default()
    };
    scene.conferences.unlock_conference(request).await?;
    scene.seen.until("the conference is open", |seen| (!seen.conference(&ids.ours)?.locked).then_some(())).await?;
    scene.control.member(&ids.switch, "1021", "join").await?;
    scene
        .seen
        .until("1021 is in, one of twelve", |seen| {
            let conference = seen.conference(&ids.ours)?;
            (member(conference, "1021")?.status() == ParticipantStatus::Connected && conference.connected_count == 12).then_some(())
        })
        .await
}

async fn end(scene: &mut Scene, ids: &Ids) -> anyhow::Result<()> {
    let request =
        v1::EndConferenceRequest { request_id: e2e::request_id(), conference_id: ids.ours.clone(), ..v1::EndConferenceRequest::default() };
    scene.conferences.end_conference(request).await?;
    scene
        .seen
        .until("the conference has ended and knows when and how long it was", |seen| {
            let conference = seen.ended_conferences.get(&ids.ours)?;
            (conference.end_time.is_some() && conference.duration.is_some()).then_some(())
        })
        .await?;
    let conference = get(scene, ids).await?;
    ensure(conference.state() == ConferenceState::Ended, "GetConference says that it has ended", || describe_conference(&conference))
}
