//! `elph-agent doctor`, `record` and `replay` against the simulated switch.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may fail by panicking and say what they saw"
)]

use std::{path::Path, process::Output, time::Duration};

use e2e::{PATIENCE, StackOptions, binary, config};
use serde_json::Value;
use ssw_core::{ConferenceRequest, ParticipantStatus};
use ssw_sim::{Sim, SimOptions};
use tokio::process::Command;

const DOMAIN: &str = "elph.local";

/// A doctor looks at a node for a minute at most.
const LONGEST: Duration = Duration::from_secs(90);

async fn sim(seed: u64) -> Sim {
    println!("seed {seed}");
    let sim = Sim::start(SimOptions { seed: Some(seed), ..SimOptions::default() }).await.unwrap();
    // Something to be seen in each list.
    sim.switch().dial(DOMAIN, "1001", "1002").unwrap();
    let conference = ConferenceRequest { initiator: "1003".to_owned(), room: "800".to_owned(), ..ConferenceRequest::default() };
    let conference = sim.switch().create_conference(DOMAIN, conference).unwrap();
    sim.switch().dial_in(DOMAIN, &conference, "1004").unwrap();
    // And it stays as it is while it is looked at.
    let until = tokio::time::Instant::now() + PATIENCE;
    let settled = |status| matches!(status, ParticipantStatus::Alerting | ParticipantStatus::Connected);
    while !sim.switch().conference(DOMAIN, &conference).unwrap().members.iter().all(|member| settled(member.status)) {
        assert!(tokio::time::Instant::now() < until, "the members do not settle");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sim
}

/// A configuration in a directory, and what was printed about it.
async fn agent(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("elph-agent").unwrap());
    command.args(arguments).current_dir(directory).kill_on_drop(true);
    tokio::time::timeout(LONGEST, command.output()).await.expect("it ends in time").unwrap()
}

fn write_config(sim: &Sim, dialect: &'static str, extra: &str, directory: &Path) {
    let options = StackOptions { sim: SimOptions::default(), dialect, extra: extra.to_owned(), ..StackOptions::default() };
    std::fs::write(directory.join("dialect.toml"), sim.dialect_toml()).unwrap();
    std::fs::write(directory.join("agent.toml"), config(sim, &options, directory).unwrap()).unwrap();
}

struct Found {
    code: Option<i32>,
    report: Value,
}

impl Found {
    /// The checks to be mended: `at what: said`.
    fn wrong(&self) -> Vec<String> {
        let checks = self.report["checks"].as_array().unwrap().iter().filter(|check| check["verdict"] == "wrong");
        checks.map(|check| format!("{} {}: {}", check["at"], check["what"], check["said"])).collect()
    }

    /// What to set, at this key.
    fn set(&self, path: &str) -> Option<toml::Value> {
        let table: toml::Table = toml::from_str(self.report["what_to_set"].as_str().unwrap()).unwrap();
        let mut value = &toml::Value::Table(table);
        for part in path.split('.') {
            value = value.get(part)?;
        }
        Some(value.clone())
    }

    fn dialect(&self, path: &str) -> Option<toml::Value> {
        self.set(&format!("switch.dialect_overrides.{path}"))
    }
}

async fn doctor(sim: &Sim, dialect: &'static str, extra: &str, arguments: &[&str]) -> Found {
    let directory = tempfile::tempdir().unwrap();
    write_config(sim, dialect, extra, directory.path());
    let all: Vec<&str> = ["doctor", "--config", "agent.toml", "--json"].iter().chain(arguments).copied().collect();
    let output = agent(directory.path(), &all).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    println!("{text}");
    Found { code: output.status.code(), report }
}

