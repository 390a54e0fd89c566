//! The agents of the switches, over gRPC: which one has a domain, and what happens in it. A stream of events survives the agent's
//! restarts: it resumes after its last cursor, or starts anew with a snapshot where the agent says that it must.

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use elph_proto::{
    v1::{
        self, EventKind, StartSnapshot, SubscribeRequest, SubscribeResponse, event_service_client::EventServiceClient,
        subscribe_request::Start, subscribe_response::Message,
    },
    view::View,
};
use elph_shell::config::{Problem, read_bounded};
use parking_lot::RwLock;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::Kit;

/// A connection that is not there by then is tried again.
const CONNECT: Duration = Duration::from_secs(5);
/// The agent sends at least a heartbeat so often.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A stream without even heartbeats is dead.
const SILENT: Duration = Duration::from_secs(40);
/// Waits between attempts, doubled up to the second, with jitter.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A certificate or a key.
const LONGEST: u64 = 1 << 20;

/// One of `[[agents]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    /// `unix:/run/elph-agent/grpc.sock`, or `https://host:port`.
    pub address: String,
    /// The domains that are its: what it says of others is not heeded.
    pub domains: Vec<String>,
    /// The name in the agent's certificate, where it is not that of the address.
    pub server_name: Option<String>,
    /// PEM file of the authority that signed the agent's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the certificate that the agent knows us by.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with its key.
    pub key_file: Option<PathBuf>,
}

/// All agents.
pub struct Switches {
    agents: Vec<Agent>,
}

#[derive(Clone)]
struct Agent {
    address: String,
    domains: Arc<BTreeSet<String>>,
    channel: Channel,
    /// Why its events do not come; none: they do, or nobody has asked for them.
    trouble: Arc<RwLock<Option<String>>>,
}

/// What a follower is told.
#[derive(Debug)]
pub enum News<'a> {
    /// All that goes on: at the start, and after events were missed.
    Whole(&'a View),
    /// One thing has changed; the view has it already.
    Changed(&'a v1::Event, &'a View),
}

/// Hears what happens in the domains of one agent.
pub trait Follower: Send + 'static {
    /// Something has happened. It must not wait.
    fn hear(&mut self, domains: &BTreeSet<String>, news: News<'_>);
}

/// What is wrong with the agents' settings.
pub fn check(agents: &[AgentSettings], problems: &mut Vec<Problem>) {
    let mut seen = HashSet::new();
    for (index, agent) in agents.iter().enumerate() {
        let mut say = |key: &str, what: String| problems.push(Problem::new(format!("agents[{index}].{key}"), what));
        let encrypted = agent.address.starts_with("https://");
        if !encrypted && !agent.address.starts_with("unix:") {
            say("address", "must begin with unix: or https://".to_owned());
        }
        if encrypted && (agent.certificate_file.is_none() || agent.key_file.is_none()) {
            say("certificate_file", "and key_file are needed: the agent knows its callers by their certificates".to_owned());
        }
        if agent.domains.is_empty() {
            say("domains", "is empty; name the domains of this switch".to_owned());
        }
        for domain in agent.domains.iter().filter(|domain| !seen.insert(domain.to_string())) {
            say("domains", format!("has '{domain}', which another agent has, too"));
        }
    }
}

// === impl Switches ===

impl Switches {
    /// Connects when first needed. Fails with the key at fault and why.
    pub fn new(agents: &[AgentSettings]) -> Result<Self, (String, String)> {
        let agents = agents.iter().enumerate().map(|(index, settings)| {
            let channel = channel(settings).map_err(|(key, what)| (format!("agents[{index}].{key}"), what))?;
            Ok(Agent {
                address: settings.address.clone(),
                domains: Arc::new(settings.domains.iter().cloned().collect()),
                channel,
                trouble: Arc::default(),
            })
        });
        Ok(Self { agents: agents.collect::<Result<_, (String, String)>>()? })
    }

    /// The agent that has a domain.
    pub fn of(&self, domain: &str) -> Option<Channel> {
        self.agents.iter().find(|agent| agent.domains.contains(domain)).map(|agent| agent.channel.clone())
    }

    /// Every domain of every agent: the tenants.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.agents.iter().flat_map(|agent| agent.domains.iter().map(String::as_str))
    }

    /// Agents whose events do not come, and why.
    pub fn reasons(&self) -> Vec<String> {
        let trouble = |agent: &Agent| agent.trouble.read().as_ref().map(|why| format!("agent {}: {why}", agent.address));
        self.agents.iter().filter_map(trouble).collect()
    }

    /// Lets a follower for each agent hear of calls and conferences, until the kit stops.
    pub fn follow<F: Follower>(&self, kit: &Kit, kinds: &[EventKind], mut follower: impl FnMut() -> F) {
        for agent in &self.agents {
            let (agent, stop, follower) = (agent.clone(), kit.stop.clone(), follower());
            let kinds: Vec<i32> = kinds.iter().map(|kind| *kind as i32).collect();
            kit.tasks.spawn(async move { stop.run_until_cancelled(agent.follow(kinds, follower)).await });
        }
    }
}

