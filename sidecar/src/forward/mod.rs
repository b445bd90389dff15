//! Moving bytes: two connected streams and a decided request (or nothing but the streams, on opaque ports) enter, a count
//! and a reason leave. It never decides, and never ends a truncated message cleanly.
//!
//! * [`http1::exchange`] carries one request up and its response down, both at once.
//! * [`http2`] does the same for a stream of an HTTP/2 connection, whatever version the application speaks.
//! * [`copy_both`] carries any bytes, half-closes kept: opaque ports, outbound tunnels, WebSockets.
//! * [`connect_app`] opens the connection to the application.
//! * [`ErrorAnswer`] is what a client gets when there is nothing to forward.
//!
//! # How a truncated message is made visible
//!
//! When an exchange fails after its response began, or a copy ends with a failure, the caller must let go of both
//! streams without `shutdown`: a TLS stream then ends without `close_notify` and a tunnel stream is reset. A plain TCP
//! stream would end with an orderly FIN all the same, so [`abort`] it first. An HTTP/2 stream is reset.
//!
//! # Memory
//!
//! Reads go through one buffer a worker thread (`scratch.rs`); a connection keeps bytes of its own only while they wait
//! for the other side, at most [`MAX_BUFFER`] a direction, and none while it is idle.

mod answer;
mod buffered;
mod connect;
mod copy;
pub mod http1;
pub mod http2;
mod scratch;
mod timer;

pub use answer::{ErrorAnswer, error_response};
pub use buffered::{Buffered, MAX_BUFFER};
pub use connect::{ConnectFailure, abort, connect_app};
pub use copy::{CloseReason, Copied, Progress, copy_both};
