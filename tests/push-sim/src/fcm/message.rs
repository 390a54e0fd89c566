//! What Google checks of a message: its target, the types of its fields, its size. Names may be in either spelling of proto3's JSON.

use serde_json::{Map, Value};

use super::error::ApiError;

/// Bytes of data and notification together.
const MAX_PAYLOAD: usize = 4096;
/// The longest time to live: four weeks.
const MAX_TTL_S: f64 = 2_419_200.0;
/// Topics that a condition may name.
const MAX_TOPICS: usize = 5;

const MESSAGE: &[&str] = &["name", "data", "notification", "android", "webpush", "apns", "fcmOptions", "token", "topic", "condition"];
const ANDROID: &[&str] = &[
    "collapseKey",
    "priority",
    "ttl",
    "restrictedPackageName",
    "data",
    "notification",
    "fcmOptions",
    "directBootOk",
    "bandwidthConstrainedOk",
    "restrictedSatelliteOk",
];
const APNS: &[&str] = &["headers", "payload", "fcmOptions", "liveActivityToken"];
const WEBPUSH: &[&str] = &["headers", "data", "notification", "fcmOptions"];
const NOTIFICATION: &[&str] = &["title", "body", "image"];

/// A message that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// A token, `topic:NAME` or `condition:…`.
    pub(super) target: String,
    is_token: bool,
    pub(super) validate_only: bool,
}

type Violations = Vec<(String, String)>;

/// Whether a text can be a registration token.
pub(super) fn is_registration_token(token: &str) -> bool {
    (16..=4096).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':'))
}

/// A name in lower camel case.
fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        match letter {
            '_' => upper = true,
            letter if upper => {
                out.push(letter.to_ascii_uppercase());
                upper = false;
            }
            letter => out.push(letter),
        }
    }
    out
}

// === impl Message ===

impl Message {
    pub(super) fn token(&self) -> Option<&str> {
        self.is_token.then_some(self.target.as_str())
    }

    pub(super) fn read(body: Option<&[u8]>) -> Result<Self, ApiError> {
        let body = body.ok_or_else(|| ApiError::new(413, None, "Request is too large.".to_owned()))?;
        let whole: Value =
            serde_json::from_slice(body).map_err(|error| ApiError::new(400, None, format!("Invalid JSON payload received. {error}")))?;
        let mut wrong = Violations::new();
        let root = Fields::of(&whole, "", &["message", "validateOnly"], &mut wrong);
        let message = root.get("message");
        let fields = Fields::of(message, "message", MESSAGE, &mut wrong);
        let target = target(&fields, &mut wrong);
        let mut size = strings(fields.get("data"), "message.data", true, &mut wrong);
        size += notification(fields.get("notification"), "message.notification", &mut wrong);
        size += android(fields.get("android"), &mut wrong);
        webpush(fields.get("webpush"), &mut wrong);
        apns(fields.get("apns"), &mut wrong);
        if size > MAX_PAYLOAD && wrong.is_empty() {
            wrong.push(("message".to_owned(), format!("Message is too big: {size} bytes, at most {MAX_PAYLOAD} are allowed")));
        }
        let validate_only = match root.get("validateOnly") {
            Value::Null => false,
            Value::Bool(value) => *value,
            _ => {
                wrong.push(("validate_only".to_owned(), "Invalid value (TYPE_BOOL)".to_owned()));
                false
            }
        };
        match target {
            Some((is_token, target)) if wrong.is_empty() => Ok(Self { target, is_token, validate_only }),
            _ => Err(ApiError::invalid(&wrong)),
        }
    }
}

/// An object's members under their camel-case names.
struct Fields<'a>(Option<&'a Map<String, Value>>);

impl<'a> Fields<'a> {
    fn of(value: &'a Value, path: &str, known: &[&str], wrong: &mut Violations) -> Self {
        let Some(members) = value.as_object() else {
            if !value.is_null() || path.is_empty() {
                wrong.push((path.to_owned(), "Invalid value: an object is expected".to_owned()));
            }
            return Self(None);
        };
        for name in members.keys() {
            if !known.contains(&camel(name).as_str()) {
                let what = format!("Invalid JSON payload received. Unknown name \"{name}\" at '{path}': Cannot find field.");
                wrong.push((path.to_owned(), what));
            }
        }
        Self(Some(members))
    }

    fn get(&self, name: &str) -> &'a Value {
        const NULL: &Value = &Value::Null;
        let mut members = self.0.into_iter().flatten();
        members.find(|(known, _)| camel(known) == name).map_or(NULL, |(_, value)| value)
    }
}

