use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{CertificateParams, KeyPair};
use spiffe::TrustDomain;
use tokio::sync::watch;

use super::*;
use crate::authority::{Authority, Svid, Trust};
use crate::keys::{Disk, Signer};
use crate::workload::{Issue, IssueError, IssueJwt};

struct Pair {
    dir: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        let pair = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        pair.write(2100);
        pair
    }

    fn files(&self) -> WebFiles {
        let file = |name: &str| self.dir.path().join(name);
        WebFiles {
            certificate: file("c.pem"),
            key: file("k.pem"),
        }
    }

    /// A new pair; what is answered is its certificate.
    fn write(&self, ends: i32) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(ends, 1, 1);
        let made = params.self_signed(&key).unwrap();
        self.put("k.pem", &key.serialize_pem());
        self.put("c.pem", &made.pem());
        made.der().to_vec()
    }

    /// As certbot does it: a new file takes the place of the old.
    fn put(&self, name: &str, text: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(new, self.dir.path().join(name)).unwrap();
    }
}

fn shows(shown: &Shown) -> Vec<u8> {
    let key = shown.0.load_full();
    key.map(|key| key.cert[0].to_vec()).unwrap_or_default()
}

async fn until(what: &str, mut probe: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if probe() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[test]
fn what_is_wrong_with_a_pair_is_said_with_its_file() {
    let (one, other) = (Pair::new(), Pair::new());
    one.files().check().unwrap();
    let says = |certificate: &PathBuf, key: &PathBuf, file: &PathBuf, word: &str| {
        let files = WebFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        let error = files.check().unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(word) && text.contains(file.to_str().unwrap()),
            "{text}"
        );
        assert!(!error.hint().is_empty());
    };
    let (files, others) = (one.files(), other.files());
    says(&files.certificate, &others.key, &others.key, "not the key of");
    says(&files.key, &files.key, &files.key, "0 certificates");
    says(
        &files.certificate,
        &files.certificate,
        &files.certificate,
        "no private key",
    );
    let missing = one.dir.path().join("no");
    says(&missing, &files.key, &missing, "No such file");
    says(&files.certificate, &missing, &missing, "No such file");
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    says(&files.certificate, &files.key, &files.key, "other users");
}

#[tokio::test]
async fn a_changed_pair_is_shown_and_a_bad_one_changes_nothing() {
    let pair = Pair::new();
    let shown = Shown::new(Some(read(&pair.files()).unwrap()));
    let mut follower = Follower::new(pair.files()).await;
    let second = pair.write(2100);
    // The first look sees a change, the second that it goes on no more.
    let mut looks = async || [follower.look(&shown).await, follower.look(&shown).await];
    assert_eq!(looks().await, [Looked::Same, Looked::Taken]);
    assert_eq!(shows(&shown), second);
    // A pair that has ended, a key of another, rubbish: each is refused once, and the one before stays.
    pair.write(2001);
    assert_eq!(looks().await, [Looked::Same, Looked::Refused]);
    pair.put("k.pem", &KeyPair::generate().unwrap().serialize_pem());
    assert_eq!(looks().await, [Looked::Same, Looked::Refused]);
    pair.put("c.pem", "rubbish");
    assert_eq!(looks().await, [Looked::Same, Looked::Refused]);
    assert_eq!(looks().await, [Looked::Same, Looked::Same]);
    assert_eq!(shows(&shown), second);
    let last = pair.write(2100);
    assert_eq!(looks().await, [Looked::Same, Looked::Taken]);
    assert_eq!(shows(&shown), last);
}

struct Ours {
    authority: Authority,
    trust: watch::Sender<Arc<Trust>>,
    asked: AtomicU64,
    issued: AtomicU64,
    broken: std::sync::atomic::AtomicBool,
    /// What was issued is worthless, and nothing more is.
    revoked: std::sync::atomic::AtomicBool,
    /// The roots change while the next one is issued.
    turns: std::sync::atomic::AtomicBool,
    ttl: Duration,
}

