//! The demo as a user runs it: the real program, its exit code and what it leaves behind.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "what fails in a helper fails the test; a test tells what it saw")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// The longest that a whole run may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(30);

/// The demo with its temporary files where the test can look.
fn demo(place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(arguments).env("TMPDIR", place).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A started demo that is killed when it takes too long, so that whoever waits for it fails and does not hang.
struct Limited {
    child: Child,
    /// Dropped: it is over.
    over: Option<mpsc::SyncSender<()>>,
    watch: Option<JoinHandle<()>>,
}

impl Limited {
    fn start(mut command: Command) -> Self {
        let child = command.spawn().unwrap();
        let pid = pid(&child);
        let (over, watched) = mpsc::sync_channel::<()>(1);
        let watch = std::thread::spawn(move || {
            if watched.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        Self { child, over: Some(over), watch: Some(watch) }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
        // A test that failed leaves no demo running; one that did not has waited for its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Waits for its end; what it wrote.
fn finish(command: Command) -> Output {
    let mut demo = Limited::start(command);
    let (out, err) = (demo.child.stdout.take(), demo.child.stderr.take());
    let err = std::thread::spawn(move || read(err));
    let stdout = read(out);
    Output { status: demo.child.wait().unwrap(), stdout, stderr: err.join().unwrap() }
}

fn read(from: Option<impl Read>) -> Vec<u8> {
    let mut all = Vec::new();
    from.unwrap().read_to_end(&mut all).unwrap();
    all
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn nothing_left(place: &Path) {
    let left: Vec<_> = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let running: Vec<_> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| line.contains(place.to_str().unwrap()))
        .collect();
    assert!(running.is_empty(), "still running: {running:?}");
}

#[track_caller]
fn passes(arguments: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    let arguments = [&["--selftest", "--json"], arguments].concat();
    let output = finish(demo(place.path(), &arguments));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let lines: Vec<Value> =
        String::from_utf8(output.stdout.clone()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    println!("{last}");
    assert_eq!(last["result"], "passed", "{}", text(&output));
    assert!(lines.len() > 30 && lines.iter().rev().skip(1).all(|step| step["ok"] == true), "{}", text(&output));
    nothing_left(place.path());
}

#[test]
fn every_step_is_seen_with_the_dialect_of_seed_0() {
    passes(&["--seed", "0"]);
}

#[test]
fn every_step_is_seen_with_the_dialect_of_seed_1() {
    passes(&["--seed", "1"]);
}

#[test]
fn every_step_is_seen_with_the_dialect_of_seed_2() {
    passes(&["--seed", "2"]);
}

#[test]
fn every_step_is_seen_when_calls_come_through_the_call_api() {
    passes(&["--seed", "1", "--calls", "call-api"]);
}

#[test]
fn people_get_a_tick_for_each_step_within_80_columns() {
    let place = tempfile::tempdir().unwrap();
    let output = finish(demo(place.path(), &["--selftest", "--seed", "0"]));
    assert!(output.status.success(), "{}", text(&output));
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(shown.lines().filter(|line| line.starts_with("  ✓ ")).count() > 30, "{shown}");
    let wide: Vec<_> = shown.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:?}");
}

#[test]
fn a_step_that_is_not_seen_fails_the_run_and_keeps_the_agents_log() {
    let place = tempfile::tempdir().unwrap();
    let mut demo = Limited::start(demo(place.path(), &["--selftest", "--seed", "0"]));
    let child = &mut demo.child;
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut shown = String::new();
    while !shown.contains("A conference") {
        assert!(out.read_line(&mut shown).unwrap() > 0, "{shown}");
    }
    kill(agent_of(place.path()), Signal::SIGKILL).unwrap();
    out.read_to_string(&mut shown).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{shown}");
    assert!(["  ✗ ", "expected  ", "seen      ", "Failed at step"].iter().all(|part| shown.contains(part)), "{shown}");
    let log = shown.lines().find_map(|line| line.trim().strip_prefix("agent's log")).unwrap().trim();
    assert!(Path::new(log).is_file(), "{shown}");
}

/// The agent whose configuration is under this directory.
fn agent_of(place: &Path) -> Pid {
    let started = |id: &i32| {
        let line = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.contains("elph-agent") && line.contains(place.to_str().unwrap())
    };
    let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    Pid::from_raw(ids.into_iter().find(started).unwrap())
}

#[test]
fn people_are_greeted_with_a_dozen_commands_within_80_columns() {
    let place = tempfile::tempdir().unwrap();
    let mut demo = Limited::start(demo(place.path(), &["--seed", "4"]));
    let child = &mut demo.child;
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut shown = String::new();
    while !shown.contains("Ctrl-C") {
        assert!(out.read_line(&mut shown).unwrap() > 0, "{shown}");
    }
    kill(pid(child), Signal::SIGINT).unwrap();
    out.read_to_string(&mut String::new()).unwrap();
    assert!(child.wait().unwrap().success());
    nothing_left(place.path());
    assert!(shown.lines().filter(|line| line.contains("elphctl --socket")).count() >= 12, "{shown}");
    assert!(shown.contains("seed 4") && shown.contains("/elph/auth/realms/elph.local/account"), "{shown}");
    // The paths' lengths are not ours.
    let wide: Vec<_> = shown.lines().filter(|line| !line.contains(place.path().to_str().unwrap()) && line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:?}");
}

#[test]
fn the_demo_says_where_everything_is_and_a_signal_ends_it_without_a_trace() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let place = tempfile::tempdir().unwrap();
        let mut demo = Limited::start(demo(place.path(), &["--json", "--seed", "3"]));
        let child = &mut demo.child;
        let mut first = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut first).unwrap();
        let said: Value = serde_json::from_str(&first).unwrap();
        assert_eq!(said["seed"], 3, "{said}");
        assert!(Path::new(said["socket"].as_str().unwrap()).exists(), "{said}");
        let tried = said["try"].as_array().unwrap();
        assert!(tried.len() >= 12, "{said}");
        for line in tried.iter().map(|line| line.as_str().unwrap()).filter(|line| !line.ends_with("watch")) {
            let done = Command::new("sh").args(["-c", line]).output().unwrap();
            assert!(done.status.success(), "{line}: {}", text(&done));
        }
        // Something happens.
        let mut news = String::new();
        out.read_line(&mut news).unwrap();
        assert!(news.contains("event"), "{news}");
        kill(pid(child), signal).unwrap();
        let rest = String::from_utf8(read(Some(out))).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() && rest.ends_with("{\"ended\":true}\n"), "{signal}: {status}\n{rest}");
        nothing_left(place.path());
    }
}
