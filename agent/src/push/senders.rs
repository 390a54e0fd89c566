//! From the configured applications to senders. Everything that can be wrong with keys, certificates and account files is found here,
//! with the key and the file, also for `config check`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ecss_switch::connect::Endpoint;
use push_apns::{Apns, Auth, Certificate, Field, ProviderTokens, SystemClock};
use push_core::{AppName, Environment, Sender, connect::HostPort};
use push_fcm::Fcm;
use push_web::{Allowed, WebPush};

use super::App;
use crate::{
    config::{Problem, Push, PushApp, PushEnvironment, PushProvider, read_bounded},
    lifecycle::Failure,
};

/// The longest file of a provider.
const FILE_LONGEST: u64 = 64 << 10;

/// One key of a team serves all its applications, and Apple wants one token for it.
type Teams = HashMap<(String, String, Vec<u8>), Arc<ProviderTokens>>;

/// What an application cannot be used for.
pub(crate) enum Unusable {
    /// A file is not here. On another host it may be.
    Missing(Problem),
    /// A file is no key, certificate or account, or does not fit the rest.
    Wrong(Problem),
}

impl From<Problem> for Unusable {
    fn from(problem: Problem) -> Self {
        Self::Wrong(problem)
    }
}

impl Unusable {
    fn problem(self) -> Problem {
        match self {
            Self::Missing(problem) | Self::Wrong(problem) => problem,
        }
    }
}

/// The applications with their senders. Nothing connects yet.
pub(super) fn build(push: &Push) -> Result<BTreeMap<AppName, Arc<App>>, Failure> {
    let mut teams = Teams::new();
    let mut apps = BTreeMap::new();
    for (index, app) in push.apps.iter().enumerate() {
        let built = one(&format!("push.apps[{index}]"), app, &mut teams).map_err(Unusable::problem);
        let (name, built) = built.map_err(|problem| Failure::Unusable { key: problem.key, what: problem.what })?;
        apps.insert(name, Arc::new(built));
    }
    Ok(apps)
}

/// What is wrong with the files that the applications name.
pub(crate) fn unusable(push: &Push) -> Vec<Unusable> {
    let mut teams = Teams::new();
    let built = push.apps.iter().enumerate().map(|(index, app)| one(&format!("push.apps[{index}]"), app, &mut teams));
    built.filter_map(Result::err).collect()
}

fn one(key: &str, app: &PushApp, teams: &mut Teams) -> Result<(AppName, App), Unusable> {
    let name = AppName::parse(&app.name).map_err(|error| Problem::new(format!("{key}.name"), error.to_string()))?;
    let templates = app.templates().map_err(|(kind, error)| Problem::new(format!("{key}.templates.{kind:?}"), error.to_string()))?;
    let mut endpoints = None;
    let (sender, parameter) = match app.provider {
        PushProvider::Apns => apns(key, app, teams)?,
        PushProvider::Fcm => fcm(key, app)?,
        PushProvider::Webpush => {
            let (sender, allowed) = web(key, app)?;
            endpoints = Some(allowed);
            (sender, String::new())
        }
    };
    let environment = environment(app);
    let domains = app.domains.clone();
    Ok((name, App { provider: app.provider(), environment, parameter, templates, domains, endpoints, sender }))
}

fn environment(app: &PushApp) -> Environment {
    match app.environment {
        PushEnvironment::Production => Environment::Production,
        PushEnvironment::Development => Environment::Development,
    }
}

// === APNs ===

fn apns(key: &str, app: &PushApp, teams: &mut Teams) -> Result<(Arc<dyn Sender>, String), Unusable> {
    let topic = app.topic.clone().unwrap_or_default();
    let (auth, parameter) = match &app.certificate_file {
        Some(file) => {
            let at = format!("{key}.certificate_file");
            let chain = read(&at, file)?;
            let private = match &app.certificate_key_file {
                Some(file) => read(&format!("{key}.certificate_key_file"), file)?,
                None => chain.clone(),
            };
            let certificate =
                Certificate::from_pem(&chain, &private).map_err(|error| Problem::new(&at, format!("{} {error}", file.display())))?;
            (Auth::Certificate(Arc::new(certificate)), topic.clone())
        }
        None => {
            let (key_id, team_id) = (app.key_id.clone().unwrap_or_default(), app.team_id.clone().unwrap_or_default());
            let (at, named, pem) = secret(key, app)?;
            let known = (key_id.clone(), team_id.clone(), pem.clone());
            let tokens = match teams.get(&known) {
                Some(tokens) => tokens.clone(),
                None => {
                    let made = ProviderTokens::new(&pem, &key_id, &team_id, Arc::new(SystemClock));
                    made.map_err(|error| Problem::new(apns_key(key, &at, error.field()), format!("{named}{error}")))?
                }
            };
            teams.insert(known, tokens.clone());
            (Auth::Token(tokens), format!("{team_id}.{topic}"))
        }
    };
    let mut settings = push_apns::Settings::new(environment(app), topic, auth);
    if let Some(endpoint) = &app.endpoint {
        settings.at = host_port(endpoint);
    }
    settings.ca_pem = authorities(key, app)?;
    settings.proxy = app.proxy.as_ref().map(host_port);
    settings.max_connections = app.max_connections as usize;
    let wrong = |error: push_apns::SettingsError| Problem::new(apns_key(key, "certificate_file", error.field()), error.to_string());
    settings.check().map_err(wrong)?;
    let connect = settings.connector().map_err(wrong)?;
    let sender = Apns::new(settings, connect).map_err(wrong)?;
    Ok((Arc::new(sender), parameter))
}

