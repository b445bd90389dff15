//! YAML as a tree that can be written again without a change of meaning: text enters, nodes leave, and the other way round.
//!
//! Which plain scalar is a number or a truth differs between the versions of YAML: `0644` is 420 for kubectl and 644 by
//! YAML 1.2, `no` is false for one reader of Compose files and a text for the other. So nothing is interpreted: what
//! could be something else than a text is kept, and written, letter by letter.

mod read;
mod write;

pub use read::{Document, YamlError, read};
pub use write::write;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A text, a number, a truth or nothing.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Map),
}

/// One scalar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    text: String,
    /// Written without quotes, because some reader takes it for something else than a text.
    literal: bool,
}

/// A mapping. Its keys differ in their text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map(Vec<(Scalar, Node)>);

impl Scalar {
    /// A text, whatever it looks like.
    pub fn string(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            literal: false,
        }
    }

    /// As it stands: a number, `true`, `null`; or a text that nobody takes for anything else.
    fn plain(text: String) -> Self {
        let literal = read::ambiguous(&text);
        Self { text, literal }
    }

    /// The letters.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Node {
    /// A text.
    pub fn string(text: impl Into<String>) -> Self {
        Self::Scalar(Scalar::string(text))
    }

    /// A number.
    pub fn number(number: u32) -> Self {
        Self::literal(&number.to_string())
    }

    /// `true` or `false`.
    pub fn truth(value: bool) -> Self {
        Self::literal(if value { "true" } else { "false" })
    }

    /// Nothing.
    pub fn null() -> Self {
        Self::literal("null")
    }

    fn literal(text: &str) -> Self {
        Self::Scalar(Scalar::plain(text.to_owned()))
    }

    /// A mapping of these.
    pub fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        let entries = entries.into_iter();
        Self::Map(Map(entries
            .map(|(key, value)| (Scalar::string(key), value))
            .collect()))
    }

    /// A sequence of these.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().collect())
    }

    /// A sequence of texts.
    pub fn strings<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::list(items.into_iter().map(Self::string))
    }

    /// The letters of a scalar; nothing for `null`.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar(scalar) if !self.is_null() => Some(&scalar.text),
            _ => None,
        }
    }

    /// Whether it is nothing.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(scalar) if scalar.literal && ["", "~", "null", "Null", "NULL"].contains(&scalar.text.as_str()))
    }

    /// Whether it says yes, as either version of YAML or a text does.
    pub fn is_true(&self) -> bool {
        self.text()
            .is_some_and(|text| ["true", "yes", "on", "y"].contains(&text.to_ascii_lowercase().as_str()))
    }

    /// Whether it says no.
    pub fn is_false(&self) -> bool {
        self.text()
            .is_some_and(|text| ["false", "no", "off", "n"].contains(&text.to_ascii_lowercase().as_str()))
    }

    /// The whole number that it is.
    pub fn whole(&self) -> Option<u32> {
        self.text()?.parse().ok()
    }

    /// The mapping that it is.
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The mapping that it is, to be changed.
    pub fn as_map_mut(&mut self) -> Option<&mut Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The items of a sequence; none of anything else.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// What a mapping has there, unless it is `null`.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_map()?.get(key).filter(|node| !node.is_null())
    }

    /// The same through several mappings.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The text that a mapping has there.
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path)?.text()
    }
}

impl Map {
    /// What is there, `null` included.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.0
            .iter()
            .find(|(name, _)| name.text == key)
            .map(|(_, node)| node)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.0
            .iter_mut()
            .find(|(name, _)| name.text == key)
            .map(|(_, node)| node)
    }

    /// Puts it in the place of what was there, or at the end.
    pub fn set(&mut self, key: &str, node: Node) {
        match self.get_mut(key) {
            Some(old) => *old = node,
            None => self.0.push((Scalar::string(key), node)),
        }
    }

    /// Changes the mapping that is there, or a new one.
    pub fn change(&mut self, key: &str, change: impl FnOnce(&mut Self)) {
        let mut inner = match self.get_mut(key) {
            Some(Node::Map(map)) => std::mem::take(map),
            _ => Self::default(),
        };
        change(&mut inner);
        self.set(key, Node::Map(inner));
    }

    /// Takes it out.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let at = self.0.iter().position(|(name, _)| name.text == key)?;
        Some(self.0.remove(at).1)
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(key, node)| (key.text.as_str(), node))
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Node)> {
        self.0.iter_mut().map(|(key, node)| (key.text.as_str(), node))
    }

    /// Puts one key and its value into the place of another key.
    pub fn replace(&mut self, old: &str, key: &str, node: Node) {
        match self.0.iter_mut().find(|(name, _)| name.text == old) {
            Some(entry) => *entry = (Scalar::string(key), node),
            None => self.set(key, node),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
