//! The simulator as a library: one switch behind one or more nodes' listeners, its control API and its load.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;
use ssw_core::{Answer, DomainOptions, GroupKind, Room, Switch, SwitchOptions, Template};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::{
    call_api,
    context::ServerContext,
    control,
    credentials::Credentials,
    csta,
    dialect::SimDialect,
    faults::{Faults, Link},
    load::{self, LoadOptions},
    sessions::Sessions,
    terminal, tls,
};

/// How often the switch does what is due.
const TICK: Duration = Duration::from_millis(10);
/// How long the end may take.
const STOP: Duration = Duration::from_secs(5);

/// Ports of the first node; 0 = any free one. Each further node listens 100 higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    /// HTTP terminal.
    pub terminal: u16,
    /// Call API.
    pub call_api: u16,
    /// CSTA.
    pub csta: u16,
    /// Control API (one for all nodes).
    pub control: u16,
}

/// How the simulator is set up.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Seed of dialect and chance; `None` = a random one.
    pub seed: Option<u64>,
    /// Names of the domains.
    pub domains: Vec<String>,
    /// Aliases of each domain, 0 to 100,000: 1001… for up to 8,999, 100001… for more.
    pub aliases: u32,
    /// Switch nodes; they share one state, but not sessions.
    pub nodes: usize,
    /// Whether the three protocols speak TLS.
    pub tls: bool,
    /// Where the authority's certificate is written when `tls` is on; `None` = a file in the temporary directory.
    pub ca_file: Option<PathBuf>,
    /// Address to listen on.
    pub host: IpAddr,
    /// Ports.
    pub ports: Ports,
    /// What phones do unless told otherwise.
    pub answer: Answer,
    /// How long phones ring.
    pub ring_time: Duration,
    /// Seconds after which an unused session of the terminal expires.
    pub session_idle_s: u32,
    /// Who may log in.
    pub credentials: Credentials,
    /// Load that runs by itself.
    pub load: LoadOptions,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            seed: Some(0),
            domains: vec!["elph.local".to_owned()],
            aliases: 100,
            nodes: 1,
            tls: false,
            ca_file: None,
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: Ports::default(),
            answer: Answer::Never,
            ring_time: Duration::from_secs(30),
            session_idle_s: 300,
            credentials: Credentials::default(),
            load: LoadOptions::default(),
        }
    }
}

/// Where a node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NodeAddresses {
    /// HTTP terminal.
    pub terminal: SocketAddr,
    /// Call API.
    pub call_api: SocketAddr,
    /// CSTA.
    pub csta: SocketAddr,
}

/// A running simulator. Dropping it stops it.
#[derive(Debug)]
pub struct Sim {
    nodes: Vec<NodeAddresses>,
    control: SocketAddr,
    core: Core,
    ca: Option<(PathBuf, String)>,
    tasks: JoinSet<()>,
}

/// What every part of the simulator refers to.
#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) switch: Switch,
    pub(crate) dialect: Arc<SimDialect>,
    pub(crate) faults: Faults,
    pub(crate) sessions: Sessions,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) nodes: usize,
    pub(crate) shutdown: CancellationToken,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("seed", &self.dialect.seed).field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

impl Core {
    /// The switch restarts: sessions and connections are gone; calls and conferences stay or not.
    pub(crate) fn restart(&self, keep_state: bool) {
        self.switch.restart(keep_state);
        self.sessions.expire(None, None);
        for node in 0..self.nodes {
            for link in Link::ALL {
                self.faults.drop_now(link, node);
            }
        }
    }
}

impl Sim {
    /// Binds everything, then serves.
    pub async fn start(options: SimOptions) -> anyhow::Result<Self> {
        let seed = options.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let dialect = Arc::new(SimDialect::from_seed(seed));
        let switch =
            Switch::new(SwitchOptions { seed, ring_time: options.ring_time, merge_into: dialect.merge_into, ..SwitchOptions::default() });
        for domain in &options.domains {
            furnish(&switch, domain, &options).with_context(|| format!("set up the domain {domain}"))?;
        }
        let nodes = options.nodes.max(1);
        let core = Core {
            switch,
            dialect,
            faults: Faults::default(),
            sessions: Sessions::default(),
            credentials: Arc::new(options.credentials.clone()),
            nodes,
            shutdown: CancellationToken::new(),
        };
        let (acceptor, ca) = if options.tls {
            let (acceptor, pem) = tls::make()?;
            (Some(acceptor), Some(pem))
        } else {
            (None, None)
        };
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        for node in 0..nodes {
            let bind = |port| bind(options.host, port, node);
            let (at_terminal, at_call_api, at_csta) =
                (bind(options.ports.terminal)?, bind(options.ports.call_api)?, bind(options.ports.csta)?);
            addresses.push(NodeAddresses {
                terminal: at_terminal.local_addr()?,
                call_api: at_call_api.local_addr()?,
                csta: at_csta.local_addr()?,
            });
            let ctx = ServerContext {
                switch: core.switch.clone(),
                dialect: core.dialect.clone(),
                faults: core.faults.clone(),
                sessions: core.sessions.clone(),
                credentials: core.credentials.clone(),
                node,
                tls: acceptor.clone(),
                shutdown: core.shutdown.clone(),
            };
            tasks.spawn(terminal::serve(at_terminal, ctx.clone()));
            tasks.spawn(call_api::serve(at_call_api, ctx.clone()));
            tasks.spawn(csta::serve(at_csta, ctx));
        }
        let at_control = bind(options.host, options.ports.control, 0)?;
        let control = at_control.local_addr()?;
        let ca = match ca {
            Some(pem) => {
                let name = || std::env::temp_dir().join(format!("ssw-sim-ca-{}-{}.pem", std::process::id(), control.port()));
                let path = options.ca_file.clone().unwrap_or_else(name);
                tokio::fs::write(&path, &pem).await.with_context(|| format!("write {}", path.display()))?;
                Some((path, pem))
            }
            None => None,
        };
        tasks.spawn(control::serve(at_control, core.clone(), addresses.clone()));
        tasks.spawn(tick(core.clone(), options.session_idle_s));
        tasks.spawn(load::run(core.switch.clone(), options.load.clone(), seed, core.shutdown.clone()));
        tracing::info!(seed, %control, nodes, "simulated switch is up");
        Ok(Self { nodes: addresses, control, core, ca, tasks })
    }

