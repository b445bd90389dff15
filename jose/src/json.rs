//! Strict JSON (RFC 8259): bytes enter, a [`Json`] value leaves, or the reason why not. A key that occurs twice in one
//! object is refused wherever it stands, because two readers would take different ones; so are trailing bytes, invalid
//! UTF-8, lone surrogates, numbers past what a double holds, and nesting past [`MAX_DEPTH`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// The deepest nesting of arrays and objects; the outermost counts as one.
pub const MAX_DEPTH: usize = 16;

/// The members of an object; their order is not kept.
pub type JsonObject = BTreeMap<String, Json>;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number written without fraction and exponent that fits.
    Int(i64),
    /// Any other number, as the nearest double; always finite.
    Float(f64),
    /// A string, with its escapes resolved.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(JsonObject),
}

/// Why bytes are not a JSON value that we read. Never holds a part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(pub(crate) &'static str);

impl Json {
    /// Reads one value that fills `bytes`.
    ///
    /// # Errors
    /// [`JsonError`] when it is not strict JSON in the sense of this module.
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let fault = Cell::new("not JSON");
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let seed = Node {
            depth: 1,
            fault: &fault,
        };
        let value = seed
            .deserialize(&mut reader)
            .map_err(|_| JsonError(fault.get()))?;
        reader
            .end()
            .map_err(|_| JsonError("bytes after the JSON value"))?;
        Ok(value)
    }

    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The object, if it is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&JsonObject> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The strings of an array that holds nothing else.
    #[must_use]
    pub fn as_strings(&self) -> Option<Vec<&str>> {
        match self {
            Self::Array(items) => items.iter().map(Self::as_str).collect(),
            _ => None,
        }
    }
}

/// One value to come, `depth` levels down.
struct Node<'f> {
    depth: usize,
    fault: &'f Cell<&'static str>,
}

impl Node<'_> {
    /// What an array or object holds, if it may stand here.
    fn inner<E: serde::de::Error>(&self) -> Result<Node<'_>, E> {
        if self.depth > MAX_DEPTH {
            return Err(self.refuse("JSON nested too deep"));
        }
        Ok(Node {
            depth: self.depth + 1,
            fault: self.fault,
        })
    }

    fn refuse<E: serde::de::Error>(&self, why: &'static str) -> E {
        self.fault.set(why);
        E::custom(why)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        // As a double it has lost digits, so it is no integer to anybody who asks for one.
        Ok(i64::try_from(value).map_or(Json::Float(value as f64), Json::Int))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        if value.is_finite() {
            Ok(Json::Float(value))
        } else {
            Err(self.refuse("JSON number out of range"))
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self.inner()?)? {
            array.push(item);
        }
        // An empty array is a level too.
        self.inner::<A::Error>()?;
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let inner = self.inner::<A::Error>()?;
        let mut object = JsonObject::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = members.next_value_seed(Node { ..inner })?;
            if object.insert(key, value).is_some() {
                self.fault.set("JSON key twice in one object");
                return Err(A::Error::custom("duplicate"));
            }
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> &'static str {
        Json::parse(text.as_bytes()).expect_err(text).0
    }

    #[test]
    fn values_are_read_as_they_stand() {
        let value = Json::parse(br#" {"a":[1,-2,2.5,"x\u00e9",true,null,18446744073709551615],"b":{}} "#)
            .expect("valid");
        let object = value.as_object().expect("object");
        assert_eq!(object["b"], Json::Object(JsonObject::new()));
        let Json::Array(items) = &object["a"] else {
            panic!("array")
        };
        assert_eq!(
            items,
            &[
                Json::Int(1),
                Json::Int(-2),
                Json::Float(2.5),
                Json::String("x\u{e9}".into()),
                Json::Bool(true),
                Json::Null,
                Json::Float(18_446_744_073_709_551_615.0)
            ]
        );
    }

    #[test]
    fn a_key_twice_is_refused_anywhere() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"[[{"a":1,"b":2,"a":3}]]"#,
        ] {
            assert_eq!(refused(text), "JSON key twice in one object", "{text}");
        }
        assert!(
            Json::parse(br#"{"a":{"a":1}}"#).is_ok(),
            "the same key on two levels is fine"
        );
    }

    #[test]
    fn what_is_not_strict_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "{}x",
            "{} {}",
            "{'a':1}",
            "{a:1}",
            "{\"a\":1,}",
            "[1,]",
            "01",
            "+1",
            ".5",
            "1.",
            "NaN",
            "Infinity",
            "-",
            "1e400",
            "-1e400",
            "\"\\ud800\"",
            "\"\u{1}\"",
            "//x\n1",
            "tru",
            "\u{feff}{}",
        ] {
            refused(text);
        }
        assert!(Json::parse(b"\"\xff\"").is_err(), "not UTF-8");
        assert!(Json::parse(b"{}\0").is_err(), "trailing NUL");
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Json::parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(refused(&nested(MAX_DEPTH + 1)), "JSON nested too deep");
        assert_eq!(refused(&nested(10_000)), "JSON nested too deep");
        let objects = format!(
            "{}1{}",
            "{\"a\":".repeat(MAX_DEPTH + 1),
            "}".repeat(MAX_DEPTH + 1)
        );
        assert_eq!(refused(&objects), "JSON nested too deep");
    }

    proptest! {
        #[test]
        fn no_input_panics_and_whatever_is_accepted_serde_json_accepts(
            bytes in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            if Json::parse(&bytes).is_ok() {
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
            }
        }

        #[test]
        fn structured_input_never_panics(text in r#"[\[\]{}:,"a1e.\-\\u0 tn]{0,80}"#) {
            let ours = Json::parse(text.as_bytes()).is_ok();
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert!(!ours || theirs);
        }
    }
}
