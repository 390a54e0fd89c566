//! Local accounts, in our own database: for operators, and for domains whose people neither the switch nor a directory knows.

use elph_kit::database::Database;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Serialize;
use sqlx::{AnyPool, Row, any::AnyRow};

use super::{
    Refusal, is_alias,
    password::{Checked, HashError, Hasher, weakness},
};

/// The longest login, name, mail address or role.
const LONGEST: usize = 256;
const COLUMNS: &str = "domain, login, alias, name, email, password_hash, roles, disabled, created, password_changed";

/// An account, without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The domain.
    pub domain: String,
    /// What is typed to sign in, in lower case.
    pub login: String,
    /// The subscriber's number.
    pub alias: String,
    /// The name.
    pub name: Option<String>,
    /// The mail address.
    pub email: Option<String>,
    /// The roles.
    pub roles: Vec<String>,
    /// Nobody signs in with it.
    pub disabled: bool,
    /// When it was made.
    pub created: Timestamp,
    /// When its password was set.
    pub password_changed: Timestamp,
}

/// An account that is to be made.
#[derive(Debug, Clone, Default)]
pub struct NewAccount {
    /// The domain.
    pub domain: String,
    /// What is typed to sign in.
    pub login: String,
    /// The subscriber's number; none: the login is it.
    pub alias: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// The mail address.
    pub email: Option<String>,
    /// The roles.
    pub roles: Vec<String>,
}

/// All local accounts. Its table is among the migrations of the crate.
#[derive(Clone)]
pub struct Accounts {
    pool: AnyPool,
    hasher: Hasher,
}

/// Why an account could not be seen to.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Something that was given is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The login or the number is in use.
    #[error("the domain has an account with this login or this number")]
    Taken,
    /// There is no such account.
    #[error("the domain has no such account")]
    Unknown,
    /// No hash.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The database.
    #[error("the database cannot be asked")]
    Database(#[from] sqlx::Error),
}

impl From<AccountError> for Refusal {
    fn from(error: AccountError) -> Self {
        Self::Unavailable(elph_shell::told(&error))
    }
}

// === impl Accounts ===

impl Accounts {
    /// Those of a database whose tables are up to date.
    pub fn new(database: &Database) -> Result<Self, HashError> {
        Ok(Self { pool: database.pool().clone(), hasher: Hasher::new()? })
    }

    /// Makes one.
    pub async fn add(&self, account: &NewAccount, password: &SecretString) -> Result<Account, AccountError> {
        let login = login(&account.login)?;
        let alias = account.alias.clone().unwrap_or_else(|| login.clone());
        if !is_alias(&alias) {
            return Err(AccountError::Invalid(format!("'{alias}' is no subscriber's number; take letters, digits and + * # . _ -")));
        }
        for (what, text) in [("name", &account.name), ("mail address", &account.email)] {
            if text.as_ref().is_some_and(|text| text.trim().is_empty() || text.len() > LONGEST || text.chars().any(char::is_control)) {
                return Err(AccountError::Invalid(format!("the {what} is empty, too long or has control characters")));
            }
        }
        let roles = roles(&account.roles)?;
        let mut names = vec![login.as_str(), &alias];
        names.extend(account.name.as_deref());
        if let Some(weakness) = weakness(password, &names) {
            return Err(AccountError::Invalid(weakness));
        }
        let hash = self.hasher.hash(password).await?;
        let now = Timestamp::now().as_millisecond();
        let done = sqlx::query(
            "INSERT INTO sso_accounts (domain, login, alias, name, email, password_hash, roles, disabled, created, password_changed) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9) ON CONFLICT DO NOTHING",
        )
        .bind(account.domain.clone())
        .bind(login.clone())
        .bind(alias)
        .bind(account.name.clone())
        .bind(account.email.clone())
        .bind(hash)
        .bind(roles.join(" "))
        .bind(now)
        .bind(now)
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 0 {
            return Err(AccountError::Taken);
        }
        self.find(&account.domain, &login).await?.map(|(account, _)| account).ok_or(AccountError::Unknown)
    }

    /// Gives it another password.
    pub async fn set_password(&self, domain: &str, login_typed: &str, password: &SecretString) -> Result<(), AccountError> {
        let login = login(login_typed)?;
        let (account, _) = self.find(domain, &login).await?.ok_or(AccountError::Unknown)?;
        let mut names = vec![login.as_str(), &account.alias];
        names.extend(account.name.as_deref());
        if let Some(weakness) = weakness(password, &names) {
            return Err(AccountError::Invalid(weakness));
        }
        let hash = self.hasher.hash(password).await?;
        let query = sqlx::query("UPDATE sso_accounts SET password_hash = $1, password_changed = $2 WHERE domain = $3 AND login = $4");
        let now = Timestamp::now().as_millisecond();
        changed(query.bind(hash).bind(now).bind(domain.to_owned()).bind(login).execute(&self.pool).await?.rows_affected())
    }

    /// Lets nobody sign in with it any more, or again.
    pub async fn set_disabled(&self, domain: &str, login_typed: &str, disabled: bool) -> Result<(), AccountError> {
        let query = sqlx::query("UPDATE sso_accounts SET disabled = $1 WHERE domain = $2 AND login = $3");
        let query = query.bind(i64::from(disabled)).bind(domain.to_owned()).bind(login(login_typed)?);
        changed(query.execute(&self.pool).await?.rows_affected())
    }

