//! Keys over time: start-up, rotation, outage, bad answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::*;

#[tokio::test]
async fn without_keys_nobody_is_let_in_and_start_up_does_not_need_the_provider() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    idp.answer(
        "/jwks",
        Answer::raw("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"),
    );
    let authn = authenticator(&[idp.options()]);
    let (token, now) = (key.sign(&idp.claims()), SystemTime::now());
    assert_eq!(authn.status(now)[0].state, IssuerState::Waiting);
    assert_eq!(reason(&authn.verify(&token, now).await), "unavailable");
    assert_eq!(idp.asked(WELL_KNOWN), 0, "a token does not start the first fetch");

    let running = tokio::spawn(Arc::clone(&authn).run());
    let source = authn.source("corp");
    ended(&source, |ended| ended.attempts >= 1).await;
    assert_eq!(reason(&authn.verify(&token, now).await), "unavailable");
    let status = &authn.status(now)[0];
    assert_eq!((status.state, status.keys), (IssuerState::Waiting, 0));
    let error = status.last_error.clone().expect("an error");
    assert!(error.contains("/jwks") && error.contains("503"), "{error}");

    // It is retried by itself, within the first pause of about a second.
    idp.answer("/jwks", Answer::json(jwks(&[&key])));
    ended(&source, |ended| ended.good).await;
    let now = SystemTime::now();
    assert_eq!(reason(&authn.verify(&token, now).await), "ok");
    let status = &authn.status(now)[0];
    assert_eq!(
        (status.state, status.kids.as_slice(), status.last_error.as_ref()),
        (IssuerState::Ready, &["k1".to_owned()][..], None)
    );
    let next = status.next_refresh.expect("a time") - status.fetched_at.expect("a time");
    assert!((224..=241).contains(&next), "at 75 to 80 % of 5 min: {next}");
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_is_noticed_by_one_fetch_however_many_ask() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let idp = Idp::start(&[&old]).await;
    let authn = authenticator(&[idp.options()]);
    let running = tokio::spawn(Arc::clone(&authn).run());
    ended(&authn.source("corp"), |ended| ended.good).await;
    assert_eq!((idp.asked(WELL_KNOWN), idp.asked("/jwks")), (1, 1));

    let gate = Arc::new(Semaphore::new(0));
    idp.answer("/jwks", Answer::Gated(jwks(&[&old, &new]), Arc::clone(&gate)));
    let now = SystemTime::now();
    let begun = Arc::new(AtomicUsize::new(0));
    let mut requests = JoinSet::new();
    for n in 0..64 {
        let mut claims = idp.claims();
        claims["n"] = json!(n);
        let (authn, token, begun) = (Arc::clone(&authn), new.sign(&claims), Arc::clone(&begun));
        requests.spawn(async move {
            begun.fetch_add(1, Ordering::Relaxed);
            authn.verify(&token, now).await
        });
    }
    // Those with a known key do not wait for the others.
    assert_eq!(reason(&authn.verify(&old.sign(&idp.claims()), now).await), "ok");
    let all_wait = async {
        while begun.load(Ordering::Relaxed) < 64 || idp.asked("/jwks") < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all_wait)
        .await
        .expect("in time");
    gate.add_permits(1);
    while let Some(result) = requests.join_next().await {
        assert_eq!(reason(&result.expect("no panic")), "ok");
    }
    assert_eq!(
        (idp.asked(WELL_KNOWN), idp.asked("/jwks")),
        (1, 2),
        "one fetch, of the keys alone"
    );
    assert_eq!(counted(&authn, "corp", "ok", false), 65);
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_kids_cause_one_fetch_in_ten_seconds() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    let authn = authenticator(&[idp.options()]);
    let running = tokio::spawn(Arc::clone(&authn).run());
    ended(&authn.source("corp"), |ended| ended.good).await;
    let start = SystemTime::now();
    let storm = async |now: SystemTime| {
        let mut requests = JoinSet::new();
        for n in 0..64 {
            let (authn, token) = (
                Arc::clone(&authn),
                key.sign_as(Some(&format!("made-up-{n}")), &idp.claims()),
            );
            requests.spawn(async move { authn.verify(&token, now).await });
        }
        while let Some(result) = requests.join_next().await {
            assert_eq!(reason(&result.expect("no panic")), "unknown_kid");
        }
    };
    storm(start).await;
    assert_eq!(idp.asked("/jwks"), 2);
    storm(start + Duration::from_secs(9)).await;
    assert_eq!(idp.asked("/jwks"), 2, "the floor of 10 s");
    let unknown = key.sign_as(Some("another"), &idp.claims());
    assert_eq!(
        reason(&authn.verify(&unknown, start + Duration::from_secs(11)).await),
        "unknown_kid"
    );
    assert_eq!(idp.asked("/jwks"), 3);
    // What a fetch did not bring does not cause the next one, nor keep others from it.
    assert_eq!(
        reason(&authn.verify(&unknown, start + Duration::from_secs(22)).await),
        "unknown_kid"
    );
    assert_eq!(idp.asked("/jwks"), 3);
    assert_eq!(
        reason(&authn.verify(&key.sign(&idp.claims()), start).await),
        "ok",
        "good tokens are not held up"
    );
    running.abort();
}

