use super::*;

fn good<T>(result: Parsed<T>) -> T {
    result.unwrap_or_else(|wrong| panic!("{}", wrong.message))
}

#[test]
fn durations() {
    for (text, millis) in [
        ("5s", 5_000),
        ("250ms", 250),
        ("10m", 600_000),
        ("1h", 3_600_000),
        ("7d", 604_800_000),
        ("0s", 0),
    ] {
        assert_eq!(good(duration(text)), Duration::from_millis(millis), "{text}");
    }
    for text in [
        "",
        "5",
        "s",
        "5 s",
        "-1s",
        "1.5s",
        "5S",
        "5sec",
        "+5s",
        "99999999999999999999s",
        "999999999999999999h",
        "5s ",
    ] {
        assert!(duration(text).is_err(), "{text}");
    }
    for text in ["5s", "250ms", "10m", "1h", "7d", "90s"] {
        assert_eq!(duration_text(good(duration(text))), text);
    }
}

#[test]
fn spiffe_ids_and_trust_domains_are_canonical_only() {
    assert!(trust_domain("mesh.local").is_ok());
    for text in [
        "",
        "Mesh.local",
        "spiffe://mesh.local",
        "mesh.local/x",
        "mesh local",
        "mesh:1",
    ] {
        assert!(trust_domain(text).is_err(), "{text}");
    }
    assert!(spiffe_id("spiffe://mesh.local/ns/shop/sa/web").is_ok());
    assert!(spiffe_id("spiffe://other.org/x").is_ok());
    for text in [
        "",
        "mesh.local/x",
        "spiffe://mesh.local",
        "spiffe://Mesh.local/x",
        "SPIFFE://mesh.local/x",
        "spiffe://mesh.local/x/",
        "spiffe://mesh.local/a/../b",
        "spiffe://mesh.local/%2f",
        "spiffe://mesh.local/a?b",
        "spiffe://mesh.local/*",
    ] {
        assert!(spiffe_id(text).is_err(), "{text}");
    }
}

#[test]
fn patterns_have_stars_as_whole_segments() {
    for text in [
        "spiffe://mesh.local/ns/shop/sa/web",
        "spiffe://mesh.local/ns/shop/sa/*",
        "spiffe://mesh.local/ns/**",
        "spiffe://mesh.local/**",
        "spiffe://mesh.local/*",
        "spiffe://mesh.local/ns/*/sa/web",
        "spiffe://mesh.local/*/x/**",
    ] {
        assert_eq!(good(pattern(text)), text);
    }
    for text in [
        "spiffe://mesh.local/**/sa/web",
        "spiffe://mesh.local/ns*",
        "spiffe://mesh.local/a//*",
        "spiffe://mesh.local/../*",
        "spiffe://mesh.local/***",
        "spiffe://*/x",
        "*",
        "**",
        "/**",
        "spiffe:///**",
        "spiffe://Mesh.local/**",
        "spiffe://mesh.local",
        "spiffe://mesh.local/**/x",
    ] {
        assert!(pattern(text).is_err(), "{text}");
    }
}

#[test]
fn names() {
    assert!(service_name("shop/orders-2").is_ok());
    for text in [
        "orders",
        "shop/",
        "/orders",
        "shop/orders/x",
        "Shop/orders",
        "shop/-a",
        "shop/a_b",
        "shop/a|b",
    ] {
        assert!(service_name(text).is_err(), "{text}");
    }
    assert!(label("an issuer", "corp-1.x").is_ok());
    for text in ["", "a|b", "-a", "a b", "ä", &"a".repeat(64)] {
        assert!(label("an issuer", text).is_err(), "{text}");
    }
    assert!(identifier("a claim", "tenant_1").is_ok());
    for text in ["", "1a", "a-b", "if", "like", "__cedar", "a.b", "ä"] {
        assert!(identifier("a claim", text).is_err(), "{text}");
    }
}

