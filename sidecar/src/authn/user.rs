//! From proven claims to a user (pure): [`Claims`] enter, a [`VerifiedUser`] leaves. A claim of the wrong type is
//! absent, never coerced.

use std::sync::Arc;

use hopguard_jose::{Claims, Json, JsonObject, Thumbprint, TokenError};

use super::binding::{Binding, actors};
use super::claim_path::ClaimPath;
use super::options::{ClaimKind, IssuerOptions};

/// A user proven by a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedUser {
    /// The issuer's alias.
    pub alias: Arc<str>,
    /// `iss`.
    pub issuer: Arc<str>,
    /// `sub`: not empty, no control characters; unique within the issuer only.
    pub subject: String,
    /// `aud`.
    pub audience: Vec<String>,
    /// `scope` (RFC 6749 section 3.3), or `scp`.
    pub scope: Vec<String>,
    /// The values of the configured role claims, sorted, each once.
    pub roles: Vec<String>,
    /// `azp`, or `client_id`: the client that the token was issued to.
    pub azp: Option<String>,
    /// `acr`: how strongly the user was authenticated.
    pub acr: Option<String>,
    /// `amr`: by which means.
    pub amr: Vec<String>,
    /// `auth_time`: when, in Unix seconds.
    pub auth_time: Option<i64>,
    /// `exp`, in Unix seconds: not valid from then on (give or take the issuer's leeway).
    pub exp: i64,
    /// Who acts for the user (`act`, RFC 8693), the present actor first; each a subject of the same issuer.
    pub actors: Vec<String>,
    /// Who may present the token: to be checked on every request.
    pub binding: Binding,
    /// The configured claims that are there and of their type.
    pub claims: Vec<(String, ClaimValue)>,
    /// The key that signed it, if the token names one.
    pub kid: Option<String>,
    /// The key that signed it, by its thumbprint; `None` when its issuer vouched for it in an answer (RFC 7662).
    pub key: Option<Thumbprint>,
    /// When its issuer must be asked again, in Unix seconds, for what is still open then; `None` when the token ends first, or
    /// proves itself.
    pub due: Option<i64>,
    /// Of the issuer's configuration when the token was verified.
    pub generation: u64,
}

/// The value of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the kinds of ClaimKind")]
pub enum ClaimValue {
    String(String),
    Strings(Vec<String>),
    Long(i64),
    Bool(bool),
}

/// What the claims of a user were proven by.
#[derive(Default)]
pub(super) struct Proof {
    pub(super) kid: Option<String>,
    pub(super) key: Option<Thumbprint>,
    pub(super) due: Option<i64>,
}

/// Which claims of an issuer's tokens say what.
pub(super) struct Mapping {
    roles: Vec<ClaimPath>,
    claims: Vec<(String, ClaimPath, ClaimKind)>,
    bind: Vec<ClaimPath>,
}

impl Mapping {
    pub(super) fn new(options: &IssuerOptions) -> Self {
        Self {
            roles: options.roles.clone(),
            bind: options.bind_claims.clone(),
            claims: options
                .claims
                .iter()
                .map(|claim| (claim.name.clone(), claim.path.clone(), claim.kind))
                .collect(),
        }
    }

    /// The user that the claims tell of.
    ///
    /// # Errors
    /// [`TokenError::Claim`] when `act` or `cnf` is not what it must be.
    pub(super) fn user(
        &self,
        who: (Arc<str>, Arc<str>),
        (claims, proof): (Claims, Proof),
        generation: u64,
    ) -> Result<VerifiedUser, TokenError> {
        let all = &claims.all;
        let text = |name: &str| all.get(name).and_then(Json::as_str).map(str::to_owned);
        let scope = all.get("scope").or_else(|| all.get("scp"));
        let (alias, issuer) = who;
        Ok(VerifiedUser {
            actors: actors(all, &issuer)?,
            binding: Binding::read(all, &self.bind)?,
            alias,
            issuer,
            scope: scope.map(scopes).unwrap_or_default(),
            roles: self.roles(all),
            azp: text("azp").or_else(|| text("client_id")),
            acr: text("acr"),
            amr: all.get("amr").and_then(strings).unwrap_or_default(),
            auth_time: all.get("auth_time").and_then(seconds),
            claims: self.claims(all),
            subject: claims.subject,
            audience: claims.audience,
            exp: claims.times.exp,
            kid: proof.kid,
            key: proof.key,
            due: proof.due,
            generation,
        })
    }

