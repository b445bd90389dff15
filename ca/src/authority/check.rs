//! What came out of signing, read back by another library and held against what was wanted. Whatever is missing, more
//! or different is refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use spiffe::{SpiffeId, TrustDomain};
use x509_parser::asn1_rs::Oid;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256,
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Version;

use super::{AuthorityError, Listed, Validity};

/// A root that passed.
pub struct Root {
    pub serial: String,
    pub validity: Validity,
    /// Its subject key identifier.
    pub key_id: Vec<u8>,
}

/// The keys that a leaf must show.
pub struct Signed<'a> {
    /// Public key of the authority.
    pub by: &'a [u8],
    /// Public key of the workload.
    pub key: &'a [u8],
}

/// Holds a certificate against the profile of a root of this trust domain, signed by its own key.
pub fn root(der: &CertificateDer<'_>, domain: &TrustDomain, key: &[u8]) -> Result<Root, AuthorityError> {
    let certificate = parse(der)?;
    basics(&certificate, &domain.id_string(), key)?;
    ours(&certificate)?;
    signature(&certificate, key)?;
    extensions(
        &certificate,
        &[
            (OID_X509_EXT_SUBJECT_ALT_NAME, false),
            (OID_X509_EXT_KEY_USAGE, true),
            (OID_X509_EXT_BASIC_CONSTRAINTS, true),
            (OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, false),
        ],
    )?;
    wants(certificate.is_ca(), "it is no CA")?;
    let usage = key_usage(&certificate)?;
    wants(
        usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature(),
        "its key usage",
    )?;
    Ok(Root {
        serial: serial(&certificate),
        validity: validity(&certificate)?,
        key_id: key_id(&certificate)?,
    })
}

/// Holds a certificate that somebody else signed against what an intermediate of this trust domain must be (S-11, S-13, S-14).
pub fn intermediate(
    der: &CertificateDer<'_>,
    domain: &TrustDomain,
    key: &[u8],
) -> Result<Root, AuthorityError> {
    let certificate = parse(der)?;
    basics(&certificate, &domain.id_string(), key)?;
    signs(&certificate)?;
    let usage = key_usage(&certificate)?;
    wants(
        usage.crl_sign(),
        "its key usage lacks cRLSign: it could not revoke anything",
    )?;
    Ok(Root {
        serial: serial(&certificate),
        validity: validity(&certificate)?,
        key_id: key_id(&certificate)?,
    })
}

/// Holds a certificate against what the one above another must be, which it signed, with so many authorities below it;
/// answers its validity. Verifiers differ in whether a root's path length counts: here it does.
pub fn above(
    below: &CertificateDer<'_>,
    above: &CertificateDer<'_>,
    authorities: usize,
) -> Result<Validity, AuthorityError> {
    let (below, above) = (parse(below)?, parse(above)?);
    signs(&above)?;
    let room = above.basic_constraints().map_err(malformed)?;
    let room = room.and_then(|found| found.value.path_len_constraint);
    wants(
        room.is_none_or(|room| usize::try_from(room).is_ok_and(|room| authorities <= room)),
        "its path length has no room for the authorities below it",
    )?;
    wants(
        below.issuer().as_raw() == above.subject().as_raw(),
        "it is not the issuer of the one before",
    )?;
    wants(
        below.verify_signature(Some(above.public_key())).is_ok(),
        "it did not sign the one before",
    )?;
    validity(&above)
}

/// The last of a chain vouches for itself (S-15).
pub fn self_signed(der: &CertificateDer<'_>) -> Result<(), AuthorityError> {
    let certificate = parse(der)?;
    let itself = certificate.issuer().as_raw() == certificate.subject().as_raw()
        && certificate.verify_signature(None).is_ok();
    wants(itself, "the chain does not end in a self-signed root")
}

