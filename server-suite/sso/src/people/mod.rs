//! Who somebody is: the switch, a directory or local accounts check the password and say which subscriber it is of. A source that cannot
//! be asked is never taken for a refusal: nobody is locked out or thrown out because a server is down.

mod ecss;
mod ldap;
mod local;
mod password;
mod settings;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use elph_kit::{Kit, database::Database, switches::Switches};
use secrecy::{ExposeSecret, SecretString};

use self::{ecss::Ecss, ldap::Directory};
pub use self::{
    local::{Account, AccountError, Accounts, NewAccount},
    password::HashError,
    settings::{GroupLookup, LdapSettings, RealmSettings, RoleSettings, SourceKind, Totp, check},
};

/// The longest login and the longest password that anybody is asked about, in bytes.
const LONGEST: (usize, usize) = (256, 1024);

/// A person, as the source vouches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The subscriber's number as the switch names it.
    pub alias: String,
    /// The name.
    pub name: Option<String>,
    /// The mail address.
    pub email: Option<String>,
    /// The roles, in order.
    pub roles: Vec<String>,
}

/// Why nobody was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Wrong login or password, unknown, disabled, or gone: which of them is not told.
    Wrong,
    /// The password is right, but the switch has no such subscriber.
    NotSubscriber,
    /// Cannot be asked now, and why, for the log. The person is told to try again; it counts as no failed attempt.
    Unavailable(String),
}

/// Everybody of every domain. Clones share connections.
#[derive(Clone)]
pub struct People(Arc<HashMap<String, Realm>>);

struct Realm {
    settings: RealmSettings,
    source: Source,
    ecss: Ecss,
}

enum Source {
    Ecss,
    Ldap(Box<Directory>),
    Local(Accounts),
}

/// Who a source says it is, before the switch was asked whether there is such a subscriber.
struct Known {
    alias: String,
    name: Option<String>,
    email: Option<String>,
    roles: Vec<String>,
    groups: Vec<String>,
}

// === impl People ===

impl People {
    /// The realms, and every other domain of the switches with its subscribers. Fails with the key at fault and why.
    pub fn new(realms: &[RealmSettings], kit: &Kit) -> Result<Self, (String, String)> {
        Self::of(realms, &kit.switches, &kit.database)
    }

    fn of(realms: &[RealmSettings], switches: &Arc<Switches>, database: &Database) -> Result<Self, (String, String)> {
        let ecss = Ecss::new(switches.clone());
        let mut people = HashMap::new();
        for (index, settings) in realms.iter().enumerate() {
            let key = |inner: &str| format!("sso.realms[{index}].{inner}");
            let source = match (settings.source, &settings.ldap) {
                (SourceKind::Ecss, _) => Source::Ecss,
                (SourceKind::Local, _) => {
                    Source::Local(Accounts::new(database).map_err(|error| (key("source"), elph_shell::told(&error)))?)
                }
                (SourceKind::Ldap, None) => return Err((key("ldap"), "is missing; source is ldap".to_owned())),
                (SourceKind::Ldap, Some(ldap)) => {
                    let directory =
                        Directory::new(ldap, settings.groups()).map_err(|(inner, what)| (key(&format!("ldap.{inner}")), what))?;
                    Source::Ldap(Box::new(directory))
                }
            };
            people.insert(settings.domain.clone(), Realm { settings: settings.clone(), source, ecss: ecss.clone() });
        }
        for domain in switches.domains() {
            let realm = || Realm { settings: RealmSettings::of(domain), source: Source::Ecss, ecss: ecss.clone() };
            people.entry(domain.to_owned()).or_insert_with(realm);
        }
        Ok(Self(Arc::new(people)))
    }

    /// Whose people can sign in.
    pub fn domains(&self) -> Vec<String> {
        let mut domains: Vec<String> = self.0.keys().cloned().collect();
        domains.sort();
        domains
    }

    /// Whether and how a second factor is asked for.
    pub fn totp(&self, domain: &str) -> Totp {
        self.0.get(domain).map(|realm| realm.settings.totp).unwrap_or_default()
    }

