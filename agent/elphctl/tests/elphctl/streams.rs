//! Streams: lines, JSON, the cursor's file, going on after interruptions, ending cleanly.

use std::{
    fs,
    io::Read,
    process::{Child, Command},
};

use elph_proto::v1::{subscribe_response::Message, *};
use serde_json::Value;

use crate::{
    support::{Script, Stage, at, finish, until},
    world::{MEETING, TALKING, call, conference, world},
};

fn cursor(sequence: u64) -> Option<Cursor> {
    Some(Cursor { epoch: "e1".into(), sequence })
}

fn message(sequence: u64, message: Message) -> SubscribeResponse {
    SubscribeResponse { cursor: cursor(sequence), message: Some(message) }
}

fn event(sequence: u64, change: event::Change) -> SubscribeResponse {
    message(
        sequence,
        Message::Event(Event { time: at(sequence as i64), domain: "biysk.local".into(), change: Some(change), ..Default::default() }),
    )
}

fn changed(sequence: u64, state: CallState) -> SubscribeResponse {
    event(sequence, event::Change::Call(call(TALKING, "1042", "1043", state, Vec::new())))
}

fn play(stage: &Stage, open: bool, messages: Vec<SubscribeResponse>) {
    stage.fake.state().subscriptions.push_back(Script { messages, open });
}

