//! Configuration: files enter, typed values leave, or every problem with its file, line, column and remedy. No room takes
//! them whole: each gets the options that it owns.

mod claim_paths;
mod document;
mod fill;
mod introspection;
mod issuer;
mod keys;
mod mesh;
mod policies;
mod problem;
mod reference;
mod settings;
mod shape;
mod sidecar;
mod spellings;
mod tokens;
mod unique;
mod words;

pub use issuer::{ALGORITHMS, MeshClaim, MeshClaimKind, MeshIssuer};
pub use mesh::{
    Mesh, MeshGroup, MeshHeader, MeshRoute, MeshService, load_mesh, load_mesh_after, load_mesh_alone,
    parse_mesh,
};
pub use policies::{Fingerprint, read_policies};
pub use problem::{ConfigProblem, Rendering, render};
pub use reference::reference_markdown;
pub use settings::{PublicPair, read_public};
pub use sidecar::{
    Egress, Given, Inbound, Limits, Loaded, Log, Outbound, PublicTls, Sidecar, SidecarIdentity, Traffic,
    WhichSvid, load, load_given, load_sidecar, parse_sidecar,
};
pub use tokens::{PortTokens, TokenRules};

/// Reads a configuration file as text, as every file here is read.
///
/// # Errors
/// It cannot be read, is larger than 1 MiB, or is not UTF-8.
pub fn read_file(path: &std::path::Path) -> Result<String, ConfigProblem> {
    document::read_text(path)
}

/// The first 16 hex digits of the SHA-256: names a version of a file.
fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    hex::encode(digest.as_ref().get(..8).unwrap_or_default())
}
