//! A file as a tree with places: a path enters, sections that remember where each value stands leave. It never decides
//! what a value means; it collects every problem instead of stopping at the first.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::NamedSource;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigProblem, SHORTAGE, is_shortage, named};

/// The largest file that is read, in bytes.
pub(super) const MAX_FILE: u64 = 1024 * 1024;
/// More problems of one file than anyone reads.
const MAX_PROBLEMS: usize = 100;

/// Reads a text file of bounded size.
pub(super) fn read_text(path: &Path) -> Result<String, ConfigProblem> {
    let bytes = read_bytes(path)?;
    String::from_utf8(bytes).map_err(|error| {
        ConfigProblem::whole(
            path,
            format!("is not UTF-8 (byte {})", error.utf8_error().valid_up_to()),
            "save it as UTF-8 text",
        )
    })
}

/// A file that cannot be read.
pub(super) fn unread(path: &Path, error: &std::io::Error) -> ConfigProblem {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "check the path; relative paths start at the folder of the file that names them"
        }
        std::io::ErrorKind::PermissionDenied => "give the user that hopguard runs as the right to read it",
        _ if is_shortage(error) => SHORTAGE,
        _ => "check the file and its disk",
    };
    let problem = ConfigProblem::whole(path, format!("cannot be read: {error}"), hint);
    problem.short(error)
}

/// Reads a file of bounded size.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, ConfigProblem> {
    let fail = |error: std::io::Error| unread(path, &error);
    // A pipe or a device would block or never end; only what has a length is a configuration file.
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err(ConfigProblem::whole(path, "is not a regular file", "name a file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ConfigProblem::whole(
            path,
            "is larger than 1 MiB",
            "split it, or check that it is the right file",
        ));
    }
    Ok(bytes)
}

/// A file that was read, and the problems found in it so far.
pub(super) struct Document {
    pub(super) file: PathBuf,
    source: Arc<NamedSource<String>>,
    problems: RefCell<Vec<ConfigProblem>>,
    /// Problems of files that it names, where those are not needed.
    warnings: Option<RefCell<Vec<ConfigProblem>>>,
}

/// A value and the bytes where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// What is wrong with a value, and what to do: from parsers that do not know where it stands.
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) hint: String,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }
}

impl Document {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            source: Arc::new(named(file, text)),
            problems: RefCell::new(Vec::new()),
            warnings: None,
        }
    }

    /// The same for a reader who needs none of the files that it names.
    pub(super) fn alone(file: &Path, text: &str) -> Self {
        Self {
            warnings: Some(RefCell::default()),
            ..Self::new(file, text)
        }
    }

    /// The tree; syntax errors are recorded, and then there is none, since what follows an error of syntax would be
    /// reported for the wrong reason.
    pub(super) fn parse<'t>(&self, text: &'t str) -> Option<Spanned<DeTable<'t>>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Some(root);
        }
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            self.add(
                span,
                format!("is not valid TOML: {}", error.message()),
                Some("see https://toml.io for the syntax".to_owned()),
            );
        }
        None
    }

    pub(super) fn add(&self, span: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        let problem = ConfigProblem::spanned(&self.file, &self.source, span, message.into(), hint);
        self.push(&self.problems, problem);
    }

    fn push(&self, to: &RefCell<Vec<ConfigProblem>>, problem: ConfigProblem) {
        let mut problems = to.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(problem);
        }
    }

    pub(super) fn wrong(&self, span: Range<usize>, wrong: Wrong) {
        self.add(span, wrong.message, Some(wrong.hint));
    }

    /// A problem with another file that this one names.
    pub(super) fn other(&self, span: Range<usize>, problem: ConfigProblem) {
        let message = format!("`{}` {}", problem.file.display(), problem.message);
        let mut told = ConfigProblem::spanned(&self.file, &self.source, span, message, problem.hint);
        (told.shortage, told.unread) = (problem.shortage, problem.unread);
        self.push(self.warnings.as_ref().unwrap_or(&self.problems), told);
    }

    /// What was found, in the order of the file.
    pub(super) fn into_problems(self) -> Vec<ConfigProblem> {
        sorted(self.problems)
    }

    /// The same, and behind it what is wrong with files that are not needed.
    pub(super) fn into_problems_and_warnings(self) -> (Vec<ConfigProblem>, Vec<ConfigProblem>) {
        (
            sorted(self.problems),
            self.warnings.map(sorted).unwrap_or_default(),
        )
    }

    /// The line of a span, for messages that point to a second place.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.source.inner().get(..span.start).unwrap_or_default();
        before.matches('\n').count() + 1
    }

    /// The absolute or file-relative path that a value names.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }
}