    fn roles(&self, all: &JsonObject) -> Vec<String> {
        let mut roles: Vec<String> = self
            .roles
            .iter()
            .filter_map(|path| path.find(all).map(|value| (path, value)))
            .flat_map(|(path, value)| {
                if path.is_scope() {
                    scopes(value)
                } else {
                    strings(value).unwrap_or_default()
                }
            })
            .filter(|role| !role.is_empty())
            .collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    }

    fn claims(&self, all: &JsonObject) -> Vec<(String, ClaimValue)> {
        self.claims
            .iter()
            .filter_map(|(name, path, kind)| Some((name.clone(), typed(path.find(all)?, *kind)?)))
            .collect()
    }
}

fn typed(value: &Json, kind: ClaimKind) -> Option<ClaimValue> {
    match (kind, value) {
        (ClaimKind::String, Json::String(text)) => Some(ClaimValue::String(text.clone())),
        (ClaimKind::Strings, _) => strings(value).map(ClaimValue::Strings),
        (ClaimKind::Long, Json::Int(number)) => Some(ClaimValue::Long(*number)),
        (ClaimKind::Bool, Json::Bool(truth)) => Some(ClaimValue::Bool(*truth)),
        _ => None,
    }
}

/// One string, or an array of nothing else.
fn strings(value: &Json) -> Option<Vec<String>> {
    match value {
        Json::String(one) => Some(vec![one.clone()]),
        many => Some(many.as_strings()?.into_iter().map(str::to_owned).collect()),
    }
}

/// A string is split at spaces here, and here only.
fn scopes(value: &Json) -> Vec<String> {
    match value {
        Json::String(list) => list
            .split(' ')
            .filter(|scope| !scope.is_empty())
            .map(str::to_owned)
            .collect(),
        many => strings(many).unwrap_or_default(),
    }
}

