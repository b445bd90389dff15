//! The map of the hops that were seen: edges enter, lines of text leave.

use std::collections::BTreeMap;

use super::story::Edge;

type Edges = BTreeMap<(String, String), Edge>;

/// A tree from every caller that nobody called, each arrow once, and what crossed it.
pub fn draw(edges: &Edges) -> Vec<String> {
    let called = |name: &String| edges.keys().any(|(_, dst)| dst == name);
    let mut roots: Vec<_> = edges
        .keys()
        .map(|(src, _)| src)
        .filter(|src| !called(src))
        .collect();
    roots.dedup();
    let mut drawing = Drawing {
        edges,
        drawn: Vec::new(),
        lines: Vec::new(),
    };
    for root in roots {
        drawing.branch(root, root.clone(), root.chars().count());
    }
    // What only a circle leads to.
    while let Some((src, _)) = edges.keys().find(|key| !drawing.drawn.contains(key)) {
        drawing.branch(src, src.clone(), src.chars().count());
    }
    drawing.lines.extend(legend(edges));
    drawing.lines
}

struct Drawing<'a> {
    edges: &'a Edges,
    drawn: Vec<&'a (String, String)>,
    lines: Vec<String>,
}

impl<'a> Drawing<'a> {
    /// `line` ends with the name of `node`, which begins or stands `column` characters from the left, counted to its end.
    fn branch(&mut self, node: &str, line: String, column: usize) {
        let mut from_here: Vec<_> = self
            .edges
            .iter()
            .filter(|((src, _), _)| src == node)
            .filter(|(key, _)| !self.drawn.contains(key))
            .collect();
        // What was let in goes on in the same line.
        from_here.sort_by_key(|(_, edge)| edge.allowed == 0);
        if from_here.is_empty() {
            self.lines.push(line);
            return;
        }
        self.drawn.extend(from_here.iter().map(|(key, _)| *key));
        let indent = column.saturating_sub(node.chars().count());
        let mut start = line;
        for (key, edge) in from_here {
            let text = format!("{start} {} {}", arrow(edge), key.1);
            let end = text.chars().count();
            if edge.allowed > 0 {
                self.branch(&key.1, text, end)
            } else {
                self.lines.push(text)
            }
            start = format!(
                "{}└{}",
                " ".repeat(indent),
                "─".repeat(node.chars().count().saturating_sub(1))
            );
        }
    }
}

fn arrow(edge: &Edge) -> &'static str {
    match (edge.identity, edge.allowed > 0) {
        (true, true) => "══▶",
        (true, false) => "══✗",
        (false, true) => "──▶",
        (false, false) => "──✗",
    }
}

fn legend(edges: &Edges) -> impl Iterator<Item = String> + '_ {
    edges.iter().map(|((src, dst), edge)| {
        let users = if edge.users.is_empty() {
            "nobody".to_owned()
        } else {
            edge.users.join(", ")
        };
        let way = format!("{src} → {dst}");
        format!(
            "{way:<22} {:>2} allowed {:>2} refused   for {users}",
            edge.allowed, edge.refused
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(allowed: u32, identity: bool) -> Edge {
        Edge {
            allowed,
            refused: 1,
            identity,
            users: vec!["alice".into()],
        }
    }

    #[test]
    fn the_map_shows_every_arrow_once() {
        let edges = Edges::from([
            (("laptop".into(), "web".into()), edge(2, false)),
            (("web".into(), "orders".into()), edge(2, true)),
            (("web".into(), "payments".into()), edge(0, true)),
            (("orders".into(), "payments".into()), edge(1, true)),
            (("stranger".into(), "payments".into()), edge(0, false)),
        ]);
        let lines = draw(&edges);
        assert_eq!(
            lines[..3],
            [
                "laptop ──▶ web ══▶ orders ══▶ payments",
                "           └── ══✗ payments",
                "stranger ──✗ payments"
            ]
        );
        assert_eq!(lines.len(), 3 + edges.len());
    }

    #[test]
    fn a_circle_ends() {
        let edges = Edges::from([
            (("a".into(), "b".into()), edge(1, true)),
            (("b".into(), "a".into()), edge(1, true)),
        ]);
        assert_eq!(draw(&edges)[0], "a ══▶ b ══▶ a");
    }
}
