//! `[push]`: the applications that pushes go to, and which events become pushes in which domains.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ecss_switch::connect::Endpoint;
use elph_policy::{Kind, Templates};
use push_core::{AppName, Provider};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DomainName, PasswordSource, Problem, Size, Span};

/// Pushes. Without applications none are sent.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Push {
    /// Where devices and waiting pushes are kept.
    pub directory: PathBuf,
    /// Most pushes that wait; more are refused. A tenth more is kept free for calls.
    pub max_waiting: u64,
    /// Most bytes of waiting pushes.
    pub max_waiting_bytes: Size,
    /// Most bytes of what is remembered of pushes that have ended, for `GetPush` and `ListDeviceDeliveries`.
    pub log_bytes: Size,
    /// Most devices of one user; the one that registered longest ago makes room.
    pub max_devices_per_user: u32,
    /// In a cluster of two agents only one may push by itself, or phones ring twice: the one whose host has this address (VRRP). Without
    /// it this agent always does.
    pub acting_address: Option<IpAddr>,
    /// The applications.
    pub apps: Vec<PushApp>,
    /// Which events become pushes; the first that names a domain applies to it. In a domain that none names, only what is sent over
    /// gRPC is pushed.
    pub events: Vec<PushEvents>,
}

/// Which events become pushes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushEvents {
    /// Domains, or "*" for all that are served.
    pub domains: Vec<DomainName>,
    /// Whether a ringing call rings the devices. Not where the switch pushes calls itself (`system/push_notification`): phones would
    /// ring twice.
    #[serde(default)]
    pub calls: bool,
    /// How long a call rings on the switch: the push is worth nothing after it.
    #[serde(default = "ring_time")]
    pub ring_time: Span,
    /// Whether calls are pushed only while no phone of the alias rings over SIP yet.
    #[serde(default)]
    pub only_unless_ringing: bool,
    /// Whether a call that nobody answered is told.
    #[serde(default)]
    pub missed_calls: bool,
    /// Whether who is called into a conference is told.
    #[serde(default)]
    pub conferences: bool,
}

/// Who delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PushProvider {
    /// Apple.
    Apns,
    /// Google, HTTP v1.
    Fcm,
    /// Browsers, RFC 8030.
    Webpush,
}

/// Apple's two worlds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PushEnvironment {
    /// Of released applications.
    #[default]
    Production,
    /// Of applications that a developer runs.
    Development,
}

/// What can be written by a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PushKind {
    /// A call rings.
    Call,
    /// It rings no more.
    Cancel,
    /// It was missed.
    MissedCall,
    /// An invitation into a conference.
    Invitation,
    /// It is void.
    InvitationCancel,
}

/// One application: one provider, one set of credentials, one topic.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushApp {
    /// Its name in the API and in metrics.
    pub name: String,
    /// Who delivers.
    pub provider: PushProvider,
    /// The domains whose users may have it; "*": all that are served.
    #[serde(default = "all_domains")]
    pub domains: Vec<DomainName>,
    /// apns: the bundle id. Apple's suffix for calls (`.voip`) is added by itself.
    pub topic: Option<String>,
    /// apns: which tokens it has, unless a device says otherwise at its registration.
    #[serde(default)]
    pub environment: PushEnvironment,
    /// apns: the key's id, ten characters, as Apple's page shows it.
    pub key_id: Option<String>,
    /// apns: the team's id, ten characters.
    pub team_id: Option<String>,
    /// apns: the key (`AuthKey_….p8`); webpush: the VAPID key (PEM).
    pub key_file: Option<PathBuf>,
    /// The same from systemd (`LoadCredential=`).
    pub key_credential: Option<String>,
    /// apns: a certificate with its key (PEM) in place of a key.
    pub certificate_file: Option<PathBuf>,
    /// apns: the certificate's key, where it is in a file of its own.
    pub certificate_key_file: Option<PathBuf>,
    /// fcm: the service account's key file (JSON), from Firebase's console.
    pub service_account_file: Option<PathBuf>,
    /// fcm: the same from systemd (`LoadCredential=`).
    pub service_account_credential: Option<String>,
    /// fcm: where access tokens come from, in place of what the service account's file says.
    pub token_url: Option<String>,
    /// webpush: whom a browser's push service may write to, `mailto:` or `https:`.
    pub vapid_subject: Option<String>,
    /// webpush: hosts that subscriptions may name, with all their subdomains; empty: those of the well-known browsers.
    #[serde(default)]
    pub endpoint_hosts: Vec<String>,
    /// apns, fcm: the provider's address in place of the real one: `host:port`.
    #[schemars(with = "Option<String>")]
    pub endpoint: Option<Endpoint>,
    /// PEM certificates of the only authority to trust; the system's authorities when absent.
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy on the way to the provider: `host:port`.
    #[schemars(with = "Option<String>")]
    pub proxy: Option<Endpoint>,
    /// Most connections to the provider.
    #[serde(default = "max_connections")]
    pub max_connections: u32,
    /// Payloads in place of the built-in ones: JSON texts with names of fields in braces.
    #[serde(default)]
    pub templates: BTreeMap<PushKind, String>,
}

