//! `elph-server bus`: dead letters – events that a service could not handle – to look at, to try again, to throw away.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use elph_kit::{
    bus::dead::{self, DeadError, DeadLetter, Fate},
    database::{Database, DatabaseError},
};
use elph_shell::{
    out::{complain, print},
    told,
};
use uuid::Uuid;

use crate::config::Loaded;

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum BusCommand {
    /// Look after events that a service could not handle.
    Dead {
        #[command(subcommand)]
        command: DeadCommand,
    },
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// Show them, one a line as JSON: which queue, when, why if that is known, and the event.
    List(Which),
    /// Put them back into the queue of their service, when what was wrong is mended.
    Retry(Which),
    /// Throw them away.
    Drop(Which),
}

/// Which of them.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Of this service alone.
    #[arg(long)]
    service: Option<String>,
    /// Ids of events. None: with `retry` and `drop` say --all.
    ids: Vec<Uuid>,
    /// All of them.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Dead(#[from] DeadError),
    #[error("name the events, or say --all")]
    Which,
}

/// Does it. The code, to end with.
pub(crate) fn run(loaded: &Loaded, runtime: &tokio::runtime::Runtime, BusCommand::Dead { command }: &BusCommand) -> ExitCode {
    match runtime.block_on(perform(loaded, command)) {
        Ok(text) => print(&text),
        Err(failure) => {
            let code = if matches!(failure, Failure::Which | Failure::Database(DatabaseError::Settings { .. })) { 64 } else { 69 };
            complain(&told(&failure), code)
        }
    }
}

async fn perform(loaded: &Loaded, command: &DeadCommand) -> Result<String, Failure> {
    let (fate, which, done) = match command {
        DeadCommand::List(which) => (Fate::Keep, which, ""),
        DeadCommand::Retry(which) => (Fate::Retry, which, "back in their queues"),
        DeadCommand::Drop(which) => (Fate::Drop, which, "thrown away"),
    };
    if fate != Fate::Keep && which.ids.is_empty() && !which.all {
        return Err(Failure::Which);
    }
    let database = Database::open(&loaded.config.database).await?;
    let letters = dead::letters(&loaded.config.bus, &database, which.service.as_deref(), &which.ids, fate).await?;
    database.close().await;
    if fate == Fate::Keep {
        return Ok(letters.iter().map(|letter| line(letter) + "\n").collect());
    }
    Ok(format!("{} {done}\n", letters.len()))
}

fn line(letter: &DeadLetter) -> String {
    let DeadLetter { queue, event, died, error } = letter;
    serde_json::json!({ "queue": queue, "died": died.map(|at| at.to_string()), "error": error, "event": event }).to_string()
}
