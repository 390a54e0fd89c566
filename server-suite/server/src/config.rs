//! The configuration: one TOML file for all services, overridden by `ELPH_SERVER__SECTION__KEY` in the environment.

use std::path::{Path, PathBuf};

use elph_kit::{
    bus::BusSettings, caller::Verifier, database::DatabaseSettings, limits::LimitSettings, serve::HttpSettings, switches::AgentSettings,
};
use elph_shell::{
    config::{Problem, Refused, Span, Written, environment, read},
    logs::Log,
    oidc::Oidc,
};
use elph_sso::SsoSettings;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What begins the name of an environment variable that overrides a key.
pub const ENVIRONMENT_PREFIX: &str = "ELPH_SERVER__";

/// elph-server's configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The agents of the switches. Each of their domains is a tenant.
    pub agents: Vec<AgentSettings>,
    /// Where everything is kept.
    pub database: DatabaseSettings,
    /// How services and copies of the server tell each other what has happened.
    pub bus: BusSettings,
    /// Where services are served.
    pub http: HttpSettings,
    /// How much each may ask.
    pub limits: LimitSettings,
    /// Whose access tokens are accepted, beside those of `[sso]`.
    pub oidc: Oidc,
    /// The OpenID Connect provider. Without it people sign in elsewhere: name that issuer under `[oidc]`.
    pub sso: Option<SsoSettings>,
    /// The log.
    pub log: Log,
    /// How the server stops.
    pub shutdown: Shutdown,
}

/// `[shutdown]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long requests may go on after SIGTERM.
    pub drain: Span,
}

/// A configuration that has been read.
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

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain: Span::seconds(20) }
    }
}

impl Config {
    /// Reads the file and the process's environment.
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

    fn checked(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        elph_kit::switches::check(&self.agents, &mut problems);
        self.database.check(&mut problems);
        self.bus.check(&mut problems);
        self.http.check(&mut problems);
        self.oidc.check(&mut problems);
        self.log.check(&mut problems);
        let domains: Vec<&str> = self.agents.iter().flat_map(|agent| &agent.domains).map(String::as_str).collect();
        if let Some(sso) = &self.sso {
            sso.check(&domains, &mut problems);
        }
        for (index, issuer) in self.oidc.issuers.iter().enumerate() {
            if let Some(domain) = issuer.domain.as_deref().filter(|domain| !domains.contains(domain)) {
                problems.push(Problem::new(format!("oidc.issuers[{index}].domain"), format!("is '{domain}', which no agent has")));
            }
        }
        problems
    }

    fn unwise(&self) -> Vec<Problem> {
        let mut warnings = Vec::new();
        let mut say = |key: &str, what: &str| warnings.push(Problem::new(key, what));
        if self.agents.is_empty() {
            say("agents", "is empty; nothing is known of any switch");
        }
        if self.oidc.issuers.is_empty() && self.sso.is_none() {
            say("oidc.issuers", "is empty, and there is no [sso]; nobody can sign in");
        }
        if self.http.certificate_file.is_none() && !self.http.listen.ip().is_loopback() {
            say("http.certificate_file", "is missing, and http.listen is no loopback address: tokens travel unencrypted");
        }
        if self.bus.is_open() {
            say("bus.url", "is not encrypted; write amqps://");
        }
        if !self.http.internal_listen.ip().is_loopback() {
            say("http.internal_listen", "is not a loopback address; metrics and health are shown to whoever can reach it");
        }
        warnings
    }

    /// The JSON schema, as it is committed.
    pub fn schema() -> String {
        elph_shell::config::schema::<Self>("elph-server configuration")
    }
}

impl Loaded {
    /// Files that the configuration names and that cannot be used now.
    pub fn unusable(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Err((key, what)) = elph_kit::serve::Certificate::read(&self.config.http) {
            problems.push(Problem::new(key, what));
        }
        if let Err((key, what)) = Verifier::new(&self.config.oidc) {
            problems.push(Problem::new(key, what));
        }
        if let Some(Err((key, what))) = self.config.sso.as_ref().map(SsoSettings::read_secret) {
            problems.push(Problem::new(key, what));
        }
        self.written.locate(&mut problems);
        problems
    }
}
