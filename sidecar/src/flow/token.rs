//! The token of a request, from where it stands to the user whom it proves for this very sender: found in one place, proven
//! (or known from before), and then, on every request, bound to who sent it. What fails on the way is answered as RFC 6750
//! section 3 and RFC 9449 section 7 want it.

use std::sync::Arc;
use std::time::SystemTime;

use super::caller::{Asked, No};
use super::{Context, Secured};
use crate::authn::{
    Binding, Demand, Demands, Dpop, Proof, ProofRefusal, Proven, Rejection, Sender, Thumbprint, VerifiedUser,
    unix,
};
use crate::config::{PortTokens, TokenRules};
use crate::request::{Bearer, Head, Presented};
use crate::snapshot::Snapshot;

/// What was read of a request's token.
pub(super) struct Shown {
    /// Whom it proves.
    pub(super) verified: Option<Arc<VerifiedUser>>,
    /// The key that its sender proved to have.
    pub(super) key: Option<Thumbprint>,
    /// A nonce for the next proof, when the one that came is about to end.
    pub(super) nonce: Option<String>,
    /// How the port takes tokens.
    pub(super) port: Arc<PortTokens>,
    /// Whether proofs are taken here, and by which algorithms: for challenges.
    pub(super) asks: Asks,
}

/// A request that is answered by us before it is decided.
pub(super) struct Refused {
    pub(super) no: No,
    /// Whom a good token names that is not its sender's: for the record, and proof of nothing.
    pub(super) named: Option<Arc<VerifiedUser>>,
}

impl Refused {
    fn naming(user: &Arc<VerifiedUser>, no: No) -> Self {
        let named = Some(Arc::clone(user));
        Self { no, named }
    }
}

impl From<No> for Refused {
    fn from(no: No) -> Self {
        Self { no, named: None }
    }
}

/// Where a request's token is judged: its port, and the routes that it is of or near to.
struct Place<'a> {
    port: &'a Arc<PortTokens>,
    routes: Vec<&'a Demand>,
}

impl<'a> Place<'a> {
    /// `None` when the own service is in no mesh file any more: then nothing can be allowed either.
    fn of(ctx: &Context, secured: &Secured, head: &Head, snapshot: &'a Snapshot) -> Option<Self> {
        let rules: &TokenRules = &snapshot.mesh.service(&ctx.options.service)?.tokens;
        let routes = if rules.has_routes() {
            // By the router and the path of the decision: no spelling leads to the one and not to the other.
            snapshot.policies.routes_for_tokens(&head.method, &head.path)
        } else {
            Vec::new()
        };
        Some(Self {
            port: rules.port(secured.port.port),
            routes: routes.iter().filter_map(|name| rules.route(name)).collect(),
        })
    }

    fn demands(&self) -> Demands<'_> {
        Demands {
            port: &self.port.demand,
            routes: &self.routes,
        }
    }
}

/// Reads the token of a request, if it has one.
///
/// # Errors
/// The answer: 401, or 503 when nobody can say.
pub(super) async fn token(ctx: &Context, asked: &Asked<'_>, snapshot: &Snapshot) -> Result<Shown, Refused> {
    let Some(place) = Place::of(ctx, asked.secured, &asked.head, snapshot) else {
        return Err(No {
            status: 404,
            code: "unknown_host",
            detail: "the own service is not in the mesh file".to_owned(),
            extra: vec![],
        }
        .into());
    };
    let asks = Asks {
        dpop: place.demands().dpop(),
        algorithms: ctx.proofs.algorithms(),
    };
    let shown = Shown {
        port: Arc::clone(place.port),
        asks,
        verified: None,
        key: None,
        nonce: None,
    };
    let (token, proof) = match asked.head.presented(&place.port.places) {
        Presented::Absent => return Ok(shown),
        Presented::Bad(reason) => {
            return Err(shown.asks.invalid(false, reason, Bearer::words(reason)).into());
        }
        Presented::Bearer(token) => (token, false),
        Presented::Dpop(token) => (token.into(), true),
    };
    if proof && shown.asks.dpop == Dpop::Off {
        let detail = "tokens with a DPoP proof are not taken here";
        return Err(shown.asks.invalid(false, "dpop_not_accepted", detail).into());
    }
    let refused = |rejection| shown.asks.rejected(proof, rejection);
    let verified = ctx.authn.verify(&token, asked.at).await.map_err(refused)?;
    let proven = if proof {
        Some(proven(ctx, asked, &token, &shown)?)
    } else {
        None
    };
    let key = proven.as_ref().map(|proof| proof.key);
    let unbound = |rejection| Refused::naming(&verified, refused(rejection));
    bound(&verified.binding, &place, asked.secured, key).map_err(unbound)?;
    let mut nonce = None;
    if let Some(proof) = proven {
        let now = unix(asked.at);
        // Last: only who has a good token and its key fills the memory of proofs.
        let once = ctx.proofs.remember(&proof, now);
        once.map_err(|refusal| shown.asks.unproven(refusal))?;
        let old = |nonce: String| ctx.proofs.is_old(&nonce, now).then(|| ctx.proofs.nonce(now));
        nonce = proof.nonce.filter(|_| shown.port.nonce).and_then(old);
    }
    Ok(Shown {
        verified: Some(verified),
        key,
        nonce,
        ..shown
    })
}

