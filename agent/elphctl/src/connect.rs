//! The connection to the agent: a Unix socket or mutual TLS, with the caller's token and acting person on every request.

use std::{
    error::Error,
    future::Future,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use elph_proto::v1::{
    agent_service_client::AgentServiceClient, call_service_client::CallServiceClient, conference_service_client::ConferenceServiceClient,
    directory_service_client::DirectoryServiceClient, event_service_client::EventServiceClient, push_service_client::PushServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};
use tonic_health::pb::health_client::HealthClient;

use crate::{
    change::Change,
    failure::Failure,
    settings::{Endpoint, Settings, read_small},
};

/// Largest answer taken: a page of conferences with all their participants.
const MESSAGE_LIMIT: usize = 64 << 20;
/// An idle stream shows within this time that the other side is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Adds who speaks to every request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Speaker {
    authorization: Option<MetadataValue<Ascii>>,
    actor: Option<MetadataValue<Ascii>>,
}

impl Speaker {
    fn new(settings: &Settings) -> Result<Self, Failure> {
        let mut speaker = Self::default();
        if let Some(token) = &settings.token {
            let mut value =
                MetadataValue::try_from(token.bearer()).map_err(|_| Failure::Usage("the access token cannot be sent".into()))?;
            value.set_sensitive(true);
            speaker.authorization = Some(value);
        }
        if let Some(actor) = &settings.actor {
            let value = MetadataValue::try_from(actor.as_str());
            speaker.actor = Some(value.map_err(|_| Failure::Usage("--actor must be printable ASCII".into()))?);
        }
        Ok(speaker)
    }
}

impl Interceptor for Speaker {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(actor) = &self.actor {
            request.metadata_mut().insert("elph-actor", actor.clone());
        }
        Ok(request)
    }
}

/// What the clients speak through.
pub(crate) type Service = InterceptedService<Channel, Speaker>;

/// A connection.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    service: Service,
    timeout: Duration,
    /// Socket or address, for messages.
    target: String,
}

macro_rules! clients {
    ($($(#[$doc:meta])+ $name:ident: $client:ident;)+) => { impl Agent { $(
        $(#[$doc])+
        pub(crate) fn $name(&self) -> $client<Service> {
            $client::new(self.service.clone()).max_decoding_message_size(MESSAGE_LIMIT)
        }
    )+ } };
}

clients! {
    /// CallService.
    calls: CallServiceClient;
    /// ConferenceService.
    conferences: ConferenceServiceClient;
    /// EventService.
    events: EventServiceClient;
    /// DirectoryService.
    directory: DirectoryServiceClient;
    /// PushService.
    push: PushServiceClient;
    /// AgentService.
    agent: AgentServiceClient;
    /// grpc.health.v1.
    health: HealthClient;
}

impl Agent {
    /// Connects.
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let speaker = Speaker::new(settings)?;
        let (target, connecting) = match &settings.endpoint {
            Endpoint::Socket(path) => (path.display().to_string(), socket(path.clone(), settings.timeout)?),
            Endpoint::Server { url, name, ca, identity } => {
                let (cert, key) = identity;
                let mut tls = ClientTlsConfig::new()
                    .ca_certificate(Certificate::from_pem(pem("--ca", ca, "CERTIFICATE")?))
                    .identity(Identity::from_pem(pem("--cert", cert, "CERTIFICATE")?, pem("--key", key, "PRIVATE KEY")?));
                if let Some(name) = name {
                    tls = tls.domain_name(name);
                }
                (url.clone(), server(url, tls, settings.timeout)?)
            }
        };
        let channel = match time::timeout(settings.timeout, connecting).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(unreachable(target, &error)),
            Err(_) => {
                let cause = format!("no connection within {} s", settings.timeout.as_secs_f32());
                return Err(Failure::Unreachable { target, cause, hint: "" });
            }
        };
        Ok(Self { service: InterceptedService::new(channel, speaker), timeout: settings.timeout, target })
    }

    /// The same connection for an answer that takes its time by nature.
    pub(crate) fn patient(&self, least: Duration) -> Self {
        Self { timeout: self.timeout.max(least), ..self.clone() }
    }

    /// Longest wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits for the answer to a question.
    pub(crate) async fn ask<T>(&self, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
        match time::timeout(self.timeout, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Failure::Answer { status: Box::new(status), change: None }),
            Err(_) => Err(Failure::Unavailable(format!("no answer from {} within {} s", self.target, self.timeout.as_secs_f32()))),
        }
    }

    /// Waits for the answer to a change. Whatever is not the agent's own word leaves the outcome unknown.
    pub(crate) async fn order<T>(&self, change: &Change, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
        match self.ask(answer).await {
            Err(Failure::Unavailable(cause)) => Err(Failure::Unknown { cause, change: Box::new(change.clone()) }),
            Err(Failure::Answer { status, .. }) if lost(&status) => {
                let cause = format!("the connection to {} was lost ({})", self.target, status.message());
                Err(Failure::Unknown { cause, change: Box::new(change.clone()) })
            }
            Err(Failure::Answer { status, .. }) => Err(Failure::Answer { status, change: Some(Box::new(change.clone())) }),
            other => other,
        }
    }

    /// Socket or address.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }
}

