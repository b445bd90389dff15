//! P: the request target.

use super::{forwarded, get, read, read_with, refused};
use crate::request::{Limits, parse_head};

#[test]
fn p1_p19_a_path_is_decided_in_one_form_and_forwarded_as_it_came() {
    for (target, path, query) in [
        ("/", "/", None),
        ("/admin", "/admin", None),
        // P7: unreserved escapes.
        ("/%61dmin", "/admin", None),
        ("/adm%69n", "/admin", None),
        ("/%41%7a%30%2D%2e%5F%7e", "/Az0-._~", None),
        // P10: a space is another path, not a blank.
        ("/admin%20", "/admin%20", None),
        // P14: the query is never part of the path.
        ("/admin?", "/admin", Some("")),
        ("/admin?x=/public", "/admin", Some("x=/public")),
        ("/admin??", "/admin", Some("?")),
        // P15: nor judged by its rules.
        ("/public?/../admin", "/public", Some("/../admin")),
        ("/public?x=%2e%2e", "/public", Some("x=%2e%2e")),
        ("/public?x=%00%zz%2f//\\;%", "/public", Some("x=%00%zz%2f//\\;%")),
        ("/?x=\u{e9}", "/", Some("x=\u{e9}")),
        // P16: a trailing slash is a path of its own.
        ("/admin/", "/admin/", None),
        // P17, P18: letters and dots mean themselves.
        ("/ADMIN", "/ADMIN", None),
        ("/admin.json", "/admin.json", None),
        ("/admin.", "/admin.", None),
        ("/admin%2ejson", "/admin.json", None),
        ("/...", "/...", None),
        ("/.well-known/x", "/.well-known/x", None),
        ("/a..b/..c/d..", "/a..b/..c/d..", None),
        // P19: literal characters.
        ("/admin*", "/admin*", None),
        ("/{admin}", "/{admin}", None),
        ("/public/*", "/public/*", None),
        // Reserved escapes stay, in upper case; raw and escaped are two paths.
        ("/a%2bb%3d%3B", "/a%2Bb%3D%3B", None),
        ("/a+b=c,d:e@f!g$h&i'(j)", "/a+b=c,d:e@f!g$h&i'(j)", None),
        // Any language, raw or escaped, is one form.
        ("/%c3%a9t%C3%A9", "/%C3%A9t%C3%A9", None),
        ("/\u{e9}", "/%C3%A9", None),
        ("/%e4%bd%a0%e5%a5%bd", "/%E4%BD%A0%E5%A5%BD", None),
        ("/100%25", "/100%25", None),
        ("/50%25off", "/50%25off", None),
    ] {
        let head = get(target).unwrap_or_else(|refusal| panic!("{target}: {refusal:?}"));
        assert_eq!(
            (head.path.as_str(), head.query.as_deref()),
            (path, query),
            "{target}"
        );
        assert_eq!(head.target, target);
        assert!(
            forwarded(&head, &[]).starts_with(&format!("GET {target} HTTP/1.1\r\n")),
            "{target}"
        );
        assert_eq!(
            head.readings().collect::<Vec<_>>(),
            [path],
            "{target}: one reading"
        );
    }
}

