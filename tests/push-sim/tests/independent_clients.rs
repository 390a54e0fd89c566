//! Clients that others wrote, against the three services: @parse/node-apn, aioapns and h2load against APNs, google-auth against FCM and
//! its token endpoint, pywebpush against web push. Left out, and said so, where they are not installed; `make test` requires them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "what fails in a helper fails the test; a test tells what it left out"
)]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use push_sim::{Device, DeviceState, FirstToken, Options, Provider, PushSim};
use serde_json::{Value, json};
use tokio::process::Command;

/// How long one foreign client may take for everything.
const WHOLE: Duration = Duration::from_secs(60);
const SINCE_MS: i64 = 1_700_000_000_123;
const APP: &str = "org.elph.phone";
/// Pushes at the same time.
const BULK: usize = 50;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A tool that `packaging/dev-setup test` installs, if it is there; it must be where tools are required.
fn tool(path: &Path) -> Option<PathBuf> {
    if path.exists() {
        return Some(path.to_owned());
    }
    assert!(std::env::var_os("ELPH_TEST_TOOLS").is_none(), "{} is required here: packaging/dev-setup test", path.display());
    println!("left out: {} is not installed", path.display());
    None
}

/// A Python package of the tools' own environment.
fn python(package: &str) -> Option<PathBuf> {
    let venv = root().join("target/tools/venv");
    let lib = std::fs::read_dir(venv.join("lib")).ok().and_then(|mut found| found.next()).map(|entry| entry.unwrap().path());
    tool(&lib.unwrap_or_else(|| venv.join("lib/python3")).join("site-packages").join(package))?;
    tool(&venv.join("bin/python"))
}

/// A program: from Debian, or from the tools.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.exists());
    found.or_else(|| tool(&root().join("target/tools/venv/bin").join(name)))
}

async fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(WHOLE, output).await.expect("the client took too long").unwrap();
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{errors}");
    out.into_owned()
}

