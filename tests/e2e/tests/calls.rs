//! Every command of `CallService` through the real agent, its effect seen through the API and on the switch: over CSTA and over the
//! Call API, in the simulator's own dialect and in three others, by configuration alone.
#![expect(clippy::print_stdout, reason = "a failed test tells its seed and what the agent logged")]

use anyhow::{Context, ensure};
use e2e::{
    Stack, StackOptions, eventually,
    phones::{Neighbour, in_time, leg, leg_state, on_the_line, reason, until},
    request_id,
};
use elph_proto::{reason::Reason, v1};
use ssw_core::{Answer, CallKind, Cause, EventKind, LegState};
use ssw_sim::SimOptions;
use tokio_stream::StreamExt;

/// What differs between the runs of the whole scenario.
fn with(calls: &'static str, seed: u64) -> StackOptions {
    println!("ssw-sim seed {seed}, calls over {calls}");
    StackOptions { sim: SimOptions { seed: Some(seed), ..SimOptions::default() }, calls, ..StackOptions::default() }
}

/// A new one each time; `ELPH_TEST_SEED` repeats one.
fn random_seed() -> u64 {
    let wanted = std::env::var("ELPH_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    wanted.unwrap_or_else(|| u64::from(rand::random::<u32>()))
}

/// Rings the caller, then the called, and answers both over the API.
async fn connected(stack: &Stack, from: &str, to: &str) -> anyhow::Result<v1::Call> {
    let made = stack.make(from, to).await?;
    if leg_state(&made, from) == v1::LegState::Initiated {
        ensure!(on_the_line(&made) == [from], "someone rings before the caller has answered: {made:?}");
        ensure!(stack.switch_line(&made) == [from]);
        let answered = stack.calls().answer_call(v1::AnswerCallRequest { request_id: request_id(), leg: leg(&made, from) }).await?;
        ensure!(leg_state(&answered.into_inner().call.context("no call")?, from) == v1::LegState::Connected);
    }
    let ringing = stack.call_when(&made.id, "the called party rings", |call| leg_state(call, to) == v1::LegState::Alerting).await?;
    ensure!(ringing.state() == v1::CallState::Alerting && ringing.answered_by.is_empty(), "{ringing:?}");
    let answered = stack.calls().answer_call(v1::AnswerCallRequest { request_id: request_id(), leg: leg(&made, to) }).await?;
    let call = answered.into_inner().call.context("no call")?;
    ensure!(call.state() == v1::CallState::Connected && call.answered_by == to && call.answer_time.is_some(), "{call:?}");
    ensure!((call.calling_number.as_str(), call.called_number.as_str()) == (from, to), "{call:?}");
    ensure!(call.id == made.id && stack.switch_leg(&call, to) == Some(LegState::Connected));
    Ok(call)
}

async fn consult(stack: &Stack, call: &v1::Call, from: &str, to: &str) -> anyhow::Result<(v1::Call, v1::Call)> {
    let asked = v1::ConsultCallRequest { request_id: request_id(), leg: leg(call, from), to_number: to.to_owned() };
    let answer = stack.calls().consult_call(asked).await?.into_inner();
    let (held, consultation) = (answer.held_call.context("no held call")?, answer.consultation_call.context("no consultation")?);
    ensure!(held.id == call.id && consultation.id != call.id);
    ensure!(leg_state(&held, from) == v1::LegState::Held && stack.switch_leg(&held, from) == Some(LegState::Held));
    // The answer may come with the first event of the new call: its leg is connected a moment later.
    stack.call_when(&consultation.id, "the consulting leg is connected", |call| leg_state(call, from) == v1::LegState::Connected).await?;
    stack.call_when(&consultation.id, "the consulted party rings", |call| leg_state(call, to) == v1::LegState::Alerting).await?;
    ensure!(stack.on_switch(&consultation).is_some_and(|call| call.kind == CallKind::Consultation));
    Ok((held, consultation))
}

/// Every command once; each effect is looked for in the API and in the switch.
async fn scenario(stack: &Stack) -> anyhow::Result<()> {
    let mut api = stack.calls();
    let domain = stack.domain().to_owned();
    let switch = stack.sim.switch();
    let phone = |alias: &str| switch.device_answer(&domain, alias);

    // Make, answer, hold, retrieve, DTMF.
    let call = connected(stack, "1001", "1002").await?;
    let held = api.hold_call(v1::HoldCallRequest { request_id: request_id(), leg: leg(&call, "1001") }).await?.into_inner().call;
    ensure!(held.is_some_and(|call| leg_state(&call, "1001") == v1::LegState::Held));
    ensure!(stack.switch_leg(&call, "1001") == Some(LegState::Held));
    let again = v1::RetrieveCallRequest { request_id: request_id(), leg: leg(&call, "1001") };
    let back = api.retrieve_call(again).await?.into_inner().call;
    ensure!(back.is_some_and(|call| leg_state(&call, "1001") == v1::LegState::Connected));
    ensure!(stack.switch_leg(&call, "1001") == Some(LegState::Connected));
    let mut heard = switch.subscribe();
    let digits = v1::SendDtmfRequest { request_id: request_id(), leg: leg(&call, "1001"), digits: "12*#".into() };
    api.send_dtmf(digits).await?;
    let played = async {
        loop {
            if let EventKind::Digits { digits, .. } = &heard.recv().await?.kind {
                return anyhow::Ok(digits.clone());
            }
        }
    };
    ensure!(in_time("the digits on the switch", played).await?? == "12*#");

    // Consult and cancel: the first call goes on.
    let (_, consultation) = consult(stack, &call, "1001", "1003").await?;
    phone("1003")?;
    stack.call_when(&consultation.id, "the consulted party talks", |call| call.state() == v1::CallState::Connected).await?;
    let cancel =
        v1::CancelTransferRequest { request_id: request_id(), held_leg: leg(&call, "1001"), consultation_leg: leg(&consultation, "1001") };
    let goes_on = api.cancel_transfer(cancel).await?.into_inner().call.context("no call")?;
    ensure!(goes_on.id == call.id && on_the_line(&goes_on) == ["1001", "1002"], "{goes_on:?}");
    stack.call_when(&consultation.id, "the consultation is over", |call| call.state() == v1::CallState::Ended).await?;
    ensure!(stack.on_switch(&consultation).is_none() && stack.switch_line(&goes_on) == ["1001", "1002"]);

    // Consult and complete: the other two talk, under the id of the first call.
    let (_, consultation) = consult(stack, &call, "1001", "1003").await?;
    phone("1003")?;
    stack.call_when(&consultation.id, "the consulted party talks", |call| call.state() == v1::CallState::Connected).await?;
    let complete = v1::CompleteTransferRequest {
        request_id: request_id(),
        held_leg: leg(&call, "1001"),
        consultation_leg: leg(&consultation, "1001"),
    };
    let transferred = api.complete_transfer(complete).await?.into_inner().call.context("no call")?;
    ensure!(transferred.id == call.id, "the call has another id: {transferred:?}");
    let transferred = stack.call_when(&call.id, "the two others talk", |call| on_the_line(call) == ["1002", "1003"]).await?;
    ensure!(transferred.state() == v1::CallState::Connected && stack.switch_line(&transferred) == ["1002", "1003"], "{transferred:?}");
    let merged = stack.call(&consultation.id).await?;
    ensure!(merged.state() == v1::CallState::Ended && merged.end_cause() == v1::EndCause::Transferred, "{merged:?}");
    ensure!(merged.continued_in == call.id, "{merged:?}");

    // Blind transfer: 1003 sends 1002 to 1004.
    let blind = v1::TransferCallRequest { request_id: request_id(), leg: leg(&transferred, "1003"), to_number: "1004".into() };
    let sent = api.transfer_call(blind).await?.into_inner().call.context("no call")?;
    ensure!(sent.id == call.id && leg_state(&sent, "1003") == v1::LegState::Released, "{sent:?}");
    let sent = stack.call_when(&call.id, "the transfer's target rings", |call| leg_state(call, "1004") == v1::LegState::Alerting).await?;
    phone("1004")?;
    let sent = stack.call_when(&sent.id, "the transfer's target talks", |call| leg_state(call, "1004") == v1::LegState::Connected).await?;
    ensure!(stack.switch_line(&sent) == ["1002", "1004"]);

    // A three-way, and one of the three leaves.
    let (_, consultation) = consult(stack, &sent, "1002", "1005").await?;
    phone("1005")?;
    stack.call_when(&consultation.id, "the third party talks", |call| call.state() == v1::CallState::Connected).await?;
    let join = v1::JoinCallsRequest { request_id: request_id(), held_leg: leg(&sent, "1002"), active_leg: leg(&consultation, "1002") };
    let joined = api.join_calls(join).await?.into_inner().call.context("no call")?;
    ensure!(joined.id == call.id);
    let joined = stack.call_when(&call.id, "three talk", |call| on_the_line(call) == ["1002", "1004", "1005"]).await?;
    ensure!(stack.switch_line(&joined) == ["1002", "1004", "1005"]);
    ensure!(stack.call(&consultation.id).await?.end_cause() == v1::EndCause::Conferenced);
    let leave = v1::ReleaseLegRequest { request_id: request_id(), leg: leg(&joined, "1002") };
    let two = api.release_leg(leave).await?.into_inner().call.context("no call")?;
    ensure!(two.state() == v1::CallState::Connected && on_the_line(&two) == ["1004", "1005"], "{two:?}");
    ensure!(stack.switch_line(&two) == ["1004", "1005"]);

    // Release: over, final, refused afterwards.
    let ended = api.release_call(v1::ReleaseCallRequest { request_id: request_id(), call_id: call.id.clone() }).await?;
    let ended = ended.into_inner().call.context("no call")?;
    ensure!(ended.state() == v1::CallState::Ended && ended.end_time.is_some() && ended.talk_duration.is_some(), "{ended:?}");
    ensure!(stack.on_switch(&ended).is_none());
    let late = api.hold_call(v1::HoldCallRequest { request_id: request_id(), leg: leg(&call, "1004") }).await;
    ensure!(reason(late)? == Reason::CallEnded);

    // Reject, and deflect.
    let call = ringing(stack, "1001", "1002").await?;
    let rejected = api.reject_call(v1::RejectCallRequest { request_id: request_id(), leg: leg(&call, "1002") }).await?;
    ensure!(leg_state(&rejected.into_inner().call.context("no call")?, "1002") == v1::LegState::Released);
    let over = stack.call_when(&call.id, "the call is over", |call| call.state() == v1::CallState::Ended).await?;
    ensure!(over.end_cause() == v1::EndCause::Rejected && over.answered_by.is_empty(), "{over:?}");
    ensure!(over.talk_duration.is_some_and(|talk| talk.seconds == 0 && talk.nanos == 0));
    ensure!(stack.carried()?.iter().any(|kept| kept.id == over.switch_call_id && kept.cause == Some(Cause::Rejected)));
    let call = ringing(stack, "1001", "1002").await?;
    let on = v1::DeflectCallRequest { request_id: request_id(), leg: leg(&call, "1002"), to_number: "1006".into() };
    let deflected = api.deflect_call(on).await?.into_inner().call.context("no call")?;
    ensure!(leg_state(&deflected, "1002") == v1::LegState::Released);
    stack.call_when(&call.id, "the new target rings", |call| leg_state(call, "1006") == v1::LegState::Alerting).await?;
    ensure!(stack.switch_leg(&call, "1006") == Some(LegState::Alerting));
    phone("1006")?;
    let answered = stack.call_when(&call.id, "the new target talks", |call| call.state() == v1::CallState::Connected).await?;
    ensure!(answered.answered_by == "1006", "{answered:?}");
    api.release_call(v1::ReleaseCallRequest { request_id: request_id(), call_id: call.id.clone() }).await?;
    stack.equal_to_the_switch().await?;
    ensure!(switch.call_count(None) == 0);
    let log = stack.agent.log();
    ensure!(!log.contains("comparing calls with the switch failed"), "{log}");
    Ok(())
}

/// A call that a subscriber dials at the phone, ringing.
async fn ringing(stack: &Stack, from: &str, to: &str) -> anyhow::Result<v1::Call> {
    let dialled = stack.sim.switch().dial(stack.domain(), from, to)?;
    stack.found(&dialled.call, |call| leg_state(call, to) == v1::LegState::Alerting).await
}

async fn whole(options: StackOptions) -> anyhow::Result<()> {
    let stack = Stack::start(options).await?;
    let done = scenario(&stack).await;
    if done.is_err() {
        println!("{}\n{}", stack.sim.dialect_toml(), stack.agent.log());
    }
    done?;
    stack.stop().await
}

#[tokio::test]
async fn every_command_works_over_csta() -> anyhow::Result<()> {
    whole(with("csta", 0)).await
}

#[tokio::test]
async fn every_command_works_over_the_call_api() -> anyhow::Result<()> {
    whole(with("call_api", 0)).await
}

#[tokio::test]
async fn every_command_works_over_csta_in_the_dialect_of_seed_1() -> anyhow::Result<()> {
    whole(with("csta", 1)).await
}

#[tokio::test]
async fn every_command_works_over_the_call_api_in_the_dialect_of_seed_1() -> anyhow::Result<()> {
    whole(with("call_api", 1)).await
}

#[tokio::test]
async fn every_command_works_over_csta_in_the_dialect_of_seed_2() -> anyhow::Result<()> {
    whole(with("csta", 2)).await
}

#[tokio::test]
async fn every_command_works_over_the_call_api_in_the_dialect_of_seed_2() -> anyhow::Result<()> {
    whole(with("call_api", 2)).await
}

#[tokio::test]
async fn every_command_works_over_csta_in_the_dialect_of_a_random_seed() -> anyhow::Result<()> {
    whole(with("csta", random_seed())).await
}

#[tokio::test]
async fn every_command_works_over_the_call_api_in_the_dialect_of_a_random_seed() -> anyhow::Result<()> {
    whole(with("call_api", random_seed())).await
}

#[tokio::test]
async fn a_call_placed_over_csta_shows_in_the_call_history_and_in_call_api_events() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let by_events = Neighbour::start(&stack, &StackOptions { calls: "call_api", ..StackOptions::default() }).await?;
    let by_history = Neighbour::start(&stack, &StackOptions { calls: "poll", ..StackOptions::default() }).await?;
    let twin = Neighbour::start(&stack, &StackOptions::default()).await?;
    let call = connected(&stack, "1001", "1002").await?;
    let connected = [v1::CallState::Connected];
    for (how, neighbour) in [("events", &by_events), ("history", &by_history), ("csta", &twin)] {
        let seen = eventually(how, async || {
            let calls = neighbour.calls(stack.domain(), &connected).await.ok()?;
            calls.into_iter().find(|seen| seen.switch_call_id == call.switch_call_id)
        });
        let seen = seen.await?;
        ensure!((seen.calling_number.as_str(), seen.called_number.as_str()) == ("1001", "1002"), "{how}: {seen:?}");
        ensure!(on_the_line(&seen) == ["1001", "1002"] && seen.answered_by == "1002", "{how}: {seen:?}");
        ensure!(seen.polled == (how == "history"), "{how}: {seen:?}");
        if how == "csta" {
            ensure!(seen.id == call.id, "both agents of a cluster have the same id for a call");
        }
    }
    stack.calls().release_call(v1::ReleaseCallRequest { request_id: request_id(), call_id: call.id.clone() }).await?;
    for neighbour in [&by_events, &by_history, &twin] {
        let ended = eventually("the other agents see the end", async || {
            let calls = neighbour.calls(stack.domain(), &[v1::CallState::Ended]).await.ok()?;
            calls.into_iter().find(|seen| seen.switch_call_id == call.switch_call_id)
        });
        ensure!(ended.await?.end_cause() == v1::EndCause::Normal);
    }
    stack.stop().await
}