fn target(fields: &Fields<'_>, wrong: &mut Violations) -> Option<(bool, String)> {
    let mut given: Vec<(&str, &Value)> = Vec::new();
    for name in ["token", "topic", "condition"] {
        let value = fields.get(name);
        if !value.is_null() {
            given.push((name, value));
        }
    }
    let [(kind, value)] = *given.as_slice() else {
        let what =
            if given.is_empty() { "Recipient of the message is not set." } else { "Exactly one of token, topic or condition is allowed." };
        wrong.push(("message".to_owned(), what.to_owned()));
        return None;
    };
    let Some(text) = value.as_str().filter(|text| !text.is_empty()) else {
        wrong.push((format!("message.{kind}"), "Invalid value (TYPE_STRING)".to_owned()));
        return None;
    };
    let is_topic = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte));
    match kind {
        "token" => return Some((true, text.to_owned())),
        "topic" => {
            let name = text.strip_prefix("/topics/").unwrap_or(text);
            if is_topic(name) {
                return Some((false, format!("topic:{name}")));
            }
            wrong.push(("message.topic".to_owned(), "Malformed topic name".to_owned()));
        }
        _ => {
            let topics = text.matches(" in topics").count();
            let balanced = text.matches('(').count() == text.matches(')').count() && text.matches('\'').count() == topics * 2;
            if topics > 0 && topics <= MAX_TOPICS && balanced {
                return Some((false, format!("condition:{text}")));
            }
            wrong.push(("message.condition".to_owned(), "Invalid condition expression provided.".to_owned()));
        }
    }
    None
}

/// A map from strings to strings; answers its bytes.
fn strings(value: &Value, path: &str, reserved: bool, wrong: &mut Violations) -> usize {
    let Some(members) = value.as_object() else {
        if !value.is_null() {
            wrong.push((path.to_owned(), "Invalid value: a map of strings is expected".to_owned()));
        }
        return 0;
    };
    let mut size = 0;
    for (name, value) in members {
        if reserved && (matches!(name.as_str(), "from" | "message_type") || name.starts_with("google.") || name.starts_with("gcm")) {
            wrong.push((path.to_owned(), format!("Invalid data payload key: {name}")));
        }
        match value.as_str() {
            Some(text) => size += name.len() + text.len(),
            None => wrong.push((format!("{path}[0].value"), format!("Invalid value at '{path}[0].value' (TYPE_STRING), {value}"))),
        }
    }
    size
}

fn notification(value: &Value, path: &str, wrong: &mut Violations) -> usize {
    let fields = Fields::of(value, path, NOTIFICATION, wrong);
    let mut size = 0;
    for name in NOTIFICATION {
        match fields.get(name) {
            Value::Null => {}
            Value::String(text) => size += name.len() + text.len(),
            other => wrong.push((format!("{path}.{name}"), format!("Invalid value at '{path}.{name}' (TYPE_STRING), {other}"))),
        }
    }
    size
}

fn android(value: &Value, wrong: &mut Violations) -> usize {
    let fields = Fields::of(value, "message.android", ANDROID, wrong);
    match fields.get("priority") {
        Value::Null => {}
        Value::String(text) if matches!(text.to_ascii_uppercase().as_str(), "NORMAL" | "HIGH") => {}
        other => {
            let what = format!("Invalid value at 'message.android.priority' (AndroidMessagePriority), {other}");
            wrong.push(("message.android.priority".to_owned(), what));
        }
    }
    match fields.get("ttl") {
        Value::Null => {}
        Value::String(text) if seconds(text).is_some_and(|ttl| ttl <= MAX_TTL_S) => {}
        other => {
            let what = format!("Invalid value at 'message.android.ttl' (Duration), {other}; from \"0s\" to \"2419200s\"");
            wrong.push(("message.android.ttl".to_owned(), what));
        }
    }
    for name in ["collapseKey", "restrictedPackageName"] {
        let value = fields.get(name);
        if !value.is_null() && !value.is_string() {
            wrong.push((format!("message.android.{name}"), "Invalid value (TYPE_STRING)".to_owned()));
        }
    }
    let value = fields.get("notification");
    if !value.is_null() && !value.is_object() {
        wrong.push(("message.android.notification".to_owned(), "Invalid value: an object is expected".to_owned()));
    }
    strings(fields.get("data"), "message.android.data", true, wrong)
}

/// A duration as proto3's JSON writes it: `30s`, `3.5s`.
fn seconds(text: &str) -> Option<f64> {
    let number = text.strip_suffix('s')?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if digits(whole, 12) && digits(fraction, 9) { number.parse().ok() } else { None }
}

fn webpush(value: &Value, wrong: &mut Violations) {
    let fields = Fields::of(value, "message.webpush", WEBPUSH, wrong);
    strings(fields.get("headers"), "message.webpush.headers", false, wrong);
    strings(fields.get("data"), "message.webpush.data", false, wrong);
}

fn apns(value: &Value, wrong: &mut Violations) {
    let fields = Fields::of(value, "message.apns", APNS, wrong);
    strings(fields.get("headers"), "message.apns.headers", false, wrong);
    let payload = fields.get("payload");
    if !payload.is_null() && !payload.is_object() {
        wrong.push(("message.apns.payload".to_owned(), "Invalid value: an object is expected".to_owned()));
    }
}
