//! People of an LDAP directory or Active Directory. The searching account finds the entry of a login, the password is tried by binding
//! as that entry, and attributes and groups say who it is. Every question has one deadline for all servers together. A directory that is
//! down or slow is told apart from one that knows nobody: only the second ends anything.

mod filter;
mod wire;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use elph_shell::{config::PasswordSource, tls};
use parking_lot::Mutex;
use rasn_ldap::{ResultCode, SearchResultEntry};
use rustls::{ClientConfig, RootCertStore};
use secrecy::SecretString;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

pub(super) use self::filter::Template;
pub(super) use self::wire::Server;
use self::{
    filter::Filter,
    wire::{Connection, Found, Outcome, Search, WireError},
};
use super::{
    Refusal, is_alias,
    settings::{GroupLookup, LdapSettings},
};

/// A server that failed is asked last for so long.
const AWAY: Duration = Duration::from_secs(30);
/// Bit of `userAccountControl`: the account is disabled.
const ACCOUNT_DISABLED: i64 = 2;
/// `accountExpires` counts from 1601 in units of 100 ns.
const SECONDS_TO_1970: i64 = 11_644_473_600;
/// Tells disabled and expired accounts of Active Directory and of 389 Directory Server.
const STATE_ATTRIBUTES: [&str; 3] = ["userAccountControl", "accountExpires", "nsAccountLock"];
/// How many people with one number are looked at.
const SAME_NUMBER: usize = 8;

/// A directory.
pub(super) struct Directory {
    settings: LdapSettings,
    servers: Vec<Server>,
    template: Template,
    secret: Option<PasswordSource>,
    tls: Arc<ClientConfig>,
    slots: Semaphore,
    /// Until when each server is asked last.
    away: Mutex<Vec<Option<Instant>>>,
    /// Groups that mean something.
    groups: Vec<String>,
}

/// A person of the directory.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    /// None: the entry has no number.
    pub(super) alias: Option<String>,
    pub(super) name: Option<String>,
    pub(super) email: Option<String>,
    /// Those of the configured groups the person is in.
    pub(super) groups: Vec<String>,
}

#[derive(Clone, Copy)]
enum Question<'a> {
    SignIn { login: &'a str, password: &'a SecretString },
    Still { alias: &'a str },
}

/// Why there is no answer: the directory's, or no server could give one.
enum Failure {
    Refused(Refusal),
    Server(String),
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Server(elph_shell::told(&error))
    }
}

// === impl Directory ===

impl Directory {
    /// Reads its files. Fails with the key at fault and why.
    pub(super) fn new(settings: &LdapSettings, groups: Vec<String>) -> Result<Self, (String, String)> {
        let wrong = |key: &'static str| move |what: String| (key.to_owned(), what);
        let servers = settings.servers.iter().map(|text| Server::parse(text, settings.start_tls)).collect::<Result<Vec<_>, _>>();
        let servers = servers.map_err(wrong("servers"))?;
        let roots = match &settings.ca_file {
            Some(path) => tls::authorities(path).map_err(wrong("ca_file"))?,
            None => {
                let mut roots = RootCertStore::empty();
                let known = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs).0;
                if known == 0 && servers.iter().any(|server| !server.is_plain()) {
                    return Err(("ca_file".to_owned(), "is missing, and the system has no authorities".to_owned()));
                }
                roots
            }
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = versions.map_err(|error| ("servers".to_owned(), elph_shell::told(&error)))?;
        let tls = Arc::new(tls.with_root_certificates(roots).with_no_client_auth());
        let secret = settings.secret().map_err(|problem| (problem.key, problem.what))?;
        if let Some(source) = &secret {
            let key = source.place("password").map_or_else(|_| "password".to_owned(), |(key, _)| key);
            source.read().map_err(|what| (key, what))?;
        }
        let template = Template::parse(&settings.filter).map_err(wrong("filter"))?;
        let away = Mutex::new(vec![None; servers.len()]);
        let slots = Semaphore::new(usize::try_from(settings.max_connections).unwrap_or(1));
        Ok(Self { settings: settings.clone(), servers, template, secret, tls, slots, away, groups })
    }

    /// Finds who a login is of and tries the password.
    pub(super) async fn sign_in(&self, login: &str, password: &SecretString) -> Result<Entry, Refusal> {
        self.ask(Question::SignIn { login, password }).await
    }

