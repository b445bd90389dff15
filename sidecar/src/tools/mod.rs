//! What the command line asks of the sidecar's code without running one: files, claims and ids enter, decisions and their
//! explanations leave. Every answer is made by the rooms that make it in a running sidecar; there is no second reading of
//! a request, a token or a policy here.

mod advice;
mod bound;
mod can;
mod explain;
mod target;
mod token;

pub use advice::advice;
pub use can::{Answer, Question, Refused, ask};
pub use explain::{Explained, explain};
pub use target::{Asked, Target, peer};
pub use token::{TokenFailure, of_claims, of_token};