#[tokio::test]
async fn calls_are_listed_in_pages_by_state_and_by_alias() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    for (from, to) in [("1001", "1002"), ("1003", "1004"), ("1005", "1006"), ("1007", "1008"), ("1009", "1010")] {
        stack.talk(from, to).await?;
    }
    let rings = ringing(&stack, "1011", "1012").await?;
    stack.sim.switch().device_hang_up(stack.domain(), "1001")?;
    let list = |request: v1::ListCallsRequest| {
        let (mut api, domain) = (stack.calls(), stack.domain().to_owned());
        async move { api.list_calls(v1::ListCallsRequest { domain, ..request }).await.map(tonic::Response::into_inner) }
    };
    stack.equal_to_the_switch().await?;
    let (mut token, mut pages, mut calls) = (String::new(), 0, Vec::new());
    loop {
        let page = list(v1::ListCallsRequest { page_size: 2, page_token: token, ..Default::default() }).await?;
        ensure!(page.calls.len() <= 2);
        calls.extend(page.calls);
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let ids: std::collections::HashSet<_> = calls.iter().map(|call| call.id.clone()).collect();
    ensure!(pages == 3 && calls.len() == 5 && ids.len() == 5, "{pages} pages: {calls:#?}");
    let newest_first = calls.is_sorted_by_key(|call| std::cmp::Reverse(call.start_time.map(|at| at.seconds)));
    ensure!(newest_first && calls.first().is_some_and(|call| call.id == rings.id), "{calls:#?}");
    let only = |state: v1::CallState| list(v1::ListCallsRequest { states: vec![state.into()], ..Default::default() });
    ensure!(only(v1::CallState::Alerting).await?.calls.iter().all(|call| call.id == rings.id));
    ensure!(only(v1::CallState::Connected).await?.calls.len() == 4);
    ensure!(only(v1::CallState::Ended).await?.calls.len() == 1);
    let of = list(v1::ListCallsRequest { alias: "1006".into(), ..Default::default() }).await?.calls;
    ensure!(of.len() == 1 && of.iter().all(|call| on_the_line(call) == ["1005", "1006"]), "{of:?}");
    ensure!(list(v1::ListCallsRequest { alias: "1099".into(), ..Default::default() }).await?.calls.is_empty());
    let elsewhere = stack.calls().list_calls(v1::ListCallsRequest { domain: "other.local".into(), ..Default::default() }).await;
    ensure!(reason(elsewhere)? == Reason::DomainNotGranted);
    let bad = stack.calls().list_calls(v1::ListCallsRequest { domain: stack.domain().into(), page_size: -1, ..Default::default() }).await;
    ensure!(reason(bad)? == Reason::InvalidRequest);
    stack.stop().await
}

