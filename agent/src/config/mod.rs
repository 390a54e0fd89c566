//! The configuration: one TOML file, overridden by `ELPH_AGENT__SECTION__KEY` in the environment, parsed once into valid types.
//! Whatever is wrong is refused with its line before a port is bound. One file here per section.

mod calls;
mod grants;
mod grpc;
mod log;
mod oidc;
mod problem;
mod push;
mod secret;
mod service;
mod switch;
mod tree;
mod values;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::tree::Node;
pub(crate) use self::values::read_bounded;
pub use self::{
    calls::{CallBackend, Calls, ConferenceBackend, Conferences, Poll},
    grants::{DomainName, Fingerprint, GrantEntry, ModeratorToken, Scope, ScopeEntry, Who},
    grpc::Grpc,
    log::{Audit, AuditTarget, Log, LogFormat},
    oidc::{Issuer, Oidc, SignatureAlgorithm},
    problem::{Problem, Refused},
    push::{Push, PushApp, PushEnvironment, PushEvents, PushKind, PushProvider},
    secret::{PasswordSource, Secret},
    service::{Http, Journal, Limits, Requests, Shutdown},
    switch::{CallApi, Csta, DialectName, DomainCallApi, DomainCsta, Switch, SwitchDomain, Terminal},
    tree::Origin,
    values::{Mode, Size, Span},
};

/// What begins the name of an environment variable that overrides a key.
pub const ENVIRONMENT_PREFIX: &str = "ELPH_AGENT__";

/// A configuration file's most bytes.
const LONGEST: u64 = 1 << 20;

/// elph-agent's configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The ECSS-10 that is spoken to.
    pub switch: Switch,
    /// Where the state of calls comes from.
    pub calls: Calls,
    /// Where the state of conferences comes from.
    pub conferences: Conferences,
    /// How often lists are read.
    pub poll: Poll,
    /// The gRPC API.
    pub grpc: Grpc,
    /// Who may do what.
    pub grants: Vec<GrantEntry>,
    /// Moderators' tokens.
    pub oidc: Oidc,
    /// Pushes to mobile devices and browsers.
    pub push: Push,
    /// The event journal.
    pub journal: Journal,
    /// Memory of request ids.
    pub requests: Requests,
    /// Limits on guessing.
    pub limits: Limits,
    /// Metrics and health.
    pub http: Http,
    /// The log.
    pub log: Log,
    /// The audit log.
    pub audit: Audit,
    /// How the agent stops.
    pub shutdown: Shutdown,
}

/// A configuration that has been read, and where from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// The file.
    pub path: PathBuf,
    /// What is allowed but unwise.
    pub warnings: Vec<Problem>,
    tree: Node,
}

