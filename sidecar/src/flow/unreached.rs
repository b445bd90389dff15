//! What a local client of HTTP/2 is told when there is nobody to reach: each of its streams gets the answer, and a GOAWAY goes
//! with it. Nothing is read but heads.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::forward::ErrorAnswer;
use crate::forward::http2::{Client, Incoming, answer, is_grpc};
use crate::request::Limits;

/// Bytes of a request's body that are read behind its answer.
const DISCARD: usize = 64 * 1024;

/// Answers every stream that comes, until the client has closed, or for `within`.
pub(super) async fn answer_streams<S>(io: S, limits: &Limits, error: &ErrorAnswer<'_>, within: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let until = SystemTime::now() + within;
    let answering = async {
        let Ok(mut client) = Client::begin(io, limits, within, until).await else {
            return;
        };
        let mut answers = JoinSet::new();
        while let Ok(Some(Incoming { parts, mut stream })) = client.next().await {
            let content_type = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            let answer = answer(error, is_grpc(content_type));
            answers.spawn(async move { stream.answer(answer, DISCARD, within).await });
            client.wind_down();
        }
    };
    let _told_what_could_be = timeout(within, answering).await;
}
