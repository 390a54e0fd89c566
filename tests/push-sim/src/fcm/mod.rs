//! Google's FCM v1: the OAuth token endpoint and `messages:send` on one port.
//! Facts: Google, "FCM HTTP v1 API" reference (Message, FcmError, ErrorCode) and "Using OAuth 2.0 for server to server applications".

mod error;
mod message;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, header};
use rand::Rng;
use serde_json::{Value, json};

use self::{
    error::{ApiError, refusal},
    message::Message,
};
use crate::{
    arrival::Arrival,
    device::{Device, DeviceState, Provider},
    fault::Effect,
    google::Access,
    https::{Asked, Handled, answer},
    state::Core,
};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Answers a request to Google's port.
pub(crate) async fn handle(core: Arc<Core>, asked: Asked) -> Handled {
    if asked.method == Method::POST && asked.path == "/token" {
        return token(&core, &asked);
    }
    let project = asked.path.strip_prefix("/v1/projects/").and_then(|rest| rest.strip_suffix("/messages:send"));
    match project.filter(|project| asked.method == Method::POST && !project.is_empty() && !project.contains('/')) {
        Some(project) => send(&core, &asked, project),
        None => Handled::answer(answer(404, "text/html; charset=utf-8", "<!DOCTYPE html>\n<title>Error 404 (Not Found)!!1</title>\n")),
    }
}

fn json_answer(status: u16, body: &Value) -> Response<Bytes> {
    answer(status, "application/json; charset=UTF-8", body.to_string())
}

// === the token endpoint ===

fn token(core: &Core, asked: &Asked) -> Handled {
    let struck = core.faults.strike(Provider::FcmToken, "");
    let result = grant(core, asked);
    let (email, refused) = match (&struck.effect, &result) {
        (Some(Effect::Answer { reason, .. }), _) => (String::new(), Some(reason.clone())),
        (_, Ok((_, access))) => (access.email.clone(), None),
        (_, Err((error, _))) => (String::new(), Some((*error).to_owned())),
    };
    core.count(Provider::FcmToken, refused.as_deref());
    let status = if refused.is_some() { 400 } else { 200 };
    // neither the assertion nor the token is kept
    core.record(|| arrival(asked, Provider::FcmToken, String::new(), email, Bytes::new(), status, refused.unwrap_or_default()));
    let usual = || match &result {
        Ok((text, _)) => {
            let lifetime = core.fcm_token_lifetime.as_secs();
            json_answer(200, &json!({ "access_token": text, "expires_in": lifetime, "token_type": "Bearer" }))
        }
        Err((error, description)) => json_answer(400, &json!({ "error": error, "error_description": description })),
    };
    let fault = |status, reason: &str| json_answer(status, &json!({ "error": reason, "error_description": "as asked for" }));
    Handled::struck(struck, std::time::Duration::ZERO, usual, fault, core.clock.now())
}

