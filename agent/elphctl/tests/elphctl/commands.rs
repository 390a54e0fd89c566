//! What the commands send: ids from their beginnings, legs and participants as people name them, versions, who speaks.

use std::{fs, process::Command};

use elph_proto::v1::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::Identity;

use crate::{
    support::{Stage, finish},
    world::{MEETING, OVER, RINGING, TALKING, world},
};

/// Runs a command that must succeed, and returns what the method was asked.
async fn sent(stage: &Stage, method: &str, line: &str) -> String {
    let ran = stage.run(&line.split(' ').collect::<Vec<_>>()).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{line}");
    let seen = stage.fake.seen(method);
    seen.last().unwrap_or_else(|| panic!("{line} did not ask for {method}")).text.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_about_calls_asks_for_its_method() {
    let stage = Stage::new(world());
    for (line, method, expected) in [
        ("calls make 1042 1043", "MakeCall", "domain: \"biysk.local\", from_alias: \"1042\", to_number: \"1043\""),
        ("calls answer 3f2b", "AnswerCall", "leg_id: \"L2\", device: \"\""),
        ("calls reject 3f2b --device 1044", "RejectCall", "leg_id: \"\", device: \"1044\""),
        ("calls release 3f2a", "ReleaseCall", TALKING),
        ("calls release-leg 3f2a --leg L1", "ReleaseLeg", "leg_id: \"L1\""),
        ("calls hold 3f2a", "HoldCall", "leg_id: \"L2\""),
        ("calls retrieve 3f2a", "RetrieveCall", "leg_id: \"L1\""),
        ("calls transfer 3f2a 1050", "TransferCall", "to_number: \"1050\""),
        ("calls consult 3f2a 1050", "ConsultCall", "to_number: \"1050\""),
        ("calls deflect 3f2b 1051", "DeflectCall", "to_number: \"1051\""),
        ("calls complete 3f2a 77aa", "CompleteTransfer", "device: \"1042\""),
        ("calls cancel 3f2a 77aa --device 1042", "CancelTransfer", OVER),
        ("calls join 3f2a 3f2b --held-leg L1 --other-leg L9", "JoinCalls", "leg_id: \"L9\""),
        ("calls dtmf 3f2a 12# --request-id mine", "SendDtmf", "request_id: \"mine\""),
    ] {
        let text = sent(&stage, method, line).await;
        assert!(text.contains(expected), "{line}: {text}");
        assert!(!text.contains("request_id: \"\""), "{line}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_about_conferences_asks_for_its_method() {
    let stage = Stage::new(world());
    for (line, method, expected) in [
        ("conf create Daily --room 7001 --invite 1,2 --max 9", "CreateConference", "numbers: [\"1\", \"2\"], max_participants: 9"),
        ("conf create --template weekly --group 5", "CreateConference", "source: Some(Template(\"weekly\"))"),
        ("conf invite 5f0c 1 2 --role presenter", "InviteParticipants", "numbers: [\"1\", \"2\"], role: Presenter"),
        ("conf cancel 5f0c q", "CancelInvitation", "participant_id: \"q-3\""),
        ("conf remove 5f0c 1043", "RemoveParticipant", "participant_id: \"p-2\""),
        ("conf mute 5f0c p-2 --if-version 17", "MuteParticipant", "expected_version: 17, participant_id: \"p-2\""),
        ("conf unmute 5f0c 1043", "UnmuteParticipant", MEETING),
        ("conf ask 5f0c 1043", "AskToUnmute", "p-2"),
        ("conf mute-all 5f0c --may-unmute yes", "MuteAll", "may_unmute_themselves: Some(true)"),
        ("conf mute-all 5f0c --may-unmute no", "MuteAll", "may_unmute_themselves: Some(false)"),
        ("conf floor list 5f0c", "ListFloorRequests", MEETING),
        ("conf floor grant 5f0c 1043", "GrantFloor", "p-2"),
        ("conf floor deny 5f0c 1043", "DenyFloor", "p-2"),
        ("conf role 5f0c 1043 presenter", "SetRole", "role: Presenter"),
        ("conf lock 5f0c", "LockConference", MEETING),
        ("conf unlock 5f0c", "UnlockConference", MEETING),
        ("conf hold 5f0c 1043", "HoldParticipant", "p-2"),
        ("conf retrieve 5f0c 1043", "RetrieveParticipant", "p-2"),
        ("conf move 5f0c 1043 --to 60", "MoveParticipant", "to_conference_id: \"60ff0000-2222-5000-8000-000000000002\""),
        ("conf record start 5f0c", "StartRecording", MEETING),
        ("conf record pause 5f0c", "PauseRecording", MEETING),
        ("conf record resume 5f0c", "ResumeRecording", MEETING),
        ("conf record stop 5f0c", "StopRecording", MEETING),
        ("conf extend 5f0c 30m", "ExtendConference", "seconds: 1800"),
        ("conf end 5f0c", "EndConference", MEETING),
    ] {
        let text = sent(&stage, method, line).await;
        assert!(text.contains(expected), "{line}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_id_is_sent_without_looking_it_up_and_what_is_ambiguous_is_refused() {
    let stage = Stage::new(world());
    sent(&stage, "ReleaseCall", &format!("calls release {TALKING}")).await;
    assert!(stage.fake.seen("ListCalls").is_empty() && stage.fake.seen("ListDomains").is_empty());
    let ran = stage.run(&["calls", "release", "3f2"]).await;
    assert_eq!(ran.code, 2);
    assert_eq!(ran.err, format!("elphctl: 2 calls have an id beginning with 3f2: {TALKING} {RINGING}\n"));
    assert_eq!(stage.run(&["calls", "get", "0123"]).await.code, 6);
    let ran = stage.run(&["calls", "answer", "3f2a"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (2, "elphctl: no leg of the call is alerting: 1042 is held, 1043 is connected\n"));
    stage.fake.state().domains.push(Domain { name: "barnaul.local".into(), ..Default::default() });
    let ran = stage.run(&["calls", "make", "1042", "1043"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (2, "elphctl: name one of the domains with --domain: biysk.local, barnaul.local\n"));
    assert_eq!(stage.fake.seen("ReleaseCall").len(), 1);
    // Who is not in the roster is the agent's to answer: a repetition gets its first answer.
    sent(&stage, "RemoveParticipant", "conf remove 5f0c gone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_and_actor_go_along_and_show_nowhere() {
    let stage = Stage::new(world());
    fs::write(stage.path("token"), "secret.token\n").unwrap();
    let token = stage.path("token").display().to_string();
    let ran = stage.run(&["conf", "lock", "5f0c", "--token-file", &token, "--actor", "anna"]).await;
    assert_eq!(ran.code, 0);
    let seen = stage.fake.seen("LockConference").remove(0);
    assert_eq!((seen.authorization.as_deref(), seen.actor.as_deref()), (Some("Bearer secret.token"), Some("anna")));
    let ran = finish(stage.command(&["conf", "unlock", "5f0c"]).env("ELPHCTL_TOKEN", "from.environment").spawn().unwrap()).await;
    assert_eq!(ran.code, 0);
    assert_eq!(stage.fake.seen("UnlockConference")[0].authorization.as_deref(), Some("Bearer from.environment"));
    // A token that cannot be sent is refused without being quoted.
    let ran = finish(stage.command(&["conf", "unlock", "5f0c"]).env("ELPHCTL_TOKEN", "two secret words").spawn().unwrap()).await;
    assert_eq!(ran.code, 2);
    assert!(!ran.err.contains("words"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_comes_by_standard_input_or_file_and_the_answer_is_the_exit_code() {
    let stage = Stage::new(world());
    let ran = stage.run_with_input(&["directory", "authenticate", "1042"], "right password\nmore\n").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "the password is right: 1042 of biysk.local\n"));
    fs::write(stage.path("password"), "wrong password\r\n").unwrap();
    let path = stage.path("password").display().to_string();
    let ran = stage.run(&["directory", "authenticate", "1042", "--password-file", &path]).await;
    assert_eq!(ran.code, 5);
    assert_eq!(ran.err, "elphctl: CREDENTIALS_REJECTED: Wrong login or wrong password: which of them is not said.\n");
    assert!(stage.fake.seen("AuthenticateSubscriber")[1].text.contains("\"wrong password\""), "the line end is not part of it");
    assert_eq!(stage.run_with_input(&["directory", "authenticate", "1042"], "").await.code, 2);
    let ran = stage.run_with_input(&["calls", "dtmf", "3f2a", "-"], "42#\n").await;
    assert_eq!(ran.code, 0);
    assert!(stage.fake.seen("SendDtmf")[0].text.contains("digits: \"42#\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_come_from_the_file_and_the_command_line_wins() {
    let stage = Stage::new(world());
    fs::create_dir(stage.path(".config")).unwrap();
    let file = stage.path(".config/elphctl.toml");
    let socket = stage.path("grpc.sock");
    fs::write(&file, format!("socket = {socket:?}\nactor = 'file'\ndomain = 'biysk.local'\ntimeout = '5s'\n")).unwrap();
    let run = async |arguments: &[&str]| finish(stage.command(arguments).env_remove("ELPHCTL_SOCKET").spawn().unwrap()).await;
    assert_eq!(run(&["calls", "list"]).await.code, 0);
    assert_eq!(stage.fake.seen("ListCalls")[0].actor.as_deref(), Some("file"));
    assert!(stage.fake.seen("ListDomains").is_empty(), "the domain is settled");
    assert_eq!(run(&["calls", "list", "--actor", "line"]).await.code, 0);
    assert_eq!(stage.fake.seen("ListCalls")[1].actor.as_deref(), Some("line"));
    assert_eq!(run(&["links", "--socket", "/nowhere/grpc.sock"]).await.code, 3);
    fs::write(&file, "sokket = 'x'\n").unwrap();
    let ran = run(&["links"]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("elphctl.toml") && ran.err.contains("unknown field `sokket`"), "{}", ran.err);
    assert_eq!(run(&["links", "--config", "/nowhere.toml"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_works_and_a_wrong_authority_is_said() {
    let issuer = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let ca = issuer();
    let issued = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (certificate, key) = issued("localhost");
    let (stage, port) = Stage::tls(world(), Identity::from_pem(certificate, key), &ca.pem()).await;
    let (certificate, key) = issued("operator");
    for (name, content) in [("ca", ca.pem()), ("other-ca", issuer().pem()), ("cert", certificate), ("key", key)] {
        fs::write(stage.path(name), content).unwrap();
    }
    let url = format!("https://localhost:{port}");
    let run = async |arguments: &[&str]| {
        let mut command: Command = stage.command(arguments);
        finish(command.env_remove("ELPHCTL_SOCKET").current_dir(stage.folder.path()).spawn().unwrap()).await
    };
    let ran = run(&["links", "--server", &url, "--ca", "ca", "--cert", "cert", "--key", "key"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let ran = run(&["links", "--server", &url, "--ca", "other-ca", "--cert", "cert", "--key", "key"]).await;
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("certificate") && ran.err.contains("hint: check --ca"), "{}", ran.err);
    let ran = run(&["links", "--server", &url, "--ca", "ca"]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--server needs --cert"), "{}", ran.err);
    assert_eq!(run(&["links", "--server", "http://localhost:1", "--ca", "ca", "--cert", "cert", "--key", "key"]).await.code, 2);
}
