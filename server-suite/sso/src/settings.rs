//! `[sso]`: who may sign in, for which clients, and for how long.

use std::path::PathBuf;

use elph_shell::config::{PasswordSource, Problem, Secret, Span};
use reqwest::Url;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::{
    pages::Language,
    people::{self, RealmSettings},
    vault::SECRET_SHORTEST,
};

/// The OpenID Connect provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SsoSettings {
    /// Scheme and host that clients see, without a path: `https://elph.example.org`. Part of every issuer, so it must not change later.
    pub public_url: String,
    /// What keys, codes and second factors are sealed with: 32 characters or more, the same in all copies.
    pub secret: Option<Secret>,
    /// A file with it. To make one: `openssl rand -base64 32`.
    pub secret_file: Option<PathBuf>,
    /// A systemd credential with it.
    pub secret_credential: Option<String>,
    /// One for each domain; those that are missing ask their switch.
    #[serde(default)]
    pub realms: Vec<RealmSettings>,
    /// Programs that let people sign in here.
    #[serde(default)]
    pub clients: Vec<ClientSettings>,
    /// How long things are good for.
    #[serde(default)]
    pub lifetimes: Lifetimes,
    /// What happens to who guesses.
    #[serde(default)]
    pub lockout: Lockout,
    /// The language of pages for those whose browser asks for none of ours.
    #[serde(default)]
    pub language: Language,
}

/// A program that lets people sign in, in the terms of OpenID Connect Dynamic Client Registration 1.0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientSettings {
    /// Its name in requests.
    pub client_id: String,
    /// Its name on pages.
    pub client_name: Option<String>,
    /// Its secret. A client without one is public: it proves itself by PKCE alone, as programs on people's devices do.
    pub secret: Option<Secret>,
    /// A file with it.
    pub secret_file: Option<PathBuf>,
    /// A systemd credential with it.
    pub secret_credential: Option<String>,
    /// Where people may be sent back to, exactly; a loopback address without a port stands for any port (RFC 8252, 7.3).
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// Where they may be sent after they have signed out.
    #[serde(default)]
    pub post_logout_redirect_uris: Vec<String>,
    /// Is told when a session ends (OpenID Connect Back-Channel Logout 1.0).
    pub backchannel_logout_uri: Option<String>,
    /// What it may do to get tokens.
    #[serde(default = "grant_types")]
    pub grant_types: Vec<GrantType>,
    /// The `aud` of its access tokens.
    #[serde(default = "audience")]
    pub audience: Vec<String>,
    /// What its ID tokens are signed with.
    #[serde(default)]
    pub id_token_signed_response_alg: Signature,
    /// The domains whose people may use it; none: all.
    #[serde(default)]
    pub domains: Vec<String>,
}

/// A way to tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GrantType {
    /// With a browser (RFC 6749, 4.1), always with PKCE (RFC 7636).
    #[serde(rename = "authorization_code")]
    AuthorizationCode,
    /// With a refresh token, which is exchanged for a new one each time.
    #[serde(rename = "refresh_token")]
    RefreshToken,
    /// With a browser somewhere else (RFC 8628).
    #[serde(rename = "urn:ietf:params:oauth:grant-type:device_code")]
    DeviceCode,
}

/// A signature algorithm (RFC 7518, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
pub enum Signature {
    /// RSA: what every client can verify.
    #[default]
    RS256,
    /// ECDSA on P-256: shorter and faster.
    ES256,
}

/// `[sso.lifetimes]`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lifetimes {
    /// Access and ID tokens.
    pub token: Span,
    /// From the page's opening to the password.
    pub sign_in: Span,
    /// An authorization code.
    pub code: Span,
    /// A device's code.
    pub device_code: Span,
    /// Between the questions of a device that waits (RFC 8628, 3.5).
    pub device_interval: Span,
    /// A session, and its refresh tokens, that nobody uses.
    pub session_idle: Span,
    /// A session that is used.
    pub session: Span,
    /// How often a refresh asks whether the person still exists and in which roles.
    pub recheck: Span,
    /// A signing key.
    pub key: Span,
    /// How long before its first use a signing key is shown, and how long after its last one.
    pub key_overlap: Span,
}

