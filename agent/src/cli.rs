//! The command line. Exit codes are sysexits(3)'s: 64 for a wrong command line or configuration, 69 for an address or socket that
//! cannot be had, 70 for a failure inside.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, CommandFactory, Parser, Subcommand};

use ecss_switch::{Dialect, Domain, link::LinkKind, link::Tap};
use elph_shell::{
    logs,
    out::{complain, complained, print, say},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Loaded, Problem, Refused, Size, Span},
    doctor, follow,
    lifecycle::{self, Shutdown},
    record::{Recorder, Recording},
    replay,
};

/// Threads that run the agent's tasks at most: it is a guest on the switch's host, however many cores that has.
const MOST_WORKERS: usize = 4;

/// How long blocking work may go on after everything else has ended.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(1);

/// What the help and the manual page end with.
const MORE: &str = "\
Files:
  /etc/elph-agent/elph-agent.toml  the configuration; 'elph-agent config schema' explains every key
  /run/elph-agent/grpc.sock        the API for local clients, such as elphctl
  /var/lib/elph-agent              the event journal and the request ids that are remembered

Environment:
  ELPH_AGENT_CONFIG         the configuration file, like --config
  ELPH_AGENT__SECTION__KEY  a single key, over the file: ELPH_AGENT__LOG__FILTER=debug

Signals of 'elph-agent run':
  SIGHUP   reads configuration and certificates again; a wrong configuration changes nothing
  SIGTERM  finishes what runs, then ends; the second one ends at once

Exit codes:
  0   all well
  1   doctor: something to mend; replay: not everything is understood
  64  the command line or the configuration is wrong
  66  the recording cannot be read
  69  an address, a socket or the log cannot be had
  70  a failure inside
  73  a file cannot be made
  74  a file cannot be written to its end";

/// Speaks to an ECSS-10 softswitch and offers one gRPC API for calls, conferences, directory and pushes.
#[derive(Debug, Parser)]
#[command(name = "elph-agent", version, propagate_version = true, after_long_help = MORE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent.
    Run(Run),
    /// Look at configuration and switch, and say what to set.
    ///
    /// Works beside the running agent, in sessions of its own that are closed afterwards, and sends only commands that read. Ends with
    /// what to set as TOML for the configuration file. Exit code 0: all well; 1: something to mend; 64: the configuration is refused.
    Doctor(DoctorArgs),
    /// Record what is exchanged with the switch, in sessions of its own.
    ///
    /// Follows every configured link and reads the lists until the time is over or Ctrl-C. Passwords, cookies and session ids are
    /// replaced. The file (JSON lines, readable by its owner alone) may hold personal numbers unless --pseudonymise is given.
    Record(RecordArgs),
    /// Read a recording again with the configured or another dialect, and say what is understood.
    ///
    /// Exit code 0: everything is understood; 1: not everything.
    Replay(ReplayArgs),
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
    /// Write the manual page to standard output, or the pages of all commands into a directory.
    #[command(hide = true)]
    Man {
        /// The directory.
        directory: Option<PathBuf>,
    },
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
struct Run {
    #[command(flatten)]
    file: ConfigFile,
    /// Record what is exchanged with the switch to this file, which must not exist.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Most bytes of that recording.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size, requires = "record")]
    record_max_size: Size,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Look at this link only: terminal, call_api or csta.
    #[arg(long, value_name = "LINK", value_parser = link)]
    only: Option<LinkKind>,
    /// Look at this node only: host:port, or a host.
    #[arg(long)]
    node: Option<String>,
    /// JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RecordArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// The file to write; it must not exist.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// How long to record.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = span)]
    time: Span,
    /// Most bytes of the file.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    max_size: Size,
    /// Replace every number of three digits and more, each always by the same other one.
    #[arg(long)]
    pseudonymise: bool,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// The recording.
    file: PathBuf,
    /// The built-in dialect to start from: documented or sim.
    #[arg(long, default_value = "documented")]
    dialect: String,
    /// A TOML file whose fields replace those of the dialect.
    #[arg(long, value_name = "FILE")]
    dialect_file: Option<PathBuf>,
    /// Take dialect and domain from this configuration instead.
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["dialect", "dialect_file"])]
    config: Option<PathBuf>,
    /// The domain that the sessions were opened for.
    #[arg(long)]
    domain: Option<String>,
    /// JSON, for programs.
    #[arg(long)]
    json: bool,
}

