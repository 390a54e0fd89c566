//! Pushes to Apple, each written three times: by our templates and sender, by a2, and first of all as what is wanted, by hand from
//! push/README.md and Apple's reference. a2 builds from what is wanted, never from what ours made of it.

use std::collections::BTreeMap;

use a2::{
    CollapseId, DefaultNotificationBuilder, NotificationBuilder, NotificationOptions, PushType,
    request::payload::{Payload as A2Payload, PayloadLike},
};
use elph_policy::{Content, Fields, Kind, Templates};
use oracles::difference::Difference;
use push_core::{ApnsPushType, Class, CollapseKey, Payload, Priority, Provider, Token};
use push_sim::Effect;
use serde_json::{Map, Value, json};

use crate::wire::{BUNDLE, Delivery, IPHONE, Lasts, UNTIL, Wire, device, id, own_apns};

/// What a push shall say, in Apple's words.
#[derive(Debug, Clone, Default)]
struct Wanted {
    push_type: &'static str,
    /// Behind the bundle id.
    suffix: &'static str,
    /// 10, 5 or 1.
    priority: u8,
    expiration: Option<u64>,
    collapse: Option<&'static str>,
    title: Option<&'static str>,
    subtitle: Option<&'static str>,
    body: Option<&'static str>,
    title_loc: Option<(&'static str, &'static [&'static str])>,
    loc: Option<(&'static str, &'static [&'static str])>,
    launch_image: Option<&'static str>,
    sound: Option<&'static str>,
    critical: Option<f64>,
    badge: Option<u32>,
    category: Option<&'static str>,
    mutable: bool,
    content_available: bool,
    data: Vec<(&'static str, Value)>,
}

struct Case {
    name: &'static str,
    payload: Payload,
    delivery: Delivery,
    token: String,
    wanted: Wanted,
}

/// Every push, with the differences between what Apple got from us and what a2 would have sent.
pub async fn compared(wire: &Wire) -> Vec<(String, Vec<Difference>)> {
    let mut compared = Vec::new();
    for case in cases() {
        let ours = wire.apns(case.delivery.of(device(Provider::Apns, &case.token), case.payload.clone())).await;
        compared.push((case.name.to_owned(), Difference::between(&ours, &a2_writes(&case.wanted, &case.token))));
    }
    compared
}

// === a2 ===

/// The request as a2's client makes it of a payload. That function of a2's is private and its client sends to Apple alone: the names of
/// the fields are those of its source, their values its own types'.
fn a2_request(payload: &A2Payload<'_>) -> Value {
    let options = payload.get_options();
    let mut headers = Map::new();
    let mut set = |name: &str, value: Option<String>| headers.extend(value.map(|value| (name.to_owned(), Value::String(value))));
    set("content-type", Some("application/json".to_owned()));
    set("content-length", Some("(octets of the body)".to_owned()));
    set("apns-priority", options.apns_priority.as_ref().map(ToString::to_string));
    set("apns-id", options.apns_id.map(ToOwned::to_owned));
    set("apns-push-type", options.apns_push_type.map(|it| it.to_string()));
    set("apns-expiration", options.apns_expiration.map(|it| it.to_string()));
    set("apns-collapse-id", options.apns_collapse_id.as_ref().map(|it| it.value.to_owned()));
    set("apns-topic", options.apns_topic.map(ToOwned::to_owned));
    let body: Value = serde_json::from_str(&payload.to_json_string().unwrap()).unwrap();
    json!({ "header": headers, "device": payload.get_device_token(), "body": body })
}

fn a2_writes(wanted: &Wanted, token: &str) -> Value {
    let mut builder = DefaultNotificationBuilder::new();
    // It has no setters that take an option.
    if let Some(text) = wanted.title {
        builder = builder.set_title(text);
    }
    if let Some(text) = wanted.subtitle {
        builder = builder.set_subtitle(text);
    }
    if let Some(text) = wanted.body {
        builder = builder.set_body(text);
    }
    if let Some((key, arguments)) = wanted.title_loc {
        builder = builder.set_title_loc_key(key).set_title_loc_args(arguments);
    }
    if let Some((key, arguments)) = wanted.loc {
        builder = builder.set_loc_key(key).set_loc_args(arguments);
    }
    if let Some(image) = wanted.launch_image {
        builder = builder.set_launch_image(image);
    }
    if let Some(name) = wanted.sound {
        builder = builder.set_sound(name);
    }
    if let Some(volume) = wanted.critical {
        builder = builder.set_critical(true, Some(volume));
    }
    if let Some(badge) = wanted.badge {
        builder = builder.set_badge(badge);
    }
    if let Some(category) = wanted.category {
        builder = builder.set_category(category);
    }
    if wanted.mutable {
        builder = builder.set_mutable_content();
    }
    if wanted.content_available {
        builder = builder.set_content_available();
    }
    let (id, topic) = (id().to_string(), format!("{BUNDLE}{}", wanted.suffix));
    let options = NotificationOptions {
        apns_id: Some(&id),
        apns_push_type: a2_push_type(wanted.push_type),
        apns_expiration: wanted.expiration,
        apns_priority: match wanted.priority {
            10 => Some(a2::Priority::High),
            5 => Some(a2::Priority::Normal),
            _ => None,
        },
        apns_topic: Some(&topic),
        apns_collapse_id: wanted.collapse.map(|id| CollapseId::new(id).unwrap()),
    };
    let mut payload = builder.build(token, options);
    for (name, value) in &wanted.data {
        payload.add_custom_data(name, value).unwrap();
    }
    a2_request(&payload)
}

fn a2_push_type(name: &str) -> Option<PushType> {
    let all = [
        PushType::Alert,
        PushType::Background,
        PushType::Location,
        PushType::Voip,
        PushType::FileProvider,
        PushType::Mdm,
        PushType::LiveActivity,
        PushType::PushToTalk,
    ];
    all.into_iter().find(|it| it.to_string() == name)
}

// === the pushes ===

const CALL: Delivery = Delivery { class: Class::Call, priority: Priority::High, lasts: Lasts::Until, collapse: Some("call-7") };
const MESSAGE: Delivery = Delivery { class: Class::Interactive, priority: Priority::High, lasts: Lasts::Until, collapse: None };
const QUIET: Delivery = Delivery { class: Class::Background, priority: Priority::Normal, ..MESSAGE };

/// A call as the policy tells it.
pub fn call() -> Fields {
    fields(&[
        ("call_id", "0190a1b2-7"),
        ("switch_call_id", "4711"),
        ("domain", "biysk.local"),
        ("alias", "1002"),
        ("caller", "1001"),
        ("called", "1002"),
        ("started_at", "2029-12-31T23:59:30Z"),
        ("ended_at", "2029-12-31T23:59:59Z"),
        ("expires_at", "1893456030"),
        ("reason", "answered_elsewhere"),
    ])
}

/// An invitation as the policy tells it.
pub fn invitation() -> Fields {
    fields(&[
        ("conference_id", "c-9"),
        ("conference_name", "Планёрка"),
        ("domain", "biysk.local"),
        ("alias", "1002"),
        ("expires_at", "1893456030"),
        ("reason", "ended"),
    ])
}

fn fields(pairs: &[(&'static str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// A message with everything in it.
pub fn everything() -> Content {
    Content {
        title: "Анна".to_owned(),
        body: "Обед?".to_owned(),
        data: BTreeMap::from([("room".to_owned(), "7".to_owned()), ("sender".to_owned(), "1001".to_owned())]),
        sound: "ping.caf".to_owned(),
        badge: Some(3),
        thread: "room-7".to_owned(),
        category: "reply".to_owned(),
        mutable: true,
    }
}

/// Texts that a careless writer of JSON spoils.
pub const ODD: [&str; 2] = ["\"Q\\\" </script> \u{1F98A}", "first\nsecond\t\u{0}\u{7f}\u{2028}{caller} %s"];

fn data(pairs: &[(&'static str, &str)]) -> Vec<(&'static str, Value)> {
    let id = [("push_id", Value::String(id().to_string()))];
    pairs.iter().map(|(name, value)| (*name, (*value).into())).chain(id).collect()
}

fn notice(kind: Kind, fields: &Fields, locale: &str) -> Payload {
    Templates::new(Provider::Apns, &BTreeMap::new()).unwrap().notice(kind, fields, locale, &id().to_string())
}

fn message(content: &Content) -> Payload {
    Templates::new(Provider::Apns, &BTreeMap::new()).unwrap().message(content, &id().to_string())
}

fn case(name: &'static str, payload: Payload, delivery: Delivery, wanted: Wanted) -> Case {
    Case { name, payload, delivery, token: IPHONE.to_owned(), wanted }
}

fn voip() -> Wanted {
    let collapse = Some("call-7");
    Wanted { push_type: "voip", suffix: ".voip", priority: 10, expiration: Some(UNTIL.1), collapse, ..Wanted::default() }
}

fn alert() -> Wanted {
    Wanted { push_type: "alert", priority: 10, expiration: Some(UNTIL.1), ..Wanted::default() }
}

fn background() -> Wanted {
    Wanted { push_type: "background", priority: 5, expiration: Some(UNTIL.1), content_available: true, ..Wanted::default() }
}

fn cases() -> Vec<Case> {
    let mut cases = notices();
    cases.extend(messages());
    cases.extend(deliveries());
    cases.extend(own());
    cases
}

/// What the agent tells by itself.
fn notices() -> Vec<Case> {
    let domain_and_alias = [("domain", "biysk.local"), ("alias", "1002")];
    let with = |more: &[(&'static str, &'static str)]| data(&[&domain_and_alias[..], more].concat());
    let ringing = [("event", "call"), ("call_id", "0190a1b2-7"), ("started_at", "2029-12-31T23:59:30Z"), ("expires_at", "1893456030")];
    let withheld: Fields = call().into_iter().map(|(name, value)| (name, if name == "caller" { String::new() } else { value })).collect();
    vec![
        case(
            "call",
            notice(Kind::Call, &call(), "ru"),
            CALL,
            Wanted { data: with(&[&ringing[..], &[("caller", "1001"), ("called", "1002")]].concat()), ..voip() },
        ),
        case(
            "call without number",
            notice(Kind::Call, &withheld, "ru"),
            CALL,
            Wanted { data: with(&[&ringing[..], &[("called", "1002")]].concat()), ..voip() },
        ),
        case(
            "cancel",
            notice(Kind::CallCancel, &call(), "ru"),
            CALL,
            Wanted { data: with(&[("event", "cancel"), ("call_id", "0190a1b2-7"), ("reason", "answered_elsewhere")]), ..voip() },
        ),
        case(
            "missed call",
            notice(Kind::MissedCall, &call(), "ru-RU"),
            Delivery { class: Class::Interactive, ..CALL },
            Wanted {
                title: Some("Пропущенный вызов"),
                body: Some("1001"),
                sound: Some("default"),
                category: Some("missed_call"),
                collapse: Some("call-7"),
                data: with(&[
                    ("event", "missed_call"),
                    ("call_id", "0190a1b2-7"),
                    ("caller", "1001"),
                    ("called", "1002"),
                    ("started_at", "2029-12-31T23:59:30Z"),
                    ("ended_at", "2029-12-31T23:59:59Z"),
                ]),
                ..alert()
            },
        ),
        case(
            "invitation",
            notice(Kind::Invitation, &invitation(), "en"),
            Delivery { collapse: Some("c-9"), ..CALL },
            Wanted {
                title: Some("Invitation to a conference"),
                body: Some("Планёрка"),
                sound: Some("default"),
                category: Some("invitation"),
                collapse: Some("c-9"),
                data: with(&[
                    ("event", "invitation"),
                    ("conference_id", "c-9"),
                    ("conference_name", "Планёрка"),
                    ("expires_at", "1893456030"),
                ]),
                ..alert()
            },
        ),
        case(
            "invitation withdrawn",
            notice(Kind::InvitationCancel, &invitation(), "en"),
            Delivery { priority: Priority::Normal, collapse: Some("c-9"), ..CALL },
            Wanted {
                collapse: Some("c-9"),
                data: with(&[("event", "invitation_cancel"), ("conference_id", "c-9"), ("reason", "ended")]),
                ..background()
            },
        ),
    ]
}

/// What the suite says.
fn messages() -> Vec<Case> {
    let event = [("event", "message")];
    let full = data(&[("event", "message"), ("room", "7"), ("sender", "1001")]);
    let everything_wanted = Wanted {
        title: Some("Анна"),
        body: Some("Обед?"),
        sound: Some("ping.caf"),
        badge: Some(3),
        category: Some("reply"),
        mutable: true,
        data: full.clone(),
        ..alert()
    };
    let [odd_title, odd_body] = ODD.map(str::to_owned);
    let quiet = Content { data: everything().data, ..Content::default() };
    let titled = Content { title: "Анна".to_owned(), ..Content::default() };
    let worded = Content { body: "Обед?".to_owned(), ..Content::default() };
    let odd =
        Content { title: odd_title, body: odd_body.clone(), data: BTreeMap::from([("odd".to_owned(), odd_body)]), ..Content::default() };
    let badge = Content { badge: Some(0), ..Content::default() };
    let [title, body] = ODD.map(Some);
    vec![
        case("message with everything", message(&everything()), MESSAGE, everything_wanted),
        case("title alone", message(&titled), MESSAGE, Wanted { title: Some("Анна"), data: data(&event), ..alert() }),
        case("text alone", message(&worded), MESSAGE, Wanted { body: Some("Обед?"), data: data(&event), ..alert() }),
        case("odd text", message(&odd), MESSAGE, Wanted { title, body, data: data(&[("event", "message"), ("odd", ODD[1])]), ..alert() }),
        case("silent", message(&quiet), QUIET, Wanted { data: full, ..background() }),
        // Apple counts a badge among what the user notices.
        case("badge alone", message(&badge), QUIET, Wanted { badge: Some(0), priority: 5, data: data(&event), ..alert() }),
    ]
}

/// One push, delivered in every way.
fn deliveries() -> Vec<Case> {
    let payload = || own_apns(ApnsPushType::Alert, &json!({"aps": {"badge": 1}}));
    let wanted = || Wanted { badge: Some(1), ..alert() };
    let longest = "collapse-id-of-sixty-four-octets-which-is-the-longest-Apple-takes";
    let longest = &longest[..64];
    let low = Delivery { priority: Priority::Low, ..MESSAGE };
    let mut cases = vec![
        case("priority 5", payload(), Delivery { priority: Priority::Normal, ..MESSAGE }, Wanted { priority: 5, ..wanted() }),
        case("priority 1", payload(), low, Wanted { priority: 1, ..wanted() }),
        case("no deadline", payload(), Delivery { lasts: Lasts::Long, ..MESSAGE }, Wanted { expiration: None, ..wanted() }),
        case("now or never", payload(), Delivery { lasts: Lasts::Now, ..MESSAGE }, Wanted { expiration: Some(0), ..wanted() }),
        case(
            "longest collapse id",
            payload(),
            Delivery { collapse: Some(longest), ..MESSAGE },
            Wanted { collapse: Some(longest), ..wanted() },
        ),
        Case { token: IPHONE.to_uppercase(), ..case("token in capitals", payload(), MESSAGE, wanted()) },
        case(
            "background at once",
            own_apns(ApnsPushType::Background, &json!({"aps": {"content-available": 1}})),
            MESSAGE,
            Wanted { priority: 10, ..background() },
        ),
    ];
    let types: [(&str, ApnsPushType, &str, &str); 11] = [
        ("type alert", ApnsPushType::Alert, "alert", ""),
        ("type background", ApnsPushType::Background, "background", ""),
        ("type voip", ApnsPushType::Voip, "voip", ".voip"),
        ("type location", ApnsPushType::Location, "location", ".location-query"),
        ("type complication", ApnsPushType::Complication, "complication", ".complication"),
        ("type fileprovider", ApnsPushType::Fileprovider, "fileprovider", ".pushkit.fileprovider"),
        ("type mdm", ApnsPushType::Mdm, "mdm", ""),
        ("type liveactivity", ApnsPushType::Liveactivity, "liveactivity", ".push-type.liveactivity"),
        ("type pushtotalk", ApnsPushType::Pushtotalk, "pushtotalk", ".voip-ptt"),
        ("type widgets", ApnsPushType::Widgets, "widgets", ".push-type.widgets"),
        ("type controls", ApnsPushType::Controls, "controls", ".push-type.controls"),
    ];
    cases.extend(types.map(|(name, push_type, push_type_name, suffix)| {
        let wanted = Wanted { push_type: push_type_name, suffix, priority: 5, data: vec![("n", json!(1))], ..alert() };
        let empty = own_apns(push_type, &json!({"aps": {}, "n": 1}));
        case(name, empty, Delivery { priority: Priority::Normal, ..MESSAGE }, wanted)
    }));
    cases
}

/// What only a payload of the application's own says.
fn own() -> Vec<Case> {
    let localized = json!({
        "aps": {
            "alert": {
                "title-loc-key": "CALL", "title-loc-args": ["1001"], "loc-key": "FROM", "loc-args": ["1001", "Бийск"],
                "subtitle": "sub", "launch-image": "call.png",
            },
            "sound": {"critical": 1, "name": "alarm.caf", "volume": 0.5},
        },
        "list": [1, {"deep": null}],
    });
    let newer = json!({"aps": {
        "alert": {"title": "t", "subtitle-loc-key": "SUB", "subtitle-loc-args": ["x"]},
        "interruption-level": "time-sensitive", "relevance-score": 0.75, "target-content-id": "w", "filter-criteria": "f",
    }});
    vec![
        case(
            "own payload that is localized and critical",
            own_apns(ApnsPushType::Alert, &localized),
            MESSAGE,
            Wanted {
                title_loc: Some(("CALL", &["1001"])),
                loc: Some(("FROM", &["1001", "Бийск"])),
                subtitle: Some("sub"),
                launch_image: Some("call.png"),
                sound: Some("alarm.caf"),
                critical: Some(0.5),
                data: vec![("list", json!([1, {"deep": null}]))],
                ..alert()
            },
        ),
        case("own payload of newer fields", own_apns(ApnsPushType::Alert, &newer), MESSAGE, Wanted { title: Some("t"), ..alert() }),
    ]
}

// === what is refused before it is sent ===

/// Whether a push is taken, by us and by a2.
pub async fn refusals(wire: &Wire) -> Vec<(String, Vec<Difference>)> {
    let mut judged = Vec::new();
    let collapse_ids: [(&str, String); 5] = [
        ("collapse id of 64 octets", "k".repeat(64)),
        ("collapse id of 65 octets", "k".repeat(65)),
        ("collapse id not ASCII", "ключ".to_owned()),
        ("collapse id with a blank", "room 7".to_owned()),
        ("collapse id empty", String::new()),
    ];
    for (name, id) in collapse_ids {
        judged.push(taken(name, CollapseKey::parse(&id).is_some(), CollapseId::new(&id).is_ok()));
    }
    let sizes = [
        ("alert of 4096 octets", ApnsPushType::Alert, 4096),
        ("alert of 4097 octets", ApnsPushType::Alert, 4097),
        ("voip of 5120 octets", ApnsPushType::Voip, 5120),
        ("voip of 5121 octets", ApnsPushType::Voip, 5121),
    ];
    for (name, push_type, octets) in sizes {
        let around = json!({"aps": {"mutable-content": 0}, "x": ""}).to_string().len();
        let filling = "x".repeat(octets - around);
        let ours = own_apns(push_type, &json!({"aps": {"mutable-content": 0}, "x": filling}));
        let ours = wire.refused(MESSAGE.of(device(Provider::Apns, IPHONE), ours)).await;
        if let Err(reason) = &ours {
            assert_eq!(reason, "PayloadTooLarge");
        }
        let mut theirs = DefaultNotificationBuilder::new().build(IPHONE, NotificationOptions::default());
        let theirs = theirs.add_custom_data("x", &filling).and_then(|payload| payload.to_json_string());
        assert!(theirs.as_ref().is_ok_and(|text| text.len() == octets), "{theirs:?}");
        judged.push(taken(name, ours.is_ok(), theirs.is_ok()));
    }
    for (name, token) in [("token not hexadecimal", "not-hex"), ("token of an odd length", "abcdefabcdefabcde"), ("token empty", "")] {
        let theirs = DefaultNotificationBuilder::new().build(token, NotificationOptions::default());
        judged.push(taken(name, Token::parse(Provider::Apns, token).is_ok(), theirs.to_json_string().is_ok()));
    }
    // Data under Apple's own name: ours must not let it replace what is shown.
    let content = Content { body: "b".to_owned(), data: BTreeMap::from([("aps".to_owned(), "mine".to_owned())]), ..Content::default() };
    let Payload::Apns(ours) = message(&content) else { unreachable!("templates of Apple's") };
    let mut theirs = DefaultNotificationBuilder::new().set_body("b").build(IPHONE, NotificationOptions::default());
    let theirs = theirs.add_custom_data("aps", &"mine").unwrap().to_json_string().unwrap();
    let times = |text: &str| format!("{} × aps", text.matches("\"aps\":").count());
    let ours = times(&String::from_utf8_lossy(&ours.body));
    judged.push(("data named aps".to_owned(), Difference::of_words("data named aps", &ours, &times(&theirs))));
    judged
}

/// Two judgements.
pub fn taken(name: &str, ours: bool, theirs: bool) -> (String, Vec<Difference>) {
    let word = |taken| if taken { "taken" } else { "refused" };
    (name.to_owned(), Difference::of_words(name, word(ours), word(theirs)))
}

// === what is made of answers ===

/// Apple's table of reasons, and one that nobody has heard of.
const REASONS: [(u16, &str); 37] = [
    (400, "BadCollapseId"),
    (400, "BadDeviceToken"),
    (400, "BadExpirationDate"),
    (400, "BadMessageId"),
    (400, "BadPriority"),
    (400, "BadTopic"),
    (400, "DeviceTokenNotForTopic"),
    (400, "DuplicateHeaders"),
    (400, "IdleTimeout"),
    (400, "InvalidPushType"),
    (400, "MissingDeviceToken"),
    (400, "MissingTopic"),
    (400, "PayloadEmpty"),
    (400, "TopicDisallowed"),
    (403, "BadCertificate"),
    (403, "BadCertificateEnvironment"),
    (403, "BadEnvironmentKeyIdInToken"),
    (403, "ExpiredProviderToken"),
    (403, "Forbidden"),
    (403, "InvalidProviderToken"),
    (403, "MissingProviderToken"),
    (403, "UnrelatedKeyIdInToken"),
    (404, "BadPath"),
    (405, "MethodNotAllowed"),
    (410, "ExpiredToken"),
    (410, "Unregistered"),
    (413, "PayloadTooLarge"),
    (429, "TooManyProviderTokenUpdates"),
    (429, "TooManyRequests"),
    (500, "InternalServerError"),
    (503, "ServiceUnavailable"),
    (503, "Shutdown"),
    (400, "SomethingNew"),
    (403, "SomethingNew"),
    (410, "SomethingNew"),
    (429, "SomethingNew"),
    (503, "SomethingNew"),
];

/// Whether the reason of a refusal is still known afterwards. What our sender makes of it stands behind ours.
pub async fn answers(wire: &Wire) -> Vec<(String, Vec<Difference>)> {
    const SINCE: i64 = 1_700_000_000_123;
    let mut judged = Vec::new();
    for (status, reason) in REASONS {
        let timestamp_ms = (status == 410).then_some(SINCE);
        let effect = Effect::Answer { status, reason: reason.to_owned(), retry_after: None, retry_date_s: None, timestamp_ms, body: None };
        let outcome = wire.outcome(push_sim::Provider::Apns, effect).await;
        let kept = outcome.reason().is_some_and(|it| it.as_str().starts_with(reason));
        let since = match &outcome {
            push_core::Outcome::TokenGone { since, .. } => since.map(|at| at.as_millisecond()),
            _ => None,
        };
        let mut body = json!({ "reason": reason });
        if let Some(at) = timestamp_ms {
            body["timestamp"] = at.into();
        }
        let theirs = serde_json::from_value::<a2::ErrorBody>(body).ok();
        let theirs_since = theirs.as_ref().and_then(|it| it.timestamp).map(u64::cast_signed);
        let alike = kept == theirs.is_some() && since == theirs_since;
        let found = (!alike).then(|| Difference {
            field: format!("{status} {reason}"),
            ours: Some(format!("{}, {}", outcome.name(), told(kept))),
            theirs: Some(told(theirs.is_some()).to_owned()),
        });
        judged.push((format!("{status} {reason}"), found.into_iter().collect()));
    }
    judged
}

/// Whether a provider's word came through.
pub fn told(kept: bool) -> &'static str {
    if kept { "reason kept" } else { "reason lost" }
}
