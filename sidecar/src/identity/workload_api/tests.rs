use super::super::testing::{Ca, Call, FakeApi, Script};
use super::*;
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(10);

fn quick() -> Pace {
    Pace {
        unavailable: Backoff::new(Duration::from_millis(5), Duration::from_millis(20)),
        urgent: Backoff::new(Duration::from_millis(5), Duration::from_millis(20)),
        denied: Backoff::new(Duration::from_millis(5), Duration::from_millis(20)),
        hopeless: Duration::from_millis(50),
    }
}

/// A watcher on `endpoint`, and the states it reports.
struct Watching {
    states: mpsc::UnboundedReceiver<IdentityState>,
    task: tokio::task::JoinHandle<IdentityError>,
}

impl Watching {
    fn start(endpoint: String, pick: Pick) -> Self {
        let (seen, states) = mpsc::unbounded_channel();
        let task = tokio::spawn(watch_at(
            WorkloadApiOptions { endpoint, pick },
            quick(),
            move |state| {
                let _ = seen.send(state);
            },
        ));
        Self { states, task }
    }

    async fn next(&mut self) -> IdentityState {
        timeout(SOON, self.states.recv())
            .await
            .expect("a state in time")
            .expect("a running watcher")
    }

    async fn ready(&mut self) -> Arc<Identity> {
        loop {
            match self.next().await {
                IdentityState::Ready(identity) => return identity,
                IdentityState::Waiting { .. } => {}
                IdentityState::Lost { reason } => panic!("lost: {reason}"),
            }
        }
    }

    async fn lost(&mut self) -> String {
        loop {
            match self.next().await {
                IdentityState::Lost { reason } => return reason,
                IdentityState::Waiting { .. } => {}
                IdentityState::Ready(identity) => panic!("still has {}", identity.id),
            }
        }
    }

