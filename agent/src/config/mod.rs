//! The configuration: one TOML file, overridden by `ELPH_AGENT__SECTION__KEY` in the environment, parsed once into valid types.
//! Whatever is wrong is refused with its line before a port is bound. One file here per section.

mod audit;
mod calls;
mod grants;
mod grpc;
mod push;
mod service;
mod switch;

use std::path::{Path, PathBuf};

use ecss_switch::Domain;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use elph_shell::config::read_bounded;
use elph_shell::config::{Written, environment, read};
pub use elph_shell::{
    config::{Mode, Origin, PasswordSource, Problem, Refused, Secret, Size, Span},
    logs::{Log, LogFormat},
    oidc::{Issuer, Oidc, SignatureAlgorithm},
};

pub use self::{
    audit::{Audit, AuditTarget},
    calls::{CallBackend, Calls, ConferenceBackend, Conferences, Poll},
    grants::{DomainName, Fingerprint, GrantEntry, ModeratorToken, Scope, ScopeEntry, Who},
    grpc::Grpc,
    push::{Push, PushApp, PushEnvironment, PushEvents, PushKind, PushProvider},
    service::{Http, Journal, Limits, Requests, Shutdown},
    switch::{CallApi, Csta, DialectName, DomainCallApi, DomainCsta, Switch, SwitchDomain, Terminal},
};

/// What begins the name of an environment variable that overrides a key.
pub const ENVIRONMENT_PREFIX: &str = "ELPH_AGENT__";

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
    written: Written,
}

impl Config {
    /// Reads the file and the process's environment. Files that the configuration names are not opened here.
    pub fn load(path: &Path) -> Result<Loaded, Refused> {
        Self::load_with(path, environment())
    }

    /// Reads the file and the given environment.
    pub fn load_with(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Refused> {
        let (config, written): (Self, Written) = read(path, ENVIRONMENT_PREFIX, environment)?;
        let mut problems = config.checked();
        if !problems.is_empty() {
            written.locate(&mut problems);
            return Err(Refused { file: path.display().to_string(), problems });
        }
        let mut warnings = config.unwise();
        written.locate(&mut warnings);
        Ok(Loaded { config, path: path.to_owned(), warnings, written })
    }

    /// What the sections' types cannot say.
    fn checked(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.switch.check(&mut problems);
        calls::check(&self.calls, &self.conferences, &self.poll, &self.switch, &mut problems);
        self.grpc.check(&mut problems);
        grants::check(&self.grants, &self.switch.domains, self.oidc.issuers.len(), &mut problems);
        self.oidc.check(&mut problems);
        for (index, issuer) in self.oidc.issuers.iter().enumerate() {
            if issuer.domain.as_ref().is_some_and(|domain| Domain::parse(domain).is_err()) {
                problems.push(Problem::new(format!("oidc.issuers[{index}].domain"), "is no name of a domain"));
            }
        }
        self.push.check(&mut problems);
        service::check(&self.journal, &self.requests, &self.limits, &self.shutdown, &mut problems);
        self.log.check(&mut problems);
        audit::check(&self.audit, &mut problems);
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
            if let Err(what) = elph_shell::tls::authorities(path) {
                problems.push(Problem::new(key, what));
            }
        }
        for (index, issuer) in self.oidc.issuers.iter().enumerate() {
            if let Some(path) = &issuer.jwks_file
                && let Err(what) = elph_shell::tokens::read_keys(path)
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
        elph_shell::config::to_toml(self)
    }

    /// The JSON schema, as it is committed.
    pub fn schema() -> String {
        elph_shell::config::schema::<Self>("elph-agent configuration")
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
        self.written.locate(&mut problems);
        problems
    }

    /// Files that are here but are not what they should be.
    pub fn wrong_files(&self) -> Vec<Problem> {
        let mut problems = self.config.wrong_files();
        self.written.locate(&mut problems);
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
        let mut keys = elph_shell::config::differing(&self.config, &other.config);
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