    /// Addresses of each node.
    pub fn nodes(&self) -> &[NodeAddresses] {
        &self.nodes
    }

    /// Addresses of the first node.
    pub fn addresses(&self) -> NodeAddresses {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.nodes.first().copied().unwrap_or(NodeAddresses { terminal: nowhere, call_api: nowhere, csta: nowhere })
    }

    /// Address of the control API.
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.core.dialect.seed
    }

    /// The dialect in use.
    pub fn dialect(&self) -> &SimDialect {
        &self.core.dialect
    }

    /// The dialect as the override table of an agent's built-in `sim`.
    pub fn dialect_toml(&self) -> String {
        self.core.dialect.to_toml()
    }

    /// The switch.
    pub fn switch(&self) -> &Switch {
        &self.core.switch
    }

    /// The faults in force.
    pub fn faults(&self) -> &Faults {
        &self.core.faults
    }

    /// Sessions of every protocol.
    pub fn sessions(&self) -> &Sessions {
        &self.core.sessions
    }

    /// Who may log in.
    pub fn credentials(&self) -> &Credentials {
        &self.core.credentials
    }

    /// File and text (PEM) of the authority's certificate, with TLS.
    pub fn ca(&self) -> Option<(&std::path::Path, &str)> {
        self.ca.as_ref().map(|(path, pem)| (path.as_path(), pem.as_str()))
    }

    /// The switch restarts: sessions and connections are gone; calls and conferences stay or not.
    pub fn restart(&self, keep_state: bool) {
        self.core.restart(keep_state);
    }

    /// Every address as JSON, for those who start the program.
    pub fn ports_json(&self) -> serde_json::Value {
        serde_json::json!({
            "seed": self.seed(),
            "control": self.control,
            "nodes": self.nodes,
            "ca_file": self.ca.as_ref().map(|(path, _)| path),
        })
    }

    /// Stops everything and waits for it.
    pub async fn shutdown(mut self) {
        self.core.shutdown.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(STOP, all).await.is_ok();
        if !in_time {
            tracing::warn!("a server did not end in time");
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.core.shutdown.cancel();
    }
}

fn bind(host: IpAddr, port: u16, node: usize) -> anyhow::Result<TcpListener> {
    let above = u16::try_from(node * 100).unwrap_or(0);
    let port = if port == 0 { 0 } else { port.saturating_add(above) };
    let listen = || {
        let socket = if host.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind((host, port).into())?;
        // Hundreds of clients may come at once; a short queue would make some of them wait a second.
        socket.listen(1024)
    };
    listen().with_context(|| format!("listen on {host}:{port}"))
}

/// Gives a domain its aliases, rooms 800 and 801, a template `briefing` with the numeric groups `100` and `200`, a ring group 600 and a
/// queue 700 (as far as it has the aliases for them).
fn furnish(switch: &Switch, domain: &str, options: &SimOptions) -> anyhow::Result<()> {
    switch.add_domain(DomainOptions { answer: options.answer, ..DomainOptions::new(domain, options.aliases) })?;
    for (name, description) in [("800", "main hall"), ("801", "dispatchers")] {
        switch.declare_room(domain, Room { name: name.to_owned(), description: description.to_owned() })?;
    }
    let aliases = switch.aliases(domain, 0, 10)?;
    let part = |from: usize, to: usize| aliases.get(from.min(aliases.len())..to.min(aliases.len())).unwrap_or_default().to_vec();
    switch.declare_numeric_group(domain, "100", part(1, 4))?;
    switch.declare_numeric_group(domain, "200", part(4, 7))?;
    let template = Template {
        name: "briefing".to_owned(),
        description: "morning briefing".to_owned(),
        groups: vec!["100".to_owned(), "200".to_owned()],
        presenters: part(0, 1),
        participants: Vec::new(),
        voice: false,
        limit: 50,
        seconds: 3600,
    };
    switch.declare_template(domain, template)?;
    switch.declare_group(domain, "600", GroupKind::Ring, part(0, 3))?;
    switch.declare_group(domain, "700", GroupKind::Queue, part(3, 6))?;
    Ok(())
}

async fn tick(core: Core, idle_s: u32) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut turn = 0u32;
    loop {
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            _ = interval.tick() => {}
        }
        core.switch.tick();
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(100) {
            core.sessions.expire_idle(Link::Terminal, i64::from(idle_s));
        }
    }
}
