//! Our verifier beside `jsonwebtoken`: the same tokens, generated and mutated, every difference listed with its reason. One that is not
//! listed fails.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Map, Value, json};

use crate::testing::{ISSUER, Pair, rules, set};
use crate::{Algorithm, KeySet, Token};

type Object = Map<String, Value>;

/// Something done to a token: its header and its claims before they are signed, or its text afterwards.
enum Do {
    Header(&'static str, fn() -> Value),
    Claim(&'static str, fn(i64) -> Value),
    /// Takes a claim, or a member of the header (`.name`), out.
    Without(&'static str),
    /// Puts this text at the beginning of the claims' JSON, or (second) of the header's.
    Doubled(&'static str, &'static str),
    /// Of the signed text.
    Text(fn(&str) -> String),
}

/// Why the two may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    /// They do not.
    Same,
    /// We refuse what they accept. Nothing is listed the other way round.
    Stricter(&'static str),
}
use Do::{Claim, Doubled, Header, Text, Without};
use Listed::{Same, Stricter};

/// Every mutation, and what is intended about it.
fn mutations() -> Vec<&'static Mutation> {
    [HEADERS, CLAIMS, TEXTS].into_iter().flatten().collect()
}

/// A name, what is done, and what is intended about it.
type Mutation = (&'static str, Do, Listed);

const HEADERS: &[Mutation] = &[
    ("nothing", Header("extra", || json!(1)), Same),
    ("alg none", Header("alg", || json!("none")), Same),
    ("alg of a secret", Header("alg", || json!("HS256")), Same),
    ("alg in lower case", Header("alg", || json!("es256")), Same),
    ("alg of another hash", Header("alg", || json!("ES384")), Same),
    ("alg that is no text", Header("alg", || json!(5)), Same),
    ("no alg", Without(".alg"), Same),
    (
        "crit",
        Header("crit", || json!(["x"])),
        Stricter("RFC 7515 4.1.11: an extension that is not understood"),
    ),
    (
        "b64",
        Header("b64", || json!(false)),
        Stricter("RFC 7797: the payload would be another"),
    ),
    (
        "cty",
        Header("cty", || json!("JWT")),
        Stricter("RFC 7519 5.2: a nested token"),
    ),
    (
        "typ of a proof",
        Header("typ", || json!("dpop+jwt")),
        Stricter("RFC 8725 3.11: another kind of token"),
    ),
    (
        "typ of nothing",
        Header("typ", || json!("foo")),
        Stricter("RFC 8725 3.11: another kind of token"),
    ),
    ("typ of an access token", Header("typ", || json!("at+jwt")), Same),
    (
        "typ in long form",
        Header("typ", || json!("application/at+jwt")),
        Same,
    ),
    ("typ that is no text", Header("typ", || json!(5)), Same),
    ("no kid", Without(".kid"), Same),
    (
        "another kid",
        Header("kid", || json!("other")),
        Stricter("they are given one key and do not look at kid"),
    ),
    ("kid that is no text", Header("kid", || json!(7)), Same),
    (
        "a long kid",
        Header("kid", || json!("k".repeat(300))),
        Stricter("a bound on kid"),
    ),
    ("jku", Header("jku", || json!("https://evil.example")), Same),
    ("x5u", Header("x5u", || json!("https://evil.example")), Same),
    (
        "enc",
        Header("enc", || json!("A128GCM")),
        Stricter("RFC 7516: an encrypted token"),
    ),
    (
        "zip",
        Header("zip", || json!("DEF")),
        Stricter("RFC 7516: a compressed token"),
    ),
    (
        "a large header",
        Header("pad", || json!("x".repeat(1100))),
        Stricter("a bound on the header"),
    ),
    ("alg twice", Doubled("", "\"alg\":\"none\","), Same),
    (
        "an unknown member twice",
        Doubled("", "\"extra\":1,\"extra\":2,"),
        Stricter("RFC 8725 2.4: a name that is there twice has two meanings"),
    ),
];

const CLAIMS: &[Mutation] = &[
    ("a claim more", Claim("x", |_| json!({"a": [1, 2.5, null]})), Same),
    ("no exp", Without("exp"), Same),
    (
        "exp as text",
        Claim("exp", |now| json!((now + 600).to_string())),
        Same,
    ),
    ("exp null", Claim("exp", |_| json!(null)), Same),
    ("exp negative", Claim("exp", |_| json!(-1)), Same),
    ("exp past", Claim("exp", |now| json!(now - 60)), Same),
    ("exp within the leeway", Claim("exp", |now| json!(now - 1)), Same),
    (
        "exp with a fraction",
        Claim("exp", |now| json!(now as f64 + 600.5)),
        Same,
    ),
    (
        "exp past the year 9999",
        Claim("exp", |_| json!(1_000_000_000_000_i64)),
        Stricter("a token for ever is a mistake"),
    ),
    ("exp true", Claim("exp", |_| json!(true)), Same),
    ("nbf to come", Claim("nbf", |now| json!(now + 600)), Same),
    ("nbf within the leeway", Claim("nbf", |now| json!(now + 2)), Same),
    ("nbf as text", Claim("nbf", |_| json!("now")), Same),
    ("nbf null", Claim("nbf", |_| json!(null)), Same),
    (
        "iat to come",
        Claim("iat", |now| json!(now + 600)),
        Stricter("RFC 7519 4.1.6: issued tomorrow is forged or mistaken"),
    ),
    (
        "iat as text",
        Claim("iat", |_| json!("now")),
        Stricter("RFC 7519 4.1.6: a number"),
    ),
    ("no iat", Without("iat"), Same),
    ("no aud", Without("aud"), Same),
    ("aud of another", Claim("aud", |_| json!("another")), Same),
    ("aud a number", Claim("aud", |_| json!(5)), Same),
    ("aud an object", Claim("aud", |_| json!({})), Same),
    ("aud nothing", Claim("aud", |_| json!([])), Same),
    ("aud a list", Claim("aud", |_| json!(["another", "shop"])), Same),
    (
        "aud a list with a number",
        Claim("aud", |_| json!(["shop", 1])),
        Same,
    ),
    ("aud null", Claim("aud", |_| json!(null)), Same),
    ("no iss", Without("iss"), Same),
    (
        "iss of another",
        Claim("iss", |_| json!("https://evil.example")),
        Same,
    ),
    (
        "iss with a slash",
        Claim("iss", |_| json!(format!("{ISSUER}/"))),
        Same,
    ),
    ("iss a number", Claim("iss", |_| json!(7)), Same),
    (
        "iss a list with ours",
        Claim("iss", |_| json!(["https://evil.example", ISSUER])),
        Stricter("RFC 7519 4.1.1: one issuer"),
    ),
    ("no sub", Without("sub"), Same),
    ("sub a number", Claim("sub", |_| json!(7)), Same),
    (
        "sub empty",
        Claim("sub", |_| json!("")),
        Stricter("nobody is no user"),
    ),
    (
        "sub with control characters",
        Claim("sub", |_| json!("a\nb")),
        Stricter("it goes into headers and logs"),
    ),
    (
        "roles twice",
        Doubled("\"roles\":[\"a\"],\"roles\":[\"b\"],", ""),
        Stricter("RFC 8725 2.4: a name that is there twice has two meanings"),
    ),
    ("exp twice", Doubled("\"exp\":1,", ""), Same),
    ("sub twice", Doubled("\"sub\":\"root\",", ""), Same),
    (
        "too deep",
        Claim("deep", |_| (0..40).fold(json!(1), |inner, _| json!([inner]))),
        Stricter("a bound on depth"),
    ),
    (
        "too large",
        Claim("pad", |_| json!("x".repeat(9000))),
        Stricter("a bound on size"),
    ),
];

const TEXTS: &[Mutation] = &[
    ("padding", Text(|token| format!("{token}=")), Same),
    ("a fourth part", Text(|token| format!("{token}.AA")), Same),
    ("an empty part", Text(|token| token.replacen('.', "..", 1)), Same),
    ("white space behind", Text(|token| format!("{token} ")), Same),
    ("white space before", Text(|token| format!(" {token}")), Same),
    (
        "no signature",
        Text(|token| format!("{}.", token.rsplit_once('.').map_or("", |(signed, _)| signed))),
        Same,
    ),
    ("a longer signature", Text(|token| format!("{token}AAAA")), Same),
    (
        "other bits behind the last byte",
        Text(|token| {
            let mut bytes = token.as_bytes().to_vec();
            if let Some(last) = bytes.last_mut() {
                *last = if *last == b'A' { b'B' } else { *last + 1 };
            }
            String::from_utf8_lossy(&bytes).into_owned()
        }),
        Same,
    ),
    (
        "standard base64",
        Text(|token| token.replace('-', "+").replace('_', "/")),
        Same,
    ),
    (
        "two parts",
        Text(|token| token.split_once('.').map_or("", |(_, rest)| rest).to_owned()),
        Same,
    ),
    ("nothing at all", Text(|_| String::new()), Same),
];

struct Both {
    algorithm: Algorithm,
    keys: KeySet,
    theirs: DecodingKey,
    validation: Validation,
}

impl Both {
    fn new(algorithm: Algorithm) -> Self {
        let pair = Pair::shared(algorithm);
        let jwk = pair.jwk(r#""kid":"k""#);
        let parsed: jsonwebtoken::jwk::Jwk = serde_json::from_str(&jwk).expect("their JWK");
        let mut validation = Validation::new(algorithm.name().parse().expect("their algorithm"));
        validation.set_audience(&["shop"]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        // The same clocks: theirs is 60 seconds unless told.
        validation.leeway = 5;
        Self {
            algorithm,
            keys: set(&[jwk]),
            theirs: DecodingKey::from_jwk(&parsed).expect("their key"),
            validation,
        }
    }

    /// A token with these mutations, signed after those that come before signing.
    fn token(&self, mutations: &[&Do], now: i64) -> String {
        let mut header = object(json!({"alg": self.algorithm.name(), "typ": "JWT", "kid": "k"}));
        let mut claims =
            object(json!({"iss": ISSUER, "sub": "alice", "aud": "shop", "exp": now + 600, "iat": now - 1}));
        let (mut first_claim, mut first_header) = (String::new(), String::new());
        for mutation in mutations {
            match mutation {
                Header(name, value) => drop(header.insert((*name).to_owned(), value())),
                Claim(name, value) => drop(claims.insert((*name).to_owned(), value(now))),
                Without(name) => drop(match name.strip_prefix('.') {
                    Some(name) => header.remove(name),
                    None => claims.remove(*name),
                }),
                Doubled(claim, member) => {
                    first_claim += claim;
                    first_header += member;
                }
                Text(_) => {}
            }
        }
        let text = |object: Object, first: &str| {
            Value::Object(object)
                .to_string()
                .replacen('{', &format!("{{{first}"), 1)
        };
        let signed = Pair::shared(self.algorithm).compact(
            self.algorithm,
            &text(header, &first_header),
            &text(claims, &first_claim),
        );
        mutations.iter().fold(signed, |token, mutation| match mutation {
            Text(change) => change(&token),
            _ => token,
        })
    }

    /// Whether we, and whether they accept it.
    fn verdicts(&self, token: &str, now: i64) -> (bool, bool) {
        let ours = Token::parse(token)
            .and_then(|token| token.verify(&self.keys, &rules(), now))
            .is_ok();
        let theirs = jsonwebtoken::decode::<Value>(token, &self.theirs, &self.validation).is_ok();
        (ours, theirs)
    }
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => panic!("{other}"),
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("a time")
}

#[test]
fn every_difference_to_jsonwebtoken_is_intended() {
    let mutations = mutations();
    let mut wrong = Vec::new();
    for algorithm in [
        Algorithm::ES256,
        Algorithm::RS256,
        Algorithm::PS512,
        Algorithm::EdDSA,
    ] {
        let both = Both::new(algorithm);
        for (name, mutation, listed) in &mutations {
            let now = now();
            let found = match both.verdicts(&both.token(&[mutation], now), now) {
                (false, true) => "stricter",
                (true, false) => "looser",
                _ => "same",
            };
            let expected = match listed {
                Same => "same",
                Stricter(_) => "stricter",
            };
            if found != expected {
                wrong.push(format!("{algorithm}: {name}: listed {listed:?}, found {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Several mutations at once, and bytes changed at random: they differ only where a listed mutation explains it.
#[test]
fn random_tokens_differ_only_as_listed() {
    let mutations = mutations();
    let both = Both::new(Algorithm::ES256);
    let seed = now().unsigned_abs();
    let mut state = seed | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("small")
    };
    let (mut accepted, mut differed) = (0, 0);
    for _ in 0..6000 {
        let picked: Vec<_> = (0..next(4)).map(|_| &mutations[next(mutations.len())]).collect();
        let now = now();
        let mut token = both.token(
            &picked.iter().map(|(_, mutation, _)| mutation).collect::<Vec<_>>(),
            now,
        );
        let flipped = next(3) == 0 && !token.is_empty();
        if flipped {
            let at = next(token.len());
            let bytes = b"ABCxyz019-_.=+/ {}\"";
            token.replace_range(at..=at, &char::from(bytes[next(bytes.len())]).to_string());
        }
        let (ours, theirs) = both.verdicts(&token, now);
        accepted += usize::from(ours);
        if ours == theirs {
            continue;
        }
        differed += 1;
        let names: Vec<_> = picked.iter().map(|(name, _, _)| *name).collect();
        assert!(
            !ours && picked.iter().any(|(_, _, listed)| matches!(listed, Stricter(_))),
            "seed {seed}: {names:?}: we {ours}, they {theirs}: {token}"
        );
    }
    assert!(
        accepted > 500 && differed > 200,
        "seed {seed}: {accepted} accepted, {differed} differed"
    );
}
