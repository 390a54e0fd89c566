//! The session's state machine: its rules one by one, and all of them under random interleavings.

#![expect(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use ecss_csta::{
    frame::{Frame, Framing, InvokeId},
    message::{Answer, AnswerBody, CstaError, Request, Service},
    session::{Failure, Loss, Output, Phase, Session, Settings},
};
use ecss_switch::{Alias, Dialect, Domain, link::LinkCounters};
use proptest::prelude::*;

const HALF_OPEN: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(10);

struct Rig {
    session: Session<u32>,
    counters: Arc<LinkCounters>,
    framing: Framing,
    now: Instant,
    /// What the session has written and the "switch" has read.
    requests: Vec<(InvokeId, Request)>,
    wire: BytesMut,
    outputs: Vec<Output<u32>>,
}

fn rig(keepalive: Option<&str>, window: usize) -> Rig {
    let mut dialect = Dialect::built_in("sim").unwrap();
    dialect.csta.keepalive = keepalive.map(str::to_owned);
    let settings = Settings {
        domain: Domain::parse("biysk.local").unwrap(),
        password: "secret".into(),
        duration: Duration::from_secs(300),
        half_open_after: HALF_OPEN,
        command_timeout: PATIENCE,
        window,
    };
    let now = Instant::now();
    let counters = Arc::new(LinkCounters::default());
    Rig {
        session: Session::new(settings, &dialect, Arc::clone(&counters), None, now),
        counters,
        framing: Framing::new(dialect.csta.length),
        now,
        requests: Vec::new(),
        wire: BytesMut::new(),
        outputs: Vec::new(),
    }
}

fn aliases(numbers: impl IntoIterator<Item = u32>) -> Vec<Alias> {
    numbers.into_iter().map(|number| Alias::parse(&number.to_string()).unwrap()).collect()
}

