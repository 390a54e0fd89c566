//! Starts the links that the configuration names and everything that feeds on them.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use elph_model::{Core, Origin};
use mediator_client::{
    call_api::{CallApi, CallApiConfig},
    csta::{Csta, CstaConfig},
    switch::{
        CommandError, Dialect, Domain, LinkEvent,
        connect::{Connect, TcpConnect, client_tls},
        event::EventSink,
        link::{LinkKind, Tap},
    },
    terminal::{Terminal, TerminalConfig},
};
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Directory, DomainLinks, Resync, Switch,
    feed::{self, Feed},
    resync::Pace,
    snapshot::{self, CallSource},
};
use crate::{
    config::{CallBackend, ConferenceBackend, Config, SwitchDomain},
    health::Link,
    lifecycle::Shared,
};

/// Events that wait between a link and the model; more are a gap.
const QUEUE: usize = 16_384;

/// The longest wait before a comparison that has failed is repeated, unless lists are polled more rarely.
const REPEAT: Duration = Duration::from_secs(5);

/// Between two comparisons of a model that is fed by events: doubts that nobody had.
const RECONCILE: Duration = Duration::from_secs(60);

/// Commands that one session of CSTA or the Call API has on their way at a time.
const CSTA_WINDOW: usize = 256;
const CALL_API_WINDOW: usize = 64;
const TERMINAL_PARALLEL: usize = 8;

/// How each protocol gets its connections.
#[derive(Clone)]
pub struct Connectors {
    /// To the HTTP terminal.
    pub terminal: Arc<dyn Connect>,
    /// To the Call API.
    pub call_api: Arc<dyn Connect>,
    /// To CSTA.
    pub csta: Arc<dyn Connect>,
}

/// Why the links cannot be started: the key at fault and what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {what}")]
pub struct StartError {
    /// The key.
    pub key: String,
    /// What is wrong.
    pub what: String,
}

impl Connectors {
    /// TCP and TLS as configured.
    pub fn from_config(config: &Config) -> Result<Self, StartError> {
        let patience = config.switch.half_open_after.0;
        let one = |key: &str, tls: bool, ca_file: Option<&Path>| -> Result<Arc<dyn Connect>, StartError> {
            if !tls {
                return Ok(Arc::new(TcpConnect::plain(patience)));
            }
            let fail = |what: String| StartError { key: format!("switch.{key}.ca_file"), what };
            let pem = ca_file.map(|path| crate::config::read_bounded(path, 1 << 20)).transpose().map_err(fail)?;
            Ok(Arc::new(TcpConnect::tls(client_tls(pem.as_deref()).map_err(fail)?, patience)))
        };
        let terminal = config.switch.terminal.as_ref().map_or((false, None), |link| (link.tls, link.ca_file.as_deref()));
        let call_api = config.switch.call_api.as_ref().map_or((false, None), |link| (link.tls, link.ca_file.as_deref()));
        let csta = config.switch.csta.as_ref().map_or((false, None), |link| (link.tls, link.ca_file.as_deref()));
        Ok(Self {
            terminal: one("terminal", terminal.0, terminal.1)?,
            call_api: one("call_api", call_api.0, call_api.1)?,
            csta: one("csta", csta.0, csta.1)?,
        })
    }
}