/// A certificate that may sign others: a critical cA and keyCertSign, no name constraints, nothing unreadable.
fn signs(certificate: &X509Certificate<'_>) -> Result<(), AuthorityError> {
    for extension in certificate.extensions() {
        let readable = !matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. });
        wants(readable, "an extension of it cannot be read")?;
        wants(
            extension.oid != OID_X509_EXT_NAME_CONSTRAINTS,
            "it has name constraints: verifiers refuse what is below them (RUSTSEC-2026-0098)",
        )?;
    }
    let critical = |oid: Oid<'_>| {
        let mut found = certificate
            .extensions()
            .iter()
            .filter(|extension| extension.oid == oid);
        found.next().is_some_and(|extension| extension.critical) && found.next().is_none()
    };
    wants(
        certificate.is_ca() && critical(OID_X509_EXT_BASIC_CONSTRAINTS),
        "it is no CA (critical basicConstraints)",
    )?;
    wants(
        key_usage(certificate)?.key_cert_sign() && critical(OID_X509_EXT_KEY_USAGE),
        "its critical key usage lacks keyCertSign",
    )
}

/// Holds a certificate against the profile of a leaf for `id`; answers its serial number.
pub fn leaf(
    der: &CertificateDer<'_>,
    id: &SpiffeId,
    wanted: &Validity,
    keys: &Signed<'_>,
) -> Result<String, AuthorityError> {
    let certificate = parse(der)?;
    basics(&certificate, &id.to_string(), keys.key)?;
    ours(&certificate)?;
    signature(&certificate, keys.by)?;
    extensions(
        &certificate,
        &[
            (OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, false),
            (OID_X509_EXT_SUBJECT_ALT_NAME, false),
            (OID_X509_EXT_KEY_USAGE, true),
            (OID_X509_EXT_EXTENDED_KEY_USAGE, false),
            (OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, false),
            (OID_X509_EXT_BASIC_CONSTRAINTS, true),
        ],
    )?;
    wants(!certificate.is_ca(), "it is a CA")?;
    let usage = key_usage(&certificate)?;
    wants(
        usage.digital_signature() && usage.flags == 1,
        "its key usage is more than a digital signature",
    )?;
    let extended = certificate.extended_key_usage().map_err(malformed)?;
    wants(
        extended.is_some_and(|usage| server_and_client_only(usage.value)),
        "its extended key usage",
    )?;
    wants(validity(&certificate)? == *wanted, "its validity")?;
    wants(wanted.not_before < wanted.not_after, "its validity is empty")?;
    Ok(serial(&certificate))
}

/// What a revocation list must say.
pub struct WantedList<'a> {
    /// The authority's certificate.
    pub certificate: &'a CertificateDer<'a>,
    /// Its public key.
    pub by: &'a [u8],
    pub number: u64,
    pub listed: &'a [Listed],
}

/// Holds a revocation list against what was wanted (RFC 5280, 5.1 and 5.2): version 2, this issuer, this number, these
/// serial numbers, AKI and number as its only extensions.
pub fn list(der: &[u8], wanted: &WantedList<'_>) -> Result<(), AuthorityError> {
    let (rest, list) = CertificateRevocationList::from_der(der).map_err(malformed)?;
    wants(rest.is_empty(), "bytes follow the list")?;
    let issuer = parse(wanted.certificate)?;
    wants(
        list.issuer().as_raw() == issuer.subject().as_raw(),
        "the issuer of the list",
    )?;
    wants(
        list.signature_algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256
            && list.version() == Some(X509Version::V2),
        "the algorithm or version of the list",
    )?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, wanted.by)
        .verify(list.tbs_cert_list.as_ref(), &list.signature_value.data)
        .map_err(|_| AuthorityError::Profile("the signature of the list does not verify".to_owned()))?;
    let number = list.crl_number().and_then(|number| u64::try_from(number).ok());
    let identifier = key_id(&issuer)?;
    let ours = list.extensions().iter().any(|extension| {
        matches!(extension.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(found)
            if found.key_identifier.as_ref().is_some_and(|found| found.0 == identifier.as_slice()))
    });
    wants(
        number == Some(wanted.number) && ours && list.extensions().len() == 2,
        "the extensions of the list",
    )?;
    let next = list.next_update().map(|next| next.timestamp());
    wants(
        next.is_some_and(|next| next > list.last_update().timestamp()),
        "the times of the list",
    )?;
    let found = list
        .iter_revoked_certificates()
        .map(|one| hex::encode(one.user_certificate.to_bytes_be()));
    wants(
        found.eq(wanted.listed.iter().map(|one| one.serial.clone())),
        "the serial numbers of the list",
    )
}

