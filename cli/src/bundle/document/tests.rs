use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};

use super::*;

fn certificate(uri: Option<&str>, ca: bool) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.is_ca = if ca {
        IsCa::Ca(BasicConstraints::Unconstrained)
    } else {
        IsCa::ExplicitNoCa
    };
    params.subject_alt_names = uri
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .clone()
}

fn ours() -> CertificateDer<'static> {
    certificate(Some("spiffe://mesh.test"), true)
}

fn jwt_key(kid: Option<&str>) -> Value {
    let key = KeyPair::generate().unwrap();
    let root = CertificateParams::default().self_signed(&key).unwrap();
    let mut jwk = root_jwk(root.der()).unwrap();
    let members = jwk.as_object_mut().unwrap();
    members.remove("x5c");
    members.insert("use".to_owned(), json!("jwt-svid"));
    kid.map(|kid| members.insert("kid".to_owned(), json!(kid)));
    jwk
}

fn parse(document: &Value) -> Result<Bundle, String> {
    Bundle::parse(document.to_string().as_bytes())
}

#[test]
fn what_is_written_is_what_was_read() {
    let (one, two) = (ours(), ours());
    let document = json!({
        "keys": [root_jwk(&one).unwrap(), jwt_key(Some("a")), root_jwk(&two).unwrap()],
        "spiffe_sequence": u64::MAX, "spiffe_refresh_hint": 60,
    });
    let bundle = parse(&document).unwrap();
    assert_eq!((bundle.sequence, bundle.refresh_hint), (Some(u64::MAX), Some(60)));
    assert_eq!(
        (bundle.roots.len(), bundle.kids.as_slice()),
        (2, ["a".to_owned()].as_slice())
    );
    assert!(
        bundle.problems.is_empty() && bundle.ignored.is_empty(),
        "{bundle:?}"
    );
    assert_eq!(bundle.domain().unwrap().as_str(), "mesh.test");
    let again = parse(&bundle.to_spiffe().unwrap()).unwrap();
    assert_eq!(again.roots, bundle.roots);
    assert_eq!(again.to_spiffe().unwrap(), bundle.to_spiffe().unwrap());
    assert_eq!(bundle.to_jwks()["keys"][0]["use"], "sig");
    let pem = files::certificates(&[one.clone(), two.clone()]);
    assert_eq!(Bundle::parse(pem.as_bytes()).unwrap().roots, bundle.roots);
    assert_eq!(
        Bundle::parse(&[one.to_vec(), two.to_vec()].concat())
            .unwrap()
            .roots,
        bundle.roots
    );
}

#[test]
fn what_cannot_be_used_is_not_trusted_and_told() {
    let good = root_jwk(&ours()).unwrap();
    let with = |name: &str, value: Value| {
        let mut jwk = good.clone();
        jwk.as_object_mut().unwrap().insert(name.to_owned(), value);
        jwk
    };
    let without = |name: &str| {
        let mut jwk = good.clone();
        jwk.as_object_mut().unwrap().remove(name);
        jwk
    };
    let root = STANDARD.encode(ours());
    let leaf = STANDARD.encode(certificate(Some("spiffe://mesh.test"), false));
    let path = STANDARD.encode(certificate(Some("spiffe://mesh.test/a"), true));
    for (jwk, word) in [
        // S-15: exactly one certificate.
        (with("x5c", json!([root, root])), "2 certificates"),
        (with("x5c", json!([])), "0 certificates"),
        (with("x5c", json!("x")), "not there"),
        (with("x5c", json!(["!"])), "base64"),
        (without("x5c"), "not there"),
        (without("kty"), "kty"),
        (with("x5c", json!([leaf])), "no certificate authority"),
        (with("x5c", json!([path])), "trust domain"),
        // S-26: JWT keys have a kid.
        (jwt_key(None), "kid"),
        (json!("x"), "no object"),
    ] {
        let bundle = parse(&json!({ "keys": [jwk] })).unwrap();
        assert!(bundle.is_empty(), "{word}");
        assert!(
            bundle.problems.iter().any(|problem| problem.contains(word)),
            "{word}: {:?}",
            bundle.problems
        );
    }
}

