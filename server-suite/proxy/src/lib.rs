//! The only door from outside, across hosts: nginx as the data plane, this program as its control plane. It renders nginx's
//! configuration, tests it, reloads nginx without dropping a connection, and looks after the copies of every service.

pub mod cli;
pub mod config;
pub mod nginx;
pub mod render;

mod acme;
mod counts;
mod doctor;
mod health;
mod metrics;
pub mod run;
mod serve;
