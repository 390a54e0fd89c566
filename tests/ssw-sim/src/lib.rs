//! ssw-sim: a simulated ECSS-10 switch behind its three protocols, with a control API for subscribers, faults and load.
//!
//! It is written from `docs/ecss10-interfaces.md` alone and shares no code with the agent's side of the protocols.

pub mod call_api;
pub mod context;
pub mod control;
pub mod credentials;
pub mod csta;
pub mod dialect;
pub mod faults;
pub mod load;
pub mod operations;
pub mod sessions;
pub mod sim;
pub mod terminal;
mod tls;

pub use context::ServerContext;
pub use credentials::Credentials;
pub use dialect::SimDialect;
pub use faults::{CutPoint, Faults, Link, MessageFault};
pub use sim::{NodeAddresses, Ports, Sim, SimOptions};
