//! One JSON Web Key (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2): a JSON value enters, a public key that
//! can verify leaves, or the reason why it is ignored. A symmetric or private key is never taken.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};

use crate::algorithm::{Algorithm, Algorithms};
use crate::base64url;
use crate::json::{Json, JsonObject};

/// The longest key id, in bytes.
pub const MAX_KID_BYTES: usize = 256;
/// The bounds on an RSA modulus, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Which keys of a document may be used, and for what.
#[derive(Clone, Copy, Debug)]
pub struct KeyPolicy<'a> {
    /// What a key's `use` must say: `sig` for issuers of user tokens, `jwt-svid` for a SPIFFE bundle.
    pub usage: &'a str,
    /// Whether a key without `use` is ignored (SPIFFE) or taken (OpenID).
    pub usage_required: bool,
    /// The algorithms that may come out of it.
    pub algorithms: Algorithms,
    /// Of how many fitting keys a token without `kid` may be: 1 where it must name one of several (OpenID Connect Core,
    /// section 10.1), more where `kid` is optional (SPIFFE) and each is tried.
    pub unnamed: usize,
}

/// The most signatures that are checked for one token: one that names no key costs its verifier this much.
const MAX_TRIES: usize = 16;

impl KeyPolicy<'static> {
    /// The signing keys of an issuer of user tokens.
    pub const SIGNATURES: Self = Self {
        usage: "sig",
        usage_required: false,
        algorithms: Algorithms::ALL,
        unnamed: 1,
    };
    /// The JWT keys of a SPIFFE bundle (SPIFFE JWT-SVID section 6.1). A token need not name one (section 2.2).
    pub const JWT_SVID: Self = Self {
        usage: "jwt-svid",
        usage_required: true,
        algorithms: Algorithms::JWT_SVID,
        unnamed: MAX_TRIES,
    };
    /// The JWT keys that a Workload API gives. They come as a standard JWK Set that holds keys for nothing else
    /// (section 6.2.2), so that `use` may be absent: SPIRE's agent leaves it out. One for another use is ignored here too.
    pub const WORKLOAD_API: Self = Self {
        usage_required: false,
        ..Self::JWT_SVID
    };
}

/// The SHA-256 thumbprint of a key (RFC 7638): the same for the same key, whatever its `kid`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thumbprint(pub [u8; 32]);

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64url::encode(&self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key that verifies.
pub(crate) struct Key {
    pub(crate) kid: Option<String>,
    pub(crate) thumbprint: Thumbprint,
    /// The algorithms it may be used with, each with the key made ready for it. Never empty.
    pub(crate) verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

impl Key {
    /// Reads a JWK that `policy` lets be used.
    pub(crate) fn parse(jwk: &Json, policy: &KeyPolicy<'_>) -> Result<Self, &'static str> {
        let jwk = jwk.as_object().ok_or("not an object")?;
        let kid = kid(jwk)?;
        usage(jwk, policy)?;
        if ["d", "p", "q", "k"]
            .iter()
            .any(|private| jwk.contains_key(*private))
        {
            // A published secret is nobody's proof.
            return Err("holds a private or symmetric key");
        }
        let material = Material::parse(jwk)?;
        let algorithms = algorithms(jwk, &material, policy.algorithms)?;
        let verifiers = algorithms
            .iter()
            .map(|algorithm| material.verifier(algorithm).map(|key| (algorithm, key)))
            .collect::<Option<Vec<_>>>()
            .ok_or("not a valid public key")?;
        Ok(Self {
            kid,
            thumbprint: material.thumbprint(),
            verifiers,
        })
    }

    /// The key made ready for `algorithm`, if it may be used with it.
    pub(crate) fn verifier(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.verifiers
            .iter()
            .find(|(fits, _)| *fits == algorithm)
            .map(|(_, key)| key)
    }

    /// The algorithms it may be used with.
    pub(crate) fn algorithms(&self) -> Algorithms {
        self.verifiers.iter().map(|(algorithm, _)| *algorithm).collect()
    }

    /// Whether both are the same key for the same use.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.kid == other.kid
            && self.thumbprint == other.thumbprint
            && self.algorithms() == other.algorithms()
    }
}

/// The key id, where there is one.
pub(crate) fn kid(jwk: &JsonObject) -> Result<Option<String>, &'static str> {
    match jwk.get("kid") {
        None => Ok(None),
        Some(Json::String(kid)) if kid.len() <= MAX_KID_BYTES => Ok(Some(kid.clone())),
        Some(_) => Err("kid is not a string of at most 256 bytes"),
    }
}

/// Whether the key is meant for verifying signatures of our kind (RFC 7517 sections 4.2 and 4.3).
fn usage(jwk: &JsonObject, policy: &KeyPolicy<'_>) -> Result<(), &'static str> {
    match jwk.get("use") {
        None if policy.usage_required => return Err("no use"),
        None => {}
        Some(Json::String(usage)) if usage == policy.usage => {}
        Some(_) => return Err("for another use"),
    }
    match jwk.get("key_ops").map(Json::as_strings) {
        None => Ok(()),
        Some(Some(operations)) if operations.contains(&"verify") => Ok(()),
        Some(_) => Err("key_ops without verify"),
    }
}

/// What the key may be used with: its own `alg` where it has one, else what its type can do; never more than `allowed`.
fn algorithms(
    jwk: &JsonObject,
    material: &Material,
    allowed: Algorithms,
) -> Result<Algorithms, &'static str> {
    let possible = material.algorithms();
    let fits: Algorithms = match jwk.get("alg") {
        None => possible
            .iter()
            .copied()
            .filter(|a| allowed.contains(*a))
            .collect(),
        Some(Json::String(name)) => match name.parse::<Algorithm>() {
            Ok(algorithm) if possible.contains(&algorithm) && allowed.contains(algorithm) => {
                [algorithm].into_iter().collect()
            }
            _ => return Err("alg is not allowed, or does not fit the key"),
        },
        Some(_) => return Err("alg is not a string"),
    };
    if fits.is_empty() {
        return Err("no allowed algorithm fits the key");
    }
    Ok(fits)
}

/// A public key as numbers.
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ec { curve: Curve, x: Vec<u8>, y: Vec<u8> },
    Ed25519 { x: Vec<u8> },
}

