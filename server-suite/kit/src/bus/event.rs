//! An event, and the one JSON shape in which it travels and is kept:
//! `{"id":"01936a…","topic":"status.changed","domain":"biysk.local","time":"2026-11-24T10:00:00.123Z","body":{…}}`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

/// Characters of a topic; AMQP 0-9-1 has 255 octets for a routing key.
const LONGEST_TOPIC: usize = 100;
/// Octets of a body.
const LONGEST_BODY: usize = 64 * 1024;

/// Something that has happened in one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// A UUIDv7. An event that is delivered again has the same.
    pub id: Uuid,
    /// `<service>.<what>`, the routing key: `status.changed`.
    pub topic: String,
    /// The tenant.
    pub domain: String,
    /// When it was made, to the millisecond.
    pub time: Timestamp,
    /// What the service says of it.
    pub body: Value,
}

impl Event {
    /// One that happens now.
    pub fn new(topic: impl Into<String>, domain: impl Into<String>, body: Value) -> Self {
        let now = Timestamp::now();
        // As exactly as the database keeps it.
        let time = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        Self { id: Uuid::now_v7(), topic: topic.into(), domain: domain.into(), time, body }
    }

    /// The body as a type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.body)
    }

    /// As it travels.
    pub(super) fn envelope(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// What is wrong with it, if anything.
    pub(super) fn unfit(&self) -> Option<String> {
        let long = self.body.to_string().len();
        if long > LONGEST_BODY {
            return Some(format!("the body has {long} octets; at most {LONGEST_BODY} are taken"));
        }
        (!is_topic(&self.topic)).then(|| format!("'{}' is no topic: write <service>.<what> in small letters", self.topic))
    }
}

/// `<service>.<what>` in small letters, digits and underscores.
fn is_topic(topic: &str) -> bool {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    topic.len() <= LONGEST_TOPIC && topic.contains('.') && topic.split('.').all(word)
}

/// Whether a pattern takes a topic, as a topic exchange has it: `*` is one word, `#` any number of them.
pub(super) fn takes(pattern: &str, topic: &str) -> bool {
    let words = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    fits(&words(pattern), &words(topic))
}

fn fits(pattern: &[String], topic: &[String]) -> bool {
    match pattern.split_first() {
        None => topic.is_empty(),
        Some((first, rest)) if first == "#" => (0..=topic.len()).any(|taken| fits(rest, topic.get(taken..).unwrap_or_default())),
        Some((first, rest)) => topic.split_first().is_some_and(|(word, left)| (first == "*" || first == word) && fits(rest, left)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_envelope_is_as_it_is_documented_and_reads_what_a_newer_one_adds() {
        let id = Uuid::parse_str("01936a5e-1111-7abc-8def-000000000001").unwrap();
        let time = "2026-11-24T10:00:00.123Z".parse().unwrap();
        let event = Event { id, topic: "status.changed".into(), domain: "biysk.local".into(), time, body: json!({ "alias": "1001" }) };
        let text = r#"{"id":"01936a5e-1111-7abc-8def-000000000001","topic":"status.changed","domain":"biysk.local","time":"2026-11-24T10:00:00.123Z","body":{"alias":"1001"}}"#;
        assert_eq!(String::from_utf8(event.envelope().unwrap()).unwrap(), text);
        let newer = text.replacen('{', r#"{"shape":2,"#, 1);
        assert_eq!(serde_json::from_str::<Event>(&newer).unwrap(), event);
    }

    #[test]
    fn patterns_take_topics_as_a_topic_exchange_does() {
        for (pattern, topic, taken) in [
            ("status.changed", "status.changed", true),
            ("status.changed", "status.gone", false),
            ("status.*", "status.changed", true),
            ("status.*", "status.changed.twice", false),
            ("status.#", "status", true),
            ("status.#", "status.changed.twice", true),
            ("#", "status.changed", true),
            ("#.twice", "status.changed.twice", true),
            ("*.changed", "status.changed", true),
            ("*", "status.changed", false),
        ] {
            assert_eq!(takes(pattern, topic), taken, "{pattern} {topic}");
        }
    }

    #[test]
    fn what_is_no_topic_is_refused() {
        for good in ["status.changed", "chat.message_sent", "a.b.c"] {
            assert_eq!(Event::new(good, "d", Value::Null).unfit(), None);
        }
        for bad in ["", "status", "status.", ".changed", "Status.changed", "status.*", "status.a b", &format!("a.{}", "b".repeat(99))] {
            assert!(Event::new(bad, "d", Value::Null).unfit().is_some(), "{bad}");
        }
    }
}
