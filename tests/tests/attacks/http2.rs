//! The same tables by HTTP/2, and what only HTTP/2 has: P24, H4, S7, S12.

use hopguard_tests::{Flight, Until, Via, frames};

use crate::ask::{Ask, Wire, fire};
use crate::keys::user_token;
use crate::rig::{Rig, forbids, permits};
use crate::{host, identity, ordinary, path, token};

const BOTH: [Wire; 2] = [Wire::MtlsH2, Wire::HboneH2];

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn pair(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> (Vec<u8>, Vec<u8>) {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

/// The fields of a good request of bob's.
fn good(path: &str) -> Fields {
    vec![
        pair(":method", "POST"),
        pair(":scheme", "https"),
        pair(":path", path),
        pair(":authority", "orders"),
        pair("x-case", "raw"),
        pair("authorization", format!("Bearer {}", user_token())),
    ]
}

fn send(rig: &Rig, via: Via, bytes: &[u8]) -> Flight {
    rig.send(
        via,
        &[&[frames::preface(), bytes.to_vec()].concat()],
        Until::Streams(vec![1]),
    )
}

/// Asserts that the request is refused: by a status, by a reset of its stream, or by the end of the connection.
fn refused(rig: &Rig, what: &str, bytes: &[u8]) {
    for via in [Via::MtlsH2, Via::Hbone] {
        let flight = send(rig, via, bytes);
        let got = flight.bytes();
        let status = frames::status(&got, 1);
        assert!(flight.end != "silence", "{what}: {:?}", frames::frames(&got));
        assert!(
            status.is_none_or(|status| [400, 405, 413, 414, 431].contains(&status)),
            "{what}: {status:?}"
        );
        assert!(
            status.is_some()
                || flight.end != "enough"
                || frames::frames(&got)
                    .iter()
                    .any(|frame| frame.code().is_some_and(|code| code != 0)),
            "{what}: {:?}",
            frames::frames(&got)
        );
    }
}

/// P24, H4, S7: what cannot be said in HTTP/1.1, or only in two ways.
#[test]
fn malformed_streams_are_refused() {
    let rig = forbids();
    let control = frames::request(1, &good("/public/form"), Some(b"x"), &[]);
    for via in [Via::MtlsH2, Via::Hbone] {
        assert_eq!(frames::status(&send(&rig, via, &control).bytes(), 1), Some(200));
        rig.echo.take("x-case: raw", 1).unwrap();
    }
    let changed = |name: &str, value: &[u8]| {
        let mut fields = good("/public/form");
        for (known, old) in &mut fields {
            if known == name.as_bytes() {
                *old = value.to_vec();
            }
        }
        fields
    };
    let with = |more: Fields| [good("/public/form"), more].concat();
    let without = |name: &str| {
        let mut fields = good("/public/form");
        fields.retain(|(known, _)| known != name.as_bytes());
        fields
    };
    let before = |more: Fields| [more, good("/public/form")].concat();
    let mut cases: Vec<(String, Fields)> = Vec::new();
    for path in [
        "",
        "public",
        "/pub lic",
        "/public HTTP/1.1\r\nx: y",
        "/public\r\n",
        "/public\0",
        "*",
        "http://orders/public",
        "//admin",
        "/public/../admin",
        "/\u{7f}",
    ] {
        cases.push((format!(":path {path:?}"), changed(":path", path.as_bytes())));
    }
    for method in [
        "",
        "GET / HTTP/1.1\r\n",
        "GET /",
        "G T",
        "get\0",
        "CONNECT",
        &"X".repeat(1024),
    ] {
        cases.push((
            format!(":method {method:?}"),
            changed(":method", method.as_bytes()),
        ));
    }
    for scheme in ["", "http://x/", "https:", "ht tp", "ftp", "https\r\n"] {
        cases.push((
            format!(":scheme {scheme:?}"),
            changed(":scheme", scheme.as_bytes()),
        ));
    }
    for authority in [
        "",
        "orders payments",
        "a,b",
        "user@orders",
        "orders/x",
        "orders\r\n",
        "orders:x",
    ] {
        cases.push((
            format!(":authority {authority:?}"),
            changed(":authority", authority.as_bytes()),
        ));
    }
    for name in [":method", ":path", ":scheme"] {
        cases.push((format!("no {name}"), without(name)));
    }
    for (name, value) in [
        (":path", "/admin"),
        (":method", "GET"),
        (":authority", "payments"),
        (":scheme", "http"),
        (":status", "200"),
        (":protocol", "websocket"),
        (":x", "y"),
        ("host", "payments"),
        ("host", "orders, payments"),
        ("connection", "close"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("Upper", "case"),
        ("x y", "z"),
        ("x:y", "z"),
        ("x\r\ny", "z"),
        ("x\0", "z"),
        ("", "z"),
        ("x-\u{e9}", "z"),
        ("x", "a\r\nb: c"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("content_length", "1"),
        ("transfer_encoding", "chunked"),
        ("content-length", "5"),
        ("content-length", "0"),
        ("content-length", "+1"),
        ("content-length", "1, 1"),
    ] {
        cases.push((format!("{name:?}: {value:?}"), with(vec![pair(name, value)])));
    }
    cases.push((
        "a pseudo-header behind a header".to_owned(),
        [without(":path"), vec![pair(":path", "/public/form")]].concat(),
    ));
    cases.push(("a header before them".to_owned(), before(vec![pair("x", "y")])));
    cases.push((
        "two lengths".to_owned(),
        with(vec![pair("content-length", "1"), pair("content-length", "1")]),
    ));
    cases.push((
        "101 headers".to_owned(),
        with((0..101).map(|n| pair(format!("x-{n}"), "y")).collect()),
    ));
    cases.push(("64 KiB".to_owned(), with(vec![pair("x", "y".repeat(64 * 1024))])));
    for (what, fields) in cases {
        refused(&rig, &what, &frames::request(1, &fields, Some(b"x"), &[]));
        for sight in rig.echo.sights() {
            assert!(
                sight.ended != "whole",
                "{what} arrived: {:?}",
                String::from_utf8_lossy(&sight.head)
            );
        }
        rig.echo.clear();
    }
    for (what, trailers) in [
        ("a bad name in trailers", vec![pair("x y", "z")]),
        ("a bad value in trailers", vec![pair("x", "a\r\nb")]),
        ("an upper-case name in trailers", vec![pair("X", "y")]),
    ] {
        refused(
            &rig,
            what,
            &frames::request(1, &good("/public/form"), Some(b"x"), &trailers),
        );
        assert!(
            rig.echo.sights().iter().all(|sight| sight.ended != "whole"),
            "{what} arrived whole"
        );
        rig.echo.clear();
    }
    // The HTTP/2 layer drops a pseudo-header of trailers before anybody reads them: the application sees what was decided.
    let late = frames::request(1, &good("/public/form"), Some(b"x"), &[pair(":path", "/admin")]);
    for via in [Via::MtlsH2, Via::Hbone] {
        send(&rig, via, &late);
    }
    for sight in rig.echo.sights() {
        let seen = String::from_utf8_lossy(&sight.head).into_owned();
        assert!(
            seen.contains(" /public/form ") && !seen.contains("/admin"),
            "{seen}"
        );
        assert!(!String::from_utf8_lossy(&sight.body).contains("admin"));
    }
    rig.echo.clear();
    rig.settle();
}

/// H4: `host` beside an equal `:authority` is one host; a request without either is none.
#[test]
fn an_authority_is_one_host() {
    let rig = permits();
    for wire in BOTH {
        let ask = Ask::get("/public").with_bob().claim("host", "orders");
        let said = fire(&rig, wire, &ask, "host");
        // Either refused or exactly one host arrives.
        if said.status == Some(200) {
            let sight = rig.echo.take("x-case: host", 1).unwrap().pop().unwrap();
            assert_eq!(sight.values("host"), ["orders"]);
        }
        let ask = Ask::get("/public").with_bob().claim("host", "payments");
        assert_ne!(fire(&rig, wire, &ask, "host").status, Some(200));
    }
    rig.settle();
}

/// S12: floods end the connection, and others are served.
#[test]
fn floods_end_the_connection() {
    let rig = permits();
    let fields = good("/public/slow");
    let mut resets = Vec::new();
    for number in 0..5000_u32 {
        let stream = 2 * number + 1;
        resets.extend(frames::request(stream, &fields, None, &[]));
        resets.extend(frames::frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut continuations = frames::frame(1, 0, 1, &frames::block(&fields));
    for _ in 0..5000 {
        continuations.extend(frames::frame(
            9,
            0,
            1,
            &frames::block(&[pair("x", "y".repeat(1000))]),
        ));
    }
    let settings: Vec<u8> = (0..20_000).flat_map(|_| frames::frame(4, 0, 0, &[])).collect();
    let pings: Vec<u8> = (0..20_000)
        .flat_map(|_| frames::frame(6, 0, 0, &[0; 8]))
        .collect();
    let window = frames::frame(8, 0, 0, &0_u32.to_be_bytes());
    // CVE-2025-8671: what makes the server reset its own streams.
    let mut errors = Vec::new();
    for number in 0..5000_u32 {
        let stream = 2 * number + 1;
        errors.extend(frames::request(stream, &fields, None, &[]));
        errors.extend(frames::frame(8, 0, stream, &0_u32.to_be_bytes()));
    }
    let priorities: Vec<u8> = (0..20_000)
        .flat_map(|_| frames::frame(2, 0, 1, &[0, 0, 0, 0, 9]))
        .collect();
    // CVE-2019-9518: DATA that says nothing costs no window.
    let mut empty = frames::frame(1, frames::END_HEADERS, 1, &frames::block(&good("/public/form")));
    empty.extend((0..20_000).flat_map(|_| frames::frame(0, 0, 1, &[])));
    for (what, bytes) in [
        ("rapid reset", resets),
        ("continuations", continuations),
        ("settings", settings),
        ("pings", pings),
        ("a window of nothing", window),
        ("errors in streams", errors),
        ("priorities", priorities),
        ("empty data", empty),
    ] {
        let whole = [frames::preface(), bytes].concat();
        let flight = rig.send(
            Via::MtlsH2,
            &[&whole, &frames::request(20_001, &good("/public"), None, &[])],
            Until::Closed,
        );
        // Whatever the connection's end, the sidecar goes on serving others.
        let said = fire(&rig, Wire::MtlsH2, &Ask::get("/public").with_bob(), "others");
        assert_eq!(said.status, Some(200), "{what}: {}", flight.end);
        rig.echo.take("x-case: others", 1).unwrap();
        assert!(
            flight.end != "silence" || ["settings", "pings", "priorities", "empty data"].contains(&what),
            "{what}: nothing ended it"
        );
    }
    rig.echo.clear();
}

/// A header that is named by one byte, again and again, is as large as what it stands for (CVE-2016-6581 and its kin).
#[test]
fn a_small_head_that_unfolds_to_a_large_one_is_refused() {
    let rig = permits();
    let mut block = frames::block(&good("/public"));
    // A literal with incremental indexing, then its place in the dynamic table.
    block.extend([0x40, 6]);
    block.extend(b"x-bomb");
    block.extend([127, 0xa1, 0x1e]);
    block.extend([b'y'; 4000]);
    block.extend([0xbe; 10_000]);
    let head = frames::frame(1, frames::END_HEADERS | frames::END_STREAM, 1, &block);
    let flight = rig.send(
        Via::MtlsH2,
        &[&[frames::preface(), head].concat()],
        Until::Streams(vec![1]),
    );
    assert_ne!(frames::status(&flight.bytes(), 1), Some(200), "{}", flight.end);
    let said = fire(&rig, Wire::MtlsH2, &Ask::get("/public").with_bob(), "others");
    assert_eq!(said.status, Some(200));
    rig.echo.take("x-case: others", 1).unwrap();
    let sights = rig.echo.sights();
    assert!(
        !sights.iter().any(|sight| sight.head.len() > 3000),
        "the head went on"
    );
    rig.echo.clear();
}

/// S11: streams of one connection are decided each by itself.
#[test]
fn each_stream_is_decided() {
    let rig = permits();
    let mut bytes = frames::preface();
    for (stream, path) in [(1, "/public/form"), (3, "/admin"), (5, "/public/form")] {
        bytes.extend(frames::request(stream, &good(path), Some(b"x"), &[]));
    }
    for via in [Via::MtlsH2, Via::Hbone] {
        let flight = rig.send(via, &[&bytes], Until::Streams(vec![1, 3, 5]));
        assert_eq!(flight.end, "enough");
        let seen = rig.echo.take("x-case: raw", 2).unwrap();
        assert!(
            seen.iter().all(|sight| sight.target().1 == "/public/form"),
            "{seen:?}"
        );
    }
    rig.settle();
}

#[test]
fn the_tables_of_paths_and_hosts() {
    for wire in BOTH {
        path::everywhere(wire);
        path::unlike(wire);
        path::overrides(wire);
        path::spelled_at_random(wire);
        host::spellings(wire);
    }
}

#[test]
fn the_tables_of_identity_and_tokens() {
    for wire in BOTH {
        identity::claimed(wire);
        identity::spelled_at_random(wire);
        identity::read_by_policies(wire);
        token::table(wire);
        token::places(wire);
        token::good(wire);
    }
}

#[test]
fn ordinary_requests_pass() {
    for wire in BOTH {
        ordinary::all(wire);
    }
}
