//! The real `elph-agent` as a process.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    process::{Child, Command},
};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::PATIENCE;

/// A running agent. Dropping it kills it.
pub struct Agent {
    child: Child,
    directory: PathBuf,
    http: SocketAddr,
}

/// A program of this workspace, built beside this one.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let found = here.ancestors().skip(1).take(3).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built; run: cargo build --workspace --bins"))
}

impl Agent {
    /// Starts the agent of a directory that holds `agent.toml`, and waits until it serves.
    pub async fn start(directory: &Path) -> anyhow::Result<Self> {
        Self::launch(directory, None).await
    }

    /// The same in a process group of its own: Ctrl-C on a terminal reaches only the caller, who ends the agent in good order.
    pub async fn start_apart(directory: &Path) -> anyhow::Result<Self> {
        Self::launch(directory, Some(0)).await
    }

    async fn launch(directory: &Path, group: Option<i32>) -> anyhow::Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("agent.log"))?;
        let written = log.metadata()?.len();
        let mut command = Command::new(binary("elph-agent")?);
        if let Some(group) = group {
            command.process_group(group);
        }
        let child = command
            .arg("run")
            .arg("--config")
            .arg(directory.join("agent.toml"))
            .env_remove("NOTIFY_SOCKET")
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let mut agent = Self { child, directory: directory.to_owned(), http: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let serving = async {
            loop {
                let log = std::fs::read(directory.join("agent.log")).unwrap_or_default();
                let fresh = String::from_utf8_lossy(log.get(usize::try_from(written).unwrap_or(0)..).unwrap_or_default()).into_owned();
                if let (Some(http), true) = (bound(&fresh, "metrics and health are served"), fresh.contains("\"started\"")) {
                    return Ok(http);
                }
                if let Some(status) = agent.child.try_wait()? {
                    bail!("the agent ended with {status}; its log:\n{fresh}");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let started = tokio::time::timeout(PATIENCE, serving).await;
        let http = started.with_context(|| "the agent did not start in time".to_owned())??;
        agent.http = http;
        Ok(agent)
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Where health and metrics are served.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its end, if it has ended by itself.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("agent.log")).unwrap_or_default()
    }

    /// Whether `/readyz` says so.
    pub async fn is_ready(&self) -> bool {
        self.get("/readyz").await.is_ok_and(|(status, _)| status == 200)
    }

    /// Asks the health port.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let ask = async {
            let mut stream = TcpStream::connect(self.http).await?;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP answer")?;
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
            Ok((status, body))
        };
        tokio::time::timeout(PATIENCE, ask).await?
    }

    /// The value of a metric's sample: name and labels as they are written.
    pub async fn metric(&self, sample: &str) -> anyhow::Result<Option<f64>> {
        let (_, text) = self.get("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        Ok(line.and_then(|value| value.trim().parse().ok()))
    }

    /// A channel over its Unix socket, connected when first used.
    pub fn channel(&self) -> Channel {
        let path = self.directory.join("grpc.sock");
        Endpoint::from_static("http://agent.local").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().context("the agent has ended")?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal).context("cannot send a signal to the agent")
    }

    /// SIGTERM, and waits for its end.
    pub async fn terminate(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("the agent did not end in time")??;
        if !status.success() {
            bail!("the agent ended with {status}; its log:\n{}", self.log());
        }
        Ok(())
    }

    /// SIGKILL, and waits for its end.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}

/// The address in a JSON log line with this message.
fn bound(log: &str, message: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains(message))?;
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = value.pointer("/fields/address").or_else(|| value.get("address"))?;
    address.as_str()?.parse().ok()
}
