//! Metrics of all services in one registry; `/metrics` in OpenMetrics text. Labels never hold a user, a token or an address.

use std::fmt;

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Bounds of request times in seconds.
const SECONDS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// What a request is counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// The service.
    pub service: String,
    /// GET, POST …
    pub method: String,
    /// The route as it is written in the OpenAPI document, so that there are not more of them than routes.
    pub route: String,
    /// The status code.
    pub status: u16,
}

/// What a duration is counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Service {
    /// The service.
    pub service: String,
}

/// The registry and what every service counts.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Requests that were answered.
    pub requests: Family<Request, Counter>,
    /// How long they took.
    pub request_seconds: Family<Service, Histogram>,
    /// WebSockets that are open.
    pub sockets: Family<Service, Gauge>,
    /// Connections that were refused because there are too many.
    pub refused: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("elph_server");
        let requests = Family::default();
        registry.register("requests", "Requests that were answered", requests.clone());
        let request_seconds = Family::<Service, Histogram>::new_with_constructor(|| Histogram::new(SECONDS));
        registry.register("request_duration_seconds", "How long requests took", request_seconds.clone());
        let sockets = Family::default();
        registry.register("websockets", "WebSockets that are open", sockets.clone());
        let refused = Counter::default();
        registry.register("connections_refused", "Connections refused because there are too many", refused.clone());
        Self { registry: Mutex::new(registry), requests, request_seconds, sockets, refused }
    }
}

impl Metrics {
    /// A service's own metrics.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock());
    }

    /// As OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}