fn size(text: &str) -> Result<Size, String> {
    Size::parse(text).filter(|size| size.0 > 0).ok_or_else(|| "must be a size such as 64MiB".to_owned())
}

fn span(text: &str) -> Result<Span, String> {
    Span::parse(text).filter(|span| !span.0.is_zero()).ok_or_else(|| "must be a duration such as 10m".to_owned())
}

fn link(text: &str) -> Result<LinkKind, String> {
    let all = [LinkKind::Terminal, LinkKind::CallApi, LinkKind::Csta];
    all.into_iter().find(|link| link.to_string() == text).ok_or_else(|| "must be terminal, call_api or csta".to_owned())
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
        Command::Run(args) => run(&args),
        Command::Doctor(args) => examine(args),
        Command::Record(args) => record(args),
        Command::Replay(args) => replayed(&args),
        Command::Config { command: ConfigCommand::Check(shown) } => check(&shown),
        Command::Config { command: ConfigCommand::Dump(shown) } => dump(&shown),
        Command::Config { command: ConfigCommand::Schema } => print(&Config::schema()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "elph-agent", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Man { directory } => man(directory.as_deref()),
        Command::Metrics => print(&crate::telemetry::metrics::table()),
    }
}

fn examine(args: DoctorArgs) -> ExitCode {
    let loaded = match Config::load(&args.file.config) {
        Ok(loaded) => loaded,
        Err(refused) => return complain(&refused.to_string(), 64),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("the runtime cannot be started: {error}"), 70),
    };
    let scope = doctor::Scope { only: args.only, node: args.node };
    let report = runtime.block_on(doctor::run(&loaded, scope));
    runtime.shutdown_timeout(RUNTIME_DEADLINE);
    let text = match args.json {
        true => serde_json::to_string_pretty(&report).map(|text| text + "\n").unwrap_or_default(),
        false => report.text(io::stdout().is_terminal()),
    };
    let printed = print(&text);
    if report.well { printed } else { ExitCode::from(1) }
}

fn record(args: RecordArgs) -> ExitCode {
    let loaded = match Config::load(&args.file.config) {
        Ok(loaded) => loaded,
        Err(refused) => return complain(&refused.to_string(), 64),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("the runtime cannot be started: {error}"), 70),
    };
    let RecordArgs { output, time, max_size, pseudonymise, .. } = args;
    let options = follow::Options { output, time: time.0, most_bytes: max_size.0, pseudonymise };
    let told = |outcome: &crate::record::Outcome| {
        say(&format!("{} messages, {} bytes", outcome.written, outcome.bytes));
    };
    let outcome = runtime.block_on(async {
        let stop = CancellationToken::new();
        let asked = stop.clone();
        tokio::spawn(async move {
            let term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            if let Ok(mut term) = term {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = term.recv() => {}
                }
                asked.cancel();
            }
        });
        follow::run(&loaded.config, &options, stop, told).await
    });
    runtime.shutdown_timeout(RUNTIME_DEADLINE);
    match outcome {
        Ok(outcome) => {
            let file = options.output.display();
            say(&format!("{file}: {} messages, {} bytes", outcome.written, outcome.bytes));
            if outcome.left_out > 0 {
                say("the file is full: what came later is not in it");
            }
            match options.pseudonymise {
                true => say("numbers are replaced; names and texts may still be personal"),
                false => say("it may hold personal numbers; --pseudonymise replaces them"),
            }
            match outcome.failed {
                Some(error) => complain(&format!("{file}: {error}"), 74),
                None => ExitCode::SUCCESS,
            }
        }
        Err(error @ follow::RecordError::Config(_)) => complain(&error.to_string(), 64),
        Err(error) => complain(&error.to_string(), 73),
    }
}

