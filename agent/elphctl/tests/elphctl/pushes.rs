//! `elphctl push`: what the commands send, what they show, the words and exit codes of a test, files of many, streams.

use std::fs;

use elph_proto::{
    reason::Reason,
    v1::{watch_pushes_response::Message, *},
};
use serde_json::{Value, json};

use crate::{
    support::{Ran, Script, Stage, at, finish, until},
    world::{DOMAIN, world},
};

const IPHONE: &str = "0193a5c2-1111-7000-8000-000000000001";
const ANDROID: &str = "0193a5c3-2222-7000-8000-000000000002";
const OTHER: &str = "0193a5c3-3333-7000-8000-000000000003";
const PUSH: &str = "9d3c2b1a-4444-5000-8000-000000000004";
const TOKEN: &str = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";

fn device(id: &str, alias: &str, app: &str, provider: PushProvider) -> Device {
    Device {
        id: id.into(),
        domain: DOMAIN.into(),
        alias: alias.into(),
        app: app.into(),
        provider: provider.into(),
        token_end: "…1de8f0".into(),
        wants_calls: true,
        wants_messages: provider == PushProvider::Fcm,
        register_time: at(0),
        ..Default::default()
    }
}

fn event(state: PushState, attempt: u32, reason: &str, second: i64) -> PushEvent {
    PushEvent {
        push_id: PUSH.into(),
        domain: DOMAIN.into(),
        device_id: IPHONE.into(),
        app: "elph-ios".into(),
        push_class: PushClass::Call.into(),
        state: state.into(),
        time: at(second),
        attempt,
        reason: reason.into(),
        ..Default::default()
    }
}

/// Three devices of two users, and two applications.
fn stage() -> Stage {
    let fake = world();
    let mut state = fake.state();
    state.devices = vec![
        Device {
            environment: PushEnvironment::Development.into(),
            label: "Anna's \u{1b}[2J".into(),
            ..device(IPHONE, "1042", "elph-ios", PushProvider::Apns)
        },
        device(ANDROID, "1042", "elph-android", PushProvider::Fcm),
        device(OTHER, "1043", "elph-android", PushProvider::Fcm),
    ];
    state.apps = vec![
        PushApp { name: "elph-android".into(), provider: PushProvider::Fcm.into(), devices: 2, connected: true, ..Default::default() },
        PushApp {
            name: "elph-ios".into(),
            provider: PushProvider::Apns.into(),
            devices: 1,
            waiting: 7,
            expire_time: at(0),
            ..Default::default()
        },
        PushApp { name: "elph-web".into(), provider: PushProvider::Webpush.into(), ..Default::default() },
    ];
    drop(state);
    Stage::new(fake)
}

/// Runs a command that must succeed, and returns what the method was asked.
async fn sent(stage: &Stage, method: &str, arguments: &[&str]) -> String {
    let ran = stage.run(arguments).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
    let seen = stage.fake.seen(method);
    seen.last().unwrap_or_else(|| panic!("{arguments:?} did not ask for {method}")).text.clone()
}