// === impl Agent ===

impl Agent {
    async fn follow(self, kinds: Vec<i32>, mut follower: impl Follower) {
        let mut view = View::default();
        let mut attempts = 0_u32;
        *self.trouble.write() = Some("not connected yet".to_owned());
        loop {
            let why = self.stream(&kinds, &mut view, &mut follower, &mut attempts).await;
            if self.trouble.read().is_none() {
                tracing::warn!(agent = self.address, error = why, "the agent's events do not come");
            }
            *self.trouble.write() = Some(why);
            let wait = WAITS.0.saturating_mul(1 << attempts.min(8)).min(WAITS.1);
            attempts = attempts.saturating_add(1);
            let wait = wait.mul_f64(rand::rng().random_range(0.5..=1.0));
            tokio::time::sleep(wait).await;
        }
    }

    /// Follows one stream to its end; why it ended.
    async fn stream(&self, kinds: &[i32], view: &mut View, follower: &mut impl Follower, attempts: &mut u32) -> String {
        let start = match &view.cursor {
            Some(cursor) if view.complete => Start::After(cursor.clone()),
            _ => Start::Snapshot(StartSnapshot {}),
        };
        let request = SubscribeRequest {
            kinds: kinds.to_vec(),
            domains: self.domains.iter().cloned().collect(),
            start: Some(start),
            heartbeat_interval: Some(prost_types::Duration { seconds: HEARTBEAT.as_secs() as i64, nanos: 0 }),
            ..SubscribeRequest::default()
        };
        let mut client = EventServiceClient::new(self.channel.clone());
        let mut stream = match timeout(SILENT, client.subscribe(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return told(&status),
            Err(_) => return "no answer".to_owned(),
        };
        loop {
            let response = match timeout(SILENT, stream.next()).await {
                Ok(Some(Ok(response))) => response,
                Ok(Some(Err(status))) => return told(&status),
                Ok(None) => return "the agent ended the stream".to_owned(),
                Err(_) => return format!("nothing was heard for {} s", SILENT.as_secs()),
            };
            if self.trouble.write().take().is_some() {
                tracing::info!(agent = self.address, "the agent's events come");
            }
            *attempts = 0;
            self.take(response, view, follower);
        }
    }

    fn take(&self, response: SubscribeResponse, view: &mut View, follower: &mut impl Follower) {
        match &response.message {
            // What an agent says of others' domains is not its to say.
            Some(Message::Event(event)) if !self.domains.contains(&event.domain) => view.cursor = response.cursor.or(view.cursor.take()),
            Some(Message::Event(event)) => {
                let event = event.clone();
                view.apply(response);
                follower.hear(&self.domains, News::Changed(&event, view));
            }
            Some(Message::Snapshot(snapshot)) => {
                let complete = snapshot.complete;
                view.apply(response);
                if complete {
                    view.calls.retain(|_, call| self.domains.contains(&call.domain));
                    view.conferences.retain(|_, conference| self.domains.contains(&conference.domain));
                    follower.hear(&self.domains, News::Whole(view));
                }
            }
            _ => view.apply(response),
        }
    }
}

fn told(status: &tonic::Status) -> String {
    format!("{}: {}", elph_proto::reason::code_name(status.code()), status.message())
}

fn channel(settings: &AgentSettings) -> Result<Channel, (&'static str, String)> {
    let wrong = |error: tonic::transport::Error| ("address", elph_shell::told(&error));
    let endpoint = Endpoint::from_shared(settings.address.clone()).map_err(wrong)?;
    let mut endpoint =
        endpoint.connect_timeout(CONNECT).http2_keep_alive_interval(HEARTBEAT).keep_alive_timeout(CONNECT).keep_alive_while_idle(true);
    if settings.address.starts_with("https://") {
        let mut tls = ClientTlsConfig::new();
        if let Some(name) = &settings.server_name {
            tls = tls.domain_name(name);
        }
        let read = |key: &'static str, path: &Option<PathBuf>| {
            path.as_ref().map(|path| read_bounded(path, LONGEST).map_err(|what| (key, what))).transpose()
        };
        if let Some(authority) = read("ca_file", &settings.ca_file)? {
            tls = tls.ca_certificate(Certificate::from_pem(authority));
        }
        if let (Some(certificate), Some(key)) =
            (read("certificate_file", &settings.certificate_file)?, read("key_file", &settings.key_file)?)
        {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        endpoint = endpoint.tls_config(tls).map_err(|error| ("ca_file", elph_shell::told(&error)))?;
    }
    Ok(endpoint.connect_lazy())
}
