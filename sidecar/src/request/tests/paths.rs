//! P: the request target.

use super::{forwarded, get, on_route, read, refused};
use crate::request::{Head, Limits, Refusal, Spellings, parse_head};

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

/// Every single spelling, and what is allowed with it.
const ODD: [(&str, Spellings); 4] = [
    (
        "encoded_slash",
        Spellings {
            encoded_slash: true,
            ..NONE
        },
    ),
    (
        "empty_segment",
        Spellings {
            merge_slashes: true,
            ..NONE
        },
    ),
    (
        "path_parameter",
        Spellings {
            semicolon: true,
            ..NONE
        },
    ),
    (
        "double_encoding",
        Spellings {
            encoded_percent: true,
            ..NONE
        },
    ),
];
const NONE: Spellings = Spellings {
    encoded_slash: false,
    merge_slashes: false,
    semicolon: false,
    encoded_percent: false,
};
const ALL: Spellings = Spellings {
    encoded_slash: true,
    merge_slashes: true,
    semicolon: true,
    encoded_percent: true,
};

fn whole(target: &str) -> Result<Head, Refusal> {
    let text = format!("GET {target} HTTP/1.1\r\nHost: svc\r\n\r\n");
    parse_head(text.as_bytes(), &Limits::default()).map(|head| head.expect("a complete head"))
}

#[test]
fn a_route_takes_the_spellings_that_it_allows_and_no_others() {
    for (target, codes, readings) in [
        ("/a%2fb?x", &["encoded_slash"][..], &["/a%2Fb"][..]),
        ("/%2F", &["encoded_slash"], &["/%2F"]),
        ("//a///b", &["empty_segment"], &["/a/b"]),
        ("/a//", &["empty_segment"], &["/a/"]),
        ("//", &["empty_segment"], &["/"]),
        (
            "/a;x=1/%61;/b?q;r",
            &["path_parameter"],
            &["/a;x=1/a;/b", "/a/a/b"],
        ),
        ("/%2561", &["double_encoding"], &["/%2561"]),
        ("/100%2541%25", &["double_encoding"], &["/100%2541%25"]),
        ("/%252f", &["double_encoding", "encoded_slash"], &["/%252f"]),
        (
            "//a%2fb;c",
            &["empty_segment", "encoded_slash", "path_parameter"],
            &["/a%2Fb;c", "/a%2Fb"],
        ),
    ] {
        let head = on_route(whole(target).unwrap(), ALL).unwrap();
        assert_eq!(head.readings().collect::<Vec<_>>(), readings, "{target}");
        assert!(
            forwarded(&head, &[]).starts_with(&format!("GET {target} HTTP/1.1\r\n")),
            "{target}"
        );
        for bits in 0..16_u8 {
            let allowed = Spellings {
                encoded_slash: bits & 1 != 0,
                merge_slashes: bits & 2 != 0,
                semicolon: bits & 4 != 0,
                encoded_percent: bits & 8 != 0,
            };
            let judged = on_route(whole(target).unwrap(), allowed);
            let missing = codes.iter().find(|code| {
                let one = ODD.iter().find(|(known, _)| known == *code).unwrap().1;
                !((one.encoded_slash && allowed.encoded_slash)
                    || (one.merge_slashes && allowed.merge_slashes)
                    || (one.semicolon && allowed.semicolon)
                    || (one.encoded_percent && allowed.encoded_percent))
            });
            match missing {
                None => assert_eq!(judged.unwrap().path, head.path, "{target} {allowed:?}"),
                Some(code) => refused(judged, 400, code, &format!("{target} {allowed:?}")),
            }
        }
    }
}

#[test]
fn an_odd_path_of_no_route_or_of_two_is_refused() {
    let head = whole("/admin;x").unwrap();
    for route_of in [
        |_: &str| None,
        |path: &str| Some(path.len()),
        |path: &str| path.find(';'),
    ] {
        assert_eq!(
            head.spelled(route_of, |_| ALL).unwrap_err().code,
            "path_parameter"
        );
    }
    assert!(head.spelled(|_| Some(1), |_| ALL).is_ok());
    assert!(
        whole("/admin")
            .unwrap()
            .spelled(|_| None::<()>, |()| NONE)
            .is_ok(),
        "not odd"
    );
}

/// Dot segments and what else is refused everywhere, behind what is allowed.
#[test]
fn nothing_else_hides_behind_an_allowed_spelling() {
    for (target, code) in [
        ("/..;/admin", "dot_segment"),
        ("/a;/../b", "path_parameter"),
        ("/a;x/..;y", "path_parameter"),
        ("/%2F..%2Fadmin", "encoded_slash"),
        ("/a/..%2fadmin", "encoded_slash"),
        ("/a%2F..", "encoded_slash"),
        ("/a%2F.;x", "encoded_slash"),
        ("/a%2F%ef%bc%8e%ef%bc%8e%2Fb", "encoded_slash"),
        ("/a//../b", "empty_segment"),
        ("//.//", "empty_segment"),
        ("/%252e%252e/admin", "double_encoding"),
        ("/a%252f..%252fb", "double_encoding"),
        ("/%255cadmin", "double_encoding"),
        ("/%2500", "double_encoding"),
        ("/%25c0%25ae", "double_encoding"),
        ("/%25ef%25bc%258f", "double_encoding"),
        ("/%252541", "double_encoding"),
        ("/%25%32%35%34%31", "double_encoding"),
        ("/a%2f\\b", "encoded_slash"),
        ("/a//%00", "empty_segment"),
        ("/a//%zz", "empty_segment"),
        ("/a;%ff", "bad_utf8"),
        ("/;x/admin", "path_parameter"),
        ("/admin/;x", "path_parameter"),
    ] {
        refused(whole(target), 400, code, target);
    }
    let deep = format!("/{}", "a//".repeat(100));
    refused(whole(&deep), 400, "empty_segment", "empty segments count, too");
}

#[test]
fn an_encoded_semicolon_is_text() {
    let head = get("/admin%3Bx").unwrap();
    assert_eq!(head.readings().collect::<Vec<_>>(), ["/admin%3Bx"]);
}
