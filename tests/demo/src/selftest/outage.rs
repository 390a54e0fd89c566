//! The switch goes away in the middle of a call and a conference: once it comes back with its state, changed meanwhile; once it is
//! killed and comes back knowing nothing. Each time the agent must end up with exactly what the switch has.

use std::time::Duration;

use elph_proto::v1::{self, CallState, EndCause, LegState, LinkState, ParticipantStatus};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Scene, call, inside, is, talk};
use crate::{
    control::{Control, flag, items, text},
    report::Report,
    seen::{Missed, PATIENCE, Seen, leg_word, status_word},
    stage::DOMAIN,
};

/// Pause between two looks at the switch while nothing comes in.
const LOOK: Duration = Duration::from_millis(20);

struct Ongoing {
    /// Our id of the call that goes on through the outage.
    stays: String,
    /// Our id of the call that ends during it.
    ends: String,
    /// Our id of the conference.
    conference: String,
    /// The switch's id of it.
    switch_conference: String,
    /// How often the links had been opened.
    sessions: u64,
}

pub(super) async fn play(scene: &mut Scene, report: &mut Report) -> anyhow::Result<()> {
    report.group("The switch restarts and keeps its state");
    let before = report.step("two calls and a conference from a template, all answered", set_out(scene)).await?;
    report.step("the switch goes down: every link is down, /readyz says so", goes_down(scene)).await?;
    report.step("meanwhile one call ends, another begins, somebody leaves", meanwhile(scene, &before)).await?;
    report.step("it is back: every link is up, with a new session", comes_back(scene, &before)).await?;
    report.step("resync: the agent has what the switch has", same_as_switch(scene)).await?;
    report.step("the call that went on has kept its id, the other has ended", survived(scene, &before)).await?;

    report.group("The switch is killed and comes back knowing nothing");
    report.step("SIGKILL: every link is down", killed(scene)).await?;
    report.step("started again: every link is up", started_again(scene)).await?;
    report.step("resync: calls ended as lost, the conference ended, lists empty", forgotten(scene, &before)).await?;
    report.step("a new call works: made, answered, released", once_more(scene)).await
}

async fn set_out(scene: &mut Scene) -> anyhow::Result<Ongoing> {
    let stays = talk(scene, "1031", "1032").await?;
    let ends = talk(scene, "1033", "1034").await?;
    let request = v1::CreateConferenceRequest {
        request_id: e2e::request_id(),
        domain: DOMAIN.to_owned(),
        name: "Dispatchers".to_owned(),
        initiator_alias: "1041".to_owned(),
        source: Some(v1::create_conference_request::Source::Template("briefing".to_owned())),
        groups: vec!["100".to_owned(), "200".to_owned()],
        ..v1::CreateConferenceRequest::default()
    };
    let made = inside(scene.conferences.create_conference(request).await?.into_inner().conference, "the conference")?;
    let roster = scene
        .seen
        .until("the groups' members ring", |seen| {
            let conference = seen.conference(&made.id)?;
            let all_ring = conference.participants.iter().all(|member| member.status() == ParticipantStatus::Alerting);
            (all_ring && conference.participants.len() >= 7).then(|| conference.participants.clone())
        })
        .await?;
    for member in &roster {
        scene.control.member(&made.switch_conference_id, &member.number, "pick_up").await?;
    }
    scene
        .seen
        .until("all are in", |seen| {
            let conference = seen.conference(&made.id)?;
            (usize::try_from(conference.connected_count).ok()? == roster.len()).then_some(())
        })
        .await?;
    let sessions = scene.seen.view.links.values().map(|link| link.sessions).sum();
    Ok(Ongoing { stays, ends, conference: made.id, switch_conference: made.switch_conference_id, sessions })
}

async fn all_down(seen: &mut Seen) -> anyhow::Result<()> {
    let none_up = |seen: &Seen| seen.view.links.values().all(|link| link.state() != LinkState::Up).then_some(());
    seen.until("no link is up", none_up).await
}

async fn goes_down(scene: &mut Scene) -> anyhow::Result<()> {
    scene.control.node(false).await?;
    all_down(&mut scene.seen).await?;
    let (status, body) = scene.stage.agent().get("/readyz").await?;
    super::ensure(status == 503, "/readyz answers 503", || format!("{status} {}", body.trim()))
}

async fn meanwhile(scene: &mut Scene, before: &Ongoing) -> anyhow::Result<()> {
    let control = &scene.control;
    control.phone("1034", "hang_up", json!({})).await?;
    control.phone("1035", "dial", json!({ "to": "1036" })).await?;
    control.phone("1036", "answer", json!({})).await?;
    control.member(&before.switch_conference, "1003", "leave").await?;
    control.member(&before.switch_conference, "1004", "ask_floor").await?;
    // The agent cannot know: what it knew last still stands.
    scene.seen.read_for(LOOK).await?;
    is(scene.seen.call(&before.ends), "1034", LegState::Connected)
        .ok_or_else(|| Missed { expected: "the call's last known state".to_owned(), seen: scene.seen.summary() }.into())
}

