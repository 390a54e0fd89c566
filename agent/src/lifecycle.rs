//! From a valid configuration to a running agent and back: bind, tell systemd, reload on SIGHUP, drain on SIGTERM, and stop at once
//! on the second.

use std::{io, process::ExitCode, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use ecss_switch::link::Tap;
use elph_shell::{
    logs::{LogError, LogHandle},
    notify::{self, Heart},
};
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::{Access, audit::Audit},
    config::{Config, Loaded, Refused, applies_live},
    health::{self, Links},
    listen::Connections,
    push::Pusher,
    telemetry::metrics::{Metrics, label},
    tls::{self, ServerTls},
};

/// How often systemd's status line is brought up to date.
const STATUS_PERIOD: Duration = Duration::from_secs(2);
/// How long the audit log may take to be written at the end.
const AUDIT_DEADLINE: Duration = Duration::from_secs(5);

/// The two ways to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing new and finish what runs.
    pub soft: CancellationToken,
    /// Stop at once.
    pub hard: CancellationToken,
}

/// Why the agent ended, or did not begin. The exit code is sysexits(3)'s.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] Refused),
    /// The configuration is refused when it is put to use.
    #[error("{key}: {what}")]
    Unusable {
        /// The key at fault.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// An address, a socket or a file cannot be had.
    #[error("{what} cannot be opened")]
    Unavailable {
        /// What for.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log cannot be begun.
    #[error("the log cannot be begun")]
    Log(#[from] LogError),
    /// A part of the agent has failed.
    #[error("{what} failed")]
    Internal {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What every part of the agent shares.
pub struct Shared {
    /// The configuration in force: what SIGHUP cannot change is as it was at the start.
    pub config: ArcSwap<Config>,
    /// Who may do what.
    pub access: Access,
    /// The audit log.
    pub audit: Audit,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The links' states, for readiness and metrics. Whoever starts a link adds it here.
    pub links: Arc<Links>,
    /// The gRPC listener's certificates; none without `grpc.listen`.
    pub tls: Option<Arc<ServerTls>>,
    /// The bound on gRPC connections.
    pub connections: Connections,
    /// Loops that must turn for the watchdog to be pinged.
    pub heart: Heart,
    /// When to stop.
    pub shutdown: Shutdown,
    /// Tasks that the drain waits for. They end by themselves after `shutdown.soft`.
    pub tasks: TaskTracker,
    /// Pushes, once they are started and if there are applications.
    pub pusher: ArcSwapOption<Pusher>,
    log: LogHandle,
    loaded: ArcSwap<Loaded>,
}

/// Runs the agent until it is told to stop. `tap` sees everything that is exchanged with the switch.
pub async fn run(loaded: Loaded, log: LogHandle, shutdown: Shutdown, tap: Option<Arc<dyn Tap>>) -> Result<(), Failure> {
    // Signals first: one that comes during the start is not lost.
    let mut signals = Signals::new().map_err(|source| Failure::Internal { what: "waiting for signals", source })?;
    let drain = loaded.config.shutdown.drain.0;
    let shared = Arc::new(Shared::new(loaded, log, shutdown.clone())?);

    let address = shared.config.load().http.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Failure::Unavailable { what: format!("http.listen {address}"), source })?;
    if let Ok(bound) = listener.local_addr() {
        tracing::info!(address = %bound, "metrics and health are served");
    }
    let (links, metrics) = (shared.links.clone(), shared.metrics.clone());
    let health = tokio::spawn(health::serve(listener, links, metrics, shutdown.soft.clone(), shutdown.hard.clone()));

    crate::assembly::start(&shared, tap).await?;

    notify::tell(&[NotifyState::Ready, NotifyState::Status(&shared.links.summary())]);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    if let Some(interval) = sd_notify::watchdog_enabled() {
        tokio::spawn(shared.heart.clone().watchdog(interval, shutdown.hard.clone()));
    }
    tokio::spawn(status(shared.clone()));

    loop {
        tokio::select! {
            () = shutdown.soft.cancelled() => break,
            asked = signals.next() => match asked {
                Asked::Reload => reload(&shared).await,
                Asked::Stop => shutdown.soft.cancel(),
            },
        }
    }

    notify::tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    tracing::info!(deadline = ?drain, "draining");
    match drained(&shared.tasks, &shutdown.hard, signals.stop(), drain).await {
        Drained::Whole => tracing::info!("drained"),
        Drained::AtOnce => tracing::warn!(tasks = shared.tasks.len(), "stopped at once"),
        Drained::TooSlow => tracing::warn!(tasks = shared.tasks.len(), "not drained in time, cut off"),
    }
    shutdown.hard.cancel();
    shared.audit.finish(AUDIT_DEADLINE).await;
    match health.await {
        Ok(Err(source)) => Err(Failure::Internal { what: "serving metrics and health", source }),
        _ => Ok(()),
    }
}

/// How a drain ended.
#[derive(Debug, PartialEq, Eq)]
enum Drained {
    Whole,
    AtOnce,
    TooSlow,
}

/// Waits for the tasks, but no longer than the deadline, a second signal or a hard stop.
async fn drained(tasks: &TaskTracker, hard: &CancellationToken, second: impl Future<Output = ()>, deadline: Duration) -> Drained {
    tasks.close();
    tokio::select! {
        () = tasks.wait() => Drained::Whole,
        () = hard.cancelled() => Drained::AtOnce,
        () = second => Drained::AtOnce,
        () = tokio::time::sleep(deadline) => Drained::TooSlow,
    }
}

// === impl Shared ===

impl Shared {
    /// Opens what the configuration names. Nothing is bound yet.
    pub fn new(loaded: Loaded, log: LogHandle, shutdown: Shutdown) -> Result<Self, Failure> {
        loaded.require_files()?;
        let config = loaded.config.clone();
        let links = Arc::new(Links::default());
        let metrics = Arc::new(Metrics::new(links.clone()));
        let access = Access::new(&config).map_err(|(key, what)| Failure::Unusable { key, what })?;
        let material = tls::server_config(&config.grpc);
        let material = material.map_err(|(key, what)| Failure::Unusable { key: format!("grpc.{key}"), what })?;
        if let Some(material) = &material {
            metrics.certificate_expiry.get_or_create(&label("use", "grpc")).set(material.expires_at);
        }
        let connections = Connections::new(config.grpc.max_connections, metrics.grpc_connections.clone());
        let audit = Audit::start(&config.audit, log.journald, &metrics);
        let audit = audit.map_err(|source| Failure::Unavailable { what: "the audit log".to_owned(), source })?;
        Ok(Self {
            config: ArcSwap::from_pointee(config),
            access,
            audit,
            metrics,
            links,
            tls: material.map(|material| Arc::new(ServerTls::new(material))),
            connections,
            heart: Heart::default(),
            shutdown,
            tasks: TaskTracker::new(),
            pusher: ArcSwapOption::empty(),
            log,
            loaded: ArcSwap::from_pointee(loaded),
        })
    }

    /// Puts into force what can be changed while running, or nothing at all.
    fn adopt(&self, fresh: Loaded) -> Result<(), Failure> {
        fresh.require_files()?;
        let material = tls::server_config(&fresh.config.grpc);
        let material = material.map_err(|(key, what)| Failure::Unusable { key: format!("grpc.{key}"), what })?;
        let current = self.loaded.load_full();
        let changed = current.differing(&fresh);
        let mut config = current.config.clone();
        config.grants.clone_from(&fresh.config.grants);
        config.oidc.clone_from(&fresh.config.oidc);
        config.limits = fresh.config.limits.clone();
        config.log.filter.clone_from(&fresh.config.log.filter);
        config.grpc.certificate_file.clone_from(&fresh.config.grpc.certificate_file);
        config.grpc.key_file.clone_from(&fresh.config.grpc.key_file);
        config.grpc.client_ca_file.clone_from(&fresh.config.grpc.client_ca_file);

        config.push.apps.clone_from(&fresh.config.push.apps);
        config.push.events.clone_from(&fresh.config.push.events);
        if let Some(pusher) = self.pusher.load_full() {
            pusher.reload(&config.push)?;
        }
        self.access.reload(&config).map_err(|(key, what)| Failure::Unusable { key, what })?;
        self.log.set_filter(&config.log.filter)?;
        if let (Some(tls), Some(material)) = (&self.tls, material) {
            self.metrics.certificate_expiry.get_or_create(&label("use", "grpc")).set(material.expires_at);
            tls.replace(material);
        }
        self.audit.reopen();
        // Without applications at the start there is nothing that could take them over.
        let pushes = self.pusher.load().is_some();
        let applies = |key: &String| applies_live(key) && (pushes || !key.starts_with("push."));
        let (live, restart): (Vec<String>, Vec<String>) = changed.into_iter().partition(applies);
        // The restart stays due at the next reload, too.
        self.loaded.store(Arc::new(fresh.with(config.clone())));
        self.config.store(Arc::new(config));
        tracing::info!(changed = ?live, "configuration read anew");
        if !restart.is_empty() {
            tracing::warn!(keys = ?restart, "these changed keys take effect after a restart");
        }
        Ok(())
    }
}

/// SIGHUP. A configuration that is refused leaves everything as it was.
async fn reload(shared: &Arc<Shared>) {
    notify::reloading();
    let adopting = shared.clone();
    let outcome = tokio::task::spawn_blocking(move || {
        let path = adopting.loaded.load().path.clone();
        Config::load(&path).map_err(Failure::from).and_then(|fresh| adopting.adopt(fresh))
    });
    let outcome = match outcome.await {
        Ok(Ok(())) => "applied",
        Ok(Err(failure)) => {
            tracing::error!(error = %told(&failure), "the new configuration is refused, the old one stays in force");
            "refused"
        }
        Err(error) => {
            tracing::error!(%error, "reading the configuration anew was cut short");
            "refused"
        }
    };
    shared.metrics.config_reloads.get_or_create(&label("outcome", outcome)).inc();
    notify::tell(&[NotifyState::Ready]);
}

/// Keeps `systemctl status` up to date.
async fn status(shared: Arc<Shared>) {
    let mut told = String::new();
    let mut ticks = tokio::time::interval(STATUS_PERIOD);
    while shared.shutdown.soft.run_until_cancelled(ticks.tick()).await.is_some() {
        let summary = shared.links.summary();
        if summary != told {
            notify::tell(&[NotifyState::Status(&summary)]);
            told = summary;
        }
    }
}

// === signals ===

enum Asked {
    Reload,
    Stop,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

// === impl Failure ===

impl Failure {
    /// sysexits(3).
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) | Self::Unusable { .. } => 64,
            Self::Unavailable { .. } | Self::Log(_) => 69,
            Self::Internal { .. } => 70,
        })
    }
}

/// A failure with its causes.
pub fn told(failure: &Failure) -> String {
    let mut text = failure.to_string();
    let mut cause = std::error::Error::source(failure);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal as Kind, raise};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_with_its_tasks_or_its_deadline() {
        let (tasks, hard) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(tokio::time::sleep(Duration::from_secs(3)));
        assert_eq!(drained(&tasks, &hard, std::future::pending(), Duration::from_secs(10)).await, Drained::Whole);
        tasks.reopen();
        tasks.spawn(std::future::pending::<()>());
        let begun = tokio::time::Instant::now();
        assert_eq!(drained(&tasks, &hard, std::future::pending(), Duration::from_secs(10)).await, Drained::TooSlow);
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_second_sigterm_stops_at_once() {
        let mut signals = Signals::new().unwrap();
        raise(Kind::SIGTERM).unwrap();
        assert!(matches!(signals.next().await, Asked::Stop));
        let (tasks, hard) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(std::future::pending::<()>());
        let (ended, ()) = tokio::join!(drained(&tasks, &hard, signals.stop(), Duration::from_secs(600)), async {
            raise(Kind::SIGTERM).unwrap();
        });
        assert_eq!(ended, Drained::AtOnce);
    }
}
