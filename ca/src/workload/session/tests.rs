mod jwt;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls_pki_types::CertificateDer;
use spiffe::{SpiffeId, TrustDomain};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::*;
use crate::audit::Audit;
use crate::authority::JwtSvid;
use crate::registration::Scope;
use crate::workload::issuer::{Issue, IssueJwt, Issuer};
use crate::workload::limits::Limits;

const DEADLINE: Duration = Duration::from_secs(20);

/// An issuer whose answers a test decides: the real one never fails and never takes time.
struct Scripted {
    trust: watch::Sender<Arc<Trust>>,
    life: Duration,
    issued: AtomicUsize,
    /// Done while it signs.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    fails: Mutex<bool>,
    revoked: Mutex<Vec<SpiffeId>>,
    /// Tokens from this second or before are worthless.
    lifted: Mutex<Option<i64>>,
}

impl Issuer for Scripted {
    fn issue<'a>(&'a self, id: &'a SpiffeId, now: SystemTime) -> Issue<'a> {
        Box::pin(async move {
            if let Some(meanwhile) = self.meanwhile.lock().unwrap().take() {
                meanwhile();
            }
            if *self.fails.lock().unwrap() {
                return Err(IssueError("the disk is full".to_owned()));
            }
            let number = self.issued.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(Svid {
                id: id.clone(),
                chain: vec![CertificateDer::from(format!("svid {number}").into_bytes())],
                key: Zeroizing::new(b"key".to_vec()),
                serial: number.to_string(),
                authority: "1".to_owned(),
                bundle: 1,
                issued_at: now,
                not_after: now + self.life,
            }))
        })
    }

    fn issue_jwt<'a>(&'a self, id: &'a SpiffeId, audience: &'a [String], now: SystemTime) -> IssueJwt<'a> {
        Box::pin(async move {
            if let Some(meanwhile) = self.meanwhile.lock().unwrap().take() {
                meanwhile();
            }
            if *self.fails.lock().unwrap() {
                return Err(IssueError("the disk is full".to_owned()));
            }
            let number = self.issued.fetch_add(1, Ordering::Relaxed);
            Ok(JwtSvid {
                id: id.clone(),
                token: format!("{number} for {}", audience.join(" and ")).into(),
                not_after: now + self.life,
            })
        })
    }

    fn revoked(&self, id: &SpiffeId) -> bool {
        self.revoked.lock().unwrap().contains(id)
    }

    fn believes(&self, id: &SpiffeId, issued: Option<i64>) -> bool {
        let lifted = *self.lifted.lock().unwrap();
        !self.revoked(id) && lifted.is_none_or(|lifted| issued.is_some_and(|issued| issued > lifted))
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }
}

struct Stage {
    issuer: Arc<Scripted>,
    entries: watch::Sender<Arc<Entries>>,
    closing: watch::Sender<bool>,
    shared: Arc<Shared>,
    _other_end: UnixStream,
    peer: Peer,
}

fn trust(root: &str) -> Arc<Trust> {
    let domain = TrustDomain::new("td").unwrap();
    Arc::new(Trust {
        domain,
        roots: vec![CertificateDer::from(root.as_bytes().to_vec())],
        jwt_keys: Vec::new(),
        crls: Vec::new(),
        sequence: 1,
        refresh_hint: Duration::from_secs(300),
    })
}

fn entries(paths: &[&str]) -> Arc<Entries> {
    let entry = |path: &&str| {
        format!("[[entry]]\nspiffe_id = \"spiffe://td/{path}\"\nselectors = [\"socket:default\"]\n")
    };
    let text: String = paths.iter().map(entry).collect();
    Arc::new(Entries::parse(Path::new("e"), &text, &Scope::default()).unwrap())
}

fn stage(paths: &[&str], life: Duration) -> Stage {
    let issuer = Arc::new(Scripted {
        trust: watch::Sender::new(trust("root 1")),
        life,
        issued: AtomicUsize::new(0),
        meanwhile: Mutex::new(None),
        fails: Mutex::new(false),
        revoked: Mutex::default(),
        lifted: Mutex::default(),
    });
    let (entries, closing) = (watch::Sender::new(entries(paths)), watch::Sender::new(false));
    let shared = Shared::new(
        issuer.clone(),
        entries.subscribe(),
        closing.subscribe(),
        Limits::default(),
        Audit::none(),
    );
    let (ours, other_end) = UnixStream::pair().unwrap();
    let peer = Peer::of(&ours, "default".into()).unwrap();
    Stage {
        issuer,
        entries,
        closing,
        shared,
        _other_end: other_end,
        peer,
    }
}

impl Stage {
    fn session(&self) -> Session {
        Session::new(self.shared.clone(), self.peer.clone())
    }

    /// Does `what` while the next SVID is signed.
    fn meanwhile(&self, what: impl FnOnce() + Send + 'static) {
        *self.issuer.meanwhile.lock().unwrap() = Some(Box::new(what));
    }
}

