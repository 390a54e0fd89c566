//! The API definition is checked by buf itself: lint, formatting, and that no change breaks a client of the committed image.
//! On a machine where buf cannot be installed the checks are left out and say so; `make test` requires them.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "what fails in a helper fails the test; a test tells what it left out")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The exit code of `proto/check` when there is no buf.
const NO_BUF: i32 = 75;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `proto/check`; `None`: there is no buf, which is only right where nobody requires it.
fn check(what: &str) -> Option<Output> {
    let output = Command::new(root().join("proto/check")).arg(what).output().unwrap();
    if output.status.code() != Some(NO_BUF) {
        return Some(output);
    }
    assert!(std::env::var_os("ELPH_TEST_TOOLS").is_none(), "buf is required here and cannot be installed:\n{}", text(&output));
    println!("left out: buf cannot be installed on this machine:\n{}", text(&output));
    None
}

#[track_caller]
fn passes(what: &str) {
    if let Some(output) = check(what) {
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn the_api_definition_passes_bufs_standard_and_comment_rules() {
    passes("lint");
}

#[test]
fn the_api_definition_is_formatted_as_buf_formats() {
    passes("format");
}

#[test]
fn the_api_definition_breaks_no_client_of_the_committed_image() {
    passes("breaking");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Runs buf in a copy of the definition with one line of `call.proto` changed.
fn buf_after(from: &str, to: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("proto/elph"), &folder.path().join("elph"));
    for name in ["buf.yaml", "elph.agent.v1.binpb"] {
        fs::copy(root().join("proto").join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().join("elph/agent/v1/call.proto");
    let definition = fs::read_to_string(&path).unwrap();
    assert!(definition.contains(from), "call.proto has no '{from}' any more: choose another change for this test");
    fs::write(&path, definition.replacen(from, to, 1)).unwrap();
    Command::new(root().join("target/tools/bin/buf")).args(arguments).current_dir(folder.path()).output().unwrap()
}

#[test]
fn a_field_of_another_type_or_without_a_comment_is_noticed() {
    if check("lint").is_none() {
        return;
    }
    let breaking = ["breaking", "--against", "elph.agent.v1.binpb"];
    let retyped = buf_after("string switch_call_id = 3;", "uint64 switch_call_id = 3;", &breaking);
    assert!(!retyped.status.success() && text(&retyped).contains("switch_call_id"), "{}", text(&retyped));
    let comment = "  // The switch's own id of the call, for looking into the switch's traces; opaque.\n";
    let uncommented = buf_after(comment, "", &["lint"]);
    assert!(!uncommented.status.success() && text(&uncommented).contains("switch_call_id"), "{}", text(&uncommented));
    let reworded = buf_after(comment, "  // Another wording.\n", &breaking);
    assert!(reworded.status.success(), "{}", text(&reworded));
}
