//! People, their sessions and their second factors.

use sqlx::{AssertSqlSafe, Row, any::AnyRow};
use uuid::Uuid;

use super::{Store, number, optional, text};
use crate::{people::Person, vault};

/// Somebody who has signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The `sub`.
    pub id: String,
    /// The tenant.
    pub domain: String,
    /// The subscriber's number.
    pub alias: String,
    /// The name.
    pub name: Option<String>,
    /// The mail address.
    pub email: Option<String>,
    /// The roles.
    pub roles: Vec<String>,
    /// When it was last seen that the person exists.
    pub checked: i64,
}

/// A browser or a device that is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The `sid`.
    pub id: String,
    /// The tenant.
    pub domain: String,
    /// Whose.
    pub user_id: String,
    /// How they proved who they are (RFC 8176).
    pub methods: Vec<String>,
    /// When.
    pub signed_in: i64,
    /// The last use.
    pub last_used: i64,
    /// From where.
    pub address: String,
    /// With what.
    pub agent: String,
    secret: String,
}

/// A session that has been opened.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its id.
    pub id: String,
    /// What its cookie holds.
    pub cookie: String,
}

/// A client that has to be told of a session's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// Of this message.
    pub id: String,
    /// The tenant.
    pub domain: String,
    /// Who is told.
    pub client: String,
    /// Whose session.
    pub user_id: String,
    /// Which.
    pub session_id: String,
    /// How often it was tried.
    pub attempts: i64,
}

const USER: &str = "SELECT id, domain, alias, name, email, roles, checked FROM sso_users";
const SESSION: &str = "SELECT id, domain, user_id, secret, methods, signed_in, last_used, address, agent FROM sso_sessions";

