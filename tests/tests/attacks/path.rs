//! P1 to P28: targets that try to be read in two ways.

use hopguard_tests::Until;

use crate::ask::{Ask, Wire, fire, passes, refused};
use crate::keys::admin_token;
use crate::rig::{Rig, forbids, permits};

/// What every policy set refuses before it decides.
fn ambiguous() -> Vec<(&'static str, Vec<u8>)> {
    let cases: &[(&str, &[&[u8]])] = &[
        (
            "P2",
            &[b"//admin", b"/public//../admin", b"///admin", b"/public//admin"],
        ),
        (
            "P3",
            &[
                b"/public/../admin",
                b"/./admin",
                b"/public/..",
                b"/public/.",
                b"/..",
                b"/admin/../public",
            ],
        ),
        (
            "P4",
            &[
                b"/public/%2e%2e/admin",
                b"/%2E/admin",
                b"/public/.%2e/admin",
                b"/public/%2e./admin",
                b"/public/..%2fadmin",
                b"/public/%2E%2E",
            ],
        ),
        (
            "P5",
            &[
                b"/public%2fadmin",
                b"/%2fadmin",
                b"/public/%2F..%2Fadmin",
                b"/admin%2f",
                b"/public%2f..%2fadmin",
            ],
        ),
        (
            "P6",
            &[
                b"\\admin",
                b"/\\admin",
                b"/public\\..\\admin",
                b"/public/%5c..%5cadmin",
                b"/public%5Cadmin",
            ],
        ),
        (
            "P8",
            &[
                b"/%2561dmin",
                b"/public/%252e%252e/admin",
                b"/%25%36%31dmin",
                b"/public%252fadmin",
            ],
        ),
        (
            "P9",
            &[b"/admin%", b"/admin%2", b"/%zz", b"/%u0061dmin", b"/public/%"],
        ),
        (
            "P10",
            &[
                b"/admin%00",
                b"/admin%0a",
                b"/public%0d%0ax",
                b"/admin%09",
                b"/%7fadmin",
                b"/public/\x7f",
                b"/admin%c2%85",
            ],
        ),
        (
            "P11",
            &[
                b"/%c0%ae%c0%ae/admin",
                b"/%ef%bc%8fadmin",
                b"/public%c0%afadmin",
                b"/public/%e0%80%ae./admin",
                b"/public/%ff",
                b"/public/\xff",
                b"/public/%ef%bc%8e%ef%bc%8e/admin",
                b"/public/%e2%80%a5/admin",
                b"/public/\xe2\x80\xa5/admin",
                b"/public%e2%88%95admin",
                b"/%ed%a0%80",
            ],
        ),
        (
            "P12",
            &[
                b"/admin;x=1",
                b"/public;/../admin",
                b"/public/..;/admin",
                b"/;/admin",
                b"/public/;a=b",
            ],
        ),
        ("P13", &[b"/admin#x", b"/public#/../admin", b"/public?a#b"]),
        ("P16", &[b"/admin/.", b"/admin//", b"/admin/..", b"/admin//x"]),
    ];
    let flat = cases
        .iter()
        .flat_map(|(code, targets)| targets.iter().map(|target| (*code, target.to_vec())));
    flat.collect()
}

