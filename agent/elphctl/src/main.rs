//! `elphctl`, the command line over the agent's gRPC API.

mod change;
mod cli;
mod connect;
mod failure;
mod output;
mod render;
mod resume;
mod run;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use crate::{cli::Cli, failure::Failure, output::Output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (json, colour) = (cli.output.json, cli.output.color);
    let mut output = Output::new(&cli.output);
    let done = execute(cli, &mut output).and_then(|()| output.flush());
    let Err(failure) = done else { return ExitCode::SUCCESS };
    // What was answered before the failure is still shown.
    let _ = output.flush();
    output::tell(&failure, json, colour);
    failure.exit_code()
}

fn execute(cli: Cli, output: &mut Output) -> Result<(), Failure> {
    // Our work is on this thread; the worker is there to end the program when this one waits for a reader that does not read.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Local(format!("cannot start: {error}")))?;
    let given: Vec<String> = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    runtime.block_on(Box::pin(run::run(cli, given, output)))
}
