//! From the ringing in the switch to the request of its push at the provider: the real agent between the simulated switch and the simulated
//! provider, idle and with many others waiting for the same application.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use e2e::{
    Stack, StackOptions,
    pushes::{Providers, apns_token, event, register},
};
use elph_proto::v1;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use push_sim::{Arrival, Effect, Fault, Options, Provider};
use tempfile::TempDir;

use crate::{
    feed::PATIENCE,
    push_rivals::scratch,
    report::{Better, Table, median, progress},
};

const RUNS: usize = 3;
const CALLS: usize = 250;
/// Between two calls.
const PACE: Duration = Duration::from_millis(20);
/// Calls that ring at the same time.
const RINGING: usize = 5;
/// They are called in turn.
const PHONES: usize = 20;
/// A push of a call that waits for nothing comes within this time.
const SOON: Duration = Duration::from_millis(100);
const APP: &str = "ios";
const QUEUED: u64 = 100_000;
/// More, since some leave while calls are made.
const SLACK: u64 = 12_000;
/// The provider takes so long to answer for these: all streams that they may have are taken.
const SLOW: Duration = Duration::from_secs(8);

/// Who is called, and by whom.
struct Phone {
    caller: String,
    callee: String,
    /// Of its push.
    token: String,
}

pub(crate) async fn run() -> anyhow::Result<Table> {
    let (mut idle, mut full) = (Vec::new(), Vec::new());
    let mut least = f64::INFINITY;
    for run in 1..=RUNS {
        progress(&format!("push_latency, run {run} of {RUNS}, idle"));
        let (providers, stack, _keep) = stack("[[push.events]]\ndomains = [\"*\"]\ncalls = true\n", None).await?;
        let phones = furnish(&stack, &providers).await?;
        warm(&stack, &providers, &phones).await?;
        idle.push(calls(&stack, &providers, &phones, CALLS).await?);
        progress(&format!("push_latency, run {run} of {RUNS}, with {QUEUED} waiting"));
        let other = bystander(&stack, &providers).await?;
        fill(&stack, QUEUED + SLACK, move |_| other.clone()).await?;
        full.push(calls(&stack, &providers, &phones, CALLS).await?);
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
    table.note(format!("medians of {RUNS} runs of {CALLS} calls, one every {} ms, to {PHONES} users with a phone each", PACE.as_millis()));
    table.note("from the change in the simulated switch over CSTA, model, rules, queue on disk and APNs to the request read by push-sim;");
    table.note(format!(
        "queued: for the same application; the provider answers these after {} s, so that all places that they may have are taken",
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

/// Users with a phone each, and who calls them.
async fn furnish(stack: &Stack, providers: &Providers) -> anyhow::Result<Vec<Phone>> {
    let aliases = stack.sim.switch().aliases(stack.domain(), 0, 2 * PHONES)?;
    let mut phones = Vec::new();
    for (number, pair) in (0..).zip(aliases.chunks_exact(2)) {
        let [caller, callee] = pair else { continue };
        register(stack.push(), providers, stack.domain(), callee, APP, number).await?;
        phones.push(Phone { caller: caller.clone(), callee: callee.clone(), token: apns_token(number) });
    }
    if phones.len() < PHONES {
        bail!("the switch has {} aliases only", aliases.len());
    }
    Ok(phones)
}

/// A user who is only written to, and whose phone the provider answers for late.
async fn bystander(stack: &Stack, providers: &Providers) -> anyhow::Result<String> {
    let alias = stack.sim.switch().aliases(stack.domain(), 2 * PHONES, 1)?.into_iter().next().context("no further alias")?;
    let number = PHONES as u64;
    register(stack.push(), providers, stack.domain(), &alias, APP, number).await?;
    let late = Effect::Delay { ms: u64::try_from(SLOW.as_millis())? };
    providers.sim.fault(Fault::new(Provider::Apns, late).device(apns_token(number)));
    Ok(alias)
}

/// Until each phone has rung without delay: monitors are set, connections open.
async fn warm(stack: &Stack, providers: &Providers, phones: &[Phone]) -> anyhow::Result<()> {
    let began = Instant::now();
    for phone in phones {
        loop {
            let from = providers.sim.counters().apns.accepted;
            let made = stack.sim.switch().dial(stack.domain(), &phone.caller, &phone.callee)?;
            let rang = async {
                while providers.sim.counters().apns.accepted == from {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let rang = tokio::time::timeout(SOON, rang).await.is_ok();
            stack.sim.switch().release_call(stack.domain(), &made.call)?;
            // Its cancel
            tokio::time::sleep(SOON).await;
            if rang {
                break;
            }
            if began.elapsed() > PATIENCE {
                bail!("a phone does not ring; the agent's log:\n{}", stack.agent.log());
            }
        }
    }
    Ok(())
}

/// So many calls, and how long each push took.
async fn calls(stack: &Stack, providers: &Providers, phones: &[Phone], count: usize) -> anyhow::Result<Histogram<u64>> {
    let (switch, domain) = (stack.sim.switch(), stack.domain());
    providers.sim.clear_arrived();
    let mut began: HashMap<&str, VecDeque<Instant>> = HashMap::new();
    let mut ringing = VecDeque::new();
    for phone in phones.iter().cycle().take(count) {
        began.entry(&phone.token).or_default().push_back(Instant::now());
        ringing.push_back(switch.dial(domain, &phone.caller, &phone.callee)?.call);
        tokio::time::sleep(PACE).await;
        if ringing.len() == RINGING {
            switch.release_call(domain, &ringing.pop_front().unwrap_or_default())?;
        }
    }
    for call in ringing {
        switch.release_call(domain, &call)?;
    }
    let rang = |arrived: &[Arrival]| -> Vec<Arrival> {
        let voip = arrived.iter().filter(|arrival| arrival.header("apns-push-type") == Some("voip"));
        voip.filter(|arrival| event(arrival) == "call").cloned().collect()
    };
    let waited = providers.sim.wait_for(PATIENCE, |arrived| rang(arrived).len() >= count).await;
    let arrived = match waited {
        Ok(arrived) => rang(&arrived),
        Err(waited) => {
            let (_, metrics) = stack.agent.get("/metrics").await?;
            let of_calls: Vec<&str> =
                metrics.lines().filter(|line| line.starts_with("elph_agent_push") && !line.contains("bucket")).collect();
            bail!("{} of {count} calls were pushed; the agent says:\n{}", rang(&waited.0).len(), of_calls.join("\n"))
        }
    };
    let mut taken = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    // The calls of a phone arrive one after the other.
    for arrival in arrived {
        let began = began.get_mut(&*arrival.device).and_then(VecDeque::pop_front).context("a phone rang without a call")?;
        taken.record(u64::try_from(arrival.instant.saturating_duration_since(began).as_micros())?)?;
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
