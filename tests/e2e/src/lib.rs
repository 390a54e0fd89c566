//! The whole of it on real sockets: a simulated switch in this process, the real `elph-agent` binary beside it, and gRPC clients. Used by
//! the end-to-end tests, the demo and the benches.

mod agent;
pub mod foreign;
pub mod guard;
pub mod meetings;
pub mod phones;
pub mod pushes;
pub mod sso;
pub mod suite;
mod watch;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use elph_proto::v1::{
    self, agent_service_client::AgentServiceClient, call_service_client::CallServiceClient,
    conference_service_client::ConferenceServiceClient, directory_service_client::DirectoryServiceClient,
    event_service_client::EventServiceClient, push_service_client::PushServiceClient,
};
use ssw_sim::{Sim, SimOptions};
use tonic::transport::Channel;

pub use self::{
    agent::{Agent, binary},
    watch::{Watch, eventually},
};

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the stack is made of.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// The switch.
    pub sim: SimOptions,
    /// `calls.backend`.
    pub calls: &'static str,
    /// `conferences.backend`.
    pub conferences: &'static str,
    /// `switch.dialect`; with `sim` the simulator's own dialect file is given as well.
    pub dialect: &'static str,
    /// Further lines of the configuration.
    pub extra: String,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            sim: SimOptions::default(),
            calls: "csta",
            conferences: "call_api",
            dialect: "sim",
            extra: "[switch]\nhalf_open_after = \"3s\"\nfail_back_after = \"2s\"\n".to_owned(),
        }
    }
}

/// A switch, an agent, and clients.
pub struct Stack {
    /// The simulated switch.
    pub sim: Sim,
    /// The agent.
    pub agent: Agent,
    /// Its directory: configuration, socket, journal, log.
    pub directory: PathBuf,
    options: StackOptions,
    keep: Option<tempfile::TempDir>,
}

impl Stack {
    /// Starts switch and agent, and waits until the agent is ready.
    pub async fn start(options: StackOptions) -> anyhow::Result<Self> {
        let sim = Sim::start(options.sim.clone()).await?;
        Self::beside(sim, options).await
    }

    /// Starts an agent beside a switch that runs already.
    pub async fn beside(sim: Sim, options: StackOptions) -> anyhow::Result<Self> {
        let keep = tempfile::tempdir()?;
        let directory = keep.path().to_owned();
        std::fs::write(directory.join("dialect.toml"), sim.dialect_toml())?;
        std::fs::write(directory.join("agent.toml"), config(&sim, &options, &directory)?)?;
        let agent = Agent::start(&directory).await?;
        let stack = Self { sim, agent, directory, options, keep: Some(keep) };
        stack.ready().await?;
        Ok(stack)
    }

    /// The first domain.
    pub fn domain(&self) -> &str {
        self.options.sim.domains.first().map_or("", String::as_str)
    }

    /// Waits until the agent is ready.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let ready = async {
            while !self.agent.is_ready().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, ready).await;
        waited.with_context(|| format!("the agent did not become ready; its log:\n{}", self.agent.log()))
    }

    /// Ends the agent with SIGTERM and starts it again with the same configuration and state.
    pub async fn restart_agent(&mut self) -> anyhow::Result<()> {
        self.agent.terminate().await?;
        self.agent = Agent::start(&self.directory).await?;
        self.ready().await
    }

    /// Ends the agent with SIGKILL and starts it again.
    pub async fn crash_agent(&mut self) -> anyhow::Result<()> {
        self.agent.kill().await?;
        self.agent = Agent::start(&self.directory).await?;
        self.ready().await
    }

    /// A channel over the Unix socket.
    pub fn channel(&self) -> Channel {
        self.agent.channel()
    }

    /// A client of `CallService`.
    pub fn calls(&self) -> CallServiceClient<Channel> {
        CallServiceClient::new(self.channel())
    }

    /// A client of `ConferenceService`.
    pub fn conferences(&self) -> ConferenceServiceClient<Channel> {
        ConferenceServiceClient::new(self.channel())
    }

    /// A client of `EventService`.
    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel())
    }

    /// A client of `DirectoryService`.
    pub fn directory(&self) -> DirectoryServiceClient<Channel> {
        DirectoryServiceClient::new(self.channel())
    }

    /// A client of `PushService`.
    pub fn push(&self) -> PushServiceClient<Channel> {
        PushServiceClient::new(self.channel())
    }

    /// A client of `AgentService`.
    pub fn about(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.channel())
    }

    /// A subscription to everything, from a snapshot, that keeps a view.
    pub async fn watch(&self) -> anyhow::Result<Watch> {
        Watch::start(self.events(), v1::SubscribeRequest::default()).await
    }

    /// Ends both in good order.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.agent.terminate().await?;
        self.sim.shutdown().await;
        drop(self.keep.take());
        Ok(())
    }
}

