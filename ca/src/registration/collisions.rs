//! Which templates may become an identity that another entry grants. Identities that do not depend on the caller are
//! looked up by what a template begins with, so that a long file takes time by its length, not by its square.

use std::collections::HashMap;

use super::entries::Entry;

/// Templates by what they begin with: their trust domain, how many parts their path has, and its parts before the first
/// variable.
struct Index<'a> {
    by_start: HashMap<(&'a str, usize, String), Vec<usize>>,
    /// How many parts such a beginning has.
    starts: Vec<usize>,
}

impl<'a> Index<'a> {
    fn of(templates: &[&'a Entry]) -> Self {
        let mut by_start: HashMap<_, Vec<usize>> = HashMap::new();
        let mut starts = Vec::new();
        for (at, template) in templates.iter().enumerate() {
            let (parts, start) = template.id.beginning();
            starts.push(start.len());
            let key = (template.id.trust_domain().as_str(), parts, start.join("/"));
            by_start.entry(key).or_default().push(at);
        }
        starts.sort_unstable();
        starts.dedup();
        Self { by_start, starts }
    }

    /// The templates that an identity without variables begins like.
    fn near(&self, entry: &'a Entry, mut each: impl FnMut(usize)) {
        let path = entry.id.path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        let domain = entry.id.trust_domain().as_str();
        for start in &self.starts {
            // A whole path is the beginning of no template: a variable follows.
            let Some(end) = start.checked_sub(1).and_then(|last| ends.get(last)) else {
                continue;
            };
            let beginning = path.get(..*end).unwrap_or_default().to_owned();
            let near = self.by_start.get(&(domain, ends.len() + 1, beginning));
            near.into_iter().flatten().copied().for_each(&mut each);
        }
    }
}

/// For each of these templates the first entry of the file that grants to others what the template may become.
pub fn collisions<'a>(templates: &[&'a Entry], entries: &'a [Entry]) -> Vec<Option<&'a Entry>> {
    let index = Index::of(templates);
    let mut found: Vec<Option<&Entry>> = vec![None; templates.len()];
    let mut look = |at: usize, other: &'a Entry| {
        if let (Some(template), Some(place)) = (templates.get(at), found.get_mut(at))
            && place.is_none_or(|former| other.line < former.line)
            && template.id.may_collide(&other.id)
        {
            *place = Some(other);
        }
    };
    for other in entries {
        if !other.id.is_template() {
            index.near(other, |at| look(at, other));
        }
    }
    for other in templates {
        (0..templates.len()).for_each(|at| look(at, other));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::entries::{Entries, Scope};
    use super::*;

    #[test]
    fn an_identity_is_compared_with_the_templates_that_begin_like_it_alone() {
        let open =
            (0..100).map(|at| format!("[[entry]]\nspiffe_id = \"spiffe://td/ns/{at}/user/{{unix.user}}\"\n"));
        let fixed = (0..1000).map(|at| {
            let namespace = at % 100;
            format!("[[entry]]\nspiffe_id = \"spiffe://td/ns/{namespace}/sa/{at}\"\nselectors = [\"unix:uid:{at}\"]\n")
        });
        let one =
            "[[entry]]\nspiffe_id = \"spiffe://td/ns/7/user/8/x\"\nselectors = [\"unix:uid:1\"]\n".to_owned();
        let text: String = open.chain(fixed).chain([one]).collect();
        let entries = Entries::parse(Path::new("e"), &text, &Scope::default()).unwrap();
        let (templates, others): (Vec<&Entry>, Vec<&Entry>) =
            entries.iter().partition(|entry| entry.id.is_template());
        assert_eq!((templates.len(), others.len()), (100, 1001));
        let index = Index::of(&templates);
        let mut compared = 0;
        for other in &others {
            index.near(other, |_| compared += 1);
        }
        assert_eq!(
            compared, 0,
            "none of them begins as a template does, and has as many parts"
        );
        let same = "[[entry]]\nspiffe_id = \"spiffe://td/ns/7/user/8\"\nselectors = [\"unix:uid:1\"]\n";
        let near = Entries::parse(Path::new("e"), same, &Scope::default()).unwrap();
        index.near(near.iter().next().unwrap(), |at| {
            assert_eq!(templates[at].id.path(), "/ns/7/user/{unix.user}");
            compared += 1;
        });
        assert_eq!(compared, 1);
    }
}