fn ring_time() -> Span {
    Span::seconds(60)
}

fn all_domains() -> Vec<DomainName> {
    vec![DomainName::All]
}

fn max_connections() -> u32 {
    4
}

impl Default for Push {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/elph-agent/push"),
            max_waiting: 200_000,
            max_waiting_bytes: Size(256 << 20),
            log_bytes: Size(128 << 20),
            max_devices_per_user: 20,
            acting_address: None,
            apps: Vec::new(),
            events: Vec::new(),
        }
    }
}

// === impl Push ===

impl Push {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let mut say = |key: &str, what: &str| problems.push(Problem::new(format!("push.{key}"), what));
        if !self.directory.is_absolute() {
            say("directory", "is no absolute path; must begin with '/'");
        }
        if self.max_waiting < 100 || self.max_waiting > 10_000_000 {
            say("max_waiting", "is out of range; must be from 100 to 10000000");
        }
        if self.max_waiting_bytes < Size(1 << 20) {
            say("max_waiting_bytes", "is too small; must be at least 1MiB");
        }
        if self.log_bytes < Size(8 << 20) {
            say("log_bytes", "is too small; must be at least 8MiB");
        }
        if self.max_devices_per_user == 0 || self.max_devices_per_user > 1000 {
            say("max_devices_per_user", "is out of range; must be from 1 to 1000");
        }
        for (index, app) in self.apps.iter().enumerate() {
            let key = format!("push.apps[{index}]");
            if self.apps.iter().take(index).any(|other| other.name == app.name) {
                problems.push(Problem::new(format!("{key}.name"), "is named twice; each application has a name of its own"));
            }
            app.check(&key, problems);
        }
        for (index, events) in self.events.iter().enumerate() {
            if events.ring_time < Span::seconds(5) || events.ring_time > Span::seconds(600) {
                problems.push(Problem::new(format!("push.events[{index}].ring_time"), "is out of range; must be from 5s to 10m"));
            }
            if events.domains.is_empty() {
                problems.push(Problem::new(format!("push.events[{index}].domains"), "is empty; name domains, or \"*\""));
            }
        }
        if self.apps.is_empty() && !self.events.is_empty() {
            problems.push(Problem::new("push.events", "has nothing to push to; configure an application in [[push.apps]]"));
        }
    }
}

// === impl PushApp ===

impl PushApp {
    /// The provider.
    pub fn provider(&self) -> Provider {
        match self.provider {
            PushProvider::Apns => Provider::Apns,
            PushProvider::Fcm => Provider::Fcm,
            PushProvider::Webpush => Provider::Web,
        }
    }

    /// Its payloads.
    pub fn templates(&self) -> Result<Templates, (PushKind, elph_policy::BadTemplate)> {
        let own = self.templates.iter().map(|(kind, text)| (kind.policy(), text.clone())).collect();
        Templates::new(self.provider(), &own).map_err(|(kind, error)| (PushKind::of(kind), error))
    }

    /// Where the key or the service account's file is.
    pub fn key(&self, key: &str) -> Result<PasswordSource, Problem> {
        let (file, credential, name) = match self.provider {
            PushProvider::Apns | PushProvider::Webpush => (&self.key_file, &self.key_credential, "key"),
            PushProvider::Fcm => (&self.service_account_file, &self.service_account_credential, "service_account"),
        };
        match (file, credential) {
            (Some(path), None) => Ok(PasswordSource::File(path.clone())),
            (None, Some(credential)) if !credential.is_empty() && !credential.contains('/') => {
                Ok(PasswordSource::Credential(credential.clone()))
            }
            (None, Some(_)) => Err(Problem::new(format!("{key}.{name}_credential"), "is no credential's name; it must have no slash")),
            (None, None) => Err(Problem::new(key, format!("needs {name}_file or {name}_credential"))),
            (Some(_), Some(_)) => Err(Problem::new(key, format!("has both {name}_file and {name}_credential; set only one"))),
        }
    }

