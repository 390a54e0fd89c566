//! HTTP/2 (RFC 9113) from a client's side, as a state machine without I/O: octets in, events out; requests in, octets out. It is made for
//! many small requests with the same few header fields over few connections, and for answers that are smaller still: all frames of a turn
//! gather in one buffer, fields that requests share are compressed once, there is no task, channel or lock in it.
//!
//! APNs is spoken with it, because there every microsecond of a push counts. Other services are spoken to with the `h2` crate (in
//! `push-http`), which does what this leaves out: streamed bodies both ways, server push, servers.
//!
//! - `hpack`: header compression (RFC 7541).
//! - `frame`: what frames look like.
//! - `connection`: [`Connection`], what they mean; `input`: what it does with those of the peer.

mod code;
mod connection;
mod frame;
pub mod hpack;
mod input;

pub use code::{Broken, Code};
pub use connection::{Answer, Connection, Event, Failure, Fields, Limits, Refused, Request};
