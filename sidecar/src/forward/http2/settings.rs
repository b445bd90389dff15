//! The numbers of HTTP/2 with clients and with applications, and why they are what they are.

use std::time::Duration;

use crate::request::Limits;

/// Streams that a client may have open in one connection.
pub(super) const CLIENT_STREAMS: u32 = 128;
/// Most tasks for streams of one connection: those of streams that the client has reset end a little later than the streams.
pub const CLIENT_TASKS: usize = 256;
/// A client's stream: enough for 256 MB/s over a millisecond.
const CLIENT_STREAM_WINDOW: u32 = 256 << 10;
/// A client's connection: 16 streams that the application does not read must not stop the others, and no client makes us
/// hold more.
const CLIENT_WINDOW: u32 = 16 * CLIENT_STREAM_WINDOW;

/// Streams that we have open in one connection to an application, whatever more it would take.
pub(super) const APP_STREAMS: usize = 128;
/// Connections to an application for one client: where an application takes few streams in each.
pub(super) const APP_CONNECTIONS: usize = 4;
const APP_STREAM_WINDOW: u32 = 256 << 10;
const APP_WINDOW: u32 = 16 * APP_STREAM_WINDOW;

/// What one stream may have waiting for its connection.
const SEND_BUFFER: usize = 64 << 10;
/// Streams that we reset are remembered, because frames for one that is forgotten count as the peer's errors.
const REMEMBERED_RESETS: usize = 1024;
const REMEMBER_RESETS: Duration = Duration::from_secs(1);
/// Errors in streams of a client, before it is sent away (CVE-2025-8671).
const ERROR_RESETS: usize = 1024;
/// The same for applications: what a client cancels is no error of theirs.
const APP_RESETS: usize = 8192;
/// Streams that a client opened and reset before we saw them (rapid reset, CVE-2023-44487).
const PENDING_RESETS: usize = 64;
/// The table that header compression keeps for each direction.
const HEADER_TABLE: u32 = 4096;

/// How long an application may take to begin to speak HTTP/2 before it is taken not to.
pub(super) const PROBE: Duration = Duration::from_secs(1);
/// The same where the mesh file says that it speaks HTTP/2: slow is then only slow.
pub(super) const CERTAIN: Duration = Duration::from_secs(10);
/// How long an application that answered something else is not asked again.
pub(super) const REMEMBER_HTTP1: Duration = Duration::from_secs(300);
/// The same for one that said nothing.
pub(super) const REMEMBER_SILENCE: Duration = Duration::from_secs(60);
/// How long a stream waits for a place in a connection to the application.
pub(super) const PLACE: Duration = Duration::from_secs(10);

/// The header list that the HTTP/2 layer decodes: twice what the reading allows, so that most of what is too large is
/// refused by us, with a record. From four times this on the layer ends the connection (CONTINUATION flood).
fn header_list(limits: &Limits) -> u32 {
    u32::try_from(limits.head_bytes.saturating_mul(2)).unwrap_or(u32::MAX)
}

/// How we speak with clients.
pub(super) fn server(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(CLIENT_STREAM_WINDOW)
        .initial_connection_window_size(CLIENT_WINDOW)
        .max_header_list_size(header_list(limits))
        .header_table_size(HEADER_TABLE)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(CLIENT_STREAMS)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        .max_pending_accept_reset_streams(PENDING_RESETS);
    builder
}

/// How we speak with applications.
pub(super) fn client(limits: &Limits) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(APP_STREAM_WINDOW)
        .initial_connection_window_size(APP_WINDOW)
        .max_header_list_size(header_list(limits))
        .header_table_size(HEADER_TABLE)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(APP_STREAMS)
        .max_concurrent_reset_streams(APP_RESETS)
        .reset_stream_duration(REMEMBER_RESETS)
        .max_local_error_reset_streams(Some(APP_RESETS))
        .enable_push(false);
    builder
}
