//! The agent's gRPC API, `elph.agent.v1`, as generated code, and what every user of it needs: its descriptors, its error reasons, the
//! fields that must not be logged, and a view that turns a stream of events into state.

pub mod reason;
pub mod sensitive;
pub mod view;

/// `elph.agent.v1`.
pub mod agent {
    /// Version 1.
    #[expect(clippy::allow_attributes, clippy::all, unused_qualifications, reason = "generated from the commented .proto files")]
    pub mod v1 {
        tonic::include_proto!("elph.agent.v1");
    }
}

/// The file descriptor set of every .proto file, for reflection and for reading options.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/elph.bin"));

pub use agent::v1;
