//! Commands are done at most once: the same request id gives the same answer, over restarts too; a lost answer is made good by looking
//! at the switch or is called unknown, and never by doing it again; a client that goes away leaves nothing half done.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, bail, ensure};
use e2e::{
    Stack, StackOptions, eventually,
    phones::{in_time, leg, leg_state, on_the_line, reason, stays, until},
    request_id,
};
use elph_proto::{reason::Reason, v1};
use ssw_sim::{CutPoint, Link};
use tonic::Status;

/// A stack whose commands are given up soon.
async fn stack(calls: &'static str) -> anyhow::Result<Stack> {
    let mut options = StackOptions { calls, ..StackOptions::default() };
    options.extra.push_str("command_timeout = \"2s\"\n");
    Stack::start(options).await
}

/// The switch's name of a call command, by protocol.
fn name(stack: &Stack, calls: &str, csta: &str, operation: &str) -> String {
    let shape = stack.sim.dialect().operations.get(operation);
    if calls == "csta" { csta.to_owned() } else { shape.map(|shape| shape.name.clone()).unwrap_or_default() }
}

fn make(stack: &Stack, id: &str, to: &str) -> v1::MakeCallRequest {
    let (request_id, domain) = (id.to_owned(), stack.domain().to_owned());
    v1::MakeCallRequest { request_id, domain, from_alias: "1001".into(), to_number: to.into() }
}

async fn make_call(stack: &Stack, id: &str, to: &str) -> Result<v1::Call, Status> {
    let asked = make(stack, id, to);
    let answer = stack.calls().make_call(asked).await?;
    answer.into_inner().call.ok_or_else(|| Status::internal("an answer without a call"))
}

/// How many calls the switch has carried.
fn count(stack: &Stack) -> anyhow::Result<usize> {
    Ok(stack.carried()?.len())
}

fn is(answer: &Result<v1::Call, Status>, reason: Reason) -> bool {
    answer.as_ref().is_err_and(|status| Reason::of(status) == Some(reason))
}

#[tokio::test]
async fn the_same_request_id_gives_the_same_answer_and_is_done_once() -> anyhow::Result<()> {
    for calls in ["csta", "call_api"] {
        let stack = stack(calls).await?;
        let id = request_id();
        let at_once = (0..8).map(|_| make_call(&stack, &id, "1002"));
        let mut answers = BTreeSet::new();
        for answer in futures_all(at_once).await {
            answers.insert(answer?.id);
        }
        ensure!(answers.len() == 1 && count(&stack)? == 1, "{answers:?}");
        let call = stack.call(answers.first().context("no answer")?).await?;
        stack.calls().release_call(v1::ReleaseCallRequest { request_id: request_id(), call_id: call.id.clone() }).await?;
        ensure!(make_call(&stack, &id, "1002").await?.id == call.id, "long after, the answer is the same");
        ensure!(count(&stack)? == 1);
        stack.stop().await?;
    }
    Ok(())
}

async fn futures_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(move |context| {
        waiting.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() { std::task::Poll::Ready(std::mem::take(&mut done)) } else { std::task::Poll::Pending }
    })
    .await
}

#[tokio::test]
async fn the_same_request_id_with_another_command_is_refused() -> anyhow::Result<()> {
    let stack = stack("csta").await?;
    let id = request_id();
    let call = make_call(&stack, &id, "1002").await?;
    ensure!(is(&make_call(&stack, &id, "1003").await, Reason::RequestIdReused));
    let other = v1::ReleaseCallRequest { request_id: id.clone(), call_id: call.id.clone() };
    ensure!(reason(stack.calls().release_call(other).await)? == Reason::RequestIdReused);
    ensure!(count(&stack)? == 1 && stack.on_switch(&call).is_some());
    ensure!(is(&make_call(&stack, "", "1003").await, Reason::InvalidRequest));
    ensure!(is(&make_call(&stack, &"x".repeat(65), "1003").await, Reason::InvalidRequest));
    stack.stop().await
}

