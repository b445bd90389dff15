//! Where the Workload API is (Workload Endpoint 4): text enters, a way to connect leaves. It never guesses a scheme.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::IdentityError;

/// The endpoint that the environment names: `SPIFFE_ENDPOINT_SOCKET`.
pub fn default_endpoint() -> Option<String> {
    std::env::var("SPIFFE_ENDPOINT_SOCKET")
        .ok()
        .filter(|v| !v.is_empty())
}

/// A parsed endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Endpoint {
    pub(super) fn parse(text: &str) -> Result<Self, IdentityError> {
        let bad = |problem| IdentityError::Endpoint {
            endpoint: text.to_owned(),
            problem,
        };
        if let Some(rest) = text.strip_prefix("unix://") {
            return match rest {
                "" | "/" => Err(bad("no path")),
                path if path.contains(['?', '#']) => Err(bad("a query or fragment")),
                path if path.starts_with('/') => Ok(Self::Unix(PathBuf::from(path))),
                _ => Err(bad("the path is not absolute, or there is an authority")),
            };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            // The short form of RFC 3986 without an authority, which gRPC writes as well.
            return if path.starts_with('/') && path.len() > 1 && !path.contains(['?', '#']) {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(bad("the path is not absolute"))
            };
        }
        let Some(rest) = text.strip_prefix("tcp://") else {
            return Err(bad("the scheme is neither unix nor tcp"));
        };
        rest.parse()
            .map(Self::Tcp)
            .map_err(|_| bad("not an IP address and a port"))
    }

    pub(super) async fn connect(self) -> io::Result<TokioIo<Socket>> {
        Ok(TokioIo::new(match self {
            Self::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
            Self::Tcp(addr) => Socket::Tcp(TcpStream::connect(addr).await?),
        }))
    }
}

/// Either kind of connection.
#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S-55.
    #[test]
    fn the_two_forms_and_no_other() {
        let unix = |p: &str| Endpoint::Unix(PathBuf::from(p));
        assert_eq!(
            Endpoint::parse("unix:///run/a.sock").unwrap(),
            unix("/run/a.sock")
        );
        assert_eq!(Endpoint::parse("unix:/run/a.sock").unwrap(), unix("/run/a.sock"));
        assert_eq!(
            Endpoint::parse("tcp://127.0.0.1:8000").unwrap(),
            Endpoint::Tcp("127.0.0.1:8000".parse().unwrap())
        );
        assert_eq!(
            Endpoint::parse("tcp://[::1]:8000").unwrap(),
            Endpoint::Tcp("[::1]:8000".parse().unwrap())
        );
        for bad in [
            "",
            "/run/a.sock",
            "unix://",
            "unix:///",
            "unix://run/a.sock",
            "unix:run/a.sock",
            "unix:///a?x=1",
            "unix:///a#b",
            "tcp://localhost:1",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:1/x",
            "http://127.0.0.1:1",
            "tcp:127.0.0.1:1",
        ] {
            assert!(
                matches!(Endpoint::parse(bad), Err(IdentityError::Endpoint { .. })),
                "{bad}"
            );
        }
    }
}
