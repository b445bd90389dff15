//! JWT-SVIDs of a session, with an issuer that tests decide over.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use super::*;
use crate::authority::{JwtAuthority, JwtKey};
use crate::keys::Disk;
use crate::workload::proto::{JwtsvidRequest, ValidateJwtsvidRequest};

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

fn request(audience: &[&str], spiffe_id: &str) -> JwtsvidRequest {
    JwtsvidRequest {
        audience: audience.iter().map(|one| (*one).to_owned()).collect(),
        spiffe_id: spiffe_id.to_owned(),
    }
}

/// What was handed out, as `ID=token`.
async fn fetch(stage: &Stage, audience: &[&str], spiffe_id: &str) -> Result<Vec<String>, tonic::Code> {
    let mut session = stage.session();
    let answer = tokio::time::timeout(DEADLINE, session.jwt_svids(request(audience, spiffe_id))).await;
    let answer = answer
        .expect("an answer in time")
        .map_err(|status| status.code())?;
    let told = |svid: crate::workload::proto::Jwtsvid| format!("{}={}", svid.spiffe_id, svid.svid);
    Ok(answer.svids.into_iter().map(told).collect())
}

/// S-52.
#[tokio::test]
async fn all_identities_or_the_one_that_was_asked_for() {
    let stage = stage(&["b", "a"], HOUR);
    assert_eq!(
        fetch(&stage, &["x", "y"], "").await.unwrap(),
        ["spiffe://td/b=0 for x and y", "spiffe://td/a=1 for x and y"]
    );
    assert_eq!(
        fetch(&stage, &["x"], "spiffe://td/a").await.unwrap(),
        ["spiffe://td/a=2 for x"]
    );
    for (wanted, code) in [
        ("spiffe://td/c", tonic::Code::PermissionDenied),
        ("spiffe://td", tonic::Code::PermissionDenied),
        ("spiffe://other/a", tonic::Code::PermissionDenied),
        ("spiffe://TD/a", tonic::Code::InvalidArgument),
        ("a", tonic::Code::InvalidArgument),
    ] {
        assert_eq!(fetch(&stage, &["x"], wanted).await, Err(code), "{wanted}");
    }
    assert_eq!(
        stage.issuer.issued.load(Ordering::Relaxed),
        3,
        "nothing was signed in vain"
    );
}

#[tokio::test]
async fn what_a_token_may_be_for_is_bounded() {
    let stage = stage(&["a"], HOUR);
    let invalid = Err(tonic::Code::InvalidArgument);
    assert_eq!(fetch(&stage, &[], "").await, invalid);
    assert_eq!(fetch(&stage, &["x", ""], "").await, invalid);
    assert_eq!(fetch(&stage, &["x"; 33], "").await, invalid);
    assert_eq!(fetch(&stage, &["x".repeat(3069).as_str()], "").await, invalid);
    // Escapes count, or the token would outgrow what verifiers read.
    assert_eq!(fetch(&stage, &["\u{1}".repeat(520).as_str()], "").await, invalid);
    assert_eq!(stage.issuer.issued.load(Ordering::Relaxed), 0);
    assert!(fetch(&stage, &["x"; 32], "").await.is_ok());
    assert!(fetch(&stage, &["x".repeat(3068).as_str()], "").await.is_ok());
}

#[tokio::test]
async fn who_loses_an_identity_while_it_is_signed_gets_no_token_of_it() {
    let stage = stage(&["a", "b"], HOUR);
    let sender = stage.entries.clone();
    stage.meanwhile(move || {
        sender.send_replace(entries(&["b"]));
    });
    assert_eq!(
        fetch(&stage, &["x"], "").await.unwrap(),
        ["spiffe://td/b=2 for x"]
    );
    let sender = stage.entries.clone();
    stage.meanwhile(move || {
        sender.send_replace(entries(&[]));
    });
    assert_eq!(
        fetch(&stage, &["x"], "").await,
        Err(tonic::Code::PermissionDenied)
    );
}

#[tokio::test]
async fn a_token_by_a_key_that_was_replaced_meanwhile_is_signed_anew() {
    let stage = stage(&["a"], HOUR);
    let sender = stage.issuer.trust.clone();
    stage.meanwhile(move || {
        sender.send_replace(trust("root 2"));
    });
    assert_eq!(
        fetch(&stage, &["x"], "").await.unwrap(),
        ["spiffe://td/a=1 for x"]
    );
}

#[tokio::test]
async fn a_revoked_identity_gets_no_token_and_others_do() {
    let stage = stage(&["a", "b"], HOUR);
    stage.issuer.revoked.lock().unwrap().push(id("spiffe://td/a"));
    assert_eq!(
        fetch(&stage, &["x"], "").await.unwrap(),
        ["spiffe://td/b=0 for x"]
    );
    assert_eq!(
        fetch(&stage, &["x"], "spiffe://td/a").await,
        Err(tonic::Code::PermissionDenied)
    );
    stage.issuer.revoked.lock().unwrap().push(id("spiffe://td/b"));
    assert_eq!(
        fetch(&stage, &["x"], "").await,
        Err(tonic::Code::PermissionDenied)
    );
}

