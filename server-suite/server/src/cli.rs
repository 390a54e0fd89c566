//! The command line. Exit codes are sysexits(3)'s.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use elph_shell::{
    config::Refused,
    logs,
    out::{complain, print},
    told,
};

use crate::{
    accounts::{self, AccountsCommand},
    bus::{self, BusCommand},
    config::{Config, Loaded},
    doctor,
    run::{self, Failure},
    sso::{self, SsoCommand},
};

/// How long blocking work may go on after everything else has ended.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(1);

/// What the help ends with.
const MORE: &str = "\
Files:
  /etc/elph-server/elph-server.toml  the configuration; 'elph-server config schema' explains every key
  /var/lib/elph-server               the SQLite file, unless [database] names a PostgreSQL

Environment:
  ELPH_SERVER_CONFIG         the configuration file, like --config
  ELPH_SERVER__SECTION__KEY  a single key, over the file: ELPH_SERVER__LOG__FILTER=debug

Signals of 'elph-server run':
  SIGHUP   reads certificates and the log's filter again; what is wrong changes nothing
  SIGTERM  finishes what runs, then ends; the second one ends at once

Exit codes:
  0   all well
  1   doctor: something to mend
  64  the command line or the configuration is wrong
  69  the database, an address or the log cannot be had
  70  a failure inside
  74  the output cannot be written";

/// The services of Elph: one program, one service or all of them.
#[derive(Debug, Parser)]
#[command(name = "elph-server", version, propagate_version = true, after_long_help = MORE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run services.
    Run {
        #[command(flatten)]
        file: ConfigFile,
        /// Which: all, or names with commas between.
        #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
        target: Vec<Target>,
    },
    /// Look at configuration, database, agents, issuers and clock, and say what to mend. Changes nothing.
    Doctor(Shown),
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Look after the database.
    Db {
        #[command(subcommand)]
        command: DbCommand,
    },
    /// Look after events between services.
    Bus {
        #[command(flatten)]
        file: ConfigFile,
        #[command(subcommand)]
        command: BusCommand,
    },
    /// Help somebody who cannot sign in or out.
    Sso {
        #[command(flatten)]
        file: ConfigFile,
        #[command(subcommand)]
        command: SsoCommand,
    },
    /// Look after the local accounts of the SSO.
    Accounts {
        #[command(flatten)]
        file: ConfigFile,
        #[command(subcommand)]
        command: AccountsCommand,
    },
    /// Show a service's OpenAPI document.
    Openapi {
        /// Which.
        #[arg(value_enum)]
        service: Target,
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

#[derive(Debug, Subcommand)]
enum DbCommand {
    /// Bring all tables up to date. `run` does so as well; this is for who wants to do it at a time of their own.
    Migrate(ConfigFile),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, env = "ELPH_SERVER_CONFIG", default_value = "/etc/elph-server/elph-server.toml", global = true)]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Shown {
    #[command(flatten)]
    file: ConfigFile,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// All of them.
    All,
    /// Who somebody is: the OpenID Connect provider.
    Sso,
    /// Who is there, away, in a call.
    Status,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 64 } else { 0 };
            // Nobody is left to be told when the stream is closed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match cli.command {
        Command::Run { file, target } => serve(&file, &target),
        Command::Doctor(shown) => look(&shown),
        Command::Config { command: ConfigCommand::Check(shown) } => check(&shown),
        Command::Config { command: ConfigCommand::Dump(shown) } => dump(&shown),
        Command::Config { command: ConfigCommand::Schema } => print(&Config::schema()),
        Command::Db { command: DbCommand::Migrate(file) } => migrate(&file),
        Command::Accounts { file, command } => see_to_accounts(&file, command),
        Command::Bus { file, command } => match (load(&file), runtime()) {
            (Ok(loaded), Ok(runtime)) => bus::run(&loaded, &runtime, &command),
            (Err(code), _) | (_, Err(code)) => code,
        },
        Command::Sso { file, command } => match (load(&file), runtime()) {
            (Ok(loaded), Ok(runtime)) => sso::run(&loaded, &runtime, &command),
            (Err(code), _) | (_, Err(code)) => code,
        },
        Command::Openapi { service } => openapi(service),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "elph-server", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Man => {
            let mut page = Vec::new();
            match clap_mangen::Man::new(Cli::command()).render(&mut page) {
                Ok(()) => print(&String::from_utf8_lossy(&page)),
                Err(error) => complain(&error.to_string(), 70),
            }
        }
    }
}

