//! `elph-server accounts`: the local accounts of the SSO. A password never stands on the command line, where others of the host see it:
//! it is typed without being shown, piped in, or read from a file.

use std::{
    io::{self, BufRead, IsTerminal, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use elph_kit::database::{Database, DatabaseError};
use elph_shell::{
    config::PasswordSource,
    out::{complain, print, say},
    told,
};
use elph_sso::people::{Account, AccountError, Accounts, HashError, NewAccount, SourceKind};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};

use crate::config::{Config, Loaded};

/// The most that is read as a password.
const LONGEST: u64 = 4096;
/// Accounts that are read at once.
const PAGE: u32 = 500;

/// What can be done with accounts.
#[derive(Debug, Subcommand)]
pub(crate) enum AccountsCommand {
    /// Make an account.
    Add {
        #[command(flatten)]
        who: Who,
        /// The subscriber's number; left out: the login is it.
        #[arg(long)]
        alias: Option<String>,
        /// The person's name.
        #[arg(long)]
        name: Option<String>,
        /// The person's mail address.
        #[arg(long)]
        email: Option<String>,
        /// A role; may be given several times.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        #[command(flatten)]
        password: Password,
    },
    /// Give an account another password.
    Passwd {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        password: Password,
    },
    /// Let nobody sign in with an account any more; who is signed in is out at the next refresh.
    Disable(Who),
    /// Let an account be used again.
    Enable(Who),
    /// Remove an account.
    Remove(Who),
    /// Show the accounts of a domain.
    List {
        /// The domain.
        #[arg(long)]
        domain: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give an account these roles and no others.
    Roles {
        #[command(flatten)]
        who: Who,
        /// The roles; none: it has none any more.
        roles: Vec<String>,
    },
}

/// Which account.
#[derive(Debug, Args)]
pub(crate) struct Who {
    /// The domain.
    #[arg(long)]
    domain: String,
    /// What the person types to sign in.
    login: String,
}

/// Where the password comes from: standard input, unless there is a file.
#[derive(Debug, Args)]
pub(crate) struct Password {
    /// Read the password from this file; a newline at its end does not belong to it.
    #[arg(long)]
    password_file: Option<PathBuf>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error("{0}")]
    Password(String),
    #[error("the accounts cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// Does it. The code, to end with.
pub(crate) fn run(loaded: &Loaded, runtime: &tokio::runtime::Runtime, command: AccountsCommand) -> ExitCode {
    match runtime.block_on(Box::pin(perform(&loaded.config, command))) {
        Ok(text) => print(&text),
        Err(failure) => complain(&told(&failure), failure.code()),
    }
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Account(AccountError::Invalid(_) | AccountError::Taken | AccountError::Unknown) | Self::Password(_) => 64,
            Self::Database(DatabaseError::Settings { .. }) => 64,
            Self::Account(AccountError::Database(_)) | Self::Database(_) => 69,
            Self::Account(AccountError::Hash(_)) | Self::Hash(_) | Self::Json(_) => 70,
        }
    }
}

