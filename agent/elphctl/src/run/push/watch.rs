//! `elphctl push watch`. Steps are not kept for a reader who is away: after an interruption it goes on with new ones and says so.

use elph_proto::v1::{WatchPushesRequest, WatchPushesResponse, watch_pushes_response::Message};
use tokio::time;
use tonic::Streaming;

use super::Session;
use crate::{
    cli::push::WatchPushes,
    connect::Agent,
    failure::Failure,
    output::{Output, note},
    render,
    run::follow::{Pauses, end_in_any_case, interrupted, passing},
};

fn show(answer: &WatchPushesResponse, out: &mut Output) -> Result<(), Failure> {
    if out.json {
        return out.message("WatchPushesResponse", answer);
    }
    render::refresh(&mut out.look);
    let line = match &answer.message {
        Some(Message::Event(event)) => render::push::line(event, &out.look),
        Some(Message::Missed(count)) => render::push::missed(*count, &out.look),
        None => return Ok(()),
    };
    out.line(&line)
}

/// Steps that are still to be shown.
struct Left {
    count: u64,
    endless: bool,
}

/// Shows a stream to its end; none: enough was shown.
async fn read(
    mut stream: Streaming<WatchPushesResponse>,
    left: &mut Left,
    pauses: &mut Pauses,
    out: &mut Output,
) -> Result<Option<Failure>, Failure> {
    loop {
        let answer = match stream.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(Some(Failure::Unavailable("the agent ended the stream".into()))),
            Err(status) => return Ok(Some(Failure::Answer { status: Box::new(status), change: None })),
        };
        pauses.reset();
        show(&answer, out)?;
        out.flush()?;
        if matches!(answer.message, Some(Message::Event(_))) {
            left.count = left.count.saturating_sub(1);
        }
        if left.count == 0 && !left.endless {
            return Ok(None);
        }
    }
}

impl Session<'_> {
    /// Shows steps until the caller has enough or interrupts.
    pub(crate) async fn watch_pushes(&mut self, watch: WatchPushes) -> Result<(), Failure> {
        end_in_any_case();
        let mut left = Left { count: watch.count, endless: watch.count == 0 };
        let domains = if watch.domain.is_empty() { self.settings.domain.iter().cloned().collect() } else { watch.domain };
        let request = WatchPushesRequest { domains, apps: watch.app, final_only: watch.final_only };
        let mut stop = std::pin::pin!(interrupted());
        let mut pauses = Pauses::default();
        let mut agent = Some(self.agent.clone());
        let mut began = false;
        loop {
            let opening = async {
                let agent = match agent.take() {
                    Some(agent) => agent,
                    None => Agent::connect(&self.settings).await?,
                };
                agent.ask(agent.push().watch_pushes(request.clone())).await
            };
            let opened = tokio::select! {
                opened = opening => opened,
                () = &mut stop => return Ok(()),
            };
            let failure = match opened {
                Ok(stream) => {
                    if began {
                        note("the stream goes on: steps during the interruption are not shown, 'elphctl push log' tells those of a push");
                    }
                    began = true;
                    let ended = tokio::select! {
                        ended = read(stream, &mut left, &mut pauses, self.out) => ended?,
                        () = &mut stop => return Ok(()),
                    };
                    let Some(failure) = ended else { return Ok(()) };
                    failure
                }
                Err(failure) => failure,
            };
            if !began || !passing(&failure) {
                return Err(failure);
            }
            if pauses.first() {
                note(&format!("{failure}; trying again"));
            }
            tokio::select! {
                () = time::sleep(pauses.next()) => {}
                () = &mut stop => return Ok(()),
            }
        }
    }
}