    /// Gives it these roles and no others.
    pub async fn set_roles(&self, domain: &str, login_typed: &str, given: &[String]) -> Result<(), AccountError> {
        let query = sqlx::query("UPDATE sso_accounts SET roles = $1 WHERE domain = $2 AND login = $3");
        let query = query.bind(roles(given)?.join(" ")).bind(domain.to_owned()).bind(login(login_typed)?);
        changed(query.execute(&self.pool).await?.rows_affected())
    }

    /// Removes it.
    pub async fn remove(&self, domain: &str, login_typed: &str) -> Result<(), AccountError> {
        let query = sqlx::query("DELETE FROM sso_accounts WHERE domain = $1 AND login = $2");
        changed(query.bind(domain.to_owned()).bind(login(login_typed)?).execute(&self.pool).await?.rows_affected())
    }

    /// A page of a domain's accounts, in the order of their logins, after a login.
    pub async fn list(&self, domain: &str, after: &str, most: u32) -> Result<Vec<Account>, AccountError> {
        let text = format!("SELECT {COLUMNS} FROM sso_accounts WHERE domain = $1 AND login > $2 ORDER BY login LIMIT $3");
        let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(domain.to_owned()).bind(after.to_owned()).bind(i64::from(most));
        let rows = query.fetch_all(&self.pool).await?;
        Ok(rows.iter().map(|row| read(row).map(|(account, _)| account)).collect::<Result<_, _>>()?)
    }

    /// Who has this login and this password.
    pub(super) async fn authenticate(&self, domain: &str, typed: &str, password: &SecretString) -> Result<Account, Refusal> {
        let found = match login(typed) {
            Ok(login) => self.find(domain, &login).await.map_err(AccountError::from)?,
            Err(_) => None,
        };
        let hash = found.as_ref().map(|(_, hash)| hash.clone());
        let checked = self.hasher.check(password, hash.clone()).await.map_err(AccountError::from)?;
        let account = match (found, checked) {
            (Some((account, _)), Checked::Right | Checked::Outdated) if !account.disabled => account,
            _ => return Err(Refusal::Wrong),
        };
        if let (Checked::Outdated, Some(old)) = (checked, hash) {
            // The old one is as good for this time.
            if let Err(error) = self.hash_anew(&account, password, old).await {
                tracing::warn!(error = elph_shell::told(&error), "a password could not be hashed anew");
            }
        }
        Ok(account)
    }

    /// Who has this number.
    pub(super) async fn still(&self, domain: &str, alias: &str) -> Result<Account, Refusal> {
        let text = format!("SELECT {COLUMNS} FROM sso_accounts WHERE domain = $1 AND alias = $2");
        let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(domain.to_owned()).bind(alias.to_owned());
        let row = query.fetch_optional(&self.pool).await.map_err(AccountError::from)?;
        let account = row.as_ref().map(read).transpose().map_err(AccountError::from)?.map(|(account, _)| account);
        account.filter(|account| !account.disabled).ok_or(Refusal::Wrong)
    }

    async fn find(&self, domain: &str, login: &str) -> Result<Option<(Account, String)>, sqlx::Error> {
        let text = format!("SELECT {COLUMNS} FROM sso_accounts WHERE domain = $1 AND login = $2");
        let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(domain.to_owned()).bind(login.to_owned());
        query.fetch_optional(&self.pool).await?.as_ref().map(read).transpose()
    }

    async fn hash_anew(&self, account: &Account, password: &SecretString, old: String) -> Result<(), AccountError> {
        let hash = self.hasher.hash(password).await?;
        // Unless it was set to another meanwhile.
        let query = sqlx::query("UPDATE sso_accounts SET password_hash = $1 WHERE domain = $2 AND login = $3 AND password_hash = $4");
        query.bind(hash).bind(account.domain.clone()).bind(account.login.clone()).bind(old).execute(&self.pool).await?;
        Ok(())
    }
}

fn changed(rows: u64) -> Result<(), AccountError> {
    if rows == 0 { Err(AccountError::Unknown) } else { Ok(()) }
}

/// A login as it is kept.
fn login(typed: &str) -> Result<String, AccountError> {
    let login = typed.trim().to_lowercase();
    if login.is_empty() || login.len() > LONGEST || login.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(AccountError::Invalid(format!("a login has 1 to {LONGEST} characters, none of them blank")));
    }
    Ok(login)
}

fn roles(given: &[String]) -> Result<Vec<String>, AccountError> {
    let fits = |role: &&String| !role.is_empty() && role.len() <= 64 && !role.contains(|c: char| c.is_control() || c.is_whitespace());
    if let Some(bad) = given.iter().find(|role| !fits(role)) {
        return Err(AccountError::Invalid(format!("'{}' is no role; take 1 to 64 characters, none of them blank", bad.escape_debug())));
    }
    let mut roles = given.to_vec();
    roles.sort();
    roles.dedup();
    Ok(roles)
}

fn read(row: &AnyRow) -> Result<(Account, String), sqlx::Error> {
    let time = |name: &str| Ok::<_, sqlx::Error>(Timestamp::from_millisecond(row.try_get(name)?).unwrap_or_default());
    let account = Account {
        domain: row.try_get("domain")?,
        login: row.try_get("login")?,
        alias: row.try_get("alias")?,
        name: row.try_get("name")?,
        email: row.try_get("email")?,
        roles: row.try_get::<String, _>("roles")?.split_whitespace().map(str::to_owned).collect(),
        disabled: row.try_get::<i64, _>("disabled")? != 0,
        created: time("created")?,
        password_changed: time("password_changed")?,
    };
    Ok((account, row.try_get("password_hash")?))
}