pub fn everywhere(wire: Wire) {
    for rig in [permits(), forbids()] {
        for (code, target) in ambiguous() {
            if wire.is_h2() && code == "P13" {
                fragment(&rig, wire, &target);
                continue;
            }
            let ask = Ask::get(&target).with_bob().claim("x-code", code);
            refused(&rig, wire, &ask, &[400]);
        }
        for (target, status) in [
            ("/%61dmin", 403),
            ("/adm%69n", 403),
            ("/%61%64%6d%69%6e/x", 403),
            ("/admin", 403),
            ("/admin/", 403),
        ] {
            refused(&rig, wire, &Ask::get(target).with_bob(), &[status]);
        }
        for target in [
            "/admin?",
            "/admin?x=/public",
            "/admin??",
            "/admin/?/public",
            "/admin/a%20b?..",
            "/admin/%E4%BD%A0",
        ] {
            refused(&rig, wire, &Ask::get(target).with_bob(), &[403]);
        }
        for target in [
            "/public?/../admin",
            "/public?x=%2e%2e",
            "/public?//admin",
            "/public?%00%zz",
            "/public?a=;b=\\",
            "/public/?#",
        ] {
            if target.ends_with('#') && wire.is_h2() {
                fragment(&rig, wire, target.as_bytes());
            } else if target.ends_with('#') {
                refused(&rig, wire, &Ask::get(target).with_bob(), &[400]);
            } else {
                passes(&rig, wire, &Ask::get(target).with_bob());
            }
        }
        too_long(&rig, wire);
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get", "PROPFIND", "M-SEARCH",
        ] {
            for target in ["/admin", "/admin/x", "/%61dmin/x"] {
                refused(&rig, wire, &Ask::new(method, target).with_bob(), &[403]);
            }
        }
        for target in ["/admin", "/%61dmin/x?y"] {
            passes(&rig, wire, &Ask::get(target).token(&admin_token()));
        }
        rig.settle();
    }
}

/// P13 by HTTP/2: refused, or decided without it and passed on as it was decided.
fn fragment(rig: &Rig, wire: Wire, target: &[u8]) {
    let said = fire(rig, wire, &Ask::get(target).with_bob(), "fragment");
    let bare = String::from_utf8_lossy(target).into_owned();
    let bare = bare.split('#').next().unwrap_or_default();
    match said.status {
        Some(200) => {
            let sights = rig.echo.take("x-case: fragment", 1).unwrap();
            assert_eq!(sights[0].target().1, bare);
            assert!(!bare.starts_with("/admin"), "{bare}");
        }
        status => assert!([None, Some(400), Some(403)].contains(&status), "{bare}: {said:?}"),
    }
}

/// P23.
fn too_long(rig: &Rig, wire: Wire) {
    let long = format!("/public/{}", "a".repeat(8 * 1024 + 1 - 8));
    refused(rig, wire, &Ask::get(long).with_bob(), &[414]);
    let deep = "/a".repeat(1000);
    refused(rig, wire, &Ask::get(deep).with_bob(), &[400]);
    refused(rig, wire, &Ask::get("/a".repeat(4000)).with_bob(), &[400]);
    let longest = format!("/public/{}", "a".repeat(8 * 1024 - 8));
    passes(rig, wire, &Ask::get(longest).with_bob());
}

/// What the two sets answer differently: the list of permits knows it not, the list of forbids does not forbid it.
pub fn unlike(wire: Wire) {
    let others: &[(&str, &[&str])] = &[
        ("P10", &["/admin%20", "/%20admin", "/admin%E2%80%8B"]),
        ("P17", &["/ADMIN", "/Admin", "/aDMIN/x"]),
        (
            "P18",
            &[
                "/admin.json",
                "/admin.",
                "/admin%2ejson",
                "/admin~",
                "/administrator",
                "/admin%3Bx",
            ],
        ),
        (
            "P19",
            &["/admin*", "/{admin}", "/%7Badmin%7D", "/*", "/**", "/{**}"],
        ),
        (
            "P25",
            &[
                "/tenants/a/b/orders",
                "/tenants//orders",
                "/tenants/a/orders/",
                "/tenants/a%20b/c/orders",
            ],
        ),
    ];
    let (a, d) = (permits(), forbids());
    for (code, targets) in others {
        for target in *targets {
            let ask = || Ask::get(target).with_bob();
            if target.contains("//") {
                refused(&a, wire, &ask(), &[400]);
                refused(&d, wire, &ask(), &[400]);
                continue;
            }
            refused(&a, wire, &ask().claim("x-code-unseen", code), &[403]);
            passes(&d, wire, &ask());
        }
    }
    for target in [
        "/tenants/a/orders",
        "/tenants/%E4%BD%A0/orders",
        "/public/*",
        "/public/{x}",
        "/public/%7Bx%7D",
        "/tenants/*/orders",
    ] {
        passes(&a, wire, &Ask::get(target).with_bob());
    }
    // P22: OPTIONS of the server itself is decided as the path `*`.
    if !wire.is_h2() {
        refused(&a, wire, &Ask::new("OPTIONS", "*").with_bob(), &[403]);
        passes(&d, wire, &Ask::new("OPTIONS", "*").with_bob());
    }
    a.settle();
    d.settle();
}

