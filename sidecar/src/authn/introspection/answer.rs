//! An answer of an introspection endpoint (RFC 7662 section 2.2, pure): bytes enter, claims leave that hold by the same
//! rules as those of a JWT, and until when they are believed; or why the token proves nobody.

use hopguard_jose::{Claims, Json, Rules, TokenError};

use crate::authn::access::is_access_token;
use crate::authn::options::IntrospectionOptions;

/// A token that is what it must be.
pub(in crate::authn) struct Answer {
    pub(in crate::authn) claims: Claims,
    /// Unix seconds until when this is believed without asking again.
    pub(in crate::authn) until: i64,
    /// When the token must be asked for again, for what is still open then; `None` when it ends before that.
    pub(in crate::authn) due: Option<i64>,
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::authn) enum No {
    /// The issuer says so.
    Inactive,
    /// It is active, but not for us, not now, or not what we take.
    Token(TokenError),
    /// The issuer did not say: why, and a label.
    Fault(String, &'static str),
}

/// Reads an answer at `now` (Unix seconds).
pub(in crate::authn) fn read(
    body: &[u8],
    rules: &Rules,
    options: &IntrospectionOptions,
    now: i64,
) -> Result<Answer, No> {
    let fault = |why: &str| No::Fault(format!("its answer {why}"), "document");
    let Ok(Json::Object(mut all)) = Json::parse(body) else {
        return Err(fault("is no strict JSON object"));
    };
    match all.get("active") {
        Some(Json::Bool(true)) => {}
        Some(Json::Bool(false)) => return Err(No::Inactive),
        _ => return Err(fault("has no `active` that is true or false")),
    }
    is_access_token(&all).map_err(No::Token)?;
    let believed = now.saturating_add(i64::try_from(options.cache.as_secs()).unwrap_or(0).max(1));
    // The issuer is known by its endpoint and by TLS, so it need not name itself (RFC 7662 section 2.2); a name must be right.
    if let (None, Some(issuer)) = (all.get("iss"), &rules.issuer) {
        all.insert("iss".to_owned(), Json::String(issuer.clone()));
    }
    let ends = all.contains_key("exp");
    all.entry("exp".to_owned()).or_insert(Json::Int(believed));
    let for_nobody = !options.audience_required && !all.contains_key("aud");
    if let (true, Some(any)) = (for_nobody, rules.audiences.first()) {
        all.insert("aud".to_owned(), Json::String(any.clone()));
    }
    let mut claims = Claims::check(all, rules, now).map_err(No::Token)?;
    if for_nobody {
        // Policies must not see what nobody said.
        claims.audience.clear();
        claims.all.remove("aud");
    }
    let times = claims.times;
    let until = times.exp.min(believed);
    Ok(Answer {
        due: (!ends || until < times.exp).then_some(until),
        claims,
        until,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hopguard_jose::{Algorithms, Recipient, TimeFault, TokenTypes};

    use super::*;
    use crate::authn::ClientAuth;

    const NOW: i64 = 1_000_000;

    fn read_with(body: &str, audience_required: bool) -> Result<Answer, No> {
        let rules = Rules {
            algorithms: Algorithms::ALL,
            types: TokenTypes::user(),
            issuer: Some("https://idp".to_owned()),
            audiences: vec!["shop".to_owned(), "shop2".to_owned()],
            leeway: 5,
        };
        let options = IntrospectionOptions {
            endpoint: None,
            client_id: "shop".to_owned(),
            client_secret_file: "secret".into(),
            auth: ClientAuth::Basic,
            cache: Duration::from_secs(30),
            token_prefix: None,
            audience_required,
            every_token: false,
        };
        read(body.as_bytes(), &rules, &options, NOW)
    }

    fn no(body: &str) -> No {
        read_with(body, true).err().unwrap_or_else(|| panic!("{body}"))
    }

    #[test]
    fn active_is_true_and_nothing_else() {
        assert_eq!(no(r#"{"active":false}"#), No::Inactive);
        assert_eq!(no(r#"{"active":false,"sub":"alice","aud":"shop"}"#), No::Inactive);
        for body in [
            "",
            "{}",
            "[]",
            "true",
            "<html>",
            r#"{"active":"true"}"#,
            r#"{"active":1}"#,
            r#"{"active":null}"#,
            r#"{"Active":true}"#,
            r#"{"active":false,"active":true,"sub":"alice","aud":"shop"}"#,
            r#"{"active":true,"sub":"alice","sub":"bob","aud":"shop"}"#,
            r#"{"active":true,"sub":"alice","aud":"shop"} x"#,
        ] {
            assert!(matches!(no(body), No::Fault(_, "document")), "{body}");
        }
    }

    #[test]
    fn claims_obey_the_rules_of_a_jwt() {
        let with = |more: &str| format!(r#"{{"active":true,"sub":"alice","aud":"shop"{more}}}"#);
        let answer = read_with(&with(""), true).ok().unwrap();
        assert_eq!((answer.claims.times.exp, answer.until), (NOW + 30, NOW + 30));
        assert_eq!(answer.due, Some(NOW + 30), "without an end it is asked for again");
        let answer = read_with(&with(r#","exp":1000300,"iss":"https://idp""#), true)
            .ok()
            .unwrap();
        assert_eq!(
            (answer.claims.times.exp, answer.until, answer.due),
            (NOW + 300, NOW + 30, Some(NOW + 30))
        );
        let answer = read_with(&with(r#","exp":1000010"#), true).ok().unwrap();
        assert_eq!((answer.until, answer.due), (NOW + 10, None));
        for (more, why) in [
            (r#","iss":"https://idp/""#, TokenError::Foreign(Recipient::Issuer)),
            (r#","iss":7"#, TokenError::Claim("iss is missing or not a string")),
            (r#","exp":999000"#, TokenError::Time(TimeFault::Expired)),
            (r#","exp":"soon""#, TokenError::Claim("exp is not a time")),
            (r#","exp":null"#, TokenError::Claim("exp is not a time")),
            (r#","nbf":1000100"#, TokenError::Time(TimeFault::NotYet)),
            (r#","iat":1000100"#, TokenError::Time(TimeFault::FromTheFuture)),
        ] {
            assert_eq!(no(&with(more)), No::Token(why), "{more}");
        }
        for body in [
            r#"{"active":true,"aud":"shop"}"#,
            r#"{"active":true,"sub":"","aud":"shop"}"#,
            r#"{"active":true,"sub":7,"aud":"shop"}"#,
        ] {
            assert!(matches!(no(body), No::Token(TokenError::Claim(_))), "{body}");
        }
    }

    #[test]
    fn a_token_is_for_us_or_for_nobody() {
        assert!(read_with(r#"{"active":true,"sub":"a","aud":["x","shop2"]}"#, true).is_ok());
        let silent = r#"{"active":true,"sub":"a"}"#;
        assert_eq!(no(silent), No::Token(TokenError::Claim("aud is missing")));
        let answer = read_with(silent, false).ok().unwrap();
        assert!(answer.claims.audience.is_empty() && !answer.claims.all.contains_key("aud"));
        for other in [r#""other""#, r#"["other"]"#, "[]", "7", r#"["shop",7]"#, "null"] {
            let body = format!(r#"{{"active":true,"sub":"a","aud":{other}}}"#);
            assert!(
                matches!(read_with(&body, false), Err(No::Token(_))),
                "{body}: one that is named counts"
            );
        }
    }

    #[test]
    fn only_an_access_token_is_one() {
        let with = |more: &str| format!(r#"{{"active":true,"sub":"alice","aud":"shop",{more}}}"#);
        for good in [
            r#""token_type":"Bearer""#,
            r#""token_type":"bearer","typ":"Bearer""#,
            r#""token_type":"access_token""#,
            r#""token_use":"access_token","token_type":"Bearer""#,
            r#""token_type":null"#,
        ] {
            assert!(read_with(&with(good), true).is_ok(), "{good}");
        }
        for bad in [
            r#""token_type":"refresh_token""#,
            r#""token_type":"mac""#,
            r#""token_type":7"#,
            r#""typ":"Refresh""#,
            r#""typ":"Offline","token_type":"Bearer""#,
            r#""typ":"ID""#,
            r#""token_use":"refresh_token","token_type":"Bearer""#,
            r#""token_use":"id""#,
            r#""token_type":"DPoP""#,
        ] {
            assert!(matches!(no(&with(bad)), No::Token(TokenError::Claim(_))), "{bad}");
        }
    }
}
