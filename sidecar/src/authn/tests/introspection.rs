//! Opaque tokens: what the issuer is asked, how often, and what no answer means.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::*;

const ASK: &str = "/introspect";

fn secret(dir: &Path, text: &str) -> std::path::PathBuf {
    let path = dir.join("secret");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
    path
}

fn asking(idp: &Idp, dir: &Path) -> IssuerOptions {
    IssuerOptions {
        introspection: Some(IntrospectionOptions {
            endpoint: Some(format!("{}{ASK}", idp.url)),
            client_id: "shop sidecar".to_owned(),
            client_secret_file: secret(dir, "s3cr3t:&\n"),
            auth: ClientAuth::Basic,
            cache: Duration::from_secs(30),
            token_prefix: None,
            audience_required: true,
            every_token: false,
        }),
        ..idp.options()
    }
}

fn change(options: &IssuerOptions, change: impl FnOnce(&mut IntrospectionOptions)) -> IssuerOptions {
    let mut options = options.clone();
    change(options.introspection.as_mut().expect("introspection"));
    options
}

fn alice() -> Value {
    json!({"active": true, "sub": "alice", "aud": "shop", "scope": "a b", "client_id": "app", "token_type": "Bearer",
        "roles": ["clerk"], "tenant": "t1", "exp": unix(SystemTime::now()) + 300})
}

fn knows(idp: &Idp, tokens: &[(&str, Value)]) {
    let tokens = tokens
        .iter()
        .map(|(token, said)| ((*token).to_owned(), said.clone()));
    idp.answer(ASK, Answer::Tokens(tokens.collect()));
}

#[tokio::test]
async fn an_opaque_token_becomes_the_same_user_as_a_jwt() {
    let (idp, dir) = (Idp::start(&[]).await, tempfile::tempdir().expect("a directory"));
    knows(&idp, &[("opaque-1", alice())]);
    let authn = authenticator(&[asking(&idp, dir.path())]);
    let now = SystemTime::now();
    let user = authn.verify("opaque-1", now).await.expect("alice");
    assert_eq!(
        (user.subject.as_str(), &*user.alias, &*user.issuer),
        ("alice", "corp", idp.url.as_str())
    );
    assert_eq!(
        (user.roles.as_slice(), user.scope.as_slice()),
        (&["clerk".to_owned()][..], &["a".to_owned(), "b".to_owned()][..])
    );
    assert_eq!(user.azp.as_deref(), Some("app"));
    assert_eq!(
        user.claims,
        [("tenant".to_owned(), ClaimValue::String("t1".to_owned()))]
    );
    assert_eq!((user.key, user.due), (None, Some(unix(now) + 30)));

    // RFC 6749 section 2.3.1: both halves are encoded before they are joined.
    let (form, authorization) = idp.form();
    assert_eq!(form, "token=opaque-1&token_type_hint=access_token");
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD
        .decode(authorization.strip_prefix("Basic ").expect("Basic"))
        .expect("base64");
    assert_eq!(pair, b"shop%20sidecar:s3cr3t%3A%26");

    for _ in 0..3 {
        assert_eq!(reason(&authn.verify("opaque-1", now).await), "ok");
    }
    assert_eq!(idp.asked(ASK), 1, "the answer is kept");
    assert_eq!(
        (
            counted(&authn, "corp", "ok", false),
            counted(&authn, "corp", "ok", true)
        ),
        (1, 3)
    );
    let later = now + Duration::from_secs(29);
    assert_eq!(reason(&authn.verify("opaque-1", later).await), "ok");
    assert_eq!(idp.asked(ASK), 1);
    let stale = now + Duration::from_secs(30);
    assert_eq!(reason(&authn.verify("opaque-1", stale).await), "ok");
    assert_eq!(idp.asked(ASK), 2, "for as long as configured");
    let asked = &authn.counters().introspections;
    assert_eq!((asked[0].result, asked[0].count), ("ok", 2));
}

