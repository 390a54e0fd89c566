//! The rules of ARCHITECTURE.md that a machine can check: which crate may use which, what must be absent, where things are declared.
//! A failure lists every breach with what to do about it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails in a helper fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// A folder and what its crates may use beside each other. The first that fits a crate's path is its room.
struct Room {
    path: &'static str,
    may_use: &'static [&'static str],
    /// What its tests may use on top.
    tests_may_use: &'static [&'static str],
}

const fn room(path: &'static str, may_use: &'static [&'static str], tests_may_use: &'static [&'static str]) -> Room {
    Room { path, may_use, tests_may_use }
}

/// The whole dependency direction. Simulators stand on the switch's side and share nothing: no misreading can hide in both.
const ROOMS: &[Room] = &[
    room("proto/shell", &[], &[]),
    room("proto", &[], &[]),
    room("mediator-client", &[], &["tests/ssw-sim"]),
    room("push", &["proto"], &["tests/push-sim"]),
    room("agent/policy", &["proto", "push"], &[]),
    room("agent/elphctl", &["proto"], &["agent", "tests/ssw-sim"]),
    room("agent", &["proto", "proto/shell", "mediator-client", "push", "agent/policy"], &["tests/ssw-sim", "tests/push-sim"]),
    room("server-suite", &["proto", "proto/shell"], &["tests/ssw-sim", "tests/push-sim"]),
    room("tests/ssw-sim", &[], &[]),
    room("tests/push-sim", &[], &[]),
    room(
        "tests",
        &["proto", "proto/shell", "mediator-client", "push", "agent", "agent/elphctl", "server-suite", "tests/ssw-sim", "tests/push-sim"],
        &[],
    ),
];

/// Inside `mediator-client`: the three protocols stand on the vocabulary, the front on the protocols. The Call API's plain HTTP form
/// carries the terminal's documents, so it reads them with the terminal's codec. Inside `push`: senders, registry and queue stand on the
/// vocabulary and know nothing of each other; HTTP/2 for APNs knows not even that.
const FAMILY: &[(&str, &[&str])] = &[
    ("ecss-switch", &[]),
    ("ecss-terminal", &["ecss-switch"]),
    ("ecss-csta", &["ecss-switch"]),
    ("ecss-call-api", &["ecss-switch", "ecss-terminal"]),
    ("mediator-client", &["ecss-switch", "ecss-terminal", "ecss-call-api", "ecss-csta"]),
    ("push-core", &[]),
    ("push-http", &["push-core"]),
    ("push-wire", &[]),
    ("push-apns", &["push-core", "push-wire"]),
    ("push-fcm", &["push-core", "push-http"]),
    ("push-web", &["push-core", "push-http"]),
    ("push-stub", &["push-core"]),
    ("push-registry", &["push-core"]),
    ("push-queue", &["push-core"]),
];

/// Inside `server-suite`: what is shared, services that know nothing of each other, and the program that has them all. The proxy is a
/// program of its own. What only tests use comes second.
const SUITE: &[(&str, &[&str], &[&str])] = &[
    ("elph-kit", &[], &[]),
    ("elph-kit-testing", &["elph-kit"], &[]),
    ("elph-status", &["elph-kit"], &["elph-kit-testing"]),
    ("elph-sso", &["elph-kit"], &["elph-kit-testing"]),
    ("elph-server", &["elph-kit", "elph-sso", "elph-status"], &["elph-kit-testing"]),
    ("elph-proxy", &[], &[]),
];

/// What may lie at the top of the repository, dot-files and dot-folders aside.
const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "agent",
    "clippy.toml",
    "deny.toml",
    "mediator-client",
    "packaging",
    "proto",
    "push",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "server-suite",
    "tests",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The crates of the workspace and what they declare.
fn metadata() -> Metadata {
    let locked = ["--locked".to_owned()];
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().other_options(locked).exec().unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn manifest(path: &Path) -> toml::Table {
    toml::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn none(breaches: &[String]) {
    assert!(breaches.is_empty(), "{} breach(es):\n  {}", breaches.len(), breaches.join("\n  "));
}

// === which crate may use which ===

fn room_of(path: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| path == room.path || path.strip_prefix(room.path).is_some_and(|rest| rest.starts_with('/')))
}

/// Path of each crate of the workspace inside the repository, by the crate's name.
fn members(metadata: &Metadata) -> BTreeMap<String, String> {
    let place = |manifest: &Path| manifest.parent().unwrap().strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    let packages = metadata.workspace_packages();
    packages.iter().map(|package| (package.name.to_string(), place(package.manifest_path.as_std_path()))).collect()
}

/// Breaches of the direction between rooms, for edges (crate, what it uses, for tests only).
fn against_the_direction<'a>(members: &BTreeMap<String, String>, edges: impl Iterator<Item = (&'a str, &'a str, bool)>) -> Vec<String> {
    let mut breaches = Vec::new();
    for (user, used, for_tests) in edges {
        let (from, to) = (&members[user], &members[used]);
        let (Some(room), Some(target)) = (room_of(from), room_of(to)) else {
            breaches.push(format!("{user} ({from}) or {used} ({to}) lies in no known room: give it one in ROOMS"));
            continue;
        };
        let allowed =
            room.path == target.path || room.may_use.contains(&target.path) || (for_tests && room.tests_may_use.contains(&target.path));
        if !allowed {
            breaches.push(format!("{user} ({}) must not use {used} ({}); it may use {:?}", room.path, target.path, room.may_use));
        }
    }
    breaches
}

#[test]
fn no_dependency_runs_against_the_direction_between_the_rooms() {
    let metadata = metadata();
    let members = members(&metadata);
    let packages = metadata.workspace_packages();
    let edges = packages.iter().flat_map(|package| {
        let ours = package.dependencies.iter().filter(|used| members.contains_key(&used.name));
        ours.map(|used| (package.name.as_str(), used.name.as_str(), used.kind == DependencyKind::Development))
    });
    none(&against_the_direction(&members, edges));
    let homeless = members.iter().filter(|(_, path)| room_of(path).is_none());
    none(&homeless.map(|(name, path)| format!("{name} ({path}) lies in no known room: give it one in ROOMS")).collect::<Vec<_>>());
}

#[test]
fn the_direction_check_sees_each_forbidden_edge() {
    let places = [
        ("elph-proto", "proto"),
        ("ecss-csta", "mediator-client/csta"),
        ("apns", "push/apns"),
        ("elph-agent", "agent"),
        ("elphctl", "agent/elphctl"),
        ("chat", "server-suite/chat"),
        ("ssw-core", "tests/ssw-sim/core"),
        ("stray", "stray"),
    ];
    let members: BTreeMap<String, String> = places.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect();
    let seen = |user, used, for_tests| against_the_direction(&members, [(user, used, for_tests)].into_iter()).len() == 1;
    let forbidden = [
        ("elph-proto", "ecss-csta"),
        ("ecss-csta", "elph-proto"),
        ("ecss-csta", "elph-agent"),
        ("ecss-csta", "apns"),
        ("ecss-csta", "ssw-core"),
        ("apns", "ecss-csta"),
        ("elphctl", "elph-agent"),
        ("elphctl", "ecss-csta"),
        ("chat", "ecss-csta"),
        ("chat", "elph-agent"),
        ("ssw-core", "ecss-csta"),
        ("ssw-core", "elph-agent"),
        ("ssw-core", "elph-proto"),
        ("elph-agent", "elphctl"),
        ("elph-agent", "ssw-core"),
        ("elph-agent", "stray"),
    ];
    for (user, used) in forbidden {
        assert!(seen(user, used, false), "{user} -> {used} went unnoticed");
    }
    for (user, used) in [("ssw-core", "ecss-csta"), ("chat", "elph-agent"), ("ecss-csta", "elph-proto")] {
        assert!(seen(user, used, true), "{user} -> {used} is forbidden to tests too");
    }
    for (user, used, for_tests) in [("elph-agent", "elph-proto", false), ("elph-agent", "ssw-core", true), ("chat", "elph-proto", false)] {
        assert!(!seen(user, used, for_tests), "{user} -> {used} is allowed");
    }
}

#[test]
fn inside_mediator_client_and_push_everything_stands_on_the_vocabulary() {
    let metadata = metadata();
    let members = members(&metadata);
    let mut breaches = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        if room_of(&members[name]).is_none_or(|room| !["mediator-client", "push"].contains(&room.path)) {
            continue;
        }
        let Some((_, may_use)) = FAMILY.iter().find(|(known, _)| *known == name) else {
            breaches.push(format!("{name} is new in its room: give it a place in FAMILY"));
            continue;
        };
        let shipped = package.dependencies.iter().filter(|used| used.kind != DependencyKind::Development);
        let inside = shipped.filter(|used| FAMILY.iter().any(|(known, _)| *known == used.name));
        let wrong = inside.filter(|used| !may_use.contains(&used.name.as_str()));
        breaches.extend(wrong.map(|used| format!("{name} must not use {}; it may use {may_use:?}", used.name)));
    }
    none(&breaches);
}

/// Everything that a crate links or is built with, through all levels, as `cargo tree` tells: unlike the metadata, it knows which optional
/// dependencies are really on.
fn linked(name: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = ["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}", "--package", name];
    let output = Command::new(cargo).args(tree).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<String> = text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(names.contains(name) && names.contains("bytes"), "cargo tree says too little about {name}: {names:?}");
    names
}

#[test]
fn mediator_client_knows_nothing_of_grpc_or_push_and_push_nothing_of_grpc_or_calls() {
    const SWITCH: [&str; 6] = ["tonic", "tonic-prost", "prost", "elph-proto", "elph-agent", "push-core"];
    const PUSH: [&str; 7] = ["tonic", "tonic-prost", "elph-proto", "elph-agent", "elph-policy", "elph-model", "ecss-switch"];
    let mut breaches = Vec::new();
    for (name, _) in FAMILY {
        let linked = linked(name);
        let forbidden: &[&str] = if name.starts_with("push-") { &PUSH } else { &SWITCH };
        let foreign = forbidden.iter().filter(|foreign| linked.contains(**foreign));
        breaches.extend(foreign.map(|foreign| format!("{name} links {foreign}")));
    }
    none(&breaches);
}

#[test]
fn http_2_for_apns_does_no_io() {
    let linked = linked("push-wire");
    let foreign = ["tokio", "rustls", "push-core", "parking_lot"].into_iter().filter(|foreign| linked.contains(*foreign));
    none(&foreign.map(|foreign| format!("push-wire links {foreign}")).collect::<Vec<_>>());
}

#[test]
fn services_of_the_suite_know_what_is_shared_and_not_each_other() {
    let metadata = metadata();
    let members = members(&metadata);
    let mut breaches = Vec::new();
    for package in metadata.workspace_packages().into_iter().filter(|it| members[it.name.as_str()].starts_with("server-suite/")) {
        let Some((name, may_use, tests_may_use)) = SUITE.iter().find(|(name, ..)| *name == package.name.as_str()) else {
            breaches.push(format!("{} is not in SUITE: say what it may use", package.name));
            continue;
        };
        let used = package.dependencies.iter().filter(|used| SUITE.iter().any(|(name, ..)| *name == used.name));
        let wrong = used.filter(|used| {
            let for_tests = used.kind == DependencyKind::Development && tests_may_use.contains(&used.name.as_str());
            !for_tests && !may_use.contains(&used.name.as_str())
        });
        breaches.extend(wrong.map(|used| format!("{name} must not use {}", used.name)));
    }
    none(&breaches);
}

#[test]
fn every_program_has_one_tls_and_it_is_aws_lc() {
    let mut breaches = Vec::new();
    for program in ["elph-agent", "elphctl", "ssw-sim", "elph-server"] {
        let linked = linked(program);
        let foreign = ["ring", "openssl", "openssl-sys", "native-tls", "boring"].into_iter().filter(|foreign| linked.contains(*foreign));
        breaches.extend(foreign.map(|foreign| format!("{program} links {foreign}")));
        if !linked.contains("aws-lc-rs") {
            breaches.push(format!("{program} links no aws-lc-rs"));
        }
    }
    none(&breaches);
}

// === where things are declared ===

#[test]
fn every_dependency_is_declared_once_with_what_it_is_for() {
    let text = read(&root().join("Cargo.toml"));
    let section = text.split("[workspace.dependencies]").nth(1).expect("the workspace declares its dependencies");
    let section = section.split("\n[").next().unwrap_or(section);
    let mut breaches = Vec::new();
    let mut entries = 0;
    for line in section.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase())) {
        entries += 1;
        let purpose = line.rsplit_once('#').map_or("", |(_, purpose)| purpose.trim());
        // our own crates say it in their own headers
        if purpose.is_empty() && !line.contains("path =") {
            breaches.push(format!("the root Cargo.toml does not say what this is for: {line}"));
        }
    }
    assert!(entries > 30, "only {entries} dependencies were found");
    for package in metadata().workspace_packages() {
        let table = manifest(package.manifest_path.as_std_path());
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = table.get(kind).and_then(toml::Value::as_table) else { continue };
            let own = |value: &toml::Value| value.get("workspace").and_then(toml::Value::as_bool) != Some(true);
            // A crate's tests may turn on a feature of its own.
            for (name, _) in dependencies.iter().filter(|(name, value)| own(value) && name.as_str() != package.name.as_str()) {
                breaches.push(format!("{} declares {name} itself; it belongs into the root Cargo.toml", package.name));
            }
        }
    }
    none(&breaches);
}

