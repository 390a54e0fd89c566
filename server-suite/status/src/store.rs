//! What people have chosen, in the database. One set of SQL for SQLite and PostgreSQL.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use elph_kit::database::{Database, DatabaseError};
use jiff::Timestamp;
use sqlx::{AnyPool, Row, any::AnyRow, migrate::Migrator};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    board::Key,
    service::{Choice, Note, Person},
};

/// People who share a turn wait for each other: some of many.
const TURNS: usize = 64;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The table.
#[derive(Clone)]
pub struct Store {
    pool: AnyPool,
    /// Whoever reads a person to write it has the person's turn: what two change at once is not lost.
    turns: Arc<[Mutex<()>; TURNS]>,
}

impl Store {
    /// Brings the table up to date.
    pub async fn open(database: &Database) -> Result<Self, DatabaseError> {
        database.migrate("status", &MIGRATIONS).await?;
        Ok(Self { pool: database.pool().clone(), turns: Arc::new([const { Mutex::const_new(()) }; TURNS]) })
    }

    /// Waits for a person's turn; it is over when the guard is dropped.
    pub async fn turn(&self, key: &Key) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let [first, ..] = &*self.turns;
        let place = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or(0);
        self.turns.get(place).unwrap_or(first).lock().await
    }

    /// Everybody who has chosen something or was seen.
    pub async fn all(&self) -> Result<Vec<(Key, Person)>, sqlx::Error> {
        let rows =
            sqlx::query("SELECT domain, alias, choice, choice_until, note, note_until, hides_last_seen, last_seen FROM status_people");
        rows.fetch_all(&self.pool).await?.iter().map(person).collect()
    }

    /// Writes down what is to outlive a restart; devices and calls are not.
    pub async fn put(&self, key: &Key, person: &Person) -> Result<(), sqlx::Error> {
        let note = person.note.as_ref();
        sqlx::query(
            "INSERT INTO status_people (domain, alias, choice, choice_until, note, note_until, hides_last_seen, last_seen) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (domain, alias) DO UPDATE SET choice = excluded.choice, choice_until = excluded.choice_until, \
             note = excluded.note, note_until = excluded.note_until, hides_last_seen = excluded.hides_last_seen, \
             last_seen = excluded.last_seen",
        )
        .bind(key.domain.to_string())
        .bind(key.alias.to_string())
        .bind(person.choice.as_str())
        .bind(person.choice_until.map(|at| at.as_millisecond()))
        .bind(note.map(|note| note.text.clone()))
        .bind(note.and_then(|note| note.until).map(|at| at.as_millisecond()))
        .bind(i64::from(person.hides_last_seen))
        .bind(person.last_seen.map(|at| at.as_millisecond()))
        .execute(&self.pool)
        .await
        .map(drop)
    }
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
        choice: Choice::of(&choice),
        choice_until: time("choice_until")?,
        note: text.map(|text| Note { text, until }),
        hides_last_seen: row.try_get::<i64, _>("hides_last_seen")? != 0,
        last_seen: time("last_seen")?,
        ..Person::default()
    };
    Ok((Key::new(&domain, &alias), person))
}
