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
    patterns: Vec<String>,
}

impl KnownWorkloads {
    /// From exact SPIFFE IDs, and patterns: a segment `*` is any one segment, a last `**` one or more.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut known = Self::default();
        for name in names {
            if name.contains('*') {
                known.patterns.push(name);
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
        if self.patterns.iter().any(|pattern| fits(pattern, &name)) {
            Label::from(Arc::<str>::from(name))
        } else {
            OTHER
        }
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    let mut segments = name.split('/');
    for wanted in pattern.split('/') {
        match (wanted, segments.next()) {
            ("**", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(segment)) if wanted == segment => {}
            _ => return false,
        }
    }
    segments.next().is_none()
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
                "spiffe://mesh.local/*/edge",
            ]
            .map(str::to_owned),
        );
        let label = |id: &str| known.label(Some(&SpiffeId::new(id).unwrap())).as_str().to_owned();
        for id in [
            "spiffe://mesh.local/ns/shop/sa/web",
            "spiffe://mesh.local/ns/ops/x",
            "spiffe://partner.org/a/b/c",
            "spiffe://mesh.local/eu/edge",
        ] {
            assert_eq!(label(id), id);
        }
        for id in [
            "spiffe://mesh.local/ns/shop/sa/web2",
            "spiffe://mesh.local/ns/ops/x/y",
            "spiffe://mesh.local/ns/ops",
            "spiffe://partner.org.evil/a",
            "spiffe://mesh.local/eu/west/edge",
            "spiffe://mesh.local/edge",
            "spiffe://partner.org",
        ] {
            assert_eq!(label(id), "other", "{id}");
        }
        assert_eq!(known.label(None).as_str(), "none");
    }
}
