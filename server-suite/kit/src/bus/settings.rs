//! `[bus]`: without an address everything stays in this process and its database; with one it goes over RabbitMQ.

use std::path::PathBuf;

use elph_shell::config::{PasswordSource, Problem, Secret, Span, read_bounded};
use lapin::{tcp::OwnedTLSConfig, uri::AMQPUri};
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

/// Seconds between signs of life on a connection; one that is silent for twice as long is given up.
const HEARTBEAT: u16 = 10;
/// A file of certificates.
const LONGEST: u64 = 1 << 20;

/// `[bus]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BusSettings {
    /// RabbitMQ: `amqps://user@host:5671/vhost`, without a password; the virtual host `/` is written `%2F`. It needs a virtual host of
    /// its own for each installation. Absent: events stay in this process and its database, which is enough for one process.
    pub url: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// A file with it; read again for each connection.
    pub password_file: Option<PathBuf>,
    /// A systemd credential with it.
    pub password_credential: Option<String>,
    /// PEM file of the authority that signed RabbitMQ's certificate, beside those that the system knows.
    pub ca_file: Option<PathBuf>,
    /// Events of a queue that are fetched ahead, at most.
    pub prefetch: u16,
    /// How often an event is tried before it becomes a dead letter.
    pub attempts: u32,
    /// How long it is remembered which events were handled, so that one that comes again is recognised.
    pub remember: Span,
}

impl Default for BusSettings {
    fn default() -> Self {
        Self {
            url: None,
            password: None,
            password_file: None,
            password_credential: None,
            ca_file: None,
            prefetch: 32,
            attempts: 5,
            remember: Span::seconds(7 * 24 * 3600),
        }
    }
}

impl BusSettings {
    /// What their types cannot say.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        let mut say = |key: &str, what: &str| problems.push(Problem::new(format!("bus.{key}"), what));
        match self.url.as_deref() {
            None if self.has_password() => say("url", "is missing, but there is a password"),
            None => {}
            Some(url) => match url.split_once("://") {
                Some(("amqp" | "amqps", _)) if url.parse::<AMQPUri>().is_err() => {
                    say("url", "cannot be understood; write amqps://user@host:5671/vhost")
                }
                Some(("amqp" | "amqps", rest)) => {
                    if rest.split_once('@').is_some_and(|(user, _)| user.contains(':')) {
                        say("url", "has a password in it; use password_file or password_credential");
                    }
                }
                _ => say("url", "must begin with amqp:// or amqps://"),
            },
        }
        if !(1..=1000).contains(&self.prefetch) {
            say("prefetch", "is out of range; must be from 1 to 1000");
        }
        if !(1..=100).contains(&self.attempts) {
            say("attempts", "is out of range; must be from 1 to 100");
        }
        if self.remember < Span::seconds(3600) || self.remember > Span::seconds(90 * 24 * 3600) {
            say("remember", "is out of range; must be from 1h to 90d");
        }
        if let Err(problem) = self.source() {
            problems.push(problem);
        }
    }

    /// Whether passwords and events would cross a network unencrypted.
    pub fn is_open(&self) -> bool {
        let uri = self.url.as_deref().filter(|url| url.starts_with("amqp://")).and_then(|url| url.parse::<AMQPUri>().ok());
        let local = |host: &str| host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        uri.is_some_and(|uri| !local(&uri.authority.host))
    }

    fn has_password(&self) -> bool {
        self.password.is_some() || self.password_file.is_some() || self.password_credential.is_some()
    }

    fn source(&self) -> Result<Option<PasswordSource>, Problem> {
        if !self.has_password() {
            return Ok(None);
        }
        let (inline, file, credential) = (self.password.as_ref(), self.password_file.as_deref(), self.password_credential.as_deref());
        PasswordSource::choose("bus", inline, file, credential).map(Some)
    }

    /// Where RabbitMQ is, with the password as it is now.
    pub(super) fn address(&self) -> Result<(AMQPUri, OwnedTLSConfig), String> {
        let mut uri: AMQPUri = self.url.as_deref().unwrap_or_default().parse().map_err(|_| "bus.url: cannot be understood".to_owned())?;
        uri.query.heartbeat = Some(HEARTBEAT);
        if let Some(source) = self.source().map_err(|problem| problem.what)? {
            uri.authority.userinfo.password = source.read()?.expose_secret().to_owned();
        }
        let read = |path: &PathBuf| {
            let pem = read_bounded(path, LONGEST)?;
            String::from_utf8(pem).map_err(|_| format!("bus.ca_file: {} is no PEM file", path.display()))
        };
        let tls = OwnedTLSConfig { identity: None, cert_chain: self.ca_file.as_ref().map(read).transpose()? };
        Ok((uri, tls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(settings: &BusSettings) -> Vec<String> {
        let mut problems = Vec::new();
        settings.check(&mut problems);
        problems.into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn wrong_settings_are_refused() {
        let with = |url: &str| BusSettings { url: Some(url.to_owned()), ..BusSettings::default() };
        assert!(keys(&BusSettings::default()).is_empty());
        assert!(keys(&with("amqps://elph@mq.example:5671/elph")).is_empty());
        for bad in ["http://mq", "amqp", "amqp://elph:secret@mq", "amqp://mq:70000"] {
            assert_eq!(keys(&with(bad)), ["bus.url"], "{bad}");
        }
        let numbers = BusSettings { prefetch: 0, attempts: 0, remember: Span::seconds(1), ..BusSettings::default() };
        assert_eq!(keys(&numbers), ["bus.prefetch", "bus.attempts", "bus.remember"]);
        let lost = BusSettings { password_file: Some("/x".into()), ..BusSettings::default() };
        assert_eq!(keys(&lost), ["bus.url"]);
        assert!(with("amqp://mq.example").is_open() && !with("amqp://127.0.0.1").is_open() && !with("amqps://mq.example").is_open());
    }
}
