//! An identity provider of the tests: a real https server on loopback that says what a test tells it to say and counts
//! what it is asked, and keys that sign.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer as CertIssuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::authn::http::Client;
use crate::authn::issuer::Issuer;
use crate::authn::keys::Keys;
use crate::authn::provider::Provider;
use crate::authn::source::KeySource;
use crate::dial::DialOptions;

pub(super) const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// A key of the provider.
pub(super) struct Signer {
    pub(super) kid: &'static str,
    pair: KeyPair,
}

impl Signer {
    pub(super) fn new(kid: &'static str) -> Self {
        Self {
            kid,
            pair: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key"),
        }
    }

    pub(super) fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key_raw()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        self.sign_as(Some(self.kid), claims)
    }

    pub(super) fn sign_as(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = kid.map(str::to_owned);
        self.sign_with(&header, claims)
    }

    pub(super) fn sign_with(&self, header: &jsonwebtoken::Header, claims: &Value) -> String {
        let key = jsonwebtoken::EncodingKey::from_ec_der(&self.pair.serialize_der());
        jsonwebtoken::encode(header, claims, &key).expect("a token")
    }
}

pub(super) fn jwks(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

/// What the provider says at a path.
#[derive(Clone)]
pub(super) enum Answer {
    /// A 200 with this body and these further header lines.
    Ok(String, &'static str),
    /// All of it.
    Raw(Vec<u8>),
    /// Nothing, ever.
    Silence,
    /// The body, once the semaphore gives a permit.
    Gated(String, Arc<Semaphore>),
    /// To a form: what belongs to its token, else that it is not active.
    Tokens(Vec<(String, Value)>),
}

impl Answer {
    pub(super) fn json(body: impl Into<String>) -> Self {
        Self::Ok(body.into(), "")
    }

    pub(super) fn raw(text: impl Into<Vec<u8>>) -> Self {
        Self::Raw(text.into())
    }
}

/// A provider that runs until it is dropped.
pub(super) struct Idp {
    pub(super) url: String,
    shared: Arc<Shared>,
    ca: PathBuf,
    _dir: tempfile::TempDir,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, Answer>>,
    asked: Mutex<HashMap<String, usize>>,
    /// The last form, and the `Authorization` that came with it.
    form: Mutex<(String, String)>,
}

impl Idp {
    /// An https provider that answers for itself with the keys of `signers`.
    pub(super) async fn start(signers: &[&Signer]) -> Self {
        Self::start_as(signers, Some("127.0.0.1")).await
    }

    /// The same without TLS.
    pub(super) async fn plain(signers: &[&Signer]) -> Self {
        Self::start_as(signers, None).await
    }

    /// A provider that is called by this name.
    pub(super) async fn start_as(signers: &[&Signer], name: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (ca_pem, acceptor) = certificates(name.unwrap_or("unused"));
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, ca_pem).expect("written");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address: SocketAddr = listener.local_addr().expect("bound");
        let url = match name {
            Some(name) => format!("https://{name}:{}", address.port()),
            None => format!("http://{address}"),
        };
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, name.map(|_| acceptor), Arc::clone(&shared)));
        let idp = Self {
            url,
            shared,
            ca,
            _dir: dir,
            tasks,
        };
        idp.answer(WELL_KNOWN, Answer::json(idp.configuration(&idp.url)));
        idp.answer("/jwks", Answer::json(jwks(signers)));
        idp
    }

    pub(super) fn configuration(&self, issuer: &str) -> String {
        json!({"issuer": issuer, "jwks_uri": format!("{}/jwks", self.url)}).to_string()
    }

    pub(super) fn answer(&self, path: &str, answer: Answer) {
        self.shared
            .answers
            .lock()
            .expect("unpoisoned")
            .insert(path.to_owned(), answer);
    }

    /// How often a path was asked for.
    pub(super) fn asked(&self, path: &str) -> usize {
        self.shared
            .asked
            .lock()
            .expect("unpoisoned")
            .get(path)
            .copied()
            .unwrap_or(0)
    }

    /// The last form that was sent, with its `Authorization`.
    pub(super) fn form(&self) -> (String, String) {
        self.shared.form.lock().expect("unpoisoned").clone()
    }

    /// Nobody listens any more.
    pub(super) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    pub(super) fn options(&self) -> IssuerOptions {
        IssuerOptions {
            alias: "corp".to_owned(),
            issuer: self.url.clone(),
            ca_file: self.url.starts_with("https").then(|| self.ca.clone()),
            ..options()
        }
    }

    /// Claims of alice that pass now.
    pub(super) fn claims(&self) -> Value {
        claims(&self.url)
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tasks.spawn(async move {
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        respond(stream, &shared).await;
                    }
                }
                None => respond(stream, &shared).await,
            }
        });
    }
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value)
}

/// Whether head and body are there.
fn whole(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).expect("ASCII");
    text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
        let length = field(head, "content-length").map_or(0, |text| text.parse().expect("a number"));
        body.len() >= length
    })
}

