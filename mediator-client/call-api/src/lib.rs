//! The switch's Call API (ecss10-interfaces §2), TCP 8086: login, commands and events, over a framed WebSocket where the dialect
//! knows its path, over plain HTTP where it does not. A pure codec, a session without I/O, and a tokio driver.

mod client;
mod driver;
pub mod frame;
mod http;
mod plain;
pub mod session;
pub mod shape;
mod socket;
pub mod tree;

pub use client::{CallApi, CallApiConfig};
pub use shape::{ShapeFields, shape_fields};