/// `[sso.lockout]`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lockout {
    /// Wrong passwords or codes for one login before it has to wait.
    pub attempts: u32,
    /// The first wait; each further failure doubles it.
    pub wait: Span,
    /// The longest wait.
    pub longest: Span,
    /// Wrong ones from one address (IPv6: one /64 network), for whatever logins, before it has to wait the longest wait.
    pub attempts_per_address: u32,
    /// Failures this long ago are forgotten.
    pub forget: Span,
}

fn grant_types() -> Vec<GrantType> {
    vec![GrantType::AuthorizationCode, GrantType::RefreshToken]
}

fn audience() -> Vec<String> {
    vec!["elph".to_owned()]
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            token: Span::seconds(5 * 60),
            sign_in: Span::seconds(30 * 60),
            code: Span::seconds(60),
            device_code: Span::seconds(10 * 60),
            device_interval: Span::seconds(5),
            session_idle: Span::seconds(14 * 86_400),
            session: Span::seconds(90 * 86_400),
            recheck: Span::seconds(5 * 60),
            key: Span::seconds(90 * 86_400),
            key_overlap: Span::seconds(86_400),
        }
    }
}

impl Default for Lockout {
    fn default() -> Self {
        Self {
            attempts: 5,
            wait: Span::seconds(30),
            longest: Span::seconds(15 * 60),
            attempts_per_address: 50,
            forget: Span::seconds(3600),
        }
    }
}

// === impl Signature ===

impl Signature {
    /// Both.
    pub const ALL: [Self; 2] = [Self::RS256, Self::ES256];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
        }
    }
}

// === impl SsoSettings ===

impl SsoSettings {
    /// What their types cannot say. `domains`: those of the agents.
    pub fn check(&self, domains: &[&str], problems: &mut Vec<Problem>) {
        let mut say = |key: String, what: &str| problems.push(Problem::new(format!("sso.{key}"), what));
        if !origin(&self.public_url) {
            say("public_url".to_owned(), "must be https:// and a host, nothing after it (http:// only for a loopback address)");
        }
        let lifetimes = &self.lifetimes;
        for (key, span, least, most) in [
            ("token", lifetimes.token, 60, 86_400),
            ("sign_in", lifetimes.sign_in, 60, 86_400),
            ("code", lifetimes.code, 5, 600),
            ("device_code", lifetimes.device_code, 60, 3600),
            ("device_interval", lifetimes.device_interval, 1, 60),
            ("session_idle", lifetimes.session_idle, 60, 366 * 86_400),
            ("session", lifetimes.session, 60, 3660 * 86_400),
            ("recheck", lifetimes.recheck, 0, 86_400),
            ("key", lifetimes.key, 60, 3660 * 86_400),
            ("key_overlap", lifetimes.key_overlap, 0, 30 * 86_400),
        ] {
            if span < Span::seconds(least) || span > Span::seconds(most) {
                let (least, most) = (Span::seconds(least), Span::seconds(most));
                say(format!("lifetimes.{key}"), &format!("is out of range; must be from {least} to {most}"));
            }
        }
        if lifetimes.key_overlap > lifetimes.key {
            say("lifetimes.key_overlap".to_owned(), "is longer than lifetimes.key; no key would ever be used");
        }
        if self.lockout.attempts == 0 || self.lockout.attempts_per_address == 0 {
            say("lockout.attempts".to_owned(), "and attempts_per_address must be 1 or more; nobody could sign in");
        }
        if self.lockout.longest > Span::seconds(86_400) || self.lockout.wait > self.lockout.longest {
            say("lockout.longest".to_owned(), "is out of range; must be from lockout.wait to 1d");
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut say = |key: &str, what: &str| say(format!("clients[{index}].{key}"), what);
            let printable = client.client_id.chars().all(|c| c.is_ascii_graphic() && c != ':');
            if client.client_id.is_empty() || !printable || self.clients.iter().take(index).any(|it| it.client_id == client.client_id) {
                say("client_id", "must be a text of its own, of visible ASCII characters without a colon");
            }
            client.check(domains, &mut say);
        }
        people::check(&self.realms, domains, problems);
        if let Err(problem) = self.source() {
            problems.push(problem);
        }
    }