#[tokio::test]
async fn a_watched_call_is_sent_with_each_change_until_it_has_ended() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let call = ringing(&stack, "1001", "1002").await?;
    let stream = stack.calls().watch_call(v1::WatchCallRequest { call_id: call.id.clone() }).await?;
    let watched = tokio::spawn(async move {
        let mut stream = stream.into_inner();
        let mut seen = Vec::new();
        while let Some(message) = stream.next().await {
            seen.push(message?.call.context("no call")?);
        }
        anyhow::Ok(seen)
    });
    let switch = stack.sim.switch();
    let (domain, id) = (stack.domain(), call.switch_call_id.as_str());
    switch.device_answer(domain, "1002")?;
    stack.call_when(&call.id, "connected", |call| call.state() == v1::CallState::Connected).await?;
    switch.hold(domain, id, "1002")?;
    stack.call_when(&call.id, "held", |call| leg_state(call, "1002") == v1::LegState::Held).await?;
    switch.release_call(domain, id)?;
    let seen = in_time("the stream's end", watched).await???;
    let versions: Vec<u64> = seen.iter().map(|call| call.version).collect();
    ensure!(versions.is_sorted_by(|left, right| left < right), "{versions:?}");
    ensure!(seen.first().is_some_and(|call| call.state() == v1::CallState::Alerting), "{seen:?}");
    ensure!(seen.iter().any(|call| leg_state(call, "1002") == v1::LegState::Held), "{seen:?}");
    ensure!(seen.last().is_some_and(|call| call.state() == v1::CallState::Ended), "{seen:?}");
    let unknown = stack.calls().watch_call(v1::WatchCallRequest { call_id: request_id() }).await;
    ensure!(unknown.is_err_and(|status| Reason::of(&status) == Some(Reason::UnknownCall)));
    stack.stop().await
}

