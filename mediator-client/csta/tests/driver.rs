//! The client over real byte streams against a small switch: commands, snapshots, monitors, bad input, cuts.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ecss_csta::{Csta, CstaConfig};
use ecss_switch::{
    Alias, CallCommand, CommandError, LinkEvent, Observation, RefusalReason, SwitchCallId, SwitchLegId,
    command::LegRef,
    connect::{BoxedIo, Connect, Connecting, Endpoint, TcpConnect},
    event::{Cause, Direction, LegState},
    link::{LinkKind, LinkState, Tap, Way},
};
use support::{Events, PATIENCE, Push, Switch, alias, aliases, config, dialect, frame, link_is};
use tokio::{
    io::{AsyncReadExt, DuplexStream},
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Tap for Recorder {
    fn message(&self, _: LinkKind, way: Way, head: &str, body: &str) {
        self.0.lock().unwrap().push(format!("{way:?} {head} {body}"));
    }
}

struct Rig {
    csta: Csta,
    task: JoinHandle<()>,
    events: Events,
    switch: Switch,
    tap: Arc<Recorder>,
    shutdown: CancellationToken,
}

/// A switch on a free loopback port and a client connected to it.
async fn rig(monitors: Vec<Alias>, adjust: impl FnOnce(&mut CstaConfig, &Switch)) -> Rig {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let switch = Switch::default();
    let mut config = config(&[&listener.local_addr().unwrap().to_string()]);
    adjust(&mut config, &switch);
    let serving = switch.clone();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
            stream.set_nodelay(true).unwrap();
            serving.serve(stream).await;
        }
    });
    let (sink, events) = Events::new(100_000);
    let tap = Arc::new(Recorder::default());
    let connect = Arc::new(TcpConnect::plain(Duration::from_secs(10)));
    let (csta, task) = Csta::start(config, dialect(), connect, sink, Some(tap.clone()), shutdown.clone());
    csta.watch_devices(monitors).await;
    Rig { csta, task, events, switch, tap, shutdown }
}

impl Rig {
    async fn end(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("the link ends").unwrap();
    }
}

fn leg(call: &str, leg: &str) -> LegRef {
    LegRef { call: SwitchCallId::parse(call).unwrap(), leg: SwitchLegId::parse(leg).unwrap() }
}

fn make() -> CallCommand {
    CallCommand::Make { from: alias(1001), to: alias(1002) }
}

