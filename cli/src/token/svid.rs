//! What a JWT-SVID must be beyond what every token must be (SPIFFE JWT-SVID, 2 to 4). A token is taken for one when its
//! subject is a SPIFFE ID, or wants to be.

use hopguard_jose::{Algorithm, Algorithms};
use hopguard_sidecar::identity::parse_id;
use serde_json::{Map, Value};

use super::Inspected;

/// Whether the token is meant as a JWT-SVID.
pub fn is_one(claims: &Map<String, Value>) -> bool {
    let scheme = claims
        .get("sub")
        .and_then(Value::as_str)
        .and_then(|sub| sub.split_once(':'))
        .map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe"))
}

/// The longest `kid` and `typ` that are read.
const MAX_NAME: usize = 256;

fn is_type(typ: &str) -> bool {
    let (start, rest) = typ.split_at_checked("application/".len()).unwrap_or(("", typ));
    let short = match start.eq_ignore_ascii_case("application/") {
        true => rest,
        false => typ,
    };
    ["JWT", "JOSE"]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(short))
}

/// Adds what is wrong with it as a JWT-SVID.
pub fn judge(said: &mut Inspected, header: &Map<String, Value>, claims: &Map<String, Value>) {
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    if let Err(problem) = parse_id(subject) {
        said.problems
            .push(format!("`sub` is not the SPIFFE ID of a workload: {problem}"));
    }
    let algorithm = header.get("alg").and_then(Value::as_str).unwrap_or_default();
    let known = algorithm.parse::<Algorithm>();
    if known.is_ok_and(|algorithm| !Algorithms::JWT_SVID.contains(algorithm)) {
        said.problems.push(format!(
            "`alg` is {algorithm}: a JWT-SVID is signed by RS, PS or ES with 256, 384 or 512"
        ));
    }
    match header.get("typ") {
        None => {}
        // As media types are (RFC 7515, 4.1.9).
        Some(Value::String(typ)) if is_type(typ) => {}
        Some(other) => said
            .problems
            .push(format!("`typ` is {other}: a JWT-SVID has JWT, JOSE or none")),
    }
    let more: Vec<&str> = header
        .keys()
        .map(String::as_str)
        .filter(|name| !["alg", "kid", "typ", "cty"].contains(name))
        // Said already, of every token.
        .filter(|name| !["crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"].contains(name))
        .collect();
    if !more.is_empty() {
        said.warnings.push(format!(
            "the header has `{}`: a JWT-SVID's has alg, kid and typ alone, and strict verifiers refuse more",
            more.join("`, `")
        ));
    }
    forms(said, header, claims);
    if !header.contains_key("kid") {
        said.warnings
            .push("no `kid`: verifiers must try each key of the bundle, and some refuse to".to_owned());
    }
    if claims
        .get("aud")
        .and_then(Value::as_array)
        .is_some_and(|audience| audience.len() > 1)
    {
        said.warnings
            .push("it is for several audiences: each of them can use it at the others".to_owned());
    }
}

