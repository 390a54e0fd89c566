//! Messages to Google, each written by our templates and sender and by fcm-rs. Its types have four members; what they have no place for
//! is missing on its side.

use std::collections::BTreeMap;

use elph_policy::{Content, Fields, Kind, Templates};
use fcm_rs::models::{FcmSendRequest, FcmSendResult, Message, Notification};
use oracles::difference::Difference;
use push_core::{Class, Payload, Priority, Provider, Target, Token};
use push_sim::Effect;
use serde_json::{Value, json};

use crate::{
    apns::{ODD, call, everything, invitation, taken, told},
    wire::{ANDROID, Delivery, Lasts, Wire, device, id, own_fcm},
};

/// What a message shall say, as far as fcm-rs can.
#[derive(Debug, Clone, Default)]
struct Wanted {
    /// fcm-rs has one member for devices and topics, and none for conditions.
    token: Option<&'static str>,
    shown: Option<(Option<&'static str>, Option<&'static str>)>,
    data: Option<Value>,
}

struct Case {
    name: &'static str,
    target: Target,
    payload: Payload,
    delivery: Delivery,
    wanted: Wanted,
}

/// Every message, with the differences between what Google got from us and what fcm-rs would have sent.
pub async fn compared(wire: &Wire) -> Vec<(String, Vec<Difference>)> {
    let mut compared = Vec::new();
    for case in cases() {
        let ours = wire.fcm(case.delivery.of(case.target, case.payload)).await;
        compared.push((case.name.to_owned(), Difference::between(&ours, &fcm_rs_writes(case.wanted))));
    }
    compared
}

/// The body that fcm-rs's client makes of a message.
fn fcm_rs_writes(wanted: Wanted) -> Value {
    let text = |text: Option<&str>| text.map(str::to_owned);
    let notification = wanted.shown.map(|(title, body)| Notification { title: text(title), body: text(body) });
    let message = Message { token: text(wanted.token), notification, data: wanted.data };
    serde_json::to_value(FcmSendRequest { message }).unwrap()
}

// === the messages ===

const CALL: Delivery = Delivery { class: Class::Call, priority: Priority::High, lasts: Lasts::Minute, collapse: Some("call-7") };
const MESSAGE: Delivery = Delivery { class: Class::Interactive, priority: Priority::High, lasts: Lasts::Long, collapse: None };
const QUIET: Delivery = Delivery { class: Class::Background, priority: Priority::Normal, ..MESSAGE };

fn data(pairs: &[(&str, &str)]) -> Option<Value> {
    let id = [("push_id".to_owned(), Value::String(id().to_string()))];
    Some(Value::Object(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).chain(id).collect()))
}

fn notice(kind: Kind, fields: &Fields, locale: &str) -> Payload {
    Templates::new(Provider::Fcm, &BTreeMap::new()).unwrap().notice(kind, fields, locale, &id().to_string())
}

fn message(content: &Content) -> Payload {
    Templates::new(Provider::Fcm, &BTreeMap::new()).unwrap().message(content, &id().to_string())
}

fn case(name: &'static str, payload: Payload, delivery: Delivery, wanted: Wanted) -> Case {
    let wanted = Wanted { token: Some(ANDROID), ..wanted };
    Case { name, target: device(Provider::Fcm, ANDROID), payload, delivery, wanted }
}

fn cases() -> Vec<Case> {
    let mut cases = notices();
    cases.extend(messages());
    cases.extend(deliveries());
    cases
}

