//! The OAuth2 token of a service account (RFC 7523): signed for, fetched once for everybody who waits, refreshed ahead of its end.
//! One task fetches, so there is never more than one fetch under way.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Uri,
    header::{ACCEPT, CONTENT_TYPE},
};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Header};
use parking_lot::Mutex;
use push_core::{Backoff, Class, Outcome, Reason, connect::Connect};
use push_http::{Answer, Failure, Limits, Origin, Pool, Protocol, retry_after};
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::Instant,
};

use crate::settings::{ServiceAccount, Settings, SettingsError};

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// How long what we sign is good for. The longest that Google takes is an hour.
const ASSERTION: Duration = Duration::from_secs(1800);

/// What a token is good for when the answer does not say.
const LIFETIME: Duration = Duration::from_secs(1800);

/// A token is not used in its last moments: it must still be good when the request arrives.
const MARGIN: Duration = Duration::from_secs(15);

/// A refused token is replaced at once, but not twice within this time: then the account is at fault, not the token.
const BETWEEN_REFUSALS: Duration = Duration::from_secs(30);

/// A service account and its token. Senders of several projects or applications can share one. Clones are the same account.
#[derive(Clone)]
pub struct Account {
    inner: Arc<Inner>,
}

struct Inner {
    account: ServiceAccount,
    url: Uri,
    pool: Pool,
    wait: Duration,
    state: Mutex<State>,
    /// Changes after every fetch.
    fetched: watch::Sender<u64>,
    wanted: Arc<Notify>,
}

struct State {
    token: Option<Token>,
    generation: u64,
    failed: Option<Failed>,
    backoff: Backoff,
    refused_at: Option<Instant>,
    keeper: bool,
    closed: bool,
}

/// A token that is good now.
#[derive(Clone)]
pub(crate) struct Token {
    /// `Bearer …`.
    pub(crate) bearer: HeaderValue,
    generation: u64,
    refresh_at: Instant,
    good_until: Instant,
}

#[derive(Clone)]
struct Failed {
    until: Instant,
    failure: TokenFailure,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenFailure {
    /// The account is not accepted.
    Refused(Reason),
    /// The endpoint cannot now.
    Unavailable(Reason),
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'static str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Denied {
    error: String,
    error_description: Option<String>,
}

// === impl Account ===

impl Account {
    /// The account of the settings. Nothing is asked yet.
    pub fn new(settings: &Settings, connect: Arc<dyn Connect>) -> Result<Self, SettingsError> {
        let url = settings.token_url.clone();
        let origin = Origin::of(&url).map_err(|source| SettingsError::Address("the token URL", url.to_string(), source))?;
        let limits = Limits {
            protocol: Protocol::Any,
            connections: 1,
            connect: settings.connect,
            wait: settings.wait,
            answer: settings.answer,
            idle: Duration::from_secs(10),
            warm: false,
            ..Limits::default()
        };
        let state = State {
            token: None,
            generation: 0,
            failed: None,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            refused_at: None,
            keeper: false,
            closed: false,
        };
        let inner = Inner {
            account: settings.account.clone(),
            url,
            pool: Pool::new(origin, connect, limits),
            wait: settings.wait,
            state: Mutex::new(state),
            fetched: watch::Sender::new(0),
            wanted: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Fetches a token if there is none. Must be called within a runtime.
    pub(crate) fn want(&self) {
        self.inner.want(&mut self.inner.state.lock());
    }

    /// The token, if there is one that is good.
    pub(crate) fn current(&self) -> Option<Token> {
        let state = self.inner.state.lock();
        state.token.as_ref().filter(|token| Instant::now() < token.good_until).cloned()
    }

    /// The token; waits for the fetch that is under way. After a failure it is the failure, until the back-off is over.
    pub(crate) async fn token(&self) -> Result<Token, TokenFailure> {
        let mut fetched = self.inner.fetched.subscribe();
        let asked = async {
            loop {
                fetched.mark_unchanged();
                {
                    let now = Instant::now();
                    let mut state = self.inner.state.lock();
                    if let Some(token) = state.token.as_ref().filter(|token| now < token.good_until) {
                        return Ok(token.clone());
                    }
                    if let Some(failed) = state.failed.as_ref().filter(|failed| now < failed.until) {
                        return Err(failed.failure.clone());
                    }
                    if state.closed {
                        return Err(TokenFailure::Unavailable(Reason::known("the sender is closed")));
                    }
                    self.inner.want(&mut state);
                }
                if fetched.changed().await.is_err() {
                    return Err(TokenFailure::Unavailable(Reason::known("the sender is closed")));
                }
            }
        };
        let late = |_| Err(TokenFailure::Unavailable(Reason::known("the token endpoint took too long")));
        tokio::time::timeout(self.inner.wait, asked).await.unwrap_or_else(late)
    }

    /// The provider refused this token. True: another one can be had.
    pub(crate) fn refused(&self, token: &Token) -> bool {
        let now = Instant::now();
        let mut state = self.inner.state.lock();
        if state.generation != token.generation || state.token.is_none() {
            return true;
        }
        if state.refused_at.is_some_and(|at| now < at + BETWEEN_REFUSALS) {
            return false;
        }
        state.refused_at = Some(now);
        state.token = None;
        self.inner.want(&mut state);
        true
    }

    /// No more tokens are fetched.
    pub async fn close(&self) {
        self.inner.state.lock().closed = true;
        self.inner.wanted.notify_one();
        self.inner.pool.close().await;
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("account", &self.inner.account).finish_non_exhaustive()
    }
}

// === impl TokenFailure ===

impl TokenFailure {
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Refused(reason) => Outcome::CredentialsExpired { reason },
            Self::Unavailable(reason) => Outcome::RetryAfter { after: None, reason },
        }
    }
}

// === impl Inner ===

impl Inner {
    /// Wakes the keeper, or starts it.
    fn want(self: &Arc<Self>, state: &mut State) {
        self.wanted.notify_one();
        if !state.keeper
            && !state.closed
            && let Ok(runtime) = Handle::try_current()
        {
            state.keeper = true;
            runtime.spawn(keep(Arc::downgrade(self), self.wanted.clone()));
        }
    }

