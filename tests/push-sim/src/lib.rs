//! push-sim: the push services of Apple, Google and the browsers' makers, simulated for tests, benches and demos.
//!
//! Written from the providers' public documentation and the RFCs alone; it shares no code with the senders in `push/`. README.md
//! beside this crate has the map, the library by example and the control API.

mod apns;
mod apple;
mod arrival;
mod authority;
mod clock;
mod connections;
mod control;
mod counters;
mod device;
mod fault;
mod fcm;
mod files;
mod gate;
mod google;
mod http2;
mod https;
mod jwt;
mod options;
mod sim;
mod state;
#[cfg(test)]
mod testing;
mod web_push;

pub use apns::{FirstToken, GoAway, LastStream, TokenUpdates, When};
pub use apple::{Environment, TeamKey};
pub use arrival::{Arrival, Record, Waited};
pub use authority::ClientCertificate;
pub use counters::{ApnsViolations, Counters, ProviderCounters};
pub use device::{Device, DeviceState, Provider};
pub use fault::{Effect, Fault};
pub use options::{Addresses, Options, Ports};
pub use sim::PushSim;
pub use web_push::Subscription;
