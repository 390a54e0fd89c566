//! A registered device and its token. RFC 8599 names the parameters that a phone registers with: `pn-provider`, `pn-prid`, `pn-param`
//! (the ECSS writes `pn-params`).

use std::{fmt, sync::Arc};

use jiff::Timestamp;

use crate::{AppName, DeviceId};

/// A provider of pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provider {
    /// Apple.
    Apns,
    /// Google, HTTP v1.
    Fcm,
    /// A browser's push service, RFC 8030.
    Web,
    /// Predictable, for tests.
    Stub,
}

impl Provider {
    /// As RFC 8599 registers it; labels of metrics use it, too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
            Self::Web => "webpush",
            Self::Stub => "stub",
        }
    }

    /// Reads the name; case does not matter.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Apns, Self::Fcm, Self::Web, Self::Stub].into_iter().find(|provider| provider.as_str().eq_ignore_ascii_case(text))
    }
}

/// Apple keeps two worlds of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Environment {
    /// Of released applications.
    #[default]
    Production,
    /// Of applications that a developer runs.
    Development,
}

/// Who a device belongs to: an alias in a domain. Two tenants never share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId {
    /// The tenant.
    pub domain: Arc<str>,
    /// The subscriber in it.
    pub alias: Arc<str>,
}

/// A device token or a browser's endpoint. It is shown shortened: whoever has it can send to the device.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(Arc<str>);

impl Token {
    /// The longest token: FCM's have some 160 characters, endpoints of browsers up to 500.
    pub const LONGEST: usize = 1024;

    /// Checks that the text can be a token of the provider: APNs' is hexadecimal of even length, a browser's an https address.
    pub fn parse(provider: Provider, text: &str) -> Result<Self, &'static str> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > Self::LONGEST || !printable {
            return Err("must be 1 to 1024 printable ASCII characters");
        }
        match provider {
            Provider::Apns if !text.len().is_multiple_of(2) || text.len() < 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Err("must be at least 16 hexadecimal digits, an even number of them")
            }
            // One device has one token, however it is written.
            Provider::Apns => Ok(Self(text.to_ascii_lowercase().into())),
            Provider::Web if !text.starts_with("https://") => Err("must be the subscription's endpoint, an https address"),
            Provider::Fcm if text.contains(['/', '?', '#']) => Err("must be a registration token of FCM"),
            _ => Ok(Self(text.into())),
        }
    }

    /// The whole token. For the provider, never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The end differs between tokens of one device family, the beginning often does not.
        let tail: String = self.0.chars().rev().take(6).collect::<Vec<_>>().into_iter().rev().collect();
        if self.0.len() < 16 { f.write_str("…") } else { write!(f, "…{tail}") }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

/// Keys of a browser's subscription (RFC 8291), base64url without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct WebKeys {
    /// The browser's public key: an uncompressed P-256 point.
    pub p256dh: String,
    /// The shared authentication secret, 16 octets.
    pub auth: String,
}

impl fmt::Debug for WebKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebKeys(…)")
    }
}

/// A device that pushes can be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Ours.
    pub id: DeviceId,
    /// Its one user.
    pub user: UserId,
    /// The configured application.
    pub app: AppName,
    /// Who delivers.
    pub provider: Provider,
    /// Where to.
    pub token: Token,
    /// Only APNs has two.
    pub environment: Environment,
    /// Keys of a browser's subscription.
    pub web_keys: Option<WebKeys>,
    /// `ios`, `android`, `web`, as the client says; empty: unknown.
    pub platform: String,
    /// BCP 47, for texts in the user's language; empty: unknown.
    pub locale: String,
    /// The client's own name of the device; one label of a user is one device.
    pub label: String,
    /// Whether calls are pushed to it.
    pub wants_calls: bool,
    /// Whether messages and notices are.
    pub wants_messages: bool,
    /// When the token was registered or refreshed: a provider's "gone since" before it does not concern it.
    pub registered_at: Timestamp,
}

/// Reading of what a SIP phone registers with.
pub mod rfc8599 {
    use std::collections::BTreeMap;

    use super::Provider;