fn replayed(args: &ReplayArgs) -> ExitCode {
    let recording = match Recording::read(&args.file) {
        Ok(recording) => recording,
        Err(error) => return complain(&format!("{}: {error}", args.file.display()), 66),
    };
    let (dialect, configured) = match dialect_of(args) {
        Ok(found) => found,
        Err(what) => return complain(&what, 64),
    };
    let domain = args.domain.as_deref().map(Domain::parse).transpose();
    let domain = match domain.map(|domain| domain.or(configured).map_or_else(|| Domain::parse("unknown.local"), Ok)) {
        Ok(Ok(domain)) => domain,
        Ok(Err(error)) | Err(error) => return complain(&format!("--domain: {error}"), 64),
    };
    let summary = replay::run(&recording, &Arc::new(dialect), &domain);
    let text = match args.json {
        true => serde_json::to_string_pretty(&summary).map(|text| text + "\n").unwrap_or_default(),
        false => summary.text(),
    };
    let printed = print(&text);
    if summary.is_whole() { printed } else { ExitCode::from(1) }
}

fn dialect_of(args: &ReplayArgs) -> Result<(Dialect, Option<Domain>), String> {
    if let Some(path) = &args.config {
        let loaded = Config::load(path).map_err(|refused| refused.to_string())?;
        let dialect = loaded.config.switch.dialect().map_err(|problem| format!("{}: {}", problem.key, problem.what))?;
        return Ok((dialect, loaded.config.switch.domains.first().map(|domain| domain.name.clone())));
    }
    let mut overrides = toml::Table::new();
    if let Some(path) = &args.dialect_file {
        let text = crate::config::read_bounded(path, 1 << 20)?;
        let text = String::from_utf8(text).map_err(|_| format!("{} is no UTF-8 text", path.display()))?;
        overrides = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok((Dialect::with_overrides(&args.dialect, &overrides).map_err(|error| error.to_string())?, None))
}

fn run(args: &Run) -> ExitCode {
    let file = &args.file;
    let loaded = match Config::load(&file.config) {
        Ok(loaded) => loaded,
        Err(refused) => return complain(&refused.to_string(), 64),
    };
    let log = match logs::init("elph-agent", &loaded.config.log) {
        Ok(log) => log,
        Err(error) => {
            let failure = lifecycle::Failure::from(error);
            return complained(&lifecycle::told(&failure), failure.exit_code());
        }
    };
    for line in Refused::lines(&file.config.display().to_string(), &loaded.warnings) {
        tracing::warn!("{line}");
    }
    let workers = std::thread::available_parallelism().map_or(MOST_WORKERS, std::num::NonZero::get).min(MOST_WORKERS);
    let recorder = match args.record.as_ref().map(|path| (path, Recorder::create(path, args.record_max_size.0))) {
        None => None,
        Some((_, Ok(recorder))) => Some(Arc::new(recorder)),
        Some((path, Err(error))) => return complain(&format!("{}: {error}", path.display()), 73),
    };
    let tap = recorder.clone().map(|recorder| recorder as Arc<dyn Tap>);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("the runtime cannot be started: {error}"), 70),
    };
    let outcome = runtime.block_on(Box::pin(lifecycle::run(loaded, log, Shutdown::default(), tap)));
    runtime.shutdown_timeout(RUNTIME_DEADLINE);
    if let Some(recorder) = recorder {
        match recorder.finish() {
            Ok(outcome) => tracing::info!(messages = outcome.written, bytes = outcome.bytes, left_out = outcome.left_out, "recorded"),
            Err(error) => tracing::error!(%error, "the recording may not be whole"),
        }
    }
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
        Ok(loaded) => (loaded.wrong_files(), warnings(&loaded)),
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

fn man(directory: Option<&Path>) -> ExitCode {
    // The pages refer to each other; there is none of `help`.
    let command = Cli::command().disable_help_subcommand(true);
    if let Some(directory) = directory {
        return match fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&format!("{}: {error}", directory.display()), 73),
        };
    }
    let mut page = Vec::new();
    match clap_mangen::Man::new(command).render(&mut page) {
        Ok(()) => print(&String::from_utf8_lossy(&page)),
        Err(error) => complain(&error.to_string(), 70),
    }
}
