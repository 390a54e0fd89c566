//! `elphctl directory`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Commands about the directory.
#[derive(Debug, Subcommand)]
pub(crate) enum DirectoryCommand {
    /// Lists the domains you may see
    Domains,
    /// Lists the subscribers of a domain in the order of their aliases
    Subscribers(Subscribers),
    /// Shows one subscriber with registrations, regime and calls
    Subscriber {
        /// The alias
        alias: String,
        #[command(flatten)]
        domain: DomainArg,
    },
    /// Lists the teleconference rooms of a domain
    Rooms {
        #[command(flatten)]
        domain: DomainArg,
    },
    /// Checks a subscriber's password, read from standard input; exit code 5 if it is wrong
    Authenticate {
        /// The subscriber's login
        login: String,
        #[command(flatten)]
        domain: DomainArg,
        /// Reads the first line of this file instead of standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

/// One domain.
#[derive(Debug, Args)]
pub(crate) struct DomainArg {
    /// The domain [default: that of the settings, else the only one you may see]
    #[arg(short, long)]
    pub(crate) domain: Option<String>,
}

/// `directory subscribers`.
#[derive(Debug, Args)]
pub(crate) struct Subscribers {
    #[command(flatten)]
    pub(crate) domain: DomainArg,
    /// Only aliases that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Most subscribers to show; 0: all
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: u32,
}
