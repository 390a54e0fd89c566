//! `grpc.health.v1` (<https://grpc.io/docs/guides/health-checking/>): serving means ready, the same question as `/readyz` answers, for
//! the agent as a whole and for each of its services alike. Watching a service that is not there is no error: its state is unknown.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{self, HealthServer},
};

use crate::{health::Links, lifecycle::Shared};

/// How often readiness is looked at for one who watches.
const PERIOD: Duration = Duration::from_millis(250);

/// The service.
#[derive(Debug)]
pub(super) struct Health {
    services: &'static [&'static str],
    readiness: Readiness,
}

#[derive(Debug, Clone)]
struct Readiness {
    links: Arc<Links>,
    draining: CancellationToken,
}

/// One who watches.
struct Watcher {
    readiness: Readiness,
    ticks: Interval,
    told: Option<ServingStatus>,
    ended: bool,
}

type Answer = Result<HealthCheckResponse, Status>;
type Answers = Pin<Box<dyn Stream<Item = Answer> + Send>>;

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

// === impl Health ===

impl Health {
    /// Answers for the whole agent and for these services.
    pub(super) fn server(shared: &Shared, services: &'static [&'static str]) -> HealthServer<Self> {
        let readiness = Readiness { links: shared.links.clone(), draining: shared.shutdown.soft.clone() };
        HealthServer::new(Self { services, readiness })
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(Response::new(answer(self.readiness.now())))
    }

    type WatchStream = Answers;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Answers>, Status> {
        if self.knows(&request.get_ref().service) {
            let watcher = Watcher::new(self.readiness.clone());
            return Ok(Response::new(Box::pin(stream::unfold(watcher, Watcher::next))));
        }
        // It will not come; the stream stays open for as long as the agent serves.
        let unknown = stream::once(async { Ok(answer(ServingStatus::ServiceUnknown)) });
        let end = stream::once(self.readiness.draining.clone().cancelled_owned()).filter_map(async |()| None);
        Ok(Response::new(Box::pin(unknown.chain(end))))
    }
}

// === impl Readiness ===

impl Readiness {
    fn now(&self) -> ServingStatus {
        let ready = !self.draining.is_cancelled() && self.links.reasons().is_empty();
        if ready { ServingStatus::Serving } else { ServingStatus::NotServing }
    }
}

// === impl Watcher ===

impl Watcher {
    fn new(readiness: Readiness) -> Self {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { readiness, ticks, told: None, ended: false }
    }

    /// The state at first, then each change; with the drain, which is told as well, the stream ends and holds nobody up.
    async fn next(mut self) -> Option<(Answer, Self)> {
        while !self.ended {
            self.ended = self.readiness.draining.run_until_cancelled(self.ticks.tick()).await.is_none();
            let now = self.readiness.now();
            if self.told.replace(now) != Some(now) {
                return Some((Ok(answer(now)), self));
            }
        }
        None
    }
}
