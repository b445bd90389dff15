//! Generates the Workload API from our own .proto, in pure Rust (no protoc).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/workload.proto");
    let descriptors = protox::compile(["proto/workload.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .btree_map(".")
        // The generated Debug would print private keys.
        .skip_debug(["X509SVID", "JWTSVID"])
        .compile_fds(descriptors)?;
    Ok(())
}