#[tokio::test]
async fn what_cannot_be_done_has_its_own_reason() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let mut api = stack.calls();
    let make = |from: &str, to: &str| {
        let (mut api, domain) = (stack.calls(), stack.domain().to_owned());
        let request = v1::MakeCallRequest { request_id: request_id(), domain, from_alias: from.into(), to_number: to.into() };
        async move { api.make_call(request).await }
    };
    ensure!(reason(make("4711", "1002").await)? == Reason::UnknownAlias);
    ensure!(reason(make("1001", "4711").await)? == Reason::UnknownAlias);
    ensure!(reason(make("10 01", "1002").await)? == Reason::InvalidRequest);
    let call = stack.talk("1001", "1002").await?;
    let answer = |leg| v1::AnswerCallRequest { request_id: request_id(), leg };
    ensure!(reason(api.answer_call(answer(leg(&call, "1002"))).await)? == Reason::WrongState);
    ensure!(reason(api.answer_call(answer(leg(&call, "1003"))).await)? == Reason::UnknownLeg);
    let nowhere = v1::LegSelector { call_id: request_id(), leg_id: String::new(), device: "1001".into() };
    ensure!(reason(api.answer_call(answer(Some(nowhere))).await)? == Reason::UnknownCall);
    let busy = v1::TransferCallRequest { request_id: request_id(), leg: leg(&call, "1002"), to_number: "4711".into() };
    ensure!(reason(api.transfer_call(busy).await)? == Reason::UnknownAlias);
    ensure!(stack.switch_line(&call) == ["1001", "1002"], "a refused transfer changes nothing");
    let dtmf = v1::SendDtmfRequest { request_id: request_id(), leg: leg(&call, "1001"), digits: "12x".into() };
    ensure!(reason(api.send_dtmf(dtmf).await)? == Reason::InvalidRequest);
    let retrieve = v1::RetrieveCallRequest { request_id: request_id(), leg: leg(&call, "1001") };
    ensure!(reason(api.retrieve_call(retrieve).await)? == Reason::WrongState);
    stack.stop().await
}

