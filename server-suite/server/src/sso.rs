//! `elph-server sso`: what an administrator of the host does for people who cannot help themselves.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use elph_kit::database::{Database, DatabaseError};
use elph_shell::{
    out::{complain, print},
    told,
};
use elph_sso::{Provider, ProviderError};

use crate::config::Loaded;

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum SsoCommand {
    /// Sign somebody out everywhere: their sessions end, and with them their refresh tokens.
    SignOut(Whom),
    /// Remove somebody's authenticator app, because their phone is lost. Where a second factor is required they set up another one when they sign in.
    RemoveApp(Whom),
}

/// Of whom.
#[derive(Debug, Args)]
pub(crate) struct Whom {
    /// The domain.
    #[arg(long)]
    domain: String,
    /// The subscriber's number.
    alias: String,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("the database cannot be read")]
    Sql(#[from] sqlx::Error),
    #[error("{0}")]
    Refused(String),
}

/// Does it. The code, to end with.
pub(crate) fn run(loaded: &Loaded, runtime: &tokio::runtime::Runtime, command: &SsoCommand) -> ExitCode {
    match runtime.block_on(Box::pin(perform(loaded, command))) {
        Ok(text) => print(&(text + "\n")),
        Err(failure) => {
            let code = if matches!(failure, Failure::Refused(_) | Failure::Provider(ProviderError::Settings(..))) { 64 } else { 69 };
            complain(&told(&failure), code)
        }
    }
}

async fn perform(loaded: &Loaded, command: &SsoCommand) -> Result<String, Failure> {
    let config = &loaded.config;
    let settings = config.sso.as_ref().ok_or_else(|| Failure::Refused("there is no [sso] in the configuration".to_owned()))?;
    let database = Database::open(&config.database).await?;
    let domains = config.agents.iter().flat_map(|agent| agent.domains.clone()).collect();
    let provider = Provider::open(settings, &database, domains).await?;
    let (SsoCommand::SignOut(whom) | SsoCommand::RemoveApp(whom)) = command;
    let Some(user) = provider.user(&whom.domain, &whom.alias).await? else {
        return Err(Failure::Refused(format!("nobody with the number {} of {} has ever signed in", whom.alias, whom.domain)));
    };
    let done = match command {
        SsoCommand::SignOut(_) => match provider.sign_out(&user).await? {
            0 => format!("{} of {} was signed in nowhere", whom.alias, whom.domain),
            ended => format!("{} of {} is signed out: {ended} sessions have ended", whom.alias, whom.domain),
        },
        SsoCommand::RemoveApp(_) => match provider.remove_app(&user).await? {
            true => format!("{} of {} has no authenticator app any more", whom.alias, whom.domain),
            false => format!("{} of {} had none", whom.alias, whom.domain),
        },
    };
    database.close().await;
    Ok(done)
}
