//! Logs reach a real journald by its native protocol, in a mount namespace of their own. Where there is no journald, or no right to
//! make the namespace, the test says so and ends.

use std::{path::Path, process, sync::Arc};

use elph_agent::{
    access::{
        Access, Denied,
        audit::{Audit, Command, Object},
    },
    telemetry::metrics::Metrics,
};
use tonic::metadata::MetadataMap;

use crate::support::{DEADLINE, Files, WHOLE, load, places};

/// Starts journald on a private /run, runs the agent with standard error as systemd would connect it, and prints the journal.
const SCRIPT: &str = r#"
set -e
id=$(cat /etc/machine-id)
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal/$id
/lib/systemd/systemd-journald >/dev/null 2>&1 &
journald=$!
trap 'kill $journald; wait $journald' EXIT
until [ -S /run/systemd/journal/socket ]; do kill -0 $journald; done
exec 3>"$2/stderr"
export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/3)
"$1" run --config "$2/elph-agent.toml" 2>&3 &
agent=$!
until journalctl -D /run/log/journal -o json 2>/dev/null | grep -q '"started '; do kill -0 $agent; done
"$3" --exact journald::audit_records_written_inside --quiet >/dev/null 2>"$2/inside"
kill -TERM $agent
wait $agent
until journalctl -D /run/log/journal -o json 2>/dev/null | grep -q '"drained"'; do kill -0 $journald; done
journalctl -D /run/log/journal -o json SYSLOG_IDENTIFIER=elph-agent
journalctl -D /run/log/journal -o json SYSLOG_IDENTIFIER=elph-agent-audit
"#;

/// Says to the test below that it runs inside.
const INSIDE: &str = "ELPH_TEST_JOURNALD";

/// Runs as a process of its own beside the private journald; anywhere else there is nothing to do.
#[tokio::test]
async fn audit_records_written_inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let config = load(&format!("{WHOLE}\n[audit]\ntarget = \"journald\"\n"));
    let audit = Audit::start(&config.audit, true, &Metrics::new(Arc::default())).unwrap();
    let (metadata, extensions) = (MetadataMap::new(), http::Extensions::new());
    let objects = vec![Object { field: "to", value: "79131234567", sensitive: true }];
    let command = Command { method: "CallService/Make", domain: None, objects, request_id: "r-7", outcome: "", reason: None };
    audit.record_denied(&Access::new(&config).unwrap(), &metadata, &extensions, &Denied::CallerUnknown, &command);
    audit.finish(DEADLINE).await;
}

#[test]
fn under_systemd_the_log_goes_to_journald_field_by_field() {
    let possible = Path::new("/lib/systemd/systemd-journald").exists()
        && process::Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !possible {
        println!("skipped: no systemd-journald or no right to make a mount namespace");
        return;
    }
    let files = Files::new(&WHOLE.replace("format = \"json\"", "format = \"auto\""));
    let output = process::Command::new("timeout")
        .args(["60", "unshare", "-m", "--propagation", "private", "sh", "-c", SCRIPT, "sh"])
        .arg(env!("CARGO_BIN_EXE_elph-agent"))
        .arg(files.directory.path())
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, "1")
        .envs(places(files.directory.path()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let records: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let started = records.iter().find(|record| record["MESSAGE"] == format!("started version={}", env!("CARGO_PKG_VERSION"))).unwrap();
    assert_eq!(started["ELPH_VERSION"], env!("CARGO_PKG_VERSION"));
    // tracing's INFO is journald's notice.
    assert_eq!(started["PRIORITY"], "5");
    assert_eq!(started["_TRANSPORT"], "journal");
    assert!(records.iter().any(|record| record["MESSAGE"] == "drained"));
    let audited = records.iter().find(|record| record["SYSLOG_IDENTIFIER"] == "elph-agent-audit").unwrap();
    assert_eq!((&audited["ELPH_REQUEST_ID"], &audited["ELPH_REASON"]), (&"r-7".into(), &"CALLER_UNKNOWN".into()));
    assert_eq!((&audited["ELPH_OUTCOME"], &audited["ELPH_OBJECTS"]), (&"UNAUTHENTICATED".into(), &"{\"to\":\"79…67\"}".into()));
    assert_eq!(std::fs::read_to_string(files.directory.path().join("stderr")).unwrap(), "", "nothing is written twice");
}
