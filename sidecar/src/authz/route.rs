//! Declared routes: a template and a normalized path enter, the most specific route and its parameters leave. It never
//! decodes anything: a parameter is the bytes that are forwarded.

use std::collections::BTreeMap;

/// The most segments of a template, and of a path that a template may match parameter by parameter.
const MAX_SEGMENTS: usize = 64;

/// One segment of a template.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    /// These very bytes.
    Literal(String),
    /// `{name}`: any one segment that is not empty.
    Param(String),
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    segments: Vec<Segment>,
    /// A last `{**}`.
    rest: bool,
}

impl Template {
    /// Parses `/a/{b}/{**}`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix('/').ok_or("a path begins with `/`")?;
        let mut parts: Vec<&str> = path.split('/').collect();
        let rest = parts.last() == Some(&"{**}");
        if rest {
            parts.pop();
        }
        if parts.len() > MAX_SEGMENTS {
            return Err(format!("more than {MAX_SEGMENTS} segments"));
        }
        let mut segments = Vec::with_capacity(parts.len());
        for (at, part) in parts.iter().enumerate() {
            let last = at + 1 == parts.len() && !rest;
            let segment = Segment::parse(part, last)?;
            if let Segment::Param(name) = &segment
                && segments
                    .iter()
                    .any(|s| matches!(s, Segment::Param(n) if n == name))
            {
                return Err(format!("parameter `{name}` is there twice"));
            }
            segments.push(segment);
        }
        Ok(Self { segments, rest })
    }

    /// The names of its parameters, in order.
    pub(super) fn params(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Param(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Whether it is `other` with a `{**}` behind.
    pub(super) fn is_beneath(&self, other: &Self) -> bool {
        let same = |(mine, theirs): (&Segment, &Segment)| match (mine, theirs) {
            (Segment::Param(_), Segment::Param(_)) => true,
            (mine, theirs) => mine == theirs,
        };
        let pairs = self.segments.iter().zip(&other.segments);
        self.rest && self.segments.len() == other.segments.len() && pairs.into_iter().all(same)
    }

    /// Whether it has no `{**}` at its end.
    pub(super) fn is_one_path(&self) -> bool {
        !self.rest
    }

    /// A path that both match although neither is more specific than the other, if there is one.
    pub(super) fn ambiguous_with(&self, other: &Self) -> Option<String> {
        let example = self.overlap(other)?;
        let (mut mine, mut theirs) = (false, false); // whether a place was found where that side is more specific
        for place in 0..self.segments.len().max(other.segments.len()) + 1 {
            match (self.rank(place), other.rank(place)) {
                (a, b) if a < b => mine = true,
                (a, b) if a > b => theirs = true,
                _ => {}
            }
        }
        (mine == theirs).then_some(example)
    }

    /// How specific the template is at a place: a literal, the end, a parameter, the rest.
    fn rank(&self, place: usize) -> u8 {
        match self.segments.get(place) {
            Some(Segment::Literal(_)) => 0,
            None if !self.rest => 1,
            Some(Segment::Param(_)) => 2,
            None => 3,
        }
    }

    /// A path that both templates match.
    fn overlap(&self, other: &Self) -> Option<String> {
        let places = self.segments.len().max(other.segments.len());
        let mut path = String::new();
        for place in 0..places {
            let part = match (self.segments.get(place), other.segments.get(place)) {
                (Some(Segment::Literal(a)), Some(Segment::Literal(b))) if a == b => a,
                (Some(Segment::Literal(_)), Some(Segment::Literal(_))) => return None,
                // An empty last segment (a trailing slash) is a literal that no parameter matches.
                (Some(Segment::Literal(a)), Some(Segment::Param(_))) if a.is_empty() => return None,
                (Some(Segment::Param(_)), Some(Segment::Literal(a))) if a.is_empty() => return None,
                (Some(Segment::Literal(a)), Some(_)) | (Some(_), Some(Segment::Literal(a))) => a,
                (Some(Segment::Param(_)), Some(Segment::Param(_))) => "x",
                (Some(s), None) if other.rest => s.example(),
                (None, Some(s)) if self.rest => s.example(),
                _ => return None,
            };
            path.push('/');
            path.push_str(part);
        }
        Some(if path.is_empty() { "/".to_owned() } else { path })
    }
}

impl Segment {
    fn parse(text: &str, last: bool) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            return match name {
                "**" => Err("`{**}` can only be the last segment".to_owned()),
                name if is_identifier(name) => Ok(Self::Param(name.to_owned())),
                _ => Err(format!(
                    "`{{{name}}}` is not a parameter: letters, digits and `_`, not a digit first"
                )),
            };
        }
        match text {
            "" if !last => {
                Err("an empty segment: requests with `//` are refused before they get here".to_owned())
            }
            "." | ".." => Err("a dot segment: requests with one are refused before they get here".to_owned()),
            "*" | "**" => Err(format!(
                "`{text}` has no meaning here: write `{{name}}` for one segment, `{{**}}` for the rest"
            )),
            _ => literal(text).map(Self::Literal),
        }
    }

    fn example(&self) -> &str {
        match self {
            Self::Literal(text) => text,
            Self::Param(_) => "x",
        }
    }
}

