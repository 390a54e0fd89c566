//! The program and its control API, as a script meets them.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// One request on a connection of its own.
async fn ask(address: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let request =
        http::Request::builder().method(method).uri(path).header("host", "control").body(Full::<bytes::Bytes>::from(text)).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned())))
}

async fn start(directory: &Path) -> (Child, Value) {
    let ready = directory.join("ready.json");
    let child = Command::new(env!("CARGO_BIN_EXE_push-sim"))
        .args(["--seed", "42", "--apns-port", "0", "--fcm-port", "0", "--web-push-port", "0", "--control-port", "0"])
        .args(["--device", &format!("apns:{}:org.elph.phone", "ab".repeat(32)), "--device", "fcm:a:b", "--directory"])
        .arg(directory)
        .arg("--ready-file")
        .arg(&ready)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let began = Instant::now();
    loop {
        if let Ok(text) = std::fs::read_to_string(&ready) {
            return (child, serde_json::from_str(&text).unwrap());
        }
        assert!(began.elapsed() < PATIENCE, "push-sim does not get ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_program_writes_what_a_demo_needs_and_obeys_its_control_api() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, ready) = start(directory.path()).await;
    assert_eq!((&ready["seed"], &ready["team_id"], &ready["key_id"]), (&json!(42), &json!("TEAM000042"), &json!("KEY0000042")));
    for file in ["ca.pem", "AuthKey_KEY0000042.p8", "apns-client.pem", "apns-client-key.pem", "service-account.json", "subscription.json"] {
        assert!(directory.path().join(file).metadata().unwrap().len() > 100, "{file}");
    }
    let account: Value = serde_json::from_str(&std::fs::read_to_string(directory.path().join("service-account.json")).unwrap()).unwrap();
    assert_eq!(account["token_uri"], ready["token"]);
    let control = ready["control"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let ask = async |method: &str, path: &str, body: Value| ask(&control, method, path, body).await;
    let done = |answer: (u16, Value)| assert_eq!(answer.0, 200, "{}", answer.1);

    let (_, manual) = ask("GET", "/", Value::Null).await;
    assert!(manual.as_str().unwrap().starts_with("push-sim control API"));
    done(
        ask("POST", "/devices", json!([{ "provider": "fcm", "token": "one" }, { "provider": "apns", "token": "CD", "topic": "t" }])).await,
    );
    done(ask("POST", "/devices", json!({ "provider": "fcm", "token": "two", "state": { "unregistered": { "since_ms": 5 } } })).await);
    done(ask("POST", "/devices/state", json!({ "provider": "apns", "token": "cd", "state": { "expired": { "since_ms": 5 } } })).await);
    done(ask("POST", "/devices/remove", json!({ "provider": "fcm", "token": "one" })).await);
    assert_eq!(ask("POST", "/devices/remove", json!({ "provider": "fcm", "token": "one" })).await.0, 400);
    let (_, subscription) = ask("POST", "/subscriptions", Value::Null).await;
    assert!(subscription["keys"]["p256dh"].is_string());
    let (_, team) = ask("POST", "/teams", json!({ "team_id": "T", "key_id": "K", "topics": ["a.b"] })).await;
    assert!(team["p8"].as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
    done(ask("POST", "/teams/revoke", json!({ "key_id": "K" })).await);
    let (_, certificate) = ask("POST", "/certificates", json!({ "topics": ["a.b"], "valid_s": 60 })).await;
    assert!(certificate["certificate"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let (_, account) = ask("POST", "/service-accounts", json!({ "project": "other" })).await;
    assert_eq!(account["project_id"], "other");
    done(ask("POST", "/service-accounts/revoke", json!({ "project": "other" })).await);
    done(ask("POST", "/access-tokens/revoke", Value::Null).await);

    let fault = json!({ "provider": "apns", "device": "ab", "times": 2, "effect": "answer", "status": 503, "reason": "Shutdown" });
    done(ask("POST", "/faults", fault.clone()).await);
    done(ask("POST", "/faults", json!({ "provider": "fcm", "effect": "html_bad_gateway" })).await);
    assert_eq!(ask("POST", "/faults", json!({ "provider": "fcm", "effect": "explode" })).await.0, 400);
    let (_, state) = ask("GET", "/state", Value::Null).await;
    assert_eq!(state["devices"], json!({ "apns": 2, "fcm": 2, "web_push": 2 }));
    assert_eq!(state["faults"][0], fault);
    done(ask("DELETE", "/faults", Value::Null).await);
    assert_eq!(ask("GET", "/faults", Value::Null).await.1, json!([]));
    done(ask("POST", "/goaway", json!({ "when": { "after_requests": 3 }, "last_stream": { "before": 1 }, "close": false })).await);
    done(ask("POST", "/settings", json!({ "max_streams": 7, "delay_ms": 1 })).await);
    done(ask("POST", "/clock", json!({ "advance_s": 60 })).await);
    done(ask("POST", "/cut", json!({ "provider": "apns" })).await);
    assert_eq!(ask("GET", "/arrived?after=0&limit=5", Value::Null).await.1, json!([]));
    done(ask("DELETE", "/arrived", Value::Null).await);
    assert_eq!(ask("GET", "/counters", Value::Null).await.1["apns"]["requests"], 0);

    // a polite end
    let id = child.id().unwrap().to_string();
    let killed = Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
    assert!(killed.success());
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it does not end").unwrap();
    assert!(status.success());
}
