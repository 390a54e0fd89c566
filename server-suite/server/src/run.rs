//! From a valid configuration to running services and back: open the database, start each service, bind, tell systemd; reload
//! certificates on SIGHUP, drain on SIGTERM.

use std::{io, process::ExitCode, sync::Arc};

use elph_kit::{
    Kit, Service,
    bus::{self, Bus},
    caller::Verifier,
    database::{Database, DatabaseError},
    limits::Limits,
    metrics::Metrics,
    serve::{self, Certificate},
    switches::Switches,
};
use elph_shell::{
    logs::{LogError, LogHandle},
    notify,
};
use elph_sso::{Provider, ProviderError};
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cli::Target,
    config::{Config, Loaded},
};

/// Why the server ended, or did not begin. The exit code is sysexits(3)'s.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A key is wrong when it is put to use.
    #[error("{key}: {what}")]
    Unusable {
        /// The key at fault.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The OpenID Connect provider.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// An address cannot be had.
    #[error("{what} cannot be opened")]
    Unavailable {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log cannot be begun.
    #[error("the log cannot be begun")]
    Log(#[from] LogError),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Unusable { .. } | Self::Database(DatabaseError::Settings { .. }) | Self::Provider(ProviderError::Settings(..)) => 64,
            Self::Provider(ProviderError::Broken(_)) => 70,
            Self::Database(_) | Self::Provider(_) | Self::Unavailable { .. } | Self::Log(_) => 69,
        })
    }
}

impl From<(String, String)> for Failure {
    fn from((key, what): (String, String)) -> Self {
        Self::Unusable { key, what }
    }
}

/// Runs services until it is told to stop.
pub(crate) async fn run(loaded: Loaded, log: LogHandle, targets: &[Target]) -> Result<(), Failure> {
    let config = loaded.config.clone();
    let signals = |kind| signal(kind).map_err(|source| Failure::Unavailable { what: "waiting for signals".to_owned(), source });
    let (mut terminate, mut interrupt, mut hangup) =
        (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?, signals(SignalKind::hangup())?);
    let certificate = Certificate::read(&config.http).map_err(|(key, what)| (key.to_owned(), what))?.map(Arc::new);
    let (database, switches) = (Database::open(&config.database).await?, Switches::new(&config.agents)?);
    let (metrics, tasks, stop) = (Metrics::default(), TaskTracker::new(), CancellationToken::new());
    let domains: Vec<String> = switches.domains().map(str::to_owned).collect();
    let provider = match &config.sso {
        Some(settings) => Some(Provider::open(settings, &database, domains.clone()).await?),
        None => None,
    };
    let mut verifier = Verifier::new(&config.oidc)?;
    for (issuer, keys) in provider.iter().flat_map(Provider::issuers) {
        verifier.trust(issuer, keys);
    }
    let kit = Kit {
        bus: Bus::open(&config.bus, &database, domains, &metrics, &tasks, &stop).await?,
        database,
        switches: Arc::new(switches),
        verifier: Arc::new(verifier),
        limits: Arc::new(Limits::new(&config.limits)),
        metrics: Arc::new(metrics),
        tasks,
        stop,
    };
    let services = start(&kit, provider.as_ref(), targets).await?;
    let names: Vec<&str> = services.iter().map(|service| service.name).collect();
    let names = names.join(",");

    let (public, internal) =
        (bind("http.listen", config.http.listen).await?, bind("http.internal_listen", config.http.internal_listen).await?);
    let hard = CancellationToken::new();
    let inside = serve::internal(&kit);
    let watching = tokio::spawn(hard.clone().run_until_cancelled_owned(async move { axum::serve(internal, inside).await }));
    let outside = serve::public(&kit, &config.http, services);
    let (settings, metrics, stop) = (config.http.clone(), kit.metrics.clone(), kit.stop.clone());
    let (own, drain) = (certificate.clone(), config.shutdown.drain.0);
    let serving = tokio::spawn(async move { serve::serve(public, own, outside, &settings, metrics, stop, drain).await });

    notify::tell(&[NotifyState::Ready, NotifyState::Status(&names)]);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), services = names, "started");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                notify::reloading();
                reload(&loaded, &log, certificate.as_deref());
                notify::tell(&[NotifyState::Ready]);
            }
        }
    }
    notify::tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    tracing::info!(deadline = ?drain, "draining");
    kit.stop.cancel();
    kit.tasks.close();
    let ended = async {
        let _cut = serving.await;
        kit.tasks.wait().await;
    };
    tokio::select! {
        // A second signal ends at once.
        _ = terminate.recv() => tracing::warn!("stopped at once"),
        _ = interrupt.recv() => tracing::warn!("stopped at once"),
        ended = tokio::time::timeout(drain, ended) => match ended {
            Ok(()) => tracing::info!("drained"),
            Err(_) => tracing::warn!(tasks = kit.tasks.len(), "not drained in time, cut off"),
        },
    }
    hard.cancel();
    let _cut = watching.await;
    kit.database.close().await;
    Ok(())
}

async fn start(kit: &Kit, provider: Option<&Arc<Provider>>, targets: &[Target]) -> Result<Vec<Service>, Failure> {
    let mut services = Vec::new();
    match provider {
        Some(provider) if wants(targets, Target::Sso) => services.push(elph_sso::start(kit, provider)?),
        None if targets.contains(&Target::Sso) => {
            return Err(Failure::Unusable { key: "sso".to_owned(), what: "is missing; this service is configured there".to_owned() });
        }
        _ => {}
    }
    if wants(targets, Target::Status) {
        services.push(elph_status::start(kit).await?);
    }
    Ok(services)
}

fn wants(targets: &[Target], target: Target) -> bool {
    targets.iter().any(|wanted| *wanted == Target::All || *wanted == target)
}

/// Brings the tables of services up to date without running them.
pub(crate) async fn migrate(config: &Config) -> Result<(), DatabaseError> {
    let database = Database::open(&config.database).await?;
    bus::migrate(&database).await?;
    elph_status::migrate(&database).await?;
    elph_sso::Store::open(&database).await?;
    database.close().await;
    Ok(())
}

async fn bind(key: &str, address: std::net::SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).await.map_err(|source| Failure::Unavailable { what: format!("{key} {address}"), source })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, key, "listening");
    }
    Ok(listener)
}

/// SIGHUP: certificates and the log's filter. What is wrong changes nothing.
fn reload(loaded: &Loaded, log: &LogHandle, certificate: Option<&Certificate>) {
    let fresh = match Config::load(&loaded.path) {
        Ok(fresh) => fresh,
        Err(refused) => return tracing::error!(error = %refused, "the new configuration is refused, the old one stays in force"),
    };
    if let Some(Err((key, what))) = certificate.map(|certificate| certificate.reload(&fresh.config.http)) {
        return tracing::error!(key, what, "the new certificate is refused, the old one stays in force");
    }
    if let Err(error) = log.set_filter(&fresh.config.log.filter) {
        return tracing::error!(error = elph_shell::told(&error), "the new filter is refused");
    }
    let changed = elph_shell::config::differing(&loaded.config, &fresh.config);
    let live = |key: &String| key == "log.filter" || key == "http.certificate_file" || key == "http.key_file";
    let restart: Vec<String> = changed.into_iter().filter(|key| !live(key)).collect();
    tracing::info!("configuration read anew");
    if !restart.is_empty() {
        tracing::warn!(keys = ?restart, "these changed keys take effect after a restart");
    }
}