    /// Reads the secret.
    pub fn read_secret(&self) -> Result<SecretString, (String, String)> {
        let key = || "sso.secret_file".to_owned();
        let secret = self.source().map_err(|problem| (problem.key, problem.what))?.read().map_err(|what| (key(), what))?;
        if secret.expose_secret().len() < SECRET_SHORTEST {
            return Err((key(), format!("is shorter than {SECRET_SHORTEST} characters; make one with: openssl rand -base64 32")));
        }
        Ok(secret)
    }

    fn source(&self) -> Result<PasswordSource, Problem> {
        let source = PasswordSource::choose("sso", self.secret.as_ref(), self.secret_file.as_deref(), self.secret_credential.as_deref());
        source.map_err(|mut problem| {
            problem.what = problem.what.replace("password", "secret");
            problem
        })
    }

    /// A domain's issuer.
    pub fn issuer(&self, domain: &str) -> String {
        format!("{}{}/realms/{domain}", self.public_url, crate::PREFIX)
    }

    /// Whether browsers reach us encrypted.
    pub(crate) fn secure(&self) -> bool {
        self.public_url.starts_with("https://")
    }
}

impl ClientSettings {
    fn check(&self, domains: &[&str], say: &mut impl FnMut(&str, &str)) {
        for uri in self.redirect_uris.iter().chain(&self.post_logout_redirect_uris) {
            // A fragment would hide what is appended, a wildcard is not one.
            let parsed = Url::parse(uri).ok().filter(|url| url.fragment().is_none() && !uri.contains('*'));
            let harmful = |url: &Url| ["javascript", "data", "vbscript", "file", "blob", "about"].contains(&url.scheme());
            if parsed.is_none_or(|url| harmful(&url) || (url.scheme() == "http" && !loopback(&url))) {
                say(
                    "redirect_uris",
                    &format!(
                        "has '{uri}'; must be https://…, a scheme of its own (app.example:/…), or http:// on a loopback address, without # and *"
                    ),
                );
            }
        }
        if self.grant_types.contains(&GrantType::AuthorizationCode) && self.redirect_uris.is_empty() {
            say("redirect_uris", "is empty; name at least one, or leave authorization_code out of grant_types");
        }
        if let Some(uri) = &self.backchannel_logout_uri
            && Url::parse(uri).ok().is_none_or(|url| url.scheme() != "https" && !(url.scheme() == "http" && loopback(&url)))
        {
            say("backchannel_logout_uri", "must begin with https://");
        }
        if self.audience.is_empty() {
            say("audience", "is empty; nobody would accept its tokens");
        }
        for domain in self.domains.iter().filter(|domain| !domains.contains(&domain.as_str())) {
            say("domains", &format!("has '{domain}', which no agent has"));
        }
        if let Some(Err(problem)) = self.source() {
            say("secret_file", &problem.what);
        }
    }

    /// Where its secret is; none: it is a public client.
    pub(crate) fn source(&self) -> Option<Result<PasswordSource, Problem>> {
        let (secret, file, credential) = (self.secret.as_ref(), self.secret_file.as_deref(), self.secret_credential.as_deref());
        (secret.is_some() || file.is_some() || credential.is_some()).then(|| PasswordSource::choose("secret", secret, file, credential))
    }

