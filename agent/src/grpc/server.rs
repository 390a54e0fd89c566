//! The gRPC server over both listeners: services, health, reflection, limits, and a drain that lets running requests finish.

use std::{sync::Arc, time::Duration};

use elph_proto::v1::{
    agent_service_server::AgentServiceServer, call_service_server::CallServiceServer, conference_service_server::ConferenceServiceServer,
    directory_service_server::DirectoryServiceServer, push_service_server::PushServiceServer,
};
use tokio::net::TcpListener;
use tonic::{
    server::NamedService,
    service::{Routes, RoutesBuilder},
    transport::Server,
};
use tower::layer::util::{Identity, Stack};

use super::{Api, agent::note_start, events::EventServer, health::Health, metadata, observe::Observe};
use crate::{
    lifecycle::{Failure, Shared},
    listen,
};

/// Why the server cannot be started.
pub type ServeError = Failure;

/// HTTP/2 keep-alive towards callers: one that is gone is noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Binds the configured listeners and serves until the drain.
pub async fn serve(shared: &Arc<Shared>, api: Api) -> Result<(), Failure> {
    note_start();
    let config = shared.config.load_full();
    let connections = shared.connections.clone();
    let routes = routes(shared, api).await?;
    let observe = Observe::new(shared.metrics.clone());
    let stop = shared.shutdown.soft.clone();
    if !config.grpc.socket.as_os_str().is_empty() {
        let path = config.grpc.socket.clone();
        let bound = listen::bind_unix(&path, config.grpc.socket_mode.0).await;
        let listener = bound.map_err(|source| Failure::Unavailable { what: format!("grpc.socket {}", path.display()), source })?;
        tracing::info!(socket = %path.display(), "grpc is served");
        let incoming = listen::unix(listener, connections.clone(), stop.clone());
        let serving = server(&config.grpc, &observe)
            .add_routes(routes.clone())
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        shared.tasks.spawn(ended("unix", serving));
    }
    if let (Some(address), Some(tls)) = (config.grpc.listen, shared.tls.clone()) {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| Failure::Unavailable { what: format!("grpc.listen {address}"), source })?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "grpc is served over mutual tls");
        }
        let incoming = listen::tls(listener, tls, config.grpc.handshake_timeout.0, connections, stop.clone());
        let serving = server(&config.grpc, &observe).add_routes(routes).serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
        shared.tasks.spawn(ended("tls", serving));
    }
    Ok(())
}

/// What health can be asked about.
const NAMES: [&str; 6] = [names::CALLS, names::CONFERENCES, names::EVENTS, names::DIRECTORY, names::PUSH, names::AGENT];

async fn ended(listener: &'static str, serving: impl Future<Output = Result<(), tonic::transport::Error>>) {
    if let Err(error) = serving.await {
        tracing::error!(listener, %error, "grpc server failed");
    }
}

fn server(config: &crate::config::Grpc, observe: &Observe) -> Server<Stack<metadata::Bounded, Stack<Observe, Identity>>> {
    Server::builder()
        .layer(observe.clone())
        .layer(metadata::Bounded)
        .http2_max_header_list_size(metadata::BEFORE_IT_IS_READ)
        .max_concurrent_streams(config.max_concurrent_streams)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .tcp_nodelay(true)
}

async fn routes(shared: &Arc<Shared>, api: Api) -> Result<Routes, Failure> {
    let config = shared.config.load_full();
    let most = usize::try_from(config.grpc.max_message_bytes.0).unwrap_or(usize::MAX);
    let mut builder = RoutesBuilder::default();
    builder
        .add_service(CallServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(ConferenceServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(DirectoryServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(PushServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(AgentServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(EventServer(api));
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(elph_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let unusable = |error: tonic_reflection::server::Error| Failure::Internal {
        what: "describing the API",
        source: std::io::Error::other(error.to_string()),
    };
    builder.add_service(described().build_v1().map_err(unusable)?).add_service(described().build_v1alpha().map_err(unusable)?);
    builder.add_service(Health::server(shared, &NAMES).max_decoding_message_size(most));
    Ok(builder.routes())
}

mod names {
    use super::{
        AgentServiceServer, Api, CallServiceServer, ConferenceServiceServer, DirectoryServiceServer, EventServer, NamedService,
        PushServiceServer,
    };

    pub(super) const CALLS: &str = <CallServiceServer<Api> as NamedService>::NAME;
    pub(super) const CONFERENCES: &str = <ConferenceServiceServer<Api> as NamedService>::NAME;
    pub(super) const EVENTS: &str = <EventServer as NamedService>::NAME;
    pub(super) const DIRECTORY: &str = <DirectoryServiceServer<Api> as NamedService>::NAME;
    pub(super) const PUSH: &str = <PushServiceServer<Api> as NamedService>::NAME;
    pub(super) const AGENT: &str = <AgentServiceServer<Api> as NamedService>::NAME;
}
