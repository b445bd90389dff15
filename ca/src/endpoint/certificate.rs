//! The certificate that the endpoint shows: read from files that are looked at while it serves, or an SVID of our own that
//! is renewed. What cannot be used changes nothing: the one before stays.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustix::io::Errno;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::SpiffeId;
use tokio::task::spawn_blocking;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::{EndpointError, WebFiles};
use crate::authority::{Svid, rotate_at};
use crate::workload::Issuer;

/// Time between two looks at the files. Two that agree make a change: certificate and key are seldom written at one moment.
const LOOK: Duration = Duration::from_secs(1);
/// Before an SVID that could not be issued is asked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// A chain and a key have some KiB.
const MAX_FILE: u64 = 1 << 20;
const MAX_CHAIN: usize = 16;
/// No file may be opened now, or there is no memory.
const SHORT: [i32; 3] = [
    Errno::MFILE.raw_os_error(),
    Errno::NFILE.raw_os_error(),
    Errno::NOMEM.raw_os_error(),
];

/// What is shown now.
#[derive(Debug)]
pub struct Shown(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl Shown {
    /// Shows this; without one every handshake fails.
    pub fn new(first: Option<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self(ArcSwapOption::from_pointee(first)))
    }

    /// TLS 1.2 and 1.3 with the suites of Mozilla's intermediate profile, which are those of the provider (S-64). Nobody is
    /// asked for a certificate, and no session is resumed.
    pub fn config(self: &Arc<Self>) -> Result<ServerConfig, EndpointError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Looks at the files, [`LOOK`] after [`LOOK`], until it is dropped.
    pub async fn follow(self: Arc<Self>, files: WebFiles) {
        let mut follower = Follower::new(files).await;
        loop {
            tokio::time::sleep(LOOK).await;
            follower.look(&self).await;
        }
    }

    /// Renews the endpoint's own SVID at half life, and whenever the roots are no more those that it was issued under or it was
    /// taken back, until it is dropped. Where none is to be had, the one before stays as long as it is good: not when it has
    /// ended or was revoked.
    pub async fn renew(self: Arc<Self>, id: SpiffeId, issuer: Arc<dyn Issuer>, mut current: Validity) {
        let mut trust = issuer.trust();
        let mut failed = false;
        loop {
            let turned =
                trust.borrow_and_update().roots != current.roots || current.is_revoked(issuer.as_ref());
            if failed || !turned {
                let wait = current.until.duration_since(SystemTime::now());
                tokio::select! {
                    () = tokio::time::sleep(wait.unwrap_or_default()) => {}
                    changed = trust.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if trust.borrow().roots == current.roots && !current.is_revoked(issuer.as_ref()) {
                            continue;
                        }
                    }
                }
            }
            match own(&id, issuer.as_ref(), SystemTime::now()).await {
                Ok((key, validity)) => {
                    self.0.store(Some(Arc::new(key)));
                    (current, failed) = (validity, false);
                    tracing::debug!(%id, "the bundle endpoint renewed its SVID");
                }
                Err(error) => {
                    if current.is_good(issuer.as_ref(), SystemTime::now()) {
                        tracing::error!(%error, "the bundle endpoint's SVID could not be renewed; the one before stays");
                    } else if self.0.swap(None).is_some() {
                        tracing::error!(
                            %id,
                            %error,
                            "the bundle endpoint's SVID has ended or was revoked, and is not shown any more: nobody can fetch the \
                             bundle until it has another one"
                        );
                    } else if !failed {
                        tracing::error!(%id, %error, "the bundle endpoint has no SVID: nobody can fetch the bundle until it has one");
                    }
                    (current.until, failed) = (SystemTime::now() + AGAIN, true);
                }
            }
        }
    }
}

/// How long the endpoint's own SVID is good.
pub struct Validity {
    /// When it is renewed.
    until: SystemTime,
    /// The roots that were published before it was issued.
    roots: Vec<CertificateDer<'static>>,
    svid: Option<Arc<Svid>>,
}

impl Validity {
    /// There is none yet: one is issued at once.
    pub const fn none(now: SystemTime) -> Self {
        Self {
            until: now,
            roots: Vec::new(),
            svid: None,
        }
    }

    /// Whether there is one that may not be shown any more.
    fn is_revoked(&self, issuer: &dyn Issuer) -> bool {
        self.svid.as_ref().is_some_and(|svid| !issuer.stands(svid))
    }

    /// Whether there is one that may be shown.
    fn is_good(&self, issuer: &dyn Issuer, now: SystemTime) -> bool {
        let good = |svid: &Arc<Svid>| svid.not_after > now && issuer.stands(svid);
        self.svid.as_ref().is_some_and(good)
    }
}

/// Files that are looked at now and then.
struct Follower {
    files: WebFiles,
    /// The state that was read last; what was read at the start may have changed since.
    taken: Option<Look>,
    last: Look,
}

/// What a look at the files came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    /// Nothing is new, or not for long enough.
    Same,
    /// The new pair is shown.
    Taken,
    /// The new pair cannot be used.
    Refused,
    /// The machine cannot read it now.
    Later,
}

