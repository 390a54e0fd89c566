//! The browsers' push service: RFC 8030 with VAPID (RFC 8292). Unlike a real one it holds the browsers' keys, so that tests see the
//! clear text (RFC 8291).

mod encryption;
#[cfg(test)]
mod tests;
mod vapid;

use std::{collections::HashMap, sync::Arc};

use anyhow::Context;
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, header};
use parking_lot::Mutex;
use rand::RngCore;
use serde::Serialize;

use crate::{
    arrival::Arrival,
    device::Provider,
    fault::Effect,
    https::{Asked, Handled, answer},
    state::Core,
};

/// The largest body that a push service must take (RFC 8030 §7.2).
const MAX_MESSAGE: usize = 4096;
/// Subscriptions of one simulator.
const MAX_SUBSCRIPTIONS: usize = 1_000_000;

/// What a browser tells its page when it subscribes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subscription {
    /// Where pushes go.
    pub endpoint: String,
    /// The browser's public key: an uncompressed point of P-256 in base64url.
    pub p256dh: String,
    /// The shared secret: 16 bytes in base64url.
    pub auth: String,
    /// The last part of the endpoint: `Arrival::device` and `Fault::device`.
    pub id: String,
}

/// A browser's side.
#[derive(Debug)]
struct Browser {
    keys: Arc<encryption::Keys>,
    gone: bool,
    /// The one application server that may push (RFC 8292 §4): the first that did.
    server: Option<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Browsers(Mutex<HashMap<String, Browser>>);

// === impl Subscription ===

impl Subscription {
    /// As `PushSubscription.toJSON()` gives it.
    pub fn to_json(&self) -> serde_json::Value {
        let keys = serde_json::json!({ "p256dh": self.p256dh, "auth": self.auth });
        serde_json::json!({ "endpoint": self.endpoint, "expirationTime": null, "keys": keys })
    }
}

// === impl Browsers ===

impl Browsers {
    pub(crate) fn subscribe(&self, origin: &str) -> anyhow::Result<Subscription> {
        let key = PrivateKey::generate(&ECDH_P256).ok().context("make a browser's key")?;
        let public = key.compute_public_key().ok().context("make a browser's public key")?.as_ref().to_vec();
        let (mut auth, mut id) = ([0u8; 16], [0u8; 18]);
        rand::rng().fill_bytes(&mut auth);
        rand::rng().fill_bytes(&mut id);
        let id = URL_SAFE_NO_PAD.encode(id);
        let subscription = Subscription {
            endpoint: format!("{origin}/push/{id}"),
            p256dh: URL_SAFE_NO_PAD.encode(&public),
            auth: URL_SAFE_NO_PAD.encode(auth),
            id: id.clone(),
        };
        let mut browsers = self.0.lock();
        anyhow::ensure!(browsers.len() < MAX_SUBSCRIPTIONS, "there are {MAX_SUBSCRIPTIONS} subscriptions already");
        browsers.insert(id, Browser { keys: Arc::new(encryption::Keys { key, public, auth }), gone: false, server: None });
        Ok(subscription)
    }

