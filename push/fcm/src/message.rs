//! The body of a request: the payload's object with target and Android's delivery options spliced in. It is looked through, not built
//! into a tree. Shapes and limits as in FCM's reference of `Message` and `AndroidConfig`.

use std::{borrow::Cow, fmt, ops::Range};

use bytes::Bytes;
use jiff::Timestamp;
use push_core::{Priority, Request, Target};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Most octets of data and notification of one message.
const MOST_OCTETS: usize = 4096;

/// The same to a topic or a condition.
const MOST_OCTETS_TOPIC: usize = 2048;

/// Most octets of the whole object: the blocks for APNs and web push have limits of their own at their services.
const MOST_OBJECT: usize = 16 * 1024;

/// The longest that FCM stores, in seconds: four weeks.
const LONGEST_TTL: i64 = 2_419_200;

/// Checks what is to be accepted as `FcmPayload::message`: an object of FCM's `Message` without a target, not too large, with data of
/// strings under names that FCM allows.
pub fn check_payload(message: &[u8]) -> Result<(), String> {
    let object = Object::of(message)?;
    object.fits("device", MOST_OCTETS)?;
    object.options().map(|_| ())
}

/// A message up to what depends on the time of sending.
pub(crate) struct Template {
    /// `"token":"…"`.
    target: String,
    /// Between the braces of the payload.
    inside: Range<usize>,
    /// The value of `android` in it, braces included.
    android: Option<Range<usize>>,
    has: Has,
}

/// What the payload says about delivery.
#[derive(Default, Clone, Copy)]
struct Has {
    priority: bool,
    ttl: bool,
    collapse_key: bool,
    anything: bool,
}

/// What is found in a payload.
#[derive(Default)]
struct Object<'a> {
    octets: usize,
    android: Option<&'a RawValue>,
    notification: bool,
}

// === impl Template ===

impl Template {
    pub(crate) fn of(request: &Request, message: &[u8]) -> Result<Self, String> {
        let object = Object::of(message)?;
        let (kind, target, most) = match &request.target {
            Target::Device(token) => ("token", token.expose(), MOST_OCTETS),
            // Clients write `/topics/news`, the API wants `news`.
            Target::Topic(topic) => ("topic", topic.strip_prefix("/topics/").unwrap_or(topic), MOST_OCTETS_TOPIC),
            Target::Condition(condition) => ("condition", condition.as_str(), MOST_OCTETS_TOPIC),
            Target::Browser(..) => return Err("a browser's endpoint is no target of FCM".to_owned()),
        };
        object.fits(kind, most)?;
        if target.is_empty() {
            return Err(format!("the {kind} is empty"));
        }
        let target = serde_json::to_string(target).map_err(|error| error.to_string())?;
        let open = message.iter().position(|byte| *byte == b'{').map(|at| at + 1);
        let close = message.iter().rposition(|byte| *byte == b'}');
        let (Some(open), Some(close)) = (open, close) else { return Err("the payload is no JSON object".to_owned()) };
        Ok(Self {
            target: format!("\"{kind}\":{target}"),
            inside: open..close,
            android: object.android.map(|android| span(message, android.get())),
            has: object.options()?,
        })
    }

    /// The body as it is sent at `now`.
    pub(crate) fn write(&self, request: &Request, message: &[u8], now: Timestamp) -> Bytes {
        let part = |range: Range<usize>| message.get(range).unwrap_or_default();
        let mut body = Vec::with_capacity(message.len() + self.target.len() + 200);
        body.extend_from_slice(b"{\"message\":{");
        body.extend_from_slice(self.target.as_bytes());
        let inside = part(self.inside.clone());
        match &self.android {
            Some(android) => {
                body.push(b',');
                body.extend_from_slice(part(self.inside.start..android.start));
                body.push(b'{');
                let written = self.options(&mut body, request, now);
                if written && self.has.anything {
                    body.push(b',');
                }
                body.extend_from_slice(part(android.start + 1..android.end));
                body.extend_from_slice(part(android.end..self.inside.end));
            }
            None => {
                body.extend_from_slice(b",\"android\":{");
                self.options(&mut body, request, now);
                body.push(b'}');
                if !inside.trim_ascii().is_empty() {
                    body.push(b',');
                    body.extend_from_slice(inside);
                }
            }
        }
        body.extend_from_slice(b"}}");
        Bytes::from(body)
    }

