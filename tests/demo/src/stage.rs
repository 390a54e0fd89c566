//! What is on stage: the programs `ssw-sim`, `elph-agent` and `elph-server` as processes of their own, in a private directory that goes away with them.
//! The simulated Apple and Google are part of this one.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use e2e::{Agent, PATIENCE, StackOptions, SwitchAt, pushes::Providers};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::Rng;
use ssw_sim::{Credentials, NodeAddresses, SimOptions};
use tokio::process::{Child, Command};

use crate::{control::Control, suite::Suite};

/// The only domain.
pub(crate) const DOMAIN: &str = "elph.local";
/// Where the kernel gives out ports by itself, unless it says otherwise.
const EPHEMERAL: u16 = 32_768;
const LOWEST_PORT: u16 = 10_000;
/// A socket's path must fit into 108 bytes.
const LONGEST_DIRECTORY: usize = 80;
/// Ports may be taken between looking and listening.
const ATTEMPTS: u32 = 5;

/// What is pushed.
const EVENTS: &str = "[[push.events]]\ndomains = [\"*\"]\ncalls = true\nmissed_calls = true\nconferences = true\n";

/// What is put on stage.
#[derive(Debug, Clone)]
pub(crate) struct StageOptions {
    /// Seed of the switch's dialect.
    pub(crate) seed: u64,
    /// Where calls come from: `csta` or `call_api`.
    pub(crate) calls: &'static str,
    /// Further arguments of the simulator.
    pub(crate) phones: &'static [&'static str],
}

#[derive(Debug, Clone, Copy)]
struct PortChoice {
    terminal: u16,
    call_api: u16,
    csta: u16,
    control: u16,
}

/// A running switch, agent and suite. Dropping it kills all of them and removes the directory.
pub(crate) struct Stage {
    suite: Suite,
    agent: Agent,
    switch: Child,
    providers: Providers,
    options: StageOptions,
    ports: PortChoice,
    directory: tempfile::TempDir,
}

impl Stage {
    /// Starts all of them and waits until the agent is ready.
    pub(crate) async fn start(options: StageOptions) -> anyhow::Result<Self> {
        let directory = directory()?;
        let started = Self::start_in(directory.path(), &options).await;
        match started {
            Ok((suite, agent, switch, providers, ports)) => Ok(Self { suite, agent, switch, providers, options, ports, directory }),
            Err(error) => Err(error.context(format!("the logs are kept in {}", directory.keep().display()))),
        }
    }

    async fn start_in(path: &Path, options: &StageOptions) -> anyhow::Result<(Suite, Agent, Child, Providers, PortChoice)> {
        let providers = Providers::start().await?;
        let (switch, ports) = start_switch_somewhere(path, options).await?;
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let node = NodeAddresses { terminal: at(ports.terminal), call_api: at(ports.call_api), csta: at(ports.csta) };
        let switch_at = SwitchAt { nodes: vec![node], credentials: Credentials::default(), ca_file: None };
        let sim = SimOptions { domains: vec![DOMAIN.to_owned()], ..SimOptions::default() };
        let mut stack = StackOptions { sim, calls: options.calls, ..StackOptions::default() };
        stack.extra.push_str(&providers.apps());
        stack.extra.push_str(EVENTS);
        std::fs::write(path.join("agent.toml"), e2e::config_at(&switch_at, &stack, path)?)?;
        let agent = Agent::start_apart(path).await?;
        let ready = async {
            while !agent.is_ready().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.context("the agent did not become ready in time")?;
        Ok((Suite::start(path).await?, agent, switch, providers, ports))
    }

    /// The suite.
    pub(crate) fn suite(&self) -> &Suite {
        &self.suite
    }

    /// The agent.
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The people and the plug.
    pub(crate) fn control(&self) -> Control {
        Control::new(SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.control)), DOMAIN)
    }

    /// Apple and Google.
    pub(crate) fn providers(&self) -> &Providers {
        &self.providers
    }

    /// The private directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The agent's Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("grpc.sock")
    }

    /// SIGKILL to the switch.
    pub(crate) async fn kill_switch(&mut self) -> anyhow::Result<()> {
        self.switch.kill().await.context("kill ssw-sim")
    }

    /// The switch again, at the same addresses, knowing nothing.
    pub(crate) async fn start_switch(&mut self) -> anyhow::Result<()> {
        self.switch = start_switch(self.directory.path(), &self.options, self.ports).await?;
        Ok(())
    }

    /// Names a program that has ended though nobody asked it to.
    pub(crate) fn fallen(&mut self) -> Option<String> {
        if let Some(what) = self.suite.fallen() {
            return Some(what);
        }
        if let Some(status) = self.agent.ended() {
            return Some(format!("elph-agent ended with {status}"));
        }
        let status = self.switch.try_wait().ok().flatten()?;
        Some(format!("ssw-sim ended with {status}"))
    }

    /// Ends all in good order and removes the directory.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Err(error) = self.end().await {
            return Err(error.context(format!("the logs are kept in {}", self.keep().display())));
        }
        let path = self.directory.path().to_owned();
        self.directory.close().with_context(|| format!("remove {}", path.display()))
    }

    /// Ends all and keeps the directory.
    pub(crate) async fn stop_and_keep(mut self) -> PathBuf {
        // What it was stopped for is told already.
        let _ = self.end().await;
        self.keep()
    }

    fn keep(self) -> PathBuf {
        self.directory.keep()
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        let suite = self.suite.end().await;
        // The agent before the switch: it says good-bye to it.
        let agent = match self.agent.ended() {
            None => self.agent.terminate().await,
            Some(status) => Err(anyhow::anyhow!("elph-agent had ended with {status}")),
        };
        let switch = end_switch(&mut self.switch).await;
        suite.and(agent).and(switch)
    }
}

