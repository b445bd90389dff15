//! What certificates shall be: the X.509-SVID profiles of a root and of a leaf as parameters for signing.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use spiffe::{SpiffeId, TrustDomain};
use time::OffsetDateTime;

use super::{AuthorityError, Validity};

/// OID of the `serialNumber` attribute of a name (X.520), which makes every root's name its own.
const SERIAL_NUMBER_ATTRIBUTE: &[u64] = &[2, 5, 4, 5];

/// A root: SPIFFE ID without a path (S-13), CA, signs certificates and revocation lists (S-11).
pub fn root(
    domain: &TrustDomain,
    validity: &Validity,
    serial: &[u8],
) -> Result<CertificateParams, AuthorityError> {
    let mut params = common(&domain.id_string(), validity, serial)?;
    let serial_number = DnType::CustomDnType(SERIAL_NUMBER_ATTRIBUTE.to_vec());
    params.distinguished_name.push(DnType::CommonName, "hopguard CA");
    params.distinguished_name.push(serial_number, hex::encode(serial));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// What a root is asked to sign: an authority of the trust domain, with a name of its own, that signs leaves alone.
pub fn request(domain: &TrustDomain, name: &str) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(domain.id_string().as_str().try_into()?)];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
    params.distinguished_name.push(DnType::CommonName, "hopguard CA");
    let serial_number = DnType::CustomDnType(SERIAL_NUMBER_ATTRIBUTE.to_vec());
    params.distinguished_name.push(serial_number, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A leaf: exactly one URI SAN (S-7), explicitly no CA (S-10), signs digitally (S-11), server and client (S-12).
pub fn leaf(id: &SpiffeId, validity: &Validity, serial: &[u8]) -> Result<CertificateParams, AuthorityError> {
    let mut params = common(&id.to_string(), validity, serial)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The subject is not empty, so the SAN need not be critical (S-9); some libraries stumble over empty subjects.
fn common(uri: &str, validity: &Validity, serial: &[u8]) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(validity.not_before);
    params.not_after = OffsetDateTime::from(validity.not_after);
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
    Ok(params)
}
