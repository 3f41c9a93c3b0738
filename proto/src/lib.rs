//! The wire contract of DSSD: messages, clients and servers generated from `proto/`.

/// Version 1 of both services.
pub mod v1 {
    tonic::include_proto!("dssd.v1");
}

/// The encoded `FileDescriptorSet` of both services, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));
