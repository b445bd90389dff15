//! J1 to J24: tokens that are none. All of them are sent to a path that only an admin may see, and say that they are one.

use serde_json::{Value, json};

use crate::ask::{Ask, Wire, fire, passes, refused};
use crate::keys::{KEYS, OCT, admin_token, b64, claims, hmac_token, now, user_token};
use crate::rig::permits;

const HEAD: &str = r#"{"alg":"ES256","kid":"ec"}"#;

/// A token of an admin with one claim changed; `null` takes it out.
fn with(name: &str, value: Value) -> String {
    let mut all = claims("root", "admin");
    if value.is_null() {
        all.as_object_mut().unwrap().remove(name);
    } else {
        all[name] = value;
    }
    KEYS.token("ec", HEAD, &all.to_string())
}

/// A token whose payload holds this text in place of a claim's value, JSON or not.
fn with_text(name: &str, text: &str) -> String {
    let marked = with_payload(name, "MARK");
    KEYS.token("ec", HEAD, &marked.replace("\"MARK\"", text))
}

fn with_payload(name: &str, value: &str) -> String {
    let mut all = claims("root", "admin");
    all[name] = json!(value);
    all.to_string()
}

/// A good token of an admin under another header.
fn under(header: Value) -> String {
    KEYS.token("ec", &header.to_string(), &claims("root", "admin").to_string())
}

