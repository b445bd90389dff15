//! `hopguard bundle fetch`: the client of a bundle endpoint (SPIFFE Federation, section 5). One question, bounded in time and
//! size. Redirects are followed for this time alone, under the same rules (S-66); what is shown by `https_spiffe` must be the
//! one server that was named, proven by the bundle that was brought along (S-65).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::document::Bundle;
use crate::ui::{Exit, Failure};

/// The largest bundle, in bytes.
const MAX_BODY: usize = 1 << 20;
const MAX_HEAD: usize = 32 << 10;
const MAX_REDIRECTS: usize = 5;

/// How the endpoint proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Profile {
    /// A certificate for its host name, of an authority that this machine trusts.
    HttpsWeb,
    /// An SVID of --server-id, proven by --bootstrap.
    HttpsSpiffe,
}

/// Where to, and how it proves itself.
#[derive(clap::Args)]
pub struct From {
    /// The bundle endpoint
    #[arg(long, value_name = "https://HOST[:PORT]/PATH")]
    url: String,
    /// How it proves itself
    #[arg(long, value_enum)]
    profile: Profile,
    /// The SPIFFE ID of its server (https_spiffe)
    #[arg(long, value_name = "SPIFFE-ID", required_if_eq("profile", "https_spiffe"))]
    server_id: Option<String>,
    /// A bundle of its trust domain, got on another way; later the one that was fetched last (https_spiffe)
    #[arg(long, value_name = "FILE", required_if_eq("profile", "https_spiffe"))]
    bootstrap: Option<PathBuf>,
    /// These authorities instead of the machine's, PEM (https_web)
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How long it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

impl From {
    /// Fetches it.
    pub fn fetch(&self) -> Result<Bundle, Failure> {
        let uri = url(&self.url).map_err(|problem| {
            Failure::new(format!("`{}`: {problem}", self.url))
                .hint("write https://HOST[:PORT]/PATH")
                .exit(Exit::Usage)
        })?;
        let config = Arc::new(self.tls()?);
        let limit = Duration::from_secs(self.timeout);
        let asked = async { tokio::time::timeout(limit, follow(uri, config)).await };
        let body = crate::svid::fetch::runtime()?.block_on(asked);
        let body = body.unwrap_or_else(|_| Err(format!("no answer within {} s", self.timeout)));
        let failed = |problem: String| {
            Failure::new(format!("{}: {problem}", self.url))
                .hint("the bundle that you have stays good until its roots end")
        };
        let bundle = Bundle::parse(&body.map_err(failed)?).map_err(failed)?;
        if bundle.is_empty() {
            return Err(failed(
                "the bundle holds no key that can be used: nobody is trusted with it".to_owned(),
            ));
        }
        Ok(bundle)
    }

    fn tls(&self) -> Result<ClientConfig, Failure> {
        let usage = |problem: &str| Failure::new(problem).exit(Exit::Usage);
        match self.profile {
            Profile::HttpsWeb if self.server_id.is_some() || self.bootstrap.is_some() => Err(usage(
                "--server-id and --bootstrap are for --profile https_spiffe",
            )),
            Profile::HttpsWeb => self.web(),
            Profile::HttpsSpiffe if self.ca_file.is_some() => {
                Err(usage("--ca-file is for --profile https_web"))
            }
            Profile::HttpsSpiffe => self.spiffe(),
        }
    }

    fn web(&self) -> Result<ClientConfig, Failure> {
        let mut roots = RootCertStore::empty();
        let bad = |problem: String| Failure::new(problem).exit(Exit::BadFile);
        let found: Vec<CertificateDer<'static>> = match &self.ca_file {
            None => rustls_native_certs::load_native_certs().certs,
            Some(file) => {
                let named = |problem: String| bad(format!("`{}`: {problem}", file.display()));
                let bytes = crate::svid::files::read(file).map_err(|error| named(error.to_string()))?;
                crate::svid::files::chain(&bytes).map_err(named)?
            }
        };
        let (added, _) = roots.add_parsable_certificates(found);
        if added == 0 {
            return Err(bad("no authority is trusted by this machine".to_owned())
                .hint("install ca-certificates, or name a file by --ca-file")
                .exit(Exit::NotHere));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::new(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(config)
    }

    fn spiffe(&self) -> Result<ClientConfig, Failure> {
        let (Some(id), Some(file)) = (&self.server_id, &self.bootstrap) else {
            return Err(Failure::new("https_spiffe needs --server-id and --bootstrap").exit(Exit::Usage));
        };
        let id = crate::svid::id(id)?;
        let bundle = Bundle::open(file)?;
        let domain = id.trust_domain();
        // S-18: a bundle stands for one trust domain, the one that the server is of.
        if bundle
            .roots
            .iter()
            .any(|root| root.domain.as_ref().is_some_and(|of| of != domain))
        {
            let problem = format!(
                "`{}` is the bundle of another trust domain than {domain}",
                file.display()
            );
            return Err(Failure::new(problem).exit(Exit::BadFile));
        }
        let roots = bundle.roots.into_iter().map(|root| root.certificate).collect();
        let roots = std::collections::BTreeMap::from([(domain.clone(), roots)]);
        let bundles = hopguard_sidecar::identity::Bundles::new(roots, Vec::new());
        let config = hopguard_sidecar::tls::client_for(&id, &bundles);
        config.map_err(|error| Failure::new(format!("`{}`: {error}", file.display())).exit(Exit::BadFile))
    }
}

/// S-64: https, a host, no user; a fragment has no meaning here.
fn url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("not a URL: {error}"))?;
    if uri.scheme_str() != Some("https") {
        return Err("a bundle endpoint is asked over https alone".to_owned());
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err("a user has no place in the URL of a bundle endpoint".to_owned())
        }
        Some(authority) if !authority.host().is_empty() && !text.contains('#') => Ok(uri),
        _ => Err("no host, or a fragment".to_owned()),
    }
}

