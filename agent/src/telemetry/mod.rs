//! What the agent tells about itself: metrics.

pub mod metrics;
