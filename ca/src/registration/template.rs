//! The identity that an entry grants: a SPIFFE ID, or a template of one, like
//! `spiffe://mesh.local/host/{host}/user/{unix.user}`. A variable stands for a fact that the kernel proved about the
//! caller. Its value is taken as it is or refused, never escaped or mapped, so that two callers who differ in it never
//! get one identity.

mod error;

use std::fmt;
use std::sync::Arc;

use spiffe::{SpiffeId, TrustDomain};

use super::entries::{Host, MAX_ID};
use super::facts::{Ask, Fact, Facts};
pub use error::TemplateError;

/// What an entry grants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Template {
    text: Arc<str>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Fixed(SpiffeId),
    Open {
        domain: TrustDomain,
        segments: Vec<Segment>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    /// One variable at the most, so that what it stands for can be read back from the segment.
    Variable {
        before: String,
        variable: Variable,
        after: String,
    },
}

impl Segment {
    fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(text) => Some(text),
            Self::Variable { .. } => None,
        }
    }
}

/// What may stand between braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variable {
    /// The name of this machine: `host` of ca.toml. The same for all callers.
    Host,
    /// The Workload API socket that the caller came through.
    Socket,
    /// The name of its user.
    User,
    /// Its effective uid.
    Uid,
    /// The name of its group.
    Group,
    /// Its effective gid.
    Gid,
    /// The unit of the system manager that it runs in.
    Unit,
    /// The container that it runs in.
    Container,
}

impl Variable {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Host,
        Self::Socket,
        Self::User,
        Self::Uid,
        Self::Group,
        Self::Gid,
        Self::Unit,
        Self::Container,
    ];

    /// As it is written between braces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Socket => "socket",
            Self::User => "unix.user",
            Self::Uid => "unix.uid",
            Self::Group => "unix.group",
            Self::Gid => "unix.gid",
            Self::Unit => "systemd.id",
            Self::Container => "container.id",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variable| variable.name() == name)
    }

    /// What it stands for; none for a name of this machine that nobody knows.
    pub(super) fn value(self, facts: &Facts) -> Fact<Arc<str>> {
        let number = |fact: &Fact<u32>| fact.clone().map(|number| Arc::from(number.to_string()));
        match self {
            Self::Host => Fact::Unproven("the name of this machine is not known".into()),
            Self::Socket => Fact::Proven(facts.socket.clone()),
            Self::User => facts.user.clone(),
            Self::Uid => number(&facts.uid),
            Self::Group => facts.group.clone(),
            Self::Gid => number(&facts.gid),
            Self::Unit => facts.unit(),
            Self::Container => facts.container(),
        }
    }

    fn ask(self) -> Option<Ask> {
        match self {
            Self::User => Some(Ask::User),
            Self::Group => Some(Ask::Group),
            Self::Unit | Self::Container => Some(Ask::Cgroup),
            Self::Host | Self::Socket | Self::Uid | Self::Gid => None,
        }
    }

    /// Whether its values are numbers.
    fn numeric(self) -> bool {
        matches!(self, Self::Uid | Self::Gid)
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.name())
    }
}

/// What a template is for one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expanded {
    /// This identity.
    Id(SpiffeId),
    /// A fact has to be read first.
    Open(Ask),
    /// The caller has no such thing.
    Absent(Variable),
    /// It must not be granted, for this reason.
    Refused(Variable, Arc<str>),
}