    fn check(&self, key: &str, problems: &mut Vec<Problem>) {
        let mut say = |name: &str, what: String| problems.push(Problem::new(format!("{key}.{name}"), what));
        if let Err(error) = AppName::parse(&self.name) {
            say("name", error.to_string());
        }
        if self.domains.is_empty() {
            say("domains", "is empty; name domains, or \"*\"".to_owned());
        }
        if self.max_connections == 0 || self.max_connections > 100 {
            say("max_connections", "is out of range; must be from 1 to 100".to_owned());
        }
        if let Err((kind, error)) = self.templates() {
            say(&format!("templates.{}", kind.as_str()), error.to_string());
        }
        let is = |provider| self.provider == provider;
        let misplaced = [
            ("topic", self.topic.is_some(), is(PushProvider::Apns)),
            ("key_id", self.key_id.is_some(), is(PushProvider::Apns)),
            ("team_id", self.team_id.is_some(), is(PushProvider::Apns)),
            ("certificate_file", self.certificate_file.is_some(), is(PushProvider::Apns)),
            ("certificate_key_file", self.certificate_key_file.is_some(), is(PushProvider::Apns)),
            ("service_account_file", self.service_account_file.is_some(), is(PushProvider::Fcm)),
            ("service_account_credential", self.service_account_credential.is_some(), is(PushProvider::Fcm)),
            ("token_url", self.token_url.is_some(), is(PushProvider::Fcm)),
            ("vapid_subject", self.vapid_subject.is_some(), is(PushProvider::Webpush)),
            ("endpoint_hosts", !self.endpoint_hosts.is_empty(), is(PushProvider::Webpush)),
            ("endpoint", self.endpoint.is_some(), !is(PushProvider::Webpush)),
            ("key_file", self.key_file.is_some(), !is(PushProvider::Fcm)),
            ("key_credential", self.key_credential.is_some(), !is(PushProvider::Fcm)),
        ];
        for (name, _, _) in misplaced.into_iter().filter(|(_, set, fits)| *set && !fits) {
            say(name, format!("is not for provider \"{}\"", self.provider.as_str()));
        }
        if is(PushProvider::Apns) && self.topic.is_none() {
            say("topic", "is missing; it is the application's bundle id, for example \"ru.example.elph\"".to_owned());
        }
        if is(PushProvider::Webpush) && self.vapid_subject.is_none() {
            say(
                "vapid_subject",
                "is missing; it is whom a browser's push service may write to, for example \"mailto:noc@example.ru\"".to_owned(),
            );
        }
        let with_certificate = self.certificate_file.is_some();
        if with_certificate && (self.key_file.is_some() || self.key_credential.is_some()) {
            say("certificate_file", "stands beside a key; Apple takes one of them".to_owned());
        }
        if is(PushProvider::Apns) && !with_certificate {
            for (name, value) in [("key_id", &self.key_id), ("team_id", &self.team_id)] {
                let fits = value.as_ref().is_some_and(|id| id.len() == 10 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
                if !fits {
                    say(name, "must be ten letters and digits, as Apple's developer page shows it".to_owned());
                }
            }
        }
        if !with_certificate && let Err(problem) = self.key(key) {
            problems.push(problem);
        }
    }
}

// === impl PushProvider, PushKind ===

impl PushProvider {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
            Self::Webpush => "webpush",
        }
    }
}

impl PushKind {
    fn policy(self) -> Kind {
        match self {
            Self::Call => Kind::Call,
            Self::Cancel => Kind::CallCancel,
            Self::MissedCall => Kind::MissedCall,
            Self::Invitation => Kind::Invitation,
            Self::InvitationCancel => Kind::InvitationCancel,
        }
    }

    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Call => Self::Call,
            Kind::CallCancel => Self::Cancel,
            Kind::MissedCall | Kind::Message => Self::MissedCall,
            Kind::Invitation => Self::Invitation,
            Kind::InvitationCancel => Self::InvitationCancel,
        }
    }

    fn as_str(self) -> &'static str {
        self.policy().as_str()
    }
}
