//! The client that the agent holds: commands and snapshots as requests of CSTA, and what comes of their answers. The connection
//! itself is `driver`'s.

use std::{sync::Arc, time::Duration};

use ecss_switch::{
    Alias, CallCommand, CommandError, Dialect, Domain, SwitchCallId, SwitchLegId,
    command::{CallOutcome, LegRef},
    connect::{Connect, Endpoint},
    event::{EventSink, LegObservation},
    link::{LinkCounters, LinkStatus, Tap},
};
use secrecy::SecretString;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    driver::{Answered, Control, Driver, Token},
    message::{AnswerBody, Connection, Request, request::Target},
    monitors::MonitorProgress,
    observe::DeviceForm,
    session::Failure,
};

/// Commands that wait for the driver's turn.
const QUEUE: usize = 1024;

/// How to reach the switch's CSTA.
#[derive(Debug, Clone)]
pub struct CstaConfig {
    /// The nodes, the preferred one first.
    pub nodes: Vec<Endpoint>,
    /// The domain: the session's user name.
    pub domain: Domain,
    /// The domain's CSTA password.
    pub password: SecretString,
    /// How long a session lasts without renewal (300 s in the documents).
    pub session_duration: Duration,
    /// Within which time a dead link is noticed.
    pub half_open_after: Duration,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long an answer is waited for.
    pub command_timeout: Duration,
    /// How long a preferred node must have been reachable before the session moves back to it.
    pub fail_back_after: Duration,
    /// The most requests without answer.
    pub window: usize,
    /// What the jitter of waits is drawn from; `None`: the operating system.
    pub seed: Option<u64>,
}

/// The CSTA link of one domain. Cheap to clone; all clones share one session.
#[derive(Debug, Clone)]
pub struct Csta {
    controls: mpsc::Sender<Control>,
    status: watch::Receiver<LinkStatus>,
    progress: watch::Receiver<MonitorProgress>,
    counters: Arc<LinkCounters>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dialect: Arc<Dialect>,
    form: DeviceForm,
    command_timeout: Duration,
}

impl Csta {
    /// Starts the link's task. It ends when `shutdown` is cancelled, after the session has been ended in good order.
    pub fn start(
        config: CstaConfig,
        dialect: Arc<Dialect>,
        connect: Arc<dyn Connect>,
        sink: EventSink,
        tap: Option<Arc<dyn Tap>>,
        shutdown: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (controls, queue) = mpsc::channel(QUEUE);
        let node = config.nodes.first().map(Endpoint::to_string).unwrap_or_default();
        let (status, status_reader) = watch::channel(LinkStatus::new(node));
        let (progress, progress_reader) = watch::channel(MonitorProgress::default());
        let counters = Arc::new(LinkCounters::default());
        let shared = Shared {
            form: DeviceForm::new(&dialect, &config.domain),
            dialect: Arc::clone(&dialect),
            command_timeout: config.command_timeout,
        };
        let driver = Driver::new(config, &dialect, connect, sink, tap, shutdown, queue, status, progress, Arc::clone(&counters));
        let task = tokio::spawn(driver.run());
        (Self { controls, status: status_reader, progress: progress_reader, counters, shared: Arc::new(shared) }, task)
    }

    /// The link's state.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// What the link counts.
    pub fn counters(&self) -> Arc<LinkCounters> {
        Arc::clone(&self.counters)
    }

    /// How far the monitors are.
    pub fn monitored(&self) -> watch::Receiver<MonitorProgress> {
        self.progress.clone()
    }

    /// Replaces the set of devices that are monitored, now and after every reconnect. Returns once the link has taken note;
    /// `monitored` tells how far it is. Devices whose monitor starts after `Up` are reported by a `Gap`: take a snapshot of them.
    pub async fn watch_devices(&self, devices: Vec<Alias>) {
        let (done, taken) = oneshot::channel();
        let patience = self.shared.command_timeout;
        if timeout(patience, self.controls.send(Control::Watch(devices, done))).await.is_ok_and(|sent| sent.is_ok()) {
            // An error here is the end of the link: there is nothing left to monitor with.
            let _ended = timeout(patience, taken).await;
        }
    }

