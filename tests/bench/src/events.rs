//! From the switch's event to the gRPC subscriber, at 2,000 events a second with 100 subscribers of which one never reads.

use std::time::Duration;

use anyhow::bail;
use hdrhistogram::Histogram;

use crate::{
    feed::{Keep, Receipt},
    report::{Better, Table, median, progress},
    runs::{Contender, Ring, paced},
};

const RUNS: usize = 3;
const PER_SECOND: u32 = 2000;
const SECONDS: usize = 8;
const READING: usize = 99;
const STUCK: usize = 1;

/// Milliseconds of one run.
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
}

pub(crate) async fn run() -> anyhow::Result<Table> {
    let mut ring = Ring::start().await?;
    let mut runs: Vec<(Contender, Latency)> = Vec::new();
    for run in 1..=RUNS {
        for who in Contender::ALL {
            progress(&format!("events, run {run} of {RUNS}, {}", who.name()));
            let latency = one(&mut ring, who).await?;
            progress(&format!("p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms", latency.p50, latency.p99, latency.p999));
            runs.push((who, latency));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    let mut table = Table::new("events");
    for (at, name) in ["p50", "p99", "p99.9"].into_iter().enumerate() {
        let figure = |latency: &Latency| [latency.p50, latency.p99, latency.p999].get(at).copied().unwrap_or(f64::NAN);
        let of = |who| median(runs.iter().filter(|(it, _)| *it == who).map(|(_, latency)| figure(latency)).collect());
        let case = format!("switch event to subscriber, {PER_SECOND}/s, 100 subscribers (1 stuck), {name}");
        let row = table.row(case, "ms", Better::Lower, of(Contender::Ours));
        row.beside(Contender::Bare.name(), of(Contender::Bare)).beside(Contender::Nats.name(), of(Contender::Nats));
        if name == "p99" {
            row.goal(2.0);
        }
    }
    let seconds = SECONDS;
    table.note(format!("medians of {RUNS} runs of {seconds} s; payload {} octets on average; a connection per subscriber", ring.octets()));
    table.note("ours: from the change in the simulated switch over CSTA or Call API, model, journal and gRPC on a Unix socket;");
    table
        .note("bare tonic: from a write into its Unix socket; nats-server: from a write into its TCP socket. Clients share the two cores.");
    ring.stack.stop().await?;
    Ok(table)
}

async fn one(ring: &mut Ring, who: Contender) -> anyhow::Result<Latency> {
    let round = ring.busy.round();
    let messages = (PER_SECOND as usize * SECONDS).next_multiple_of(round);
    let mut subscribed = ring.subscribe(who, READING, STUCK, Keep::Frames).await?;
    let arrived = paced(&mut subscribed, PER_SECOND, messages).await?;
    let receipts = subscribed.finish().await?;
    let made = ring.made(who, &receipts)?;
    if arrived < messages as u64 || made.len() != messages {
        bail!("{}: {} of {messages} events were told, {arrived} reached every subscriber", who.name(), made.len());
    }
    latency(&receipts, &made)
}

fn latency(receipts: &[Vec<Receipt>], made: &std::collections::HashMap<u64, u64>) -> anyhow::Result<Latency> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    for receipt in receipts.iter().flatten() {
        if let Some(made) = made.get(&receipt.sequence) {
            histogram.record(receipt.at.saturating_sub(*made))?;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a few seconds")]
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e6;
    Ok(Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999) })
}
