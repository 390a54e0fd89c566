//! A call rings a simulated iPhone and an Android through Apple and Google, and both are told when it is answered elsewhere.

use e2e::pushes::{event, field, register};
use elph_proto::v1::{self, PushState};
use push_sim::{Arrival, Provider};
use serde_json::json;

use super::{Scene, call, ensure};
use crate::{report::Report, seen::Missed, stage::DOMAIN};

/// Whose devices they are.
const ALIAS: &str = "1032";

pub(super) async fn play(scene: &mut Scene, report: &mut Report) -> anyhow::Result<()> {
    report.group("Pushes");
    report.step("RegisterDevice: an iPhone and an Android of 1032", devices(scene)).await?;
    let call = report.step("MakeCall 1031 to 1032, 1031 picks up: 1032 rings", ringing(scene)).await?;
    report.step("Apple got a VoIP push, Google a data message, both with the call", rung(scene, &call)).await?;
    report.step("AnswerCall at 1032: both are told that it is answered", answered(scene, &call)).await?;
    report.step("GetPush: each went to its provider once", life(scene)).await?;
    report.step("1031 calls again and gives up: taken back, and told as missed", missed(scene)).await
}

async fn devices(scene: &mut Scene) -> anyhow::Result<()> {
    for (app, number) in [("ios", 1), ("android", 2)] {
        let device = register(scene.push.clone(), scene.stage.providers(), DOMAIN, ALIAS, app, number).await?;
        ensure(device.alias == ALIAS && !device.id.is_empty(), "the device with an id", || format!("{device:?}"))?;
    }
    Ok(())
}

async fn ringing(scene: &mut Scene) -> anyhow::Result<String> {
    let id = call::make(scene, "1031", ALIAS).await?;
    call::caller_picks_up(scene, &id, "1031", ALIAS).await?;
    Ok(id)
}

/// What the providers took, once both have so many of an event.
async fn both(scene: &Scene, wanted: &str, count: usize) -> anyhow::Result<Vec<Arrival>> {
    let of = |all: &[Arrival], provider| all.iter().filter(|it| it.provider == provider && event(it) == wanted).count();
    let enough = |all: &[Arrival]| of(all, Provider::Apns) >= count && of(all, Provider::Fcm) >= count;
    let taken = scene.stage.providers().taken("a push at each provider", enough).await;
    taken.map_err(|error| Missed { expected: format!("'{wanted}' at Apple and Google"), seen: error.root_cause().to_string() }.into())
}

async fn rung(scene: &Scene, call: &str) -> anyhow::Result<()> {
    let all = both(scene, "call", 1).await?;
    ensure(all.iter().all(|push| field(push, "call_id") == call), "our id of the call in both", || describe(&all))?;
    let voip = all.iter().any(|push| push.header("apns-push-type") == Some("voip"));
    ensure(voip, "a VoIP push at Apple", || describe(&all))
}

async fn answered(scene: &mut Scene, call: &str) -> anyhow::Result<()> {
    call::answer(scene, call, ALIAS).await?;
    let all = both(scene, "cancel", 1).await?;
    let told = all.iter().filter(|push| event(push) == "cancel").all(|push| field(push, "reason") == "answered_elsewhere");
    ensure(told, "the reason answered_elsewhere", || describe(&all))?;
    call::release(scene, call).await
}

async fn life(scene: &mut Scene) -> anyhow::Result<()> {
    let all = scene.stage.providers().taken("pushes", |all| !all.is_empty()).await?;
    for push in &all {
        let request = v1::GetPushRequest { domain: DOMAIN.to_owned(), push_id: field(push, "push_id") };
        let events = scene.push.get_push(request).await?.into_inner().events;
        let states: Vec<PushState> = events.iter().map(v1::PushEvent::state).collect();
        let once = states.iter().filter(|state| **state == PushState::Sent).count() == 1;
        let accepted = states.last() == Some(&PushState::Accepted);
        ensure(once && accepted, "sent once, then accepted", || format!("{states:?}"))?;
    }
    Ok(())
}

async fn missed(scene: &mut Scene) -> anyhow::Result<()> {
    scene.control.phone("1031", "dial", json!({ "to": ALIAS })).await?;
    both(scene, "call", 2).await?;
    scene.control.phone("1031", "hang_up", json!({})).await?;
    both(scene, "cancel", 2).await?;
    both(scene, "missed_call", 1).await.map(drop)
}

fn describe(all: &[Arrival]) -> String {
    let told: Vec<String> = all.iter().map(|push| format!("{:?} {} {}", push.provider, event(push), field(push, "call_id"))).collect();
    told.join("; ")
}
