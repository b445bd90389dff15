//! Where a token may stand, and that it stands in one place only.

use std::borrow::Cow;

use super::*;
use crate::request::{Presented, TokenPlaces};

fn places(cookie: bool, query: bool) -> TokenPlaces {
    TokenPlaces {
        cookie: cookie.then(|| "session".to_owned()),
        query: query.then(|| "access_token".to_owned()),
    }
}

fn head(target: &str, lines: &str) -> Head {
    read(format!("GET {target} HTTP/1.1\r\nHost: svc\r\n{lines}\r\n")).unwrap()
}

fn bearer(token: &str) -> Presented<'_> {
    Presented::Bearer(Cow::Borrowed(token))
}

#[test]
fn a_token_is_found_where_it_may_stand() {
    for (target, lines, token) in [
        ("/", "Authorization: Bearer t.k\r\n", "t.k"),
        ("/", "Cookie: session=t.k\r\n", "t.k"),
        ("/", "Cookie: a=b; session=t.k; c\r\n", "t.k"),
        ("/", "Cookie: a=b\r\nCookie: session=t.k\r\n", "t.k"),
        ("/", "cookie: sessions=1; Session=2; session=t.k==\r\n", "t.k=="),
        ("/?access_token=t.k", "", "t.k"),
        ("/a?x=1&access_token=t%2Ek&y", "", "t.k"),
        ("/?%61ccess_token=t.k", "", "t.k"),
    ] {
        assert_eq!(
            head(target, lines).presented(&places(true, true)),
            bearer(token),
            "{target} {lines}"
        );
    }
    assert_eq!(
        head("/", "Authorization: dpop t\r\n").presented(&places(true, true)),
        Presented::Dpop("t")
    );
    assert_eq!(
        head("/?a=access_token", "Cookie: a=session\r\n").presented(&places(true, true)),
        Presented::Absent
    );
}

#[test]
fn a_place_that_is_not_configured_is_not_looked_at() {
    let both = head("/?access_token=q", "Cookie: session=c\r\n");
    assert_eq!(both.presented(&places(false, false)), Presented::Absent);
    assert_eq!(both.presented(&places(true, false)), bearer("c"));
    assert_eq!(both.presented(&places(false, true)), bearer("q"));
}

#[test]
fn two_tokens_are_none() {
    for (target, lines) in [
        ("/", "Authorization: Bearer a\r\nCookie: session=a\r\n"),
        ("/", "Authorization: DPoP a\r\nCookie: session=a\r\n"),
        ("/?access_token=a", "Authorization: Bearer a\r\n"),
        ("/?access_token=a", "Cookie: session=a\r\n"),
        ("/", "Cookie: session=a; session=b\r\n"),
        ("/", "Cookie: session=a; session =a\r\n"),
        ("/", "Cookie: session=a\r\nCookie: session=a\r\n"),
        ("/?access_token=a&access_token=a", ""),
        ("/?access_token=a&access%5Ftoken=", ""),
        ("/?access.token=a", "Authorization: Bearer a\r\n"),
        ("/?access+token=a", "Authorization: Bearer a\r\n"),
        ("/?+access%5Btoken=a", "Authorization: Bearer a\r\n"),
        ("/?ACCESS_TOKEN=a", "Authorization: Bearer a\r\n"),
        ("/?x=1;access_token=a", "Authorization: Bearer a\r\n"),
        ("/", "Authorization: Bearer a\r\nCookie: a=b,session=a\r\n"),
    ] {
        assert_eq!(
            head(target, lines).presented(&places(true, true)),
            Presented::Bad("two_tokens"),
            "{target} {lines}"
        );
    }
}

#[test]
fn what_stands_in_the_place_of_a_token_and_is_none_is_bad() {
    for (target, lines, reason) in [
        ("/", "Cookie: session=\r\n", "malformed"),
        ("/", "Cookie: session\r\n", "malformed"),
        ("/", "Cookie: session=\"t\"\r\n", "malformed"),
        ("/", "Cookie: a=b,session=t\r\n", "malformed"),
        ("/", "Cookie: a=b, session=t\r\n", "malformed"),
        ("/", "Cookie: session=a b\r\n", "malformed"),
        ("/", "Cookie: session=\u{e9}\r\n", "malformed"),
        ("/?access_token", "", "malformed"),
        ("/?access_token=", "", "malformed"),
        ("/?access_token=a%20b", "", "malformed"),
        ("/?access_token=a+b", "", "malformed"),
        ("/?access_token=%ff", "", "malformed"),
        (
            "/",
            "Authorization: Basic eDp5\r\nCookie: session=a\r\n",
            "not_bearer",
        ),
    ] {
        assert_eq!(
            head(target, lines).presented(&places(true, true)),
            Presented::Bad(reason),
            "{target} {lines}"
        );
    }
}

#[test]
fn a_proof_is_one_header() {
    assert_eq!(head("/", "DPoP: a.b.c\r\n").proof(), Ok("a.b.c"));
    for lines in ["", "DPoP: a\r\nDPoP: a\r\n", "DPoP: \u{e9}\r\nDPoP: b\r\n"] {
        assert!(head("/", lines).proof().is_err(), "{lines}");
    }
}

#[test]
fn an_application_that_shall_not_have_the_token_does_not_get_it() {
    let lines =
        "Authorization: Bearer t\r\nDPoP: p\r\nCookie: a=1; session=t; b=2\r\nCookie: session=t\r\nx: y\r\n";
    let sent = head("/p?x=%31&access_token=t&&y=?", lines);
    let without = forwarded(&sent.without_token(&places(true, true)), &[]);
    assert_eq!(
        without,
        "GET /p?x=%31&&y=? HTTP/1.1\r\nHost: svc\r\nCookie: a=1; b=2\r\nx: y\r\n\r\n"
    );
    // What is not configured as a place of a token is the application's own.
    let own = forwarded(&sent.without_token(&places(false, false)), &[]);
    assert!(
        own.starts_with("GET /p?x=%31&access_token=t&&y=? ") && own.contains("session=t"),
        "{own}"
    );
    for (target, left) in [
        ("/p?a=1&access_token=t", "/p?a=1"),
        ("/p?access_token=t;a=1", "/p?a=1"),
        ("/p?a;Access.Token=t;b&", "/p?a;b&"),
    ] {
        let without = head(target, "").without_token(&places(true, true));
        let forwarded = forwarded(&without, &[]);
        assert!(
            forwarded.starts_with(&format!("GET {left} HTTP/1.1\r\n")),
            "{forwarded}"
        );
    }
    let alone = head("/p?access_token=t", "").without_token(&places(true, true));
    assert!(forwarded(&alone, &[]).starts_with("GET /p HTTP/1.1\r\n"));
    for target in ["/p", "/p?", "/p?a=1"] {
        let whole = head(target, "Cookie: a=1\r\n");
        let without = whole.without_token(&places(true, true));
        assert_eq!(forwarded(&without, &[]), forwarded(&whole, &[]), "{target}");
    }
}

#[test]
fn no_token_is_printed() {
    let sent = head("/?access_token=sesame", "Cookie: session=sesame\r\n");
    for places in [places(true, false), places(false, true), places(true, true)] {
        let text = format!("{sent:?} {:?}", sent.presented(&places));
        assert!(!text.contains("sesame"), "{text}");
    }
}
