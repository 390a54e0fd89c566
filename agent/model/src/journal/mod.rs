//! The journal: a bounded ring of encoded events in memory, and segment files that let cursors survive a restart of the agent.
//!
//! A position is `(epoch, sequence)`. At each start the sequence leaps to the clock (microseconds since 1970), so that positions
//! given out before a crash and not yet on disk are never given out twice.

mod disk;
mod ring;

pub use disk::{Journal, JournalError};
pub(crate) use ring::link_domain;
pub use ring::{Entry, Kind, Ring};