#[track_caller]
fn same(shown: &str, expected: &[&str]) {
    let expected = expected.join("\n") + "\n";
    assert!(shown == expected, "shown:\n{shown}\nexpected:\n{expected}");
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_registered_with_all_that_is_said_of_it() {
    let stage = stage();
    let text = sent(
        &stage,
        "RegisterDevice",
        &[
            "push",
            "register",
            "1042",
            "--app",
            "elph-ios",
            "--token",
            TOKEN,
            "--calls-only",
            "--environment",
            "development",
            "--platform",
            "ios",
            "--locale",
            "ru",
            "--label",
            "Anna's",
            "--request-id",
            "mine",
        ],
    )
    .await;
    has(
        &text,
        &[
            "domain: \"biysk.local\", alias: \"1042\", app: \"elph-ios\"",
            &format!("pn_provider: \"apns\", pn_prid: \"{TOKEN}\", pn_param: \"\""),
            "web_keys: None, environment: Development, platform: \"ios\", locale: \"ru\", label: \"Anna's\"",
            "wants_calls: Some(true), wants_messages: Some(false), request_id: \"mine\"",
        ],
    );
    let text =
        sent(&stage, "RegisterDevice", &["push", "register", "1042", "--provider", "fcm", "--token", "f:x", "--messages-only"]).await;
    has(&text, &["app: \"\"", "pn_provider: \"fcm\", pn_prid: \"f:x\"", "wants_calls: Some(false), wants_messages: Some(true)"]);
    let contact = format!("pn-provider=apns;pn-prid={TOKEN};pn-params=TEAM.org.example");
    let text = sent(&stage, "RegisterDevice", &["push", "register", "1042", "--pn", &contact]).await;
    has(
        &text,
        &["app: \"\"", "pn_provider: \"apns\"", "pn_param: \"TEAM.org.example\"", "wants_calls: Some(true), wants_messages: Some(true)"],
    );
    let subscription =
        json!({ "endpoint": "https://push.example/1", "expirationTime": null, "keys": { "p256dh": "BPub", "auth": "Secr" } });
    fs::write(stage.path("subscription.json"), subscription.to_string()).unwrap();
    let path = stage.path("subscription.json").display().to_string();
    let text = sent(&stage, "RegisterDevice", &["push", "register", "1042", "--app", "elph-web", "--subscription", &path]).await;
    has(&text, &["pn_provider: \"webpush\", pn_prid: \"https://push.example/1\"", "WebPushKeys { p256dh: \"BPub\", auth: \"Secr\" }"]);
    let ran = stage.run_with_input(&["push", "register", "1042", "--app", "elph-ios", "--token", "-"], &format!("{TOKEN}\n")).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    has(&stage.fake.seen("RegisterDevice").last().unwrap().text, &[TOKEN]);
    has(&ran.out, &["Device       0193a5c2-1111-7000-8000-000000000001\n", "User         1042@biysk.local\n", "replaces device old\n"]);
    has(&ran.out, &["Environment  development\n", "Wants        calls\n", "Label        Anna's \u{fffd}[2J\n"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_registered_is_refused_before_anything_is_sent() {
    let stage = stage();
    fs::write(stage.path("wrong.json"), "{\"endpoint\": \"x\", \"keys\": {\"auth\": \"Secr\"}}").unwrap();
    let wrong = stage.path("wrong.json").display().to_string();
    for (arguments, code, expected) in [
        (vec!["--app", "elph-ios"], 2, "--token"),
        (vec!["--token", "x"], 2, "--token needs --app or --provider"),
        (vec!["--token", "x", "--app", "elph-web"], 2, "give their --subscription"),
        (vec!["--token", "x", "--app", "nothing"], 6, "no application nothing is configured"),
        (vec!["--token", "x", "--pn", "y"], 2, "cannot be used with"),
        (vec!["--pn", "pn-provider=apns"], 2, "--pn: pn-prid is missing"),
        (vec!["--app", "elph-ios", "--token", "x", "--calls-only", "--messages-only"], 2, "cannot be used with"),
        (vec!["--subscription", &wrong], 2, "must be a JSON object with endpoint, keys.p256dh and keys.auth"),
        (vec!["--subscription", "/no/such"], 2, "cannot read /no/such"),
    ] {
        let ran = stage.run(&[vec!["push", "register", "1042"], arguments.clone()].concat()).await;
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.err);
        has(&ran.err, &[expected]);
        assert!(!ran.err.contains("Secr"), "{}", ran.err);
    }
    assert!(stage.fake.seen("RegisterDevice").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_not_repeated_in_the_advice() {
    let stage = stage();
    stage.fake.fail("RegisterDevice", Reason::OutcomeUnknown.status(""));
    for given in [vec!["--token", TOKEN], vec![&*format!("--token={TOKEN}")]] {
        let ran = stage.run(&[vec!["push", "register", "1042", "--provider", "apns"], given].concat()).await;
        assert_eq!(ran.code, 4);
        has(
            &ran.err,
            &["repeat: elphctl push register 1042 --provider apns --token", "look:   elphctl push devices 1042 --domain biysk.local"],
        );
        assert!(!ran.err.contains(TOKEN), "{}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_unregistered_by_its_id_the_beginning_of_it_or_its_token() {
    let stage = stage();
    let text = sent(&stage, "UnregisterDevice", &["push", "unregister", "0193A5C2"]).await;
    has(&text, &[&format!("device_id: \"{IPHONE}\", parameters: None"), "domain: \"biysk.local\""]);
    let text = sent(&stage, "UnregisterDevice", &["push", "unregister", "--app", "elph-ios", "--token", TOKEN]).await;
    has(&text, &["device_id: \"\"", "pn_provider: \"apns\"", TOKEN, "app: \"elph-ios\""]);
    assert_eq!(stage.run(&["push", "unregister", "--app", "elph-ios", "--token", TOKEN]).await.out, "it was not registered\n");
    has(&stage.run(&["push", "unregister", IPHONE]).await.out, &["unregistered\nDevice       0193a5c2-1111"]);
    let ran = stage.run(&["push", "unregister", "0193a5c3"]).await;
    assert_eq!((ran.code, ran.err), (2, format!("elphctl: 2 devices have an id beginning with 0193a5c3: {ANDROID} {OTHER}\n")));
    assert_eq!(stage.run(&["push", "unregister", "77"]).await.code, 6);
    assert_eq!(stage.run(&["push", "unregister"]).await.code, 2);
    assert_eq!(stage.run(&["push", "unregister", IPHONE, "--token", "x"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applications_and_devices_fit_into_80_and_120_columns() {
    let stage = stage();
    let apps = stage.run_at(80, &["push", "apps"]).await;
    same(
        &apps.out,
        &[
            "APP           PROVIDER  CONNECTED  DEVICES  WAITING  KEY ENDS",
            "elph-android  FCM       yes              2        0",
            "elph-ios      APNs      no               1        7  ended 2024-05-01 10:00",
            "elph-web      web push  no               0        0",
        ],
    );
    same(
        &stage.run_at(80, &["push", "devices"]).await.out,
        &[
            "DEVICE                                ALIAS  APP           TOKEN",
            "0193a5c2-1111-7000-8000-000000000001  1042   elph-ios      …1de8f0",
            "0193a5c3-2222-7000-8000-000000000002  1042   elph-android  …1de8f0",
            "0193a5c3-3333-7000-8000-000000000003  1043   elph-android  …1de8f0",
        ],
    );
    same(
        &stage.run_at(120, &["push", "devices", "1042"]).await.out,
        &[
            "DEVICE                                ALIAS  APP           TOKEN    WANTS            LABEL        REGISTERED",
            "0193a5c2-1111-7000-8000-000000000001  1042   elph-ios      …1de8f0  calls            Anna's \u{fffd}[2J  2024-05-01 10:00",
            "0193a5c3-2222-7000-8000-000000000002  1042   elph-android  …1de8f0  calls, messages               2024-05-01 10:00",
        ],
    );
    let some = stage.run(&["push", "devices", "-n", "2", "--json"]).await;
    assert_eq!(some.err, "elphctl: 2 devices shown, there are more: --limit 0 shows all\n");
    let answer: Value = serde_json::from_str(&some.out).unwrap();
    assert_eq!((&answer["devices"][0]["provider"], &answer["nextPageToken"]), (&"PUSH_PROVIDER_APNS".into(), &"2".into()));
    assert_eq!(stage.run(&["push", "devices", "1999"]).await.out, "no devices\n");
    stage.fake.fail("ListApps", Reason::PushNotConfigured.status(""));
    let ran = stage.run(&["push", "apps"]).await;
    assert_eq!(ran.code, 1);
    has(&ran.err, &["PUSH_NOT_CONFIGURED", "hint: applications are configured in [[push.apps]]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_goes_to_a_user_a_device_a_topic_or_a_condition_with_all_that_is_said() {
    let stage = stage();
    for (name, content) in [("apns", "{\"aps\":{}}"), ("fcm", "{\"data\":{}}"), ("web", "hello")] {
        fs::write(stage.path(name), content).unwrap();
    }
    let [apns, fcm, web] = ["apns", "fcm", "web"].map(|name| stage.path(name).display().to_string());
    let text = sent(
        &stage,
        "SendPush",
        &[
            "push",
            "send",
            "1042",
            "--app",
            "elph-ios,elph-android",
            "--title",
            "T",
            "--body",
            "B",
            "--data",
            "k=v=w",
            "--sound",
            "s",
            "--badge",
            "0",
            "--thread",
            "room",
            "--category",
            "c",
            "--mutable",
            "--apns-payload",
            &apns,
            "--fcm-message",
            &fcm,
            "--webpush-body",
            &web,
            "--class",
            "background",
            "--ttl",
            "90s",
            "--collapse-key",
            "key",
            "--request-id",
            "mine",
        ],
    )
    .await;
    has(
        &text,
        &[
            "User(PushUser { alias: \"1042\", apps: [\"elph-ios\", \"elph-android\"] })",
            "title: \"T\", body: \"B\", data: {\"k\": \"v=w\"}, sound: \"s\", badge: Some(0), thread: \"room\", category: \"c\"",
            "mutable_content: true, apns_payload: \"{\\\"aps\\\":{}}\", fcm_message: \"{\\\"data\\\":{}}\", webpush_body: \"hello\"",
            "push_class: Background, time_to_live: Some(Duration { seconds: 90, nanos: 0 }), collapse_key: \"key\"",
            "request_id: \"mine\"",
        ],
    );
    let ran = stage.run(&["push", "send", "1042", "--body", "B"]).await;
    same(
        &ran.out,
        &["PUSH                                       DEVICE", &format!("push-{IPHONE}  {IPHONE}"), &format!("push-{ANDROID}  {ANDROID}")],
    );
    has(&stage.fake.seen("SendPush").last().unwrap().text, &["badge: None", "push_class: Unspecified, time_to_live: None"]);
    assert_eq!(stage.run(&["push", "send", "1999"]).await.out, "no device wants it: nothing is sent\n");
    has(&sent(&stage, "SendPush", &["push", "send", "--device", "0193a5c2"]).await, &[&format!("DeviceId(\"{IPHONE}\")")]);
    let text = sent(&stage, "SendPush", &["push", "send", "--topic", "news", "--app", "elph-android"]).await;
    has(&text, &["PushTopic { app: \"elph-android\", topic: \"news\", condition: \"\" }"]);
    let text = sent(&stage, "SendPush", &["push", "send", "--condition", "'a' in topics", "--app", "elph-android"]).await;
    has(&text, &["topic: \"\", condition: \"'a' in topics\""]);
    for wrong in [
        vec!["push", "send", "--title", "T"],
        vec!["push", "send", "1042", "--device", IPHONE],
        vec!["push", "send", "--topic", "news"],
        vec!["push", "send", "--topic", "news", "--app", "a,b"],
        vec!["push", "send", "1042", "--data", "novalue"],
        vec!["push", "send", "1042", "--data", "k=1", "--data", "k=2"],
        vec!["push", "send", "1042", "--apns-payload", "/no/such"],
    ] {
        assert_eq!(stage.run(&wrong).await.code, 2, "{wrong:?}");
    }
}

async fn tested(stage: &Stage, state: PushState, reason: &str, explanation: &str) -> Ran {
    stage.fake.state().tested = TestDeviceResponse {
        push_id: PUSH.into(),
        state: state.into(),
        reason: reason.into(),
        explanation: explanation.into(),
        duration: Some(prost_types::Duration { seconds: 0, nanos: 41_700_000 }),
    };
    stage.run(&["push", "test", "0193a5c2", "--call"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_says_in_words_what_the_provider_answered_and_the_exit_code_is_the_result() {
    let stage = stage();
    let ran = tested(&stage, PushState::Accepted, "", "The provider took it.").await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    same(&ran.out, &["accepted in 41 ms", "The provider took it.", &format!("push {PUSH}")]);
    has(&stage.fake.seen("TestDevice")[0].text, &[&format!("device_id: \"{IPHONE}\", as_call: true")]);
    let ran = tested(&stage, PushState::Failed, "BadDeviceToken", "Apple knows no such token here.").await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "elphctl: the push was not taken: refused in 41 ms: BadDeviceToken\n"));
    same(&ran.out, &["refused in 41 ms: BadDeviceToken", "Apple knows no such token here.", &format!("push {PUSH}")]);
    let ran = tested(&stage, PushState::TokenGone, "Unregistered", "The application was removed.").await;
    assert_eq!(ran.code, 1);
    has(&ran.out, &["the token is gone: Unregistered (answered in 41 ms)\nThe application was removed.\n"]);
    assert_eq!(tested(&stage, PushState::Expired, "", "").await.code, 3);
    let ran = tested(&stage, PushState::Stored, "", "It waits.").await;
    assert_eq!(ran.code, 4);
    has(&ran.err, &["no answer in 41 ms", &format!("look:   elphctl push deliveries {IPHONE} --domain biysk.local")]);
    let ran = stage.run(&["push", "test", IPHONE, "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["state"], "PUSH_STATE_STORED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_is_taken_back_or_it_is_said_that_it_is_too_late() {
    let stage = stage();
    stage.fake.state().cancelled = PushState::Dropped;
    let ran = stage.run(&["push", "cancel", PUSH]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "taken back: it will never be sent\n"));
    has(&stage.fake.seen("CancelPush")[0].text, &[PUSH, "domain: \"biysk.local\""]);
    stage.fake.state().cancelled = PushState::Accepted;
    let ran = stage.run(&["push", "cancel", PUSH]).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "elphctl: too late: it is accepted\n"));
    stage.fake.fail("CancelPush", Reason::UnknownPush.status(""));
    let ran = stage.run(&["push", "cancel", PUSH]).await;
    assert_eq!(ran.code, 6);
    has(&ran.err, &["hint: 'elphctl push deliveries'"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_of_a_push_and_the_deliveries_of_a_device_are_shown() {
    let stage = stage();
    stage.fake.state().life = vec![
        event(PushState::Stored, 0, "", 0),
        PushEvent { retry_time: at(9), ..event(PushState::Retried, 1, "ServiceUnavailable", 1) },
        PushEvent { provider_id: "apple-1".into(), ..event(PushState::Accepted, 2, "", 9) },
    ];
    same(
        &stage.run_at(80, &["push", "log", PUSH]).await.out,
        &[
            &format!("Push           {PUSH}"),
            "Domain         biysk.local",
            &format!("Device         {IPHONE}"),
            "App            elph-ios",
            "Class          call",
            "Provider's id  apple-1",
            "",
            "TIME                     STATE     ATTEMPT  PROVIDER SAYS       NEXT",
            "2024-05-01 10:00:00.000  stored",
            "2024-05-01 10:00:01.000  retried         1  ServiceUnavailable  2024-05-01 10:00",
            "2024-05-01 10:00:09.000  accepted        2",
        ],
    );
    same(
        &stage.run_at(92, &["push", "deliveries", "0193a5c2", "-n", "2"]).await.out,
        &[
            "TIME              PUSH                                  CLASS  STATE     PROVIDER SAYS",
            &format!("2024-05-01 10:00  {PUSH}  call   accepted"),
            &format!("2024-05-01 10:00  {PUSH}  call   retried   ServiceUnavailable"),
        ],
    );
    has(&stage.fake.seen("ListDeviceDeliveries")[0].text, &["page_size: 2", IPHONE]);
    assert_eq!(stage.run(&["push", "deliveries", IPHONE, "-n", "0"]).await.code, 2);
}

/// The request ids of the orders that came, in their order.
fn ids(stage: &Stage) -> Vec<String> {
    let id = |text: &str| text.rsplit_once("request_id: \"").unwrap().1.trim_end_matches("\" }").to_owned();
    stage.fake.seen("SendPushes").iter().map(|seen| id(&seen.text)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_content_goes_to_a_list_of_aliases_and_those_refused_are_listed() {
    let stage = stage();
    fs::write(stage.path("list.csv"), "\u{feff}Alias;Name\n1042;Anna\n\n\"1043\";\"Ivan; the other\"\n1666\n1999,x\r\n").unwrap();
    let path = stage.path("list.csv").display().to_string();
    let arguments = ["push", "send-many", &path, "--title", "Hello", "--app", "elph-ios", "--ttl", "1h", "--request-id", "base"];
    let ran = stage.run(&arguments).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "elphctl: 1 of 4 orders were refused\n"), "{}", ran.out);
    same(
        &ran.out,
        &["line 5, 1666: UNKNOWN_ALIAS: no such alias", "4 of 4 orders answered: 3 pushes taken on, 1 without a device, 1 refused"],
    );
    let seen = stage.fake.seen("SendPushes");
    has(&seen[1].text, &["domain: \"biysk.local\"", "alias: \"1043\", apps: [\"elph-ios\"]", "title: \"Hello\"", "seconds: 3600"]);
    let first = ids(&stage);
    let mut distinct = first.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 4);
    // Repeated, also in another order, it is the same orders; under another id it is others.
    fs::write(stage.path("list.csv"), "1999\n1043\n").unwrap();
    assert_eq!(stage.run(&arguments).await.code, 0);
    assert_eq!(ids(&stage)[4..], [first[3].clone(), first[1].clone()]);
    let ran = stage.run(&["push", "send-many", &path, "--title", "Hello", "--json"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, "elphctl: 2 of 2 orders answered: 1 pushes taken on, 1 without a device\n"));
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1]["pushes"][0]["deviceId"], OTHER);
    assert_eq!(lines[1]["requestId"], ids(&stage)[7]);
    assert!(!first.contains(&ids(&stage)[7]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_in_json_are_sent_as_they_are_and_a_file_with_a_wrong_line_is_not_sent_at_all() {
    let stage = stage();
    let order = json!({ "order": { "deviceId": IPHONE, "content": { "title": "T", "badge": 3 }, "pushClass": "PUSH_CLASS_CALL", "timeToLive": "30s" } });
    let named =
        json!({ "domain": "other.local", "requestId": "own", "order": { "topic": { "app": "a", "topic": "news" }, "content": {} } });
    fs::write(stage.path("orders"), format!("{order}\n{named}\n")).unwrap();
    let path = stage.path("orders").display().to_string();
    let ran = stage.run(&["push", "send-many", &path]).await;
    assert_eq!((ran.code, ran.err.as_str(), ran.out.as_str()), (0, "", "2 of 2 orders answered: 2 pushes taken on\n"));
    let seen = stage.fake.seen("SendPushes");
    has(&seen[0].text, &["biysk.local", IPHONE, "title: \"T\"", "badge: Some(3)", "push_class: Call", "seconds: 30"]);
    has(&seen[1].text, &["other.local", "topic: \"news\"", "request_id: \"own\""]);
    fs::write(stage.path("orders"), format!("{order}\n{{\"order\": {{\"titel\": 1}}}}\n{{}}\n1042\n")).unwrap();
    let ran = stage.run(&["push", "send-many", &path]).await;
    assert_eq!(ran.code, 2);
    has(
        &ran.err,
        &["3 lines of", "are wrong, nothing was sent:\n  line 2: ", "titel", "\n  line 3: has no order with a user", "\n  line 4: "],
    );
    fs::write(stage.path("orders"), "x".repeat(70_000)).unwrap();
    has(&stage.run(&["push", "send-many", &path]).await.err, &["line 1: is longer than 65536 bytes"]);
    let ran = stage.run(&["push", "send-many", &path, "--class", "call"]).await;
    assert_eq!((ran.code, ran.err.contains("--title")), (2, true), "{}", ran.err);
    has(&stage.run(&["push", "send-many", "/dev/null"]).await.err, &["must be a file"]);
    assert_eq!(stage.fake.seen("SendPushes").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_off_is_gone_on_with_by_its_advice_and_nothing_is_sent_under_another_id() {
    let stage = stage();
    let aliases: String = (0..2000).map(|number| format!("2{number:04}\n")).collect();
    fs::write(stage.path("list"), aliases).unwrap();
    let path = stage.path("list").display().to_string();
    stage.fake.state().stream_breaks_after = Some(700);
    let ran = stage.run(&["push", "send-many", &path, "--title", "Hello"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (4, "700 of 2000 orders answered: 0 pushes taken on, 700 without a device\n"), "{}", ran.err);
    has(&ran.err, &["after line 700: the command may or may not have been executed", "it is not done twice"]);
    let before = ids(&stage);
    let advice = ran.err.lines().find_map(|line| line.trim().strip_prefix("repeat: elphctl ")).unwrap().to_owned();
    has(&advice, &["--after-line 700", "--request-id", "--domain biysk.local"]);
    let ran = stage.run(&advice.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "1300 of 1300 orders answered: 0 pushes taken on, 1300 without a device\n"),
        "{}",
        ran.err
    );
    let mut all = ids(&stage);
    let again = all.split_off(before.len());
    assert_eq!(again.len(), 1300);
    assert!(!again.iter().any(|id| before[..700].contains(id)), "what was answered is not sent again");
    assert!(before[700..].iter().all(|id| again.contains(id)), "what was not answered is sent again under its id");
    stage.fake.fail("SendPushes", Reason::MissingScope.status(""));
    assert_eq!(stage.run(&["push", "send-many", &path, "--title", "Hello"]).await.code, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_shows_each_step_says_what_was_missed_and_goes_on_after_an_interruption() {
    let stage = stage();
    let step = |event| WatchPushesResponse { message: Some(Message::Event(event)) };
    let play = |messages, open| stage.fake.state().push_watches.push_back(Script { messages, open });
    let missed = WatchPushesResponse { message: Some(Message::Missed(12)) };
    play(vec![step(event(PushState::Sent, 1, "", 0)), missed.clone()], false);
    let topic = PushEvent { device_id: String::new(), ..event(PushState::Failed, 3, "INVALID\u{1b}", 2) };
    play(vec![step(topic)], true);
    let ran = stage.run(&["push", "watch", "--domain", DOMAIN, "--app", "elph-ios", "--final", "-n", "2"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    same(
        &ran.out,
        &[
            &format!("2024-05-01 10:00:00.000  {PUSH}  sent        elph-ios, call, device {IPHONE}"),
            "-             12 steps were missed: this reader was too slow; 'elphctl push log' tells them",
            &format!("2024-05-01 10:00:02.000  {PUSH}  failed      elph-ios, call, topic, attempt 3, INVALID\u{fffd}"),
        ],
    );
    has(&ran.err, &["the agent ended the stream; trying again", "steps during the interruption are not shown"]);
    has(&stage.fake.seen("WatchPushes")[0].text, &["domains: [\"biysk.local\"], apps: [\"elph-ios\"], final_only: true"]);
    play(vec![missed, step(event(PushState::Accepted, 1, "", 0))], true);
    let ran = stage.run(&["push", "watch", "--json", "-n", "1"]).await;
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["missed"], &lines[1]["event"]["state"]), (&"12".into(), &"PUSH_STATE_ACCEPTED".into()));
    play(Vec::new(), true);
    let child = stage.command(&["push", "watch"]).spawn().unwrap();
    until("it watches", || stage.fake.seen("WatchPushes").len() == 4).await;
    assert!(std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let ran = finish(child).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    stage.fake.fail("WatchPushes", Reason::TooManySubscribers.status(""));
    assert_eq!(stage.run(&["push", "watch"]).await.code, 3, "a stream that never began is not tried again");
}
