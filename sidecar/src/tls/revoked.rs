//! Whether a proven path holds a certificate that its issuer took back. Unlike webpki's own check, a list that its issuer did
//! not sign speaks of nothing, instead of refusing everyone; and when a list should have been replaced does not matter: an
//! old list is better than none.

use rustls_pki_types::CertificateDer;
use webpki::{Error, VerifiedPath};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Bundles, RevocationList};

/// The lists that came with the bundles.
#[derive(Debug)]
pub(super) struct Lists {
    lists: Vec<Judged>,
}

#[derive(Debug)]
struct Judged {
    list: RevocationList,
    /// The public keys (DER) of the roots that signed it: found once, not at each handshake.
    roots: Vec<Vec<u8>>,
}

impl Lists {
    /// Reads them all.
    pub(super) fn new(bundles: &Bundles) -> Result<Self, String> {
        let roots: Vec<_> = bundles
            .iter()
            .flat_map(|(_, roots)| roots)
            .filter_map(|der| X509Certificate::from_der(der).ok())
            .map(|(_, root)| root)
            .collect();
        let judged = |list: RevocationList| Judged {
            roots: roots
                .iter()
                .filter(|root| list.is_signed_by(root))
                .map(|root| root.public_key().raw.to_vec())
                .collect(),
            list,
        };
        let lists = bundles.crls().iter().map(RevocationList::read);
        Ok(Self {
            lists: lists.map(|list| list.map(judged)).collect::<Result<_, _>>()?,
        })
    }

    /// Refuses a path with a revoked certificate in it. `anchor` is the root that it leads to.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        path: &VerifiedPath<'_>,
        anchor: &CertificateDer<'_>,
    ) -> Result<(), Error> {
        if self.lists.is_empty() {
            return Ok(());
        }
        let between: Vec<_> = path.intermediate_certificates().map(|cert| cert.der()).collect();
        let mut subject = parse(leaf)?;
        for issuer in between.iter().map(AsRef::as_ref) {
            let issuer = parse(issuer)?;
            self.judge(&subject, &issuer, false)?;
            subject = issuer;
        }
        self.judge(&subject, &parse(anchor)?, true)
    }

    fn judge(
        &self,
        subject: &X509Certificate<'_>,
        issuer: &X509Certificate<'_>,
        root: bool,
    ) -> Result<(), Error> {
        let (name, serial) = (subject.issuer().as_raw(), subject.raw_serial());
        let revoked = self.lists.iter().any(|judged| {
            judged.list.issuer() == name
                && judged.list.has(serial)
                && if root {
                    judged.roots.iter().any(|key| key == issuer.public_key().raw)
                } else {
                    judged.list.is_signed_by(issuer)
                }
        });
        if revoked { Err(Error::CertRevoked) } else { Ok(()) }
    }
}

fn parse<'a>(der: &'a (impl AsRef<[u8]> + ?Sized)) -> Result<X509Certificate<'a>, Error> {
    let (_, parsed) = X509Certificate::from_der(der.as_ref()).map_err(|_| Error::BadDer)?;
    Ok(parsed)
}
