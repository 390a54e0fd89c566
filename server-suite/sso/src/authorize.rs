//! What a client asks for at the authorization endpoint, checked before anybody is shown a page (RFC 6749, 4.1.1; OpenID Connect Core 1.0,
//! 3.1.2.1; RFC 7636). Pure: no I/O.

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::settings::{ClientSettings, GrantType, SsoSettings};

/// The scopes that mean something here.
pub(crate) const SCOPES: [&str; 5] = ["openid", "profile", "email", "roles", "offline_access"];
/// The longest value of a parameter that comes back to the client.
const LONGEST: usize = 2048;

/// Parameters of an address or a form, each at most once.
#[derive(Debug, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

/// A request that may be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Authorization {
    /// Who asks.
    pub client: String,
    /// Where the answer goes.
    pub redirect_uri: String,
    /// Comes back with the answer.
    pub state: Option<String>,
    /// For what, only scopes that we know.
    pub scope: String,
    /// Goes into the ID token.
    pub nonce: Option<String>,
    /// SHA-256 of the verifier.
    pub challenge: String,
    /// Whether the person must prove anew who they are.
    pub prompt: Prompt,
    /// How long ago they may have done so, in seconds.
    pub max_age: Option<i64>,
    /// Who it probably is.
    pub login_hint: Option<String>,
    /// How the answer is sent.
    pub mode: Mode,
}

/// `prompt`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Prompt {
    /// As needed.
    Needed,
    /// Nothing may be shown.
    None,
    /// Always.
    Login,
}

/// `response_mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    /// In the address.
    Query,
    /// In its fragment.
    Fragment,
}

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The answer cannot go to the client, since it is not known who that is: the person is told.
    Here(&'static str),
    /// The client is told (RFC 6749, 4.1.2.1).
    There {
        /// Where.
        to: Box<Back>,
        /// What.
        error: &'static str,
        /// In words.
        description: &'static str,
    },
}

/// The way back to the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Back {
    /// Where the answer goes.
    pub redirect_uri: String,
    /// Comes back with it.
    pub state: Option<String>,
    /// How it is sent.
    pub mode: Mode,
}

// === impl Parameters ===

impl Parameters {
    /// Takes decoded pairs. Empty values are none (RFC 6749, 3.1); a parameter that comes twice is refused with its name.
    pub(crate) fn new(pairs: Vec<(String, String)>) -> Result<Self, String> {
        for (index, (name, _)) in pairs.iter().enumerate() {
            if pairs.iter().take(index).any(|(other, _)| other == name) {
                return Err(name.chars().filter(char::is_ascii_graphic).take(40).collect());
            }
        }
        Ok(Self(pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect()))
    }

