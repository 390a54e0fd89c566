//! `elphctl events`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use elph_proto::v1::EventKind;

use super::value::{self, Start};

/// Commands about events.
#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Shows changes as they happen; goes on after interruptions where it left off
    Watch(WatchEvents),
}

/// `events watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchEvents {
    /// Only these kinds
    #[arg(short, long, value_delimiter = ',')]
    pub(crate) kind: Vec<KindArg>,
    /// Only these domains
    #[arg(short, long, value_delimiter = ',')]
    pub(crate) domain: Vec<String>,
    /// Only calls and conferences that these numbers take part in
    #[arg(long, value_delimiter = ',')]
    pub(crate) alias: Vec<String>,
    /// Only these conferences
    #[arg(long, value_delimiter = ',', value_name = "CONFERENCE")]
    pub(crate) conference: Vec<String>,
    /// Where to start: now, snapshot or EPOCH:SEQUENCE
    #[arg(long, value_name = "START", default_value = "now", value_parser = value::start)]
    pub(crate) from: Start,
    /// Keeps the cursor here and starts after it the next time; it wins over --from
    #[arg(long, value_name = "FILE")]
    pub(crate) resume: Option<PathBuf>,
    /// How often the agent shows that an idle stream is alive, 1s to 5m
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = value::duration)]
    pub(crate) heartbeat: Duration,
    /// Ends after so many changes; 0: never
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) count: u64,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    /// Changes of calls
    Call,
    /// Changes of conferences and their participants
    Conference,
    /// Changes of the links to the switch
    Link,
}

impl From<KindArg> for EventKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Call => Self::Call,
            KindArg::Conference => Self::Conference,
            KindArg::Link => Self::Link,
        }
    }
}
