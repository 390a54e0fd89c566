//! The simulated switch as a program.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use ssw_core::Answer;
use ssw_sim::{Credentials, Ports, Sim, SimDialect, SimOptions, load::LoadOptions};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A simulated ECSS-10 softswitch: HTTP terminal, Call API and CSTA in front of one in-memory switch.
///
/// Prints its seed, its addresses and where to look further; `GET /` on the control port explains the control API.
/// Log level: RUST_LOG (default `info`).
#[derive(Debug, Parser)]
#[command(name = "ssw-sim", version)]
struct Cli {
    /// Seed of the dialect and of every random choice; random if absent. 0 = the dialect that agents have built in as `sim`.
    #[arg(long, env = "SSW_SIM_SEED")]
    seed: Option<u64>,
    /// A domain; may be given several times.
    #[arg(long = "domain", default_value = "elph.local")]
    domains: Vec<String>,
    /// Aliases of each domain (0 to 100,000): 1001… for up to 8,999, 100001… for more.
    #[arg(long, default_value_t = 100)]
    aliases: u32,
    /// Switch nodes: each has ports of its own (100 above the one before) and its own sessions; all share one state.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// The three protocols speak TLS with a certificate of the simulator's own authority.
    #[arg(long)]
    tls: bool,
    /// Where to write the authority's certificate (PEM) with --tls; a temporary file if absent.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port of the HTTP terminal; 0 = any free one.
    #[arg(long, default_value_t = 9999)]
    terminal_port: u16,
    /// Port of the Call API; 0 = any free one.
    #[arg(long, default_value_t = 8086)]
    call_api_port: u16,
    /// Port of CSTA; 0 = any free one.
    #[arg(long, default_value_t = 4721)]
    csta_port: u16,
    /// Port of the control API; 0 = any free one.
    #[arg(long, default_value_t = 8900)]
    control_port: u16,
    /// Login of the terminal and the Call API.
    #[arg(long, default_value = "admin")]
    user: String,
    /// Its password.
    #[arg(long, default_value = "password", env = "SSW_SIM_PASSWORD", hide_env_values = true)]
    password: String,
    /// CSTA's password, the same for every domain.
    #[arg(long, default_value = "1234", env = "SSW_SIM_CSTA_PASSWORD", hide_env_values = true)]
    csta_password: String,
    /// Milliseconds after which phones answer by themselves.
    #[arg(long, default_value_t = 800, conflicts_with = "no_answer")]
    answer_after_ms: u32,
    /// Phones ring until someone acts (through the control API or a protocol).
    #[arg(long)]
    no_answer: bool,
    /// Seconds that phones ring.
    #[arg(long, default_value_t = 30)]
    ring_seconds: u64,
    /// Seconds after which an unused session of the terminal expires.
    #[arg(long, default_value_t = 300)]
    session_idle_seconds: u32,
    /// Load: new calls per second, in all domains together.
    #[arg(long, default_value_t = 0.0)]
    calls_per_second: f64,
    /// Load: milliseconds that a call of --calls-per-second talks.
    #[arg(long, default_value_t = 1000)]
    talk_ms: u64,
    /// Load: calls that talk all the time.
    #[arg(long, default_value_t = 0)]
    calls: usize,
    /// Load: conferences that run all the time.
    #[arg(long, default_value_t = 0)]
    conferences: usize,
    /// Load: members of each of them.
    #[arg(long, default_value_t = 10)]
    conference_size: usize,
    /// Load: nobody talks, comes or goes in the conferences.
    #[arg(long)]
    quiet_conferences: bool,
    /// Write the dialect here (TOML: overrides of an agent's built-in `sim`).
    #[arg(long, value_name = "FILE")]
    dialect_out: Option<PathBuf>,
    /// Write seed and addresses here (JSON), whole, once everything listens.
    #[arg(long, value_name = "FILE")]
    ports_file: Option<PathBuf>,
    /// Print the dialect of the seed and end.
    #[arg(long, requires = "seed")]
    print_dialect: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if cli.print_dialect {
        say(&SimDialect::from_seed(cli.seed.unwrap_or_default()).to_toml());
        return Ok(());
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let sim = Sim::start(options(&cli)).await?;
    if let Some(file) = &cli.dialect_out {
        write_whole(file, &sim.dialect_toml()).await?;
    }
    if let Some(file) = &cli.ports_file {
        write_whole(file, &format!("{:#}\n", sim.ports_json())).await?;
    }
    say(&summary(&sim));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    sim.shutdown().await;
    Ok(())
}

fn options(cli: &Cli) -> SimOptions {
    SimOptions {
        seed: cli.seed,
        domains: cli.domains.clone(),
        aliases: cli.aliases,
        nodes: cli.nodes,
        tls: cli.tls,
        ca_file: cli.ca_file.clone(),
        host: cli.host,
        ports: Ports { terminal: cli.terminal_port, call_api: cli.call_api_port, csta: cli.csta_port, control: cli.control_port },
        answer: if cli.no_answer { Answer::Never } else { Answer::After { ms: cli.answer_after_ms } },
        ring_time: Duration::from_secs(cli.ring_seconds),
        session_idle_s: cli.session_idle_seconds,
        credentials: Credentials { user: cli.user.clone(), password: cli.password.clone(), csta_password: cli.csta_password.clone() },
        load: LoadOptions {
            calls_per_second: cli.calls_per_second,
            talk: Duration::from_millis(cli.talk_ms),
            calls: cli.calls,
            conferences: cli.conferences,
            conference_size: cli.conference_size,
            churn: !cli.quiet_conferences,
            ..LoadOptions::default()
        },
    }
}

fn summary(sim: &Sim) -> String {
    let mut text = format!("simulated switch, seed {}\n", sim.seed());
    for (number, node) in sim.nodes().iter().enumerate() {
        text.push_str(&format!("  node {number}: terminal {}, call api {}, csta {}\n", node.terminal, node.call_api, node.csta));
    }
    if let Some((path, _)) = sim.ca() {
        text.push_str(&format!("  tls: authority's certificate in {}\n", path.display()));
    }
    text.push_str(&format!("  control: http://{}/", sim.control()));
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