    /// Finds who has a subscriber's number now.
    pub(super) async fn still(&self, alias: &str) -> Result<Entry, Refusal> {
        self.ask(Question::Still { alias }).await
    }

    /// Looks at each server in turn: whether it lets the searching account in and shows the base and the groups that have roles.
    pub(super) async fn look(&self) -> Vec<(String, Result<(), String>)> {
        let mut looks = Vec::new();
        for server in &self.servers {
            let look = match timeout(self.settings.timeout.0, Box::pin(self.shows(server))).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(Failure::Server(why) | Failure::Refused(Refusal::Unavailable(why)))) => Err(why),
                Ok(Err(Failure::Refused(_))) => Err("shows nothing".to_owned()),
                Err(_) => Err("did not answer in time".to_owned()),
            };
            looks.push((server.to_string(), look));
        }
        looks
    }

    async fn shows(&self, server: &Server) -> Result<(), Failure> {
        let mut connection = Connection::open(server, &self.tls).await?;
        if self.secret.is_some() {
            self.bind(&mut connection).await?;
        }
        for name in std::iter::once(&self.settings.base).chain(&self.groups) {
            let search = Search { base: name, whole: false, filter: Filter::anything(), attributes: &["objectClass"], most: 1 };
            match connection.search(search).await? {
                Ok(found) if found.entries.is_empty() => return Err(Failure::Server(format!("does not show {name}"))),
                Ok(_) => {}
                Err(outcome) if outcome.code.0 == ResultCode::NoSuchObject => {
                    return Err(Failure::Server(format!("has no {name}, or does not show it")));
                }
                Err(outcome) => return Err(refused("the search", outcome)),
            }
        }
        connection.close().await;
        Ok(())
    }

    async fn ask(&self, question: Question<'_>) -> Result<Entry, Refusal> {
        let deadline = Instant::now() + self.settings.timeout.0;
        let Ok(Ok(_slot)) = timeout_at(deadline, self.slots.acquire()).await else {
            return Err(Refusal::Unavailable("the directory has more questions than it answers".to_owned()));
        };
        let mut troubles = Vec::new();
        let order = self.order();
        for (asked, index) in order.iter().copied().enumerate() {
            let Some(server) = self.servers.get(index) else { continue };
            // What is left of the time is shared by the servers that are left.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(order.len() - asked).unwrap_or(1).max(1);
            let trouble = match timeout(share, Box::pin(self.exchange(server, question))).await {
                Ok(Ok(entry)) => return Ok(entry),
                Ok(Err(Failure::Refused(refusal))) => return Err(refusal),
                Ok(Err(Failure::Server(why))) => why,
                Err(_) => "did not answer in time".to_owned(),
            };
            if let Some(away) = self.away.lock().get_mut(index) {
                *away = Some(Instant::now() + AWAY);
            }
            tracing::warn!(%server, error = trouble, "the directory's server cannot be asked");
            troubles.push(format!("{server} {trouble}"));
        }
        Err(Refusal::Unavailable(format!("no server of the directory answers: {}", troubles.join("; "))))
    }

    /// As configured, but those that failed a short while ago last.
    fn order(&self) -> Vec<usize> {
        let (now, away) = (Instant::now(), self.away.lock());
        let (last, first): (Vec<usize>, Vec<usize>) =
            (0..self.servers.len()).partition(|index| away.get(*index).copied().flatten().is_some_and(|until| until > now));
        first.into_iter().chain(last).collect()
    }

    async fn exchange(&self, server: &Server, question: Question<'_>) -> Result<Entry, Failure> {
        let mut connection = Connection::open(server, &self.tls).await?;
        if self.secret.is_some() {
            self.bind(&mut connection).await?;
        }
        let outcome = match question {
            Question::SignIn { login, password } => self.signed_in(&mut connection, login, password).await,
            Question::Still { alias } => self.found(&mut connection, alias).await,
        };
        connection.close().await;
        outcome
    }

    /// Becomes the searching account, or nobody.
    async fn bind(&self, connection: &mut Connection) -> Result<(), Failure> {
        let (name, password) = match (&self.settings.bind_dn, &self.secret) {
            (Some(name), Some(source)) => {
                // Read each time: the file may have been changed together with the password.
                let source = source.clone();
                let read = tokio::task::spawn_blocking(move || source.read()).await;
                let password = read.map_err(|error| Failure::Server(elph_shell::told(&error)))?;
                (name.as_str(), Some(password.map_err(|what| Failure::Server(format!("is not asked: the password {what}")))?))
            }
            _ => ("", None),
        };
        let outcome = connection.bind(name, password.as_ref()).await?;
        match outcome.code.0 {
            ResultCode::Success => Ok(()),
            _ => Err(refused("the searching account", outcome)),
        }
    }

    async fn signed_in(&self, connection: &mut Connection, login: &str, password: &SecretString) -> Result<Entry, Failure> {
        let wrong = || Failure::Refused(Refusal::Wrong);
        let found = self.search(connection, self.template.of(login), 2).await?;
        if found.more || found.entries.len() > 1 {
            tracing::warn!(base = self.settings.base, "a login finds more than one person of the directory, who cannot sign in by it");
        }
        let alone = if found.more { None } else { <[SearchResultEntry; 1]>::try_from(found.entries).ok() };
        let Some([entry]) = alone.filter(|[entry]| !is_disabled(entry) && !entry.object_name.is_empty()) else {
            // Asked all the same, of a name that nobody has: how long it takes must not tell who is known.
            connection.bind(&format!("cn={},{}", uuid::Uuid::new_v4(), self.settings.base), Some(password)).await?;
            return Err(wrong());
        };
        let entry = &entry;
        let outcome = connection.bind(&entry.object_name, Some(password)).await?;
        match outcome.code.0 {
            ResultCode::Success => {}
            ResultCode::OperationsError
            | ResultCode::ProtocolError
            | ResultCode::AuthMethodNotSupported
            | ResultCode::StrongerAuthRequired
            | ResultCode::Referral
            | ResultCode::AdminLimitExceeded
            | ResultCode::ConfidentialityRequired
            | ResultCode::Busy
            | ResultCode::Unavailable
            | ResultCode::Other => return Err(refused("the sign-in", outcome)),
            // The wrong password, and all that a directory says of accounts that are locked, expired or have none.
            _ => return Err(wrong()),
        }
        // The person need not be allowed to search.
        self.bind(connection).await?;
        if let Some(alias) = self.alias(entry) {
            self.alone(connection, &entry.object_name, &alias).await?;
        }
        self.person(connection, entry).await
    }

    async fn found(&self, connection: &mut Connection, alias: &str) -> Result<Entry, Failure> {
        let having = self.having(connection, alias).await?;
        match having.as_slice() {
            [entry] if is_disabled(entry) => Err(Failure::Refused(Refusal::Wrong)),
            [entry] => self.person(connection, entry).await,
            [] => {
                // A directory that shows nothing at all – emptied, or its searching account lost its rights – is no word on a person.
                let search =
                    Search { base: &self.settings.base, whole: false, filter: Filter::anything(), attributes: &["objectClass"], most: 1 };
                match connection.search(search).await? {
                    Ok(base) if base.entries.is_empty() => Err(Failure::Server("shows nothing, not even the base".to_owned())),
                    Ok(_) => Err(Failure::Refused(Refusal::Wrong)),
                    Err(outcome) => Err(refused("the base", outcome)),
                }
            }
            _ => Err(several()),
        }
    }

    /// Nobody else has the number: else who can write it into an own entry would be somebody else.
    async fn alone(&self, connection: &mut Connection, name: &str, alias: &str) -> Result<(), Failure> {
        let having = self.having(connection, alias).await?;
        if having.iter().any(|other| other.object_name.as_str() != name) { Err(several()) } else { Ok(()) }
    }

    async fn having(&self, connection: &mut Connection, alias: &str) -> Result<Vec<SearchResultEntry>, Failure> {
        let filter = self.template.having(&self.settings.alias_attribute, alias);
        let found = self.search(connection, filter, SAME_NUMBER).await?;
        if found.more {
            return Err(several());
        }
        // The directory compares telephone numbers loosely, the switch does not.
        Ok(found.entries.into_iter().filter(|entry| self.alias(entry).as_deref() == Some(alias)).collect())
    }

    async fn search(&self, connection: &mut Connection, filter: Filter, most: usize) -> Result<Found, Failure> {
        let settings = &self.settings;
        let mut attributes = vec![settings.alias_attribute.as_str(), &settings.name_attribute, &settings.email_attribute];
        attributes.extend(STATE_ATTRIBUTES);
        if settings.groups == GroupLookup::MemberOf && !self.groups.is_empty() {
            attributes.push("memberOf");
        }
        let search = Search { base: &settings.base, whole: true, filter, attributes: &attributes, most };
        connection.search(search).await?.map_err(|outcome| refused("the search", outcome))
    }

    async fn person(&self, connection: &mut Connection, entry: &SearchResultEntry) -> Result<Entry, Failure> {
        let text = |name: &str| values(entry, name).map(|text| text.trim().to_owned()).find(|text| !text.is_empty());
        Ok(Entry {
            alias: self.alias(entry),
            name: text(&self.settings.name_attribute),
            email: text(&self.settings.email_attribute),
            groups: self.groups_of(connection, entry).await?,
        })
    }

    fn alias(&self, entry: &SearchResultEntry) -> Option<String> {
        values(entry, &self.settings.alias_attribute).map(|text| text.trim().to_owned()).find(|text| is_alias(text))
    }

    async fn groups_of(&self, connection: &mut Connection, entry: &SearchResultEntry) -> Result<Vec<String>, Failure> {
        if self.settings.groups == GroupLookup::MemberOf {
            let mine: Vec<String> = values(entry, "memberOf").map(|name| comparable(&name)).collect();
            return Ok(self.groups.iter().filter(|group| mine.contains(&comparable(group))).cloned().collect());
        }
        let mut groups = Vec::new();
        for group in &self.groups {
            let attribute = &self.settings.member_attribute;
            let filter = match self.settings.groups {
                GroupLookup::Nested => Filter::member_in_chain(attribute, &entry.object_name),
                GroupLookup::Search | GroupLookup::MemberOf => Filter::equal(attribute, &entry.object_name),
            };
            let search = Search { base: group, whole: false, filter, attributes: &["objectClass"], most: 1 };
            match connection.search(search).await? {
                Ok(found) if found.entries.is_empty() => {}
                Ok(_) => groups.push(group.clone()),
                Err(outcome) if outcome.code.0 == ResultCode::NoSuchObject => {
                    tracing::warn!(group, "the directory has no such group; nobody has its roles");
                }
                Err(outcome) => return Err(refused("the search for groups", outcome)),
            }
        }
        Ok(groups)
    }
}

