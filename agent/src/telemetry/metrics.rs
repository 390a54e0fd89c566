//! Metrics. Every name stands in [`Metric`] with its meaning; dashboards and alerts are written against that list.

use std::{fmt::Write as _, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::health::Links;
use ecss_switch::link::{LinkCounters, LinkState};

/// One label.
pub type Label = [(&'static str, String); 1];
/// Two labels.
pub type Labels = [(&'static str, String); 2];
/// Three labels.
pub type Labels3 = [(&'static str, String); 3];

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $variant:ident = $name:literal, $kind:ident $(, $unit:ident)?;)*) => {
        /// Every metric. The doc comment is its help text.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Metric {
            $($(#[doc = $help])+ $variant,)*
        }

        impl Metric {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name without unit and suffix.
            pub const fn base(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it counts or measures.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help),+),)* }
            }

            /// Its type.
            pub const fn kind(self) -> MetricType {
                match self { $(Self::$variant => MetricType::$kind,)* }
            }

            /// Its unit, where it has one.
            pub const fn unit(self) -> Option<Unit> {
                match self { $(Self::$variant => metrics!(@unit $($unit)?),)* }
            }
        }
    };
    (@unit) => { None };
    (@unit $unit:ident) => { Some(Unit::$unit) };
}

metrics! {
    /// The running version, always 1.
    Build = "elph_agent_build", Info;
    /// Whether a link to the switch is up, by link and node.
    LinkUp = "elph_agent_link_up", Gauge;
    /// Messages received from the switch, by link.
    LinkMessagesReceived = "elph_agent_link_messages_received", Counter;
    /// Messages sent to the switch, by link.
    LinkMessagesSent = "elph_agent_link_messages_sent", Counter;
    /// Messages from the switch that could not be understood, by link.
    LinkMessagesBad = "elph_agent_link_messages_bad", Counter;
    /// Answers that nobody waited for, by link.
    LinkAnswersUnexpected = "elph_agent_link_answers_unexpected", Counter;
    /// Commands that the switch did not answer in time, by link.
    LinkTimeouts = "elph_agent_link_timeouts", Counter;
    /// Sessions opened with the switch, by link.
    LinkSessionsOpened = "elph_agent_link_sessions_opened", Counter;
    /// Sessions with the switch that were lost, by link.
    LinkSessionsLost = "elph_agent_link_sessions_lost", Counter;
    /// Expired sessions that were opened again without losing a command, by link.
    LinkRelogins = "elph_agent_link_relogins", Counter;
    /// Changes to another node of the switch, by link.
    LinkFailovers = "elph_agent_link_failovers", Counter;
    /// gRPC requests that have ended, by method and status code.
    GrpcRequests = "elph_agent_grpc_requests", Counter;
    /// Time from a unary gRPC request to its answer, by method.
    GrpcRequestDuration = "elph_agent_grpc_request_duration", Histogram, Seconds;
    /// gRPC connections that are open.
    GrpcConnections = "elph_agent_grpc_connections", Gauge;
    /// Requests that were not allowed, by reason.
    AccessDenied = "elph_agent_access_denied", Counter;
    /// Audit records that were taken.
    AuditRecords = "elph_agent_audit_records", Counter;
    /// Audit records that were lost because the queue was full or the target failed.
    AuditDropped = "elph_agent_audit_dropped", Counter;
    /// Events published to subscribers, by kind.
    EventsPublished = "elph_agent_events_published", Counter;
    /// Event subscriptions that are open.
    EventSubscribers = "elph_agent_event_subscribers", Gauge;
    /// Subscribers that were given a fresh snapshot, by reason.
    EventResyncs = "elph_agent_event_resyncs", Counter;
    /// Events in the journal.
    JournalEvents = "elph_agent_journal_events", Gauge;
    /// Size of the journal's segments on disk.
    JournalSize = "elph_agent_journal_size", Gauge, Bytes;
    /// Journal records that could not be written or read back.
    JournalFaults = "elph_agent_journal_faults", Counter;
    /// Calls known, by domain.
    Calls = "elph_agent_calls", Gauge;
    /// Conferences known, by domain.
    Conferences = "elph_agent_conferences", Gauge;
    /// Participants of conferences known, by domain.
    Participants = "elph_agent_participants", Gauge;
    /// Subscribers of the switch known, by domain.
    Subscribers = "elph_agent_subscribers", Gauge;
    /// Times the model was rebuilt from the switch, by outcome.
    ModelResyncs = "elph_agent_model_resyncs", Counter;
    /// Time it took to rebuild the model from the switch.
    ModelResyncDuration = "elph_agent_model_resync_duration", Histogram, Seconds;
    /// Commands sent to the switch, by operation and outcome.
    Commands = "elph_agent_commands", Counter;
    /// Steps in the lives of pushes, by application, class and state.
    Pushes = "elph_agent_pushes", Counter;
    /// Pushes that wait or are under way, by application and class.
    PushesWaiting = "elph_agent_pushes_waiting", Gauge;
    /// Age of the oldest push that waits, by class.
    PushesOldest = "elph_agent_pushes_oldest", Gauge, Seconds;
    /// Pushes at the provider without an answer yet, by application.
    PushesUnderWay = "elph_agent_pushes_under_way", Gauge;
    /// Pushes that may have reached the provider twice: the answer to the first attempt was lost.
    PushDuplicates = "elph_agent_push_possible_duplicates", Counter;
    /// Whether there is a connection to the provider, by application.
    PushConnected = "elph_agent_push_connected", Gauge;
    /// Whether an application waits because its provider is in trouble, by application.
    PushPaused = "elph_agent_push_paused", Gauge;
    /// When key, certificate or account of an application stops being valid, since 1970, by application.
    PushCredentialsExpiry = "elph_agent_push_credentials_expiry", Gauge, Seconds;
    /// Registered devices, by application.
    PushDevices = "elph_agent_push_devices", Gauge;
    /// Size of the queue's files.
    PushDisk = "elph_agent_push_disk", Gauge, Bytes;
    /// Whether the queue's disk is in trouble and nothing is taken on.
    PushDiskTrouble = "elph_agent_push_disk_trouble", Gauge;
    /// Attempts to read the configuration anew, by outcome.
    ConfigReloads = "elph_agent_config_reloads", Counter;
    /// When a certificate of ours expires, since 1970, by use.
    CertificateExpiry = "elph_agent_certificate_expiry", Gauge, Seconds;
    /// Resident memory of the process.
    ProcessResidentMemory = "process_resident_memory", Gauge, Bytes;
    /// Open file descriptors of the process.
    ProcessOpenFds = "process_open_fds", Gauge;
}

/// The metrics' values. Fields that are families have the labels that their help text names, in that order.
#[expect(missing_docs, reason = "each field is the metric of its name")]
pub struct Metrics {
    registry: Registry,
    pub grpc_requests: Family<Labels, Counter>,
    pub grpc_request_duration: Family<Label, Histogram>,
    pub grpc_connections: Gauge,
    pub access_denied: Family<Label, Counter>,
    pub audit_records: Counter,
    pub audit_dropped: Counter,
    pub events_published: Family<Label, Counter>,
    pub event_subscribers: Gauge,
    pub event_resyncs: Family<Label, Counter>,
    pub journal_events: Gauge,
    pub journal_size: Gauge,
    pub journal_faults: Counter,
    pub calls: Family<Label, Gauge>,
    pub conferences: Family<Label, Gauge>,
    pub participants: Family<Label, Gauge>,
    pub subscribers: Family<Label, Gauge>,
    pub model_resyncs: Family<Label, Counter>,
    pub model_resync_duration: Histogram,
    pub commands: Family<Labels, Counter>,
    pub pushes: Family<Labels3, Counter>,
    pub pushes_waiting: Family<Labels, Gauge>,
    pub pushes_oldest: Family<Label, Gauge>,
    pub pushes_under_way: Family<Label, Gauge>,
    pub push_duplicates: Counter,
    pub push_connected: Family<Label, Gauge>,
    pub push_paused: Family<Label, Gauge>,
    pub push_credentials_expiry: Family<Label, Gauge>,
    pub push_devices: Family<Label, Gauge>,
    pub push_disk: Gauge,
    pub push_disk_trouble: Gauge,
    pub config_reloads: Family<Label, Counter>,
    pub certificate_expiry: Family<Label, Gauge>,
}

/// One label's set.
pub fn label(name: &'static str, value: impl Into<String>) -> Label {
    [(name, value.into())]
}

// === impl Metrics ===

impl Metrics {
    /// Registers all. Links' and the process's metrics are read when they are asked for.
    pub fn new(links: Arc<Links>) -> Self {
        let mut registry = Registry::default();
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register(Metric::Build.base(), trimmed(Metric::Build), Info::new(version));
        let metrics = Self {
            grpc_requests: add(&mut registry, Metric::GrpcRequests),
            grpc_request_duration: put(
                &mut registry,
                Metric::GrpcRequestDuration,
                Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            ),
            grpc_connections: add(&mut registry, Metric::GrpcConnections),
            access_denied: add(&mut registry, Metric::AccessDenied),
            audit_records: add(&mut registry, Metric::AuditRecords),
            audit_dropped: add(&mut registry, Metric::AuditDropped),
            events_published: add(&mut registry, Metric::EventsPublished),
            event_subscribers: add(&mut registry, Metric::EventSubscribers),
            event_resyncs: add(&mut registry, Metric::EventResyncs),
            journal_events: add(&mut registry, Metric::JournalEvents),
            journal_size: add(&mut registry, Metric::JournalSize),
            journal_faults: add(&mut registry, Metric::JournalFaults),
            calls: add(&mut registry, Metric::Calls),
            conferences: add(&mut registry, Metric::Conferences),
            participants: add(&mut registry, Metric::Participants),
            subscribers: add(&mut registry, Metric::Subscribers),
            model_resyncs: add(&mut registry, Metric::ModelResyncs),
            model_resync_duration: put(&mut registry, Metric::ModelResyncDuration, Histogram::new(BUCKETS)),
            commands: add(&mut registry, Metric::Commands),
            pushes: add(&mut registry, Metric::Pushes),
            pushes_waiting: add(&mut registry, Metric::PushesWaiting),
            pushes_oldest: add(&mut registry, Metric::PushesOldest),
            pushes_under_way: add(&mut registry, Metric::PushesUnderWay),
            push_duplicates: add(&mut registry, Metric::PushDuplicates),
            push_connected: add(&mut registry, Metric::PushConnected),
            push_paused: add(&mut registry, Metric::PushPaused),
            push_credentials_expiry: add(&mut registry, Metric::PushCredentialsExpiry),
            push_devices: add(&mut registry, Metric::PushDevices),
            push_disk: add(&mut registry, Metric::PushDisk),
            push_disk_trouble: add(&mut registry, Metric::PushDiskTrouble),
            config_reloads: add(&mut registry, Metric::ConfigReloads),
            certificate_expiry: add(&mut registry, Metric::CertificateExpiry),
            registry: Registry::default(),
        };
        registry.register_collector(Box::new(AtScrape { links }));
        Self { registry, ..metrics }
    }

    /// OpenMetrics text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Seconds, from what a local answer takes to what a caller gives up after.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

fn trimmed(metric: Metric) -> &'static str {
    // The registry ends each help text with a full stop of its own.
    metric.help().trim().trim_end_matches('.')
}

fn add<M: prometheus_client::registry::Metric + Default + Clone>(registry: &mut Registry, metric: Metric) -> M {
    put(registry, metric, M::default())
}

fn put<M: prometheus_client::registry::Metric + Clone>(registry: &mut Registry, metric: Metric, value: M) -> M {
    match metric.unit() {
        Some(unit) => registry.register_with_unit(metric.base(), trimmed(metric), unit, value.clone()),
        None => registry.register(metric.base(), trimmed(metric), value.clone()),
    }
    value
}

// === values that others keep ===

#[derive(Debug)]
struct AtScrape {
    links: Arc<Links>,
}

type Reading = fn(&LinkCounters) -> &std::sync::atomic::AtomicU64;

const LINK_COUNTERS: [(Metric, Reading); 9] = [
    (Metric::LinkMessagesReceived, |counters| &counters.messages_received),
    (Metric::LinkMessagesSent, |counters| &counters.messages_sent),
    (Metric::LinkMessagesBad, |counters| &counters.messages_bad),
    (Metric::LinkAnswersUnexpected, |counters| &counters.answers_unexpected),
    (Metric::LinkTimeouts, |counters| &counters.timeouts),
    (Metric::LinkSessionsOpened, |counters| &counters.sessions_opened),
    (Metric::LinkSessionsLost, |counters| &counters.sessions_lost),
    (Metric::LinkRelogins, |counters| &counters.relogins),
    (Metric::LinkFailovers, |counters| &counters.failovers),
];

impl Collector for AtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let links = self.links.all();
        let help = |metric: Metric| format!("{}.", trimmed(metric));
        let mut family = encoder.encode_descriptor(Metric::LinkUp.base(), &help(Metric::LinkUp), None, MetricType::Gauge)?;
        for link in &links {
            let status = link.status.borrow().clone();
            let labels = [("link", link.label.clone()), ("node", status.node)];
            let up = i64::from(status.state == LinkState::Up);
            ConstGauge::new(up).encode(family.encode_family(&labels)?)?;
        }
        for (metric, reading) in LINK_COUNTERS {
            let mut family = encoder.encode_descriptor(metric.base(), &help(metric), None, MetricType::Counter)?;
            for link in &links {
                let value = reading(&link.counters).load(std::sync::atomic::Ordering::Relaxed);
                ConstCounter::new(value).encode(family.encode_family(&[("link", link.label.clone())])?)?;
            }
        }
        let process = [(Metric::ProcessResidentMemory, resident_memory()), (Metric::ProcessOpenFds, open_fds())];
        for (metric, value) in process {
            let unit = metric.unit();
            let family = encoder.encode_descriptor(metric.base(), &help(metric), unit.as_ref(), MetricType::Gauge)?;
            ConstGauge::new(value.unwrap_or(0)).encode(family)?;
        }
        Ok(())
    }
}