async fn respond<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, shared: &Shared) {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !whole(&head) {
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => head.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).expect("ASCII");
    let (head, form) = head.split_once("\r\n\r\n").expect("a head");
    let head = format!("{head}\r\n");
    let path = head.split(' ').nth(1).expect("a path").to_owned();
    assert!(
        head.to_ascii_lowercase().contains("\r\nhost: ")
            && !head.to_ascii_lowercase().contains("accept-encoding")
    );
    *shared
        .asked
        .lock()
        .expect("unpoisoned")
        .entry(path.clone())
        .or_default() += 1;
    if head.starts_with("POST ") {
        let authorization = field(&head, "authorization").unwrap_or_default().to_owned();
        *shared.form.lock().expect("unpoisoned") = (form.to_owned(), authorization);
    }
    let answer = shared.answers.lock().expect("unpoisoned").get(&path).cloned();
    let ok = |body: &str, more: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{more}\r\n{body}",
            body.len()
        )
    };
    let bytes = match answer {
        None => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
        Some(Answer::Ok(body, more)) => ok(&body, more).into_bytes(),
        Some(Answer::Raw(bytes)) => bytes,
        Some(Answer::Tokens(known)) => {
            let token = form
                .split('&')
                .find_map(|pair| pair.strip_prefix("token="))
                .expect("a token");
            let found = known.iter().find(|(known, _)| known == token);
            let said = found.map_or_else(|| json!({"active": false}), |(_, said)| said.clone());
            ok(&said.to_string(), "").into_bytes()
        }
        Some(Answer::Silence) => std::future::pending().await,
        Some(Answer::Gated(body, gate)) => {
            gate.acquire().await.expect("open").forget();
            ok(&body, "").into_bytes()
        }
    };
    let _gone = stream.write_all(&bytes).await;
    let _gone = stream.shutdown().await;
}

/// A root in PEM, and a server of this name below it.
fn certificates(name: &str) -> (String, TlsAcceptor) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a root").pem();
    let issuer = CertIssuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let names = vec![name.to_owned()];
    let leaf = CertificateParams::new(names)
        .expect("names")
        .signed_by(&key, &issuer)
        .expect("a leaf");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .expect("a server");
    (ca_pem, TlsAcceptor::from(Arc::new(config)))
}

pub(super) fn claims(issuer: &str) -> Value {
    let now = unix(SystemTime::now());
    json!({"iss": issuer, "sub": "alice", "aud": "shop", "exp": now + 300, "iat": now})
}

pub(super) fn options() -> IssuerOptions {
    IssuerOptions {
        kind: IssuerKind::Provider,
        alias: "corp".to_owned(),
        issuer: "http://127.0.0.1:9".to_owned(),
        audiences: vec!["shop".to_owned()],
        algorithms: Algorithm::ALL.to_vec(),
        jwks_uri: None,
        ca_file: None,
        allow_http_loopback: true,
        leeway: Duration::from_secs(5),
        roles: vec!["roles".into()],
        bind_claims: Vec::new(),
        claims: vec![ClaimOptions {
            name: "tenant".to_owned(),
            path: "tenant".into(),
            kind: ClaimKind::String,
        }],
        introspection: None,
    }
}

pub(super) fn dial() -> DialOptions {
    DialOptions {
        mark: None,
        timeout: Duration::from_secs(5),
    }
}

pub(super) fn authn_options() -> AuthnOptions {
    // A laden machine is no reason to fail: only what must time out does.
    AuthnOptions {
        refetch_wait: Duration::from_secs(30),
        ..AuthnOptions::new(dial())
    }
}

pub(super) fn authenticator(issuers: &[IssuerOptions]) -> Arc<Authenticator> {
    Authenticator::new(issuers.to_vec(), authn_options()).expect("good issuers")
}

/// An issuer whose keys nobody fetches.
pub(super) fn idle_issuer() -> Arc<Issuer> {
    let idle = options();
    let (_, trust) = trust::Roots::default().trust(&idle).expect("roots");
    let client = Client {
        trust,
        dial: dial(),
        timeout: Duration::from_secs(1),
    };
    let provider = Provider::new(&idle, client).expect("a provider");
    let source = Arc::new(KeySource::new(provider, Arc::default()));
    let keys = Keys::Fetched(source);
    Arc::new(Issuer::new(idle, (keys, None), Arc::default(), 0))
}

pub(super) fn user() -> VerifiedUser {
    VerifiedUser {
        alias: Arc::from("corp"),
        issuer: Arc::from("https://idp.example"),
        subject: "alice".to_owned(),
        audience: vec!["shop".to_owned()],
        scope: Vec::new(),
        roles: Vec::new(),
        azp: None,
        acr: None,
        amr: Vec::new(),
        auth_time: None,
        exp: 0,
        actors: Vec::new(),
        binding: Binding::default(),
        claims: Vec::new(),
        kid: None,
        key: Some(Thumbprint([0; 32])),
        due: None,
        generation: 1,
    }
}

/// Awaits `condition` on the attempts of a source, at most for half a minute.
pub(super) async fn ended(source: &KeySource, condition: impl Fn(source::Ended) -> bool) {
    let mut attempts = source.ended();
    let done = tokio::time::timeout(
        Duration::from_secs(30),
        attempts.wait_for(|ended| condition(*ended)),
    )
    .await;
    done.expect("in time").expect("a source");
}
