//! The server's side of HTTP/2 (RFC 9113) as a state machine without I/O, for the faults need their hands on single frames.

pub(crate) mod frame;
pub(crate) mod hpack;
mod request;
mod server;

pub(crate) use request::Request;
pub(crate) use server::{Server, ServerOptions, Tally};
