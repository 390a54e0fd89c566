//! The suite as one program: every service, or those that are named, in one process.

mod accounts;
mod bus;
pub mod cli;
pub mod config;
mod doctor;
mod run;
mod sso;

pub use self::run::Failure;
