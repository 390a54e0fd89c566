//! Pushes to APNs per second and what they cost, queue on disk included, beside two libraries and beside what the provider takes at most.

use std::time::Duration;

use crate::{
    push_rivals::{Providers, Streams},
    push_sender::Sent,
    report::{Better, Table, median, progress},
};

const RUNS: usize = 3;
/// Against the faster rival, in pushes per second of processor time.
const TIMES_THE_RIVAL: f64 = 5.0;
/// Of h2load's rate.
const OF_THE_LIMIT: f64 = 0.6;
const BODY: &str = r#"{"aps":{"alert":{"title":"Anna Petrova","body":"Shall we move the meeting to half past three? The room is free until five."},"sound":"default","thread-id":"room-7"},"event":"message","room":"room-7","id":"0198a2b4"}"#;

/// One delay of the provider, and how many pushes each sends.
struct Case {
    delay: Duration,
    ours: u64,
    node_apn: u64,
    aioapns: u64,
    h2load: u64,
    streams: Streams,
}

const CASES: [Case; 2] = [
    Case {
        delay: Duration::ZERO,
        ours: 100_000,
        node_apn: 15_000,
        aioapns: 5_000,
        h2load: 150_000,
        streams: Streams { connections: 1, each: 100 },
    },
    Case {
        delay: Duration::from_millis(40),
        ours: 100_000,
        node_apn: 15_000,
        aioapns: 5_000,
        h2load: 150_000,
        // As many as we may have.
        streams: Streams { connections: 4, each: 1000 },
    },
];

const OURS: &str = "ours";
const BARE: &str = "without the queue";
const LIMIT: &str = "h2load";
const RIVALS: [&str; 2] = ["node-apn", "aioapns"];

/// Medians of a sender's runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) cpu_per_thousand: f64,
}

pub(crate) async fn run() -> anyhow::Result<Table> {
    let mut table = Table::new("push_apns");
    for case in &CASES {
        let providers = Providers::start(case.delay).await?;
        let mut runs: Vec<(&'static str, Sent)> = Vec::new();
        for run in 1..=RUNS {
            progress(&format!("push_apns, {} ms, run {run} of {RUNS}", case.delay.as_millis()));
            let mut noted = |who, sent: Sent| {
                progress(&format!("{who}: {}", shown(sent)));
                runs.push((who, sent));
            };
            noted(OURS, providers.ours(true, BODY, case.ours).await?);
            noted(BARE, providers.ours_without_the_queue(true, BODY, case.ours).await?);
            noted(LIMIT, providers.h2load(true, BODY, case.h2load, case.streams).await?);
            for (who, pushes) in RIVALS.into_iter().zip([case.node_apn, case.aioapns]) {
                noted(who, providers.rival(who, BODY, pushes).await?);
            }
        }
        let of = |who| figures(&runs, who);
        let (ours, bare, limit, [node_apn, aioapns]) = (of(OURS), of(BARE), of(LIMIT), RIVALS.map(of));
        let delay = format!("provider answers after {} ms", case.delay.as_millis());
        let row = table.row(format!("pushes, {delay}"), "1/s", Better::Higher, ours.per_second).goal(OF_THE_LIMIT * limit.per_second);
        row.beside(LIMIT, limit.per_second).beside("node-apn", node_apn.per_second).beside("aioapns", aioapns.per_second);
        let cheapest = node_apn.cpu_per_thousand.min(aioapns.cpu_per_thousand);
        let row = table.row(format!("CPU per 1000 pushes, {delay}"), "ms", Better::Lower, 1e3 * ours.cpu_per_thousand);
        row.goal(1e3 * cheapest / TIMES_THE_RIVAL).beside(LIMIT, 1e3 * limit.cpu_per_thousand);
        row.beside("node-apn", 1e3 * node_apn.cpu_per_thousand).beside("aioapns", 1e3 * aioapns.cpu_per_thousand);
        table.row(format!("pushes without the queue, {delay}"), "1/s", Better::Higher, bare.per_second).beside(LIMIT, limit.per_second);
        let row = table.row(format!("CPU per 1000 pushes without the queue, {delay}"), "ms", Better::Lower, 1e3 * bare.cpu_per_thousand);
        row.beside(LIMIT, 1e3 * limit.cpu_per_thousand);
    }
    table.note(format!("medians of {RUNS} runs in turn; payload {} octets; senders on one core, push-sim on the other", BODY.len()));
    table.note("ours: each push accepted on disk first, as SendPushes does; the libraries have no queue and at most 1000 in flight;");
    table.note(
        "to 1000 devices in turn, as h2load has 1000 addresses. Without the queue: the sender alone, which shows what the queue costs;",
    );
    table.note("h2load writes the same fields and octets again and again (1 × 100 streams, with delay 4 × 1000). Goals: 60 % of its rate,");
    table.note("a fifth of the cheaper library's CPU. Starts, connecting and the first token are left out, but not of h2load's CPU.");
    Ok(table)
}

pub(crate) fn figures(runs: &[(&'static str, Sent)], who: &str) -> Figures {
    let of = |figure: fn(&Sent) -> f64| median(runs.iter().filter(|(it, _)| *it == who).map(|(_, sent)| figure(sent)).collect());
    Figures { per_second: of(Sent::per_second), cpu_per_thousand: of(Sent::cpu_per_thousand) }
}

pub(crate) fn shown(sent: Sent) -> String {
    format!("{:.0}/s, {:.2} CPU-ms per 1000", sent.per_second(), 1e3 * sent.cpu_per_thousand())
}

impl Sent {
    #[expect(clippy::cast_precision_loss, reason = "a count of pushes")]
    fn per_second(&self) -> f64 {
        self.taken as f64 / self.seconds
    }

    /// Seconds.
    #[expect(clippy::cast_precision_loss, reason = "a count of pushes")]
    fn cpu_per_thousand(&self) -> f64 {
        self.cpu * 1e3 / self.taken as f64
    }
}
