//! Header compression (RFC 7541): both directions with tables that never grow beyond 4096 octets.

mod decoder;
mod encoder;
mod huffman;
mod table;

pub use decoder::{DecodeError, Decoder};
pub use encoder::{Encoder, Field, Head, Way};

/// The size of a table when nobody says anything, and the most that is used here.
pub(crate) const TABLE: usize = 4096;
/// What a field counts beside its octets.
pub(crate) const FIELD: usize = 32;
