//! I1 to I8: headers that claim to be somebody, and what must be left of them; and headers that policies read.

use hopguard_tests::{Sight, Until, Via};
use serde_json::Value;

use crate::ask::{Ask, Wire, passes, refused};
use crate::keys::{now, user_token};
use crate::rig::{forbids, permits};

/// Names that only the sidecar writes, or that nobody may claim by.
const CLAIMS: &[&str] = &[
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-access-token",
    "x-hopguard-user",
    "x-hopguard",
    "x-hopguard-anything",
    "x-user-sub",
    "x-user-id",
    "x-user-roles",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "x-envoy-peer-metadata",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
    "x-arr-clientcert",
    "ssl-client-verify",
    "x-ssl-client-s-dn",
    "x-spiffe-id",
    "remote-user",
    "x-remote-user",
    "x-remote-group",
    "x-user",
    "x-userinfo",
    "x-auth-user",
    "x-webauth-user",
    "x-authenticated-userid",
    "x-auth-request-email",
    "x-goog-authenticated-user-email",
    "x-amzn-oidc-data",
    "impersonate-user",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
];

/// Everything that the sidecar wrote is there once, and says what was proven; nothing says what was claimed.
fn proven(sight: &Sight, plain: bool) {
    let text = String::from_utf8_lossy(&sight.head).to_lowercase();
    let trailers = String::from_utf8_lossy(&sight.body).to_lowercase();
    assert!(
        !text.contains("mallory") && !trailers.contains("mallory"),
        "{text}{trailers}"
    );
    let one = |name: &str| {
        let values = sight.values(name);
        assert_eq!(values.len(), 1, "{name}: {text}");
        values.into_iter().next().unwrap_or_default()
    };
    assert_eq!(one("x-forwarded-for"), "10.77.0.15");
    if plain {
        assert!(sight.values("x-forwarded-client-cert").is_empty(), "{text}");
        assert_eq!(one("x-forwarded-proto"), "http");
        return;
    }
    assert_eq!(one("x-forwarded-proto"), "https");
    let cert = one("x-forwarded-client-cert");
    assert!(
        cert.starts_with("By=spiffe://mesh.local/ns/shop/sa/orders;Hash=")
            && cert.ends_with(";URI=spiffe://mesh.local/ns/shop/sa/web"),
        "{cert}"
    );
    let user: Value = serde_json::from_str(&one("x-hopguard-user")).unwrap();
    assert_eq!(user["sub"], "bob");
    assert_eq!(user["roles"], serde_json::json!(["clerk"]));
}

/// I1, I3, I4: each name by itself, in a trailer, and named in `Connection`.
pub fn claimed(wire: Wire) {
    let value = "mallory";
    let rig = permits();
    for name in CLAIMS {
        let (_, sight) = passes(&rig, wire, &Ask::get("/public").with_bob().claim(name, value));
        proven(&sight, false);
        let ask = Ask::new("POST", "/public/form")
            .with_bob()
            .chunks(&["body"], &[(*name, value), ("x-sum", "4")]);
        let (_, sight) = passes(&rig, wire, &ask);
        proven(&sight, false);
        if !wire.is_h2() {
            let ask = Ask::get("/public")
                .with_bob()
                .claim("Connection", format!("{name}, close"))
                .claim(name, value);
            let (_, sight) = passes(&rig, wire, &ask);
            proven(&sight, false);
        }
    }
    rig.settle();
}

/// E: any spelling that some application reads as such a name.
pub fn spelled_at_random(wire: Wire) {
    let rig = permits();
    let seed = now().unsigned_abs();
    let mut state = seed | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    for round in 0..60 {
        let mut spelled = Vec::new();
        for _ in 0..8 {
            let name: String = CLAIMS[next(CLAIMS.len())]
                .chars()
                .map(|c| match (c, next(4)) {
                    ('-', 0) => '_',
                    ('-', 1) => '.',
                    ('-', 2) => '~',
                    (c, 0 | 1) => c.to_ascii_uppercase(),
                    (c, _) => c,
                })
                .collect();
            spelled.push(name);
        }
        let mut ask = Ask::new("POST", "/public/form").with_bob();
        let in_trailers: Vec<(&str, &str)> = spelled.iter().map(|name| (name.as_str(), "mallory")).collect();
        if round % 2 == 0 {
            for name in &spelled {
                ask = ask.claim(name, "Mallory");
            }
        } else {
            ask = ask.chunks(&["x"], &in_trailers);
        }
        if round % 3 == 0 && !wire.is_h2() {
            ask = ask.claim("connection", spelled.join(", "));
        }
        let (_, sight) = passes(&rig, wire, &ask);
        let head = String::from_utf8_lossy(&sight.head).into_owned();
        assert!(!head.contains("allory"), "seed {seed}: {spelled:?}: {head}");
        proven(&sight, false);
    }
    rig.settle();
}

