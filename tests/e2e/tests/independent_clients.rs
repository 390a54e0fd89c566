//! Clients that others wrote: Python's grpcio with stubs generated from `proto/`, over the Unix socket and over mutual TLS, gRPC's own
//! clients for health and reflection, and buf by server reflection, each performing one call and one conference. How their transport
//! gets along with the agent's is in `transport.rs`.

use anyhow::{Context, ensure};
use e2e::{
    Stack, StackOptions, eventually,
    foreign::{Buf, Foreign, buf, python, root, run},
    guard::{Authority, Files, grant},
    request_id,
};
use serde_json::{Value, json};
use ssw_core::Answer;
use ssw_sim::SimOptions;

const ONE: &str = "biysk.local";
const OTHER: &str = "barnaul.local";

/// Everybody answers by themselves.
fn answering() -> SimOptions {
    SimOptions { answer: Answer::After { ms: 100 }, ..SimOptions::default() }
}

async fn stack() -> anyhow::Result<Stack> {
    Stack::start(StackOptions { sim: answering(), ..StackOptions::default() }).await
}

#[tokio::test]
async fn python_s_grpcio_performs_a_call_and_a_conference() -> anyhow::Result<()> {
    let Some(mut client) = python("client.py")? else { return Ok(()) };
    let stack = stack().await?;
    client.arg(root().join("proto")).arg(stack.directory.join("grpc.sock")).arg(stack.domain());
    let text = run(client).await?;
    ensure!(text.contains("ok  resumed by events alone"), "{text}");
    stack.stop().await
}

#[tokio::test]
async fn python_s_grpcio_over_mutual_tls_is_let_in_by_its_certificate_and_does_what_its_scopes_allow() -> anyhow::Result<()> {
    let Some(mut client) = python("tls.py")? else { return Ok(()) };
    let files = Files::new()?;
    let forger = Authority::new()?;
    files.write("ca.pem", &files.authority.pem)?;
    files.write("forged-ca.pem", &forger.pem)?;
    // The forged one has a name that a grant knows.
    let clients =
        [("suite", "suite", &files.authority), ("reader", "reader", &files.authority), ("stranger", "stranger", &files.authority)];
    for (file, name, authority) in clients.into_iter().chain([("forged", "suite", &forger)]) {
        let signed = authority.sign(&format!("{name}.example"))?;
        files.write(&format!("{file}.pem"), &signed.certificate)?;
        files.write(&format!("{file}.key"), &signed.key)?;
    }
    let grants = [grant("suite", &[ONE], &["calls", "conferences", "events"], ""), grant("reader", &[ONE], &["calls:read"], "")];
    let sim = SimOptions { domains: vec![ONE.to_owned(), OTHER.to_owned()], ..answering() };
    let extra = format!("{}\n{}", files.config(), grants.concat());
    let stack = Stack::start(StackOptions { sim, extra, ..StackOptions::default() }).await?;
    client.arg(root().join("proto")).arg(stack.tls_address()?.to_string()).arg(files.path("")).args([ONE, OTHER]);
    let text = run(client).await?;
    ensure!(text.contains("ok  the others go on"), "{text}");
    // What was refused is counted, and no connection is left.
    for (reason, times) in [("MISSING_SCOPE", 3.0), ("DOMAIN_NOT_GRANTED", 1.0), ("CALLER_UNKNOWN", 1.0)] {
        let counted = stack.agent.metric(&format!("elph_agent_access_denied_total{{reason=\"{reason}\"}}")).await?;
        ensure!(counted == Some(times), "{reason}: {counted:?}");
    }
    let connections = async || stack.agent.metric("elph_agent_grpc_connections").await.ok()?.filter(|open| *open == 0.0);
    eventually("all connections are closed", connections).await?;
    stack.stop().await
}

#[tokio::test]
async fn grpc_s_own_clients_of_health_and_reflection_are_told_what_their_protocols_say() -> anyhow::Result<()> {
    let Some(mut client) = python("standard.py")? else { return Ok(()) };
    let stack = stack().await?;
    client.arg(stack.directory.join("grpc.sock")).arg(stack.domain());
    let mut client = Foreign::start(client)?;
    client.says("told SERVING").await?;
    stack.sim.faults().set_node(0, false);
    client.says("told NOT_SERVING").await?;
    stack.sim.faults().set_node(0, true);
    client.says("told SERVING").await?;
    client.finish().await?;
    stack.stop().await
}

