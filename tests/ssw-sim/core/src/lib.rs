//! The simulated ECSS-10 switch without its protocols: domains, subscribers, calls and conferences in memory, no I/O.
//!
//! Everything is done through a [`Switch`], a cheap handle. It is deterministic: randomness comes from a seed, time from an injected
//! [`Clock`], and what happens by itself (ringing out, auto answers, planned ends) happens in [`Switch::tick`].
//! The rules are those of `docs/ecss10-interfaces.md`; states are named as in ECMA-269 (calls) and RFC 4575 (conferences).

pub mod call;
pub mod clock;
pub mod conference;
pub mod event;
pub mod licence;
pub mod refusal;
pub mod subscriber;
pub mod switch;

pub use call::{CallKind, CallView, Cause, Direction, HistoryFilter, HistoryKind, LegState, LegView, Outcome};
pub use clock::{Clock, ManualClock, SystemClock};
pub use conference::{ConferenceRequest, ConferenceView, ParticipantStatus, ParticipantView, Recording, Role, Room, Template};
pub use event::{CallChange, CallEvent, CoreEvent, EventKind, Merge};
pub use licence::{LicenceKind, LicenceView};
pub use refusal::{Refusal, RefusalCause};
pub use subscriber::{Answer, DomainOptions, GroupKind, Regime, Registration, SubscriberView};
pub use switch::{MergeInto, Switch, SwitchOptions};