#[tokio::test]
async fn a_new_secret_needs_no_reload_and_no_error_holds_one() {
    let (idp, dir) = (Idp::start(&[]).await, tempfile::tempdir().expect("a directory"));
    idp.answer(
        WELL_KNOWN,
        Answer::json(
            json!({"issuer": idp.url, "jwks_uri": format!("{}/jwks", idp.url),
                "introspection_endpoint": format!("{}{ASK}", idp.url)})
            .to_string(),
        ),
    );
    knows(&idp, &[("t1", alice()), ("t2", alice())]);
    let options = change(&asking(&idp, dir.path()), |asking| {
        asking.endpoint = None;
        asking.auth = ClientAuth::Post;
    });
    let authn = authenticator(&[options]);
    let now = SystemTime::now();
    assert_eq!(reason(&authn.verify("t1", now).await), "ok");
    let (form, authorization) = idp.form();
    assert_eq!(
        (form.as_str(), authorization.as_str()),
        (
            "token=t1&token_type_hint=access_token&client_id=shop%20sidecar&client_secret=s3cr3t%3A%26",
            ""
        )
    );
    secret(dir.path(), "another");
    assert_eq!(reason(&authn.verify("t2", now).await), "ok");
    assert!(idp.form().0.ends_with("&client_secret=another"));
    assert_eq!(idp.asked(WELL_KNOWN), 1, "where it is is known for a while");

    std::fs::remove_file(dir.path().join("secret")).expect("removed");
    let refused = authn.verify("t3-very-secret", now).await.expect_err("no secret");
    assert_eq!(refused.label(), "unavailable");
    let said = refused.to_string();
    assert!(
        said.contains("client_secret_file") && !said.contains("t3-very") && !said.contains("another"),
        "{said}"
    );
    assert!(
        authn.status(now)[0]
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("client_secret_file"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_once_however_many_bring_it() {
    let (idp, dir) = (Idp::start(&[]).await, tempfile::tempdir().expect("a directory"));
    let gate = Arc::new(Semaphore::new(0));
    idp.answer(ASK, Answer::Gated(alice().to_string(), Arc::clone(&gate)));
    let authn = authenticator(&[asking(&idp, dir.path())]);
    let now = SystemTime::now();
    let begun = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut requests = JoinSet::new();
    for _ in 0..64 {
        let (authn, begun) = (Arc::clone(&authn), Arc::clone(&begun));
        requests.spawn(async move {
            begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            authn.verify("opaque", now).await
        });
    }
    // Who gives up does not take the answer from the others.
    let impatient = Arc::clone(&authn);
    let given_up = tokio::spawn(async move { impatient.verify("opaque", now).await });
    let all_wait = async {
        while begun.load(std::sync::atomic::Ordering::Relaxed) < 64 || idp.asked(ASK) < 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all_wait)
        .await
        .expect("in time");
    given_up.abort();
    gate.add_permits(1);
    while let Some(result) = requests.join_next().await {
        assert_eq!(reason(&result.expect("no panic")), "ok");
    }
    assert_eq!(idp.asked(ASK), 1);
}

#[tokio::test]
async fn what_is_refused_is_asked_for_again_after_a_while_only() {
    let (idp, dir) = (Idp::start(&[]).await, tempfile::tempdir().expect("a directory"));
    let mut foreign = alice();
    foreign["aud"] = json!("another-shop");
    let mut refresh = alice();
    refresh["token_type"] = json!("refresh_token");
    knows(&idp, &[("foreign", foreign), ("refresh", refresh)]);
    let authn = authenticator(&[asking(&idp, dir.path())]);
    let now = SystemTime::now();
    for (token, why) in [
        ("made-up", "inactive"),
        ("foreign", "wrong_aud"),
        ("refresh", "bad_claim"),
    ] {
        let before = idp.asked(ASK);
        for _ in 0..5 {
            assert_eq!(reason(&authn.verify(token, now).await), why, "{token}");
        }
        assert_eq!(idp.asked(ASK), before + 1, "{token}");
    }
    assert_eq!(
        (
            counted(&authn, "corp", "inactive", false),
            counted(&authn, "corp", "inactive", true)
        ),
        (1, 4)
    );
    knows(&idp, &[("made-up", alice())]);
    assert_eq!(
        reason(&authn.verify("made-up", now + Duration::from_secs(4)).await),
        "inactive"
    );
    assert_eq!(
        reason(&authn.verify("made-up", now + Duration::from_secs(5)).await),
        "ok"
    );
}

#[tokio::test]
async fn made_up_tokens_do_not_flood_the_issuer() {
    let (idp, dir) = (Idp::plain(&[]).await, tempfile::tempdir().expect("a directory"));
    knows(&idp, &[("known", alice()), ("late", alice())]);
    let authn = authenticator(&[asking(&idp, dir.path())]);
    let now = SystemTime::now();
    assert_eq!(reason(&authn.verify("known", now).await), "ok");
    let mut requests = JoinSet::new();
    for n in 0..1_000 {
        let authn = Arc::clone(&authn);
        requests.spawn(async move { authn.verify(&format!("made-up-{n}"), now).await });
    }
    let mut refused = std::collections::BTreeMap::<_, usize>::new();
    while let Some(result) = requests.join_next().await {
        *refused.entry(reason(&result.expect("no panic"))).or_default() += 1;
    }
    assert_eq!(idp.asked(ASK), 257, "256 fruitless ones, and the good one");
    assert_eq!(refused, [("inactive", 256), ("unavailable", 744)].into());
    assert_eq!(
        reason(&authn.verify("known", now).await),
        "ok",
        "what is known goes on"
    );
    assert_eq!(reason(&authn.verify("late", now).await), "unavailable");
    let later = now + Duration::from_secs(2);
    assert_eq!(
        reason(&authn.verify("late", later).await),
        "ok",
        "it is forgotten"
    );
}

#[tokio::test]
async fn no_answer_is_never_a_yes() {
    let (mut idp, dir) = (Idp::plain(&[]).await, tempfile::tempdir().expect("a directory"));
    knows(&idp, &[("known", alice())]);
    let authn = authenticator(&[asking(&idp, dir.path())]);
    let start = SystemTime::now();
    let user = authn.verify("known", start).await.expect("alice");
    let good = alice().to_string();
    let mut now = start;
    for (n, bad) in [
        Answer::raw("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"),
        Answer::raw("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n"),
        Answer::raw(format!(
            "HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{good}",
            good.len()
        )),
        Answer::json("<html>"),
        Answer::json(good.replace("true", "\"true\"")),
        Answer::json(format!("{good}{}", " ".repeat(300 * 1024))),
        Answer::raw("nonsense"),
        Answer::raw(Vec::new()),
    ]
    .into_iter()
    .enumerate()
    {
        idp.answer(ASK, bad);
        assert_eq!(
            reason(&authn.verify(&format!("t{n}"), now).await),
            "unavailable",
            "{n}"
        );
        now += Duration::from_secs(1);
    }
    idp.stop().await;
    assert_eq!(reason(&authn.verify("unknown", now).await), "unavailable");
    assert_eq!(reason(&authn.verify("known", now).await), "ok", "until its end");
    assert_eq!(authn.recheck(&user, now), Ok(()));
    let end = start + Duration::from_secs(30);
    assert_eq!(reason(&authn.verify("known", end).await), "unavailable");
    let due = authn.recheck(&user, end).expect_err("to be asked again");
    assert!(renewable(&due) && due.label() == "introspection_due");
}

#[tokio::test]
async fn what_is_open_is_asked_for_again() {
    let (idp, dir) = (Idp::plain(&[]).await, tempfile::tempdir().expect("a directory"));
    let mut short = alice();
    short["exp"] = json!(unix(SystemTime::now()) + 20);
    let mut endless = alice();
    endless.as_object_mut().expect("an object").remove("exp");
    knows(&idp, &[("long", alice()), ("short", short), ("endless", endless)]);
    let authn = authenticator(&[asking(&idp, dir.path())]);
    let now = SystemTime::now();
    let (long, short, endless) = (
        authn.verify("long", now).await.expect("alice"),
        authn.verify("short", now).await.expect("alice"),
        authn.verify("endless", now).await.expect("alice"),
    );
    assert_eq!(short.due, None, "it ends by itself");
    assert_eq!((endless.due, endless.exp), (long.due, unix(now) + 30));
    let later = now + Duration::from_secs(30);
    assert!(authn.recheck(&long, later).is_err_and(|why| renewable(&why)));
    assert!(
        authn
            .recheck(&short, later)
            .is_err_and(|why| why.label() == "expired")
    );
    knows(&idp, &[("endless", alice())]);
    assert_eq!(
        reason(&authn.verify("long", later).await),
        "inactive",
        "revoked meanwhile"
    );
    assert!(authn.verify("endless", later).await.expect("alice").due > endless.due);
    authn.reconfigure(vec![idp.options()]).expect("good");
    assert!(
        authn
            .recheck(&endless, now)
            .is_err_and(|why| why.label() == "issuer_changed")
    );
    assert_eq!(
        reason(&authn.verify("endless", now).await),
        "malformed",
        "nobody is left to ask"
    );
}

#[tokio::test]
async fn a_jwt_is_shown_to_nobody_but_its_issuer() {
    let key = Signer::new("k1");
    let (jwts, asked) = (Idp::start(&[&key]).await, Idp::start(&[]).await);
    let dir = tempfile::tempdir().expect("a directory");
    idp_says_yes(&asked);
    let opaque = IssuerOptions {
        alias: "opaque".to_owned(),
        ..asking(&asked, dir.path())
    };
    let authn = authenticator(&[jwts.options(), opaque]);
    refresh(&authn).await;
    let now = SystemTime::now();
    let good = key.sign(&jwts.claims());
    assert_eq!(reason(&authn.verify(&good, now).await), "ok");
    let mut elsewhere = jwts.claims();
    elsewhere["iss"] = json!("https://elsewhere.example");
    let forged = Signer::new("k1").sign(&jwts.claims());
    let (head, _) = good.rsplit_once('.').expect("three parts");
    let standard = {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::STANDARD;
        format!(
            "{}.{}.AAAA",
            engine.encode(r#"{"alg": "ES256"}"#),
            engine.encode("{}")
        )
    };
    for token in [
        key.sign(&elsewhere),
        forged,
        format!("{head}."),
        head.to_owned(),
        format!("{good}.x.y"),
        format!("{good}="),
        standard,
        "e30.e30.e30".to_owned(),
    ] {
        assert_ne!(reason(&authn.verify(&token, now).await), "ok", "{token}");
    }
    assert_eq!(asked.asked(ASK), 0);
    assert_eq!(reason(&authn.verify("opaque", now).await), "ok");
    assert_eq!(asked.asked(ASK), 1);
}

fn idp_says_yes(idp: &Idp) {
    idp.answer(ASK, Answer::json(alice().to_string()));
}

#[tokio::test]
async fn an_issuer_may_be_asked_for_its_jwts_too() {
    let key = Signer::new("k1");
    let (idp, dir) = (
        Idp::start(&[&key]).await,
        tempfile::tempdir().expect("a directory"),
    );
    let options = change(&asking(&idp, dir.path()), |asking| asking.every_token = true);
    let authn = authenticator(&[options]);
    let running = tokio::spawn(Arc::clone(&authn).run());
    let (now, token) = (SystemTime::now(), key.sign(&idp.claims()));
    idp.answer(ASK, Answer::json(r#"{"active":false}"#));
    assert_eq!(
        reason(&authn.verify(&token, now).await),
        "inactive",
        "well signed, and revoked"
    );
    knows(&idp, &[(&token, alice())]);
    let later = now + Duration::from_secs(5);
    assert_eq!(reason(&authn.verify(&token, later).await), "ok");
    assert_eq!((idp.asked("/jwks"), idp.asked(ASK)), (0, 2));
    let status = &authn.status(now)[0];
    assert_eq!((status.state, status.keys), (IssuerState::Introspected, 0));
    running.abort();
}

#[tokio::test]
async fn prefixes_tell_whom_to_ask() {
    let (a, b) = (Idp::plain(&[]).await, Idp::plain(&[]).await);
    let dir = tempfile::tempdir().expect("a directory");
    let of = |idp: &Idp, alias: &str, prefix: Option<&str>| IssuerOptions {
        alias: alias.to_owned(),
        ..change(&asking(idp, dir.path()), |asking| {
            asking.token_prefix = prefix.map(str::to_owned);
        })
    };
    idp_says_yes(&a);
    idp_says_yes(&b);
    let authn = authenticator(&[of(&a, "a", Some("at_")), of(&b, "b", None)]);
    let now = SystemTime::now();
    let alias = async |token: &str| authn.verify(token, now).await.map(|user| user.alias.to_string());
    assert_eq!(alias("at_1").await.as_deref(), Ok("a"));
    assert_eq!(alias("xat_1").await.as_deref(), Ok("b"));
    assert_eq!((a.asked(ASK), b.asked(ASK)), (1, 1));
    for (first, second) in [
        (Some("at_"), Some("at_")),
        (Some("at_"), Some("at_x")),
        (Some("at_x"), Some("at_")),
        (None, None),
        (Some("eyJ"), None),
        (Some(""), None),
    ] {
        let both = vec![of(&a, "a", first), of(&b, "b", second)];
        assert!(authn.prepare(both).is_err(), "{first:?} {second:?}");
    }
    let only = authenticator(&[of(&a, "a", Some("at_"))]);
    assert_eq!(reason(&only.verify("other", now).await), "malformed");
    assert_eq!(a.asked(ASK), 1);
}