#[tokio::test]
async fn an_identity_that_is_revoked_while_it_is_signed_gets_no_token() {
    let stage = stage(&["a"], HOUR);
    let issuer = stage.issuer.clone();
    stage.meanwhile(move || issuer.revoked.lock().unwrap().push(id("spiffe://td/a")));
    assert_eq!(
        fetch(&stage, &["x"], "").await,
        Err(tonic::Code::PermissionDenied)
    );
}

#[tokio::test]
async fn a_signature_that_fails_and_an_authority_that_ends_are_unavailable() {
    let stage = stage(&["a"], HOUR);
    *stage.issuer.fails.lock().unwrap() = true;
    assert_eq!(fetch(&stage, &["x"], "").await, Err(tonic::Code::Unavailable));
    *stage.issuer.fails.lock().unwrap() = false;
    stage.closing.send_replace(true);
    assert_eq!(fetch(&stage, &["x"], "").await, Err(tonic::Code::Unavailable));
    let validated = stage.session().validated(validation("x.y.z")).await;
    assert_eq!(validated.unwrap_err().code(), tonic::Code::Unavailable);
}

/// S-44, S-50, S-51.
#[tokio::test]
async fn keys_are_pushed_when_they_change_and_not_with_other_news() {
    let stage = stage(&["a"], HOUR);
    let mut session = stage.session();
    let first = session.jwt_bundles().await.unwrap();
    assert_eq!(
        first.bundles["spiffe://td"], br#"{"keys":[]}"#,
        "the own bundle is there, also an empty one"
    );
    stage.issuer.trust.send_replace(trust("root 2"));
    stage.entries.send_replace(entries(&["a", "b"]));
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let mut changed = Trust::clone(&trust("root 2"));
    changed
        .jwt_keys
        .push(JwtKey::new(pair.public_key().as_ref()).unwrap());
    let sender = stage.issuer.trust.clone();
    let later = tokio::spawn(async move {
        tokio::task::yield_now().await;
        sender.send_replace(Arc::new(changed));
    });
    let second = tokio::time::timeout(DEADLINE, session.jwt_bundles())
        .await
        .unwrap()
        .unwrap();
    later.await.unwrap();
    assert!(
        second.bundles["spiffe://td"].len() > 100,
        "not the empty set again"
    );
}

fn validation(svid: &str) -> ValidateJwtsvidRequest {
    ValidateJwtsvidRequest {
        audience: "x".to_owned(),
        svid: svid.to_owned(),
    }
}

/// S-38, S-46.
#[tokio::test]
async fn who_is_nobody_validates_nothing() {
    let stage = stage(&[], HOUR);
    let mut session = stage.session();
    let code = |said: Result<_, Status>| said.map(|_| ()).map_err(|status| status.code());
    assert_eq!(
        code(session.validated(validation("x.y.z")).await),
        Err(tonic::Code::PermissionDenied)
    );
    assert_eq!(
        code(session.validated(validation("")).await),
        Err(tonic::Code::InvalidArgument)
    );
}

/// S-53: what is signed and in order is believed until its identity is revoked.
#[tokio::test]
async fn a_revoked_identity_is_not_believed() {
    // Who asks must have an identity left.
    let stage = stage(&["a", "b"], HOUR);
    let dir = tempfile::tempdir().unwrap();
    let signer = Disk::new(dir.path()).create("k").unwrap();
    let mut changed = Trust::clone(&trust("root 1"));
    let authority = JwtAuthority::open(&changed.domain, signer, None).unwrap();
    changed.jwt_keys.push(authority.key().clone());
    stage.issuer.trust.send_replace(Arc::new(changed));
    let audience = ["x".to_owned()];
    let svid = authority
        .issue(&id("spiffe://td/a"), &audience, HOUR, SystemTime::now())
        .unwrap();
    let mut session = stage.session();
    assert_eq!(
        session
            .validated(validation(&svid.token))
            .await
            .unwrap()
            .spiffe_id,
        "spiffe://td/a"
    );
    stage.issuer.revoked.lock().unwrap().push(id("spiffe://td/a"));
    let refused = session.validated(validation(&svid.token)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("revoked"), "{refused}");

    // Lifted: what was issued before stays worthless, what is younger is not.
    stage.issuer.revoked.lock().unwrap().clear();
    let issued = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let issued = i64::try_from(issued.as_secs()).unwrap();
    *stage.issuer.lifted.lock().unwrap() = Some(issued);
    let refused = session.validated(validation(&svid.token)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("was revoked"), "{refused}");
    *stage.issuer.lifted.lock().unwrap() = Some(issued - 3600);
    session.validated(validation(&svid.token)).await.unwrap();
}