/// The call once it is in this state.
async fn polled(buf: &Buf, id: &Value, state: &str) -> anyhow::Result<Value> {
    let look = async || {
        let now = buf.ask("CallService/GetCall", &json!({ "callId": id })).await;
        now.ok().filter(|now| now.pointer("/call/state").is_some_and(|it| it == state))
    };
    // Bounded, with a pause between.
    eventually(&format!("the call is in {state}"), look).await
}

#[tokio::test]
async fn buf_performs_a_call_and_a_conference_by_reflection() -> anyhow::Result<()> {
    let stack = stack().await?;
    let Some(buf) = buf(&stack)? else { return Ok(()) };
    let domain = stack.domain();
    let made = json!({ "requestId": request_id(), "domain": domain, "fromAlias": "1001", "toNumber": "1002" });
    let made = buf.ask("CallService/MakeCall", &made).await?;
    let id = made.pointer("/call/id").context("no id")?;
    let now = polled(&buf, id, "CALL_STATE_CONNECTED").await?;
    ensure!(now.pointer("/call/answeredBy").is_some_and(|it| it == "1002"), "{now}");
    let released = buf.ask("CallService/ReleaseCall", &json!({ "requestId": request_id(), "callId": id })).await?;
    ensure!(released.pointer("/call/state").is_some_and(|it| it == "CALL_STATE_ENDED"), "{released}");

    let wanted = json!({ "requestId": request_id(), "domain": domain, "name": "buf", "numbers": ["1003", "1004"] });
    let created = buf.ask("ConferenceService/CreateConference", &wanted).await?;
    let id = created.pointer("/conference/id").context("no id")?;
    let locked = buf.ask("ConferenceService/LockConference", &json!({ "requestId": request_id(), "conferenceId": id })).await?;
    ensure!(locked.pointer("/conference/locked").is_some_and(|it| it == true), "{locked}");
    let ended = buf.ask("ConferenceService/EndConference", &json!({ "requestId": request_id(), "conferenceId": id })).await?;
    ensure!(ended.pointer("/conference/state").is_some_and(|it| it == "CONFERENCE_STATE_ENDED"), "{ended}");
    stack.stop().await
}

#[tokio::test]
async fn buf_lists_every_method_and_reads_a_stream_for_as_long_as_it_wants() -> anyhow::Result<()> {
    let stack = stack().await?;
    let Some(buf) = buf(&stack)? else { return Ok(()) };
    let listed = run(buf.command(&["--list-methods"], "")).await?;
    for method in ["CallService/MakeCall", "ConferenceService/MuteAll", "EventService/Subscribe", "DirectoryService/ListSubscribers"] {
        ensure!(listed.lines().any(|line| line == format!("elph.agent.v1.{method}")), "{method} is not in\n{listed}");
    }
    ensure!(listed.lines().any(|line| line == "grpc.health.v1.Health/Watch"), "{listed}");
    ensure!(listed.lines().filter(|line| line.starts_with("elph.agent.v1.")).count() > 45, "{listed}");

    let made = json!({ "requestId": request_id(), "domain": stack.domain(), "fromAlias": "1001", "toNumber": "1002" });
    let made = buf.ask("CallService/MakeCall", &made).await?;
    let id = made.pointer("/call/id").context("no id")?;
    polled(&buf, id, "CALL_STATE_CONNECTED").await?;
    // A snapshot, a heartbeat, and the caller's own deadline: to buf that is an error of the call, as it should be.
    let request = json!({ "snapshot": {}, "heartbeatInterval": "1s" }).to_string();
    let output = buf.command(&["--timeout", "2500ms", "--data", &request], "/elph.agent.v1.EventService/Subscribe").output();
    let output = tokio::time::timeout(e2e::PATIENCE, output).await.context("the stream went on past its deadline")??;
    let errors: Value = serde_json::from_slice(&output.stderr).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(errors["code"] == "deadline_exceeded", "{errors}");
    let messages: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect();
    let messages = messages?;
    let calls: Vec<&Value> = messages.iter().filter_map(|it| it.pointer("/snapshot/calls")?.as_array()).flatten().collect();
    ensure!(calls.iter().any(|call| call["id"] == *id && call["answeredBy"] == "1002"), "{messages:?}");
    ensure!(messages.iter().any(|it| it.pointer("/snapshot/complete").is_some_and(|it| it == true)), "{messages:?}");
    ensure!(messages.iter().any(|it| it.get("heartbeat").is_some()), "{messages:?}");
    let open = async || stack.agent.metric("elph_agent_event_subscribers").await.ok()?.filter(|open| *open == 0.0);
    eventually("the stream is gone", open).await?;
    stack.stop().await
}
