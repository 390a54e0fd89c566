//! The mediator's HTTP terminal, TCP 9999 (ecss10-interfaces §1): a pure codec, a session without I/O, and a tokio driver.

mod client;
pub mod command;
mod http;
mod judge;
pub mod session;
mod time;
pub mod xml;

pub use client::{Terminal, TerminalConfig};
pub use command::{
    aliases::{AliasProfile, AliasRecord},
    calls::{AddressPattern, CallRecord, CallsKind, CallsQuery, FaxFilter, InvalidPattern},
    conferences::{Conference, Room},
    subscribers::{ActiveCall, Authentication, Regime, Registration, SipUser, SsPackage, SsPackages, SubscriberCard},
    system::{ConfigurationLock, NumberList},
};
pub use session::{Command, Reply, Settings};
