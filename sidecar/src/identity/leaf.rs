//! What a certificate must be to stand for a workload: the leaf rules of X509-SVID section 5.2 and SPIFFE-ID section 2.
//! A DER certificate enters, its SPIFFE ID and validity leave. It never builds a path nor looks at the clock.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use spiffe::SpiffeId;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::der;

/// The longest SPIFFE ID that is accepted, in bytes (SPIFFE-ID 2.3).
const MAX_ID: usize = 2048;
/// The shortest RSA modulus that is accepted, in bits.
const MIN_RSA: usize = 2048;
/// The extensions that we look into: one that is critical and none of these must be refused (RFC 5280 4.2).
const KNOWN: [Oid<'static>; 4] = [
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
];

/// What a leaf says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The one SPIFFE ID in it.
    pub id: SpiffeId,
    /// Not valid before.
    pub not_before: SystemTime,
    /// Not valid after.
    pub not_after: SystemTime,
}

/// Why a certificate cannot stand for a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafProblem {
    /// Not an X.509 certificate, or an extension that matters cannot be read.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// Not exactly one URI name (X509-SVID 2).
    #[error("{0} URI names in the certificate, an SVID has exactly one")]
    UriNames(usize),
    /// The URI is no SPIFFE ID.
    #[error("the URI name is not a SPIFFE ID: {0}")]
    BadId(&'static str),
    /// The ID of a trust domain, not of a workload.
    #[error("the SPIFFE ID has no path, it names a trust domain and not a workload")]
    NoPath,
    /// A signing certificate (X509-SVID 4.1).
    #[error("a certificate authority (cA = true) cannot stand for a workload")]
    IsAuthority,
    /// keyUsage allows what a leaf must not do, or not what it must (X509-SVID 4.3).
    #[error("key usage: {0}")]
    KeyUsage(&'static str),
    /// extKeyUsage is there and allows one role only (X509-SVID 4.4).
    #[error(
        "extended key usage: {0} is missing; where the extension is, both serverAuth and clientAuth must be in it"
    )]
    ExtendedKeyUsage(&'static str),
    /// A rule that its issuer holds for essential, and that we do not know (RFC 5280 4.2).
    #[error("the critical extension {0} is not known")]
    Critical(String),
    /// An RSA key that is too short.
    #[error("an RSA key of {0} bits, at least {MIN_RSA} are asked for")]
    ShortKey(usize),
}

/// Reads a leaf by the rules.
///
/// # Errors
/// The first rule that it breaks.
pub fn leaf(cert: &CertificateDer<'_>) -> Result<Leaf, LeafProblem> {
    let parsed = parse(cert)?;
    check_extensions(&parsed)?;
    check_usage(&parsed)?;
    check_key(&parsed)?;
    Ok(Leaf {
        id: parse_id(only_uri(&parsed)?)?,
        not_before: der::time(parsed.validity().not_before.timestamp()),
        not_after: der::time(parsed.validity().not_after.timestamp()),
    })
}

/// Reads a SPIFFE ID strictly: lowercase scheme and trust domain, a path, at most 2048 bytes, nothing that another
/// reader could normalize.
///
/// # Errors
/// [`LeafProblem::BadId`] or [`LeafProblem::NoPath`].
pub fn parse_id(text: &str) -> Result<SpiffeId, LeafProblem> {
    if text.len() > MAX_ID {
        return Err(LeafProblem::BadId("longer than 2048 bytes"));
    }
    let id = SpiffeId::new(text).map_err(|e| LeafProblem::BadId(why(&e)))?;
    // The crate accepts uppercase and lowers it; we take an ID only as it will be compared and logged.
    if id.to_string() != text {
        return Err(LeafProblem::BadId(
            "not in canonical form (uppercase scheme or trust domain)",
        ));
    }
    if id.path().is_empty() {
        return Err(LeafProblem::NoPath);
    }
    Ok(id)
}

fn why(error: &spiffe::SpiffeIdError) -> &'static str {
    use spiffe::SpiffeIdError as E;
    match error {
        E::Empty | E::MissingTrustDomain => "no trust domain",
        E::WrongScheme => "the scheme is not spiffe",
        E::BadTrustDomainChar => "a character that a trust domain cannot have",
        E::BadPathSegmentChar => "a character that a path cannot have",
        E::EmptySegment | E::TrailingSlash => "an empty path segment",
        E::DotSegment => "a dot segment",
        E::SpiffeIdTooLong { .. } | E::TrustDomainTooLong { .. } => "too long",
        _ => "malformed",
    }
}

