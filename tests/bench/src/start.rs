//! From the start of the process to ready, and from a restart of the switch to a model that equals it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use e2e::{StackOptions, Watch};
use elph_proto::{v1, view::View};
use ssw_core::{LegState, Switch};
use ssw_sim::{Sim, SimOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use crate::{
    busy::{self, Size},
    feed::PATIENCE,
    report::{Better, Table, median, progress},
};

const RUNS: usize = 5;
const RESYNCS: usize = 3;
const SIZE: Size = Size { aliases: 10_000, calls: 1000, conferences: 100, members: 50 };
/// While the links are down so many calls end, as many begin, and one member leaves each conference.
const UNSEEN: usize = 50;

pub(crate) async fn run() -> anyhow::Result<Table> {
    let mut table = Table::new("start");
    starts(&mut table).await?;
    let mut times = Vec::new();
    for run in 1..=RESYNCS {
        progress(&format!("start, resync {run} of {RESYNCS}"));
        times.push(resync().await?);
    }
    let row = table.row("switch restart to equal model, 1,000 calls and 100 conferences of 50", "s", Better::Lower, median(times));
    row.goal(2.0);
    table
        .note(format!("medians of {RUNS} starts and {RESYNCS} restarts of the switch; it has 10,000 subscribers, all monitored over CSTA"));
    table.note(format!("restart: the switch keeps its state and all links break; while they are down {UNSEEN} calls end, {UNSEEN} begin"));
    table.note("and a member leaves each conference; the end is when a subscriber's view has every call, leg and member of the switch");
    Ok(table)
}

async fn starts(table: &mut Table) -> anyhow::Result<()> {
    let options = SimOptions { aliases: SIZE.aliases, ..SimOptions::default() };
    let sim = Sim::start(options.clone()).await?;
    let keep = tempfile::tempdir()?;
    let directory = keep.path();
    let http = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let extra = format!("[http]\nlisten = \"{http}\"\n");
    let options = StackOptions { sim: options, extra, ..StackOptions::default() };
    std::fs::write(directory.join("dialect.toml"), sim.dialect_toml())?;
    std::fs::write(directory.join("agent.toml"), e2e::config(&sim, &options, directory)?)?;

    progress("start, without a journal");
    let (mut ready, mut known) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        // A directory may be missing.
        let _ = std::fs::remove_dir_all(directory.join("journal"));
        let (to_ready, to_known) = started(directory, http, Duration::ZERO).await?;
        ready.push(to_ready);
        known.push(to_known);
    }
    table.row("start to ready, no journal yet", "s", Better::Lower, median(ready)).goal(0.5);
    table.row("start to 10,000 subscribers known", "s", Better::Lower, median(known));

    progress("start, with a journal of 1,000 calls and 100 conferences of 50");
    busy::furnish(sim.switch(), "elph.local", SIZE)?;
    // The first of these fills the journal.
    started(directory, http, Duration::from_secs(3)).await?;
    let mut ready = Vec::new();
    for _ in 0..RUNS {
        ready.push(started(directory, http, Duration::from_millis(500)).await?.0);
    }
    table.row("start to ready, journal of 1,000 calls and 100 conferences of 50", "s", Better::Lower, median(ready)).goal(0.5);
    sim.shutdown().await;
    Ok(())
}

