use std::sync::atomic::Ordering::Relaxed;

use ecss_switch::{
    RefusalReason,
    command::CallOutcome,
    dialect::{LengthUnit, Pad},
};
use proptest::prelude::*;

use super::*;

const OK: &str = r#"[{"_name":"out","_content":[{"_name":"response","_content":[{"_name":"ok"}]}]}]"#;

struct Bench {
    session: Session<u32>,
    counters: Arc<LinkCounters>,
    now: Instant,
    framing: Framing,
}

impl Bench {
    fn with(change: impl FnOnce(&mut Dialect), window: usize) -> Self {
        let mut dialect = Dialect::built_in("sim").unwrap();
        change(&mut dialect);
        let counters = Arc::new(LinkCounters::default());
        let config = SessionConfig { domain: Domain::parse("biysk.local").unwrap(), window, half_open_after: Duration::from_secs(15) };
        let framing = Framing::of(&dialect.call_api);
        Self { session: Session::new(config, Arc::new(dialect), counters.clone()), counters, now: Instant::now(), framing }
    }

    fn up() -> Self {
        let mut bench = Self::with(|_| {}, 64);
        bench.session.opened(bench.now);
        bench
    }

    fn submit(&mut self, waiter: u32) {
        let fields = BTreeMap::from([(Field::Call, format!("c{waiter}")), (Field::Leg, "l".into())]);
        let deadline = self.now + Duration::from_secs(5);
        self.session.submit(Command { operation: Operation::CallHold, fields, deadline, waiter });
    }

    /// The id and the waiter's number of the next command that is written.
    fn transmit(&mut self) -> Option<(String, u32)> {
        loop {
            match self.session.poll_transmit(self.now)? {
                Transmit::Ping => {}
                Transmit::Text(text) => {
                    let read = self.framing.decode_request(&text).unwrap();
                    let Frame::Request { id, body, .. } = read.frame else { panic!() };
                    let roots = from_json(&body).unwrap();
                    let number = roots[0].find_attribute("call_id").unwrap()[1..].parse().unwrap();
                    return Some((id.into_owned(), number));
                }
            }
        }
    }

    fn answer(&mut self, id: &str, status: &str, body: &str) -> Received {
        let frame = Frame::Answer { id: id.into(), status: status.into(), body: body.into() };
        let text = self.framing.encode(&frame).unwrap();
        self.session.received(&text, self.now)
    }

    fn settled(&mut self) -> Vec<(u32, Result<Outcome, CommandError>)> {
        std::iter::from_fn(|| self.session.poll_settled()).collect()
    }
}

fn done() -> Result<Outcome, CommandError> {
    Ok(Outcome::Call(CallOutcome::default()))
}

#[test]
fn ids_cycle_through_four_digits_and_skip_those_outstanding_and_the_events() {
    let mut bench = Bench::with(|dialect| dialect.call_api.event_frame = EventFrame::RequestId { request_id: "0007".into() }, 64);
    bench.session.opened(bench.now);
    bench.submit(0);
    assert_eq!(bench.transmit().unwrap().0, "0001");
    let mut seen = HashSet::new();
    for waiter in 1..=9997 {
        bench.submit(waiter);
        let (id, _) = bench.transmit().unwrap();
        assert!(seen.insert(id.clone()) && id != "0001" && id != "0007", "{id}");
        bench.answer(&id, "200", OK);
    }
    bench.submit(10_000);
    assert_eq!(bench.transmit().unwrap().0, "0002", "0001 is still outstanding");
}

#[test]
fn duplicated_and_unexpected_answers_are_counted_and_change_nothing() {
    let mut bench = Bench::up();
    bench.submit(1);
    let (id, _) = bench.transmit().unwrap();
    for _ in 0..3 {
        bench.answer(&id, "200", OK);
    }
    bench.answer("4711", "200", OK);
    assert_eq!(bench.settled(), [(1, done())]);
    assert_eq!(bench.counters.answers_unexpected.load(Relaxed), 3);
}