/// Whether a status comes from the transport: the agent gives a reason with each of its errors.
pub(crate) fn lost(status: &Status) -> bool {
    let transport = matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Internal);
    transport && elph_proto::reason::Reason::of(status).is_none() && status.details().is_empty()
}

/// A PEM file. What TLS says of a wrong one does not name it.
fn pem(option: &str, path: &Path, label: &str) -> Result<Vec<u8>, Failure> {
    let content = read_small(path).map_err(|error| Failure::Usage(format!("{option}: {error}")))?;
    // A key's label may begin with its kind.
    let end = format!("{label}-----");
    let begins = |line: &str| line.trim_end().strip_prefix("-----BEGIN ").is_some_and(|rest| rest.ends_with(&end));
    if !String::from_utf8_lossy(&content).lines().any(begins) {
        return Err(Failure::Usage(format!("{option}: {} holds no {} in PEM", path.display(), label.to_lowercase())));
    }
    Ok(content)
}

type Connecting = std::pin::Pin<Box<dyn Future<Output = Result<Channel, tonic::transport::Error>> + Send>>;

fn configured(endpoint: tonic::transport::Endpoint, timeout: Duration) -> tonic::transport::Endpoint {
    let endpoint = endpoint.connect_timeout(timeout).http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    // A name for the agent's log; that it cannot be refused is no reason to fail.
    endpoint.clone().user_agent(concat!("elphctl/", env!("CARGO_PKG_VERSION"))).unwrap_or(endpoint)
}

fn socket(path: PathBuf, timeout: Duration) -> Result<Connecting, Failure> {
    // The authority is not used: the path is the address.
    let endpoint = configured(tonic::transport::Endpoint::from_static("http://localhost"), timeout);
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    Ok(Box::pin(async move { endpoint.connect_with_connector(connector).await }))
}

fn server(url: &str, tls: ClientTlsConfig, timeout: Duration) -> Result<Connecting, Failure> {
    let bad = |error: tonic::transport::Error| Failure::Usage(format!("--server {url}: {}", chain(&error)));
    let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned()).map_err(bad)?.tls_config(tls).map_err(bad)?;
    let endpoint = configured(endpoint, timeout);
    Ok(Box::pin(async move { endpoint.connect().await }))
}

/// The innermost words of an error: the outer ones say "transport error".
fn chain(error: &dyn Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next: Option<&dyn Error> = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if text != "transport error" && !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    if texts.is_empty() { "transport error".into() } else { texts.join(": ") }
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

fn unreachable(target: String, error: &tonic::transport::Error) -> Failure {
    let hint = match io_kind(error) {
        Some(io::ErrorKind::NotFound) => "is elph-agent running ('systemctl status elph-agent')? --socket names another socket",
        Some(io::ErrorKind::PermissionDenied) => "you may not open the socket: join its group or ask the operator",
        Some(io::ErrorKind::ConnectionRefused) => "nothing listens there: is elph-agent running ('systemctl status elph-agent')?",
        Some(io::ErrorKind::InvalidData) => "check --ca, --cert and --key, and --server-name",
        _ => "",
    };
    Failure::Unreachable { target, cause: chain(error), hint }
}
