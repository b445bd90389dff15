//! Whether claims are those of an access token (pure). Providers sign refresh, ID and logout tokens with the same keys and
//! for the same audience: they are genuine, and no proof to us. What a token says of its own kind is believed against it.

use hopguard_jose::{Json, JsonObject, TokenError};

/// Members that say of which kind a token is, and what an access token may say there.
const KINDS: [(&str, &[&str], &str); 3] = [
    // RFC 7662 section 2.2 names `token_type`; `typ` and `token_use` are what large providers tell them apart by.
    (
        "token_type",
        &["bearer", "dpop", "access_token"],
        "token_type is not that of an access token",
    ),
    (
        "typ",
        &[
            "bearer",
            "dpop",
            "jwt",
            "at+jwt",
            "application/at+jwt",
            "access",
            "access_token",
        ],
        "typ is not that of an access token",
    ),
    (
        "token_use",
        &["access", "access_token"],
        "token_use is not that of an access token",
    ),
];

/// Looks at what the claims say of their kind.
///
/// # Errors
/// [`TokenError::Claim`] when they are of another kind, or say that a key binds them and do not name it.
pub(super) fn is_access_token(all: &JsonObject) -> Result<(), TokenError> {
    for (name, access, why) in KINDS {
        let fits = match all.get(name) {
            None | Some(Json::Null) => true,
            Some(value) => value
                .as_str()
                .is_some_and(|text| access.iter().any(|known| known.eq_ignore_ascii_case(text))),
        };
        if !fits {
            return Err(TokenError::Claim(why));
        }
    }
    // A security event (RFC 8417), a logout token among them.
    if all.contains_key("events") {
        return Err(TokenError::Claim(
            "events: it is a security event, not an access token",
        ));
    }
    let dpop = |name| {
        let text = all.get(name).and_then(Json::as_str);
        text.is_some_and(|text| text.eq_ignore_ascii_case("dpop"))
    };
    let key = all
        .get("cnf")
        .and_then(Json::as_object)
        .is_some_and(|cnf| cnf.contains_key("jkt"));
    if (dpop("token_type") || dpop("typ")) && !key {
        return Err(TokenError::Claim(
            "it is bound to a key by its type, and cnf.jkt names none",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Result<(), TokenError> {
        let Ok(Json::Object(all)) = Json::parse(format!("{{{text}}}").as_bytes()) else {
            panic!("{text}")
        };
        is_access_token(&all)
    }

    #[test]
    fn only_an_access_token_is_one() {
        for good in [
            "",
            r#""token_type":"Bearer""#,
            r#""token_type":"bearer","typ":"Bearer""#,
            r#""token_type":"access_token""#,
            r#""token_use":"access_token","token_type":"Bearer""#,
            r#""token_type":null"#,
            r#""typ":"at+jwt""#,
            r#""token_type":"DPoP","cnf":{"jkt":"x"}"#,
        ] {
            assert_eq!(kind(good), Ok(()), "{good}");
        }
        for bad in [
            r#""token_type":"refresh_token""#,
            r#""token_type":"mac""#,
            r#""token_type":7"#,
            r#""typ":"Refresh""#,
            r#""typ":"Offline","token_type":"Bearer""#,
            r#""typ":"ID""#,
            r#""typ":["Bearer"]"#,
            r#""token_use":"refresh_token","token_type":"Bearer""#,
            r#""token_use":"id""#,
            r#""events":{"http://schemas.openid.net/event/backchannel-logout":{}}"#,
            r#""token_type":"DPoP""#,
            r#""token_type":"dpop","cnf":{"x5t#S256":"x"}"#,
            r#""typ":"DPoP","cnf":null"#,
        ] {
            assert!(matches!(kind(bad), Err(TokenError::Claim(_))), "{bad}");
        }
    }
}
