//! Requests that careless strictness would break. Each passes, and arrives as it was sent.

use hopguard_tests::{Until, Via};

use crate::ask::{Ask, Body, Wire, arrived, fire, passes};
use crate::keys::user_token;
use crate::rig::{Rig, forbids};

fn targets() -> Vec<String> {
    let mut all: Vec<String> = [
        "/",
        "/index.html",
        "/a/b/c/",
        "/a-b_c.d~e",
        "/%E4%BD%A0%E5%A5%BD",
        "/%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82/%D0%BC%D0%B8%D1%80",
        "/%D9%85%D8%B1%D8%AD%D8%A8%D8%A7",
        "/%E3%81%93%E3%82%93%E3%81%AB%E3%81%A1%E3%81%AF",
        "/%ED%95%9C%EA%B5%AD%EC%96%B4",
        "/caf%C3%A9",
        "/%F0%9F%90%BF",
        "/%e4%bd%a0",
        "/na\u{ef}ve/\u{4f60}\u{597d}",
        "/a%20b",
        "/a+b",
        "/a%2Bb",
        "/$&'()*+,=:@!",
        "/wiki/C%2B%2B",
        "/100%25",
        "/a%25b",
        "/a%3Ab",
        "/a%40b",
        "/q%3F",
        "/h%23",
        "/x%5By%5D",
        "/{id}",
        "/a|b",
        "/a^b",
        "/a`b",
        "/\"quoted\"",
        "/<tag>",
        "/...",
        "/.well-known/x",
        "/..a",
        "/a..",
        "/.hidden",
        "/a./b",
        "/%2e%2e%2e",
        "/:80/x",
        "/@user",
        "/~user",
        "/a=b",
        "/a,b",
        "/api/v1.2/items",
        "/items(1)/name",
        "/x!y",
        "/*",
        "/-",
        "/_",
        "/http://example.com/".split("//").next().unwrap_or("/"),
        // RFC 3986: examples and sub-delims.
        "/over/there?name=ferret",
        "/b/c/d?q",
        "/rfc/rfc3986.txt",
        "/?",
        "/??",
        "/?a=b&c=d",
        "/?q=%E4%BD%A0",
        "/?q=a+b",
        "/?redirect=https://example.com/a/../b",
        "/?x=/../admin",
        "/?a;b=c",
        "/?[]=1&[]=2",
        "/?%zz",
        "/?a=\"b\"&c=<d>",
        "/?\\",
        "/?q='--",
        "/?json={\"a\":[1]}",
        "/?%00",
        "/?..",
        "/?//",
        "/?=&=",
        "/?a=b?c=d",
        "/search?q=\u{4f60}\u{597d}",
    ]
    .map(str::to_owned)
    .to_vec();
    all.push(format!("/?q={}", "a".repeat(8000)));
    all.push(format!("/{}", "long-segment-".repeat(500)));
    all.push(format!("/{}", ["a"; 99].join("/")));
    all
}

fn methods(rig: &Rig, wire: Wire) {
    for method in [
        "GET",
        "HEAD",
        "OPTIONS",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "PROPFIND",
        "PROPPATCH",
        "MKCOL",
        "COPY",
        "MOVE",
        "LOCK",
        "UNLOCK",
        "REPORT",
        "SEARCH",
        "TRACE",
        "M-SEARCH",
        "PURGE",
        "QUERY",
        "VERSION-CONTROL",
        "BASELINE-CONTROL",
        "get",
    ] {
        passes(rig, wire, &Ask::new(method, "/dav/x"));
    }
}

