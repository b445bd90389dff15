//! Who is who: entries grant a SPIFFE ID to whatever process is proven to have all of their selectors. A file enters,
//! facts about a caller enter, grants leave. It reads no process and trusts no word of a caller; what could not be
//! proven refuses the entry that asks for it.

mod entries;
mod matching;
mod selector;
mod watch;

pub use entries::{Entries, Entry, Scope};
pub use matching::{Ask, Fact, Facts, Grant, Matching, Refused};
pub use selector::{Selector, SelectorError};
pub use watch::{load, watch};
