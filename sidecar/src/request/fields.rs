//! The header lines of a message: the raw block enters, names and values leave, each with what becomes of it. Holds
//! them in two buffers instead of one allocation a line. Never prints a value.

use std::fmt;
use std::sync::Arc;

use super::strip::{self, Class};
use super::{Head, Refusal};

/// One header line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name as it came.
    pub name: &'a str,
    /// The value without the white space around it; any bytes but control bytes.
    pub value: &'a [u8],
}

impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ({} bytes)", self.name, self.value.len())
    }
}

/// What becomes of a header line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Goes on as it came.
    Passes,
    /// Its place is kept, its text is written anew.
    Rewritten,
    /// Ends here, and nobody sees it.
    Dropped,
}

#[derive(Clone, Copy)]
struct Field {
    name: (usize, usize),
    value: (usize, usize),
    class: Class,
    fate: Fate,
}

/// All header lines of a head, in order.
#[derive(Clone, Default)]
pub(super) struct Fields {
    names: String,
    values: Vec<u8>,
    list: Vec<Field>,
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.all().map(|(header, _, _)| header.name))
            .finish()
    }
}

impl Fields {
    /// Splits a header block of `lines` lines, its empty line included, that the raw scan let through.
    pub(super) fn parse(block: &[u8], lines: usize) -> Result<Self, httparse::Error> {
        let mut space = vec![httparse::EMPTY_HEADER; lines];
        let parsed = match httparse::parse_headers(block, &mut space)? {
            httparse::Status::Complete((length, parsed)) if length == block.len() => parsed,
            _ => return Err(httparse::Error::NewLine),
        };
        let mut fields = Self {
            names: String::with_capacity(block.len() / 3),
            values: Vec::with_capacity(block.len()),
            list: Vec::with_capacity(lines),
        };
        for header in parsed {
            fields.push(header.name, header.value.trim_ascii());
        }
        Ok(fields)
    }

    /// Adds a line; the value without white space around it.
    pub(super) fn push(&mut self, name: &str, value: &[u8]) {
        let class = strip::class(name);
        self.list.push(Field {
            name: (self.names.len(), self.names.len().saturating_add(name.len())),
            value: (self.values.len(), self.values.len().saturating_add(value.len())),
            class,
            fate: natural_fate(class),
        });
        self.names.push_str(name);
        self.values.extend_from_slice(value);
    }

    /// Every line, with its class and its fate.
    pub(super) fn all(&self) -> impl Iterator<Item = (Header<'_>, Class, Fate)> {
        self.list.iter().map(|field| {
            let name = self.names.get(field.name.0..field.name.1).unwrap_or_default();
            let value = self.values.get(field.value.0..field.value.1).unwrap_or_default();
            (Header { name, value }, field.class, field.fate)
        })
    }

    /// The lines that go on, in order.
    pub(super) fn passing(&self) -> impl Iterator<Item = Header<'_>> {
        self.all()
            .filter(|(_, _, fate)| *fate != Fate::Dropped)
            .map(|(header, _, _)| header)
    }

    /// Writes the value of every line of this name anew; `None` ends the line here.
    pub(super) fn rewrite(&mut self, name: &str, write: impl Fn(&[u8]) -> Option<Vec<u8>>) {
        for field in &mut self.list {
            let own = self.names.get(field.name.0..field.name.1).unwrap_or_default();
            if !strip::same_folded(own, name) || field.fate == Fate::Dropped {
                continue;
            }
            let value = self.values.get(field.value.0..field.value.1).unwrap_or_default();
            match write(value) {
                None => field.fate = Fate::Dropped,
                Some(value) => {
                    let start = self.values.len();
                    self.values.extend_from_slice(&value);
                    field.value = (start, self.values.len());
                }
            }
        }
    }

    /// Decides the fate of every line anew; `None` leaves it as it is.
    pub(super) fn settle(&mut self, fate: impl Fn(&str, Class) -> Option<Fate>) {
        for field in &mut self.list {
            let name = self.names.get(field.name.0..field.name.1).unwrap_or_default();
            field.fate = fate(name, field.class).unwrap_or(field.fate);
        }
    }
}

