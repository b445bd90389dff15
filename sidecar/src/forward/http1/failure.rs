//! How an exchange can fail, each way with its label, its status where the client can still be told, and whom to ask.

use std::io;

use crate::request::{BadResponse, Refusal};

/// Why a request did not end with its whole response.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeFailure {
    /// The client went away.
    #[error("the client closed the connection before the exchange was over")]
    ClientClosed,
    /// The client sent nothing more of its body, or took nothing more of the response, for the idle time.
    #[error("the client stalled in the middle of the exchange")]
    ClientStalled,
    /// The client ended its direction before its body was whole, and may still read.
    #[error("the body of the request ended before it was whole")]
    RequestTruncated,
    /// The framing of the request's body is broken.
    #[error("the body of the request is broken: {0}")]
    RequestBody(Refusal),
    /// The application closed before its response was whole.
    #[error("the application closed the connection before its answer was whole ({0})")]
    UpstreamClosed(io::Error),
    /// The application did not answer in time.
    #[error("the application did not answer in time")]
    UpstreamTimeout,
    /// The application sent nothing more of its response, or took nothing more of the body, for the idle time.
    #[error("the application stalled in the middle of the exchange")]
    UpstreamStalled,
    /// The application's response is not one that may be passed on.
    #[error("{0}")]
    BadResponse(BadResponse),
    /// After a switch of protocols: nothing moved for the idle time.
    #[error("nothing moved for the idle time")]
    Idle,
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller.
    Client,
    /// The application.
    Upstream,
}

labels!(ExchangeFailure {
    Self::ClientClosed => "client_closed",
    Self::ClientStalled => "client_stalled",
    Self::RequestTruncated => "request_truncated",
    Self::RequestBody(_) => "bad_request_body",
    Self::UpstreamClosed(_) => "upstream_closed",
    Self::UpstreamTimeout => "upstream_timeout",
    Self::UpstreamStalled => "upstream_stalled",
    Self::BadResponse(_) => "bad_response",
    Self::Idle => "idle_timeout",
});

impl ExchangeFailure {
    /// The status to answer with when the response has not begun; `None` when there is nobody to answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::ClientClosed | Self::Idle => None,
            Self::ClientStalled => Some(408),
            Self::RequestTruncated => Some(400),
            Self::RequestBody(refusal) => Some(refusal.status),
            Self::UpstreamClosed(_) | Self::BadResponse(_) => Some(502),
            Self::UpstreamTimeout | Self::UpstreamStalled => Some(504),
        }
    }

    /// Who has to look into it.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::ClientClosed
            | Self::ClientStalled
            | Self::RequestTruncated
            | Self::RequestBody(_)
            | Self::Idle => Blame::Client,
            Self::UpstreamClosed(_)
            | Self::UpstreamTimeout
            | Self::UpstreamStalled
            | Self::BadResponse(_) => Blame::Upstream,
        }
    }
}
