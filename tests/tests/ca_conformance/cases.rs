//! The table: a question, who cannot ask it, and the one answer. Items of the specification are named as in the project's
//! list of them.

use hopguard_tests::eventually;
use serde_json::{Value, json};

use crate::drivers::{ALL, Client};
use crate::support::*;
use crate::tokens::{Forge, part, stranger, unix_now};

const ORDERS: &str = "spiffe://mesh.local/ns/shop/sa/orders";
const SECOND: &str = "spiffe://mesh.local/second";

/// What must come back.
enum Expect {
    /// This status.
    Status(&'static str),
    /// Something of which this holds.
    Said(fn(&Value) -> bool),
}

struct Case {
    name: String,
    question: Value,
    expect: Expect,
    /// Libraries whose types do not let them ask it.
    cannot: &'static [Client],
}

fn case(name: impl Into<String>, question: Value, expect: Expect) -> Case {
    Case {
        name: name.into(),
        question,
        expect,
        cannot: &[],
    }
}

/// A question that only a call put together by hand can ask.
fn bare(name: impl Into<String>, method: &str, headers: &[(&str, &str)], status: &'static str) -> Case {
    Case {
        name: name.into(),
        question: json!({"do": "bare", "method": method, "headers": headers}),
        expect: Expect::Status(status),
        cannot: &[Client::Crate],
    }
}

fn two_identities() -> String {
    for_us("ns/shop/sa/orders") + "hint = \"internal\"\n" + &for_us("second") + "hint = \"external\"\n"
}

/// Asks everything of everybody, and lists all that went wrong at once.
fn run(endpoint: &str, cases: &[Case]) {
    let mut wrong = Vec::new();
    for client in ALL {
        let mut driver = client.connect(endpoint);
        for case in cases {
            let said = driver.ask(&case.question);
            let right = match (case.cannot.contains(&client), &case.expect) {
                (true, _) => said["client"].is_string(),
                (false, Expect::Status(status)) => said["status"] == *status,
                (false, Expect::Said(holds)) => {
                    said["status"].is_null() && said["client"].is_null() && holds(&said)
                }
            };
            if !right {
                wrong.push(format!("{client:?}: {}: {said}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// S-21 to S-26, S-41 to S-43, S-47 to S-52: what is fetched.
#[test]
fn every_client_fetches_the_same() {
    let authority = Authority::start(&two_identities());
    let jwt = |audience: &[&str], id: Value| json!({"do": "jwt_svids", "audience": audience, "id": id});
    run(
        &authority.endpoint(),
        &[
            // S-47: the order is that of the entries; S-49: each with its chain and key, or no client would read it.
            case(
                "all X.509-SVIDs",
                json!({"do": "x509_svids"}),
                Expect::Said(|said| {
                    said["ids"] == json!([ORDERS, SECOND]) && said["serials"][0] != said["serials"][1]
                }),
            ),
            // S-50
            case(
                "X.509 bundles",
                json!({"do": "x509_bundles", "domain": "mesh.local"}),
                Expect::Said(|said| {
                    said["domains"] == json!(["spiffe://mesh.local"]) && said["keys"][0].as_u64() >= Some(1)
                }),
            ),
            // S-52: without an ID all of them.
            case(
                "all JWT-SVIDs",
                jwt(&["db"], Value::Null),
                Expect::Said(|said| {
                    said["ids"] == json!([ORDERS, SECOND]) && tokens(said).iter().all(|token| ordinary(token))
                }),
            ),
            // As some libraries ask: by their call for the default identity.
            case(
                "the first JWT-SVID",
                json!({"do": "jwt_svids", "audience": ["db"], "first": true}),
                Expect::Said(|said| said["ids"][0] == ORDERS && ordinary(&tokens(said)[0])),
            ),
            case(
                "one JWT-SVID",
                jwt(&["db"], json!(SECOND)),
                Expect::Said(|said| {
                    said["ids"] == json!([SECOND]) && tokens(said).len() == 1 && ordinary(&tokens(said)[0])
                }),
            ),
            case(
                "a JWT-SVID for two",
                jwt(&["cache", "db"], json!(ORDERS)),
                Expect::Said(|said| {
                    let mut audience: Vec<_> = part(&tokens(said)[0], 1)["aud"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|one| one.as_str().unwrap().to_owned())
                        .collect();
                    audience.sort();
                    audience == ["cache", "db"]
                }),
            ),
            // S-51
            case(
                "JWT bundles",
                json!({"do": "jwt_bundles", "domain": "mesh.local"}),
                Expect::Said(|said| {
                    said["domains"] == json!(["spiffe://mesh.local"])
                        && said["kids"].as_array().unwrap().len() == 1
                }),
            ),
        ],
    );
    // S-42, S-48, S-49, and what no library shows: the messages as they are.
    let mut raw = Client::Raw.connect(&authority.endpoint());
    let said = raw.ask(&json!({"do": "x509_svids"}));
    assert_eq!(
        (&said["hints"], &said["bundled"]),
        (&json!(["internal", "external"]), &json!(true))
    );
    let said = raw.ask(&jwt(&["db"], Value::Null));
    assert_eq!(said["hints"], json!(["internal", "external"]));
    let said = raw.ask(&json!({"do": "jwt_bundles"}));
    let set = &said["sets"]["spiffe://mesh.local"];
    assert_eq!(set.as_object().unwrap().len(), 1, "a standard JWK Set: {set}");
    for key in set["keys"].as_array().unwrap() {
        // S-26, S-51
        assert_eq!(key["use"], "jwt-svid", "{set}");
        assert!(
            key["kid"].is_string() && key["x5c"].is_null() && key["d"].is_null(),
            "{set}"
        );
    }
}

fn tokens(said: &Value) -> Vec<String> {
    let tokens = said["tokens"].as_array().unwrap().iter();
    tokens.map(|token| token.as_str().unwrap().to_owned()).collect()
}

/// S-21 to S-25, of one token for `db` alone.
fn ordinary(token: &str) -> bool {
    let (header, claims) = (part(token, 0), part(token, 1));
    let names: Vec<_> = header.as_object().unwrap().keys().collect();
    let life = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    names == ["alg", "kid", "typ"]
        && header["alg"] == "ES256"
        && header["typ"] == "JWT"
        && claims["aud"] == json!(["db"])
        && claims["sub"]
            .as_str()
            .unwrap()
            .starts_with("spiffe://mesh.local/")
        && claims["exp"].as_u64().unwrap() > unix_now()
        && (1..=3600).contains(&life)
}

/// S-46, S-52: what FetchJWTSVID refuses.
#[test]
fn every_bad_request_for_a_jwt_svid_is_refused() {
    let authority = Authority::start(&two_identities());
    let ask = |audience: Value, id: Value| json!({"do": "jwt_svids", "audience": audience, "id": id});
    let many: Vec<String> = (0..33).map(|n| n.to_string()).collect();
    let invalid = || Expect::Status("INVALID_ARGUMENT");
    let denied = || Expect::Status("PERMISSION_DENIED");
    let mut cases = vec![
        case("no audience", ask(json!([]), Value::Null), invalid()),
        case("an empty audience", ask(json!([""]), Value::Null), invalid()),
        case(
            "an empty audience among others",
            ask(json!(["db", ""]), Value::Null),
            invalid(),
        ),
        case("33 audiences", ask(json!(many), Value::Null), invalid()),
        case(
            "a long audience",
            ask(json!(["x".repeat(4000)]), Value::Null),
            invalid(),
        ),
        case(
            "another's identity",
            ask(json!(["db"]), json!("spiffe://mesh.local/other")),
            denied(),
        ),
        case(
            "another trust domain",
            ask(json!(["db"]), json!("spiffe://other/second")),
            denied(),
        ),
        case(
            "the trust domain",
            ask(json!(["db"]), json!("spiffe://mesh.local")),
            denied(),
        ),
    ];
    cases.push(Case {
        name: "no SPIFFE ID".to_owned(),
        question: ask(json!(["db"]), json!("not an id")),
        expect: invalid(),
        cannot: &[Client::Crate],
    });
    run(&authority.endpoint(), &cases);
}

/// S-27 to S-33, S-53: what ValidateJWTSVID believes and what not. Every token is signed with the authority's own key unless
/// it says otherwise.
#[test]
fn every_token_is_judged_the_same_through_every_client() {
    let authority = Authority::start(&two_identities());
    let mut raw = Client::Raw.connect(&authority.endpoint());
    let fetched = raw.ask(&json!({"do": "jwt_svids", "audience": ["db"], "id": ORDERS}));
    let good = tokens(&fetched)[0].clone();
    let forge = Forge::of(&authority, &good);
    let validate = |token: &str| json!({"do": "validate", "audience": "db", "token": token});
    let believed = || {
        Expect::Said(|said| {
            said["id"] == ORDERS && (said["claims"].is_null() || said["claims"]["aud"].as_array().is_some())
        })
    };
    let header = |changes: Value| forge.token(&changes, &json!({}));
    let claims = |changes: Value| forge.token(&json!({}), &changes);
    let mut cases = vec![
        case("the authority's own", validate(&good), believed()),
        case(
            "the test's, with its key",
            validate(&header(json!({}))),
            believed(),
        ),
        case("typ JOSE", validate(&header(json!({"typ": "JOSE"}))), believed()),
        case("no typ", validate(&header(json!({"typ": null}))), believed()),
        case(
            "aud as a string",
            validate(&claims(json!({"aud": "db"}))),
            believed(),
        ),
        case(
            "aud for several",
            validate(&claims(json!({"aud": ["x", "db"]}))),
            believed(),
        ),
        case(
            "more claims",
            validate(&claims(json!({"iss": "https://x", "n": {"a": [1, null, true]}}))),
            believed(),
        ),
    ];
    // The crate of this version does not read a token that names no key; the server believed it (S-30).
    cases.push(Case {
        name: "no kid".to_owned(),
        question: validate(&header(json!({"kid": null}))),
        expect: believed(),
        cannot: &[Client::Crate],
    });
    let now = unix_now();
    let refused = [
        ("alg none", header(json!({"alg": "none"}))),
        ("alg HS256", header(json!({"alg": "HS256"}))),
        ("alg EdDSA", header(json!({"alg": "EdDSA"}))),
        ("alg of another key", header(json!({"alg": "ES384"}))),
        ("alg of another family", header(json!({"alg": "RS256"}))),
        ("no alg", header(json!({"alg": null}))),
        ("an unknown kid", header(json!({"kid": "unknown"}))),
        ("typ at+jwt", header(json!({"typ": "at+jwt"}))),
        ("typ wit+jwt", header(json!({"typ": "wit+jwt"}))),
        ("crit", header(json!({"crit": ["exp"]}))),
        ("b64", header(json!({"b64": false}))),
        ("no aud", claims(json!({"aud": null}))),
        ("an empty aud", claims(json!({"aud": []}))),
        ("another's aud", claims(json!({"aud": ["other"]}))),
        ("no exp", claims(json!({"exp": null}))),
        ("exp as a string", claims(json!({"exp": (now + 300).to_string()}))),
        ("expired", claims(json!({"exp": now - 60}))),
        ("nbf to come", claims(json!({"nbf": now + 120}))),
        ("iat to come", claims(json!({"iat": now + 120}))),
        ("no sub", claims(json!({"sub": null}))),
        (
            "sub of another trust domain",
            claims(json!({"sub": "spiffe://other/ns/shop/sa/orders"})),
        ),
        (
            "sub the trust domain",
            claims(json!({"sub": "spiffe://mesh.local"})),
        ),
        ("sub no SPIFFE ID", claims(json!({"sub": "alice"}))),
        (
            "sub not in its one form",
            claims(json!({"sub": "spiffe://MESH.local/second"})),
        ),
        (
            "another's key under the same kid",
            stranger(&good).token(&json!({}), &json!({})),
        ),
        (
            "another's key and no kid",
            stranger(&good).token(&json!({"kid": null}), &json!({})),
        ),
        (
            "a claim twice",
            forge.sign(
                r#"{"alg":"ES256"}"#,
                r#"{"sub":"spiffe://mesh.local/a","sub":"spiffe://mesh.local/b"}"#,
            ),
        ),
        ("no signature", good.rsplit_once('.').unwrap().0.to_owned() + "."),
        ("two parts", good.rsplit_once('.').unwrap().0.to_owned()),
        (
            "JSON serialization",
            json!({"payload": "e30", "signatures": []}).to_string(),
        ),
        ("a changed signature", flipped(&good)),
        ("no token at all", "nonsense".to_owned()),
        ("a giant", "x".repeat(32 << 10)),
    ];
    cases.extend(
        refused
            .iter()
            .map(|(name, token)| case(*name, validate(token), Expect::Status("INVALID_ARGUMENT"))),
    );
    // S-46: both fields are mandatory.
    for (name, audience, token) in [("no audience", "", good.as_str()), ("no svid", "db", "")] {
        let question = json!({"do": "validate", "audience": audience, "token": token});
        cases.push(case(name, question, Expect::Status("INVALID_ARGUMENT")));
    }
    let question = json!({"do": "validate", "audience": "x".repeat(4000), "token": good});
    cases.push(case(
        "a giant audience",
        question,
        Expect::Status("INVALID_ARGUMENT"),
    ));
    run(&authority.endpoint(), &cases);

    // S-53: all claims come back, and aud is always a list.
    let said = raw.ask(&validate(&claims(
        json!({"aud": "db", "n": {"a": [1, null, true]}, "exp": now + 300}),
    )));
    assert_eq!(said["claims"]["aud"], json!(["db"]), "{said}");
    assert_eq!(said["claims"]["n"], json!({"a": [1.0, null, true]}), "{said}");
    assert_eq!(said["claims"]["exp"].as_f64(), Some((now + 300) as f64), "{said}");
    let other = raw.ask(&json!({"do": "validate", "audience": "DB", "token": good}));
    assert_eq!(
        other["status"], "INVALID_ARGUMENT",
        "an audience is compared as it stands"
    );
}

fn flipped(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    format!("{signed}.{first}{}", &signature[1..])
}

const METHODS: [&str; 5] = [
    "FetchX509SVID",
    "FetchX509Bundles",
    "FetchJWTSVID",
    "FetchJWTBundles",
    "ValidateJWTSVID",
];

/// S-36: before everything else, on every call. S-39: what is not in the specification is not there. S-54: calls are named
/// without a package.
#[test]
fn calls_without_the_header_and_calls_that_are_none_are_refused() {
    let authority = Authority::start(&two_identities());
    let name = "workload.spiffe.io";
    let mut cases = Vec::new();
    for method in METHODS {
        for headers in [
            &[][..],
            &[(name, "false")],
            &[(name, "True")],
            &[(name, "")],
            &[(name, "true,true")],
            &[(name, "true"), (name, "true")],
            &[(name, "true"), (name, "false")],
            &[("workload-spiffe-io", "true")],
        ] {
            cases.push(bare(
                format!("{method} with {headers:?}"),
                method,
                headers,
                "INVALID_ARGUMENT",
            ));
        }
    }
    for method in ["FetchWITSVID", "FetchWITBundles", "NoSuchMethod"] {
        cases.push(bare(method, method, &[(name, "true")], "UNIMPLEMENTED"));
    }
    run(&authority.endpoint(), &cases);
}

/// S-38: who is nobody is told so by every call.
#[test]
fn who_has_no_identity_gets_nothing() {
    let authority = Authority::start(&entry("a", &["unix:uid:4294967294".to_owned()]));
    let denied = || Expect::Status("PERMISSION_DENIED");
    run(
        &authority.endpoint(),
        &[
            case("X.509-SVIDs", json!({"do": "x509_svids"}), denied()),
            case(
                "X.509 bundles",
                json!({"do": "x509_bundles", "domain": "mesh.local"}),
                denied(),
            ),
            case(
                "JWT-SVIDs",
                json!({"do": "jwt_svids", "audience": ["db"]}),
                denied(),
            ),
            case(
                "JWT bundles",
                json!({"do": "jwt_bundles", "domain": "mesh.local"}),
                denied(),
            ),
            case(
                "a validation",
                json!({"do": "validate", "audience": "db", "token": "x.y.z"}),
                denied(),
            ),
            // S-46: what is wrong with the question is told first, as by SPIRE.
            case(
                "no audience",
                json!({"do": "jwt_svids", "audience": []}),
                Expect::Status("INVALID_ARGUMENT"),
            ),
        ],
    );
}

/// S-5: an ID of full length is served like any other, also in a token with all the audience that it may have.
#[test]
fn an_identity_of_full_length_is_served() {
    let path = format!("a/{}", "b".repeat(2048 - "spiffe://mesh.local/a/".len()));
    let id = format!("spiffe://mesh.local/{path}");
    let authority = Authority::start(&for_us(&path));
    let said = Client::Raw
        .connect(&authority.endpoint())
        .ask(&json!({"do": "x509_svids"}));
    assert_eq!(said["ids"], json!([id]));
    let longest = "\"".repeat(1534);
    let mut raw = Client::Raw.connect(&authority.endpoint());
    let said = raw.ask(&json!({"do": "jwt_svids", "audience": [longest]}));
    assert_eq!(said["ids"], json!([id]), "{said}");
    let said = raw.ask(&json!({"do": "validate", "audience": longest, "token": tokens(&said)[0]}));
    assert_eq!(said["id"], json!(id), "{said}");
}

/// S-33: the end of a token is its end, give or take the clocks' five seconds.
#[test]
fn a_token_that_ended_is_not_believed_any_more() {
    let authority = Authority::with(&two_identities(), "1h", "");
    let mut raw = Client::Raw.connect(&authority.endpoint());
    let fetched = raw.ask(&json!({"do": "jwt_svids", "audience": ["db"], "id": ORDERS}));
    let forge = Forge::of(&authority, &tokens(&fetched)[0]);
    let short = forge.token(&json!({}), &json!({"exp": unix_now() + 2}));
    let question = json!({"do": "validate", "audience": "db", "token": short});
    assert_eq!(raw.ask(&question)["id"], ORDERS);
    let ended = eventually(DEADLINE, || {
        let said = raw.ask(&question);
        if said["status"] == "INVALID_ARGUMENT" {
            Ok(said)
        } else {
            Err(said.to_string())
        }
    });
    assert!(ended.unwrap()["details"].as_str().unwrap().contains("expired"));
}
