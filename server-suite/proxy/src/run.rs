//! From a valid configuration to a running nginx and back: start, reload on SIGHUP, on a replaced certificate and when copies change,
//! start again when nginx has ended by itself, drain on SIGTERM, and stop at once on the second.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use elph_shell::{
    config::Refused,
    logs::{LogError, LogHandle},
    notify, told,
};
use sd_notify::NotifyState;
use sha2::{Digest, Sha256};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    acme::{self, Ask, Keeper},
    config::{Config, Loaded},
    counts,
    health::Health,
    metrics::{Metrics, labels},
    nginx::{
        self, NginxError, Running,
        features::{Features, OLDEST, Stream},
    },
    render::{self, Files, Input},
    serve::{self, Shown},
};

/// The longest pause before nginx is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why the proxy ended, or did not begin. The exit code is sysexits(3)'s.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] Refused),
    /// The log cannot be begun.
    #[error("the log cannot be begun")]
    Log(#[from] LogError),
    /// An address cannot be had.
    #[error("{what} cannot be opened")]
    Unavailable {
        /// What for.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// nginx refuses the configuration.
    #[error(transparent)]
    Nginx(#[from] NginxError),
    /// There is no certificate to start with.
    #[error("{0}")]
    Certificate(String),
    /// This nginx cannot be used.
    #[error("this nginx cannot be used: {0}")]
    Unfit(String),
}

impl Failure {
    /// sysexits(3).
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) | Self::Nginx(NginxError::Refused { .. }) => 64,
            Self::Unavailable { .. } | Self::Log(_) | Self::Nginx(_) | Self::Certificate(_) | Self::Unfit(_) => 69,
        })
    }
}

/// What nginx can do: as configured, or as it says itself.
pub async fn features(config: &Config) -> Result<Features, Failure> {
    if let Some(named) = config.nginx.named_features() {
        return Ok(named);
    }
    let build = nginx::probe(&config.nginx.binary).await?;
    if build.features.version < OLDEST {
        return Err(Failure::Unfit(format!("{} is older than {OLDEST}", build.features.version)));
    }
    if !build.missing.is_empty() {
        return Err(Failure::Unfit(format!("it was built without {}", build.missing.join(", "))));
    }
    splits_connections(config, &build.features)?;
    Ok(build.features)
}

/// TLS-ALPN-01 needs the stream module.
fn splits_connections(config: &Config, features: &Features) -> Result<(), Failure> {
    if config.acme.splits_connections() && features.stream == Stream::Missing {
        let what = "it has no stream module, which acme.challenge = \"tls_alpn\" needs; install it (libnginx-mod-stream), or use \"dns\"";
        return Err(Failure::Unfit(what.to_owned()));
    }
    Ok(())
}

/// Renders a configuration as it would be at the start.
pub async fn rendered(loaded: &Loaded, features: Features) -> String {
    let health = Health::default();
    health.look_up(&loaded.services).await;
    let services = health.placed(&loaded.services);
    render::render(&Input { config: &loaded.config, services: &services, features, challenging: false, generation: 0 })
}

struct Supervisor {
    loaded: Loaded,
    features: Features,
    health: Health,
    metrics: Arc<Metrics>,
    services: Arc<ArcSwap<Vec<crate::config::Service>>>,
    generation: u64,
    /// The ACME server is expected.
    challenging: bool,
    asks: mpsc::Sender<Ask>,
    keeping: CancellationToken,
    /// The access log that is written.
    log: watch::Sender<Option<PathBuf>>,
    /// The text in force as of generation 0, and the certificate's digest.
    in_force: (String, Option<[u8; 32]>),
    watching: CancellationToken,
}

