//! Messages to FCM per second and what they cost, queue on disk included, beside what the provider takes at most.

use std::time::Duration;

use crate::{
    push_apns::{figures, shown},
    push_rivals::{Providers, Streams},
    push_sender::Sent,
    report::{Better, Table, progress},
};

const RUNS: usize = 3;
const OF_THE_LIMIT: f64 = 0.6;
const PUSHES: u64 = 60_000;
/// What the agent's template makes of a message: all but the target and what follows from urgency and age.
const MESSAGE: &str = r#"{"data":{"event":"message","room":"room-7","id":"0198a2b4"},"notification":{"title":"Anna Petrova","body":"Shall we move the meeting to half past three? The room is free until five."}}"#;
const DELAYS: [(Duration, Streams); 2] =
    [(Duration::ZERO, Streams { connections: 1, each: 100 }), (Duration::from_millis(40), Streams { connections: 4, each: 1000 })];

pub(crate) async fn run() -> anyhow::Result<Table> {
    let mut table = Table::new("push_fcm");
    let whole = whole()?;
    for (delay, streams) in DELAYS {
        let providers = Providers::start(delay).await?;
        let mut runs: Vec<(&'static str, Sent)> = Vec::new();
        for run in 1..=RUNS {
            progress(&format!("push_fcm, {} ms, run {run} of {RUNS}", delay.as_millis()));
            let mut noted = |who, sent: Sent| {
                progress(&format!("{who}: {}", shown(sent)));
                runs.push((who, sent));
            };
            noted("ours", providers.ours(false, MESSAGE, PUSHES).await?);
            noted("h2load", providers.h2load(false, &whole, PUSHES, streams).await?);
        }
        let (ours, limit) = (figures(&runs, "ours"), figures(&runs, "h2load"));
        let delay = format!("provider answers after {} ms", delay.as_millis());
        let row = table.row(format!("messages, {delay}"), "1/s", Better::Higher, ours.per_second);
        row.goal(OF_THE_LIMIT * limit.per_second).beside("h2load", limit.per_second);
        let row = table.row(format!("CPU per 1000 messages, {delay}"), "ms", Better::Lower, 1e3 * ours.cpu_per_thousand);
        row.beside("h2load", 1e3 * limit.cpu_per_thousand);
    }
    let share = OF_THE_LIMIT * 100.0;
    table.note(format!(
        "medians of {RUNS} runs in turn; {} octets; senders on one core, push-sim on the other; goal {share} %",
        whole.len()
    ));
    table.note("ours: each push accepted on disk first, the message put together for its device; h2load writes the same octets again");
    table.note("and again (1 × 100 streams, with delay 4 × 1000). Google's own firebase-admin cannot be pointed elsewhere by its options.");
    Ok(table)
}

/// As it is on the wire.
fn whole() -> anyhow::Result<String> {
    let mut message: serde_json::Value = serde_json::from_str(MESSAGE)?;
    if let Some(members) = message.as_object_mut() {
        members.insert("token".to_owned(), e2e::pushes::fcm_token(0).into());
        members.insert("android".to_owned(), serde_json::json!({ "priority": "NORMAL", "ttl": "3600s" }));
    }
    Ok(serde_json::json!({ "message": message }).to_string())
}
