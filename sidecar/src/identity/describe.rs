//! An SVID described for people (`svid inspect`): certificates enter, a value that can be printed or serialized leaves,
//! with every rule that is broken. It never fails: what cannot be read becomes a problem.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::leaf::{leaf, only_uri, parse};

/// What an SVID says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Description {
    /// The URI name, also when it breaks a rule; empty when there is not exactly one.
    pub spiffe_id: String,
    /// Hexadecimal, as in the certificate.
    pub serial: String,
    /// RFC 3339, UTC.
    pub not_before: String,
    /// RFC 3339, UTC.
    pub not_after: String,
    /// Seconds until the end; negative once it passed.
    pub expires_in_seconds: i64,
    /// Kind and size of the public key, such as `EC P-256`.
    pub key: String,
    /// Subject, issuer first line of the chain above.
    pub issuer: String,
    /// How many certificates came, leaf included.
    pub chain_length: usize,
    /// Every rule that is broken, empty for a good SVID.
    pub problems: Vec<String>,
}

/// Describes a chain, leaf first, as seen at `now`.
pub fn describe(chain: &[CertificateDer<'_>], now: SystemTime) -> Description {
    let mut said = Description {
        chain_length: chain.len(),
        ..Description::default()
    };
    let Some(first) = chain.first() else {
        said.problems.push("no certificate".into());
        return said;
    };
    if let Err(problem) = leaf(first) {
        said.problems.push(problem.to_string());
    }
    if let Ok(cert) = parse(first) {
        fill(&mut said, &cert, now);
    }
    for (above, cert) in chain.iter().enumerate().skip(1) {
        match parse(cert) {
            Ok(cert) if cert.is_ca() => {}
            Ok(_) => said
                .problems
                .push(format!("certificate {above} of the chain is not an authority")),
            Err(problem) => said
                .problems
                .push(format!("certificate {above} of the chain: {problem}")),
        }
    }
    said
}

fn fill(said: &mut Description, cert: &X509Certificate<'_>, now: SystemTime) {
    let now = OffsetDateTime::from(now).unix_timestamp();
    let (from, until) = (
        cert.validity().not_before.timestamp(),
        cert.validity().not_after.timestamp(),
    );
    said.spiffe_id = only_uri(cert).map(str::to_owned).unwrap_or_default();
    said.serial = cert.raw_serial_as_string();
    said.not_before = rfc3339(from);
    said.not_after = rfc3339(until);
    said.expires_in_seconds = until.saturating_sub(now);
    said.key = key(cert);
    said.issuer = cert.issuer().to_string();
    if now < from {
        said.problems
            .push(format!("not valid before {}", said.not_before));
    }
    if now > until {
        said.problems.push(format!("expired at {}", said.not_after));
    }
}

/// A time as RFC 3339 in UTC, for people.
pub fn readable(time: SystemTime) -> String {
    rfc3339(OffsetDateTime::from(time).unix_timestamp())
}

fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s since 1970"))
}

fn key(cert: &X509Certificate<'_>) -> String {
    match cert.public_key().parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        Ok(PublicKey::EC(point)) => format!("EC P-{}", point.key_size()),
        _ if cert.public_key().algorithm.algorithm.to_id_string() == "1.3.101.112" => "Ed25519".into(),
        _ => cert.public_key().algorithm.algorithm.to_id_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::Ca;
    use rcgen::{BasicConstraints, IsCa};
    use std::time::Duration;

    #[test]
    fn a_good_svid_has_no_problems() {
        let ca = Ca::new("mesh.test").intermediate(|_| {});
        let said = describe(&ca.issue("/ns/shop/sa/web", |_| {}).chain, SystemTime::now());
        assert_eq!(said.problems, Vec::<String>::new());
        assert_eq!(said.spiffe_id, "spiffe://mesh.test/ns/shop/sa/web");
        assert_eq!((said.key.as_str(), said.chain_length), ("EC P-256", 2));
        assert!(
            (3590..=3600).contains(&said.expires_in_seconds),
            "{}",
            said.expires_in_seconds
        );
        assert!(
            said.not_after.ends_with('Z') && !said.serial.is_empty() && said.issuer.contains("mesh.test")
        );
        assert!(serde_json::to_string(&said).unwrap().contains("\"spiffe_id\""));
    }

    #[test]
    fn each_problem_is_named() {
        let ca = Ca::new("mesh.test");
        let now = SystemTime::now();
        let says = |chain: &[CertificateDer<'_>], now, what: &str| {
            let said = describe(chain, now).problems.join("; ");
            assert!(said.contains(what), "{said:?} does not say {what:?}");
        };
        let good = ca.issue("/a", |_| {}).chain;
        says(&[], now, "no certificate");
        says(&good, now + Duration::from_secs(7200), "expired at");
        says(&good, now - Duration::from_secs(7200), "not valid before");
        says(
            &[good[0].clone(), good[0].clone()],
            now,
            "certificate 1 of the chain is not an authority",
        );
        says(&[CertificateDer::from(vec![0x30])], now, "malformed");
        let authority = ca
            .issue("/a", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
            .chain;
        says(&authority, now, "certificate authority");
    }
}