fn seconds(value: &Json) -> Option<i64> {
    match value {
        Json::Int(seconds) => Some(*seconds),
        #[expect(clippy::cast_possible_truncation, reason = "a float casts saturating")]
        Json::Float(seconds) => Some(seconds.floor() as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> JsonObject {
        match Json::parse(text.as_bytes()) {
            Ok(Json::Object(object)) => object,
            other => panic!("{other:?}"),
        }
    }

    fn roles(paths: &[&str], claims: &str) -> Vec<String> {
        let paths = paths.iter().map(|path| ClaimPath::from(*path)).collect();
        Mapping {
            roles: paths,
            claims: Vec::new(),
            bind: Vec::new(),
        }
        .roles(&object(claims))
    }

    #[test]
    fn roles_come_from_every_configured_path() {
        assert_eq!(
            roles(
                &["roles", "realm_access.roles", "https://idp.example/roles"],
                r#"{"roles":"clerk","realm_access":{"roles":["b","a","clerk"]},"https://idp.example/roles":["n"]}"#
            ),
            ["a", "b", "clerk", "n"]
        );
    }

    #[test]
    fn a_string_is_one_role_and_only_scope_is_split() {
        assert_eq!(roles(&["roles"], r#"{"roles":"admin clerk"}"#), ["admin clerk"]);
        assert_eq!(
            roles(&["scope"], r#"{"scope":"orders:read  orders:write "}"#),
            ["orders:read", "orders:write"]
        );
        assert_eq!(roles(&["scp"], r#"{"scp":["a","b"]}"#), ["a", "b"]);
        assert_eq!(roles(&["x.scope"], r#"{"x":{"scope":"a b"}}"#), ["a b"]);
    }

    #[test]
    fn what_is_no_role_gives_none() {
        for claims in [
            "{}",
            r#"{"roles":7}"#,
            r#"{"roles":null}"#,
            r#"{"roles":["admin",7]}"#,
            r#"{"roles":[["admin"]]}"#,
            r#"{"roles":{"admin":true}}"#,
            r#"{"roles":""}"#,
            r#"{"Roles":"admin"}"#,
        ] {
            assert_eq!(roles(&["roles"], claims), Vec::<String>::new(), "{claims}");
        }
        for claims in [
            r#"{"a":"x"}"#,
            r#"{"a":{"c":"x"}}"#,
            r#"{"a":["b"]}"#,
            r#"{"b":"x"}"#,
        ] {
            assert_eq!(
                roles(&["a.b", "a..b", ".", ""], claims),
                Vec::<String>::new(),
                "{claims}"
            );
        }
    }

    #[test]
    fn a_path_means_one_claim_alone() {
        let both = r#"{"realm_access.roles":"forged","realm_access":{"roles":"clerk"}}"#;
        assert_eq!(roles(&["realm_access.roles"], both), ["clerk"]);
        let flat = r#"{"realm_access.roles":"forged"}"#;
        assert_eq!(roles(&["realm_access.roles"], flat), Vec::<String>::new());
        let nested = r#"{"https://idp":{"example/roles":"forged"}}"#;
        assert_eq!(
            roles(&["https://idp.example/roles"], nested),
            Vec::<String>::new()
        );
        let one_name = ClaimPath::Steps(vec!["realm_access.roles".to_owned()]);
        let found = one_name.find(&object(both)).and_then(strings);
        assert_eq!(found.unwrap(), ["forged"], "where it is asked for");
    }

    #[test]
    fn steps_lead_below_a_name_with_dots() {
        let claims = object(
            r#"{"resource_access":{"shop.web":{"roles":["clerk"]},"shop":{"web":{"roles":"no"}}},
            "https://idp.example/a":{"b.c":"x"}}"#,
        );
        let find = |steps: &[&str]| {
            let steps = steps.iter().map(|step| (*step).to_owned()).collect();
            ClaimPath::Steps(steps).find(&claims).and_then(strings)
        };
        assert_eq!(
            find(&["resource_access", "shop.web", "roles"]).unwrap(),
            ["clerk"]
        );
        assert_eq!(find(&["https://idp.example/a", "b.c"]).unwrap(), ["x"]);
        for nowhere in [
            &["resource_access.shop.web", "roles"][..],
            &["https://idp.example/a", "b", "c"],
            &[],
            &[""],
        ] {
            assert_eq!(find(nowhere), None, "{nowhere:?}");
        }
    }

    #[test]
    fn a_claim_of_the_wrong_type_is_absent() {
        let value = |kind, json: &str| typed(&Json::parse(json.as_bytes()).expect("JSON"), kind);
        assert_eq!(
            value(ClaimKind::String, r#""x""#),
            Some(ClaimValue::String("x".into()))
        );
        assert_eq!(value(ClaimKind::String, "7"), None);
        assert_eq!(value(ClaimKind::String, r#"["x"]"#), None);
        assert_eq!(
            value(ClaimKind::Strings, r#"["x","y"]"#),
            Some(ClaimValue::Strings(vec!["x".into(), "y".into()]))
        );
        assert_eq!(
            value(ClaimKind::Strings, r#""x""#),
            Some(ClaimValue::Strings(vec!["x".into()]))
        );
        assert_eq!(
            value(ClaimKind::Strings, "[]"),
            Some(ClaimValue::Strings(Vec::new()))
        );
        assert_eq!(value(ClaimKind::Strings, r#"["x",1]"#), None);
        assert_eq!(value(ClaimKind::Long, "-7"), Some(ClaimValue::Long(-7)));
        assert_eq!(value(ClaimKind::Long, "7.0"), None);
        assert_eq!(value(ClaimKind::Long, "9223372036854775808"), None);
        assert_eq!(value(ClaimKind::Long, r#""7""#), None);
        assert_eq!(value(ClaimKind::Bool, "true"), Some(ClaimValue::Bool(true)));
        assert_eq!(value(ClaimKind::Bool, r#""true""#), None);
        assert_eq!(value(ClaimKind::Bool, "1"), None);
        assert_eq!(value(ClaimKind::Bool, "null"), None);
    }
}
