//! The durable queue of pushes: a push is accepted when it is on disk, waits in the lane of its application by class, is handed to the
//! application's sender, and is tried again as the outcome says, until it ends. Knows no provider, no registry and no calls.

mod commit;
mod core;
mod count;
mod flow;
mod history;
mod index;
mod lane;
mod life;
mod log;
mod options;
mod outbox;
mod pushes;
mod record;
mod recover;
mod run;
mod wire;

pub use count::{AppSnapshot, Latency, Snapshot};
pub use life::{Cancelled, History, Job, Life, Moment, Receipt, Refused, State, Watched};
pub use log::OpenError;
pub use options::{Clock, Options, Waits};
pub use pushes::{Pushes, Watch};
pub use recover::Recovered;
pub use run::{Gone, Senders, Telling, TokenGone, Verdict};
