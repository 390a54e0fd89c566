//! Commands: executed once per request id, detached from the RPC that asked for them, and written to the audit log. What comes back is
//! the resulting state, seen in the model, or a typed error that says whether it may be sent again.

mod ledger;
mod outcome;

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use elph_proto::reason::{Reason, code_name};
use mediator_client::switch::Domain;
use parking_lot::Mutex;
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tracing::Instrument as _;

use self::ledger::{Key, Known, Ledger, Outcome, hex};
pub use self::outcome::{refused, unknown_outcome};
use crate::{
    access::{
        Principal,
        audit::{Command as AuditRecord, Object},
    },
    lifecycle::Shared,
};

/// Commands under way at a time.
const PARALLEL: usize = 512;

/// A command as it was asked for.
pub struct Ask {
    /// Who asks.
    pub principal: Principal,
    /// The gRPC method: `CallService/MakeCall`.
    pub method: &'static str,
    /// The domain it is about.
    pub domain: Domain,
    /// The caller's request id.
    pub request_id: String,
    /// The encoded request: the same id with another one is refused.
    pub request: Vec<u8>,
    /// What it is about, for the audit log: field, value, whether the value is personal.
    pub objects: Vec<(&'static str, String, bool)>,
}

/// An answer as it is remembered: without what the model knows anyway.
pub trait Remembered: Message + Default + Clone + 'static {
    /// Takes out what is large and can be filled in again.
    fn slim(&mut self) {}
    /// Fills it in again.
    fn refill(&mut self, _core: &elph_model::Core) {}
}

/// Executes commands.
pub struct Commands {
    ledger: Arc<Mutex<Ledger>>,
    under_way: Arc<Semaphore>,
    tasks: TaskTracker,
    shared: Arc<Shared>,
}

impl Commands {
    /// Reads the request ids from before the start.
    pub fn open(path: &Path, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let requests = shared.config.load().requests.clone();
        let max_count = usize::try_from(requests.max_count).unwrap_or(usize::MAX);
        let ledger = Ledger::open(path, max_count, requests.retention.0)?;
        Ok(Self {
            ledger: Arc::new(Mutex::new(ledger)),
            under_way: Arc::new(Semaphore::new(PARALLEL)),
            tasks: TaskTracker::new(),
            shared: shared.clone(),
        })
    }

    /// Waits until every command has ended; each has a deadline. New ones are refused once the agent drains.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// What a command answered before.
    pub fn recall<R: Remembered>(
        &self,
        caller: &str,
        request_id: &str,
        method: &str,
        request: &[u8],
        core: &elph_model::Core,
    ) -> Option<Result<R, Status>> {
        let key = Key { caller: caller.to_owned(), id: request_id.to_owned() };
        let outcome = self.ledger.lock().ended(&key, &digest(method, request))?;
        Some(read(outcome, core))
    }

    /// Runs a command, or answers what it answered before.
    pub async fn run<R, F>(&self, ask: Ask, core: &Arc<elph_model::Core>, within: Duration, work: F) -> Result<R, Status>
    where
        R: Remembered,
        F: Future<Output = Result<R, Status>> + Send + 'static,
    {
        if self.shared.shutdown.soft.is_cancelled() {
            return Err(Reason::ShuttingDown.status("the agent is shutting down"));
        }
        let permit = self.under_way.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Reason::TooManyCommands.status("too many commands are under way; try again"))?;
        let key = Key { caller: ask.principal.caller().to_owned(), id: ask.request_id.clone() };
        let digest = digest(ask.method, &ask.request);
        let known = self.ledger.lock().begin(&key, &digest);
        match known {
            Known::OtherCommand => Err(Reason::RequestIdReused.status("this request id was used for another command; choose a new one")),
            Known::Ended(outcome) => read(outcome, core),
            Known::Running(outcome) => wait(outcome, core, within).await,
            Known::New => {
                let running = Running { ledger: self.ledger.clone(), shared: self.shared.clone(), key, ask, ended: false };
                let work = async move {
                    let result = tokio::time::timeout(within, work).await;
                    let result = result.unwrap_or_else(|_| Err(unknown_outcome("the command took too long")));
                    running.end(&result);
                    drop(permit);
                    result
                };
                // The request's span goes along: what the links log about the command names the request.
                let task = self.tasks.spawn(work.in_current_span());
                // The task goes on if the caller goes away here.
                task.await.unwrap_or_else(|_| Err(unknown_outcome("the command broke off")))
            }
        }
    }
}

