//! Authorization codes and what they are exchanged for. A code is good once, and so is each refresh token: who comes with a used one has
//! stolen it or was robbed, and everything that came of it ends (RFC 9700, 4.14).

use sqlx::{AnyConnection, AssertSqlSafe, any::AnyRow};
use uuid::Uuid;

use super::{Store, number, optional, text};

/// An authorization code before it has an id.
#[derive(Debug, Clone)]
pub struct NewCode<'a> {
    /// The tenant.
    pub domain: &'a str,
    /// For whom it is.
    pub client: &'a str,
    /// In which session it was given.
    pub session_id: &'a str,
    /// Where it was sent.
    pub redirect_uri: &'a str,
    /// What it is for.
    pub scope: &'a str,
    /// Goes into the ID token.
    pub nonce: Option<&'a str>,
    /// SHA-256 of the verifier (RFC 7636).
    pub challenge: Option<&'a str>,
    /// Until when.
    pub expires: i64,
}

/// An authorization code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// For whom it is.
    pub client: String,
    /// In which session it was given.
    pub session_id: String,
    /// Where it was sent.
    pub redirect_uri: String,
    /// What it is for.
    pub scope: String,
    /// Goes into the ID token.
    pub nonce: Option<String>,
    /// SHA-256 of the verifier.
    pub challenge: Option<String>,
    /// Until when.
    pub expires: i64,
}

/// What a client may do for a user in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: String,
    /// Whose.
    pub client: String,
    /// For whom.
    pub user_id: String,
    /// In which session.
    pub session_id: String,
    /// What for.
    pub scope: String,
    /// Goes into ID tokens.
    pub nonce: Option<String>,
    /// The number of its refresh token.
    pub generation: i64,
}

/// What came of a code.
#[derive(Debug)]
pub enum Redeemed {
    /// It is used now, and this is granted.
    Grant(Grant),
    /// It was used before; what came of it is revoked.
    Reused,
}

/// What came of a refresh token.
#[derive(Debug)]
pub enum Rotated {
    /// It is used now; the next one has the grant's generation.
    Grant(Grant),
    /// It was used before; the whole grant is revoked.
    Reused,
    /// It was revoked.
    Gone,
}

const GRANT: &str = "id, client, user_id, session_id, scope, nonce, generation";

impl Store {
    /// Keeps a code; its id.
    pub async fn put_code(&self, code: &NewCode<'_>) -> Result<String, sqlx::Error> {
        let id = Uuid::now_v7().to_string();
        sqlx::query(
            "INSERT INTO sso_codes (id, domain, client, session_id, redirect_uri, scope, nonce, challenge, expires) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(&id)
        .bind(code.domain)
        .bind(code.client)
        .bind(code.session_id)
        .bind(code.redirect_uri)
        .bind(code.scope)
        .bind(code.nonce.map(str::to_owned))
        .bind(code.challenge.map(str::to_owned))
        .bind(code.expires)
        .execute(&self.pool)
        .await?;
        Ok(id)
    }

    /// A code, used or not.
    pub async fn code(&self, domain: &str, id: &str) -> Result<Option<Code>, sqlx::Error> {
        let query = sqlx::query(
            "SELECT client, session_id, redirect_uri, scope, nonce, challenge, expires FROM sso_codes WHERE domain = $1 AND id = $2",
        );
        let row = query.bind(domain).bind(id).fetch_optional(&self.pool).await?;
        row.map(|row| {
            Ok(Code {
                client: text(&row, "client")?,
                session_id: text(&row, "session_id")?,
                redirect_uri: text(&row, "redirect_uri")?,
                scope: text(&row, "scope")?,
                nonce: optional(&row, "nonce")?,
                challenge: optional(&row, "challenge")?,
                expires: number(&row, "expires")?,
            })
        })
        .transpose()
    }

    /// Exchanges a code for a grant. Of two who come at the same time, one comes second.
    pub async fn redeem(&self, domain: &str, id: &str, code: &Code, user_id: &str, now: i64) -> Result<Redeemed, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let grant_id = Uuid::now_v7().to_string();
        let first = sqlx::query("UPDATE sso_codes SET grant_id = $3 WHERE domain = $1 AND id = $2 AND grant_id IS NULL");
        if first.bind(domain).bind(id).bind(&grant_id).execute(&mut *transaction).await?.rows_affected() == 0 {
            let revoked = sqlx::query(
                "UPDATE sso_grants SET revoked = $3 WHERE revoked IS NULL AND id IN (SELECT grant_id FROM sso_codes WHERE domain = $1 AND id = $2)",
            );
            revoked.bind(domain).bind(id).bind(now).execute(&mut *transaction).await?;
            transaction.commit().await?;
            return Ok(Redeemed::Reused);
        }
        let grant = Grant {
            id: grant_id,
            client: code.client.clone(),
            user_id: user_id.to_owned(),
            session_id: code.session_id.clone(),
            scope: code.scope.clone(),
            nonce: code.nonce.clone(),
            generation: 1,
        };
        insert(&mut transaction, domain, &grant, now).await?;
        transaction.commit().await?;
        Ok(Redeemed::Grant(grant))
    }