async fn no_session_left(sim: &Sim) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !sim.sessions().list().is_empty() {
        assert!(tokio::time::Instant::now() < until, "sessions left: {:?}", sim.sessions().list());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_right_dialect_all_is_well_and_no_session_is_left() {
    for seed in [0, 7, 12] {
        let sim = sim(seed).await;
        let found = doctor(&sim, "sim", "", &[]).await;
        assert_eq!((found.wrong(), found.code), (Vec::new(), Some(0)), "seed {seed}");
        no_session_left(&sim).await;
        sim.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_dialect_is_told_which_fields_to_set() {
    let sim = sim(0).await;
    let found =
        doctor(&sim, "documented", "[calls]\nbackend = \"csta\"\n[conferences]\nbackend = \"poll\"\n", &["--only", "terminal"]).await;
    assert_eq!(found.code, Some(1));
    assert_eq!(found.dialect("terminal.calls.fields.id"), Some("call_id".into()));
    assert_eq!(found.dialect("terminal.utc_offset_minutes"), Some(180.into()));
    assert_eq!(found.dialect("terminal.conferences.fields.locked"), Some("locked".into()));
    assert_eq!(found.dialect("terminal.members.fields.floor"), Some("voice_request".into()));
    sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_suggests_for_a_seeded_switch_makes_the_lists_well() {
    let sim = sim(7).await;
    let poll = "[conferences]\nbackend = \"poll\"\n";
    let first = doctor(&sim, "documented", poll, &["--only", "terminal"]).await;
    assert_eq!(first.code, Some(1));
    let set: toml::Table = toml::from_str(first.report["what_to_set"].as_str().unwrap()).unwrap();
    let again = format!("{poll}{}", toml::to_string(&set).unwrap());
    let second = doctor(&sim, "documented", &again, &["--only", "terminal"]).await;
    // The form of a request cannot be seen from outside: the refusal names the field.
    let lists: Vec<String> = second.wrong().into_iter().filter(|wrong| !wrong.contains("the switch refuses it")).collect();
    assert!(second.report.to_string().contains("terminal.requests.calls_history"));
    assert!(lists.is_empty(), "{lists:#?}");
    sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_field_of_the_dialect_is_named_with_its_value() {
    let sim = sim(0).await;
    let cases: [(&str, &str, &str, toml::Value, &str); 7] = [
        ("call_api", "pad", "\"nul\"", "space".into(), "call_api"),
        ("call_api", "session_cookie", "\"OTHER\"", "ECSSAPI".into(), "call_api"),
        ("terminal", "session_cookie", "\"OTHER\"", "ECSSSESSION".into(), "terminal"),
        ("terminal.calls.fields", "start", "\"beginning\"", "start".into(), "terminal"),
        ("terminal", "utc_offset_minutes", "-60", 180.into(), "terminal"),
        ("csta", "length", "\"body\"", "whole".into(), "csta"),
        ("csta", "device", "\"tel:{alias}\"", "{alias}".into(), "csta"),
    ];
    for (table, field, wrong, right, link) in cases {
        let extra = format!("[switch.dialect_overrides.{table}]\n{field} = {wrong}\n[calls]\nmonitored = [\"1001\"]\n");
        let found = doctor(&sim, "sim", &extra, &["--only", link]).await;
        assert_eq!(found.code, Some(1), "{table}.{field}");
        assert_eq!(found.dialect(&format!("{table}.{field}")), Some(right), "{table}.{field}: {:#?}", found.wrong());
    }
    sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_from_a_dead_node() {
    let sim = sim(0).await;
    let found = doctor(&sim, "sim", "[switch.terminal]\npassword = \"wrong\"\n", &["--only", "terminal"]).await;
    assert_eq!(found.code, Some(1));
    assert!(found.wrong().iter().any(|wrong| wrong.contains("refuses login or password")), "{:#?}", found.wrong());

    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let live = sim.addresses().terminal;
    let found = doctor(&sim, "sim", &format!("[switch.terminal]\nnodes = [\"{live}\", \"{unused}\"]\n"), &["--only", "terminal"]).await;
    assert_eq!(found.code, Some(1));
    let wrong = found.wrong();
    assert!(wrong.len() == 1 && wrong[0].contains(&unused.to_string()) && wrong[0].contains("unreachable"), "{wrong:#?}");
    let found =
        doctor(&sim, "sim", &format!("[switch.terminal]\nnodes = [\"{live}\", \"{unused}\"]\n"), &["--node", &live.to_string()]).await;
    assert_eq!((found.code, found.wrong()), (Some(0), Vec::new()));
    sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_name_or_authority_is_described() {
    let sim = Sim::start(SimOptions { tls: true, ..SimOptions::default() }).await.unwrap();
    let found = doctor(&sim, "sim", "", &["--only", "terminal"]).await;
    assert_eq!((found.code, found.wrong()), (Some(0), Vec::new()));
    let directory = tempfile::tempdir().unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["other.local".to_owned()]).unwrap();
    let path = directory.path().join("other.pem");
    std::fs::write(&path, other.cert.pem()).unwrap();
    let found = doctor(&sim, "sim", &format!("[switch.terminal]\nca_file = \"{}\"\n", path.display()), &["--only", "terminal"]).await;
    assert!(found.wrong().iter().any(|wrong| wrong.contains("TLS") && wrong.contains("issued by")), "{:#?}", found.wrong());
    sim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_configuration_exits_64() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("agent.toml"), "[switch]\nno_such_key = 1\n").unwrap();
    let output = agent(directory.path(), &["doctor", "--config", "agent.toml"]).await;
    assert_eq!(output.status.code(), Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_replays_whole_and_another_dialect_says_what_it_misses() {
    for seed in [0, 7] {
        let sim = sim(seed).await;
        let directory = tempfile::tempdir().unwrap();
        write_config(&sim, "sim", "", directory.path());
        let call = sim.switch().clone();
        let busy = tokio::spawn(async move {
            // Calls for as long as the recording runs, so that there are events in it.
            for number in 0..40u32 {
                let _ = call.dial(DOMAIN, &format!("{}", 1010 + number % 20), &format!("{}", 1050 + number % 20));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let record = ["record", "--config", "agent.toml", "--output", "r.jsonl", "--for", "3s", "--pseudonymise"];
        let output = agent(directory.path(), &record).await;
        busy.abort();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.contains("numbers are replaced"), "{told}");
        let text = std::fs::read_to_string(directory.path().join("r.jsonl")).unwrap();
        for secret in ["\"password\"", "\\\"password\\\"", ">1234<", "\\\"1001\\\""] {
            assert!(!text.contains(&format!("={secret}")), "{secret} is in the recording");
        }
        let replay = |dialect: &'static str| {
            let directory = directory.path().to_owned();
            async move {
                let mut arguments = vec!["replay", "r.jsonl", "--json", "--dialect", dialect];
                if dialect == "sim" {
                    arguments.extend(["--dialect-file", "dialect.toml"]);
                }
                let output = agent(&directory, &arguments).await;
                (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap())
            }
        };
        let (code, summary) = replay("sim").await;
        assert_eq!((code, &summary["problems"]), (Some(0), &serde_json::json!({})), "seed {seed}: {summary:#}");
        assert!(summary["observations"]["legs"].as_u64().unwrap_or(0) > 0, "{summary:#}");
        assert!(summary["observations"]["calls"].as_u64().unwrap_or(0) > 0, "{summary:#}");
        let (code, summary) = replay("documented").await;
        assert_eq!(code, Some(1), "seed {seed}: {summary:#}");
        no_session_left(&sim).await;
        sim.shutdown().await;
    }
}
