//! What was seen through gRPC: one subscription to everything, from a snapshot, and the state it makes. Remembers what has ended too.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use elph_proto::{
    v1::{
        self, Call, CallState, Conference, ConferenceState, Event, LegState, LinkState, ParticipantStatus,
        event_service_client::EventServiceClient, subscribe_request::Start, subscribe_response::Message,
    },
    view::View,
};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tonic::{Streaming, transport::Channel};

/// Ended calls and conferences that are remembered.
const REMEMBERED: usize = 1_000;

/// What a step waited for in vain.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}; seen: {seen}")]
pub(crate) struct Missed {
    /// What should have been.
    pub(crate) expected: String,
    /// What was.
    pub(crate) seen: String,
}

/// A subscription and the state it makes.
pub(crate) struct Seen {
    stream: Streaming<v1::SubscribeResponse>,
    /// What goes on.
    pub(crate) view: View,
    /// Calls that have ended, by our id.
    pub(crate) ended_calls: BTreeMap<String, Call>,
    /// Conferences that have ended, by our id.
    pub(crate) ended_conferences: BTreeMap<String, Conference>,
}

impl Seen {
    /// Subscribes and waits for the snapshot.
    pub(crate) async fn start(channel: Channel) -> anyhow::Result<Self> {
        let request = v1::SubscribeRequest {
            start: Some(Start::Snapshot(v1::StartSnapshot {})),
            heartbeat_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            ..v1::SubscribeRequest::default()
        };
        let stream = EventServiceClient::new(channel).subscribe(request).await.context("EventService.Subscribe")?.into_inner();
        let mut seen = Self { stream, view: View::default(), ended_calls: BTreeMap::new(), ended_conferences: BTreeMap::new() };
        seen.until("a snapshot", |seen| seen.view.complete.then_some(())).await?;
        Ok(seen)
    }

    /// Reads one message; the event in it, if it was one.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        let message = self.stream.next().await.context("the event stream ended")?.context("the event stream broke")?;
        let event = match &message.message {
            Some(Message::Event(event)) => Some(event.clone()),
            _ => None,
        };
        match event.as_ref().and_then(|event| event.change.as_ref()) {
            Some(v1::event::Change::Call(call)) if call.state() == CallState::Ended => {
                remember(&mut self.ended_calls, &call.id, call);
            }
            Some(v1::event::Change::Conference(conference)) if conference.state() == ConferenceState::Ended => {
                remember(&mut self.ended_conferences, &conference.id, conference);
            }
            _ => {}
        }
        self.view.apply(message);
        Ok(event)
    }

    /// Reads on until it is as wanted.
    pub(crate) async fn until<T>(&mut self, expected: &str, wanted: impl Fn(&Self) -> Option<T>) -> anyhow::Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = wanted(self) {
                return Ok(found);
            }
            match tokio::time::timeout_at(end, self.next()).await {
                Ok(read) => drop(read?),
                Err(_) => return Err(Missed { expected: expected.to_owned(), seen: self.summary() }.into()),
            }
        }
    }

    /// Reads what comes within a moment.
    pub(crate) async fn read_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while let Ok(read) = tokio::time::timeout_at(end, self.next()).await {
            read?;
        }
        Ok(())
    }

    /// A call that goes on, or has ended.
    pub(crate) fn call(&self, id: &str) -> Option<&Call> {
        self.view.calls.get(id).or_else(|| self.ended_calls.get(id))
    }

    /// A conference that goes on.
    pub(crate) fn conference(&self, id: &str) -> Option<&Conference> {
        self.view.conferences.get(id)
    }

    /// Whether there are links and all of them are in this state.
    pub(crate) fn links_up(&self) -> bool {
        !self.view.links.is_empty() && self.view.links.values().all(|link| link.state() == LinkState::Up)
    }

    /// Everything in a few lines, for people who look for what went wrong.
    pub(crate) fn summary(&self) -> String {
        let calls = self.view.calls.values().map(describe_call);
        let ended = self.ended_calls.values().rev().take(3).map(describe_call);
        let conferences = self.view.conferences.values().map(describe_conference);
        let links = self.view.links.values().map(|link| format!("link {} {}", link.name, word(link.state().as_str_name(), "LINK_STATE_")));
        let all: Vec<String> = calls.chain(ended).chain(conferences).chain(links).collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join("; ") }
    }
}

/// How long a step may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

fn remember<T: Clone>(ended: &mut BTreeMap<String, T>, id: &str, what: &T) {
    if ended.len() >= REMEMBERED {
        ended.pop_first();
    }
    ended.insert(id.to_owned(), what.clone());
}

/// `LEG_STATE_HELD` as `held`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

pub(crate) fn leg_word(state: LegState) -> String {
    word(state.as_str_name(), "LEG_STATE_")
}

pub(crate) fn status_word(status: ParticipantStatus) -> String {
    word(status.as_str_name(), "PARTICIPANT_STATUS_")
}

pub(crate) fn describe_call(call: &Call) -> String {
    let legs: Vec<String> = call.legs.iter().map(|leg| format!("{} {}", leg.device, leg_word(leg.state()))).collect();
    format!("call {} {} ({})", call.switch_call_id, word(call.state().as_str_name(), "CALL_STATE_"), legs.join(", "))
}

pub(crate) fn describe_conference(conference: &Conference) -> String {
    let members: Vec<String> = conference
        .participants
        .iter()
        .map(|member| {
            let muted = if member.muted { " muted" } else { "" };
            let floor = if member.floor_requested { " asks for the floor" } else { "" };
            format!("{} {}{muted}{floor}", member.number, status_word(member.status()))
        })
        .collect();
    let locked = if conference.locked { " locked" } else { "" };
    format!("conference {}{locked} ({})", conference.switch_conference_id, members.join(", "))
}