    /// Checks a password. It may take as long as the source's time-out.
    pub async fn authenticate(&self, domain: &str, login: &str, password: &SecretString) -> Result<Person, Refusal> {
        let login = login.trim();
        let length = password.expose_secret().len();
        // An empty password would be no bind but an anonymous one (RFC 4513, 5.1.2), which succeeds for everybody.
        let refused = login.is_empty() || login.len() > LONGEST.0 || login.chars().any(char::is_control);
        if refused || length == 0 || length > LONGEST.1 || password.expose_secret().contains('\0') {
            return Err(Refusal::Wrong);
        }
        let realm = self.0.get(domain).ok_or(Refusal::Wrong)?;
        let known = match &realm.source {
            Source::Ecss => {
                // Who knows the subscriber's password is one.
                let alias = realm.ecss.authenticate(domain, login, password).await?;
                return Ok(realm.person(Known::nobody(alias)));
            }
            Source::Ldap(directory) => directory.sign_in(login, password).await?.known()?,
            Source::Local(accounts) => accounts.authenticate(domain, login, password).await?.known(),
        };
        realm.subscriber(domain, known).await
    }

    /// Whether a person is still there, and with which roles: asked when tokens are refreshed. `Wrong`: gone.
    pub async fn still(&self, domain: &str, alias: &str) -> Result<Person, Refusal> {
        let realm = self.0.get(domain).ok_or(Refusal::Wrong)?;
        let known = match &realm.source {
            Source::Ecss => Known::nobody(alias.to_owned()),
            Source::Ldap(directory) => directory.still(alias).await?.known()?,
            Source::Local(accounts) => accounts.still(domain, alias).await?.known(),
        };
        match realm.subscriber(domain, known).await {
            Err(Refusal::NotSubscriber) => Err(Refusal::Wrong),
            other => other,
        }
    }
}

// === impl Realm ===

impl Realm {
    /// Asks the switch whether there is such a subscriber.
    async fn subscriber(&self, domain: &str, mut known: Known) -> Result<Person, Refusal> {
        if self.settings.require_subscriber || matches!(self.source, Source::Ecss) {
            known.alias = match self.ecss.subscriber(domain, &known.alias).await {
                Err(Refusal::Wrong) => return Err(Refusal::NotSubscriber),
                other => other?,
            };
        }
        Ok(self.person(known))
    }

    fn person(&self, known: Known) -> Person {
        let Known { alias, name, email, mut roles, groups } = known;
        let given =
            self.settings.roles.iter().filter(|role| role.aliases.contains(&alias) || role.groups.iter().any(|it| groups.contains(it)));
        roles.extend(given.map(|role| role.role.clone()));
        roles.sort();
        roles.dedup();
        Person { alias, name, email, roles }
    }
}

// === impl Known ===

impl Known {
    fn nobody(alias: String) -> Self {
        Self { alias, name: None, email: None, roles: Vec::new(), groups: Vec::new() }
    }
}

impl ldap::Entry {
    fn known(self) -> Result<Known, Refusal> {
        let alias = self.alias.ok_or(Refusal::NotSubscriber)?;
        Ok(Known { alias, name: self.name, email: self.email, roles: Vec::new(), groups: self.groups })
    }
}

impl Account {
    fn known(self) -> Known {
        Known { alias: self.alias, name: self.name, email: self.email, roles: self.roles, groups: Vec::new() }
    }
}

/// Looks at each server of a realm's directory, for `doctor`: its address, and what is wrong with it. Nothing for other realms. Fails with
/// the key at fault and why.
pub async fn look(realm: &RealmSettings) -> Result<Vec<(String, Result<(), String>)>, (String, String)> {
    match (&realm.ldap, realm.source) {
        (Some(ldap), SourceKind::Ldap) => Ok(Directory::new(ldap, realm.groups())?.look().await),
        _ => Ok(Vec::new()),
    }
}

/// Whether a text can be a subscriber's number.
fn is_alias(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "+*#._-".contains(c))
}
