//! What all three protocols become: observations of calls and conferences. The switch model is a function of these; each may
//! come late, twice or out of order, and from more than one monitor.

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::{
    command::Role,
    ids::{Alias, Domain, SwitchCallId, SwitchConferenceId, SwitchLegId, SwitchParticipantId},
};

/// One observation, as it left a protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct SwitchEvent {
    /// The tenant it is about.
    pub domain: Domain,
    /// When it happened, if the switch says so.
    pub at: Option<Timestamp>,
    /// What was seen.
    pub observation: Observation,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// A leg is in a state.
    Leg(LegObservation),
    /// Calls went over into another one (transfer, three-way).
    Merged(CallsMerged),
    /// A call is over, whatever its legs said.
    CallReleased {
        /// The call.
        call: SwitchCallId,
        /// Why it ended.
        cause: Option<Cause>,
    },
    /// A conference exists, or something about it as a whole has changed.
    Conference(ConferenceObservation),
    /// A conference is over.
    ConferenceEnded {
        /// The conference.
        conference: SwitchConferenceId,
    },
    /// A member exists, or something about it has changed.
    Participant(ParticipantObservation),
}

/// A leg's state: ECMA-269 connection states, plus how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LegState {
    /// The device is being prompted or is dialling.
    Initiated,
    /// It rings.
    Alerting,
    /// It waits in a queue.
    Queued,
    /// It talks.
    Connected,
    /// It is on hold.
    Held,
    /// The attempt failed; it is not yet cleared.
    Failed,
    /// It is gone. Final.
    Released,
}

/// The end of the call a leg is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The leg's device started the call.
    Originating,
    /// The call came to the leg's device.
    Terminating,
}

/// Why a leg or call ended or moved: the causes of ECMA-269 that this project tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Hung up in the ordinary way.
    Normal,
    /// The called party is busy.
    Busy,
    /// Nobody answered.
    NoAnswer,
    /// The called party refused.
    Rejected,
    /// The caller gave up while it rang.
    CallerGaveUp,
    /// Another device or leg answered.
    AnsweredElsewhere,
    /// The number does not exist or is out of order.
    Unobtainable,
    /// Sent on to another number.
    Redirected,
    /// Went over into another call by transfer.
    Transfer,
    /// Went over into a conference or three-way.
    Conference,
    /// The switch or network had no means.
    NoResources,
    /// Anything else.
    Other,
}

/// A leg as it was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct LegObservation {
    /// The call.
    pub call: SwitchCallId,
    /// The leg in it.
    pub leg: SwitchLegId,
    /// Whose leg it is, where known.
    pub device: Option<Alias>,
    /// Which end it is, where known.
    pub direction: Option<Direction>,
    /// The other party as this leg sees it, where known.
    pub remote: Option<Alias>,
    /// Its state.
    pub state: LegState,
    /// Why, where the switch says so.
    pub cause: Option<Cause>,
    /// When it was answered, where the switch says so.
    pub answered_at: Option<Timestamp>,
}

/// Calls that went over into another one.
#[derive(Debug, Clone, PartialEq)]
pub struct CallsMerged {
    /// The call that stays the same for its users: ours keeps its id. The held one of a transfer or join.
    pub primary: SwitchCallId,
    /// The consultation call that ends, if there was one.
    pub secondary: Option<SwitchCallId>,
    /// The call that results; may be one of the two.
    pub into: SwitchCallId,
    /// `Cause::Transfer` or `Cause::Conference`.
    pub cause: Cause,
    /// The device that leaves (transfer), where known.
    pub leaving: Option<Alias>,
    /// The legs of the resulting call, as far as the switch lists them.
    pub legs: Vec<LegObservation>,
}

/// What is known about a conference as a whole. `None` says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConferenceObservation {
    /// The conference; always set.
    pub conference: Option<SwitchConferenceId>,
    /// Shown name.
    pub name: Option<String>,
    /// The room it runs in.
    pub room: Option<String>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it will end by itself.
    pub ends_at: Option<Timestamp>,
    /// Most participants.
    pub max_participants: Option<u32>,
    /// Whether it is locked.
    pub locked: Option<bool>,
    /// Recording.
    pub recording: Option<Recording>,
    /// Whether participants who are muted may unmute themselves.
    pub may_unmute_themselves: Option<bool>,
}

