//! The simulator as a library: the three services and the control API on their ports, and everything that tests ask of them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    apns::{self, Apns, FirstToken, GoAway, Rules, TokenUpdates},
    apple::{Environment, TeamKey, Teams},
    arrival::{Arrival, Arrivals, Record, Waited},
    authority::{Authority, ClientCertificate},
    clock::Clock,
    connections::{self, Line},
    control,
    counters::{Counters, Meters},
    device::{Device, DeviceState, Devices, Provider},
    fault::{Effect, Fault, Faults},
    fcm, files,
    google::Google,
    https,
    web_push::{self, Browsers, Subscription},
};

/// How long the end may take.
const STOP: Duration = Duration::from_secs(5);
/// What a provider token lives, and how seldom it may be renewed (Apple).
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
const TOKEN_REFRESH: Duration = Duration::from_secs(20 * 60);
/// Streams that Apple lets a connection have.
const MAX_STREAMS: u32 = 1000;
/// How long client certificates of the demo are good.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Ports; 0 = any free one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    /// Apple's.
    pub apns: u16,
    /// Google's, both the token endpoint and FCM.
    pub fcm: u16,
    /// The browsers'.
    pub web_push: u16,
    /// The control API.
    pub control: u16,
}

/// How the simulator is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seed of made-up ids and of the team's id; `None` = a random one. Keys and access tokens are never of a seed.
    pub seed: Option<u64>,
    /// Address to listen on.
    pub host: IpAddr,
    /// Ports.
    pub ports: Ports,
    /// What is kept of requests.
    pub record: Record,
    /// How many requests are kept at most.
    pub keep: usize,
    /// How long every answer to a push takes.
    pub delay: Duration,
    /// Whether device tokens that nobody registered are accepted, if they have the right form.
    pub accept_unknown_devices: bool,
    /// Bundle ids of the team and of the client certificate in `directory`; empty = any.
    pub topics: Vec<String>,
    /// Which of Apple's environments this is.
    pub environment: Environment,
    /// Apple's rule for new token-authenticated connections.
    pub first_token: FirstToken,
    /// SETTINGS_MAX_CONCURRENT_STREAMS of APNs.
    pub max_streams: u32,
    /// Where early renewals of provider tokens are refused.
    pub token_updates: TokenUpdates,
    /// Google project of the service account.
    pub project: String,
    /// How long Google's access tokens are good.
    pub fcm_token_lifetime: Duration,
    /// Where keys, certificates and accounts are written for a demo.
    pub directory: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: Some(0),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: Ports::default(),
            record: Record::All,
            keep: 100_000,
            delay: Duration::ZERO,
            accept_unknown_devices: false,
            topics: vec!["org.elph.phone".to_owned()],
            environment: Environment::Production,
            first_token: FirstToken::Refuse,
            max_streams: MAX_STREAMS,
            token_updates: TokenUpdates::PerConnection,
            project: "elph-demo".to_owned(),
            fcm_token_lifetime: Duration::from_secs(3599),
            directory: None,
        }
    }
}

/// Where the services listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// APNs: TLS, HTTP/2.
    pub apns: SocketAddr,
    /// FCM and its token endpoint: HTTPS.
    pub fcm: SocketAddr,
    /// Web push: HTTPS.
    pub web_push: SocketAddr,
    /// The control API: plain HTTP.
    pub control: SocketAddr,
}

/// What every part refers to.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) teams: Teams,
    pub(crate) google: Google,
    pub(crate) devices: Devices,
    pub(crate) browsers: Browsers,
    pub(crate) faults: Faults,
    pub(crate) meters: Meters,
    pub(crate) arrivals: Arrivals,
    pub(crate) apns: Apns,
    pub(crate) fcm_line: Arc<Line>,
    pub(crate) web_push_line: Arc<Line>,
    /// Names that the token endpoint goes by.
    pub(crate) token_urls: Vec<String>,
    /// Origins that the web push service goes by, the first of which is in endpoints.
    pub(crate) web_push_origins: Vec<String>,
    pub(crate) fcm_token_lifetime: Duration,
    pub(crate) shutdown: CancellationToken,
    seed: u64,
    addresses: Addresses,
    authority: Authority,
    team: TeamKey,
    service_account: String,
}

/// A running simulator. Dropping it stops it.
#[derive(Debug)]
pub struct PushSim {
    core: Arc<Core>,
    tasks: JoinSet<()>,
}

