//! What an operator configures: the service account's file as Firebase's console gives it out, and where to send to.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use http::Uri;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use push_core::connect::{Connect, Connecting, HostPort, Tcp, TcpTls, TlsError, tls};
use push_http::{BadOrigin, Origin};
use serde::Deserialize;

/// Google's.
const ENDPOINT: &str = "https://fcm.googleapis.com";

/// A service account that may send.
#[derive(Clone)]
pub struct ServiceAccount {
    /// The project whose applications are sent to.
    pub project: String,
    /// The account's name.
    pub email: String,
    /// Where it gets its tokens, as its file says; also the audience of what it signs.
    pub token_uri: String,
    pub(crate) key: EncodingKey,
    pub(crate) key_id: Option<String>,
}

/// Where and how to send.
#[derive(Clone)]
pub struct Settings {
    /// Who sends.
    pub account: ServiceAccount,
    /// Where messages go.
    pub(crate) endpoint: Uri,
    /// Where tokens come from.
    pub(crate) token_url: Uri,
    /// Certificate authorities in PEM; none: the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// An HTTP proxy on the way to both.
    pub proxy: Option<HostPort>,
    /// Most connections to the endpoint.
    pub connections: usize,
    /// Deadline of connecting, TLS and HTTP/2 settings included.
    pub connect: Duration,
    /// How long a push waits for a token or for room.
    pub wait: Duration,
    /// Deadline of an answer.
    pub answer: Duration,
}

/// Why the settings cannot be used. The text says what to mend.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not JSON.
    #[error("the service account's file is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// Another of Firebase's files.
    #[error("this is {0}, not a service account's key; Firebase's console gives that out under project settings, service accounts")]
    OtherFile(&'static str),
    /// A member is missing.
    #[error("the service account's file has no {0}")]
    Missing(&'static str),
    /// A member is wrong.
    #[error("the service account's {0} cannot be used: {1}")]
    Wrong(&'static str, String),
    /// The private key cannot sign.
    #[error("the service account's private_key cannot be used: it must be an RSA key in PEM, its lines separated by \\n in the JSON text")]
    Key,
    /// An address is wrong.
    #[error("{0} '{1}' cannot be used")]
    Address(&'static str, String, #[source] BadOrigin),
    /// A number is wrong.
    #[error("connections must be 1 to 100")]
    Connections,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "type")]
    kind: Option<String>,
    project_id: Option<String>,
    private_key_id: Option<String>,
    private_key: Option<String>,
    client_email: Option<String>,
    token_uri: Option<String>,
    /// Of `google-services.json`.
    project_info: Option<serde::de::IgnoredAny>,
    /// Of an OAuth client.
    installed: Option<serde::de::IgnoredAny>,
    web: Option<serde::de::IgnoredAny>,
}

// === impl ServiceAccount ===

impl ServiceAccount {
    /// Reads the JSON text and tries the key.
    pub fn from_json(json: &str) -> Result<Self, SettingsError> {
        let file: File = serde_json::from_str(json).map_err(SettingsError::NotJson)?;
        if file.project_info.is_some() {
            return Err(SettingsError::OtherFile("google-services.json of an Android application"));
        }
        if file.installed.is_some() || file.web.is_some() {
            return Err(SettingsError::OtherFile("an OAuth client's secret"));
        }
        match file.kind.as_deref() {
            Some("service_account") => {}
            Some("authorized_user") => return Err(SettingsError::OtherFile("a person's credentials")),
            Some(other) => return Err(SettingsError::Wrong("type", format!("it is '{}', not 'service_account'", shown(other)))),
            None => return Err(SettingsError::Missing("type")),
        }
        let project = present(file.project_id, "project_id")?;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
        if project.len() > 100 || !project.chars().all(fits) {
            return Err(SettingsError::Wrong("project_id", format!("'{}' is no project's id", shown(&project))));
        }
        let email = present(file.client_email, "client_email")?;
        if !email.contains('@') || email.chars().any(char::is_whitespace) {
            return Err(SettingsError::Wrong("client_email", format!("'{}' is no mail address", shown(&email))));
        }
        let token_uri = present(file.token_uri, "token_uri")?;
        address("token_uri", &token_uri)?;
        let pem = present(file.private_key, "private_key")?;
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| SettingsError::Key)?;
        // Some damaged keys are noticed only when they sign.
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &serde_json::json!({}), &key).map_err(|_| SettingsError::Key)?;
        Ok(Self { project, email, token_uri, key, key_id: file.private_key_id.filter(|id| !id.is_empty()) })
    }
}

fn present(value: Option<String>, name: &'static str) -> Result<String, SettingsError> {
    value.filter(|text| !text.is_empty()).ok_or(SettingsError::Missing(name))
}

/// As much of an operator's text as a message needs.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn address(what: &'static str, text: &str) -> Result<Uri, SettingsError> {
    let refused = |source| SettingsError::Address(what, shown(text), source);
    let uri: Uri = text.parse().map_err(|_| refused(BadOrigin::NotAUrl))?;
    Origin::of(&uri).map_err(refused)?;
    Ok(uri)
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount").field("project", &self.project).field("email", &self.email).finish_non_exhaustive()
    }
}

// === impl Settings ===

impl Settings {
    /// The settings for Google's service with an account's file.
    pub fn from_service_account(json: &str) -> Result<Self, SettingsError> {
        Self::of(ServiceAccount::from_json(json)?)
    }