const AMBIGUOUS: &[(&[&str], &str)] = &[
    (
        &[
            "//admin",
            "/public//../admin",
            "///admin",
            "//",
            "/admin//",
            "/a//b",
        ],
        "empty_segment",
    ),
    (
        &[
            "/public/../admin",
            "/./admin",
            "/public/..",
            "/.",
            "/..",
            "/admin/.",
            "/a/./b",
        ],
        "dot_segment",
    ),
    (
        &[
            "/public/%2e%2e/admin",
            "/%2E/admin",
            "/public/.%2e/admin",
            "/%2e%2E",
            "/x/%2e.",
        ],
        "dot_segment",
    ),
    (
        &[
            "/..;/admin",
            "/.;x/admin",
            "/a/..%3b/admin",
            "/a/%2e%2e;x=1/admin",
            "/a/..%20/b",
        ],
        "dot_segment",
    ),
    (
        &["/\\admin", "/public\\..\\admin", "/public%5c..%5Cadmin", "/%5C"],
        "backslash",
    ),
    (
        &["/public%2fadmin", "/%2Fadmin", "/a/%2F", "/..%2fadmin"],
        "encoded_slash",
    ),
    (
        &[
            "/admin%",
            "/admin%2",
            "/%zz",
            "/%u002fadmin",
            "/%2",
            "/%%32f",
            "/% 2",
        ],
        "bad_escape",
    ),
    (
        &[
            "/admin%00",
            "/admin%0a",
            "/%0d%0a",
            "/%09",
            "/%7f",
            "/%1f",
            "/a%c2%85b",
        ],
        "control_character",
    ),
    (
        &[
            "/%c0%ae%c0%ae/admin",
            "/%c0%af",
            "/%ff",
            "/%e0%80%af",
            "/%ed%a0%80",
            "/%c3",
        ],
        "bad_utf8",
    ),
    (
        &[
            "/%ef%bc%8fadmin",
            "/\u{ff0f}admin",
            "/%e2%88%95",
            "/%e2%81%84",
            "/%ef%bc%bc",
            "/%ef%b9%a8",
        ],
        "lookalike_slash",
    ),
    (
        &[
            "/%ef%bc%8e%ef%bc%8e/admin",
            "/%e2%80%a5/admin",
            "/%e2%80%a4/x",
            "/.%ef%b9%92/x",
        ],
        "dot_segment",
    ),
    (&["/admin#x", "/public#/../admin", "/#", "/a?x#y"], "fragment"),
    (
        &["/%2561dmin", "/%252f", "/%25%32%66", "/%2525", "/a%25e9"],
        "double_encoding",
    ),
    (
        &["/admin;x", "/;/admin", "/admin;", "/a;jsessionid=1/b"],
        "path_parameter",
    ),
];

#[test]
fn p2_to_p13_ambiguous_paths_are_refused() {
    for (targets, code) in AMBIGUOUS.iter().copied() {
        for target in targets {
            if target.contains(' ') {
                refused(get(target), 400, "bad_request_line", target);
            } else {
                refused(get(target), 400, code, target);
            }
        }
    }
}

#[test]
fn p6_a_path_that_begins_with_a_backslash_is_no_path() {
    refused(get("\\admin"), 400, "bad_target", "\\admin");
}

#[test]
fn p10_raw_control_bytes_never_reach_a_parser() {
    for (byte, code) in [
        (0x00, "control_byte"),
        (b'\t', "control_byte"),
        (b'\r', "bare_cr"),
        (b'\n', "bare_lf"),
        (0x0b, "control_byte"),
        (0x1b, "control_byte"),
        (0x7f, "control_byte"),
    ] {
        for place in ["/admin", "/admin?q="] {
            let mut text = format!("GET {place}").into_bytes();
            text.push(byte);
            text.extend_from_slice(b"x HTTP/1.1\r\nHost: svc\r\n\r\n");
            refused(read(text), 400, code, &format!("0x{byte:02x} in {place}"));
        }
    }
    refused(
        read(b"GET /\xc2\x85 HTTP/1.1\r\nHost: svc\r\n\r\n"),
        400,
        "control_character",
        "raw C1",
    );
    refused(
        read(b"GET /?\xc2\x85 HTTP/1.1\r\nHost: svc\r\n\r\n"),
        400,
        "control_character",
        "raw C1 in the query",
    );
    refused(
        read(b"GET /\xff HTTP/1.1\r\nHost: svc\r\n\r\n"),
        400,
        "bad_target",
        "raw 0xff",
    );
}

#[test]
fn p20_absolute_form_has_the_authority_of_the_uri() {
    for (target, path, line) in [
        ("http://svc/admin", "/admin", "GET /admin HTTP/1.1\r\n"),
        ("HTTP://svc/admin", "/admin", "GET /admin HTTP/1.1\r\n"),
        ("http://SVC.:80/%61?q", "/a", "GET /%61?q HTTP/1.1\r\n"),
        ("http://svc", "/", "GET / HTTP/1.1\r\n"),
        ("http://svc?x=1", "/", "GET /?x=1 HTTP/1.1\r\n"),
        (
            "http://svc/?u=http://evil/",
            "/",
            "GET /?u=http://evil/ HTTP/1.1\r\n",
        ),
    ] {
        let head = get(target).unwrap_or_else(|refusal| panic!("{target}: {refusal:?}"));
        assert_eq!(
            (head.path.as_str(), head.host.as_str()),
            (path, "svc"),
            "{target}"
        );
        assert!(forwarded(&head, &[]).starts_with(line), "{target}");
    }
    for (target, code) in [
        ("http://evil/admin", "host_mismatch"),
        ("http://svc:8080/admin", "host_mismatch"),
        ("https://svc:80/admin", "host_mismatch"),
        ("http://user@svc/admin", "bad_host"),
        ("http:///admin", "bad_host"),
        ("http://svc//admin", "empty_segment"),
        ("http://svc/../admin", "dot_segment"),
        ("ftp://svc/admin", "bad_target"),
        ("http:/svc/admin", "bad_target"),
    ] {
        refused(get(target), 400, code, target);
    }
    let head = read("GET http://Svc:8080/a HTTP/1.1\r\nHost: sVC:8080\r\n\r\n").unwrap();
    assert_eq!(forwarded(&head, &[]), "GET /a HTTP/1.1\r\nHost: Svc:8080\r\n\r\n");
    let head = read("GET http://Svc/a HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(
        (head.host.as_str(), forwarded(&head, &[])),
        ("svc", "GET /a HTTP/1.0\r\nhost: Svc\r\n\r\n".into())
    );
}

