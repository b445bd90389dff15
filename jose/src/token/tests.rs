//! What a verifier must take and must not: every malformed token here carries a good signature of the key in the set.

use proptest::prelude::*;

use super::*;
use crate::testing::{ISSUER, NOW, Pair, document, payload, rules, set};
use crate::{KeyPolicy, MAX_TOKEN_BYTES, base64url};

const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;

fn keys() -> KeySet {
    set(&[Pair::shared(Algorithm::ES256).jwk(r#""kid":"k","use":"sig""#)])
}

fn verify_at(token: &str, now: i64) -> Result<Verified, TokenError> {
    Token::parse(token)?.verify(&keys(), &rules(), now)
}

/// The label of the refusal of a token, signed well, with this header and payload; "ok" when there is none.
fn label(header: &str, payload: &str) -> &'static str {
    let token = Pair::shared(Algorithm::ES256).compact(Algorithm::ES256, header, payload);
    label_of(&token)
}

fn label_of(token: &str) -> &'static str {
    verify_at(token, NOW).map_or_else(|refusal| refusal.label(), |_| "ok")
}

fn header(more: &str) -> String {
    format!(r#"{{"alg":"ES256","kid":"k"{more}}}"#)
}

/// The payload with one claim replaced by this text, or left out.
fn claim(name: &str, value: Option<&str>) -> String {
    let mut claims = vec![
        ("iss", format!("\"{ISSUER}\"")),
        ("sub", "\"alice\"".to_owned()),
        ("aud", "\"shop\"".to_owned()),
        ("exp", (NOW + 300).to_string()),
    ];
    claims.retain(|(known, _)| *known != name);
    if let Some(value) = value {
        claims.push((name, value.to_owned()));
    }
    let claims: Vec<String> = claims
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", claims.join(","))
}

#[test]
fn every_algorithm_verifies_with_its_key() {
    for algorithm in Algorithm::ALL {
        let pair = Pair::shared(algorithm);
        let keys = set(&[pair.jwk(r#""kid":"k""#)]);
        let token = pair.compact(
            algorithm,
            &format!(r#"{{"alg":"{algorithm}","kid":"k","typ":"JWT"}}"#),
            &payload(""),
        );
        let token = Token::parse(&token).expect("sound");
        assert_eq!(
            (token.issuer(), token.kid(), token.algorithm()),
            (Ok(ISSUER), Some("k"), Some(algorithm))
        );
        let verified = token.verify(&keys, &rules(), NOW).expect("valid");
        assert_eq!(verified.claims.subject, "alice");
        assert_eq!(verified.claims.audience, ["shop"]);
        assert_eq!(
            verified.claims.times,
            Times {
                exp: NOW + 300,
                nbf: None,
                iat: Some(NOW - 1)
            }
        );
        assert_eq!(
            (verified.algorithm, verified.kid.as_deref()),
            (algorithm, Some("k"))
        );
        assert_eq!(keys.thumbprints().next(), Some(verified.key));
    }
}

#[test]
fn an_algorithm_must_be_allowed_and_fit_the_key() {
    let pair = Pair::shared(Algorithm::RS256);
    let token = |algorithm: Algorithm| {
        pair.compact(
            algorithm,
            &format!(r#"{{"alg":"{algorithm}","kid":"k"}}"#),
            &payload(""),
        )
    };
    let only = |algorithm| Rules {
        algorithms: [algorithm].into_iter().collect(),
        ..rules()
    };
    let check = |jwk: &str, token: &str, rules: &Rules| {
        Token::parse(token)
            .expect("sound")
            .verify(&set(&[pair.jwk(jwk)]), rules, NOW)
            .map(|_| ())
    };
    // No `alg` in the key: whatever fits its type and the list.
    assert_eq!(check(r#""kid":"k""#, &token(Algorithm::PS384), &rules()), Ok(()));
    assert_eq!(
        check(r#""kid":"k""#, &token(Algorithm::PS384), &only(Algorithm::RS256)),
        Err(TokenError::Algorithm)
    );
    // The key's own `alg` binds it.
    let bound = r#""kid":"k","alg":"RS256""#;
    assert_eq!(check(bound, &token(Algorithm::RS256), &rules()), Ok(()));
    assert!(matches!(
        check(bound, &token(Algorithm::PS256), &rules()),
        Err(TokenError::NoKey(_))
    ));
    assert!(matches!(
        check(bound, &token(Algorithm::RS512), &rules()),
        Err(TokenError::NoKey(_))
    ));
    assert_eq!(
        check(
            bound,
            &token(Algorithm::RS256),
            &Rules {
                algorithms: Algorithms::NONE,
                ..rules()
            }
        ),
        Err(TokenError::Algorithm)
    );
}

#[test]
fn j1_no_algorithm_no_signature() {
    let body = base64url::encode(payload("").as_bytes());
    for name in ["none", "None", "nOnE", "NONE", ""] {
        let head = base64url::encode(format!(r#"{{"alg":"{name}","kid":"k"}}"#).as_bytes());
        assert_eq!(label_of(&format!("{head}.{body}.")), "malformed", "{name}");
        assert_eq!(label_of(&format!("{head}.{body}.AAAA")), "bad_alg", "{name}");
        assert_eq!(
            label(&format!(r#"{{"alg":"{name}","kid":"k"}}"#), &payload("")),
            "bad_alg",
            "{name}"
        );
    }
    let token = Pair::shared(Algorithm::ES256).compact(Algorithm::ES256, HEADER, &payload(""));
    let (signed, _) = token.rsplit_once('.').expect("parts");
    assert_eq!(label_of(&format!("{signed}.")), "malformed");
    assert_eq!(
        label_of(&format!("{signed}.{}", base64url::encode(&[0; 64]))),
        "bad_sig",
        "CVE-2022-21449"
    );
    for more in ["", r#","alg":null"#, r#","alg":5"#, r#","alg":["ES256"]"#] {
        assert_eq!(
            label(&format!(r#"{{"kid":"k"{more}}}"#), &payload("")),
            "bad_header",
            "{more}"
        );
    }
}

#[test]
fn j2_a_public_key_is_no_shared_secret() {
    let secrets = [
        Pair::shared(Algorithm::ES256).jwk(r#""kid":"k""#).into_bytes(),
        Pair::shared(Algorithm::ES256).members().into_bytes(),
        Pair::shared(Algorithm::ES256).pkcs8(),
    ];
    for (secret, name) in secrets
        .iter()
        .flat_map(|s| ["HS256", "HS384", "HS512"].map(|n| (s, n)))
    {
        let signed = format!(
            "{}.{}",
            base64url::encode(format!(r#"{{"alg":"{name}","kid":"k"}}"#).as_bytes()),
            base64url::encode(payload("").as_bytes())
        );
        let scheme = match name {
            "HS256" => aws_lc_rs::hmac::HMAC_SHA256,
            "HS384" => aws_lc_rs::hmac::HMAC_SHA384,
            _ => aws_lc_rs::hmac::HMAC_SHA512,
        };
        let tag = aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(scheme, secret), signed.as_bytes());
        assert_eq!(
            label_of(&format!("{signed}.{}", base64url::encode(tag.as_ref()))),
            "bad_alg"
        );
    }
}

#[test]
fn j3_a_key_of_another_kind_under_the_same_kid_verifies_nothing() {
    let rsa = Pair::shared(Algorithm::RS256);
    let token = rsa.compact(Algorithm::RS256, r#"{"alg":"RS256","kid":"k"}"#, &payload(""));
    let check = |jwks: &[String]| {
        Token::parse(&token)
            .expect("sound")
            .verify(&set(jwks), &rules(), NOW)
    };
    let oct = r#"{"kty":"oct","kid":"k","alg":"RS256","k":"c2VjcmV0"}"#.to_owned();
    assert_eq!(check(std::slice::from_ref(&oct)), Err(TokenError::UnknownKid));
    let ec = Pair::shared(Algorithm::ES256).jwk(r#""kid":"k""#);
    assert!(matches!(
        check(std::slice::from_ref(&ec)),
        Err(TokenError::NoKey(_))
    ));
    // Beside the right key they change nothing.
    assert!(check(&[oct, ec, rsa.jwk(r#""kid":"k""#)]).is_ok());
}

#[test]
fn j4_a_key_offered_by_the_token_is_never_used() {
    let attacker = Pair::new(Algorithm::ES256);
    for offer in [
        format!(r#","jwk":{}"#, attacker.jwk(r#""kid":"k""#)),
        r#","jku":"https://evil.example/jwks""#.to_owned(),
        r#","x5u":"https://evil.example/chain""#.to_owned(),
        r#","x5c":["MIIB"]"#.to_owned(),
    ] {
        let forged = attacker.compact(Algorithm::ES256, &header(&offer), &payload(""));
        assert_eq!(label_of(&forged), "bad_sig", "{offer}");
        // From the right signer such a header does no harm either.
        assert_eq!(label(&header(&offer), &payload("")), "ok", "{offer}");
    }
}

#[test]
fn j5_a_kid_is_a_short_string_and_known() {
    for kid in ["../../dev/null", "' OR 1=1", "", "K", "k ", "\\u0000", "k\\u0000"] {
        assert_eq!(
            label(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#), &payload("")),
            "unknown_kid",
            "{kid}"
        );
    }
    for kid in ["7", "null", "[\"k\"]", "{}", "true"] {
        assert_eq!(
            label(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#), &payload("")),
            "bad_header",
            "{kid}"
        );
    }
    let long = |n: usize| format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(n));
    assert_eq!(label(&long(256), &payload("")), "unknown_kid");
    assert_eq!(label(&long(257), &payload("")), "bad_header");
    assert_eq!(label(&long(1024), &payload("")), "oversized");
    // Escaped, it is the same name.
    assert_eq!(label(r#"{"alg":"ES256","kid":"\u006b"}"#, &payload("")), "ok");
}

#[test]
fn a_token_without_kid_needs_one_key_that_fits() {
    let mine = Pair::shared(Algorithm::ES256);
    let token = mine.compact(Algorithm::ES256, r#"{"alg":"ES256"}"#, &payload(""));
    let check = |jwks: &[String]| {
        Token::parse(&token)
            .expect("sound")
            .verify(&set(jwks), &rules(), NOW)
            .map(|_| ())
    };
    let other = Pair::new(Algorithm::ES256);
    let rsa = Pair::shared(Algorithm::RS256).jwk(r#""kid":"r""#);
    assert_eq!(check(&[mine.jwk("")]), Ok(()));
    assert_eq!(
        check(&[mine.jwk(r#""kid":"k""#), rsa.clone()]),
        Ok(()),
        "one fits the algorithm"
    );
    assert!(matches!(
        check(&[mine.jwk(r#""kid":"a""#), other.jwk(r#""kid":"b""#)]),
        Err(TokenError::NoKey(_))
    ));
    assert!(matches!(check(&[rsa]), Err(TokenError::NoKey(_))));
    assert!(matches!(check(&[]), Err(TokenError::NoKey(_))));
    assert_eq!(check(&[other.jwk("")]), Err(TokenError::Signature));
    // And a token that names a key is not served by a nameless one.
    let named = mine.compact(Algorithm::ES256, HEADER, &payload(""));
    let refusal = Token::parse(&named)
        .expect("sound")
        .verify(&set(&[mine.jwk("")]), &rules(), NOW);
    assert_eq!(refusal, Err(TokenError::UnknownKid));
}

/// S-30: a JWT-SVID need not name its key, also while a bundle holds several; each that fits is tried.
#[test]
fn a_jwt_svid_without_kid_is_of_any_key_that_fits() {
    let pairs: Vec<Pair> = (0..17).map(|_| Pair::new(Algorithm::ES256)).collect();
    let jwk = |n: usize| pairs[n].jwk(&format!(r#""use":"jwt-svid","kid":"{n}""#));
    let bundle = |count: usize| {
        let mut jwks: Vec<String> = (0..count).map(jwk).collect();
        jwks.push(Pair::shared(Algorithm::RS256).jwk(r#""use":"jwt-svid","kid":"r""#));
        KeySet::parse(document(&jwks).as_bytes(), &KeyPolicy::JWT_SVID).expect("a set")
    };
    let rules = Rules {
        algorithms: Algorithms::JWT_SVID,
        types: TokenTypes::svid(),
        ..rules()
    };
    let check = |keys: &KeySet, signer: &Pair, header: &str| {
        let token = signer.compact(Algorithm::ES256, header, &payload(""));
        Token::parse(&token)
            .and_then(|token| token.verify(keys, &rules, NOW))
            .map(|verified| verified.key)
            .map_err(|error| error.label())
    };
    let (keys, nameless) = (bundle(16), r#"{"alg":"ES256"}"#);
    let mut used = std::collections::HashSet::new();
    for pair in pairs.iter().take(16) {
        used.insert(check(&keys, pair, nameless).expect("one of the keys"));
    }
    assert_eq!(used.len(), 16, "each token by its own key");
    assert_eq!(
        check(&keys, &pairs[16], nameless),
        Err("bad_sig"),
        "no key of the bundle"
    );
    for name in ["unknown", "", "1"] {
        let refused = check(&keys, &pairs[0], &format!(r#"{{"alg":"ES256","kid":"{name}"}}"#));
        assert!(
            matches!(refused, Err("unknown_kid" | "bad_sig")),
            "a name is binding: {name} {refused:?}"
        );
    }
    assert_eq!(
        check(&bundle(17), &pairs[0], nameless),
        Err("no_key"),
        "what one token may cost is bounded"
    );
    let named = check(&bundle(17), &pairs[0], r#"{"alg":"ES256","kid":"0"}"#);
    assert!(named.is_ok(), "and one that names its key is not");
}

#[test]
fn j7_j8_extensions_are_refused() {
    for more in [
        r#","crit":["exp"]"#,
        r#","crit":[]"#,
        r#","crit":null"#,
        r#","crit":["x"],"x":1"#,
        r#","crit":["b64"],"b64":false"#,
        r#","b64":false"#,
        r#","b64":true"#,
        r#","cty":"JWT""#,
        r#","enc":"A128GCM""#,
        r#","zip":"DEF""#,
        r#","typ":7"#,
        r#","typ":null"#,
    ] {
        assert_eq!(label(&header(more), &payload("")), "bad_header", "{more}");
    }
    assert_eq!(
        label(
            &header(r#","x5t":"abc","nonce":"n","unknown":{"a":[1]}"#),
            &payload("")
        ),
        "ok"
    );
}

#[test]
fn j9_typ_is_of_the_configured_set() {
    for typ in [
        "JWT",
        "jwt",
        "at+jwt",
        "AT+JWT",
        "application/at+jwt",
        "Application/JWT",
    ] {
        assert_eq!(
            label(&header(&format!(r#","typ":"{typ}""#)), &payload("")),
            "ok",
            "{typ}"
        );
    }
    for typ in [
        "dpop+jwt",
        "secevent+jwt",
        "logout+jwt",
        "foo",
        "",
        "JOSE",
        "text/jwt",
        "application/",
        "JWT ",
        "é",
    ] {
        assert_eq!(
            label(&header(&format!(r#","typ":"{typ}""#)), &payload("")),
            "bad_header",
            "{typ}"
        );
    }
    let access = Rules {
        types: TokenTypes::access(),
        ..rules()
    };
    let check = |more: &str| {
        let token = Pair::shared(Algorithm::ES256).compact(Algorithm::ES256, &header(more), &payload(""));
        Token::parse(&token)
            .expect("sound")
            .verify(&keys(), &access, NOW)
            .map(|_| ())
    };
    assert_eq!(check(r#","typ":"at+jwt""#), Ok(()));
    assert_eq!(check(""), Err(TokenError::Header("typ")));
    assert_eq!(
        check(r#","typ":"JWT""#),
        Err(TokenError::Header("typ")),
        "an ID token is no access token"
    );
}

#[test]
fn j11_exp_is_a_time_to_come() {
    let cases = [
        (None, "bad_claim"),
        (Some("null"), "bad_claim"),
        (Some("\"1900000000\""), "bad_claim"),
        (Some("[1900000000]"), "bad_claim"),
        (Some("true"), "bad_claim"),
        (Some("-1"), "bad_claim"),
        (Some("-1e9"), "bad_claim"),
        (Some("1e30"), "bad_claim"),
        (Some("9223372036854775807"), "bad_claim"),
        (Some("253402300800"), "bad_claim"),
        (Some("253402300799"), "ok"),
        (Some("1e400"), "malformed"),
        (Some("NaN"), "malformed"),
        (Some("18446744073709551615"), "bad_claim"),
        (Some("18446744073709551616"), "bad_claim"),
        (Some("0"), "expired"),
        (Some("1.8e9"), "ok"),
    ];
    for (value, expected) in cases {
        assert_eq!(label(HEADER, &claim("exp", value)), expected, "{value:?}");
    }
    let at = |exp: String, now: i64| {
        let token =
            Pair::shared(Algorithm::ES256).compact(Algorithm::ES256, HEADER, &claim("exp", Some(&exp)));
        verify_at(&token, now)
            .map(|verified| verified.claims.times.exp)
            .map_err(|refusal| refusal.label())
    };
    // On its second it has expired, and leeway moves that second.
    assert_eq!(at(NOW.to_string(), NOW + 4), Ok(NOW));
    assert_eq!(at(NOW.to_string(), NOW + 5), Err("expired"));
    assert_eq!(at(NOW.to_string(), NOW + 6), Err("expired"));
    assert_eq!(at(format!("{NOW}.999"), NOW + 4), Ok(NOW), "floats are floored");
    assert_eq!(at(format!("{NOW}.999"), NOW + 5), Err("expired"));
}

#[test]
fn j12_nbf_and_iat_are_not_to_come() {
    let future = (NOW + 6).to_string();
    let just = (NOW + 5).to_string();
    assert_eq!(label(HEADER, &claim("nbf", Some(&future))), "not_yet_valid");
    assert_eq!(label(HEADER, &claim("nbf", Some(&just))), "ok");
    assert_eq!(label(HEADER, &claim("iat", Some(&future))), "issued_in_future");
    assert_eq!(label(HEADER, &claim("iat", Some(&just))), "ok");
    for name in ["nbf", "iat"] {
        for value in ["null", "\"0\"", "[]", "-5", "1e20"] {
            assert_eq!(
                label(HEADER, &claim(name, Some(value))),
                "bad_claim",
                "{name} {value}"
            );
        }
    }
}

#[test]
fn j13_aud_names_us() {
    let cases = [
        (None, "bad_claim"),
        (Some("5"), "bad_claim"),
        (Some("null"), "bad_claim"),
        (Some(r#"{"a":"shop"}"#), "bad_claim"),
        (Some("[]"), "bad_claim"),
        (Some(r#"["shop",1]"#), "bad_claim"),
        (Some(r#"[["shop"]]"#), "bad_claim"),
        (Some(r#""other""#), "wrong_aud"),
        (Some(r#""Shop""#), "wrong_aud"),
        (Some(r#""shop ""#), "wrong_aud"),
        (Some(r#""""#), "wrong_aud"),
        (Some(r#"["other","shopping"]"#), "wrong_aud"),
        (Some(r#"["other","shop"]"#), "ok"),
    ];
    for (value, expected) in cases {
        assert_eq!(label(HEADER, &claim("aud", value)), expected, "{value:?}");
    }
    let token = Pair::shared(Algorithm::ES256).compact(Algorithm::ES256, HEADER, &payload(""));
    let nobody = Rules {
        audiences: Vec::new(),
        ..rules()
    };
    let refusal = Token::parse(&token).expect("sound").verify(&keys(), &nobody, NOW);
    assert_eq!(
        refusal,
        Err(Recipient::Audience.into()),
        "no audience configured accepts nothing"
    );
}

#[test]
fn iss_and_sub_are_exact_strings() {
    let cases = [
        ("iss", None, "bad_claim"),
        ("iss", Some("7"), "bad_claim"),
        (
            "iss",
            Some(r#"["https://idp.example","https://evil.example"]"#),
            "bad_claim",
        ),
        ("iss", Some(r#""https://idp.example/""#), "wrong_iss"),
        ("iss", Some(r#""https://IDP.example""#), "wrong_iss"),
        ("iss", Some(r#""""#), "wrong_iss"),
        ("sub", None, "bad_claim"),
        ("sub", Some("7"), "bad_claim"),
        ("sub", Some("null"), "bad_claim"),
        ("sub", Some(r#""""#), "bad_claim"),
        ("sub", Some(r#""a\r\nx-user: root""#), "bad_claim"),
        ("sub", Some(r#""\u0000""#), "bad_claim"),
        ("sub", Some(r#""Ünïcode|user@example""#), "ok"),
    ];
    for (name, value, expected) in cases {
        assert_eq!(label(HEADER, &claim(name, value)), expected, "{name} {value:?}");
    }
}

#[test]
fn a_claim_twice_is_refused() {
    for more in [
        r#","exp":9"#,
        r#","aud":"x""#,
        r#","roles":["a"],"roles":["admin"]"#,
        r#","r":{"a":1,"a":2}"#,
    ] {
        assert_eq!(label(HEADER, &payload(more)), "malformed", "{more}");
    }
    assert_eq!(
        label(r#"{"alg":"ES256","kid":"k","alg":"ES256"}"#, &payload("")),
        "malformed"
    );
    assert_eq!(
        label(r#"{"alg":"none","kid":"k","alg":"ES256"}"#, &payload("")),
        "malformed"
    );
    assert_eq!(
        label(&header(r#","jwk":{"kty":"EC","kty":"oct"}"#), &payload("")),
        "malformed"
    );
}

#[test]
fn j16_only_the_one_compact_spelling() {
    let token = Pair::shared(Algorithm::ES256).compact(Algorithm::ES256, HEADER, &payload(""));
    assert_eq!(label_of(&token), "ok");
    let parts: Vec<&str> = token.split('.').collect();
    let (head, body, sig) = (parts[0], parts[1], parts[2]);
    for wrong in [
        format!("{head}.{body}.{sig}."),
        format!(".{head}.{body}.{sig}"),
        format!("{head}.{body}"),
        format!("{head}..{body}.{sig}"),
        format!("{head}.{body}.{sig}.{sig}.{sig}"),
        format!("{head}.{body}.{sig}="),
        format!("{head}=.{body}.{sig}"),
        format!("{head}.{body}==.{sig}"),
        format!(" {token}"),
        format!("{token} "),
        format!("{token}\n"),
        format!("{head}. {body}.{sig}"),
        format!("{head}.{body}.{}+", sig.split_at(sig.len() - 1).0),
        format!("{head}.{body}.{}/", sig.split_at(sig.len() - 1).0),
        String::new(),
        "..".to_owned(),
        ".".to_owned(),
        format!(r#"{{"protected":"{head}","payload":"{body}","signature":"{sig}"}}"#),
    ] {
        assert_eq!(label_of(&wrong), "malformed", "{wrong}");
    }
    // 64 bytes leave two bits of the last of 86 characters unused: only zero is canonical.
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet
        .iter()
        .position(|c| *c == sig.as_bytes()[85])
        .expect("base64url");
    let twin = char::from(alphabet[last + 1]);
    assert_eq!(
        label_of(&format!("{head}.{body}.{}{twin}", sig.split_at(85).0)),
        "malformed"
    );
    // Bytes after the JSON, or JSON that is no object.
    assert_eq!(label(&format!("{HEADER} {{}}"), &payload("")), "malformed");
    assert_eq!(label(HEADER, &format!("{}x", payload(""))), "malformed");
    for no_object in ["[]", "1", "\"x\"", "null", ""] {
        assert_eq!(label(no_object, &payload("")), "malformed", "{no_object}");
        assert_eq!(label(HEADER, no_object), "malformed", "{no_object}");
    }
}

#[test]
fn j17_sizes_are_bounded() {
    let filled = |n: usize| {
        Pair::shared(Algorithm::ES256).compact(
            Algorithm::ES256,
            HEADER,
            &payload(&format!(r#","x":"{}""#, "a".repeat(n))),
        )
    };
    let fits = filled(5_700);
    assert!(
        fits.len() <= MAX_TOKEN_BYTES && fits.len() > 7_800,
        "{}",
        fits.len()
    );
    assert_eq!(label_of(&fits), "ok");
    assert_eq!(label_of(&filled(7_000)), "oversized");
    assert_eq!(label_of(&"a".repeat(MAX_TOKEN_BYTES + 1)), "oversized");
    assert_eq!(label_of(&filled(100_000)), "oversized");
    let deep = |n: usize| payload(&format!(r#","x":{}{}"#, "[".repeat(n), "]".repeat(n)));
    assert_eq!(label(HEADER, &deep(15)), "ok");
    assert_eq!(label(HEADER, &deep(16)), "malformed");
    assert_eq!(label(HEADER, &deep(2_000)), "malformed");
    assert_eq!(
        label(&header(&format!(r#","x":"{}""#, "a".repeat(1_000))), &payload("")),
        "oversized"
    );
    let roles: Vec<String> = (0..100_000).map(|n| format!("\"r{n}\"")).collect();
    assert_eq!(
        label(HEADER, &payload(&format!(r#","roles":[{}]"#, roles.join(",")))),
        "oversized"
    );
}

#[test]
fn errors_hold_nothing_of_the_token() {
    let secret = "Zm9vYmFyc2VjcmV0";
    for token in [
        format!("{secret}.{secret}.{secret}"),
        format!("{secret}.{secret}"),
        Pair::shared(Algorithm::ES256).compact(
            Algorithm::ES256,
            &header(r#","crit":["topsecret"]"#),
            &payload(""),
        ),
        Pair::shared(Algorithm::ES256).compact(
            Algorithm::ES256,
            HEADER,
            &claim("iss", Some("\"topsecret\"")),
        ),
        Pair::new(Algorithm::ES256).compact(Algorithm::ES256, HEADER, &claim("sub", Some("\"topsecret\""))),
    ] {
        let refusal = verify_at(&token, NOW).expect_err("refused");
        let shown = format!("{refusal} {refusal:?}");
        assert!(!shown.contains("secret") && !shown.contains(secret), "{shown}");
        assert!(TokenError::LABELS.contains(&refusal.label()));
    }
    let token = Pair::shared(Algorithm::ES256).compact(
        Algorithm::ES256,
        HEADER,
        &claim("sub", Some("\"topsecret\"")),
    );
    assert!(!format!("{:?}", Token::parse(&token)).contains("secret"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_token_never_verifies(
        algorithm in prop::sample::select(&Algorithm::ALL[..]), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let pair = Pair::shared(algorithm);
        let keys = set(&[pair.jwk(r#""kid":"k""#)]);
        let token = pair.compact(algorithm, &format!(r#"{{"alg":"{algorithm}","kid":"k"}}"#), &payload(""));
        let mut changed = token.clone().into_bytes();
        let at = at.index(changed.len());
        changed[at] = byte;
        if let Ok(changed) = String::from_utf8(changed) {
            let accepted = Token::parse(&changed).and_then(|t| t.verify(&keys, &rules(), NOW)).is_ok();
            prop_assert_eq!(accepted, changed == token);
        }
    }

    #[test]
    fn a_token_cut_or_lengthened_never_verifies(cut in any::<prop::sample::Index>(), tail in "[A-Za-z0-9_.=-]{1,8}") {
        let token = Pair::shared(Algorithm::ES256).compact(Algorithm::ES256, HEADER, &payload(""));
        prop_assert_ne!(label_of(token.split_at(cut.index(token.len())).0), "ok");
        prop_assert_ne!(label_of(&format!("{token}{tail}")), "ok");
    }

    #[test]
    fn no_input_panics(text in any::<String>(), shaped in r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,90}") {
        prop_assert_ne!(label_of(&text), "ok");
        prop_assert_ne!(label_of(&shaped), "ok");
    }

    #[test]
    fn no_header_and_no_payload_panics(header in r#"\{"alg":"[EHn]S?[0-9a-z]{0,4}"[,:{}\[\]"a-z0-9]{0,40}\}"#,
        claims in r#"\{("(iss|aud|exp|sub|nbf)":["a-z0-9\[\]{}.e-]{0,12},?){0,5}\}"#) {
        label(&header, &payload(""));
        label(HEADER, &claims);
    }
}
