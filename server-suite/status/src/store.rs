//! What people have chosen, in the database. One set of SQL for SQLite and PostgreSQL.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use elph_kit::{
    bus::{Bus, Event, PublishError, Transaction},
    database::{Database, DatabaseError},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{AnyPool, Row, any::AnyRow, migrate::Migrator};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    board::Key,
    service::{Choice, Chosen, Note, Person},
};

/// People who share a turn wait for each other: some of many.
const TURNS: usize = 64;

/// Somebody's choice, note or last seen has changed; every copy of the service hears it, and whoever else is interested.
pub const CHANGED: &str = "status.changed";

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// What `status.changed` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// Whose.
    pub alias: String,
    /// What is written down now.
    #[serde(flatten)]
    pub chosen: Chosen,
}

/// The table.
#[derive(Clone)]
pub struct Store {
    pool: AnyPool,
    bus: Bus,
    /// Changes of one person in this process wait for each other, so that only other copies can be in between.
    turns: Arc<[Mutex<()>; TURNS]>,
}

/// Brings the table up to date.
pub async fn migrate(database: &Database) -> Result<(), DatabaseError> {
    database.migrate("status", &MIGRATIONS).await
}

impl Store {
    /// Brings the table up to date.
    pub async fn open(database: &Database, bus: &Bus) -> Result<Self, DatabaseError> {
        migrate(database).await?;
        Ok(Self { pool: database.pool().clone(), bus: bus.clone(), turns: Arc::new([const { Mutex::const_new(()) }; TURNS]) })
    }

    /// Everybody who has chosen something or was seen.
    pub async fn all(&self) -> Result<Vec<(Key, Person)>, sqlx::Error> {
        let sql = "SELECT domain, alias, version, choice, choice_until, note, note_until, hides_last_seen, last_seen FROM status_people";
        sqlx::query(sql).fetch_all(&self.pool).await?.iter().map(person).collect()
    }

    /// Changes what is written down of a person, and publishes that as `status.changed`. What it is then; devices and calls are not
    /// written down.
    pub async fn change(&self, key: &Key, change: impl Fn(&mut Person)) -> Result<Chosen, PublishError> {
        let _turn = self.turn(key).await;
        loop {
            let mut person = self.one(key).await?;
            let before = person.chosen();
            change(&mut person);
            let mut after = person.chosen();
            if after == before {
                return Ok(after);
            }
            after.version += 1;
            let mut transaction = self.bus.begin().await?;
            if !put(&mut transaction, key, before.version, &after).await? {
                // Another copy was quicker: what it has written is read and changed. One of all who try gets on.
                transaction.rollback().await?;
                continue;
            }
            let body = serde_json::to_value(Changed { alias: key.alias.to_string(), chosen: after.clone() });
            let body = body.map_err(|error| PublishError::Unfit(error.to_string()))?;
            self.bus.publish(&mut transaction, &Event::new(CHANGED, &*key.domain, body)).await?;
            self.bus.commit(transaction).await?;
            return Ok(after);
        }
    }

    async fn one(&self, key: &Key) -> Result<Person, sqlx::Error> {
        let row = sqlx::query(
            "SELECT domain, alias, version, choice, choice_until, note, note_until, hides_last_seen, last_seen FROM status_people \
             WHERE domain = $1 AND alias = $2",
        )
        .bind(key.domain.to_string())
        .bind(key.alias.to_string())
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map_or_else(|| Ok(Person::default()), |row| person(row).map(|(_, person)| person))
    }

    /// Waits for a person's turn; it is over when the guard is dropped.
    async fn turn(&self, key: &Key) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let [first, ..] = &*self.turns;
        let place = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or(0);
        self.turns.get(place).unwrap_or(first).lock().await
    }
}

/// Writes it down if it is still as it was read.
async fn put(transaction: &mut Transaction, key: &Key, before: i64, chosen: &Chosen) -> Result<bool, sqlx::Error> {
    let note = chosen.note.as_ref();
    let written = sqlx::query(
        "INSERT INTO status_people (domain, alias, version, choice, choice_until, note, note_until, hides_last_seen, last_seen) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (domain, alias) DO UPDATE SET version = excluded.version, choice = excluded.choice, \
         choice_until = excluded.choice_until, note = excluded.note, note_until = excluded.note_until, \
         hides_last_seen = excluded.hides_last_seen, last_seen = excluded.last_seen WHERE status_people.version = $10",
    )
    .bind(key.domain.to_string())
    .bind(key.alias.to_string())
    .bind(chosen.version)
    .bind(chosen.choice.as_str())
    .bind(chosen.choice_until.map(|at| at.as_millisecond()))
    .bind(note.map(|note| note.text.clone()))
    .bind(note.and_then(|note| note.until).map(|at| at.as_millisecond()))
    .bind(i64::from(chosen.hides_last_seen))
    .bind(chosen.last_seen.map(|at| at.as_millisecond()))
    .bind(before)
    .execute(&mut **transaction)
    .await?;
    Ok(written.rows_affected() == 1)
}

fn person(row: &AnyRow) -> Result<(Key, Person), sqlx::Error> {
    let time = |name: &str| -> Result<Option<Timestamp>, sqlx::Error> {
        let millis: Option<i64> = row.try_get(name)?;
        Ok(millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()))
    };
    let text: Option<String> = row.try_get("note")?;
    let until = time("note_until")?;
    let (domain, alias, choice): (String, String, String) = (row.try_get("domain")?, row.try_get("alias")?, row.try_get("choice")?);
    let person = Person {
        version: row.try_get("version")?,
        choice: Choice::of(&choice),
        choice_until: time("choice_until")?,
        note: text.map(|text| Note { text, until }),
        hides_last_seen: row.try_get::<i64, _>("hides_last_seen")? != 0,
        last_seen: time("last_seen")?,
        ..Person::default()
    };
    Ok((Key::new(&domain, &alias), person))
}
