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
        "bad_claim" => {
            "a claim that is needed (`sub`, `aud`, `exp`) is missing from the token, or one is not of its type: the detail names \
             it; let the issuer set it"
        }
        "bad_header" => {
            "the header of the token (its first part) is not one that an issuer of JWTs makes: look at what the client sends"
        }
        "malformed" | "oversized" => {
            "the token is not one that an issuer of JWTs makes: look at what the client sends, `hopguard token inspect` shows \
             it; an opaque token is taken where its issuer in mesh.toml has [issuer.introspection]"
        }
        "not_bearer" => "send `authorization: Bearer TOKEN`: no other scheme is a user's token here",
        "two_tokens" => {
            "send one token in one place: beside the header, a cookie or a query parameter carried one too"
        }
        "inactive" => {
            "the token's issuer says that it is no longer active (expired, withdrawn, or another environment's): get a new one"
        }
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
        "token_revoked" => {
            "what was open ended because its user's token is taken no more (its issuer says so, or its key is gone): reconnect \
             with a new one"
        }
        "issuer_changed" | "introspection_due" => {
            "the token's issuer is gone, was configured anew, or could not be asked again in time: reconnect with a token"
        }
        _ => return of_binding(code),
    })
}

/// Of tokens that are good, but not their sender's.
fn of_binding(code: &str) -> Option<&'static str> {
    Some(match code {
        "not_bound_to_caller" => {
            "the token is good, but was issued to another client than this caller (`azp`, `client_id`, `act`): with \
             `bind = \"caller\"` the caller exchanges it for one of its own (RFC 8693)"
        }
        "not_bound_to_certificate" => {
            "the token names another certificate in `cnf`, or none and the port wants one: use it over the connection that it \
             was issued for"
        }
        "not_bound_to_key" | "wrong_key" => {
            "the token belongs to another key than the one that the DPoP proof was made with: sign proofs by the key that the \
             token was asked for with"
        }
        "dpop_required" => "send `authorization: DPoP TOKEN` with a proof in the header `dpop` (RFC 9449)",
        "dpop_not_accepted" => {
            "send `authorization: Bearer TOKEN`: `dpop` is not switched on for this port in mesh.toml"
        }
        "use_dpop_nonce" => {
            "make a new proof with the `nonce` that the answer's `dpop-nonce` header carries, and send the request again"
        }
        "invalid_dpop_proof" => {
            "the DPoP proof does not fit this request: `htm`, `htu` (`public_url` of the port), `ath`, `iat`, or it came once \
             already; the detail says which"
        }
        "too_many_proofs" => "more proofs came than can be remembered: try again in a moment",
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
        "revoked" => {
            "the authority took the certificate of the other side back: `hopguard ca revoke --list` says when and why"
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
        "original_destination" => {
            "the kernel does not tell where the connection was meant to go: are the rules of `hopguard iptables` in this network \
             namespace, and is connection tracking on?"
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
        "head_timeout" => {
            "the head of the request did not come whole in time: look at the client, or raise `head_timeout` of sidecar.toml"
        }
        "malformed_header" => {
            "a header line is not `name: value` with a token for a name: look at what the client, or a proxy before it, writes"
        }
        "padded_header" => {
            "HTTP/2 has no white space around the value of a field: look at what the client, or a proxy before it, writes"
        }
        "connect_not_allowed" => "an http port is no proxy: call the service itself, without CONNECT",
        "header_repeated" | "header_not_utf8" | "header_spelling" => {
            "policies read this header, so it comes once (or is declared with `list = true` in mesh.toml), in UTF-8, and in its \
             one spelling"
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
        "connect" | "unreachable" | "timeout" | "tunnel_lost" | "connection_lost" | "closed"
        | "peer_silent" => {
            "the other side is down or cannot be reached: is its sidecar running, and its port 15008 open?"
        }
        "tunnel_full" => {
            "the other side lets no more streams in: raise `streams_per_tunnel` of its sidecar.toml, or look for what holds them open"
        }
        "tls_setup" | "own_svid_expired" => {
            "the sidecar's own certificate cannot be used (any more): `hopguard doctor --config FILE` asks the Workload API why"
        }
        "header" => {
            "a name of the service in mesh.toml cannot stand in a header: this is a fault of hopguard, please report it"
        }
        "peer_not_expected" => {
            "the service is not in the mesh file any more, or must prove another identity: the application reconnects"
        }
        "app_refused" | "app_unreachable" | "app_connect_timeout" => {
            "the request was allowed; the application behind the sidecar does not listen on the declared port"
        }
        "app_not_http2" => {
            "the port has `app_protocol = \"http2\"` in mesh.toml, and the application behind it does not speak HTTP/2 without TLS"
        }
        "app_busy" => {
            "the application takes no more streams or connections at a time: look at what holds them open, or at its own bounds"
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
        "request_truncated" | "bad_request_body" => {
            "the client's body ended too early or is not framed as HTTP frames it: look at the client, or at a proxy before it"
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

    /// Every label of the binding of a token to its sender, of proofs, and of what comes before a token is looked at.
    #[test]
    fn what_is_wrong_with_a_sender_is_not_told_as_malformed_http() {
        let mut told = std::collections::BTreeSet::new();
        for label in [
            "not_bound_to_caller",
            "not_bound_to_certificate",
            "not_bound_to_key",
            "inactive",
            "two_tokens",
            "use_dpop_nonce",
            "invalid_dpop_proof",
            "dpop_required",
            "dpop_not_accepted",
            "bad_claim",
            "token_revoked",
            "introspection_due",
            "head_timeout",
            "connect_not_allowed",
            "header_repeated",
        ] {
            assert!(
                told.insert(advice(label).unwrap_or_else(|| panic!("{label}"))),
                "{label} has advice of its own"
            );
        }
        assert!(!advice("bad_claim").unwrap().contains("makes"));
        assert!(!advice("token_revoked").unwrap().starts_with("the token's key"));
        assert_eq!(advice("wrong_key"), advice("not_bound_to_key"));
    }

    #[test]
    fn what_ends_a_connection_or_keeps_it_out_has_advice() {
        let of_types = [
            crate::intercept::InterceptError::LABELS,
            crate::tunnel::TunnelError::LABELS,
            crate::tunnel::End::LABELS,
            crate::forward::ConnectFailure::LABELS,
            crate::forward::http1::ExchangeFailure::LABELS,
            crate::flow::ENDS,
        ];
        let of_no_type = [
            "unknown_host",
            "egress_denied",
            "no_identity",
            "plaintext_on_strict_port",
            "handshake_failed",
            "no_relay",
            "detection_timeout",
            "malformed_header",
        ];
        for label in of_types.into_iter().flatten().chain(&of_no_type) {
            assert!(advice(label).is_some(), "{label}");
        }
        assert_eq!(advice("no_rule"), None);
    }
}
