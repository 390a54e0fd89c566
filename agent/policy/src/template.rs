//! From what is told to the provider's payload. A template is a JSON document whose texts hold `{names}` of fields; an empty field that
//! is a whole text of its own is left out. Every application may replace the built-in templates.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use push_core::{ApnsPayload, ApnsPushType, FcmPayload, Payload, Provider, WebPayload, WebUrgency};
use serde_json::{Map, Value, json};

use crate::notice::{Fields, Kind};

/// Every name that a template may use.
const NAMES: [&str; 16] = [
    "event",
    "call_id",
    "switch_call_id",
    "domain",
    "alias",
    "caller",
    "called",
    "started_at",
    "ended_at",
    "expires_at",
    "reason",
    "conference_id",
    "conference_name",
    "title",
    "body",
    "push_id",
];

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// It is no JSON object.
    #[error("is no JSON object: {0}")]
    NoObject(String),
    /// It uses a name that there is not.
    #[error("uses the unknown name {{{0}}}; known are: {known}", known = NAMES.join(", "))]
    UnknownName(String),
    /// The provider would refuse it.
    #[error("{0}")]
    Refused(String),
}

/// One payload with places for fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Map<String, Value>);

/// What an application sends for each kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Templates {
    provider: Provider,
    by_kind: HashMap<Kind, Template>,
}

/// What a message shows or does, whoever delivers it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in the API's PushContent")]
pub struct Content {
    pub title: String,
    pub body: String,
    pub data: BTreeMap<String, String>,
    pub sound: String,
    pub badge: Option<u32>,
    pub thread: String,
    pub category: String,
    pub mutable: bool,
}

// === impl Template ===

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let object: Map<String, Value> = serde_json::from_str(text).map_err(|error| BadTemplate::NoObject(error.to_string()))?;
        let mut unknown = None;
        visit(&object, &mut |text| {
            for part in parts(text) {
                if let Part::Name(name) = part
                    && !NAMES.contains(&name)
                {
                    unknown = Some(name.to_owned());
                }
            }
        });
        unknown.map_or(Ok(Self(object)), |name| Err(BadTemplate::UnknownName(name)))
    }

    fn filled(&self, fields: &HashMap<&str, &str>) -> Map<String, Value> {
        filled(&self.0, fields)
    }
}

enum Part<'a> {
    Text(&'a str),
    Name(&'a str),
}

/// A text's parts: `{name}` is a name if it looks like one, everything else is text.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut from = 0;
    while let Some(open) = rest.get(from..).and_then(|tail| tail.find('{')).map(|at| at + from) {
        let close = rest.get(open..).and_then(|tail| tail.find('}')).map(|at| at + open);
        let name = close.and_then(|close| rest.get(open + 1..close));
        match (name, close) {
            (Some(name), Some(close)) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
                parts.push(Part::Text(rest.get(..open).unwrap_or_default()));
                parts.push(Part::Name(name));
                rest = rest.get(close + 1..).unwrap_or_default();
                from = 0;
            }
            _ => from = open + 1,
        }
    }
    parts.push(Part::Text(rest));
    parts
}

fn visit(object: &Map<String, Value>, seen: &mut impl FnMut(&str)) {
    fn value(value: &Value, seen: &mut impl FnMut(&str)) {
        match value {
            Value::String(text) => seen(text),
            Value::Array(values) => values.iter().for_each(|it| value_of(it, seen)),
            Value::Object(object) => object.values().for_each(|it| value_of(it, seen)),
            _ => {}
        }
    }
    fn value_of(it: &Value, seen: &mut impl FnMut(&str)) {
        value(it, seen);
    }
    object.values().for_each(|it| value(it, seen));
}

fn filled(object: &Map<String, Value>, fields: &HashMap<&str, &str>) -> Map<String, Value> {
    let entries = object.iter().filter_map(|(key, value)| Some((key.clone(), filled_value(value, fields)?)));
    entries.collect()
}

/// `None`: a field of its own that is empty.
fn filled_value(value: &Value, fields: &HashMap<&str, &str>) -> Option<Value> {
    Some(match value {
        Value::String(text) => {
            let parts = parts(text);
            let written: String = parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text,
                    Part::Name(name) => fields.get(name).copied().unwrap_or_default(),
                })
                .collect();
            if written.is_empty() && !text.is_empty() {
                return None;
            }
            Value::String(written)
        }
        Value::Array(values) => Value::Array(values.iter().filter_map(|value| filled_value(value, fields)).collect()),
        Value::Object(object) => Value::Object(filled(object, fields)),
        other => other.clone(),
    })
}

