//! Text to trees, bounded: in bytes, in nodes (what aliases repeat counts each time) and in depth.

use std::collections::{BTreeMap, BTreeSet};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag, options};

use super::{Map, Node, Scalar};

/// The longest text that is read.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Nodes of all documents together.
const MAX_NODES: usize = 400_000;
/// Letters of all scalars together.
const MAX_LETTERS: usize = 4 * MAX_BYTES;
const MAX_DEPTH: usize = 64;
/// A longer key would have to be written in another way.
const MAX_KEY: usize = 512;

/// Why a text cannot be read as YAML. The fault is the file's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct YamlError {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// A document of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The line that it begins in, from 1.
    pub line: usize,
    /// Its content.
    pub root: Node,
}

/// Whether some reader takes it for something else than a text when it stands without quotes: numbers in every base and
/// also those with colons, dates, the words of all versions, a merge key.
pub(super) fn ambiguous(text: &str) -> bool {
    const WORDS: [&str; 13] = [
        "", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "=", "<<",
    ];
    WORDS.contains(&text.to_ascii_lowercase().as_str())
        || (text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) && !text.contains('\n'))
}

/// Reads every document that is not empty.
///
/// # Errors
/// It is no YAML, or not of the kind that manifests and Compose files are made of; with its place.
pub fn read(text: &str) -> Result<Vec<Document>, YamlError> {
    if text.len() > MAX_BYTES {
        return Err(YamlError {
            line: 1,
            column: 1,
            message: format!("longer than {} MiB", MAX_BYTES / 1024 / 1024),
        });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::new(text);
    let mut documents = Vec::new();
    loop {
        let (event, _) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(..) => {
                reader.anchors.clear();
                let (event, span) = reader.next()?;
                let line = span.start.line();
                let root = reader.node(event, span, 0)?;
                if !root.is_null() {
                    documents.push(Document { line, root });
                }
            }
            _ => {}
        }
    }
}

type Happened<'a> = (Event<'a>, Span);

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    letters: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let options = options! { flow_nesting_limit: MAX_DEPTH, block_nesting_limit: MAX_DEPTH };
        Self {
            parser: Parser::new_from_str_with_options(text, options),
            anchors: BTreeMap::new(),
            nodes: 0,
            letters: 0,
        }
    }

    fn next(&mut self) -> Result<Happened<'a>, YamlError> {
        match self.parser.next_event() {
            Some(Ok(happened)) => Ok(happened),
            Some(Err(error)) => Err(unreadable(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, YamlError> {
        self.count(1, 0, span)?;
        if depth > MAX_DEPTH {
            return Err(wrong(span, format!("more than {MAX_DEPTH} levels deep")));
        }
        let (anchor, node) = match event {
            Event::Alias(id) => return self.alias(id, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.count(0, text.len(), span)?;
                (
                    anchor,
                    Node::Scalar(scalar(text.into_owned(), style, tag.as_deref(), span)?),
                )
            }
            Event::SequenceStart(_, anchor, tag) => {
                known_tag(tag.as_deref(), "seq", span)?;
                (anchor, self.list(depth)?)
            }
            Event::MappingStart(_, anchor, tag) => {
                known_tag(tag.as_deref(), "map", span)?;
                (anchor, self.map(depth)?)
            }
            Event::StreamEnd => return Err(wrong(span, "the document ends in the middle")),
            _ => return Err(wrong(span, "this is not a value")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<Node, YamlError> {
        let node = self
            .anchors
            .get(&id)
            .cloned()
            .ok_or_else(|| wrong(span, "the alias names what it is a part of"))?;
        let (nodes, letters) = size(&node);
        self.count(nodes, letters, span)?;
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Node, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Node::List(items)),
                (event, span) => items.push(self.node(event, span, depth.saturating_add(1))?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Node, YamlError> {
        let mut entries = Vec::new();
        let mut keys = BTreeSet::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let Node::Scalar(key) = self.node(event, span, depth.saturating_add(1))? else {
                return Err(wrong(span, "a key that is no scalar"));
            };
            if key.text.len() > MAX_KEY {
                return Err(wrong(span, format!("a key longer than {MAX_KEY} bytes")));
            }
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth.saturating_add(1))?;
            if key.literal && key.text == "<<" {
                merged.extend(to_merge(value, value_span)?);
                continue;
            }
            if !keys.insert(key.text.clone()) {
                return Err(wrong(span, format!("the key `{}` stands here twice", key.text)));
            }
            entries.push((key, value));
        }
        // What stands here itself wins, then the first that is merged.
        for (key, value) in merged {
            if keys.insert(key.text.clone()) {
                entries.push((key, value));
            }
        }
        Ok(Node::Map(Map(entries)))
    }

    fn count(&mut self, nodes: usize, letters: usize, span: Span) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.letters = self.letters.saturating_add(letters);
        if self.nodes > MAX_NODES || self.letters > MAX_LETTERS {
            return Err(wrong(span, "too large, or made so by its aliases"));
        }
        Ok(())
    }
}

fn to_merge(value: Node, span: Span) -> Result<Vec<(Scalar, Node)>, YamlError> {
    match value {
        Node::Map(Map(entries)) => Ok(entries),
        Node::List(items) => {
            let mut entries = Vec::new();
            for item in items {
                match item {
                    Node::Map(Map(more)) => entries.extend(more),
                    _ => return Err(wrong(span, "`<<` merges mappings only")),
                }
            }
            Ok(entries)
        }
        Node::Scalar(_) => Err(wrong(span, "`<<` merges mappings only")),
    }
}

fn size(node: &Node) -> (usize, usize) {
    let add = |(nodes, letters): (usize, usize), node: &Node| {
        let (more, longer) = size(node);
        (nodes.saturating_add(more), letters.saturating_add(longer))
    };
    match node {
        Node::Scalar(scalar) => (1, scalar.text.len()),
        Node::List(items) => items.iter().fold((1, 0), add),
        Node::Map(Map(entries)) => entries.iter().fold((1, 0), |sum, (key, node)| {
            let (nodes, letters) = add(sum, node);
            (nodes.saturating_add(1), letters.saturating_add(key.text.len()))
        }),
    }
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Scalar, YamlError> {
    let plain = style == ScalarStyle::Plain;
    match tag {
        None if plain => Ok(Scalar::plain(text)),
        None => Ok(Scalar::string(text)),
        Some(tag) => match tag.core_suffix() {
            Some("str") => Ok(Scalar::string(text)),
            Some("int" | "float" | "bool" | "null") if plain => Ok(Scalar::plain(text)),
            _ => Err(unknown_tag(tag, span)),
        },
    }
}

fn known_tag(tag: Option<&Tag>, wanted: &str, span: Span) -> Result<(), YamlError> {
    match tag {
        Some(tag) if tag.core_suffix() != Some(wanted) => Err(unknown_tag(tag, span)),
        _ => Ok(()),
    }
}

fn unknown_tag(tag: &Tag, span: Span) -> YamlError {
    wrong(span, format!("the tag `{}` is not known here", tag.original()))
}

fn wrong(span: Span, message: impl Into<String>) -> YamlError {
    YamlError {
        line: span.start.line(),
        column: span.start.col().saturating_add(1),
        message: message.into(),
    }
}

fn unreadable(error: &ScanError) -> YamlError {
    YamlError {
        line: error.marker().line(),
        column: error.marker().col().saturating_add(1),
        message: error.info(),
    }
}
