//! The configuration: one TOML file, overridden by `ELPH_PROXY__SECTION__KEY` in the environment, parsed once into valid types.
//! Whatever is wrong is refused with its line before nginx hears of it.

mod acme;
mod sections;
mod services;

use std::path::{Path, PathBuf};

use elph_shell::{
    config::{Problem, Refused, Written, environment, read},
    logs::Log,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    acme::{Acme, Challenge},
    sections::{AccessLog, Checks, Limits, Listen, Metrics, Nginx, Profile, Rate, Shutdown},
    services::{KNOWN, Known, Service, Upstream, WrittenService},
};

/// What begins the name of an environment variable that overrides a key.
pub const ENVIRONMENT_PREFIX: &str = "ELPH_PROXY__";

/// elph-proxy's configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The door: addresses, names and certificate.
    pub listen: Listen,
    /// Certificates by themselves.
    pub acme: Acme,
    /// What is behind the door. Left out: every service of the suite on this host at its own port. Given: what is listed, nothing else.
    pub services: Vec<WrittenService>,
    /// What one client may take.
    pub limits: Limits,
    /// How copies of services are looked after.
    pub checks: Checks,
    /// The access log.
    pub access_log: AccessLog,
    /// The program's own log, nginx's error log included.
    pub log: Log,
    /// Metrics and health of the proxy itself.
    pub metrics: Metrics,
    /// The nginx that does the work.
    pub nginx: Nginx,
    /// How it stops.
    pub shutdown: Shutdown,
}

/// A configuration that has been read, and where from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// Its services, defaults filled in.
    pub services: Vec<Service>,
    /// The file.
    pub path: PathBuf,
    /// What is allowed but unwise.
    pub warnings: Vec<Problem>,
    written: Written,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            acme: Acme::default(),
            services: services::suite(),
            limits: Limits::default(),
            checks: Checks::default(),
            access_log: AccessLog::default(),
            log: Log::default(),
            metrics: Metrics::default(),
            nginx: Nginx::default(),
            shutdown: Shutdown::default(),
        }
    }
}

impl Config {
    /// Reads the file and the process's environment. Files that the configuration names are not opened here.
    pub fn load(path: &Path) -> Result<Loaded, Refused> {
        Self::load_with(path, environment())
    }

    /// Reads the file and the given environment.
    pub fn load_with(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Refused> {
        let (config, written): (Self, Written) = read(path, ENVIRONMENT_PREFIX, environment)?;
        let mut problems = Vec::new();
        sections::check(&config, &mut problems);
        acme::check(&config, &mut problems);
        config.log.check(&mut problems);
        let services = services::resolve(&config.services, &config.limits, &mut problems);
        if !problems.is_empty() {
            written.locate(&mut problems);
            return Err(Refused { file: path.display().to_string(), problems });
        }
        let mut warnings = config.unwise();
        written.locate(&mut warnings);
        Ok(Loaded { config, services, path: path.to_owned(), warnings, written })
    }

    fn unwise(&self) -> Vec<Problem> {
        let mut warnings = Vec::new();
        if !self.metrics.listen.ip().is_loopback() {
            warnings
                .push(Problem::new("metrics.listen", "is not a loopback address; metrics and health are shown to whoever can reach it"));
        }
        if self.listen.hosts.is_empty() {
            warnings.push(Problem::new("listen.hosts", "is empty; requests for any host name are taken"));
        }
        if self.listen.ocsp_stapling && self.listen.resolvers.is_empty() {
            warnings.push(Problem::new("listen.ocsp_stapling", "needs listen.resolvers to find the authority's responder"));
        }
        warnings
    }

    /// The names that the certificate is ordered for.
    pub fn certificate_names(&self) -> &[String] {
        if self.acme.names.is_empty() { &self.listen.hosts } else { &self.acme.names }
    }

    /// Where the certificate with its chain and its key are: the files of `[listen]`, or the one that `[acme]` keeps.
    pub fn certificate_files(&self) -> (PathBuf, PathBuf) {
        if self.acme.enabled() {
            return (self.acme.certificate(), self.acme.certificate());
        }
        (self.listen.certificate_file.clone(), self.listen.key_file.clone())
    }

    /// As TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        elph_shell::config::to_toml(self)
    }

    /// The JSON schema, as it is committed.
    pub fn schema() -> String {
        elph_shell::config::schema::<Self>("elph-proxy configuration")
    }
}

// === impl Loaded ===

impl Loaded {
    /// Every file that the configuration names but that cannot be used now.
    pub fn unreadable(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let Config { acme, listen, .. } = &self.config;
        if acme.enabled() {
            // The certificate itself is made by the first start.
            if let Some(Err(what)) = acme.ca_file.as_deref().map(elph_shell::tls::authorities) {
                problems.push(Problem::new("acme.ca_file", what));
            }
            if let Some(Err(what)) = acme.external_account_key_file.as_deref().map(|path| elph_shell::config::read_bounded(path, 4096)) {
                problems.push(Problem::new("acme.external_account_key_file", what));
            }
            if acme.challenge == Challenge::Dns && !acme.hook.is_file() {
                problems.push(Problem::new("acme.hook", format!("{} is not there", acme.hook.display())));
            }
        } else {
            if let Err(what) = elph_shell::tls::certificates(&listen.certificate_file) {
                problems.push(Problem::new("listen.certificate_file", what));
            }
            if let Err(what) = elph_shell::tls::private_key(&listen.key_file) {
                problems.push(Problem::new("listen.key_file", what));
            }
        }
        if let Some(Err(what)) = listen.ocsp_ca_file.as_deref().map(elph_shell::tls::authorities) {
            problems.push(Problem::new("listen.ocsp_ca_file", what));
        }
        self.written.locate(&mut problems);
        problems
    }

    /// The keys whose values differ, by section and name.
    pub fn differing(&self, other: &Self) -> Vec<String> {
        elph_shell::config::differing(&self.config, &other.config)
    }
}