/// Seconds to ready and until the subscribers have been read; lets it run on for a while, then kills it.
async fn started(directory: &Path, http: SocketAddr, stay: Duration) -> anyhow::Result<(f64, f64)> {
    let log = directory.join("agent.log");
    let file = std::fs::File::create(&log)?;
    let mut command = Command::new(e2e::binary("elph-agent")?);
    command.arg("run").arg("--config").arg(directory.join("agent.toml")).env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
    let began = Instant::now();
    let mut child = command.spawn()?;
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    let (mut ready, mut known) = (None, None);
    while ready.is_none() || known.is_none() {
        if ready.is_none() && is_ready(http).await {
            ready = Some(began.elapsed().as_secs_f64());
        }
        if ready.is_some() && told().contains("subscribers read") {
            known = Some(began.elapsed().as_secs_f64());
        }
        if began.elapsed() > PATIENCE || child.try_wait()?.is_some() {
            bail!("the agent did not start; its log:\n{}", told());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(stay).await;
    child.kill().await?;
    ready.zip(known).context("not ready")
}

async fn is_ready(http: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(http).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split(' ').nth(1).map(|status| status == "200")
    };
    tokio::time::timeout(Duration::from_secs(1), ask).await.ok().flatten().unwrap_or(false)
}

/// Seconds.
async fn resync() -> anyhow::Result<f64> {
    let stack = busy::stack(SIZE.aliases).await?;
    busy::furnish(stack.sim.switch(), stack.domain(), SIZE)?;
    let mut watch = stack.watch().await?;
    let (switch, domain) = (stack.sim.switch().clone(), stack.domain().to_owned());
    until_equal(&mut watch, &State::of_switch(&switch, &domain)).await.context("before the restart")?;
    // Monitors are set one after another; the restart comes when all is quiet.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let began = Instant::now();
    stack.sim.restart(true);
    unseen(&switch, &domain)?;
    let wanted = State::of_switch(&switch, &domain);
    until_equal(&mut watch, &wanted).await?;
    let took = began.elapsed().as_secs_f64();
    drop(watch);
    stack.stop().await?;
    Ok(took)
}

fn unseen(switch: &Switch, domain: &str) -> anyhow::Result<()> {
    for call in switch.calls(Some(domain)).into_iter().take(UNSEEN) {
        switch.release_call(domain, &call.id)?;
    }
    let aliases = switch.aliases(domain, 2 * SIZE.calls, 2 * UNSEEN)?;
    for pair in aliases.chunks_exact(2) {
        if let [from, to] = pair {
            busy::talk(switch, domain, from, to)?;
        }
    }
    for conference in switch.conferences(Some(domain)) {
        let last = conference.members.last().context("an empty conference")?;
        switch.leave(domain, &conference.id, &last.id)?;
    }
    Ok(())
}

/// What must be equal: the legs that talk of each call, the members of each conference.
#[derive(PartialEq, Eq)]
struct State {
    calls: BTreeMap<String, BTreeSet<String>>,
    conferences: BTreeMap<String, BTreeSet<String>>,
}

impl State {
    fn of_switch(switch: &Switch, domain: &str) -> Self {
        let calls = switch.calls(Some(domain)).into_iter().map(|call| {
            let talking = call.legs.into_iter().filter(|leg| leg.state == LegState::Connected).map(|leg| leg.device);
            (call.id, talking.collect())
        });
        let conferences = switch.conferences(Some(domain)).into_iter();
        let conferences = conferences.map(|it| (it.id, it.members.into_iter().map(|member| member.id).collect()));
        Self { calls: calls.collect(), conferences: conferences.collect() }
    }

    fn of_view(view: &View) -> Self {
        let talks = |leg: &&v1::Leg| leg.state() == v1::LegState::Connected;
        let calls = view.calls.values().map(|call| {
            let talking = call.legs.iter().filter(talks).map(|leg| leg.device.clone());
            (call.switch_call_id.clone(), talking.collect())
        });
        let conferences = view.conferences.values();
        let conferences =
            conferences.map(|it| (it.switch_conference_id.clone(), it.participants.iter().map(|member| member.id.clone()).collect()));
        Self { calls: calls.collect(), conferences: conferences.collect() }
    }
}

async fn until_equal(watch: &mut Watch, wanted: &State) -> anyhow::Result<()> {
    const LOOK: Duration = Duration::from_millis(10);
    let began = Instant::now();
    while State::of_view(&watch.view) != *wanted {
        if began.elapsed() > PATIENCE {
            bail!("the model does not equal the switch");
        }
        let look = Instant::now() + LOOK;
        // The look is due even if nothing comes.
        while let Ok(read) = tokio::time::timeout(look.saturating_duration_since(Instant::now()), watch.read()).await {
            read?;
            if Instant::now() >= look {
                break;
            }
        }
        watch.messages.clear();
    }
    Ok(())
}
