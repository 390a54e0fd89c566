//! The simulated push services as a program.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use push_sim::{Device, Environment, FirstToken, Options, Ports, Provider, PushSim, Record, TokenUpdates};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Simulated push services: Apple's APNs, Google's FCM v1 with its token endpoint, and web push.
///
/// Prints its seed, its addresses and where to look further; `GET /` on the control port explains the control API.
/// Log level: RUST_LOG (default `info`).
#[derive(Debug, Parser)]
#[command(name = "push-sim", version)]
struct Cli {
    /// Seed of made-up ids and of the team's id; random if absent.
    #[arg(long, env = "PUSH_SIM_SEED")]
    seed: Option<u64>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port of APNs; 0 = any free one.
    #[arg(long, default_value_t = 2197)]
    apns_port: u16,
    /// Port of FCM and its token endpoint; 0 = any free one.
    #[arg(long, default_value_t = 8911)]
    fcm_port: u16,
    /// Port of web push; 0 = any free one.
    #[arg(long, default_value_t = 8912)]
    web_push_port: u16,
    /// Port of the control API; 0 = any free one.
    #[arg(long, default_value_t = 8910)]
    control_port: u16,
    /// What is kept of requests.
    #[arg(long, value_enum, default_value = "all")]
    record: RecordArg,
    /// How many requests are kept at most.
    #[arg(long, default_value_t = 100_000)]
    keep: usize,
    /// Milliseconds that every answer to a push takes.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Bundle id that the team may push to; may be given several times.
    #[arg(long = "topic", default_value = "org.elph.phone")]
    topics: Vec<String>,
    /// This is Apple's sandbox.
    #[arg(long)]
    sandbox: bool,
    /// What a token-authenticated APNs connection may do before its first valid provider token.
    #[arg(long, value_enum, default_value = "refuse")]
    first_token: FirstTokenArg,
    /// SETTINGS_MAX_CONCURRENT_STREAMS of APNs.
    #[arg(long, default_value_t = 1000)]
    max_streams: u32,
    /// Where provider tokens that are renewed too early are refused.
    #[arg(long, value_enum, default_value = "per-connection")]
    token_updates: TokenUpdatesArg,
    /// Google project of the service account.
    #[arg(long, default_value = "elph-demo")]
    project: String,
    /// Seconds that Google's access tokens are good.
    #[arg(long, default_value_t = 3599)]
    access_token_seconds: u64,
    /// A device: apns:TOKEN, apns:TOKEN:TOPIC or fcm:TOKEN; may be given several times.
    #[arg(long = "device", value_name = "DEVICE", value_parser = device)]
    devices: Vec<Device>,
    /// Accept device tokens that nobody registered, if they have the right form.
    #[arg(long)]
    accept_unknown_devices: bool,
    /// Write keys, certificates and the service account here.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Write seed, addresses and names here (JSON), whole, once everything listens.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Threads; 1 leaves the other cores to what is measured.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RecordArg {
    /// Not even counters.
    None,
    /// Counters alone.
    Count,
    /// Each request.
    All,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FirstTokenArg {
    /// One stream; a second one is refused and counted.
    Refuse,
    /// One stream; a second one is counted and served.
    Count,
    /// As many streams as ever.
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TokenUpdatesArg {
    /// Within a connection.
    PerConnection,
    /// Over all connections of a key.
    PerKey,
    /// Nowhere.
    Off,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match cli.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        threads => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    };
    runtime.context("start the runtime")?.block_on(run(cli))
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let sim = PushSim::start(options(&cli)).await?;
    for device in &cli.devices {
        sim.add_device(device.clone());
    }
    if let Some(file) = &cli.ready_file {
        let mut ready = sim.ready_json();
        if let (Some(members), Some(directory)) = (ready.as_object_mut(), &cli.directory) {
            members.insert("directory".to_owned(), directory.display().to_string().into());
        }
        write_whole(file, &format!("{ready:#}\n")).await?;
    }
    say(&summary(&sim, &cli));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    sim.shutdown().await;
    Ok(())
}

fn options(cli: &Cli) -> Options {
    Options {
        seed: cli.seed,
        host: cli.host,
        ports: Ports { apns: cli.apns_port, fcm: cli.fcm_port, web_push: cli.web_push_port, control: cli.control_port },
        record: match cli.record {
            RecordArg::None => Record::None,
            RecordArg::Count => Record::Count,
            RecordArg::All => Record::All,
        },
        keep: cli.keep,
        delay: Duration::from_millis(cli.delay_ms),
        accept_unknown_devices: cli.accept_unknown_devices,
        topics: cli.topics.clone(),
        environment: if cli.sandbox { Environment::Sandbox } else { Environment::Production },
        first_token: match cli.first_token {
            FirstTokenArg::Refuse => FirstToken::Refuse,
            FirstTokenArg::Count => FirstToken::Count,
            FirstTokenArg::Off => FirstToken::Off,
        },
        max_streams: cli.max_streams,
        token_updates: match cli.token_updates {
            TokenUpdatesArg::PerConnection => TokenUpdates::PerConnection,
            TokenUpdatesArg::PerKey => TokenUpdates::PerKey,
            TokenUpdatesArg::Off => TokenUpdates::Off,
        },
        project: cli.project.clone(),
        fcm_token_lifetime: Duration::from_secs(cli.access_token_seconds),
        directory: cli.directory.clone(),
    }
}

/// `apns:TOKEN`, `apns:TOKEN:TOPIC` or `fcm:TOKEN` (which may have colons).
fn device(text: &str) -> Result<Device, String> {
    match text.split_once(':') {
        Some(("apns", rest)) => Ok(match rest.split_once(':') {
            Some((token, topic)) => Device::apns(token).topic(topic),
            None => Device::apns(rest),
        }),
        Some(("fcm", token)) => Ok(Device { provider: Provider::Fcm, ..Device::fcm(token) }),
        _ => Err("a device is apns:TOKEN, apns:TOKEN:TOPIC or fcm:TOKEN".to_owned()),
    }
}

fn summary(sim: &PushSim, cli: &Cli) -> String {
    let (addresses, team) = (sim.addresses(), sim.team());
    let mut text = format!("simulated push services, seed {}\n", sim.seed());
    text.push_str(&format!("  apns: {} (team {}, key {})\n", addresses.apns, team.team_id, team.key_id));
    text.push_str(&format!("  fcm: {}, tokens from {}\n", sim.fcm_url(), sim.token_url()));
    text.push_str(&format!("  web push: https://{}/push/…\n", addresses.web_push));
    if let Some(directory) = &cli.directory {
        text.push_str(&format!("  keys, certificates and accounts in {}\n", directory.display()));
    }
    text.push_str(&format!("  control: http://{}/", addresses.control));
    text
}

#[expect(clippy::print_stdout, reason = "a program's output")]
fn say(text: &str) {
    println!("{text}");
}

/// Written beside and renamed, so that a reader sees all of it or nothing.
async fn write_whole(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    tokio::fs::write(&part, text).await.with_context(|| format!("write {}", part.display()))?;
    tokio::fs::rename(&part, file).await.with_context(|| format!("write {}", file.display()))
}