fn grant(core: &Core, asked: &Asked) -> Result<(String, Access), (&'static str, &'static str)> {
    let form = asked.header("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let body = asked.body.as_deref().and_then(|body| std::str::from_utf8(body).ok()).filter(|_| form);
    let body = body.ok_or(("invalid_request", "Bad Request"))?;
    let member = |name: &str| {
        let value = body.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        value.map(|(_, value)| decode(value))
    };
    if member("grant_type").as_deref() != Some(GRANT) {
        return Err(("unsupported_grant_type", "Invalid grant_type"));
    }
    let assertion = member("assertion").ok_or(("invalid_request", "Missing required parameter: assertion"))?;
    core.google.exchange(&assertion, &core.token_urls, core.clock.now_s(), core.fcm_token_lifetime)
}

/// A form's value (application/x-www-form-urlencoded) without its escapes.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).unwrap_or(0);
                let value = digit(bytes.next()) * 16 + digit(bytes.next());
                out.push(u8::try_from(value).unwrap_or(b'?'));
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

// === messages:send ===

fn send(core: &Core, asked: &Asked, project: &str) -> Handled {
    let access = authorize(core, asked, project);
    let message = access.and_then(|access| Ok((access, Message::read(asked.body.as_deref())?)));
    let (email, message) = match message {
        Ok((access, message)) => (access.email, message),
        Err(error) => return refused(core, asked, String::new(), error),
    };
    let target = message.target.clone();
    let struck = core.faults.strike(Provider::Fcm, &target);
    let known = match message.token() {
        Some(token) if struck.effect.is_none() => core.devices.with(Provider::Fcm, token, |device| receives(core, device, token)),
        _ => Ok(()),
    };
    if let Err(error) = known {
        return refused(core, asked, target, error);
    }
    let id = if message.validate_only {
        "fake_message_id".to_owned()
    } else {
        format!("0:{}%{:016x}", jiff::Timestamp::now().as_microsecond(), rand::rng().random::<u64>())
    };
    let name = format!("projects/{project}/messages/{id}");
    let (status, reason) = match &struck.effect {
        None | Some(Effect::CutMidAnswer) => (200, String::new()),
        Some(Effect::Answer { status, reason, .. }) => (*status, reason.clone()),
        Some(Effect::HtmlBadGateway) => (502, "BAD_GATEWAY".to_owned()),
        Some(Effect::Silence) => (0, "unanswered".to_owned()),
        Some(_) => (0, "cut".to_owned()),
    };
    core.count(Provider::Fcm, (status != 200).then_some(reason.as_str()));
    if !matches!(struck.effect, Some(Effect::Reset { .. } | Effect::Cut)) {
        let body = asked.body.clone().unwrap_or_default();
        core.record(|| Arrival { id: name.clone(), ..arrival(asked, Provider::Fcm, target, email, body, status, reason) });
    }
    let usual = || json_answer(200, &json!({ "name": name }));
    Handled::struck(struck, core.delay(), usual, |status, reason| refusal(status, reason).answer(), core.clock.now())
}

fn refused(core: &Core, asked: &Asked, target: String, error: ApiError) -> Handled {
    core.count(Provider::Fcm, Some(error.name()));
    let body = asked.body.clone().unwrap_or_default();
    core.record(|| arrival(asked, Provider::Fcm, target, String::new(), body, error.status, error.name().to_owned()));
    Handled::answer(error.answer())
}

/// Whose access token it is, if it is good and for this project.
fn authorize(core: &Core, asked: &Asked, project: &str) -> Result<Access, ApiError> {
    let header = asked.header("authorization").ok_or_else(|| ApiError::unauthenticated("CREDENTIALS_MISSING"))?;
    let token = header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let access = token.and_then(|token| core.google.access(token, core.clock.now_s()));
    let access = access.ok_or_else(|| ApiError::unauthenticated("ACCESS_TOKEN_EXPIRED"))?;
    if access.project == project {
        return Ok(access);
    }
    let what = if core.google.is_project(project) { "the project" } else { "it; or it may not exist" };
    Err(ApiError::new(
        403,
        None,
        format!(
            "Permission 'cloudmessaging.messages.create' denied on resource '//cloudresourcemanager.googleapis.com/projects/{project}' ({what})."
        ),
    ))
}

/// What the device says to it.
fn receives(core: &Core, device: Option<&Device>, token: &str) -> Result<(), ApiError> {
    match device.map(|device| device.state) {
        Some(DeviceState::Active) => Ok(()),
        Some(DeviceState::OtherSender) => Err(refusal(403, "SENDER_ID_MISMATCH")),
        Some(DeviceState::Unregistered { .. } | DeviceState::Expired { .. }) => Err(refusal(404, "UNREGISTERED")),
        None if !message::is_registration_token(token) => {
            let field = ("message.token", "The registration token is not a valid FCM registration token");
            Err(ApiError::invalid(&[(field.0.to_owned(), field.1.to_owned())]))
        }
        None if core.apns.rules.accept_unknown => Ok(()),
        None => Err(refusal(404, "UNREGISTERED")),
    }
}

fn arrival(asked: &Asked, provider: Provider, device: String, sender: String, body: Bytes, status: u16, reason: String) -> Arrival {
    Arrival {
        number: 0,
        at: jiff::Timestamp::now(),
        instant: std::time::Instant::now(),
        provider,
        connection: asked.connection,
        stream: 0,
        device,
        id: String::new(),
        sender,
        headers: asked.shown_headers(),
        body,
        status,
        reason,
    }
}

/// The challenge that goes with a 401.
pub(crate) const CHALLENGE: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"https://accounts.google.com/\", error=\"invalid_token\"");
pub(crate) const CHALLENGE_NAME: header::HeaderName = header::WWW_AUTHENTICATE;
