//! The sender: one client for each push service, so that a slow one delays nobody else's browsers.

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request as HttpRequest, Uri, header};
use jiff::Timestamp;
use parking_lot::Mutex;
use push_core::{
    Capacity, CollapseKey, Outcome, Payload, Provider, Reason, Request, Sender, Sending, Target, WebUrgency, connect::Connect,
};
use push_http::{Failure, Limits, Origin, Pool, Protocol};

use crate::{
    encrypt::{Failed, encrypt},
    outcome::read,
    settings::{Settings, SettingsError},
    vapid::Signed,
};

/// The longest that a service is asked to keep a message, in seconds: four weeks, as most of them allow.
const LONGEST_TTL: i64 = 2_419_200;

const TTL: HeaderName = HeaderName::from_static("ttl");
const URGENCY: HeaderName = HeaderName::from_static("urgency");
const TOPIC: HeaderName = HeaderName::from_static("topic");

/// Sends to browsers.
pub struct WebPush {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    connect: Arc<dyn Connect>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    services: HashMap<Origin, (Arc<Service>, u64)>,
    /// Counts uses: the service with the least gives way.
    uses: u64,
    closed: bool,
}

/// One push service.
struct Service {
    pool: Pool,
    signed: Mutex<Option<Signed>>,
}

// === impl WebPush ===

impl WebPush {
    /// A sender. Nothing is opened before the first push.
    pub fn new(settings: Settings, connect: Arc<dyn Connect>) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self { inner: Arc::new(Inner { settings, connect, state: Mutex::default() }) })
    }

    /// Services that connections are kept to.
    pub fn services(&self) -> usize {
        self.inner.state.lock().services.len()
    }

    fn all(&self) -> Vec<Arc<Service>> {
        self.inner.state.lock().services.values().map(|(service, _)| service.clone()).collect()
    }
}

impl Sender for WebPush {
    fn provider(&self) -> Provider {
        Provider::Web
    }

    fn send(&self, request: Request) -> Sending {
        let inner = self.inner.clone();
        // The place in the line is taken here, not at the first poll: the order is that of the calls.
        let begun = inner.begin(&request);
        Box::pin(async move {
            let outcome = match begun {
                Ok((asked, service, address)) => inner.attempt(asked, &service, &address, &request).await,
                Err(outcome) => outcome,
            };
            let Target::Browser(token, _) = &request.target else { return outcome };
            let path = token.expose().splitn(4, '/').nth(3).unwrap_or_default();
            let shown = token.to_string();
            outcome.hiding(token.expose(), &shown).hiding(if path.len() >= 8 { path } else { "" }, &shown)
        })
    }

    fn capacity(&self) -> Capacity {
        let services = self.all();
        let empty = Capacity { concurrent: 0, connected: false };
        let sum = services.iter().map(|service| service.pool.capacity()).fold(empty, |sum, it| Capacity {
            concurrent: sum.concurrent.saturating_add(it.concurrent),
            connected: sum.connected || it.connected,
        });
        // A service that nobody has asked yet takes some, too.
        Capacity { concurrent: sum.concurrent.max(100), ..sum }
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            self.inner.state.lock().closed = true;
            let services = self.all();
            join_all(services.iter().map(|service| service.pool.close())).await;
        })
    }
}