    /// A value.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

// === impl Back ===

impl Back {
    /// The address with the answer.
    pub(crate) fn with(&self, issuer: &str, answer: &[(&str, &str)]) -> Option<String> {
        let mut url = Url::parse(&self.redirect_uri).ok()?;
        let state = self.state.as_deref().map(|state| ("state", state));
        // RFC 9207: whose answer it is.
        let all = answer.iter().copied().chain(state).chain([("iss", issuer)]);
        match self.mode {
            Mode::Query => {
                url.query_pairs_mut().extend_pairs(all);
            }
            Mode::Fragment => {
                let mut scratch = Url::parse("x:").ok()?;
                scratch.query_pairs_mut().extend_pairs(all);
                url.set_fragment(scratch.query());
            }
        }
        Some(url.into())
    }
}

// === impl Authorization ===

impl Authorization {
    /// Checks a request of a domain.
    pub(crate) fn check(settings: &SsoSettings, domain: &str, given: &Parameters) -> Result<Self, Refused> {
        let client = given.get("client_id").ok_or(Refused::Here("client_id is missing"))?;
        let client = settings.client(domain, client).ok_or(Refused::Here("this client is not known here"))?;
        let redirect_uri = match given.get("redirect_uri") {
            Some(uri) if client.redirects_to(uri) => uri.to_owned(),
            Some(_) => return Err(Refused::Here("redirect_uri is none of those that this client has named")),
            None => return Err(Refused::Here("redirect_uri is missing")),
        };
        let mode = match given.get("response_mode") {
            Some("fragment") => Mode::Fragment,
            _ => Mode::Query,
        };
        let state = given.get("state").map(str::to_owned);
        let to = Box::new(Back { redirect_uri: redirect_uri.clone(), state: state.clone().filter(|state| state.len() <= LONGEST), mode });
        let there = |error, description| Refused::There { to: to.clone(), error, description };
        if let Some(mode) = given.get("response_mode")
            && !["query", "fragment"].contains(&mode)
        {
            return Err(there("invalid_request", "response_mode must be query or fragment"));
        }
        if state.as_ref().is_some_and(|state| state.len() > LONGEST) || given.get("nonce").is_some_and(|nonce| nonce.len() > LONGEST) {
            return Err(there("invalid_request", "state or nonce is too long"));
        }
        if given.get("request").is_some() {
            return Err(there("request_not_supported", "request objects are not supported"));
        }
        if given.get("request_uri").is_some() {
            return Err(there("request_uri_not_supported", "request objects are not supported"));
        }
        match given.get("response_type") {
            Some("code") => {}
            Some(_) => return Err(there("unsupported_response_type", "response_type must be code")),
            None => return Err(there("invalid_request", "response_type is missing")),
        }
        if !client.grant_types.contains(&GrantType::AuthorizationCode) {
            return Err(there("unauthorized_client", "this client may not use authorization_code"));
        }
        let Some(challenge) = given.get("code_challenge") else {
            return Err(there("invalid_request", "code_challenge is missing: PKCE is needed (RFC 7636)"));
        };
        if given.get("code_challenge_method") != Some("S256") {
            return Err(there("invalid_request", "code_challenge_method must be S256"));
        }
        if challenge.len() != 43 || !challenge.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_') {
            return Err(there("invalid_request", "code_challenge is no SHA-256 in base64url"));
        }
        let prompt = match given.get("prompt").map(|prompt| prompt.split(' ').collect::<Vec<_>>()) {
            None => Prompt::Needed,
            Some(prompts) if prompts == ["none"] => Prompt::None,
            Some(prompts) if prompts.contains(&"none") => return Err(there("invalid_request", "prompt=none stands alone")),
            Some(prompts) if prompts.contains(&"login") || prompts.contains(&"select_account") => Prompt::Login,
            Some(_) => Prompt::Needed,
        };
        let max_age = match given.get("max_age").map(str::parse::<i64>) {
            None => None,
            Some(Ok(seconds)) if seconds >= 0 => Some(seconds),
            Some(_) => return Err(there("invalid_request", "max_age must be a number of seconds")),
        };
        Ok(Self {
            client: client.client_id.clone(),
            redirect_uri,
            state,
            scope: known_scopes(given.get("scope").unwrap_or_default()),
            nonce: given.get("nonce").map(str::to_owned),
            challenge: challenge.to_owned(),
            prompt,
            max_age,
            login_hint: given.get("login_hint").filter(|hint| hint.len() <= 128).map(str::to_owned),
            mode,
        })
    }

    /// The way back.
    pub(crate) fn back(&self) -> Back {
        Back { redirect_uri: self.redirect_uri.clone(), state: self.state.clone(), mode: self.mode }
    }
}

impl SsoSettings {
    /// A client that people of a domain may use.
    pub(crate) fn client(&self, domain: &str, id: &str) -> Option<&ClientSettings> {
        let has = |client: &&ClientSettings| client.domains.is_empty() || client.domains.iter().any(|it| it == domain);
        self.clients.iter().find(|client| client.client_id == id).filter(has)
    }
}

