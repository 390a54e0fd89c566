//! Our pushes beside a2's and fcm-rs's, and every difference in DIFFERENCES.md. `ORACLES_WRITE=1` writes that file anew, if all
//! differences are explained (tests/pushes/explained.rs).

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "what fails in a helper fails the test")]
#![expect(unreachable_pub, reason = "a test of several files")]

mod apns;
mod explained;
mod fcm;
mod wire;

use std::path::Path;

use oracles::table::{Report, Section};

use crate::wire::Wire;

/// What the comparison cannot reach.
const ENDING: &str = "
## Not compared

| what | why |
|---|---|
| `authorization` of both | a2's signer is private; fcm-rs's token comes from Google alone. fcm-rs formats it with `{:?}`, so that the header field has quotation marks in it. push-sim verifies ours. |
| names of a2's header fields | `Client::build_request` is private and the client sends to Apple alone: the names are those of its source, the values come from its `NotificationOptions`. |
| header fields of fcm-rs | reqwest makes them on the way to Google. |
| connections: streams, GOAWAY, pings, renewal of tokens, back-off | neither oracle can be pointed at a server of one's own. |
| order of members, blanks | JSON gives them no meaning. |
";

fn introduction() -> String {
    format!(
        "# Differences between our pushes and the oracles'

Written by `ORACLES_WRITE=1 make oracles` and checked by `make oracles`: it fails when a difference appears that is not here, and when
one that is here is gone. Oracles: a2 {} for APNs, fcm-rs {} for FCM. \"–\": not there. Kinds:

- *cannot say it*: the oracle has no words for it;
- *always says it*: the oracle cannot leave it out;
- *ours on purpose*: both could, ours is otherwise for a reason;
- *open*: ours should change.
",
        version("a2"),
        version("fcm-rs")
    )
}

/// The version of a crate that was resolved.
fn version(name: &str) -> &'static str {
    let lock = include_str!("../../Cargo.lock");
    let package = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = lock.split_once(&package).unwrap();
    rest.split('"').next().unwrap()
}

async fn report() -> Report {
    let wire = Wire::start().await;
    let section = |title: &str, theirs, compared, explanations| Section {
        title: title.to_owned(),
        columns: ["ours", theirs],
        compared,
        explanations,
    };
    let sections = [
        section("APNs: what is sent", "a2", apns::compared(&wire).await, explained::APNS),
        section("APNs: what is refused before it is sent", "a2", apns::refusals(&wire).await, explained::APNS_REFUSALS),
        section("APNs: what is understood of answers", "a2", apns::answers(&wire).await, explained::APNS_ANSWERS),
        section("FCM: what is sent", "fcm-rs", fcm::compared(&wire).await, explained::FCM),
        section("FCM: what is refused before it is sent", "fcm-rs", fcm::refusals(&wire).await, explained::FCM_REFUSALS),
        section("FCM: what is understood of answers", "fcm-rs", fcm::answers(&wire).await, explained::FCM_ANSWERS),
    ];
    wire.stop().await;
    Report::new(&introduction(), &sections, ENDING)
}

#[tokio::test]
async fn every_difference_is_in_the_table_and_the_table_has_no_other() {
    let report = report().await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("DIFFERENCES.md");
    if std::env::var_os("ORACLES_WRITE").is_some() && report.problems.is_empty() {
        std::fs::write(&file, &report.text).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    let problems = report.problems_beside(&committed);
    assert!(problems.is_empty(), "{} problem(s):\n{}", problems.len(), problems.join("\n"));
}
