//! `/metrics`, `/healthz` and `/readyz` on a port of their own. Ready means that every link that is needed is up, the terminal above
//! all: a dead link is never hidden behind a 200. If not ready, the answer says why.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use ecss_switch::link::{LinkCounters, LinkKind, LinkState, LinkStatus};
use parking_lot::RwLock;
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::Metrics;

/// One link as its driver reports it.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its protocol.
    pub kind: LinkKind,
    /// Its name in metrics and reasons: the protocol, or `csta:biysk.local` where there is a session per domain.
    pub label: String,
    /// Whether the agent is not ready without it.
    pub required: bool,
    /// Its state.
    pub status: watch::Receiver<LinkStatus>,
    /// What it has counted.
    pub counters: Arc<LinkCounters>,
}

/// The links that have been started.
#[derive(Debug, Default)]
pub struct Links(RwLock<Vec<Link>>);

/// Why the agent is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The link's name, or `agent`.
    pub link: String,
    /// `connecting`, `down`, `starting` or `draining`.
    pub state: &'static str,
    /// The node it is, or was last, connected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Since when (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Answer {
    ready: bool,
    reasons: Vec<Reason>,
}

struct Shown {
    links: Arc<Links>,
    metrics: Arc<Metrics>,
    draining: CancellationToken,
}

// === impl Links ===

impl Links {
    /// A link has been started.
    pub fn add(&self, link: Link) {
        self.0.write().push(link);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Link> {
        self.0.read().clone()
    }

    /// Why the agent is not ready; empty when it is.
    pub fn reasons(&self) -> Vec<Reason> {
        let links = self.0.read();
        let mut reasons: Vec<Reason> = links.iter().filter(|link| link.required).filter_map(Link::reason).collect();
        if !links.iter().any(|link| link.kind == LinkKind::Terminal) {
            let label = LinkKind::Terminal.to_string();
            reasons.push(Reason { link: label, state: "starting", node: None, since: None, last_error: None });
        }
        reasons
    }

    /// All links in one line, for systemd's status.
    pub fn summary(&self) -> String {
        let links = self.0.read();
        let shown = |link: &Link| format!("{} {}", link.label, word(link.status.borrow().state));
        let parts: Vec<String> = links.iter().map(shown).collect();
        if parts.is_empty() { "no link started".to_owned() } else { parts.join(", ") }
    }
}

impl Link {
    fn reason(&self) -> Option<Reason> {
        // A driver that has gone cannot keep its last state true.
        let gone = self.status.has_changed().is_err();
        let status = self.status.borrow();
        if status.state == LinkState::Up && !gone {
            return None;
        }
        Some(Reason {
            link: self.label.clone(),
            state: if gone { "down" } else { word(status.state) },
            node: Some(status.node.clone()),
            since: Some(status.since.to_string()),
            last_error: if gone { Some("the link's driver has ended".to_owned()) } else { status.last_error.clone() },
        })
    }
}

fn word(state: LinkState) -> &'static str {
    match state {
        LinkState::Connecting => "connecting",
        LinkState::Up => "up",
        LinkState::Down => "down",
    }
}

// === HTTP ===

/// Answers until `stop`. Draining is told, so that nobody sends new work here.
pub async fn serve(
    listener: TcpListener,
    links: Arc<Links>,
    metrics: Arc<Metrics>,
    draining: CancellationToken,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let shown = Arc::new(Shown { links, metrics, draining });
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(shown);
    // A scraper that does not read must not hold up the stop.
    stop.run_until_cancelled(async { axum::serve(listener, router).await }).await.unwrap_or(Ok(()))
}

async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    let mut reasons = shown.links.reasons();
    if shown.draining.is_cancelled() {
        reasons.push(Reason { link: "agent".to_owned(), state: "draining", node: None, since: None, last_error: None });
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Answer { ready: reasons.is_empty(), reasons })).into_response()
}

async fn metrics_text(State(shown): State<Arc<Shown>>) -> Response {
    match shown.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
