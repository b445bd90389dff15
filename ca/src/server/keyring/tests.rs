//! The keyring on a real store and real keys; what fails is made to fail in the database itself.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer as Signs, KeyPair,
    KeyUsagePurpose,
};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::*;

/// A keyring in a directory of its own.
struct Ours {
    dir: TempDir,
    config: Config,
    store: Arc<Sqlite>,
    keyring: Keyring,
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://td/{path}")).unwrap()
}

impl Ours {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.toml");
        let text =
            "trust_domain = \"td\"\ndata_dir = \"data\"\nentries = \"e\"\n[[workload_api]]\nsocket = \"s\"\n";
        std::fs::write(&file, text).unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let config = crate::config::load(&file).unwrap();
        let state = dir.path().join("data/state.sqlite");
        let store = Arc::new(Sqlite::open(&state).await.unwrap());
        let data = dir.path().join("data");
        let keyring = Keyring::open(&config, &data, store.clone(), Audit::none())
            .await
            .unwrap();
        Self {
            dir,
            config,
            store,
            keyring,
        }
    }

    /// A process that starts now, or believes that it is another time.
    async fn again(&self, now: SystemTime) -> Result<Keyring, CaError> {
        let data = self.dir.path().join("data");
        Keyring::open_at(&self.config, &data, self.store.clone(), Audit::none(), now).await
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("data/state.sqlite")
    }

    /// Another program at the same database.
    async fn sql(&self, statement: &'static str) {
        let options = SqliteConnectOptions::new().filename(self.state());
        let mut other = options.connect().await.unwrap();
        sqlx::query(statement).execute(&mut other).await.unwrap();
        other.close().await.unwrap();
    }

    /// No bundle of another content can be published.
    async fn break_publishing(&self) {
        self.sql(
            "CREATE TRIGGER broken BEFORE UPDATE ON bundle WHEN old.content <> new.content \
             BEGIN SELECT RAISE(FAIL, 'the disk is full'); END",
        )
        .await;
    }

    async fn mend(&self) {
        self.sql("DROP TRIGGER broken").await;
    }

    async fn issue(&self, path: &str) -> Arc<Svid> {
        self.keyring.issue(&id(path), SystemTime::now()).await.unwrap()
    }

    fn published_roots(&self) -> Vec<String> {
        let trust = self.keyring.published();
        let of = |root: &rustls_pki_types::CertificateDer<'static>| {
            let records = self.keyring.records.load();
            let found = records.iter().find(|one| one.certificate == root.to_vec());
            found.map_or("(forgotten)".to_owned(), |one| one.id.clone())
        };
        trust.roots.iter().map(of).collect()
    }

    fn listed(&self) -> Vec<String> {
        let trust = self.keyring.published();
        let all = trust
            .crls
            .iter()
            .flat_map(|list| crate::authority::listed_serials(list));
        all.collect()
    }
}

/// A root that signs authorities of ours.
struct Organisation {
    root: Vec<u8>,
    signs: Signs<'static, KeyPair>,
}

