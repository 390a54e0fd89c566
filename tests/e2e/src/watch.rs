//! A subscriber that keeps a view.

use std::time::Duration;

use anyhow::Context;
use elph_proto::{
    v1::{self, event_service_client::EventServiceClient, subscribe_request::Start},
    view::View,
};
use tokio_stream::StreamExt;
use tonic::{Streaming, transport::Channel};

use crate::PATIENCE;

/// A stream of events and the view it makes.
pub struct Watch {
    stream: Streaming<v1::SubscribeResponse>,
    /// What the stream has told so far.
    pub view: View,
    /// Every message so far, snapshots and heartbeats included.
    pub messages: Vec<v1::SubscribeResponse>,
}

impl Watch {
    /// Subscribes; with no start in the request, from a snapshot.
    pub async fn start(mut client: EventServiceClient<Channel>, mut request: v1::SubscribeRequest) -> anyhow::Result<Self> {
        request.start = request.start.or(Some(Start::Snapshot(v1::StartSnapshot {})));
        request.heartbeat_interval = request.heartbeat_interval.or(Some(prost_types::Duration { seconds: 1, nanos: 0 }));
        let stream = client.subscribe(request).await?.into_inner();
        Ok(Self { stream, view: View::default(), messages: Vec::new() })
    }

    /// Reads on until the view is as wanted.
    pub async fn until<T>(&mut self, what: &str, wanted: impl Fn(&View) -> Option<T>) -> anyhow::Result<T> {
        let read = async {
            loop {
                if let Some(found) = wanted(&self.view) {
                    return Ok(found);
                }
                self.read().await?;
            }
        };
        let found = tokio::time::timeout(PATIENCE, read).await;
        found.with_context(|| format!("the subscriber did not see in time: {what}"))?
    }

    /// Reads one message.
    pub async fn read(&mut self) -> anyhow::Result<()> {
        let message = self.stream.next().await.context("the stream ended")??;
        self.messages.push(message.clone());
        self.view.apply(message);
        Ok(())
    }

    /// Events so far, in order.
    pub fn events(&self) -> impl Iterator<Item = &v1::Event> {
        self.messages.iter().filter_map(|message| match &message.message {
            Some(v1::subscribe_response::Message::Event(event)) => Some(event),
            _ => None,
        })
    }
}

/// Asks again and again until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> anyhow::Result<T> {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.with_context(|| format!("did not happen in time: {what}"))
}
