//! The command line. Exit codes are sysexits(3)'s: 64 for a wrong command line or configuration, 69 for an address or socket that
//! cannot be had, 70 for a failure inside.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::{
    config::{Config, Loaded, Problem, Refused},
    lifecycle::{self, Shutdown},
    telemetry::logs,
};

/// How long blocking work may go on after everything else has ended.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(1);

/// Speaks to an ECSS-10 softswitch and offers one gRPC API for calls, conferences, directory and pushes.
#[derive(Debug, Parser)]
#[command(name = "elph-agent", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent.
    Run(ConfigFile),
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Write shell completions to standard output.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual page to standard output.
    #[command(hide = true)]
    Man,
    /// Write the table of metrics (Markdown) to standard output.
    #[command(hide = true)]
    Metrics,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with the configuration, with file, line and what is allowed.
    Check(Shown),
    /// Show the configuration in force, environment and defaults included, secrets masked.
    Dump(Shown),
    /// Show the JSON schema of the configuration.
    Schema,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, env = "ELPH_AGENT_CONFIG", default_value = "/etc/elph-agent/elph-agent.toml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Shown {
    #[command(flatten)]
    file: ConfigFile,
    /// JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to be told when standard error is closed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Run(file) => run(&file),
        Command::Config { command: ConfigCommand::Check(shown) } => check(&shown),
        Command::Config { command: ConfigCommand::Dump(shown) } => dump(&shown),
        Command::Config { command: ConfigCommand::Schema } => print(&Config::schema()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "elph-agent", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Man => {
            let mut page = Vec::new();
            match clap_mangen::Man::new(Cli::command()).render(&mut page) {
                Ok(()) => print(&String::from_utf8_lossy(&page)),
                Err(error) => complain(&error.to_string(), 70),
            }
        }
        Command::Metrics => print(&crate::telemetry::metrics::table()),
    }
}

fn run(file: &ConfigFile) -> ExitCode {
    let loaded = match Config::load(&file.config) {
        Ok(loaded) => loaded,
        Err(refused) => return complain(&refused.to_string(), 64),
    };
    let log = match logs::init(&loaded.config.log) {
        Ok(log) => log,
        Err(error) => {
            let failure = lifecycle::Failure::from(error);
            return complained(&lifecycle::told(&failure), failure.exit_code());
        }
    };
    for line in Refused::lines(&file.config.display().to_string(), &loaded.warnings) {
        tracing::warn!("{line}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("the runtime cannot be started: {error}"), 70),
    };
    let outcome = runtime.block_on(Box::pin(lifecycle::run(loaded, log, Shutdown::default())));
    runtime.shutdown_timeout(RUNTIME_DEADLINE);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = lifecycle::told(&failure);
            tracing::error!("{text}");
            complained(&text, failure.exit_code())
        }
    }
}

fn check(shown: &Shown) -> ExitCode {
    let file = shown.file.config.display().to_string();
    let (problems, warnings) = match Config::load(&shown.file.config) {
        Ok(loaded) => (Vec::new(), warnings(&loaded)),
        Err(refused) => (refused.problems, Vec::new()),
    };
    let problems = Refused::lines(&file, &problems);
    let warnings = Refused::lines(&file, &warnings);
    let code = if problems.is_empty() { 0 } else { 64 };
    if shown.json {
        let answer = serde_json::json!({ "ok": problems.is_empty(), "problems": problems, "warnings": warnings });
        print(&format!("{answer}\n"));
        return ExitCode::from(code);
    }
    for line in &warnings {
        complain(&format!("warning: {line}"), code);
    }
    if problems.is_empty() { print(&format!("{file}: ok\n")) } else { complain(&problems.join("\n"), code) }
}

/// Files that cannot be read here are warnings: the check may run on another host than the agent.
fn warnings(loaded: &Loaded) -> Vec<Problem> {
    loaded.warnings.iter().cloned().chain(loaded.unreadable()).collect()
}

fn dump(shown: &Shown) -> ExitCode {
    let config = match Config::load(&shown.file.config) {
        Ok(loaded) => loaded.config,
        Err(refused) => return complain(&refused.to_string(), 64),
    };
    let text = if shown.json {
        serde_json::to_string_pretty(&config).map(|text| text + "\n").map_err(|error| error.to_string())
    } else {
        config.to_toml().map_err(|error| error.to_string())
    };
    match text {
        Ok(text) => print(&text),
        Err(error) => complain(&format!("the configuration cannot be shown: {error}"), 70),
    }
}

/// A closed pipe (`| head`) is no failure of ours.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(74),
        _ => ExitCode::SUCCESS,
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    complained(text, ExitCode::from(code))
}

fn complained(text: &str, code: ExitCode) -> ExitCode {
    // Nobody is left to be told when standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
    code
}
