//! Metrics: what the proxy counts itself, and nginx's own counts from its status socket when they are asked for.

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::nginx::status::Counts;

/// A metric's labels.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// The metrics' values.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) upstream_up: Family<Labels, Gauge>,
    pub(crate) checks: Family<Labels, Counter>,
    pub(crate) reloads: Family<Labels, Counter>,
    pub(crate) restarts: Counter,
    pub(crate) certificate_expiry: Gauge,
    pub(crate) acme_orders: Family<Labels, Counter>,
    pub(crate) served: Family<Labels, Counter>,
    pub(crate) unread: Counter,
    nginx_up: Gauge,
    connections: Family<Labels, Gauge>,
    accepted: Gauge,
    dropped: Gauge,
    requests: Gauge,
}

/// Labels of a metric.
pub(crate) fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            upstream_up: Family::default(),
            checks: Family::default(),
            reloads: Family::default(),
            restarts: Counter::default(),
            certificate_expiry: Gauge::default(),
            acme_orders: Family::default(),
            served: Family::default(),
            unread: Counter::default(),
            nginx_up: Gauge::default(),
            connections: Family::default(),
            accepted: Gauge::default(),
            dropped: Gauge::default(),
            requests: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        let copies = "Whether requests may go to a copy, by service and copy";
        registry.register("elph_proxy_upstream_up", copies, metrics.upstream_up.clone());
        registry.register("elph_proxy_checks", "Checks of copies, by service, copy and outcome", metrics.checks.clone());
        registry.register("elph_proxy_reloads", "Reloads of nginx, by cause and outcome", metrics.reloads.clone());
        registry.register("elph_proxy_nginx_restarts", "Times nginx had ended by itself and was started again", metrics.restarts.clone());
        let expiry = "When the certificate expires, since 1970";
        registry.register_with_unit("elph_proxy_certificate_expiry", expiry, Unit::Seconds, metrics.certificate_expiry.clone());
        registry.register("elph_proxy_acme_orders", "Certificates ordered, by outcome", metrics.acme_orders.clone());
        let served = "Requests in the access log, by service and class of status";
        registry.register("elph_proxy_service_requests", served, metrics.served.clone());
        let unread = "Bytes of the access log that were not counted: the reader was too far behind";
        registry.register_with_unit("elph_proxy_access_log_unread", unread, Unit::Bytes, metrics.unread.clone());
        registry.register("elph_proxy_nginx_up", "Whether nginx answers on its status socket", metrics.nginx_up.clone());
        registry.register("elph_proxy_connections", "Connections of clients, by state", metrics.connections.clone());
        let accepted = "Connections of clients that were accepted since nginx began";
        registry.register("elph_proxy_connections_accepted", accepted, metrics.accepted.clone());
        let dropped = "Connections of clients that nginx had no room for since it began";
        registry.register("elph_proxy_connections_dropped", dropped, metrics.dropped.clone());
        registry.register("elph_proxy_requests", "Requests since nginx began", metrics.requests.clone());
        metrics
    }

    /// OpenMetrics text, with nginx's counts of now.
    pub(crate) fn encode(&self, counts: Option<Counts>) -> Result<String, std::fmt::Error> {
        self.nginx_up.set(i64::from(counts.is_some()));
        if let Some(counts) = counts {
            let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let states = [("active", counts.active), ("reading", counts.reading), ("writing", counts.writing), ("waiting", counts.waiting)];
            for (state, value) in states {
                self.connections.get_or_create(&labels([("state", state)])).set(number(value));
            }
            self.accepted.set(number(counts.accepted));
            self.dropped.set(number(counts.accepted.saturating_sub(counts.handled)));
            self.requests.set(number(counts.requests));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
