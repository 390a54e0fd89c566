//! The simulated providers as a program on a core of its own, and those who send to it from the other: we, @parse/node-apn, aioapns, and
//! h2load, which does nothing but write the same octets and is the limit.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::sys::resource::UsageWho;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{
    feed::PATIENCE,
    push_sender::{Sent, Task, used},
};

/// Who sends, and who is sent to.
const SENDER_CORE: &str = "0";
const PROVIDER_CORE: &str = "1";
const RUN: Duration = Duration::from_secs(120);
const TOPIC: &str = "org.elph.phone";
/// push-sim's own.
const PROJECT: &str = "elph-demo";
/// Addresses that h2load sends to in turn.
const ADDRESSES: u64 = 1000;

/// push-sim as a process.
pub(crate) struct Providers {
    _child: Child,
    keep: tempfile::TempDir,
    ready: Value,
}

/// h2load's connections and the streams of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams {
    pub(crate) connections: usize,
    pub(crate) each: usize,
}

// === impl Providers ===

impl Providers {
    /// Starts it; every answer takes so long.
    pub(crate) async fn start(delay: Duration) -> anyhow::Result<Self> {
        let keep = scratch()?;
        let (keys, file) = (keep.path().join("keys"), keep.path().join("ready.json"));
        let mut command = pinned(PROVIDER_CORE, e2e::binary("push-sim")?);
        command.args(["--threads", "1", "--record", "count", "--accept-unknown-devices", "--first-token", "off"]);
        command.args(["--apns-port", "0", "--fcm-port", "0", "--web-push-port", "0", "--control-port", "0"]);
        command.args(["--delay-ms", &delay.as_millis().to_string()]);
        command.arg("--directory").arg(&keys).arg("--ready-file").arg(&file).env("RUST_LOG", "warn");
        let child = command.stdout(Stdio::null()).spawn().context("start push-sim")?;
        let began = Instant::now();
        while !file.exists() {
            if began.elapsed() > PATIENCE {
                bail!("push-sim did not start");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let ready = serde_json::from_slice(&std::fs::read(&file)?)?;
        Ok(Self { _child: child, keep, ready })
    }

    fn text(&self, member: &str) -> anyhow::Result<&str> {
        self.ready.get(member).and_then(Value::as_str).with_context(|| format!("push-sim says no {member}"))
    }

    fn keys(&self) -> PathBuf {
        self.keep.path().join("keys")
    }

    /// Ours: queue and sender.
    pub(crate) async fn ours(&self, apns: bool, body: &str, pushes: u64) -> anyhow::Result<Sent> {
        self.sent_by_us(apns, body, pushes, true).await
    }

    /// Our sender alone.
    pub(crate) async fn ours_without_the_queue(&self, apns: bool, body: &str, pushes: u64) -> anyhow::Result<Sent> {
        self.sent_by_us(apns, body, pushes, false).await
    }

    async fn sent_by_us(&self, apns: bool, body: &str, pushes: u64, queued: bool) -> anyhow::Result<Sent> {
        let directory = scratch()?;
        let url = |address: &str| address.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let task = Task {
            apns,
            at: url(self.text(if apns { "apns" } else { "fcm" })?),
            token_url: self.text("token")?.to_owned(),
            keys: self.keys(),
            team_id: self.text("team_id")?.to_owned(),
            key_id: self.text("key_id")?.to_owned(),
            topic: TOPIC.to_owned(),
            body: body.to_owned(),
            pushes,
            directory: directory.path().join("queue"),
            queued,
        };
        let mut command = pinned(SENDER_CORE, std::env::current_exe()?);
        command.arg("--push-sender").arg(serde_json::to_string(&task)?);
        told("our sender", command, pushes).await
    }

    /// A client in another language.
    pub(crate) async fn rival(&self, who: &'static str, body: &str, pushes: u64) -> anyhow::Result<Sent> {
        let (host, port) = self.text("apns")?.rsplit_once(':').context("no port")?;
        let key = self.text("key_id")?;
        let given = json!({
            "host": host, "port": port.parse::<u16>()?, "topic": TOPIC, "pushes": pushes,
            "ca": std::fs::read_to_string(self.keys().join("ca.pem"))?,
            "p8": std::fs::read_to_string(self.keys().join(format!("AuthKey_{key}.p8")))?,
            "key_id": key, "team_id": self.text("team_id")?,
            "payload": serde_json::from_str::<Value>(body)?, "expiration": in_an_hour(),
        });
        let mut command = if who == "node-apn" {
            let mut command = pinned(SENDER_CORE, node());
            command.arg(rivals().join("node_apn.cjs")).env("NODE_PATH", tools().join("node-apn/node_modules"));
            command
        } else {
            let mut command = pinned(SENDER_CORE, python());
            command.arg(rivals().join("aioapns_many.py"));
            command
        };
        command.arg(given.to_string());
        told(who, command, pushes).await
    }

    /// The limit.
    pub(crate) async fn h2load(&self, apns: bool, body: &str, pushes: u64, streams: Streams) -> anyhow::Result<Sent> {
        let (file, list) = (self.keep.path().join("body"), self.keep.path().join("addresses"));
        std::fs::write(&file, body)?;
        let mut command = pinned(SENDER_CORE, "h2load".into());
        command.args(["-n", &pushes.to_string(), "-c", &streams.connections.to_string(), "-m", &streams.each.to_string(), "-d"]);
        command.arg(&file).args(["-H", &format!("authorization: bearer {}", self.credentials(apns).await?)]);
        let addresses: Vec<String> = if apns {
            let expiration = format!("apns-expiration: {}", in_an_hour());
            let id = "apns-id: 0198a2b4-0000-7000-8000-000000000001";
            for field in [&*format!("apns-topic: {TOPIC}"), "apns-push-type: alert", "apns-priority: 5", &expiration, id] {
                command.args(["-H", field]);
            }
            let at = self.text("apns")?;
            (0..ADDRESSES).map(|number| format!("https://{at}/3/device/{}", e2e::pushes::apns_token(number))).collect()
        } else {
            command.args(["-H", "content-type: application/json"]);
            let project = PROJECT;
            vec![format!("{}/v1/projects/{project}/messages:send", self.text("fcm")?)]
        };
        std::fs::write(&list, addresses.join("\n") + "\n")?;
        command.arg("-i").arg(&list);
        let before = used(UsageWho::RUSAGE_CHILDREN)?;
        let text = output("h2load", command).await?;
        let cpu = used(UsageWho::RUSAGE_CHILDREN)? - before;
        if !text.contains(&format!("status codes: {pushes} 2xx, 0 3xx, 0 4xx, 0 5xx")) {
            bail!("h2load was not served: {text}");
        }
        // "finished in 1.23s, 45678.90 req/s, 1.23MB/s"
        let rate = text.lines().find_map(|line| line.strip_prefix("finished in ")?.split_whitespace().nth(1)?.parse::<f64>().ok());
        #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
        let seconds = pushes as f64 / rate.context("h2load says no rate")?;
        Ok(Sent { taken: pushes, seconds, cpu })
    }

    async fn credentials(&self, apns: bool) -> anyhow::Result<String> {
        let mut command = Command::new(python());
        command.arg(rivals().join("credentials.py"));
        if apns {
            let key = self.text("key_id")?;
            let p8 = std::fs::read_to_string(self.keys().join(format!("AuthKey_{key}.p8")))?;
            command.args(["apns", self.text("team_id")?, key, &p8]);
        } else {
            command.arg("fcm").arg(self.keys().join("service-account.json")).arg(self.keys().join("ca.pem"));
        }
        Ok(output("credentials.py", command).await?.trim().to_owned())
    }
}

/// A directory on the disk that the build is on; temporary files may be in memory.
pub(crate) fn scratch() -> anyhow::Result<tempfile::TempDir> {
    let here = std::env::current_exe()?;
    let target = here.ancestors().nth(2).context("the program lies in no target directory")?.join("bench");
    std::fs::create_dir_all(&target)?;
    Ok(tempfile::tempdir_in(target)?)
}

fn rivals() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("rivals")
}

/// Where `packaging/dev-setup bench` installs.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools")
}

fn python() -> PathBuf {
    tools().join("venv/bin/python")
}

/// The system's, as npm has used it, or the tools'.
pub(crate) fn node() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join("node")).find(|file| file.exists());
    found.unwrap_or_else(|| tools().join("venv/bin/node"))
}

fn in_an_hour() -> i64 {
    jiff::Timestamp::now().as_second() + 3600
}

fn pinned(core: &str, program: PathBuf) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn output(who: &str, mut command: Command) -> anyhow::Result<String> {
    let output = tokio::time::timeout(RUN, command.kill_on_drop(true).output()).await;
    let output =
        output.with_context(|| format!("{who} does not end"))?.with_context(|| format!("{who} is not installed; run: make bench"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{who} ended with {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

/// What a sender prints last; all must have been taken.
async fn told(who: &str, command: Command, pushes: u64) -> anyhow::Result<Sent> {
    let text = output(who, command).await?;
    let sent: Sent = serde_json::from_str(text.lines().last().unwrap_or_default()).with_context(|| format!("{who} said: {text}"))?;
    if sent.taken != pushes {
        bail!("{who}: {} of {pushes} pushes were taken", sent.taken);
    }
    Ok(sent)
}
