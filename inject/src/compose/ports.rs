//! The ports of a container in the spellings of Compose.

use std::ops::RangeInclusive;

use crate::yaml::Node;

/// The ports inside of the container that an item of `ports` or `expose` names, if that is known.
pub(super) fn of_container(item: &Node) -> Option<RangeInclusive<u16>> {
    if let Some(target) = item.get("target") {
        return range(target.text()?);
    }
    let text = item.text()?;
    let text = text.split('/').next().unwrap_or_default();
    range(text.rsplit(':').next()?)
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_every_spelling() {
        for (text, wanted) in [
            ("80", 80..=80),
            ("8080:80", 80..=80),
            ("127.0.0.1:8080:80/tcp", 80..=80),
            ("[::1]:8080:80", 80..=80),
            ("3000-3005", 3000..=3005),
            ("9090-9091:8080-8081/udp", 8080..=8081),
            ("127.0.0.1::5000", 5000..=5000),
            ("${PORT}:80", 80..=80),
        ] {
            assert_eq!(of_container(&Node::string(text)), Some(wanted), "{text}");
        }
        assert_eq!(of_container(&Node::string("80:${PORT}")), None);
        let long = Node::map([("target", Node::number(80))]);
        assert_eq!(of_container(&long), Some(80..=80));
        assert_eq!(of_container(&Node::number(80)), Some(80..=80));
    }
}
