//! HTTP/1.1 between a client and the application, one request at a time: a client stream enters, heads leave
//! ([`read_head`]); a decided request enters, its exchange is carried out ([`exchange()`]); what is not forwarded is
//! drained or closed ([`discard_body`], [`finish`]), so that nothing of one request is read as the next.

mod edge;
mod exchange;
mod failure;
mod pipe;
mod response;

#[cfg(test)]
mod tests;

pub use edge::{HeadFailure, HeadTimes, discard_body, finish, read_head};
pub use exchange::{Exchange, Outgoing, Times, exchange};
pub use failure::{Blame, ExchangeFailure};
