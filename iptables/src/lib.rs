//! The transparent redirect: what is wanted enters, packet-filter rules leave, applied whole or not at all.
//!
//! ```text
//!  intent   what the user wants, parsed once                          (pure)
//!  plan     intent -> chains and rules for each family                (pure)
//!  rules    one rule: what it matches, what happens, why              (pure)
//!  state    the text of `iptables-save` -> chains and rules           (pure)
//!  drift    plan against state, rule by rule                          (pure)
//!  change   state -> text for `iptables-restore`: apply, undo, back   (pure)
//!  host     what this machine has: programs, IPv6, mapped ids         (reads)
//!  apply    the only file that runs a program
//! ```
//!
//! Nothing here opens a socket, and nothing guesses: a rule set that cannot be read is not written over.

pub mod apply;
pub mod change;
pub mod drift;
pub mod host;
pub mod intent;
pub mod plan;
pub mod rules;
pub mod state;

#[cfg(test)]
mod model;

pub use apply::{
    ApplyError, Blame, Cause, Checked, FamilyOutcome, Options, Outcome, Survey, Undone, apply, check, survey,
    undo,
};
pub use drift::{Drift, DriftKind, Standing, standing};
pub use host::{Backend, Ipv6};
pub use intent::{Families, InboundPorts, Intent, IntentError, PortRange, RawIntent, RawOwn, Udp};
pub use plan::{FamilyPlan, Plan, PlanView, plan};
pub use rules::{Family, Table};
