//! What a route of the mesh file lets into a path: on that route alone, only what it names, decided as it is forwarded.

use crate::ask::{Ask, Wire, fire, passes, refused};
use crate::rig::{Rig, forbids, permits};

fn allowed(rig: &Rig, wire: Wire) {
    for target in [
        "/files/a%2fb",
        "/files/%2F",
        "/files/a%2Fb?x=%2e",
        "/merged//a///b",
        "//merged/a",
        "/merged/a//",
        "/servlet/a;x=1/b",
        "/servlet/a;jsessionid=..?;",
        "/percent/%2561",
        "/percent/100%25%34%31",
    ] {
        passes(rig, wire, &Ask::get(target).with_bob());
    }
    // The decision is on what goes on: a forbid sees through what its route allows.
    for target in [
        "/files/secret%2fplan",
        "/%66iles/secret%2Fplan",
        "/merged///secret",
        "//merged/secret",
        "/servlet/secret;x",
        "/servlet/%73ecret;a=b;c",
        "/percent/%2541",
    ] {
        refused(rig, wire, &Ask::get(target).with_bob(), &[403]);
    }
    for (targets, code) in REFUSED {
        for target in *targets {
            let said = fire(rig, wire, &Ask::get(target).with_bob(), "refused");
            assert_eq!(said.status, Some(400), "{wire:?} {target}: {said:?}");
            if let Some(answer) = &said.answer {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                assert!(body.contains(code), "{target}: {body}");
            }
        }
    }
    rig.settle();
}

const REFUSED: &[(&[&str], &str)] = &[
    // Of another route, or of none.
    (
        &[
            "/public/a%2fb",
            "/merged/a%2fb",
            "/servlet/a%2f",
            "/percent/a%2fb",
            "/x%2fy",
        ],
        "encoded_slash",
    ),
    // A slash that is data makes no segments.
    (&["/files%2fa", "/%2ffiles/a", "/files/a%2fb/c"], "encoded_slash"),
    (
        &[
            "/public//a",
            "//files/a",
            "/servlet//a",
            "//percent/a",
            "//x",
            "//",
        ],
        "empty_segment",
    ),
    (
        &["/public/a;b", "/files/a;b", "/merged/a;b", "/percent;b", "/x;y"],
        "path_parameter",
    ),
    // Two readings of two routes.
    (
        &["/servlet/admin;x/a", "/servlet/admin;x", "/servlet;x/a"],
        "path_parameter",
    ),
    (
        &[
            "/public/%2561",
            "/files/%2541",
            "/merged/%2561",
            "/servlet/%2561",
            "/%2561",
        ],
        "double_encoding",
    ),
    // A second decoding would show a slash, which the route must allow, too.
    (&["/percent/%252f"], "encoded_slash"),
    // Behind what is allowed.
    (
        &[
            "/files/..%2fb",
            "/files/a%2F..",
            "/files/a%2f%2e%2e%2fb",
            "/files/a%2f..;x",
        ],
        "encoded_slash",
    ),
    (
        &["/merged//../admin", "/merged//./a", "/merged//%2e%2e/admin"],
        "empty_segment",
    ),
    (&["/servlet/a;/../b", "/servlet/;x/b"], "path_parameter"),
    (&["/servlet/..;/admin"], "dot_segment"),
    (
        &[
            "/percent/%252e%252e/a",
            "/percent/%255c",
            "/percent/%2500",
            "/percent/%252561",
        ],
        "double_encoding",
    ),
];

#[test]
fn a_route_lets_in_what_it_names() {
    let rig = forbids();
    allowed(&rig, Wire::Mtls);
    allowed(&rig, Wire::MtlsH2);
}

#[test]
fn what_a_route_lets_in_still_needs_a_permit() {
    let rig = permits();
    for wire in [Wire::Mtls, Wire::MtlsH2] {
        for target in ["/files/a%2fb", "/merged//a", "/servlet/a;x", "/percent/%2561"] {
            refused(&rig, wire, &Ask::get(target).with_bob(), &[403]);
        }
    }
    rig.settle();
}
