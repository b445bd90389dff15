//! Certificates and a Workload API for the tests of this crate. A [`Ca`] makes good SVIDs; what is wrong with a bad one is
//! written in the test that needs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use spiffe::{SpiffeId, TrustDomain};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

use super::proto::{X509svid, X509svidResponse};
use super::{Bundles, Identity, Key};

/// An authority of one trust domain.
pub(crate) struct Ca {
    domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    /// Between leaf and root, sent with the leaf.
    chain: Vec<CertificateDer<'static>>,
}

/// A certificate chain with its key.
pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Vec<u8>,
}

impl Ca {
    pub(crate) fn new(domain: &str) -> Self {
        Self::with_key(domain, KeyPair::generate().unwrap())
    }

    pub(crate) fn with_key(domain: &str, key: KeyPair) -> Self {
        let params = authority(domain);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            domain: TrustDomain::new(domain).unwrap(),
            issuer: Issuer::new(params, key),
            root,
            chain: vec![],
        }
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = (authority(self.domain.as_str()), KeyPair::generate().unwrap());
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let mut chain = vec![cert];
        chain.extend(self.chain.iter().cloned());
        Self {
            domain: self.domain.clone(),
            issuer: Issuer::new(params, key),
            root: self.root.clone(),
            chain,
        }
    }

    /// An authority of the same name with a key of its own.
    pub(crate) fn impostor(&self) -> Self {
        let mut params = authority(self.domain.as_str());
        let (_, root) = x509_parser::parse_x509_certificate(&self.root).unwrap();
        let name = root
            .subject()
            .iter_common_name()
            .next()
            .unwrap()
            .as_str()
            .unwrap();
        params.distinguished_name = DistinguishedName::new();

        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            domain: self.domain.clone(),
            issuer: Issuer::new(params, key),
            root,
            chain: vec![],
        }
    }

    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    pub(crate) fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(format!("spiffe://{}{path}", self.domain)).unwrap()
    }

    fn leaf(&self, path: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(&format!("spiffe://{}{path}", self.domain))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
        params
    }

    /// A good leaf for `path`, unless `change` makes it a bad one.
    pub(crate) fn issue(&self, path: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = self.leaf(path);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let mut chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        chain.extend(self.chain.iter().cloned());
        Issued {
            chain,
            key: key.serialize_der(),
        }
    }

    /// A leaf over an RSA key whose modulus has `bits` bits. Nobody has its private half.
    pub(crate) fn issue_for_rsa(&self, path: &str, bits: usize) -> CertificateDer<'static> {
        let length = bits.div_ceil(8);
        let mut modulus = vec![0xff; length];
        modulus[0] = 0xff >> (length * 8 - bits);
        if modulus[0] & 0x80 != 0 {
            // An INTEGER is signed.
            modulus.insert(0, 0);
        }
        let tagged = |tag: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[tag, 0x82], length.as_slice(), content].concat()
        };
        let numbers = [tagged(2, &modulus), vec![2, 3, 1, 0, 1]].concat();
        let key = [vec![0], tagged(0x30, &numbers)].concat();
        // rsaEncryption, without parameters.
        let algorithm = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];
        let spki = tagged(0x30, &[algorithm.to_vec(), tagged(3, &key)].concat());
        let key = rcgen::SubjectPublicKeyInfo::from_der(&spki).unwrap();
        self.leaf(path)
            .signed_by(&key, &self.issuer)
            .unwrap()
            .der()
            .clone()
    }

    /// A revocation list of these serial numbers, signed by this authority, DER.
    pub(crate) fn revoked(&self, number: u64, serials: &[u8]) -> Vec<u8> {
        let at = SystemTime::now() - Duration::from_secs(60);
        self.revoke(rcgen::CertificateRevocationListParams {
            this_update: at.into(),
            next_update: (at + Duration::from_secs(3600)).into(),
            crl_number: rcgen::SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| rcgen::RevokedCertParams {
                    serial_number: rcgen::SerialNumber::from(vec![*serial]),
                    revocation_time: at.into(),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        })
    }

    /// A revocation list signed by this authority, DER.
    pub(crate) fn revoke(&self, list: rcgen::CertificateRevocationListParams) -> Vec<u8> {
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub(crate) fn bundles(&self) -> Arc<Bundles> {
        bundles(&[self])
    }

    /// A good identity that trusts its own domain only.
    pub(crate) fn identity(&self, path: &str) -> Arc<Identity> {
        self.identity_with(path, self.bundles(), |_| {})
    }

    pub(crate) fn identity_with(
        &self,
        path: &str,
        bundles: Arc<Bundles>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<Identity> {
        let mut validity = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
        let issued = self.issue(path, |params| {
            change(params);
            // A certificate knows no fractions of a second.
            let whole = |t: time::OffsetDateTime| super::der::time(t.unix_timestamp());
            validity = (whole(params.not_before), whole(params.not_after));
        });
        Arc::new(Identity {
            id: self.id(path),
            chain: issued.chain,
            key: Key::new(issued.key),
            bundles,
            not_before: validity.0,
            not_after: validity.1,
        })
    }

    /// A message with one SVID for each path.
    pub(crate) fn message(&self, paths: &[&str]) -> X509svidResponse {
        let svids = paths.iter().map(|path| self.svid(path, |_| {})).collect();
        X509svidResponse {
            svids,
            ..X509svidResponse::default()
        }
    }

    pub(crate) fn svid(&self, path: &str, change: impl FnOnce(&mut CertificateParams)) -> X509svid {
        let issued = self.issue(path, change);
        X509svid {
            spiffe_id: self.id(path).to_string(),
            x509_svid: issued.chain.iter().flat_map(|c| c.to_vec()).collect(),
            x509_svid_key: issued.key,
            bundle: self.root.to_vec(),
            hint: String::new(),
        }
    }
}

/// The bundles of several trust domains, each apart.
pub(crate) fn bundles(cas: &[&Ca]) -> Arc<Bundles> {
    let mut roots: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for ca in cas {
        roots.entry(ca.domain.clone()).or_default().push(ca.root.clone());
    }
    Arc::new(Bundles::new(roots, vec![]))
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn authority(domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, format!("{domain} {:x}", rand()));
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(360_000)).into();
    params
}

fn rand() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}

