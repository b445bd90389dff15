//! The documents of an identity provider (pure): bytes enter, an address or a key set leaves. A document that is not
//! wholly what it must be gives nothing.

use hopguard_jose::{Json, KeyPolicy, KeySet};

use super::endpoint::Endpoint;
use super::error::FetchFault;

/// Where the configuration of `issuer` is (OpenID Connect Discovery 1.0 section 4.1).
pub(super) fn well_known(issuer: &str) -> String {
    format!(
        "{}/.well-known/openid-configuration",
        issuer.strip_suffix('/').unwrap_or(issuer)
    )
}

/// The address under `name` (`jwks_uri`, `introspection_endpoint`) in a configuration, which must be that of `issuer`
/// (section 4.3): anybody could else answer for it.
pub(super) fn address(
    body: &[u8],
    (issuer, name): (&str, &'static str),
    plain_loopback: bool,
) -> Result<Endpoint, FetchFault> {
    let document = |problem: &str| FetchFault::Document(format!("the OpenID configuration {problem}"));
    let value = Json::parse(body).map_err(|error| document(&format!("cannot be read: {error}")))?;
    let member = |name| {
        value
            .as_object()
            .and_then(|object| object.get(name))
            .and_then(Json::as_str)
    };
    match member("issuer") {
        Some(named) if named == issuer => {}
        Some(_) => {
            return Err(document(
                "is of another issuer; `issuer` must equal it to the byte",
            ));
        }
        None => return Err(document("names no issuer")),
    }
    let uri = member(name).ok_or_else(|| document(&format!("has no {name}")))?;
    Endpoint::parse(uri, plain_loopback)
        .map_err(|problem| document(&format!("has a {name} that is {problem}")))
}

/// The usable keys of a JWK Set, at least one: no keys would be a denial of every token, and never what was meant.
pub(super) fn key_set(body: &[u8]) -> Result<KeySet, FetchFault> {
    let keys = KeySet::parse(body, &KeyPolicy::SIGNATURES)?;
    if keys.is_empty() {
        let first = keys.ignored().first().map(|key| format!(" ({})", key.reason));
        return Err(FetchFault::NoKeys(first.unwrap_or_default()));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_lies_below_the_issuer() {
        assert_eq!(
            well_known("https://a"),
            "https://a/.well-known/openid-configuration"
        );
        assert_eq!(
            well_known("https://a/"),
            "https://a/.well-known/openid-configuration"
        );
        assert_eq!(
            well_known("https://a/realms/x"),
            "https://a/realms/x/.well-known/openid-configuration"
        );
    }

    #[test]
    fn a_configuration_speaks_for_its_issuer_alone() {
        let uri = |body: &str| {
            address(body.as_bytes(), ("https://a", "jwks_uri"), false).map(|uri| uri.to_string())
        };
        let good = r#"{"issuer":"https://a","jwks_uri":"https://keys.example/jwks","x":[1]}"#;
        assert_eq!(uri(good).ok().as_deref(), Some("https://keys.example/jwks"));
        for bad in [
            r#"{"issuer":"https://a/","jwks_uri":"https://a/k"}"#,
            r#"{"issuer":"https://A","jwks_uri":"https://a/k"}"#,
            r#"{"issuer":["https://a"],"jwks_uri":"https://a/k"}"#,
            r#"{"jwks_uri":"https://a/k"}"#,
            r#"{"issuer":"https://a"}"#,
            r#"{"issuer":"https://a","jwks_uri":7}"#,
            r#"{"issuer":"https://a","jwks_uri":"http://a/k"}"#,
            r#"{"issuer":"https://a","jwks_uri":"/k"}"#,
            r#"{"issuer":"https://a","issuer":"https://a","jwks_uri":"https://a/k"}"#,
            r#"{"issuer":"https://evil","issuer":"https://a","jwks_uri":"https://a/k"}"#,
            "<html></html>",
            "[]",
            "",
        ] {
            assert_eq!(uri(bad).map_err(|fault| fault.label()), Err("document"), "{bad}");
        }
    }

    #[test]
    fn a_key_set_without_keys_is_no_answer() {
        for (body, label) in [
            (r#"{"keys":[]}"#, "no_keys"),
            (r#"{"keys":[{"kty":"oct","k":"AA"}]}"#, "no_keys"),
            ("<html></html>", "keys"),
            ("{}", "keys"),
        ] {
            assert_eq!(
                key_set(body.as_bytes()).map_err(|fault| fault.label()),
                Err(label),
                "{body}"
            );
        }
    }
}
