//! A recording is a test: what the production codecs made of a switch's messages when it was recorded, they make of them today. To add one
//! from a real switch: `elph-agent record --pseudonymise`, then a dialect and a summary beside it (`elph-agent replay --json`).

#![expect(clippy::unwrap_used, reason = "a failed test is a failed test; the helper is not a #[test] function itself")]

use std::{path::PathBuf, sync::Arc};

use ecss_switch::{Dialect, Domain};
use elph_agent::{record::Recording, replay};

fn summary(name: &str, dialect: &str) -> serde_json::Value {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let recording = Recording::read(&directory.join(format!("{name}.jsonl"))).unwrap();
    let dialect = Arc::new(Dialect::built_in(dialect).unwrap());
    let summary = replay::run(&recording, &dialect, &Domain::parse("elph.local").unwrap());
    serde_json::to_value(summary).unwrap()
}

#[test]
fn the_recording_of_the_simulator_is_understood_as_when_it_was_made() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/sim-0.summary.json");
    let expected: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(summary("sim-0", "sim"), expected);
}

#[test]
fn with_another_dialect_the_same_recording_says_what_is_not_understood() {
    let summary = summary("sim-0", "documented");
    let problems = summary["problems"].as_object().unwrap();
    assert!(problems.contains_key("call_api: unknown event"), "{problems:?}");
}
