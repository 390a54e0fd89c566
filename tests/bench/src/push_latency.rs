//! From the ringing in the switch to the request of its push at the provider: the real agent between the simulated switch and the simulated
//! provider, idle and with many others waiting for the same application.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use e2e::{
    Stack, StackOptions,
    pushes::{Providers, event, register},
};
use elph_proto::v1;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use push_sim::{Arrival, Options};
use tempfile::TempDir;

use crate::{
    feed::PATIENCE,
    push_rivals::scratch,
    report::{Better, Table, median, progress},
};

const RUNS: usize = 3;
const CALLS: usize = 300;
/// Between two calls.
const PACE: Duration = Duration::from_millis(15);
/// Users that are called in turn.
const CALLEES: usize = 20;
const APP: &str = "ios";
const QUEUED: u64 = 100_000;
/// More, since some leave while calls are made.
const SLACK: u64 = 8_000;
/// The provider takes so long for each answer then: all streams that others may have are taken.
const SLOW: Duration = Duration::from_secs(8);

pub(crate) async fn run() -> anyhow::Result<Table> {
    let (mut idle, mut full) = (Vec::new(), Vec::new());
    let mut least = f64::INFINITY;
    for run in 1..=RUNS {
        progress(&format!("push_latency, run {run} of {RUNS}, idle"));
        let (providers, stack, _keep) = stack("[[push.events]]\ndomains = [\"*\"]\ncalls = true\n", None).await?;
        let callees = furnish(&stack, &providers).await?;
        // Connections and caches.
        calls(&stack, &providers, &callees, CALLEES).await?;
        idle.push(calls(&stack, &providers, &callees, CALLS).await?);
        progress(&format!("push_latency, run {run} of {RUNS}, with {QUEUED} waiting"));
        providers.sim.set_delay(SLOW);
        let other = callees.first().context("no callee")?.clone();
        fill(&stack, QUEUED + SLACK, move |_| other.clone()).await?;
        full.push(calls(&stack, &providers, &callees, CALLS).await?);
        least = least.min(waiting(&stack, APP).await?);
        stack.kill().await?;
    }
    if least < QUEUED as f64 {
        bail!("only {least} pushes waited at the end");
    }
    let mut table = Table::new("push_latency");
    for (case, runs, goal) in [("nothing else to send".to_owned(), idle, 5.0), (format!("{QUEUED} background pushes queued"), full, 20.0)] {
        let of = |quantile: f64| median(runs.iter().map(|run| ms(run, quantile)).collect());
        table.row(format!("switch ringing to provider's request, {case}, p50"), "ms", Better::Lower, of(0.5));
        table.row(format!("switch ringing to provider's request, {case}, p99"), "ms", Better::Lower, of(0.99)).goal(goal);
    }
    table.note(format!("medians of {RUNS} runs of {CALLS} calls, one every {} ms, to {CALLEES} users with a phone each", PACE.as_millis()));
    table.note("from the change in the simulated switch over CSTA, model, rules, queue on disk and APNs to the request read by push-sim;");
    table.note(format!(
        "queued: for the same application; the provider answers after {} s, so that all streams left to others are taken",
        SLOW.as_secs()
    ));
    Ok(table)
}

/// An agent whose pushes are kept on a real disk.
pub(crate) async fn stack(extra: &str, push: Option<TempDir>) -> anyhow::Result<(Providers, Running, TempDir)> {
    let providers = Providers::with(Options { accept_unknown_devices: true, ..Options::default() }).await?;
    let push = push.map_or_else(scratch, Ok)?;
    let options = StackOptions::default();
    let directory = format!("[push]\ndirectory = \"{}\"\n", push.path().display());
    let extra = format!("{}\n{directory}{}\n{extra}", options.extra, providers.apps());
    let stack = Stack::start(StackOptions { extra, ..options }).await?;
    Ok((providers, Running(stack), push))
}

/// A stack that ends without writing everything down.
pub(crate) struct Running(pub(crate) Stack);

impl std::ops::Deref for Running {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.0
    }
}

impl Running {
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.0.agent.kill().await?;
        self.0.sim.shutdown().await;
        Ok(())
    }
}

