//! HTTP calls of the story, made from within a pod's network: one request enters, its answer, or how it was refused, leaves.
//! It follows no redirect and reuses no connection. Its strange ways of TLS are those of an attacker.

use std::fmt::{self, Display};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Method;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// The longest answer that the story reads.
const MAX_ANSWER: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Where to connect.
    pub to: SocketAddr,
    /// The name that it asks for.
    pub host: String,
    /// The path, with its query.
    pub path: String,
    /// Headers beside `host`.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
    /// What is below HTTP.
    pub security: Security,
}

impl Request {
    /// A plain GET.
    pub fn get(to: SocketAddr, path: &str) -> Self {
        Self {
            method: Method::GET,
            to,
            host: "localhost".to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: String::new(),
            security: Security::Plain,
        }
    }
}

/// What is below HTTP.
#[derive(Clone, Debug)]
pub enum Security {
    /// Nothing.
    Plain,
    /// TLS with a server that must show a certificate of this CA (PEM).
    Trusting(String),
    /// TLS with whoever answers, without a certificate of one's own.
    Anonymous,
    /// TLS with whoever answers, with this certificate and key (PEM).
    Showing {
        /// The certificate.
        certificate: String,
        /// Its key.
        key: String,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// How a request ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How far it came: `connect`, `tls`, `http`.
    pub at: &'static str,
    /// What the system or the peer said.
    pub said: String,
}

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.said)
    }
}

/// Sends one request.
///
/// # Errors
/// No answer came: the peer refused, closed, or was silent for too long.
pub async fn send(request: Request) -> Result<Answer, Refused> {
    match tokio::time::timeout(PATIENCE, attempt(request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(refused("http", format!("no answer in {PATIENCE:?}"))),
    }
}

async fn attempt(request: Request) -> Result<Answer, Refused> {
    let stream = TcpStream::connect(request.to)
        .await
        .map_err(|e| refused("connect", e))?;
    let Some(config) = tls_config(&request.security)? else {
        return exchange(stream, request).await;
    };
    let name = ServerName::try_from(request.host.clone()).map_err(|e| refused("tls", e))?;
    let secured = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|e| refused("tls", e))?;
    exchange(secured, request).await
}

/// Asks over a unix socket of the demo.
///
/// # Errors
/// As [`send`].
pub async fn ask(socket: &Path, path: &str) -> Result<Answer, Refused> {
    let asking = async {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|e| refused("connect", e))?;
        exchange(stream, Request::get((Ipv4Addr::LOCALHOST, 0).into(), path)).await
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| Err(refused("http", "no answer")))
}

async fn exchange<S>(stream: S, request: Request) -> Result<Answer, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = |e: hyper::Error| refused(if alerted(&e) { "tls" } else { "http" }, innermost(&e));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let driver = tokio::spawn(connection);
    let mut head = http::Request::builder()
        .method(request.method)
        .uri(request.path)
        .header("host", request.host)
        .header("connection", "close");
    for (name, value) in request.headers {
        head = head.header(name, value);
    }
    let whole = head
        .body(Full::new(Bytes::from(request.body)))
        .map_err(|e| refused("http", e))?;
    let answer = sender.send_request(whole).await.map_err(http)?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|e| refused("http", e))?;
    driver.abort();
    Ok(Answer {
        status,
        body: body.to_bytes(),
    })
}

fn refused(at: &'static str, said: impl Display) -> Refused {
    Refused {
        at,
        said: said.to_string(),
    }
}

/// In TLS 1.3 a server's refusal of the client's certificate arrives after the client thinks the handshake done.
fn alerted(error: &hyper::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(here) = source {
        let wrapped = here.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if here.is::<rustls::Error>() || wrapped.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        source = here.source();
    }
    false
}

fn innermost(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(here) = source {
        text = here.to_string();
        source = here.source();
    }
    text
}

fn tls_config(security: &Security) -> Result<Option<ClientConfig>, Refused> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = || {
        ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| refused("tls", e))
    };
    let anyone = || Arc::new(Anyone(algorithms));
    let config = match security {
        Security::Plain => return Ok(None),
        Security::Trusting(pem) => {
            let mut roots = RootCertStore::empty();
            let certificate =
                CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| refused("tls", e))?;
            roots.add(certificate).map_err(|e| refused("tls", e))?;
            builder()?.with_root_certificates(roots).with_no_client_auth()
        }
        Security::Anonymous => builder()?
            .dangerous()
            .with_custom_certificate_verifier(anyone())
            .with_no_client_auth(),
        Security::Showing { certificate, key } => {
            let chain =
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| refused("tls", e))?];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| refused("tls", e))?;
            builder()?
                .dangerous()
                .with_custom_certificate_verifier(anyone())
                .with_client_auth_cert(chain, key)
                .map_err(|e| refused("tls", e))?
        }
    };
    Ok(Some(config))
}

/// An attacker speaks TLS with whoever answers.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
