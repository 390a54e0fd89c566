//! `[switch]`: the ECSS-10 that is spoken to, by which protocols, in which dialect.

use std::path::{Path, PathBuf};

use ecss_switch::{Dialect, Domain, connect::Endpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PasswordSource, Problem, Secret, Span, read_bounded};

/// A dialect file's most bytes.
const DIALECT_LONGEST: u64 = 1 << 20;

/// The switch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Switch {
    /// The switch's domains (virtual PBXs) that this agent serves. Nothing of any other domain is read or shown.
    pub domains: Vec<SwitchDomain>,
    /// The built-in dialect to start from: "documented" uses only what the vendor documents or integrators have seen on a live
    /// switch; "sim" is the simulator's.
    pub dialect: DialectName,
    /// A TOML file whose fields replace those of the dialect.
    pub dialect_file: Option<PathBuf>,
    /// Fields that replace those of the dialect and of `dialect_file`, for example `[switch.dialect_overrides.call_api]`.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub dialect_overrides: toml::Table,
    /// The mediator's HTTP terminal (TCP 9999). Always needed: subscribers, conferences and call history come from it.
    pub terminal: Option<Terminal>,
    /// The Call API (TCP 8086), for call and conference control where its command names are known to the dialect.
    pub call_api: Option<CallApi>,
    /// CSTA (TCP 4721, TLS 4722), the documented call control.
    pub csta: Option<Csta>,
    /// How long a connection may be silent before it is given up and made anew (half-open TCP).
    pub half_open_after: Span,
    /// How long a connection attempt, TLS and login included, may take.
    pub connect_timeout: Span,
    /// How long the switch may take to answer a command.
    pub command_timeout: Span,
    /// How long the first node must have been well again before a link that runs on another node goes back to it.
    pub fail_back_after: Span,
}

/// A built-in dialect's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DialectName {
    /// Nothing beyond what is documented or was seen in the field.
    Documented,
    /// The simulator's.
    Sim,
}

/// One domain of the switch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchDomain {
    /// The domain's name on the switch, for example "biysk.local".
    #[schemars(with = "String")]
    pub name: Domain,
    /// The domain's CSTA password (`/api/csta/set` on the switch). Needed when `[switch.csta]` is set.
    #[serde(default)]
    pub csta: Option<DomainCsta>,
    /// The domain's Call API account. Needed when `[switch.call_api]` is set.
    #[serde(default)]
    pub call_api: Option<DomainCallApi>,
}

/// A domain's CSTA password. The user is the domain itself.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainCsta {
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// The name of a systemd credential (`LoadCredential=`) that holds the password.
    pub password_credential: Option<String>,
    /// The password itself. Better: one of the other two.
    pub password: Option<Secret>,
}

/// A domain's Call API account.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainCallApi {
    /// The login.
    pub login: String,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// The name of a systemd credential (`LoadCredential=`) that holds the password.
    pub password_credential: Option<String>,
    /// The password itself. Better: one of the other two.
    pub password: Option<Secret>,
}

/// The HTTP terminal.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// The mediator's addresses, the preferred one first: `["ecss1:9999", "ecss2:9999"]`.
    #[schemars(with = "Vec<String>")]
    pub nodes: Vec<Endpoint>,
    /// Whether to speak HTTPS.
    #[serde(default)]
    pub tls: bool,
    /// PEM certificates of the authority to trust with `tls`; the system's authorities when absent.
    pub ca_file: Option<PathBuf>,
    /// The CoCon user to log in as.
    pub login: String,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// The name of a systemd credential (`LoadCredential=`) that holds the password.
    pub password_credential: Option<String>,
    /// The password itself. Better: one of the other two.
    pub password: Option<Secret>,
}

/// The Call API.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallApi {
    /// The core nodes' addresses, the preferred one first: `["ecss1:8086", "ecss2:8086"]`.
    #[schemars(with = "Vec<String>")]
    pub nodes: Vec<Endpoint>,
    /// Whether to speak HTTPS and WSS.
    #[serde(default)]
    pub tls: bool,
    /// PEM certificates of the authority to trust with `tls`; the system's authorities when absent.
    pub ca_file: Option<PathBuf>,
}

/// CSTA.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Csta {
    /// The CSTA adapter's addresses, the preferred one first: `["ecss1:4722", "ecss2:4722"]`.
    #[schemars(with = "Vec<String>")]
    pub nodes: Vec<Endpoint>,
    /// Whether to speak TLS (port 4722; plain is 4721).
    #[serde(default)]
    pub tls: bool,
    /// PEM certificates of the authority to trust with `tls`; the system's authorities when absent.
    pub ca_file: Option<PathBuf>,
    /// The application session's duration that is asked for; it is renewed well before its end.
    #[serde(default = "five_minutes")]
    pub session_duration: Span,
}

fn five_minutes() -> Span {
    Span::seconds(300)
}

impl Default for Switch {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            dialect: DialectName::Documented,
            dialect_file: None,
            dialect_overrides: toml::Table::new(),
            terminal: None,
            call_api: None,
            csta: None,
            half_open_after: Span::seconds(15),
            connect_timeout: Span::seconds(5),
            command_timeout: Span::seconds(10),
            fail_back_after: Span::seconds(60),
        }
    }
}

// === impl Switch ===

impl Switch {
    /// The dialect with its file and overrides.
    pub fn dialect(&self) -> Result<Dialect, Problem> {
        let mut table = toml::Table::new();
        if let Some(path) = &self.dialect_file {
            let refuse = |what: String| Problem::new("switch.dialect_file", what);
            let text = read_bounded(path, DIALECT_LONGEST).map_err(refuse)?;
            let text = String::from_utf8(text).map_err(|_| refuse(format!("{} is no UTF-8 text", path.display())))?;
            let read = toml::from_str(&text);
            table = read.map_err(|error| refuse(format!("{}: {}", path.display(), error.to_string().trim())))?;
            self.overridden(&table).map_err(refuse)?;
        }
        overlay(&mut table, &self.dialect_overrides);
        self.overridden(&table).map_err(|what| Problem::new("switch.dialect_overrides", what))
    }