/// What the agent tells by itself.
fn notices() -> Vec<Case> {
    let with = |more: &[(&str, &str)]| data(&[&[("domain", "biysk.local"), ("alias", "1002")], more].concat());
    vec![
        case(
            "call",
            notice(Kind::Call, &call(), "ru"),
            CALL,
            Wanted {
                data: with(&[
                    ("event", "call"),
                    ("call_id", "0190a1b2-7"),
                    ("caller", "1001"),
                    ("called", "1002"),
                    ("started_at", "2029-12-31T23:59:30Z"),
                    ("expires_at", "1893456030"),
                ]),
                ..Wanted::default()
            },
        ),
        case(
            "cancel",
            notice(Kind::CallCancel, &call(), "ru"),
            CALL,
            Wanted { data: with(&[("event", "cancel"), ("call_id", "0190a1b2-7"), ("reason", "answered_elsewhere")]), ..Wanted::default() },
        ),
        case(
            "missed call",
            notice(Kind::MissedCall, &call(), "ru-RU"),
            Delivery { class: Class::Interactive, ..CALL },
            Wanted {
                shown: Some((Some("Пропущенный вызов"), Some("1001"))),
                data: with(&[
                    ("event", "missed_call"),
                    ("call_id", "0190a1b2-7"),
                    ("caller", "1001"),
                    ("called", "1002"),
                    ("started_at", "2029-12-31T23:59:30Z"),
                    ("ended_at", "2029-12-31T23:59:59Z"),
                ]),
                ..Wanted::default()
            },
        ),
        case(
            "invitation",
            notice(Kind::Invitation, &invitation(), "en"),
            Delivery { collapse: Some("c-9"), ..CALL },
            Wanted {
                shown: Some((Some("Invitation to a conference"), Some("Планёрка"))),
                data: with(&[
                    ("event", "invitation"),
                    ("conference_id", "c-9"),
                    ("conference_name", "Планёрка"),
                    ("expires_at", "1893456030"),
                ]),
                ..Wanted::default()
            },
        ),
        case(
            "invitation withdrawn",
            notice(Kind::InvitationCancel, &invitation(), "en"),
            Delivery { priority: Priority::Normal, collapse: Some("c-9"), ..CALL },
            Wanted { data: with(&[("event", "invitation_cancel"), ("conference_id", "c-9"), ("reason", "ended")]), ..Wanted::default() },
        ),
    ]
}

/// What the suite says.
fn messages() -> Vec<Case> {
    let full = data(&[("event", "message"), ("room", "7"), ("sender", "1001")]);
    let [odd_title, odd_body] = ODD.map(str::to_owned);
    let odd =
        Content { title: odd_title, body: odd_body.clone(), data: BTreeMap::from([("odd".to_owned(), odd_body)]), ..Content::default() };
    let titled = Content { title: "Анна".to_owned(), ..Content::default() };
    let quiet = Content { data: everything().data, ..Content::default() };
    let event = data(&[("event", "message")]);
    vec![
        case(
            "message with everything",
            message(&everything()),
            MESSAGE,
            Wanted { shown: Some((Some("Анна"), Some("Обед?"))), data: full.clone(), ..Wanted::default() },
        ),
        case("title alone", message(&titled), MESSAGE, Wanted { shown: Some((Some("Анна"), None)), data: event, ..Wanted::default() }),
        case(
            "odd text",
            message(&odd),
            MESSAGE,
            Wanted { shown: Some((Some(ODD[0]), Some(ODD[1]))), data: data(&[("event", "message"), ("odd", ODD[1])]), ..Wanted::default() },
        ),
        case("silent", message(&quiet), QUIET, Wanted { data: full, ..Wanted::default() }),
    ]
}

/// One message, delivered in every way.
fn deliveries() -> Vec<Case> {
    let payload = || own_fcm(&json!({"data": {"n": "1"}}));
    let wanted = || Wanted { data: Some(json!({"n": "1"})), ..Wanted::default() };
    let blocks = json!({
        "data": {"n": "1"},
        "android": {"priority": "normal", "ttl": "3.5s", "collapse_key": "own", "direct_boot_ok": true, "notification": {"channel_id": "chat"}},
        "apns": {"headers": {"apns-priority": "5"}, "payload": {"aps": {"badge": 1}}},
        "webpush": {"headers": {"Urgency": "high"}},
        "fcm_options": {"analytics_label": "chat"},
    });
    vec![
        case("low priority", payload(), Delivery { priority: Priority::Low, ..MESSAGE }, wanted()),
        case("now or never", payload(), Delivery { lasts: Lasts::Now, ..MESSAGE }, wanted()),
        case("longer than is stored", payload(), Delivery { lasts: Lasts::Until, ..MESSAGE }, wanted()),
        Case {
            target: Target::Topic("news".to_owned()),
            wanted: Wanted { token: Some("news"), ..wanted() },
            ..case("to a topic", payload(), MESSAGE, wanted())
        },
        Case {
            target: Target::Condition("'news' in topics && !('sport' in topics)".to_owned()),
            wanted: wanted(),
            ..case("to a condition", payload(), MESSAGE, wanted())
        },
        case("own message with all blocks", own_fcm(&blocks), MESSAGE, wanted()),
    ]
}

