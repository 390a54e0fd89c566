//! What every service of the suite shares, once: errors, callers, limits, the database, the link to the switches' agents, live updates
//! over WebSocket, and the HTTP server around it all. A service brings its rules, its SQL and its routes.

pub mod bus;
pub mod caller;
pub mod database;
pub mod input;
pub mod limits;
pub mod live;
pub mod metrics;
pub mod openapi;
pub mod problem;
pub mod serve;
pub mod switches;

use std::sync::Arc;

use axum::Router;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{bus::Bus, caller::Verifier, database::Database, limits::Limits, metrics::Metrics, switches::Switches};
pub use self::{caller::Caller, problem::Problem};

/// What a service is given.
#[derive(Clone)]
pub struct Kit {
    /// The database.
    pub database: Database,
    /// Events between services and copies.
    pub bus: Bus,
    /// The agents of the switches, by domain.
    pub switches: Arc<Switches>,
    /// Who callers are.
    pub verifier: Arc<Verifier>,
    /// How much each may ask.
    pub limits: Arc<Limits>,
    /// Metrics of all services.
    pub metrics: Arc<Metrics>,
    /// Tasks that the end waits for; they end by themselves after `stop`.
    pub tasks: TaskTracker,
    /// Begin nothing new.
    pub stop: CancellationToken,
}

/// A service that runs.
pub struct Service {
    /// `status`
    pub name: &'static str,
    /// Under which its routes are reachable from outside: `/elph_status`.
    pub prefix: &'static str,
    /// Its routes without the prefix. Everything under them needs a caller unless a route says otherwise.
    pub routes: Router,
    /// Its OpenAPI document.
    pub document: utoipa::openapi::OpenApi,
}
