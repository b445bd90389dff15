//! The demo's OpenID provider: https with a certificate of a CA of its own, discovery, keys, tokens for alice and bob. Its
//! secrets enter as text; tokens and public keys leave. Like a real one it trusts nobody's word but it asks for no
//! password, and it forges tokens on request: it is a demo.

mod tokens;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{Method, Request, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;

use super::failed;
use super::pods::IDP_PORT;
use super::wire::{self, Answer};
use crate::ui::{Exit, Failure};
use tokens::Keys;
pub use tokens::{FLAWS, names};

/// The issuer, as tokens and discovery name it.
pub const ISSUER: &str = "https://idp:8443";

/// What the provider needs, made once for a demo: it survives a restart of the provider.
#[derive(Serialize, Deserialize)]
pub struct Secrets {
    certificate: String,
    key: String,
    signing_key: String,
}

/// Makes a CA and a certificate for the host `idp`; returns the CA's certificate (PEM) and the provider's secrets.
pub fn secrets() -> Result<(String, Secrets), Failure> {
    let making = || failed::<rcgen::Error>("making the provider's certificate");
    let key = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(making());
    let ca_key = key()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, "CA of the demo's OpenID provider");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    valid_for_the_demo(&mut ca);
    let ca_pem = ca.self_signed(&ca_key).map_err(making())?.pem();
    let mut leaf = CertificateParams::new(vec!["idp".to_owned()]).map_err(making())?;
    leaf.distinguished_name.push(DnType::CommonName, "idp");
    leaf.is_ca = IsCa::ExplicitNoCa;
    valid_for_the_demo(&mut leaf);
    let leaf_key = key()?;
    let certificate = leaf
        .signed_by(&leaf_key, &Issuer::new(ca, ca_key))
        .map_err(making())?
        .pem();
    let signing_key = key()?.serialize_pem();
    Ok((
        ca_pem,
        Secrets {
            certificate,
            key: leaf_key.serialize_pem(),
            signing_key,
        },
    ))
}

/// rcgen's own default is a validity until the year 4096.
fn valid_for_the_demo(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(30);
}

struct Provider {
    keys: Mutex<Keys>,
    asked_for_keys: AtomicU64,
    asked_for_discovery: AtomicU64,
    tokens: AtomicU64,
}

/// Serves until told to end. `secrets` is the JSON of [`Secrets`].
pub fn run(secrets: &str) -> Result<Exit, Failure> {
    let secrets: Secrets = serde_json::from_str(secrets).map_err(failed("reading the provider's secrets"))?;
    let acceptor = acceptor(&secrets)?;
    let provider = Arc::new(Provider {
        keys: Mutex::new(Keys::new(&secrets.signing_key)?),
        asked_for_keys: AtomicU64::new(0),
        asked_for_discovery: AtomicU64::new(0),
        tokens: AtomicU64::new(0),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("starting"))?;
    runtime
        .block_on(wire::until_told(serve(acceptor, provider)))
        .map_err(failed("serving"))?;
    Ok(Exit::Done)
}

fn acceptor(secrets: &Secrets) -> Result<TlsAcceptor, Failure> {
    let doing = "setting up the provider's TLS";
    let certificate =
        CertificateDer::from_pem_slice(secrets.certificate.as_bytes()).map_err(failed(doing))?;
    let key = PrivateKeyDer::from_pem_slice(secrets.key.as_bytes()).map_err(failed(doing))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed(doing))?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(failed(doing))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(acceptor: TlsAcceptor, provider: Arc<Provider>) -> io::Result<()> {
    let listener = wire::listen(IDP_PORT).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, provider) = (acceptor.clone(), Arc::clone(&provider));
        tokio::spawn(async move {
            if let Ok(secured) = acceptor.accept(stream).await {
                wire::serve(secured, |request| answer(Arc::clone(&provider), request)).await;
            }
        });
    }
}

async fn answer(provider: Arc<Provider>, request: Request<Incoming>) -> io::Result<Answer> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    Ok(match (method, path.as_str()) {
        (Method::GET, "/.well-known/openid-configuration") => {
            provider.asked_for_discovery.fetch_add(1, Relaxed);
            wire::json(StatusCode::OK, &discovery())
        }
        (Method::GET, "/jwks") => provider.jwks(),
        (Method::POST, "/token") => provider.token(&form(request.into_body()).await?),
        (Method::GET, "/count") => wire::json(StatusCode::OK, &provider.counts()),
        (Method::POST, "/rotate") => provider.rotate(),
        (Method::POST, "/behave") => provider.behave(&form(request.into_body()).await?),
        _ => wire::json(StatusCode::NOT_FOUND, &json!({"error": "not_found"})),
    })
}

fn discovery() -> serde_json::Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("{ISSUER}/jwks"),
        "token_endpoint": format!("{ISSUER}/token"),
        "response_types_supported": ["token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// The pairs of a form. Values are plain words here, so nothing is percent-decoded.
async fn form(body: Incoming) -> io::Result<Vec<(String, String)>> {
    let bytes = Limited::new(body, 16 * 1024)
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    let text = String::from_utf8_lossy(&bytes);
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

impl Provider {
    fn jwks(&self) -> Answer {
        self.asked_for_keys.fetch_add(1, Relaxed);
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = match keys.behaviour.as_str() {
            "html" => wire::bytes(
                StatusCode::OK,
                Bytes::from_static(b"<html>We will be back soon</html>"),
            ),
            "empty" => wire::json(StatusCode::OK, &json!({"keys": []})),
            "error" => wire::json(
                StatusCode::INTERNAL_SERVER_ERROR,
                &json!({"error": "server_error"}),
            ),
            _ => wire::json(StatusCode::OK, &keys.public()),
        };
        answer
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
        answer
    }

    fn token(&self, form: &[(String, String)]) -> Answer {
        self.tokens.fetch_add(1, Relaxed);
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let minted = self
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .mint(form, now);
        match minted {
            Ok(token) => {
                let answer =
                    json!({"access_token": token, "token_type": "Bearer", "expires_in": tokens::LIFE});
                wire::json(StatusCode::OK, &answer)
            }
            Err(what) => wire::json(
                StatusCode::BAD_REQUEST,
                &json!({"error": "invalid_grant", "error_description": what}),
            ),
        }
    }

    fn rotate(&self) -> Answer {
        match self.keys.lock().unwrap_or_else(PoisonError::into_inner).rotate() {
            Ok(kid) => wire::json(StatusCode::OK, &json!({"kid": kid})),
            Err(failure) => wire::json(
                StatusCode::INTERNAL_SERVER_ERROR,
                &json!({"error": failure.message}),
            ),
        }
    }

    /// How `/jwks` answers from now on: `ok`, `html`, `empty`, `error`.
    fn behave(&self, form: &[(String, String)]) -> Answer {
        let wanted = form
            .iter()
            .find(|(name, _)| name == "jwks")
            .map(|(_, value)| value.clone());
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).behaviour = wanted.unwrap_or_default();
        wire::json(StatusCode::OK, &json!({}))
    }

    fn counts(&self) -> serde_json::Value {
        json!({
            "jwks": self.asked_for_keys.load(Relaxed),
            "discovery": self.asked_for_discovery.load(Relaxed),
            "tokens": self.tokens.load(Relaxed),
        })
    }
}
