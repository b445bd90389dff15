//! Who is who: entries grant a SPIFFE ID to whatever process is proven to have all of their selectors. A file enters,
//! facts about a caller enter, grants leave. It reads no process and trusts no word of a caller; what could not be
//! proven refuses the entry that asks for it.

mod collisions;
mod entries;
mod facts;
mod guard;
mod matching;
mod moved;
mod plan;
mod selector;
mod template;
mod watch;

pub use entries::{Entries, Entry, Host, Scope};
pub use facts::{Ask, Cgroup, Fact, Facts};
pub use guard::warn_of_group;
pub use matching::{Condition, Grant, Judgement, Matching, Refused};
pub use plan::Difference;
pub use selector::{Selector, SelectorError, UNITS, is_container_id, is_unit_name, is_users_manager};
pub use template::{Expanded, Template, TemplateError, Variable, is_segment};
pub use watch::{Seen, check, digest, load, takes_all, watch};
