//! The decision: what a mesh knows (`Model`), policy files and the facts of one request or connection enter, one
//! `Decision` leaves. Pure: no clock, no socket, no file is touched, and no other room is known.
//!
//! Cedar is the language. `load` refuses a set whole unless every policy parses, validates strictly (warnings
//! included), and names only what the mesh has; what it returns holds the slice that the own service enforces. `decide`
//! evaluates the policies whose scope fits the request, found by an index: the usual conditions by a short way, everything
//! else, and every error, by Cedar's own interpreter, which tests hold against the short way too. To that it applies
//! hopguard's rule, which is stricter than Cedar's: a forbid that matches **or errors** denies, a permit that errors does
//! not permit, and no permit means deny. Nothing here maps an error to "allowed".

mod cases;
mod compile;
mod decide;
mod describe;
mod entities;
mod evaluation;
mod explain;
mod expr;
mod facts;
mod format;
mod index;
mod inputs;
mod kept;
mod lint;
mod literals;
mod load;
mod model;
mod names;
mod nearest;
mod parse;
mod problem;
mod quick;
mod replay;
mod route;
mod rules;
mod scan;
mod schema;
mod scopes;
mod tally;
mod trial;
mod validate;
mod wire;
mod world;

pub use decide::Policies;
pub use explain::{Clause, Effect, Explanation, Judged, Miss, Nearest, Part, State, Word};
pub use facts::{
    ClaimValue, Decision, Facts, HttpFacts, Needs, Principal, Reason, User, Verdict, What, Would,
};
pub use format::format;
pub use inputs::{Inputs, RequestInputs, Subject};
pub use load::{Checked, check, describe, load, test};
pub use model::{
    ClaimKind, GroupModel, HeaderModel, IssuerModel, Model, PolicyError, PortKind, RouteModel, ServiceModel,
};
pub use problem::PolicyProblem;
pub use replay::ReplayError;
pub use schema::schema;
pub use trial::{Covered, Outcome, Tested};

#[cfg(test)]
mod tests;
