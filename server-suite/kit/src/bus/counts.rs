//! What the bus counts. Labels are queues alone; there are as many as services.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use crate::metrics::Metrics;

/// What a queue's events are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Queue {
    pub(super) queue: String,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) published: Counter,
    pub(super) unrouted: Counter,
    pub(super) waiting: Gauge,
    pub(super) oldest: Gauge<f64, std::sync::atomic::AtomicU64>,
    pub(super) connected: Gauge,
    pub(super) adopted: Counter,
    pub(super) untold: Counter,
    pub(super) missed: Counter,
    pub(super) handled: Family<Queue, Counter>,
    pub(super) repeated: Family<Queue, Counter>,
    pub(super) failed: Family<Queue, Counter>,
    pub(super) dead: Family<Queue, Counter>,
    pub(super) foreign: Family<Queue, Counter>,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(|registry| {
            registry.register("bus_published", "Events that are surely out", own.published.clone());
            registry.register("bus_unrouted", "Events that no queue takes", own.unrouted.clone());
            registry.register("bus_waiting", "Events that wait to be sent, of all copies", own.waiting.clone());
            registry.register("bus_waiting_oldest_seconds", "How long the oldest of them waits", own.oldest.clone());
            registry.register("bus_connected", "Whether RabbitMQ takes our events; 1 without one", own.connected.clone());
            registry.register("bus_adopted", "Events taken over from copies that have ended", own.adopted.clone());
            registry.register("bus_untold", "Fleeting events that were dropped because RabbitMQ was away or slow", own.untold.clone());
            registry.register("bus_missed", "Times that a listener may have missed events and took stock anew", own.missed.clone());
            registry.register("bus_handled", "Events that a queue's service has handled", own.handled.clone());
            registry.register("bus_repeated", "Events that came again and were recognised", own.repeated.clone());
            registry.register("bus_failed_attempts", "Attempts to handle an event that failed", own.failed.clone());
            registry.register("bus_dead", "Events that became dead letters", own.dead.clone());
            registry.register("bus_foreign", "Events of domains that are not served here, left out", own.foreign.clone());
        });
        own
    }
}

pub(super) fn of(queue: &str) -> Queue {
    Queue { queue: queue.to_owned() }
}