    /// Its name on pages.
    pub(crate) fn title(&self) -> &str {
        self.client_name.as_deref().unwrap_or(&self.client_id)
    }

    /// Whether people may be sent there.
    pub(crate) fn redirects_to(&self, uri: &str) -> bool {
        self.redirect_uris.iter().any(|registered| registered == uri || on_any_port(registered, uri))
    }
}

/// A loopback address that is registered without a port stands for any port: the program takes the one it gets.
fn on_any_port(registered: &str, uri: &str) -> bool {
    let (Ok(registered), Ok(mut asked)) = (Url::parse(registered), Url::parse(uri)) else { return false };
    let literal = uri.starts_with("http://127.0.0.1:") || uri.starts_with("http://[::1]:");
    literal
        && loopback(&registered)
        && registered.port().is_none()
        && asked.set_port(None).is_ok()
        && asked == registered
        && !uri.contains('#')
}

fn loopback(url: &Url) -> bool {
    matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"))
}

fn origin(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let bare = url.origin().ascii_serialization() == text;
    bare && (url.scheme() == "https" || (url.scheme() == "http" && loopback(&url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(uris: &[&str]) -> ClientSettings {
        let uris: Vec<_> = uris.iter().map(|uri| format!("{uri:?}")).collect();
        toml_client(&format!("client_id = \"app\"\nredirect_uris = [{}]", uris.join(",")))
    }

    fn toml_client(text: &str) -> ClientSettings {
        let value: serde_json::Value = serde_json::to_value(
            text.lines()
                .filter_map(|line| line.split_once(" = "))
                .map(|(key, value)| (key.to_owned(), serde_json::from_str::<serde_json::Value>(value).unwrap()))
                .collect::<serde_json::Map<_, _>>(),
        )
        .unwrap();
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn people_are_sent_only_where_the_client_has_said_to_the_letter() {
        let client = client(&["https://app.example/back?x=1", "http://127.0.0.1/back", "org.example.elph:/back"]);
        for good in ["https://app.example/back?x=1", "http://127.0.0.1:41003/back", "http://127.0.0.1/back", "org.example.elph:/back"] {
            assert!(client.redirects_to(good), "{good}");
        }
        for bad in [
            "https://app.example/back",
            "https://app.example/back?x=1&y=2",
            "https://app.example/back?x=1#",
            "https://app.example.evil/back?x=1",
            "https://app.example@evil.example/back?x=1",
            "https://APP.example/back?x=1",
            "http://127.0.0.1:41003/other",
            "http://127.0.0.1:41003@evil.example/back",
            "http://127.0.0.1:1:2/back",
            "http://localhost:41003/back",
            "http://127.0.0.1:41003/back#x",
            "https://127.0.0.1:41003/back",
            "org.example.elph:/back/../x",
            "",
        ] {
            assert!(!client.redirects_to(bad), "{bad}");
        }
    }

    #[test]
    fn addresses_that_would_run_in_the_page_or_travel_open_are_refused() {
        for bad in
            ["javascript:alert(1)", "http://app.example/", "https://app.example/#x", "https://*.example/", "data:text/html,x", "back"]
        {
            let mut said = Vec::new();
            client(&[bad]).check(&[], &mut |key: &str, what: &str| said.push((key.to_owned(), what.to_owned())));
            assert!(said.iter().any(|(key, _)| key == "redirect_uris"), "{bad}");
        }
    }

    #[test]
    fn the_public_url_is_an_origin() {
        for (url, good) in [
            ("https://elph.example.org", true),
            ("https://elph.example.org:8443", true),
            ("http://127.0.0.1:8443", true),
            ("http://elph.example.org", false),
            ("https://elph.example.org/", false),
            ("https://elph.example.org/x", false),
            ("https://user@elph.example.org", false),
            ("elph.example.org", false),
        ] {
            assert_eq!(origin(url), good, "{url}");
        }
    }
}
