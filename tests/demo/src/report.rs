//! What a self-test prints: a line per step with a tick and its time for people, an object per line for programs.

use std::{future::Future, io::Write, time::Instant};

use serde_json::json;

use crate::seen::Missed;

/// Where the times stand, so that a line fits into 80 columns.
const TIME_COLUMN: usize = 68;

/// Writes one line. Nobody is left to be told when the output is closed.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// The steps of one run.
pub(crate) struct Report {
    json: bool,
    seed: u64,
    group: &'static str,
    began: Instant,
    steps: u32,
}

impl Report {
    pub(crate) fn new(json: bool, seed: u64) -> Self {
        Self { json, seed, group: "", began: Instant::now(), steps: 0 }
    }

    /// Begins a group of steps.
    pub(crate) fn group(&mut self, title: &'static str) {
        self.group = title;
        if !self.json {
            line(&format!("\n{title}"));
        }
    }

    /// Carries out a step and prints how it went.
    pub(crate) async fn step<T>(&mut self, what: &str, act: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let began = Instant::now();
        let done = act.await;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.steps += 1;
        match &done {
            Ok(_) if self.json => self.object(json!({ "group": self.group, "step": what, "ok": true, "ms": ms })),
            Ok(_) => line(&format!("  ✓ {what:<TIME_COLUMN$} {ms:>4} ms")),
            Err(error) => self.failed(what, ms, error),
        }
        done
    }

    fn failed(&self, what: &str, ms: u64, error: &anyhow::Error) {
        let (expected, seen) = match error.downcast_ref::<Missed>() {
            Some(missed) => (missed.expected.clone(), missed.seen.clone()),
            None => (what.to_owned(), told(error)),
        };
        if self.json {
            let object = json!({ "group": self.group, "step": what, "ok": false, "ms": ms, "expected": expected, "seen": seen });
            return self.object(object);
        }
        line(&format!("  ✗ {what:<TIME_COLUMN$} {ms:>4} ms"));
        line(&format!("      expected  {expected}"));
        line(&format!("      seen      {seen}"));
    }

    /// The last line of a run that went well.
    pub(crate) fn passed(&self) {
        let (steps, ms) = (self.steps, self.ms());
        if self.json {
            return self.object(json!({ "result": "passed", "steps": steps, "ms": ms }));
        }
        line(&format!("\nAll {steps} steps were seen through gRPC and HTTP, in {:.1} s (seed {}).", self.seconds(), self.seed));
    }

    /// The last lines of a run that did not.
    pub(crate) fn gave_up(&self, error: &anyhow::Error, kept: Option<&std::path::Path>) {
        let log = kept.map(|path| path.join("agent.log"));
        if self.json {
            return self.object(json!({ "result": "failed", "steps": self.steps, "ms": self.ms(), "error": told(error), "agent_log": log, "directory": kept }));
        }
        line(&format!("\nFailed at step {} after {:.1} s (seed {}).", self.steps, self.seconds(), self.seed));
        match (log, kept) {
            (Some(log), Some(kept)) => {
                line(&format!("  agent's log  {}", log.display()));
                line(&format!("  switch's log {}", kept.join("ssw-sim.log").display()));
            }
            _ => line(&format!("  {}", told(error))),
        }
        line(&format!("  again        make demo ARGS=\"--selftest --seed {}\"", self.seed));
    }

    fn object(&self, mut object: serde_json::Value) {
        if let Some(fields) = object.as_object_mut() {
            fields.insert("seed".to_owned(), self.seed.into());
        }
        line(&object.to_string());
    }

    fn ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// An error with its causes; of a gRPC status the reason as well.
pub(crate) fn told(error: &anyhow::Error) -> String {
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        let reason = elph_proto::reason::Reason::of(status).map(|reason| format!(" {}", reason.as_str())).unwrap_or_default();
        return format!("{:?}{reason}: {}", status.code(), status.message());
    }
    format!("{error:#}")
}

/// Tells of a failure outside a self-test.
pub(crate) fn complain(text: &str) {
    // Nobody is left to be told when the output is closed.
    let _ = writeln!(std::io::stderr(), "demo: {text}");
}