async fn end_switch(switch: &mut Child) -> anyhow::Result<()> {
    if let Some(pid) = switch.id() {
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM).context("end ssw-sim")?;
    }
    let status = tokio::time::timeout(PATIENCE, switch.wait()).await.context("ssw-sim did not end in time")??;
    if status.success() { Ok(()) } else { bail!("ssw-sim ended with {status}") }
}

fn directory() -> anyhow::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("elph-").rand_bytes(4);
    let usual = std::env::temp_dir();
    let place = if usual.as_os_str().len() > LONGEST_DIRECTORY { Path::new("/tmp") } else { &usual };
    builder.tempdir_in(place).with_context(|| format!("make a directory in {}", place.display()))
}

async fn start_switch_somewhere(path: &Path, options: &StageOptions) -> anyhow::Result<(Child, PortChoice)> {
    let mut attempt = 1;
    loop {
        let ports = free_ports()?;
        match start_switch(path, options, ports).await {
            Ok(switch) => return Ok((switch, ports)),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => attempt += 1,
        }
    }
}

async fn start_switch(path: &Path, options: &StageOptions, ports: PortChoice) -> anyhow::Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(path.join("ssw-sim.log"))?;
    let written = path.join("ports.json");
    // One of an earlier life would be taken for an answer.
    let _ = std::fs::remove_file(&written);
    let mut switch = Command::new(e2e::binary("ssw-sim")?)
        .args(["--seed", &options.seed.to_string(), "--domain", DOMAIN, "--aliases", "60"])
        .args(["--terminal-port", &ports.terminal.to_string(), "--call-api-port", &ports.call_api.to_string()])
        .args(["--csta-port", &ports.csta.to_string(), "--control-port", &ports.control.to_string()])
        .args(options.phones)
        .arg("--dialect-out")
        .arg(path.join("dialect.toml"))
        .arg("--ports-file")
        .arg(&written)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C on a terminal is for us alone: we end it in good order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("start ssw-sim")?;
    let up = async {
        while !written.exists() {
            if let Some(status) = switch.try_wait()? {
                bail!("ssw-sim ended with {status}; its log: {}", path.join("ssw-sim.log").display());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, up).await.context("ssw-sim did not start in time")??;
    Ok(switch)
}

/// Free ports below those that the kernel gives out: nobody gets them by chance while the switch is down for a moment.
fn free_ports() -> anyhow::Result<PortChoice> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let top = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(EPHEMERAL).clamp(LOWEST_PORT + 2_000, EPHEMERAL);
    let mut held = Vec::new();
    let mut rng = rand::rng();
    let mut pick = || {
        for _ in 0..1_000 {
            let port = rng.random_range(LOWEST_PORT..top);
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                held.push(listener);
                return Ok(port);
            }
        }
        bail!("no free port between {LOWEST_PORT} and {top}")
    };
    Ok(PortChoice { terminal: pick()?, call_api: pick()?, csta: pick()?, control: pick()? })
}
