//! What a decision is made of and what it says: values only. `flow` fills the facts from what was proven; the decision
//! is all that it gets back.

use std::net::IpAddr;
use std::sync::Arc;

use spiffe::SpiffeId;

use super::inputs::Inputs;

/// Who the peer is.
#[derive(Clone, Copy, Debug)]
pub enum Principal<'a> {
    /// The SPIFFE ID that the peer proved in TLS.
    Workload(&'a SpiffeId),
    /// A peer without a certificate.
    Plaintext,
}

/// Everything that one decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The peer.
    pub principal: Principal<'a>,
    /// The port that was called.
    pub port: u16,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// The peer's address, from the socket; never from a header.
    pub src_ip: IpAddr,
    /// The time, in milliseconds since 1970.
    pub now_millis: i64,
    /// What is asked for.
    pub what: What<'a>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A connection to an opaque port.
    Connect,
    /// A request to an http port.
    Http(HttpFacts<'a>),
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct HttpFacts<'a> {
    /// The method, as it came (methods are case-sensitive).
    pub method: &'a str,
    /// The path in normalized form, without the query.
    pub path: &'a str,
    /// The host: lower case, no port, no trailing dot.
    pub host: &'a str,
    /// The declared headers that were sent, by the name that policies use, with all their values.
    pub headers: &'a [(String, Vec<String>)],
    /// The user that a token proved; `None` when no token was sent (a bad token never gets here).
    pub user: Option<&'a User>,
}

/// A user, as a verified token tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// The issuer's alias in the mesh file.
    pub alias: String,
    /// The issuer (`iss`).
    pub issuer: String,
    /// The subject (`sub`).
    pub subject: String,
    /// The audiences (`aud`).
    pub audience: Vec<String>,
    /// The scopes.
    pub scope: Vec<String>,
    /// The roles, without the alias.
    pub roles: Vec<String>,
    /// The authorized party (`azp`).
    pub azp: Option<String>,
    /// The authentication context class (`acr`).
    pub acr: Option<String>,
    /// The authentication methods (`amr`).
    pub amr: Vec<String>,
    /// When the user authenticated, in seconds since 1970 (`auth_time`).
    pub auth_time: Option<i64>,
    /// When the token expires, in seconds since 1970 (`exp`).
    pub exp: i64,
    /// Who acts for the user now (`act.sub`, RFC 8693): a subject of the same issuer.
    pub actor: Option<String>,
    /// The claims that the mesh file maps, by the name that policies use.
    pub claims: Vec<(String, ClaimValue)>,
}

/// The value of a mapped claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClaimValue {
    /// One string.
    String(String),
    /// A set of strings.
    Strings(Vec<String>),
    /// A 64-bit integer.
    Long(i64),
    /// True or false.
    Bool(bool),
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A permit matched and no forbid did.
    Allowed,
    /// No permit matched.
    NoRule,
    /// A forbid matched.
    Forbidden,
    /// A forbid could not be evaluated, or the facts do not fit the schema.
    PolicyError,
    /// No permit matched, and one that fits caller, action and service asks for a user, who was not given.
    UserRequired,
    /// There is no policy at all: nothing could be loaded, or the set is empty.
    NoPolicies,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Allowed,
        Self::NoRule,
        Self::Forbidden,
        Self::PolicyError,
        Self::UserRequired,
        Self::NoPolicies,
    ];

    /// The name in logs and metrics. Stable.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::NoRule => "no_rule",
            Self::Forbidden => "forbidden",
            Self::PolicyError => "policy_error",
            Self::UserRequired => "user_required",
            Self::NoPolicies => "no_policies",
        }
    }
}

/// The permit that was nearest to a denied request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Its `@id`.
    pub rule: Arc<str>,
    /// What it asks for: its `@reason`, else the source of its conditions when its scope matched, else of its scope; one
    /// line, at most 300 characters.
    pub text: String,
}

/// What the shadow set would have answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Would {
    /// The answer.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The `@id`s of its policies that would have made it.
    pub rules: Vec<Arc<str>>,
    /// The version of the shadow set.
    pub version: Arc<str>,
}

/// A decision. The same facts and the same policies always give the same one; lists are sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The `@id`s of the policies that made it: the permits that matched, the forbids that matched, or, for
    /// `PolicyError`, the forbids that could not be evaluated.
    pub rules: Vec<Arc<str>>,
    /// When no permit matched: the nearest one for this action and service.
    pub needs: Option<Needs>,
    /// No permit matched, there was no user, and a permit in full scope asks for one: 401 rather than 403.
    pub user_would_help: bool,
    /// No permit matched, and one whose scope fits lacks nothing but a scope of the user's token: the scopes that it asks
    /// for (RFC 6750 section 3.1, `insufficient_scope`).
    pub scopes: Vec<Arc<str>>,
    /// The declared route that the path matched, as `<service>#<route>`.
    pub route: Option<Arc<str>>,
    /// How many policies could not be evaluated.
    pub errors: u32,
    /// The `@id`s of the shadow policies that would have turned the verdict, had they been in force.
    pub shadow: Vec<Arc<str>>,
    /// What the shadow set would have answered, where that is another verdict.
    pub would: Option<Box<Would>>,
    /// The `@reason` of the first of `rules` that has one.
    pub text: Option<Arc<str>>,
    /// Whether a policy that made the decision asks to have it recorded whatever the sampling (`@audit`).
    pub audit: bool,
    /// What it was made on, for a denial and where a policy asks for a record: what the policies of the slice read.
    pub inputs: Option<Arc<Inputs>>,
}

impl Decision {
    /// A denial with nothing to add.
    pub(super) fn deny(reason: Reason) -> Self {
        Self {
            verdict: Verdict::Deny,
            reason,
            rules: Vec::new(),
            needs: None,
            user_would_help: false,
            scopes: Vec::new(),
            route: None,
            errors: 0,
            shadow: Vec::new(),
            would: None,
            text: None,
            audit: false,
            inputs: None,
        }
    }
}
