//! Resident memory of the agent with a million devices and a hundred thousand waiting pushes, and how soon it is ready after a crash.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use e2e::{Agent, Stack};
use jiff::Timestamp;
use push_core::{AppName, Environment, Provider, Token, UserId};
use push_registry::{NewDevice, Options, Registry};

use crate::{
    push_latency::{fill, stack, waiting},
    push_rivals::scratch,
    report::{Better, Table, median, progress},
};

const DEVICES: u64 = 1_000_000;
/// Of one import.
const BATCH: u64 = 25_000;
const QUEUED: u64 = 100_000;
/// More, since some are under way.
const SLACK: u64 = 10_000;
const CRASHES: usize = 3;
const TOKEN: usize = 160;
const APP: &str = "android";
const DOMAIN: &str = "elph.local";
/// The provider's answers take longer than the run.
const SLOW: Duration = Duration::from_secs(8);

pub(crate) async fn run() -> anyhow::Result<Table> {
    let push = scratch()?;
    let began = Instant::now();
    import(&push.path().join("devices")).await?;
    progress(&format!("push_memory, {DEVICES} devices imported in {:.1} s", began.elapsed().as_secs_f64()));
    let (providers, mut running, _keep) = stack("", Some(push)).await?;
    providers.sim.set_delay(SLOW);
    let registered = devices(&running).await?;
    if registered != DEVICES {
        bail!("the agent knows {registered} devices");
    }
    let before = settled(&running).await?;
    progress(&format!("push_memory, {before:.1} MiB with the devices"));
    fill(&running, QUEUED + SLACK, |number| alias(number * (DEVICES / (QUEUED + SLACK)))).await?;
    let full = settled(&running).await?;
    let waits = waiting(&running, APP).await?;
    if waits < QUEUED as f64 {
        bail!("only {waits} pushes wait");
    }
    progress(&format!("push_memory, {full:.1} MiB with {waits} pushes waiting"));
    let (mut ready, mut recovered) = (Vec::new(), Vec::new());
    for _ in 0..CRASHES {
        let stack = &mut running.0;
        let waited = waiting(stack, APP).await?;
        stack.agent.kill().await?;
        let began = Instant::now();
        stack.agent = Agent::start(&stack.directory).await?;
        stack.ready().await?;
        ready.push(began.elapsed().as_secs_f64());
        let waits = waiting(stack, APP).await?;
        progress(&format!("push_memory, ready after {:.2} s, {waits} of {waited} pushes wait", began.elapsed().as_secs_f64()));
        if waits < 0.9 * waited {
            bail!("{waits} of {waited} pushes wait after the crash");
        }
        recovered.push(settled(stack).await?);
    }
    running.kill().await?;
    let mut table = Table::new("push_memory");
    table.row("1,000,000 devices registered", "MiB", Better::Lower, before);
    table.row("1,000,000 devices registered, 100,000 pushes queued", "MiB", Better::Lower, full).goal(128.0);
    table.row("the same after kill -9 and start", "MiB", Better::Lower, median(recovered)).goal(128.0);
    table.row("kill -9 with that queue, start to ready", "s", Better::Lower, median(ready)).goal(2.0);
    table
        .note(format!("VmRSS of the release agent, the least of some seconds; tokens of {TOKEN} characters; medians of {CRASHES} crashes"));
    table.note(format!(
        "the provider answers after {} s: all places under way are taken, more than 100,000 pushes wait behind",
        SLOW.as_secs()
    ));
    Ok(table)
}

/// A token like FCM's, different for each number.
fn token(number: u64) -> anyhow::Result<Token> {
    let mut text = format!("{number:08x}:APA91b");
    let mut state = number;
    while text.len() < TOKEN {
        // splitmix64: neighbours share nothing that could be packed together
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        text.push_str(&format!("{:016x}", mixed ^ (mixed >> 31)));
    }
    text.truncate(TOKEN);
    Token::parse(Provider::Fcm, &text).map_err(anyhow::Error::msg)
}

fn alias(number: u64) -> String {
    format!("{number:07}")
}

async fn import(directory: &Path) -> anyhow::Result<()> {
    let registry = Registry::open(directory, Options::default())?;
    let app = AppName::parse(APP)?;
    for first in (0..DEVICES).step_by(usize::try_from(BATCH)?) {
        let device = |number: u64| {
            anyhow::Ok(NewDevice {
                user: UserId { domain: DOMAIN.into(), alias: alias(number).into() },
                app: app.clone(),
                provider: Provider::Fcm,
                token: token(number)?,
                environment: Environment::Production,
                web_keys: None,
                platform: "android".to_owned(),
                locale: "ru-RU".to_owned(),
                label: format!("Pixel {number}"),
                wants_calls: true,
                wants_messages: true,
                now: Timestamp::now(),
            })
        };
        registry.import((first..first + BATCH).map(device).collect::<anyhow::Result<Vec<_>>>()?).await?;
    }
    registry.close().await;
    Ok(())
}

async fn devices(stack: &Stack) -> anyhow::Result<u64> {
    let apps = stack.push().list_apps(elph_proto::v1::ListAppsRequest::default()).await?.into_inner().apps;
    Ok(apps.iter().map(|app| app.devices).sum())
}

/// MiB: the least of some seconds, for what a moment's work holds is given back.
async fn settled(stack: &Stack) -> anyhow::Result<f64> {
    let pid = stack.agent.pid().context("the agent has ended")?;
    let mut least = f64::INFINITY;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        least = least.min(kib / 1024.0);
    }
    Ok(least)
}
