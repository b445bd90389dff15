//! The certificate authority as its users meet it: the real binary, its sockets, and the stock PyPI client `spiffe` on
//! gRPC's C core as a foreign workload. Some things only root can show (a client of another uid); those tests say so.

mod attestation;
mod entries;
mod foreign_client;
mod lifecycle;
mod limits;
mod support;
