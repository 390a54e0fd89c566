//! What is configured, and what is wrong with it in words that a person can act on. The caller adds the file's name.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use push_core::{
    ApnsPushType, Environment,
    connect::{self, Connect, HostPort, TcpTls, TlsError},
};
use rustls::pki_types::ServerName;

use crate::{Certificate, Clock, ProviderTokens, SystemClock};

/// Who we are to Apple.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A team's key.
    Token(Arc<ProviderTokens>),
    /// A push certificate.
    Certificate(Arc<Certificate>),
}

/// One application at Apple: where to, as whom, with what patience.
#[derive(Clone)]
pub struct Settings {
    /// Apple's host and 443 or 2197, or a test's.
    pub at: HostPort,
    /// Which of the two worlds of tokens `at` is.
    pub environment: Environment,
    /// The application's bundle id; what Apple wants behind it follows from the push type.
    pub topic: String,
    /// Topics that do not follow from the bundle id.
    pub topics: HashMap<ApnsPushType, String>,
    /// Key or certificate.
    pub auth: Auth,
    /// The only certificate authorities to trust, PEM; `None`: the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// An HTTP proxy that makes tunnels.
    pub proxy: Option<HostPort>,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Most requests at a time on one connection, whatever Apple allows.
    pub max_in_flight: usize,
    /// Most requests that wait inside; more are not taken.
    pub max_waiting: usize,
    /// A request has its answer within this, waiting inside and repetitions included.
    pub request_deadline: Duration,
    /// TCP, TLS and HTTP/2 are up within this.
    pub connect_deadline: Duration,
    /// An idle connection is pinged this often.
    pub ping_idle: Duration,
    /// A connection that owes answers and is silent for this long is pinged.
    pub ping_waiting: Duration,
    /// A ping is answered within this, or the connection is dead.
    pub ping_deadline: Duration,
    /// A connection not heard of for this long is asked before it is trusted with a request.
    pub trusted_for: Duration,
    /// While such a connection thinks about it for longer than this, another is opened beside it.
    pub doubted_after: Duration,
    /// A connection beyond the first is closed when it had nothing to do for this long.
    pub idle_extra: Duration,
    /// The first and the longest wait between attempts to connect.
    pub backoff: (Duration, Duration),
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

/// Which setting is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are named like the settings")]
pub enum Field {
    Key,
    KeyId,
    TeamId,
    Certificate,
    Topic,
    Topics,
    Ca,
    Host,
    Limits,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The `.p8` file.
    #[error("is no key for APNs: it must be the PKCS#8 PEM of a P-256 key, as the .p8 file that Apple lets a team download once")]
    Key,
    /// The key's id.
    #[error("must be the 10 letters and digits that Apple shows as the key's id")]
    KeyId,
    /// The team's id.
    #[error("must be the 10 letters and digits that Apple shows as the team's id")]
    TeamId,
    /// The certificate or its key.
    #[error("cannot be used as a push certificate: {0}")]
    Certificate(Cause),
    /// It was valid once.
    #[error("expired on {0}: a new certificate must be made for the same application")]
    CertificateExpired(Timestamp),
    /// It is another application's.
    #[error("is for {certificate}, not for the topic {topic}")]
    CertificateTopic {
        /// The topics in it.
        certificate: String,
        /// The one configured.
        topic: String,
    },
    /// It is for the other environment.
    #[error("is not for the environment {0:?}")]
    CertificateEnvironment(Environment),
    /// Not a bundle id.
    #[error("must be the application's bundle id: letters, digits, dots and hyphens, such as com.example.phone")]
    Topic,
    /// The suffix is ours to add.
    #[error("must be the bundle id alone: {0} is added to pushes that need it")]
    TopicSuffix(&'static str),
    /// A topic of a push type.
    #[error("the topic for {0} must be letters, digits, dots and hyphens")]
    TopicOf(&'static str),
    /// The certificate authorities.
    #[error("cannot be used as certificate authorities: {0}")]
    Ca(Cause),
    /// The host.
    #[error("must be a host name or an address, and a port")]
    Host,
    /// A number.
    #[error("{0} must be greater than zero")]
    Zero(&'static str),
}

/// Another crate's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(String);

// === impl Settings ===

impl Settings {
    /// Apple's own hosts on 443, and times that suit them.
    pub fn new(environment: Environment, topic: impl Into<String>, auth: Auth) -> Self {
        let host = match environment {
            Environment::Production => "api.push.apple.com",
            Environment::Development => "api.sandbox.push.apple.com",
        };
        Self {
            at: HostPort { host: host.to_owned(), port: 443 },
            environment,
            topic: topic.into(),
            topics: HashMap::new(),
            auth,
            ca_pem: None,
            proxy: None,
            max_connections: 4,
            max_in_flight: 1000,
            max_waiting: 65_536,
            request_deadline: Duration::from_secs(15),
            connect_deadline: Duration::from_secs(10),
            ping_idle: Duration::from_secs(60),
            ping_waiting: Duration::from_secs(1),
            ping_deadline: Duration::from_secs(4),
            trusted_for: Duration::from_secs(20),
            doubted_after: Duration::from_millis(750),
            idle_extra: Duration::from_secs(60),
            backoff: (Duration::from_millis(50), Duration::from_secs(5)),
            clock: Arc::new(SystemClock),
        }
    }

    /// Finds everything that can be found without asking Apple.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.check_shape()?;
        self.tls()?;
        let Auth::Certificate(certificate) = &self.auth else { return Ok(()) };
        if certificate.expires_at() <= self.clock.now() {
            return Err(SettingsError::CertificateExpired(certificate.expires_at()));
        }
        if !certificate.allows(self.environment) {
            return Err(SettingsError::CertificateEnvironment(self.environment));
        }
        if !certificate.allows_topic(&self.topic) {
            return Err(SettingsError::CertificateTopic { certificate: certificate.topics(), topic: self.topic.clone() });
        }
        Ok(())
    }

    /// Real sockets, with the certificate authorities, the certificate and the proxy that are configured.
    pub fn connector(&self) -> Result<Arc<dyn Connect>, SettingsError> {
        let unacknowledged = self.ping_idle.min(self.ping_deadline * 4);
        Ok(Arc::new(TcpTls::new(self.tls()?, self.proxy.clone(), unacknowledged)))
    }

    /// When the certificate stops being valid; a key does not.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        match &self.auth {
            Auth::Certificate(certificate) => Some(certificate.expires_at()),
            Auth::Token(_) => None,
        }
    }

