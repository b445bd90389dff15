//! The JWT authority: a SPIFFE ID and its audience enter, a JWT-SVID leaves (ES256; compact serialization, and nothing in
//! its header but `alg`, `kid` and `typ`: S-21, S-22). Its public key leaves as a JWK of the trust bundle.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use spiffe::{SpiffeId, TrustDomain};
use x509_parser::asn1_rs::{FromDer, Integer, Sequence};

use super::AuthorityError;
use crate::keys::Signer;

/// A JWT-SVID as its workload gets it. It is a bearer token: whoever holds it is its subject.
pub struct JwtSvid {
    /// Whose it is.
    pub id: SpiffeId,
    /// The token.
    pub token: zeroize::Zeroizing<String>,
    /// End of validity.
    pub not_after: SystemTime,
}

/// A public key that JWT-SVIDs are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtKey {
    /// Its key id: the SHA-256 thumbprint of the key (RFC 7638).
    pub kid: String,
    /// The public key as an uncompressed point (SEC 1, 2.3.3), P-256.
    pub point: Vec<u8>,
}

impl JwtKey {
    /// The key of a point.
    ///
    /// # Errors
    /// When it is no uncompressed point of P-256 by its length.
    pub fn new(point: &[u8]) -> Result<Self, AuthorityError> {
        let (x, y) =
            coordinates(point).ok_or_else(|| AuthorityError::Profile("no P-256 point".to_owned()))?;
        // The members in their lexical order, without blanks: RFC 7638, section 3.
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()));
        Ok(Self {
            kid,
            point: point.to_vec(),
        })
    }

    /// As a JWK with these further members (`use`, mostly).
    pub fn jwk(&self, usage: &str) -> serde_json::Value {
        let (x, y) = coordinates(&self.point).unwrap_or_default();
        json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.kid, "use": usage, "alg": "ES256"})
    }
}

/// One signing key of JWT-SVIDs.
pub struct JwtAuthority {
    domain: TrustDomain,
    key: JwtKey,
    signer: Arc<dyn Signer>,
    issuer: Option<String>,
}

impl std::fmt::Debug for JwtAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtAuthority")
            .field("kid", &self.key.kid)
            .finish_non_exhaustive()
    }
}

impl JwtAuthority {
    /// An authority of a key. `issuer` is the `iss` of its tokens: the URL of the OpenID discovery document, where there
    /// is one.
    ///
    /// # Errors
    /// When the key is not on P-256.
    pub fn open(
        domain: &TrustDomain,
        signer: Arc<dyn Signer>,
        issuer: Option<String>,
    ) -> Result<Self, AuthorityError> {
        let key = JwtKey::new(signer.public_key())?;
        Ok(Self {
            domain: domain.clone(),
            key,
            signer,
            issuer,
        })
    }

    /// Its public key.
    pub fn key(&self) -> &JwtKey {
        &self.key
    }

    /// Signs a JWT-SVID (JWT-SVID sections 2 to 4: `sub`, `aud`, `exp`; `iat` and `jti` beside them).
    ///
    /// # Errors
    /// When the identity is not below our trust domain, the audience is empty, or signing fails.
    pub fn issue(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<JwtSvid, AuthorityError> {
        if !id.is_member_of(&self.domain) || id.path().is_empty() {
            return Err(AuthorityError::NotOurs(id.clone()));
        }
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            return Err(AuthorityError::Profile(
                "a JWT-SVID without an audience".to_owned(),
            ));
        }
        let not_after = now + ttl;
        let mut claims = json!({
            "sub": id.to_string(),
            "aud": audience,
            "iat": unix(now),
            "exp": unix(not_after),
            "jti": hex::encode(super::serial(now)?),
        });
        if let (Some(issuer), Some(claims)) = (&self.issuer, claims.as_object_mut()) {
            claims.insert("iss".to_owned(), json!(issuer));
        }
        let header = json!({"alg": "ES256", "kid": self.key.kid, "typ": "JWT"});
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut token = format!("{}.{}", part(&header), part(&claims));
        let signature = self.signer.sign(token.as_bytes())?;
        let signature =
            fixed(&signature).ok_or_else(|| AuthorityError::Profile("no ECDSA signature".to_owned()))?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(JwtSvid {
            id: id.clone(),
            token: token.into(),
            not_after,
        })
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Both coordinates of an uncompressed point, base64url.
fn coordinates(point: &[u8]) -> Option<(String, String)> {
    let (&4, both) = point.split_first()? else {
        return None;
    };
    let (x, y) = both.split_at_checked(32)?;
    (y.len() == 32).then(|| (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y)))
}

/// An ASN.1 signature (RFC 3279, 2.2.3) as the two numbers of a JWS (RFC 7518, 3.4), 32 bytes each.
fn fixed(der: &[u8]) -> Option<[u8; 64]> {
    let (_, sequence) = Sequence::from_der(der).ok()?;
    let (rest, r) = Integer::from_der(sequence.content.as_ref()).ok()?;
    let (_, s) = Integer::from_der(rest).ok()?;
    let mut out = [0; 64];
    for (number, place) in [(r.as_ref(), 0), (s.as_ref(), 32)] {
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        let start = (place + 32_usize)
            .checked_sub(number.len())
            .filter(|start| *start >= place)?;
        out.get_mut(start..place + 32)?.copy_from_slice(number);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use hopguard_jose::{Algorithms, KeyPolicy, KeySet, Rules, Token, TokenTypes};

    use super::*;
    use crate::keys::Disk;

    /// S-21 to S-26.
    #[test]
    fn a_token_verifies_with_the_published_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("td").unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let id = SpiffeId::new("spiffe://td/a").unwrap();
        // Many, because the numbers of a signature are shorter now and then.
        for turn in 0..300 {
            let signer = Disk::new(dir.path()).create(&format!("k{turn}")).unwrap();
            let authority = JwtAuthority::open(&domain, signer, None).unwrap();
            let svid = authority
                .issue(&id, &["db".to_owned()], Duration::from_secs(60), now)
                .unwrap();
            let set = json!({"keys": [authority.key().jwk("jwt-svid")]}).to_string();
            let keys = KeySet::parse(set.as_bytes(), &KeyPolicy::JWT_SVID).unwrap();
            assert_eq!(keys.len(), 1, "{:?}", keys.ignored());
            let token = Token::parse(&svid.token).unwrap();
            let rules = Rules {
                algorithms: Algorithms::JWT_SVID,
                types: TokenTypes::svid(),
                issuer: None,
                audiences: vec!["db".to_owned()],
                leeway: 0,
            };
            token.verify(&keys, &rules, 1_800_000_030).unwrap();
        }
    }

    #[test]
    fn it_signs_for_identities_of_its_trust_domain_and_an_audience_only() {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("td").unwrap();
        let signer = Disk::new(dir.path()).create("k").unwrap();
        let authority = JwtAuthority::open(&domain, signer, None).unwrap();
        let issue = |id: &str, audience: &[String]| {
            let id = SpiffeId::new(id).unwrap();
            authority
                .issue(&id, audience, Duration::from_secs(60), UNIX_EPOCH)
                .is_ok()
        };
        let db = ["db".to_owned()];
        assert!(issue("spiffe://td/a", &db));
        assert!(!issue("spiffe://other/a", &db));
        assert!(!issue("spiffe://td", &db));
        assert!(!issue("spiffe://td/a", &[]));
        assert!(!issue("spiffe://td/a", &[String::new()]));
    }
}