/// What starting needs, gathered once.
struct Starter<'a> {
    shared: &'a Arc<Shared>,
    config: Arc<Config>,
    core: Arc<Core>,
    dialect: Arc<Dialect>,
    connectors: Connectors,
    tap: Option<Arc<dyn Tap>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Switch {
    /// Starts the links. Returns at once; they connect by themselves and end after [`Switch::stop`].
    pub fn start(
        shared: &Arc<Shared>,
        core: Arc<Core>,
        connectors: Connectors,
        tap: Option<Arc<dyn Tap>>,
    ) -> Result<Arc<Self>, StartError> {
        let config = shared.config.load_full();
        let dialect = config.switch.dialect().map_err(|problem| StartError { key: problem.key.clone(), what: problem.what.clone() })?;
        let starter = Starter {
            shared,
            config,
            core,
            dialect: Arc::new(dialect),
            connectors,
            tap,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        starter.start()
    }
}

impl Starter<'_> {
    fn start(self) -> Result<Arc<Switch>, StartError> {
        let (terminal, events) = self.terminal()?;
        let directory = Arc::new(Directory::default());
        let mut domains = BTreeMap::new();
        for (index, domain) in self.config.switch.domains.iter().enumerate() {
            domains.insert(domain.name.clone(), self.domain(index, domain, &terminal, &directory)?);
        }
        let refresh: Vec<Arc<Resync>> =
            domains.iter().map(|(domain, links)| self.subscribers(domain, links, &terminal, &directory)).collect();
        self.terminal_events(events, &domains, refresh);
        Ok(Arc::new(Switch {
            core: self.core,
            dialect: self.dialect,
            terminal,
            domains,
            calls: self.config.calls.backend,
            conferences: self.config.conferences.backend,
            directory,
            command_timeout: self.config.switch.command_timeout.0,
            tasks: self.tasks,
            stop: self.stop,
        }))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    fn password(source: Result<crate::config::PasswordSource, crate::config::Problem>) -> Result<SecretString, StartError> {
        let source = source.map_err(|problem| StartError { key: problem.key.clone(), what: problem.what.clone() })?;
        source.read().map_err(|what| StartError { key: "password".to_owned(), what })
    }

    fn terminal(&self) -> Result<(Terminal, mpsc::Receiver<LinkEvent>), StartError> {
        let switch = &self.config.switch;
        let missing = || StartError { key: "switch.terminal".to_owned(), what: "is missing".to_owned() };
        let link = switch.terminal.as_ref().ok_or_else(missing)?;
        let config = TerminalConfig {
            nodes: link.nodes.clone(),
            login: link.login.clone(),
            password: Self::password(link.password())?,
            half_open_after: switch.half_open_after.0,
            connect_timeout: switch.connect_timeout.0,
            command_timeout: switch.command_timeout.0,
            max_parallel: TERMINAL_PARALLEL,
            fail_back_after: switch.fail_back_after.0,
            seed: None,
        };
        let (sink, events) = EventSink::new(QUEUE);
        let stop = self.stop.clone();
        let (terminal, task) =
            Terminal::start(config, self.dialect.clone(), self.connectors.terminal.clone(), sink, self.tap.clone(), stop);
        self.link(LinkKind::Terminal, "terminal".to_owned(), true, terminal.status(), terminal.counters(), task);
        Ok((terminal, events))
    }

    /// Makes a link known to readiness, metrics, log and model, and waits for its end at the drain.
    fn link(
        &self,
        kind: LinkKind,
        name: String,
        required: bool,
        status: tokio::sync::watch::Receiver<mediator_client::switch::link::LinkStatus>,
        counters: Arc<mediator_client::switch::link::LinkCounters>,
        task: tokio::task::JoinHandle<()>,
    ) {
        self.shared.links.add(Link { kind, label: name.clone(), required, status: status.clone(), counters });
        self.spawn(feed::watch_status(self.core.clone(), name.clone(), status, self.stop.clone()));
        self.spawn(async move {
            if let Err(error) = task.await {
                tracing::error!(link = name, %error, "link has died");
            }
        });
    }

    fn domain(
        &self,
        index: usize,
        domain: &SwitchDomain,
        terminal: &Terminal,
        directory: &Arc<Directory>,
    ) -> Result<DomainLinks, StartError> {
        let (call_resync, conference_resync) = (Arc::new(Resync::default()), Arc::new(Resync::default()));
        let csta = self.csta(index, domain, &call_resync)?;
        let call_api = self.call_api(index, domain, &call_resync, &conference_resync)?;

        let source = match (self.config.calls.backend, &csta, &call_api) {
            (CallBackend::Csta, Some(csta), _) => CallSource::Csta(csta.clone()),
            (CallBackend::CallApi, _, Some(call_api)) => CallSource::CallApi(call_api.clone()),
            _ => CallSource::History,
        };
        // Without events of their own the lists are all there is.
        let polled = matches!(source, CallSource::History) || (matches!(source, CallSource::CallApi(_)) && !self.has_events("call"));
        self.compare("calls", &domain.name, call_resync.clone(), polled, self.config.poll.calls.0, {
            let (core, terminal, directory, domain) = (self.core.clone(), terminal.clone(), directory.clone(), domain.name.clone());
            let source = Arc::new(source);
            move |origin| {
                let (core, terminal, directory, domain, source) =
                    (core.clone(), terminal.clone(), directory.clone(), domain.clone(), source.clone());
                async move { snapshot::calls(&core, &terminal, &directory, &domain, &source, origin).await }
            }
        });
        let polled = self.config.conferences.backend == ConferenceBackend::Poll || !self.has_events("teleconference");
        self.compare("conferences", &domain.name, conference_resync.clone(), polled, self.config.poll.conferences.0, {
            let (core, terminal, domain) = (self.core.clone(), terminal.clone(), domain.name.clone());
            move |origin| {
                let (core, terminal, domain) = (core.clone(), terminal.clone(), domain.clone());
                async move { snapshot::conferences(&core, &terminal, &domain, origin).await }
            }
        });
        Ok(DomainLinks { csta, call_api, call_resync, conference_resync })
    }

    /// Whether the dialect lets the Call API tell of a service's changes.
    fn has_events(&self, service: &str) -> bool {
        let named = self.dialect.events.values().any(|event| event.service == service);
        named && self.dialect.call_api.websocket_path.is_some()
    }

    fn compare<F>(
        &self,
        what: &'static str,
        domain: &Domain,
        resync: Arc<Resync>,
        polled: bool,
        poll: Duration,
        compare: impl Fn(Origin) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), CommandError>> + Send + 'static,
    {
        let period = if polled { poll } else { RECONCILE };
        // After a long outage the first comparison may fail, too: the next must not be as far away as when nobody doubts.
        let most = if polled { REPEAT.max(period) } else { REPEAT };
        let pace = Pace { period, first: Duration::from_millis(200), most };
        let origin = Origin { polled, reconstructed: !polled };
        let metrics = self.shared.metrics.clone();
        let domain = domain.clone();
        let told = move |outcome: Result<(), &CommandError>, took: Duration| {
            let word = match outcome {
                Ok(()) => "ok",
                Err(CommandError::NotSent { .. }) => "link_down",
                Err(error) => {
                    tracing::warn!(%domain, %error, "comparing {what} with the switch failed, it is tried again");
                    "failed"
                }
            };
            metrics.model_resyncs.get_or_create(&crate::telemetry::metrics::label("outcome", word)).inc();
            if outcome.is_ok() {
                metrics.model_resync_duration.observe(took.as_secs_f64());
            }
        };
        self.spawn(resync.run(pace, self.stop.clone(), move || compare(origin), told));
    }

    fn csta(&self, index: usize, domain: &SwitchDomain, resync: &Arc<Resync>) -> Result<Option<Csta>, StartError> {
        let switch = &self.config.switch;
        let (Some(link), Some(account)) = (&switch.csta, &domain.csta) else { return Ok(None) };
        let config = CstaConfig {
            nodes: link.nodes.clone(),
            domain: domain.name.clone(),
            password: Self::password(account.source(&format!("switch.domains[{index}].csta")))?,
            session_duration: link.session_duration.0,
            half_open_after: switch.half_open_after.0,
            connect_timeout: switch.connect_timeout.0,
            command_timeout: switch.command_timeout.0,
            fail_back_after: switch.fail_back_after.0,
            window: CSTA_WINDOW,
            seed: None,
        };
        let (sink, events) = EventSink::new(QUEUE);
        let stop = self.stop.clone();
        let (csta, task) = Csta::start(config, self.dialect.clone(), self.connectors.csta.clone(), sink, self.tap.clone(), stop);
        let used = self.config.calls.backend == CallBackend::Csta;
        self.link(LinkKind::Csta, format!("csta/{}", domain.name), used, csta.status(), csta.counters(), task);
        let calls = used.then(|| resync.clone());
        self.spawn(Feed { core: self.core.clone(), calls, conferences: None }.run(events));
        Ok(Some(csta))
    }

    fn call_api(
        &self,
        index: usize,
        domain: &SwitchDomain,
        call_resync: &Arc<Resync>,
        conference_resync: &Arc<Resync>,
    ) -> Result<Option<CallApi>, StartError> {
        let switch = &self.config.switch;
        let (Some(link), Some(account)) = (&switch.call_api, &domain.call_api) else { return Ok(None) };
        let config = CallApiConfig {
            nodes: link.nodes.clone(),
            domain: domain.name.clone(),
            login: account.login.clone(),
            password: Self::password(account.source(&format!("switch.domains[{index}].call_api")))?,
            half_open_after: switch.half_open_after.0,
            connect_timeout: switch.connect_timeout.0,
            command_timeout: switch.command_timeout.0,
            fail_back_after: switch.fail_back_after.0,
            window: CALL_API_WINDOW,
            seed: None,
        };
        let (sink, events) = EventSink::new(QUEUE);
        let stop = self.stop.clone();
        let (call_api, task) = CallApi::start(config, self.dialect.clone(), self.connectors.call_api.clone(), sink, self.tap.clone(), stop);
        let calls = self.config.calls.backend == CallBackend::CallApi;
        let conferences = self.config.conferences.backend == ConferenceBackend::CallApi;
        let name = format!("call_api/{}", domain.name);
        self.link(LinkKind::CallApi, name, calls || conferences, call_api.status(), call_api.counters(), task);
        let feed = Feed {
            core: self.core.clone(),
            calls: calls.then(|| call_resync.clone()),
            conferences: conferences.then(|| conference_resync.clone()),
        };
        self.spawn(feed.run(events));
        Ok(Some(call_api))
    }

    /// Reads the domain's subscribers from time to time, and has CSTA monitor them.
    fn subscribers(&self, domain: &Domain, links: &DomainLinks, terminal: &Terminal, directory: &Arc<Directory>) -> Arc<Resync> {
        let refresh = Arc::new(Resync::default());
        let pace = Pace {
            period: self.config.poll.subscribers.0,
            first: Duration::from_millis(100),
            most: Duration::from_secs(30).min(self.config.poll.subscribers.0),
        };
        let monitored = self.config.calls.monitored.clone();
        // What the configuration names is monitored even if the list of subscribers is not to be had.
        if let Some(csta) = links.csta.clone().filter(|_| !monitored.is_empty()) {
            let devices = monitored.clone();
            self.spawn(async move { csta.watch_devices(devices).await });
        }
        let (terminal, directory, name, csta) = (terminal.clone(), directory.clone(), domain.clone(), links.csta.clone());
        let read = move || {
            let (terminal, directory, domain) = (terminal.clone(), directory.clone(), name.clone());
            let csta = csta.clone().filter(|_| monitored.is_empty());
            async move {
                let records = terminal.alias_list(&domain, None).await?;
                let count = records.len();
                if directory.replace(&domain, records) {
                    tracing::info!(%domain, subscribers = count, "subscribers read");
                    if let Some(csta) = csta {
                        csta.watch_devices(directory.aliases(&domain)).await;
                    }
                }
                Ok(())
            }
        };
        let domain = domain.clone();
        let told = move |outcome: Result<(), &CommandError>, _| match outcome {
            Ok(()) | Err(CommandError::NotSent { .. }) => {}
            Err(error) => tracing::warn!(%domain, %error, "subscribers could not be read"),
        };
        self.spawn(refresh.clone().run(pace, self.stop.clone(), read, told));
        refresh
    }

    /// A new session of the terminal: lists that could not be read are read now.
    fn terminal_events(&self, mut events: mpsc::Receiver<LinkEvent>, domains: &BTreeMap<Domain, DomainLinks>, refresh: Vec<Arc<Resync>>) {
        let mut all = refresh;
        all.extend(domains.values().flat_map(|links| [links.call_resync.clone(), links.conference_resync.clone()]));
        self.spawn(async move {
            while let Some(event) = events.recv().await {
                if event == LinkEvent::Up {
                    for resync in &all {
                        resync.ask();
                    }
                }
            }
        });
    }
}