#[test]
fn what_was_handed_over_is_unknown_after_a_loss_and_what_was_not_is_not_sent() {
    let mut bench = Bench::with(|_| {}, 2);
    bench.session.opened(bench.now);
    for waiter in 1..=2 {
        bench.submit(waiter);
        bench.transmit().unwrap();
    }
    bench.submit(3);
    assert_eq!(bench.transmit(), None, "the window is full");
    bench.session.lost("cut");
    let settled: BTreeMap<_, _> = bench.settled().into_iter().collect();
    assert!(
        matches!(settled[&1], Err(CommandError::OutcomeUnknown { .. })) && matches!(settled[&2], Err(CommandError::OutcomeUnknown { .. }))
    );
    assert!(matches!(settled[&3], Err(CommandError::NotSent { .. })));
    bench.submit(4);
    assert!(matches!(bench.settled()[..], [(4, Err(CommandError::NotSent { .. }))]));
}

#[test]
fn a_late_answer_is_not_taken_for_that_of_a_later_command() {
    let mut bench = Bench::up();
    bench.submit(1);
    let (id, _) = bench.transmit().unwrap();
    bench.now += Duration::from_secs(5);
    bench.session.heard(bench.now);
    assert_eq!(bench.session.timers(bench.now), Verdict::Alive);
    assert!(matches!(bench.settled()[..], [(1, Err(CommandError::OutcomeUnknown { .. }))]));
    bench.session.next_id = 1;
    bench.submit(2);
    assert_ne!(bench.transmit().unwrap().0, id);
    bench.answer(&id, "200", OK);
    assert!(bench.settled().is_empty());
    assert_eq!((bench.counters.answers_unexpected.load(Relaxed), bench.counters.timeouts.load(Relaxed)), (1, 1));
}

#[test]
fn an_expired_session_is_opened_again_without_losing_what_was_surely_not_executed() {
    let mut bench = Bench::up();
    let ids: Vec<_> = (1..=3)
        .map(|waiter| {
            bench.submit(waiter);
            bench.transmit().unwrap().0
        })
        .collect();
    bench.submit(4);
    bench.answer(&ids[1], "401", "");
    assert_eq!(bench.transmit(), None, "nothing is written into an expired session");
    assert_eq!(bench.session.timers(bench.now), Verdict::Alive, "two answers are outstanding");
    bench.answer(&ids[0], "200", OK);
    bench.now += DRAIN;
    assert_eq!(bench.session.timers(bench.now), Verdict::Relogin);
    bench.session.reopening();
    let settled: BTreeMap<_, _> = bench.settled().into_iter().collect();
    assert_eq!(settled[&1], done());
    assert!(matches!(settled[&3], Err(CommandError::OutcomeUnknown { .. })), "it had no answer");
    bench.submit(5);
    bench.session.opened(bench.now);
    let order: Vec<_> = std::iter::from_fn(|| bench.transmit().map(|(_, number)| number)).collect();
    assert_eq!(order, [2, 4, 5]);
    // a switch that expires each session at once does not get the command for ever
    let id = format!("{:04}", bench.session.pending.keys().min().unwrap());
    bench.answer(&id, "401", "<html>");
    assert!(matches!(bench.settled()[..], [(2, Err(CommandError::NotSent { .. }))]));
}

#[test]
fn silence_is_noticed_within_the_time_of_a_half_open_link_and_pings_go_out_before() {
    let mut bench = Bench::up();
    let start = bench.now;
    let mut pings = 0;
    let noticed = loop {
        bench.now = bench.session.next_wakeup(true).unwrap();
        match bench.session.timers(bench.now) {
            Verdict::Alive => {}
            verdict => break verdict,
        }
        while let Some(transmit) = bench.session.poll_transmit(bench.now) {
            assert_eq!(transmit, Transmit::Ping);
            pings += 1;
        }
    };
    assert!(matches!(noticed, Verdict::Lost(_)));
    assert_eq!(bench.now - start, Duration::from_secs(15));
    assert_eq!(pings, 2);
}

