//! How the agent's HTTP/2 gets along with that of gRPC's C core (Python's grpcio), frame by frame: cancellation, many streams on one
//! connection, keep-alive, compression, deadlines, and what is too large. The scenarios are in `tests/e2e/python/transport.py`.

use std::time::Duration;

use e2e::{
    Stack, StackOptions,
    foreign::{python, root, run},
};
use ssw_core::Answer;
use ssw_sim::SimOptions;

/// Runs one scenario against an agent of its own.
async fn scenario(name: &str, switch_takes: Duration) -> anyhow::Result<()> {
    let Some(mut client) = python("transport.py")? else { return Ok(()) };
    let sim = SimOptions { answer: Answer::After { ms: 100 }, ..SimOptions::default() };
    let stack = Stack::start(StackOptions { sim, ..StackOptions::default() }).await?;
    if !switch_takes.is_zero() {
        stack.sim.faults().set_delay(ssw_sim::Link::CallApi, 0, switch_takes);
    }
    let metrics = format!("http://{}/metrics", stack.agent.http());
    client.arg(name).arg(root().join("proto")).arg(stack.directory.join("grpc.sock")).arg(metrics).arg(stack.domain());
    run(client).await?;
    stack.stop().await
}

#[tokio::test]
async fn a_cancelled_stream_and_those_of_a_client_that_is_gone_are_closed_here_too() -> anyhow::Result<()> {
    scenario("cancellation", Duration::ZERO).await
}

#[tokio::test]
async fn fifty_streams_on_one_connection_all_tell_of_a_call_and_end() -> anyhow::Result<()> {
    scenario("many", Duration::ZERO).await
}

#[tokio::test]
async fn keep_alive_pings_are_answered_at_any_interval_idle_or_beside_a_stream() -> anyhow::Result<()> {
    scenario("keepalive", Duration::ZERO).await
}

#[tokio::test]
async fn compressed_requests_are_refused_and_told_what_is_accepted() -> anyhow::Result<()> {
    scenario("compression", Duration::ZERO).await
}

#[tokio::test]
async fn the_callers_deadline_is_kept_here_too_and_a_late_answer_can_be_asked_for_again() -> anyhow::Result<()> {
    scenario("deadline", Duration::from_millis(600)).await
}

#[tokio::test]
async fn messages_and_metadata_that_are_too_large_or_undecodable_are_refused_and_the_connection_goes_on() -> anyhow::Result<()> {
    scenario("limits", Duration::ZERO).await
}
