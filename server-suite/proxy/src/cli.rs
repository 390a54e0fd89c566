//! The command line. Exit codes are sysexits(3)'s: 64 for a wrong command line or configuration, 69 for what cannot be had.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand};
use elph_shell::{
    config::Refused,
    logs,
    out::{complain, print},
    told,
};

use crate::{
    config::{Config, Loaded},
    doctor,
    render::Files,
    run::{self, Failure},
};

/// What the help ends with.
const MORE: &str = "\
Examples:
  elph-proxy config check                     say what is wrong, with file and line
  elph-proxy config render | less             show what nginx would be given
  elph-proxy config diff                      show what a reload would change
  elph-proxy doctor                           look at nginx, certificate and every copy

Environment:
  ELPH_PROXY_CONFIG         the configuration file, like --config
  ELPH_PROXY__SECTION__KEY  a single key, over the file: ELPH_PROXY__LOG__FILTER=debug

Signals of 'elph-proxy run':
  SIGHUP   reads the configuration again and reloads nginx; a wrong configuration changes nothing
  SIGUSR1  opens the access log anew, after it was renamed
  SIGTERM  finishes what runs, then ends; the second one ends at once

Exit codes:
  0   all well
  1   doctor: something to mend; config diff: something differs
  64  the command line or the configuration is wrong
  69  an address, nginx or the log cannot be had
  70  a failure inside";

/// The only door from outside: renders nginx's configuration, runs nginx, and looks after the services behind it.
#[derive(Debug, Parser)]
#[command(name = "elph-proxy", version, propagate_version = true, after_long_help = MORE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run nginx and look after it.
    Run(ConfigFile),
    /// Look at configuration, nginx, certificate and copies, and say what to mend.
    Doctor {
        #[command(flatten)]
        file: ConfigFile,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
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
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with the configuration, with file, line and what is allowed.
    Check(ConfigFile),
    /// Show the configuration in force, environment and defaults included.
    Dump(ConfigFile),
    /// Show what nginx would be given.
    Render(ConfigFile),
    /// Show how that differs from what nginx was given last.
    Diff(ConfigFile),
    /// Show the JSON schema of the configuration.
    Schema,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, env = "ELPH_PROXY_CONFIG", default_value = "/etc/elph-proxy/proxy.toml")]
    config: PathBuf,
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
        Command::Run(file) => start(&file),
        Command::Doctor { file, json } => with(&file, async |loaded| {
            let report = doctor::examine(&loaded).await;
            let printed = print(&if json { report.to_json() } else { report.to_string() });
            Ok(if report.all_well() { printed } else { ExitCode::from(1) })
        }),
        Command::Config { command: ConfigCommand::Check(file) } => with(&file, async |loaded| {
            let name = file.config.display().to_string();
            // Files that cannot be read here are warnings: the check may run on another host.
            for line in Refused::lines(&name, &[loaded.warnings.clone(), loaded.unreadable()].concat()) {
                complain(&format!("warning: {line}"), 0);
            }
            Ok(print(&format!("{name}: ok\n")))
        }),
        Command::Config { command: ConfigCommand::Dump(file) } => with(&file, async |loaded| {
            Ok(match loaded.config.to_toml() {
                Ok(text) => print(&text),
                Err(error) => complain(&format!("the configuration cannot be shown: {error}"), 70),
            })
        }),
        Command::Config { command: ConfigCommand::Render(file) } => with(&file, async |loaded| {
            let features = run::features(&loaded.config).await?;
            Ok(print(&run::rendered(&loaded, features).await))
        }),
        Command::Config { command: ConfigCommand::Diff(file) } => with(&file, async |loaded| {
            let features = run::features(&loaded.config).await?;
            let fresh = run::rendered(&loaded, features).await;
            let old = std::fs::read_to_string(Files::of(&loaded.config.nginx.directory).configuration).unwrap_or_default();
            let text = difference(&old, &fresh);
            let printed = print(&text);
            Ok(if text.is_empty() { printed } else { ExitCode::from(1) })
        }),
        Command::Config { command: ConfigCommand::Schema } => print(&Config::schema()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "elph-proxy", &mut script);
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

fn with(file: &ConfigFile, work: impl AsyncFnOnce(Loaded) -> Result<ExitCode, Failure>) -> ExitCode {
    let loaded = match Config::load(&file.config) {
        Ok(loaded) => loaded,
        Err(refused) => return complain(&refused.to_string(), 64),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("the runtime cannot be started: {error}"), 70),
    };
    let outcome = runtime.block_on(Box::pin(work(loaded)));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome.unwrap_or_else(|failure| {
        complain(&told(&failure), 0);
        failure.exit_code()
    })
}

fn start(file: &ConfigFile) -> ExitCode {
    with(file, async |loaded| {
        let log = logs::init("elph-proxy", &loaded.config.log)?;
        for line in Refused::lines(&file.config.display().to_string(), &loaded.warnings) {
            tracing::warn!("{line}");
        }
        Box::pin(run::run(loaded, log)).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Lines that only one of the two texts has, in order. The generation always differs and is left out.
fn difference(old: &str, fresh: &str) -> String {
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.trim_start().starts_with("return 200 ")).map(str::to_owned).collect()
    };
    let (old, fresh) = (lines(old), lines(fresh));
    let same = old.iter().zip(&fresh).take_while(|(old, fresh)| old == fresh).count();
    let (old, fresh) = (old.get(same..).unwrap_or_default(), fresh.get(same..).unwrap_or_default());
    let tail = old.iter().rev().zip(fresh.iter().rev()).take_while(|(old, fresh)| old == fresh).count();
    let mut text = String::new();
    for (mark, lines) in [("-", old), ("+", fresh)] {
        for line in lines.iter().take(lines.len() - tail) {
            text.push_str(&format!("{mark}{line}\n"));
        }
    }
    text
}
