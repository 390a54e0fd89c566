//! The door: nginx as elph-proxy renders it, every limit and the log on, beside a bare nginx with the same routes and beside haproxy;
//! what an idle WebSocket costs; requests that fail over reloads; and the door inside elph-server beside ours in front of it.

mod doors;
mod sockets;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use e2e::{Stack, StackOptions, guard::Authority, suite::Suite};
use nix::sys::signal::Signal;
use tokio::process::Command;

use self::doors::{Door, Files};
use crate::{
    feed::PATIENCE,
    push_rivals::scratch,
    report::{Better, Table, median, progress},
};

const RUNS: usize = 3;
/// Seconds of one run.
const SECONDS: &str = "5";
const RELOADS: u64 = 50;
const WEBSOCKETS: usize = 10_000;
/// Open files that all that takes.
const FILES: u64 = 60_000;
const NAME: &str = "localhost";
/// Ours may cost so much more than a bare nginx.
const GOAL: f64 = 0.95;
const BARE: &str = "bare nginx";

/// How a door is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// wrk: HTTP/1.1 over TLS.
    One,
    /// h2load: HTTP/2 over TLS.
    Two,
}

pub(crate) async fn run() -> anyhow::Result<Table> {
    for tool in ["/usr/sbin/nginx", "/usr/sbin/haproxy", "/usr/bin/wrk", "/usr/bin/h2load"] {
        ensure!(Path::new(tool).exists(), "{tool} is missing; packaging/dev-setup bench installs it");
    }
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    // Both ends of every WebSocket are in this process; only root may have more than the limit.
    let wanted = most.max(FILES);
    let raised = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, wanted, wanted);
    raised.with_context(|| format!("{FILES} open files are needed: ulimit -Hn {FILES}"))?;
    let place = scratch()?;
    let signed = Authority::new()?.sign(NAME)?;
    let files = Files::write(place.path(), &signed)?;
    let service = doors::service(&files).await?;
    let mut table = Table::new("edge");

    let ours = doors::ours(&files, "ours", service.address).await?;
    let bare = doors::bare(&files, service.address).await?;
    let haproxy = doors::haproxy(&files, service.address).await?;
    for load in [Load::One, Load::Two] {
        let figures = alternately(load, "/elph_chat/x", [("ours", &ours), (BARE, &bare), ("haproxy", &haproxy)]).await?;
        let [mine, plain, other] = figures;
        let case = format!("requests over {}", load.name());
        table.row(case, "1/s", Better::Higher, mine).beside(BARE, plain).beside("haproxy", other).goal(plain * GOAL);
        table.row(format!("part of a bare nginx's, {}", load.name()), "", Better::Higher, mine / plain).goal(GOAL);
    }
    drop((bare, haproxy));

    reloads(&mut table, &files, &ours, service.address).await?;
    drop(ours);
    progress(&format!("edge, {WEBSOCKETS} idle WebSockets"));
    let idle = sockets::idle_service().await?;
    let ours = doors::ours(&files, "websockets", idle).await?;
    let bare = doors::bare(&files, idle).await?;
    let (mine, plain) = (sockets::cost(&ours, WEBSOCKETS).await?, sockets::cost(&bare, WEBSOCKETS).await?);
    table.row(format!("memory for each of {WEBSOCKETS} idle WebSockets"), "KiB", Better::Lower, mine).beside(BARE, plain);
    drop((ours, bare));

    embedded(&mut table, &files).await?;
    table.note("one worker each, an nginx of one worker as the service, wrk -c 32, h2load -c 16 -m 16, all on the same cores.");
    table.note("ours has every limit (high enough to refuse nobody), both logs and all checks on; the others have none.");
    table.note("a failed request: none of its answers came, one retry on a connection that was idle allowed (that is how clients do it).");
    Ok(table)
}

/// Medians of runs in turn, so that a slow minute meets all.
async fn alternately<const N: usize>(load: Load, path: &str, doors: [(&str, &Door); N]) -> anyhow::Result<[f64; N]> {
    let mut figures = [const { Vec::new() }; N];
    for run in 1..=RUNS {
        for ((name, door), figures) in doors.iter().zip(&mut figures) {
            progress(&format!("edge, {}, run {run} of {RUNS}, {name}", load.name()));
            figures.push(load.put_on(door.address, path).await.with_context(|| format!("{name}, {}", load.name()))?);
        }
    }
    Ok(figures.map(median))
}