#[tokio::test]
async fn a_nameless_key_that_was_replaced_is_noticed_too() {
    let (old, new) = (Signer::new("x"), Signer::new("x"));
    let idp = Idp::start(&[&old]).await;
    let nameless = |key: &Signer| {
        let mut jwk = key.jwk();
        jwk.as_object_mut().expect("object").remove("kid");
        json!({"keys": [jwk]}).to_string()
    };
    idp.answer("/jwks", Answer::json(nameless(&old)));
    let authn = authenticator(&[idp.options()]);
    let running = tokio::spawn(Arc::clone(&authn).run());
    ended(&authn.source("corp"), |ended| ended.good).await;
    let now = SystemTime::now();
    assert_eq!(
        reason(&authn.verify(&old.sign_as(None, &idp.claims()), now).await),
        "ok"
    );
    idp.answer("/jwks", Answer::json(nameless(&new)));
    assert_eq!(
        reason(&authn.verify(&new.sign_as(None, &idp.claims()), now).await),
        "ok"
    );
    assert_eq!(
        reason(&authn.verify(&old.sign_as(None, &idp.claims()), now).await),
        "bad_sig"
    );
    assert_eq!(idp.asked("/jwks"), 2);
    running.abort();
}

#[test]
fn workers_ask_and_the_control_runtime_fetches() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let control = runtime();
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let (idp, authn) = control.block_on(async {
        let idp = Idp::start(&[&old]).await;
        let authn = ready(&idp).await;
        idp.answer("/jwks", Answer::json(jwks(&[&old, &new])));
        (idp, authn)
    });
    let token = new.sign(&idp.claims());
    let worker = std::thread::spawn({
        let authn = Arc::clone(&authn);
        move || runtime().block_on(async { authn.verify(&token, SystemTime::now()).await })
    });
    control.block_on(async {
        let running = tokio::spawn(Arc::clone(&authn).run());
        ended(&authn.source("corp"), |ended| ended.attempts >= 2).await;
        running.abort();
    });
    assert_eq!(reason(&worker.join().expect("no panic")), "ok");
}

#[tokio::test]
async fn a_token_waits_for_newer_keys_only_so_long() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    let options = AuthnOptions {
        refetch_wait: Duration::from_millis(50),
        ..authn_options()
    };
    let authn = Authenticator::new(vec![idp.options()], options).expect("good");
    refresh(&authn).await;
    // Nobody fetches, as when the control runtime is stuck.
    let unknown = key.sign_as(Some("k2"), &idp.claims());
    assert_eq!(
        reason(&authn.verify(&unknown, SystemTime::now()).await),
        "unknown_kid"
    );
}