async fn follow(mut uri: Uri, config: Arc<ClientConfig>) -> Result<Bytes, String> {
    for _ in 0..=MAX_REDIRECTS {
        match ask(&uri, config.clone()).await? {
            Said::Bundle(body) => return Ok(body),
            Said::Elsewhere(location) => uri = elsewhere(&uri, &location)?,
        }
    }
    Err(format!("more than {MAX_REDIRECTS} redirects"))
}

/// A redirect leads to another URL of the same rules.
fn elsewhere(from: &Uri, location: &str) -> Result<Uri, String> {
    let whole = match (location.starts_with('/'), from.authority()) {
        (true, Some(authority)) if !location.starts_with("//") => format!("https://{authority}{location}"),
        _ => location.to_owned(),
    };
    url(&whole).map_err(|problem| format!("redirected to `{}`: {problem}", location.escape_debug()))
}

enum Said {
    Bundle(Bytes),
    Elsewhere(String),
}

async fn ask(uri: &Uri, config: Arc<ClientConfig>) -> Result<Said, String> {
    let host = uri.host().unwrap_or_default();
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443)))
        .await
        .map_err(|error| format!("cannot connect: {error}"))?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| tls(&error))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(64)
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Dropped with this future, so that nothing outlives its time.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let authority = uri
        .authority()
        .map(http::uri::Authority::as_str)
        .unwrap_or_default();
    let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = hyper::Request::get(target)
        .header(HOST, authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("hopguard/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    said(answer).await
}

/// What an answer means.
async fn said(answer: hyper::Response<Incoming>) -> Result<Said, String> {
    let header = |name| {
        let value: Option<&http::HeaderValue> = answer.headers().get(name);
        value.and_then(|value| value.to_str().ok())
    };
    match answer.status().as_u16() {
        200 => {}
        302 | 303 | 307 => {
            let location = header(LOCATION).ok_or("a redirect to nowhere")?;
            return Ok(Said::Elsewhere(location.to_owned()));
        }
        status @ (301 | 308) => {
            return Err(format!(
                "status {status}: a bundle endpoint may not move for ever by its own word; ask whoever runs it, and change --url"
            ));
        }
        status => return Err(format!("status {status}")),
    }
    let kind = header(CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let kind = kind.escape_debug();
        return Err(format!("the answer is `{kind}`, not application/json"));
    }
    let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
    body.map(|body| Said::Bundle(body.to_bytes()))
        .map_err(|error| format!("the answer: {error}"))
}

/// rustls hides the verifier's words in its own.
fn tls(error: &std::io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => {
            format!("the server is not the one that was named: {}", other.0)
        }
        _ => format!("the TLS handshake failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_redirects_follow_the_same_rules() {
        for good in ["https://a", "https://a/", "https://a:1/b?c", "https://[::1]:1/"] {
            url(good).unwrap();
        }
        for bad in [
            "http://a/",
            "https://u@a/",
            "https://u:p@a/",
            "a",
            "/a",
            "https://",
            "ftp://a",
            "https://a/#b",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
        let from = url("https://a:8443/b").unwrap();
        let to = |location: &str| elsewhere(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/c").unwrap(), "https://a:8443/c");
        assert_eq!(to("https://b/c").unwrap(), "https://b/c");
        for bad in ["http://a/", "//b/c", "c", "https://u@b/", ""] {
            assert!(to(bad).is_err(), "{bad}");
        }
    }
}
