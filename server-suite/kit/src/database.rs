//! One database, SQLite or PostgreSQL, behind the same SQL: `$1` for parameters, TEXT, BIGINT (times are milliseconds since 1970,
//! truth is 0 or 1: the driver reads no BOOLEAN of SQLite), DOUBLE PRECISION and BYTEA for columns, `ON CONFLICT` for upserts. Every store's tests run on both.

use std::{str::FromStr, time::Duration};

use elph_shell::config::{PasswordSource, Problem, Secret, Span};
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sqlx::{
    AnyPool, Executor,
    any::{AnyConnectOptions, AnyPoolOptions},
    migrate::Migrator,
};

/// Connections to a SQLite file: it has one writer at a time, and readers are quick.
const SQLITE_CONNECTIONS: u32 = 4;

/// `[database]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseSettings {
    /// `sqlite:/var/lib/elph-server/elph.db` or `postgres://user@host:5432/name?sslmode=verify-full`, without a password.
    pub url: String,
    /// PostgreSQL's password.
    pub password: Option<Secret>,
    /// A file with it.
    pub password_file: Option<std::path::PathBuf>,
    /// A systemd credential with it.
    pub password_credential: Option<String>,
    /// Connections at most. SQLite: four.
    pub max_connections: u32,
    /// How long a request waits for one.
    pub timeout: Span,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

/// The database. Clones share its connections.
#[derive(Clone)]
pub struct Database {
    pool: AnyPool,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The settings.
    #[error("{key}: {what}")]
    Settings {
        /// The key at fault.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
    /// It does not answer, or refuses.
    #[error("the database cannot be opened")]
    Open(#[source] sqlx::Error),
    /// Its tables cannot be brought up to date.
    #[error("the tables of '{service}' cannot be brought up to date")]
    Migrate {
        /// Whose.
        service: &'static str,
        /// Why.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self {
            url: "sqlite:/var/lib/elph-server/elph.db".to_owned(),
            password: None,
            password_file: None,
            password_credential: None,
            max_connections: 16,
            timeout: Span::seconds(5),
        }
    }
}

impl DatabaseSettings {
    /// What their types cannot say.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        let mut say = |key: &str, what: &str| problems.push(Problem::new(format!("database.{key}"), what));
        match self.kind() {
            None => say("url", "must begin with sqlite: or postgres://"),
            Some(Kind::Postgres) if self.url.split_once('@').is_some_and(|(before, _)| before.matches(':').count() > 1) => {
                say("url", "has a password in it; better: password_file or password_credential");
            }
            Some(_) => {}
        }
        if !(1..=1000).contains(&self.max_connections) {
            say("max_connections", "is out of range; must be from 1 to 1000");
        }
        if self.timeout < Span::seconds(1) || self.timeout > Span::seconds(60) {
            say("timeout", "is out of range; must be from 1s to 1m");
        }
    }

    fn kind(&self) -> Option<Kind> {
        match self.url.split_once(':')?.0 {
            "sqlite" => Some(Kind::Sqlite),
            "postgres" | "postgresql" => Some(Kind::Postgres),
            _ => None,
        }
    }

    fn password(&self) -> Result<Option<PasswordSource>, DatabaseError> {
        let (inline, file, credential) = (self.password.as_ref(), self.password_file.as_deref(), self.password_credential.as_deref());
        if inline.is_none() && file.is_none() && credential.is_none() {
            return Ok(None);
        }
        let source = PasswordSource::choose("database", inline, file, credential);
        source.map(Some).map_err(|problem| DatabaseError::Settings { key: "database", what: problem.what })
    }
}

impl Database {
    /// Connects. A SQLite file is made if it is not there.
    pub async fn open(settings: &DatabaseSettings) -> Result<Self, DatabaseError> {
        sqlx::any::install_default_drivers();
        let refused = |key, what: String| DatabaseError::Settings { key, what };
        let kind = settings.kind().ok_or_else(|| refused("database.url", "must begin with sqlite: or postgres://".to_owned()))?;
        let mut url = settings.url.clone();
        if kind == Kind::Sqlite && !url.contains('?') {
            url.push_str("?mode=rwc");
        }
        if let Some(source) = settings.password()? {
            let secret = source.read().map_err(|what| refused("database.password_file", what))?;
            url = with_password(&url, secret.expose_secret());
        }
        // The url may hold a password: what is wrong with it is not repeated.
        let options = AnyConnectOptions::from_str(&url).map_err(|_| refused("database.url", "cannot be understood".to_owned()))?;
        let most = if kind == Kind::Sqlite { settings.max_connections.min(SQLITE_CONNECTIONS) } else { settings.max_connections };
        let pool = AnyPoolOptions::new()
            .max_connections(most)
            .acquire_timeout(settings.timeout.0)
            .max_lifetime(Duration::from_secs(30 * 60))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    for statement in prepare(kind) {
                        connection.execute(*statement).await?;
                    }
                    Ok(())
                })
            })
            .connect_with(options)
            .await
            .map_err(DatabaseError::Open)?;
        Ok(Self { pool })
    }

    /// Brings a service's tables up to date. Whoever comes second waits; what is newer than this program is left alone.
    pub async fn migrate(&self, service: &'static str, migrator: &Migrator) -> Result<(), DatabaseError> {
        let mut own = Migrator { migrations: migrator.migrations.clone(), ..Migrator::DEFAULT };
        own.dangerous_set_table_name(format!("_migrations_{service}"));
        own.set_ignore_missing(true);
        own.run(&self.pool).await.map_err(|source| DatabaseError::Migrate { service, source })
    }

    /// For queries.
    pub fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Whether it answers.
    pub async fn answers(&self) -> Result<(), sqlx::Error> {
        self.pool.execute("SELECT 1").await.map(drop)
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// What each new connection is told.
fn prepare(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Sqlite => {
            &["PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "PRAGMA busy_timeout = 5000", "PRAGMA foreign_keys = ON"]
        }
        Kind::Postgres => &["SET statement_timeout = '15s'", "SET idle_in_transaction_session_timeout = '30s'"],
    }
}

/// `postgres://user@host` with a password after the user's name.
fn with_password(url: &str, password: &str) -> String {
    let Some((before, after)) = url.split_once('@') else { return url.to_owned() };
    let escaped =
        password.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") });
    format!("{before}:{}@{after}", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_of_any_characters_gets_into_the_url() {
        assert_eq!(with_password("postgres://elph@db/elph", "a:b@c/ä"), "postgres://elph:a%3Ab%40c%2F%C3%A4@db/elph");
    }

    #[test]
    fn wrong_settings_are_refused_with_what_is_allowed() {
        let mut problems = Vec::new();
        DatabaseSettings { url: "mysql://x".into(), max_connections: 0, ..Default::default() }.check(&mut problems);
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["database.url", "database.max_connections"]);
    }
}
