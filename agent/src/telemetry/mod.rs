//! What the agent tells about itself: logs and metrics.

pub(crate) mod journald;
pub mod logs;
pub mod metrics;
