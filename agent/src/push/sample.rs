//! What the queue, the registry and the senders know, copied into metrics.

use std::{collections::HashMap, sync::Arc, time::Duration};

use push_core::Class;
use push_queue::State;

use super::Pusher;
use crate::{
    lifecycle::Shared,
    telemetry::metrics::{Metrics, label},
};

const PERIOD: Duration = Duration::from_secs(2);

/// What has been counted already.
#[derive(Default)]
struct Counted {
    steps: HashMap<(String, Class, State), u64>,
    duplicates: u64,
}

pub(super) async fn sample(shared: Arc<Shared>, pusher: Arc<Pusher>) {
    let mut ticks = tokio::time::interval(PERIOD);
    let mut counted = Counted::default();
    while shared.shutdown.soft.run_until_cancelled(ticks.tick()).await.is_some() {
        copy(&shared.metrics, &pusher, &mut counted);
    }
}

fn copy(metrics: &Metrics, pusher: &Pusher, counted: &mut Counted) {
    let now = pusher.pushes().snapshot();
    for queued in &now.apps {
        let name = queued.app.to_string();
        for (class, state, total) in &queued.counts {
            let before = counted.steps.insert((name.clone(), *class, *state), *total).unwrap_or(0);
            let labels = [("app", name.clone()), ("class", class.as_str().to_owned()), ("state", state.as_str().to_owned())];
            metrics.pushes.get_or_create(&labels).inc_by(total.saturating_sub(before));
        }
        for (class, depth) in &queued.depth {
            let labels = [("app", name.clone()), ("class", class.as_str().to_owned())];
            metrics.pushes_waiting.get_or_create(&labels).set(gauge(*depth as u64));
        }
        metrics.pushes_under_way.get_or_create(&label("app", name.as_str())).set(gauge(queued.under_way as u64));
        metrics.push_paused.get_or_create(&label("app", name.as_str())).set(i64::from(queued.paused.is_some()));
    }
    for (class, age) in &now.oldest {
        metrics.pushes_oldest.get_or_create(&label("class", class.as_str())).set(gauge(age.as_secs()));
    }
    let before = std::mem::replace(&mut counted.duplicates, now.possible_duplicates);
    metrics.push_duplicates.inc_by(now.possible_duplicates.saturating_sub(before));
    metrics.push_disk.set(gauge(now.disk_bytes));
    metrics.push_disk_trouble.set(i64::from(now.disk_trouble.is_some()));
    let counts = pusher.registry().counts();
    for (name, app) in pusher.apps().iter() {
        let of_app = || label("app", name.as_str());
        metrics.push_connected.get_or_create(&of_app()).set(i64::from(app.connected()));
        let devices: u64 = counts.iter().filter(|(app, _, _)| *app == name).map(|(_, _, count)| count).sum();
        metrics.push_devices.get_or_create(&of_app()).set(gauge(devices));
        if let Some(expiry) = app.expires_at() {
            metrics.push_credentials_expiry.get_or_create(&of_app()).set(expiry.as_second());
        }
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
