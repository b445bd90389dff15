//! One CONNECT that a peer sent: its head can be read, and it is answered once, with 200 and a stream or with a refusal.
//! An `Incoming` that is dropped without an answer resets the stream. It never connects to what the authority names.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::life::{End, Life};
use super::stream::{TunnelStream, drain};
use super::{REASON_HEADER, TunnelError};

/// Why a CONNECT names no address that it could be for. All of them are a 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// Any other method.
    #[error("the method is not CONNECT")]
    NotConnect,
    /// `:scheme`, `:path` or `:protocol` is there (RFC 9113 8.5), or `:authority` is not.
    #[error("CONNECT has an authority and nothing else")]
    Shape,
    /// Not `IPv4:port` or `[IPv6]:port`; names are not resolved on this side.
    #[error("the authority is not an IP address and a port")]
    NotAnAddress,
}

/// A stream that the peer asks for.
#[derive(Debug)]
pub struct Incoming {
    head: Request<()>,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    life: Arc<Life>,
}

impl Incoming {
    pub(super) fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>, life: Arc<Life>) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            head: Request::from_parts(parts, ()),
            body,
            respond,
            life,
        }
    }

    /// The address that the peer wants, as it stands in `:authority`.
    ///
    /// # Errors
    /// It is no CONNECT, or names no address: answer 400.
    pub fn authority(&self) -> Result<SocketAddr, BadAuthority> {
        authority(&self.head)
    }

    /// The value of a header that came exactly once and is visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.headers().get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(one), None) => one.to_str().ok(),
            _ => None,
        }
    }

    /// Returns once the peer has withdrawn the stream: whoever still works on an answer can stop.
    pub async fn withdrawn(&mut self) {
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }

    /// Answers 200 and opens the stream.
    ///
    /// # Errors
    /// The peer has withdrawn it, or the tunnel has ended.
    pub fn accept(mut self) -> Result<TunnelStream, TunnelError> {
        let send = self
            .respond
            .send_response(Response::new(()), false)
            .map_err(|error| {
                TunnelError::Ended(match self.life.ended() {
                    Some(end) => end.clone(),
                    None => End::Connection(error.to_string()),
                })
            })?;
        Ok(TunnelStream::new(send, self.body, self.life, None))
    }

    /// Answers with `status`, an error or it becomes 503, and a stable label that says why.
    pub fn refuse(mut self, status: u16, reason: &'static str) {
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|s| s.is_client_error() || s.is_server_error())
            .unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let mut response = Response::new(());
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(REASON_HEADER, HeaderValue::from_static(reason));
        match self.respond.send_response(response, true) {
            Ok(send) => drain(send, self.body, None),
            Err(_) => self.respond.send_reset(Reason::REFUSED_STREAM),
        }
    }
}

fn authority(head: &Request<()>) -> Result<SocketAddr, BadAuthority> {
    if head.method() != Method::CONNECT {
        return Err(BadAuthority::NotConnect);
    }
    let uri = head.uri();
    let extended = head.extensions().get::<h2::ext::Protocol>().is_some();
    if extended || uri.scheme().is_some() || uri.path_and_query().is_some() {
        return Err(BadAuthority::Shape);
    }
    let text = uri.authority().ok_or(BadAuthority::Shape)?.as_str();
    let (_, port) = text.rsplit_once(':').ok_or(BadAuthority::NotAnAddress)?;
    // The parser takes zone identifiers and leading zeros; we take what has one spelling.
    if text.contains('%') || port.starts_with('0') {
        return Err(BadAuthority::NotAnAddress);
    }
    text.parse().map_err(|_| BadAuthority::NotAnAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: Method, uri: &str) -> Result<SocketAddr, BadAuthority> {
        authority(&Request::builder().method(method).uri(uri).body(()).unwrap())
    }

    #[test]
    fn an_authority_is_an_address_and_a_port() {
        for good in [
            "10.0.0.1:8080",
            "[fd77::12]:443",
            "255.255.255.255:65535",
            "[::ffff:10.0.0.1]:1",
        ] {
            assert_eq!(read(Method::CONNECT, good), Ok(good.parse().unwrap()), "{good}");
        }
        for bad in [
            "10.0.0.1",
            "orders:8080",
            "orders.shop:8080",
            "10.0.0.1:0",
            "10.0.0.1:080",
            "10.0.0.1:65536",
            "010.0.0.1:80",
            "10.0.1:80",
            "u@10.0.0.1:80",
            "[::1]",
            "0x0a000001:80",
            "167772161:80",
        ] {
            assert_eq!(
                read(Method::CONNECT, bad),
                Err(BadAuthority::NotAnAddress),
                "{bad}"
            );
        }
        assert_eq!(read(Method::GET, "10.0.0.1:80"), Err(BadAuthority::NotConnect));
        assert_eq!(
            read(Method::CONNECT, "http://10.0.0.1:80/"),
            Err(BadAuthority::Shape)
        );
        assert_eq!(read(Method::CONNECT, "/x"), Err(BadAuthority::Shape));
    }
}