/// A literal must be written as the normalized path writes it, or it would never match.
fn literal(text: &str) -> Result<String, String> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let pair = [bytes.next().unwrap_or_default(), bytes.next().unwrap_or_default()];
                let value = std::str::from_utf8(&pair)
                    .ok()
                    .and_then(|p| u8::from_str_radix(p, 16).ok());
                match value {
                    None => return Err(format!("bad percent escape in `{text}`")),
                    Some(b) if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => {
                        return Err(format!(
                            "`{text}` escapes a character that needs none: write it plainly"
                        ));
                    }
                    Some(_) => {}
                }
            }
            b if b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b) => {}
            _ => {
                return Err(format!(
                    "`{text}` holds a character that a path cannot: percent-encode it"
                ));
            }
        }
    }
    Ok(canonical_escapes(text).into_owned())
}

/// Percent escapes with upper-case digits (RFC 3986 6.2.2.1): `%c3` and `%C3` are the same byte, so they must decide
/// alike.
pub(super) fn canonical_escapes(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut upper = 0;
    for c in text.chars() {
        match c {
            '%' => upper = 3,
            c if upper > 0 => {
                out.push(c.to_ascii_uppercase());
                upper -= 1;
                continue;
            }
            _ => {}
        }
        if upper > 0 {
            upper -= 1;
        }
        out.push(c);
    }
    out.into()
}

/// The text of a segment, decoded once: what an application that has such a parameter gets. `None` when it is no UTF-8,
/// which no request that was read can hold.
pub(super) fn param(segment: &str) -> Option<std::borrow::Cow<'_, str>> {
    percent_encoding::percent_decode_str(segment).decode_utf8().ok()
}

/// Letters, digits and `_`, not a digit first: what Cedar takes for an attribute without quotes.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The routes of one service, by method: `find` gives the most specific match.
#[derive(Debug, Default)]
pub(super) struct Router {
    methods: BTreeMap<String, Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: BTreeMap<String, Node>,
    param: Option<Box<Node>>,
    /// The route that ends here.
    end: Option<usize>,
    /// The route that ends in `{**}` here.
    rest: Option<usize>,
}

/// A match: the route's number as given to `add`, and the parameters' values in the template's order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Match<'p> {
    pub(super) route: usize,
    pub(super) values: Vec<&'p str>,
}

impl Router {
    /// Adds a route; `world` has seen to it that no two are ambiguous.
    pub(super) fn add(&mut self, method: &str, template: &Template, route: usize) {
        let mut node = self.methods.entry(method.to_owned()).or_default();
        for segment in &template.segments {
            node = match segment {
                Segment::Literal(text) => node.literals.entry(text.clone()).or_default(),
                Segment::Param(_) => node.param.get_or_insert_default(),
            };
        }
        *(if template.rest {
            &mut node.rest
        } else {
            &mut node.end
        }) = Some(route);
    }