/// The proof beside a token.
fn proven(ctx: &Context, asked: &Asked<'_>, token: &str, shown: &Shown) -> Result<Proof, No> {
    let invalid = |detail: &str| shown.asks.unproven(ProofRefusal::Invalid(detail.to_owned()));
    let text = asked.head.proof().map_err(invalid)?;
    let uri = shown
        .port
        .public_url
        .as_ref()
        .and_then(|url| url.below(&asked.head.path));
    let uri = uri.ok_or_else(|| invalid("this request has no URI that a proof could name"))?;
    let request = Proven {
        method: &asked.head.method,
        uri: &uri,
        token,
        nonce: shown.port.nonce,
    };
    let checked = ctx.proofs.check(text, request, unix(asked.at));
    checked.map_err(|refusal| shown.asks.unproven(refusal))
}

fn bound(
    binding: &Binding,
    place: &Place<'_>,
    secured: &Secured,
    key: Option<Thumbprint>,
) -> Result<(), Rejection> {
    let peer = secured.peer.as_ref();
    let sender = Sender {
        id: peer.map(|peer| &peer.id),
        certificate: peer.map(|peer| &peer.fingerprint),
        key,
    };
    binding.check(place.demands(), sender)
}

/// Whether a token that was taken once for what is still open would be its sender's under `snapshot`. The proof of its key
/// is not asked for again: it was of the request's beginning.
pub(super) fn still_bound(
    ctx: &Context,
    asked: &Asked<'_>,
    (verified, key): (&VerifiedUser, Option<Thumbprint>),
    snapshot: &Snapshot,
) -> bool {
    Place::of(ctx, asked.secured, &asked.head, snapshot)
        .is_some_and(|place| bound(&verified.binding, &place, asked.secured, key).is_ok())
}

/// What a challenge asks for.
pub(super) struct Asks {
    dpop: Dpop,
    /// `algs` (RFC 9449 section 7.1).
    algorithms: Arc<str>,
}

const CHALLENGE: &str = "www-authenticate";

impl Asks {
    /// The challenges of a request that came without a token.
    pub(super) fn plain(&self) -> Vec<(&'static str, String)> {
        self.challenges(None)
    }

    /// The challenges of a request whose token lacks a scope; `proof`: it came with one (RFC 6750 section 3.1).
    pub(super) fn scopes(&self, proof: bool, scopes: &[Arc<str>]) -> Vec<(&'static str, String)> {
        let error = format!(
            ", error=\"insufficient_scope\", scope=\"{}\"",
            plain_ascii(&scopes.join(" "))
        );
        self.challenges(Some((proof, &error)))
    }

    /// The challenges that name an error and what it was.
    fn failed(&self, proof: bool, code: &str, detail: &str) -> Vec<(&'static str, String)> {
        let error = format!(
            ", error=\"{code}\", error_description=\"{}\"",
            plain_ascii(detail)
        );
        self.challenges(Some((proof, &error)))
    }

    /// One challenge for each kind of token that is taken; the error stands in the one that the client tried.
    fn challenges(&self, error: Option<(bool, &str)>) -> Vec<(&'static str, String)> {
        let told = |tried: bool| match error {
            Some((proof, error)) if proof == tried => error,
            _ => "",
        };
        let bearer = format!("Bearer realm=\"hopguard\"{}", told(false));
        let proof = format!(
            "DPoP realm=\"hopguard\", algs=\"{}\"{}",
            self.algorithms,
            told(true)
        );
        match self.dpop {
            Dpop::Off => vec![(CHALLENGE, bearer)],
            Dpop::Accept => vec![(CHALLENGE, bearer), (CHALLENGE, proof)],
            // Whatever was tried, this is what would help.
            Dpop::Require => {
                let told = [told(false), told(true)].concat();
                let algorithms = &self.algorithms;
                vec![(
                    CHALLENGE,
                    format!("DPoP realm=\"hopguard\", algs=\"{algorithms}\"{told}"),
                )]
            }
        }
    }

    fn invalid(&self, proof: bool, reason: &'static str, detail: &str) -> No {
        No {
            status: 401,
            code: reason,
            detail: detail.to_owned(),
            extra: self.failed(proof, "invalid_token", detail),
        }
    }

    fn rejected(&self, proof: bool, rejection: Rejection) -> No {
        match rejection {
            Rejection::Invalid { reason, detail } => self.invalid(proof, reason, &detail),
            Rejection::Unavailable { detail, .. } => No {
                status: 503,
                code: "issuer_unavailable",
                detail,
                extra: vec![("retry-after", "1".to_owned())],
            },
        }
    }

