//! `grpc.health.v1` (<https://grpc.io/docs/guides/health-checking/>): serving means ready, the same question as `/readyz` answers, for
//! the agent as a whole and for each of its services alike. Watching a service that is not there is no error: its state is unknown.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{self, HealthServer},
};

use crate::lifecycle::Shared;

/// How often readiness is looked at.
const PERIOD: Duration = Duration::from_millis(250);

/// The service.
#[derive(Debug)]
pub(super) struct Health {
    services: &'static [&'static str],
    status: watch::Receiver<ServingStatus>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

// === impl Health ===

impl Health {
    /// Answers for the whole agent and for these services, until the drain.
    pub(super) fn serve(shared: &Arc<Shared>, services: &'static [&'static str]) -> HealthServer<Self> {
        let (teller, status) = watch::channel(ServingStatus::NotServing);
        let (links, stop) = (shared.links.clone(), shared.shutdown.soft.clone());
        shared.tasks.spawn(async move {
            let mut ticks = tokio::time::interval(PERIOD);
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                let now = if links.reasons().is_empty() { ServingStatus::Serving } else { ServingStatus::NotServing };
                tell(&teller, now);
            }
            // Whoever watches is told of the end; then the teller goes, and the streams with it: they hold up no drain.
            tell(&teller, ServingStatus::NotServing);
        });
        HealthServer::new(Self { services, status })
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

/// Tells of changes only.
fn tell(teller: &watch::Sender<ServingStatus>, now: ServingStatus) {
    teller.send_if_modified(|told| std::mem::replace(told, now) != now);
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(Response::new(answer(*self.status.borrow())))
    }

    type WatchStream = Answers;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Answers>, Status> {
        let states = WatchStream::new(self.status.clone());
        if self.knows(&request.get_ref().service) {
            return Ok(Response::new(Box::pin(states.map(|status| Ok(answer(status))))));
        }
        // It will not come; the stream stays open for as long as the agent serves.
        let unknown = stream::once(async { Ok(answer(ServingStatus::ServiceUnknown)) });
        Ok(Response::new(Box::pin(unknown.chain(states.filter_map(async |_| None)))))
    }
}
