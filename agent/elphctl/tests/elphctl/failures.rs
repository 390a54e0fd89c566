//! What people and programs are told when it goes wrong, and the exit codes.

use std::collections::HashMap;

use elph_proto::{reason::Reason, v1::InvitationResult};
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{
    support::{Stage, finish},
    world::{MEETING, TALKING, world},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_refusal_has_its_line_and_exit_code() {
    let stage = Stage::new(world());
    for (reason, code, expected) in [
        (
            Reason::ConferenceFull,
            1,
            "elphctl: CONFERENCE_FULL: The conference has all the participants it may have.\n  agent: told by the test\n",
        ),
        (Reason::InvalidRequest, 2, "elphctl: INVALID_REQUEST: "),
        (Reason::SwitchUnavailable, 3, "hint: 'elphctl links' shows"),
        (Reason::TooManyCommands, 3, "repeat: elphctl conf lock"),
        (Reason::OutcomeUnknown, 4, "look:   elphctl conf get"),
        (Reason::ModeratorTokenRequired, 5, "hint: give a moderator's access token with --token-file"),
        (Reason::MissingScope, 5, "elphctl: MISSING_SCOPE: "),
        (Reason::UnknownConference, 6, "elphctl: UNKNOWN_CONFERENCE: "),
        (Reason::VersionChanged, 7, "--if-version"),
    ] {
        stage.fake.fail("LockConference", reason.status("told by the test"));
        let ran = stage.run(&["conf", "lock", MEETING]).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{}", ran.err);
        assert!(ran.err.contains(expected), "{}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_metadata_and_delays_are_told() {
    let stage = Stage::new(world());
    stage.fake.fail("MakeCall", Reason::invalid(vec![FieldViolation::new("to_number", "must be 1 to 32 digits")]));
    let ran = stage.run(&["calls", "make", "1042", "x"]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.ends_with("which and why.\n  to_number: must be 1 to 32 digits\n"), "{}", ran.err);
    let metadata = HashMap::from([("switch_text".to_owned(), "no\u{1b}[31m".to_owned())]);
    stage.fake.fail("MakeCall", Reason::SwitchRefused.status_with("", metadata));
    let ran = stage.run(&["calls", "make", "1042", "1"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("\n  switch text: no\u{fffd}[31m\n"), "{}", ran.err);
    let mut details = ErrorDetails::with_error_info(Reason::TooManyAttempts.as_str(), elph_proto::reason::ERROR_DOMAIN, HashMap::new());
    details.set_retry_info(Some(std::time::Duration::from_millis(29_500)));
    stage.fake.fail("AuthenticateSubscriber", Status::with_error_details(Code::ResourceExhausted, "", details));
    let ran = stage.run_with_input(&["directory", "authenticate", "1042"], "x").await;
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("\n  try again in 30 s\n"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_get_the_error_as_one_object() {
    let stage = Stage::new(world());
    stage.fake.fail("LockConference", Reason::OutcomeUnknown.status("no answer"));
    let ran = stage.run(&["conf", "lock", "5f0c", "--json", "--request-id", "mine"]).await;
    assert_eq!((ran.code, ran.err.lines().count()), (4, 1));
    let error = &serde_json::from_str::<Value>(&ran.err).unwrap()["error"];
    assert_eq!((&error["reason"], &error["code"], &error["exitCode"]), (&"OUTCOME_UNKNOWN".into(), &"UNKNOWN".into(), &4.into()));
    assert_eq!((&error["requestId"], &error["message"]), (&"mine".into(), &"no answer".into()));
    assert_eq!(error["look"], format!("elphctl conf get {MEETING}"));
    stage.fake.fail("MakeCall", Reason::invalid(vec![FieldViolation::new("to_number", "bad")]));
    let ran = stage.run(&["calls", "make", "1", "x", "--json"]).await;
    let error = &serde_json::from_str::<Value>(&ran.err).unwrap()["error"];
    assert_eq!(error["fieldViolations"][0]["field"], "to_number");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_not_there_is_exit_3_and_nothing_is_said_to_have_been_done() {
    let stage = Stage::new(world());
    let ran = stage.run(&["calls", "release", TALKING, "--socket", "/nowhere/grpc.sock"]).await;
    assert_eq!(ran.code, 3);
    assert!(ran.err.starts_with("elphctl: cannot reach the agent at /nowhere/grpc.sock: No such file or directory"), "{}", ran.err);
    assert!(ran.err.contains("hint: is elph-agent running") && !ran.err.contains("repeat"), "{}", ran.err);
}

/// TRIAL 9 and amendment 2 as the operator meets them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_without_an_answer_is_of_unknown_outcome_and_its_advice_repeats_it_with_the_same_id() {
    let stage = Stage::new(world());
    stage.fake.state().hanging.insert("RemoveParticipant");
    let ran = stage.run(&["conf", "remove", "5f0c", "1043", "--timeout", "2s"]).await;
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("may or may not have been executed"), "{}", ran.err);
    let advice = ran.err.lines().find_map(|line| line.trim().strip_prefix("repeat: elphctl ")).unwrap().to_owned();
    assert!(advice.contains(&format!("conf remove {MEETING} p-2")), "{advice}");
    stage.fake.state().hanging.clear();
    // The participant has left meanwhile: the advice means the same still.
    stage.fake.state().conferences[0].participants.remove(1);
    let ran = stage.run(&advice.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let seen = stage.fake.seen("RemoveParticipant");
    assert_eq!((seen.len(), &seen[0].text), (2, &seen[1].text), "the same request, with the same id");
    // An error that no agent gave reasons for (a proxy's, the transport's) leaves the outcome open too; a question is just unanswered.
    stage.fake.fail("LockConference", Status::unavailable("stream reset"));
    assert_eq!(stage.run(&["conf", "lock", "5f0c"]).await.code, 4);
    stage.fake.state().hanging.insert("ListLinks");
    let ran = stage.run(&["links", "--timeout", "2s"]).await;
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("no answer from") && !ran.err.contains("repeat"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invitations_that_were_refused_are_shown_and_are_exit_1() {
    let stage = Stage::new(world());
    let called = InvitationResult { number: "1050".into(), participant_id: "p-9".into(), ..Default::default() };
    let refused =
        InvitationResult { number: "1051".into(), reason: "CONFERENCE_FULL".into(), message: "full".into(), ..Default::default() };
    stage.fake.state().invitations = vec![called, refused];
    let ran = finish(stage.command(&["conf", "invite", "5f0c", "1050", "1051"]).env("COLUMNS", "120").spawn().unwrap()).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "elphctl: 1 of 2 numbers were refused\n"));
    assert!(ran.out.contains("1050    p-9          being called\n"), "{}", ran.out);
    assert!(ran.out.contains("CONFERENCE_FULL: The conference has all the participants it may have."), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_is_no_error() {
    let stage = Stage::new(world());
    let mut child = stage.command(&["reasons"]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = finish(child).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_certificate_or_key_is_named() {
    let stage = Stage::new(world());
    let (good, bad) = (stage.path("good.pem"), stage.path("bad.pem"));
    std::fs::write(&good, "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").unwrap();
    std::fs::write(&bad, "not in PEM\n").unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    for (ca, cert, key, expected) in [
        (bad, good, good, format!("elphctl: --ca: {bad} holds no certificate in PEM\n")),
        (good, bad, good, format!("elphctl: --cert: {bad} holds no certificate in PEM\n")),
        (good, good, good, format!("elphctl: --key: {good} holds no private key in PEM\n")),
        (good, good, "/no/such/key", "elphctl: --key: cannot read /no/such/key: No such file".to_owned()),
    ] {
        let ran = stage.run(&["--server", "https://127.0.0.1:1", "--ca", ca, "--cert", cert, "--key", key, "links"]).await;
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains(&expected), "{}", ran.err);
    }
}
