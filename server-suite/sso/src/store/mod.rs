//! What the provider keeps, in the database. One set of SQL for SQLite and PostgreSQL; times are milliseconds since 1970.

mod devices;
mod failures;
mod grants;
mod sessions;

use elph_kit::database::{Database, DatabaseError};
use sqlx::{AnyPool, Row, any::AnyRow, migrate::Migrator};

pub use self::sessions::User;
pub(crate) use self::{
    devices::{DeviceState, Poll},
    failures::Kind,
    grants::{Grant, NewCode, Redeemed, Rotated},
    sessions::{Farewell, Opened, Session},
};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The tables.
#[derive(Clone)]
pub struct Store {
    pool: AnyPool,
}

impl Store {
    /// Brings the tables up to date.
    pub async fn open(database: &Database) -> Result<Self, DatabaseError> {
        database.migrate("sso", &MIGRATIONS).await?;
        Ok(Self { pool: database.pool().clone() })
    }

    /// Removes what is over: the oldest time at which a session may have been used to be still there.
    pub async fn sweep(&self, now: i64, oldest_session: i64, oldest_failure: i64) -> Result<(), sqlx::Error> {
        for (statement, limit) in [
            ("DELETE FROM sso_codes WHERE expires < $1", now),
            ("DELETE FROM sso_devices WHERE expires < $1", now),
            ("DELETE FROM sso_sessions WHERE last_used < $1", oldest_session),
            ("DELETE FROM sso_failures WHERE last < $1 AND locked_until < $1", oldest_failure),
        ] {
            sqlx::query(statement).bind(limit).execute(&self.pool).await?;
        }
        Ok(())
    }
}

fn text(row: &AnyRow, name: &str) -> Result<String, sqlx::Error> {
    row.try_get(name)
}

fn optional(row: &AnyRow, name: &str) -> Result<Option<String>, sqlx::Error> {
    row.try_get(name)
}

fn number(row: &AnyRow, name: &str) -> Result<i64, sqlx::Error> {
    row.try_get(name)
}