    /// The topic of a push type.
    pub(crate) fn topic_of(&self, push_type: ApnsPushType) -> String {
        self.topics.get(&push_type).cloned().unwrap_or_else(|| format!("{}{}", self.topic, push_type.topic_suffix()))
    }

    /// What must be right before anything can be sent. An expired certificate is Apple's to refuse: a service does not stop for it.
    pub(crate) fn check_shape(&self) -> Result<(), SettingsError> {
        if !is_topic(&self.topic) || !self.topic.contains('.') {
            return Err(SettingsError::Topic);
        }
        let suffixes = ApnsPushType::ALL.iter().map(|(push_type, _)| push_type.topic_suffix());
        if let Some(suffix) = suffixes.into_iter().find(|suffix| !suffix.is_empty() && self.topic.ends_with(suffix)) {
            return Err(SettingsError::TopicSuffix(suffix));
        }
        if let Some((push_type, _)) = self.topics.iter().find(|(_, topic)| !is_topic(topic)) {
            return Err(SettingsError::TopicOf(push_type.as_str()));
        }
        if self.at.host.is_empty() || self.at.port == 0 || ServerName::try_from(self.at.host.as_str()).is_err() {
            return Err(SettingsError::Host);
        }
        let counts = [
            (self.max_connections, "the number of connections"),
            (self.max_in_flight, "the number of requests on a connection"),
            (self.max_waiting, "the number of waiting requests"),
        ];
        let durations = [
            (self.request_deadline, "the deadline of a request"),
            (self.connect_deadline, "the deadline of a connection attempt"),
            (self.ping_idle, "the interval of pings"),
            (self.ping_waiting, "the interval of pings while waiting"),
            (self.ping_deadline, "the deadline of a ping"),
            (self.backoff.0, "the first wait between connection attempts"),
        ];
        let zero = counts.iter().find(|(count, _)| *count == 0).map(|(_, name)| *name);
        match zero.or_else(|| durations.iter().find(|(duration, _)| duration.is_zero()).map(|(_, name)| *name)) {
            Some(name) => Err(SettingsError::Zero(name)),
            None => Ok(()),
        }
    }

    fn tls(&self) -> Result<Arc<rustls::ClientConfig>, SettingsError> {
        let identity = match &self.auth {
            Auth::Certificate(certificate) => Some(certificate.identity()?),
            Auth::Token(_) => None,
        };
        connect::tls(self.ca_pem.as_deref(), identity, &[b"h2"]).map_err(|error| match error {
            // The identity was readable, so it is the other certificates that were not.
            TlsError::NoCertificate | TlsError::NoRoots => SettingsError::Ca(Cause::new(error)),
            TlsError::NoKey | TlsError::Unusable(_) => SettingsError::Certificate(Cause::new(error)),
        })
    }
}

fn is_topic(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let ends = text.starts_with('.') || text.ends_with('.') || text.contains("..");
    !text.is_empty() && text.len() <= 255 && text.bytes().all(fits) && !ends
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("at", &self.at)
            .field("environment", &self.environment)
            .field("topic", &self.topic)
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

// === impl SettingsError ===

impl SettingsError {
    /// The setting to mend.
    pub fn field(&self) -> Field {
        match self {
            Self::Key => Field::Key,
            Self::KeyId => Field::KeyId,
            Self::TeamId => Field::TeamId,
            Self::Certificate(_) | Self::CertificateExpired(_) | Self::CertificateTopic { .. } | Self::CertificateEnvironment(_) => {
                Field::Certificate
            }
            Self::Topic | Self::TopicSuffix(_) => Field::Topic,
            Self::TopicOf(_) => Field::Topics,
            Self::Ca(_) => Field::Ca,
            Self::Host => Field::Host,
            Self::Zero(_) => Field::Limits,
        }
    }
}

// === impl Cause ===

impl Cause {
    pub(crate) fn new(error: impl std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self(text)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