/// P27 and P28: other targets and other methods in headers.
pub fn overrides(wire: Wire) {
    let (a, d) = (permits(), forbids());
    for rig in [&a, &d] {
        let names = [
            "X-Original-URL",
            "X-Rewrite-URL",
            "x-envoy-original-path",
            "X_Original_Url",
            "x-original-uri",
            "x.rewrite.url",
            "X-Forwarded-Uri",
            "X-Forwarded-Path",
        ];
        for name in names {
            refused(
                rig,
                wire,
                &Ask::get("/admin").with_bob().claim(name, "/public"),
                &[403],
            );
            passes(rig, wire, &Ask::get("/public").with_bob().claim(name, "/admin"));
        }
        for name in [
            "X-HTTP-Method-Override",
            "X-HTTP-Method",
            "X-Method-Override",
            "x_http_method_override",
        ] {
            let (_, sight) = passes(rig, wire, &Ask::get("/public").with_bob().claim(name, "DELETE"));
            assert_eq!(sight.target().0, "GET");
        }
    }
    refused(
        &a,
        wire,
        &Ask::new("POST", "/public")
            .with_bob()
            .claim("X-HTTP-Method-Override", "GET"),
        &[403],
    );
    a.settle();
    d.settle();
}

#[test]
fn ambiguous_paths_are_refused_and_the_rest_decided() {
    everywhere(Wire::Mtls);
}

#[test]
fn the_same_through_a_tunnel() {
    everywhere(Wire::Hbone);
}

#[test]
fn what_only_looks_like_a_forbidden_path_is_another_one() {
    unlike(Wire::Mtls);
}

/// P16 to P18: the list of forbids is one that the sidecar warns of, once when it loads it; the list of permits is not.
#[test]
fn a_list_of_forbids_is_warned_of() {
    let warned = |rig: &Rig| {
        rig.mesh
            .log("orders")
            .matches("compares `context.path` as text")
            .count()
    };
    assert_eq!(
        (warned(&permits()), warned(&forbids())),
        (0, 2),
        "two forbids of D, one load"
    );
}

#[test]
fn headers_name_no_other_target_and_no_other_method() {
    overrides(Wire::Mtls);
}

/// P20 and P22: what may stand in the place of a path.
#[test]
fn absolute_targets_are_read_once() {
    let (a, d) = (permits(), forbids());
    for rig in [&a, &d] {
        for target in [
            "http://orders/admin",
            "HTTP://orders/admin",
            "http://orders:80/%61dmin",
            "http://ORDERS/admin?x",
            "https://orders/admin",
        ] {
            // Without a port, Host names the default one of the scheme.
            refused(rig, Wire::Mtls, &Ask::get(target).with_bob(), &[403]);
        }
        for target in [
            "http://evil/admin",
            "http://evil/public",
            "http://orders@evil/public",
            "http://user@orders/public",
            "http://orders:81/public",
            "http:///public",
            "http:/public",
            "http://orders\\@evil/public",
            "ftp://orders/public",
            "://orders/public",
            "http://orders//admin",
            "http://orders/public/../admin",
            "admin",
            "public",
            "?",
            "?/public",
            "orders/public",
            "*",
            "*/public",
        ] {
            refused(rig, Wire::Mtls, &Ask::get(target).with_bob(), &[400]);
        }
        for target in ["orders:80", "orders", "/", "*"] {
            refused(rig, Wire::Mtls, &Ask::new("CONNECT", target).with_bob(), &[405]);
        }
        for target in [
            "http://orders/public",
            "http://orders/public?x=http://evil/admin",
            "http://orders:80/public",
            "HTTP://Orders/public",
        ] {
            let (_, sight) = passes(rig, Wire::Mtls, &Ask::get(target).with_bob());
            assert_eq!(sight.values("host").len(), 1, "{sight:?}");
        }
        // An empty target: two spaces in a row.
        let flight = rig.send(
            hopguard_tests::Via::Mtls,
            &[b"GET  HTTP/1.1\r\nHost: orders\r\n\r\n"],
            Until::Closed,
        );
        assert_eq!(flight.answers(&["GET"])[0].status, 400);
        rig.settle();
    }
}