impl Store {
    /// Writes down who somebody is; their id stays the same.
    pub async fn put_user(&self, domain: &str, person: &Person, now: i64) -> Result<User, sqlx::Error> {
        let roles = serde_json::to_string(&person.roles).unwrap_or_else(|_| "[]".to_owned());
        let row = sqlx::query(
            "INSERT INTO sso_users (id, domain, alias, name, email, roles, created, checked) VALUES ($1, $2, $3, $4, $5, $6, $7, $7) \
             ON CONFLICT (domain, alias) DO UPDATE SET name = excluded.name, email = excluded.email, roles = excluded.roles, \
             checked = excluded.checked RETURNING id, domain, alias, name, email, roles, checked",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(domain)
        .bind(&person.alias)
        .bind(person.name.clone())
        .bind(person.email.clone())
        .bind(roles)
        .bind(now)
        .fetch_one(&self.pool)
        .await?;
        user(&row)
    }

    /// Somebody by their id.
    pub async fn user(&self, domain: &str, id: &str) -> Result<Option<User>, sqlx::Error> {
        let row = sqlx::query(AssertSqlSafe(format!("{USER} WHERE domain = $1 AND id = $2")));
        row.bind(domain).bind(id).fetch_optional(&self.pool).await?.as_ref().map(user).transpose()
    }

    /// Somebody by their number.
    pub async fn user_of(&self, domain: &str, alias: &str) -> Result<Option<User>, sqlx::Error> {
        let row = sqlx::query(AssertSqlSafe(format!("{USER} WHERE domain = $1 AND alias = $2")));
        row.bind(domain).bind(alias).fetch_optional(&self.pool).await?.as_ref().map(user).transpose()
    }

    /// Opens a session.
    pub async fn open_session(&self, user: &User, methods: &[&str], address: &str, agent: &str, now: i64) -> Result<Opened, sqlx::Error> {
        let (id, secret) = (Uuid::now_v7().to_string(), vault::random().map_err(|error| sqlx::Error::Encode(Box::new(error)))?);
        sqlx::query(
            "INSERT INTO sso_sessions (id, domain, user_id, secret, methods, signed_in, last_used, address, agent) \
             VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8)",
        )
        .bind(&id)
        .bind(&user.domain)
        .bind(&user.id)
        .bind(vault::hash(&secret))
        .bind(methods.join(" "))
        .bind(now)
        .bind(address)
        .bind(agent)
        .execute(&self.pool)
        .await?;
        Ok(Opened { cookie: format!("{id}.{secret}"), id })
    }

    /// Somebody has proved anew who they are, in a session of theirs: it goes on, with another secret.
    pub async fn renew_session(
        &self,
        session_id: &str,
        methods: &[&str],
        address: &str,
        agent: &str,
        now: i64,
    ) -> Result<Opened, sqlx::Error> {
        let secret = vault::random().map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        let query = sqlx::query(
            "UPDATE sso_sessions SET secret = $2, methods = $3, signed_in = $4, last_used = $4, address = $5, agent = $6 WHERE id = $1",
        );
        let query = query.bind(session_id).bind(vault::hash(&secret)).bind(methods.join(" ")).bind(now).bind(address).bind(agent);
        query.execute(&self.pool).await?;
        Ok(Opened { id: session_id.to_owned(), cookie: format!("{session_id}.{secret}") })
    }

    /// The session of a cookie, if it is one of this domain that is still good.
    pub async fn session_of(&self, domain: &str, cookie: &str, alive: (i64, i64)) -> Result<Option<(Session, User)>, sqlx::Error> {
        let Some((id, secret)) = cookie.split_once('.') else { return Ok(None) };
        let session = self.session(domain, id, alive).await?;
        Ok(session.filter(|(session, _)| vault::same(&session.secret, &vault::hash(secret))))
    }

    /// A session that is still good: used since the first time of `alive`, opened since the second.
    pub async fn session(&self, domain: &str, id: &str, alive: (i64, i64)) -> Result<Option<(Session, User)>, sqlx::Error> {
        // One question, since every refresh asks it.
        let row = sqlx::query(
            "SELECT s.id AS session_id, s.secret, s.methods, s.signed_in, s.last_used, s.address, s.agent, \
             u.id, u.domain, u.alias, u.name, u.email, u.roles, u.checked \
             FROM sso_sessions s JOIN sso_users u ON u.id = s.user_id \
             WHERE s.domain = $1 AND s.id = $2 AND s.ended IS NULL AND s.last_used >= $3 AND s.signed_in >= $4",
        );
        let row = row.bind(domain).bind(id).bind(alive.0).bind(alive.1).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let user = user(&row)?;
        Ok(Some((of_user(&row, "session_id", user.domain.clone(), user.id.clone())?, user)))
    }

    /// The sessions of a user that are still good, the last used first.
    pub async fn sessions(&self, domain: &str, user_id: &str, alive: (i64, i64)) -> Result<Vec<Session>, sqlx::Error> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "{SESSION} WHERE domain = $1 AND user_id = $2 AND ended IS NULL AND last_used >= $3 AND signed_in >= $4 ORDER BY last_used DESC LIMIT 200"
        )));
        rows.bind(domain).bind(user_id).bind(alive.0).bind(alive.1).fetch_all(&self.pool).await?.iter().map(session).collect()
    }

    /// The session was used.
    pub async fn touch(&self, session_id: &str, now: i64) -> Result<(), sqlx::Error> {
        let query = sqlx::query("UPDATE sso_sessions SET last_used = $2 WHERE id = $1 AND last_used < $2");
        query.bind(session_id).bind(now).execute(&self.pool).await.map(drop)
    }

    /// Ends a session with all that was granted in it; `told` are the clients that want to know. Whether it was there.
    pub async fn end_session(&self, domain: &str, session_id: &str, told: &[String], now: i64) -> Result<bool, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let ended = sqlx::query("UPDATE sso_sessions SET ended = $3 WHERE domain = $1 AND id = $2 AND ended IS NULL RETURNING user_id");
        let Some(row) = ended.bind(domain).bind(session_id).bind(now).fetch_optional(&mut *transaction).await? else { return Ok(false) };
        let user_id = text(&row, "user_id")?;
        let clients = sqlx::query("SELECT DISTINCT client FROM sso_grants WHERE session_id = $1").bind(session_id);
        for row in clients.fetch_all(&mut *transaction).await? {
            let client = text(&row, "client")?;
            if told.contains(&client) {
                sqlx::query("INSERT INTO sso_logouts (id, domain, client, user_id, session_id, attempts, next, created) VALUES ($1, $2, $3, $4, $5, 0, $6, $6)")
                    .bind(Uuid::now_v7().to_string())
                    .bind(domain)
                    .bind(client)
                    .bind(&user_id)
                    .bind(session_id)
                    .bind(now)
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        let grants = sqlx::query("UPDATE sso_grants SET revoked = $2 WHERE session_id = $1 AND revoked IS NULL");
        grants.bind(session_id).bind(now).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Takes messages that are due, and puts each off until `again`, so that no other copy sends it meanwhile.
    pub async fn farewells(&self, now: i64, again: i64) -> Result<Vec<Farewell>, sqlx::Error> {
        let due =
            sqlx::query("SELECT id, next FROM sso_logouts WHERE next <= $1 ORDER BY next LIMIT 50").bind(now).fetch_all(&self.pool).await?;
        let mut taken = Vec::new();
        for row in due {
            let query = sqlx::query(
                "UPDATE sso_logouts SET next = $3, attempts = attempts + 1 WHERE id = $1 AND next = $2 \
                 RETURNING id, domain, client, user_id, session_id, attempts",
            );
            let row = query.bind(text(&row, "id")?).bind(number(&row, "next")?).bind(again).fetch_optional(&self.pool).await?;
            if let Some(row) = row {
                taken.push(Farewell {
                    id: text(&row, "id")?,
                    domain: text(&row, "domain")?,
                    client: text(&row, "client")?,
                    user_id: text(&row, "user_id")?,
                    session_id: text(&row, "session_id")?,
                    attempts: number(&row, "attempts")?,
                });
            }
        }
        Ok(taken)
    }

    /// A message was taken, or is given up.
    pub async fn told(&self, id: &str) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM sso_logouts WHERE id = $1").bind(id).execute(&self.pool).await.map(drop)
    }

    /// A message is sent again at a time.
    pub async fn tell_again(&self, id: &str, next: i64) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE sso_logouts SET next = $2 WHERE id = $1").bind(id).bind(next).execute(&self.pool).await.map(drop)
    }

    // === second factors

    /// The sealed secret of somebody's authenticator app.
    pub async fn totp(&self, user_id: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        let row = sqlx::query("SELECT sealed FROM sso_totp WHERE user_id = $1").bind(user_id).fetch_optional(&self.pool).await?;
        row.map(|row| row.try_get("sealed")).transpose()
    }

    /// Keeps a new secret; its first code has been used.
    pub async fn put_totp(&self, user_id: &str, sealed: Vec<u8>, step: i64, now: i64) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO sso_totp (user_id, sealed, last_step, created) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (user_id) DO UPDATE SET sealed = excluded.sealed, last_step = excluded.last_step, created = excluded.created",
        )
        .bind(user_id)
        .bind(sealed)
        .bind(step)
        .bind(now)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Uses the code of a step; whether it was not used before.
    pub async fn use_totp(&self, user_id: &str, step: i64) -> Result<bool, sqlx::Error> {
        let query = sqlx::query("UPDATE sso_totp SET last_step = $2 WHERE user_id = $1 AND last_step < $2");
        Ok(query.bind(user_id).bind(step).execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Removes somebody's second factor; whether there was one.
    pub async fn remove_totp(&self, user_id: &str) -> Result<bool, sqlx::Error> {
        Ok(sqlx::query("DELETE FROM sso_totp WHERE user_id = $1").bind(user_id).execute(&self.pool).await?.rows_affected() == 1)
    }
}

fn user(row: &AnyRow) -> Result<User, sqlx::Error> {
    Ok(User {
        id: text(row, "id")?,
        domain: text(row, "domain")?,
        alias: text(row, "alias")?,
        name: optional(row, "name")?,
        email: optional(row, "email")?,
        roles: serde_json::from_str(&text(row, "roles")?).unwrap_or_default(),
        checked: number(row, "checked")?,
    })
}

fn session(row: &AnyRow) -> Result<Session, sqlx::Error> {
    of_user(row, "id", text(row, "domain")?, text(row, "user_id")?)
}

fn of_user(row: &AnyRow, id: &str, domain: String, user_id: String) -> Result<Session, sqlx::Error> {
    Ok(Session {
        id: text(row, id)?,
        domain,
        user_id,
        secret: text(row, "secret")?,
        methods: text(row, "methods")?.split(' ').map(str::to_owned).collect(),
        signed_in: number(row, "signed_in")?,
        last_used: number(row, "last_used")?,
        address: text(row, "address")?,
        agent: text(row, "agent")?,
    })
}
