//! Generates the client of the SPIFFE Workload API from our own `.proto`, without protoc, and beside it a server of the
//! same messages, which only tests include.

use std::error::Error;
use std::path::Path;

const PROTO: &str = "proto/workload.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    let server = Path::new(&out).join("test_server");
    std::fs::create_dir_all(&server)?;
    println!("cargo::rerun-if-changed={PROTO}");
    // A message that carries a private key must not be printable.
    let builder = || tonic_prost_build::configure().skip_debug(["X509SVIDResponse", "X509SVID"]);
    let descriptors = protox::compile([PROTO], ["proto"])?;
    builder().build_server(false).compile_fds(descriptors.clone())?;
    builder()
        .build_client(false)
        .build_transport(false)
        .out_dir(server)
        .compile_fds(descriptors)?;
    Ok(())
}
