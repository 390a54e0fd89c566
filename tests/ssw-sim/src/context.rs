//! What the servers of all protocols share: the switch behind them, the dialect they speak, the faults in force, their sessions.

use std::sync::Arc;

use ssw_core::Switch;
use tokio_util::sync::CancellationToken;

use crate::{credentials::Credentials, dialect::SimDialect, faults::Faults, sessions::Sessions};

/// Given to each server of each node.
#[derive(Clone)]
pub struct ServerContext {
    /// The switch, one for all nodes.
    pub switch: Switch,
    /// How the open choices are made.
    pub dialect: Arc<SimDialect>,
    /// Faults in force.
    pub faults: Faults,
    /// Sessions of all protocols.
    pub sessions: Sessions,
    /// Who may log in.
    pub credentials: Arc<Credentials>,
    /// Which node this is, from 0.
    pub node: usize,
    /// TLS, if the listener speaks it.
    pub tls: Option<tokio_rustls::TlsAcceptor>,
    /// The end of the simulator.
    pub shutdown: CancellationToken,
}