/// Runs until it is told to stop.
pub async fn run(loaded: Loaded, log: LogHandle) -> Result<(), Failure> {
    let unavailable = |what: &str| {
        let what = what.to_owned();
        move |source| Failure::Unavailable { what, source }
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable("SIGINT"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(unavailable("SIGHUP"))?;
    let mut reopen = signal(SignalKind::user_defined1()).map_err(unavailable("SIGUSR1"))?;
    let address = loaded.config.metrics.listen;
    let listener = TcpListener::bind(address).await.map_err(unavailable(&format!("metrics.listen {address}")))?;
    let files = Files::of(&loaded.config.nginx.directory);
    let features = features(&loaded.config).await?;
    let (metrics, health, draining, stop) =
        (Arc::new(Metrics::new()), Health::default(), CancellationToken::new(), CancellationToken::new());
    let services = Arc::new(ArcSwap::from_pointee(loaded.services.clone()));
    let (asks, mut asked) = mpsc::channel(4);
    let version = features.version;
    let mut supervisor = Supervisor {
        loaded,
        features,
        health: health.clone(),
        metrics: metrics.clone(),
        services: services.clone(),
        generation: 1,
        challenging: false,
        asks,
        keeping: CancellationToken::new(),
        log: watch::channel(None).0,
        in_force: (String::new(), None),
        watching: CancellationToken::new(),
    };
    health.look_up(&supervisor.loaded.services).await;
    nginx::end_leftover(&files).await;
    let mut running = supervisor.start().await?;
    supervisor.watch();
    supervisor.keep_certificate();
    let counting = tokio::spawn(counts::follow(services.clone(), supervisor.log.subscribe(), metrics.clone()));
    let shown = Shown { metrics, health: health.clone(), services, socket: files.status.clone(), draining: draining.clone() };
    let serving = tokio::spawn(serve::serve(listener, shown, stop.clone()));
    notify::tell(&[NotifyState::Ready]);
    tracing::info!(nginx = %version, pid = running.pid(), metrics = %address, "started");

    let mut settled = Instant::now();
    let mut pause = Duration::from_millis(200);
    let mut stale = false;
    loop {
        let look_at_certificate = supervisor.loaded.config.listen.certificate_check.0;
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                notify::reloading();
                supervisor.read_again(&mut running, &log).await;
                notify::tell(&[NotifyState::Ready]);
            }
            _ = reopen.recv() => running.reopen_log(),
            () = health.changed.notified() => stale = true,
            () = sleep_until(settled), if stale => {
                stale = false;
                let _logged = supervisor.bring_up_to_date(&mut running, "check").await;
                settled = Instant::now() + supervisor.loaded.config.checks.settle.0;
            }
            Some(ask) = asked.recv() => match ask {
                Ask::Renewed => {
                    let _logged = supervisor.bring_up_to_date(&mut running, "certificate").await;
                }
                Ask::Challenging(on, done) => {
                    supervisor.challenging = on;
                    // Who has asked may have gone meanwhile.
                    let _ = done.send(supervisor.bring_up_to_date(&mut running, "challenge").await);
                }
            },
            () = sleep(look_at_certificate) => {
                if supervisor.certificate().is_some_and(|digest| supervisor.in_force.1 != Some(digest)) {
                    let _logged = supervisor.bring_up_to_date(&mut running, "certificate").await;
                }
            }
            status = running.ended() => {
                tracing::error!(status, "nginx has ended by itself, starting it again");
                running.sweep().await;
                sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                supervisor.metrics.restarts.inc();
                match supervisor.start().await {
                    Ok(fresh) => running = fresh,
                    Err(error) => tracing::error!(error = %told(&error), "nginx cannot be started again"),
                }
            }
        }
    }
    let drain = supervisor.loaded.config.shutdown.drain.0;
    notify::tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    tracing::info!(deadline = ?drain, "draining");
    draining.cancel();
    supervisor.watching.cancel();
    supervisor.keeping.cancel();
    let second = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    running.stop(drain, second).await;
    stop.cancel();
    counting.abort();
    let _ = serving.await;
    tracing::info!("stopped");
    Ok(())
}

impl Supervisor {
    fn text(&self, generation: u64) -> String {
        let services = self.health.placed(&self.loaded.services);
        render::render(&Input {
            config: &self.loaded.config,
            services: &services,
            features: self.features.clone(),
            challenging: self.challenging,
            generation,
        })
    }

    async fn start(&mut self) -> Result<Running, Failure> {
        let config = &self.loaded.config;
        if config.acme.enabled() {
            acme::make_placeholder(&config.acme, config.certificate_names()).map_err(|error| Failure::Certificate(told(&error)))?;
        }
        let nginx = config.nginx.clone();
        self.prepare().await?;
        self.in_force = (self.text(0), self.certificate());
        self.expiry();
        let running = Running::start(&nginx, &self.features, self.generation).await?;
        self.follow_log();
        Ok(running)
    }

    /// Writes and tests the configuration, and puts it in place.
    async fn prepare(&self) -> Result<(), NginxError> {
        let files = Files::of(&self.loaded.config.nginx.directory);
        nginx::write_candidate(&files, &self.text(self.generation))?;
        nginx::test(&self.loaded.config.nginx, &self.features, &files.candidate).await?;
        nginx::adopt_candidate(&files)
    }