/// The one call to a group, once it is over, with how often it was told of.
async fn group_call(stack: &Stack, group: &str, answers: &str) -> anyhow::Result<v1::Call> {
    let mut watch = stack.watch().await?;
    watch.until("the snapshot", |view| view.complete.then_some(())).await?;
    let dialled = stack.sim.switch().dial(stack.domain(), "1020", group)?;
    let rings = stack.found(&dialled.call, |call| leg_state(call, answers) == v1::LegState::Alerting).await?;
    stack.sim.switch().device_answer(stack.domain(), answers)?;
    let talks = stack
        .call_when(&rings.id, "only the member talks", |call| {
            call.state() == v1::CallState::Connected && on_the_line(call) == [answers, "1020"]
        })
        .await?;
    ensure!(talks.answered_by == answers, "{talks:?}");
    stack.sim.switch().device_hang_up(stack.domain(), "1020")?;
    let over = stack.call_when(&rings.id, "the call is over", |call| call.state() == v1::CallState::Ended).await?;
    let ended = |event: &v1::Event| matches!(&event.change, Some(v1::event::Change::Call(call)) if call.id == rings.id && call.state() == v1::CallState::Ended);
    while !watch.events().any(ended) {
        in_time("the end in the stream", watch.read()).await??;
    }
    let told: std::collections::HashSet<&str> = watch
        .events()
        .filter_map(|event| match &event.change {
            Some(v1::event::Change::Call(call)) => Some(call.id.as_str()),
            _ => None,
        })
        .collect();
    ensure!(told.len() == 1, "the call was told of as {} calls", told.len());
    ensure!(over.answered_by == answers && over.end_cause() == v1::EndCause::Normal, "{over:?}");
    Ok(over)
}