#[test]
fn unsafe_code_is_forbidden_and_every_crate_obeys_the_workspace_lints() {
    let table = manifest(&root().join("Cargo.toml"));
    assert_eq!(table["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    let obeys = |path: &Path| manifest(path).get("lints").and_then(|lints| lints.get("workspace")?.as_bool()) == Some(true);
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    let disobedient = packages.iter().filter(|package| !obeys(package.manifest_path.as_std_path()));
    none(&disobedient.map(|package| format!("{} lacks [lints] workspace = true", package.name)).collect::<Vec<_>>());
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    let mut breaches = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // `target` is cargo's and never committed
        if !name.starts_with('.') && name != "target" && !TOP_LEVEL.contains(&name.as_str()) {
            breaches.push(format!("{name} does not belong at the top of the repository"));
        }
    }
    none(&breaches);
}

// === what must be absent from the sources ===

/// Every Rust source of the repository, this file aside: it names what it forbids.
fn sources() -> Vec<(String, String)> {
    let rooms = ["agent", "mediator-client", "proto", "push", "server-suite", "tests"];
    let mut folders: Vec<PathBuf> = rooms.iter().map(|name| root().join(name)).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !["target", "node_modules"].contains(&name.as_str()) && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") && !path.ends_with("e2e/tests/architecture.rs") {
                found.push((path.strip_prefix(root()).unwrap().display().to_string(), read(&path)));
            }
        }
    }
    assert!(found.len() > 20, "only {} sources were found", found.len());
    found
}

