//! `[acme]`: where certificates come from by themselves (RFC 8555), and how the authority is shown whose names they are.

use std::path::PathBuf;

use elph_shell::config::{Problem, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, sections::is_host};

/// Certificates by themselves (RFC 8555). With it, `listen.certificate_file` and `listen.key_file` are not read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Acme {
    /// The directory of the authority: `https://acme-v02.api.letsencrypt.org/directory`. Empty: no ACME.
    pub directory: String,
    /// You agree to the authority's terms of service. Nothing is ordered without it.
    pub accept_terms: bool,
    /// Whom the authority may write to: `["mailto:admin@example.org"]`.
    pub contact: Vec<String>,
    /// The names of the certificate. Empty: `listen.hosts`. `*.example.org` goes with the challenge "dns" alone.
    pub names: Vec<String>,
    /// How it is shown that the names are ours.
    pub challenge: Challenge,
    /// The program of the challenge "dns". It is started as `hook present|cleanup NAME VALUE` and ends with 0 when the TXT record is
    /// published or removed.
    pub hook: PathBuf,
    /// How long that program may take.
    pub hook_timeout: Span,
    /// How long to wait after it until every name server has the record.
    pub propagation: Span,
    /// How long before its end a certificate is renewed, at most a third of its whole time. Up to a tenth more by chance.
    pub renew_before: Span,
    /// The pause after a failed order; it doubles with each failure, up to 6h.
    pub retry: Span,
    /// The certificate authorities (PEM) that vouch for the ACME server itself. Left out: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The key id of an external account, where the authority wants one.
    pub external_account_id: String,
    /// The file with its key, in base64url as the authority hands it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_account_key_file: Option<PathBuf>,
    /// Where the account's key and the certificate are kept. Must be the proxy's own and outlive restarts.
    pub state: PathBuf,
}

/// How it is shown that a name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Challenge {
    /// TLS-ALPN-01 (RFC 8737): the authority comes to port 443. Needs nginx's stream module.
    TlsAlpn,
    /// DNS-01: a program of yours publishes TXT records.
    Dns,
}

// === impl Acme ===

impl Default for Acme {
    fn default() -> Self {
        Self {
            directory: String::new(),
            accept_terms: false,
            contact: Vec::new(),
            names: Vec::new(),
            challenge: Challenge::TlsAlpn,
            hook: PathBuf::from("/etc/elph-proxy/dns-hook"),
            hook_timeout: Span::seconds(120),
            propagation: Span::seconds(0),
            renew_before: Span::seconds(30 * 86_400),
            retry: Span::seconds(60),
            ca_file: None,
            external_account_id: String::new(),
            external_account_key_file: None,
            state: PathBuf::from("/var/lib/elph-proxy"),
        }
    }
}

impl Acme {
    /// Whether certificates are ordered at all.
    pub fn enabled(&self) -> bool {
        !self.directory.is_empty()
    }

    /// Whether nginx must be able to tell the authority's connections from others.
    pub fn splits_connections(&self) -> bool {
        self.enabled() && self.challenge == Challenge::TlsAlpn
    }

    /// The file with the certificate's chain and key, both in one, so that they are replaced together.
    pub fn certificate(&self) -> PathBuf {
        self.state.join("certificate.pem")
    }
}

/// What the types cannot say.
pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let Config { acme, listen, .. } = config;
    let mut say = |key: &str, what: &str| problems.push(Problem::new(format!("acme.{key}"), what));
    if !acme.enabled() {
        return;
    }
    let uri = acme.directory.parse::<http::Uri>().ok();
    if uri.is_none_or(|uri| uri.scheme_str() != Some("https") || uri.host().is_none()) {
        say("directory", "is no https address; must be such as \"https://acme-v02.api.letsencrypt.org/directory\"");
    }
    if !acme.accept_terms {
        say("accept_terms", "must be true: the authority gives nothing to those who do not agree to its terms of service");
    }
    for (index, contact) in acme.contact.iter().enumerate() {
        if !contact.starts_with("mailto:") || contact.chars().any(|c| c.is_whitespace() || c.is_control()) {
            say(&format!("contact[{index}]"), "must be such as \"mailto:admin@example.org\"");
        }
    }
    if config.certificate_names().is_empty() {
        say("names", "is empty, and so is listen.hosts; must be at least one host name");
    }
    for (index, name) in acme.names.iter().enumerate() {
        let wild = name.strip_prefix("*.");
        if !is_host(wild.unwrap_or(name)) {
            say(&format!("names[{index}]"), "is no host name; must be such as \"elph.example.org\" or \"*.example.org\"");
        } else if wild.is_some() && acme.challenge != Challenge::Dns {
            say(&format!("names[{index}]"), "has a star; that goes with challenge = \"dns\" alone");
        }
    }
    if acme.splits_connections() {
        if !listen.trusted_proxies.is_empty() {
            say("challenge", "\"tls_alpn\" does not reach a proxy behind a balancer (listen.trusted_proxies); use \"dns\"");
        }
        if listen.addresses.windows(2).any(|pair| pair.first().map(|a| a.port()) != pair.last().map(|a| a.port())) {
            say("challenge", "\"tls_alpn\" needs one port in all listen.addresses; use \"dns\"");
        }
    }
    for (key, path) in [("hook", Some(&acme.hook)), ("state", Some(&acme.state)), ("ca_file", acme.ca_file.as_ref())] {
        let bad = |path: &PathBuf| {
            !path.is_absolute() || path.to_str().is_none_or(|text| text.chars().any(|c| c.is_control() || "\"\\$;{}".contains(c)))
        };
        if path.is_some_and(bad) {
            say(key, "must be an absolute path without quotes, backslashes, $, ; and braces");
        }
    }
    if acme.external_account_id.is_empty() != acme.external_account_key_file.is_none() {
        say("external_account_id", "and external_account_key_file go together");
    }
    let waits = [
        ("hook_timeout", acme.hook_timeout, 1, 1800),
        ("propagation", acme.propagation, 0, 3600),
        ("renew_before", acme.renew_before, 1, 365 * 86_400),
        ("retry", acme.retry, 1, 6 * 3600),
    ];
    for (key, wait, least, most) in waits {
        if wait < Span::seconds(least) || wait > Span::seconds(most) {
            say(key, &format!("is out of range; must be from {} to {}", Span::seconds(least), Span::seconds(most)));
        }
    }
}