#[test]
fn a_keepalive_command_is_a_framed_request_whose_answer_nobody_misses() {
    let keepalive = |dialect: &mut Dialect| dialect.call_api.keepalive = WebSocketKeepalive::Command { name: "ping".into() };
    let mut bench = Bench::with(keepalive, 64);
    bench.session.opened(bench.now);
    bench.now += Duration::from_secs(5);
    let Some(Transmit::Text(text)) = bench.session.poll_transmit(bench.now) else { panic!() };
    assert!(text.contains("0001ping "), "{text}");
    bench.answer("0001", "200", OK);
    assert_eq!(bench.counters.answers_unexpected.load(Relaxed), 0);
    assert!(bench.session.is_idle() && bench.settled().is_empty());
    bench.now += Duration::from_secs(5);
    bench.session.poll_transmit(bench.now).unwrap();
    bench.answer("0002", "401", "");
    assert_eq!(bench.session.timers(bench.now), Verdict::Relogin, "it tells of expiry too");
}

#[test]
fn bad_input_is_counted_and_only_what_may_have_been_an_event_is_a_gap() {
    let mut bench = Bench::up();
    bench.submit(1);
    bench.submit(2);
    let (first, _) = bench.transmit().unwrap();
    let (second, _) = bench.transmit().unwrap();
    assert!(!bench.session.received(&format!("010000000023{first}200oops"), bench.now).gap);
    bench.answer(&second, "200", "[{]");
    assert!(bench.settled().into_iter().all(|(_, result)| matches!(result, Err(CommandError::BadAnswer { .. }))));
    for (text, gap) in [
        ("garbage", true),
        ("01000000002000000", true),
        ("0100000000190999200oops", false),
        ("0100000000500000call/conversations_event        [{", true),
    ] {
        assert_eq!(bench.session.received(text, bench.now).gap, gap, "{text}");
    }
    let named = bench.framing.encode(&Frame::Event { name: Some("call/weather".into()), body: r#"[{"_name":"weather"}]"#.into() }).unwrap();
    let unknown = bench.session.received(&named, bench.now);
    assert!(!unknown.gap && unknown.complaint.is_some());
    assert_eq!(bench.counters.messages_bad.load(Relaxed), 7);
    assert_eq!(bench.session.phase(), Phase::Up);
}

#[test]
fn events_are_read_in_every_form_a_dialect_may_give_them_and_one_in_another_form_is_a_gap() {
    let json = r#"[{"_name":"call_ended_event","_content":[{"_name":"call","_attributes":{"call_id":"звонок"}}]}]"#;
    let forms = [
        EventFrame::RequestId { request_id: "0000".into() },
        EventFrame::RequestId { request_id: "EVNT".into() },
        EventFrame::Status { status: "EVT".into() },
        EventFrame::Status { status: "100".into() },
    ];
    let units = [LengthUnit::Bytes, LengthUnit::Characters];
    for (pad, unit, form, prefix) in
        [Pad::Space, Pad::Nul].into_iter().flat_map(|pad| units.map(|unit| (pad, unit))).flat_map(|(pad, unit)| {
            forms.clone().into_iter().flat_map(move |form| ["", "{service}/", "{service}."].map(|prefix| (pad, unit, form.clone(), prefix)))
        })
    {
        let by_name = matches!(form, EventFrame::RequestId { .. });
        let change = |dialect: &mut Dialect| {
            let api = &mut dialect.call_api;
            (api.pad, api.length_unit, api.event_frame, api.name_prefix) = (pad, unit, form.clone(), prefix.to_owned());
        };
        let mut bench = Bench::with(change, 64);
        bench.session.opened(bench.now);
        let name = by_name.then(|| format!("{}call_ended_event", prefix.replace("{service}", "call")).into());
        let text = bench.framing.encode(&Frame::Event { name, body: json.into() }).unwrap();
        let received = bench.session.received(&text, bench.now);
        assert_eq!((received.events.len(), received.complaint, received.gap), (1, None, false), "{form:?} {pad:?} {unit:?}");
    }
    let mut other = Bench::with(|dialect| dialect.call_api.event_frame = EventFrame::RequestId { request_id: "9999".into() }, 64);
    other.session.opened(other.now);
    let text = Bench::up().framing.encode(&Frame::Event { name: Some("call/call_ended_event".into()), body: json.into() }).unwrap();
    assert!(other.session.received(&text, other.now).gap);
}

#[test]
fn a_refusal_in_a_200_answer_is_a_refusal() {
    let mut bench = Bench::up();
    bench.submit(1);
    let (id, _) = bench.transmit().unwrap();
    bench.answer(&id, "200", r#"[{"_name":"out","_content":[{"_name":"error","_attributes":{"cause":"no_such_call"}}]}]"#);
    assert!(matches!(bench.settled()[..], [(1, Err(CommandError::Refused { reason: RefusalReason::UnknownCall, .. }))]));
}

#[derive(Debug, Clone)]
enum Step {
    Submit,
    Transmit,
    Answer { at: usize, status: u8 },
    Repeat,
    Pass { ms: u64 },
    Lose,
    Open,
    Garbage,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Submit),
        6 => Just(Step::Transmit),
        5 => (0usize..70, 0u8..4).prop_map(|(at, status)| Step::Answer { at, status }),
        1 => Just(Step::Repeat),
        2 => (0u64..4000).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Lose),
        2 => Just(Step::Open),
        1 => Just(Step::Garbage),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// However things interleave, each command ends exactly once; none that was not handed over is unknown, none that was
    /// handed over and not answered by an expiry is not sent, and no two outstanding ones share an id.
    #[test]
    fn every_command_ends_once_and_rightly_under_any_interleaving(steps in steps()) {
        let mut bench = Bench::with(|_| {}, 8);
        let mut submitted = 0u32;
        let mut handed: HashMap<u32, u32> = HashMap::new();
        let mut outstanding: Vec<(String, u32)> = Vec::new();
        let mut expired: HashMap<u32, u32> = HashMap::new();
        let mut ended: HashMap<u32, Result<Outcome, CommandError>> = HashMap::new();
        let mut last_answer = None;
        for step in steps.into_iter().chain([Step::Lose]) {
            match step {
                Step::Submit => {
                    submitted += 1;
                    bench.submit(submitted);
                }
                Step::Transmit => {
                    if let Some((id, number)) = bench.transmit() {
                        prop_assert!(outstanding.iter().all(|(other, _)| *other != id));
                        *handed.entry(number).or_default() += 1;
                        outstanding.push((id, number));
                    }
                }
                Step::Answer { at, status } if !outstanding.is_empty() => {
                    let (id, number) = outstanding.swap_remove(at % outstanding.len());
                    if status == 0 {
                        *expired.entry(number).or_default() += 1;
                        bench.answer(&id, "401", "");
                    } else {
                        bench.answer(&id, "200", OK);
                    }
                    last_answer = Some(id);
                }
                Step::Repeat => {
                    if let Some(id) = last_answer.clone().filter(|id| outstanding.iter().all(|(other, _)| other != id)) {
                        bench.answer(&id, "200", OK);
                    }
                }
                Step::Pass { ms } => {
                    bench.now += Duration::from_millis(ms);
                    match bench.session.timers(bench.now) {
                        Verdict::Alive => {}
                        Verdict::Lost(cause) => {
                            outstanding.clear();
                            bench.session.lost(cause);
                        }
                        Verdict::Relogin => {
                            outstanding.clear();
                            bench.session.reopening();
                        }
                    }
                }
                Step::Lose => {
                    outstanding.clear();
                    bench.session.lost("cut");
                }
                Step::Open if matches!(bench.session.phase(), Phase::Down | Phase::Reopening) => bench.session.opened(bench.now),
                Step::Garbage => {
                    bench.session.received("01garbage", bench.now);
                }
                _ => {}
            }
            for (number, result) in bench.settled() {
                let handed = handed.get(&number).copied().unwrap_or(0);
                let expired = expired.get(&number).copied().unwrap_or(0);
                match &result {
                    Ok(_) => prop_assert!(handed > expired),
                    Err(CommandError::OutcomeUnknown { .. }) => prop_assert!(handed > expired),
                    Err(CommandError::NotSent { .. }) => prop_assert_eq!(handed, expired),
                    other => prop_assert!(false, "{:?}", other),
                }
                prop_assert!(ended.insert(number, result).is_none(), "{} ended twice", number);
            }
        }
        prop_assert_eq!(ended.len(), usize::try_from(submitted).unwrap());
    }
}