fn server_and_client_only(usage: &ExtendedKeyUsage<'_>) -> bool {
    let more = usage.any
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    usage.server_auth && usage.client_auth && !more
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, AuthorityError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(malformed)?;
    wants(rest.is_empty(), "bytes follow it")?;
    Ok(certificate)
}

/// What we sign is signed by ECDSA with SHA-256.
fn ours(certificate: &X509Certificate<'_>) -> Result<(), AuthorityError> {
    wants(
        certificate.signature_algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256,
        "its signature algorithm",
    )
}

/// What all share: version, serial number, key, and one URI SAN that is the ID.
fn basics(certificate: &X509Certificate<'_>, id: &str, key: &[u8]) -> Result<(), AuthorityError> {
    wants(certificate.version() == X509Version::V3, "its version is not 3")?;
    let serial = certificate.raw_serial();
    let positive =
        serial.first().is_some_and(|first| first & 0x80 == 0) && serial.iter().any(|byte| *byte != 0);
    wants(positive && serial.len() <= 20, "its serial number")?;
    wants(
        certificate.subject().iter().next().is_some(),
        "its subject is empty",
    )?;
    let names = certificate.subject_alternative_name().map_err(malformed)?;
    let names = names
        .map(|names| names.value.general_names.as_slice())
        .unwrap_or_default();
    wants(
        matches!(names, [GeneralName::URI(uri)] if *uri == id),
        "its SAN is not exactly the one URI",
    )?;
    let info = certificate.public_key();
    let curve = info
        .algorithm
        .parameters
        .as_ref()
        .and_then(|any| any.as_oid().ok());
    wants(
        info.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256),
        "its key is not P-256",
    )?;
    wants(
        info.subject_public_key.data.as_ref() == key,
        "its key is another one",
    )
}

fn signature(certificate: &X509Certificate<'_>, by: &[u8]) -> Result<(), AuthorityError> {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, by)
        .verify(
            certificate.tbs_certificate.as_ref(),
            &certificate.signature_value.data,
        )
        .map_err(|_| AuthorityError::Profile("its signature does not verify".to_owned()))
}

/// Exactly these extensions, each with its criticality, none unreadable.
fn extensions(certificate: &X509Certificate<'_>, wanted: &[(Oid<'_>, bool)]) -> Result<(), AuthorityError> {
    let found = certificate.extensions();
    for extension in found {
        let known = wanted.iter().find(|(oid, _)| *oid == extension.oid);
        let readable = !matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. });
        wants(
            known.is_some_and(|(_, critical)| *critical == extension.critical) && readable,
            "an extension of it",
        )?;
    }
    let all = wanted
        .iter()
        .all(|(oid, _)| found.iter().filter(|extension| extension.oid == *oid).count() == 1);
    wants(
        all && found.len() == wanted.len(),
        "an extension is missing or doubled",
    )
}

fn key_usage<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a KeyUsage, AuthorityError> {
    let usage = certificate.key_usage().map_err(malformed)?;
    usage
        .map(|usage| usage.value)
        .ok_or_else(|| AuthorityError::Profile("it has no key usage".to_owned()))
}

fn validity(certificate: &X509Certificate<'_>) -> Result<Validity, AuthorityError> {
    let time = |seconds: i64| -> Result<SystemTime, AuthorityError> {
        let seconds =
            u64::try_from(seconds).map_err(|_| AuthorityError::Profile("a time before 1970".to_owned()))?;
        Ok(UNIX_EPOCH + Duration::from_secs(seconds))
    };
    Ok(Validity {
        not_before: time(certificate.validity().not_before.timestamp())?,
        not_after: time(certificate.validity().not_after.timestamp())?,
    })
}

fn key_id(certificate: &X509Certificate<'_>) -> Result<Vec<u8>, AuthorityError> {
    let found = certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
    found.ok_or_else(|| AuthorityError::Profile("it has no subject key identifier".to_owned()))
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    hex::encode(certificate.serial.to_bytes_be())
}

fn wants(holds: bool, what: &str) -> Result<(), AuthorityError> {
    if holds {
        Ok(())
    } else {
        Err(AuthorityError::Profile(what.to_owned()))
    }
}

fn malformed<E: std::fmt::Display>(error: E) -> AuthorityError {
    AuthorityError::Profile(error.to_string())
}