    async fn waiting(&mut self) -> String {
        match self.next().await {
            IdentityState::Waiting { reason } => reason,
            other => panic!("not waiting but {other:?}"),
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn call(api: &mut FakeApi) -> Call {
    timeout(SOON, api.calls.recv())
        .await
        .expect("a call in time")
        .expect("a running server")
}

fn api(script: Vec<Script>) -> (tempfile::TempDir, FakeApi) {
    let dir = tempfile::tempdir().unwrap();
    let api = FakeApi::start(&dir.path().join("api.sock"), script);
    (dir, api)
}

#[tokio::test]
async fn takes_the_first_svid_and_follows_rotations() {
    let (_dir, mut api) = api(vec![]);
    let ca = Ca::new("mesh.test");
    let mut watching = Watching::start(api.endpoint(), Pick::First);
    let stream = call(&mut api).await;
    stream.send(ca.message(&["/a", "/b"])).await;
    let first = watching.ready().await;
    assert_eq!(first.id, ca.id("/a"));
    assert_eq!(
        first.bundles.of(ca.id("/a").trust_domain()).unwrap(),
        std::slice::from_ref(ca.root())
    );

    let second = ca.message(&["/a"]);
    stream.send(second.clone()).await;
    let rotated = watching.ready().await;
    assert_ne!(rotated.chain, first.chain);
    // The same state again is no rotation: what comes next is the next real one.
    stream.send(second).await;
    stream.send(ca.message(&["/a"])).await;
    assert_ne!(watching.ready().await.chain, rotated.chain);
}

#[tokio::test]
async fn picks_by_id_list_and_hint() {
    let ca = Ca::new("mesh.test");
    for (pick, expected) in [
        (Pick::Id(ca.id("/b")), "/b"),
        (Pick::OneOf(vec![ca.id("/z"), ca.id("/c"), ca.id("/b")]), "/b"),
        (Pick::Hint("internal".into()), "/c"),
    ] {
        let (_dir, mut api) = api(vec![]);
        let mut watching = Watching::start(api.endpoint(), pick);
        let mut message = ca.message(&["/a", "/b", "/c"]);
        message.svids[2].hint = "internal".into();
        call(&mut api).await.send(message).await;
        assert_eq!(watching.ready().await.id, ca.id(expected));
    }
}

/// S-57.
#[tokio::test]
async fn an_svid_that_is_no_longer_offered_is_lost() {
    let (_dir, mut api) = api(vec![]);
    let ca = Ca::new("mesh.test");
    let mut watching = Watching::start(api.endpoint(), Pick::Id(ca.id("/a")));
    let stream = call(&mut api).await;
    stream.send(ca.message(&["/b"])).await;
    assert!(
        watching
            .waiting()
            .await
            .contains("offers spiffe://mesh.test/b, not spiffe://mesh.test/a")
    );
    stream.send(ca.message(&["/a"])).await;
    watching.ready().await;
    stream.send(ca.message(&["/b"])).await;
    assert!(watching.lost().await.contains("spiffe://mesh.test/b"));
}

/// S-56, S-57.
#[tokio::test]
async fn permission_denied_drops_what_is_held_and_asks_again() {
    let (_dir, mut api) = api(vec![Script::Stream, Script::Fail(Code::PermissionDenied)]);
    let ca = Ca::new("mesh.test");
    let mut watching = Watching::start(api.endpoint(), Pick::First);
    let stream = call(&mut api).await;
    stream.send(ca.message(&["/a"])).await;
    watching.ready().await;
    stream
        .0
        .send(Err(tonic::Status::permission_denied("entry deleted")))
        .await
        .unwrap();
    assert!(watching.lost().await.contains("entry deleted"));
    call(&mut api).await.send(ca.message(&["/a"])).await;
    watching.ready().await;
}

/// S-56.
#[tokio::test]
async fn a_socket_that_goes_away_keeps_the_svid_and_renewal_goes_on_when_it_is_back() {
    let (dir, mut api) = api(vec![]);
    let ca = Ca::new("mesh.test");
    let mut watching = Watching::start(api.endpoint(), Pick::First);
    call(&mut api).await.send(ca.message(&["/a"])).await;
    let held = watching.ready().await;
    let path = api.path.clone();
    api.stop().await;

    let mut api = FakeApi::start(&path, vec![Script::Fail(Code::Unavailable)]);
    call(&mut api).await.send(ca.message(&["/a"])).await;
    // `ready` panics on Lost: nothing was dropped in between.
    assert_ne!(watching.ready().await.chain, held.chain);
    drop(dir);
}

#[tokio::test]
async fn started_before_the_authority_it_waits_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later.sock");
    let mut watching = Watching::start(format!("unix://{}", path.display()), Pick::First);
    assert!(watching.waiting().await.contains("cannot reach the Workload API"));
    let mut api = FakeApi::start(&path, vec![]);
    call(&mut api)
        .await
        .send(Ca::new("mesh.test").message(&["/a"]))
        .await;
    watching.ready().await;
}

#[tokio::test]
async fn invalid_argument_and_unimplemented_are_retried_slowly() {
    for code in [Code::InvalidArgument, Code::Unimplemented] {
        let (_dir, mut api) = api(vec![Script::Fail(code)]);
        let mut watching = Watching::start(api.endpoint(), Pick::First);
        let before = Instant::now();
        assert!(watching.waiting().await.contains(&format!("{code:?}")));
        call(&mut api)
            .await
            .send(Ca::new("mesh.test").message(&["/a"]))
            .await;
        watching.ready().await;
        assert!(before.elapsed() >= quick().hopeless);
    }
}

/// S-58.
#[tokio::test]
async fn a_message_that_cannot_be_used_is_discarded_and_the_old_state_kept() {
    let ca = Ca::new("mesh.test");
    let other = Ca::new("other.test");
    type Spoil = fn(&mut X509svidResponse, &Ca);
    let spoils: [(&str, Spoil); 14] = [
        ("no SVID", |m, _| m.svids.clear()),
        ("spiffe_id", |m, _| m.svids[0].spiffe_id.clear()),
        ("x509_svid", |m, _| m.svids[0].x509_svid.clear()),
        ("x509_svid_key", |m, _| m.svids[0].x509_svid_key.clear()),
        ("bundle", |m, _| m.svids[0].bundle.clear()),
        ("the certificate is for", |m, _| {
            m.svids[0].spiffe_id = "spiffe://mesh.test/b".into()
        }),
        ("does not belong", |m, ca| {
            m.svids[0].x509_svid_key = ca.svid("/a", |_| {}).x509_svid_key
        }),
        ("not PKCS#8", |m, _| m.svids[0].x509_svid_key.truncate(20)),
        ("certificate 2", |m, _| m.svids[0].x509_svid.push(0)),
        ("no certificate authority", |m, _| {
            m.svids[0].bundle = m.svids[0].x509_svid.clone()
        }),
        ("already expired", |m, ca| {
            m.svids[0] = ca.svid("/a", |p| {
                p.not_after = (SystemTime::now() - Duration::from_secs(1)).into()
            });
        }),
        ("key usage: the extension is missing", |m, ca| {
            m.svids[0] = ca.svid("/a", |p| p.key_usages.clear());
        }),
        ("what was revoked is not known", |m, _| m.crl.push(vec![1, 2, 3])),
        ("clientAuth is missing", |m, ca| {
            m.svids[0] = ca.svid("/a", |p| p.extended_key_usages.truncate(1));
        }),
    ];
    for (said, spoil) in spoils {
        let mut message = ca.message(&["/a"]);
        spoil(&mut message, &ca);
        let problem = Message::check(message.clone())
            .and_then(|mut m| m.take(0, &[], SystemTime::now()))
            .expect_err(said)
            .to_string();
        assert!(problem.contains(said), "{problem:?} does not say {said:?}");

        let (_dir, mut api) = api(vec![]);
        let mut watching = Watching::start(api.endpoint(), Pick::First);
        let stream = call(&mut api).await;
        stream.send(ca.message(&["/a"])).await;
        watching.ready().await;
        stream.send(message).await;
        stream.send(other.message(&["/x"])).await;
        // The state after the good one is the next good one: the bad one changed nothing.
        assert_eq!(watching.ready().await.id, other.id("/x"));
    }
}

#[tokio::test]
async fn an_svid_that_nobody_renews_is_lost_when_it_expires() {
    let (_dir, mut api) = api(vec![]);
    let ca = Ca::new("mesh.test");
    let mut watching = Watching::start(api.endpoint(), Pick::First);
    let stream = call(&mut api).await;
    let mut message = ca.message(&[]);
    message.svids.push(ca.svid("/a", |p| {
        p.not_after = (SystemTime::now() + Duration::from_secs(2)).into()
    }));
    stream.send(message).await;
    let held = watching.ready().await;
    let reason = watching.lost().await;
    assert!(reason.contains("expired"), "{reason}");
    assert!(SystemTime::now() >= held.not_after);
}

/// S-18, S-57.
#[tokio::test]
async fn federated_bundles_stay_apart_and_a_bad_one_is_not_trusted() {
    let (own, friend, liar) = (Ca::new("own.test"), Ca::new("friend.test"), Ca::new("liar.test"));
    let mut message = own.message(&["/a"]);
    let add = |m: &mut X509svidResponse, name: &str, bundle: Vec<u8>| {
        m.federated_bundles.insert(name.into(), bundle)
    };
    add(&mut message, "spiffe://friend.test", friend.root().to_vec());
    add(&mut message, "spiffe://own.test", liar.root().to_vec());
    add(&mut message, "spiffe://broken.test", vec![0x30]);
    add(&mut message, "spiffe://empty.test", vec![]);
    add(&mut message, "liar.test", liar.root().to_vec());
    add(&mut message, "spiffe://LIAR.test", liar.root().to_vec());
    let fetched = Message::check(message)
        .unwrap()
        .take(0, &[], SystemTime::now())
        .unwrap();
    let seen: Vec<_> = fetched
        .identity
        .bundles
        .iter()
        .map(|(td, roots)| (td.to_string(), roots.to_vec()))
        .collect();
    assert_eq!(
        seen,
        [
            ("friend.test".to_owned(), vec![friend.root().clone()]),
            ("own.test".to_owned(), vec![own.root().clone()]),
        ]
    );
}

#[tokio::test]
async fn fetch_returns_every_svid_or_says_why_not() {
    let ca = Ca::new("mesh.test");
    let (_dir, mut api) = api(vec![]);
    let endpoint = api.endpoint();
    let fetching = tokio::spawn(async move { fetch(&endpoint, SOON).await });
    let mut message = ca.message(&["/a", "/b"]);
    message.svids[1].hint = "external".into();
    call(&mut api).await.send(message).await;
    let fetched = fetching.await.unwrap().unwrap();
    let seen: Vec<_> = fetched
        .iter()
        .map(|f| (f.identity.id.to_string(), f.hint.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            ("spiffe://mesh.test/a".into(), ""),
            ("spiffe://mesh.test/b".into(), "external")
        ]
    );
    assert!(!format!("{fetched:?}").contains("key: Key([") && format!("{fetched:?}").contains("redacted"));

    let endpoint = api.endpoint();
    let silent = fetch(&endpoint, Duration::from_millis(50)).await;
    assert!(matches!(silent, Err(IdentityError::Silent { .. })), "{silent:?}");

    let gone = api.endpoint();
    api.stop().await;
    assert!(matches!(
        fetch(&gone, SOON).await,
        Err(IdentityError::Unreachable { .. })
    ));
    assert!(matches!(
        fetch("http://x", SOON).await,
        Err(IdentityError::Endpoint { .. })
    ));
}

#[tokio::test]
async fn a_message_over_the_cap_is_refused() {
    let (_dir, mut api) = api(vec![]);
    let endpoint = api.endpoint();
    let fetching = tokio::spawn(async move { fetch(&endpoint, SOON).await });
    let mut message = Ca::new("mesh.test").message(&["/a"]);
    message.crl.push(vec![0; MAX_MESSAGE + 1]);
    call(&mut api).await.send(message).await;
    let refused = fetching.await.unwrap();
    assert!(
        matches!(
            refused,
            Err(IdentityError::Refused {
                code: Code::OutOfRange,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_bad_endpoint_ends_the_watch() {
    let options = WorkloadApiOptions {
        endpoint: "run/x.sock".into(),
        pick: Pick::First,
    };
    let error = watch(options, |_| panic!("no state can be had")).await;
    assert!(matches!(error, IdentityError::Endpoint { .. }));
}