async fn perform(config: &Config, command: AccountsCommand) -> Result<String, Failure> {
    // Asked for first: nobody types a password while connections wait.
    let password = match &command {
        AccountsCommand::Add { password, .. } | AccountsCommand::Passwd { password, .. } => {
            Some(password.read().map_err(Failure::Password)?)
        }
        _ => None,
    };
    let database = Database::open(&config.database).await?;
    let done = async {
        elph_sso::Store::open(&database).await?;
        let accounts = Accounts::new(&database)?;
        match (command, password) {
            (AccountsCommand::Add { who, alias, name, email, roles, .. }, Some(password)) => {
                tell_unused(config, &who.domain);
                let account = NewAccount { domain: who.domain, login: who.login, alias, name, email, roles };
                let account = accounts.add(&account, &password).await?;
                Ok(format!("{} of {} is made, with the number {}\n", account.login, account.domain, account.alias))
            }
            (AccountsCommand::Passwd { who, .. }, Some(password)) => {
                accounts.set_password(&who.domain, &who.login, &password).await?;
                Ok(who.done("has a new password"))
            }
            (AccountsCommand::Disable(who), _) => {
                accounts.set_disabled(&who.domain, &who.login, true).await?;
                Ok(who.done("is disabled"))
            }
            (AccountsCommand::Enable(who), _) => {
                accounts.set_disabled(&who.domain, &who.login, false).await?;
                Ok(who.done("is enabled"))
            }
            (AccountsCommand::Remove(who), _) => {
                accounts.remove(&who.domain, &who.login).await?;
                Ok(who.done("is removed"))
            }
            (AccountsCommand::Roles { who, roles }, _) => {
                accounts.set_roles(&who.domain, &who.login, &roles).await?;
                Ok(who.done(&if roles.is_empty() { "has no roles".to_owned() } else { format!("has the roles {}", roles.join(", ")) }))
            }
            (AccountsCommand::List { domain, json }, _) => {
                let all = all(&accounts, &domain).await?;
                if json { Ok(serde_json::to_string_pretty(&all)? + "\n") } else { Ok(table(&all)) }
            }
            (AccountsCommand::Add { .. } | AccountsCommand::Passwd { .. }, None) => {
                Err(Failure::Password("no password is given".to_owned()))
            }
        }
    };
    let done = done.await;
    database.close().await;
    done
}

/// Says so when the account that is made is good for nothing yet.
fn tell_unused(config: &Config, domain: &str) {
    let realms = config.sso.iter().flat_map(|sso| &sso.realms);
    if !realms.into_iter().any(|realm| realm.domain == domain && realm.source == SourceKind::Local) {
        say(&format!("warning: {domain} does not ask local accounts; give it a [[sso.realms]] with source = \"local\""));
    }
}

async fn all(accounts: &Accounts, domain: &str) -> Result<Vec<Account>, AccountError> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = accounts.list(domain, &after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(all) };
        after.clone_from(&last.login);
        all.extend(page);
    }
}

fn table(accounts: &[Account]) -> String {
    let mut rows = vec![["LOGIN", "ALIAS", "STATE", "ROLES", "NAME"].map(str::to_owned)];
    rows.extend(accounts.iter().map(|account| {
        let state = if account.disabled { "disabled" } else { "enabled" };
        let name = account.name.clone().unwrap_or_default();
        [account.login.clone(), account.alias.clone(), state.to_owned(), account.roles.join(","), name]
    }));
    let wide = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(wide).collect();
    let line = |row: &[String; 5]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

// === impl Who ===

impl Who {
    fn done(&self, what: &str) -> String {
        format!("{} of {} {what}\n", self.login, self.domain)
    }
}

// === impl Password ===

impl Password {
    fn read(&self) -> Result<SecretString, String> {
        match &self.password_file {
            Some(path) => from_file(path),
            None if io::stdin().is_terminal() => typed(),
            None => line(),
        }
    }
}

fn from_file(path: &Path) -> Result<SecretString, String> {
    PasswordSource::File(path.to_owned()).read()
}

/// Twice, since nobody sees what is typed.
fn typed() -> Result<SecretString, String> {
    let _quiet = Quiet::begin().map_err(|error| format!("the terminal cannot be kept from showing the password: {error}"))?;
    say("New password:");
    let first = line()?;
    say("Again:");
    let second = line()?;
    if first.expose_secret() == second.expose_secret() { Ok(first) } else { Err("the two passwords differ".to_owned()) }
}

fn line() -> Result<SecretString, String> {
    let mut text = String::new();
    let mut input = io::stdin().lock().take(LONGEST);
    let read = input.read_line(&mut text);
    read.map_err(|error| format!("no password can be read from standard input: {error}"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() { Err("no password is given".to_owned()) } else { Ok(SecretString::from(text.to_owned())) }
}

/// A terminal that does not show what is typed, for as long as this lives.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> nix::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _kept = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0);
    }
}
