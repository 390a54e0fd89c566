//! Which push services may be posted to. A subscription's endpoint comes from a browser, so from anybody: without a list it could name
//! a host of the inner network.

use http::Uri;
use push_http::Origin;

/// The services of the browsers that are in use: Chrome and its kin, Firefox, Safari, Edge.
const KNOWN: [&str; 4] = ["fcm.googleapis.com", ".push.services.mozilla.com", ".push.apple.com", ".notify.windows.com"];

/// The longest endpoint that is taken.
const LONGEST: usize = 1024;

/// Hosts that endpoints may name. `push.example.org` is one host, `.example.org` all below that name; a port other than 443 must be
/// written: `push.example.org:8443`.
#[derive(Debug, Clone)]
pub struct Allowed {
    hosts: Vec<Host>,
}

#[derive(Debug, Clone)]
struct Host {
    name: String,
    below: bool,
    port: u16,
}

/// Why an entry of the list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a host (push.example.org), nor all hosts below a name of two parts (.example.org), with or without a port")]
pub struct BadHost(pub String);

/// Why an endpoint is not posted to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not an https address.
    #[error("the endpoint is not an https address without user name and fragment")]
    NotHttps,
    /// Not in the list.
    #[error("the endpoint's host {0} is not one of the allowed push services")]
    Host(String),
}

impl Default for Allowed {
    fn default() -> Self {
        Self { hosts: KNOWN.iter().filter_map(|text| Host::parse(text).ok()).collect() }
    }
}

impl Allowed {
    /// A list in place of the default one.
    pub fn only<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Result<Self, BadHost> {
        Ok(Self { hosts: hosts.into_iter().map(Host::parse).collect::<Result<_, _>>()? })
    }

    /// Checks an endpoint, also ahead of its registration.
    pub fn check(&self, endpoint: &str) -> Result<(), Refused> {
        self.origin(endpoint).map(|_| ())
    }

    pub(crate) fn origin(&self, endpoint: &str) -> Result<(Uri, Origin), Refused> {
        // Fragments are dropped by the parser without a word.
        if endpoint.len() > LONGEST || endpoint.contains('#') {
            return Err(Refused::NotHttps);
        }
        let uri: Uri = endpoint.parse().map_err(|_| Refused::NotHttps)?;
        let origin = Origin::of(&uri).ok().filter(|origin| origin.secure).ok_or(Refused::NotHttps)?;
        if self.hosts.iter().any(|host| host.fits(&origin)) { Ok((uri, origin)) } else { Err(Refused::Host(origin.at.to_string())) }
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, BadHost> {
        let bad = || BadHost(text.chars().filter(|c| !c.is_control()).take(80).collect());
        let (below, rest) = match text.strip_prefix('.') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let uri: Uri = format!("https://{rest}/").parse().map_err(|_| bad())?;
        let origin = Origin::of(&uri).map_err(|_| bad())?;
        let is_name = !rest.is_empty() && !rest.contains(['/', '*', '?', '#']) && origin.at.host.chars().all(|c| c.is_ascii_graphic());
        // `.com` would allow everybody.
        if !is_name || (below && (!origin.at.host.contains('.') || origin.at.host.parse::<std::net::IpAddr>().is_ok())) {
            return Err(bad());
        }
        Ok(Self { name: origin.at.host, below, port: origin.at.port })
    }

    fn fits(&self, origin: &Origin) -> bool {
        let host = origin.at.host.as_str();
        let named = if self.below {
            host.strip_suffix(&self.name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        } else {
            host == self.name
        };
        named && origin.at.port == self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browsers_own_services_are_allowed() {
        for endpoint in [
            "https://fcm.googleapis.com/fcm/send/abc:def",
            "https://updates.push.services.mozilla.com/wpush/v2/gAAA",
            "https://web.push.apple.com/QGuQ",
            "https://wns2-par02p.notify.windows.com/w/?token=BQ",
            "https://FCM.GoogleApis.com:443/wp/x",
        ] {
            assert_eq!(Allowed::default().check(endpoint), Ok(()), "{endpoint}");
        }
    }

    #[test]
    fn nobody_can_make_us_post_to_another_host() {
        for endpoint in [
            "https://10.0.0.1/x",
            "https://localhost/x",
            "https://[::1]/x",
            "https://fcm.googleapis.com.evil.example/x",
            "https://evilfcm.googleapis.com/x",
            "https://notify.windows.com/x",
            "https://.notify.windows.com/x",
            "https://xnotify.windows.com/x",
            "https://fcm.googleapis.com:8443/x",
            "https://fcm.googleapis.com:22/x",
            "https://fcm.googleapis.com@10.0.0.1/x",
            "https://user@fcm.googleapis.com/x",
            "http://fcm.googleapis.com/x",
            "http://127.0.0.1/x",
            "https://fcm.googleapis.com/x#y",
            "https://fcm.googleapis.com\\@10.0.0.1/x",
            "https://fcm.googleapis.com./x",
            "//fcm.googleapis.com/x",
            "",
        ] {
            assert!(Allowed::default().check(endpoint).is_err(), "{endpoint}");
        }
    }

    #[test]
    fn an_own_list_replaces_the_known_services() {
        let own = Allowed::only(["push.example.org", ".example.net:8443", "127.0.0.1:9"]).unwrap();
        for (endpoint, wanted) in [
            ("https://push.example.org/x", true),
            ("https://a.push.example.org/x", false),
            ("https://a.example.net:8443/x", true),
            ("https://a.example.net/x", false),
            ("https://127.0.0.1:9/x", true),
            ("https://127.0.0.1/x", false),
            ("https://fcm.googleapis.com/x", false),
        ] {
            assert_eq!(own.check(endpoint).is_ok(), wanted, "{endpoint}");
        }
        for bad in ["", ".", ".com", "*.example.org", "https://push.example.org", "a/b", ".127.0.0.1", "push.example.org:0", "a b"] {
            assert!(Allowed::only([bad]).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_allowed_is_on_the_list(endpoint in "https://[a-z.@:\\\\#?0-9/]{0,40}(fcm.googleapis.com|.push.apple.com)[a-z.@:/]{0,20}") {
            if let Ok((uri, origin)) = Allowed::default().origin(&endpoint) {
                let host = uri.host().unwrap_or_default();
                assert!(host == "fcm.googleapis.com" || host.ends_with(".push.apple.com"), "{endpoint}");
                assert_eq!(origin.at.port, 443);
            }
        }
    }
}
