//! Does what the command line says, through the API.

mod agent;
mod calls;
mod conf;
mod directory;
mod events;
mod follow;
mod push;
mod reference;
mod resolve;

use std::io::{IsTerminal, Read};

use crate::{
    change::Change,
    cli::{Cli, Command, Repeatable},
    connect::Agent,
    failure::Failure,
    output::Output,
    settings::Settings,
};

/// A connection, the settings it was made with, and the output.
pub(crate) struct Session<'a> {
    agent: Agent,
    settings: Settings,
    given: Vec<String>,
    out: &'a mut Output,
}

impl Session<'_> {
    /// A changing command.
    fn change(&self, repeat: &Repeatable) -> Change {
        Change::new(repeat.request_id.clone(), &self.given, &self.settings.prefix)
    }
}

/// Longest secret taken from standard input.
const PIPED_LIMIT: u64 = 64 << 10;

/// What is piped in because it must show nowhere, without the line end.
pub(crate) fn piped(what: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::Usage(format!("pipe the {what} in: what is typed would show")));
    }
    let mut text = String::new();
    let read = stdin.lock().take(PIPED_LIMIT).read_to_string(&mut text);
    read.map_err(|error| Failure::Local(format!("cannot read the {what}: {error}")))?;
    Ok(text.trim().to_owned())
}

/// Runs a command.
pub(crate) async fn run(cli: Cli, given: Vec<String>, out: &mut Output) -> Result<(), Failure> {
    match cli.command {
        Command::Reasons { reasons } => return reference::reasons(&reasons, out),
        Command::Completions { shell } => return reference::completions(shell, out),
        Command::Man { directory } => return reference::man(directory.as_deref(), out),
        _ => {}
    }
    let settings = Settings::settle(&cli.connection)?;
    // What comes from standard input or a file is read before anything is sent.
    let password = match &cli.command {
        Command::Directory(command) => directory::password(command)?,
        _ => None,
    };
    let pushed = match &cli.command {
        Command::Push(command) => push::input(command)?,
        _ => push::Input::default(),
    };
    let agent = Agent::connect(&settings).await?;
    let mut session = Session { agent, settings, given, out };
    match cli.command {
        Command::Calls(command) => Box::pin(session.calls(command)).await,
        Command::Conf(command) => Box::pin(session.conferences(command)).await,
        Command::Events(command) => Box::pin(session.events(command)).await,
        Command::Directory(command) => Box::pin(session.directory(command, password)).await,
        Command::Push(command) => Box::pin(session.push(*command, pushed)).await,
        Command::Links => session.links().await,
        Command::Info => session.info().await,
        Command::Health { service } => session.health(service).await,
        Command::Reasons { .. } | Command::Completions { .. } | Command::Man { .. } => Ok(()),
    }
}
