//! The bus's tables: events on their way out, what was handled, and, where there is no RabbitMQ, queues and dead letters. One set of SQL
//! for SQLite and PostgreSQL. Each transaction begins with a write: SQLite refuses one that becomes a writer later.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Any, AnyPool, AssertSqlSafe, Row, any::AnyRow, migrate::Migrator, query::Query};
use uuid::Uuid;

use super::{Event, Transaction, event::takes};
use crate::database::{Database, DatabaseError};

/// Rows of one statement.
const ROWS: usize = 64;
/// Inbox rows that are removed at once.
const REMOVED: i64 = 1000;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The tables.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) pool: AnyPool,
}

/// Events that wait, of all copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) events: i64,
    /// When the oldest was made.
    pub(super) since: Option<Timestamp>,
}

/// A queue and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) queue: String,
    pub(super) topics: Vec<String>,
}

impl Bound {
    pub(super) fn wants(&self, topic: &str) -> bool {
        self.topics.iter().any(|pattern| takes(pattern, topic))
    }
}

/// Brings the bus's tables up to date.
pub async fn migrate(database: &Database) -> Result<(), DatabaseError> {
    database.migrate("bus", &MIGRATIONS).await
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn key(id: Uuid) -> String {
    id.simple().to_string()
}

/// `($1, $2), ($3, $4)` …
fn places(rows: usize, columns: usize) -> String {
    let row = |row: usize| (1..=columns).map(|column| format!("${}", row * columns + column)).collect::<Vec<_>>().join(", ");
    (0..rows).map(|number| format!("({})", row(number))).collect::<Vec<_>>().join(", ")
}

fn event(row: &AnyRow) -> Result<Event, sqlx::Error> {
    let (id, body, time): (String, String, i64) = (row.try_get("id")?, row.try_get("body")?, row.try_get("time")?);
    let wrong = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
    Ok(Event {
        id: Uuid::try_parse(&id).map_err(|error| wrong(error.into()))?,
        topic: row.try_get("topic")?,
        domain: row.try_get("domain")?,
        time: Timestamp::from_millisecond(time).map_err(|error| wrong(error.into()))?,
        body: serde_json::from_str(&body).map_err(|error| wrong(error.into()))?,
    })
}

type Bind<'q> = Query<'q, Any, sqlx::any::AnyArguments>;

fn bind_event<'q>(query: Bind<'q>, event: &Event) -> Bind<'q> {
    query.bind(event.topic.clone()).bind(event.domain.clone()).bind(event.time.as_millisecond()).bind(event.body.to_string())
}

impl Store {
    pub(super) async fn open(database: &Database) -> Result<Self, DatabaseError> {
        migrate(database).await?;
        Ok(Self { pool: database.pool().clone() })
    }