fn interrupt(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_a_line_for_each_change() {
    let stage = Stage::new(world());
    let participant = Participant {
        id: "p-1".into(),
        number: "1042".into(),
        display_name: "Anna".into(),
        status: ParticipantStatus::Connected.into(),
        muted: true,
        ..Default::default()
    };
    let change = ParticipantChange {
        conference_id: MEETING.into(),
        participant: Some(participant),
        conference_version: 18,
        connected_count: 3,
        pending_count: 0,
    };
    let link = Link { name: "terminal".into(), state: LinkState::Down.into(), last_error: "reset".into(), ..Default::default() };
    let polled = Event {
        time: at(4),
        polled: true,
        change: Some(event::Change::Conference(conference(MEETING, "Planning", Vec::new()))),
        ..Default::default()
    };
    play(
        &stage,
        true,
        vec![
            message(0, Message::Heartbeat(Heartbeat { time: at(0) })),
            changed(1, CallState::Alerting),
            event(2, event::Change::Participant(change)),
            event(3, event::Change::Link(link)),
            message(4, Message::Event(polled)),
            message(4, Message::Resync(Resync { reason: resync::Reason::TooSlow.into(), skipped: 512 })),
            message(
                9,
                Message::Snapshot(Snapshot {
                    calls: vec![call(TALKING, "1042", "1043", CallState::Connected, Vec::new())],
                    complete: true,
                    ..Default::default()
                }),
            ),
            changed(10, CallState::Ended),
        ],
    );
    let ran = stage
        .run(&[
            "events",
            "watch",
            "--kind",
            "call,conference",
            "--domain",
            "biysk.local",
            "--alias",
            "1042",
            "--conference",
            "5f0c",
            "-n",
            "5",
        ])
        .await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let expected = [
        "2024-05-01 10:00:01.000  call         3f2a91bc  alerting      1042 -> 1043",
        "2024-05-01 10:00:02.000  participant  5f0c0000  connected     1042 'Anna' (muted); 3 in, 0 pending",
        "2024-05-01 10:00:03.000  link                   down          terminal: reset",
        "2024-05-01 10:00:04.000  conference   5f0c0000  active        Planning, 0 in [polled]",
        "-             resync                               this reader was too slow, 512 events skipped; a snapshot follows",
        "snapshot      call         3f2a91bc  connected     1042 -> 1043",
        "2024-05-01 10:00:10.000  call         3f2a91bc  ended         1042 -> 1043",
    ];
    assert!(ran.out.lines().eq(expected), "{}", ran.out);
    let asked = &stage.fake.seen("Subscribe")[0].text;
    let parts = ["kinds: [Call, Conference]", "domains: [\"biysk.local\"]", "aliases: [\"1042\"]", MEETING, "Now(StartNow)", "seconds: 15"];
    assert!(parts.iter().all(|part| asked.contains(part)), "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_interruption_it_goes_on_after_the_cursor_and_the_file_keeps_it() {
    let stage = Stage::new(world());
    let file = stage.path("cursor");
    let path = file.display().to_string();
    play(&stage, false, vec![changed(1, CallState::Alerting), changed(2, CallState::Connected)]);
    play(&stage, true, vec![changed(3, CallState::Ended)]);
    let ran = stage.run(&["events", "watch", "--json", "--from", "snapshot", "--resume", &path, "-n", "3"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sequences: Vec<&Value> = lines.iter().map(|line| &line["cursor"]["sequence"]).collect();
    assert_eq!(sequences, ["1", "2", "3"]);
    assert_eq!(lines[2]["event"]["call"]["state"], "CALL_STATE_ENDED");
    assert!(ran.err.contains("the agent ended the stream; trying again"), "{}", ran.err);
    let asked = stage.fake.seen("Subscribe");
    assert!(asked[0].text.contains("Snapshot(StartSnapshot)"), "{}", asked[0].text);
    assert!(asked[1].text.contains("After(Cursor { epoch: \"e1\", sequence: 2 })"), "{}", asked[1].text);
    assert_eq!(fs::read_to_string(&file).unwrap(), "e1:3\n");
    // The next run goes on there, whatever --from says.
    play(&stage, true, vec![changed(4, CallState::Ended)]);
    assert_eq!(stage.run(&["events", "watch", "--from", "now", "--resume", &path, "-n", "1"]).await.code, 0);
    assert!(stage.fake.seen("Subscribe")[2].text.contains("sequence: 3"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "e1:4\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_inside_a_snapshot_is_not_resumed_from() {
    let stage = Stage::new(world());
    let part = |sequence, complete| message(sequence, Message::Snapshot(Snapshot { complete, ..Default::default() }));
    play(&stage, false, vec![part(7, false)]);
    play(&stage, true, vec![part(8, false), part(8, true), changed(9, CallState::Ended)]);
    let ran = stage.run(&["events", "watch", "--from", "snapshot", "-n", "1"]).await;
    assert_eq!(ran.code, 0);
    assert!(stage.fake.seen("Subscribe")[1].text.contains("Snapshot(StartSnapshot)"), "it starts with a snapshot again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupting_ends_cleanly_and_keeps_the_cursor() {
    let stage = Stage::new(world());
    for (round, signal) in ["-INT", "-TERM"].into_iter().enumerate() {
        let file = stage.path(signal);
        play(&stage, true, vec![changed(5, CallState::Alerting)]);
        let child = stage.command(&["events", "watch", "--resume", file.to_str().unwrap()]).spawn().unwrap();
        // The file is written while the stream is idle, so the handlers are in place by then.
        until("the cursor is kept", || fs::read_to_string(&file).is_ok_and(|text| text == "e1:5\n")).await;
        interrupt(&child, signal);
        let ran = finish(child).await;
        assert_eq!((ran.code, ran.err.as_str(), ran.out.lines().count()), (0, "", 1), "{signal}");
        assert_eq!(stage.fake.seen("Subscribe").len(), round + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_refused_or_never_began_fails_at_once() {
    let stage = Stage::new(world());
    stage.fake.fail("Subscribe", elph_proto::reason::Reason::MissingScope.status(""));
    assert_eq!(stage.run(&["events", "watch"]).await.code, 5);
    assert_eq!(stage.run(&["events", "watch", "--socket", "/nowhere"]).await.code, 3);
    fs::write(stage.path("bad"), "x").unwrap();
    assert_eq!(stage.run(&["events", "watch", "--resume", stage.path("bad").to_str().unwrap()]).await.code, 2);
    assert_eq!(stage.run(&["events", "watch", "--heartbeat", "10m"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_a_call_ends_with_the_call_and_survives_an_interruption() {
    let stage = Stage::new(world());
    let state = |state, version| Call { version, ..call(TALKING, "1042", "1043", state, Vec::new()) };
    stage
        .fake
        .state()
        .watches
        .push_back(Script { messages: vec![state(CallState::Alerting, 1), state(CallState::Connected, 2)], open: false });
    stage.fake.state().watches.push_back(Script { messages: vec![state(CallState::Connected, 2), state(CallState::Ended, 3)], open: true });
    let ran = stage.run(&["calls", "watch", "3f2a"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let states: Vec<&str> = ran.out.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert_eq!(states, ["alerting", "connected", "ended"], "{}", ran.out);
    assert_eq!(stage.fake.seen("WatchCall").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_a_conference_shows_it_and_ends_with_it() {
    let stage = Stage::new(world());
    let ended = Conference { state: ConferenceState::Ended.into(), ..conference(MEETING, "Planning", Vec::new()) };
    let snapshot = Snapshot { conferences: vec![conference(MEETING, "Planning", Vec::new())], complete: true, ..Default::default() };
    play(&stage, true, vec![message(1, Message::Snapshot(snapshot)), event(2, event::Change::Conference(ended))]);
    let ran = stage.run(&["conf", "watch", "5f0c"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.starts_with("Conference    5f0c0000-2222"), "{}", ran.out);
    assert!(ran.out.ends_with("ended         Planning, 0 in, lasted 1h 02m\n"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_cannot_keep_it_from_ending() {
    let stage = Stage::new(world());
    // More than a pipe holds.
    play(&stage, true, (1..3000).map(|sequence| changed(sequence, CallState::Alerting)).collect());
    let file = stage.path("cursor");
    let mut child = stage.command(&["events", "watch", "--resume", file.to_str().unwrap(), "--json"]).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    // Once a line has come the signals are watched for; by the time this one is sent the pipe is full, or nearly.
    let output = tokio::task::spawn_blocking(move || output.read_exact(&mut [0; 1]).map(|()| output)).await.unwrap().unwrap();
    interrupt(&child, "-TERM");
    let ran = finish(child).await;
    assert!([0, 8].contains(&ran.code), "{ran:?}");
    drop(output);
}