    /// The members that the payload leaves to us. Whether there were any.
    fn options(&self, body: &mut Vec<u8>, request: &Request, now: Timestamp) -> bool {
        let before = body.len();
        if !self.has.priority {
            body.extend_from_slice(match request.priority {
                Priority::High => b"\"priority\":\"HIGH\"".as_slice(),
                Priority::Normal | Priority::Low => b"\"priority\":\"NORMAL\"".as_slice(),
            });
        }
        if let Some(ttl) = ttl(request, now).filter(|_| !self.has.ttl) {
            separate(body, before);
            body.extend_from_slice(format!("\"ttl\":\"{ttl}s\"").as_bytes());
        }
        if let Some(key) = request.collapse.as_ref().filter(|_| !self.has.collapse_key) {
            separate(body, before);
            body.extend_from_slice(b"\"collapse_key\":");
            // A text always has a JSON form.
            body.extend_from_slice(serde_json::to_string(key.as_str()).unwrap_or_default().as_bytes());
        }
        body.len() > before
    }
}

fn separate(body: &mut Vec<u8>, before: usize) {
    if body.len() > before {
        body.push(b',');
    }
}

/// Whole seconds, rounded down: rather not stored than delivered late.
fn ttl(request: &Request, now: Timestamp) -> Option<i64> {
    if !request.store {
        return Some(0);
    }
    request.deadline.map(|deadline| deadline.duration_since(now).as_secs().clamp(0, LONGEST_TTL))
}

/// Where a part that was borrowed from the whole is.
fn span(whole: &[u8], part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    start..start.saturating_add(part.len())
}

// === impl Object ===

impl<'a> Object<'a> {
    fn of(message: &'a [u8]) -> Result<Self, String> {
        if message.len() > MOST_OBJECT {
            return Err(format!("the payload has {} octets; at most {MOST_OBJECT} are taken", message.len()));
        }
        serde_json::from_slice(message).map_err(|error| format!("the payload is no message of FCM: {error}"))
    }

    fn fits(&self, target: &str, most: usize) -> Result<(), String> {
        if self.octets > most {
            return Err(format!("data and notification have {} octets; FCM takes at most {most} to a {target}", self.octets));
        }
        Ok(())
    }