/// A new request id.
pub fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Where a switch is and who may log in there.
pub struct SwitchAt {
    /// Its nodes.
    pub nodes: Vec<ssw_sim::NodeAddresses>,
    /// Its logins.
    pub credentials: ssw_sim::Credentials,
    /// The certificate of its authority, with TLS.
    pub ca_file: Option<PathBuf>,
}

/// The agent's configuration for a simulated switch in this process.
pub fn config(sim: &Sim, options: &StackOptions, directory: &std::path::Path) -> anyhow::Result<String> {
    let at = SwitchAt {
        nodes: sim.nodes().to_vec(),
        credentials: sim.credentials().clone(),
        ca_file: sim.ca().map(|(path, _)| path.to_owned()),
    };
    config_at(&at, options, directory)
}

/// The agent's configuration for a switch wherever it is.
pub fn config_at(at: &SwitchAt, options: &StackOptions, directory: &std::path::Path) -> anyhow::Result<String> {
    let nodes = |address: fn(&ssw_sim::NodeAddresses) -> std::net::SocketAddr| {
        let all: Vec<String> = at.nodes.iter().map(|node| format!("\"{}\"", address(node))).collect();
        all.join(", ")
    };
    let credentials = &at.credentials;
    let tls = match &at.ca_file {
        Some(path) => format!("tls = true\nca_file = \"{}\"\n", path.display()),
        None => String::new(),
    };
    // Tables of `extra` may continue ours: TOML does not, so their keys are merged here.
    let mut table: toml::Table = toml::from_str(&format!(
        r#"
[switch]
dialect = "{dialect}"
[switch.terminal]
nodes = [{terminal}]
login = "{user}"
password = "{password}"
{tls}
[switch.call_api]
nodes = [{call_api}]
{tls}
[switch.csta]
nodes = [{csta}]
{tls}
[calls]
backend = "{calls}"
[conferences]
backend = "{conferences}"
[poll]
calls = "200ms"
conferences = "200ms"
[grpc]
socket = "{dir}/grpc.sock"
[[grants]]
name = "tests"
who = [{{ uid = {uid} }}]
domains = ["*"]
scopes = ["calls", "conferences", "push", "directory", "events", "admin"]
[journal]
directory = "{dir}/journal"
[push]
directory = "{dir}/push"
[http]
listen = "127.0.0.1:0"
[log]
format = "json"
filter = "info"
"#,
        dialect = options.dialect,
        terminal = nodes(|node| node.terminal),
        call_api = nodes(|node| node.call_api),
        csta = nodes(|node| node.csta),
        user = credentials.user,
        password = credentials.password,
        calls = options.calls,
        conferences = options.conferences,
        dir = directory.display(),
        uid = nix::unistd::getuid(),
    ))?;
    let domains: Vec<toml::Value> = options
        .sim
        .domains
        .iter()
        .map(|name| {
            toml::from_str::<toml::Table>(&format!(
                "name = \"{name}\"\ncsta = {{ password = \"{}\" }}\ncall_api = {{ login = \"{}\", password = \"{}\" }}\n",
                credentials.csta_password, credentials.user, credentials.password
            ))
            .map(toml::Value::Table)
        })
        .collect::<Result<_, _>>()?;
    let switch = table.get_mut("switch").and_then(toml::Value::as_table_mut).context("no [switch]")?;
    switch.insert("domains".to_owned(), toml::Value::Array(domains));
    if options.dialect == "sim" {
        switch.insert("dialect_file".to_owned(), format!("{}/dialect.toml", directory.display()).into());
    }
    merge(&mut table, toml::from_str(&options.extra)?);
    Ok(toml::to_string(&table)?)
}

pub(crate) fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
