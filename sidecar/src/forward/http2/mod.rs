//! HTTP/2 from a client, one stream a request: a connection enters, [`Incoming`] streams leave ([`Client`]); a decided
//! request enters, its exchange is carried out with an application of either version ([`to_http1`], [`to_http2`]). Which
//! one it speaks is found out once ([`Apps`], [`Links`]). It never decides, and a message that broke off never ends in order: the
//! stream is reset, and an HTTP/1.1 connection to the application aborted.
//!
//! What goes to an application of HTTP/1.1 is written from the [`crate::request::Head`] by the code that writes it for an
//! HTTP/1.1 client, with the body in chunks of our own: nothing that came in a stream is ever read as framing.
//!
//! # Memory
//!
//! Windows, header lists, streams and tasks are bounded for each connection (`settings.rs`). Bytes of a body are given to
//! the other side before more of them are let in.

mod answer;
mod apps;
mod connection;
mod exchange;
mod http1_app;
mod http2_app;
mod settings;
mod slots;
mod sniff;

#[cfg(test)]
mod tests;

pub use answer::{Answer, answer, grpc_status, is_grpc};
pub use apps::{Apps, Lease, Links, To};
pub use connection::{Client, Incoming};
pub use exchange::{Outgoing, Stream, Times};
pub use http1_app::{Http1App, to_http1};
pub use http2_app::to_http2;
pub use settings::CLIENT_TASKS;
pub use slots::{Slot, Slots};