fn is_unbounded(line: &str) -> bool {
    let code = line.split_once("//").map_or(line, |(code, _)| code).to_lowercase();
    ["unbounded_channel", "unbounded(", "unboundedsender", "unboundedreceiver", "mpsc::channel()"].iter().any(|word| code.contains(word))
}

#[test]
fn no_channel_is_unbounded() {
    assert!(is_unbounded("let (tx, rx) = mpsc::unbounded_channel::<Event>();") && !is_unbounded("// never an unbounded_channel"));
    let mut places = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().enumerate().filter(|(_, line)| is_unbounded(line));
        places.extend(lines.map(|(at, line)| format!("{path}:{}: {}", at + 1, line.trim())));
    }
    none(&places);
}

/// Lines at which documentation opens an example that only `cargo test --doc` would run.
fn runnable_examples(text: &str) -> Vec<usize> {
    let mut inside = false;
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).map(str::trim_start);
        let Some(language) = doc.and_then(|doc| doc.strip_prefix("```")) else { continue };
        let foreign = ["text", "toml", "json", "xml", "sh", "console", "ignore"].iter().any(|known| language.starts_with(known));
        if !inside && !foreign {
            found.push(at + 1);
        }
        inside = !inside;
    }
    found
}

#[test]
fn no_example_in_documentation_goes_unrun() {
    assert_eq!(runnable_examples("/// ```\n/// f();\n/// ```\n/// ```text\n/// a\n/// ```\n//! ```rust\n//! ```"), [1, 7]);
    let places = sources().into_iter().flat_map(|(path, text)| runnable_examples(&text).into_iter().map(move |at| format!("{path}:{at}")));
    none(&places.map(|place| format!("{place}: make this example a test: doc tests are not run")).collect::<Vec<_>>());
}