#[tokio::test]
async fn every_command_is_the_standards_service_with_its_parameters() {
    let mut rig = rig(vec![], |_, _| {}).await;
    rig.events.up().await;
    let (held, active) = (leg("c1", "1001"), leg("c2", "1001"));
    let to = alias(1003);
    let call = |call: &str| Some(SwitchCallId::parse(call).unwrap());
    let commands = [
        (make(), "MakeCall", vec!["<callingDevice>1001<", "<calledDirectoryNumber>1002<", "<autoOriginate>prompt<"], call("c1")),
        (CallCommand::Answer(held.clone()), "AnswerCall", vec!["<callToBeAnswered><callID>c1<", ">1001</deviceID>"], None),
        (CallCommand::Reject(held.clone()), "ClearConnection", vec!["<connectionToBeCleared><callID>c1<"], None),
        (CallCommand::ReleaseLeg(held.clone()), "ClearConnection", vec!["<connectionToBeCleared>"], None),
        (CallCommand::ReleaseCall(held.call.clone()), "ClearCall", vec!["<callToBeCleared><callID>c1</callID></"], None),
        (CallCommand::Hold(held.clone()), "HoldCall", vec!["<callToBeHeld>"], None),
        (CallCommand::Retrieve(held.clone()), "RetrieveCall", vec!["<callToBeRetrieved>"], None),
        (
            CallCommand::TransferBlind { leg: held.clone(), to: to.clone() },
            "SingleStepTransferCall",
            vec!["<activeCall>", "<transferredTo>1003<"],
            None,
        ),
        (
            CallCommand::Consult { leg: held.clone(), to: to.clone() },
            "ConsultationCall",
            vec!["<existingCall>", "<consultedDevice>1003<"],
            call("c2"),
        ),
        (
            CallCommand::TransferComplete { held: held.clone(), active: active.clone() },
            "TransferCall",
            vec!["<heldCall><callID>c1<", "<activeCall><callID>c2<"],
            call("c2"),
        ),
        (CallCommand::TransferCancel { held: held.clone(), active: active.clone() }, "RetrieveCall", vec!["<callID>c1<"], None),
        (CallCommand::Join { held: held.clone(), active }, "ConferenceCall", vec!["<heldCall>", "<activeCall>"], call("c3")),
        (CallCommand::Deflect { leg: held.clone(), to }, "DeflectCall", vec!["<callToBeDiverted>", "<newDestination>1003</"], None),
        (
            CallCommand::Dtmf { leg: held, digits: "12#".into() },
            "GenerateDigits",
            vec!["<connectionToSendDigits>", "<charactersToSend>12#<"],
            None,
        ),
    ];
    for (command, service, parts, call) in commands {
        let outcome = rig.csta.execute(command.clone()).await.unwrap();
        assert_eq!(outcome.call, call, "{command:?}");
        let (root, body) = rig.switch.state().received.last().unwrap().clone();
        assert_eq!(root, service);
        for part in parts {
            assert!(body.contains(part), "{part} in {body}");
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn refusals_are_typed_and_a_half_done_command_is_of_unknown_outcome() {
    let mut rig = rig(vec![], |_, _| {}).await;
    rig.events.up().await;
    let refused = rig.csta.execute(CallCommand::Make { from: alias(1001), to: alias(404) }).await.unwrap_err();
    let CommandError::Refused { reason, text } = refused else { panic!("{refused:?}") };
    assert_eq!((reason, text.as_str()), (RefusalReason::UnknownAlias, "operation: invalidCalledDeviceID"));
    let cancel = CallCommand::TransferCancel { held: leg("c1", "bad"), active: leg("c2", "1001") };
    let half = rig.csta.execute(cancel).await.unwrap_err();
    assert!(matches!(half, CommandError::OutcomeUnknown { .. }), "{half:?}");
    rig.end().await;
}

#[tokio::test]
async fn snapshots_list_legs_and_an_unknown_call_is_said_to_be_one() {
    let mut rig = rig(vec![], |_, _| {}).await;
    rig.events.up().await;
    let legs = rig.csta.snapshot_call(&SwitchCallId::parse("c1").unwrap()).await.unwrap();
    let [first, second] = &legs[..] else { panic!("{legs:?}") };
    assert_eq!((first.leg.as_str(), first.device.clone(), first.state), ("a", Some(alias(1001)), LegState::Connected));
    assert_eq!((first.direction, first.remote.clone()), (Some(Direction::Originating), Some(alias(1002))));
    assert_eq!((second.leg.as_str(), second.device.clone(), second.state), ("b", Some(alias(1002)), LegState::Alerting));
    let gone = rig.csta.snapshot_call(&SwitchCallId::parse("gone").unwrap()).await.unwrap_err();
    assert!(matches!(gone, CommandError::Refused { reason: RefusalReason::UnknownCall, .. }), "{gone:?}");
    assert_eq!(rig.csta.snapshot_device(&alias(1001)).await, Ok(vec![]));
    rig.end().await;
}

#[tokio::test]
async fn up_comes_after_the_monitors_and_refused_ones_are_told() {
    let mut rig = rig(aliases(1000..1300), |_, switch| {
        switch.state().refused.extend(["1005".to_owned(), "1006".to_owned()]);
    })
    .await;
    rig.events.up().await;
    let progress = *rig.csta.monitored().borrow();
    assert_eq!((progress.wanted, progress.started, progress.failed), (300, 298, 2));
    assert_eq!(rig.switch.state().monitors.len(), 298);
    rig.csta.watch_devices(aliases(1000..1003)).await;
    rig.switch.until("three monitors", |state| state.monitors.len() == 3).await;
    assert_eq!(rig.csta.monitored().borrow().wanted, 3);
    rig.csta.watch_devices(aliases(1000..1004)).await;
    let late = rig.events.next().await;
    assert!(matches!(late, LinkEvent::Gap { .. }), "{late:?}");
    rig.end().await;
}

#[tokio::test]
async fn ten_thousand_monitors_are_started_in_windows_without_waiting_for_each() {
    let start = Instant::now();
    let mut rig = rig(aliases(10_000..20_000), |_, _| {}).await;
    rig.events.up().await;
    let took = start.elapsed();
    eprintln!("10,000 monitors in {took:?}");
    assert_eq!(rig.csta.monitored().borrow().started, 10_000);
    assert!(took < Duration::from_secs(10), "{took:?}");
    rig.end().await;
}

#[tokio::test]
async fn events_become_observations_and_other_monitors_say_the_same() {
    let mut rig = rig(aliases([1001, 1002]), |_, _| {}).await;
    rig.events.up().await;
    for cross_ref in ["m1001", "m1002"] {
        rig.switch.event(&format!(
            "<DeliveredEvent><monitorCrossRefID>{cross_ref}</monitorCrossRefID><connection><callID>c1</callID><deviceID>b</deviceID></connection>\
             <alertingDevice><deviceIdentifier>1002</deviceIdentifier></alertingDevice><callingDevice><deviceIdentifier>N&lt;1001&gt;Ann Lee;noa=nk\
             </deviceIdentifier></callingDevice></DeliveredEvent>"
        ));
    }
    let (first, second) = (rig.events.observation().await, rig.events.observation().await);
    assert_eq!(first, second);
    let Observation::Leg(leg) = first else { panic!("{first:?}") };
    assert_eq!((leg.leg.as_str(), leg.device, leg.remote), ("b", Some(alias(1002)), Some(alias(1001))));
    assert_eq!((leg.state, leg.direction), (LegState::Alerting, Some(Direction::Terminating)));
    rig.switch.event(
        "<ConnectionClearedEvent><droppedConnection><callID>c1</callID><deviceID>b</deviceID></droppedConnection><cause>busy</cause></ConnectionClearedEvent>",
    );
    let Observation::Leg(leg) = rig.events.observation().await else { panic!() };
    assert_eq!((leg.state, leg.cause), (LegState::Released, Some(Cause::Busy)));
    rig.end().await;
}

#[tokio::test]
async fn bad_xml_is_a_gap_and_the_link_survives_but_a_broken_frame_drops_it() {
    let mut rig = rig(aliases([1001]), |_, _| {}).await;
    rig.events.up().await;
    rig.switch.event("<DeliveredEvent><connection></DeliveredEvent>");
    assert!(matches!(rig.events.next().await, LinkEvent::Gap { .. }));
    for _ in 0..50 {
        rig.switch.event("<HeldEvent/>");
    }
    assert!(matches!(rig.events.next().await, LinkEvent::Gap { .. }), "what came meanwhile is reported once");
    assert!(rig.csta.execute(make()).await.is_ok());
    assert_eq!(rig.csta.counters().messages_bad.load(Ordering::Relaxed), 51);
    rig.switch.push(Push::Octets(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    rig.events.down().await;
    rig.events.up().await;
    assert_eq!(rig.switch.state().sessions, 2);
    assert_eq!(rig.csta.counters().messages_bad.load(Ordering::Relaxed), 52);
    rig.end().await;
}

#[tokio::test]
async fn a_truncated_message_and_a_lost_connection_end_in_a_new_session_with_all_monitors() {
    let mut rig = rig(aliases(1000..1100), |_, _| {}).await;
    rig.events.up().await;
    let mut half = frame("9999", "<HeldEvent><heldConnection>");
    half.truncate(20);
    rig.switch.push(Push::Octets(half));
    rig.switch.push(Push::Cut);
    rig.events.down().await;
    rig.events.up().await;
    assert_eq!(rig.switch.state().monitors.len(), 100);
    let counters = rig.csta.counters();
    assert_eq!((counters.sessions_lost.load(Ordering::Relaxed), counters.sessions_opened.load(Ordering::Relaxed)), (1, 2));
    assert!(rig.csta.status().borrow().last_error.is_some());
    rig.end().await;
}

#[tokio::test]
async fn doubled_and_reordered_answers_reach_the_right_commands() {
    let mut rig = rig(vec![], |_, _| {}).await;
    rig.events.up().await;
    rig.switch.state().doubled = true;
    rig.switch.state().reversed = 8;
    let run = |n: u32| {
        let csta = rig.csta.clone();
        tokio::spawn(async move {
            let from = alias(2000 + n);
            let outcome = csta.execute(CallCommand::Make { from: from.clone(), to: alias(1002) }).await.unwrap();
            assert_eq!(outcome.leg.unwrap().as_str(), from.as_str());
        })
    };
    let running: Vec<_> = (0..8).map(run).collect();
    for task in running {
        timeout(PATIENCE, task).await.unwrap().unwrap();
    }
    rig.switch.state().reversed = 0;
    assert!(rig.csta.execute(make()).await.is_ok());
    assert!(rig.csta.counters().answers_unexpected.load(Ordering::Relaxed) >= 8);
    rig.end().await;
}

#[tokio::test]
async fn a_command_that_is_not_answered_in_time_is_of_unknown_outcome() {
    let mut rig = rig(vec![], |config, _| config.command_timeout = Duration::from_millis(300)).await;
    rig.events.up().await;
    rig.switch.state().unanswered.insert("HoldCall");
    let error = rig.csta.execute(CallCommand::Hold(leg("c1", "1001"))).await.unwrap_err();
    assert!(matches!(error, CommandError::OutcomeUnknown { .. }), "{error:?}");
    assert!(rig.csta.execute(make()).await.is_ok(), "the link goes on");
    rig.end().await;
}

#[tokio::test]
async fn a_refused_session_is_shown_and_tried_again() {
    let mut rig = rig(vec![], |_, switch| switch.state().closed_door = true).await;
    let mut status = rig.csta.status();
    let told = |status: &ecss_switch::link::LinkStatus| status.last_error.as_ref().is_some_and(|e| e.contains("invalidApplicationInfo"));
    timeout(PATIENCE, status.wait_for(told)).await.unwrap().unwrap();
    let error = rig.csta.execute(make()).await.unwrap_err();
    assert!(matches!(error, CommandError::NotSent { .. }), "{error:?}");
    rig.switch.state().closed_door = false;
    rig.events.up().await;
    rig.end().await;
}

#[tokio::test]
async fn an_ended_session_is_opened_again_at_once() {
    let mut rig = rig(aliases([1001]), |_, _| {}).await;
    rig.events.up().await;
    rig.switch.event("<ApplicationSessionTerminated><sessionID>sess77</sessionID></ApplicationSessionTerminated>");
    rig.events.down().await;
    rig.events.up().await;
    assert_eq!(rig.switch.state().monitors.len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn shutdown_ends_the_session_in_good_order_and_later_commands_are_not_sent() {
    let mut rig = rig(vec![], |_, _| {}).await;
    rig.events.up().await;
    let (csta, switch) = (rig.csta.clone(), rig.switch.clone());
    rig.end().await;
    assert_eq!(switch.state().received.last().unwrap().0, "StopApplicationSession");
    assert!(matches!(csta.execute(make()).await, Err(CommandError::NotSent { .. })));
    assert_eq!(csta.status().borrow().state, LinkState::Down);
}

#[tokio::test]
async fn recordings_and_debug_output_hold_neither_password_nor_session_id() {
    let mut rig = rig(aliases([1001]), |config, _| {
        assert!(!format!("{config:?}").contains("s3cret"));
    })
    .await;
    rig.events.up().await;
    let tap = Arc::clone(&rig.tap);
    rig.end().await;
    let recorded = tap.0.lock().unwrap().join("\n");
    assert!(recorded.contains("StartApplicationSession") && recorded.contains("StopApplicationSession") && recorded.contains("***"));
    assert!(!recorded.contains("s3cret") && !recorded.contains("sess77"), "{recorded}");
}

/// Hands out byte streams with little room, so that a write can be cut in the middle.
struct Narrow {
    room: usize,
    ends: mpsc::Sender<DuplexStream>,
    connected: AtomicUsize,
    allowed: watch::Receiver<usize>,
}

impl Connect for Narrow {
    fn connect<'a>(&'a self, _: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            let nth = self.connected.fetch_add(1, Ordering::SeqCst);
            // Further connections wait, so that what ends the command is the first one's end.
            drop(self.allowed.clone().wait_for(|allowed| nth < *allowed).await);
            let (ours, theirs) = tokio::io::duplex(self.room);
            self.ends.send(theirs).await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(Box::new(ours) as BoxedIo)
        })
    }
}

/// Starts a session over a narrow stream, has the switch read no more than `read` octets of the command, then cuts.
async fn cut_after(read: Option<usize>) -> CommandError {
    let (ends, mut connections) = mpsc::channel(1);
    let (_allow, allowed) = watch::channel(1);
    let connect = Arc::new(Narrow { room: 64, ends, connected: AtomicUsize::new(0), allowed });
    let (sink, mut events) = Events::new(100);
    let shutdown = CancellationToken::new();
    let (csta, task) = Csta::start(config(&["a:1"]), dialect(), connect, sink, None, shutdown.clone());
    let mut io = timeout(PATIENCE, connections.recv()).await.unwrap().unwrap();
    let mut header = [0; 8];
    io.read_exact(&mut header).await.unwrap();
    let mut first = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]])) - 8];
    io.read_exact(&mut first).await.unwrap();
    let answer = frame(
        std::str::from_utf8(&header[4..]).unwrap(),
        "<StartApplicationSessionPosResponse><sessionID>1</sessionID></StartApplicationSessionPosResponse>",
    );
    tokio::io::AsyncWriteExt::write_all(&mut io, &answer).await.unwrap();
    events.up().await;
    let command = tokio::spawn(async move { csta.execute(make()).await });
    io.read_exact(&mut header).await.unwrap();
    let body = usize::from(u16::from_be_bytes([header[2], header[3]])) - 8;
    let mut rest = vec![0; read.unwrap_or(body).min(body)];
    io.read_exact(&mut rest).await.unwrap();
    drop(io);
    let error = timeout(PATIENCE, command).await.unwrap().unwrap().unwrap_err();
    shutdown.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap();
    error
}

#[tokio::test]
async fn trial_2_a_command_cut_before_during_or_after_the_write_tells_whether_it_may_have_been_executed() {
    let during = cut_after(Some(40)).await;
    assert!(matches!(during, CommandError::NotSent { .. }), "{during:?}");
    let after = cut_after(None).await;
    assert!(matches!(after, CommandError::OutcomeUnknown { .. }), "{after:?}");
    // Before: there is no connection yet.
    let (ends, _connections) = mpsc::channel(1);
    let (_allow, allowed) = watch::channel(0);
    let connect = Arc::new(Narrow { room: 64, ends, connected: AtomicUsize::new(0), allowed });
    let (sink, _events) = Events::new(100);
    let shutdown = CancellationToken::new();
    let (csta, task) = Csta::start(config(&["a:1"]), dialect(), connect, sink, None, shutdown.clone());
    link_is(&mut csta.status(), LinkState::Connecting).await;
    let before = csta.execute(make()).await.unwrap_err();
    assert!(matches!(before, CommandError::NotSent { .. }), "{before:?}");
    shutdown.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap();
}