impl Issuer for Ours {
    fn issue<'a>(&'a self, id: &'a SpiffeId, now: SystemTime) -> Issue<'a> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.revoked.load(Ordering::Relaxed) {
                return Err(IssueError("it is revoked".to_owned()));
            }
            if self.broken.load(Ordering::Relaxed) {
                return Err(IssueError("the disk is full".to_owned()));
            }
            self.issued.fetch_add(1, Ordering::Relaxed);
            let svid: Svid = self.authority.issue(id, self.ttl, now).unwrap();
            if self.turns.swap(false, Ordering::Relaxed) {
                self.turn();
            }
            Ok(Arc::new(svid))
        })
    }

    fn issue_jwt<'a>(&'a self, _: &'a SpiffeId, _: &'a [String], _: SystemTime) -> IssueJwt<'a> {
        Box::pin(async { Err(IssueError("no".to_owned())) })
    }

    fn stands(&self, _: &Svid) -> bool {
        !self.revoked.load(Ordering::Relaxed)
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }
}

impl Ours {
    /// One root more.
    fn turn(&self) {
        self.trust.send_modify(|trust| {
            let mut changed = (**trust).clone();
            changed.roots.push(CertificateDer::from(vec![0]));
            *trust = Arc::new(changed);
        });
    }
}

fn ours(ttl: Duration) -> Arc<Ours> {
    let dir = tempfile::tempdir().unwrap();
    let signer: Arc<dyn Signer> = Disk::new(dir.path()).create("root").unwrap();
    let domain = TrustDomain::new("td").unwrap();
    let now = SystemTime::now();
    let root = Authority::create(&domain, &signer, Duration::from_secs(86_400), now).unwrap();
    let trust = Trust {
        domain: domain.clone(),
        roots: vec![root.clone()],
        jwt_keys: vec![],
        crls: vec![],
        sequence: 1,
        refresh_hint: Duration::from_secs(1),
    };
    Arc::new(Ours {
        authority: Authority::open(&domain, &root, signer, now).unwrap(),
        trust: watch::Sender::new(Arc::new(trust)),
        asked: AtomicU64::new(0),
        issued: AtomicU64::new(0),
        broken: false.into(),
        revoked: false.into(),
        turns: false.into(),
        ttl,
    })
}

#[tokio::test]
async fn the_own_svid_is_renewed_at_half_life_and_when_the_roots_change() {
    let id = SpiffeId::new("spiffe://td/e").unwrap();
    let short = ours(Duration::from_secs(2));
    let (first, renewal) = own(&id, short.as_ref(), SystemTime::now()).await.unwrap();
    let shown = Shown::new(Some(first));
    let before = shows(&shown);
    let task = tokio::spawn(shown.clone().renew(id.clone(), short.clone(), renewal));
    until("renewed by time", || shows(&shown) != before).await;
    task.abort();

    let long = ours(Duration::from_secs(3600));
    let (first, renewal) = own(&id, long.as_ref(), SystemTime::now()).await.unwrap();
    let shown = Shown::new(Some(first));
    let before = shows(&shown);
    let task = tokio::spawn(shown.clone().renew(id, long.clone(), renewal));
    until("it listens", || long.trust.receiver_count() == 1).await;
    // Another sequence alone is no reason; other roots are. While the store is broken, the one before stays.
    long.trust.send_modify(|trust| {
        let same = Trust {
            sequence: 2,
            ..(**trust).clone()
        };
        *trust = Arc::new(same);
    });
    long.broken.store(true, Ordering::Relaxed);
    long.turn();
    until("it was asked for, in vain", || {
        long.asked.load(Ordering::Relaxed) == 2
    })
    .await;
    assert_eq!(shows(&shown), before);
    long.broken.store(false, Ordering::Relaxed);
    until("renewed by change", || shows(&shown) != before).await;
    assert_eq!(long.issued.load(Ordering::Relaxed), 2, "the first and this one");
    task.abort();
}

#[tokio::test]
async fn without_an_svid_at_the_start_the_endpoint_listens_and_shows_one_as_soon_as_it_has_it() {
    let ours = ours(Duration::from_secs(3600));
    ours.broken.store(true, Ordering::Relaxed);
    let options = crate::endpoint::Options {
        bundle: Some(crate::endpoint::BundleEndpoint {
            listen: ([127, 0, 0, 1], 0).into(),
            path: "/".to_owned(),
            profile: crate::endpoint::Profile::Spiffe(SpiffeId::new("spiffe://td/e").unwrap()),
        }),
        openid: None,
        connections: crate::endpoint::Connections::default(),
    };
    let endpoint = crate::endpoint::Endpoint::bind(&options, ours.clone())
        .await
        .unwrap();
    assert_eq!(endpoint.places().len(), 1);

    let id = SpiffeId::new("spiffe://td/e").unwrap();
    let shown = Shown::new(None);
    let task = tokio::spawn(
        shown
            .clone()
            .renew(id, ours.clone(), Validity::none(SystemTime::now())),
    );
    until("it was asked for, in vain", || {
        ours.asked.load(Ordering::Relaxed) == 2
    })
    .await;
    assert!(shows(&shown).is_empty(), "nothing to be shown");
    ours.broken.store(false, Ordering::Relaxed);
    until("it has one", || !shows(&shown).is_empty()).await;
    task.abort();
}