impl Follower {
    async fn new(files: WebFiles) -> Self {
        let last = look(&files).await;
        Self {
            files,
            taken: None,
            last,
        }
    }

    async fn look(&mut self, shown: &Shown) -> Looked {
        let now = look(&self.files).await;
        let settled = now == self.last;
        self.last.clone_from(&now);
        if !settled || self.taken.as_ref() == Some(&now) {
            return Looked::Same;
        }
        let reading = self.files.clone();
        let Ok(read) = spawn_blocking(move || read(&reading)).await else {
            return Looked::Later;
        };
        if look(&self.files).await != now {
            // Written once more while it was read.
            return Looked::Same;
        }
        if let Err(error @ EndpointError::Shortage { .. }) = &read {
            tracing::warn!(%error, "the bundle endpoint's certificate is read again later; the one before stays, if there is one");
            return Looked::Later;
        }
        self.taken = Some(now);
        let before = shown.0.load();
        let same = |key: &CertifiedKey| before.as_ref().is_some_and(|before| before.cert == key.cert);
        if read.as_ref().is_ok_and(same) {
            return Looked::Same;
        }
        match read.and_then(|key| living(key, &self.files, SystemTime::now())) {
            Ok(key) => {
                shown.0.store(Some(Arc::new(key)));
                let file = self.files.certificate.display();
                tracing::info!(%file, "the bundle endpoint shows its new certificate");
                Looked::Taken
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    hint = error.hint(),
                    "the bundle endpoint's changed certificate was refused; the one before stays"
                );
                Looked::Refused
            }
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// An SVID for the endpoint itself, and how long it is good.
pub async fn own(
    id: &SpiffeId,
    issuer: &dyn Issuer,
    now: SystemTime,
) -> Result<(CertifiedKey, Validity), EndpointError> {
    // Before it is issued: a root that goes while it is, and with it whoever signed, is a change.
    let roots = issuer.trust().borrow().roots.clone();
    let svid = issuer.issue(id, now).await?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.key.to_vec()));
    let certified = CertifiedKey::from_der(svid.chain.clone(), key, &provider())?;
    let until = rotate_at(svid.issued_at, svid.not_after, 0.0);
    let svid = Some(svid);
    Ok((certified, Validity { until, roots, svid }))
}

/// Reads the files of a server certificate.
pub fn read(files: &WebFiles) -> Result<CertifiedKey, EndpointError> {
    let chain = CertificateDer::pem_slice_iter(&bytes(&files.certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(&files.certificate, format!("bad PEM: {error}")))?;
    if chain.is_empty() || chain.len() > MAX_CHAIN {
        let problem = format!("{} certificates in it, not 1 to {MAX_CHAIN}", chain.len());
        return Err(bad(&files.certificate, problem));
    }
    let mode = std::fs::metadata(&files.key).map_or(0, |found| found.permissions().mode() & 0o7777);
    if mode & 0o007 != 0 {
        let problem = format!("holds a secret, but other users have rights to it (mode {mode:04o})");
        return Err(bad(&files.key, problem));
    }
    let key = PrivateKeyDer::from_pem_slice(&bytes(&files.key)?)
        .map_err(|error| bad(&files.key, format!("holds no private key in PEM form: {error}")))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let of = files.certificate.display();
            bad(
                &files.key,
                format!("it is not the key of the first certificate in `{of}`"),
            )
        }
        other => bad(&files.key, other.to_string()),
    })
}

/// A changed certificate that has ended is worse than the one before.
fn living(key: CertifiedKey, files: &WebFiles, now: SystemTime) -> Result<CertifiedKey, EndpointError> {
    match ends(&key) {
        Some(end) if end > now => Ok(key),
        _ => Err(bad(&files.certificate, "the certificate has ended".to_owned())),
    }
}

/// When the certificate ends.
pub fn ends(key: &CertifiedKey) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(key.cert.first()?).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn bad(file: &Path, problem: String) -> EndpointError {
    EndpointError::File {
        file: file.to_owned(),
        problem,
    }
}

fn bytes(file: &Path) -> Result<Zeroizing<Vec<u8>>, EndpointError> {
    let io = |error: std::io::Error| match error.raw_os_error() {
        // The machine's trouble, not the file's.
        Some(code) if SHORT.contains(&code) => EndpointError::Shortage {
            file: file.to_owned(),
            source: error,
        },
        _ => bad(file, error.to_string()),
    };
    let found = std::fs::metadata(file).map_err(io)?;
    if !found.is_file() || found.len() > MAX_FILE {
        return Err(bad(
            file,
            format!("it is not a plain file of at most {MAX_FILE} bytes"),
        ));
    }
    std::fs::read(file).map(Zeroizing::new).map_err(io)
}

/// What tells one state of a file from another, behind its links. Its owner sets the time of its contents at will, and
/// the one of its change never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Both files.
type Look = [Option<State>; 2];

async fn look(files: &WebFiles) -> Look {
    let files = files.clone();
    let one = |file: &Path| {
        let found = std::fs::metadata(file).ok()?;
        Some(State {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    };
    spawn_blocking(move || [one(&files.certificate), one(&files.key)])
        .await
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
