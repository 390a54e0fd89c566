//! Devices that wait for somebody to enter their code elsewhere (RFC 8628).

use super::{Store, number, optional, text};

/// How much longer a device that asks too often has to wait (RFC 8628, 3.5).
const SLOWER: i64 = 5000;

/// A device that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The hash of its code.
    pub id: String,
    /// Its program.
    pub client: String,
    /// What it wants.
    pub scope: String,
    /// What somebody has said.
    pub state: DeviceState,
}

/// What somebody has said about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceState {
    /// Nothing yet.
    Pending,
    /// Yes, in this session.
    Approved(String),
    /// No.
    Denied,
    /// It has its tokens.
    Used,
}

/// What a device that asks is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// There is no such device.
    Unknown,
    /// It asks too often.
    SlowDown,
    /// How things stand; when approved, this was the one time.
    Device(Device),
}

impl Store {
    /// Keeps a device. False: the code that people enter is taken.
    #[expect(clippy::too_many_arguments, reason = "the columns")]
    pub async fn put_device(
        &self,
        domain: &str,
        id: &str,
        client: &str,
        user_code: &str,
        scope: &str,
        expires: i64,
        interval: i64,
    ) -> Result<bool, sqlx::Error> {
        let query = sqlx::query(
            "INSERT INTO sso_devices (id, domain, client, user_code, scope, expires, interval, last_polled, state) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 'pending') ON CONFLICT DO NOTHING",
        );
        let query = query.bind(id).bind(domain).bind(client).bind(user_code).bind(scope).bind(expires).bind(interval);
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// The device of a code that somebody has entered.
    pub async fn device(&self, domain: &str, user_code: &str, now: i64) -> Result<Option<Device>, sqlx::Error> {
        let query = sqlx::query(
            "SELECT id, client, scope, state, session_id FROM sso_devices WHERE domain = $1 AND user_code = $2 AND expires > $3",
        );
        query.bind(domain).bind(user_code).bind(now).fetch_optional(&self.pool).await?.map(|row| device(&row)).transpose()
    }

    /// Somebody has decided. False: it was decided before, or it is too late.
    pub async fn decide(&self, domain: &str, user_code: &str, session_id: Option<&str>, now: i64) -> Result<bool, sqlx::Error> {
        let query = sqlx::query(
            "UPDATE sso_devices SET state = $3, session_id = $4 WHERE domain = $1 AND user_code = $2 AND state = 'pending' AND expires > $5",
        );
        let state = if session_id.is_some() { "approved" } else { "denied" };
        let query = query.bind(domain).bind(user_code).bind(state).bind(session_id.map(str::to_owned)).bind(now);
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// A device asks how things stand.
    pub async fn poll(&self, domain: &str, client: &str, id: &str, now: i64) -> Result<Poll, sqlx::Error> {
        let query = sqlx::query(
            "SELECT id, client, scope, state, session_id, interval, last_polled FROM sso_devices WHERE domain = $1 AND client = $2 AND id = $3 AND expires > $4",
        );
        let Some(row) = query.bind(domain).bind(client).bind(id).bind(now).fetch_optional(&self.pool).await? else {
            return Ok(Poll::Unknown);
        };
        let early = number(&row, "last_polled")? + number(&row, "interval")? > now;
        let slower = if early { SLOWER } else { 0 };
        let query = sqlx::query("UPDATE sso_devices SET last_polled = $3, interval = interval + $4 WHERE domain = $1 AND id = $2");
        query.bind(domain).bind(id).bind(now).bind(slower).execute(&self.pool).await?;
        if early {
            return Ok(Poll::SlowDown);
        }
        let device = device(&row)?;
        if matches!(device.state, DeviceState::Approved(_)) {
            let used = sqlx::query("UPDATE sso_devices SET state = 'used' WHERE domain = $1 AND id = $2 AND state = 'approved'");
            if used.bind(domain).bind(id).execute(&self.pool).await?.rows_affected() == 0 {
                return Ok(Poll::Device(Device { state: DeviceState::Used, ..device }));
            }
        }
        Ok(Poll::Device(device))
    }
}

fn device(row: &sqlx::any::AnyRow) -> Result<Device, sqlx::Error> {
    let state = match (text(row, "state")?.as_str(), optional(row, "session_id")?) {
        ("pending", _) => DeviceState::Pending,
        ("approved", Some(session)) => DeviceState::Approved(session),
        ("used", _) => DeviceState::Used,
        _ => DeviceState::Denied,
    };
    Ok(Device { id: text(row, "id")?, client: text(row, "client")?, scope: text(row, "scope")?, state })
}
