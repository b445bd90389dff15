//! Certificates as the Workload API sends them: DER, one behind the other. Bytes enter, owned certificates leave; what
//! is not wholly certificates is refused, and how many there may be is bounded.

use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The longest chain that is accepted, leaf included.
pub(super) const MAX_CHAIN: usize = 16;
/// The most roots that one trust domain may have.
pub(super) const MAX_ROOTS: usize = 256;

/// Splits concatenated DER certificates.
pub(super) fn split(der: &[u8], most: usize) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut rest = der;
    let mut found = Vec::new();
    while !rest.is_empty() {
        if found.len() == most {
            return Err(format!("more than {most} certificates"));
        }
        let (after, cert) =
            X509Certificate::from_der(rest).map_err(|e| format!("certificate {}: {e}", found.len() + 1))?;
        found.push(CertificateDer::from(cert.as_raw().to_vec()));
        rest = after;
    }
    Ok(found)
}

/// Seconds since 1970, also before, as a time.
pub(super) fn time(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
    .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::Ca;

    #[test]
    fn splits_what_is_concatenated_and_nothing_else() {
        let a = Ca::new("one.test").root().to_vec();
        let b = Ca::new("two.test").root().to_vec();
        let both = [a.clone(), b.clone()].concat();
        let found = split(&both, 4).unwrap();
        assert_eq!(
            found.iter().map(|c| c.to_vec()).collect::<Vec<_>>(),
            vec![a.clone(), b]
        );

        assert!(split(&both, 1).unwrap_err().contains("more than 1"));
        for cut in [1, a.len() - 1, a.len() + 1, both.len() - 1] {
            assert!(split(&both[..cut], 4).is_err(), "cut at {cut}");
        }
        assert!(split(&[both.clone(), vec![0]].concat(), 4).is_err());
        assert!(split(&[], 4).unwrap().is_empty());
    }

    #[test]
    fn times_before_1970_are_times() {
        assert_eq!(time(0), SystemTime::UNIX_EPOCH);
        assert_eq!(time(-10), SystemTime::UNIX_EPOCH - Duration::from_secs(10));
        assert_eq!(time(10), SystemTime::UNIX_EPOCH + Duration::from_secs(10));
    }
}
