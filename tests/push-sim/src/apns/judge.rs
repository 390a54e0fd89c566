//! What Apple checks of a request, in one place; each refusal has its documented status and reason.

use serde::de::IgnoredAny;

use super::{
    Rules,
    reply::{ApnsId, Refusal, apns_id},
};
use crate::{
    apple::Environment,
    device::{Device, DeviceState},
    http2::Request,
};

/// Largest payload, and largest of a VoIP push.
const MAX_PAYLOAD: usize = 4096;
const MAX_VOIP_PAYLOAD: usize = 5120;
/// Body bytes worth keeping: one above the limit shows that it is broken.
pub(super) const MAX_BODY: usize = 8192;
const MAX_COLLAPSE_ID: usize = 64;
const MAX_TOPIC: usize = 255;
/// A token has at least 32 bytes; Apple says that its length may change.
const TOKEN_DIGITS: std::ops::RangeInclusive<usize> = 64..=200;

/// Push types, with the suffix that their topic has behind the app's bundle id.
const PUSH_TYPES: [(&str, &str); 11] = [
    ("alert", ""),
    ("background", ""),
    ("voip", ".voip"),
    ("location", ".location-query"),
    ("complication", ".complication"),
    ("fileprovider", ".pushkit.fileprovider"),
    ("mdm", ""),
    ("liveactivity", ".push-type.liveactivity"),
    ("pushtotalk", ".voip-ptt"),
    ("widgets", ".push-type.widgets"),
    ("controls", ".push-type.controls"),
];

/// By what right a request is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sender<'a> {
    /// A provider token of a team with these apps; empty = any.
    Team(&'a [String]),
    /// A client certificate with these topics.
    Certificate(&'a [String]),
}

fn no(status: u16, reason: &str) -> Refusal {
    Refusal::new(status, reason)
}

fn text<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.field(name.as_bytes()).map(|value| std::str::from_utf8(value).unwrap_or("\u{fffd}"))
}

/// The device token of a request to the right place.
pub(super) fn device(request: &Request) -> Result<&str, Refusal> {
    if text(request, ":method") != Some("POST") {
        return Err(no(405, "MethodNotAllowed"));
    }
    let path = text(request, ":path").unwrap_or_default();
    if path == "/3/device" || path == "/3/device/" {
        return Err(no(400, "MissingDeviceToken"));
    }
    path.strip_prefix("/3/device/").filter(|token| !token.contains('/')).ok_or_else(|| no(404, "BadPath"))
}

/// The id that a request brings, if any.
pub(super) fn id(request: &Request) -> Result<Option<ApnsId>, Refusal> {
    request.field(b"apns-id").map(|text| apns_id(text).ok_or_else(|| no(400, "BadMessageId"))).transpose()
}

/// Everything about a request but its path, its id, its sender's proof and its device. Answers the topic it goes to.
pub(super) fn fields<'a>(request: &'a Request, sender: Sender<'a>) -> Result<&'a str, Refusal> {
    if request.fields_cut {
        return Err(no(431, "RequestHeaderFieldsTooLarge"));
    }
    let mut seen = 0u8;
    for (name, _) in request.fields() {
        let bit = match name {
            b"apns-id" => 1,
            b"apns-topic" => 2,
            b"apns-push-type" => 4,
            b"apns-priority" => 8,
            b"apns-expiration" => 16,
            b"apns-collapse-id" => 32,
            b"authorization" => 64,
            _ => continue,
        };
        if seen & bit != 0 {
            return Err(no(400, "DuplicateHeaders"));
        }
        seen |= bit;
    }
    if let Some(expiration) = text(request, "apns-expiration")
        && (expiration.parse::<u64>().is_err() || expiration.starts_with('+'))
    {
        return Err(no(400, "BadExpirationDate"));
    }
    let kind = match text(request, "apns-push-type") {
        None => None,
        Some(name) => Some(PUSH_TYPES.iter().find(|(known, _)| *known == name).ok_or_else(|| no(400, "InvalidPushType"))?),
    };
    match text(request, "apns-priority") {
        None | Some("5" | "1") => {}
        // Apple: a background push with priority 10 is an error
        Some("10") if kind.is_none_or(|(name, _)| *name != "background") => {}
        Some(_) => return Err(no(400, "BadPriority")),
    }
    if request.field(b"apns-collapse-id").is_some_and(|id| id.len() > MAX_COLLAPSE_ID) {
        return Err(no(400, "BadCollapseId"));
    }
    let topic = topic(request, sender)?;
    let suffix = suffix_of(topic);
    if let Some((name, wanted)) = kind {
        if !wanted.is_empty() && suffix != *wanted {
            return Err(no(400, "BadTopic"));
        }
        if wanted.is_empty() && !suffix.is_empty() && *name != "mdm" {
            return Err(no(400, "InvalidPushType"));
        }
    }
    let limit = if suffix == ".voip" { MAX_VOIP_PAYLOAD } else { MAX_PAYLOAD };
    if request.body.len() > limit || request.body_cut {
        return Err(no(413, "PayloadTooLarge"));
    }
    if request.body.is_empty() {
        return Err(no(400, "PayloadEmpty"));
    }
    if request.body.trim_ascii_start().first() != Some(&b'{') || serde_json::from_slice::<IgnoredAny>(&request.body).is_err() {
        return Err(no(400, "BadRequest"));
    }
    Ok(topic)
}

/// The known suffix of a topic; empty if it has none.
fn suffix_of(topic: &str) -> &'static str {
    PUSH_TYPES.iter().map(|(_, suffix)| *suffix).find(|suffix| !suffix.is_empty() && topic.ends_with(suffix)).unwrap_or_default()
}

fn topic<'a>(request: &'a Request, sender: Sender<'a>) -> Result<&'a str, Refusal> {
    let Some(topic) = text(request, "apns-topic") else {
        return match sender {
            Sender::Certificate([only]) => Ok(only),
            _ => Err(no(400, "MissingTopic")),
        };
    };
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if topic.is_empty() || topic.len() > MAX_TOPIC || !topic.bytes().all(is_good) {
        return Err(no(400, "BadTopic"));
    }
    let allowed = match sender {
        Sender::Team([]) => true,
        Sender::Team(apps) => {
            let app = topic.strip_suffix(suffix_of(topic)).unwrap_or(topic);
            apps.iter().any(|known| known == topic || known == app)
        }
        Sender::Certificate(topics) => topics.iter().any(|known| known == topic),
    };
    if allowed { Ok(topic) } else { Err(no(400, "TopicDisallowed")) }
}

/// Whether a text can be a device token at all.
pub(super) fn is_device_token(token: &str) -> bool {
    TOKEN_DIGITS.contains(&token.len()) && token.len().is_multiple_of(2) && token.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What the device says to it.
pub(super) fn known_device(device: Option<&Device>, topic: &str, rules: &Rules) -> Result<(), Refusal> {
    let Some(device) = device else {
        return if rules.accept_unknown { Ok(()) } else { Err(no(400, "BadDeviceToken")) };
    };
    if device.environment.is_some_and(|environment: Environment| environment != rules.environment) {
        return Err(no(400, "BadDeviceToken"));
    }
    if device.topic.as_deref().is_some_and(|own| own != topic) {
        return Err(no(400, "DeviceTokenNotForTopic"));
    }
    match device.state {
        DeviceState::Active | DeviceState::OtherSender => Ok(()),
        DeviceState::Unregistered { since_ms } => Err(Refusal::since(410, "Unregistered", since_ms)),
        DeviceState::Expired { since_ms } => Err(Refusal::since(410, "ExpiredToken", since_ms)),
    }
}
