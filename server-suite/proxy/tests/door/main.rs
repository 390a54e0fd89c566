//! The real elph-proxy with the real nginx. Skipped where nginx (or what else a test needs) is not installed, unless
//! `ELPH_TEST_TOOLS=required`.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests: a failed one is a failed test")]

mod acme;
mod harness;
mod life;
mod requests;
mod tls;
