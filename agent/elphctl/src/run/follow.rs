//! Streams that outlive their connection: after an interruption they go on where they were, with jittered back-off, until the caller has
//! enough or interrupts.

use std::time::Duration;

use elph_proto::v1::{
    Cursor, StartNow, StartSnapshot, SubscribeRequest, SubscribeResponse, subscribe_request, subscribe_response::Message,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time,
};
use tonic::Streaming;

use crate::{
    cli::value::Start,
    connect::{Agent, lost},
    failure::{Failure, exit_of},
    output::{Output, note},
    resume::ResumeFile,
    settings::Settings,
};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A cursor is kept at most this long after the event that it stands for was shown.
const SAVE_AFTER: Duration = Duration::from_millis(100);

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next one.
    Go,
    /// Enough.
    End,
}

/// A reader that does not read holds our writes up, and with them the thread that would notice an interruption: after this we just end.
const GRACE: Duration = Duration::from_secs(2);

/// Ends the program some time after an interruption, should it not have ended in order.
pub(crate) fn end_in_any_case() {
    tokio::spawn(async {
        interrupted().await;
        time::sleep(GRACE).await;
        std::process::exit(8);
    });
}

/// Resolves when the user interrupts or the service manager stops us.
pub(crate) async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// A pause that grows, with full jitter.
#[derive(Debug, Default)]
pub(crate) struct Pauses(u32);

impl Pauses {
    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let longest = FIRST_PAUSE.saturating_mul(1 << self.0.min(10)).min(LONGEST_PAUSE);
        self.0 = self.0.saturating_add(1);
        longest.mul_f64(rand::random::<f64>())
    }

    /// It works again.
    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }

    /// Whether nothing has failed since it last worked.
    pub(crate) fn first(&self) -> bool {
        self.0 == 0
    }
}

/// Whether a failure can pass by itself.
pub(crate) fn passing(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable { .. } | Failure::Unavailable(_) => true,
        Failure::Answer { status, .. } => lost(status) || exit_of(status) == 3,
        _ => false,
    }
}

/// A stream of events and where it is.
#[derive(Debug)]
pub(crate) struct Follow {
    /// Filter and heartbeat; the start is set by `start` and the cursor.
    pub(crate) request: SubscribeRequest,
    /// Where it starts the first time.
    pub(crate) start: Start,
    /// Where the cursor is kept.
    pub(crate) file: Option<ResumeFile>,
    /// Silence after which the connection is taken for dead.
    pub(crate) silence: Duration,
}

/// How the reading of one connection ended.
enum Ended {
    /// By us.
    Done,
    /// By something that passes.
    Interrupted(Failure),
}

impl Follow {
    fn request(&self, cursor: Option<&Cursor>) -> SubscribeRequest {
        let start = match (cursor, &self.start) {
            (Some(cursor), _) => subscribe_request::Start::After(cursor.clone()),
            (None, Start::Now) => subscribe_request::Start::Now(StartNow {}),
            (None, Start::Snapshot) => subscribe_request::Start::Snapshot(StartSnapshot {}),
            (None, Start::After(cursor)) => subscribe_request::Start::After(cursor.clone()),
        };
        SubscribeRequest { start: Some(start), ..self.request.clone() }
    }