#[tokio::test]
async fn a_refusal_is_remembered_as_well() -> anyhow::Result<()> {
    let stack = stack("csta").await?;
    let id = request_id();
    stack.sim.faults().refuse_in_200("MakeCall", 1);
    ensure!(is(&make_call(&stack, &id, "1002").await, Reason::WrongState));
    ensure!(is(&make_call(&stack, &id, "1002").await, Reason::WrongState), "the switch was asked again");
    ensure!(count(&stack)? == 0);
    make_call(&stack, &request_id(), "1002").await?;
    ensure!(count(&stack)? == 1);
    stack.stop().await
}

/// A call is made while the link is cut at a point around it.
async fn cut_around_a_call(calls: &'static str, point: CutPoint) -> anyhow::Result<()> {
    let stack = stack(calls).await?;
    let id = request_id();
    let executed = usize::from(point != CutPoint::Before);
    stack.sim.faults().swallow_answer(&name(&stack, calls, "MakeCall", "call_make"), point, 1);
    let answer = in_time("an answer", make_call(&stack, &id, "1002")).await?;
    ensure!(count(&stack)? == executed, "{point:?}: {answer:?}");
    match &answer {
        // The switch has it: looking at it has shown that.
        Ok(call) => ensure!(executed == 1 && stack.on_switch(call).is_some(), "{point:?}: {call:?}"),
        Err(_) => ensure!(executed == 0 && is(&answer, Reason::OutcomeUnknown), "{point:?}: {answer:?}"),
    }
    stack.ready().await?;
    let again = make_call(&stack, &id, "1002").await;
    match (&answer, &again) {
        (Ok(first), Ok(second)) => ensure!(first.id == second.id),
        (Err(_), Err(_)) => ensure!(is(&again, Reason::OutcomeUnknown), "{again:?}"),
        _ => bail!("{point:?}: first {answer:?}, then {again:?}"),
    }
    ensure!(count(&stack)? == executed, "{point:?}: it was done again");
    stack.equal_to_the_switch().await?;
    make_call(&stack, &request_id(), "1003").await?;
    ensure!(count(&stack)? == executed + 1);
    stack.stop().await
}

#[tokio::test]
async fn csta_cut_before_the_switch_has_the_command_leaves_it_undone_and_unknown() -> anyhow::Result<()> {
    cut_around_a_call("csta", CutPoint::Before).await
}

#[tokio::test]
async fn csta_cut_in_the_middle_of_the_answer_is_made_good_by_a_snapshot() -> anyhow::Result<()> {
    cut_around_a_call("csta", CutPoint::During).await
}

#[tokio::test]
async fn csta_cut_before_the_answer_is_made_good_by_a_snapshot() -> anyhow::Result<()> {
    cut_around_a_call("csta", CutPoint::After).await
}

#[tokio::test]
async fn a_csta_answer_that_never_comes_is_made_good_by_a_snapshot() -> anyhow::Result<()> {
    cut_around_a_call("csta", CutPoint::Never).await
}

#[tokio::test]
async fn the_call_api_cut_before_the_switch_has_the_command_leaves_it_undone_and_unknown() -> anyhow::Result<()> {
    cut_around_a_call("call_api", CutPoint::Before).await
}

#[tokio::test]
async fn the_call_api_cut_in_the_middle_of_the_answer_is_made_good_by_a_snapshot() -> anyhow::Result<()> {
    cut_around_a_call("call_api", CutPoint::During).await
}

#[tokio::test]
async fn the_call_api_cut_before_the_answer_is_made_good_by_a_snapshot() -> anyhow::Result<()> {
    cut_around_a_call("call_api", CutPoint::After).await
}

#[tokio::test]
async fn a_call_api_answer_that_never_comes_is_made_good_by_a_snapshot() -> anyhow::Result<()> {
    cut_around_a_call("call_api", CutPoint::Never).await
}

