//! The SPIFFE Workload API: connections on unix sockets enter, identities leave, each to the process that the kernel
//! proved and an entry grants it to. It signs nothing itself: it asks an [`Issuer`], in this process today, on another
//! machine later. It never sends to a process that it has not attested since the last message.

mod beside;
mod connection;
mod frames;
mod gate;
mod headers;
mod issuer;
mod limits;
mod listener;
mod proto;
mod service;
mod session;
mod streams;
mod validate;

pub use issuer::{Issue, IssueError, IssueJwt, Issuer};
pub use limits::Limits;
pub use listener::{Bound, Socket, SocketError};
pub use service::{Shared, serve};
pub use streams::{Caller, Carries, Handed, Open, Streams, Ticket};
pub use validate::{LEEWAY, MAX_AUDIENCE, MAX_AUDIENCES, is_audience};
