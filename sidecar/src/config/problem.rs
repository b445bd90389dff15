//! What is wrong with a file, and where: a message with its place enters, one rendering for terminals and one for pipes
//! leaves. It never holds a secret: only configuration text is quoted.

use std::fmt::{self, Write};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode, SourceSpan,
};

/// One thing that is wrong with a file.
#[derive(Clone, Debug)]
pub struct ConfigProblem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 when it is the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0 when it is the file as a whole.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The machine could not read it now; nothing is known to be wrong with it.
    pub shortage: bool,
    /// It could not be read, so that what it holds is not known.
    pub unread: bool,
    source: Option<Arc<NamedSource<String>>>,
    span: Range<usize>,
}

/// What to do about a shortage.
pub(super) const SHORTAGE: &str = "the process may not open more files now: raise its limit (LimitNOFILE under systemd), or set limits.connections lower";

/// Whether an error tells of the machine, not of the file: no file may be opened now, or there is no memory.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    Errno::from_io_error(error)
        .is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&errno))
}

/// How problems are rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendering {
    /// `file:line:column: message`, and the hint on a line of its own: for pipes and logs.
    Plain,
    /// With the lines concerned, for a terminal.
    Graphical {
        /// ANSI colours.
        color: bool,
        /// Width of the terminal in columns.
        width: usize,
    },
}

impl ConfigProblem {
    /// A problem with a file as a whole.
    pub fn whole(file: &Path, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: message.into(),
            hint: Some(hint.into()),
            shortage: false,
            unread: false,
            source: None,
            span: 0..0,
        }
    }

    /// The same, of a file that an error kept from being read.
    pub(super) fn short(self, error: &io::Error) -> Self {
        Self {
            shortage: is_shortage(error),
            unread: true,
            ..self
        }
    }

    /// A problem at a place that another checker found, with the text of the file when it is at hand. `line` and
    /// `column` count from 1; 0 means the whole file.
    pub fn at(
        file: &Path,
        text: Option<&str>,
        (line, column): (usize, usize),
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Self {
        let offset = text.and_then(|text| offset_of(text, line, column));
        Self {
            file: file.to_owned(),
            line,
            column,
            message: message.into(),
            hint,
            shortage: false,
            unread: false,
            source: offset.and(text).map(|text| Arc::new(named(file, text))),
            span: offset.map_or(0..0, |offset| offset..offset),
        }
    }

    /// A problem with the bytes `span` of the text of a file.
    pub fn in_text(
        (file, text): (&Path, &str),
        span: Range<usize>,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Self {
        Self::spanned(file, &Arc::new(named(file, text)), span, message.into(), hint)
    }

    fn placed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)
    }

    pub(super) fn spanned(
        file: &Path,
        source: &Arc<NamedSource<String>>,
        span: Range<usize>,
        message: String,
        hint: Option<String>,
    ) -> Self {
        let (line, column) = place_of(source.inner(), span.start);
        Self {
            file: file.to_owned(),
            line,
            column,
            message,
            hint,
            shortage: false,
            unread: false,
            source: Some(Arc::clone(source)),
            span,
        }
    }
}

pub(super) fn named(file: &Path, text: &str) -> NamedSource<String> {
    NamedSource::new(file.display().to_string(), text.to_owned()).with_language("toml")
}

/// One line, for logs and reasons: `file:line:column: message (hint: ...)`.
impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.placed(f)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigProblem {}

/// The same as miette sees it: its message without the place, which the snippet shows.
#[derive(Debug)]
struct Report<'a>(&'a ConfigProblem);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.source.is_some() {
            f.write_str(&self.0.message)
        } else {
            self.0.placed(f)
        }
    }
}

impl std::error::Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.0
            .hint
            .as_ref()
            .map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.0.source.as_ref().map(|source| &**source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.0.source.as_ref()?;
        let span = SourceSpan::from(self.0.span.clone());
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(None, span))))
    }
}

/// Renders problems, one after the other, with a line break at the end of each.
pub fn render(problems: &[ConfigProblem], rendering: Rendering) -> String {
    let mut out = String::new();
    for problem in problems {
        match rendering {
            Rendering::Plain => plain(&mut out, problem),
            Rendering::Graphical { color, width } => {
                let theme = if color {
                    GraphicalTheme::unicode()
                } else {
                    GraphicalTheme::unicode_nocolor()
                };
                let handler = GraphicalReportHandler::new_themed(theme).with_width(width.max(40));
                if handler.render_report(&mut out, &Report(problem)).is_err() {
                    plain(&mut out, problem);
                }
            }
        }
    }
    out
}

/// A problem without its hint, which stands on a line of its own.
struct Placed<'a>(&'a ConfigProblem);

impl fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.placed(f)
    }
}

fn plain(out: &mut String, problem: &ConfigProblem) {
    // Writing to a `String` cannot fail.
    let _written = writeln!(out, "{}", Placed(problem));
    if let Some(hint) = &problem.hint {
        out.push_str("  hint: ");
        out.push_str(hint);
        out.push('\n');
    }
}

/// Line and column, both from 1, of a byte offset.
fn place_of(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}

fn offset_of(text: &str, line: usize, column: usize) -> Option<usize> {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.checked_sub(1)?)
        .map(str::len)
        .sum();
    let within: usize = text
        .get(start..)?
        .chars()
        .take(column.checked_sub(1)?)
        .map(char::len_utf8)
        .sum();
    Some(start + within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_from_one() {
        let text = "a = 1\nÜber = 2\n";
        assert_eq!(place_of(text, 0), (1, 1));
        assert_eq!(place_of(text, 6), (2, 1));
        assert_eq!(place_of(text, 8), (2, 2));
        assert_eq!(offset_of(text, 2, 2), Some(8));
        assert_eq!(offset_of(text, 0, 0), None);
        assert_eq!(place_of(text, 999), (3, 1));
    }

    #[test]
    fn plain_has_the_place_and_graphical_shows_the_line() {
        let problem = ConfigProblem::at(
            Path::new("mesh.toml"),
            Some("a = 1\nprot = 2\n"),
            (2, 1),
            "unknown key `prot`",
            Some("did you mean `port`?".to_owned()),
        );
        let text = render(std::slice::from_ref(&problem), Rendering::Plain);
        assert_eq!(
            text,
            "mesh.toml:2:1: unknown key `prot`\n  hint: did you mean `port`?\n"
        );
        let rendering = Rendering::Graphical {
            color: false,
            width: 100,
        };
        let text = render(&[problem], rendering);
        for part in [
            "unknown key `prot`",
            "mesh.toml:2:1",
            "prot = 2",
            "did you mean `port`?",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_file_as_a_whole_has_no_line() {
        let problem = ConfigProblem::whole(Path::new("x.toml"), "cannot be read", "create it");
        assert_eq!(problem.to_string(), "x.toml: cannot be read (hint: create it)");
        let graphical = render(
            &[problem],
            Rendering::Graphical {
                color: false,
                width: 100,
            },
        );
        assert!(graphical.contains("x.toml: cannot be read"), "{graphical}");
    }
}