async fn reloads(table: &mut Table, files: &Files, ours: &Door, service: SocketAddr) -> anyhow::Result<()> {
    progress(&format!("edge, {RELOADS} reloads under load"));
    let (done, served, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let url = format!("https://{NAME}:{}/elph_chat/x", ours.address.port());
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).resolve(NAME, ours.address).timeout(PATIENCE).build()?;
    let mut tasks = Vec::new();
    for _ in 0..16 {
        let (client, url) = (client.clone(), url.clone());
        let (done, served, failed) = (done.clone(), served.clone(), failed.clone());
        tasks.push(tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let answer = client.get(&url).send().await;
                let well = answer.is_ok_and(|answer| answer.status() == 200);
                if well { &served } else { &failed }.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let metrics = ours.metrics.context("ours has metrics")?;
    let began = Instant::now();
    for reload in 1..=RELOADS {
        files.write_ours("ours", ours.address, metrics, service, 100_000 + reload)?;
        ours.signal(Signal::SIGHUP)?;
        let line = format!("elph_proxy_reloads_total{{cause=\"configuration\",outcome=\"applied\"}} {reload}\n");
        let until = Instant::now() + PATIENCE;
        while !doors::text(metrics, "/metrics").await.contains(&line) {
            ensure!(Instant::now() < until, "reload {reload} is not in force");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await?;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of requests and reloads")]
    let (failed, each) = (failed.load(Ordering::Relaxed) as f64, seconds * 1e3 / RELOADS as f64);
    let case = format!("failed of {} requests over {RELOADS} reloads", served.load(Ordering::Relaxed));
    table.row(case, "", Better::Lower, failed).goal(0.0);
    table.row("from SIGHUP until a reload is in force, under that load", "ms", Better::Lower, each);
    Ok(())
}

/// elph-server with TLS of its own beside ours in front of one without.
async fn embedded(table: &mut Table, files: &Files) -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let (one, two) = (scratch()?, scratch()?);
    let limits = "[limits]\nper_address = 1000000\nper_address_burst = 1000000\n";
    let database = |place: &Path| format!("[database]\nurl = \"sqlite:{}\"\n{limits}", place.join("suite.db").display());
    let tls = format!("[http]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n", files.certificate.display(), files.key.display());
    let own = Suite::start(&stack, &[stack.domain()], &format!("{}{tls}", database(one.path()))).await?;
    let behind = Suite::start(&stack, &[stack.domain()], &database(two.path())).await?;
    let front = doors::ours_for(files, "front", "status", behind.public()).await?;
    let inside = Door::there(own.public());
    for load in [Load::One, Load::Two] {
        let doors = [("the embedded door", &inside), ("nginx in front", &front)];
        let [mine, other] = alternately(load, "/elph_status/openapi.json", doors).await?;
        table.row(format!("the door inside elph-server, {}", load.name()), "1/s", Better::Higher, mine).beside("nginx in front", other);
    }
    drop(front);
    stack.stop().await
}

// === impl Load ===

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::One => "HTTP/1.1 and TLS",
            Self::Two => "HTTP/2 and TLS",
        }
    }

    /// Requests a second.
    async fn put_on(self, address: SocketAddr, path: &str) -> anyhow::Result<f64> {
        let url = format!("https://{NAME}:{}{path}", address.port());
        let mut command = match self {
            Self::One => Command::new("wrk"),
            Self::Two => Command::new("h2load"),
        };
        match self {
            Self::One => command.args(["-t1", "-c32", "-d", SECONDS]),
            Self::Two => command.args(["-t1", "-c16", "-m16", "-D", SECONDS, "--warm-up-time=1"]),
        };
        let output = tokio::time::timeout(PATIENCE, command.arg(&url).kill_on_drop(true).output()).await??;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (figure, clean) = match self {
            Self::One => (after(&text, "Requests/sec:"), !text.contains("Non-2xx")),
            Self::Two => {
                (between(&text, "finished in ", " req/s"), text.contains(" 0 failed, 0 errored") && text.contains(" 0 4xx, 0 5xx"))
            }
        };
        let Some(figure) = figure.filter(|_| clean && output.status.success()) else { bail!("{url}: {text}") };
        Ok(figure)
    }
}

fn after(text: &str, word: &str) -> Option<f64> {
    text.split_once(word)?.1.split_whitespace().next()?.parse().ok()
}

/// The number before the second word in the line that begins with the first.
fn between(text: &str, first: &str, second: &str) -> Option<f64> {
    text.split_once(first)?.1.split_once(second)?.0.rsplit(' ').next()?.parse().ok()
}