    /// The most specific route for a normalized path. Each node of the tree is visited at most once, so the work is
    /// bounded by the size of the table, whatever the path.
    pub(super) fn find<'p>(&self, method: &str, path: &'p str) -> Option<Match<'p>> {
        let node = self.methods.get(method)?;
        let mut values = Vec::new();
        let route = node.find(path.strip_prefix('/'), &mut values)?;
        Some(Match { route, values })
    }

    /// The routes whose template fits the path, by whatever method, a slash at its end or not: what many applications take
    /// for the same.
    pub(super) fn near(&self, path: &str) -> Vec<usize> {
        let other = match path.strip_suffix('/') {
            Some(without) => without.to_owned(),
            None => format!("{path}/"),
        };
        let fits = |node: &Node, path: &str| node.find(path.strip_prefix('/'), &mut Vec::new());
        let nodes = self.methods.values();
        nodes
            .flat_map(|node| [fits(node, path), fits(node, &other)])
            .flatten()
            .collect()
    }
}

impl Node {
    /// `path` is what is left: `None` at the end, else one segment at least.
    fn find<'p>(&self, path: Option<&'p str>, values: &mut Vec<&'p str>) -> Option<usize> {
        let Some(path) = path else {
            return self.end.or(self.rest);
        };
        let (segment, left) = match path.split_once('/') {
            Some((segment, left)) => (segment, Some(left)),
            None => (path, None),
        };
        if let Some(found) = self
            .literals
            .get(segment)
            .and_then(|node| node.find(left, values))
        {
            return Some(found);
        }
        if let Some(node) = self.param.as_deref().filter(|_| !segment.is_empty()) {
            values.push(segment);
            if let Some(found) = node.find(left, values) {
                return Some(found);
            }
            values.pop();
        }
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn router(templates: &[&str]) -> Router {
        let mut router = Router::default();
        for (at, text) in templates.iter().enumerate() {
            router.add("GET", &Template::parse(text).unwrap(), at);
        }
        router
    }

    fn found(router: &Router, path: &str) -> Option<(usize, Vec<String>)> {
        router
            .find("GET", path)
            .map(|m| (m.route, m.values.into_iter().map(str::to_owned).collect()))
    }

    fn some(route: usize, values: &[&str]) -> Option<(usize, Vec<String>)> {
        Some((route, values.iter().map(|v| (*v).to_owned()).collect()))
    }

    #[test]
    fn the_most_specific_route_wins() {
        let r = router(&[
            "/",
            "/orders/{id}",
            "/orders/latest",
            "/orders/{**}",
            "/admin/{**}",
            "/t/{t}/orders",
        ]);
        assert_eq!(found(&r, "/"), some(0, &[]));
        assert_eq!(found(&r, "/orders/7"), some(1, &["7"]));
        assert_eq!(found(&r, "/orders/latest"), some(2, &[]));
        assert_eq!(found(&r, "/orders/7/items"), some(3, &[]));
        assert_eq!(
            found(&r, "/orders/latest/x"),
            some(3, &[]),
            "the literal branch leads nowhere: the rest has it"
        );
        assert_eq!(found(&r, "/orders"), some(3, &[]), "the rest may be nothing");
        assert_eq!(found(&r, "/orders/"), some(3, &[]), "a parameter is never empty");
        assert_eq!(found(&r, "/admin"), some(4, &[]));
        assert_eq!(found(&r, "/admin/"), some(4, &[]));
        assert_eq!(found(&r, "/admin/x/y"), some(4, &[]));
        assert_eq!(found(&r, "/t/a/orders"), some(5, &["a"]));
        for path in [
            "/t/a/b/orders",
            "/t//orders",
            "/t/a/orders/",
            "/ADMIN/x",
            "/adminx",
            "*",
            "",
            "admin/x",
            "//",
        ] {
            assert_eq!(found(&r, path), None, "{path}");
        }
        assert_eq!(r.find("POST", "/admin/x"), None, "methods are apart");
    }