/// Those of the scopes that mean something here (others are ignored: RFC 6749, 3.3).
pub(crate) fn known_scopes(asked: &str) -> String {
    let known = SCOPES.into_iter().filter(|known| asked.split(' ').any(|scope| scope == *known));
    known.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn settings() -> SsoSettings {
        serde_json::from_value(serde_json::json!({
            "public_url": "https://elph.example.org",
            "clients": [
                { "client_id": "app", "redirect_uris": ["https://app.example/back?x=1"] },
                { "client_id": "one", "redirect_uris": ["https://one.example/back"], "domains": ["b.local"] },
            ],
        }))
        .unwrap()
    }

    fn given(changed: &[(&str, Option<&str>)]) -> Parameters {
        let mut pairs = vec![
            ("client_id", "app"),
            ("redirect_uri", "https://app.example/back?x=1"),
            ("response_type", "code"),
            ("scope", "openid profile strange"),
            ("state", "s & t"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in changed {
            pairs.retain(|(known, _)| known != name);
            pairs.extend(value.map(|value| (*name, value)));
        }
        Parameters::new(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()).unwrap()
    }

    #[test]
    fn a_request_is_understood_and_the_answer_keeps_the_clients_own_parameters() {
        let request = Authorization::check(&settings(), "a.local", &given(&[("prompt", Some("login")), ("max_age", Some("60"))])).unwrap();
        assert_eq!((request.scope.as_str(), request.prompt, request.max_age), ("openid profile", Prompt::Login, Some(60)));
        let address = request.back().with("https://i", &[("code", "c+d")]).unwrap();
        assert_eq!(address, "https://app.example/back?x=1&code=c%2Bd&state=s+%26+t&iss=https%3A%2F%2Fi");
    }

    #[test]
    fn nobody_is_sent_to_an_address_that_the_client_has_not_named() {
        for changed in [
            ("client_id", None),
            ("client_id", Some("other")),
            ("client_id", Some("one")),
            ("redirect_uri", None),
            ("redirect_uri", Some("https://evil.example/")),
            ("redirect_uri", Some("https://app.example/back")),
        ] {
            let refused = Authorization::check(&settings(), "a.local", &given(&[changed])).unwrap_err();
            assert!(matches!(refused, Refused::Here(_)), "{changed:?}");
        }
    }

    #[test]
    fn what_else_is_wrong_the_client_is_told() {
        for (changed, wanted) in [
            (("response_type", None), "invalid_request"),
            (("response_type", Some("token")), "unsupported_response_type"),
            (("response_type", Some("code id_token")), "unsupported_response_type"),
            (("code_challenge", None), "invalid_request"),
            (("code_challenge", Some("short")), "invalid_request"),
            (("code_challenge_method", None), "invalid_request"),
            (("code_challenge_method", Some("plain")), "invalid_request"),
            (("request", Some("e30.e30.")), "request_not_supported"),
            (("request_uri", Some("https://app.example/r")), "request_uri_not_supported"),
            (("prompt", Some("none login")), "invalid_request"),
            (("max_age", Some("soon")), "invalid_request"),
            (("response_mode", Some("form_post")), "invalid_request"),
        ] {
            match Authorization::check(&settings(), "a.local", &given(&[changed])).unwrap_err() {
                Refused::There { error, .. } => assert_eq!(error, wanted, "{changed:?}"),
                Refused::Here(what) => panic!("{changed:?}: {what}"),
            }
        }
    }

    #[test]
    fn a_parameter_that_comes_twice_is_refused_by_name() {
        let twice = vec![("state".to_owned(), "a".to_owned()), ("state".to_owned(), "b".to_owned())];
        assert_eq!(Parameters::new(twice).unwrap_err(), "state");
    }

    proptest! {
        #[test]
        fn whatever_is_asked_the_answer_goes_to_a_named_address_or_nowhere(pairs in proptest::collection::vec(("[a-z_]{1,16}", ".{0,40}"), 0..8), uri in ".{0,60}") {
            let mut pairs = pairs;
            pairs.push(("client_id".to_owned(), "app".to_owned()));
            pairs.push(("redirect_uri".to_owned(), uri));
            if let Ok(given) = Parameters::new(pairs) {
                match Authorization::check(&settings(), "a.local", &given) {
                    Ok(request) => prop_assert_eq!(request.redirect_uri, "https://app.example/back?x=1"),
                    Err(Refused::There { to, .. }) => prop_assert_eq!(to.redirect_uri, "https://app.example/back?x=1"),
                    Err(Refused::Here(_)) => {}
                }
            }
        }
    }
}