    pub(crate) fn set_gone(&self, id: &str, gone: bool) -> bool {
        self.0.lock().get_mut(id).map(|browser| browser.gone = gone).is_some()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// The keys of a subscription that lives, for an application server's public key.
    fn keys(&self, id: &str, server: &str) -> Result<Arc<encryption::Keys>, Refusal> {
        let mut browsers = self.0.lock();
        let browser = browsers.get_mut(id).ok_or((404, "no such subscription"))?;
        if browser.gone {
            return Err((410, "the subscription has ended"));
        }
        if browser.server.get_or_insert_with(|| server.to_owned()) != server {
            return Err((403, "the subscription belongs to another application server"));
        }
        Ok(browser.keys.clone())
    }
}

/// Status and why.
type Refusal = (u16, &'static str);

fn plain(status: u16, text: &str) -> Response<Bytes> {
    answer(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

/// A message that was found good.
struct Message {
    subject: String,
    text: Bytes,
}

/// Answers a request to the browsers' port.
pub(crate) async fn handle(core: Arc<Core>, asked: Asked) -> Handled {
    let Some(id) = asked.path.strip_prefix("/push/").filter(|id| !id.is_empty() && !id.contains('/')) else {
        return Handled::answer(plain(404, "no such resource"));
    };
    let read = read(&core, &asked, id);
    let struck = if read.is_ok() { core.faults.strike(Provider::WebPush, id) } else { Default::default() };
    let message_id = {
        let mut bytes = [0u8; 12];
        rand::rng().fill_bytes(&mut bytes);
        URL_SAFE_NO_PAD.encode(bytes)
    };
    let (status, reason) = match (&read, &struck.effect) {
        (Err((status, reason)), _) => (*status, (*reason).to_owned()),
        (Ok(_), None | Some(Effect::CutMidAnswer)) => (201, String::new()),
        (Ok(_), Some(Effect::Answer { status, reason, .. })) => (*status, reason.clone()),
        (Ok(_), Some(Effect::HtmlBadGateway)) => (502, "bad gateway".to_owned()),
        (Ok(_), Some(_)) => (0, "unanswered".to_owned()),
    };
    core.count(Provider::WebPush, (status != 201).then_some(reason.as_str()));
    let (subject, text) = read.as_ref().map(|message| (message.subject.clone(), message.text.clone())).unwrap_or_default();
    if !matches!(struck.effect, Some(Effect::Reset { .. } | Effect::Cut)) {
        core.record(|| Arrival {
            number: 0,
            at: jiff::Timestamp::now(),
            instant: std::time::Instant::now(),
            provider: Provider::WebPush,
            connection: asked.connection,
            stream: 0,
            device: id.to_owned(),
            id: message_id.clone(),
            sender: subject,
            headers: asked.shown_headers(),
            body: text,
            status,
            reason: reason.clone(),
        });
    }
    let usual = || {
        if read.is_err() {
            return plain(status, &reason);
        }
        let mut created = plain(201, "");
        let origin = core.web_push_origins.first().map(String::as_str).unwrap_or_default();
        if let Ok(location) = HeaderValue::try_from(format!("{origin}/message/{message_id}")) {
            created.headers_mut().insert(header::LOCATION, location);
        }
        created
    };
    Handled::struck(struck, core.delay(), usual, plain, core.clock.now())
}

/// Everything that a push service checks, and the decryption that a browser does.
fn read(core: &Core, asked: &Asked, id: &str) -> Result<Message, Refusal> {
    if asked.method != Method::POST {
        return Err((405, "only POST"));
    }
    let server = vapid::verify(asked.header("authorization"), &core.web_push_origins, core.clock.now_s())?;
    let keys = core.browsers.keys(id, &server.key)?;
    let ttl = asked.header("ttl").ok_or((400, "TTL is missing"))?;
    if ttl.is_empty() || ttl.len() > 10 || !ttl.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err((400, "TTL is no number of seconds"));
    }
    if asked.header("urgency").is_some_and(|urgency| !matches!(urgency, "very-low" | "low" | "normal" | "high")) {
        return Err((400, "unknown Urgency"));
    }
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if asked.header("topic").is_some_and(|topic| topic.is_empty() || topic.len() > 32 || !topic.bytes().all(is_base64url)) {
        return Err((400, "Topic has up to 32 characters of base64url"));
    }
    let body = asked.body.as_ref().filter(|body| body.len() <= MAX_MESSAGE).ok_or((413, "the message is longer than 4096 bytes"))?;
    if body.is_empty() {
        return Ok(Message { subject: server.subject, text: Bytes::new() });
    }
    if asked.header("content-encoding") != Some("aes128gcm") {
        return Err((415, "Content-Encoding must be aes128gcm"));
    }
    let text = encryption::decrypt(&keys, body).map_err(|error| (400, error))?;
    Ok(Message { subject: server.subject, text: Bytes::from(text) })
}