    /// Has the switch do something about a call.
    pub async fn execute(&self, command: CallCommand) -> Result<CallOutcome, CommandError> {
        let operation = command.operation();
        let form = &self.shared.form;
        let request = match command {
            CallCommand::Make { from, to } => Request::MakeCall {
                calling: form.write(&from),
                called: form.write(&to),
                auto_originate: self.shared.dialect.csta.auto_originate.clone(),
            },
            CallCommand::Answer(leg) => Request::AnswerCall(target(&leg)),
            CallCommand::Reject(leg) | CallCommand::ReleaseLeg(leg) => Request::ClearConnection(target(&leg)),
            CallCommand::ReleaseCall(call) => Request::ClearCall { call: call.as_str().to_owned() },
            CallCommand::Hold(leg) => Request::HoldCall(target(&leg)),
            CallCommand::Retrieve(leg) => Request::RetrieveCall(target(&leg)),
            CallCommand::TransferBlind { leg, to } => Request::SingleStepTransferCall { active: target(&leg), to: form.write(&to) },
            CallCommand::Consult { leg, to } => Request::ConsultationCall { existing: target(&leg), consulted: form.write(&to) },
            CallCommand::TransferComplete { held, active } => Request::TransferCall { held: target(&held), active: target(&active) },
            CallCommand::TransferCancel { held, active } => return self.transfer_cancel(&held, &active).await,
            CallCommand::Join { held, active } => Request::ConferenceCall { held: target(&held), active: target(&active) },
            CallCommand::Deflect { leg, to } => Request::DeflectCall { diverted: target(&leg), to: form.write(&to) },
            CallCommand::Dtmf { .. } if !self.shared.dialect.csta.generate_digits => return Err(CommandError::Unnamed { operation }),
            CallCommand::Dtmf { leg, digits } => Request::GenerateDigits { connection: target(&leg), digits },
        };
        self.call(request).await
    }

    /// The legs of a call. The switch's refusal of an unknown call is `UnknownCall`.
    pub async fn snapshot_call(&self, call: &SwitchCallId) -> Result<Vec<LegObservation>, CommandError> {
        self.snapshot(Request::SnapshotCall { call: call.as_str().to_owned() }, None).await
    }

    /// The device's own leg in each of its calls.
    pub async fn snapshot_device(&self, device: &Alias) -> Result<Vec<LegObservation>, CommandError> {
        self.snapshot(Request::SnapshotDevice { device: self.shared.form.write(device) }, Some(device.clone())).await
    }

    /// Two services of the standard: once the first is done, a failure of the second leaves half of the command executed.
    async fn transfer_cancel(&self, held: &LegRef, active: &LegRef) -> Result<CallOutcome, CommandError> {
        self.call(Request::ClearConnection(target(active))).await?;
        self.call(Request::RetrieveCall(target(held))).await.map_err(|error| {
            CommandError::unknown(format!("the consultation call was cleared, but the held call was not taken back: {error}"))
        })
    }

    async fn call(&self, request: Request) -> Result<CallOutcome, CommandError> {
        match self.request(request, None).await? {
            Answered::Body(AnswerBody::Call(connection)) => Ok(outcome(&connection)),
            Answered::Body(AnswerBody::Done) => Ok(CallOutcome::default()),
            Answered::Body(other) => Err(CommandError::BadAnswer { cause: format!("an answer of another kind: {other:?}") }),
            Answered::Legs(_) => Err(CommandError::BadAnswer { cause: "a snapshot instead of an answer".to_owned() }),
        }
    }

    async fn snapshot(&self, request: Request, device: Option<Alias>) -> Result<Vec<LegObservation>, CommandError> {
        match self.request(request, Some(device)).await? {
            Answered::Legs(legs) => Ok(legs),
            Answered::Body(_) => Err(CommandError::BadAnswer { cause: "no snapshot".to_owned() }),
        }
    }

    /// Hands the request to the link and waits. Whoever stops waiting stops nothing: the command goes on.
    async fn request(&self, request: Request, snapshot: Option<Option<Alias>>) -> Result<Answered, CommandError> {
        let (reply, answer) = oneshot::channel();
        let patience = self.shared.command_timeout;
        let control = Control::Command { request, token: Token { reply, snapshot } };
        match timeout(patience, self.controls.send(control)).await {
            Err(_) => return Err(CommandError::not_sent("the link is too busy")),
            Ok(Err(_)) => return Err(CommandError::not_sent("the link has ended")),
            Ok(Ok(())) => {}
        }
        // The link answers by its own deadline: waiting in its queue and for the switch, each `patience` at most.
        match timeout(patience * 2 + Duration::from_secs(1), answer).await {
            Ok(Ok(Ok(Answered::Body(AnswerBody::Error(error))))) => {
                Err(CommandError::Refused { reason: error.reason(&self.shared.dialect), text: error.text() })
            }
            Ok(Ok(Ok(answered))) => Ok(answered),
            Ok(Ok(Err(Failure::NotSent(cause)))) => Err(CommandError::not_sent(cause)),
            Ok(Ok(Err(Failure::Unknown(cause)))) => Err(CommandError::unknown(cause)),
            Ok(Err(_)) | Err(_) => Err(CommandError::unknown("the link gave no account of it")),
        }
    }
}

fn target(leg: &LegRef) -> Target {
    Target { call: Some(leg.call.as_str().to_owned().into()), device: Some(leg.leg.as_str().to_owned().into()) }
}

fn outcome(connection: &Connection<'_>) -> CallOutcome {
    CallOutcome {
        call: connection.call.as_deref().and_then(|id| SwitchCallId::parse(id).ok()),
        leg: connection.device.as_deref().and_then(|id| SwitchLegId::parse(id).ok()),
    }
}