impl Config {
    /// Reads the file and the process's environment. Files that the configuration names are not opened here.
    pub fn load(path: &Path) -> Result<Loaded, Refused> {
        Self::load_with(path, std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))))
    }

    /// Reads the file and the given environment.
    pub fn load_with(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Refused> {
        let refused = |problems: Vec<Problem>| Refused { file: path.display().to_string(), problems };
        let read = read_bounded(path, LONGEST).and_then(|bytes| String::from_utf8(bytes).map_err(|_| "is no UTF-8 text".to_owned()));
        let text = read.map_err(|what| refused(vec![Problem::new("", what)]))?;
        let mut tree = Node::parse(&text).map_err(|problem| refused(vec![problem]))?;
        let mut variables: Vec<(String, String)> =
            environment.into_iter().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
        variables.sort();
        let mut problems = Vec::new();
        for (name, value) in variables {
            let key = name.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or_default().to_lowercase();
            let parts: Vec<String> = key.split("__").map(str::to_owned).collect();
            if let Err(problem) = tree.set(&parts, &name, &value) {
                problems.push(problem);
            }
        }
        let wrong = tree.sections().into_iter().filter_map(|section| section.typed::<Self>().err());
        problems.extend(wrong);
        if !problems.is_empty() {
            return Err(refused(problems));
        }
        let config: Self = tree.clone().typed().map_err(|problem| refused(vec![problem]))?;
        problems = config.checked();
        locate(&mut problems, &tree);
        if !problems.is_empty() {
            return Err(refused(problems));
        }
        let mut warnings = config.unwise();
        locate(&mut warnings, &tree);
        Ok(Loaded { config, path: path.to_owned(), warnings, tree })
    }

    /// What the sections' types cannot say.
    fn checked(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.switch.check(&mut problems);
        calls::check(&self.calls, &self.conferences, &self.poll, &self.switch, &mut problems);
        self.grpc.check(&mut problems);
        grants::check(&self.grants, &self.switch.domains, self.oidc.issuers.len(), &mut problems);
        self.oidc.check(&mut problems);
        self.push.check(&mut problems);
        service::check(&self.journal, &self.requests, &self.limits, &self.shutdown, &mut problems);
        log::check(&self.log, &self.audit, &mut problems);
        problems
    }

    fn unwise(&self) -> Vec<Problem> {
        let mut warnings = Vec::new();
        for (key, source) in self.switch.passwords() {
            if matches!(source, Ok(PasswordSource::Inline(_))) {
                let what = "stands in plain text; better: password_file or password_credential";
                warnings.push(Problem::new(format!("{key}.password"), what));
            }
        }
        if self.grants.is_empty() {
            warnings.push(Problem::new("grants", "is empty; no caller may do anything"));
        }
        if !self.http.listen.ip().is_loopback() {
            warnings.push(Problem::new("http.listen", "is not a loopback address; metrics and health are shown to whoever can reach it"));
        }
        warnings
    }

    /// Opens every file that the configuration names. For `config check` these are warnings: it may run on another host.
    fn unreadable(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (key, source) in self.switch.passwords() {
            if let Ok(source) = source
                && let Err(what) = source.read()
            {
                let suffix = if matches!(source, PasswordSource::File(_)) { "password_file" } else { "password_credential" };
                problems.push(Problem::new(format!("{key}.{suffix}"), what));
            }
        }
        let issuers = self.oidc.issuers.iter().enumerate();
        let issuer_files =
            issuers.filter_map(|(index, issuer)| Some((format!("oidc.issuers[{index}].ca_file"), issuer.ca_file.as_deref()?)));
        let authorities = self.switch.ca_files().into_iter().map(|(key, path)| (key.to_owned(), path)).chain(issuer_files);
        for (key, path) in authorities {
            if let Err(what) = crate::tls::authorities(path) {
                problems.push(Problem::new(key, what));
            }
        }
        for (index, issuer) in self.oidc.issuers.iter().enumerate() {
            if let Some(path) = &issuer.jwks_file
                && let Err(what) = crate::access::tokens::read_keys(path)
            {
                problems.push(Problem::new(format!("oidc.issuers[{index}].jwks_file"), what));
            }
        }
        problems.extend(crate::push::unusable(&self.push).into_iter().filter_map(|unusable| match unusable {
            crate::push::Unusable::Missing(problem) => Some(problem),
            crate::push::Unusable::Wrong(_) => None,
        }));
        if let Err(problem) = self.switch.dialect() {
            problems.push(problem);
        }
        if let Err((key, what)) = crate::tls::server_config(&self.grpc) {
            problems.push(Problem::new(format!("grpc.{key}"), what));
        }
        problems
    }

    /// Files that are here but are not what they should be.
    fn wrong_files(&self) -> Vec<Problem> {
        let wrong = crate::push::unusable(&self.push).into_iter().filter_map(|unusable| match unusable {
            crate::push::Unusable::Missing(_) => None,
            crate::push::Unusable::Wrong(problem) => Some(problem),
        });
        wrong.collect()
    }

    /// As TOML, secrets masked.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::Table::try_from(self).and_then(|table| toml::to_string(&table))
    }

    /// The JSON schema, as it is committed.
    pub fn schema() -> String {
        let mut schema = schemars::schema_for!(Self);
        schema.insert("title".to_owned(), "elph-agent configuration".into());
        let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
        text.push('\n');
        text
    }
}

// === impl Loaded ===

impl Loaded {
    /// The same file with another configuration in force.
    pub(crate) fn with(self, config: Config) -> Self {
        Self { config, ..self }
    }

    /// Every file that the configuration names but that cannot be used now.
    pub fn unreadable(&self) -> Vec<Problem> {
        let mut problems = self.config.unreadable();
        locate(&mut problems, &self.tree);
        problems
    }

    /// Files that are here but are not what they should be.
    pub fn wrong_files(&self) -> Vec<Problem> {
        let mut problems = self.config.wrong_files();
        locate(&mut problems, &self.tree);
        problems
    }

    /// As [`Loaded::unreadable`], for those that cannot do without.
    pub fn require_files(&self) -> Result<(), Refused> {
        let mut problems = self.unreadable();
        problems.extend(self.wrong_files());
        if problems.is_empty() { Ok(()) } else { Err(Refused { file: self.path.display().to_string(), problems }) }
    }

    /// The keys whose values differ, by section and key.
    pub fn differing(&self, other: &Self) -> Vec<String> {
        let value = |config: &Config| serde_json::to_value(config).unwrap_or_default();
        let mut keys = Vec::new();
        differing("", &value(&self.config), &value(&other.config), &mut keys);
        // Both show as *** above.
        let (old, new) = (self.config.switch.passwords(), other.config.switch.passwords());
        for ((key, old), (_, new)) in old.into_iter().zip(new) {
            let key = format!("{key}.password");
            if old.ok() != new.ok() && !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }
}

fn differing(key: &str, old: &serde_json::Value, new: &serde_json::Value, keys: &mut Vec<String>) {
    match (old, new) {
        (serde_json::Value::Object(old), serde_json::Value::Object(new)) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let null = serde_json::Value::Null;
                let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                differing(&path, old.get(name).unwrap_or(&null), new.get(name).unwrap_or(&null), keys);
            }
        }
        _ if old == new => {}
        _ => keys.push(key.to_owned()),
    }
}

fn locate(problems: &mut [Problem], tree: &Node) {
    for problem in problems.iter_mut().filter(|problem| problem.origin.is_none()) {
        problem.origin = tree.origin(&problem.key);
    }
}

/// Whether a changed key takes effect without a restart.
pub fn applies_live(key: &str) -> bool {
    const LIVE: [&str; 9] = [
        "grants",
        "oidc",
        "limits",
        "log.filter",
        "grpc.certificate_file",
        "grpc.key_file",
        "grpc.client_ca_file",
        "push.apps",
        "push.events",
    ];
    LIVE.iter().any(|live| key == *live || key.strip_prefix(live).is_some_and(|rest| rest.starts_with('.')))
}