impl fmt::Debug for WebPush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebPush").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn begin(&self, request: &Request) -> Result<(push_http::Asked, Arc<Service>, Uri), Outcome> {
        let Target::Browser(token, _) = &request.target else {
            return Err(Outcome::Fatal { reason: Reason::known("the target is no browser") });
        };
        let allowed = self.settings.allowed.origin(token.expose());
        let (address, origin) = allowed.map_err(|refused| Outcome::Fatal { reason: Reason::told(&refused.to_string()) })?;
        let service = self.service(origin)?;
        let asked = service.pool.ask(request.class);
        Ok((asked, service, address))
    }

    async fn attempt(&self, asked: push_http::Asked, service: &Service, address: &Uri, request: &Request) -> Outcome {
        let (Target::Browser(_, keys), Payload::Web(payload)) = (&request.target, &request.payload) else {
            return Outcome::Fatal { reason: Reason::known("the payload is not one for a browser") };
        };
        let body = match encrypt(keys, &payload.body) {
            Ok(body) => Bytes::from(body),
            Err(Failed::TooLarge) => return Outcome::BadPayload { reason: Reason::told(&Failed::TooLarge.to_string()) },
            Err(failed) => return Outcome::Fatal { reason: Reason::told(&failed.to_string()) },
        };
        let mut unsigned = false;
        let make = || {
            let now = Timestamp::now();
            if request.deadline.is_some_and(|deadline| deadline <= now) {
                return None;
            }
            let Some(authorization) = self.authorization(service, now) else {
                unsigned = true;
                return None;
            };
            let mut headers = HeaderMap::with_capacity(8);
            headers.insert(header::AUTHORIZATION, authorization);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("aes128gcm"));
            headers.insert(TTL, HeaderValue::from(ttl(request, now)));
            headers.insert(URGENCY, HeaderValue::from_static(urgency(payload.urgency)));
            if let Some(topic) = request.collapse.as_ref().and_then(|key| HeaderValue::from_str(&topic(key)).ok()) {
                headers.insert(TOPIC, topic);
            }
            let mut head = HttpRequest::new(());
            *head.method_mut() = Method::POST;
            *head.uri_mut() = address.clone();
            *head.headers_mut() = headers;
            Some((head, body.clone()))
        };
        match asked.send(make).await {
            Ok(answer) => {
                let outcome = read(&answer, Timestamp::now());
                if matches!(outcome, Outcome::CredentialsExpired { .. }) {
                    // The next one is signed anew: a clock may have been wrong.
                    *service.signed.lock() = None;
                }
                outcome
            }
            Err(Failure::NotSent(reason)) => Outcome::NotSent { reason },
            Err(Failure::Unknown(reason)) => Outcome::Unknown { reason },
            Err(Failure::Withdrawn) if unsigned => Outcome::CredentialsExpired { reason: Reason::known("the VAPID key cannot sign") },
            Err(Failure::Withdrawn) => Outcome::NotSent { reason: Reason::known("its deadline has passed") },
        }
    }

    /// The client of the origin; a new one takes the place of the one that was not used for longest.
    fn service(&self, origin: Origin) -> Result<Arc<Service>, Outcome> {
        let (service, gone) = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Outcome::NotSent { reason: Reason::known("the sender is closed") });
            }
            state.uses += 1;
            let uses = state.uses;
            if let Some((service, used)) = state.services.get_mut(&origin) {
                *used = uses;
                return Ok(service.clone());
            }
            let gone = if state.services.len() >= self.settings.services {
                let oldest = state.services.iter().min_by_key(|(_, (_, used))| *used).map(|(origin, _)| origin.clone());
                oldest.and_then(|oldest| state.services.remove(&oldest))
            } else {
                None
            };
            let service = Arc::new(Service { pool: self.pool(origin.clone()), signed: Mutex::new(None) });
            state.services.insert(origin, (service.clone(), uses));
            (service, gone)
        };
        // What is under way on it goes on; the last request closes its connections.
        drop(gone);
        Ok(service)
    }

    fn pool(&self, origin: Origin) -> Pool {
        let limits = Limits {
            protocol: Protocol::Any,
            connections: self.settings.connections,
            streams: 100,
            waiting: 2_000,
            connect: self.settings.connect,
            wait: self.settings.wait,
            answer: self.settings.answer,
            idle: Duration::from_secs(90),
            warm: false,
            ..Limits::default()
        };
        Pool::new(origin, self.connect.clone(), limits)
    }

    fn authorization(&self, service: &Service, now: Timestamp) -> Option<HeaderValue> {
        let mut signed = service.signed.lock();
        if signed.as_ref().is_none_or(|signed| !signed.is_good(now)) {
            *signed = self.settings.vapid.sign(service.pool.origin(), now);
        }
        signed.as_ref().map(|signed| signed.authorization.clone())
    }
}

/// Whole seconds, rounded down: rather not kept than delivered late.
fn ttl(request: &Request, now: Timestamp) -> i64 {
    if !request.store {
        return 0;
    }
    request.deadline.map_or(LONGEST_TTL, |deadline| deadline.duration_since(now).as_secs().clamp(0, LONGEST_TTL))
}

fn urgency(urgency: WebUrgency) -> &'static str {
    match urgency {
        WebUrgency::VeryLow => "very-low",
        WebUrgency::Low => "low",
        WebUrgency::Normal => "normal",
        WebUrgency::High => "high",
    }
}

/// A topic has at most 32 characters of base64url (RFC 8030 §5.4); another key is stood for by its digest.
fn topic(key: &CollapseKey) -> String {
    let text = key.as_str();
    if text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        return text.to_owned();
    }
    let mut digest = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()));
    digest.truncate(32);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_the_collapse_key_or_stands_for_it() {
        let of = |text: &str| topic(&CollapseKey::parse(text).unwrap());
        assert_eq!(of("call_1-x"), "call_1-x");
        let (long, other) = (of(&"k".repeat(33)), of("call:1"));
        assert!(long.len() == 32 && other.len() == 32 && long != other);
        assert_eq!(other, of("call:1"));
    }
}