    fn unproven(&self, refusal: ProofRefusal) -> No {
        let (code, detail) = match refusal {
            ProofRefusal::Invalid(detail) => ("invalid_dpop_proof", detail),
            ProofRefusal::UseNonce(nonce) => {
                let detail = "the DPoP proof must carry the nonce of this answer";
                let mut extra = self.failed(true, "use_dpop_nonce", detail);
                extra.push(("dpop-nonce", nonce));
                return No {
                    status: 401,
                    code: "use_dpop_nonce",
                    detail: detail.to_owned(),
                    extra,
                };
            }
            ProofRefusal::Full => {
                return No {
                    status: 503,
                    code: "too_many_proofs",
                    detail: "too many DPoP proofs are remembered, so this one cannot be".to_owned(),
                    extra: vec![("retry-after", "1".to_owned())],
                };
            }
        };
        No {
            status: 401,
            code,
            extra: self.failed(true, code, &detail),
            detail,
        }
    }
}

/// What may stand in a quoted string of a challenge (RFC 6750 section 3).
fn plain_ascii(text: &str) -> String {
    let fits = |c: &char| (c.is_ascii_graphic() && !matches!(c, '"' | '\\')) || *c == ' ';
    text.chars().filter(fits).collect()
}

/// The token of a request that is still open.
pub(super) struct Kept<'a> {
    pub(super) verified: Arc<VerifiedUser>,
    pub(super) asked: &'a Asked<'a>,
    pub(super) shown: &'a Shown,
}

impl Kept<'_> {
    /// What the token proves to the issuers of now; its text is read again where it was found, for nothing else keeps it.
    pub(super) async fn verified_again(&self, ctx: &Context, now: SystemTime) -> Option<Arc<VerifiedUser>> {
        match self.asked.head.presented(&self.shown.port.places) {
            Presented::Bearer(token) => ctx.authn.verify(&token, now).await.ok(),
            Presented::Dpop(token) => ctx.authn.verify(token, now).await.ok(),
            Presented::Absent | Presented::Bad(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(dpop: Dpop) -> Asks {
        Asks {
            dpop,
            algorithms: "ES256 EdDSA".into(),
        }
    }

    fn values(challenges: Vec<(&'static str, String)>) -> Vec<String> {
        challenges.into_iter().map(|(_, value)| value).collect()
    }

    fn shown(dpop: Dpop, error: Option<(bool, &str, &str)>) -> Vec<String> {
        values(match error {
            Some((proof, code, detail)) => asks(dpop).failed(proof, code, detail),
            None => asks(dpop).plain(),
        })
    }

    #[test]
    fn a_scope_is_asked_for_in_the_scheme_that_was_tried() {
        let scopes: [Arc<str>; 2] = ["a:read".into(), "b".into()];
        let error = ", error=\"insufficient_scope\", scope=\"a:read b\"";
        let bearer = "Bearer realm=\"hopguard\"";
        let dpop = "DPoP realm=\"hopguard\", algs=\"ES256 EdDSA\"";
        let told = |demand, proof| values(asks(demand).scopes(proof, &scopes));
        assert_eq!(told(Dpop::Off, false), [format!("{bearer}{error}")]);
        assert_eq!(
            told(Dpop::Accept, false),
            [format!("{bearer}{error}"), dpop.to_owned()]
        );
        assert_eq!(
            told(Dpop::Accept, true),
            [bearer.to_owned(), format!("{dpop}{error}")]
        );
        assert_eq!(told(Dpop::Require, true), [format!("{dpop}{error}")]);
    }

    #[test]
    fn a_challenge_says_what_would_be_taken_and_what_was_wrong_with_what_was_tried() {
        let bearer = "Bearer realm=\"hopguard\"";
        let dpop = "DPoP realm=\"hopguard\", algs=\"ES256 EdDSA\"";
        let error = ", error=\"invalid_token\", error_description=\"no good\"";
        assert_eq!(shown(Dpop::Off, None), [bearer]);
        assert_eq!(shown(Dpop::Accept, None), [bearer, dpop]);
        assert_eq!(shown(Dpop::Require, None), [dpop]);
        let tried = |proof| Some((proof, "invalid_token", "no \"good\"\r\n"));
        assert_eq!(shown(Dpop::Off, tried(false)), [format!("{bearer}{error}")]);
        assert_eq!(
            shown(Dpop::Accept, tried(false)),
            [format!("{bearer}{error}"), dpop.to_owned()]
        );
        assert_eq!(
            shown(Dpop::Accept, tried(true)),
            [bearer.to_owned(), format!("{dpop}{error}")]
        );
        assert_eq!(shown(Dpop::Require, tried(false)), [format!("{dpop}{error}")]);
        assert_eq!(shown(Dpop::Require, tried(true)), [format!("{dpop}{error}")]);
    }
}
