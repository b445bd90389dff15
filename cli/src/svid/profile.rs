//! The profile of an X.509-SVID, rule by rule: a chain enters, every rule that it breaks leaves, with the section that says
//! so. Stricter than what a peer is let in by: this is what an issuer should not have made. It trusts and verifies nothing.

use std::time::SystemTime;

use hopguard_sidecar::identity::parse_id;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// NIST SP 800-131A: below, a signature protects nothing any more.
const MIN_RSA_BITS: usize = 2048;
const MIN_EC_BITS: usize = 256;
const ED25519: &str = "1.3.101.112";
/// Signatures by MD5 or SHA-1, which can be forged.
const BROKEN_SIGNATURES: [(&str, &str); 4] = [
    ("1.2.840.113549.1.1.4", "MD5 with RSA"),
    ("1.2.840.113549.1.1.5", "SHA-1 with RSA"),
    ("1.2.840.10045.4.1", "SHA-1 with ECDSA"),
    ("1.2.840.10040.4.3", "SHA-1 with DSA"),
];

/// Everything that is wrong with a chain, leaf first, as seen at `now`.
pub fn problems(chain: &[CertificateDer<'_>], now: SystemTime) -> Vec<String> {
    let mut all = Vec::new();
    for (at, der) in chain.iter().enumerate() {
        let found = match X509Certificate::from_der(der) {
            Ok(([], cert)) => examine(&cert, at == 0, now),
            Ok(_) => vec!["malformed: bytes after the certificate".to_owned()],
            Err(error) => vec![format!("malformed: {error}")],
        };
        let place = if at == 0 {
            String::new()
        } else {
            format!("certificate {at} of the chain: ")
        };
        all.extend(found.into_iter().map(|problem| format!("{place}{problem}")));
    }
    all
}

fn examine(cert: &X509Certificate<'_>, leaf: bool, now: SystemTime) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(unreadable(cert));
    if leaf {
        leaf_names(cert, &mut found);
        leaf_purposes(cert, &mut found);
    } else {
        authority(cert, &mut found);
    }
    key_usage(cert, leaf, &mut found);
    strength(cert, &mut found);
    validity(cert, now, &mut found);
    found
}

/// RFC 5280, 4.2: a critical extension that is not understood refuses the certificate; one that occurs twice, or cannot be
/// read, too.
fn unreadable(cert: &X509Certificate<'_>) -> Vec<String> {
    let extensions = cert.extensions();
    let once =
        |at: usize, one: &X509Extension<'_>| extensions.iter().take(at).any(|other| other.oid == one.oid);
    let judge = |(at, one): (usize, &X509Extension<'_>)| match one.parsed_extension() {
        _ if once(at, one) => Some(format!("extension {} occurs twice (RFC 5280 4.2)", one.oid)),
        ParsedExtension::ParseError { .. } => {
            Some(format!("extension {} cannot be read (RFC 5280 4.2)", one.oid))
        }
        ParsedExtension::UnsupportedExtension { .. } if one.critical => Some(format!(
            "the critical extension {} is not known: every verifier must refuse the certificate (RFC 5280 4.2)",
            one.oid
        )),
        _ => None,
    };
    extensions.iter().enumerate().filter_map(judge).collect()
}

fn names<'a>(cert: &'a X509Certificate<'_>) -> &'a [GeneralName<'a>] {
    cert.subject_alternative_name()
        .ok()
        .flatten()
        .map_or(&[][..], |extension| extension.value.general_names.as_slice())
}

fn uris<'a>(cert: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let uri = |name: &'a GeneralName<'a>| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    };
    names(cert).iter().filter_map(uri).collect()
}

fn leaf_names(cert: &X509Certificate<'_>, found: &mut Vec<String>) {
    let invalid = names(cert)
        .iter()
        .any(|name| matches!(name, GeneralName::Invalid(..)));
    if invalid {
        found.push("a subject alternative name cannot be read (RFC 5280 4.2.1.6)".to_owned());
    }
    match uris(cert).as_slice() {
        [] => found.push(
            "no URI in the subject alternative names: an SVID has exactly one, its SPIFFE ID (X509-SVID 2)"
                .to_owned(),
        ),
        [id] => {
            if let Err(problem) = parse_id(id) {
                found.push(format!("{problem} (X509-SVID 5.2, SPIFFE-ID 2)"));
            }
        }
        many => found.push(format!(
            "{} URIs in the subject alternative names: an SVID has exactly one (X509-SVID 2, 5.2)",
            many.len()
        )),
    }
    let critical = cert
        .subject_alternative_name()
        .ok()
        .flatten()
        .is_none_or(|extension| extension.critical);
    if cert.subject().iter().next().is_none() && !critical {
        found.push(
            "the subject is empty and the subject alternative name not critical (RFC 5280 4.2.1.6)"
                .to_owned(),
        );
    }
}

