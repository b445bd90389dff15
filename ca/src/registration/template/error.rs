//! Why a text is no identity, and what to write instead.

use std::sync::Arc;

use super::{MAX_ID, Variable};

/// Why a text is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Not a SPIFFE ID.
    #[error("`{0}` is not a SPIFFE ID: {1}")]
    NotAnId(String, String),
    /// Another spelling of one.
    #[error("`{0}` is not in its one form")]
    Form(String, String),
    /// Longer than identities may be.
    #[error("the SPIFFE ID is longer than {MAX_ID} bytes")]
    Long,
    /// No path.
    #[error("`{0}` is the trust domain itself, which no workload may be")]
    NoPath(String),
    /// No such variable.
    #[error("`{{{0}}}` is no variable")]
    Variable(String),
    /// A brace without its other half, or a second variable in a segment.
    #[error("the part `{0}` of the path is not text with one {{variable}} at the most")]
    Braces(String),
    /// It starts with a variable.
    #[error("the path starts with the variable `{0}`")]
    NoPrefix(Variable),
    /// The name of the machine cannot be part of an identity.
    #[error("`{{host}}` has no value here: {0}")]
    Host(Arc<str>),
}

impl TemplateError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            Self::NotAnId(..) => {
                "write it as spiffe://TRUST-DOMAIN/PATH, like spiffe://mesh.local/ns/shop/sa/web".to_owned()
            }
            Self::Form(_, form) => format!("write `{form}`"),
            Self::Long => "shorten its path".to_owned(),
            Self::NoPath(_) => "add a path, like /ns/shop/sa/web".to_owned(),
            Self::Variable(_) => {
                let known: Vec<String> = Variable::ALL.iter().map(ToString::to_string).collect();
                format!("known are {}", known.join(", "))
            }
            Self::Braces(_) => {
                "write /user/{unix.user}; two variables stand in two parts: /{unix.uid}/{unix.gid}".to_owned()
            }
            Self::NoPrefix(_) => {
                "start with a word of its own, like /user/{unix.user}, so that a caller's name never \
                                  decides what kind of identity it is"
                    .to_owned()
            }
            Self::Host(_) => "name the machine by `host = \"NAME\"` in ca.toml".to_owned(),
        }
    }
}