#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    unused_qualifications,
    reason = "generated code"
)]
mod server {
    include!(concat!(env!("OUT_DIR"), "/test_server/_.rs"));
}

/// What a fake Workload API does when a client calls.
pub(crate) enum Script {
    /// Sends what the test sends; ends when the test drops its end.
    Stream,
    /// Answers with this error.
    Fail(tonic::Code),
}

/// One call that came in, for the test to answer.
pub(crate) struct Call(pub(crate) mpsc::Sender<Result<X509svidResponse, Status>>);

impl Call {
    pub(crate) async fn send(&self, message: X509svidResponse) {
        self.0.send(Ok(message)).await.unwrap();
    }
}

/// One call for JWT bundles that came in, for the test to answer.
pub(crate) struct BundleCall(pub(crate) mpsc::Sender<Result<server::JwtBundlesResponse, Status>>);

impl BundleCall {
    pub(crate) async fn send(&self, bundles: &[(&str, &[u8])]) {
        let bundles = bundles
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()));
        let message = server::JwtBundlesResponse {
            bundles: bundles.collect(),
        };
        self.0.send(Ok(message)).await.unwrap();
    }
}

/// A Workload API on a unix socket, in the hands of the test.
pub(crate) struct FakeApi {
    pub(crate) calls: mpsc::UnboundedReceiver<Call>,
    pub(crate) bundle_calls: mpsc::UnboundedReceiver<BundleCall>,
    pub(crate) path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl FakeApi {
    /// Starts at `path`; each call takes the next of `script`, then streams.
    pub(crate) fn start(path: &Path, script: Vec<Script>) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let (seen, calls) = mpsc::unbounded_channel();
        let (seen_bundles, bundle_calls) = mpsc::unbounded_channel();
        let service = Service {
            seen,
            seen_bundles,
            script: std::sync::Mutex::new(script.into_iter()),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let serving = tonic::transport::Server::builder()
                .add_service(server::spiffe_workload_api_server::SpiffeWorkloadApiServer::new(
                    service,
                ))
                .serve_with_incoming(UnixListenerStream::new(listener));
            tokio::select! {
                done = serving => done.unwrap(),
                _ = stopped => {}
            }
        });
        Self {
            calls,
            bundle_calls,
            path: path.to_owned(),
            stop: Some(stop),
            task: Some(task),
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Goes away: the socket, and every stream with it.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.task.take().unwrap().await.unwrap();
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Service {
    seen: mpsc::UnboundedSender<Call>,
    seen_bundles: mpsc::UnboundedSender<BundleCall>,
    script: std::sync::Mutex<std::vec::IntoIter<Script>>,
}

type Svids = ReceiverStream<Result<server::X509svidResponse, Status>>;
type Refused<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl server::spiffe_workload_api_server::SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Svids;
    type FetchX509BundlesStream = ReceiverStream<Result<server::X509BundlesResponse, Status>>;
    type FetchJWTBundlesStream = ReceiverStream<Result<server::JwtBundlesResponse, Status>>;

    async fn fetch_x509svid(&self, request: Request<server::X509svidRequest>) -> Refused<Svids> {
        if request
            .metadata()
            .get("workload.spiffe.io")
            .is_none_or(|v| v != "true")
        {
            return Err(Status::invalid_argument("no workload.spiffe.io header"));
        }
        if let Some(Script::Fail(code)) = self.script.lock().unwrap().next() {
            return Err(Status::new(code, "scripted"));
        }
        let (from_test, mut messages) = mpsc::channel::<Result<X509svidResponse, Status>>(8);
        let (out, stream) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                if out.send(message.map(encode)).await.is_err() {
                    return;
                }
            }
        });
        let _ = self.seen.send(Call(from_test));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<server::X509BundlesRequest>,
    ) -> Refused<Self::FetchX509BundlesStream> {
        Err(Status::unimplemented("test"))
    }

    async fn fetch_jwtsvid(&self, _: Request<server::JwtsvidRequest>) -> Refused<server::JwtsvidResponse> {
        Err(Status::unimplemented("test"))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<server::JwtBundlesRequest>,
    ) -> Refused<Self::FetchJWTBundlesStream> {
        let header = request.metadata().get("workload.spiffe.io");
        if header.is_none_or(|v| v != "true") {
            return Err(Status::invalid_argument("no workload.spiffe.io header"));
        }
        if let Some(Script::Fail(code)) = self.script.lock().unwrap().next() {
            return Err(Status::new(code, "scripted"));
        }
        let (from_test, stream) = mpsc::channel(8);
        let _ = self.seen_bundles.send(BundleCall(from_test));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<server::ValidateJwtsvidRequest>,
    ) -> Refused<server::ValidateJwtsvidResponse> {
        Err(Status::unimplemented("test"))
    }
}

/// The client's message as the server's: the same bytes on the wire.
fn encode(message: X509svidResponse) -> server::X509svidResponse {
    prost::Message::decode(prost::Message::encode_to_vec(&message).as_slice()).unwrap()
}