impl Organisation {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            root: root.to_vec(),
            signs: Signs::from_ca_cert_der(&root, key).unwrap(),
        }
    }

    /// The chain of an authority that lives for so long.
    fn sign(&self, request: &str, life: Duration) -> Vec<u8> {
        let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
        let (params, now) = (&mut request.params, SystemTime::now());
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + life).into();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let own = request.signed_by(&self.signs).unwrap();
        [own.der().as_ref(), &self.root].concat()
    }

    /// Lets an authority below this root sign; its id.
    async fn take_over(&self, ours: &Ours, life: Duration) -> String {
        let request = ours.keyring.request().await.unwrap();
        let now = SystemTime::now();
        ours.keyring
            .import(&self.sign(&request, life), now)
            .await
            .unwrap();
        ours.keyring
            .activate(AuthorityKind::X509, true, now)
            .await
            .unwrap()
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn an_intermediate_does_not_leave_while_another_one_keeps_its_root_in_the_bundle() {
    let (ours, organisation) = (Ours::new().await, Organisation::new());
    let now = SystemTime::now();
    let first = organisation.take_over(&ours, DAY).await;
    let svid = ours.issue("a").await;
    ours.keyring
        .revoke_identity(&id("a"), "stolen", now)
        .await
        .unwrap();
    organisation.take_over(&ours, DAY).await;
    let retired = ours.keyring.retire(AuthorityKind::X509, true, now).await;
    assert!(
        matches!(&retired, Err(Refusal::Vouched(id)) if *id == first),
        "{retired:?}"
    );
    let may = ours.keyring.may_force(&first).await;
    assert!(matches!(may, Err(Refusal::Vouched(_))), "{may:?}");
    assert_eq!(
        ours.listed(),
        std::slice::from_ref(&svid.serial),
        "its list stays"
    );

    // With the root itself all that hangs on it leaves.
    ours.keyring
        .prepare(AuthorityKind::X509, true, now)
        .await
        .unwrap();
    let active = ours
        .keyring
        .activate(AuthorityKind::X509, true, now)
        .await
        .unwrap();
    ours.keyring.may_force(&first).await.unwrap();
    ours.keyring.retire(AuthorityKind::X509, true, now).await.unwrap();
    assert_eq!(ours.published_roots(), [active]);
}

#[tokio::test]
async fn a_list_that_was_kept_and_not_published_is_published_by_the_next_attempt() {
    let ours = Ours::new().await;
    let svid = ours.issue("a").await;
    let now = SystemTime::now();
    ours.break_publishing().await;
    let failed = ours.keyring.revoke_identity(&id("a"), "stolen", now).await;
    assert!(failed.is_err(), "{failed:?}");
    assert!(ours.listed().is_empty());
    let failed = ours.keyring.revoke_identity(&id("a"), "stolen", now).await;
    assert!(failed.is_err(), "nothing is published, so nothing has succeeded");
    ours.mend().await;
    ours.keyring
        .revoke_identity(&id("a"), "stolen", now)
        .await
        .unwrap();
    assert_eq!(ours.listed(), std::slice::from_ref(&svid.serial));
}

#[tokio::test]
async fn an_authority_that_was_discarded_and_stayed_in_the_bundle_leaves_it_later() {
    let ours = Ours::new().await;
    let svid = ours.issue("a").await;
    let now = SystemTime::now();
    ours.keyring
        .prepare(AuthorityKind::X509, true, now)
        .await
        .unwrap();
    ours.keyring
        .activate(AuthorityKind::X509, true, now)
        .await
        .unwrap();
    assert_eq!(ours.published_roots().len(), 2);
    ours.break_publishing().await;
    let revoked = ours
        .keyring
        .revoke_authority(&svid.authority, (false, false), now)
        .await;
    assert!(matches!(revoked, Err(Refusal::Failed(_))), "{revoked:?}");
    assert!(ours.keyring.advance(AuthorityKind::X509, now).await.is_err());
    assert_eq!(ours.published_roots().len(), 2, "it could not leave yet");
    let again = ours
        .keyring
        .revoke_authority(&svid.authority, (false, false), now)
        .await;
    assert!(
        matches!(again, Err(Refusal::Failed(_))),
        "it is not said to be gone while it is there: {again:?}"
    );
    ours.mend().await;
    ours.keyring.advance(AuthorityKind::X509, now).await.unwrap();
    let roots = ours.published_roots();
    assert_eq!(roots.len(), 1);
    assert_ne!(roots[0], svid.authority);
    let keys = Disk::new(&ours.dir.path().join("data")).names().unwrap();
    assert_eq!(keys.len(), 2, "one for each kind: {keys:?}");
}

#[tokio::test]
async fn who_lifts_and_who_revokes_at_once_leave_memory_and_store_as_one() {
    let ours = Ours::new().await;
    let (one, now) = (id("a"), SystemTime::now());
    for round in 0..20 {
        ours.keyring.revoke_identity(&one, "", now).await.unwrap();
        let (lifted, revoked) = tokio::join!(
            ours.keyring.lift(&one),
            ours.keyring.revoke_identity(&one, "again", now)
        );
        lifted.unwrap();
        revoked.unwrap();
        let kept = ours.store.revocations().await.unwrap().identities.len();
        assert_eq!(
            ours.keyring.revoked(&one),
            kept == 1,
            "round {round}: what a restart would find"
        );
    }
}

#[tokio::test]
async fn an_intermediate_that_ended_does_not_keep_the_authority_from_starting() {
    let (ours, organisation) = (Ours::new().await, Organisation::new());
    let ended = organisation.take_over(&ours, DAY).await;
    let later = SystemTime::now() + DAY + Duration::from_secs(2);
    let again = ours.again(later).await.unwrap();
    assert!(!again.published().roots.is_empty());
    let failed = again.issue(&id("a"), later).await;
    assert!(failed.is_err(), "nothing is issued: {failed:?}");
    again.revoke_identity(&id("a"), "stolen", later).await.unwrap();
    assert!(again.revoked(&id("a")));

    // An operator can help it.
    again.prepare(AuthorityKind::X509, false, later).await.unwrap();
    again.advance(AuthorityKind::X509, later).await.unwrap();
    let svid = again.issue(&id("b"), later).await.unwrap();
    assert_ne!(svid.authority, ended);
}

#[tokio::test]
async fn a_token_from_before_a_lifted_revocation_is_not_believed_again() {
    let ours = Ours::new().await;
    let (one, audience) = (id("a"), ["db".to_owned()]);
    let issued = async |keyring: &Keyring| {
        let token = keyring
            .issue_jwt(&one, &audience, SystemTime::now())
            .await
            .unwrap();
        let claims = token.token.split('.').nth(1).unwrap().to_owned();
        let claims =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        claims["iat"].as_i64()
    };
    let before = issued(&ours.keyring).await;
    assert!(ours.keyring.believes(&one, before));
    let now = SystemTime::now();
    ours.keyring.revoke_identity(&one, "stolen", now).await.unwrap();
    assert!(!ours.keyring.believes(&one, before));
    ours.keyring.lift(&one).await.unwrap();
    assert!(!ours.keyring.believes(&one, before), "it was stolen");
    assert!(!ours.keyring.believes(&one, None));
    // At once, in the same second: the new one is told from those before.
    let after = issued(&ours.keyring).await;
    assert!(
        after > before && ours.keyring.believes(&one, after),
        "{before:?} {after:?}"
    );
    assert!(ours.keyring.believes(&id("b"), before), "others as before");

    let again = ours.again(SystemTime::now()).await.unwrap();
    assert!(
        !again.believes(&one, before) && again.believes(&one, after),
        "over a restart"
    );
    let forgotten = SystemTime::now() + Duration::from_secs(24 * 3600 + 2);
    ours.store.purge(seconds(forgotten)).await.unwrap();
    assert_eq!(
        ours.store.revocations().await.unwrap().lifted,
        [],
        "no such token lives"
    );
}
