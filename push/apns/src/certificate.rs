//! A push certificate: until when, for which topics, for which environment. Apple writes the bundle id as `UID` into the subject and
//! the rest into extensions of its own.

use std::fmt;

use jiff::Timestamp;
use push_core::{Environment, connect::Identity};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{SettingsError, settings::Cause};

/// Certificate and key, as PEM, and what the certificate says.
pub struct Certificate {
    chain_pem: Vec<u8>,
    key_pem: Vec<u8>,
    expires_at: Timestamp,
    topics: Vec<String>,
    environments: Vec<Environment>,
}

/// Attribute of the subject: the bundle id.
const UID: &str = "0.9.2342.19200300.100.1.1";
/// Extensions of Apple: the environments that the certificate is for.
const DEVELOPMENT: &str = "1.2.840.113635.100.6.3.1";
const PRODUCTION: &str = "1.2.840.113635.100.6.3.2";
/// Extension of Apple: all topics of a certificate that has several.
const TOPICS: &str = "1.2.840.113635.100.6.3.6";

// === impl Certificate ===

impl Certificate {
    /// Reads the chain, leaf first, and the key, both PEM; they may be in one text that is given twice.
    pub fn from_pem(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, SettingsError> {
        let identity = Identity::from_pem(chain_pem, key_pem).map_err(|error| SettingsError::Certificate(Cause::new(error)))?;
        let (_, parsed) = X509Certificate::from_der(identity.leaf()).map_err(|error| SettingsError::Certificate(Cause::new(error)))?;
        let expires_at = Timestamp::from_second(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);
        let mut topics: Vec<String> = parsed
            .subject()
            .iter_attributes()
            .filter(|attribute| attribute.attr_type().to_id_string() == UID)
            .filter_map(|attribute| attribute.as_str().ok().map(str::to_owned))
            .collect();
        let mut environments = Vec::new();
        for extension in parsed.extensions() {
            match extension.oid.to_id_string().as_str() {
                DEVELOPMENT => environments.push(Environment::Development),
                PRODUCTION => environments.push(Environment::Production),
                TOPICS => topics.extend(texts(extension.value)),
                _ => {}
            }
        }
        Ok(Self { chain_pem: chain_pem.to_vec(), key_pem: key_pem.to_vec(), expires_at, topics, environments })
    }

    /// The end of its validity.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    pub(crate) fn identity(&self) -> Result<Identity, SettingsError> {
        Identity::from_pem(&self.chain_pem, &self.key_pem).map_err(|error| SettingsError::Certificate(Cause::new(error)))
    }

    /// Whether it lets its owner send to the topic; one that names none is not Apple's, and nothing can be said.
    pub(crate) fn allows_topic(&self, topic: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|it| it == topic)
    }

    pub(crate) fn topics(&self) -> String {
        self.topics.join(", ")
    }

    pub(crate) fn allows(&self, environment: Environment) -> bool {
        self.environments.is_empty() || self.environments.contains(&environment)
    }
}

/// The UTF-8 strings of a DER value, whatever lies around them: topics are strings between sequences of labels. Labels (`app`, `voip`)
/// have no dot.
fn texts(der: &[u8]) -> Vec<String> {
    const UTF8_STRING: u8 = 0x0c;
    const CONSTRUCTED: u8 = 0x20;
    let mut found = Vec::new();
    let mut rest = der;
    while let [tag, length, after @ ..] = rest {
        let (length, after) = match (*length, after) {
            (0x81, [length, after @ ..]) => (usize::from(*length), after),
            (0x82, [high, low, after @ ..]) => (usize::from(*high) << 8 | usize::from(*low), after),
            (short @ 0..=0x7f, after) => (usize::from(short), after),
            _ => break,
        };
        if tag & CONSTRUCTED != 0 {
            rest = after;
            continue;
        }
        let Some((value, next)) = after.split_at_checked(length) else { break };
        if *tag == UTF8_STRING {
            found.extend(std::str::from_utf8(value).ok().filter(|text| text.contains('.')).map(str::to_owned));
        }
        rest = next;
    }
    found
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("expires_at", &self.expires_at).field("topics", &self.topics).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_found_between_labels_and_rubbish_ends_the_search() {
        // SEQUENCE { "com.example.app", SEQUENCE { "app" }, "com.example.app.voip", SEQUENCE { "voip" } }
        let mut inner = Vec::new();
        for (topic, label) in [("com.example.app", "app"), ("com.example.app.voip", "voip")] {
            inner.extend([0x0c, topic.len() as u8]);
            inner.extend(topic.bytes());
            inner.extend([0x30, label.len() as u8 + 2, 0x0c, label.len() as u8]);
            inner.extend(label.bytes());
        }
        let mut der = vec![0x30, inner.len() as u8];
        der.extend(&inner);
        assert_eq!(texts(&der), ["com.example.app", "com.example.app.voip"]);
        for cut in 0..der.len() {
            texts(&der[..cut]);
        }
        assert_eq!(texts(&[0x0c, 0xff, 1, 2]), Vec::<String>::new());
    }
}
