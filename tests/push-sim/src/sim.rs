//! The simulator as a library: the three services and the control API on their ports, and everything that tests ask of them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    apns::{self, Apns, GoAway, Rules},
    apple::{Environment, TeamKey, Teams},
    arrival::{Arrival, Arrivals, Waited},
    authority::{Authority, ClientCertificate},
    clock::Clock,
    connections::{self, Line},
    control,
    counters::{Counters, Meters},
    device::{Device, DeviceState, Devices, Provider},
    fault::{Fault, Faults},
    fcm, files,
    google::Google,
    https,
    options::{Addresses, Options},
    state::Core,
    web_push::{self, Browsers, Subscription},
};

/// How long the end may take.
const STOP: Duration = Duration::from_secs(5);
/// What a provider token lives, and how seldom it may be renewed (Apple).
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
const TOKEN_REFRESH: Duration = Duration::from_secs(20 * 60);

/// A running simulator. Dropping it stops it.
#[derive(Debug)]
pub struct PushSim {
    core: Arc<Core>,
    tasks: JoinSet<()>,
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