/// What is of another form than verifiers read.
fn forms(said: &mut Inspected, header: &Map<String, Value>, claims: &Map<String, Value>) {
    if header.contains_key("cty") {
        said.problems
            .push("the header has `cty`: a token in a token is never accepted".to_owned());
    }
    match header.get("kid") {
        None => {}
        Some(Value::String(kid)) if kid.len() <= MAX_NAME => {}
        Some(_) => said
            .problems
            .push(format!("`kid` is not a text of at most {MAX_NAME} bytes")),
    }
    match claims.get("aud") {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(Value::Array(all)) if all.iter().all(Value::is_string) => {}
        Some(_) => said
            .problems
            .push("`aud` is neither a text nor a list of texts".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::super::{Inspected, inspect};

    fn said(header: &str, claims: &str) -> Inspected {
        let token = format!(
            "{}.{}.c2ln",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        inspect(&token, UNIX_EPOCH + Duration::from_secs(1000)).unwrap()
    }

    const HEADER: &str = r#"{"alg":"ES256","kid":"1","typ":"JWT"}"#;

    fn claims(sub: &str) -> String {
        format!(r#"{{"sub":"{sub}","aud":["db"],"exp":1300,"iat":1000}}"#)
    }

    #[test]
    fn a_good_one_needs_no_issuer() {
        for header in [
            HEADER,
            r#"{"alg":"ES512","kid":"1"}"#,
            r#"{"alg":"PS384","kid":"1","typ":"JOSE"}"#,
            r#"{"alg":"ES256","kid":"1","typ":"jwt"}"#,
            r#"{"alg":"ES256","kid":"1","typ":"Application/jose"}"#,
        ] {
            let said = said(header, &claims("spiffe://td/a"));
            assert_eq!(said.kind, "jwt-svid");
            assert!(
                said.problems.is_empty() && said.warnings.is_empty(),
                "{header}: {said:?}"
            );
        }
    }

    /// S-1 to S-4, S-22 to S-25, S-29.
    #[test]
    fn each_rule_of_the_profile_is_told() {
        for (header, claims, word) in [
            (HEADER, claims("spiffe://td"), "not the SPIFFE ID of a workload"),
            (HEADER, claims("SPIFFE://td/a"), "not the SPIFFE ID of a workload"),
            (
                HEADER,
                claims("spiffe://td/../a"),
                "not the SPIFFE ID of a workload",
            ),
            (
                r#"{"alg":"EdDSA","kid":"1"}"#,
                claims("spiffe://td/a"),
                "`alg` is EdDSA",
            ),
            (
                r#"{"alg":"ES256","kid":"1","typ":"at+jwt"}"#,
                claims("spiffe://td/a"),
                "`typ` is",
            ),
            (
                r#"{"alg":"ES256","kid":"1","typ":7}"#,
                claims("spiffe://td/a"),
                "`typ` is",
            ),
            (
                HEADER,
                r#"{"sub":"spiffe://td/a","exp":1300}"#.to_owned(),
                "no `aud`",
            ),
            (
                HEADER,
                r#"{"sub":"spiffe://td/a","aud":"db"}"#.to_owned(),
                "no `exp`",
            ),
        ] {
            let problems = said(header, &claims).problems.join("; ");
            assert!(problems.contains(word), "{header} {claims}: {problems}");
        }
        let odd = said(
            r#"{"alg":"ES256","x5t":"y"}"#,
            r#"{"sub":"spiffe://td/a","aud":["a","b"],"exp":1300}"#,
        );
        assert!(odd.problems.is_empty(), "{odd:?}");
        for word in ["`x5t`", "no `kid`", "several audiences"] {
            assert!(
                odd.warnings.iter().any(|warning| warning.contains(word)),
                "{odd:?}"
            );
        }
    }

    #[test]
    fn what_the_validator_refuses_is_told() {
        for (header, claims, word) in [
            (
                r#"{"alg":"ES256","kid":"1","cty":"JWT"}"#,
                claims("spiffe://td/a"),
                "`cty`",
            ),
            (
                r#"{"alg":"ES256","kid":7}"#,
                claims("spiffe://td/a"),
                "`kid` is not a text",
            ),
            (
                HEADER,
                r#"{"sub":"spiffe://td/a","aud":{"a":1},"exp":1300}"#.to_owned(),
                "`aud` is neither",
            ),
            (
                HEADER,
                r#"{"sub":"spiffe://td/a","aud":["a",1],"exp":1300}"#.to_owned(),
                "`aud` is neither",
            ),
            (
                HEADER,
                r#"{"sub":"spiffe://td/a","aud":"a","exp":1300,"iat":1006}"#.to_owned(),
                "issued in the future",
            ),
        ] {
            let problems = said(header, &claims).problems.join("; ");
            assert!(problems.contains(word), "{header} {claims}: {problems}");
        }
    }

    #[test]
    fn a_users_token_is_judged_as_before() {
        let said = said(HEADER, r#"{"sub":"alice","aud":"db","exp":1300}"#);
        assert_eq!(said.kind, "jwt");
        assert_eq!(said.problems, ["no `iss`: no issuer's keys could be chosen"]);
    }
}
