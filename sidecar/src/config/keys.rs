//! Every key of `mesh.toml` and `sidecar.toml`: its kind, what its absence means, and what it is for. The check of a
//! file's shape and the reference in `docs/` are both read from here, so that neither can drift.

mod mesh;
mod sidecar;

pub(super) use mesh::MESH;
pub(super) use sidecar::SIDECAR;

/// One key of a table.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) need: Need,
    pub(super) doc: &'static str,
}

/// What a value is.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Texts,
    /// The path of a claim: a text, or a list of texts that lead down.
    Path,
    /// A list of such paths.
    Paths,
    Integer,
    Boolean,
    Table(&'static [Key]),
    /// An array of tables.
    Tables(&'static [Key]),
    /// A table whose keys the operator chooses, each with a list of texts.
    NamedTexts,
    /// A table whose keys the operator chooses, each with a table.
    NamedTables(&'static [Key]),
}

/// What the absence of a key means.
#[derive(Clone, Copy)]
pub(super) enum Need {
    Required,
    Default(&'static str),
    Absent(&'static str),
}

const fn key(name: &'static str, kind: Kind, need: Need, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        need,
        doc,
    }
}