fn header(more: Value) -> Value {
    let mut all = json!({"alg": "ES256", "kid": "ec"});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

/// The header of a token, in bytes that need not be JSON.
fn under_text(text: &str) -> String {
    KEYS.token("ec", text, &claims("root", "admin").to_string())
}

fn forged() -> Vec<(&'static str, String)> {
    let payload = claims("root", "admin").to_string();
    let good = with("sub", json!("root"));
    let [head, body, signature]: [String; 3] = good
        .split('.')
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let mut all = Vec::new();
    for alg in [
        "none", "None", "nOnE", "NONE", "", "HS256", "HS384", "HS512", "es256", "ES256K", "RS1", "dir",
    ] {
        let head = b64(json!({"alg": alg, "kid": "ec"}).to_string());
        all.push(("J1", format!("{head}.{body}.")));
        all.push(("J1", format!("{head}.{body}.{signature}")));
    }
    all.push(("J1", format!("{head}.{body}.")));
    all.push(("J1", format!("{head}.{body}.AAAA")));
    all.push(("J1", format!("{head}.{body}.{}", b64([0; 64]))));
    for secret in KEYS.as_secrets() {
        for kid in ["rsa", "ec", "oct"] {
            all.push(("J2", hmac_token(kid, &secret, &payload)));
        }
    }
    all.push(("J3", KEYS.token("rsa", r#"{"alg":"RS256","kid":"ec"}"#, &payload)));
    all.push((
        "J3",
        KEYS.token("rsa", r#"{"alg":"RS256","kid":"oct"}"#, &payload),
    ));
    all.push(("J3", KEYS.token("ec", r#"{"alg":"ES256","kid":"rsa"}"#, &payload)));
    all.push(("J3", KEYS.token("ed", r#"{"alg":"EdDSA","kid":"ec"}"#, &payload)));
    all.push(("J3", hmac_token("oct", OCT, &payload)));
    all.push(("J4", KEYS.token("foreign", HEAD, &payload)));
    for more in [
        json!({"jwk": KEYS.foreign_jwk("ec")}),
        json!({"jku": "https://evil.example/jwks"}),
        json!({"x5u": "https://evil.example/x5u"}),
        json!({"x5c": [b64("certificate")]}),
        json!({"kid": "evil", "jwk": KEYS.foreign_jwk("evil")}),
    ] {
        all.push(("J4", KEYS.token("foreign", &header(more).to_string(), &payload)));
    }
    for kid in [
        json!("../../dev/null"),
        json!("' OR 1=1"),
        json!("k".repeat(900)),
        json!(7),
        json!(null),
        json!({}),
        json!(["ec"]),
        json!(""),
        json!("ec\u{0}"),
        json!("EC"),
    ] {
        all.push(("J5", under(json!({"alg": "ES256", "kid": kid}))));
    }
    for crit in [
        json!(["exp"]),
        json!(["b64"]),
        json!([]),
        json!("exp"),
        json!(null),
        json!(["x-unknown"]),
    ] {
        all.push(("J7", under(header(json!({"crit": crit, "x-unknown": 1})))));
    }
    all.push(("J8", under(header(json!({"crit": ["b64"], "b64": false})))));
    all.push(("J8", under(header(json!({"b64": false})))));
    for typ in [
        json!("dpop+jwt"),
        json!("secevent+jwt"),
        json!("logout+jwt"),
        json!("foo"),
        json!(7),
        json!(""),
        json!("JWT "),
        json!("application/dpop+jwt"),
    ] {
        all.push(("J9", under(header(json!({"typ": typ})))));
    }
    all.push(("J9", under(header(json!({"cty": "JWT"})))));
    for text in [
        "\"soon\"",
        "-1",
        "1e400",
        "NaN",
        "true",
        "[]",
        "{}",
        "1e30",
        "99999999999999999999",
        "Infinity",
        "0x7fffffff",
        "",
    ] {
        all.push(("J11", with_text("exp", text)));
    }
    all.push(("J11", with("exp", Value::Null)));
    all.push(("J11", with_text("exp", "null")));
    all.push(("J11", with("exp", json!(now() - 6))));
    all.push(("J11", with("exp", json!(0))));
    all.push(("J12", with("nbf", json!(now() + 600))));
    all.push(("J12", with("iat", json!(now() + 600))));
    for text in ["\"now\"", "null", "-1", "[]"] {
        all.push(("J12", with_text("nbf", text)));
        all.push(("J12", with_text("iat", text)));
    }
    for aud in [
        json!(5),
        json!({}),
        json!([]),
        json!(["shop", 1]),
        json!("another"),
        json!(["another"]),
        json!(""),
        json!("SHOP"),
        json!("shop "),
        json!([["shop"]]),
    ] {
        all.push(("J13", with("aud", aud)));
    }
    all.push(("J13", with("aud", Value::Null)));
    for iss in [
        json!("http://127.0.0.1:9999/"),
        json!("https://idp:8443"),
        json!(["http://127.0.0.1:9999"]),
        json!(7),
        json!(""),
        json!("http://localhost:9999"),
    ] {
        all.push(("J14", with("iss", iss)));
    }
    all.push(("J14", with("iss", Value::Null)));
    for sub in [
        json!(7),
        json!(""),
        json!("ro\u{0}ot"),
        json!("ro\nroot"),
        json!(["root"]),
    ] {
        all.push(("J14", with("sub", sub)));
    }
    all.push(("J14", with("sub", Value::Null)));
    all.extend(
        misshapen(&head, &body, &signature)
            .into_iter()
            .map(|token| ("J16", token)),
    );
    let doubled = payload.replacen('{', "{\"roles\":[\"clerk\"],", 1);
    all.push(("J16", KEYS.token("ec", HEAD, &doubled)));
    all.push((
        "J16",
        KEYS.token("ec", HEAD, &payload.replacen('{', "{\"exp\":1,", 1)),
    ));
    all.push(("J16", under_text(r#"{"alg":"ES256","alg":"none","kid":"ec"}"#)));
    all.push(("J16", under_text(r#"{"alg":"ES256","kid":"ec"}{}"#)));
    all.push(("J16", under_text("[]")));
    all.push(("J16", under_text("\u{feff}{\"alg\":\"ES256\",\"kid\":\"ec\"}")));
    all.push(("J17", with("pad", json!("x".repeat(9 * 1024)))));
    all.push((
        "J17",
        with_text("deep", &format!("{}1{}", "[".repeat(2000), "]".repeat(2000))),
    ));
    all.push(("J17", with("roles", json!(vec!["admin"; 900]))));
    all.push(("J17", under(header(json!({"pad": "x".repeat(1100)})))));
    all
}

/// J16: not three parts of canonical base64url.
fn misshapen(head: &str, body: &str, signature: &str) -> Vec<String> {
    let swapped = |text: &str| text.replace('-', "+").replace('_', "/");
    let mut all = vec![
        format!("{head}.{body}.{signature}="),
        format!("{head}=.{body}.{signature}"),
        format!("{head}.{body}.{signature}."),
        format!(".{head}.{body}.{signature}"),
        format!("{head}.{body}"),
        format!("{head}..{signature}"),
        format!("..{signature}"),
        head.to_owned(),
        format!("{head}.{body}.{signature}.{signature}.{signature}"),
        format!("{head}.{body}.{signature}AA"),
    ];
    // The last character of 86 carries four bits that nobody reads.
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.find(last).unwrap() + 1;
    all.push(format!(
        "{head}.{body}.{}{}",
        &signature[..signature.len() - 1],
        &alphabet[next..=next]
    ));
    for standard in [swapped(signature)] {
        if standard != signature {
            all.push(format!("{head}.{body}.{standard}"));
        }
    }
    all
}

pub fn table(wire: Wire) {
    let rig = permits();
    let admin = |token: &str| Ask::get("/admin").token(token);
    passes(&rig, wire, &admin(&admin_token()));
    for (code, token) in forged() {
        // A token that fits no head is too large for one, whatever it says.
        let statuses: &[u16] = if token.len() > 30_000 { &[401, 431] } else { &[401] };
        let said = fire(&rig, wire, &admin(&token), "forged");
        assert!(
            said.status.is_some_and(|status| statuses.contains(&status)),
            "{code}: {said:?}: {token}"
        );
        if let Some(answer) = &said.answer
            && answer.status == 401
        {
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(
                challenge.starts_with("Bearer ") && challenge.contains("error=\"invalid_token\""),
                "{code}: {challenge}"
            );
            assert!(
                !challenge.contains(&token) && !answer.text().contains(&token),
                "{code}: the token is told"
            );
        }
    }
    // Invalid is never absent: where nobody needs a user, a bad token is refused all the same.
    refused(
        &rig,
        wire,
        &Ask::get("/public").token(&with("aud", json!("another"))),
        &[401],
    );
    // J17: what passes the bounds but is no list of roles of ours is a user without the role.
    rig.settle();
}

/// J15: where a token may stand, and how.
pub fn places(wire: Wire) {
    let rig = permits();
    let (good, bob) = (admin_token(), user_token());
    let auth = |value: &str| Ask::get("/admin").header("authorization", value);
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        passes(&rig, wire, &auth(&format!("{scheme} {good}")));
        passes(&rig, wire, &auth(&format!("{scheme}  {good}")));
    }
    for value in [
        format!("Bearer\t{good}"),
        format!("Bearer \t{good}"),
        format!("Bearer {good} "),
        format!("Bearer {good},Bearer {bob}"),
        format!("Bearer {good} x"),
        format!("Bearer \"{good}\""),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        good.clone(),
        format!("Token {good}"),
        format!("Basic {}", b64("root:x")),
        format!("Bearer:{good}"),
        format!("Bearer={good}"),
        format!("Basic x, Bearer {good}"),
        format!("BearerBearer {good}"),
        String::new(),
    ] {
        let trimmed = value.trim_end() != value;
        if trimmed && value.trim_end() == format!("Bearer {good}") {
            // White space around a value is none of it (RFC 9110 5.5).
            if !wire.is_h2() {
                passes(&rig, wire, &auth(&value));
            }
            continue;
        }
        // In HTTP/2 a value with white space around it is malformed (RFC 9113, 8.2.1).
        let statuses: &[u16] = if wire.is_h2() && trimmed {
            &[400, 401]
        } else {
            &[401]
        };
        refused(&rig, wire, &auth(&value), statuses);
    }
    for (first, second) in [(&good, &good), (&good, &bob), (&bob, &good)] {
        refused(&rig, wire, &Ask::get("/admin").token(first).token(second), &[401]);
    }
    // Somewhere else is nowhere (J24: then a user is asked for).
    for ask in [
        Ask::get(format!("/admin?access_token={good}")),
        Ask::get("/admin").header("cookie", format!("access_token={good}; token={good}")),
        Ask::get("/admin").header("x-authorization", format!("Bearer {good}")),
        Ask::get("/admin").header("proxy-authorization", format!("Bearer {good}")),
        Ask::get("/admin").header("authorization_", format!("Bearer {good}")),
        Ask::get("/admin"),
    ] {
        let said = fire(&rig, wire, &ask, "nowhere");
        assert_eq!(said.status, Some(401), "{ask:?}");
        if let Some(answer) = said.answer {
            assert_eq!(
                answer.header("www-authenticate"),
                Some("Bearer realm=\"hopguard\"")
            );
        }
    }
    rig.settle();
}

/// J11, J12, J9: what is odd and right.
pub fn good(wire: Wire) {
    let rig = permits();
    let with_head = |head: Value| KEYS.token("ec", &head.to_string(), &claims("root", "admin").to_string());
    for token in [
        with("exp", json!(now() as f64 + 600.5)),
        with("exp", json!(now() - 1)),
        with("nbf", json!(now() + 3)),
        with("aud", json!(["another", "shop"])),
        with("extra", json!({"deep": [[[[1]]]], "text": "\u{4f60}\u{597d}"})),
        with_head(header(json!({"typ": "JWT"}))),
        with_head(header(json!({"typ": "at+jwt"}))),
        with_head(header(json!({"typ": "application/at+jwt"}))),
        with_head(header(json!({"typ": "jwt"}))),
        with_head(json!({"alg": "ES256"})),
        with_head(header(
            json!({"x5t": "abc", "jku": "https://evil.example/ignored"}),
        )),
        KEYS.token(
            "ed",
            r#"{"alg":"EdDSA","kid":"ed"}"#,
            &claims("root", "admin").to_string(),
        ),
        KEYS.token(
            "rsa",
            r#"{"alg":"RS256","kid":"rsa"}"#,
            &claims("root", "admin").to_string(),
        ),
    ] {
        passes(&rig, wire, &Ask::get("/admin").token(&token));
    }
    rig.settle();
}

/// J20: a token that was good a moment ago.
#[test]
fn a_known_token_ends_with_its_time() {
    let rig = permits();
    // Past its time, within the leeway of five seconds: taken, and answered whole.
    let token = with("exp", json!(now() - 1));
    for _ in 0..5 {
        passes(&rig, Wire::Mtls, &Ask::get("/admin").token(&token));
    }
    hopguard_tests::eventually(std::time::Duration::from_secs(30), || {
        let said = fire(&rig, Wire::Mtls, &Ask::get("/admin").token(&token), "ends");
        if said.status == Some(401) {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    })
    .unwrap();
    rig.echo.clear();
    refused(&rig, Wire::Mtls, &Ask::get("/admin").token(&token), &[401]);
    rig.settle();
}

#[test]
fn forged_tokens_are_refused() {
    table(Wire::Mtls);
}

#[test]
fn a_token_stands_in_one_place() {
    places(Wire::Mtls);
}

#[test]
fn odd_and_good_tokens_pass() {
    good(Wire::Mtls);
}

/// RFC 6750 section 3.1: a good token that lacks nothing but a scope.
#[test]
fn a_scope_that_is_missing_is_asked_for() {
    let rig = permits();
    let scoped = |scope: &str| {
        let mut all = claims("bob", "clerk");
        all["scope"] = json!(scope);
        Ask::get("/scoped").token(&KEYS.token("ec", HEAD, &all.to_string()))
    };
    passes(&rig, Wire::Mtls, &scoped("openid orders:read"));
    let said = fire(&rig, Wire::Mtls, &scoped("openid"), "refused");
    let answer = said.answer.unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer realm=\"hopguard\", error=\"insufficient_scope\", scope=\"orders:read\""),
        "{answer:?}"
    );
    assert!(String::from_utf8_lossy(&answer.body).contains("insufficient_scope"));
    let other = fire(&rig, Wire::Mtls, &Ask::get("/other").with_bob(), "refused");
    let answer = other.answer.unwrap();
    assert_eq!((answer.status, answer.header("www-authenticate")), (403, None));
    refused(&rig, Wire::MtlsH2, &scoped("openid"), &[403]);
    rig.settle();
}
