//! The sender: a token, room on a connection, the request, the outcome.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request as HttpRequest, Uri, header};
use jiff::Timestamp;
use push_core::{Capacity, Outcome, Payload, Provider, Reason, Request, Sender, Sending, Target, connect::Connect};
use push_http::{Asked, Failure, Limits, Message, Origin, Pool};

use crate::{
    account::{Account, Token},
    message::Template,
    outcome::{Read, read},
    settings::{Settings, SettingsError},
};

/// Sends to the applications of one Firebase project.
pub struct Fcm {
    inner: Arc<Inner>,
}

struct Inner {
    account: Account,
    /// Others may send with it, too: it is theirs to close.
    shared: bool,
    pool: Pool,
    url: Uri,
}

// === impl Fcm ===

impl Fcm {
    /// A sender with an account of its own. Nothing is opened and asked before the first push, or `warm`.
    pub fn new(settings: Settings, connect: Arc<dyn Connect>) -> Result<Self, SettingsError> {
        let account = Account::new(&settings, connect.clone())?;
        Self::build(settings, account, false, connect)
    }

    /// A sender that shares an account, and so its token, with others. Closing the sender leaves the account open.
    pub fn with_account(settings: Settings, account: Account, connect: Arc<dyn Connect>) -> Result<Self, SettingsError> {
        Self::build(settings, account, true, connect)
    }

    fn build(settings: Settings, account: Account, shared: bool, connect: Arc<dyn Connect>) -> Result<Self, SettingsError> {
        if !(1..=100).contains(&settings.connections) {
            return Err(SettingsError::Connections);
        }
        let wrong = |source| SettingsError::Address("the endpoint", settings.endpoint.to_string(), source);
        let origin = Origin::of(&settings.endpoint).map_err(wrong)?;
        let base = settings.endpoint.path().trim_end_matches('/');
        let url = format!("{origin}{base}/v1/projects/{}/messages:send", settings.account.project);
        let url = url.parse().map_err(|_| wrong(push_http::BadOrigin::NotAUrl))?;
        let limits = Limits {
            connections: settings.connections,
            connect: settings.connect,
            wait: settings.wait,
            answer: settings.answer,
            ..Limits::default()
        };
        Ok(Self { inner: Arc::new(Inner { account, shared, pool: Pool::new(origin, connect, limits), url }) })
    }
}

impl Sender for Fcm {
    fn provider(&self) -> Provider {
        Provider::Fcm
    }

    fn warm(&self) {
        self.inner.account.want();
        self.inner.pool.warm();
    }

    fn send(&self, request: Request) -> Sending {
        let inner = self.inner.clone();
        // The place in the line is taken here, not at the first poll: the order is that of the calls.
        let asked = inner.pool.ask(request.class);
        Box::pin(async move {
            let outcome = inner.attempt(asked, &request).await;
            match &request.target {
                Target::Device(token) => outcome.hiding(token.expose(), &token.to_string()),
                _ => outcome,
            }
        })
    }

    fn capacity(&self) -> Capacity {
        self.inner.pool.capacity()
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            self.inner.pool.close().await;
            if !self.inner.shared {
                self.inner.account.close().await;
            }
        })
    }
}

impl fmt::Debug for Fcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fcm").field("url", &self.inner.url).field("account", &self.inner.account).finish()
    }
}

// === impl Inner ===

impl Inner {
    async fn attempt(&self, asked: Asked, request: &Request) -> Outcome {
        let Payload::Fcm(payload) = &request.payload else {
            return Outcome::Fatal { reason: Reason::known("the payload is not one of FCM") };
        };
        let template = match Template::of(request, &payload.message) {
            Ok(template) => template,
            Err(error) => return Outcome::BadPayload { reason: Reason::told(&error) },
        };
        let mut token = match self.token().await {
            Ok(token) => token,
            Err(outcome) => return outcome,
        };
        let mut asked = asked;
        let mut again = true;
        loop {
            let make = || {
                let now = Timestamp::now();
                if request.deadline.is_some_and(|deadline| deadline <= now) {
                    return None;
                }
                // Waiting may have taken longer than the token was good for.
                if let Some(current) = self.account.current() {
                    token = current;
                }
                Some(self.message(&token, template.write(request, &payload.message, now)))
            };
            let read = match asked.send(make).await {
                Ok(answer) => read(&answer, &request.target, Timestamp::now()),
                Err(Failure::NotSent(reason)) => return Outcome::NotSent { reason },
                Err(Failure::Unknown(reason)) => return Outcome::Unknown { reason },
                Err(Failure::Withdrawn) => return Outcome::NotSent { reason: Reason::known("its deadline has passed") },
            };
            let reason = match read {
                Read::Outcome(outcome) => return outcome,
                Read::Unauthenticated(reason) => reason,
            };
            if !std::mem::take(&mut again) || !self.account.refused(&token) {
                return Outcome::CredentialsExpired { reason };
            }
            token = match self.token().await {
                Ok(token) => token,
                Err(outcome) => return outcome,
            };
            asked = self.pool.ask(request.class);
        }
    }

    async fn token(&self) -> Result<Token, Outcome> {
        match self.account.current() {
            Some(token) => Ok(token),
            None => self.account.token().await.map_err(|failure| failure.outcome()),
        }
    }

    fn message(&self, token: &Token, body: Bytes) -> Message {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::AUTHORIZATION, token.bearer.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut head = HttpRequest::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = self.url.clone();
        *head.headers_mut() = headers;
        (head, body)
    }
}
