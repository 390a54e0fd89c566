//! The command line: what can be said, not what it does. Global options come first, one file per family of commands after that.

pub(crate) mod calls;
pub(crate) mod conf;
pub(crate) mod directory;
pub(crate) mod events;
pub(crate) mod push;
pub(crate) mod value;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The exit codes, as the help and the man page tell them.
pub(crate) const EXIT_CODES: &[(u8, &str)] = &[
    (0, "done"),
    (1, "refused: the agent, the switch or a push provider did not do it and says why"),
    (2, "usage: the command line, the settings or a field of the request is wrong"),
    (3, "unavailable: agent, switch or provider out of reach or too busy; nothing was done"),
    (4, "outcome unknown: perhaps done; look, or repeat with the same --request-id"),
    (5, "not allowed: who you are, a scope, a domain, a right or a password"),
    (6, "not found: no such domain, alias, call, leg, conference, participant, device or push"),
    (7, "changed meanwhile: someone else was faster; look again and decide anew"),
    (8, "local: a file or the output could not be read or written"),
];

/// The environment, as the help and the man page tell it.
pub(crate) const ENVIRONMENT: &[(&str, &str)] = &[
    ("ELPHCTL_SOCKET", "the agent's Unix socket, like --socket"),
    ("ELPHCTL_SERVER", "the agent's address, like --server"),
    ("ELPHCTL_TOKEN", "a moderator's access token (the token itself)"),
    ("ELPHCTL_CONFIG", "the settings file, like --config"),
    ("NO_COLOR", "not empty: no colours"),
    ("COLUMNS", "width of tables when the output is not a terminal"),
    ("TZ", "time zone of the times shown"),
];

/// Examples for the help and the man page.
pub(crate) const EXAMPLES: &[(&str, &str)] = &[
    ("elphctl calls list", "calls that go on, in every domain you may see"),
    ("elphctl calls make 1042 1043", "ring 1042, then call 1043"),
    ("elphctl conf mute-all 5f0c --may-unmute no", "an id may be shortened while it is unique"),
    ("elphctl push test 0193a5c2", "one push to a device; says what its provider answered"),
    ("elphctl events watch --resume /var/lib/me/cursor --json", "every change, one JSON object per line, resumable"),
];

const AFTER_HELP: &str = "Use '--help' for connection options, environment and exit codes.";

/// Sections that follow the long help.
pub(crate) fn after_long_help() -> String {
    let mut text = String::from("Examples:\n");
    for (line, meaning) in EXAMPLES {
        text.push_str(&format!("  {line}\n      {meaning}\n"));
    }
    text.push_str("\nEnvironment:\n");
    for (name, meaning) in ENVIRONMENT {
        text.push_str(&format!("  {name:<16}{meaning}\n"));
    }
    text.push_str(
        "\nSettings file (TOML; ~/.config/elphctl.toml if it exists):\n  \
         socket, server, server_name, ca, cert, key, token_file, actor, timeout, domain\n  \
         Command line wins over environment, environment over the file.\n\nExit codes:\n",
    );
    for (code, meaning) in EXIT_CODES {
        text.push_str(&format!("  {code}  {meaning}\n"));
    }
    text
}

/// Operates an elph-agent: calls, conferences, events, pushes and directory of an ECSS-10.
///
/// Ids of calls, conferences and devices may be shortened while they are unique, and a participant may be named by number. Commands that change
/// something answer with the state after it; each has a request id, and repeated with the same one it is not done twice. Tables are for
/// people; --json gives programs the API's own answers.
#[derive(Debug, Parser)]
#[command(
    name = "elphctl",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = AFTER_HELP,
    after_long_help = after_long_help(),
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the agent is and who speaks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// The agent's Unix socket [default: /run/elph-agent/grpc.sock]
    #[arg(long, global = true, value_name = "PATH", hide_short_help = true, conflicts_with = "server")]
    pub(crate) socket: Option<PathBuf>,
    /// The agent's address, https://HOST:PORT; needs --ca, --cert and --key
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub(crate) server: Option<String>,
    /// Name in the agent's certificate, if it is not the host of --server
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub(crate) server_name: Option<String>,
    /// Authority that signed the agent's certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) ca: Option<PathBuf>,
    /// Your certificate and its chain (PEM)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) cert: Option<PathBuf>,
    /// Your private key (PEM)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) key: Option<PathBuf>,
    /// File with a moderator's access token, for moderators' commands
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// Name of the person on whose behalf you act, for the audit log
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub(crate) actor: Option<String>,
    /// Longest wait for the connection and for each answer [default: 10s]
    #[arg(long, global = true, value_name = "DURATION", hide_short_help = true, value_parser = value::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Settings file [default: ~/.config/elphctl.toml]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) config: Option<PathBuf>,
}

/// How to show what is answered.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// JSON for programs: one object, or one per line for streams
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Whole ids and every column
    #[arg(short, long, global = true)]
    pub(crate) wide: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_short_help = true)]
    pub(crate) color: Colour,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Families of commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists, watches and controls calls
    ///
    /// A call has a leg for every device that takes part in it; 'calls get' shows them. A command about a leg takes the only one in a
    /// fitting state, such as the ringing one for 'answer'. Where there are several, --leg or --device says which.
    #[command(subcommand, visible_alias = "call")]
    Calls(calls::CallsCommand),
    /// Lists, watches and moderates conferences
    ///
    /// A participant is named by id, by the unique beginning of it, or by number; 'conf get' shows them, and the conference's version.
    /// With --if-version a command is refused if the conference has changed since. Where the agent asks for it, --token-file or
    /// ELPHCTL_TOKEN gives the access token of the moderator who acts.
    #[command(subcommand, visible_alias = "conference")]
    Conf(conf::ConfCommand),
    /// Watches changes
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Registers devices, sends pushes to them and tells what became of each
    ///
    /// A device is what an application registered of a user: provider and token. Ids of devices may be shortened while they are unique in
    /// the domain; a push has a whole id. What 'push send' answers is on disk and will be sent at least once, until its time is over.
    #[command(subcommand)]
    Push(Box<push::PushCommand>),
    /// Reads domains, subscribers, rooms; checks passwords
    #[command(subcommand, visible_alias = "dir")]
    Directory(directory::DirectoryCommand),
    /// Shows the links to the switch
    Links,
    /// Shows the agent's version, dialect and journal
    Info,
    /// Asks whether the agent serves; exit code 3 if it does not
    Health {
        /// One service, such as elph.agent.v1.CallService, instead of the agent as a whole
        #[arg(long, default_value = "", hide_default_value = true)]
        service: String,
    },
    /// Explains the stable reasons of errors
    Reasons {
        /// Only these, such as CONFERENCE_FULL
        reasons: Vec<String>,
    },
    /// Prints a completion script
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Prints the man page, or writes all pages into a directory
    Man {
        /// The directory
        directory: Option<PathBuf>,
    },
}

/// Shells that completions exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// GNU bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// What every changing command takes.
#[derive(Debug, Args)]
pub(crate) struct Repeatable {
    /// Names this command: sent again with the same id, it is not done twice [default: a new UUID]
    #[arg(long, value_name = "ID", value_parser = value::request_id)]
    pub(crate) request_id: Option<String>,
}
