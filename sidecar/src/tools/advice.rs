//! What to do about a refusal that no policy made: its stable label enters, a sentence leaves.

/// The advice for a label, as records and answers carry it; `None` for one that says all there is to say.
pub fn advice(code: &str) -> Option<&'static str> {
    of_token(code)
        .or_else(|| of_identity(code))
        .or_else(|| of_request(code))
        .or_else(|| of_outbound(code))
        .or_else(|| of_ended(code))
}

fn of_token(code: &str) -> Option<&'static str> {
    Some(match code {
        "malformed" | "bad_header" | "bad_claim" | "oversized" => {
            "the token is not one that an issuer of JWTs makes: look at what the client sends, `hopguard can --token FILE` \
             says where it breaks the rules"
        }
        "not_bearer" => "send `authorization: Bearer TOKEN`: no other scheme is a user's token here",
        "two_headers" => "send one `authorization` header: with two, nobody can say whose request it is",
        "bad_alg" => {
            "the token is signed by an algorithm that `algorithms` of the issuer in mesh.toml does not allow"
        }
        "unknown_kid" | "no_key" => {
            "the key that signed the token is none that its issuer publishes: is it of another environment, or was the \
             key withdrawn? `GET /issuers` on the administration socket lists the keys in use"
        }
        "bad_sig" => "the token was changed, or signed by another key than the one it names: get a new one",
        "expired" => "get a new token; if it is new, compare the clocks of issuer and sidecar",
        "not_yet_valid" | "issued_in_future" => {
            "the clock of the issuer is ahead of the sidecar's: compare them, or set `leeway` of the issuer in mesh.toml"
        }
        "wrong_iss" | "unknown_issuer" => {
            "the token's `iss` must equal `issuer` of an [[issuer]] in mesh.toml, to the byte"
        }
        "wrong_aud" => {
            "the token is for another audience: ask for one of `audiences` of the issuer in mesh.toml"
        }
        "issuer_unavailable" => {
            "the issuer's keys could not be fetched (yet): `GET /issuers` on the administration socket says why"
        }
        "token_expired" => "what was open ended with its user's token: reconnect with a new one",
        "token_revoked" | "issuer_changed" => {
            "the token's key or its issuer is gone, or configured anew: reconnect with a new token"
        }
        _ => return None,
    })
}

fn of_identity(code: &str) -> Option<&'static str> {
    Some(match code {
        "plaintext_on_strict_port" => {
            "the port takes mutual TLS only: call it through a sidecar, or set `mode` of the port in mesh.toml to \
             \"permissive\" or \"public\", and let a policy allow Plaintext"
        }
        "handshake_failed" | "handshake_timeout" => {
            "the caller did not prove a workload identity: is it in the mesh, is its certificate of this trust domain, \
             and not expired?"
        }
        "peer_distrusted" => {
            "the trust bundle or the own identity changed: the caller reconnects with a new certificate"
        }
        "no_identity" => {
            "the sidecar has no identity: `hopguard doctor --config FILE` asks the Workload API why"
        }
        "port_changed" | "undeclared_port" => {
            "declare the port as a [[service.port]] of the service in mesh.toml, for this protocol and this kind of caller"
        }
        "no_relay" | "bad_authority" => {
            "a tunnel leads to the declared ports of its own pod, and nowhere else"
        }
        "own_listener" | "not_redirected" => {
            "nothing may call the sidecar's own ports: call the application, the redirect does the rest"
        }
        "detection_timeout" | "closed_early" => {
            "the port is declared as HTTP and nothing came: a protocol in which the server speaks first needs \
             `protocol = \"opaque\"` in mesh.toml"
        }
        _ => return None,
    })
}

fn of_request(code: &str) -> Option<&'static str> {
    Some(match code {
        "unknown_host" => {
            "add the name to `hosts` of the service in mesh.toml, or call it by one that is there: a request for another \
             host is never passed on"
        }
        "head_too_large" | "too_many_headers" | "target_too_long" => {
            "the request is over a bound: see `[limits]` of sidecar.toml"
        }
        "not_http" => "the port speaks HTTP: for anything else it needs `protocol = \"opaque\"` in mesh.toml",
        _ => return None,
    })
}

fn of_outbound(code: &str) -> Option<&'static str> {
    Some(match code {
        "egress_denied" => {
            "no service of mesh.toml has this address: add it there, or let everything out with \
             `outbound.egress = \"plain\"` in sidecar.toml"
        }
        "peer_untrusted" => {
            "whoever answered did not prove an identity that `spiffe_ids` of the service in mesh.toml lists: correct the \
             list, or find out who listens there"
        }
        "refused_by_peer" => {
            "the other sidecar does not trust this one: look at its log and at both trust bundles"
        }
        "no_client_certificate" => "the other side wants a certificate, and none was shown",
        "peer_refused" | "refused" => "the other sidecar refused: its own record, at the same time, says why",
        "connect" | "unreachable" | "timeout" | "lost" | "closed" | "full" => {
            "the other side is down or cannot be reached: is its sidecar running, and its port 15008 open?"
        }
        "peer_not_expected" => {
            "the service is not in the mesh file any more, or must prove another identity: the application reconnects"
        }
        "app_refused" | "app_unreachable" | "app_connect_timeout" => {
            "the request was allowed; the application behind the sidecar does not listen on the declared port"
        }
        "upstream_closed" | "bad_response" | "upstream_timeout" | "upstream_stalled" => {
            "the request was allowed; the application did not answer it as HTTP must be answered: look at its log"
        }
        _ => return None,
    })
}

fn of_ended(code: &str) -> Option<&'static str> {
    Some(match code {
        "svid_expired" => {
            "what was open ended with a certificate that it rests on; reconnecting is all it takes"
        }
        "drained" => {
            "the sidecar was stopped, and it was open longer than `drain.timeout` of sidecar.toml lets it be; \
             reconnecting is all it takes"
        }
        "denied_after_change" => {
            "policies, groups or keys changed while it was open, and under the new ones it is denied"
        }
        "client_closed" | "client_stalled" | "idle_timeout" => {
            "the client ended it, or was silent for too long"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_a_token_has_advice() {
        for label in hopguard_jose::TokenError::LABELS {
            assert!(advice(label).is_some(), "{label}");
        }
        for label in [
            "two_headers",
            "not_bearer",
            "malformed",
            "unknown_issuer",
            "issuer_unavailable",
        ] {
            assert!(advice(label).is_some(), "{label}");
        }
    }

    #[test]
    fn what_ends_a_connection_or_keeps_it_out_has_advice() {
        for label in [
            "unknown_host",
            "egress_denied",
            "peer_untrusted",
            "no_identity",
            "plaintext_on_strict_port",
            "handshake_failed",
            "no_relay",
            "token_expired",
            "svid_expired",
            "denied_after_change",
            "drained",
        ] {
            assert!(advice(label).is_some(), "{label}");
        }
        assert_eq!(advice("no_rule"), None);
    }
}
