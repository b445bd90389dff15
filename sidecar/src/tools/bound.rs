//! Whether a token is its sender's, as far as that can be said without a connection: what the place of a request demands, the
//! token's user and the caller enter; a refusal leaves, or what the caller must still prove. The check is the one of
//! requests, with everything proven that a connection could prove.

use spiffe::SpiffeId;

use crate::authn::{Demand, Demands, Dpop, Rejection, Sender, VerifiedUser};
use crate::authz::Policies;
use crate::request::Head;

use super::target::Target;

/// What nobody can say without a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// The label of the refusal without it.
    pub(super) code: &'static str,
    /// What must be proven, in words.
    pub(super) what: String,
}

/// What the sender of a token must prove at run time; nothing for a token that is anybody's, or surely this caller's.
///
/// # Errors
/// Why the token is refused, whatever the sender proves.
pub(super) fn open(
    target: &Target<'_>,
    asked: (&Policies, &Head),
    peer: Option<&SpiffeId>,
    user: &VerifiedUser,
) -> Result<Vec<Open>, Rejection> {
    let (policies, head) = asked;
    let rules = &target.service.tokens;
    let routes = policies.routes_for_tokens(&head.method, &head.path);
    let routes: Vec<&Demand> = routes.iter().filter_map(|name| rules.route(name)).collect();
    let demands = Demands {
        port: &rules.port(target.port.port).demand,
        routes: &routes,
    };
    let binding = &user.binding;
    // A proof beside a token is taken only where the place says so; only mutual TLS shows a certificate.
    let key = binding.key.filter(|_| demands.dpop() != Dpop::Off);
    let certificate = binding.certificate.filter(|_| peer.is_some());
    let sender = Sender {
        id: peer,
        certificate: certificate.as_ref(),
        key,
    };
    binding.check(demands, sender)?;
    let key = key.map(|key| Open {
        code: "dpop_required",
        what: format!("a DPoP proof by the key that the token is bound to (`cnf.jkt` {key})"),
    });
    let certificate = certificate.map(|_| Open {
        code: "not_bound_to_certificate",
        what: "the caller's certificate of this connection is the one that the token is bound to (`cnf.x5t#S256`)"
            .to_owned(),
    });
    Ok(key.into_iter().chain(certificate).collect())
}
