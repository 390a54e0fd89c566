//! `/metrics`, `/healthz` and `/readyz` on a port of their own, which is never routed. Ready means that nginx answers; services that
//! are down are named, but do not make the door unready: the others are still served.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{config::Service, health::Health, metrics::Metrics, nginx::status};

pub(crate) struct Shown {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Health,
    pub(crate) services: Arc<ArcSwap<Vec<Service>>>,
    pub(crate) socket: PathBuf,
    pub(crate) draining: CancellationToken,
}

pub(crate) async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(shown));
    stop.run_until_cancelled(async { axum::serve(listener, router).await }).await.unwrap_or(Ok(()))
}

async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    let mut reasons = Vec::new();
    if shown.draining.is_cancelled() {
        reasons.push("draining");
    }
    if status::generation(&shown.socket).await.is_none() {
        reasons.push("nginx does not answer");
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let down = shown.health.down(&shown.services.load());
    (status, Json(serde_json::json!({ "ready": reasons.is_empty(), "reasons": reasons, "services_down": down }))).into_response()
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    match shown.metrics.encode(status::counts(&shown.socket).await) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