    #[test]
    fn escapes_decide_alike_whatever_their_case() {
        assert_eq!(canonical_escapes("/a%c3%a9/%2f%%ab"), "/a%C3%A9/%2F%%AB");
        let r = router(&["/caf%c3%a9"]);
        assert_eq!(found(&r, "/caf%C3%A9"), some(0, &[]));
    }

    #[test]
    fn what_is_not_a_template_is_refused() {
        for bad in [
            "", "orders", "/{**}/x", "/a//b", "/./a", "/a/..", "/*", "/a/**", "/{}", "/{1a}", "/{a}/{a}",
            "/x{a}", "/a b", "/é", "/%zz", "/%6", "/%61", "/a?b", "/a#b", "/a\\b", "/{a", "/a}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        assert!(Template::parse(&"/a".repeat(MAX_SEGMENTS + 1)).is_err());
    }

    #[test]
    fn ambiguous_pairs_are_seen() {
        let ambiguous = |a: &str, b: &str| {
            let (a, b) = (Template::parse(a).unwrap(), Template::parse(b).unwrap());
            assert_eq!(a.ambiguous_with(&b).is_some(), b.ambiguous_with(&a).is_some());
            a.ambiguous_with(&b)
        };
        assert_eq!(ambiguous("/a/{x}", "/a/{y}").unwrap(), "/a/x");
        assert_eq!(ambiguous("/a/{x}/c", "/a/b/{y}").unwrap(), "/a/b/c");
        assert_eq!(ambiguous("/a/b/{**}", "/a/{x}").unwrap(), "/a/b");
        assert_eq!(ambiguous("/", "/").unwrap(), "/");
        for (a, b) in [
            ("/a/{x}", "/a/b"),
            ("/a/{**}", "/a"),
            ("/a/{**}", "/a/{x}"),
            ("/a/{x}/", "/a/{x}"),
            ("/{**}", "/"),
        ] {
            assert_eq!(ambiguous(a, b), None, "{a} {b}");
        }
    }

    fn template() -> impl Strategy<Value = String> {
        (
            prop::collection::vec(prop_oneof!["[ab]", Just("{}".to_owned())], 0..4),
            any::<bool>(),
        )
            .prop_map(|(parts, rest)| {
                let mut text = String::new();
                for (at, part) in parts.iter().enumerate() {
                    text += "/";
                    text += &part.replace("{}", &format!("{{p{at}}}"));
                }
                if rest {
                    text += "/{**}";
                }
                if text.is_empty() { "/".to_owned() } else { text }
            })
    }

    /// What the template says, read segment by segment without a tree.
    fn matches(template: &Template, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let fits = template.segments.iter().zip(&parts).all(|(s, p)| match s {
            Segment::Literal(l) => l == p,
            Segment::Param(_) => !p.is_empty(),
        });
        fits && if template.rest {
            parts.len() >= template.segments.len()
        } else {
            parts.len() == template.segments.len()
        }
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_reading_each_template(
            templates in prop::collection::vec(template(), 1..6), path in "(/[abc]){1,4}/?",
        ) {
            let mut chosen: Vec<Template> = Vec::new();
            for text in &templates {
                let t = Template::parse(text).unwrap();
                if chosen.iter().all(|c| c.ambiguous_with(&t).is_none()) {
                    chosen.push(t);
                }
            }
            let mut router = Router::default();
            for (at, t) in chosen.iter().enumerate() {
                router.add("GET", t, at);
            }
            let fitting: Vec<usize> = (0..chosen.len()).filter(|at| matches(&chosen[*at], &path)).collect();
            match router.find("GET", &path) {
                None => prop_assert!(fitting.is_empty()),
                Some(found) => {
                    prop_assert!(fitting.contains(&found.route));
                    prop_assert_eq!(found.values.len(), chosen[found.route].params().count());
                    // Most specific: at no place is another fitting template more specific.
                    for other in fitting {
                        for place in 0..6 {
                            prop_assert!(chosen[found.route].rank(place) <= chosen[other].rank(place));
                        }
                    }
                }
            }
        }
    }
}
