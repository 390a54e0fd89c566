//! Scheme, host and port of a service (RFC 6454), as an operator or a browser wrote them.

use std::{fmt, net::IpAddr};

use http::Uri;
use push_core::connect::HostPort;

/// A service to talk to. Without TLS only on the loopback interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Whether TLS is spoken.
    pub secure: bool,
    /// Where.
    pub at: HostPort,
}

/// Why an address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOrigin {
    /// Not an absolute URL.
    #[error("must be a URL such as https://host/path")]
    NotAUrl,
    /// Another scheme.
    #[error("must begin with https:// (http:// is allowed on the loopback interface only)")]
    Scheme,
    /// A password in a URL is never wanted.
    #[error("must not contain a user name or password")]
    UserInfo,
}

impl Origin {
    /// The origin of an address.
    pub fn of(url: &Uri) -> Result<Self, BadOrigin> {
        let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else { return Err(BadOrigin::NotAUrl) };
        if authority.as_str().contains('@') {
            return Err(BadOrigin::UserInfo);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // A colon with no or too great a number behind it is not a default port.
        let explicit = authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, rest)| rest).contains(':');
        if host.is_empty() || (explicit && authority.port_u16().is_none_or(|port| port == 0)) {
            return Err(BadOrigin::NotAUrl);
        }
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let secure = match scheme {
            "https" => true,
            "http" if loopback => false,
            _ => return Err(BadOrigin::Scheme),
        };
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, at: HostPort { host, port } })
    }

    /// Host and, if it is not the scheme's own, port.
    pub fn authority(&self) -> String {
        let own = if self.secure { 443 } else { 80 };
        let text = self.at.to_string();
        if self.at.port == own { text.trim_end_matches(&format!(":{own}")).to_owned() } else { text }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Origin, BadOrigin> {
        Origin::of(&text.parse().map_err(|_| BadOrigin::NotAUrl)?)
    }

    #[test]
    fn an_origin_is_written_without_the_schemes_own_port() {
        for (text, wanted, port) in [
            ("https://fcm.example/v1/x", "https://fcm.example", 443),
            ("https://FCM.example:443", "https://fcm.example", 443),
            ("https://fcm.example:8443/", "https://fcm.example:8443", 8443),
            ("http://127.0.0.1:9/x", "http://127.0.0.1:9", 9),
            ("http://[::1]:80/x", "http://[::1]", 80),
            ("https://[2001:db8::1]/x", "https://[2001:db8::1]", 443),
        ] {
            let origin = of(text).unwrap();
            assert_eq!((origin.to_string().as_str(), origin.at.port), (wanted, port), "{text}");
        }
    }

    #[test]
    fn an_address_that_would_be_asked_in_clear_or_is_none_is_refused() {
        for (text, wanted) in [
            ("http://fcm.example/", BadOrigin::Scheme),
            ("http://127.0.0.1.evil.example/", BadOrigin::Scheme),
            ("ftp://127.0.0.1/", BadOrigin::Scheme),
            ("/path", BadOrigin::NotAUrl),
            ("fcm.example", BadOrigin::NotAUrl),
            ("https://user:pass@fcm.example/", BadOrigin::UserInfo),
            ("https://fcm.example:99999/", BadOrigin::NotAUrl),
            ("https://fcm.example:0/", BadOrigin::NotAUrl),
        ] {
            assert_eq!(of(text), Err(wanted), "{text}");
        }
    }
}
