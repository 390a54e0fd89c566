//! `[[grants]]`: which caller may do what in which domains. A caller that no grant names may do nothing.

use std::{collections::BTreeSet, fmt, str::FromStr};

use ecss_switch::Domain;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{Problem, SwitchDomain};

/// What one kind of caller may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantEntry {
    /// The caller's name in logs, metrics and the audit log.
    pub name: String,
    /// Who the caller is; any one of these is enough.
    pub who: Vec<Who>,
    /// The domains it may see and act in: names, or "*" for all that are served.
    pub domains: Vec<DomainName>,
    /// What it may do: "calls", "conferences", "push", "directory", "events", "admin"; with ":read" for looking only.
    pub scopes: Vec<ScopeEntry>,
    /// Whether a command on a conference must carry the moderator's OIDC access token.
    #[serde(default)]
    pub moderator_token: ModeratorToken,
}

/// How a caller is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The user id of a process at the Unix socket.
    Uid(u32),
    /// The primary group id of a process at the Unix socket.
    Gid(u32),
    /// The user name of a process at the Unix socket.
    User(String),
    /// The primary group's name of a process at the Unix socket.
    Group(String),
    /// A DNS name in the client certificate's subjectAltName.
    Dns(String),
    /// A URI in the client certificate's subjectAltName.
    Uri(String),
    /// The client certificate's subject common name.
    CommonName(String),
    /// SHA-256 of the client certificate (DER) in hexadecimal digits, with or without colons.
    Fingerprint(Fingerprint),
}

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

/// A domain's name, or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DomainName {
    /// Every domain that is served.
    All,
    /// This one.
    One(Domain),
}

/// What may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `CallService`.
    Calls,
    /// `ConferenceService`.
    Conferences,
    /// `PushService`.
    Push,
    /// `DirectoryService`.
    Directory,
    /// `EventService`.
    Events,
    /// `AgentService`'s commands.
    Admin,
}

/// A scope, or the reading half of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ScopeEntry {
    /// What.
    pub scope: Scope,
    /// Whether changing is allowed as well.
    pub mutating: bool,
}

/// Whether a moderator's token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModeratorToken {
    /// A command on a conference without a valid token is refused. Any token that comes with another command is verified.
    Required,
    /// A token that comes is verified; none is needed.
    #[default]
    Optional,
    /// Tokens are not looked at; the caller acts in its own name.
    Ignored,
}

const SCOPES: [(Scope, &str); 6] = [
    (Scope::Calls, "calls"),
    (Scope::Conferences, "conferences"),
    (Scope::Push, "push"),
    (Scope::Directory, "directory"),
    (Scope::Events, "events"),
    (Scope::Admin, "admin"),
];

// === impl Scope ===

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCOPES.iter().find(|(scope, _)| scope == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for ScopeEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, mutating) = text.strip_suffix(":read").map_or((text, true), |name| (name, false));
        let found = SCOPES.iter().find(|(_, known)| *known == name);
        let scope = found.map(|(scope, _)| *scope).ok_or_else(|| {
            let names: Vec<&'static str> = SCOPES.iter().map(|(_, name)| *name).collect();
            let hint = elph_shell::config::nearest(name, &names).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            format!("'{text}' is not known{hint}; allowed: {}, each also with :read", names.join(", "))
        })?;
        Ok(Self { scope, mutating })
    }
}

impl TryFrom<String> for ScopeEntry {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ScopeEntry> for String {
    fn from(entry: ScopeEntry) -> Self {
        format!("{}{}", entry.scope, if entry.mutating { "" } else { ":read" })
    }
}

impl JsonSchema for ScopeEntry {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scope".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<String> = SCOPES.iter().flat_map(|(_, name)| [(*name).to_owned(), format!("{name}:read")]).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}

// === impl DomainName ===

impl TryFrom<String> for DomainName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text == "*" { Ok(Self::All) } else { Domain::parse(&text).map(Self::One).map_err(|error| error.to_string()) }
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        match name {
            DomainName::All => "*".to_owned(),
            DomainName::One(domain) => domain.into(),
        }
    }
}

impl JsonSchema for DomainName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DomainName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

// === impl Fingerprint ===

impl TryFrom<String> for Fingerprint {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let refuse = || "is no SHA-256 fingerprint; must be 64 hexadecimal digits, colons between pairs are allowed".to_owned();
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        if digits.len() != 64 || !digits.is_ascii() {
            return Err(refuse());
        }
        let mut bytes = [0_u8; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let pair = digits.get(index * 2..index * 2 + 2).ok_or_else(refuse)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refuse())?;
        }
        Ok(Self(bytes))
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for Fingerprint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Fingerprint".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

// === checks ===

pub(super) fn check(grants: &[GrantEntry], domains: &[SwitchDomain], issuers: usize, problems: &mut Vec<Problem>) {
    let served: BTreeSet<&Domain> = domains.iter().map(|domain| &domain.name).collect();
    for (index, grant) in grants.iter().enumerate() {
        let mut say = |key: &str, what: String| problems.push(Problem::new(format!("grants[{index}].{key}"), what));
        if grant.name.is_empty() || grant.name.len() > 64 || grant.name.chars().any(char::is_control) {
            say("name", "must be 1 to 64 printable characters".into());
        }
        if grants.iter().take(index).any(|other| other.name == grant.name) {
            say("name", format!("'{}' stands here twice; each grant has its own name", grant.name));
        }
        for (key, empty) in [("who", grant.who.is_empty()), ("domains", grant.domains.is_empty()), ("scopes", grant.scopes.is_empty())] {
            if empty {
                say(key, "is empty; the grant would allow nothing to anybody".into());
            }
        }
        for (place, who) in grant.who.iter().enumerate() {
            if grants.iter().take(index).any(|other| other.who.contains(who)) {
                say(&format!("who[{place}]"), "is named by an earlier grant; each caller has one grant".into());
            }
        }
        for (place, name) in grant.domains.iter().enumerate() {
            if let DomainName::One(domain) = name
                && !served.contains(domain)
            {
                let names: Vec<&str> = served.iter().map(|domain| domain.as_str()).collect();
                let key = format!("domains[{place}]");
                say(&key, format!("'{domain}' is not among switch.domains; allowed: *, {}", names.join(", ")));
            }
        }
        if grant.moderator_token == ModeratorToken::Required && issuers == 0 {
            let what = "is \"required\", but there is no [[oidc.issuers]]; add one, or choose \"optional\" or \"ignored\"";
            say("moderator_token", what.into());
        }
    }
}
