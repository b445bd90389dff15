//! Which peers metrics may name: the mesh's exact identities and group patterns enter, a label that is bounded leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use spiffe::SpiffeId;

use super::series::Label;

/// The label of a peer that the mesh does not know.
const OTHER: Label = Label::fixed("other");

/// The workloads that a service or a group of the mesh knows.
#[derive(Clone, Debug, Default)]
pub struct KnownWorkloads {
    exact: BTreeMap<Arc<str>, Label>,
    /// What goes before the last segment, and whether any number of segments may follow.
    patterns: Vec<(String, bool)>,
}

impl KnownWorkloads {
    /// From exact SPIFFE IDs, and patterns that end in `/*` (one segment) or `/**` (one or more).
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut known = Self::default();
        for name in names {
            if let Some(stem) = name.strip_suffix("/**") {
                known.patterns.push((format!("{stem}/"), true));
            } else if let Some(stem) = name.strip_suffix("/*") {
                known.patterns.push((format!("{stem}/"), false));
            } else {
                let name: Arc<str> = name.into();
                known.exact.insert(Arc::clone(&name), Label::from(name));
            }
        }
        known
    }

    /// The label of a peer: its SPIFFE ID when the mesh knows it, `other` when not, `none` when there is no peer.
    pub fn label(&self, peer: Option<&SpiffeId>) -> Label {
        let Some(peer) = peer else {
            return Label::fixed("none");
        };
        let name = peer.to_string();
        if let Some(label) = self.exact.get(name.as_str()) {
            return label.clone();
        }
        let fits = |(stem, deep): &(String, bool)| {
            name.strip_prefix(stem.as_str())
                .is_some_and(|rest| !rest.is_empty() && (*deep || !rest.contains('/')))
        };
        if self.patterns.iter().any(fits) {
            Label::from(Arc::<str>::from(name))
        } else {
            OTHER
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_peers_are_named() {
        let known = KnownWorkloads::new(
            [
                "spiffe://mesh.local/ns/shop/sa/web",
                "spiffe://mesh.local/ns/ops/*",
                "spiffe://partner.org/**",
            ]
            .map(str::to_owned),
        );
        let label = |id: &str| known.label(Some(&SpiffeId::new(id).unwrap())).as_str().to_owned();
        for id in [
            "spiffe://mesh.local/ns/shop/sa/web",
            "spiffe://mesh.local/ns/ops/x",
            "spiffe://partner.org/a/b/c",
        ] {
            assert_eq!(label(id), id);
        }
        for id in [
            "spiffe://mesh.local/ns/shop/sa/web2",
            "spiffe://mesh.local/ns/ops/x/y",
            "spiffe://mesh.local/ns/ops",
            "spiffe://partner.org.evil/a",
            "spiffe://partner.org",
        ] {
            assert_eq!(label(id), "other", "{id}");
        }
        assert_eq!(known.label(None).as_str(), "none");
    }
}
