//! What an operator configures for web push.

use std::{sync::Arc, time::Duration};

use push_core::connect::{Connect, HostPort, TcpTls, TlsError, tls};

use crate::{
    allowed::Allowed,
    vapid::{BadVapid, Vapid},
};

/// How to send.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who we are.
    pub vapid: Vapid,
    /// Who is posted to.
    pub allowed: Allowed,
    /// Certificate authorities in PEM; none: the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// An HTTP proxy.
    pub proxy: Option<HostPort>,
    /// Services that connections are kept to; the one not used for longest gives way.
    pub services: usize,
    /// Most connections to one service.
    pub connections: usize,
    /// Deadline of connecting.
    pub connect: Duration,
    /// How long a push waits for room.
    pub wait: Duration,
    /// Deadline of an answer.
    pub answer: Duration,
}

/// Why the settings cannot be used. The text says what to mend.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Key or subject.
    #[error(transparent)]
    Vapid(#[from] BadVapid),
    /// A number is wrong.
    #[error("{0} must be 1 to {1}")]
    Number(&'static str, usize),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
}

impl Settings {
    /// The settings with a VAPID key (PEM, or its 32 octets in base64url) and a subject (`mailto:` or `https:`).
    pub fn new(key: &str, subject: &str) -> Result<Self, SettingsError> {
        let vapid = Vapid::new(key, subject)?;
        Ok(Self {
            vapid,
            allowed: Allowed::default(),
            ca_pem: None,
            proxy: None,
            services: 64,
            connections: 2,
            connect: Duration::from_secs(10),
            wait: Duration::from_secs(15),
            answer: Duration::from_secs(20),
        })
    }

    /// A connector with these certificate authorities and this proxy.
    pub fn connector(&self) -> Result<Arc<dyn Connect>, SettingsError> {
        let config = tls(self.ca_pem.as_deref(), None, &[b"h2", b"http/1.1"]).map_err(SettingsError::Tls)?;
        Ok(Arc::new(TcpTls::new(config, self.proxy.clone(), self.answer)))
    }

    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        for (name, value, most) in [("services", self.services, 1000), ("connections", self.connections, 20)] {
            if !(1..=most).contains(&value) {
                return Err(SettingsError::Number(name, most));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vapid::tests::RAW;

    #[test]
    fn what_is_wrong_is_said_so_that_it_can_be_mended() {
        let error = |key: &str, subject: &str| Settings::new(key, subject).unwrap_err().to_string();
        assert!(error("x", "mailto:a@example.org").contains("prime256v1"));
        assert!(error(RAW, "a@example.org").contains("mailto:NAME@HOST"));
        let mut settings = Settings::new(RAW, "mailto:a@example.org").unwrap();
        settings.services = 0;
        assert_eq!(settings.check().unwrap_err().to_string(), "services must be 1 to 1000");
        settings.ca_pem = Some(Vec::new());
        assert!(settings.connector().is_err());
    }
}