#[tokio::test]
async fn an_svid_that_was_revoked_or_has_ended_is_not_shown_any_more() {
    let id = SpiffeId::new("spiffe://td/e").unwrap();
    let issuer = ours(Duration::from_secs(3600));
    let (first, validity) = own(&id, issuer.as_ref(), SystemTime::now()).await.unwrap();
    let shown = Shown::new(Some(first));
    let task = tokio::spawn(shown.clone().renew(id.clone(), issuer.clone(), validity));
    until("it listens", || issuer.trust.receiver_count() == 1).await;
    // As the keyring does it: barred first, then everybody is told to look.
    issuer.revoked.store(true, Ordering::Relaxed);
    issuer.trust.send_modify(|_| {});
    until("it is not shown", || shows(&shown).is_empty()).await;
    issuer.revoked.store(false, Ordering::Relaxed);
    issuer.trust.send_modify(|_| {});
    until("it has one again", || !shows(&shown).is_empty()).await;
    task.abort();

    let short = ours(Duration::from_secs(1));
    let (first, validity) = own(&id, short.as_ref(), SystemTime::now()).await.unwrap();
    let shown = Shown::new(Some(first));
    short.broken.store(true, Ordering::Relaxed);
    let task = tokio::spawn(shown.clone().renew(id, short.clone(), validity));
    until("it has ended", || shows(&shown).is_empty()).await;
    task.abort();
}

#[tokio::test]
async fn roots_that_change_while_an_svid_is_issued_are_a_change() {
    let id = SpiffeId::new("spiffe://td/e").unwrap();
    let issuer = ours(Duration::from_secs(3600));
    let issued = |count: u64| {
        let issuer = issuer.clone();
        move || issuer.issued.load(Ordering::Relaxed) == count
    };
    // While the first one is issued: before anybody waits for changes.
    issuer.turns.store(true, Ordering::Relaxed);
    let (first, validity) = own(&id, issuer.as_ref(), SystemTime::now()).await.unwrap();
    let shown = Shown::new(Some(first));
    let task = tokio::spawn(shown.renew(id, issuer.clone(), validity));
    until("the first one is issued again", issued(2)).await;
    // While it is issued again.
    issuer.turns.store(true, Ordering::Relaxed);
    issuer.turn();
    until("and once more", issued(4)).await;
    task.abort();
}

#[tokio::test]
async fn a_file_whose_time_was_set_back_is_another() {
    let pair = Pair::new();
    let files = pair.files();
    let before = look(&files).await;
    let text = std::fs::read(&files.certificate).unwrap();
    let time = std::fs::metadata(&files.certificate).unwrap().modified().unwrap();
    // The clock of a file system has ticks: again until it has moved on.
    let until = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        std::fs::write(&files.certificate, &text).unwrap();
        let file = std::fs::File::options()
            .write(true)
            .open(&files.certificate)
            .unwrap();
        file.set_modified(time).unwrap();
        if look(&files).await != before {
            return;
        }
        assert!(std::time::Instant::now() < until, "never seen");
    }
}

#[test]
fn the_suites_are_those_of_mozillas_intermediate_profile() {
    // S-64; https://ssl-config.mozilla.org/guidelines/6.0.json, "intermediate", without the DHE suites, which no client of today
    // needs.
    let mozilla = [
        "TLS13_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ];
    let pair = Pair::new();
    let config = Shown::new(Some(read(&pair.files()).unwrap())).config().unwrap();
    let mut suites: Vec<String> = config
        .crypto_provider()
        .cipher_suites
        .iter()
        .map(|suite| format!("{:?}", suite.suite()))
        .collect();
    let mut mozilla = mozilla.map(str::to_owned);
    suites.sort();
    mozilla.sort();
    assert_eq!(suites, mozilla);
    assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
    assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
}
