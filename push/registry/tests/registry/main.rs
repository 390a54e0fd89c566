//! The registry as others use it: its rules, what survives, and a model that it is compared with.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "what fails in a helper fails the test")]

mod durability;
mod model;
mod rules;
mod support;