#[test]
fn p22_targets_that_are_no_paths() {
    refused(get("admin"), 400, "bad_target", "no slash");
    refused(get(""), 400, "bad_target", "empty");
    refused(get("*"), 400, "bad_target", "* with GET");
    refused(get("svc:80"), 400, "bad_target", "authority form with GET");
    refused(
        read("CONNECT svc:80 HTTP/1.1\r\nHost: svc:80\r\n\r\n"),
        405,
        "connect_not_allowed",
        "CONNECT",
    );
    for target in ["*", "http://svc"] {
        let head = read(format!("OPTIONS {target} HTTP/1.1\r\nHost: svc\r\n\r\n")).unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str()), ("OPTIONS", "*"));
        assert!(forwarded(&head, &[]).starts_with("OPTIONS * HTTP/1.1\r\n"));
    }
}

#[test]
fn p23_work_is_bounded() {
    let limits = Limits::default();
    let longest = format!("/{}", "a".repeat(limits.target_bytes - 1));
    assert_eq!(get(&longest).unwrap().path.len(), limits.target_bytes);
    refused(get(&format!("{longest}a")), 414, "target_too_long", "8 KiB + 1");
    refused(get(&"/a".repeat(4000)), 400, "path_too_deep", "4000 segments");
    refused(get(&"/a".repeat(1000)), 400, "path_too_deep", "1000 segments");
    assert!(get(&"/a".repeat(100)).is_ok());
    // The refusal does not wait for the end of an endless line.
    let endless = format!("GET {longest}aaaaaaaaaaaa");
    assert_eq!(
        parse_head(endless.as_bytes(), &limits)
            .map(|_| ())
            .unwrap_err()
            .code,
        "target_too_long"
    );
}

#[test]
fn a_semicolon_where_it_is_allowed_has_every_reading_decided() {
    let limits = Limits {
        allow_semicolon: true,
        ..Limits::default()
    };
    let get = |target: &str| read_with(format!("GET {target} HTTP/1.1\r\nHost: svc\r\n\r\n"), &limits);
    let head = get("/admin;x=1/%61;/b?q;r").unwrap();
    assert_eq!(
        head.readings().collect::<Vec<_>>(),
        ["/admin;x=1/a;/b", "/admin/a/b"]
    );
    assert_eq!(
        get("/admin%3Bx").unwrap().readings().collect::<Vec<_>>(),
        ["/admin%3Bx"]
    );
    refused(get("/..;/admin"), 400, "dot_segment", "..;");
    refused(get("/;x/admin"), 400, "empty_segment", "a segment of parameters");
    refused(
        get("/admin/;x"),
        400,
        "empty_segment",
        "a last segment of parameters",
    );
}

#[test]
fn p27_p28_headers_that_claim_another_target_or_method_are_not_seen() {
    let head = read(
        "GET /admin HTTP/1.1\r\nHost: svc\r\nX-Original-URL: /public\r\nX-Rewrite-URL: /public\r\n\
         x-envoy-original-path: /public\r\nX-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\n\
         X-Method-Override: DELETE\r\nX_HTTP_METHOD_OVERRIDE: DELETE\r\nAccept: */*\r\n\r\n",
    )
    .unwrap();
    assert_eq!((head.method.as_str(), head.path.as_str()), ("GET", "/admin"));
    assert_eq!(
        forwarded(&head, &[]),
        "GET /admin HTTP/1.1\r\nHost: svc\r\nAccept: */*\r\n\r\n"
    );
    assert_eq!(head.header("x-original-url").count(), 0);
}
