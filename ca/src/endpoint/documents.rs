//! The documents, made of [`Trust`] alone: the same trust gives the same bytes.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::authority::{AuthorityError, Trust};

/// The SPIFFE bundle document (SPIFFE Trust Domain and Bundle, section 4): one JWK a root without `kid` and with exactly
/// itself in `x5c` (S-15), the JWT keys with theirs (S-26), sequence and refresh hint (S-59, S-60).
///
/// # Errors
/// When a root's key is of a kind that no JWK stands for.
pub fn bundle(trust: &Trust) -> Result<Vec<u8>, AuthorityError> {
    let roots = trust.roots.iter().map(root).collect::<Result<Vec<_>, _>>()?;
    let tokens = trust.jwt_keys.iter().map(|key| key.jwk("jwt-svid"));
    let keys: Vec<Value> = roots.into_iter().chain(tokens).collect();
    Ok(text(&json!({
        "keys": keys,
        "spiffe_sequence": trust.sequence,
        "spiffe_refresh_hint": trust.refresh_hint.as_secs(),
    })))
}

/// The JWK Set of an OpenID provider: the JWT keys alone, as any library wants them.
pub fn key_set(trust: &Trust) -> Vec<u8> {
    let keys: Vec<Value> = trust.jwt_keys.iter().map(|key| key.jwk("sig")).collect();
    text(&json!({ "keys": keys }))
}

/// The discovery document (OpenID Connect Discovery 1.0, section 3), as far as it has a meaning for tokens that nobody
/// logs in for.
pub fn discovery(issuer: &str) -> Vec<u8> {
    text(&json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/keys"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "jti"],
    }))
}

fn text(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

/// A root as a JWK: its key, and itself in `x5c`.
///
/// # Errors
/// When its key is of a kind that no JWK stands for.
pub fn root(certificate: &CertificateDer<'_>) -> Result<Value, AuthorityError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| strange(&error.to_string()))?;
    let mut jwk = key(parsed.public_key())?;
    if let Some(members) = jwk.as_object_mut() {
        members.insert("use".to_owned(), json!("x509-svid"));
        members.insert("x5c".to_owned(), json!([STANDARD.encode(certificate)]));
    }
    Ok(jwk)
}

/// A public key as RFC 7518, section 6, and RFC 8037 write it.
fn key(info: &SubjectPublicKeyInfo<'_>) -> Result<Value, AuthorityError> {
    let number = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        URL_SAFE_NO_PAD.encode(bytes.get(start..).unwrap_or_default())
    };
    if info.algorithm.algorithm == OID_SIG_ED25519 {
        let x = URL_SAFE_NO_PAD.encode(&info.subject_public_key.data);
        return Ok(json!({"kty": "OKP", "crv": "Ed25519", "x": x}));
    }
    match info.parsed().map_err(|error| strange(&error.to_string()))? {
        PublicKey::RSA(rsa) => Ok(json!({"kty": "RSA", "n": number(rsa.modulus), "e": number(rsa.exponent)})),
        PublicKey::EC(point) => {
            let curve = info
                .algorithm
                .parameters
                .as_ref()
                .and_then(|curve| curve.as_oid().ok());
            let (crv, size) = match curve {
                Some(oid) if oid == OID_EC_P256 => ("P-256", 32),
                Some(oid) if oid == OID_NIST_EC_P384 => ("P-384", 48),
                Some(oid) if oid == OID_NIST_EC_P521 => ("P-521", 66),
                _ => return Err(strange("a curve that is none of P-256, P-384, P-521")),
            };
            let both = point
                .data()
                .strip_prefix(&[4])
                .filter(|both| both.len() == 2 * size);
            let (x, y) = both
                .and_then(|both| both.split_at_checked(size))
                .ok_or_else(|| strange("a point that is not uncompressed"))?;
            Ok(
                json!({"kty": "EC", "crv": crv, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}),
            )
        }
        _ => Err(strange("its key is none of RSA, EC, Ed25519")),
    }
}

fn strange(problem: &str) -> AuthorityError {
    AuthorityError::Profile(format!("a root has no JWK: {problem}"))
}

#[cfg(test)]
mod tests;
