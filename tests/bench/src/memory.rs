//! Resident memory of the agent: idle with 10,000 subscribers known, with calls and conferences, and its growth under load.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use e2e::Stack;

use crate::{
    busy::{self, Busy, Size},
    feed::{self, Clock, Keep, PATIENCE, Reader, subscribe},
    report::{Better, Table, median, progress},
};
use futures_util::StreamExt;

const RUNS: usize = 3;
const SIZE: Size = Size { aliases: 10_000, calls: 1000, conferences: 100, members: 50 };
/// Under load the journal's memory and the ended calls that are kept fill up first, and some segments are begun, each with the whole
/// state: that is no growth without end.
const WARM_UP: Duration = Duration::from_secs(120);
const LOAD: Duration = Duration::from_secs(60);
const SOAK: Duration = Duration::from_secs(600);
const PER_SECOND: u32 = 1000;
/// Of so many changes one is a call that comes and goes.
const CALL_EVERY: usize = 10;
const SUBSCRIBERS: usize = 10;

pub(crate) async fn run(soak: bool) -> anyhow::Result<Table> {
    let load = if soak { SOAK } else { LOAD };
    let (mut idle, mut full, mut growth) = (Vec::new(), Vec::new(), None);
    for run in 1..=RUNS {
        progress(&format!("memory, run {run} of {RUNS}"));
        let stack = busy::stack(SIZE.aliases).await?;
        known(&stack).await?;
        idle.push(settled(&stack).await?);
        busy::furnish(stack.sim.switch(), stack.domain(), SIZE)?;
        shown(&stack).await?;
        full.push(settled(&stack).await?);
        if run == RUNS {
            progress(&format!("memory, load for {} s", (WARM_UP + load).as_secs()));
            growth = Some(under_load(&stack, load).await?);
        }
        stack.stop().await?;
    }
    let (before, after) = growth.context("no load was run")?;
    let mut table = Table::new("memory");
    table.row("idle, 10,000 subscribers known and monitored", "MiB", Better::Lower, median(idle)).goal(32.0);
    table.row("with 1,000 calls and 100 conferences of 50", "MiB", Better::Lower, median(full));
    table.row(format!("before {} s of load, caches full", load.as_secs()), "MiB", Better::Lower, before);
    table.row(format!("growth over {} s of load", load.as_secs()), "MiB", Better::Lower, after - before);
    table.note(format!(
        "VmRSS of the release agent; medians of {RUNS} starts, the load once; {PER_SECOND} changes/s with {SUBSCRIBERS} subscribers"
    ));
    table.note(format!(
        "before the load is measured it has run for {} s, until journal and ended calls hold all that they may; MALLOC_ARENA_MAX=2 as in the unit{}",
        WARM_UP.as_secs(),
        if soak { "" } else { "; --soak loads for ten minutes" }
    ));
    Ok(table)
}

/// Until every subscriber is known and has its monitor.
async fn known(stack: &Stack) -> anyhow::Result<()> {
    let label = format!("elph_agent_subscribers{{domain=\"{}\"}}", stack.domain());
    let began = Instant::now();
    loop {
        let subscribers = stack.agent.metric(&label).await?.unwrap_or_default();
        let monitors = sent(stack).await?;
        if subscribers >= f64::from(SIZE.aliases) && monitors >= f64::from(SIZE.aliases) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!("{subscribers} subscribers are known and {monitors} csta messages sent");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// CSTA messages so far.
async fn sent(stack: &Stack) -> anyhow::Result<f64> {
    let (_, text) = stack.agent.get("/metrics").await?;
    let lines = text.lines().filter(|line| line.starts_with("elph_agent_link_messages_sent_total") && line.contains("csta"));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// Until the agent knows every call and member.
async fn shown(stack: &Stack) -> anyhow::Result<()> {
    let mut watch = stack.watch().await?;
    let all = |view: &elph_proto::view::View| {
        let members: usize = view.conferences.values().map(|conference| conference.connected_count as usize).sum();
        (view.calls.len() == SIZE.calls && members == SIZE.conferences * SIZE.members).then_some(())
    };
    watch.until("every call and member", all).await
}

/// The least of some seconds: what a moment's work holds is given back.
async fn settled(stack: &Stack) -> anyhow::Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        least = least.min(resident(stack)?);
    }
    Ok(least)
}

/// MiB.
fn resident(stack: &Stack) -> anyhow::Result<f64> {
    let pid = stack.agent.pid().context("the agent has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// Waits and tells how it goes.
async fn watched(stack: &Stack, time: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < time {
        tokio::time::sleep(Duration::from_secs(15).min(time)).await;
        progress(&format!("{:.1} MiB", resident(stack)?));
    }
    Ok(())
}

/// MiB before and after.
async fn under_load(stack: &Stack, load: Duration) -> anyhow::Result<(f64, f64)> {
    let clock = Clock::start();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut readers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let stream = subscribe(feed::channel(&stack.directory.join("grpc.sock"))).await?;
        let stream = stream.map(|frame| frame.context("a subscriber's stream failed"));
        readers.push(Reader::start(stream, Keep::Nothing, clock, stopped.clone()));
    }
    let changes = Busy::of(stack.sim.switch(), stack.domain());
    let (switch, domain) = (stack.sim.switch().clone(), stack.domain().to_owned());
    let spare: Vec<String> = switch.aliases(&domain, 2 * SIZE.calls, 2000)?;
    let ended = stopped.clone();
    let driven = tokio::task::spawn_blocking(move || {
        let between = Duration::from_secs(1) / PER_SECOND;
        let mut due = Instant::now();
        let mut pairs = spare.chunks_exact(2).cycle();
        for number in 0_usize.. {
            if *ended.borrow() {
                break;
            }
            due += between;
            feed::pause(due.saturating_duration_since(Instant::now()));
            match pairs.next() {
                Some([from, to]) if number.is_multiple_of(CALL_EVERY) => {
                    let call = busy::talk(&switch, &domain, from, to)?;
                    switch.release_call(&domain, &call)?;
                }
                _ => changes.change(clock)?,
            }
            if number.is_multiple_of(changes.round()) {
                changes.forget_noted();
            }
        }
        anyhow::Ok(())
    });
    watched(stack, WARM_UP).await?;
    let before = settled(stack).await?;
    watched(stack, load).await?;
    let after = settled(stack).await?;
    stop.send_replace(true);
    driven.await??;
    for reader in readers {
        reader.finish().await?;
    }
    Ok((before, after))
}