fn load(file: &ConfigFile) -> Result<Loaded, ExitCode> {
    Config::load(&file.config).map_err(|refused| complain(&refused.to_string(), 64))
}

fn runtime() -> Result<tokio::runtime::Runtime, ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| complain(&format!("the runtime cannot be started: {error}"), 70))
}

fn serve(file: &ConfigFile, targets: &[Target]) -> ExitCode {
    let (loaded, runtime) = match (load(file), runtime()) {
        (Ok(loaded), Ok(runtime)) => (loaded, runtime),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let log = match logs::init("elph-server", &loaded.config.log) {
        Ok(log) => log,
        Err(error) => return failed(&Failure::from(error)),
    };
    for line in Refused::lines(&file.config.display().to_string(), &loaded.warnings) {
        tracing::warn!("{line}");
    }
    let outcome = runtime.block_on(Box::pin(run::run(loaded, log, targets)));
    runtime.shutdown_timeout(RUNTIME_DEADLINE);
    outcome.map_or_else(|failure| failed(&failure), |()| ExitCode::SUCCESS)
}

fn failed(failure: &Failure) -> ExitCode {
    let text = told(failure);
    tracing::error!("{text}");
    let _ = complain(&text, 0);
    failure.exit_code()
}

fn check(shown: &Shown) -> ExitCode {
    let file = shown.file.config.display().to_string();
    let (problems, warnings) = match Config::load(&shown.file.config) {
        // Files that cannot be read here are warnings: the check may run on another host.
        Ok(loaded) => (Vec::new(), loaded.warnings.iter().cloned().chain(loaded.unusable()).collect()),
        Err(refused) => (refused.problems, Vec::new()),
    };
    let (problems, warnings) = (Refused::lines(&file, &problems), Refused::lines(&file, &warnings));
    let code = if problems.is_empty() { 0 } else { 64 };
    if shown.json {
        let answer = serde_json::json!({ "ok": problems.is_empty(), "problems": problems, "warnings": warnings });
        let _ = print(&format!("{answer}\n"));
        return ExitCode::from(code);
    }
    for line in &warnings {
        let _ = complain(&format!("warning: {line}"), code);
    }
    if problems.is_empty() { print(&format!("{file}: ok\n")) } else { complain(&problems.join("\n"), code) }
}

fn look(shown: &Shown) -> ExitCode {
    let (loaded, runtime) = match (load(&shown.file), runtime()) {
        (Ok(loaded), Ok(runtime)) => (loaded, runtime),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let findings = runtime.block_on(Box::pin(doctor::examine(&loaded)));
    runtime.shutdown_timeout(RUNTIME_DEADLINE);
    let printed = print(&if shown.json { findings.to_json() } else { findings.to_string() });
    if findings.all_well() { printed } else { ExitCode::from(1) }
}

fn dump(shown: &Shown) -> ExitCode {
    let loaded = match load(&shown.file) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let text = if shown.json {
        serde_json::to_string_pretty(&loaded.config).map(|text| text + "\n").map_err(|error| error.to_string())
    } else {
        elph_shell::config::to_toml(&loaded.config).map_err(|error| error.to_string())
    };
    text.map_or_else(|error| complain(&format!("the configuration cannot be shown: {error}"), 70), |text| print(&text))
}

fn migrate(file: &ConfigFile) -> ExitCode {
    let (loaded, runtime) = match (load(file), runtime()) {
        (Ok(loaded), Ok(runtime)) => (loaded, runtime),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    match runtime.block_on(run::migrate(&loaded.config)) {
        Ok(()) => print("all tables are up to date\n"),
        Err(error) => {
            let failure = Failure::from(error);
            let _ = complain(&told(&failure), 0);
            failure.exit_code()
        }
    }
}

fn see_to_accounts(file: &ConfigFile, command: AccountsCommand) -> ExitCode {
    match (load(file), runtime()) {
        (Ok(loaded), Ok(runtime)) => accounts::run(&loaded, &runtime, command),
        (Err(code), _) | (_, Err(code)) => code,
    }
}

fn openapi(service: Target) -> ExitCode {
    let document = match service {
        Target::All => return complain("name one service", 64),
        Target::Sso => elph_sso::document(),
        Target::Status => elph_status::document(),
    };
    match document.to_pretty_json() {
        Ok(text) => print(&(text + "\n")),
        Err(error) => complain(&format!("the document cannot be written: {error}"), 70),
    }
}
