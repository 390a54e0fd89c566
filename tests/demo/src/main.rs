//! The demo: a simulated switch and the real agent with a conference to watch, or a scripted self-test of the two.

mod control;
mod live;
mod report;
mod seen;
mod selftest;
mod stage;
mod suite;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::{selftest::Outcome, stage::StageOptions};

/// Seeds whose dialects differ in every field that can differ.
const ALL_SEEDS: [u64; 3] = [0, 1, 2];
/// As a shell reports a program that SIGINT has ended.
const INTERRUPTED: u8 = 130;

/// Shows Elph at work: a simulated ECSS-10 switch, the real elph-agent and elph-server, people on the phone.
///
/// Starts the programs on free loopback ports in a private temporary directory, opens a conference in which people join, talk, ask for
/// the floor and leave, and prints what to try. Ctrl-C ends everything and removes the directory. Several can run at a time.
#[derive(Debug, Parser)]
#[command(name = "demo", version, max_term_width = 80, after_help = AFTER_HELP)]
struct Cli {
    /// Play a scripted scenario instead and check each step through gRPC and HTTP
    #[arg(long)]
    selftest: bool,
    /// Seed of the simulated switch's dialect: what it calls its commands, fields and events [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Self-test with the seeds 0, 1 and 2, one after the other
    #[arg(long, requires = "selftest", conflicts_with = "seed")]
    all_seeds: bool,
    /// Where the agent has calls from
    #[arg(long, value_name = "BACKEND", default_value = "csta")]
    calls: Calls,
    /// One JSON object per line, for programs
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Exit codes of the self-test:
  0    every step was seen through gRPC and HTTP
  1    one was not: says what was expected and what was seen, keeps the logs
  2    usage
  130  interrupted

Examples:
  make demo
  make demo ARGS=--selftest
  make demo ARGS='--selftest --all-seeds'";

/// Backends of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Calls {
    /// CSTA
    Csta,
    /// Call API
    CallApi,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup())) {
        (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) => {
            let stop = async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
            };
            run(cli, Box::pin(stop)).await
        }
        _ => {
            report::complain("signals cannot be waited for");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli, mut stop: impl Future<Output = ()> + Unpin) -> ExitCode {
    let calls = match cli.calls {
        Calls::Csta => "csta",
        Calls::CallApi => "call_api",
    };
    let one = cli.seed.unwrap_or_else(|| u64::from(rand::random::<u16>()));
    let options = |seed, phones| StageOptions { seed, calls, phones };
    if !cli.selftest {
        return live::run(options(one, live::PHONES), cli.json, stop).await;
    }
    let seeds = if cli.all_seeds { ALL_SEEDS.to_vec() } else { vec![one] };
    let mut code = ExitCode::SUCCESS;
    for seed in seeds {
        match selftest::run(options(seed, &["--no-answer"]), cli.json, &mut stop).await {
            Outcome::Passed => {}
            Outcome::Failed => code = ExitCode::FAILURE,
            Outcome::Interrupted => return ExitCode::from(INTERRUPTED),
        }
    }
    code
}
