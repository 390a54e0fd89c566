//! `AgentService`.

use elph_proto::v1::{self, agent_service_server::AgentService};
use jiff::Timestamp;
use std::sync::LazyLock;
use tonic::{Request, Response, Status};

use super::Api;
use crate::config::{CallBackend, ConferenceBackend, Scope};

static STARTED: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);

/// Notes the time of the start.
pub(super) fn note_start() {
    LazyLock::force(&STARTED);
}

#[tonic::async_trait]
impl AgentService for Api {
    async fn get_agent(&self, request: Request<v1::GetAgentRequest>) -> Result<Response<v1::GetAgentResponse>, Status> {
        self.authorize(&request, Scope::Admin, false, None).await?;
        let (epoch, oldest_sequence, newest_sequence) = self.core().journal_range();
        let name = |operation| serde_json::to_value(operation).ok().and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default();
        Ok(Response::new(v1::GetAgentResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(elph_model::timestamp(*STARTED)),
            dialect: self.switch.dialect().name.clone(),
            unknown_operations: self.switch.unknown_operations().into_iter().map(name).collect(),
            call_backend: match self.switch.call_backend() {
                CallBackend::Csta => "csta",
                CallBackend::CallApi => "call_api",
                CallBackend::Poll => "poll",
            }
            .to_owned(),
            conference_backend: match self.switch.conference_backend() {
                ConferenceBackend::CallApi => "call_api",
                ConferenceBackend::Poll => "poll",
            }
            .to_owned(),
            epoch,
            oldest_sequence,
            newest_sequence,
        }))
    }

    async fn list_links(&self, request: Request<v1::ListLinksRequest>) -> Result<Response<v1::ListLinksResponse>, Status> {
        let principal = self.authorize(&request, Scope::Admin, false, None).await?;
        // A link's name ends with its domain: another tenant's links are not shown.
        let visible = |link: &v1::Link| match link.name.split_once('/') {
            Some((_, domain)) => principal.domains().iter().any(|granted| granted.as_str() == domain),
            None => true,
        };
        let links = self.core().links().into_iter().filter(visible).collect();
        Ok(Response::new(v1::ListLinksResponse { links }))
    }
}