/// proc(5): `VmRSS` in KiB.
fn resident_memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<i64>().ok()?.checked_mul(1024)
}

fn open_fds() -> Option<i64> {
    i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

/// The list of all metrics as a Markdown table, for the documentation.
pub fn table() -> String {
    let mut text = String::from("| name | type | meaning |\n|---|---|---|\n");
    for metric in Metric::ALL {
        let unit = metric.unit().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let (suffix, kind) = match metric.kind() {
            MetricType::Counter => ("_total", "counter"),
            MetricType::Gauge => ("", "gauge"),
            MetricType::Histogram => ("", "histogram"),
            MetricType::Info => ("_info", "info"),
            MetricType::Unknown => ("", "unknown"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{}{unit}{suffix}` | {kind} | {} |", metric.base(), metric.help().trim());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_the_list_is_exported_with_its_help_and_type_and_no_other() {
        let metrics = Metrics::new(Arc::new(Links::default()));
        // A family shows itself with its first value.
        let (one, two) = (label("a", "x"), [("a", "x".to_owned()), ("b", "y".to_owned())]);
        for family in
            [&metrics.access_denied, &metrics.events_published, &metrics.event_resyncs, &metrics.model_resyncs, &metrics.config_reloads]
        {
            family.get_or_create(&one).inc();
        }
        for family in [&metrics.calls, &metrics.conferences, &metrics.participants, &metrics.subscribers, &metrics.certificate_expiry] {
            family.get_or_create(&one).inc();
        }
        for family in [&metrics.grpc_requests, &metrics.commands] {
            family.get_or_create(&two).inc();
        }
        for family in [
            &metrics.pushes_oldest,
            &metrics.pushes_under_way,
            &metrics.push_connected,
            &metrics.push_paused,
            &metrics.push_credentials_expiry,
            &metrics.push_devices,
        ] {
            family.get_or_create(&one).inc();
        }
        metrics.pushes_waiting.get_or_create(&two).inc();
        metrics.pushes.get_or_create(&[("a", "x".to_owned()), ("b", "y".to_owned()), ("c", "z".to_owned())]).inc();
        metrics.grpc_request_duration.get_or_create(&one).observe(0.1);
        let text = metrics.encode().unwrap();
        for metric in Metric::ALL {
            let unit = metric.unit().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
            let help = format!("# HELP {}{unit} {}", metric.base(), metric.help().trim());
            assert_eq!(text.matches(&help).count(), 1, "{help}\n{text}");
        }
        assert_eq!(text.matches("# HELP ").count(), Metric::ALL.len());
        assert!(text.contains("# TYPE elph_agent_link_up gauge") && text.contains("# TYPE elph_agent_link_timeouts counter"));
        assert!(text.ends_with("# EOF\n"));
    }
}
