//! Tables at 80 and 120 columns, the JSON, pages of lists.

use elph_proto::v1::*;
use serde_json::Value;

use crate::{
    support::{Fake, Ran, Stage, at},
    world::{DOMAIN, call, world},
};

async fn shown(stage: &Stage, columns: u16, arguments: &[&str]) -> String {
    let ran = stage.run_at(columns, arguments).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    for line in ran.out.lines() {
        assert!(line.chars().count() <= usize::from(columns), "wider than {columns}: {line}");
        assert_eq!(line, line.trim_end(), "no trailing blanks");
    }
    ran.out
}

#[track_caller]
fn same(shown: &str, expected: &[&str]) {
    let expected = expected.join("\n") + "\n";
    assert!(shown == expected, "shown:\n{shown}\nexpected:\n{expected}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_fit_into_80_and_120_columns() {
    let stage = Stage::new(world());
    same(
        &shown(&stage, 80, &["calls", "list", "--all"]).await,
        &[
            "ID        STATE      FROM         TO    STARTED             TALK  END",
            "3f2a91bc  connected  1042         1043  2024-05-01 10:00  3m 05s",
            "3f2b0000  alerting   89131234567  1044  2024-05-01 10:00",
            "77aa0000  ended      1045         1042  2024-05-01 10:00          no answer",
        ],
    );
    same(
        &shown(&stage, 120, &["calls", "list", "--all"]).await,
        &[
            "ID        STATE      FROM         TO    ANSWERED BY  STARTED             TALK  LEGS  END        NOTE",
            "3f2a91bc  connected  1042         1043  1043         2024-05-01 10:00  3m 05s     2",
            "3f2b0000  alerting   89131234567  1044               2024-05-01 10:00             2",
            "77aa0000  ended      1045         1042               2024-05-01 10:00             0  no answer  polled",
        ],
    );
    same(
        &shown(&stage, 80, &["calls", "get", "3f2a"]).await,
        &[
            "Call         3f2a91bc-1111-5000-8000-000000000001",
            "Domain       biysk.local",
            "State        connected",
            "Parties      1042 -> 1043",
            "Answered by  1043",
            "Started      2024-05-01 10:00:00 +00:00",
            "Answered     2024-05-01 10:00:07 +00:00",
            "Talk         3m 05s",
            "Switch's id  0a1b",
            "Version      4",
            "",
            "LEG  DEVICE  STATE      END     STARTED",
            "L1   1042    held       caller  2024-05-01 10:00",
            "L2   1043    connected  called  2024-05-01 10:00",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conferences_fit_into_80_and_120_columns_and_a_name_cannot_steer_the_terminal() {
    let stage = Stage::new(world());
    same(
        &shown(&stage, 80, &["conf", "list"]).await,
        &[
            "ID        NAME       PEOPLE  STARTED           DURATION  LOCKED  RECORDING",
            "5f0c0000  Planning     2 +1  2024-05-01 10:00    1h 02m  locked",
            "60ff0000  room 7001       0  2024-05-01 10:00    1h 02m          on",
        ],
    );
    let roster = shown(&stage, 80, &["conf", "get", "5f0c"]).await;
    assert!(roster.contains("People        2 connected, 1 pending of at most 50\n"), "{roster}");
    assert!(roster.contains("Muted people  may not unmute themselves\n"), "{roster}");
    let lines: Vec<&str> = roster.lines().skip_while(|line| !line.starts_with("PARTICIPANT")).collect();
    same(
        &(lines.join("\n") + "\n"),
        &[
            "PARTICIPANT  NUMBER       NAME         ROLE       STATUS     MIC    FLOOR",
            "p-1          1042         Анна Серова  presenter  connected  talks",
            "p-2          1043         Ivan \u{fffd}[2J               connected  muted  asks",
            "q-3          89131234567                          alerting",
        ],
    );
    let wide = shown(&stage, 120, &["conf", "get", "5f0c"]).await;
    assert!(wide.contains("MIC    FLOOR  JOINED\n"), "{wide}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_agent_and_directory_are_shown() {
    let stage = Stage::new(world());
    same(
        &shown(&stage, 80, &["links"]).await,
        &[
            "LINK              STATE     FOR  NODE           SESSIONS  LAST ERROR",
            "terminal          up     2d 03h  10.0.0.1:9999         2",
            "csta/biysk.local  down   2d 03h  10.0.0.1:4721         1  connection refused",
        ],
    );
    let info = shown(&stage, 80, &["info"]).await;
    assert!(info.contains("Journal             e1:3..90\nNot in the dialect  SetRole MoveParticipant\n"), "{info}");
    same(&shown(&stage, 80, &["health"]).await, &["serving"]);
    same(
        &shown(&stage, 80, &["directory", "domains"]).await,
        &["DOMAIN       SUBSCRIBERS  READ", "biysk.local            3  2024-05-01 10:01"],
    );
    same(&shown(&stage, 80, &["directory", "subscribers", "1043"]).await, &["ALIAS  INTERFACE  TYPE", "1043   sip1043    sip_user"]);
    let subscriber = shown(&stage, 80, &["directory", "subscriber", "1042"]).await;
    assert!(subscriber.contains("sip:1042@10.0.0.7:5060  sip1          10.0.0.7   1h 00m  30m 05s\n"), "{subscriber}");
    same(&shown(&stage, 80, &["directory", "rooms"]).await, &["ROOM  DESCRIPTION", "7001  Planning"]);
    stage.fake.state().calls.clear();
    same(&shown(&stage, 80, &["calls", "list"]).await, &["no calls"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_width_nothing_is_left_out_or_wrapped_and_colours_are_only_on_demand() {
    let stage = Stage::new(world());
    stage.fake.state().links[1].last_error = "word ".repeat(60);
    let ran = stage.run(&["links"]).await;
    assert_eq!(ran.out.lines().count(), 3, "{}", ran.out);
    assert!(!ran.out.contains('\u{1b}'));
    assert!(stage.run(&["links", "--color", "always"]).await.out.contains("\u{1b}["));
    assert!(!stage.run(&["links", "--color", "always", "--json"]).await.out.contains('\u{1b}'));
}

fn json(ran: &Ran) -> Value {
    assert_eq!((ran.code, ran.err.as_str(), ran.out.lines().count()), (0, "", 1), "{}", ran.out);
    serde_json::from_str(&ran.out).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_the_protobuf_mapping_with_the_same_keys_always() {
    let stage = Stage::new(world());
    let calls = json(&stage.run(&["calls", "list", "--all", "--json"]).await);
    let call = &calls["calls"][0];
    assert_eq!(call["state"], "CALL_STATE_CONNECTED");
    assert_eq!(call["startTime"], "2024-05-01T10:00:00Z");
    assert_eq!(call["talkDuration"], "185s");
    assert_eq!(call["version"], "4", "64-bit numbers are text");
    assert_eq!(call["polled"], false, "defaults are written");
    assert_eq!(call["legs"][0]["state"], "LEG_STATE_HELD");
    assert_eq!(calls["calls"][2]["endCause"], "END_CAUSE_NO_ANSWER");
    assert_eq!(calls["nextPageToken"], "");
    let conference = json(&stage.run(&["conf", "lock", "5f0c", "--json"]).await);
    assert_eq!(conference["conference"]["participants"][0]["displayName"], "Анна Серова");
    assert_eq!(json(&stage.run(&["health", "--json"]).await)["status"], "SERVING");
    assert_eq!(json(&stage.run(&["links", "--json"]).await)["links"][1]["lastError"], "connection refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_are_paged_through_up_to_the_limit() {
    let fake = Fake::default();
    fake.state().domains = vec![Domain { name: DOMAIN.into(), ..Default::default() }];
    let id = |number: usize| format!("{number:08x}-1111-5000-8000-000000000000");
    fake.state().calls = (0..2500).map(|number| call(&id(number), "1", "2", CallState::Connected, Vec::new())).collect();
    fake.state().subscribers = (0..1200).map(|number| Subscriber { alias: format!("{number}"), ..Default::default() }).collect();
    let stage = Stage::new(fake);
    let all = stage.run(&["calls", "list", "--limit", "0"]).await;
    assert_eq!((all.code, all.out.lines().count(), all.err.as_str()), (0, 2501, ""));
    assert_eq!(stage.fake.seen("ListCalls").len(), 3);
    let some = stage.run(&["calls", "list", "-n", "1500"]).await;
    assert_eq!(some.out.lines().count(), 1501);
    assert_eq!(some.err, "elphctl: 1500 calls shown, there are more: --limit 0 shows all\n");
    let some = stage.run(&["calls", "list", "-n", "7", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&some.out).unwrap()["nextPageToken"], "7");
    assert!(some.err.contains("there are more"), "programs' users are told too");
    let subscribers = stage.run(&["directory", "subscribers", "-n", "1100"]).await;
    assert_eq!(subscribers.err, "elphctl: 1100 of 1200 subscribers shown: --limit 0 shows all\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_goes_over_every_domain_the_caller_may_see() {
    let stage = Stage::new(world());
    stage.fake.state().domains.push(Domain { name: "barnaul.local".into(), ..Default::default() });
    let mut other = call("90000000-1111-5000-8000-000000000009", "7", "8", CallState::Connected, Vec::new());
    other.domain = "barnaul.local".into();
    other.answer_time = at(3);
    stage.fake.state().calls.push(other);
    let out = shown(&stage, 120, &["calls", "list"]).await;
    assert!(out.contains("DOMAIN") && out.contains("barnaul.local") && out.contains("biysk.local"), "{out}");
    let one = shown(&stage, 120, &["calls", "list", "--domain", "barnaul.local"]).await;
    assert!(!one.contains("DOMAIN") && one.contains("90000000") && !one.contains("3f2a91bc"), "{one}");
}
