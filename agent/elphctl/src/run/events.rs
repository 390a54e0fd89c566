//! `elphctl events watch`, `conf watch` and `calls watch`.

use std::time::Duration;

use elph_proto::v1::{
    CallState, ConferenceState, EventKind, GetConferenceResponse, SubscribeRequest, SubscribeResponse, WatchCallRequest, WatchCallResponse,
    event::Change, subscribe_response::Message,
};
use jiff::Timestamp;
use tokio::time;

use super::{
    Session,
    follow::{Follow, Pauses, Step, end_in_any_case, interrupted, passing},
};
use crate::{
    cli::{
        events::{EventsCommand, WatchEvents},
        value::Start,
    },
    connect::Agent,
    failure::Failure,
    output::{Output, note},
    render::{self, event},
    resume::ResumeFile,
};

/// Heartbeats that may be missed, and a reserve.
const MISSED: u32 = 3;
const HEARTBEAT: Duration = Duration::from_secs(15);

fn silence(heartbeat: Duration) -> Duration {
    heartbeat * MISSED + Duration::from_secs(2)
}

fn proto(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

/// Shows a message of the stream.
fn show(message: &SubscribeResponse, out: &mut Output) -> Result<(), Failure> {
    if matches!(message.message, Some(Message::Heartbeat(_)) | None) {
        return Ok(());
    }
    if out.json {
        return out.message("SubscribeResponse", message);
    }
    render::refresh(&mut out.look);
    match &message.message {
        Some(Message::Event(change)) => event::line(change, &out.look).map_or(Ok(()), |line| out.line(&line)),
        Some(Message::Resync(resync)) => {
            let line = event::resync(resync, &out.look);
            out.line(&line)
        }
        Some(Message::Snapshot(snapshot)) => {
            let mark = |reconstructed, polled| render::marks(reconstructed, polled);
            let look = out.look.clone();
            for link in &snapshot.links {
                out.line(&event::link_line(event::SNAPSHOT, link, &look))?;
            }
            for call in &snapshot.calls {
                out.line(&event::call_line(event::SNAPSHOT, call, mark(call.reconstructed, call.polled), &look))?;
            }
            for conference in &snapshot.conferences {
                let mark = mark(conference.reconstructed, conference.polled);
                out.line(&event::conference_line(event::SNAPSHOT, conference, mark, &look))?;
            }
            Ok(())
        }
        Some(Message::Heartbeat(_)) | None => Ok(()),
    }
}

impl Session<'_> {
    /// Runs a command.
    pub(crate) async fn events(&mut self, command: EventsCommand) -> Result<(), Failure> {
        let EventsCommand::Watch(watch) = command;
        self.watch_events(watch).await
    }

    async fn watch_events(&mut self, watch: WatchEvents) -> Result<(), Failure> {
        if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&watch.heartbeat) {
            return Err(Failure::Usage("--heartbeat must be 1s to 5m".into()));
        }
        let file = watch.resume.as_deref().map(ResumeFile::open).transpose()?;
        let mut conference_ids = Vec::new();
        for given in &watch.conference {
            conference_ids.push(self.conference_id(given).await?);
        }
        let request = SubscribeRequest {
            kinds: watch.kind.into_iter().map(|kind| EventKind::from(kind).into()).collect(),
            domains: watch.domain,
            aliases: watch.alias,
            conference_ids,
            start: None,
            heartbeat_interval: proto(watch.heartbeat),
        };
        let follow = Follow { request, start: watch.from, file, silence: silence(watch.heartbeat) };
        let (mut left, endless) = (watch.count, watch.count == 0);
        let counted = move |message: &SubscribeResponse, out: &mut Output| {
            show(message, out)?;
            if matches!(message.message, Some(Message::Event(_))) {
                left = left.saturating_sub(1);
            }
            Ok(if left == 0 && !endless { Step::End } else { Step::Go })
        };
        follow.run(&self.settings, &self.agent, self.out, counted).await
    }

    /// Shows a conference, then its changes, until it has ended.
    pub(crate) async fn watch_conference(&mut self, id: String) -> Result<(), Failure> {
        let conference = self.conference(&id).await?;
        if conference.state() == ConferenceState::Ended {
            return self.show_conference(conference);
        }
        if !self.out.json {
            self.show_conference(conference)?;
            self.out.line("")?;
        } else {
            self.out.message("GetConferenceResponse", &GetConferenceResponse { conference: Some(conference) })?;
        }
        self.out.flush()?;
        let request = SubscribeRequest {
            kinds: vec![EventKind::Conference.into()],
            conference_ids: vec![id.clone()],
            heartbeat_interval: proto(HEARTBEAT),
            ..Default::default()
        };
        let follow = Follow { request, start: Start::Snapshot, file: None, silence: silence(HEARTBEAT) };
        let mut seen = false;
        let until_the_end = move |message: &SubscribeResponse, out: &mut Output| {
            show(message, out)?;
            Ok(match &message.message {
                Some(Message::Snapshot(snapshot)) => {
                    seen |= snapshot.conferences.iter().any(|conference| conference.id == id);
                    let gone = snapshot.complete && !seen;
                    seen &= !snapshot.complete;
                    if gone {
                        note("the conference is over");
                    }
                    if gone { Step::End } else { Step::Go }
                }
                Some(Message::Event(change)) => match &change.change {
                    Some(Change::Conference(conference)) if conference.state() == ConferenceState::Ended => Step::End,
                    _ => Step::Go,
                },
                _ => Step::Go,
            })
        };
        follow.run(&self.settings, &self.agent, self.out, until_the_end).await
    }

    fn show_watched(&mut self, answer: &WatchCallResponse) -> Result<bool, Failure> {
        let Some(call) = &answer.call else { return Ok(false) };
        if self.out.json {
            self.out.message("WatchCallResponse", answer)?;
        } else {
            render::refresh(&mut self.out.look);
            let now = prost_types::Timestamp { seconds: Timestamp::now().as_second(), nanos: Timestamp::now().subsec_nanosecond() };
            let time = render::stream_time(Some(now), &self.out.look);
            let line = event::call_line(&time, call, render::marks(call.reconstructed, call.polled), &self.out.look);
            self.out.line(&line)?;
        }
        self.out.flush()?;
        Ok(call.state() == CallState::Ended)
    }

    /// Shows a call each time it changes, until it has ended.
    pub(crate) async fn watch_call(&mut self, call_id: String) -> Result<(), Failure> {
        end_in_any_case();
        let mut stop = std::pin::pin!(interrupted());
        let mut pauses = Pauses::default();
        let mut version = None;
        let mut agent = Some(self.agent.clone());
        loop {
            let opening = async {
                let agent = match agent.take() {
                    Some(agent) => agent,
                    None => Agent::connect(&self.settings).await?,
                };
                agent.ask(agent.calls().watch_call(WatchCallRequest { call_id: call_id.clone() })).await
            };
            let opened = tokio::select! {
                opened = opening => opened,
                () = &mut stop => return Ok(()),
            };
            let failure = match opened {
                Ok(mut stream) => loop {
                    let next = tokio::select! {
                        next = stream.message() => next,
                        () = &mut stop => return Ok(()),
                    };
                    match next {
                        Ok(Some(answer)) => {
                            pauses.reset();
                            let seen = answer.call.as_ref().map(|call| call.version);
                            // After an interruption the call is told as it is: it need not have changed.
                            if seen != version && self.show_watched(&answer)? {
                                return Ok(());
                            }
                            version = seen;
                        }
                        Ok(None) => break Failure::Unavailable("the agent ended the stream".into()),
                        Err(status) => break Failure::Answer { status: Box::new(status), change: None },
                    }
                },
                Err(failure) => failure,
            };
            if version.is_none() || !passing(&failure) {
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
