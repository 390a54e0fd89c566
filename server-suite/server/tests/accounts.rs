//! `elph-server accounts` from outside, on a SQLite file.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use nix::{
    pty::openpty,
    sys::termios::{LocalFlags, tcgetattr},
};
use serde_json::Value;

const PASSWORD: &str = "correct horse";

struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = format!("[database]\nurl = \"sqlite:{}\"\n", directory.path().join("elph.db").display());
        std::fs::write(directory.path().join("server.toml"), config).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_elph-server"));
        command.arg("accounts").args(arguments).env_clear().env("ELPH_SERVER_CONFIG", self.path().join("server.toml"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A program that refuses before it reads closes the pipe.
        let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn does(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    }

    #[track_caller]
    fn refuses(&self, arguments: &[&str], input: &str, part: &str) {
        let output = self.run(arguments, input);
        let told = text(&output);
        assert!(output.status.code() == Some(64) && told.contains(part), "{:?}: {told}", output.status.code());
        assert!(!told.contains(PASSWORD), "{told}");
    }

    fn list(&self) -> Vec<Value> {
        serde_json::from_str(&self.does(&["list", "--domain", "biysk.local", "--json"], "")).unwrap()
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn an_account_is_made_changed_listed_and_removed() {
    let stage = Stage::new();
    assert!(stage.list().is_empty(), "the tables are made when they are first needed");
    let add = ["add", "--domain", "biysk.local", "Anna", "--alias", "1001", "--name", "Anna Petrova", "--role", "b", "--role", "a"];
    let told = stage.does(&add, &format!("{PASSWORD}\n"));
    assert!(told.contains("anna of biysk.local is made, with the number 1001"), "{told}");
    assert!(told.contains("warning: biysk.local does not ask local accounts"), "{told}");
    stage.refuses(&add, &format!("{PASSWORD}\n"), "the domain has an account with this login or this number");

    std::fs::write(stage.path().join("password"), "another horse\n").unwrap();
    let file = stage.path().join("password");
    let who = ["--domain", "biysk.local", "anna"];
    let with = |command: &'static str, more: &[&'static str]| [&[command][..], &who, more].concat();
    let mut passwd = with("passwd", &["--password-file"]);
    passwd.push(file.to_str().unwrap());
    stage.does(&passwd, "");
    stage.does(&with("roles", &["moderator"]), "");
    stage.does(&with("disable", &[]), "");
    let all = stage.list();
    assert_eq!(all.len(), 1);
    assert_eq!((&all[0]["login"], &all[0]["disabled"], &all[0]["roles"][0]), (&"anna".into(), &true.into(), &"moderator".into()));
    assert!(all[0].get("password_hash").is_none() && all[0]["created"].as_str().unwrap().ends_with('Z'), "{all:?}");
    let table = stage.does(&["list", "--domain", "biysk.local"], "");
    assert_eq!(table, "LOGIN  ALIAS  STATE     ROLES      NAME\nanna   1001   disabled  moderator  Anna Petrova\n");
    stage.does(&with("enable", &[]), "");
    stage.does(&with("roles", &[]), "");
    assert_eq!((&stage.list()[0]["disabled"], &stage.list()[0]["roles"]), (&false.into(), &Value::Array(Vec::new())));
    stage.does(&with("remove", &[]), "");
    assert!(stage.list().is_empty());
    for command in ["remove", "disable", "enable", "roles"] {
        stage.refuses(&with(command, &[]), "", "the domain has no such account");
    }
}

#[test]
fn weak_missing_and_unreadable_passwords_make_no_account() {
    let stage = Stage::new();
    let add = ["add", "--domain", "biysk.local", "anna", "--alias", "1001"];
    for (input, part) in [
        ("", "no password is given"),
        ("\n", "no password is given"),
        ("short\n", "the password is too short"),
        ("qwerty123456\n", "one of the first that are guessed"),
        ("anna likes cats\n", "name, login or number"),
    ] {
        stage.refuses(&add, input, part);
    }
    stage.refuses(&[&add[..], &["--password-file", "/nonexistent"]].concat(), "", "/nonexistent cannot be read");
    stage.refuses(&["add", "--domain", "biysk.local", "anna b"], &format!("{PASSWORD}\n"), "a login has");
    stage.refuses(&["add", "--domain", "biysk.local", "анна"], &format!("{PASSWORD}\n"), "is no subscriber's number");
    stage.refuses(&["add", "anna"], "", "--domain");
    assert!(stage.list().is_empty());
}

#[test]
fn a_password_that_is_typed_is_asked_for_twice_and_not_shown() {
    let stage = Stage::new();
    for (again, code) in [(PASSWORD, 0), ("another horse", 64)] {
        let terminal = openpty(None, None).unwrap();
        let shown = terminal.slave.try_clone().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_elph-server"));
        command.args(["accounts", "passwd", "--domain", "biysk.local", "anna"]).env_clear();
        command.env("ELPH_SERVER_CONFIG", stage.path().join("server.toml"));
        if code == 0 {
            stage.does(&["add", "--domain", "biysk.local", "anna", "--alias", "1001"], "an old password\n");
        }
        let mut child = command.stdin(terminal.slave).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut keyboard, mut told) = (File::from(terminal.master), BufReader::new(child.stderr.take().unwrap()));
        for (prompt, typed) in [("New password:\n", PASSWORD), ("Again:\n", again)] {
            let mut line = String::new();
            told.read_line(&mut line).unwrap();
            assert_eq!(line, prompt);
            assert!(!tcgetattr(&shown).unwrap().local_flags.contains(LocalFlags::ECHO), "the terminal shows what is typed");
            writeln!(keyboard, "{typed}").unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(tcgetattr(&shown).unwrap().local_flags.contains(LocalFlags::ECHO), "the terminal is as it was");
        let mut rest = String::new();
        told.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, if code == 0 { "" } else { "the two passwords differ\n" });
    }
}