// === what is refused before it is sent ===

/// Whether a message is taken, by us and by fcm-rs.
pub async fn refusals(wire: &Wire) -> Vec<(String, Vec<Difference>)> {
    let long = |octets: usize| json!({"data": {"k": "x".repeat(octets - 1)}});
    let cases = [
        ("data of 4096 octets", long(4096)),
        ("data of 4097 octets", long(4097)),
        ("a number in data", json!({"data": {"n": 1}})),
        ("data that is a list", json!({"data": ["n"]})),
        ("a reserved name in data", json!({"data": {"google.n": "1"}})),
    ];
    let mut judged = Vec::new();
    for (name, message) in cases {
        let ours = wire.refused(MESSAGE.of(device(Provider::Fcm, ANDROID), own_fcm(&message))).await.is_ok();
        assert_eq!(ours, push_fcm::check_payload(message.to_string().as_bytes()).is_ok(), "{name}: the API and the sender agree");
        let theirs = Message { token: Some(ANDROID.to_owned()), notification: None, data: message.get("data").cloned() };
        judged.push(taken(name, ours, is_written(theirs)));
    }
    for (name, token) in [("token empty", ""), ("token with a slash", "a/b")] {
        let theirs = Message { token: Some(token.to_owned()), notification: None, data: None };
        judged.push(taken(name, Token::parse(Provider::Fcm, token).is_ok(), is_written(theirs)));
    }
    judged
}

/// Whether fcm-rs makes a request of it.
fn is_written(message: Message) -> bool {
    serde_json::to_string(&FcmSendRequest { message }).is_ok()
}

// === what is made of answers ===

/// Whether the word in an answer is still known afterwards. What our sender makes of it stands behind ours.
pub async fn answers(wire: &Wire) -> Vec<(String, Vec<Difference>)> {
    let detail = |code: &str| json!([{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}]);
    let error = |code: u16, status: &str, details: Option<Value>| {
        let mut error = json!({"code": code, "message": "What went wrong.", "status": status});
        if let Some(details) = details {
            error["details"] = details;
        }
        json!({ "error": error }).to_string()
    };
    let cases = [
        ("404 UNREGISTERED", 404, "UNREGISTERED", error(404, "NOT_FOUND", Some(detail("UNREGISTERED")))),
        ("403 SENDER_ID_MISMATCH", 403, "SENDER_ID_MISMATCH", error(403, "PERMISSION_DENIED", Some(detail("SENDER_ID_MISMATCH")))),
        ("429 QUOTA_EXCEEDED", 429, "QUOTA_EXCEEDED", error(429, "RESOURCE_EXHAUSTED", Some(detail("QUOTA_EXCEEDED")))),
        ("400 INVALID_ARGUMENT without details", 400, "INVALID_ARGUMENT", error(400, "INVALID_ARGUMENT", None)),
        ("500 INTERNAL without details", 500, "INTERNAL", error(500, "INTERNAL", None)),
        ("503 UNAVAILABLE in a list", 503, "UNAVAILABLE", format!("[{}]", error(503, "UNAVAILABLE", Some(json!([]))))),
        ("502 as a page of HTML", 502, "502", "<!DOCTYPE html><title>Error 502</title>".to_owned()),
    ];
    let mut judged = Vec::new();
    for (name, status, word, body) in cases {
        let theirs = match serde_json::from_str(&body) {
            Ok(FcmSendResult::Success(_)) => "taken for a success",
            Ok(FcmSendResult::Error(read)) => told(read.to_string().contains(word)),
            Err(_) => told(false),
        };
        let effect =
            Effect::Answer { status, reason: word.to_owned(), retry_after: None, retry_date_s: None, timestamp_ms: None, body: Some(body) };
        let outcome = wire.outcome(push_sim::Provider::Fcm, effect).await;
        let kept = told(outcome.reason().is_some_and(|it| it.as_str().contains(word)));
        let found = (kept != theirs).then(|| Difference {
            field: name.to_owned(),
            ours: Some(format!("{}, {kept}", outcome.name())),
            theirs: Some(theirs.to_owned()),
        });
        judged.push((name.to_owned(), found.into_iter().collect()));
    }
    judged
}