fn refused(what: &'static str, outcome: Outcome) -> Failure {
    WireError::Refused { what, outcome }.into()
}

fn several() -> Failure {
    Failure::Refused(Refusal::Unavailable("several people of the directory have this subscriber's number; give each an own one".to_owned()))
}

/// The values of an attribute that are text.
fn values(entry: &SearchResultEntry, name: &str) -> impl Iterator<Item = String> {
    let attribute = entry.attributes.iter().find(|attribute| attribute.r#type.eq_ignore_ascii_case(name));
    let values = attribute.map(|attribute| attribute.vals.to_vec()).unwrap_or_default();
    values.into_iter().filter_map(|bytes| String::from_utf8(bytes.to_vec()).ok())
}

fn is_disabled(entry: &SearchResultEntry) -> bool {
    let number = |name: &str| values(entry, name).find_map(|text| text.parse::<i64>().ok());
    let disabled = number("userAccountControl").is_some_and(|bits| bits & ACCOUNT_DISABLED != 0);
    let locked = values(entry, "nsAccountLock").any(|text| text.eq_ignore_ascii_case("true"));
    // Zero and the largest number mean never.
    let expires = number("accountExpires").filter(|at| *at > 0 && *at < i64::MAX);
    let expired = expires.is_some_and(|at| at / 10_000_000 - SECONDS_TO_1970 <= jiff::Timestamp::now().as_second());
    disabled || locked || expired
}

/// A distinguished name with nothing in it that does not matter.
fn comparable(name: &str) -> String {
    let parts = name.split(',').map(|part| part.split('=').map(str::trim).collect::<Vec<_>>().join("="));
    parts.collect::<Vec<_>>().join(",").to_lowercase()
}