    fn options(&self) -> Result<Has, String> {
        match self.android {
            Some(android) => serde_json::from_str(android.get()).map_err(|error| format!("the payload's android: {error}")),
            None => Ok(Has::default()),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of FCM's Message")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut object = Object::default();
                let mut data = false;
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "token" | "topic" | "condition" => {
                            return Err(A::Error::custom(format!("'{key}' is written by the sender and must not be there")));
                        }
                        "data" if data => return Err(A::Error::duplicate_field("data")),
                        "data" => {
                            data = true;
                            object.octets += map.next_value::<Data>()?.0;
                        }
                        "notification" if object.notification => return Err(A::Error::duplicate_field("notification")),
                        "notification" => {
                            object.notification = true;
                            object.octets += map.next_value::<Texts>()?.0;
                        }
                        "android" if object.android.is_some() => return Err(A::Error::duplicate_field("android")),
                        "android" => object.android = Some(map.next_value()?),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for Has {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Has;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of FCM's AndroidConfig")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Has, A::Error> {
                let mut has = Has::default();
                while let Some(Text(key)) = map.next_key()? {
                    has.anything = true;
                    let known = match &*key {
                        "priority" => Some(&mut has.priority),
                        "ttl" => Some(&mut has.ttl),
                        "collapse_key" | "collapseKey" => Some(&mut has.collapse_key),
                        _ => None,
                    };
                    let Some(known) = known else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    if std::mem::replace(known, true) {
                        return Err(A::Error::custom(format!("'{key}' is there twice")));
                    }
                    let Text(value) = map.next_value()?;
                    let fits = match &*key {
                        "ttl" => value.strip_suffix('s').is_some_and(|it| it.parse::<f64>().is_ok_and(|it| it >= 0.0)),
                        "priority" => ["high", "normal"].iter().any(|it| it.eq_ignore_ascii_case(&value)),
                        _ => true,
                    };
                    if !fits {
                        return Err(A::Error::custom(format!("'{value}' is no {key}")));
                    }
                }
                Ok(has)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A string, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Any)
    }
}

/// The octets of names and values of `data`.
struct Data(usize);

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Data;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("data as an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
                let mut octets = 0;
                while let Some(Text(key)) = map.next_key()? {
                    let reserved = matches!(&*key, "from" | "message_type") || key.starts_with("google.") || key.starts_with("gcm.");
                    if reserved {
                        return Err(A::Error::custom(format!("FCM keeps the name '{key}' in data for itself")));
                    }
                    let Text(value) = map.next_value()?;
                    octets += key.len() + value.len();
                }
                Ok(Data(octets))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The octets of names and texts of `notification`.
struct Texts(usize);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("notification as an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut octets = 0;
                while let Some((Text(key), Text(value))) = map.next_entry()? {
                    octets += key.len() + value.len();
                }
                Ok(Texts(octets))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use push_core::{Class, CollapseKey, FcmPayload, Payload, Provider, PushId, Token};
    use serde_json::{Value, json};

    use super::*;

    fn request(target: Target, message: &str) -> Request {
        Request {
            id: PushId::new(),
            target,
            class: Class::Call,
            priority: Priority::High,
            deadline: None,
            store: true,
            collapse: None,
            payload: Payload::Fcm(FcmPayload { message: Bytes::copy_from_slice(message.as_bytes()) }),
        }
    }

    fn device() -> Target {
        Target::Device(Token::parse(Provider::Fcm, "dX:a\"b").unwrap())
    }

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    fn body(request: &Request) -> Value {
        let Payload::Fcm(payload) = &request.payload else { unreachable!() };
        let template = Template::of(request, &payload.message).unwrap();
        let body = template.write(request, &payload.message, now());
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)))
    }

    #[test]
    fn target_priority_time_to_live_and_collapse_key_are_spliced_into_whatever_the_payload_has() {
        let mut call = request(device(), r#" { "data" : {"event":"call"} } "#);
        call.deadline = Some(now() + 30.seconds() + 900.milliseconds());
        call.collapse = CollapseKey::parse("call-\"1");
        let wanted = json!({"message": {
            "token": "dX:a\"b",
            "android": {"priority": "HIGH", "ttl": "30s", "collapse_key": "call-\"1"},
            "data": {"event": "call"},
        }});
        assert_eq!(body(&call), wanted);

        let message = r#"{"apns":{"payload":{"aps":{}}},"android":{ "notification":{"title":"t"} },"webpush":{}}"#;
        let mut mixed = request(Target::Topic("/topics/news".to_owned()), message);
        mixed.priority = Priority::Low;
        mixed.store = false;
        mixed.deadline = call.deadline;
        let wanted = json!({"message": {
            "topic": "news", "apns": {"payload": {"aps": {}}}, "webpush": {},
            "android": {"priority": "NORMAL", "ttl": "0s", "notification": {"title": "t"}},
        }});
        assert_eq!(body(&mixed), wanted);
    }

    #[test]
    fn what_the_payload_says_itself_is_kept() {
        let message = r#"{"android":{"priority":"normal","ttl":"3.5s","collapse_key":"k"},"notification":{"title":"a","body":"b"}}"#;
        let mut own = request(Target::Condition("'a' in topics".to_owned()), message);
        own.deadline = Some(now() + 30.seconds());
        own.collapse = CollapseKey::parse("other");
        let mut wanted: Value = serde_json::from_str(message).unwrap();
        wanted["condition"] = "'a' in topics".into();
        assert_eq!(body(&own), json!({ "message": wanted }));
    }

    #[test]
    fn an_empty_payload_and_empty_options_stay_valid() {
        for message in ["{}", "{ }", r#"{"android":{}}"#, r#"{"android": { } , "data":{}}"#, r#"{"\u0061ndroid":{"direct_boot_ok":true}}"#]
        {
            let body = body(&request(device(), message));
            assert_eq!(body["message"]["android"]["priority"], "HIGH", "{message}");
            assert_eq!(body["message"]["android"].get("ttl"), None, "{message}");
        }
    }

    #[test]
    fn a_time_to_live_is_never_negative_and_never_longer_than_fcm_stores() {
        let mut it = request(device(), "{}");
        for (deadline, wanted) in [(now() - 5.seconds(), 0), (now() + 1.hours(), 3600), (now() + 2000.hours(), LONGEST_TTL)] {
            it.deadline = Some(deadline);
            assert_eq!(ttl(&it, now()), Some(wanted));
        }
    }

    #[test]
    fn what_fcm_would_refuse_is_refused_at_acceptance() {
        assert_eq!(check_payload(br#"{"data":{"a":"1"},"android":{"ttl":"30s"}}"#), Ok(()));
        let large = format!(r#"{{"data":{{"a":"{}"}}}}"#, "x".repeat(4096));
        let fits = format!(r#"{{"data":{{"a":"{}"}}}}"#, "x".repeat(4095));
        assert_eq!(check_payload(fits.as_bytes()), Ok(()));
        let to_topic = request(Target::Topic("t".to_owned()), &fits);
        assert!(Template::of(&to_topic, fits.as_bytes()).is_err());
        let huge = format!(r#"{{"apns":{{"a":"{}"}}}}"#, "x".repeat(MOST_OBJECT));
        for (wrong, reason) in [
            ("", "EOF"),
            ("[]", "FCM's Message"),
            ("{} x", "trailing"),
            (r#"{"token":"t"}"#, "'token' is written by the sender"),
            (r#"{"topic":"t"}"#, "'topic' is written by the sender"),
            (r#"{"data":{"a":1}}"#, "expected a string"),
            (r#"{"data":{"google.x":"1"}}"#, "google.x"),
            (r#"{"data":{},"data":{}}"#, "duplicate"),
            (r#"{"android":[]}"#, "AndroidConfig"),
            (r#"{"android":{"ttl":"soon"}}"#, "'soon' is no ttl"),
            (r#"{"android":{"ttl":30}}"#, "expected a string"),
            (r#"{"android":{"priority":"10"}}"#, "'10' is no priority"),
            (large.as_str(), "4097 octets"),
            (huge.as_str(), "at most 16384"),
        ] {
            let error = check_payload(wrong.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_accepted_is_written_as_json(message in "\\PC{0,60}", token in "[!-~]{1,40}") {
            let target = Target::Topic(token);
            let request = request(target, &message);
            if let Ok(template) = Template::of(&request, message.as_bytes()) {
                let body = template.write(&request, message.as_bytes(), now());
                assert!(serde_json::from_slice::<Value>(&body).is_ok());
            }
        }

        #[test]
        fn an_accepted_object_keeps_all_its_members(
            data in proptest::collection::btree_map("\\PC{1,10}", "\\PC{0,20}", 0..5),
            extra in proptest::option::of("\\PC{0,10}"),
            pretty in proptest::bool::ANY,
        ) {
            let mut object = serde_json::Map::new();
            object.insert("data".to_owned(), json!(data));
            if let Some(extra) = extra {
                object.insert("android".to_owned(), json!({ "notification": { "title": extra } }));
            }
            let value = Value::Object(object);
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            if check_payload(text.as_bytes()).is_ok() {
                let body = body(&request(device(), &text));
                assert_eq!(body["message"]["data"], value["data"]);
                assert_eq!(body["message"]["android"]["notification"], value["android"]["notification"]);
            }
        }
    }
}