/// A command under way. However it goes, its id does not stay behind as one that runs.
struct Running {
    ledger: Arc<Mutex<Ledger>>,
    shared: Arc<Shared>,
    key: Key,
    ask: Ask,
    ended: bool,
}

impl Running {
    fn end<R: Remembered>(mut self, result: &Result<R, Status>) {
        self.ended = true;
        settle(&self.ledger, &self.key, result);
        self.tell(result.as_ref().err());
    }

    /// Counts it and writes it into the audit log.
    fn tell(&self, error: Option<&Status>) {
        let reason = error.and_then(Reason::of).map(Reason::as_str);
        let word = reason.unwrap_or(code_name(error.map_or(Code::Ok, Status::code)));
        let labels = [("operation", self.ask.method.to_owned()), ("outcome", word.to_owned())];
        self.shared.metrics.commands.get_or_create(&labels).inc();
        record(&self.shared.audit, &self.ask, error);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let error = unknown_outcome("the command broke off");
            self.ledger.lock().end(&self.key, Outcome::of(&error));
            self.tell(Some(&error));
        }
    }
}

fn digest(method: &str, request: &[u8]) -> String {
    hex(&Sha256::new().chain_update(method).chain_update([0]).chain_update(request).finalize())
}

fn settle<R: Remembered>(ledger: &Mutex<Ledger>, key: &Key, result: &Result<R, Status>) {
    match result {
        Ok(answer) => {
            let mut slim = answer.clone();
            slim.slim();
            ledger.lock().end(key, Outcome::Answer(slim.encode_to_vec()));
        }
        Err(status) => {
            let temporary = [Reason::SwitchUnavailable, Reason::TooManyCommands, Reason::ShuttingDown];
            let outcome = Outcome::of(status);
            if Reason::of(status).is_some_and(|reason| temporary.contains(&reason)) {
                ledger.lock().take_back(key, outcome);
            } else {
                ledger.lock().end(key, outcome);
            }
        }
    }
}

fn record(audit: &crate::access::audit::Audit, ask: &Ask, error: Option<&Status>) {
    let code = code_name(error.map_or(Code::Ok, Status::code));
    let reason = error.and_then(Reason::of).map(Reason::as_str);
    let objects = ask.objects.iter().map(|(field, value, sensitive)| Object { field, value, sensitive: *sensitive }).collect();
    let written =
        AuditRecord { method: ask.method, domain: Some(&ask.domain), objects, request_id: &ask.request_id, outcome: code, reason };
    audit.record(&ask.principal, &written);
}

async fn wait<R: Remembered>(
    mut outcome: tokio::sync::watch::Receiver<Option<Outcome>>,
    core: &elph_model::Core,
    within: Duration,
) -> Result<R, Status> {
    let ended = tokio::time::timeout(within, outcome.wait_for(Option::is_some)).await;
    match ended {
        Ok(Ok(outcome)) => {
            let outcome = outcome.clone().unwrap_or(Outcome::Unknown);
            read(outcome, core)
        }
        _ => Err(unknown_outcome("the command with this request id is still under way")),
    }
}

fn read<R: Remembered>(outcome: Outcome, core: &elph_model::Core) -> Result<R, Status> {
    match outcome {
        Outcome::Answer(bytes) => {
            let mut answer = R::decode(bytes.as_slice()).map_err(|_| unknown_outcome("the remembered answer cannot be read"))?;
            answer.refill(core);
            Ok(answer)
        }
        Outcome::Error { code, message, details } => Err(Outcome::status(code, &message, &details)),
        Outcome::Unknown => Err(unknown_outcome("the agent was restarted while the command was under way")),
    }
}