pub(super) fn parse<'a>(cert: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, LeafProblem> {
    let (rest, parsed) =
        X509Certificate::from_der(cert.as_ref()).map_err(|e| LeafProblem::Malformed(e.to_string()))?;
    if rest.is_empty() {
        Ok(parsed)
    } else {
        Err(LeafProblem::Malformed("bytes after the certificate".into()))
    }
}

/// The one URI name; other kinds of names are free (X509-SVID 2).
pub(super) fn only_uri<'a>(cert: &'a X509Certificate<'_>) -> Result<&'a str, LeafProblem> {
    let names = cert
        .subject_alternative_name()
        .map_err(|e| LeafProblem::Malformed(e.to_string()))?
        .map_or(&[][..], |san| san.value.general_names.as_slice());
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => {
                return Err(LeafProblem::Malformed("a subject alternative name".into()));
            }
            _ => {}
        }
    }
    match uris.as_slice() {
        [one] => Ok(one),
        many => Err(LeafProblem::UriNames(many.len())),
    }
}

fn check_extensions(cert: &X509Certificate<'_>) -> Result<(), LeafProblem> {
    let malformed = |e: x509_parser::error::X509Error| LeafProblem::Malformed(e.to_string());
    // The parser reports what it cannot read as if it were absent, which would pass the rules below.
    for ext in cert.extensions() {
        let known = KNOWN.contains(&ext.oid);
        if known && matches!(ext.parsed_extension(), ParsedExtension::ParseError { .. }) {
            return Err(LeafProblem::Malformed(format!("extension {}", ext.oid)));
        }
        if ext.critical && !known {
            return Err(LeafProblem::Critical(ext.oid.to_id_string()));
        }
    }
    if cert
        .basic_constraints()
        .map_err(malformed)?
        .is_some_and(|bc| bc.value.ca)
    {
        return Err(LeafProblem::IsAuthority);
    }
    Ok(())
}

/// What the key is for.
fn check_usage(cert: &X509Certificate<'_>) -> Result<(), LeafProblem> {
    let malformed = |e: x509_parser::error::X509Error| LeafProblem::Malformed(e.to_string());
    let Some(usage) = cert.key_usage().map_err(malformed)? else {
        return Err(LeafProblem::KeyUsage(
            "the extension is missing, every SVID has it",
        ));
    };
    if !usage.critical {
        return Err(LeafProblem::KeyUsage("the extension is not marked critical"));
    }
    if usage.value.key_cert_sign() {
        return Err(LeafProblem::KeyUsage("keyCertSign is for authorities"));
    }
    if usage.value.crl_sign() {
        return Err(LeafProblem::KeyUsage("cRLSign is for authorities"));
    }
    if !usage.value.digital_signature() {
        return Err(LeafProblem::KeyUsage("digitalSignature is missing"));
    }
    match cert.extended_key_usage().map_err(malformed)? {
        Some(roles) if !roles.value.server_auth => Err(LeafProblem::ExtendedKeyUsage("serverAuth")),
        Some(roles) if !roles.value.client_auth => Err(LeafProblem::ExtendedKeyUsage("clientAuth")),
        _ => Ok(()),
    }
}