    /// The settings for Google's service with an account.
    pub fn of(account: ServiceAccount) -> Result<Self, SettingsError> {
        let token_url = address("token_uri", &account.token_uri)?;
        Ok(Self {
            account,
            endpoint: Uri::from_static(ENDPOINT),
            token_url,
            ca_pem: None,
            proxy: None,
            connections: 4,
            connect: Duration::from_secs(10),
            wait: Duration::from_secs(15),
            answer: Duration::from_secs(20),
        })
    }

    /// Another endpoint; `https`, or `http` on the loopback interface.
    pub fn with_endpoint(mut self, url: &str) -> Result<Self, SettingsError> {
        self.endpoint = address("the endpoint", url)?;
        Ok(self)
    }

    /// Another address for tokens than the account's file says; what is signed still names the file's.
    pub fn with_token_url(mut self, url: &str) -> Result<Self, SettingsError> {
        self.token_url = address("the token URL", url)?;
        Ok(self)
    }

    /// A connector with these certificate authorities and this proxy, for both addresses.
    pub fn connector(&self) -> Result<Arc<dyn Connect>, SettingsError> {
        let config = tls(self.ca_pem.as_deref(), None, &[b"h2", b"http/1.1"]).map_err(SettingsError::Tls)?;
        let mut plain = HashSet::new();
        for (what, url) in [("the endpoint", &self.endpoint), ("the token URL", &self.token_url)] {
            let origin = Origin::of(url).map_err(|source| SettingsError::Address(what, shown(&url.to_string()), source))?;
            if !origin.secure {
                plain.insert(origin.at);
            }
        }
        let unacknowledged = self.answer;
        Ok(Arc::new(Connector { tls: TcpTls::new(config, self.proxy.clone(), unacknowledged), tcp: Tcp::new(unacknowledged), plain }))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Settings");
        shown.field("account", &self.account).field("endpoint", &self.endpoint).field("token_url", &self.token_url);
        shown.field("proxy", &self.proxy).field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// TLS, but to those on the loopback interface that speak none.
struct Connector {
    tls: TcpTls,
    tcp: Tcp,
    plain: HashSet<HostPort>,
}

impl Connect for Connector {
    fn connect<'a>(&'a self, to: &'a HostPort) -> Connecting<'a> {
        if self.plain.contains(to) { self.tcp.connect(to) } else { self.tls.connect(to) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::tests::account_key;

    fn file(change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) -> String {
        let mut file = serde_json::json!({
            "type": "service_account", "project_id": "elph-1", "private_key_id": "k1", "private_key": account_key(),
            "client_email": "push@elph-1.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
        });
        change(file.as_object_mut().unwrap());
        file.to_string()
    }

    #[test]
    fn an_accounts_file_is_read_and_its_key_is_not_shown() {
        let settings = Settings::from_service_account(&file(|_| {})).unwrap();
        assert_eq!((settings.account.project.as_str(), settings.endpoint.to_string().as_str()), ("elph-1", "https://fcm.googleapis.com/"));
        let shown = format!("{settings:?}");
        assert!(shown.contains("elph-1") && !shown.contains("PRIVATE"), "{shown}");
    }

    #[test]
    fn a_wrong_file_is_refused_with_a_reason_that_a_person_can_act_on() {
        type Change = fn(&mut serde_json::Map<String, serde_json::Value>);
        let cases: [(Change, &str); 10] = [
            (|it| drop(it.insert("type".into(), "authorized_user".into())), "a person's credentials"),
            (|it| drop(it.remove("type")), "has no type"),
            (|it| drop(it.insert("project_info".into(), serde_json::json!({}))), "google-services.json"),
            (|it| drop(it.insert("installed".into(), serde_json::json!({}))), "an OAuth client's secret"),
            (|it| drop(it.remove("private_key")), "has no private_key"),
            (|it| drop(it.insert("private_key".into(), account_key().replace('\n', "\\n").into())), "lines separated by"),
            (|it| drop(it.insert("private_key".into(), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----".into())), "RSA key"),
            (|it| drop(it.insert("project_id".into(), "../x".into())), "'../x' is no project's id"),
            (|it| drop(it.insert("client_email".into(), "nobody".into())), "no mail address"),
            (|it| drop(it.insert("token_uri".into(), "http://oauth2.googleapis.com/token".into())), "token_uri"),
        ];
        for (change, wanted) in cases {
            let error = Settings::from_service_account(&file(change)).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
            assert!(!error.contains("BEGIN"), "{error}");
        }
        assert!(matches!(Settings::from_service_account("{"), Err(SettingsError::NotJson(_))));
    }

    #[test]
    fn without_tls_only_the_loopback_interface_is_talked_to() {
        let settings = Settings::from_service_account(&file(|_| {})).unwrap();
        assert!(settings.clone().with_endpoint("http://fcm.googleapis.com").is_err());
        assert!(settings.clone().with_endpoint("fcm.googleapis.com").is_err());
        assert!(settings.clone().with_token_url("http://10.0.0.1/token").is_err());
        assert!(settings.with_endpoint("http://127.0.0.1:1").and_then(|it| it.with_token_url("http://[::1]:2/token")).is_ok());
    }

    #[test]
    fn a_ca_without_certificates_is_refused() {
        let mut settings = Settings::from_service_account(&file(|_| {})).unwrap();
        settings.ca_pem = Some(b"nothing".to_vec());
        assert!(matches!(settings.connector(), Err(SettingsError::Tls(TlsError::NoCertificate))));
    }
}