async fn trial_27(calls: &'static str, seed: u64) -> anyhow::Result<()> {
    let stack = Stack::start(with(calls, seed)).await?;
    // Ring group 600: 1001 to 1003 ring, the second answers, the others are not "missed".
    let ring = group_call(&stack, "600", "1002").await?;
    for other in ["1001", "1003"] {
        let cause = ring.legs.iter().find(|leg| leg.device == other).map(v1::Leg::end_cause);
        ensure!(cause == Some(v1::EndCause::AnsweredElsewhere), "{other}: {ring:?}");
    }
    // Queue 700: members are 1004 to 1006; the first ones refuse until the third is offered the call.
    stack.sim.switch().set_answer(stack.domain(), "1004", Answer::Reject)?;
    stack.sim.switch().set_answer(stack.domain(), "1005", Answer::Reject)?;
    let queue = group_call(&stack, "700", "1006").await?;
    ensure!(queue.id != ring.id && queue.called_number == "700", "{queue:?}");
    let carried = stack.carried()?;
    let of_switch = carried.iter().find(|call| call.id == queue.switch_call_id).context("not in the history")?;
    ensure!(of_switch.answered_by.as_deref() == Some("1006"));
    ensure!(carried.len() == 2, "one call per group in the history: {carried:#?}");
    stack.stop().await
}