// === impl Core ===

impl Core {
    /// How long answers of FCM and web push take.
    pub(crate) fn fcm_delay(&self) -> Duration {
        self.apns.delay()
    }

    fn line(&self, provider: Provider) -> &Line {
        match provider {
            Provider::Apns => &self.apns.line,
            Provider::Fcm | Provider::FcmToken => &self.fcm_line,
            Provider::WebPush => &self.web_push_line,
        }
    }

    pub(crate) fn add_fault(&self, fault: Fault) {
        let line = self.line(fault.provider);
        match fault.effect {
            Effect::HalfOpen => line.gate.freeze(true),
            Effect::SlowReading { bytes_per_second } => line.gate.slow_reading(bytes_per_second),
            Effect::Mute if fault.provider == Provider::Apns => self.apns.set_mute(true),
            _ => {}
        }
        self.faults.add(fault);
    }

    pub(crate) fn clear_faults(&self) {
        self.faults.clear();
        self.apns.set_mute(false);
        for line in [&self.apns.line, &self.fcm_line, &self.web_push_line] {
            line.gate.slow_reading(0);
            line.gate.freeze(false);
        }
    }

    pub(crate) fn cut(&self, provider: Provider) {
        self.line(provider).cut();
    }

    pub(crate) fn counters(&self) -> Counters {
        self.meters.read(self.arrivals.dropped())
    }

    pub(crate) fn set_state(&self, provider: Provider, token: &str, state: DeviceState) -> bool {
        match provider {
            Provider::WebPush => self.browsers.set_gone(token, state != DeviceState::Active),
            Provider::Apns => self.devices.set_state(provider, &token.to_ascii_lowercase(), state),
            Provider::Fcm | Provider::FcmToken => self.devices.set_state(Provider::Fcm, token, state),
        }
    }

    pub(crate) fn subscribe(&self) -> anyhow::Result<Subscription> {
        self.browsers.subscribe(self.web_push_origins.first().map(String::as_str).unwrap_or_default())
    }

    pub(crate) fn client_certificate(&self, topics: &[&str], valid_for: Duration) -> anyhow::Result<ClientCertificate> {
        self.authority.client(topics, valid_for)
    }

    /// Addresses and names, for scripts.
    pub(crate) fn ready_json(&self) -> serde_json::Value {
        serde_json::json!({
            "seed": self.seed,
            "apns": self.addresses.apns,
            "fcm": format!("https://{}", self.addresses.fcm),
            "token": self.token_urls.first(),
            "web_push": self.web_push_origins.first(),
            "control": format!("http://{}", self.addresses.control),
            "team_id": self.team.team_id,
            "key_id": self.team.key_id,
            "topics": self.team.topics,
        })
    }
}

// === impl PushSim ===

