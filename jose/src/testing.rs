//! Keys and tokens of the tests: made on the spot, signed by aws-lc-rs straight, so that every malformed token carries a
//! good signature and only the rule under test can refuse it.

use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair};

use crate::{Algorithm, Algorithms, KeyPolicy, KeySet, Rules, TokenTypes, base64url};

pub(crate) const NOW: i64 = 1_800_000_000;
pub(crate) const ISSUER: &str = "https://idp.example";

/// A key pair.
pub(crate) enum Pair {
    Rsa(RsaKeyPair),
    Ec(Algorithm, EcdsaKeyPair, Vec<u8>),
    Ed(Ed25519KeyPair, Vec<u8>),
}

impl Pair {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let rng = SystemRandom::new();
        let ec = |scheme| {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(scheme, &rng)
                .expect("generate")
                .as_ref()
                .to_vec();
            Self::Ec(
                algorithm,
                EcdsaKeyPair::from_pkcs8(scheme, &pkcs8).expect("own key"),
                pkcs8,
            )
        };
        match algorithm {
            Algorithm::ES256 => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::ES512 => ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
            Algorithm::EdDSA => {
                let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&rng)
                    .expect("generate")
                    .as_ref()
                    .to_vec();
                Self::Ed(
                    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).expect("own key"),
                    pkcs8,
                )
            }
            _ => Self::Rsa(RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("generate")),
        }
    }

    /// One pair a family, made once for all tests.
    pub(crate) fn shared(algorithm: Algorithm) -> &'static Self {
        static RSA: LazyLock<Pair> = LazyLock::new(|| Pair::new(Algorithm::RS256));
        static P256: LazyLock<Pair> = LazyLock::new(|| Pair::new(Algorithm::ES256));
        static P384: LazyLock<Pair> = LazyLock::new(|| Pair::new(Algorithm::ES384));
        static P521: LazyLock<Pair> = LazyLock::new(|| Pair::new(Algorithm::ES512));
        static ED: LazyLock<Pair> = LazyLock::new(|| Pair::new(Algorithm::EdDSA));
        match algorithm {
            Algorithm::ES256 => &P256,
            Algorithm::ES384 => &P384,
            Algorithm::ES512 => &P521,
            Algorithm::EdDSA => &ED,
            _ => &RSA,
        }
    }

    pub(crate) fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    Algorithm::RS256 => &signature::RSA_PKCS1_SHA256,
                    Algorithm::RS384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::RS512 => &signature::RSA_PKCS1_SHA512,
                    Algorithm::PS256 => &signature::RSA_PSS_SHA256,
                    Algorithm::PS384 => &signature::RSA_PSS_SHA384,
                    Algorithm::PS512 => &signature::RSA_PSS_SHA512,
                    other => panic!("{other} with an RSA key"),
                };
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &rng, message, &mut out).expect("sign");
                out
            }
            Self::Ec(_, pair, _) => pair.sign(&rng, message).expect("sign").as_ref().to_vec(),
            Self::Ed(pair, _) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A compact serialization of exactly these bytes.
    pub(crate) fn compact(&self, algorithm: Algorithm, header: &str, payload: &str) -> String {
        let signed = format!(
            "{}.{}",
            base64url::encode(header.as_bytes()),
            base64url::encode(payload.as_bytes())
        );
        let signature = self.sign(algorithm, signed.as_bytes());
        format!("{signed}.{}", base64url::encode(&signature))
    }

    /// The members that make the public key.
    pub(crate) fn members(&self) -> String {
        match self {
            Self::Rsa(pair) => {
                let n = pair
                    .public_key()
                    .modulus()
                    .big_endian_without_leading_zero()
                    .to_vec();
                format!(r#""kty":"RSA","n":"{}","e":"AQAB""#, base64url::encode(&n))
            }
            Self::Ec(algorithm, pair, _) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let crv = match algorithm {
                    Algorithm::ES256 => "P-256",
                    Algorithm::ES384 => "P-384",
                    _ => "P-521",
                };
                let (x, y) = (base64url::encode(x), base64url::encode(y));
                format!(r#""kty":"EC","crv":"{crv}","x":"{x}","y":"{y}""#)
            }
            Self::Ed(pair, _) => {
                let x = base64url::encode(pair.public_key().as_ref());
                format!(r#""kty":"OKP","crv":"Ed25519","x":"{x}""#)
            }
        }
    }

    /// The public key as a JWK with further members.
    pub(crate) fn jwk(&self, more: &str) -> String {
        let comma = if more.is_empty() { "" } else { "," };
        format!("{{{}{comma}{more}}}", self.members())
    }

    /// The private key in PKCS #8.
    pub(crate) fn pkcs8(&self) -> Vec<u8> {
        match self {
            Self::Rsa(pair) => AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(pair)
                .expect("der")
                .as_ref()
                .to_vec(),
            Self::Ec(_, _, pkcs8) | Self::Ed(_, pkcs8) => pkcs8.clone(),
        }
    }
}

/// A set of these JWKs.
pub(crate) fn set(jwks: &[String]) -> KeySet {
    KeySet::parse(document(jwks).as_bytes(), &KeyPolicy::SIGNATURES).expect("a JWK Set")
}

pub(crate) fn document(jwks: &[String]) -> String {
    format!(r#"{{"keys":[{}]}}"#, jwks.join(","))
}

pub(crate) fn rules() -> Rules {
    Rules {
        algorithms: Algorithms::ALL,
        types: TokenTypes::user(),
        issuer: Some(ISSUER.to_owned()),
        audiences: vec!["shop".to_owned()],
        leeway: 5,
    }
}

/// A payload that passes; `more` is put at its end.
pub(crate) fn payload(more: &str) -> String {
    format!(
        r#"{{"iss":"{ISSUER}","sub":"alice","aud":"shop","exp":{},"iat":{}{more}}}"#,
        NOW + 300,
        NOW - 1
    )
}
