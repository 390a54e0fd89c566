//! The vocabulary of everything spoken to an ECSS-10 switch, shared by its three protocols: identifiers, commands,
//! observations, errors, the dialect and how a connection is made. No protocol lives here.

pub mod backoff;
pub mod command;
pub mod connect;
pub mod dialect;
pub mod error;
pub mod event;
pub mod ids;
pub mod link;
pub mod nodes;
pub mod words;

pub use command::{CallCommand, ConferenceCommand, Operation};
pub use dialect::Dialect;
pub use error::{CommandError, RefusalReason};
pub use event::{LinkEvent, Observation, SwitchEvent};
pub use ids::{Alias, Domain, SwitchCallId, SwitchConferenceId, SwitchLegId, SwitchParticipantId};
