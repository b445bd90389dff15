//! One question to an identity provider: an [`Endpoint`] enters, the bytes of a 200 leave with how long they may be kept. The
//! connection is the sidecar's own (its mark is set), bounded in time and size; no redirect is followed, no proxy used,
//! no content coding asked for, no connection kept.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap,
    HeaderValue, USER_AGENT,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::endpoint::Endpoint;
use super::error::{FetchError, FetchFault};
use super::trust::Trust;
use crate::dial::{self, DialOptions};

/// The largest answer, in bytes.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// The largest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// The most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;
/// The longest that one address may take while others wait.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// How an identity provider is reached.
pub(super) struct Client {
    pub(super) trust: Trust,
    pub(super) dial: DialOptions,
    /// The longest that a document may take, from its name to its last byte.
    pub(super) timeout: Duration,
}

/// A document and how long it may be kept, if it says so.
pub(super) struct Document {
    pub(super) body: Bytes,
    pub(super) lifetime: Option<Duration>,
}

/// A form to be sent (RFC 7662 section 2.1). It holds a token and possibly a secret: wiped when it is dropped, never shown.
pub(super) struct Form {
    /// The value of `Authorization`, if the client says there who it is.
    pub(super) authorization: Option<Zeroizing<String>>,
    /// `application/x-www-form-urlencoded`.
    pub(super) body: Zeroizing<String>,
}

impl Client {
    /// Gets the document at `endpoint`.
    pub(super) async fn get(&self, endpoint: &Endpoint) -> Result<Document, FetchError> {
        self.ask(endpoint, None).await
    }

    /// Sends a form to `endpoint`; the answer is what it says to it.
    pub(super) async fn post(&self, endpoint: &Endpoint, form: Form) -> Result<Document, FetchError> {
        self.ask(endpoint, Some(form)).await
    }

    async fn ask(&self, endpoint: &Endpoint, form: Option<Form>) -> Result<Document, FetchError> {
        let method = if form.is_some() { "POST" } else { "GET" };
        let fetched = tokio::time::timeout(self.timeout, self.attempt(endpoint, form)).await;
        fetched
            .unwrap_or(Err(FetchFault::Timeout))
            .map_err(|fault| FetchError {
                url: endpoint.to_string(),
                method,
                fault,
            })
    }

    async fn attempt(&self, endpoint: &Endpoint, form: Option<Form>) -> Result<Document, FetchFault> {
        let stream = self.connect(endpoint).await?;
        if !endpoint.secure {
            return exchange(stream, request(endpoint, form)?).await;
        }
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|error| FetchFault::Tls(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let connector = TlsConnector::from(self.trust.tls());
        let stream = connector.connect(name, stream).await.map_err(FetchFault::Tls)?;
        exchange(stream, request(endpoint, form)?).await
    }

    /// Connects to the first address of the host that takes a connection.
    async fn connect(&self, endpoint: &Endpoint) -> Result<TcpStream, FetchFault> {
        let options = DialOptions {
            timeout: self.dial.timeout.min(ADDRESS_TIMEOUT),
            ..self.dial.clone()
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in resolve(endpoint).await? {
            if !endpoint.secure && !address.ip().is_loopback() {
                let problem = format!("{address} is not this machine, and plain http must not leave it");
                last = io::Error::new(io::ErrorKind::PermissionDenied, problem);
                continue;
            }
            match dial::connect(address, &options).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(FetchFault::Connect(last))
    }
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, FetchFault> {
    if let Some(ip) = endpoint.address() {
        return Ok(vec![SocketAddr::new(ip, endpoint.port)]);
    }
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await;
    Ok(found.map_err(FetchFault::Resolve)?.take(MAX_ADDRESSES).collect())
}

type Request = hyper::Request<Full<Bytes>>;

fn request(endpoint: &Endpoint, form: Option<Form>) -> Result<Request, FetchFault> {
    let builder = hyper::Request::builder()
        .uri(&endpoint.target)
        .header(HOST, endpoint.authority())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("hopguard/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close");
    let Some(form) = form else {
        return builder.body(Full::default()).map_err(http);
    };
    let mut builder = builder
        .method("POST")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    if let Some(authorization) = form.authorization {
        let mut value = HeaderValue::from_maybe_shared(secret(authorization)).map_err(http)?;
        value.set_sensitive(true);
        builder = builder.header(AUTHORIZATION, value);
    }
    builder.body(Full::new(secret(form.body))).map_err(http)
}

/// Bytes that are wiped when the last of their owners is gone.
fn secret(text: Zeroizing<String>) -> Bytes {
    struct Wiped(Zeroizing<String>);
    impl AsRef<[u8]> for Wiped {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }
    Bytes::from_owner(Wiped(text))
}

/// Asks on a connection of its own.
async fn exchange<S>(stream: S, request: Request) -> Result<Document, FetchFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(64)
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    // Dropped with this future, so that nothing outlives its time-out.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(FetchFault::Status(status));
    }
    let coding = response.headers().get(CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(FetchFault::Http(
            "a content coding that was not asked for".to_owned(),
        ));
    }
    let lifetime = lifetime(response.headers());
    Ok(Document {
        body: collect(response.into_body()).await?,
        lifetime,
    })
}

async fn collect(body: Incoming) -> Result<Bytes, FetchFault> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchFault::TooLarge),
        Err(error) => Err(FetchFault::Http(error.to_string())),
    }
}

fn http(error: impl std::fmt::Display) -> FetchFault {
    FetchFault::Http(error.to_string())
}

/// How long an answer may be kept (RFC 9111 section 4.2): the shortest `max-age` less its `Age`, nothing under `no-store`
/// and `no-cache`; `None` when it does not say.
fn lifetime(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let shortest = directives
        .flat_map(|value| value.split(','))
        .filter_map(|directive| {
            let (name, value) = directive.trim().split_once('=').unwrap_or((directive.trim(), ""));
            match name.to_ascii_lowercase().as_str() {
                "no-store" | "no-cache" => Some(0),
                "max-age" => Some(value.trim().trim_matches('"').parse::<u64>().unwrap_or(0)),
                _ => None,
            }
        })
        .min()?;
    let age = headers
        .get(AGE)
        .and_then(|age| age.to_str().ok()?.trim().parse::<u64>().ok());
    Some(Duration::from_secs(shortest.saturating_sub(age.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(headers: &[(hyper::header::HeaderName, &str)]) -> Option<u64> {
        let map = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().expect("a value")))
            .collect();
        lifetime(&map).map(|lifetime| lifetime.as_secs())
    }

    #[test]
    fn the_shortest_lifetime_counts() {
        let cc = CACHE_CONTROL;
        assert_eq!(seconds(&[]), None);
        assert_eq!(seconds(&[(cc.clone(), "public")]), None);
        assert_eq!(
            seconds(&[(cc.clone(), "public, max-age=3600, must-revalidate")]),
            Some(3600)
        );
        assert_eq!(seconds(&[(cc.clone(), "Max-Age=\"60\"")]), Some(60));
        assert_eq!(seconds(&[(cc.clone(), "max-age=60,max-age=30")]), Some(30));
        assert_eq!(seconds(&[(cc.clone(), "max-age=60, no-store")]), Some(0));
        assert_eq!(seconds(&[(cc.clone(), "no-cache=\"x\"")]), Some(0));
        assert_eq!(seconds(&[(cc.clone(), "max-age=-5")]), Some(0));
        assert_eq!(seconds(&[(cc.clone(), "max-age=3600"), (AGE, "600")]), Some(3000));
        assert_eq!(seconds(&[(cc, "max-age=60"), (AGE, "600")]), Some(0));
    }
}