fn headers(rig: &Rig, wire: Wire) {
    let get = || Ask::get("/");
    let big = "x".repeat(8000);
    for ask in [
        get().header("cookie", "a=b; c=d").header("cookie", "e=f"),
        get()
            .header("accept", "text/html, */*;q=0.8")
            .header("accept", "application/json"),
        get().header("accept-language", "de-CH, de;q=0.9, *;q=0.1"),
        get()
            .header("x-list", "a")
            .header("x-list", "b")
            .header("X-List", "a"),
        get().header("x-empty", ""),
        get().header("x-note", "\u{e4}\u{f6}\u{fc} \u{4f60}\u{597d}"),
        get().header("x-note", b"caf\xe9"),
        get().header("x-quoted", "\"a, b\\\" c\"; d=e"),
        get().header("x-odd!#$%&'*+.^_`|~name", "1"),
        get().header("x-tab", "a\tb"),
        get().header("x-big", &big).header("x-big-too", &big),
        get().header("if-none-match", "W/\"abc\", \"def\""),
        get().header("range", "bytes=0-99,200-"),
        get().header("sec-ch-ua", "\"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\""),
        get().header("sec-fetch-mode", "cors"),
        get().header("priority", "u=1, i"),
        get().header("baggage", "userId=alice,serverNode=DF%2028"),
        get().header("tracestate", "congo=t61rcWkgMzE"),
        get().header("x-request-id", "7"),
        get().header("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
        get().header("user-agent", "curl/8.0 (x; y) z/1"),
        get().header("referer", "https://example.com/a/../b#c"),
        get().header("origin", "null"),
        get().header("via", "1.1 proxy"),
        get().header("dnt", "1"),
        get().header("x-api-key", "secret"),
        get().header("x-username", "bob").header("username", "bob"),
        get()
            .header("x-csrf-token", "abc==")
            .header("x-requested-with", "XMLHttpRequest"),
        get().header("content-type", "text/plain"),
        get()
            .header("cache-control", "no-cache")
            .header("pragma", "no-cache"),
        get().token(&user_token()),
        get().header("authorization", format!("bearer {}", user_token())),
        get().header("x-region", "eu,us").header("x-role", "user"),
    ] {
        passes(rig, wire, &ask);
    }
    let mut many = get();
    for number in 0..90 {
        many = many.header(&format!("x-{number}"), "y");
    }
    passes(rig, wire, &many);
}

fn bodies(rig: &Rig, wire: Wire) {
    let post = || Ask::new("POST", "/form");
    for ask in [
        post().body(b""),
        post().body(b"a=b&c=%00"),
        post().body([0, 255, 13, 10, 13, 10, 0]),
        post().body("GET /admin HTTP/1.1\r\nHost: orders\r\n\r\n"),
        post().body(vec![b'x'; 300_000]),
        post().chunks(&["hello", " ", "world"], &[]),
        post().chunks(&[], &[]),
        post().chunks(&["0\r\n\r\n"], &[]),
        post().chunks(&["hello"], &[("x-checksum", "5"), ("Server-Timing", "a;dur=1")]),
        post().chunks(&["GET / HTTP/1.1\r\n\r\n"], &[]),
        post(),
        Ask::new("DELETE", "/x").body(b"with a body"),
        Ask::get("/x").body(b"with a body"),
        Ask::new("PUT", "/x")
            .header("content-encoding", "gzip")
            .body([0x1f, 0x8b, 8]),
        Ask::new("PATCH", "/x")
            .header("content-type", "application/merge-patch+json")
            .body(b"{}"),
        Ask::new("POST", "/x")
            .header("content-type", "multipart/form-data; boundary=a")
            .body(b"--a\r\n\r\n--a--"),
    ] {
        // The sender knows no windows: what is longer than the first one is for HTTP/1.1.
        if wire.is_h2() && ask.content().len() > 60_000 {
            continue;
        }
        let (_, sight) = passes(rig, wire, &ask);
        let Body::Chunked(_, trailers) = &ask.body else {
            continue;
        };
        let tail = String::from_utf8_lossy(&sight.body).to_lowercase();
        for (name, value) in trailers {
            assert!(
                tail.contains(&format!("{}: {value}\r\n", name.to_lowercase())),
                "{tail}"
            );
        }
    }
}

/// Answers that the application gives in every way that it may.
fn shapes(rig: &Rig, wire: Wire) {
    for (method, want, status, body) in [
        ("GET", "200", 200, "taken"),
        ("HEAD", "200", 200, ""),
        ("HEAD", "200 chunked", 200, ""),
        ("GET", "204", 204, ""),
        ("GET", "304", 304, ""),
        ("GET", "200 chunked", 200, "taken"),
        ("GET", "200 eof", 200, "taken"),
        ("GET", "206", 206, "taken"),
        ("GET", "302", 302, "taken"),
        ("GET", "200 interim", 200, "taken"),
        ("GET", "299", 299, "taken"),
    ] {
        let ask = Ask::new(method, "/shape").header("x-want", want);
        let (said, _) = passes(rig, wire, &ask);
        assert_eq!(said.status, Some(status), "{want}");
        if let Some(answer) = said.answer {
            assert_eq!(answer.text(), body, "{method} {want}");
            assert_eq!(answer.header("x-app"), Some("here"));
            assert_eq!(
                answer.interim.len(),
                usize::from(want.contains("interim")),
                "{want}"
            );
            let trailers = usize::from(want.contains("chunked") && method == "GET");
            assert_eq!(answer.trailers.len(), trailers, "{want}");
        }
    }
    for want in ["404", "500", "599"] {
        let ask = Ask::get("/shape").header("x-want", want);
        let said = fire(rig, wire, &ask, "shape");
        assert_eq!(said.status, want.parse().ok());
        arrived(&ask, &rig.echo.take("x-case: shape", 1).unwrap()[0]);
    }
}

pub fn all(wire: Wire) {
    let rig = forbids();
    for target in targets() {
        // No URI holds these (RFC 3986), and the library of HTTP/2 takes URIs alone.
        if wire.is_h2() && target.contains(['`', '<', '>', '^', '\\', '"']) {
            continue;
        }
        passes(&rig, wire, &Ask::get(&target));
    }
    methods(&rig, wire);
    headers(&rig, wire);
    bodies(&rig, wire);
    shapes(&rig, wire);
    rig.settle();
}

#[test]
fn ordinary_requests_pass_unchanged() {
    all(Wire::Mtls);
}

#[test]
fn ordinary_requests_pass_a_tunnel_unchanged() {
    all(Wire::Hbone);
}

fn targets_seen(rig: &Rig, case: &str, count: usize) -> Vec<String> {
    let sights = rig.echo.take(case, count).unwrap();
    sights.iter().map(|sight| sight.target().1).collect()
}

/// What only HTTP/1.1 has: pipelining, 100-continue, HTTP/1.0, absolute targets, a stray CRLF, odd white space.
#[test]
fn what_only_http1_has_passes() {
    let rig = forbids();
    let send = |bytes: &[u8], methods: &[&str]| {
        let until = Until::Answers(methods.iter().map(|text| (*text).to_owned()).collect());
        let flight = rig.send(Via::Mtls, &[bytes], until);
        let statuses: Vec<u16> = flight
            .answers(methods)
            .iter()
            .map(|answer| answer.status)
            .collect();
        (statuses, flight)
    };
    let many: Vec<u8> = (0..20)
        .flat_map(|number| Ask::get(format!("/{number}")).http1("pipelined"))
        .collect();
    let (statuses, _) = send(&many, &["GET"; 20]);
    assert_eq!(statuses, [200; 20]);
    assert_eq!(
        targets_seen(&rig, "x-case: pipelined", 20),
        (0..20).map(|n| format!("/{n}")).collect::<Vec<_>>()
    );
    // A body between two of them.
    let mixed = [
        Ask::new("POST", "/a").chunks(&["x"], &[]).http1("mixed"),
        Ask::new("POST", "/b").body(b"yy").http1("mixed"),
        Ask::get("/c").http1("mixed"),
    ]
    .concat();
    let (statuses, _) = send(&mixed, &["POST", "POST", "GET"]);
    assert_eq!(statuses, [200; 3]);
    assert_eq!(targets_seen(&rig, "x-case: mixed", 3), ["/a", "/b", "/c"]);
    for (text, status) in [
        ("GET /old HTTP/1.0\r\nx-case: raw\r\n\r\n", 200),
        (
            "GET /old HTTP/1.0\r\nHost: orders\r\nx-case: raw\r\nConnection: keep-alive\r\n\r\n",
            200,
        ),
        (
            "\r\nGET /stray HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\n\r\n",
            200,
        ),
        (
            "GET /x HTTP/1.1\r\nhost:orders\r\nx-case: raw\r\nX:no-space\r\n\r\n",
            200,
        ),
        (
            "GET /x HTTP/1.1\r\nhOsT: \t orders \t \r\nx-case: raw\r\n\r\n",
            200,
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\n\r\n", 200),
        (
            "OPTIONS http://orders HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\n\r\n",
            200,
        ),
        (
            "GET http://orders/abs?x HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\n\r\n",
            200,
        ),
        (
            "GET /x HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\nTE: trailers, deflate;q=0.5\r\nConnection: te\r\n\r\n",
            200,
        ),
        (
            "GET /x HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\nConnection: Keep-Alive, , \r\nKeep-Alive: timeout=5\r\n\r\n",
            200,
        ),
        (
            "GET /x HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\nUpgrade: h2c, HTTP/2.0\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
            200,
        ),
        (
            "POST /x HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\nTransfer-Encoding: CHUNKED\r\n\r\n5;ext=\"a b\"\r\nhello\r\n0;last\r\n\r\n",
            200,
        ),
        (
            "POST /x HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\ncontent-length:  05\r\n\r\nhello",
            200,
        ),
        (
            "POST /x HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\nTransfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n000\r\n\r\n",
            200,
        ),
        (
            "POST /x HTTP/1.1\r\nHost: orders\r\nx-case: raw\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
            200,
        ),
    ] {
        let method = text.trim_start().split(' ').next().unwrap_or_default();
        let (statuses, flight) = send(text.as_bytes(), &[method]);
        assert_eq!(
            statuses,
            [status],
            "{text:?}: {:?}",
            String::from_utf8_lossy(&flight.bytes())
        );
        let sight = rig.echo.take("x-case: raw", 1).unwrap().pop().unwrap();
        assert_eq!(sight.ended, "whole", "{text:?}");
        let content = sight.content();
        assert!([0, 5, 20].contains(&content.len()), "{text:?}: {content:?}");
        assert!(
            sight.values("upgrade").is_empty() && sight.values("http2-settings").is_empty(),
            "{text:?}"
        );
    }
    expecting(&rig);
    rig.settle();
}

/// `100-continue`: the body is sent once the application asks for it.
fn expecting(rig: &Rig) {
    let head = "POST /form HTTP/1.1\r\nHost: orders\r\nx-case: expects\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let pieces = [(head.as_bytes(), ""), (&b"hello"[..], "100 Continue")];
    for via in [Via::Mtls, Via::Hbone] {
        let flight = rig.send_waiting(via, &pieces, Until::Answers(vec!["POST".to_owned()]));
        let answers = flight.answers(&["POST"]);
        assert_eq!(
            (answers[0].status, answers[0].interim.as_slice()),
            (200, &[100][..]),
            "{flight:?}"
        );
        let sight = rig.echo.take("x-case: expects", 1).unwrap().pop().unwrap();
        assert_eq!(sight.body, b"hello");
    }
}
