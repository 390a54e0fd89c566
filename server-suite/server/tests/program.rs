//! The program from outside: what is committed is up to date, and a wrong configuration is refused with its line.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    path::Path,
    process::{Command, Output},
};

fn elph_server(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_elph-server")).args(arguments).env_clear().output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn is_committed(path: &str, arguments: &[&str]) {
    let committed = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default();
    let output = elph_server(arguments);
    assert!(output.status.success(), "{}", text(&output));
    let how = format!("run: elph-server {} > server-suite/server/{path}", arguments.join(" "));
    assert!(String::from_utf8_lossy(&output.stdout) == committed, "{how}");
}

#[test]
fn the_committed_schema_of_the_configuration_is_up_to_date() {
    is_committed("config.schema.json", &["config", "schema"]);
}

#[test]
fn the_committed_openapi_documents_are_up_to_date() {
    is_committed("../status/openapi.json", &["openapi", "status"]);
    is_committed("../sso/openapi.json", &["openapi", "sso"]);
}

#[test]
fn the_example_of_the_configuration_is_accepted() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../elph-server.example.toml");
    let output = elph_server(&["config", "check", "--config", example.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_what_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.toml");
    let wrong = "[[agents]]\naddress = \"10.0.0.1:1\"\ndomains = []\n[database]\nurl = \"mysql://x\"\npasword = \"hunter2\"\n";
    std::fs::write(&path, wrong).unwrap();
    let output = elph_server(&["config", "check", "--config", path.to_str().unwrap()]);
    let told = text(&output);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("server.toml:6: database.pasword: unknown key (did you mean password?)"), "{told}");
    std::fs::write(&path, wrong.replace("pasword = \"hunter2\"\n", "")).unwrap();
    let told = text(&elph_server(&["config", "check", "--config", path.to_str().unwrap()]));
    for part in [
        "server.toml:2: agents[0].address: must begin with unix:",
        ":3: agents[0].domains: is empty",
        ":5: database.url: must begin with sqlite:",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn help_names_every_command_and_a_wrong_one_is_64() {
    let told = text(&elph_server(&["--help"]));
    for part in ["run", "config", "db", "openapi", "SIGHUP", "ELPH_SERVER_CONFIG"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(elph_server(&["dance"]).status.code(), Some(64));
    assert_eq!(elph_server(&["run", "--config", "/nonexistent"]).status.code(), Some(64));
}