    fn fetched(&self, got: Result<(HeaderValue, Duration), (TokenFailure, Option<Duration>)>) {
        let now = Instant::now();
        {
            let mut state = self.state.lock();
            match got {
                Ok((bearer, lifetime)) => {
                    state.generation += 1;
                    let refresh = lifetime.mul_f64(rand::rng().random_range(0.70..0.85));
                    let margin = MARGIN.min(lifetime / 4);
                    let token = Token {
                        bearer,
                        generation: state.generation,
                        refresh_at: now + refresh.min(lifetime - margin),
                        good_until: now + lifetime - margin,
                    };
                    state.token = Some(token);
                    state.failed = None;
                    state.backoff.reset();
                }
                Err((failure, after)) => {
                    let wait = state.backoff.next_wait().max(after.unwrap_or_default());
                    state.failed = Some(Failed { until: now + wait, failure });
                }
            }
        }
        self.fetched.send_modify(|count| *count += 1);
    }

    async fn fetch(&self) -> Result<(HeaderValue, Duration), (TokenFailure, Option<Duration>)> {
        let unavailable = |reason: String| (TokenFailure::Unavailable(Reason::told(&format!("token endpoint: {reason}"))), None);
        let body = self.assertion().map_err(|error| (TokenFailure::Refused(Reason::told(&error)), None))?;
        let message = || {
            let mut request = Request::new(());
            *request.method_mut() = Method::POST;
            *request.uri_mut() = self.url.clone();
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
            Some((request, body.clone()))
        };
        match self.pool.ask(Class::Call).send(message).await {
            Ok(answer) => read(&answer),
            Err(Failure::NotSent(reason) | Failure::Unknown(reason)) => Err(unavailable(reason.to_string())),
            Err(Failure::Withdrawn) => Err(unavailable("withdrawn".to_owned())),
        }
    }

