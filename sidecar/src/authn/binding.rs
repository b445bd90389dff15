//! Who may present a token (pure): its claims enter, what binds it leaves; that, what the place of the request demands, and
//! what was proven of its sender enter, and yes or the reason why not leaves. It is asked on every request, after the
//! cache: the cache knows the token, never who sends it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hopguard_jose::{Json, JsonObject, Thumbprint, TokenError};
use spiffe::SpiffeId;

use super::claim_path::ClaimPath;
use super::error::Rejection;

/// The deepest chain of actors.
const MAX_ACTORS: usize = 8;

/// Whether a place takes proofs of possession (RFC 9449).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dpop {
    /// No: a token with `Authorization: DPoP` is refused.
    #[default]
    Off,
    /// Beside bearer tokens. A token that is bound to a key is never taken without its proof.
    Accept,
    /// Nothing else.
    Require,
}

/// What a place demands of the tokens that it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// `bind = "caller"`: a claim must name the SPIFFE ID of the mTLS peer.
    pub caller: bool,
    /// The claim that must; without it, those of [`Binding::callers`] do.
    pub caller_claim: Option<ClaimPath>,
    /// The token must be bound to the peer's certificate (RFC 8705 section 3).
    pub certificate: bool,
    /// Whether proofs of possession are taken.
    pub dpop: Dpop,
}

impl Demand {
    /// Whether nothing is demanded.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What is demanded of one request: by its port, and by routes, which can only add.
#[derive(Clone, Copy, Debug)]
pub struct Demands<'a> {
    /// By the port.
    pub port: &'a Demand,
    /// By the declared route that it is decided on; of a request of none, by those that it is near to.
    pub routes: &'a [&'a Demand],
}

impl<'a> Demands<'a> {
    fn each(self) -> impl Iterator<Item = &'a Demand> {
        std::iter::once(self.port).chain(self.routes.iter().copied())
    }

    /// The stricter of what both say of proofs.
    #[must_use]
    pub fn dpop(self) -> Dpop {
        self.each().map(|demand| demand.dpop).max().unwrap_or_default()
    }
}

/// What was proven of the sender of a token, by this connection and this request.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The SPIFFE ID of the mTLS peer.
    pub id: Option<&'a SpiffeId>,
    /// SHA-256 of the certificate with which it proved that.
    pub certificate: Option<&'a [u8; 32]>,
    /// The key of the DPoP proof; `None` when the token came as a bearer token.
    pub key: Option<Thumbprint>,
}

/// What binds a token to who may present it, as its claims say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// Whom the token names as the one who presents it: `act.sub` alone when that is a SPIFFE ID, for then the token was
    /// exchanged by that workload; else `azp` and `client_id`.
    pub callers: Vec<String>,
    /// The values of the claims that some place names in [`Demand::caller_claim`].
    pub named: Vec<(ClaimPath, Vec<String>)>,
    /// `cnf.x5t#S256` (RFC 8705 section 3.1).
    pub certificate: Option<[u8; 32]>,
    /// `cnf.jkt` (RFC 9449 section 6.1).
    pub key: Option<Thumbprint>,
}

impl Binding {
    /// Reads it from the claims of a token, or from an answer about one; `named` are the claims to keep.
    ///
    /// # Errors
    /// [`TokenError::Claim`] when `cnf` is not understood to its last member: a lock that we cannot check is no reason
    /// to leave the door open.
    pub fn read(claims: &JsonObject, named: &[ClaimPath]) -> Result<Self, TokenError> {
        let (certificate, key) = confirmation(claims.get("cnf"))?;
        let values = |path: &ClaimPath| Some((path.clone(), strings(path.find(claims)?)));
        Ok(Self {
            callers: callers(claims),
            named: named.iter().filter_map(values).collect(),
            certificate,
            key,
        })
    }

    /// Whether `sender` may present the token where this is demanded.
    ///
    /// # Errors
    /// [`Rejection::Invalid`] with `dpop_required`, `dpop_not_accepted`, `not_bound_to_key`, `wrong_key`,
    /// `not_bound_to_certificate` or `not_bound_to_caller`.
    pub fn check(&self, demands: Demands<'_>, sender: Sender<'_>) -> Result<(), Rejection> {
        self.check_key(demands.dpop(), sender.key)?;
        match self.certificate {
            Some(bound) if sender.certificate != Some(&bound) => {
                return Err(unbound(
                    "not_bound_to_certificate",
                    "the token is bound to another certificate than the one of this connection",
                ));
            }
            None if demands.each().any(|demand| demand.certificate) => {
                return Err(unbound(
                    "not_bound_to_certificate",
                    "only tokens that are bound to the caller's certificate are taken here",
                ));
            }
            _ => {}
        }
        for demand in demands.each().filter(|demand| demand.caller) {
            if !sender
                .id
                .is_some_and(|id| self.names(id, demand.caller_claim.as_ref()))
            {
                return Err(unbound(
                    "not_bound_to_caller",
                    "the token does not name the workload that presents it",
                ));
            }
        }
        Ok(())
    }