    /// Grants without a code.
    pub async fn put_grant(&self, domain: &str, grant: &Grant, now: i64) -> Result<(), sqlx::Error> {
        insert(&mut *self.pool.acquire().await?, domain, grant, now).await
    }

    /// Uses a refresh token, which we are known to have made.
    pub async fn rotate(&self, domain: &str, id: &str, generation: i64, now: i64) -> Result<Rotated, sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(format!(
            "UPDATE sso_grants SET generation = generation + 1 WHERE domain = $1 AND id = $2 AND generation = $3 AND revoked IS NULL RETURNING {GRANT}"
        )));
        if let Some(row) = query.bind(domain).bind(id).bind(generation).fetch_optional(&self.pool).await? {
            return grant(&row).map(Rotated::Grant);
        }
        let revoked =
            sqlx::query("UPDATE sso_grants SET revoked = $4 WHERE domain = $1 AND id = $2 AND generation > $3 AND revoked IS NULL");
        let reused = revoked.bind(domain).bind(id).bind(generation).bind(now).execute(&self.pool).await?.rows_affected() == 1;
        Ok(if reused { Rotated::Reused } else { Rotated::Gone })
    }

    /// A grant that is good.
    pub async fn grant(&self, domain: &str, id: &str) -> Result<Option<Grant>, sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(format!("SELECT {GRANT} FROM sso_grants WHERE domain = $1 AND id = $2 AND revoked IS NULL")));
        query.bind(domain).bind(id).fetch_optional(&self.pool).await?.as_ref().map(grant).transpose()
    }

    /// Revokes a client's grant.
    pub async fn revoke(&self, domain: &str, client: &str, id: &str, now: i64) -> Result<(), sqlx::Error> {
        let query = sqlx::query("UPDATE sso_grants SET revoked = $4 WHERE domain = $1 AND client = $2 AND id = $3 AND revoked IS NULL");
        query.bind(domain).bind(client).bind(id).bind(now).execute(&self.pool).await.map(drop)
    }

    /// The clients that have something in a session.
    pub async fn clients_of(&self, session_id: &str) -> Result<Vec<String>, sqlx::Error> {
        let query = sqlx::query("SELECT DISTINCT client FROM sso_grants WHERE session_id = $1 AND revoked IS NULL ORDER BY client");
        query.bind(session_id).fetch_all(&self.pool).await?.iter().map(|row| text(row, "client")).collect()
    }
}

async fn insert(connection: &mut AnyConnection, domain: &str, grant: &Grant, now: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO sso_grants (id, domain, client, user_id, session_id, scope, nonce, generation, created) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&grant.id)
    .bind(domain)
    .bind(&grant.client)
    .bind(&grant.user_id)
    .bind(&grant.session_id)
    .bind(&grant.scope)
    .bind(grant.nonce.clone())
    .bind(grant.generation)
    .bind(now)
    .execute(connection)
    .await
    .map(drop)
}

fn grant(row: &AnyRow) -> Result<Grant, sqlx::Error> {
    Ok(Grant {
        id: text(row, "id")?,
        client: text(row, "client")?,
        user_id: text(row, "user_id")?,
        session_id: text(row, "session_id")?,
        scope: text(row, "scope")?,
        nonce: optional(row, "nonce")?,
        generation: number(row, "generation")?,
    })
}
