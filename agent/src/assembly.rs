//! Puts the agent together: journal and model, the links that feed them, the commands, and the gRPC API in front. And takes it apart in
//! the other order: no new requests, running commands finish, the links log out, the journal is closed.

use std::{sync::Arc, time::Duration};

use elph_model::{Core, CoreOptions};
use mediator_client::switch::link::Tap;

use crate::{
    command::Commands,
    grpc::{self, Api},
    lifecycle::{Failure, Shared},
    link::{Connectors, StartError, Switch},
    push::Pusher,
    telemetry::metrics::label,
};

/// Bytes of events in memory: the agent is a guest.
const MAX_MEMORY: usize = 16 << 20;

/// How long pushes that are under way are waited for at the end; those not answered by then are sent again after the next start.
const PUSHES: Duration = Duration::from_secs(5);

/// How often what only the model knows is copied into metrics.
const SAMPLE: Duration = Duration::from_secs(2);

/// Starts everything. Returns once the listeners are bound; the links connect by themselves.
pub async fn start(shared: &Arc<Shared>, tap: Option<Arc<dyn Tap>>) -> Result<(), Failure> {
    let config = shared.config.load_full();
    let core = Arc::new(open_core(&config.journal)?);
    let connectors = Connectors::from_config(&config)?;
    let switch = Switch::start(shared, core.clone(), connectors, tap)?;
    let path = config.journal.directory.join("requests");
    let commands = Commands::open(&path, shared);
    let commands = Arc::new(commands.map_err(|source| Failure::Unavailable { what: format!("request ids {}", path.display()), source })?);
    let pusher = Pusher::start(shared, core.clone())?;
    shared.pusher.store(pusher.clone());
    grpc::serve(shared, Api::new(shared.clone(), switch.clone(), commands.clone(), pusher.clone())).await?;
    shared.tasks.spawn(sample(shared.clone(), core.clone(), switch.clone()));
    shared.tasks.spawn(take_apart(shared.clone(), core, switch, commands, pusher));
    Ok(())
}

/// The model, with what the journal remembers.
fn open_core(journal: &crate::config::Journal) -> Result<Core, Failure> {
    let options = CoreOptions {
        max_events: usize::try_from(journal.max_events).unwrap_or(usize::MAX),
        max_bytes: MAX_MEMORY,
        directory: Some(journal.directory.clone()),
        disk_bytes: journal.max_bytes.0,
        segment_bytes: journal.segment_bytes.0,
        ..CoreOptions::default()
    };
    Core::open(options).map_err(|error| Failure::Unavailable { what: "the journal".to_owned(), source: std::io::Error::other(error) })
}

async fn take_apart(shared: Arc<Shared>, core: Arc<Core>, switch: Arc<Switch>, commands: Arc<Commands>, pusher: Option<Arc<Pusher>>) {
    shared.shutdown.soft.cancelled().await;
    commands.drained().await;
    if let Some(pusher) = pusher {
        pusher.close(PUSHES).await;
    }
    switch.stop().await;
    core.close().await;
}

async fn sample(shared: Arc<Shared>, core: Arc<Core>, switch: Arc<Switch>) {
    let mut ticks = tokio::time::interval(SAMPLE);
    let metrics = &shared.metrics;
    let mut before = core.counters();
    while shared.shutdown.soft.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = core.counters();
        for ((kind, now), before) in ["call", "conference", "link"].iter().zip(now.events_by_kind).zip(before.events_by_kind) {
            metrics.events_published.get_or_create(&label("kind", *kind)).inc_by(now - before);
        }
        for ((reason, now), before) in ["too_old", "epoch", "too_slow"].iter().zip(now.resyncs_sent).zip(before.resyncs_sent) {
            metrics.event_resyncs.get_or_create(&label("reason", *reason)).inc_by(now - before);
        }
        metrics.journal_faults.inc_by(now.disk_events_skipped - before.disk_events_skipped);
        metrics.journal_events.set(gauge(now.journal_events));
        metrics.journal_size.set(gauge(now.journal_bytes));
        let counts = core.counts_by_domain();
        for domain in switch.domains() {
            // A domain in which nothing goes on any more has no counts: zero.
            let count = counts.get(domain.as_str()).copied().unwrap_or_default();
            metrics.calls.get_or_create(&label("domain", domain.as_str())).set(gauge(count.calls));
            metrics.conferences.get_or_create(&label("domain", domain.as_str())).set(gauge(count.conferences));
            metrics.participants.get_or_create(&label("domain", domain.as_str())).set(gauge(count.participants));
            let known = switch.directory().listing(domain).map_or(0, |listing| listing.subscribers.len());
            metrics.subscribers.get_or_create(&label("domain", domain.as_str())).set(gauge(known as u64));
        }
        before = now;
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::Unusable { key: error.key, what: error.what }
    }
}