/// Other kinds of keys have one size, or are refused where something is to be signed with them.
fn check_key(cert: &X509Certificate<'_>) -> Result<(), LeafProblem> {
    let key = cert.public_key().parsed();
    let Ok(PublicKey::RSA(key)) = key else {
        return key.map(drop).map_err(|e| LeafProblem::Malformed(e.to_string()));
    };
    let significant = key.modulus.iter().skip_while(|byte| **byte == 0);
    let bits = significant
        .enumerate()
        .map(|(at, byte)| 8 - if at == 0 { byte.leading_zeros() as usize } else { 0 })
        .sum();
    if bits < MIN_RSA {
        return Err(LeafProblem::ShortKey(bits));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{Ca, uri};
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
        SanType,
    };

    fn read(change: impl FnOnce(&mut CertificateParams)) -> Result<Leaf, LeafProblem> {
        leaf(&Ca::new("mesh.test").issue("/a", change).chain[0])
    }

    /// An extension that nobody knows.
    fn foreign(critical: bool) -> CustomExtension {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55_555, 1], vec![5, 0]);
        extension.set_criticality(critical);
        extension
    }

    /// S-11, S-12.
    #[test]
    fn what_the_key_is_for_must_be_said_and_said_critically() {
        use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
        // X509-SVID 4.3: keyUsage is there, and critical. rcgen marks it so; here its DER is written by hand.
        let by_hand = |critical: bool| {
            read(move |p| {
                p.key_usages.clear();
                let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
                usage.set_criticality(critical);
                p.custom_extensions.push(usage);
            })
        };
        by_hand(true).expect("digitalSignature, critical");
        assert!(matches!(by_hand(false), Err(LeafProblem::KeyUsage(_))));
        assert!(matches!(
            read(|p| p.key_usages.clear()),
            Err(LeafProblem::KeyUsage(_))
        ));
        // 4.4: where it is, both roles are in it.
        for (roles, missing) in [
            (vec![ServerAuth], "clientAuth"),
            (vec![ClientAuth], "serverAuth"),
            (vec![Any], "serverAuth"),
        ] {
            assert_eq!(
                read(|p| p.extended_key_usages = roles),
                Err(LeafProblem::ExtendedKeyUsage(missing))
            );
        }
        assert_eq!(
            read(|p| p.custom_extensions.push(foreign(true))),
            Err(LeafProblem::Critical("1.3.6.1.4.1.55555.1".to_owned()))
        );
    }

    #[test]
    fn a_short_rsa_key_is_refused() {
        for (bits, good) in [
            (1024, false),
            (2040, false),
            (2047, false),
            (2048, true),
            (4096, true),
        ] {
            let leaf = leaf(&Ca::new("mesh.test").issue_for_rsa("/a", bits));
            if good {
                leaf.unwrap();
            } else {
                assert_eq!(leaf, Err(LeafProblem::ShortKey(bits)));
            }
        }
    }

    #[test]
    fn a_good_leaf_and_what_is_free_in_it() {
        assert_eq!(read(|_| {}).unwrap().id.to_string(), "spiffe://mesh.test/a");
        read(|p| p.is_ca = IsCa::NoCa).expect("no basicConstraints at all");
        read(|p| p.extended_key_usages.clear()).expect("no extended key usage at all");
        read(|p| p.custom_extensions.push(foreign(false))).expect("an extension that nobody has to know");
        read(|p| {
            p.subject_alt_names
                .push(SanType::DnsName("a.mesh.test".try_into().unwrap()));
            p.subject_alt_names
                .push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
        })
        .expect("other kinds of names");
    }

    /// S-7, S-8, S-17.
    #[test]
    fn each_rule_refuses() {
        let usage = |p: &mut CertificateParams, u| p.key_usages = vec![KeyUsagePurpose::DigitalSignature, u];
        assert_eq!(
            read(|p| p.subject_alt_names.clear()),
            Err(LeafProblem::UriNames(0))
        );
        assert_eq!(
            read(|p| p.subject_alt_names.push(uri("https://x"))),
            Err(LeafProblem::UriNames(2))
        );
        assert_eq!(
            read(|p| p.subject_alt_names.push(uri("spiffe://mesh.test/b"))),
            Err(LeafProblem::UriNames(2))
        );
        assert_eq!(
            read(|p| p.subject_alt_names = vec![SanType::DnsName("spiffe://mesh.test/a".try_into().unwrap())]),
            Err(LeafProblem::UriNames(0))
        );
        assert_eq!(
            read(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            Err(LeafProblem::IsAuthority)
        );
        assert!(matches!(
            read(|p| usage(p, KeyUsagePurpose::KeyCertSign)),
            Err(LeafProblem::KeyUsage(_))
        ));
        assert!(matches!(
            read(|p| usage(p, KeyUsagePurpose::CrlSign)),
            Err(LeafProblem::KeyUsage(_))
        ));
        assert!(matches!(
            read(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            Err(LeafProblem::KeyUsage(_))
        ));
        let good = Ca::new("mesh.test").issue("/a", |_| {}).chain[0].to_vec();
        for cut in [0, 1, good.len() / 2, good.len() - 1] {
            assert!(matches!(
                leaf(&CertificateDer::from(&good[..cut])),
                Err(LeafProblem::Malformed(_))
            ));
        }
        let longer = [good, vec![0]].concat();
        assert!(matches!(
            leaf(&CertificateDer::from(longer)),
            Err(LeafProblem::Malformed(_))
        ));
    }

    #[test]
    fn two_names_extensions_and_unreadable_ones_are_refused() {
        // A second subjectAltName extension, and one whose content is no sequence of names.
        let san = |content: Vec<u8>| CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
        let other = [&[0x30, 0x0d, 0x86, 0x0b][..], b"spiffe://x/"].concat();
        assert!(matches!(
            read(|p| p.custom_extensions.push(san(other))),
            Err(LeafProblem::Malformed(_))
        ));
        assert!(matches!(
            read(|p| {
                p.subject_alt_names.clear();
                p.custom_extensions.push(san(vec![0x04, 0x01, 0x00]));
            }),
            Err(LeafProblem::Malformed(_))
        ));
        let basic = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x02, 0x01, 0x00]);
        assert!(matches!(
            read(|p| {
                p.is_ca = IsCa::NoCa;
                p.custom_extensions.push(basic);
            }),
            Err(LeafProblem::Malformed(_))
        ));
    }

    /// S-1 to S-5.
    #[test]
    fn ids_are_read_strictly() {
        let long = format!("spiffe://mesh.test/{}", "a".repeat(2048));
        let edge = format!("spiffe://mesh.test/{}", "a".repeat(2048 - 19));
        assert!(parse_id(&edge).is_ok());
        assert!(parse_id("spiffe://10.0.0.1/a").is_ok());
        assert!(parse_id("spiffe://mesh.test/A/b-c_d.e").is_ok());
        for bad in [
            "",
            "spiffe://",
            "spiffe:///a",
            "SPIFFE://mesh.test/a",
            "spiffe://Mesh.test/a",
            "https://mesh.test/a",
            "spiffe:/mesh.test/a",
            "spiffe://mesh.test/",
            "spiffe://mesh.test/a/",
            "spiffe://mesh.test//a",
            "spiffe://mesh.test/./a",
            "spiffe://mesh.test/a/../b",
            "spiffe://mesh.test/%61",
            "spiffe://mesh.test/a%2fb",
            "spiffe://mesh.test/a?b=c",
            "spiffe://mesh.test/a#b",
            "spiffe://mesh.test:443/a",
            "spiffe://u@mesh.test/a",
            "spiffe://[::1]/a",
            "spiffe://mesh.test/a b",
            "spiffe://mesh.test/ä",
            "spiffe://mesh.test/a\0",
            " spiffe://mesh.test/a",
            "spiffe://mesh.test/a\n",
            "spiffe://mesh.test\\a",
            &long,
        ] {
            assert!(matches!(parse_id(bad), Err(LeafProblem::BadId(_))), "{bad:?}");
        }
        assert_eq!(parse_id("spiffe://mesh.test"), Err(LeafProblem::NoPath));
    }

    proptest::proptest! {
        /// Whatever is done to the bytes of a good leaf, it is refused or it is still an SVID by every rule.
        #[test]
        fn a_damaged_leaf_is_refused_or_still_good(damage in proptest::collection::vec((0usize..600, 0u8..=255), 1..4)) {
            static GOOD: std::sync::LazyLock<Vec<u8>> =
                std::sync::LazyLock::new(|| Ca::new("mesh.test").issue("/a", |_| {}).chain[0].to_vec());
            let mut bytes = GOOD.clone();
            for (at, value) in damage {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            if let Ok(read) = leaf(&CertificateDer::from(bytes)) {
                proptest::prop_assert_eq!(parse_id(&read.id.to_string()), Ok(read.id));
            }
        }

        /// What is read as an ID is written exactly as it was read.
        #[test]
        fn an_id_that_is_read_is_canonical(text in "(spiffe|SPIFFE|x)://[a-zA-Z0-9._%:@-]{0,6}(/[a-zA-Z0-9.%?#_-]{0,4}){0,3}/?") {
            if let Ok(id) = parse_id(&text) {
                proptest::prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