#[test]
fn what_is_for_others_is_passed_over() {
    let good = root_jwk(&ours()).unwrap();
    // S-34: other uses and kinds are passed over, the rest is kept.
    let (mut other_use, mut no_use) = (good.clone(), good.clone());
    other_use["use"] = json!("wit-svid");
    no_use.as_object_mut().unwrap().remove("use");
    let mut unknown = jwt_key(Some("new"));
    unknown
        .as_object_mut()
        .unwrap()
        .insert("kty".to_owned(), json!("XYZ"));
    let bundle = parse(&json!({"keys": [other_use, no_use, unknown, good]})).unwrap();
    assert_eq!(
        (bundle.roots.len(), bundle.problems.len(), bundle.ignored.len()),
        (1, 0, 3),
        "{bundle:?}"
    );
    // Roots of two trust domains are one bundle of nobody.
    let other = root_jwk(&certificate(Some("spiffe://other.test"), true)).unwrap();
    let mixed = parse(&json!({"keys": [good, other]})).unwrap();
    assert!(mixed.domain().is_none() && mixed.problems.len() == 1, "{mixed:?}");
    // S-61: an empty bundle is one, and trusts nobody.
    assert!(parse(&json!({"keys": []})).unwrap().is_empty());
    for bad in [
        json!({}),
        json!({"keys": {}}),
        json!({"keys": vec![json!({}); 257]}),
    ] {
        assert!(parse(&bad).is_err());
    }
    for bad in [&b"{\"keys\":[],\"keys\":[]}"[..], b"{", b"", b"rubbish"] {
        assert!(Bundle::parse(bad).is_err());
    }
    assert_eq!(
        parse(&json!({"keys": [], "spiffe_sequence": "1"}))
            .unwrap()
            .problems
            .len(),
        1
    );
}

/// S-59: what was fetched takes the place of what is there only when it is of the same trust domain, and not older.
#[test]
fn a_bundle_is_followed_by_a_newer_one_of_its_own_trust_domain() {
    let (one, two) = (ours(), ours());
    let other = certificate(Some("spiffe://other.test"), true);
    let (silent, stranger) = (certificate(None, true), certificate(None, true));
    let of = |roots: &[&CertificateDer<'static>], sequence: Option<u64>| {
        let keys: Vec<Value> = roots.iter().map(|root| root_jwk(root).unwrap()).collect();
        let mut document = json!({ "keys": keys });
        if let Some(sequence) = sequence {
            document["spiffe_sequence"] = json!(sequence);
        }
        parse(&document).unwrap()
    };
    let keys = |kid: &str| parse(&json!({"keys": [jwt_key(Some(kid))]})).unwrap();
    for (before, after, word) in [
        (of(&[&one], Some(2)), of(&[&one], Some(2)), ""),
        // All roots may have changed meanwhile: they say whose they are.
        (of(&[&one], Some(2)), of(&[&two], Some(3)), ""),
        (of(&[&one], None), of(&[&two], Some(1)), ""),
        (of(&[&one], None), of(&[&two], None), ""),
        (of(&[&silent], None), of(&[&silent, &stranger], Some(1)), ""),
        (of(&[&one], Some(2)), of(&[&one], Some(1)), "the older 1"),
        (of(&[&one], Some(2)), of(&[&one], None), "one without"),
        (of(&[&one], Some(1)), of(&[&other], Some(2)), "of other.test"),
        (of(&[&one], None), of(&[&other], None), "of other.test"),
        (of(&[&one], None), of(&[&one, &other], None), "be of the same"),
        (of(&[&one], None), of(&[&silent], None), "do not name"),
        (of(&[&silent], None), of(&[&one], None), "of mesh.test"),
        (of(&[&silent], None), of(&[&stranger], None), "do not name"),
        (keys("a"), keys("a"), "do not name"),
    ] {
        match before.is_followed_by(&after) {
            Ok(()) => assert_eq!(word, "", "{before:?}\n{after:?}"),
            Err((problem, _)) => assert!(!word.is_empty() && problem.contains(word), "{word}: {problem}"),
        }
    }
    let same = keys("a");
    assert!(
        same.is_followed_by(&parse(&same.to_spiffe().unwrap()).unwrap())
            .is_ok()
    );
}

#[test]
fn a_root_that_names_nobody_is_only_known_by_its_fingerprint() {
    let wanted = TrustDomain::new("mesh.test").unwrap();
    let of = |uri: Option<&str>| {
        let root = root_jwk(&certificate(uri, true)).unwrap();
        parse(&json!({"keys": [root_jwk(&ours()).unwrap(), root]})).unwrap()
    };
    for fingerprints in [true, false] {
        assert!(
            of(Some("spiffe://mesh.test"))
                .not_of(&wanted, fingerprints)
                .is_empty()
        );
        assert!(of(Some("spiffe://other.test")).not_of(&wanted, fingerprints)[0].contains("another"));
        let keys = parse(&json!({"keys": [jwt_key(Some("a"))]})).unwrap();
        assert!(keys.not_of(&wanted, fingerprints)[0].contains("no X.509 root"));
    }
    assert!(of(None).not_of(&wanted, true).is_empty());
    assert!(of(None).not_of(&wanted, false)[0].contains("--fingerprint"));
}