    /// The parameters of one contact.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Registration {
        /// `pn-provider`.
        pub provider: Provider,
        /// `pn-prid`, whole.
        pub prid: String,
        /// `pn-param` or `pn-params`: for APNs team and topic with a dot between, for FCM the project.
        pub param: String,
    }

    /// Why the parameters name no device.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    pub enum Unusable {
        /// One is missing.
        #[error("{0} is missing")]
        Missing(&'static str),
        /// The provider has no sender.
        #[error("pn-provider '{0}' is unknown; known are apns, fcm and webpush")]
        Provider(String),
    }

    /// Reads `pn-provider=apns;pn-prid=…;pn-params=…`, as a Contact's URI has them: separated by `;`, percent-encoded, in any order.
    pub fn parse(text: &str) -> Result<Registration, Unusable> {
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        for parameter in text.split([';', '&']) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            found.insert(name.trim().trim_start_matches('+').to_ascii_lowercase(), decoded(value.trim().trim_matches('"')));
        }
        let mut take = |names: &[&'static str]| names.iter().find_map(|name| found.remove(*name)).filter(|value| !value.is_empty());
        let provider = take(&["pn-provider"]).ok_or(Unusable::Missing("pn-provider"))?;
        let provider = Provider::parse(&provider).filter(|it| *it != Provider::Stub).ok_or(Unusable::Provider(provider))?;
        let prid = take(&["pn-prid"]).ok_or(Unusable::Missing("pn-prid"))?;
        let param = take(&["pn-param", "pn-params"]).unwrap_or_default();
        Ok(Registration { provider, prid, param })
    }

    /// Percent-decoding; what is no such sequence stays as it is.
    fn decoded(text: &str) -> String {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            let digits = (first == b'%').then(|| after.get(..2)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
            match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) => {
                    bytes.push(byte);
                    rest = after.get(2..).unwrap_or_default();
                }
                None => {
                    bytes.push(first);
                    rest = after;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_checked_by_its_provider_and_shown_shortened() {
        let token = Token::parse(Provider::Apns, &"AB12".repeat(16)).unwrap();
        assert_eq!(token.expose(), "ab12".repeat(16));
        assert_eq!(format!("{token} {token:?}"), "…12ab12 Token(…12ab12)");
        assert_eq!(Token::parse(Provider::Fcm, "short").unwrap().to_string(), "…");
        for (provider, wrong) in [
            (Provider::Apns, "abc"),
            (Provider::Apns, "zz".repeat(32).as_str()),
            (Provider::Fcm, ""),
            (Provider::Fcm, "a b"),
            (Provider::Web, "http://push.example/1"),
        ] {
            assert!(Token::parse(provider, wrong).is_err(), "{provider:?} {wrong}");
        }
    }

    #[test]
    fn parameters_are_read_as_the_rfc_and_as_the_ecss_writes_them() {
        let rfc = rfc8599::parse("pn-provider=apns;pn-prid=00fc13adff78512;pn-param=DEF123GHIJ.com.example.yourapp").unwrap();
        assert_eq!(
            (rfc.provider, rfc.prid.as_str(), rfc.param.as_str()),
            (Provider::Apns, "00fc13adff78512", "DEF123GHIJ.com.example.yourapp")
        );
        let ecss = rfc8599::parse("pn-params=elph;PN-Provider=FCM;pn-prid=dX%3Aabc").unwrap();
        assert_eq!((ecss.provider, ecss.prid.as_str(), ecss.param.as_str()), (Provider::Fcm, "dX:abc", "elph"));
        assert_eq!(rfc8599::parse("pn-prid=1"), Err(rfc8599::Unusable::Missing("pn-provider")));
        assert_eq!(rfc8599::parse("pn-provider=acme;pn-prid=1"), Err(rfc8599::Unusable::Provider("acme".to_owned())));
        assert_eq!(rfc8599::parse("pn-provider=fcm;pn-prid="), Err(rfc8599::Unusable::Missing("pn-prid")));
    }

    proptest::proptest! {
        #[test]
        fn no_text_of_parameters_panics(text in ".{0,200}") {
            let _read = rfc8599::parse(&text);
        }
    }
}