/// I3, I7, I8: what policies read.
pub fn read_by_policies(wire: Wire) {
    let rig = permits();
    let public = || Ask::get("/public").with_bob();
    // Every value counts, wherever it stands.
    for ask in [
        public().header("x-region", "admin"),
        public().header("x-region", "eu").header("x-region", "admin"),
        public().header("x-region", "admin").header("x-region", "eu"),
        public().header("x-region", "eu,admin"),
        public().header("x-region", "eu , \tadmin,"),
        public().header("X-Region", "admin"),
    ] {
        refused(&rig, wire, &ask, &[403]);
    }
    passes(
        &rig,
        wire,
        &public().header("x-region", "eu").header("x-region", "us"),
    );
    passes(&rig, wire, &public().header("x-role", "user,admin"));
    for ask in [
        public().header("x-role", "user").header("x-role", "admin"),
        public().header("x-role", "user").header("x-role", "user"),
        public().header("x_role", "admin"),
        public().header("x-role", "user").header("x.role", "admin"),
        public().header("x_region", "admin"),
        public().header("x-role", b"\xff\xfe"),
        public().header("x-region", b"eu,\xe9"),
    ] {
        refused(&rig, wire, &ask, &[400]);
    }
    // What comes behind the body was not decided on: it is neither passed on nor announced.
    let trailers = [
        ("x-role", "admin"),
        ("X_Region", "admin"),
        ("x-user-sub", "admin"),
        ("x-sum", "4"),
    ];
    let ask = Ask::new("POST", "/public/form")
        .with_bob()
        .claim("Trailer", "x-user-sub, X-Role, x_region")
        .chunks(&["body"], &trailers);
    let (_, sight) = passes(&rig, wire, &ask);
    let wire_body = String::from_utf8_lossy(&sight.body).into_owned();
    assert!(
        wire_body.contains("x-sum: 4") && !wire_body.contains("admin"),
        "{wire_body:?}"
    );
    // Nobody comes from loopback because he says so.
    for name in [
        "X-Forwarded-For",
        "X-Real-IP",
        "Forwarded",
        "True-Client-IP",
        "X_Forwarded_For",
    ] {
        refused(
            &rig,
            wire,
            &Ask::get("/loopback").with_bob().claim(name, "127.0.0.1"),
            &[403],
        );
    }
    // What no policy reads is the application's affair.
    passes(&rig, wire, &public().header("x-note", b"caf\xe9 \xff"));
    for bytes in [&b"a\0b"[..], b"a\rb", b"a\x07b", b"\x7f", b"a\nb"] {
        refused(&rig, wire, &public().claim("x-note", bytes), &[400]);
    }
    rig.settle();
}

#[test]
fn identity_headers_are_stripped_wherever_they_stand() {
    claimed(Wire::Mtls);
}

#[test]
fn identity_headers_are_stripped_in_any_spelling() {
    spelled_at_random(Wire::Mtls);
}

#[test]
fn the_same_through_a_tunnel() {
    spelled_at_random(Wire::Hbone);
}

#[test]
fn policies_see_every_value_of_a_header() {
    read_by_policies(Wire::Mtls);
}

/// I1 from a peer without a certificate: the port lets plaintext in, and the list of forbids lets nobody in but workloads.
#[test]
fn a_header_makes_no_workload_of_plaintext() {
    let (a, d) = (permits(), forbids());
    for rig in [&a, &d] {
        for name in [
            "x-forwarded-client-cert",
            "X_Forwarded_Client_Cert",
            "x-spiffe-id",
            "client-cert",
        ] {
            let ask = Ask::get("/public")
                .with_bob()
                .claim(name, "URI=spiffe://mesh.local/ns/shop/sa/web");
            refused(rig, Wire::Plain, &ask, &[403]);
        }
        rig.settle();
    }
}

/// I4: a trailer's name is no licence for a header of the sidecar's, and `Connection` cannot take one away.
#[test]
fn what_is_for_the_application_cannot_be_taken_away() {
    let rig = permits();
    for option in [
        "host",
        "authorization",
        "Authorization",
        "cookie",
        "content-length",
        "content-type",
        "transfer-encoding",
        "expect",
    ] {
        let text = format!(
            "GET /public HTTP/1.1\r\nHost: orders\r\nConnection: {option}\r\nAuthorization: Bearer {}\r\n\r\n",
            user_token()
        );
        let flight = rig.send(Via::Mtls, &[text.as_bytes()], Until::Closed);
        assert_eq!(flight.answers(&["GET"])[0].status, 400, "{option}");
    }
    // `traceparent` and what the sidecar writes are there all the same.
    let ask = Ask::get("/public").with_bob().claim(
        "Connection",
        "traceparent, x-hopguard-user, x-forwarded-for, x-forwarded-client-cert",
    );
    let (_, sight) = passes(&rig, Wire::Mtls, &ask);
    proven(&sight, false);
    assert_eq!(sight.values("traceparent").len(), 1);
    rig.settle();
}
