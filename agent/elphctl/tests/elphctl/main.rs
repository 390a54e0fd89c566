//! The real `elphctl` against an agent with canned answers.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, reason = "helpers of tests")]

mod commands;
mod failures;
mod pushes;
mod reference;
mod streams;
mod support;
mod tables;
mod world;
