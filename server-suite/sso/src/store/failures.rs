//! Who guesses has to wait: after some failures for one login, or many from one address for whatever logins. An attempt counts before it is
//! made, so that many at the same time are many.

use super::{Store, number};
use crate::{settings::Lockout, vault};

/// Whose failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of one login: guessing its password or its codes.
    Login,
    /// Of one address: trying one password on many logins, or codes of devices.
    Address,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Address => "address",
        }
    }

    /// For how long to wait after so many failures.
    pub(crate) fn wait(self, lockout: &Lockout, count: i64) -> i64 {
        let millis = |span: elph_shell::config::Span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX);
        match self {
            Self::Login if count >= i64::from(lockout.attempts) => {
                let doubled = (count - i64::from(lockout.attempts)).clamp(0, 20);
                millis(lockout.wait).saturating_mul(1 << doubled).min(millis(lockout.longest))
            }
            Self::Address if count >= i64::from(lockout.attempts_per_address) => millis(lockout.longest),
            _ => 0,
        }
    }
}

impl Store {
    /// Begins an attempt. `Err`: not before that time.
    pub async fn attempt(&self, kind: Kind, key: &str, lockout: &Lockout, now: i64) -> Result<Result<(), i64>, sqlx::Error> {
        let key = vault::hash(key);
        let forget = now - i64::try_from(lockout.forget.0.as_millis()).unwrap_or(i64::MAX);
        let query = sqlx::query(
            "INSERT INTO sso_failures (kind, key, count, last, locked_until) VALUES ($1, $2, 1, $3, 0) \
             ON CONFLICT (kind, key) DO UPDATE SET \
             count = CASE WHEN sso_failures.locked_until > $3 THEN sso_failures.count WHEN sso_failures.last < $4 THEN 1 ELSE sso_failures.count + 1 END, \
             last = $3 RETURNING count, locked_until",
        );
        let row = query.bind(kind.name()).bind(&key).bind(now).bind(forget).fetch_one(&self.pool).await?;
        let (count, locked_until) = (number(&row, "count")?, number(&row, "locked_until")?);
        if locked_until > now {
            return Ok(Err(locked_until));
        }
        let wait = kind.wait(lockout, count);
        if wait > 0 {
            // This attempt is still made; the next one has to wait.
            let query = sqlx::query("UPDATE sso_failures SET locked_until = $3 WHERE kind = $1 AND key = $2 AND locked_until < $3");
            query.bind(kind.name()).bind(&key).bind(now + wait).execute(&self.pool).await?;
        }
        Ok(Ok(()))
    }

    /// The attempt was a good one. A login's failures are forgotten; an address only gets this one back.
    pub async fn succeeded(&self, kind: Kind, key: &str) -> Result<(), sqlx::Error> {
        let query = match kind {
            Kind::Login => "DELETE FROM sso_failures WHERE kind = $1 AND key = $2",
            Kind::Address => "UPDATE sso_failures SET count = count - 1, locked_until = 0 WHERE kind = $1 AND key = $2 AND count > 0",
        };
        sqlx::query(query).bind(kind.name()).bind(vault::hash(key)).execute(&self.pool).await.map(drop)
    }

    /// The attempt could not be made: it does not count.
    pub async fn not_made(&self, kind: Kind, key: &str) -> Result<(), sqlx::Error> {
        let query = sqlx::query("UPDATE sso_failures SET count = count - 1, locked_until = 0 WHERE kind = $1 AND key = $2 AND count > 0");
        query.bind(kind.name()).bind(vault::hash(key)).execute(&self.pool).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_after_the_allowed_ones_doubles_the_wait_up_to_the_longest() {
        let lockout = Lockout::default();
        let waits: Vec<i64> = (4..12).map(|count| Kind::Login.wait(&lockout, count) / 1000).collect();
        assert_eq!(waits, [0, 30, 60, 120, 240, 480, 900, 900]);
        assert_eq!((Kind::Address.wait(&lockout, 49), Kind::Address.wait(&lockout, 50)), (0, 900_000));
    }
}