impl PushSim {
    /// Makes keys and certificates, binds everything, then serves.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let seed = options.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let bind = |port| bind(options.host, port);
        let (at_apns, at_fcm) = (bind(options.ports.apns)?, bind(options.ports.fcm)?);
        let (at_web_push, at_control) = (bind(options.ports.web_push)?, bind(options.ports.control)?);
        let addresses = Addresses {
            apns: at_apns.local_addr()?,
            fcm: at_fcm.local_addr()?,
            web_push: at_web_push.local_addr()?,
            control: at_control.local_addr()?,
        };
        let authority = Authority::make()?;
        let names = |address: SocketAddr| [format!("https://{address}"), format!("https://localhost:{}", address.port())];
        let token_urls: Vec<String> = names(addresses.fcm).iter().map(|name| format!("{name}/token")).collect();
        let teams = Teams::default();
        let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
        let team = teams.make(&format!("TEAM{:06}", seed % 1_000_000), &format!("KEY{:07}", seed % 10_000_000), &topics)?;
        // an RSA key takes its time: away from the runtime's threads
        let (project, token_url) = (options.project.clone(), token_urls.first().cloned().unwrap_or_default());
        let made = tokio::task::spawn_blocking(move || {
            let google = Google::default();
            google.make_account(&project, &token_url).map(|file| (google, file))
        });
        let (google, service_account) = made.await.context("make the service account")??;
        let rules = Rules {
            environment: options.environment,
            accept_unknown: options.accept_unknown_devices,
            first_token: options.first_token,
            token_updates: options.token_updates,
            token_lifetime: TOKEN_LIFETIME,
            token_refresh: TOKEN_REFRESH,
            seed,
        };
        let apns_tls = authority.server(&["h2"], true)?;
        let https_tls = authority.server(&["h2", "http/1.1"], false)?;
        let core = Arc::new(Core {
            clock: Clock::default(),
            teams,
            google,
            devices: Devices::default(),
            browsers: Browsers::default(),
            faults: Faults::default(),
            meters: Meters::default(),
            arrivals: Arrivals::new(options.record, options.keep),
            apns: Apns::new(rules, options.max_streams, options.delay),
            fcm_line: Arc::new(Line::new(Provider::Fcm)),
            web_push_line: Arc::new(Line::new(Provider::WebPush)),
            token_urls,
            web_push_origins: names(addresses.web_push).to_vec(),
            fcm_token_lifetime: options.fcm_token_lifetime,
            shutdown: CancellationToken::new(),
            seed,
            addresses,
            authority,
            team,
            service_account,
        });
        if let Some(directory) = &options.directory {
            files::write(directory, &core).await?;
        }
        let mut tasks = JoinSet::new();
        let serve = {
            let core = core.clone();
            move |connected| apns::serve(connected, core.clone())
        };
        tasks.spawn(connections::accept(at_apns, apns_tls, core.apns.line.clone(), core.clone(), serve));
        let serve = {
            let core = core.clone();
            move |connected| https::serve(connected, core.clone(), fcm::handle)
        };
        tasks.spawn(connections::accept(at_fcm, https_tls.clone(), core.fcm_line.clone(), core.clone(), serve));
        let serve = {
            let core = core.clone();
            move |connected| https::serve(connected, core.clone(), web_push::handle)
        };
        tasks.spawn(connections::accept(at_web_push, https_tls, core.web_push_line.clone(), core.clone(), serve));
        tasks.spawn(control::serve(at_control, core.clone()));
        tracing::info!(seed, control = %addresses.control, "simulated push services are up");
        Ok(Self { core, tasks })
    }

    /// Where everything listens.
    pub fn addresses(&self) -> Addresses {
        self.core.addresses
    }

    /// The authority's certificate (PEM): all three services are of it.
    pub fn ca_pem(&self) -> &str {
        &self.core.authority.pem
    }

    /// Base of FCM's paths: `https://ADDRESS`.
    pub fn fcm_url(&self) -> String {
        format!("https://{}", self.core.addresses.fcm)
    }

    /// Google's token endpoint, as in the service account's `token_uri`.
    pub fn token_url(&self) -> String {
        self.core.token_urls.first().cloned().unwrap_or_default()
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.core.seed
    }

    // === who may send ===

    /// The Apple team that was made at the start.
    pub fn team(&self) -> &TeamKey {
        &self.core.team
    }

    /// One more team with a key of its own; no topics = any.
    pub fn add_team(&self, team_id: &str, key_id: &str, topics: &[&str]) -> anyhow::Result<TeamKey> {
        self.core.teams.make(team_id, key_id, topics)
    }

    /// A key that somebody else made, by its public half (SubjectPublicKeyInfo, PEM); `environment` `None` = both.
    pub fn register_team(
        &self,
        team_id: &str,
        key_id: &str,
        topics: &[&str],
        environment: Option<Environment>,
        public_pem: &str,
    ) -> anyhow::Result<()> {
        self.core.teams.register(team_id, key_id, topics, environment, public_pem)
    }

    /// A key is no longer good: `InvalidProviderToken` from now on. Whether it was known.
    pub fn revoke_team_key(&self, key_id: &str) -> bool {
        self.core.teams.revoke(key_id)
    }

    /// A client certificate for topics, the app's bundle id first. Valid for zero = it has expired.
    pub fn client_certificate(&self, topics: &[&str], valid_for: Duration) -> anyhow::Result<ClientCertificate> {
        self.core.client_certificate(topics, valid_for)
    }

    /// The service account's file for [`Options::project`].
    pub fn service_account_json(&self) -> &str {
        &self.core.service_account
    }

    /// One more project with an account; takes as long as an RSA key does.
    pub fn add_service_account(&self, project: &str) -> anyhow::Result<String> {
        self.core.google.make_account(project, &self.token_url())
    }

    /// A project's account is no longer good. Whether it was known.
    pub fn revoke_service_account(&self, project: &str) -> bool {
        self.core.google.revoke_account(project)
    }

    /// Every access token given out so far is refused from now on.
    pub fn revoke_access_tokens(&self) {
        self.core.google.revoke_tokens();
    }

    // === who may receive ===

    /// Adds a device, or puts it in the place of the one with that token.
    pub fn add_device(&self, device: Device) {
        self.core.devices.put(device);
    }

    /// Forgets a device. Whether it was known.
    pub fn remove_device(&self, provider: Provider, token: &str) -> bool {
        self.core.devices.remove(provider, token)
    }

    /// Something becomes of a device, or of a web push subscription (by its id). Whether it is known.
    pub fn set_device_state(&self, provider: Provider, token: &str, state: DeviceState) -> bool {
        self.core.set_state(provider, token, state)
    }

    /// A browser subscribes.
    pub fn subscribe(&self) -> anyhow::Result<Subscription> {
        self.core.subscribe()
    }

    // === what came ===

    /// All requests that are kept, oldest first.
    pub fn arrived(&self) -> Vec<Arrival> {
        self.core.arrivals.after(0, usize::MAX)
    }

    /// Those with a higher number.
    pub fn arrived_after(&self, number: u64) -> Vec<Arrival> {
        self.core.arrivals.after(number, usize::MAX)
    }

    /// Waits until the requests are as wanted, and answers them.
    pub async fn wait_for(&self, within: Duration, wanted: impl FnMut(&[Arrival]) -> bool) -> Result<Vec<Arrival>, Waited> {
        self.core.arrivals.wait_for(within, wanted).await
    }

    /// Forgets the requests that are kept; their numbers go on.
    pub fn clear_arrived(&self) {
        self.core.arrivals.clear();
    }

    /// What is counted.
    pub fn counters(&self) -> Counters {
        self.core.counters()
    }

    // === what goes wrong ===

    /// Puts a fault in force.
    pub fn fault(&self, fault: Fault) {
        self.core.add_fault(fault);
    }

    /// Ends every fault.
    pub fn clear_faults(&self) {
        self.core.clear_faults();
    }

    /// The faults that still strike.
    pub fn faults(&self) -> Vec<Fault> {
        self.core.faults.list()
    }

    /// APNs sends SETTINGS_MAX_CONCURRENT_STREAMS to open connections and gives it to new ones.
    pub fn set_max_streams(&self, max_streams: u32) {
        self.core.apns.set_max_streams(max_streams);
    }

    /// APNs sends GOAWAY on every open connection.
    pub fn goaway(&self, goaway: &GoAway) {
        self.core.apns.goaway(goaway);
    }

    /// Ends every connection of a provider now, without a word.
    pub fn cut(&self, provider: Provider) {
        self.core.cut(provider);
    }

    /// Every answer to a push takes this long from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.core.apns.set_delay(delay);
    }

    /// Moves the clock by which tokens age.
    pub fn advance(&self, by: Duration) {
        self.core.clock.advance(by);
    }

    /// Addresses and names as JSON, for those who start the program.
    pub fn ready_json(&self) -> serde_json::Value {
        self.core.ready_json()
    }

    /// Stops everything and waits for it.
    pub async fn shutdown(mut self) {
        self.core.shutdown.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP, all).await.is_err() {
            tracing::warn!("a server did not end in time");
        }
    }
}

impl Drop for PushSim {
    fn drop(&mut self) {
        self.core.shutdown.cancel();
    }
}

fn bind(host: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = if host.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind((host, port).into())?;
        socket.listen(1024)
    };
    listen().with_context(|| format!("listen on {host}:{port}"))
}

/// What `files` writes.
impl Core {
    pub(crate) fn demo_files(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut topics: Vec<String> = self.team.topics.clone();
        if topics.is_empty() {
            topics.push("org.elph.phone".to_owned());
        }
        for app in topics.clone() {
            topics.extend([format!("{app}.voip"), format!("{app}.complication")]);
        }
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let client = self.authority.client(&topics, YEAR)?;
        Ok(vec![
            ("ca.pem".to_owned(), self.authority.pem.clone()),
            (format!("AuthKey_{}.p8", self.team.key_id), self.team.p8.clone()),
            ("apns-client.pem".to_owned(), client.certificate_pem),
            ("apns-client-key.pem".to_owned(), client.key_pem),
            ("service-account.json".to_owned(), self.service_account.clone()),
            ("subscription.json".to_owned(), format!("{:#}\n", self.subscribe()?.to_json())),
        ])
    }
}