/// Answers for the keys that are none, with the label of each.
fn bad_key_sets(good: &str) -> Vec<(Answer, &'static str)> {
    let json = |body: &str, label| (Answer::json(body), label);
    vec![
        json("<!doctype html><html>login</html>", "keys"),
        json("", "keys"),
        json("{}", "keys"),
        json(r#"{"keys":[]}"#, "no_keys"),
        json(r#"{"keys":[{"kty":"oct","kid":"k1","k":"AAAA"}]}"#, "no_keys"),
        json(&format!(r#"{{"keys":[],"keys":{good}}}"#), "keys"),
        json(&format!("{good}{}", " ".repeat(300_000)), "too_large"),
        json(&"x".repeat(2_000_000), "too_large"),
    ]
}

/// Answers that are no 200 with a whole body, with the label of each.
fn bad_messages(good: &str, idp: &Idp, elsewhere: &Idp) -> Vec<(Answer, &'static str)> {
    let raw = |text: String, label| (Answer::raw(text), label);
    vec![
        raw(
            format!("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{good}"),
            "http",
        ),
        raw(
            format!(
                "HTTP/1.1 206 Partial\r\ncontent-length: {}\r\n\r\n{good}",
                good.len()
            ),
            "status",
        ),
        raw(
            "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "status",
        ),
        raw(
            format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(100_000)),
            "http",
        ),
        raw("SSH-2.0-OpenSSH\r\n\r\n".to_owned(), "http"),
        raw(String::new(), "http"),
        (Answer::Ok(good.to_owned(), "content-encoding: gzip\r\n"), "http"),
        (redirect(&format!("{}/jwks", elsewhere.url)), "status"),
        (redirect(&format!("{}/other", idp.url)), "status"),
    ]
}

/// Configurations that are not that of the issuer, with the label of each.
fn bad_configurations(idp: &Idp, elsewhere: &Idp) -> Vec<(Answer, &'static str)> {
    let keys_at = |uri: &str| json!({"issuer": idp.url, "jwks_uri": uri}).to_string();
    let json = |body: String, label| (Answer::json(body), label);
    vec![
        (redirect("http://127.0.0.1/"), "status"),
        json(idp.configuration(&elsewhere.url), "document"),
        json(idp.configuration(&format!("{}/", idp.url)), "document"),
        json(keys_at("http://idp.example/jwks"), "document"),
        json(json!({"issuer": idp.url}).to_string(), "document"),
        json("[]".to_owned(), "document"),
        json("x".repeat(300_000), "too_large"),
        // Another server, whose certificate is of another root.
        json(keys_at(&format!("{}/jwks", elsewhere.url)), "tls"),
    ]
}

fn redirect(to: &str) -> Answer {
    Answer::raw(format!(
        "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
    ))
}

#[tokio::test]
async fn a_bad_answer_never_replaces_good_keys() {
    let key = Signer::new("k1");
    let (idp, elsewhere) = (
        Idp::start(&[&key]).await,
        Idp::start(&[&Signer::new("evil")]).await,
    );
    let authn = ready(&idp).await;
    let generation = authn.generation();
    let (token, now) = (key.sign(&idp.claims()), SystemTime::now());
    let good = jwks(&[&key]);
    let at = |path: &'static str| move |(answer, label)| (path, answer, label);
    let cases = bad_key_sets(&good)
        .into_iter()
        .chain(bad_messages(&good, &idp, &elsewhere))
        .map(at("/jwks"))
        .chain(
            bad_configurations(&idp, &elsewhere)
                .into_iter()
                .map(at(WELL_KNOWN)),
        );
    for (path, answer, label) in cases {
        idp.answer(path, answer);
        let before = fetched(&authn, label);
        refresh(&authn).await;
        let status = &authn.status(now)[0];
        assert_eq!(
            fetched(&authn, label),
            before + 1,
            "{label}: {:?}",
            status.last_error
        );
        assert_eq!(
            (status.state, status.kids.join(" ").as_str()),
            (IssuerState::Stale, "k1")
        );
        assert_eq!(reason(&authn.verify(&token, now).await), "ok");
        let next = status.next_refresh.expect("a time") - unix(now);
        assert!(next <= 62, "it is tried again soon: {next}");
        idp.answer("/jwks", Answer::json(good.clone()));
        idp.answer(WELL_KNOWN, Answer::json(idp.configuration(&idp.url)));
    }
    let followed = elsewhere.asked("/jwks") + idp.asked("/other");
    assert_eq!(followed, 0, "no redirect was followed");
    assert_eq!(authn.generation(), generation);
    assert_eq!(counted(&authn, "corp", "ok", false), 1, "nor was the cache lost");
    refresh(&authn).await;
    assert_eq!(authn.status(now)[0].state, IssuerState::Ready);
}

#[tokio::test]
async fn a_provider_that_says_nothing_is_given_up() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    let options = AuthnOptions {
        fetch_timeout: Duration::from_millis(200),
        ..authn_options()
    };
    let authn = Authenticator::new(vec![idp.options()], options).expect("good");
    idp.answer("/jwks", Answer::Silence);
    refresh(&authn).await;
    assert_eq!(fetched(&authn, "timeout"), 1);
}

#[tokio::test]
async fn an_outage_keeps_the_keys_for_a_day_and_then_denies() {
    let key = Signer::new("k1");
    let mut idp = Idp::start(&[&key]).await;
    let authn = ready(&idp).await;
    let now = SystemTime::now();
    let mut claims = idp.claims();
    claims["exp"] = json!(unix(now) + 30 * 24 * 3600);
    let (token, fresh) = (key.sign(&claims), {
        claims["n"] = json!(1);
        key.sign(&claims)
    });
    assert_eq!(reason(&authn.verify(&token, now).await), "ok");
    idp.stop().await;
    refresh(&authn).await;
    assert_eq!(fetched(&authn, "connect"), 1);
    let hours = |n: u64| now + Duration::from_secs(n * 3600);
    assert_eq!(authn.status(hours(23))[0].state, IssuerState::Stale);
    assert_eq!(reason(&authn.verify(&token, hours(23)).await), "ok");
    assert_eq!(authn.status(hours(25))[0].state, IssuerState::Expired);
    assert_eq!(
        reason(&authn.verify(&token, hours(25)).await),
        "unavailable",
        "the cache does not outlive the keys"
    );
    assert_eq!(reason(&authn.verify(&fresh, hours(25)).await), "unavailable");
}

#[tokio::test]
async fn a_key_that_is_gone_takes_its_tokens_with_it() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let idp = Idp::start(&[&old, &new]).await;
    let authn = ready(&idp).await;
    let now = SystemTime::now();
    let (lost, kept) = (old.sign(&idp.claims()), new.sign(&idp.claims()));
    for token in [&lost, &kept] {
        assert_eq!(reason(&authn.verify(token, now).await), "ok");
    }
    let generation = authn.generation();

    // The same keys again change nothing, in whatever order.
    idp.answer("/jwks", Answer::json(jwks(&[&new, &old])));
    refresh(&authn).await;
    assert_eq!(authn.generation(), generation);
    assert_eq!(reason(&authn.verify(&lost, now).await), "ok");
    assert_eq!(counted(&authn, "corp", "ok", true), 1);

    idp.answer("/jwks", Answer::json(jwks(&[&new])));
    refresh(&authn).await;
    assert!(authn.generation() > generation);
    assert_eq!(reason(&authn.verify(&kept, now).await), "ok");
    assert_eq!(
        counted(&authn, "corp", "ok", true),
        1,
        "verified anew with the new keys"
    );
    let options = AuthnOptions {
        refetch_wait: Duration::ZERO,
        ..authn_options()
    };
    let impatient = Authenticator::new(vec![idp.options()], options).expect("good");
    refresh(&impatient).await;
    assert_eq!(reason(&impatient.verify(&lost, now).await), "unknown_kid");
    let source = authn.source("corp");
    let (result, ()) = tokio::join!(authn.verify(&lost, now), source.refresh(Trigger::Asked, now));
    assert_eq!(reason(&result), "unknown_kid");
}

#[tokio::test]
async fn a_lifetime_moves_the_next_refresh() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    for (header, from, to) in [
        ("cache-control: max-age=3600\r\n", 2700, 2880),
        ("cache-control: max-age=1\r\n", 225, 240),
        ("cache-control: no-store\r\n", 225, 240),
        ("cache-control: max-age=99999999\r\n", 64_800, 69_120),
    ] {
        idp.answer("/jwks", Answer::Ok(jwks(&[&key]), header));
        let authn = ready(&idp).await;
        let status = &authn.status(SystemTime::now())[0];
        let next = status.next_refresh.expect("a time") - status.fetched_at.expect("a time");
        assert!((from - 1..=to + 1).contains(&next), "{header}: {next}");
    }
}