fn sorted(problems: RefCell<Vec<ConfigProblem>>) -> Vec<ConfigProblem> {
    let mut problems = problems.into_inner();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    problems
}

/// A table of the tree.
#[derive(Clone)]
pub(super) struct Section<'d, 't> {
    pub(super) document: &'d Document,
    pub(super) span: Range<usize>,
    table: &'d DeTable<'t>,
}

impl<'d, 't> Section<'d, 't> {
    pub(super) fn root(document: &'d Document, root: &'d Spanned<DeTable<'t>>) -> Self {
        Self {
            document,
            // The end of a file names no line that helps; its beginning does.
            span: 0..0,
            table: root.get_ref(),
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    pub(super) fn text(&self, key: &str) -> Option<At<&'d str>> {
        text(self.table.get(key)?)
    }

    /// The text that `parse` accepts; what it does not accept is recorded.
    pub(super) fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, Wrong>) -> Option<At<T>> {
        self.take(self.text(key)?, &parse)
    }

    pub(super) fn texts(&self, key: &str) -> Vec<At<&'d str>> {
        match self.table.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(array)) => array.iter().filter_map(text).collect(),
            _ => Vec::new(),
        }
    }

    /// The texts that `parse` accepts; each that it does not accept is recorded.
    pub(super) fn all_parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, Wrong>) -> Vec<At<T>> {
        self.texts(key)
            .into_iter()
            .filter_map(|at| self.take(at, &parse))
            .collect()
    }

    pub(super) fn integer(&self, key: &str) -> Option<At<i64>> {
        let value = self.table.get(key)?;
        match value.get_ref() {
            DeValue::Integer(number) => {
                let number = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
                Some(At {
                    value: number.unwrap_or(i64::MAX),
                    span: value.span(),
                })
            }
            _ => None,
        }
    }

    pub(super) fn boolean(&self, key: &str) -> Option<At<bool>> {
        let value = self.table.get(key)?;
        value.get_ref().as_bool().map(|truth| At {
            value: truth,
            span: value.span(),
        })
    }

    pub(super) fn table(&self, key: &str) -> Option<Section<'d, 't>> {
        let (name, value) = self.table.get_key_value(key)?;
        self.section(name.span(), value)
    }

    pub(super) fn tables(&self, key: &str) -> Vec<Section<'d, 't>> {
        match self.table.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(array)) => array
                .iter()
                .filter_map(|item| self.section(item.span(), item))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Every key of this section with where it stands.
    pub(super) fn names(&self) -> Vec<At<&'d str>> {
        let names = self.table.keys().map(|name| At {
            value: &**name.get_ref(),
            span: name.span(),
        });
        names.collect()
    }

    pub(super) fn value(&self, key: &str) -> Option<&'d Spanned<DeValue<'t>>> {
        self.table.get(key)
    }

    fn section(&self, span: Range<usize>, value: &'d Spanned<DeValue<'t>>) -> Option<Section<'d, 't>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Section {
                document: self.document,
                span,
                table,
            }),
            _ => None,
        }
    }

    fn take<T>(&self, at: At<&str>, parse: &impl Fn(&str) -> Result<T, Wrong>) -> Option<At<T>> {
        match parse(at.value) {
            Ok(value) => Some(At { value, span: at.span }),
            Err(wrong) => {
                self.document.wrong(at.span, wrong);
                None
            }
        }
    }
}

fn text<'d>(value: &'d Spanned<DeValue<'_>>) -> Option<At<&'d str>> {
    value.get_ref().as_str().map(|text| At {
        value: text,
        span: value.span(),
    })
}