    /// Reloads nginx if what is in force is not what should be. Says why it is not.
    async fn bring_up_to_date(&mut self, running: &mut Running, cause: &'static str) -> Result<(), String> {
        let wanted = (self.text(0), self.certificate());
        if wanted == self.in_force {
            return Ok(());
        }
        self.generation += 1;
        let begun = Instant::now();
        let done = match self.prepare().await {
            Ok(()) => {
                self.in_force = wanted;
                running.reload(self.generation).await
            }
            Err(error) => Err(error),
        };
        let outcome = done.map_err(|error| told(&error));
        match &outcome {
            Ok(()) => {
                tracing::info!(cause, milliseconds = begun.elapsed().as_millis(), "nginx reloaded");
                self.expiry();
            }
            Err(error) => tracing::error!(cause, error, "what nginx refuses is not put in force, the old configuration stays"),
        }
        let named = if outcome.is_ok() { "applied" } else { "refused" };
        self.metrics.reloads.get_or_create(&labels([("cause", cause), ("outcome", named)])).inc();
        outcome
    }

    /// SIGHUP. What is refused leaves everything as it was.
    async fn read_again(&mut self, running: &mut Running, log: &LogHandle) {
        let refused = |error: String| {
            tracing::error!(error, "the new configuration is refused, the old one stays in force");
            self.metrics.reloads.get_or_create(&labels([("cause", "configuration"), ("outcome", "refused")])).inc();
        };
        let path = self.loaded.path.clone();
        let mut fresh = match Config::load(&path) {
            Ok(fresh) => fresh,
            Err(error) => return refused(error.to_string()),
        };
        let changed = self.loaded.differing(&fresh);
        let fixed = ["metrics.", "nginx.directory", "nginx.binary", "nginx.features", "log.format"];
        let restart: Vec<&String> = changed.iter().filter(|key| fixed.iter().any(|fixed| key.starts_with(fixed))).collect();
        if !restart.is_empty() {
            tracing::warn!(keys = ?restart, "these changed keys take effect after a restart");
        }
        fresh.config.metrics = self.loaded.config.metrics.clone();
        let nginx = &self.loaded.config.nginx;
        fresh.config.nginx.directory.clone_from(&nginx.directory);
        fresh.config.nginx.binary.clone_from(&nginx.binary);
        fresh.config.nginx.features.clone_from(&nginx.features);
        if let Err(failure) = splits_connections(&fresh.config, &self.features) {
            return refused(told(&failure));
        }
        if fresh.config.acme.enabled()
            && let Err(error) = acme::make_placeholder(&fresh.config.acme, fresh.config.certificate_names())
        {
            return refused(told(&error));
        }
        if let Err(error) = log.set_filter(&fresh.config.log.filter) {
            return refused(told(&error));
        }
        self.health.look_up(&fresh.services).await;
        let old = std::mem::replace(&mut self.loaded, fresh);
        if self.bring_up_to_date(running, "configuration").await.is_err() {
            self.loaded = old;
            self.health.look_up(&self.loaded.services).await;
            return;
        }
        tracing::info!(changed = ?changed, "configuration read anew");
        self.services.store(Arc::new(self.loaded.services.clone()));
        self.follow_log();
        self.watch();
        let (before, now) = (&old.config, &self.loaded.config);
        if before.acme != now.acme || before.certificate_names() != now.certificate_names() {
            // An order that is cut off here may have left nginx waiting for the authority.
            self.challenging = false;
            self.keep_certificate();
            let _logged = self.bring_up_to_date(running, "challenge").await;
        }
    }

    /// Orders certificates from now on as the configuration says.
    fn keep_certificate(&mut self) {
        self.keeping.cancel();
        self.keeping = CancellationToken::new();
        if !self.loaded.config.acme.enabled() {
            return;
        }
        let keeper = Keeper::new(&self.loaded.config, self.metrics.clone(), self.asks.clone());
        let keeping = self.keeping.clone();
        tokio::spawn(async move { keeping.run_until_cancelled(Box::pin(keeper.keep())).await });
    }

    fn follow_log(&self) {
        let log = &self.loaded.config.access_log;
        self.log.send_replace(log.enabled.then(|| log.file.clone()));
    }

    /// Looks after the copies that are listed now.
    fn watch(&mut self) {
        self.watching.cancel();
        self.watching = CancellationToken::new();
        self.health.watch(&self.loaded.services, &self.loaded.config.checks, &self.metrics, &self.watching);
    }

    fn certificate(&self) -> Option<[u8; 32]> {
        let (certificate, key) = self.loaded.config.certificate_files();
        let digest = |path: &Path| elph_shell::config::read_bounded(path, 1 << 20).ok().map(Sha256::digest);
        let both = [digest(&certificate)?, digest(&key)?].concat();
        Some(Sha256::digest(both).into())
    }

    fn expiry(&self) {
        let chain = elph_shell::tls::certificates(&self.loaded.config.certificate_files().0).unwrap_or_default();
        if let Some(expiry) = chain.first().and_then(elph_shell::tls::expiry) {
            self.metrics.certificate_expiry.set(expiry);
        }
    }
}