/// How a lenient application might read a path: decoded as often as it changes, backslashes turned, parameters cut, dots resolved.
fn as_lenient(target: &str) -> String {
    let mut path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    for _ in 0..4 {
        let mut bytes = Vec::new();
        let raw = path.as_bytes();
        let mut at = 0;
        while at < raw.len() {
            let escaped = raw
                .get(at + 1..at + 3)
                .and_then(|two| std::str::from_utf8(two).ok());
            match escaped.and_then(|two| u8::from_str_radix(two, 16).ok()) {
                Some(byte) if raw[at] == b'%' => {
                    bytes.push(byte);
                    at += 3;
                }
                _ => {
                    bytes.push(raw[at]);
                    at += 1;
                }
            }
        }
        path = String::from_utf8_lossy(&bytes).into_owned();
    }
    let path = path
        .replace(['\\', '\u{ff0f}', '\u{2215}'], "/")
        .replace('\u{ff0e}', ".");
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment.split(['\0', ';']).next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Spellings of `/admin` put together at random: whatever is let through is no spelling of it, however leniently it is read.
pub fn spelled_at_random(wire: Wire) {
    const PARTS: [&str; 44] = [
        "/",
        "//",
        "/./",
        "/../",
        "/%2e/",
        "/%2e%2e/",
        "%2f",
        "%5c",
        "\\",
        "/.",
        "/..",
        "/;/",
        "/..;/",
        ";a=b",
        "%00",
        "%20",
        "%09",
        "%252e",
        "%252f",
        "%2561",
        "admin",
        "%61dmin",
        "adm%69n",
        "ADMIN",
        "a",
        "public",
        "public/",
        "/public/",
        "/admin",
        "/admin/",
        "admin/x",
        "?",
        "?/../admin",
        "#",
        "%c0%af",
        "%ef%bc%8f",
        "%e2%88%95",
        "*",
        ".",
        "%2E",
        "%",
        "%u002f",
        "\u{ff0f}",
        "\u{2215}",
    ];
    let rig = forbids();
    let seed = crate::keys::now().unsigned_abs();
    let mut state = seed | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    let mut passed = 0;
    for _ in 0..400 {
        let mut target = "/".to_owned();
        for _ in 0..=next(5) {
            target += PARTS[next(PARTS.len())];
        }
        let ask = Ask::get(&target).with_bob();
        let said = fire(&rig, wire, &ask, "random");
        let status = said.status.unwrap_or_default();
        assert!(
            [200, 400, 403].contains(&status),
            "seed {seed}: {target}: {said:?}"
        );
        if status != 200 {
            continue;
        }
        passed += 1;
        let sight = rig.echo.take("x-case: random", 1).unwrap().pop().unwrap();
        // HTTP/2 may be decided, and passed on, without the fragment.
        if !(wire.is_h2() && target.contains('#')) {
            crate::ask::arrived(&ask, &sight);
        }
        let read = as_lenient(&sight.target().1);
        assert!(
            read != "/admin" && !read.starts_with("/admin/"),
            "seed {seed}: {target} reached the application"
        );
    }
    assert!(passed > 0, "seed {seed}: nothing passed, so nothing was shown");
    rig.settle();
}

#[test]
fn no_random_spelling_of_a_forbidden_path_passes() {
    spelled_at_random(Wire::Mtls);
}

#[test]
fn the_lenient_reader_reads_leniently() {
    for text in [
        "/public/..;/admin",
        "/%2561dmin",
        "\\admin",
        "//admin;x",
        "/a/%252e%252e/admin/",
        "/admin%00.png",
    ] {
        assert_eq!(as_lenient(text), "/admin", "{text}");
    }
    assert_eq!(as_lenient("/public?/admin"), "/public");
}