    fn check_key(&self, dpop: Dpop, shown: Option<Thumbprint>) -> Result<(), Rejection> {
        match (self.key, shown) {
            (_, Some(_)) if dpop == Dpop::Off => Err(unbound(
                "dpop_not_accepted",
                "tokens with a DPoP proof are not taken here",
            )),
            (Some(bound), Some(shown)) if bound != shown => Err(unbound(
                "wrong_key",
                "the token is bound to another key than the one of the proof",
            )),
            (None, Some(_)) => Err(unbound(
                "not_bound_to_key",
                "the token is bound to no key, so no proof can make it the sender's",
            )),
            (Some(_), None) => Err(unbound(
                "dpop_required",
                "the token is bound to a key, and came without a proof of it",
            )),
            (None, None) if dpop == Dpop::Require => Err(unbound(
                "dpop_required",
                "only tokens with a DPoP proof are taken here",
            )),
            _ => Ok(()),
        }
    }

    /// Whether the claim that must name the caller names `id`, to the byte.
    fn names(&self, id: &SpiffeId, claim: Option<&ClaimPath>) -> bool {
        let id = id.to_string();
        let values = match claim {
            None => Some(&self.callers),
            Some(claim) => self
                .named
                .iter()
                .find(|(path, _)| path == claim)
                .map(|(_, values)| values),
        };
        values.is_some_and(|values| values.contains(&id))
    }
}

/// The chain of actors (RFC 8693 section 4.1), the one that acts now first. Their other claims are not looked at.
///
/// # Errors
/// [`TokenError::Claim`] when a link is no object, names nobody, is of another issuer than `issuer`, or when there are
/// more than eight.
pub fn actors(claims: &JsonObject, issuer: &str) -> Result<Vec<String>, TokenError> {
    let mut chain = Vec::new();
    let mut next = claims.get("act");
    while let Some(act) = next {
        let act = act.as_object().ok_or(TokenError::Claim("act is not an object"))?;
        if chain.len() == MAX_ACTORS {
            return Err(TokenError::Claim("act is nested more than eight deep"));
        }
        if act.get("iss").is_some_and(|iss| iss.as_str() != Some(issuer)) {
            return Err(TokenError::Claim("act.iss is not the token's issuer"));
        }
        let subject = act.get("sub").and_then(Json::as_str);
        // It goes into headers and logs.
        let subject = subject.filter(|sub| !sub.is_empty() && !sub.chars().any(char::is_control));
        let subject = subject.ok_or(TokenError::Claim("act.sub is missing, empty, or not plain text"))?;
        chain.push(subject.to_owned());
        next = act.get("act");
    }
    Ok(chain)
}

fn callers(claims: &JsonObject) -> Vec<String> {
    let text = |claims: &JsonObject, name: &str| claims.get(name).and_then(Json::as_str).map(str::to_owned);
    let actor = claims.get("act").and_then(Json::as_object);
    match actor.and_then(|act| text(act, "sub")) {
        Some(workload) if workload.starts_with("spiffe://") => vec![workload],
        _ => ["azp", "client_id"]
            .iter()
            .filter_map(|name| text(claims, name))
            .collect(),
    }
}

/// `cnf` (RFC 7800 section 3.1) as thumbprints of certificate and key.
fn confirmation(cnf: Option<&Json>) -> Result<(Option<[u8; 32]>, Option<Thumbprint>), TokenError> {
    let Some(cnf) = cnf else {
        return Ok((None, None));
    };
    let unknown = TokenError::Claim("cnf is not understood");
    let members = cnf.as_object().ok_or(unknown)?;
    let (mut certificate, mut key) = (None, None);
    for (name, value) in members {
        let thumbprint = value.as_str().and_then(thumbprint);
        match name.as_str() {
            "x5t#S256" => certificate = Some(thumbprint.ok_or(unknown)?),
            "jkt" => key = Some(Thumbprint(thumbprint.ok_or(unknown)?)),
            _ => return Err(unknown),
        }
    }
    if certificate.is_none() && key.is_none() {
        return Err(unknown);
    }
    Ok((certificate, key))
}

/// 32 bytes of base64url without padding.
fn thumbprint(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// One string, or the strings of an array of nothing else.
fn strings(value: &Json) -> Vec<String> {
    match value {
        Json::String(one) => vec![one.clone()],
        many => {
            let many = many.as_strings().unwrap_or_default();
            many.into_iter().map(str::to_owned).collect()
        }
    }
}

fn unbound(reason: &'static str, detail: &str) -> Rejection {
    Rejection::Invalid {
        reason,
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests;
