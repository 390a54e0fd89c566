//! Clients that others wrote: Python's grpcio with stubs generated from `proto/`, and buf by server reflection, each performing one call
//! and one conference. Left out, and said so, where they cannot be installed; `make test` requires them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "what fails in a helper fails the test; a test tells what it left out"
)]

use std::{path::PathBuf, process::Stdio, time::Duration};

use e2e::{PATIENCE, Stack, StackOptions, request_id};
use ssw_core::Answer;
use ssw_sim::SimOptions;
use tokio::process::Command;

/// How long one foreign client may take for everything.
const WHOLE: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A tool that `packaging/dev-setup test` installs.
fn tool(name: &str) -> Option<PathBuf> {
    let path = root().join("target/tools").join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("ELPH_TEST_TOOLS").is_none(), "{} is required here: packaging/dev-setup test", path.display());
    println!("left out: {} is not installed", path.display());
    None
}

async fn stack() -> Stack {
    let sim = SimOptions { answer: Answer::After { ms: 100 }, ..SimOptions::default() };
    Stack::start(StackOptions { sim, ..StackOptions::default() }).await.unwrap()
}

async fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(WHOLE, output).await.expect("the client took too long").unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

#[tokio::test]
async fn python_s_grpcio_performs_a_call_and_a_conference() {
    let Some(python) = tool("venv/bin/python") else { return };
    let stack = stack().await;
    let text = run(Command::new(python)
        .arg(root().join("tests/e2e/python/client.py"))
        .arg(root().join("proto"))
        .arg(stack.directory.join("grpc.sock"))
        .arg(stack.domain()))
    .await;
    assert!(text.contains("ok  resumed by events alone"), "{text}");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn buf_performs_a_call_and_a_conference_by_reflection() {
    let Some(buf) = tool("bin/buf") else { return };
    let stack = stack().await;
    let socket = stack.directory.join("grpc.sock");
    let ask = async |method: &str, body: serde_json::Value| -> serde_json::Value {
        let text = run(Command::new(&buf)
            .args(["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--unix-socket"])
            .arg(&socket)
            .args(["--data", &body.to_string()])
            .arg(format!("http://localhost/elph.agent.v1.{method}")))
        .await;
        serde_json::from_str(&text).unwrap()
    };
    let domain = stack.domain();
    let call = serde_json::json!({ "requestId": request_id(), "domain": domain, "fromAlias": "1001", "toNumber": "1002" });
    let made = ask("CallService/MakeCall", call).await;
    let id = made.pointer("/call/id").unwrap().clone();
    let answered = async {
        loop {
            let now = ask("CallService/GetCall", serde_json::json!({ "callId": id })).await;
            if now.pointer("/call/state").is_some_and(|state| state == "CALL_STATE_CONNECTED") {
                return now;
            }
        }
    };
    let now = tokio::time::timeout(PATIENCE, answered).await.expect("the call was not answered");
    assert_eq!(now.pointer("/call/answeredBy").unwrap(), "1002");
    let released = ask("CallService/ReleaseCall", serde_json::json!({ "requestId": request_id(), "callId": id })).await;
    assert_eq!(released.pointer("/call/state").unwrap(), "CALL_STATE_ENDED");

    let wanted = serde_json::json!({ "requestId": request_id(), "domain": domain, "name": "buf", "numbers": ["1003", "1004"] });
    let created = ask("ConferenceService/CreateConference", wanted).await;
    let id = created.pointer("/conference/id").unwrap().clone();
    let locked = ask("ConferenceService/LockConference", serde_json::json!({ "requestId": request_id(), "conferenceId": id })).await;
    assert_eq!(locked.pointer("/conference/locked").unwrap(), true);
    let ended = ask("ConferenceService/EndConference", serde_json::json!({ "requestId": request_id(), "conferenceId": id })).await;
    assert_eq!(ended.pointer("/conference/state").unwrap(), "CONFERENCE_STATE_ENDED");
    stack.stop().await.unwrap();
}
