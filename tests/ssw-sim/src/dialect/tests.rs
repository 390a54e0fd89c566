//! The dialect against the agent's files, which are read as data: no code is shared.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::*;

fn agents(name: &str) -> Table {
    let path = format!("{}/../../mediator-client/switch/dialects/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Every leaf (text, number, list) under its dotted path.
fn leaves(path: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                leaves(&format!("{path}.{key}"), value, into);
            }
        }
        other => {
            into.insert(path.to_owned(), other.clone());
        }
    }
}

fn leaves_of(table: &Table) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    leaves("", &Value::Table(table.clone()), &mut found);
    found
}

/// What the vendor documents or was seen in the field for just this purpose; it must not vary.
fn stays(path: &str) -> bool {
    let documented = [
        ".terminal.conferences.element",
        ".terminal.conferences.fields.id",
        ".terminal.conferences.fields.room",
        ".terminal.conferences.fields.count",
        ".terminal.conferences.fields.limit",
        ".terminal.conferences.fields.start",
        ".terminal.members.element",
        ".terminal.members.fields.id",
        ".terminal.members.fields.voice",
        ".terminal.members.fields.state",
        ".terminal.members.fields.master",
        ".terminal.members.fields.hold",
        ".terminal.aliases.element",
        ".terminal.aliases.fields.domain",
        ".terminal.aliases.fields.interface",
        ".terminal.aliases.fields.interface_type",
        ".terminal.requests.calls_history.child.element",
        ".terminal.requests.calls_history.child.fields.domain",
        ".terminal.requests.calls_history.child.fields.limit",
        ".call_api.command_path",
        ".call_api.login_attributes.websocket_control",
    ];
    documented.contains(&path)
        || path.starts_with(".terminal.meetings.")
        || (path.ends_with(".service") && (path.starts_with(".operations.") || path.starts_with(".events.")))
        // True or false: two guesses cannot both be avoided.
        || path.ends_with(".session_expired.without_document")
}

#[test]
fn seed_0_prints_exactly_the_agents_built_in_dialect() {
    let printed: Table = toml::from_str(&SimDialect::from_seed(0).to_toml()).unwrap();
    assert_eq!(leaves_of(&printed), leaves_of(&agents("sim")));
}

#[test]
fn every_other_seed_differs_in_every_open_field_from_both_built_in_dialects() {
    let (sim, documented) = (leaves_of(&agents("sim")), leaves_of(&agents("documented")));
    let random: u64 = rand::random();
    println!("seed {random}");
    for seed in [1, 2, 3, 4, 5, 42, 7_777_777, random] {
        let ours = leaves_of(&SimDialect::from_seed(seed).to_table());
        for (path, value) in &ours {
            if stays(path) || path.starts_with(".refusals.") {
                continue;
            }
            assert_ne!(Some(value), sim.get(path), "seed {seed}: {path} is seed 0's");
            assert_ne!(Some(value), documented.get(path), "seed {seed}: {path} is the documented guess");
        }
        for path in sim.keys().filter(|path| !path.starts_with(".refusals.")) {
            let replaced = ours.contains_key(path)
                || (path.starts_with(".terminal.keepalive.") && ours.contains_key(".terminal.keepalive"))
                || path.starts_with(".call_api.login_attributes.")
                // the filters of another seed may stand on the element inside
                || path.strip_prefix(".terminal.requests.calls_history.fields.").is_some_and(|field| {
                    ours.contains_key(&format!(".terminal.requests.calls_history.child.fields.{field}"))
                })
                || path == ".call_api.event_frame.request_id";
            assert!(replaced, "seed {seed}: nothing takes the place of {path}");
        }
        let refusals: BTreeSet<_> = ours.keys().filter(|path| path.starts_with(".refusals.")).collect();
        assert_eq!(refusals.len(), RefusalCause::ALL.len(), "seed {seed}");
        assert!(refusals.iter().all(|path| !sim.contains_key(*path) && !documented.contains_key(*path)), "seed {seed}");
    }
}

#[test]
fn names_are_distinct_where_they_must_be_and_fit_the_name_field() {
    for seed in 0..300 {
        let dialect = SimDialect::from_seed(seed);
        let distinct = |names: Vec<&String>, what: &str| {
            let set: BTreeSet<_> = names.iter().map(|name| name.to_lowercase()).collect();
            assert_eq!(set.len(), names.len(), "seed {seed}: {what}");
        };
        distinct(dialect.operations.values().map(|shape| &shape.name).collect(), "operations");
        distinct(dialect.events.values().map(|shape| &shape.name).collect(), "events");
        distinct(dialect.refusals.values().collect(), "refusals");
        for (vocabulary, words) in &dialect.words {
            distinct(words.values().collect(), vocabulary);
        }
        for record in [&dialect.terminal.aliases, &dialect.terminal.calls, &dialect.terminal.conferences, &dialect.terminal.members] {
            distinct(record.fields.values().collect(), &record.element);
        }
        for (key, shape) in &dialect.operations {
            distinct(shape.fields.values().chain(shape.fixed.keys()).collect(), key);
            let field = format!("{}{}", dialect.call_api.name_prefix.replace("{service}", &shape.service), shape.name);
            assert!(field.chars().count() <= 32, "seed {seed}: {field}");
        }
        // Events go by their bare name; where there is room for the prefix too, nobody can be misled.
        for shape in dialect.events.values().filter(|_| seed > 0) {
            let field = format!("{}{}", dialect.call_api.name_prefix.replace("{service}", &shape.service), shape.name);
            assert!(field.chars().count() <= 32, "seed {seed}: {field}");
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_dialect() {
    assert_eq!(SimDialect::from_seed(99), SimDialect::from_seed(99));
    assert_ne!(SimDialect::from_seed(99), SimDialect::from_seed(100));
}

#[test]
fn times_go_there_and_back() {
    let dialect = SimDialect::from_seed(0);
    let at: Timestamp = "2026-11-24T21:30:05Z".parse().unwrap();
    assert_eq!(dialect.terminal_time(at), "25.11.2026 00:30:05");
    assert_eq!(dialect.api_time(at), "2026/11/25 00:30:05");
    assert_eq!(dialect.parse_terminal_time("25.11.2026 00:30:05"), Some(at));
    assert_eq!(dialect.parse_terminal_time("yesterday"), None);
}

#[test]
fn a_path_is_matched_part_by_part() {
    let found = match_path("/{domain}/service/{service}/{command}", "/a.b/service/call/make").unwrap();
    assert_eq!(found.get("domain").map(String::as_str), Some("a.b"));
    assert_eq!(found.get("command").map(String::as_str), Some("make"));
    assert_eq!(match_path("/{domain}/service/{service}/{command}", "/a/service/cc/arm/x"), None);
    assert_eq!(match_path("/commands/{name}/progress/{id}", "/commands/x/progress/"), None);
    assert!(match_path("/ws/{domain}", "/ws/a").is_some());
    assert!(match_path("/ping", "/ping").is_some_and(|found| found.is_empty()));
}
