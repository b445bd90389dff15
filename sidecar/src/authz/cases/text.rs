//! How a test file is written: TOML enters, its tables with the places of their values leave. What they mean is read in
//! `reading`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use toml::{Spanned, Value};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileText {
    /// Users by a name of their own, for tests to refer to.
    #[serde(default)]
    pub(super) user: BTreeMap<String, UserText>,
    #[serde(default)]
    pub(super) test: Vec<CaseText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseText {
    pub(super) name: Spanned<String>,
    pub(super) peer: Spanned<String>,
    pub(super) user: Option<Spanned<UserRef>>,
    pub(super) request: Option<Spanned<RequestText>>,
    pub(super) connect: Option<Spanned<ConnectText>>,
    pub(super) expect: Spanned<String>,
    pub(super) rule: Option<Spanned<Words>>,
    pub(super) reason: Option<Spanned<String>>,
    pub(super) status: Option<Spanned<u16>>,
    pub(super) shadow: Option<Spanned<Words>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestText {
    pub(super) service: Spanned<String>,
    pub(super) method: Option<Spanned<String>>,
    pub(super) path: Spanned<String>,
    pub(super) host: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Spanned<Words>>,
    pub(super) port: Option<u16>,
    pub(super) tls: Option<bool>,
    pub(super) src_ip: Option<Spanned<String>>,
    pub(super) time: Option<Spanned<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectText {
    pub(super) service: Spanned<String>,
    pub(super) port: Option<u16>,
    pub(super) tls: Option<bool>,
    pub(super) src_ip: Option<Spanned<String>>,
    pub(super) time: Option<Spanned<Value>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserText {
    pub(super) issuer: Spanned<String>,
    pub(super) sub: Option<String>,
    pub(super) iss: Option<String>,
    #[serde(default)]
    pub(super) aud: Words,
    #[serde(default)]
    pub(super) scope: Words,
    #[serde(default)]
    pub(super) roles: Words,
    pub(super) azp: Option<String>,
    /// `act.sub`.
    pub(super) actor: Option<String>,
    pub(super) acr: Option<String>,
    #[serde(default)]
    pub(super) amr: Words,
    pub(super) auth_time: Option<Spanned<Value>>,
    pub(super) exp: Option<Spanned<Value>>,
    #[serde(default)]
    pub(super) claims: BTreeMap<String, Spanned<Value>>,
}

/// One text, or a list of texts.
#[derive(Clone, Debug, Default)]
pub(super) struct Words(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Words;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Words, E> {
                Ok(Words(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                Ok(Words(words))
            }
        }
        from.deserialize_any(Either)
    }
}

/// A user by name, or the user itself.
pub(super) enum UserRef {
    Named(String),
    Inline(Box<UserText>),
}

impl<'de> Deserialize<'de> for UserRef {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = UserRef;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a [user.NAME], or a table { issuer = \"..\", .. }")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<UserRef, E> {
                Ok(UserRef::Named(name.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<UserRef, A::Error> {
                let user = UserText::deserialize(MapAccessDeserializer::new(map));
                user.map(|user| UserRef::Inline(Box::new(user)))
                    .map_err(A::Error::custom)
            }
        }
        from.deserialize_any(Either)
    }
}