/// Users with a phone each.
async fn furnish(stack: &Stack, providers: &Providers) -> anyhow::Result<Vec<String>> {
    let aliases = stack.sim.switch().aliases(stack.domain(), 1, CALLEES)?;
    for (number, alias) in (0..).zip(&aliases) {
        register(stack.push(), providers, stack.domain(), alias, APP, number).await?;
    }
    if aliases.len() < CALLEES {
        bail!("the switch has {} aliases only", aliases.len());
    }
    Ok(aliases)
}

/// So many calls, and how long each push took.
async fn calls(stack: &Stack, providers: &Providers, callees: &[String], count: usize) -> anyhow::Result<Histogram<u64>> {
    let (switch, domain) = (stack.sim.switch(), stack.domain());
    let caller = switch.aliases(domain, 0, 1)?.into_iter().next().context("no caller")?;
    let from = providers.sim.counters().apns.accepted;
    let mut began = HashMap::new();
    for callee in callees.iter().cycle().take(count) {
        let now = Instant::now();
        let made = switch.dial(domain, &caller, callee)?;
        began.insert(made.call.clone(), now);
        tokio::time::sleep(PACE).await;
        switch.release_call(domain, &made.call)?;
    }
    let rang = |arrived: &[Arrival]| -> Vec<Arrival> {
        let ours = |arrival: &&Arrival| event(arrival) == "call" && began.contains_key(&e2e::pushes::field(arrival, "call_id"));
        arrived.iter().filter(ours).cloned().collect()
    };
    let waited = providers.sim.wait_for(PATIENCE, |arrived| rang(arrived).len() >= count).await;
    let arrived = match waited {
        Ok(arrived) => rang(&arrived),
        Err(waited) => bail!("{} of {count} calls were pushed, {from} pushes before", rang(&waited.0).len()),
    };
    let mut taken = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    for arrival in arrived {
        let began = began.remove(&e2e::pushes::field(&arrival, "call_id"));
        if let Some(began) = began {
            taken.record(u64::try_from(arrival.instant.saturating_duration_since(began).as_micros())?)?;
        }
    }
    progress(&format!("p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms", ms(&taken, 0.5), ms(&taken, 0.99), ms(&taken, 1.0)));
    Ok(taken)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a run")]
fn ms(taken: &Histogram<u64>, quantile: f64) -> f64 {
    taken.value_at_quantile(quantile) as f64 / 1e3
}

/// Orders so many background pushes to users in turn.
pub(crate) async fn fill(stack: &Stack, count: u64, alias: impl Fn(u64) -> String + Send + 'static) -> anyhow::Result<()> {
    let domain = stack.domain().to_owned();
    let orders = (0..count).map(move |number| v1::SendPushesRequest {
        domain: domain.clone(),
        request_id: e2e::request_id(),
        order: Some(v1::PushOrder {
            target: Some(v1::push_order::Target::User(v1::PushUser { alias: alias(number), apps: Vec::new() })),
            content: Some(v1::PushContent {
                title: "Anna Petrova".to_owned(),
                body: "Shall we move the meeting to half past three? The room is free until five.".to_owned(),
                ..Default::default()
            }),
            push_class: v1::PushClass::Background.into(),
            ..Default::default()
        }),
    });
    let mut answers = stack.push().send_pushes(futures_util::stream::iter(orders)).await?.into_inner();
    let mut taken = 0;
    let began = Instant::now();
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        if answer.pushes.len() != 1 {
            bail!("an order made {} pushes: {} {}", answer.pushes.len(), answer.refused_reason, answer.refused_message);
        }
        taken += 1;
    }
    progress(&format!("{taken} pushes taken on in {:.1} s", began.elapsed().as_secs_f64()));
    if taken != count {
        bail!("{taken} of {count} orders were answered");
    }
    Ok(())
}

/// Pushes of an application that wait.
#[expect(clippy::cast_precision_loss, reason = "a count of pushes")]
pub(crate) async fn waiting(stack: &Stack, app: &str) -> anyhow::Result<f64> {
    let apps = stack.push().list_apps(v1::ListAppsRequest::default()).await?.into_inner().apps;
    let found = apps.iter().find(|known| known.name == app).context("the application is not configured")?;
    Ok(found.waiting as f64)
}