    pub(super) async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        self.pool.begin().await
    }

    // --- on their way out

    pub(super) async fn put(&self, transaction: &mut Transaction, copy: &str, events: &[Event]) -> Result<(), sqlx::Error> {
        for some in events.chunks(ROWS) {
            let sql = format!("INSERT INTO bus_outbox (id, copy, topic, domain, time, body) VALUES {}", places(some.len(), 6));
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for event in some {
                query = bind_event(query.bind(key(event.id)).bind(copy.to_owned()), event);
            }
            query.execute(&mut **transaction).await?;
        }
        Ok(())
    }

    /// The next events of a copy.
    pub(super) async fn next(&self, copy: &str, most: i64) -> Result<Vec<Event>, sqlx::Error> {
        let query = sqlx::query("SELECT id, topic, domain, time, body FROM bus_outbox WHERE copy = $1 ORDER BY id LIMIT $2");
        query.bind(copy.to_owned()).bind(most).fetch_all(&self.pool).await?.iter().map(event).collect()
    }

    /// They are out.
    pub(super) async fn sent(&self, transaction: &mut Transaction, ids: &[Uuid]) -> Result<(), sqlx::Error> {
        for some in ids.chunks(ROWS) {
            let sql = format!("DELETE FROM bus_outbox WHERE id IN {}", places(1, some.len()));
            let query = some.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, id| query.bind(key(*id)));
            query.execute(&mut **transaction).await?;
        }
        Ok(())
    }

    pub(super) async fn waiting(&self) -> Result<Waiting, sqlx::Error> {
        let row = sqlx::query("SELECT COUNT(*) AS events, MIN(time) AS since FROM bus_outbox").fetch_one(&self.pool).await?;
        let since: Option<i64> = row.try_get("since")?;
        Ok(Waiting { events: row.try_get("events")?, since: since.and_then(|since| Timestamp::from_millisecond(since).ok()) })
    }

    // --- copies

    /// A copy lives, and will until the lease is over.
    pub(super) async fn live(&self, copy: &str, lease: Duration) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO bus_copies (copy, until) VALUES ($1, $2) ON CONFLICT (copy) DO UPDATE SET until = excluded.until")
            .bind(copy.to_owned())
            .bind(now().saturating_add(millis(lease)))
            .execute(&self.pool)
            .await
            .map(drop)
    }

    /// Takes over the events of copies that do not live any more; how many. Of two that try one gets each.
    pub(super) async fn adopt(&self, copy: &str) -> Result<u64, sqlx::Error> {
        let adopted =
            sqlx::query("UPDATE bus_outbox SET copy = $1 WHERE copy <> $1 AND copy NOT IN (SELECT copy FROM bus_copies WHERE until > $2)")
                .bind(copy.to_owned())
                .bind(now())
                .execute(&self.pool)
                .await?;
        // Long enough ago that nobody is only late.
        let old = now().saturating_sub(24 * 3600 * 1000);
        sqlx::query("DELETE FROM bus_copies WHERE until < $1").bind(old).execute(&self.pool).await?;
        Ok(adopted.rows_affected())
    }

    /// A copy ends.
    pub(super) async fn leave(&self, copy: &str) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM bus_copies WHERE copy = $1").bind(copy.to_owned()).execute(&self.pool).await.map(drop)
    }

    // --- queues

    pub(super) async fn bind(&self, queue: &str, topics: &[&str]) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO bus_queues (queue, topics) VALUES ($1, $2) ON CONFLICT (queue) DO UPDATE SET topics = excluded.topics")
            .bind(queue.to_owned())
            .bind(topics.join(" "))
            .execute(&self.pool)
            .await
            .map(drop)
    }

    pub(super) async fn bound(&self) -> Result<Vec<Bound>, sqlx::Error> {
        let rows = sqlx::query("SELECT queue, topics FROM bus_queues ORDER BY queue").fetch_all(&self.pool).await?;
        let bound = |row: &AnyRow| {
            let topics: String = row.try_get("topics")?;
            Ok(Bound { queue: row.try_get("queue")?, topics: topics.split(' ').map(str::to_owned).collect() })
        };
        rows.iter().map(bound).collect()
    }

    /// Puts an event into a queue of the database.
    pub(super) async fn enqueue(&self, transaction: &mut Transaction, queue: &str, event: &Event) -> Result<(), sqlx::Error> {
        let query = sqlx::query(
            "INSERT INTO bus_queued (queue, id, topic, domain, time, body) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (queue, id) DO NOTHING",
        );
        bind_event(query.bind(queue.to_owned()).bind(key(event.id)), event).execute(&mut **transaction).await.map(drop)
    }

    pub(super) async fn queued(&self, queue: &str, most: i64) -> Result<Vec<Event>, sqlx::Error> {
        let query = sqlx::query("SELECT id, topic, domain, time, body FROM bus_queued WHERE queue = $1 ORDER BY id LIMIT $2");
        query.bind(queue.to_owned()).bind(most).fetch_all(&self.pool).await?.iter().map(event).collect()
    }

    pub(super) async fn dequeue(&self, transaction: &mut Transaction, queue: &str, id: Uuid) -> Result<(), sqlx::Error> {
        let query = sqlx::query("DELETE FROM bus_queued WHERE queue = $1 AND id = $2");
        query.bind(queue.to_owned()).bind(key(id)).execute(&mut **transaction).await.map(drop)
    }

    // --- what was handled

    /// Writes down that a queue has handled an event; false: it has already.
    pub(super) async fn first(&self, transaction: &mut Transaction, queue: &str, id: Uuid) -> Result<bool, sqlx::Error> {
        let query = sqlx::query("INSERT INTO bus_inbox (queue, id, time) VALUES ($1, $2, $3) ON CONFLICT (queue, id) DO NOTHING");
        let inserted = query.bind(queue.to_owned()).bind(key(id)).bind(now()).execute(&mut **transaction).await?;
        Ok(inserted.rows_affected() == 1)
    }

    /// Forgets what was handled long ago; how much.
    pub(super) async fn forget(&self, older: Duration) -> Result<u64, sqlx::Error> {
        let (before, mut all) = (now().saturating_sub(millis(older)), 0);
        loop {
            let removed = sqlx::query(
                "DELETE FROM bus_inbox WHERE time < $1 AND id IN (SELECT id FROM bus_inbox WHERE time < $1 ORDER BY time LIMIT $2)",
            )
            .bind(before)
            .bind(REMOVED)
            .execute(&self.pool)
            .await?
            .rows_affected();
            all += removed;
            if removed == 0 {
                return Ok(all);
            }
        }
    }

    // --- dead letters of the database

    pub(super) async fn bury(&self, transaction: &mut Transaction, queue: &str, event: &Event, error: &str) -> Result<(), sqlx::Error> {
        let query = sqlx::query(
            "INSERT INTO bus_dead (queue, id, topic, domain, time, body, died, error) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (queue, id) DO UPDATE SET died = excluded.died, error = excluded.error",
        );
        let query = bind_event(query.bind(queue.to_owned()).bind(key(event.id)), event);
        query.bind(now()).bind(error.to_owned()).execute(&mut **transaction).await?;
        self.dequeue(transaction, queue, event.id).await
    }

    pub(super) async fn dead(&self, queue: &str, most: i64) -> Result<Vec<(Event, Timestamp, String)>, sqlx::Error> {
        let query = sqlx::query("SELECT id, topic, domain, time, body, died, error FROM bus_dead WHERE queue = $1 ORDER BY id LIMIT $2");
        let rows = query.bind(queue.to_owned()).bind(most).fetch_all(&self.pool).await?;
        let dead = |row: &AnyRow| {
            let died: i64 = row.try_get("died")?;
            Ok((event(row)?, Timestamp::from_millisecond(died).unwrap_or_default(), row.try_get("error")?))
        };
        rows.iter().map(dead).collect()
    }

    pub(super) async fn exhume(&self, transaction: &mut Transaction, queue: &str, id: Uuid) -> Result<bool, sqlx::Error> {
        let query = sqlx::query("DELETE FROM bus_dead WHERE queue = $1 AND id = $2");
        Ok(query.bind(queue.to_owned()).bind(key(id)).execute(&mut **transaction).await?.rows_affected() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_row_by_row() {
        assert_eq!(places(2, 3), "($1, $2, $3), ($4, $5, $6)");
        assert_eq!(places(1, 2), "($1, $2)");
    }
}