#[test]
fn hosts_are_names_and_addresses_are_addresses() {
    assert_eq!(good(host("Orders.Shop.")), "orders.shop");
    assert_eq!(good(host("web_1")), "web_1");
    for text in [
        "", ".", "a..b", "10.0.0.1", "::1", "[::1]", "a:80", "http://a", "a/b", "-a", "a b", "1.2", "10",
        "a.1", "0x7f",
    ] {
        assert!(host(text).is_err(), "{text}");
    }
    assert!(host("10.0.0.1").err().unwrap().hint.contains("addresses"));
    assert_eq!(
        good(address("::ffff:10.0.0.1")),
        "10.0.0.1".parse::<IpAddr>().unwrap()
    );
    for text in [
        "",
        "orders",
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "10.0.0.1:80",
        "10.0.0.0/8",
    ] {
        assert!(address(text).is_err(), "{text}");
    }
}

#[test]
fn templates() {
    for text in [
        "/",
        "/healthz",
        "/tenants/{tenant}/orders/{id}",
        "/admin/{**}",
        "/{**}",
        "/a/",
        "/a.b-c_~!$&'()+,=:@",
        "/gr%C3%BC%c3%9fe%20",
    ] {
        assert_eq!(good(template(text)), text);
    }
    for text in [
        "", "a", "//a", "/a//b", "/a/../b", "/./a", "/{**}/a", "/a*", "/*", "/{a}b", "/a{b}", "/{}",
        "/{a}/{a}", "/{1a}", "/{if}", "/{*}", "/a?b", "/a#b", "/a%2", "/a%zz", "/a%41", "/a%2Fb", "/a%5cb",
        "/a%00", "/a%2541", "/a;b", "/a b", "/a\\b", "/ü", "/{a", "/a}",
    ] {
        assert!(template(text).is_err(), "{text}");
    }
}

#[test]
fn headers_that_anyone_can_write_are_never_seen() {
    assert_eq!(good(header_name("X-Region")), "x-region");
    for text in [
        "",
        "x region",
        "x:y",
        "Authorization",
        "Host",
        "X-Forwarded-For",
        "x_forwarded_client_cert",
        "x-hopguard-user",
        "X_User_Sub",
        "x-envoy-original-path",
        "Transfer-Encoding",
        "x-http-method-override",
        "x-forwarded-host",
    ] {
        assert!(header_name(text).is_err(), "{text}");
    }
}

#[test]
fn urls() {
    for text in [
        "https://idp.demo:8443",
        "https://idp.demo/realms/x/",
        "https://[fd00::1]:8443/a?b=c",
    ] {
        assert_eq!(good(url(text, false)), text);
    }
    for text in ["http://127.0.0.1:9000", "http://localhost/x", "http://[::1]:1"] {
        assert!(url(text, true).is_ok(), "{text}");
        assert!(url(text, false).is_err(), "{text}");
    }
    for text in [
        "",
        "idp.demo",
        "/x",
        "http://idp.demo",
        "http://127.0.0.1.evil.org",
        "http://localhost.evil.org",
        "http://127.0.0.1@evil.org",
        "https://u:p@idp",
        "https://idp/#x",
        "ftp://idp",
        "https://",
        "https://a b",
    ] {
        assert!(url(text, true).is_err(), "{text}");
    }
}

#[test]
fn claim_paths_and_plain_texts() {
    for text in [
        "tenant",
        "realm_access.roles",
        "https://x",
        "https://idp.example/a..b/",
        "cognito:groups",
    ] {
        assert!(claim_path(text).is_ok(), "{text}");
    }
    for text in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a\nb",
        "https://a\nb",
        "a.b.c.d.e.f.g.h.i",
        "idp.example/roles",
        "urn:idp.example:roles",
    ] {
        assert!(claim_path(text).is_err(), "{text}");
    }
    assert!(plain_text("an audience", "shop").is_ok());
    assert!(plain_text("an audience", "").is_err());
    assert!(plain_text("an audience", "a\u{7}").is_err());
}
