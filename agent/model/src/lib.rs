//! The switch as the agent knows it: calls and conferences as state machines fed by observations, and the journal of their changes.
//! Nothing here does network I/O; only the journal's writer touches files.

mod call;
mod conference;
mod convert;
mod core;
mod ids;
pub mod journal;
mod retired;
mod subscription;
#[cfg(test)]
mod tests;

pub use crate::{
    call::{CallSnapshot, FinishedCall},
    conference::ConferenceSnapshot,
    convert::{end_cause, leg_state, timestamp},
    core::{Core, CoreCounters, CoreOptions, DomainCounts, Origin, Page, Tick},
    subscription::{Filter, Frame, Start, Subscription},
};