fn leaf_purposes(cert: &X509Certificate<'_>, found: &mut Vec<String>) {
    match cert.basic_constraints() {
        Ok(Some(extension)) if extension.value.ca => found.push(
            "a certificate authority (cA = true) cannot stand for a workload (X509-SVID 4.1, 5.2)".to_owned(),
        ),
        Ok(None) => found.push(
            "no basicConstraints: a leaf says cA = false, and some verifiers refuse it otherwise (X509-SVID 4.1)"
                .to_owned(),
        ),
        Ok(Some(_)) | Err(_) => {}
    }
    let Ok(Some(usage)) = cert.extended_key_usage() else {
        return;
    };
    for (there, name) in [
        (usage.value.server_auth, "serverAuth"),
        (usage.value.client_auth, "clientAuth"),
    ] {
        if !there {
            found.push(format!(
                "extended key usage without {name}: where it is there, an SVID has serverAuth and clientAuth (X509-SVID 4.4)"
            ));
        }
    }
}

fn authority(cert: &X509Certificate<'_>, found: &mut Vec<String>) {
    match cert.basic_constraints() {
        Ok(Some(extension)) if extension.value.ca => {
            if !extension.critical {
                found.push("basicConstraints is not critical (RFC 5280 4.2.1.9)".to_owned());
            }
        }
        _ => found.push("it is not an authority (cA = true) (X509-SVID 4.1)".to_owned()),
    }
    if uris(cert).len() > 1 {
        found.push("more than one URI in the subject alternative names (X509-SVID 2)".to_owned());
    }
}

fn key_usage(cert: &X509Certificate<'_>, leaf: bool, found: &mut Vec<String>) {
    let usage = match cert.key_usage() {
        Ok(Some(usage)) => usage,
        Ok(None) => {
            return found.push("no key usage: all SVIDs have it, and critical (X509-SVID 4.3)".to_owned());
        }
        Err(_) => return,
    };
    if !usage.critical {
        found.push("key usage is not critical (X509-SVID 4.3)".to_owned());
    }
    type Bit = fn(&KeyUsage) -> bool;
    let rules: &[(bool, Bit, &str)] = if leaf {
        &[
            (
                true,
                |usage| usage.digital_signature(),
                "a leaf has digitalSignature",
            ),
            (
                false,
                |usage| usage.key_cert_sign(),
                "a leaf never has keyCertSign",
            ),
            (false, |usage| usage.crl_sign(), "a leaf never has cRLSign"),
        ]
    } else {
        &[(
            true,
            |usage| usage.key_cert_sign(),
            "an authority has keyCertSign",
        )]
    };
    for (wanted, bit, rule) in rules {
        if bit(usage.value) != *wanted {
            found.push(format!("key usage: {rule} (X509-SVID 4.3)"));
        }
    }
}

fn strength(cert: &X509Certificate<'_>, found: &mut Vec<String>) {
    match cert.public_key().parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() < MIN_RSA_BITS => found.push(format!(
            "an RSA key of {} bits: at least {MIN_RSA_BITS} (NIST SP 800-131A)",
            rsa.key_size()
        )),
        Ok(PublicKey::EC(point)) if point.key_size() < MIN_EC_BITS => found.push(format!(
            "an elliptic curve of {} bits: at least {MIN_EC_BITS} (NIST SP 800-186)",
            point.key_size()
        )),
        Ok(PublicKey::RSA(_) | PublicKey::EC(_)) => {}
        _ => {
            let algorithm = cert.public_key().algorithm.algorithm.to_id_string();
            if algorithm != ED25519 {
                found.push(format!(
                    "the kind of key {algorithm} is not known: RSA, EC or Ed25519"
                ));
            }
        }
    }
    let signature = cert.signature_algorithm.algorithm.to_id_string();
    if let Some((_, name)) = BROKEN_SIGNATURES.iter().find(|(oid, _)| *oid == signature) {
        found.push(format!("signed with {name}, which can be forged (RFC 6194)"));
    }
}

fn validity(cert: &X509Certificate<'_>, now: SystemTime, found: &mut Vec<String>) {
    let now = OffsetDateTime::from(now).unix_timestamp();
    let (from, until) = (
        cert.validity().not_before.timestamp(),
        cert.validity().not_after.timestamp(),
    );
    if now < from {
        found.push(format!("not valid before {} (RFC 5280 6.1.3)", rfc3339(from)));
    }
    if now > until {
        found.push(format!("expired at {} (RFC 5280 6.1.3)", rfc3339(until)));
    }
}

fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s since 1970"))
}

#[cfg(test)]
mod tests;
