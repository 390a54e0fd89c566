//! elph-agent: speaks to an ECSS-10 softswitch on one side and offers one gRPC API on the other. The binary is a thin shell around
//! this library.

pub mod access;
pub mod assembly;
pub mod cli;
pub mod command;
pub mod config;
pub mod doctor;
pub mod follow;
pub mod grpc;
pub mod health;
pub mod lifecycle;
pub mod link;
pub mod listen;
mod own;
pub mod push;
pub mod record;
pub mod replay;
pub mod telemetry;
pub mod tls;
