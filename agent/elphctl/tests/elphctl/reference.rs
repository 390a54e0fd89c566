//! What needs no agent: reasons, completions, man pages, help.

use std::fs;

use elph_proto::reason::Reason;

use crate::{support::Stage, world::world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reason_is_explained() {
    let stage = Stage::new(world());
    let ran = stage.run(&["reasons"]).await;
    assert_eq!(ran.code, 0);
    for reason in Reason::ALL {
        assert!(ran.out.contains(reason.as_str()) && ran.out.contains(reason.meaning()), "{}", reason.as_str());
    }
    let ran = stage.run(&["reasons", "party_busy", "--json"]).await;
    let object: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(object["reasons"][0]["code"], "FAILED_PRECONDITION");
    assert_eq!(stage.run(&["reasons", "NO_SUCH"]).await.code, 6);
    assert!(stage.fake.state().seen.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_and_man_pages_are_made() {
    let stage = Stage::new(world());
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef elphctl"), ("fish", "complete -c elphctl")] {
        let ran = stage.run(&["completions", shell]).await;
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains(mark) && ran.out.contains("mute-all") && ran.out.contains("send-many"), "{shell}");
    }
    let page = stage.run(&["man"]).await.out;
    for part in [".SH EXIT STATUS", ".SH ENVIRONMENT", ".SH EXAMPLES", "The agent\\*(Aqs Unix socket", "outcome unknown"] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
    let folder = stage.path("man");
    assert_eq!(stage.run(&["man", folder.to_str().unwrap()]).await.code, 0);
    assert_eq!(fs::read_to_string(folder.join("elphctl.1")).unwrap(), page);
    let leaf = fs::read_to_string(folder.join("elphctl-conf-mute-all.1")).unwrap();
    assert!(leaf.contains("may unmute themselves") && leaf.contains("elphctl\\-conf\\-mute\\-all"), "{leaf}");
    let push = fs::read_to_string(folder.join("elphctl-push-test.1")).unwrap();
    assert!(push.contains("what its provider answered") && push.contains("\\-\\-request\\-id"), "{push}");
    assert!(leaf.lines().any(|line| line.starts_with(".TH") && line.contains("\"elphctl 0.")), "{leaf}");
    // every command has its page, and what a page refers to exists
    let names: Vec<String> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for name in &names {
        for line in fs::read_to_string(folder.join(name)).unwrap().lines() {
            if let Some(page) = line.strip_suffix("(1)") {
                assert!(names.contains(&format!("{}.1", page.replace('\\', ""))), "{name} refers to {page}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn help_documents_exit_codes_and_fits_into_80_columns() {
    let stage = Stage::new(world());
    let ran = stage.run_at(80, &["--help"]).await;
    assert_eq!(ran.code, 0);
    for part in ["Exit codes:", "4  outcome unknown", "ELPHCTL_TOKEN", "elphctl.toml", "/run/elph-agent/grpc.sock"] {
        assert!(ran.out.contains(part), "{part}");
    }
    for line in ran.out.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let ran = stage.run(&["conf", "mute-all", "5f0c"]).await;
    assert_eq!(ran.code, 2, "whether they may unmute themselves must be said");
    assert!(ran.err.contains("--may-unmute"));
}