fn natural_fate(class: Class) -> Fate {
    match class {
        Class::Host | Class::ContentLength | Class::TransferEncoding => Fate::Rewritten,
        Class::Plain | Class::Expect => Fate::Passes,
        Class::Connection | Class::Upgrade | Class::Hop | Class::Claim | Class::Disguised => Fate::Dropped,
    }
}

/// The options of all `Connection` lines, in lower case.
pub(super) fn connection_options(fields: &Fields) -> Result<Vec<String>, &'static str> {
    /// More is no client, but work for every header line.
    const MOST: usize = 32;
    let mut options = Vec::new();
    for (header, class, _) in fields.all() {
        if class == Class::Connection {
            for option in header.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                if strip::is_token(option) {
                    options.push(String::from_utf8_lossy(option).to_ascii_lowercase());
                } else if !option.is_empty() {
                    return Err("an option of Connection is not a token");
                }
                if options.len() > MOST {
                    return Err("Connection has too many options");
                }
            }
        }
    }
    Ok(options)
}

/// A request header that policies may read (`[headers]` of mesh.toml).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredHeader {
    /// Its name in policies.
    pub cedar: String,
    /// Its name on the wire.
    pub name: String,
    /// Whether one value is a list with commas.
    pub list: bool,
}

impl Head {
    /// Every header that goes on, in order, as it came.
    pub fn headers(&self) -> impl Iterator<Item = Header<'_>> {
        self.fields.passing()
    }

    /// The values of a header, without the white space around them. Empty when it is not sent, or does not go on.
    pub fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// The one value of a header; `None` when it is absent, sent twice, or not UTF-8.
    #[must_use]
    pub fn single(&self, name: &str) -> Option<&str> {
        let mut values = self.header(name);
        let value = values.next()?;
        if values.next().is_some() {
            None
        } else {
            std::str::from_utf8(value).ok()
        }
    }

    /// Keeps trailers of these names back. A decision is made before they come, so an application that takes trailers for
    /// headers would go by values that no policy has seen.
    pub fn withhold(&mut self, declared: &Arc<[DeclaredHeader]>) {
        self.withheld = (!declared.is_empty()).then(|| Arc::clone(declared));
    }

    /// Whether a trailer of this name does not go on.
    pub(super) fn drops_trailer(&self, name: &str) -> bool {
        strip::dropped_trailer(name) || withholds(self.withheld.as_deref(), name)
    }

    /// The headers that policies may read, by their names in policies, with *all* values of each (I7).
    ///
    /// # Errors
    /// 400 when one is sent twice and is no list, is not UTF-8, or comes in a second spelling (`x_region` beside
    /// `x-region`) that an application may take for the same.
    pub fn declared(&self, spec: &[DeclaredHeader]) -> Result<Vec<(String, Vec<String>)>, Refusal> {
        let mut found = Vec::new();
        for declared in spec {
            let mut values: Vec<String> = Vec::new();
            let mut lines = 0_usize;
            for header in self
                .headers()
                .filter(|header| strip::same_folded(header.name, &declared.name))
            {
                if !header.name.eq_ignore_ascii_case(&declared.name) {
                    return Err(refuse_declared(
                        "header_spelling",
                        declared,
                        "comes in another spelling",
                    ));
                }
                lines = lines.saturating_add(1);
                let value = std::str::from_utf8(header.value)
                    .map_err(|_| refuse_declared("header_not_utf8", declared, "is not UTF-8"))?;
                let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
                let parts: Vec<&str> = if declared.list {
                    parts.collect()
                } else {
                    vec![value]
                };
                for part in parts {
                    if !values.iter().any(|known| known == part) {
                        values.push(part.to_owned());
                    }
                }
            }
            if lines > 1 && !declared.list {
                return Err(refuse_declared(
                    "header_repeated",
                    declared,
                    "is sent more than once",
                ));
            }
            if lines > 0 {
                found.push((declared.cedar.clone(), values));
            }
        }
        Ok(found)
    }
}

/// Whether a name is one of these, in any spelling.
pub(super) fn withholds(declared: Option<&[DeclaredHeader]>, name: &str) -> bool {
    let mut declared = declared.into_iter().flatten();
    declared.any(|header| strip::same_folded(&header.name, name))
}

fn refuse_declared(code: &'static str, declared: &DeclaredHeader, what: &str) -> Refusal {
    Refusal::bad(
        code,
        format!("the header `{}`, which policies read, {what}", declared.name),
    )
}
