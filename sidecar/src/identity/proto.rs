//! The messages and the client of the SPIFFE Workload API, generated from `proto/workload.proto` by `build.rs`.

#![expect(
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code"
)]

tonic::include_proto!("_");