async fn comes_back(scene: &mut Scene, before: &Ongoing) -> anyhow::Result<()> {
    scene.control.restart_with_state().await?;
    scene.control.node(true).await?;
    all_up(&mut scene.seen).await?;
    let sessions: u64 = scene.seen.view.links.values().map(|link| link.sessions).sum();
    super::ensure(sessions > before.sessions, "more sessions than before", || sessions.to_string())
}

async fn all_up(seen: &mut Seen) -> anyhow::Result<()> {
    seen.until("every link up again", |seen| seen.links_up().then_some(())).await
}

async fn survived(scene: &mut Scene, before: &Ongoing) -> anyhow::Result<()> {
    scene
        .seen
        .until("the first call connected under its id, the second ended, a new one, 1003 gone", |seen| {
            let stays = seen.view.calls.get(&before.stays)?;
            is(Some(stays), "1031", LegState::Connected)?;
            seen.ended_calls.get(&before.ends)?;
            seen.view.calls.values().find_map(|call| is(Some(call), "1036", LegState::Connected))?;
            let conference = seen.conference(&before.conference)?;
            conference.participants.iter().all(|member| member.number != "1003").then_some(())
        })
        .await?;
    let request = v1::GetCallRequest { call_id: before.stays.clone() };
    let stays = inside(scene.calls.get_call(request).await?.into_inner().call, "the call")?;
    super::ensure(stays.state() == CallState::Connected, "GetCall: connected", || crate::seen::describe_call(&stays))
}

async fn killed(scene: &mut Scene) -> anyhow::Result<()> {
    scene.stage.kill_switch().await?;
    all_down(&mut scene.seen).await
}

async fn started_again(scene: &mut Scene) -> anyhow::Result<()> {
    scene.stage.start_switch().await?;
    all_up(&mut scene.seen).await
}

async fn forgotten(scene: &mut Scene, before: &Ongoing) -> anyhow::Result<()> {
    scene
        .seen
        .until("the calls ended as lost, the conference ended, nothing goes on", |seen| {
            let lost = seen.ended_calls.get(&before.stays)?.end_cause() == EndCause::Lost;
            seen.ended_conferences.get(&before.conference)?;
            (lost && seen.view.calls.is_empty() && seen.view.conferences.is_empty()).then_some(())
        })
        .await?;
    same_as_switch(scene).await?;
    let calls = v1::ListCallsRequest { domain: DOMAIN.to_owned(), ..v1::ListCallsRequest::default() };
    let calls = scene.calls.list_calls(calls).await?.into_inner().calls.len();
    let conferences = v1::ListConferencesRequest { domain: DOMAIN.to_owned(), ..v1::ListConferencesRequest::default() };
    let conferences = scene.conferences.list_conferences(conferences).await?.into_inner().conferences.len();
    super::ensure(calls + conferences == 0, "empty lists", || format!("{calls} calls, {conferences} conferences"))
}

async fn once_more(scene: &mut Scene) -> anyhow::Result<()> {
    let id = talk(scene, "1051", "1052").await?;
    call::release(scene, &id).await
}

// === The comparison ===

async fn same_as_switch(scene: &mut Scene) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let (ours, theirs) = (of_agent(&scene.seen), of_switch(&scene.control).await?);
        if ours == theirs {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Missed { expected: format!("as on the switch: {}", theirs.join("; ")), seen: ours.join("; ") }.into());
        }
        scene.seen.read_for(LOOK).await?;
    }
}

/// Calls with their legs and conferences with their rosters, one line each, sorted.
fn of_agent(seen: &Seen) -> Vec<String> {
    let calls = seen.view.calls.values().map(|call| {
        let legs = call.legs.iter().filter(|leg| leg.state() != LegState::Released);
        one_line(&call.switch_call_id, legs.map(|leg| format!("{} {}", leg.device, leg_word(leg.state()))).collect())
    });
    let conferences = seen.view.conferences.values().map(|conference| {
        let members = conference.participants.iter().map(|member| {
            format!("{} {} muted:{} floor:{}", member.number, status_word(member.status()), member.muted, member.floor_requested)
        });
        one_line(&format!("{} locked:{}", conference.switch_conference_id, conference.locked), members.collect())
    });
    sorted(calls.chain(conferences).collect())
}

async fn of_switch(control: &Control) -> anyhow::Result<Vec<String>> {
    let (calls, conferences) = (control.calls().await?, control.conferences().await?);
    let calls = calls.iter().map(|call| {
        let legs = items(call, "legs").iter().filter(|leg| text(leg, "state") != "released");
        one_line(&text(call, "id"), legs.map(|leg| format!("{} {}", text(leg, "device"), text(leg, "state"))).collect())
    });
    let member = |member: &Value| {
        let (number, status) = (text(member, "number"), text(member, "status"));
        format!("{number} {status} muted:{} floor:{}", !flag(member, "voice"), flag(member, "floor"))
    };
    let conferences = conferences.iter().map(|conference| {
        let head = format!("{} locked:{}", text(conference, "id"), flag(conference, "locked"));
        one_line(&head, items(conference, "members").iter().map(member).collect())
    });
    Ok(sorted(calls.chain(conferences).collect()))
}

fn one_line(head: &str, parts: Vec<String>) -> String {
    format!("{head} ({})", sorted(parts).join(", "))
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}