async fn run_script(program: &Path, script: &str, given: &Value) -> Value {
    let mut command = Command::new(program);
    command.arg(root().join("tests/push-sim/clients").join(script)).arg(given.to_string());
    command.env("NODE_PATH", root().join("target/tools/node-apn/node_modules"));
    let out = run(&mut command).await;
    serde_json::from_str(out.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// A device that is there, one that nobody knows, one that is gone.
fn apns_devices(sim: &PushSim) -> [String; 3] {
    let [good, unknown, gone] = ["a1", "b2", "c3"].map(|byte| byte.repeat(32));
    sim.add_device(Device::apns(&good).topic(APP));
    sim.add_device(Device::apns(&gone).state(DeviceState::Unregistered { since_ms: SINCE_MS }));
    [good, unknown, gone]
}

/// What every APNs client must have been understood to say.
fn check_apns(sim: &PushSim, sender: &str, from: &str) {
    let arrived = sim.arrived();
    let statuses: Vec<u16> = arrived.iter().take(3).map(|one| one.status).collect();
    assert_eq!(statuses, [200, 400, 410]);
    let first = &arrived[0];
    assert!(first.sender.starts_with(sender), "{}", first.sender);
    let header = |name| first.header(name).unwrap_or_default().to_owned();
    assert_eq!((header("apns-topic"), header("apns-push-type"), header("apns-priority")), (APP.into(), "alert".into(), "10".into()));
    assert_eq!((header("apns-collapse-id"), first.json()["from"].as_str()), ("call-1".into(), Some(from)));
    assert_eq!(sim.counters().apns.accepted, 1 + BULK as u64);
    assert_eq!(sim.counters().apns_clients.protocol_errors, 0);
}

#[tokio::test]
async fn node_apn_sends_with_a_token_and_with_a_certificate() {
    let (Some(node), Some(_)) = (program("node"), tool(&root().join("target/tools/node-apn/node_modules/@parse/node-apn"))) else { return };
    for certificate in [false, true] {
        // it sends before it has read the server's settings
        let sim = PushSim::start(Options { first_token: FirstToken::Count, ..Options::default() }).await.unwrap();
        let devices = apns_devices(&sim);
        let mut given = json!({ "host": "127.0.0.1", "port": sim.addresses().apns.port(), "ca": sim.ca_pem(), "topic": APP, "devices": devices,
            "bulk": BULK, "p8": sim.team().p8, "keyId": sim.team().key_id, "teamId": sim.team().team_id });
        if certificate {
            let pair = sim.client_certificate(&[APP, "org.elph.phone.voip"], Duration::from_secs(600)).unwrap();
            given["certificate"] = json!(pair.certificate_pem);
            given["key"] = json!(pair.key_pem);
        }
        let told = run_script(&node, "node_apn.cjs", &given).await;
        let [good, unknown, gone] = [0, 1, 2].map(|at| told["results"][at].clone());
        assert_eq!(good["sent"], json!([devices[0]]), "{told}");
        assert_eq!((&unknown["failed"][0]["status"], &unknown["failed"][0]["response"]["reason"]), (&json!(400), &json!("BadDeviceToken")));
        assert_eq!((&gone["failed"][0]["status"], &gone["failed"][0]["response"]["reason"]), (&json!(410), &json!("Unregistered")));
        assert_eq!(gone["failed"][0]["response"]["timestamp"], SINCE_MS);
        assert_eq!((&told["bulk"]["sent"], &told["bulk"]["failed"]), (&json!(BULK), &json!(0)), "{told}");
        check_apns(&sim, if certificate { "certificate " } else { "token " }, "node-apn");
        sim.shutdown().await;
    }
}

#[tokio::test]
async fn aioapns_sends_with_a_token_and_with_a_certificate() {
    let Some(python) = python("aioapns") else { return };
    let directory = tempfile::tempdir().unwrap();
    for certificate in [false, true] {
        let sim = PushSim::start(Options { first_token: FirstToken::Count, ..Options::default() }).await.unwrap();
        let devices = apns_devices(&sim);
        let (ca, pair) = (directory.path().join("ca.pem"), directory.path().join("client.pem"));
        std::fs::write(&ca, sim.ca_pem()).unwrap();
        let mut given = json!({ "host": "127.0.0.1", "port": sim.addresses().apns.port(), "ca_file": ca, "topic": APP, "devices": devices,
            "bulk": BULK, "p8": sim.team().p8, "key_id": sim.team().key_id, "team_id": sim.team().team_id });
        if certificate {
            // it takes the topic from the subject's UID, as Apple's certificates have it
            let made = sim.client_certificate(&[APP, "org.elph.phone.voip"], Duration::from_secs(600)).unwrap();
            std::fs::write(&pair, made.certificate_pem + &made.key_pem).unwrap();
            given["certificate_file"] = json!(pair);
        }
        let told = run_script(&python, "aioapns_client.py", &given).await;
        let [good, unknown, gone] = [0, 1, 2].map(|at| told["results"][at].clone());
        assert_eq!((&good["status"], &good["id"]), (&json!("200"), &good["asked_id"]));
        assert_eq!((&unknown["status"], &unknown["reason"]), (&json!("400"), &json!("BadDeviceToken")));
        assert_eq!((&gone["status"], &gone["reason"], &gone["timestamp"]), (&json!("410"), &json!("Unregistered"), &json!(SINCE_MS)));
        assert_eq!(told["bulk"], json!(vec!["200"; BULK]));
        check_apns(&sim, if certificate { "certificate " } else { "token " }, "aioapns");
        sim.shutdown().await;
    }
}

#[tokio::test]
async fn h2load_gets_nothing_but_200() {
    let Some(h2load) = program("h2load") else { return };
    let Some(python) = python("jwt") else { return };
    let sim = PushSim::start(Options { first_token: FirstToken::Off, accept_unknown_devices: true, ..Options::default() }).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let body = directory.path().join("body");
    std::fs::write(&body, r#"{"aps":{"alert":"hello"}}"#).unwrap();
    let sign =
        "import jwt,sys,time; print(jwt.encode({'iss': sys.argv[1], 'iat': int(time.time())}, sys.argv[3], 'ES256', {'kid': sys.argv[2]}))";
    let team = sim.team();
    let token = run(Command::new(python).args(["-c", sign, &team.team_id, &team.key_id, &team.p8])).await;
    let text = run(Command::new(h2load)
        .args(["-n", "5000", "-c", "4", "-m", "100", "-d"])
        .arg(&body)
        .args([
            "-H",
            &format!("authorization: bearer {}", token.trim()),
            "-H",
            &format!("apns-topic: {APP}"),
            "-H",
            "apns-push-type: alert",
        ])
        .arg(format!("https://{}/3/device/{}", sim.addresses().apns, "ab".repeat(32))))
    .await;
    assert!(text.contains("status codes: 5000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{text}");
    let counters = sim.counters();
    assert_eq!((counters.apns.accepted, counters.apns.connections), (5000, 4));
    assert_eq!(sim.arrived().len(), 5000);
    sim.shutdown().await;
}

#[tokio::test]
async fn google_auth_gets_a_token_and_sends_messages_with_it() {
    let Some(python) = python("google/auth") else { return };
    let sim = PushSim::start(Options::default()).await.unwrap();
    let devices = ["fcm-device-that-is-there", "fcm-device-that-is-gone", "short"];
    sim.add_device(Device::fcm(devices[0]));
    sim.add_device(Device::fcm(devices[1]).state(DeviceState::Unregistered { since_ms: 0 }));
    let directory = tempfile::tempdir().unwrap();
    let (ca, account) = (directory.path().join("ca.pem"), directory.path().join("account.json"));
    std::fs::write(&ca, sim.ca_pem()).unwrap();
    std::fs::write(&account, sim.service_account_json()).unwrap();
    let given = json!({ "ca_file": ca, "account_file": account, "fcm": sim.fcm_url(), "project": "elph-demo", "devices": devices });
    let told = run_script(&python, "fcm.py", &given).await;
    let [good, gone, bad] = [0, 1, 2].map(|at| told["results"][at].clone());
    assert_eq!(good["status"], 200, "{told}");
    assert!(good["body"]["name"].as_str().unwrap().starts_with("projects/elph-demo/messages/"));
    assert_eq!((&gone["status"], &gone["body"]["error"]["details"][0]["errorCode"]), (&json!(404), &json!("UNREGISTERED")));
    assert_eq!((&bad["status"], &bad["body"]["error"]["details"][0]["errorCode"]), (&json!(400), &json!("INVALID_ARGUMENT")));
    let counters = sim.counters();
    assert_eq!((counters.fcm_token.accepted, counters.fcm.accepted), (1, 1));
    let message = sim.arrived().into_iter().find(|one| one.provider == Provider::Fcm).unwrap();
    assert_eq!((message.device.as_str(), &message.json()["message"]["android"]["ttl"]), (devices[0], &json!("30s")));
    sim.shutdown().await;
}

#[tokio::test]
async fn pywebpush_is_understood_to_the_last_byte() {
    let Some(python) = python("pywebpush") else { return };
    let sim = PushSim::start(Options::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, sim.ca_pem()).unwrap();
    let (good, gone) = (sim.subscribe().unwrap(), sim.subscribe().unwrap());
    assert!(sim.set_device_state(Provider::WebPush, &gone.id, DeviceState::Unregistered { since_ms: 0 }));
    let text = json!({ "event": "ring", "name": "Зал ☎" }).to_string();
    let given = json!({ "ca_file": ca, "text": text, "subscriptions": [good.to_json(), gone.to_json()] });
    let told = run_script(&python, "web_push.py", &given).await;
    assert_eq!((&told["results"][0]["status"], &told["results"][1]["status"]), (&json!(201), &json!(410)), "{told}");
    let arrived = sim.arrived();
    assert_eq!(arrived[0].body, text);
    assert_eq!(
        (arrived[0].device.as_str(), arrived[0].header("urgency"), arrived[0].header("topic")),
        (good.id.as_str(), Some("high"), Some("call-1"))
    );
    assert!(told["results"][0]["location"].as_str().unwrap().ends_with(&arrived[0].id));
    sim.shutdown().await;
}
