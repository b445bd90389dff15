//! What a statement says (pure): what was proven of a request enters, JSON leaves.

use serde::Serialize;
use spiffe::SpiffeId;

use super::AssertionOptions;

/// The largest statement in bytes of JSON: as a header a third larger, and common servers take heads of 8 KiB.
pub(super) const MAX_BYTES: usize = 5 * 1024;

/// What was proven of a request.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Who says it: our own identity.
    pub issuer: &'a SpiffeId,
    /// The calling workload; `None`: it proved no identity, on a port that takes such.
    pub caller: Option<&'a SpiffeId>,
    /// The user that it acts for; `None`: there was no token.
    pub user: Option<User<'a>>,
    /// The id of the decision, as the record has it.
    pub decision: &'a str,
    /// Method, path and host, as decided on.
    pub request: (&'a str, &'a str, &'a str),
}

/// A user as proven.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// `iss` of the token.
    pub issuer: &'a str,
    /// `sub` of the token.
    pub subject: &'a str,
    /// The roles.
    pub roles: &'a [String],
    /// Who acts for the user, the present actor first.
    pub actors: &'a [String],
}

/// The claims (RFC 7519 section 4.1, RFC 8693 section 4.1).
#[derive(Serialize)]
pub(super) struct Statement<'a> {
    iss: String,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
    /// `null` is said: its absence could be read as "not asked".
    caller: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Subject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Request<'a>>,
}

#[derive(Serialize)]
struct Subject<'a> {
    iss: &'a str,
    sub: &'a str,
    roles: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Box<Actor<'a>>>,
}

#[derive(Serialize)]
struct Actor<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Box<Actor<'a>>>,
}

#[derive(Serialize)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    host: &'a str,
}

impl<'a> Statement<'a> {
    /// The claims at `now` (Unix seconds).
    pub(super) fn new(said: &Said<'a>, options: &'a AssertionOptions, now: u64) -> Self {
        let (method, path, host) = said.request;
        Self {
            iss: said.issuer.to_string(),
            aud: &options.audience,
            iat: now,
            exp: now.saturating_add(options.ttl.as_secs()),
            jti: said.decision,
            caller: said.caller.map(SpiffeId::to_string),
            user: said.user.map(|user| Subject {
                iss: user.issuer,
                sub: user.subject,
                roles: user.roles,
                act: chain(user.actors),
            }),
            request: options.request.then_some(Request { method, path, host }),
        }
    }
}

fn chain(actors: &[String]) -> Option<Box<Actor<'_>>> {
    actors
        .iter()
        .rev()
        .fold(None, |act, sub| Some(Box::new(Actor { sub, act })))
}
