//! From a link's events to the model. Never waits for anything but the link.

use std::sync::Arc;

use elph_model::{Core, Origin};
use mediator_client::switch::{
    LinkEvent, Observation, SwitchEvent,
    link::{LinkState, LinkStatus},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Resync;

/// Events taken from a link at a time: so long the model is locked at most.
const BATCH: usize = 128;

/// What of a link's events matters: a link may tell more than it is configured for.
pub(super) struct Feed {
    pub(super) core: Arc<Core>,
    /// Calls come from this link; here a comparison is asked for.
    pub(super) calls: Option<Arc<Resync>>,
    /// Conferences come from this link.
    pub(super) conferences: Option<Arc<Resync>>,
}

impl Feed {
    pub(super) async fn run(self, mut events: mpsc::Receiver<LinkEvent>) {
        let mut batch = Vec::with_capacity(BATCH);
        while events.recv_many(&mut batch, BATCH).await > 0 {
            // A comparison is only asked for here, and made later: what else is in the batch may go first.
            self.core.observe_all(batch.iter().filter_map(|event| self.wanted(event)), Origin::default());
            for event in batch.drain(..) {
                self.heed(&event);
            }
        }
    }

    fn wanted<'a>(&self, event: &'a LinkEvent) -> Option<&'a SwitchEvent> {
        let LinkEvent::Seen(event) = event else { return None };
        let wanted = match event.observation {
            Observation::Leg(_) | Observation::Merged(_) | Observation::CallReleased { .. } => &self.calls,
            Observation::Conference(_) | Observation::ConferenceEnded { .. } | Observation::Participant(_) => &self.conferences,
        };
        wanted.is_some().then_some(event)
    }

    fn heed(&self, event: &LinkEvent) {
        match event {
            LinkEvent::Up => self.doubt(),
            LinkEvent::Gap { cause } => {
                tracing::info!(%cause, "events were missed, comparing with the switch");
                self.doubt();
            }
            // The status tells; the comparison follows when it is up again.
            LinkEvent::Down | LinkEvent::Seen(_) => {}
        }
    }

    fn doubt(&self) {
        for resync in [&self.calls, &self.conferences].into_iter().flatten() {
            resync.ask();
        }
    }
}

/// Writes a link's state into the model as it changes, and into the log.
pub(super) async fn watch_status(core: Arc<Core>, name: String, mut status: watch::Receiver<LinkStatus>, stop: CancellationToken) {
    loop {
        let now = status.borrow_and_update().clone();
        match now.state {
            LinkState::Up => tracing::info!(link = name, node = now.node, version = now.switch_version, "link is up"),
            LinkState::Down => tracing::warn!(link = name, node = now.node, error = now.last_error, "link is down"),
            LinkState::Connecting => tracing::debug!(link = name, node = now.node, "link is connecting"),
        }
        core.link_changed(proto(&name, &now));
        match stop.run_until_cancelled(status.changed()).await {
            Some(Ok(())) => {}
            _ => return,
        }
    }
}

fn proto(name: &str, status: &LinkStatus) -> elph_proto::v1::Link {
    use elph_proto::v1::LinkState as State;
    let state = match status.state {
        LinkState::Connecting => State::Connecting,
        LinkState::Up => State::Up,
        LinkState::Down => State::Down,
    };
    elph_proto::v1::Link {
        name: name.to_owned(),
        state: state.into(),
        since: Some(elph_model::timestamp(status.since)),
        node: status.node.clone(),
        last_error: status.last_error.clone().unwrap_or_default(),
        switch_version: status.switch_version.clone().unwrap_or_default(),
        sessions: status.sessions,
    }
}