#[tokio::test]
async fn trial_27_a_queue_or_group_call_is_one_call_and_names_who_answered_over_csta() -> anyhow::Result<()> {
    trial_27("csta", 0).await
}

#[tokio::test]
async fn trial_27_a_queue_or_group_call_is_one_call_and_names_who_answered_over_the_call_api() -> anyhow::Result<()> {
    trial_27("call_api", 1).await
}

#[tokio::test]
async fn a_call_nobody_answers_is_given_up_and_names_the_cause() -> anyhow::Result<()> {
    let sim = SimOptions { ring_time: std::time::Duration::from_millis(300), ..SimOptions::default() };
    let stack = Stack::start(StackOptions { sim, ..StackOptions::default() }).await?;
    let call = ringing(&stack, "1001", "1002").await?;
    let over = stack.call_when(&call.id, "the call is over", |call| call.state() == v1::CallState::Ended).await?;
    ensure!(over.end_cause() == v1::EndCause::NoAnswer && over.answer_time.is_none(), "{over:?}");
    stack.sim.switch().set_answer(stack.domain(), "1002", Answer::Busy)?;
    let busy = stack.sim.switch().dial(stack.domain(), "1001", "1002")?;
    let failed = stack.found(&busy.call, |call| matches!(call.end_cause(), v1::EndCause::Busy) || leg_failed(call)).await?;
    ensure!(failed.answered_by.is_empty(), "{failed:?}");
    stack.sim.switch().device_hang_up(stack.domain(), "1001")?;
    until("nothing goes on", || stack.sim.switch().call_count(None) == 0).await?;
    stack.equal_to_the_switch().await?;
    stack.stop().await
}

fn leg_failed(call: &v1::Call) -> bool {
    call.legs.iter().any(|leg| leg.state() == v1::LegState::Failed)
}
