//! Generates the Workload API from our own .proto, in pure Rust (no protoc).

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/workload.proto");
    let descriptors = protox::compile(["proto/workload.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("workload.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(false)
        .btree_map(".")
        // The generated Debug would print private keys.
        .skip_debug(["X509SVID", "JWTSVID"])
        .compile_fds(descriptors)?;
    Ok(())
}