#[derive(Clone, Copy)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// The length of a coordinate in bytes.
    const fn len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

impl Material {
    fn parse(jwk: &JsonObject) -> Result<Self, &'static str> {
        match (text(jwk, "kty"), text(jwk, "crv")) {
            (Some("RSA"), _) => Self::rsa(jwk),
            (Some("EC"), Some("P-256")) => Self::ec(jwk, Curve::P256),
            (Some("EC"), Some("P-384")) => Self::ec(jwk, Curve::P384),
            (Some("EC"), Some("P-521")) => Self::ec(jwk, Curve::P521),
            (Some("OKP"), Some("Ed25519")) => {
                let x = number(jwk, "x")
                    .filter(|x| x.len() == 32)
                    .ok_or("x is not 32 bytes of base64url")?;
                Ok(Self::Ed25519 { x })
            }
            (Some("oct"), _) => Err("symmetric key"),
            (Some("EC" | "OKP"), _) => Err("unknown crv"),
            _ => Err("unknown kty"),
        }
    }

    fn rsa(jwk: &JsonObject) -> Result<Self, &'static str> {
        // Some issuers lead with a zero byte; the number is the same.
        let positive = |name| {
            let bytes = number(jwk, name)?;
            let start = bytes.iter().position(|byte| *byte != 0)?;
            bytes.get(start..).map(<[u8]>::to_vec)
        };
        let n = positive("n").ok_or("n is not a number in base64url")?;
        let e = positive("e").ok_or("e is not a number in base64url")?;
        let top = n.first().map_or(0, |byte| 8 - byte.leading_zeros() as usize);
        if !RSA_BITS.contains(&((n.len() - 1) * 8 + top)) {
            return Err("modulus not of 2048 to 8192 bits");
        }
        let odd = |bytes: &[u8]| bytes.last().is_some_and(|byte| byte & 1 == 1);
        if !odd(&n) || !odd(&e) || e.len() > 4 || e == [1] {
            return Err("not a sound RSA key");
        }
        Ok(Self::Rsa { n, e })
    }

    fn ec(jwk: &JsonObject, curve: Curve) -> Result<Self, &'static str> {
        // The full size of a coordinate, leading zeros included (RFC 7518 section 6.2.1.2).
        let coordinate = |name| number(jwk, name).filter(|bytes| bytes.len() == curve.len());
        let x = coordinate("x").ok_or("x is not a coordinate in base64url")?;
        let y = coordinate("y").ok_or("y is not a coordinate in base64url")?;
        Ok(Self::Ec { curve, x, y })
    }

    fn algorithms(&self) -> &'static [Algorithm] {
        use Algorithm::{ES256, ES384, ES512, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        match self {
            Self::Rsa { .. } => &[RS256, RS384, RS512, PS256, PS384, PS512],
            Self::Ec {
                curve: Curve::P256, ..
            } => &[ES256],
            Self::Ec {
                curve: Curve::P384, ..
            } => &[ES384],
            Self::Ec {
                curve: Curve::P521, ..
            } => &[ES512],
            Self::Ed25519 { .. } => &[EdDSA],
        }
    }

    /// The key made ready for `algorithm`; `None` when it is no key, or not for that algorithm.
    fn verifier(&self, algorithm: Algorithm) -> Option<ParsedPublicKey> {
        match self {
            Self::Rsa { n, e } => {
                let components = RsaPublicKeyComponents { n, e };
                components.to_parsed_public_key(rsa_parameters(algorithm)?).ok()
            }
            Self::Ec { x, y, .. } => {
                let scheme: &'static dyn VerificationAlgorithm = match algorithm {
                    Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
                    Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
                    Algorithm::ES512 => &signature::ECDSA_P521_SHA512_FIXED,
                    _ => return None,
                };
                // SEC 1 section 2.3.3, uncompressed; the library checks that it lies on the curve.
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                ParsedPublicKey::new(scheme, point).ok()
            }
            Self::Ed25519 { x } => match algorithm {
                Algorithm::EdDSA => ParsedPublicKey::new(&signature::ED25519, x).ok(),
                _ => None,
            },
        }
    }

    /// RFC 7638, with SHA-256.
    fn thumbprint(&self) -> Thumbprint {
        let canonical = match self {
            Self::Rsa { n, e } => format!(
                r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#,
                base64url::encode(e),
                base64url::encode(n)
            ),
            Self::Ec { curve, x, y } => format!(
                r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#,
                curve.name(),
                base64url::encode(x),
                base64url::encode(y)
            ),
            Self::Ed25519 { x } => {
                format!(
                    r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#,
                    base64url::encode(x)
                )
            }
        };
        let digest = digest::digest(&digest::SHA256, canonical.as_bytes());
        let mut bytes = [0; 32];
        bytes
            .iter_mut()
            .zip(digest.as_ref())
            .for_each(|(to, from)| *to = *from);
        Thumbprint(bytes)
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

fn text<'a>(jwk: &'a JsonObject, name: &str) -> Option<&'a str> {
    jwk.get(name).and_then(Json::as_str)
}

fn number(jwk: &JsonObject, name: &str) -> Option<Vec<u8>> {
    text(jwk, name).and_then(base64url::decode)
}
