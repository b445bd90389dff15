//! What the authority's certificates are, seen from outside by a parser that is not its own.

use std::process::Command;

use hopguard_tests::hopguard;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use crate::support::*;

/// The certificates of a PEM file.
fn certificates(authority: &Authority, file: &str) -> Vec<Pem> {
    let text = std::fs::read(authority.path("out").join(file)).unwrap();
    Pem::iter_from_buffer(&text).map(Result::unwrap).collect()
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> (Vec<&'a str>, bool) {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let uris = names.value.general_names.iter().map(|name| match name {
        GeneralName::URI(uri) => *uri,
        other => panic!("a name of another kind: {other}"),
    });
    (uris.collect(), names.critical)
}

/// S-6 to S-15, as far as they can be seen.
#[test]
fn the_root_and_the_leaf_have_their_profiles() {
    let authority = Authority::start(&for_us("ns/shop/sa/orders"));
    std::fs::create_dir(authority.path("out")).unwrap();
    let fetched = hopguard()
        .args(["svid", "fetch", "--socket", &authority.endpoint(), "--write"])
        .arg(authority.path("out"))
        .output()
        .unwrap();
    assert!(fetched.status.success(), "{fetched:?}");
    let (chain, bundle) = (
        certificates(&authority, "svid.0.pem"),
        certificates(&authority, "bundle.0.pem"),
    );
    let (leaf, root) = (chain[0].parse_x509().unwrap(), bundle[0].parse_x509().unwrap());

    assert_eq!(uris(&leaf).0, ["spiffe://mesh.local/ns/shop/sa/orders"]);
    assert_eq!(
        uris(&root).0,
        ["spiffe://mesh.local"],
        "the trust domain's own ID, without a path"
    );
    for (certificate, authority) in [(&leaf, false), (&root, true)] {
        let empty = certificate.subject().iter().next().is_none();
        assert!(
            !empty || uris(certificate).1,
            "an empty subject needs critical names"
        );
        let constraints = certificate
            .basic_constraints()
            .unwrap()
            .expect("basicConstraints are there");
        assert_eq!(constraints.value.ca, authority);
        let usage = certificate.key_usage().unwrap().expect("key usage is there");
        assert!(usage.critical);
        assert_eq!(usage.value.digital_signature(), !authority);
        assert_eq!(usage.value.key_cert_sign(), authority);
        let constrained = certificate
            .extensions()
            .iter()
            .any(|extension| matches!(extension.parsed_extension(), ParsedExtension::NameConstraints(_)));
        assert!(!constrained, "webpki refuses chains with them");
    }
    let roles = leaf
        .extended_key_usage()
        .unwrap()
        .expect("extended key usage is there")
        .value;
    assert!(roles.server_auth && roles.client_auth && !roles.any && roles.other.is_empty());
    assert_eq!(root.subject(), root.issuer(), "self-signed");
    let verified = Command::new("openssl")
        .args(["verify", "-x509_strict", "-CAfile"])
        .args([
            authority.path("out/bundle.0.pem"),
            authority.path("out/bundle.0.pem"),
        ])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}