impl Template {
    /// Reads an identity, or a template of one. `{host}` is put in where it is known.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str, host: &Host) -> Result<Self, TemplateError> {
        let kind = if text.contains(['{', '}']) {
            open(text, host)?
        } else {
            Kind::Fixed(fixed(text)?)
        };
        Ok(Self {
            text: text.into(),
            kind,
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        match &self.kind {
            Kind::Fixed(id) => id.trust_domain(),
            Kind::Open { domain, .. } => domain,
        }
    }

    /// The path as it was written.
    pub fn path(&self) -> &str {
        let rest = self.text.strip_prefix("spiffe://").unwrap_or_default();
        rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default()
    }

    /// Whether it depends on the caller.
    pub fn is_template(&self) -> bool {
        matches!(self.kind, Kind::Open { .. })
    }

    /// How many parts its path has, and those before the first variable: never all.
    pub(super) fn beginning(&self) -> (usize, Vec<&str>) {
        let segments: &[Segment] = match &self.kind {
            Kind::Fixed(_) => &[],
            Kind::Open { segments, .. } => segments,
        };
        let known = segments.iter().map_while(Segment::literal);
        (
            segments.len(),
            known.take(segments.len().saturating_sub(1)).collect(),
        )
    }

    /// Whether a variable of it differs between callers, so that it names no more than one each.
    pub fn bounds_the_caller(&self) -> bool {
        match &self.kind {
            Kind::Fixed(_) => false,
            Kind::Open { segments, .. } => segments.iter().any(
                |segment| matches!(segment, Segment::Variable { variable, .. } if *variable != Variable::Host),
            ),
        }
    }

    /// The identity for a caller.
    pub fn expand(&self, facts: &Facts) -> Expanded {
        let (domain, segments) = match &self.kind {
            Kind::Fixed(id) => return Expanded::Id(id.clone()),
            Kind::Open { domain, segments } => (domain, segments),
        };
        let mut path = String::new();
        let mut ask = None;
        let mut refused = None;
        let mut last = Variable::Host;
        for segment in segments {
            path.push('/');
            match segment {
                Segment::Literal(text) => path.push_str(text),
                Segment::Variable {
                    before,
                    variable,
                    after,
                } => {
                    last = *variable;
                    match (variable.value(facts), variable.ask()) {
                        (Fact::Proven(value), _) => match whole(before, &value, after) {
                            Some(segment) => path.push_str(&segment),
                            None => refused = refused.or(Some((*variable, unfit(*variable, &value)))),
                        },
                        (Fact::Absent(_), _) => return Expanded::Absent(*variable),
                        (Fact::Unproven(reason), _) => refused = refused.or(Some((*variable, reason))),
                        (Fact::Unasked, Some(one)) => ask = ask.min(Some(one)).or(Some(one)),
                        (Fact::Unasked, None) => {
                            refused = refused.or(Some((*variable, "it was not read".into())));
                        }
                    }
                }
            }
        }
        match (refused, ask) {
            (Some((variable, reason)), _) => Expanded::Refused(variable, reason),
            (None, Some(ask)) => Expanded::Open(ask),
            (None, None) => finished(domain, &path, last),
        }
    }

    /// Whether this identity may come of it.
    pub fn may_be(&self, id: &SpiffeId) -> bool {
        match &self.kind {
            Kind::Fixed(own) => own == id,
            Kind::Open { domain, segments } => {
                id.trust_domain() == domain && overlap(segments, &literals(id))
            }
        }
    }

    /// Whether two that are written differently may be one identity for different callers. Two fixed ones never: who
    /// writes an identity twice means it.
    pub fn may_collide(&self, other: &Self) -> bool {
        if self.text == other.text {
            return false;
        }
        match (&self.kind, &other.kind) {
            (Kind::Fixed(_), Kind::Fixed(_)) => false,
            (Kind::Open { .. }, Kind::Fixed(id)) => self.may_be(id),
            (Kind::Fixed(id), Kind::Open { .. }) => other.may_be(id),
            (
                Kind::Open { domain, segments },
                Kind::Open {
                    domain: other,
                    segments: theirs,
                },
            ) => domain == other && overlap(segments, theirs),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// S-4: what a part of a path may be.
pub fn is_segment(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(allowed)
}

fn whole(before: &str, value: &str, after: &str) -> Option<String> {
    let segment = format!("{before}{value}{after}");
    (is_segment(value) && is_segment(&segment)).then_some(segment)
}

fn unfit(variable: Variable, value: &str) -> Arc<str> {
    let value = value.escape_debug();
    format!("the value `{value}` of {variable} cannot be a part of a SPIFFE ID: only letters, digits, `.`, `-` and `_` can")
        .into()
}

fn finished(domain: &TrustDomain, path: &str, last: Variable) -> Expanded {
    let text = format!("spiffe://{domain}{path}");
    let refused = |reason: String| Expanded::Refused(last, reason.into());
    if text.len() > MAX_ID {
        return refused(format!("the SPIFFE ID would be longer than {MAX_ID} bytes"));
    }
    match SpiffeId::new(&text) {
        Ok(id) if id.to_string() == text => Expanded::Id(id),
        Ok(_) => refused("the SPIFFE ID would not be in its one form".to_owned()),
        Err(error) => refused(format!("it would not be a SPIFFE ID: {error}")),
    }
}

fn fixed(text: &str) -> Result<SpiffeId, TemplateError> {
    let id =
        SpiffeId::new(text).map_err(|error| TemplateError::NotAnId(text.to_owned(), error.to_string()))?;
    if id.to_string() != *text {
        Err(TemplateError::Form(text.to_owned(), id.to_string()))
    } else if text.len() > MAX_ID {
        Err(TemplateError::Long)
    } else if id.path().is_empty() {
        Err(TemplateError::NoPath(text.to_owned()))
    } else {
        Ok(id)
    }
}

fn open(text: &str, host: &Host) -> Result<Kind, TemplateError> {
    let not_an_id = |reason: &str| TemplateError::NotAnId(text.to_owned(), reason.to_owned());
    let rest = text
        .strip_prefix("spiffe://")
        .ok_or_else(|| not_an_id("it does not start with spiffe://"))?;
    let (domain, path) = rest
        .split_once('/')
        .ok_or_else(|| TemplateError::NoPath(text.to_owned()))?;
    let named = TrustDomain::new(domain).map_err(|error| not_an_id(&error.to_string()))?;
    if named.as_str() != domain {
        return Err(TemplateError::Form(
            text.to_owned(),
            format!("spiffe://{named}/{path}"),
        ));
    }
    if text.len() > MAX_ID {
        return Err(TemplateError::Long);
    }
    let segments = path
        .split('/')
        .map(|part| segment(text, part, host))
        .collect::<Result<Vec<_>, _>>()?;
    // By what is written: the name of a machine is no prefix either.
    let first = path.split('/').next().unwrap_or_default();
    if let Ok(Segment::Variable { variable, .. }) = segment(text, first, &Host::Unchecked) {
        return Err(TemplateError::NoPrefix(variable));
    }
    Ok(Kind::Open {
        domain: named,
        segments,
    })
}

fn segment(text: &str, part: &str, host: &Host) -> Result<Segment, TemplateError> {
    let not_an_id = || {
        let reason = format!("`{part}` cannot be a part of its path");
        TemplateError::NotAnId(text.to_owned(), reason)
    };
    let braces = || TemplateError::Braces(part.to_owned());
    let Some((before, rest)) = part.split_once('{') else {
        return match part {
            _ if part.contains('}') => Err(braces()),
            _ if is_segment(part) => Ok(Segment::Literal(part.to_owned())),
            _ => Err(not_an_id()),
        };
    };
    let (name, after) = rest.split_once('}').ok_or_else(braces)?;
    if [before, name, after].iter().any(|one| one.contains(['{', '}'])) {
        return Err(braces());
    }
    // Whatever it stands for has an `x` at the least.
    if !is_segment(&format!("{before}x{after}")) {
        return Err(not_an_id());
    }
    let variable = Variable::parse(name).ok_or_else(|| TemplateError::Variable(name.to_owned()))?;
    match (variable, host) {
        (Variable::Host, Host::Unusable(reason)) => Err(TemplateError::Host(reason.clone())),
        (Variable::Host, Host::Name(host)) => whole(before, host, after)
            .map(Segment::Literal)
            .ok_or_else(not_an_id),
        _ => Ok(Segment::Variable {
            before: before.to_owned(),
            variable,
            after: after.to_owned(),
        }),
    }
}

fn literals(id: &SpiffeId) -> Vec<Segment> {
    let parts = id.path().split('/').skip(1);
    parts.map(|part| Segment::Literal(part.to_owned())).collect()
}

fn overlap(ours: &[Segment], theirs: &[Segment]) -> bool {
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(one, other)| may_equal(one, other))
}

fn may_equal(one: &Segment, other: &Segment) -> bool {
    match (one, other) {
        (Segment::Literal(one), Segment::Literal(other)) => one == other,
        (
            Segment::Literal(text),
            Segment::Variable {
                before,
                variable,
                after,
            },
        )
        | (
            Segment::Variable {
                before,
                variable,
                after,
            },
            Segment::Literal(text),
        ) => {
            let value = text
                .strip_prefix(before.as_str())
                .and_then(|rest| rest.strip_suffix(after.as_str()));
            value.is_some_and(|value| {
                is_segment(value) && (!variable.numeric() || value.bytes().all(|b| b.is_ascii_digit()))
            })
        }
        (
            Segment::Variable { before, after, .. },
            Segment::Variable {
                before: other,
                after: end,
                ..
            },
        ) => {
            let same_start = before.starts_with(other.as_str()) || other.starts_with(before.as_str());
            same_start && (after.ends_with(end.as_str()) || end.ends_with(after.as_str()))
        }
    }
}

#[cfg(test)]
mod tests;
