//! The numbers of our HTTP/2 connections, and why they are what they are.

use std::time::Duration;

/// A stream's window. 1 MiB fills a link of 1 GB/s over a millisecond and bounds what one slow reader can make us hold.
pub(super) const STREAM_WINDOW: u32 = 1 << 20;
/// The connection's window: 16 streams whose readers stand still must not stop the others in their tunnel.
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;
/// The largest DATA frame that is accepted: large enough for bulk, small enough that a short answer behind it is not late.
pub(super) const MAX_FRAME: u32 = 128 << 10;
/// The largest header block. A CONNECT has a handful of short fields.
pub(super) const MAX_HEADERS: u32 = 16 << 10;
/// What one stream may have waiting for the connection.
pub(super) const SEND_BUFFER: usize = 256 << 10;
/// The most that one write hands to the connection in a piece.
pub(super) const WRITE_CHUNK: usize = 64 << 10;

/// Streams that we reset are remembered, up to this many and this long, because frames for one that is forgotten count as
/// the peer's errors. Together they allow 8192 resets a second, for a round trip of up to a second.
pub(super) const REMEMBERED_RESETS: usize = 8192;
pub(super) const REMEMBER_RESETS: Duration = Duration::from_secs(1);
/// Errors of the peer in the life of a tunnel, before it is sent away.
pub(super) const ERROR_RESETS: usize = 8192;
/// Streams that the peer opened and reset before we saw them (rapid reset, CVE-2023-44487).
pub(super) const PENDING_RESETS: usize = 256;

/// A PING is sent this often, and its answer must come within this time.
pub(super) const PING_EVERY: Duration = Duration::from_secs(10);
pub(super) const PONG_WITHIN: Duration = Duration::from_secs(20);

/// What is still read from a stream whose owner has left, so that its end is seen and it need not be reset.
pub(super) const DRAIN_BYTES: usize = 256 << 10;
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(2);

/// The largest piece that the cork collects: what TLS takes in one write.
pub(super) const CORK: usize = 64 << 10;

/// How we speak HTTP/2 as a client.
pub(super) fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .enable_push(false);
    builder
}

/// How we speak HTTP/2 as a server that takes `max_streams` at once.
pub(super) fn server(max_streams: u32) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_concurrent_streams(max_streams);
    builder
}
