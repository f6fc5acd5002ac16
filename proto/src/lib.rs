//! Convoke's public gRPC API, generated from `convoke/v1/*.proto`, and its conversions to and from
//! [`convoke_model`]. Wire types stop here: parts work with the model's.

/// Generated messages, clients and servers of package `convoke.v1`.
pub mod v1 {
    #![allow(missing_docs, rustdoc::invalid_html_tags, clippy::all, clippy::too_many_lines, unreachable_pub)]
    tonic::include_proto!("convoke.v1");
}

/// Encoded `FileDescriptorSet` of the whole API, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("convoke_v1");

/// Version of the agent and trainer protocols; a peer with another one is refused by name.
pub const PROTOCOL_VERSION: u32 = 1;

/// Length of a brokered unique id, NCCL's.
pub const UNIQUE_ID_BYTES: usize = 128;

/// The most data that one frame of a session into a task carries, in bytes, either way.
pub const TUNNEL_FRAME_BYTES: usize = 64 * 1024;

mod refusal;
mod wire;

pub use refusal::{ERROR_DOMAIN, reason, refusal};
pub use wire::InvalidMessage;