// === impl Templates ===

impl Templates {
    /// The built-in templates of a provider, with these texts in place of some.
    pub fn new(provider: Provider, own: &BTreeMap<Kind, String>) -> Result<Self, (Kind, BadTemplate)> {
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Message);
        let mut by_kind: HashMap<Kind, Template> = kinds.map(|kind| (kind, built_in(provider, kind))).collect();
        for (kind, text) in own {
            by_kind.insert(*kind, Template::parse(text).map_err(|error| (*kind, error))?);
        }
        Ok(Self { provider, by_kind })
    }

    /// The payload of a notice. `locale`: of the device, for texts that are shown.
    pub fn notice(&self, kind: Kind, fields: &Fields, locale: &str, push_id: &str) -> Payload {
        let mut all: HashMap<&str, &str> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (title, body) = default_text(kind, locale, &all);
        all.extend([("event", kind.as_str()), ("push_id", push_id), ("title", &title), ("body", &body)]);
        let object = self.by_kind.get(&kind).map(|template| template.filled(&all)).unwrap_or_default();
        self.payload(kind, written(&object))
    }

    /// The payload of a message.
    pub fn message(&self, content: &Content, push_id: &str) -> Payload {
        let text = !content.title.is_empty() || !content.body.is_empty();
        // Apple shows a badge and plays a sound without text, too. Google has nothing of it without a text.
        let silent = !(text || self.provider == Provider::Apns && (content.badge.is_some() || !content.sound.is_empty()));
        let object = match self.provider {
            Provider::Apns => apns_message(content, silent, push_id),
            Provider::Fcm => fcm_message(content, silent, push_id),
            Provider::Web | Provider::Stub => web_message(content, push_id),
        };
        match self.payload(Kind::Message, written(&object)) {
            Payload::Apns(ApnsPayload { body, .. }) if silent => Payload::Apns(ApnsPayload { push_type: ApnsPushType::Background, body }),
            payload => payload,
        }
    }

    fn payload(&self, kind: Kind, body: Bytes) -> Payload {
        match self.provider {
            Provider::Apns => Payload::Apns(ApnsPayload { push_type: push_type(kind), body }),
            Provider::Fcm => Payload::Fcm(FcmPayload { message: body }),
            Provider::Web => {
                let urgency = if kind == Kind::InvitationCancel { WebUrgency::Normal } else { WebUrgency::High };
                Payload::Web(WebPayload { body, urgency })
            }
            Provider::Stub => Payload::Stub(body),
        }
    }
}

/// Apple: whoever gets a VoIP push must report a call, so that only calls and their ends are.
fn push_type(kind: Kind) -> ApnsPushType {
    match kind {
        Kind::Call | Kind::CallCancel => ApnsPushType::Voip,
        Kind::MissedCall | Kind::Invitation | Kind::Message => ApnsPushType::Alert,
        Kind::InvitationCancel => ApnsPushType::Background,
    }
}

fn written(object: &Map<String, Value>) -> Bytes {
    // Maps of texts always can be written.
    serde_json::to_vec(object).unwrap_or_default().into()
}

/// What is shown for a notice, in the language of the device: Russian, or else English.
pub fn default_text(kind: Kind, locale: &str, fields: &HashMap<&str, &str>) -> (String, String) {
    let russian = locale.get(..2).is_some_and(|language| language.eq_ignore_ascii_case("ru"));
    let field = |name: &str| fields.get(name).copied().unwrap_or_default().to_owned();
    let title = match (kind, russian) {
        (Kind::MissedCall, true) => "Пропущенный вызов",
        (Kind::MissedCall, false) => "Missed call",
        (Kind::Invitation, true) => "Приглашение в конференцию",
        (Kind::Invitation, false) => "Invitation to a conference",
        _ => return (String::new(), String::new()),
    };
    let body = if kind == Kind::MissedCall { field("caller") } else { field("conference_name") };
    (title.to_owned(), body)
}