/// The key of the configuration that a setting is under.
fn apns_key(key: &str, file: &str, field: Field) -> String {
    let name = match field {
        Field::Key | Field::Certificate => file,
        Field::KeyId => "key_id",
        Field::TeamId => "team_id",
        Field::Topic | Field::Topics => "topic",
        Field::Ca => "ca_file",
        Field::Host => "endpoint",
        Field::Limits => "max_connections",
    };
    format!("{key}.{name}")
}

// === FCM ===

fn fcm(key: &str, app: &PushApp) -> Result<(Arc<dyn Sender>, String), Unusable> {
    let (at, named, json) = secret(key, app)?;
    let wrong = |error: push_fcm::SettingsError| Problem::new(format!("{key}.{at}"), format!("{named}{}", super::told(&error)));
    let text = String::from_utf8(json).map_err(|_| Problem::new(format!("{key}.{at}"), format!("{named}is no UTF-8 text")))?;
    let mut settings = push_fcm::Settings::from_service_account(&text).map_err(wrong)?;
    if let Some(endpoint) = &app.endpoint {
        settings = settings
            .with_endpoint(&format!("https://{endpoint}"))
            .map_err(|error| Problem::new(format!("{key}.endpoint"), super::told(&error)))?;
    }
    if let Some(url) = &app.token_url {
        settings = settings.with_token_url(url).map_err(|error| Problem::new(format!("{key}.token_url"), super::told(&error)))?;
    }
    settings.ca_pem = authorities(key, app)?;
    settings.proxy = app.proxy.as_ref().map(host_port);
    settings.connections = app.max_connections as usize;
    let project = settings.account.project.clone();
    let wrong = |error: push_fcm::SettingsError| Problem::new(key, super::told(&error));
    let connect = settings.connector().map_err(wrong)?;
    Ok((Arc::new(Fcm::new(settings, connect).map_err(wrong)?), project))
}

// === web push ===

fn web(key: &str, app: &PushApp) -> Result<(Arc<dyn Sender>, Allowed), Unusable> {
    let (at, named, pem) = secret(key, app)?;
    let subject = app.vapid_subject.clone().unwrap_or_default();
    let wrong = |error: push_web::SettingsError| Problem::new(format!("{key}.{at}"), format!("{named}{}", super::told(&error)));
    let text = String::from_utf8(pem).map_err(|_| Problem::new(format!("{key}.{at}"), format!("{named}is no UTF-8 text")))?;
    let mut settings = push_web::Settings::new(&text, &subject).map_err(wrong)?;
    if !app.endpoint_hosts.is_empty() {
        let allowed = Allowed::only(app.endpoint_hosts.iter().map(String::as_str));
        settings.allowed = allowed.map_err(|error| Problem::new(format!("{key}.endpoint_hosts"), super::told(&error)))?;
    }
    settings.ca_pem = authorities(key, app)?;
    settings.proxy = app.proxy.as_ref().map(host_port);
    let wrong = |error: push_web::SettingsError| Problem::new(key, super::told(&error));
    let connect = settings.connector().map_err(wrong)?;
    let allowed = settings.allowed.clone();
    Ok((Arc::new(WebPush::new(settings, connect).map_err(wrong)?), allowed))
}

// === files ===

fn read(key: &str, path: &std::path::Path) -> Result<Vec<u8>, Unusable> {
    read_bounded(path, FILE_LONGEST).map_err(|what| Unusable::Missing(Problem::new(key, what)))
}

/// Key or service account: the configuration's key, how a message begins, and what is in it.
fn secret(key: &str, app: &PushApp) -> Result<(String, String, Vec<u8>), Unusable> {
    let source = app.key(key)?;
    let kind = if app.provider == PushProvider::Fcm { "service_account" } else { "key" };
    let (at, path) = source.place(kind).map_err(|what| Unusable::Missing(Problem::new(format!("{key}.{kind}_credential"), what)))?;
    let bytes = read(&format!("{key}.{at}"), &path)?;
    Ok((at, format!("{} ", path.display()), bytes))
}

fn authorities(key: &str, app: &PushApp) -> Result<Option<Vec<u8>>, Unusable> {
    app.ca_file.as_deref().map(|path| read(&format!("{key}.ca_file"), path)).transpose()
}

fn host_port(endpoint: &Endpoint) -> HostPort {
    HostPort { host: endpoint.host.clone(), port: endpoint.port }
}