impl Rig {
    /// Moves at most so many octets from the session to the switch.
    fn write(&mut self, most: usize) {
        let out = self.session.output();
        let octets = most.min(out.len());
        self.wire.extend_from_slice(&out[..octets]);
        out.advance(octets);
        self.session.wrote(octets, self.now);
        while let Some(frame) = self.framing.decode(&mut self.wire).unwrap() {
            if let Some(request) = Request::read(&frame.body).unwrap() {
                self.requests.push((frame.invoke, request));
            }
        }
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(output) = self.session.next_output() {
            self.outputs.push(output);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.poll(self.now);
        self.collect();
    }

    fn give(&mut self, invoke: InvokeId, text: &str) {
        let frame = Frame { invoke, body: Bytes::copy_from_slice(text.as_bytes()) };
        self.session.receive(&frame, self.now).unwrap();
        self.collect();
    }

    fn answer(&mut self, invoke: InvokeId, service: Option<Service>, body: AnswerBody) {
        let mut text = String::new();
        Answer { service, body }.write("urn:x", &mut text);
        self.give(invoke, &text);
    }

    /// The switch answers the first request of this service with success.
    fn accept(&mut self, service: Service) {
        self.write(usize::MAX);
        let at = self.requests.iter().position(|(_, request)| request.service() == service).unwrap_or_else(|| panic!("no {service:?}"));
        let (invoke, request) = self.requests.remove(at);
        let body = positive(&request);
        self.answer(invoke, Some(service), body);
    }

    fn activate(&mut self) {
        self.session.connected(self.now);
        self.accept(Service::StartApplicationSession);
        assert_eq!(self.session.phase(), Phase::Active);
    }

    fn replies(&mut self) -> HashMap<u32, Result<AnswerBody, Failure>> {
        let taken = std::mem::take(&mut self.outputs);
        let reply = |output| if let Output::Reply(token, result) = output { Some((token, result)) } else { None };
        taken.into_iter().filter_map(reply).collect()
    }

    fn lost(&self) -> Option<&Loss> {
        self.outputs.iter().find_map(|output| if let Output::Lost(loss) = output { Some(loss) } else { None })
    }
}

fn positive(request: &Request) -> AnswerBody {
    match request {
        Request::StartSession { .. } => AnswerBody::Session { id: Some("s1".into()), duration: Some(Duration::from_secs(300)) },
        Request::RenewSession { .. } => AnswerBody::Session { id: None, duration: None },
        Request::MonitorStart { device } => AnswerBody::Monitor { cross_ref: format!("x{device}") },
        _ => AnswerBody::Done,
    }
}

fn hang_up() -> Request {
    Request::ClearCall { call: "c1".into() }
}

#[test]
fn a_session_starts_is_renewed_well_before_its_end_and_stops() {
    let mut rig = rig(None, 256);
    rig.activate();
    assert!(matches!(rig.outputs[..], [Output::Active, Output::Ready]));
    let mut passed = Duration::ZERO;
    while passed < Duration::from_secs(1000) {
        rig.pass(Duration::from_millis(100));
        passed += Duration::from_millis(100);
        rig.write(usize::MAX);
        while rig.requests.iter().any(|(_, request)| request.service() == Service::ResetApplicationSessionTimer) {
            rig.accept(Service::ResetApplicationSessionTimer);
        }
        assert_eq!(rig.lost(), None);
    }
    rig.session.stop(rig.now);
    rig.accept(Service::StopApplicationSession);
    assert_eq!(rig.lost(), Some(&Loss::Stopped));
}

#[test]
fn a_busy_link_still_renews_by_half_of_the_duration() {
    let mut rig = rig(None, 256);
    rig.activate();
    for second in 0..151 {
        rig.give(InvokeId::EVENT, "<keepalive/>");
        rig.pass(Duration::from_secs(1));
        rig.write(usize::MAX);
        assert_eq!(rig.requests.len(), usize::from(second >= 149), "after {second} s");
    }
    // It answers everything but the renewal: alive, but the session's end is the end.
    for _ in 0..160 {
        rig.give(InvokeId::EVENT, "<keepalive/>");
        rig.pass(Duration::from_secs(1));
        rig.write(usize::MAX);
    }
    assert!(matches!(rig.lost(), Some(Loss::Expired(_))));
}

#[test]
fn a_refused_session_is_lost_with_the_switchs_words() {
    let mut rig = rig(None, 256);
    rig.session.connected(rig.now);
    rig.write(usize::MAX);
    let (invoke, _) = rig.requests.remove(0);
    rig.answer(invoke, Some(Service::StartApplicationSession), AnswerBody::SessionRefused { reason: "bad password".into() });
    assert_eq!(rig.lost(), Some(&Loss::Refused("bad password".into())));
}

#[test]
fn an_absurd_duration_is_brought_into_bounds() {
    for seconds in [0, 1, u64::MAX] {
        let mut rig = rig(None, 256);
        rig.session.connected(rig.now);
        rig.write(usize::MAX);
        let (invoke, _) = rig.requests.remove(0);
        let text = "<StartApplicationSessionPosResponse><sessionID>1</sessionID><actualSessionDuration>";
        rig.give(invoke, &format!("{text}{seconds}</actualSessionDuration></StartApplicationSessionPosResponse>"));
        assert_eq!(rig.session.phase(), Phase::Active);
        rig.pass(Duration::from_millis(600));
        rig.write(usize::MAX);
        assert_eq!(rig.requests.len(), usize::from(seconds == 1), "{seconds}");
    }
}

#[test]
fn silence_is_noticed_within_the_bound_with_and_without_a_keepalive() {
    for keepalive in [None, Some("<keepalive />")] {
        let mut rig = rig(keepalive, 256);
        rig.activate();
        let start = rig.now;
        while rig.lost().is_none() {
            rig.pass(Duration::from_millis(50));
            rig.write(usize::MAX);
            assert!(rig.now - start < HALF_OPEN, "not noticed in time");
        }
        assert_eq!(rig.lost(), Some(&Loss::Silent));
    }
}

#[test]
fn a_keepalive_that_is_echoed_is_a_sign_of_life_and_its_id_is_not_ours() {
    let mut rig = rig(Some("<keepalive />"), 256);
    rig.activate();
    let mut sent = 0;
    for _ in 0..140 {
        rig.pass(Duration::from_secs(1));
        let out = rig.session.output().split();
        let text = String::from_utf8_lossy(&out);
        rig.session.wrote(out.len(), rig.now);
        if text.contains("0000<keepalive />") {
            sent += 1;
            rig.give(InvokeId::KEEPALIVE, "<keepalive />");
        }
        assert!(!text.contains("ResetApplicationSessionTimer"), "no probe is needed");
    }
    assert!(sent >= 27, "{sent}");
    for token in 0..20_000 {
        rig.session.submit(token, hang_up(), rig.now);
        rig.write(usize::MAX);
        let (invoke, _) = rig.requests.pop().unwrap();
        assert!((1..9999).contains(&invoke.number()));
        rig.answer(invoke, Some(Service::ClearCall), AnswerBody::Done);
        assert_eq!(rig.replies().len(), 1);
    }
}

#[test]
fn the_window_is_kept_and_commands_go_before_monitors() {
    let mut rig = rig(None, 16);
    rig.session.watch(aliases(0..100), rig.now);
    rig.activate();
    rig.write(usize::MAX);
    assert_eq!(rig.requests.len(), 14, "an eighth of the window is the commands'");
    for token in 0..4 {
        rig.session.submit(token, hang_up(), rig.now);
    }
    rig.write(usize::MAX);
    assert_eq!(rig.session.outstanding(), 16);
    rig.accept(Service::MonitorStart);
    rig.write(usize::MAX);
    let last = rig.requests.last().unwrap();
    assert_eq!(last.1.service(), Service::ClearCall, "a waiting command goes first");
    for token in 4..40 {
        rig.session.submit(token, hang_up(), rig.now);
    }
    rig.collect();
    let replies = rig.replies();
    assert!(replies.values().all(|reply| matches!(reply, Err(Failure::NotSent("too many commands are waiting")))));
    assert!(!replies.is_empty());
}

#[test]
fn up_waits_for_the_monitors_and_refused_ones_are_asked_for_again() {
    let mut rig = rig(None, 256);
    rig.session.watch(aliases([1, 2, 3]), rig.now);
    rig.activate();
    rig.write(usize::MAX);
    assert!(!rig.outputs.iter().any(|output| matches!(output, Output::Ready)));
    rig.accept(Service::MonitorStart);
    rig.accept(Service::MonitorStart);
    assert!(!rig.outputs.iter().any(|output| matches!(output, Output::Ready)));
    let (invoke, _) = rig.requests.remove(0);
    rig.answer(invoke, None, AnswerBody::Error(CstaError::default()));
    assert!(matches!(rig.outputs.last(), Some(Output::Ready)));
    let progress = rig.session.progress();
    assert_eq!((progress.wanted, progress.started, progress.failed), (3, 2, 1));
    rig.pass(Duration::from_secs(5));
    rig.accept(Service::MonitorStart);
    assert!(matches!(rig.outputs.last(), Some(Output::Late)), "what happened before that may have been missed");
    assert_eq!(rig.session.progress().started, 3);
    // Fewer are wanted: the others are stopped.
    rig.session.watch(aliases([2]), rig.now);
    rig.write(usize::MAX);
    let stops = rig.requests.iter().filter(|(_, request)| request.service() == Service::MonitorStop);
    assert_eq!(stops.count(), 2);
    // The switch ends one of its own accord.
    rig.give(InvokeId::new(77).unwrap(), "<MonitorStop><monitorCrossRefID>x2</monitorCrossRefID></MonitorStop>");
    assert_eq!(rig.session.progress().failed, 1);
    let answered = String::from_utf8_lossy(&rig.session.output().split()).into_owned();
    assert!(answered.contains("0077<") && answered.contains("MonitorStopResponse"), "{answered}");
}

#[test]
fn monitors_are_all_started_again_after_a_reconnect() {
    let mut rig = rig(None, 64);
    rig.session.watch(aliases(0..200), rig.now);
    for round in 1..=3 {
        rig.activate();
        for _ in 0..200 {
            rig.accept(Service::MonitorStart);
        }
        assert_eq!(rig.session.progress().started, 200, "round {round}");
        assert_eq!(rig.outputs.iter().filter(|output| matches!(output, Output::Ready)).count(), round);
        rig.session.disconnected("cut".into());
        rig.collect();
        rig.requests.clear();
        rig.wire.clear();
        assert_eq!(rig.session.progress().started, 0);
    }
}

#[test]
fn what_was_cut_off_before_its_last_octet_was_surely_not_executed() {
    let mut rig = rig(None, 256);
    rig.activate();
    for token in 0..3 {
        rig.session.submit(token, hang_up(), rig.now);
    }
    let length = rig.session.output().len() / 3;
    rig.write(length + length / 2);
    assert_eq!(rig.requests.len(), 1);
    rig.session.disconnected("cut".into());
    rig.collect();
    let replies = rig.replies();
    assert!(matches!(replies[&0], Err(Failure::Unknown(_))));
    assert!(matches!(replies[&1], Err(Failure::NotSent(_))));
    assert!(matches!(replies[&2], Err(Failure::NotSent(_))));
    rig.session.submit(9, hang_up(), rig.now);
    rig.collect();
    assert!(matches!(rig.replies()[&9], Err(Failure::NotSent(_))), "there is no session");
}

#[test]
fn late_doubled_and_foreign_answers_are_counted_and_meet_nobody() {
    let mut rig = rig(None, 256);
    rig.activate();
    rig.session.submit(1, hang_up(), rig.now);
    rig.write(usize::MAX);
    let (invoke, _) = rig.requests.remove(0);
    // An answer to another service under the same id, then none in time.
    rig.answer(invoke, Some(Service::HoldCall), AnswerBody::Done);
    assert!(rig.replies().is_empty());
    for _ in 0..12 {
        rig.give(InvokeId::EVENT, "<keepalive/>");
        rig.pass(Duration::from_secs(1));
    }
    assert!(matches!(rig.replies()[&1], Err(Failure::Unknown(_))));
    rig.answer(invoke, Some(Service::ClearCall), AnswerBody::Done);
    rig.answer(InvokeId::EVENT, Some(Service::ClearCall), AnswerBody::Done);
    assert!(rig.replies().is_empty());
    assert_eq!(rig.counters.answers_unexpected.load(std::sync::atomic::Ordering::Relaxed), 3);
    assert_eq!(rig.counters.timeouts.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn events_outside_of_a_session_are_not_handed_on() {
    let mut rig = rig(None, 256);
    let frame = Frame { invoke: InvokeId::EVENT, body: Bytes::from_static(b"<HeldEvent/>") };
    rig.session.connected(rig.now);
    assert!(rig.session.receive(&frame, rig.now).unwrap().is_none());
    rig.session.disconnected("cut".into());
    rig.activate();
    assert!(rig.session.receive(&frame, rig.now).unwrap().is_some());
    rig.session.stop(rig.now);
    assert!(rig.session.receive(&frame, rig.now).unwrap().is_none());
}

#[derive(Debug, Clone)]
enum Step {
    Connect,
    Cut,
    Write(usize),
    Answer { which: usize, twice: bool, good: bool },
    Stray(u16),
    Submit,
    Watch(Vec<u32>),
    Pass(u64),
    Stop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Connect),
        1 => Just(Step::Cut),
        8 => (0_usize..2000).prop_map(Step::Write),
        12 => (any::<usize>(), prop::bool::weighted(0.1), prop::bool::weighted(0.85)).prop_map(|(which, twice, good)| Step::Answer { which, twice, good }),
        1 => (0_u16..10_000).prop_map(Step::Stray),
        6 => Just(Step::Submit),
        2 => prop::collection::vec(0_u32..40, 0..30).prop_map(Step::Watch),
        4 => (0_u64..4000).prop_map(Step::Pass),
        1 => Just(Step::Stop),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// However connections, answers, commands, monitors and time interleave: the window is kept, no id is used twice at a time,
    /// every command is answered exactly once, what was not written as a whole is never `Unknown`, and `Ready` comes once per
    /// session, when no wanted monitor is open.
    #[test]
    fn the_rules_hold_under_random_interleavings(steps in steps(), window in 2_usize..20) {
        let mut rig = rig(None, window);
        let mut submitted = 0_u32;
        let mut answered: HashSet<u32> = HashSet::new();
        let mut readies = 0;
        let mut seen_by_switch: HashSet<String> = HashSet::new();
        for step in steps {
            match step {
                Step::Connect => {
                    if rig.session.phase() == Phase::Idle {
                        rig.requests.clear();
                        rig.wire.clear();
                        readies = 0;
                        rig.session.connected(rig.now);
                    }
                }
                Step::Cut => rig.session.disconnected("cut".into()),
                Step::Write(most) => rig.write(most),
                Step::Answer { which, twice, good } => {
                    if !rig.requests.is_empty() {
                        let at = which % rig.requests.len();
                        let (invoke, request) = rig.requests.remove(at);
                        for _ in 0..=usize::from(twice) {
                            if good {
                                rig.answer(invoke, Some(request.service()), positive(&request));
                            } else {
                                rig.answer(invoke, None, AnswerBody::Error(CstaError::default()));
                            }
                        }
                    }
                }
                Step::Stray(id) => rig.answer(InvokeId::new(id).unwrap(), Some(Service::SnapshotCall), AnswerBody::Done),
                Step::Submit => {
                    rig.session.submit(submitted, Request::ClearCall { call: format!("c{submitted}") }, rig.now);
                    submitted += 1;
                }
                Step::Watch(numbers) => rig.session.watch(aliases(numbers), rig.now),
                Step::Pass(millis) => rig.pass(Duration::from_millis(millis)),
                Step::Stop => rig.session.stop(rig.now),
            }
            rig.collect();
            prop_assert!(rig.session.outstanding() <= window + 2, "renewal and farewell do not wait for the window");
            let ids: HashSet<_> = rig.requests.iter().map(|(invoke, _)| *invoke).collect();
            prop_assert_eq!(ids.len(), rig.requests.len());
            for (_, request) in &rig.requests {
                if let Request::ClearCall { call } = request {
                    seen_by_switch.insert(call.clone());
                }
            }
            let progress = rig.session.progress();
            prop_assert!(progress.started + progress.failed <= progress.wanted);
            for output in rig.outputs.drain(..) {
                match output {
                    Output::Ready => {
                        readies += 1;
                        prop_assert_eq!(readies, 1);
                        prop_assert_eq!(rig.session.phase(), Phase::Active);
                    }
                    Output::Reply(token, result) => {
                        prop_assert!(answered.insert(token), "{} is answered twice", token);
                        let seen = seen_by_switch.contains(&format!("c{token}"));
                        match result {
                            Err(Failure::NotSent(_)) => prop_assert!(!seen, "{} was sent", token),
                            Err(Failure::Unknown("the link was lost before the answer")) | Ok(_) => prop_assert!(seen, "{} was not sent", token),
                            Err(Failure::Unknown(_)) => {}
                        }
                    }
                    Output::Lost(_) => readies = 0,
                    Output::Active | Output::Late => {}
                }
            }
        }
        rig.session.disconnected("end".into());
        rig.collect();
        for output in rig.outputs.drain(..) {
            if let Output::Reply(token, _) = output {
                prop_assert!(answered.insert(token));
            }
        }
        prop_assert_eq!(answered.len(), submitted as usize, "every command is answered");
        prop_assert_eq!(rig.session.outstanding(), 0);
    }
}