/// The fields of a kind, as every built-in template has them.
fn facts(kind: Kind) -> Map<String, Value> {
    let names: &[&str] = match kind {
        Kind::Call => &["call_id", "domain", "alias", "caller", "called", "started_at", "expires_at"],
        Kind::CallCancel => &["call_id", "domain", "alias", "reason"],
        Kind::MissedCall => &["call_id", "domain", "alias", "caller", "called", "started_at", "ended_at"],
        Kind::Invitation => &["conference_id", "conference_name", "domain", "alias", "expires_at"],
        Kind::InvitationCancel => &["conference_id", "domain", "alias", "reason"],
        Kind::Message => &[],
    };
    let named = names.iter().chain(&["push_id"]).map(|name| ((*name).to_owned(), Value::String(format!("{{{name}}}"))));
    [("event".to_owned(), Value::String("{event}".to_owned()))].into_iter().chain(named).collect()
}

fn built_in(provider: Provider, kind: Kind) -> Template {
    let mut object = facts(kind);
    let shown = matches!(kind, Kind::MissedCall | Kind::Invitation);
    match provider {
        Provider::Apns => {
            let alert = json!({ "title": "{title}", "body": "{body}" });
            let aps = match kind {
                Kind::MissedCall | Kind::Invitation => {
                    json!({ "alert": alert, "sound": "default", "category": kind.as_str(), "thread-id": kind.as_str() })
                }
                Kind::InvitationCancel => json!({ "content-available": 1 }),
                _ => json!({}),
            };
            object.insert("aps".to_owned(), aps);
        }
        Provider::Fcm => {
            let mut message = Map::from_iter([("data".to_owned(), Value::Object(object))]);
            if shown {
                message.insert("notification".to_owned(), json!({ "title": "{title}", "body": "{body}" }));
            }
            object = message;
        }
        Provider::Web | Provider::Stub => {
            if shown {
                object.insert("title".to_owned(), "{title}".into());
                object.insert("body".to_owned(), "{body}".into());
            }
        }
    }
    Template(object)
}

fn apns_message(content: &Content, silent: bool, push_id: &str) -> Map<String, Value> {
    let mut aps = Map::new();
    let mut set = |key: &str, value: &str| {
        if !value.is_empty() {
            aps.insert(key.to_owned(), value.into());
        }
    };
    set("sound", &content.sound);
    set("thread-id", &content.thread);
    set("category", &content.category);
    if silent {
        aps.insert("content-available".to_owned(), 1.into());
    }
    let shown = [("title", &content.title), ("body", &content.body)].into_iter().filter(|(_, text)| !text.is_empty());
    let alert: Map<String, Value> = shown.map(|(key, text)| (key.to_owned(), text.as_str().into())).collect();
    if !alert.is_empty() {
        aps.insert("alert".to_owned(), Value::Object(alert));
    }
    if let Some(badge) = content.badge {
        aps.insert("badge".to_owned(), badge.into());
    }
    if content.mutable {
        aps.insert("mutable-content".to_owned(), 1.into());
    }
    let mut object = data(content, push_id);
    // Apple's own key cannot be taken by the application's data.
    object.insert("aps".to_owned(), Value::Object(aps));
    object
}

fn fcm_message(content: &Content, silent: bool, push_id: &str) -> Map<String, Value> {
    let mut message = Map::from_iter([("data".to_owned(), Value::Object(data(content, push_id)))]);
    if !silent {
        let shown = [("title", &content.title), ("body", &content.body)].into_iter().filter(|(_, text)| !text.is_empty());
        let notification: Map<String, Value> = shown.map(|(key, text)| (key.to_owned(), text.as_str().into())).collect();
        message.insert("notification".to_owned(), Value::Object(notification));
        let pairs = [("sound", &content.sound), ("tag", &content.thread), ("click_action", &content.category)];
        let mut android: Map<String, Value> =
            pairs.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key.to_owned(), text.as_str().into())).collect();
        if let Some(badge) = content.badge {
            android.insert("notification_count".to_owned(), badge.into());
        }
        if !android.is_empty() {
            message.insert("android".to_owned(), json!({ "notification": android }));
        }
    }
    message
}

fn web_message(content: &Content, push_id: &str) -> Map<String, Value> {
    let mut object = data(content, push_id);
    let pairs = [("title", &content.title), ("body", &content.body), ("tag", &content.thread), ("sound", &content.sound)];
    for (key, text) in pairs.into_iter().filter(|(_, text)| !text.is_empty()) {
        object.insert(key.to_owned(), text.as_str().into());
    }
    object
}

