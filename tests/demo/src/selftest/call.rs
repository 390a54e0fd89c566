//! One call: click to call, answer, hold, retrieve, consultation, transfer, end.

use elph_proto::v1::{self, CallState, EndCause, LegState};
use serde_json::json;

use super::{Scene, ensure, inside, is, leg, select};
use crate::{report::Report, seen::describe_call, stage::DOMAIN};

pub(super) async fn play(scene: &mut Scene, report: &mut Report) -> anyhow::Result<()> {
    report.group("A call");
    let call = report.step("MakeCall 1001 to 1002: 1001 is rung first", make(scene, "1001", "1002")).await?;
    report.step("1001 picks up: 1002 rings", caller_picks_up(scene, &call, "1001", "1002")).await?;
    report.step("AnswerCall at 1002: both talk", answer(scene, &call, "1002")).await?;
    report.step("HoldCall at 1001", hold(scene, &call)).await?;
    report.step("RetrieveCall at 1001: both talk again", retrieve(scene, &call)).await?;
    let consultation = report.step("ConsultCall from 1001: 1002 is held, 1003 rings", consult(scene, &call)).await?;
    report.step("AnswerCall at 1003: 1001 talks to 1003", answer(scene, &consultation, "1003")).await?;
    report.step("CompleteTransfer: 1002 talks to 1003, 1001 has left", transfer(scene, &call, &consultation)).await?;
    report.step("ReleaseCall: it has ended, with its duration and cause", release(scene, &call)).await
}

pub(super) async fn make(scene: &mut Scene, from: &str, to: &str) -> anyhow::Result<String> {
    let request = v1::MakeCallRequest {
        request_id: e2e::request_id(),
        domain: DOMAIN.to_owned(),
        from_alias: from.to_owned(),
        to_number: to.to_owned(),
    };
    let id = inside(scene.calls.make_call(request).await?.into_inner().call, "the call")?.id;
    let expected = format!("a call that rings or prompts {from} and nobody else");
    scene
        .seen
        .until(&expected, |seen| {
            let call = seen.call(&id)?;
            let prompted = matches!(leg(call, from)?.state(), LegState::Initiated | LegState::Alerting);
            (prompted && leg(call, to).is_none()).then_some(())
        })
        .await?;
    Ok(id)
}

pub(super) async fn caller_picks_up(scene: &mut Scene, id: &str, from: &str, to: &str) -> anyhow::Result<()> {
    scene.control.phone(from, "answer", json!({})).await?;
    let expected = format!("{to} rings");
    scene.seen.until(&expected, |seen| is(seen.call(id), to, LegState::Alerting)).await
}

pub(super) async fn answer(scene: &mut Scene, id: &str, device: &str) -> anyhow::Result<()> {
    let request = v1::AnswerCallRequest { request_id: e2e::request_id(), leg: select(id, device) };
    scene.calls.answer_call(request).await?;
    let expected = format!("the call is connected, answered by {device}");
    scene
        .seen
        .until(&expected, |seen| {
            let call = seen.call(id)?;
            is(Some(call), device, LegState::Connected)?;
            let talking = call.legs.iter().filter(|leg| leg.state() == LegState::Connected).count();
            (call.state() == CallState::Connected && talking == 2 && call.answered_by == device).then_some(())
        })
        .await
}

async fn hold(scene: &mut Scene, id: &str) -> anyhow::Result<()> {
    scene.calls.hold_call(v1::HoldCallRequest { request_id: e2e::request_id(), leg: select(id, "1001") }).await?;
    scene.seen.until("1001's leg is held", |seen| is(seen.call(id), "1001", LegState::Held)).await
}

async fn retrieve(scene: &mut Scene, id: &str) -> anyhow::Result<()> {
    scene.calls.retrieve_call(v1::RetrieveCallRequest { request_id: e2e::request_id(), leg: select(id, "1001") }).await?;
    scene.seen.until("1001's leg is connected", |seen| is(seen.call(id), "1001", LegState::Connected)).await
}

async fn consult(scene: &mut Scene, id: &str) -> anyhow::Result<String> {
    let request = v1::ConsultCallRequest { request_id: e2e::request_id(), leg: select(id, "1001"), to_number: "1003".to_owned() };
    let consultation = inside(scene.calls.consult_call(request).await?.into_inner().consultation_call, "the consultation")?.id;
    scene
        .seen
        .until("1001 is held in the first call, 1003 rings in the second", |seen| {
            is(seen.call(id), "1001", LegState::Held).and(is(seen.call(&consultation), "1003", LegState::Alerting))
        })
        .await?;
    Ok(consultation)
}

async fn transfer(scene: &mut Scene, id: &str, consultation: &str) -> anyhow::Result<()> {
    let request = v1::CompleteTransferRequest {
        request_id: e2e::request_id(),
        held_leg: select(id, "1001"),
        consultation_leg: select(consultation, "1001"),
    };
    let after = inside(scene.calls.complete_transfer(request).await?.into_inner().call, "the call")?;
    ensure(after.id == id, "the call keeps its id through the transfer", || describe_call(&after))?;
    scene
        .seen
        .until("1002 and 1003 are connected in the first call, the second has ended as transferred", |seen| {
            let call = seen.call(id)?;
            is(Some(call), "1002", LegState::Connected)?;
            is(Some(call), "1003", LegState::Connected)?;
            let ended = seen.ended_calls.get(consultation)?;
            let merged = ended.end_cause() == EndCause::Transferred && ended.continued_in == id;
            (leg(call, "1001").is_none() && merged).then_some(())
        })
        .await
}

pub(super) async fn release(scene: &mut Scene, id: &str) -> anyhow::Result<()> {
    scene.calls.release_call(v1::ReleaseCallRequest { request_id: e2e::request_id(), call_id: id.to_owned() }).await?;
    scene
        .seen
        .until("the call has ended normally and knows how long people talked", |seen| {
            let call = seen.ended_calls.get(id)?;
            (call.end_cause() == EndCause::Normal && call.talk_duration.is_some() && call.end_time.is_some()).then_some(())
        })
        .await?;
    let call = inside(scene.calls.get_call(v1::GetCallRequest { call_id: id.to_owned() }).await?.into_inner().call, "the call")?;
    ensure(call.state() == CallState::Ended, "GetCall says that it has ended", || describe_call(&call))
}