#[tokio::test]
async fn a_transfer_around_which_the_link_is_cut_is_done_at_most_once_or_not_at_all() -> anyhow::Result<()> {
    for (calls, point) in [("csta", CutPoint::Before), ("csta", CutPoint::After), ("call_api", CutPoint::During)] {
        let stack = stack(calls).await?;
        let call = stack.talk("1001", "1002").await?;
        let name = name(&stack, calls, "SingleStepTransferCall", "call_transfer_blind");
        stack.sim.faults().swallow_answer(&name, point, 1);
        let asked = v1::TransferCallRequest { request_id: request_id(), leg: leg(&call, "1001"), to_number: "1003".into() };
        let answer = in_time("an answer", stack.calls().transfer_call(asked.clone())).await?;
        let executed = point != CutPoint::Before;
        match answer {
            Ok(answer) => {
                let after = answer.into_inner().call.context("no call")?;
                ensure!(executed && leg_state(&after, "1001") == v1::LegState::Released, "{point:?}: {after:?}");
            }
            Err(status) => ensure!(!executed && Reason::of(&status) == Some(Reason::OutcomeUnknown), "{point:?}: {status:?}"),
        }
        stack.ready().await?;
        let expected = if executed { ["1002", "1003"] } else { ["1001", "1002"] };
        let now = stack.call_when(&call.id, "the call is as the switch has it", |call| on_the_line(call) == expected).await?;
        ensure!(stack.switch_line(&now) == expected && stack.carried()?.len() == 1, "{point:?}");
        let again = stack.calls().transfer_call(asked).await;
        ensure!(again.is_ok() == executed, "{point:?}: {again:?}");
        ensure!(stack.switch_line(&now) == expected);
        stack.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_conference_around_whose_creation_the_link_is_cut_exists_at_most_once() -> anyhow::Result<()> {
    for point in [CutPoint::Before, CutPoint::During, CutPoint::After, CutPoint::Never] {
        let stack = stack("csta").await?;
        let name = name(&stack, "call_api", "", "conference_create");
        ensure!(!name.is_empty());
        stack.sim.faults().swallow_answer(&name, point, 1);
        let asked = v1::CreateConferenceRequest {
            request_id: request_id(),
            domain: stack.domain().to_owned(),
            name: "council".into(),
            initiator_alias: "1001".into(),
            numbers: vec!["1002".into()],
            ..Default::default()
        };
        let executed = usize::from(point != CutPoint::Before);
        for turn in 0..2 {
            let answer = in_time("an answer", stack.conferences().create_conference(asked.clone())).await?;
            let running = stack.sim.switch().conferences(None);
            ensure!(running.len() == executed, "{point:?}, turn {turn}: {answer:?}");
            match answer {
                Ok(answer) => {
                    let id = answer.into_inner().conference.map(|it| it.switch_conference_id);
                    ensure!(running.first().map(|it| it.id.clone()) == id, "{point:?}, turn {turn}");
                }
                Err(status) => ensure!(Reason::of(&status) == Some(Reason::OutcomeUnknown), "{point:?}, turn {turn}: {status:?}"),
            }
            stack.ready().await?;
        }
        stack.stop().await?;
    }
    Ok(())
}

/// Waits until the agent has taken a command.
async fn taken(stack: &Stack, id: &str) -> anyhow::Result<()> {
    let path = stack.directory.join("journal/requests");
    until("the agent has taken the command", || walk(&path).is_ok_and(|text| text.contains(id))).await
}

fn walk(path: &std::path::Path) -> std::io::Result<String> {
    if path.is_file() {
        return Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned());
    }
    let mut all = String::new();
    for entry in std::fs::read_dir(path)? {
        all.push_str(&walk(&entry?.path())?);
    }
    Ok(all)
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_half_made_transfer() -> anyhow::Result<()> {
    let stack = stack("csta").await?;
    let call = stack.talk("1001", "1002").await?;
    let asked = v1::ConsultCallRequest { request_id: request_id(), leg: leg(&call, "1001"), to_number: "1003".into() };
    let consulted = stack.calls().consult_call(asked).await?.into_inner().consultation_call.context("no consultation")?;
    stack.sim.switch().device_answer(stack.domain(), "1003")?;
    stack.call_when(&consulted.id, "the consulted party talks", |call| call.state() == v1::CallState::Connected).await?;
    stack.sim.faults().set_delay(Link::Csta, 0, Duration::from_millis(700));
    let id = request_id();
    let complete =
        v1::CompleteTransferRequest { request_id: id.clone(), held_leg: leg(&call, "1001"), consultation_leg: leg(&consulted, "1001") };
    let mut api = stack.calls();
    tokio::select! {
        answer = api.complete_transfer(complete.clone()) => bail!("the answer came before the client went away: {answer:?}"),
        taken = taken(&stack, &id) => taken?,
    }
    drop(api);
    until("the transfer is done on the switch", || stack.switch_line(&call) == ["1002", "1003"]).await?;
    stack.sim.faults().set_delay(Link::Csta, 0, Duration::ZERO);
    stack.equal_to_the_switch().await?;
    // Who comes back with the same id hears how it went.
    let answer = stack.calls().complete_transfer(complete).await?.into_inner().call.context("no call")?;
    ensure!(answer.id == call.id && leg_state(&answer, "1001") == v1::LegState::Released, "{answer:?}");
    ensure!(count(&stack)? == 2);
    stack.stop().await
}

#[tokio::test]
async fn request_ids_survive_a_restart_and_a_kill_of_the_agent() -> anyhow::Result<()> {
    let mut stack = stack("csta").await?;
    let id = request_id();
    let call = make_call(&stack, &id, "1002").await?;
    stack.restart_agent().await?;
    ensure!(make_call(&stack, &id, "1002").await?.id == call.id);
    ensure!(is(&make_call(&stack, &id, "1003").await, Reason::RequestIdReused));
    let second = request_id();
    let other = make_call(&stack, &second, "1003").await?;
    stack.crash_agent().await?;
    ensure!(make_call(&stack, &id, "1002").await?.id == call.id);
    ensure!(make_call(&stack, &second, "1003").await?.id == other.id);
    ensure!(count(&stack)? == 2);
    stack.equal_to_the_switch().await?;
    stack.stop().await
}

#[tokio::test]
async fn a_command_under_way_when_the_agent_is_killed_is_unknown_and_not_done_again() -> anyhow::Result<()> {
    let mut stack = stack("csta").await?;
    stack.sim.faults().swallow_answer("MakeCall", CutPoint::Never, 1);
    let id = request_id();
    let (mut api, asked) = (stack.calls(), make(&stack, &id, "1002"));
    let asking = tokio::spawn(async move { api.make_call(asked).await });
    until("the switch has the call", || stack.sim.switch().call_count(None) == 1).await?;
    stack.crash_agent().await?;
    ensure!(in_time("the first client's end", asking).await??.is_err());
    ensure!(is(&make_call(&stack, &id, "1002").await, Reason::OutcomeUnknown));
    stack.equal_to_the_switch().await?;
    ensure!(count(&stack)? == 1);
    stack.stop().await
}

#[tokio::test]
async fn a_command_that_was_not_sent_leaves_its_request_id_usable() -> anyhow::Result<()> {
    for calls in ["csta", "call_api"] {
        let stack = stack(calls).await?;
        stack.sim.faults().set_node(0, false);
        stack.link_when(calls, "the link is down", |link| link.state() != v1::LinkState::Up).await?;
        let id = request_id();
        let refused = in_time("a refusal", make_call(&stack, &id, "1002")).await?;
        ensure!(is(&refused, Reason::SwitchUnavailable), "{refused:?}");
        ensure!(count(&stack)? == 0);
        stack.sim.faults().set_node(0, true);
        stack.ready().await?;
        let call = eventually("the same id works", async || make_call(&stack, &id, "1002").await.ok()).await?;
        ensure!(make_call(&stack, &id, "1002").await?.id == call.id);
        stays("it was done once", Duration::from_millis(200), || stack.carried().is_ok_and(|calls| calls.len() == 1)).await?;
        stack.stop().await?;
    }
    Ok(())
}