fn data(content: &Content, push_id: &str) -> Map<String, Value> {
    let own = [("event".to_owned(), Kind::Message.as_str().into()), ("push_id".to_owned(), push_id.into())];
    let given = content.data.iter().map(|(key, value)| (key.clone(), Value::String(value.clone())));
    own.into_iter().chain(given).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(payload: &Payload) -> Value {
        let body = match payload {
            Payload::Apns(apns) => &apns.body,
            Payload::Fcm(fcm) => &fcm.message,
            Payload::Web(web) => &web.body,
            Payload::Stub(body) => body,
        };
        serde_json::from_slice(body).unwrap()
    }

    fn fields() -> Fields {
        vec![
            ("call_id", "c-1".to_owned()),
            ("caller", "10\"01".to_owned()),
            ("called", String::new()),
            ("expires_at", "1790000060".to_owned()),
        ]
    }

    #[test]
    fn a_call_is_a_voip_push_for_apple_and_a_data_message_for_google() {
        let apns = Templates::new(Provider::Apns, &BTreeMap::new()).unwrap().notice(Kind::Call, &fields(), "ru", "p-1");
        assert!(matches!(&apns, Payload::Apns(apns) if apns.push_type == ApnsPushType::Voip));
        let wanted = json!({
            "aps": {}, "event": "call", "call_id": "c-1", "caller": "10\"01", "expires_at": "1790000060", "push_id": "p-1"
        });
        assert_eq!(json_of(&apns), wanted);
        let fcm = Templates::new(Provider::Fcm, &BTreeMap::new()).unwrap().notice(Kind::CallCancel, &fields(), "", "p-2");
        assert_eq!(json_of(&fcm), json!({ "data": { "event": "cancel", "call_id": "c-1", "push_id": "p-2" } }));
    }

    #[test]
    fn a_missed_call_is_told_in_the_language_of_the_device() {
        let templates = Templates::new(Provider::Apns, &BTreeMap::new()).unwrap();
        let title = |locale: &str| json_of(&templates.notice(Kind::MissedCall, &fields(), locale, "p"))["aps"]["alert"]["title"].clone();
        assert_eq!((title("ru-RU"), title("en"), title("")), ("Пропущенный вызов".into(), "Missed call".into(), "Missed call".into()));
    }

    #[test]
    fn an_application_may_write_its_own_payload_and_a_wrong_one_is_refused_with_what_is_known() {
        let own = r#"{"aps":{},"uuid":"{call_id}","handle":"sip:{caller}@x","empty":"{called}","list":["{reason}","{call_id}"],"n":1,"brace":"{ } {Not}"}"#;
        let templates = Templates::new(Provider::Apns, &BTreeMap::from([(Kind::Call, own.to_owned())])).unwrap();
        let written = json_of(&templates.notice(Kind::Call, &fields(), "", "p"));
        assert_eq!(written, json!({"aps": {}, "uuid": "c-1", "handle": "sip:10\"01@x", "list": ["c-1"], "n": 1, "brace": "{ } {Not}"}));
        let unknown = Template::parse(r#"{"a":{"b":["{calller}"]}}"#).unwrap_err();
        assert_eq!(unknown, BadTemplate::UnknownName("calller".to_owned()));
        assert!(unknown.to_string().contains("caller"), "{unknown}");
        assert!(matches!(Template::parse("[]"), Err(BadTemplate::NoObject(_))));
    }

    #[test]
    fn a_message_without_text_wakes_the_application_silently() {
        let content = Content {
            data: BTreeMap::from([("aps".to_owned(), "x".to_owned()), ("room".to_owned(), "7".to_owned())]),
            ..Default::default()
        };
        let payload = Templates::new(Provider::Apns, &BTreeMap::new()).unwrap().message(&content, "p");
        assert!(matches!(&payload, Payload::Apns(apns) if apns.push_type == ApnsPushType::Background));
        assert_eq!(json_of(&payload), json!({"aps": {"content-available": 1}, "event": "message", "push_id": "p", "room": "7"}));
        let badge = Content { badge: Some(0), ..Default::default() };
        let payload = Templates::new(Provider::Apns, &BTreeMap::new()).unwrap().message(&badge, "p");
        assert!(matches!(&payload, Payload::Apns(apns) if apns.push_type == ApnsPushType::Alert), "a badge is shown");
        assert_eq!(json_of(&payload)["aps"], json!({"badge": 0}));
        let content = Content { title: "T".to_owned(), badge: Some(3), ..content };
        let shown = json_of(&Templates::new(Provider::Fcm, &BTreeMap::new()).unwrap().message(&content, "p"));
        assert_eq!(shown["notification"], json!({"title": "T"}));
        assert_eq!(shown["android"]["notification"]["notification_count"], json!(3));
    }
}
