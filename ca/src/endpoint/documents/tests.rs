use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use hopguard_jose::{KeyPolicy, KeySet};
use rcgen::{CertificateParams, KeyPair};
use spiffe::TrustDomain;

use super::*;
use crate::authority::JwtKey;
use crate::keys::{Disk, Signer};

/// A trust with these roots and as many JWT keys.
fn trust(roots: Vec<CertificateDer<'static>>, keys: usize) -> Trust {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(dir.path());
    let jwt = |at: usize| JwtKey::new(disk.create(&format!("k{at}")).unwrap().public_key()).unwrap();
    Trust {
        domain: TrustDomain::new("td").unwrap(),
        roots,
        jwt_keys: (0..keys).map(jwt).collect(),
        crls: vec![vec![1]],
        sequence: u64::MAX,
        refresh_hint: Duration::from_secs(77),
    }
}

fn root(algorithm: &'static rcgen::SignatureAlgorithm) -> CertificateDer<'static> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    CertificateParams::default()
        .self_signed(&key)
        .unwrap()
        .der()
        .clone()
}

fn of_ours() -> CertificateDer<'static> {
    let dir = tempfile::tempdir().unwrap();
    let signer: std::sync::Arc<dyn Signer> = Disk::new(dir.path()).create("root").unwrap();
    let domain = TrustDomain::new("td").unwrap();
    crate::authority::Authority::create(&domain, &signer, Duration::from_secs(3600), SystemTime::now())
        .unwrap()
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn a_bundle_is_what_the_specification_says() {
    let trust = trust(vec![of_ours(), root(&rcgen::PKCS_ECDSA_P384_SHA384)], 2);
    let document = json_of(&bundle(&trust).unwrap());
    // S-61: keys is there. S-59: at least 64 bits. S-60: whole seconds.
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(document["spiffe_sequence"], json!(u64::MAX));
    assert_eq!(document["spiffe_refresh_hint"], json!(77));
    let members: BTreeSet<_> = document.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["keys", "spiffe_refresh_hint", "spiffe_sequence"].into());
    assert_eq!(keys.len(), 4);
    // S-15: one JWK a root, no kid, exactly one certificate, which is the root.
    for (jwk, root) in keys.iter().zip(&trust.roots) {
        assert_eq!(jwk["use"], "x509-svid");
        assert_eq!(jwk.get("kid"), None);
        assert_eq!(jwk["x5c"], json!([STANDARD.encode(root)]));
    }
    assert_eq!(
        (&keys[0]["crv"], &keys[1]["crv"]),
        (&json!("P-256"), &json!("P-384"))
    );
    // S-26: JWT keys with use and kid.
    for (jwk, key) in keys.iter().skip(2).zip(&trust.jwt_keys) {
        assert_eq!((&jwk["use"], &jwk["kid"]), (&json!("jwt-svid"), &json!(key.kid)));
        assert_eq!(jwk.get("x5c"), None);
        assert_eq!(jwk.get("d"), None);
    }
    // The stock reader of bundles takes the JWT half as it is (S-34: and passes over the rest).
    let set = KeySet::parse(&bundle(&trust).unwrap(), &KeyPolicy::JWT_SVID).unwrap();
    assert_eq!(set.len(), 2);
}

#[test]
fn a_root_of_every_kind_is_its_own_key_as_a_jwk() {
    for (algorithm, kty) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "EC"),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "EC"),
        (&rcgen::PKCS_ECDSA_P521_SHA512, "EC"),
        (&rcgen::PKCS_ED25519, "OKP"),
        (&rcgen::PKCS_RSA_SHA256, "RSA"),
    ] {
        let trust = trust(vec![root(algorithm)], 0);
        let mut document = json_of(&bundle(&trust).unwrap());
        assert_eq!(document["keys"][0]["kty"], kty);
        // As a key for tokens its numbers must be sound.
        document["keys"][0]["use"] = json!("sig");
        let set = KeySet::parse(document.to_string().as_bytes(), &KeyPolicy::SIGNATURES).unwrap();
        assert_eq!(set.len(), 1, "{kty}: {:?}", set.ignored());
    }
}

#[test]
fn the_documents_of_openid_say_what_libraries_look_for() {
    let trust = trust(vec![of_ours()], 2);
    let set = json_of(&key_set(&trust));
    assert_eq!(set["keys"].as_array().unwrap().len(), 2, "no key of a root");
    for (jwk, key) in set["keys"].as_array().unwrap().iter().zip(&trust.jwt_keys) {
        assert_eq!(jwk["use"], "sig");
        assert_eq!((&jwk["alg"], &jwk["kid"]), (&json!("ES256"), &json!(key.kid)));
    }
    let parsed = KeySet::parse(&key_set(&trust), &KeyPolicy::SIGNATURES).unwrap();
    assert_eq!(parsed.len(), 2);
    let document = json_of(&discovery("https://id.test/a"));
    assert_eq!(document["issuer"], "https://id.test/a");
    assert_eq!(document["jwks_uri"], "https://id.test/a/keys");
    assert_eq!(
        document["id_token_signing_alg_values_supported"],
        json!(["ES256"])
    );
}

#[test]
fn the_same_trust_gives_the_same_bytes() {
    let trust = trust(vec![of_ours()], 1);
    assert_eq!(bundle(&trust).unwrap(), bundle(&trust.clone()).unwrap());
    assert!(
        bundle(&Trust {
            roots: vec![CertificateDer::from(vec![1])],
            ..trust
        })
        .is_err()
    );
}
