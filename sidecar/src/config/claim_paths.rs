//! The paths of claims: a text or a list of texts enters, where a claim stands in a token leaves.

use toml::Spanned;
use toml::de::DeValue;

use super::document::{Document, Section, Wrong};
use super::shape::shown;
use super::words;
use crate::authn::ClaimPath;

/// The deepest path.
const MAX_STEPS: usize = 8;

/// The path at a key; what is none is recorded.
pub(super) fn claim_path(section: &Section<'_, '_>, key: &str) -> Option<ClaimPath> {
    recorded(section.document, section.value(key)?)
}

/// The list of paths at a key, each at most once; what is none is recorded.
pub(super) fn claim_paths(section: &Section<'_, '_>, key: &str) -> Vec<ClaimPath> {
    let mut paths: Vec<ClaimPath> = Vec::new();
    let items = section.value(key).and_then(|value| value.get_ref().as_array());
    for item in items.into_iter().flat_map(|items| items.iter()) {
        let Some(path) = recorded(section.document, item) else {
            continue;
        };
        if paths.contains(&path) {
            section.document.add(
                item.span(),
                format!("the value `{}` appears twice", shown(&path.to_string())),
                Some("take one of them out".to_owned()),
            );
        } else {
            paths.push(path);
        }
    }
    paths
}

fn recorded(document: &Document, value: &Spanned<DeValue<'_>>) -> Option<ClaimPath> {
    let read = match value.get_ref() {
        DeValue::String(text) => words::claim_path(text).map(ClaimPath::Dotted),
        DeValue::Array(items) => {
            let names: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            steps(&names?)
        }
        // Of another kind: the check of the file's shape has said so.
        _ => return None,
    };
    match read {
        Ok(path) => Some(path),
        Err(wrong) => {
            document.wrong(value.span(), wrong);
            None
        }
    }
}

fn steps(names: &[&str]) -> Result<ClaimPath, Wrong> {
    let bad = |name: &&str| name.is_empty() || name.len() > 256 || name.chars().any(char::is_control);
    if names.is_empty() || names.len() > MAX_STEPS || names.iter().any(bad) {
        return Err(Wrong::new(
            format!("`{}` is not the path of a claim", shown(&names.join(", "))),
            "1 to 8 names that lead down, each as it stands in the token: [\"https://idp.example/claims\", \"roles\"]",
        ));
    }
    Ok(ClaimPath::Steps(
        names.iter().map(|name| (*name).to_owned()).collect(),
    ))
}
