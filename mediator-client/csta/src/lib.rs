//! CSTA to an ECSS-10 switch: ECMA-323 edition 3 over TCP, framed by Annex J.2 (ecss10-interfaces §3). A codec and a session that do
//! no I/O (`frame`, `message`, `session`, `observe`), and the client that drives them.

pub mod client;
mod driver;
pub mod frame;
pub mod message;
pub mod monitors;
pub mod observe;
pub mod session;

pub use client::{Csta, CstaConfig};
pub use monitors::MonitorProgress;