    fn overridden(&self, table: &toml::Table) -> Result<Dialect, String> {
        let base = match self.dialect {
            DialectName::Documented => "documented",
            DialectName::Sim => "sim",
        };
        Dialect::with_overrides(base, table).map_err(|error| error.to_string().trim().replace('\n', " "))
    }

    /// Every password with its key.
    pub(crate) fn passwords(&self) -> Vec<(String, Result<PasswordSource, Problem>)> {
        let mut all = Vec::new();
        if let Some(terminal) = &self.terminal {
            all.push(("switch.terminal".to_owned(), terminal.password()));
        }
        for (index, domain) in self.domains.iter().enumerate() {
            if let Some(csta) = &domain.csta {
                let key = format!("switch.domains[{index}].csta");
                all.push((key.clone(), csta.source(&key)));
            }
            if let Some(call_api) = &domain.call_api {
                let key = format!("switch.domains[{index}].call_api");
                all.push((key.clone(), call_api.source(&key)));
            }
        }
        all
    }

    /// Every certificate authority file with its key.
    pub(crate) fn ca_files(&self) -> Vec<(&'static str, &Path)> {
        let terminal = self.terminal.as_ref().and_then(|link| link.ca_file.as_deref()).map(|path| ("switch.terminal.ca_file", path));
        let call_api = self.call_api.as_ref().and_then(|link| link.ca_file.as_deref()).map(|path| ("switch.call_api.ca_file", path));
        let csta = self.csta.as_ref().and_then(|link| link.ca_file.as_deref()).map(|path| ("switch.csta.ca_file", path));
        [terminal, call_api, csta].into_iter().flatten().collect()
    }

    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        let mut say = |key: String, what: &str| problems.push(Problem::new(key, what));
        if self.domains.is_empty() {
            say("switch.domains".into(), "is missing; name at least one: [[switch.domains]] with name = \"…\"");
        }
        for (index, domain) in self.domains.iter().enumerate() {
            let key = format!("switch.domains[{index}]");
            if self.domains.iter().take(index).any(|other| other.name == domain.name) {
                say(format!("{key}.name"), "stands here twice; each domain is named once");
            }
            if self.csta.is_some() && domain.csta.is_none() {
                say(key.clone(), "has no CSTA password, but [switch.csta] is set; add csta = { password_file = \"…\" }");
            }
            if self.call_api.is_some() && domain.call_api.is_none() {
                say(key, "has no Call API account, but [switch.call_api] is set; add call_api = { login = \"…\", password_file = \"…\" }");
            }
        }
        let links = [
            ("terminal", self.terminal.as_ref().map(|link| (&link.nodes, link.tls, &link.ca_file))),
            ("call_api", self.call_api.as_ref().map(|link| (&link.nodes, link.tls, &link.ca_file))),
            ("csta", self.csta.as_ref().map(|link| (&link.nodes, link.tls, &link.ca_file))),
        ];
        for (name, link) in links {
            let Some((nodes, tls, ca_file)) = link else { continue };
            if nodes.is_empty() {
                say(format!("switch.{name}.nodes"), "is empty; name at least one \"host:port\"");
            }
            if !tls && ca_file.is_some() {
                say(format!("switch.{name}.ca_file"), "has no effect without tls = true; set tls or remove it");
            }
        }
        if self.terminal.is_none() {
            say(
                "switch.terminal".into(),
                "is missing; the HTTP terminal is always needed: [switch.terminal] with nodes, login and a password",
            );
        }
        let second = Span::seconds(1);
        let times = [
            ("half_open_after", self.half_open_after),
            ("connect_timeout", self.connect_timeout),
            ("command_timeout", self.command_timeout),
        ];
        for (name, value) in times {
            if value < second || value > Span::seconds(600) {
                say(format!("switch.{name}"), "is out of range; must be from 1s to 10m");
            }
        }
        if let Some(csta) = &self.csta
            && (csta.session_duration < Span::seconds(10) || csta.session_duration > Span::seconds(86_400))
        {
            say("switch.csta.session_duration".into(), "is out of range; must be from 10s to 1d");
        }
        problems.extend(self.passwords().into_iter().filter_map(|(_, source)| source.err()));
        // A dialect file is looked at with the other files; what stands in the configuration must fit in any case.
        if let Err(what) = self.overridden(&self.dialect_overrides) {
            problems.push(Problem::new("switch.dialect_overrides", what));
        }
    }
}

impl Terminal {
    /// Where its password is.
    pub fn password(&self) -> Result<PasswordSource, Problem> {
        let credential = self.password_credential.as_deref();
        PasswordSource::choose("switch.terminal", self.password.as_ref(), self.password_file.as_deref(), credential)
    }
}

impl DomainCsta {
    /// Where its password is; `key` is the table's, for the message.
    pub fn source(&self, key: &str) -> Result<PasswordSource, Problem> {
        PasswordSource::choose(key, self.password.as_ref(), self.password_file.as_deref(), self.password_credential.as_deref())
    }
}

impl DomainCallApi {
    /// Where its password is; `key` is the table's, for the message.
    pub fn source(&self, key: &str) -> Result<PasswordSource, Problem> {
        PasswordSource::choose(key, self.password.as_ref(), self.password_file.as_deref(), self.password_credential.as_deref())
    }
}

fn overlay(into: &mut toml::Table, from: &toml::Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => overlay(old, new),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}
