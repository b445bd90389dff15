//! JWT-SVIDs for who cannot verify them (ValidateJWTSVID): a token, an audience and our own bundle enter, the subject and
//! its claims leave. All rules of the JWT-SVID specification are `jose`'s; what is added is whose keys are asked: those of
//! the subject's trust domain, which is ours or nobody's (S-32).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use hopguard_jose::{Algorithms, Json, KeyPolicy, KeySet, KeySetError, Rules, Token, TokenError, TokenTypes};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::json;
use spiffe::SpiffeId;

use crate::authority::{JwtKey, Trust};

/// The longest audience, alone or all of a token together as JSON: with a SPIFFE ID of full length beside it the token
/// is still one that verifiers read.
pub const MAX_AUDIENCE: usize = 3 << 10;
/// The most audiences of one token: each can use the token at all the others.
pub const MAX_AUDIENCES: usize = 32;
/// By how many seconds clocks may differ (S-33): whoever signed is this process, or a replica of it.
pub const LEEWAY: i64 = 5;

/// Whether a token may have these audiences, whoever asks for it: there is one, none is empty, and they are not too many
/// or too long.
pub fn is_audience(audience: &[String]) -> bool {
    // As it will stand in the token: escapes count.
    let length = serde_json::to_vec(audience).map_or(usize::MAX, |text| text.len());
    (1..=MAX_AUDIENCES).contains(&audience.len())
        && length <= MAX_AUDIENCE
        && !audience.iter().any(String::is_empty)
}

/// Why a JWT-SVID is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It breaks a rule of tokens.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Its subject is no SPIFFE ID of a workload.
    #[error("sub is not the SPIFFE ID of a workload")]
    Subject,
    /// Its subject is of a trust domain whose keys we do not have.
    #[error("sub is not in the trust domain `{0}`, and no other bundle is known")]
    Foreign(String),
    /// The bundle cannot be used: a mistake of ours.
    #[error("our own bundle: {0}")]
    Bundle(#[from] KeySetError),
}

impl Refusal {
    /// A stable name for the log.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Token(error) => error.label(),
            Self::Subject => "bad_sub",
            Self::Foreign(_) => "foreign_sub",
            Self::Bundle(_) => "bad_bundle",
        }
    }
}

/// A bundle of JWT keys as a standard JWK Set (RFC 7517), keys of JWT-SVIDs alone (S-51). The members of SPIFFE bundles
/// (`spiffe_sequence`, `spiffe_refresh_hint`) are none of a standard set, and a stream has no use for them.
pub fn jwks(keys: &[JwtKey]) -> Vec<u8> {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk("jwt-svid")).collect();
    json!({ "keys": keys }).to_string().into_bytes()
}

/// What a token proves.
#[derive(Debug)]
pub struct Believed {
    /// Whom it speaks for.
    pub id: SpiffeId,
    /// The second in which it was issued, since 1970.
    pub issued: Option<i64>,
    /// All that it says.
    pub claims: Struct,
}

/// Verifies, and remembers the keys made ready as long as they are published.
#[derive(Default)]
pub struct Validator {
    ready: ArcSwapOption<Ready>,
}

struct Ready {
    published: Vec<JwtKey>,
    keys: KeySet,
}

impl Validator {
    /// Whom a token speaks for, and what it says.
    ///
    /// # Errors
    /// The first [`Refusal`] found.
    pub fn validate(
        &self,
        trust: &Trust,
        audience: String,
        token: &str,
        now: SystemTime,
    ) -> Result<Believed, Refusal> {
        let ready = self.ready(&trust.jwt_keys)?;
        validate(trust, &ready.keys, audience, token, now)
    }

    fn ready(&self, published: &[JwtKey]) -> Result<Arc<Ready>, KeySetError> {
        if let Some(ready) = self.ready.load_full()
            && ready.published == published
        {
            return Ok(ready);
        }
        let ready = Arc::new(Ready {
            keys: KeySet::parse(&jwks(published), &KeyPolicy::JWT_SVID)?,
            published: published.to_vec(),
        });
        self.ready.store(Some(ready.clone()));
        Ok(ready)
    }
}

fn validate(
    trust: &Trust,
    keys: &KeySet,
    audience: String,
    token: &str,
    now: SystemTime,
) -> Result<Believed, Refusal> {
    let token = Token::parse(token)?;
    let rules = Rules {
        algorithms: Algorithms::JWT_SVID,
        types: TokenTypes::svid(),
        issuer: None,
        audiences: vec![audience],
        leeway: LEEWAY,
    };
    let id = subject(&token, trust)?;
    let verified = token.verify(keys, &rules, unix(now))?;
    let issued = verified.claims.times.iat;
    let mut claims = verified.claims.all;
    // A list whatever it was, as SPIRE answers: one type less for clients to expect.
    let audience = verified.claims.audience.into_iter().map(Json::String).collect();
    claims.insert("aud".to_owned(), Json::Array(audience));
    Ok(Believed {
        id,
        issued,
        claims: fields(claims),
    })
}

/// Selects the bundle, so it comes before the proof.
fn subject(token: &Token<'_>, trust: &Trust) -> Result<SpiffeId, Refusal> {
    let text = token.subject()?;
    let id = SpiffeId::new(text).map_err(|_| Refusal::Subject)?;
    if id.to_string() != text || id.path().is_empty() {
        return Err(Refusal::Subject);
    }
    if !id.is_member_of(&trust.domain) {
        return Err(Refusal::Foreign(trust.domain.to_string()));
    }
    Ok(id)
}

fn unix(now: SystemTime) -> i64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn fields(object: BTreeMap<String, Json>) -> Struct {
    Struct {
        fields: object.into_iter().map(|(name, one)| (name, value(one))).collect(),
    }
}

/// The protocol knows doubles alone; `jose` bounds nesting and size.
fn value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        #[expect(
            clippy::cast_precision_loss,
            reason = "google.protobuf.Value has no other number"
        )]
        Json::Int(value) => Kind::NumberValue(value as f64),
        Json::Float(value) => Kind::NumberValue(value),
        Json::String(value) => Kind::StringValue(value),
        Json::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(value).collect(),
        }),
        Json::Object(object) => Kind::StructValue(fields(object)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests;