    /// The signed request for a token.
    fn assertion(&self) -> Result<Bytes, String> {
        let now = Timestamp::now().as_second();
        let exp = now.saturating_add(i64::try_from(ASSERTION.as_secs()).unwrap_or(0));
        let claims = Claims { iss: &self.account.email, scope: SCOPE, aud: &self.account.token_uri, iat: now, exp };
        let header = Header { kid: self.account.key_id.clone(), ..Header::new(Algorithm::RS256) };
        let signed = jsonwebtoken::encode(&header, &claims, &self.account.key).map_err(|_| "the account's key cannot sign".to_owned())?;
        Ok(Bytes::from(format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={signed}")))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.wanted.notify_one();
    }
}

/// Fetches when a token is wanted and there is none, and ahead of a token's end.
async fn keep(account: Weak<Inner>, wanted: Arc<Notify>) {
    loop {
        let at = {
            let Some(inner) = account.upgrade() else { return };
            let state = inner.state.lock();
            if state.closed {
                return;
            }
            let earliest = state.failed.as_ref().map(|failed| failed.until);
            // Without a token only somebody who wants one makes us ask again.
            state.token.as_ref().map(|token| earliest.map_or(token.refresh_at, |earliest| token.refresh_at.max(earliest)))
        };
        let refresh = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = refresh => {}
            () = wanted.notified() => {}
        }
        let Some(inner) = account.upgrade() else { return };
        let due = {
            let now = Instant::now();
            let state = inner.state.lock();
            let calm = state.failed.as_ref().is_none_or(|failed| now >= failed.until);
            !state.closed && calm && state.token.as_ref().is_none_or(|token| now >= token.refresh_at)
        };
        if due {
            let got = inner.fetch().await;
            inner.fetched(got);
        }
    }
}

/// What the token endpoint answered.
fn read(answer: &Answer) -> Result<(HeaderValue, Duration), (TokenFailure, Option<Duration>)> {
    let status = answer.status;
    if status.is_success() {
        let granted = serde_json::from_slice::<Granted>(&answer.body).ok().filter(|it| !it.access_token.is_empty());
        let bearer = granted.as_ref().and_then(|it| HeaderValue::from_str(&format!("Bearer {}", it.access_token)).ok());
        let (Some(granted), Some(mut bearer)) = (granted, bearer) else {
            return Err((TokenFailure::Unavailable(Reason::known("token endpoint: its answer has no access_token")), None));
        };
        bearer.set_sensitive(true);
        let lifetime = granted.expires_in.map_or(LIFETIME, Duration::from_secs).clamp(Duration::from_secs(1), Duration::from_secs(86_400));
        return Ok((bearer, lifetime));
    }
    let told = serde_json::from_slice::<Denied>(&answer.body).ok().map_or_else(String::new, |denied| {
        let more = denied.error_description.map_or_else(String::new, |text| format!(": {text}"));
        format!(" {}{more}", denied.error)
    });
    let reason = Reason::told(&format!("token endpoint: {}{told}", status.as_u16()));
    let after = retry_after(&answer.headers, Timestamp::now());
    if status.is_client_error() && !matches!(status.as_u16(), 408 | 429) {
        Err((TokenFailure::Refused(reason), after))
    } else {
        Err((TokenFailure::Unavailable(reason), after))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use aws_lc_rs::{encoding::AsDer, rsa};
    use base64::{Engine, prelude::BASE64_STANDARD};
    use http::{HeaderMap, StatusCode};

    use super::*;

    /// A key that lives as long as the test.
    pub(crate) fn account_key() -> &'static str {
        static KEY: LazyLock<String> = LazyLock::new(|| {
            let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
            let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(der.as_ref()))
        });
        &KEY
    }

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: HeaderMap::new(), body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn a_grant_is_read_and_an_absurd_lifetime_is_bounded() {
        let (bearer, lifetime) = read(&answer(200, r#"{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}"#)).unwrap();
        assert_eq!((bearer.to_str().unwrap(), lifetime.as_secs()), ("Bearer ya29.x", 3599));
        assert_eq!(read(&answer(200, r#"{"access_token":"a"}"#)).unwrap().1, LIFETIME);
        assert_eq!(read(&answer(200, r#"{"access_token":"a","expires_in":0}"#)).unwrap().1.as_secs(), 1);
        assert_eq!(read(&answer(200, r#"{"access_token":"a","expires_in":99999999999}"#)).unwrap().1.as_secs(), 86_400);
    }

    #[test]
    fn a_denial_is_told_in_the_endpoints_words_and_a_failure_is_not_taken_for_one() {
        let denied = read(&answer(400, r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#)).unwrap_err().0;
        assert_eq!(denied, TokenFailure::Refused(Reason::told("token endpoint: 400 invalid_grant: Invalid JWT Signature.")));
        for (status, body) in
            [(502, "<html>Bad Gateway</html>"), (429, "{}"), (200, "<html>"), (200, "{\"access_token\":\"a\\nb\"}"), (302, "")]
        {
            assert!(matches!(read(&answer(status, body)), Err((TokenFailure::Unavailable(_), _))), "{status} {body}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(status in 100_u16..1000, body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let answer = Answer { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body: body.into() };
            let _read = read(&answer);
        }
    }
}