async fn next(session: &mut Session) -> Result<Vec<String>, tonic::Code> {
    let message = tokio::time::timeout(DEADLINE, session.identities()).await;
    let message = message
        .expect("a message in time")
        .map_err(|status| status.code())?;
    Ok(message.svids.into_iter().map(|svid| svid.spiffe_id).collect())
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_change_while_signing_is_in_the_message() {
    let stage = stage(&["a"], HOUR);
    let sender = stage.entries.clone();
    stage.meanwhile(move || {
        sender.send_replace(entries(&["a", "b"]));
    });
    let mut session = stage.session();
    assert_eq!(
        next(&mut session).await.unwrap(),
        ["spiffe://td/a", "spiffe://td/b"]
    );
}

#[tokio::test]
async fn a_change_while_signing_that_leaves_all_as_it_was_loses_no_message() {
    let stage = stage(&["a"], HOUR);
    let mut session = stage.session();
    assert_eq!(next(&mut session).await.unwrap().len(), 1);
    // b is granted; while it is signed the entries change again, without a change for this caller.
    let sender = stage.entries.clone();
    stage.meanwhile(move || {
        sender.send_replace(entries(&["a", "b"]));
    });
    stage.entries.send_replace(entries(&["a", "b"]));
    assert_eq!(
        next(&mut session).await.unwrap(),
        ["spiffe://td/a", "spiffe://td/b"]
    );
}

#[tokio::test]
async fn who_loses_everything_while_it_is_signed_gets_nothing() {
    let stage = stage(&["a"], HOUR);
    let sender = stage.entries.clone();
    stage.meanwhile(move || {
        sender.send_replace(entries(&[]));
    });
    assert_eq!(
        next(&mut stage.session()).await,
        Err(tonic::Code::PermissionDenied)
    );
    assert_eq!(
        stage.issuer.issued.load(Ordering::Relaxed),
        1,
        "it was signed, and thrown away"
    );
}

#[tokio::test]
async fn a_new_root_is_pushed_to_both_streams_without_new_svids() {
    let stage = stage(&["a"], HOUR);
    let (mut svids, mut bundles) = (stage.session(), stage.session());
    assert_eq!(svids.identities().await.unwrap().svids[0].bundle, b"root 1");
    assert_eq!(bundles.bundles().await.unwrap().bundles["spiffe://td"], b"root 1");
    stage.issuer.trust.send_replace(trust("root 2"));
    assert_eq!(svids.identities().await.unwrap().svids[0].bundle, b"root 2");
    assert_eq!(bundles.bundles().await.unwrap().bundles["spiffe://td"], b"root 2");
    assert_eq!(stage.issuer.issued.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_renewal_that_fails_is_tried_again_and_the_old_svid_stays_till_then() {
    let stage = stage(&["a"], Duration::from_secs(8));
    let mut session = stage.session();
    next(&mut session).await.unwrap();
    *stage.issuer.fails.lock().unwrap() = true;
    let half = tokio::time::timeout(Duration::from_millis(4500), session.identities()).await;
    assert!(
        half.is_err(),
        "nothing is said at half life: the old one is still good"
    );
    *stage.issuer.fails.lock().unwrap() = false;
    let renewed = tokio::time::timeout(DEADLINE, session.identities())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(renewed.svids[0].x509_svid, b"svid 1");
}

#[tokio::test]
async fn an_svid_that_ended_and_cannot_be_renewed_ends_the_stream() {
    let stage = stage(&["a"], Duration::from_secs(2));
    let mut session = stage.session();
    next(&mut session).await.unwrap();
    *stage.issuer.fails.lock().unwrap() = true;
    assert_eq!(next(&mut session).await, Err(tonic::Code::Unavailable));
    let mut first = stage.session();
    assert_eq!(
        next(&mut first).await,
        Err(tonic::Code::Unavailable),
        "and there is no first one"
    );
}

#[tokio::test]
async fn the_end_of_the_authority_is_unavailable_and_not_permission_denied() {
    let stage = stage(&["a"], HOUR);
    let mut session = stage.session();
    next(&mut session).await.unwrap();
    stage.closing.send_replace(true);
    assert_eq!(next(&mut session).await, Err(tonic::Code::Unavailable));
    assert_eq!(next(&mut stage.session()).await, Err(tonic::Code::Unavailable));
}

#[tokio::test]
async fn a_rotation_brings_a_new_svid_at_half_life() {
    let stage = stage(&["a"], Duration::from_secs(2));
    let mut session = stage.session();
    let start = Instant::now();
    next(&mut session).await.unwrap();
    next(&mut session).await.unwrap();
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(890),
        "half of two seconds, less a tenth: {took:?}"
    );
    assert_eq!(stage.issuer.issued.load(Ordering::Relaxed), 2);
}