/// The state of a conference's recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recording {
    /// None.
    Off,
    /// Running.
    On,
    /// Paused.
    Paused,
}

/// A member's connection: RFC 4575 endpoint status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words are RFC 4575 section 5.7.2's")]
pub enum ParticipantStatus {
    Pending,
    DialingOut,
    DialingIn,
    Alerting,
    OnHold,
    Connected,
    Disconnecting,
    Disconnected,
}

/// What is known about a member. `None` says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct ParticipantObservation {
    /// The conference.
    pub conference: SwitchConferenceId,
    /// The member.
    pub participant: SwitchParticipantId,
    /// Its number.
    pub number: Option<Alias>,
    /// Shown name.
    pub name: Option<String>,
    /// Its role.
    pub role: Option<Role>,
    /// Its connection. `Disconnected` = it has left.
    pub status: Option<ParticipantStatus>,
    /// Whether it has a microphone.
    pub voice: Option<bool>,
    /// Whether it asks for the floor.
    pub floor_requested: Option<bool>,
    /// Whether it talks now.
    pub talking: Option<bool>,
    /// Why it left or could not be reached.
    pub cause: Option<Cause>,
}

impl ParticipantObservation {
    /// An observation that says nothing yet.
    pub fn of(conference: SwitchConferenceId, participant: SwitchParticipantId) -> Self {
        Self {
            conference,
            participant,
            number: None,
            name: None,
            role: None,
            status: None,
            voice: None,
            floor_requested: None,
            talking: None,
            cause: None,
        }
    }
}

/// What a link tells the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum LinkEvent {
    /// An observation.
    Seen(SwitchEvent),
    /// The session is up; what went before may have been missed. Take a snapshot.
    Up,
    /// The session is down.
    Down,
    /// Observations were lost (queue full, numbering gap, message not understood). Take a snapshot.
    Gap {
        /// What happened.
        cause: String,
    },
}

/// Where a link puts its events. Never waits: what does not fit is dropped, and a `Gap` follows as soon as there is room.
#[derive(Debug, Clone)]
pub struct EventSink {
    queue: mpsc::Sender<LinkEvent>,
    gap: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl EventSink {
    /// A sink and its reader; `bound` events wait at most.
    pub fn new(bound: usize) -> (Self, mpsc::Receiver<LinkEvent>) {
        let (queue, reader) = mpsc::channel(bound);
        (Self { queue, gap: std::sync::Arc::default() }, reader)
    }

    /// Puts an event in the queue, or counts it as lost.
    pub fn send(&self, event: LinkEvent) {
        use std::sync::atomic::Ordering::AcqRel;
        let lost = self.gap.swap(0, AcqRel);
        if lost > 0 {
            let cause = format!("{lost} events did not fit the queue");
            if self.queue.try_send(LinkEvent::Gap { cause }).is_err() {
                self.gap.fetch_add(lost + 1, AcqRel);
                return;
            }
        }
        if self.queue.try_send(event).is_err() {
            self.gap.fetch_add(1, AcqRel);
        }
    }

    /// How many events are lost and not yet reported.
    pub fn lost(&self) -> u64 {
        self.gap.load(std::sync::atomic::Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_sink_reports_a_gap_instead_of_waiting() {
        let (sink, mut reader) = EventSink::new(2);
        for _ in 0..5 {
            sink.send(LinkEvent::Down);
        }
        assert_eq!(sink.lost(), 3);
        reader.recv().await;
        reader.recv().await;
        sink.send(LinkEvent::Up);
        assert!(matches!(reader.recv().await, Some(LinkEvent::Gap { cause }) if cause.starts_with('3')));
        assert_eq!(reader.recv().await, Some(LinkEvent::Up));
    }
}