    /// Hands each message to `show`. The first connection must work; later ones are tried for ever.
    pub(crate) async fn run(
        mut self,
        settings: &Settings,
        agent: &Agent,
        out: &mut Output,
        mut show: impl FnMut(&SubscribeResponse, &mut Output) -> Result<Step, Failure>,
    ) -> Result<(), Failure> {
        end_in_any_case();
        let mut stop = std::pin::pin!(interrupted());
        let mut cursor = self.file.as_ref().and_then(|file| file.cursor().cloned());
        let mut pauses = Pauses::default();
        let mut agent = Some(agent.clone());
        let mut began = false;
        loop {
            let opening = async {
                let agent = match agent.take() {
                    Some(agent) => agent,
                    None => Agent::connect(settings).await?,
                };
                agent.ask(agent.events().subscribe(self.request(cursor.as_ref()))).await
            };
            let opened = tokio::select! {
                opened = opening => opened,
                () = &mut stop => return Ok(()),
            };
            let failure = match opened {
                Ok(stream) => {
                    if began && cursor.is_none() && self.start == Start::Now {
                        note("no event had come before the interruption: events during it are not shown");
                    }
                    began = true;
                    let reading = self.read(stream, &mut cursor, &mut pauses, out, &mut show);
                    let ended = tokio::select! {
                        ended = reading => ended,
                        () = &mut stop => Ok(Ended::Done),
                    };
                    // What was shown is kept, however it ended; what could not be shown is not.
                    let kept = match &ended {
                        Err(Failure::Closed | Failure::Local(_)) => Ok(()),
                        _ => self.keep(cursor.as_ref()),
                    };
                    match ended? {
                        Ended::Done => return kept,
                        Ended::Interrupted(failure) => {
                            kept?;
                            failure
                        }
                    }
                }
                Err(failure) if began && passing(&failure) => failure,
                Err(failure) => return Err(failure),
            };
            if pauses.first() {
                note(&format!("{failure}; trying again"));
            }
            tokio::select! {
                () = time::sleep(pauses.next()) => {}
                () = &mut stop => return Ok(()),
            }
        }
    }

    fn keep(&mut self, cursor: Option<&Cursor>) -> Result<(), Failure> {
        match (&mut self.file, cursor) {
            (Some(file), Some(cursor)) => file.save(cursor),
            _ => Ok(()),
        }
    }

    async fn read(
        &mut self,
        mut stream: Streaming<SubscribeResponse>,
        cursor: &mut Option<Cursor>,
        pauses: &mut Pauses,
        out: &mut Output,
        show: &mut impl FnMut(&SubscribeResponse, &mut Output) -> Result<Step, Failure>,
    ) -> Result<Ended, Failure> {
        let mut whole = true;
        let mut save_at: Option<time::Instant> = None;
        loop {
            let due = async {
                match save_at {
                    Some(at) => time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                next = time::timeout(self.silence, stream.message()) => next,
                () = due => {
                    self.keep(cursor.as_ref())?;
                    save_at = None;
                    continue;
                }
            };
            let message = match next {
                Err(_) => return Ok(Ended::Interrupted(Failure::Unavailable("the stream fell silent".into()))),
                Ok(Ok(None)) => return Ok(Ended::Interrupted(Failure::Unavailable("the agent ended the stream".into()))),
                Ok(Err(status)) => {
                    let failure = Failure::Answer { status: Box::new(status), change: None };
                    return if passing(&failure) { Ok(Ended::Interrupted(failure)) } else { Err(failure) };
                }
                Ok(Ok(Some(message))) => message,
            };
            if !pauses.first() {
                note("the stream goes on");
                pauses.reset();
            }
            let step = show(&message, out)?;
            out.flush()?;
            // Inside a snapshot its cursor is not a place to resume from: the rest of the snapshot would be missing.
            whole = match &message.message {
                Some(Message::Resync(_)) => false,
                Some(Message::Snapshot(snapshot)) => snapshot.complete,
                Some(Message::Event(_)) => true,
                Some(Message::Heartbeat(_)) | None => whole,
            };
            if let Some(seen) = message.cursor.filter(|_| whole) {
                *cursor = Some(seen);
                save_at.get_or_insert_with(|| time::Instant::now() + SAVE_AFTER);
            }
            if step == Step::End {
                return Ok(Ended::Done);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_jittered() {
        let mut pauses = Pauses::default();
        for round in 0..40_u32 {
            let bound = FIRST_PAUSE.saturating_mul(1 << round.min(10)).min(LONGEST_PAUSE);
            assert!(pauses.next() <= bound);
        }
        pauses.reset();
        assert!(pauses.next() <= FIRST_PAUSE);
    }
}
