//! Strict JSON: duplicate keys, depth over [`DEPTH_MAX`] and anything behind the value are refused.
//!
//! NaN and infinities are no JSON and numbers that overflow a double are refused by the parser.
//! Payloads are stored normalised: keys sorted by their bytes, no white space, numbers and escapes
//! as serde_json writes them.

use crate::committer::Refusal;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

/// Deepest nesting.
pub const DEPTH_MAX: usize = 64;
/// Memory that the values of one text may take, as [`Strict`] counts it: a line of small objects needs
/// ninety times its own bytes. A batch of 1,024 events of twenty members each needs three quarters of it.
const COST_MAX: usize = 4 * 1024 * 1024;
/// A value in its list or object, with its key's header.
const COST_OF_VALUE: usize = 64;
/// The first node of an object that is not empty (a B-tree's, with room for eleven members).
const COST_OF_OBJECT: usize = 704;
/// Longest line, as the protocol fixes.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number from 0 on.
    Unsigned(u64),
    /// A number below 0.
    Signed(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object, keys sorted.
    Object(BTreeMap<String, Json>),
}

impl Json {
    /// Parses a whole text.
    ///
    /// # Errors
    /// `BAD_REQUEST` with the parser's words.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bad = |e: serde_json::Error| Refusal::new("BAD_REQUEST", "json", "", &e.to_string());
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let left = Cell::new(COST_MAX);
        let value = Strict(DEPTH_MAX, &left)
            .deserialize(&mut deserializer)
            .map_err(bad)?;
        deserializer.end().map_err(bad)?;
        Ok(value)
    }

    /// The member of an object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.get(key),
            _ => None,
        }
    }

    /// Text, if it is that.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number from 0 on, if it is that.
    #[must_use]
    pub fn unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            _ => None,
        }
    }

    /// An object of these members.
    #[must_use]
    pub fn object<const N: usize>(members: [(&str, Self); N]) -> Self {
        Self::Object(
            members
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect(),
        )
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Json {
    fn from(n: u64) -> Self {
        Self::Unsigned(n)
    }
}

impl From<bool> for Json {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// The text of a JSON object, normalised.
///
/// # Errors
/// `BAD_REQUEST` if it is no object.
pub fn normalise_object(text: &str) -> Result<String, Refusal> {
    match Json::parse(text)? {
        object @ Json::Object(_) => Ok(object.to_string()),
        _ => Err(Refusal::new("BAD_REQUEST", "payload", "", "a JSON object")),
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => s.serialize_unit(),
            Self::Bool(b) => s.serialize_bool(*b),
            Self::Unsigned(n) => s.serialize_u64(*n),
            Self::Signed(n) => s.serialize_i64(*n),
            Self::Float(n) => s.serialize_f64(*n),
            Self::Text(text) => s.serialize_str(text),
            Self::List(items) => {
                let mut seq = s.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|i| seq.serialize_element(i))?;
                seq.end()
            }
            Self::Object(members) => {
                let mut map = s.serialize_map(Some(members.len()))?;
                members
                    .iter()
                    .try_for_each(|(k, v)| map.serialize_entry(k, v))?;
                map.end()
            }
        }
    }
}

/// Deserialises with this much depth, and memory, left.
#[derive(Clone, Copy)]
struct Strict<'c>(usize, &'c Cell<usize>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Json;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Json, D::Error> {
        d.deserialize_any(self)
    }
}

impl Strict<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.0.checked_sub(1) {
            Some(depth) => Ok(Self(depth, self.1)),
            None => Err(E::custom(format_args!("nesting over {DEPTH_MAX}"))),
        }
    }

    fn pay<E: Error>(self, cost: usize) -> Result<(), E> {
        let left = self.1.get().checked_sub(cost);
        self.1.set(
            left.ok_or_else(|| E::custom(format_args!("values that need over {COST_MAX} bytes")))?,
        );
        Ok(())
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Json, E> {
        Ok(Json::Bool(b))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Json, E> {
        Ok(Json::Unsigned(n))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Json, E> {
        Ok(u64::try_from(n).map_or(Json::Signed(n), Json::Unsigned))
    }
    fn visit_f64<E: Error>(self, n: f64) -> Result<Json, E> {
        if n.is_finite() {
            Ok(Json::Float(n))
        } else {
            Err(E::custom("number out of range"))
        }
    }
    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }
    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            self.pay(COST_OF_VALUE)?;
            items.push(item);
        }
        Ok(Json::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut members = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if members.is_empty() {
                self.pay(COST_OF_OBJECT)?;
            }
            self.pay(COST_OF_VALUE)?;
            let value = map.next_value_seed(inner)?;
            if members.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
            }
            members.insert(key, value);
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_strict_is_refused() {
        for bad in [
            "",
            "{",
            "{} {}",
            "NaN",
            "[NaN]",
            "Infinity",
            "1e999",
            "{\"a\":1,\"a\":2}",
            "{\"a\":{\"b\":1,\"b\":1}}",
            "[1,]",
            "{'a':1}",
            "\"\u{1}\"",
            "01",
            "nul",
        ] {
            assert_eq!(Json::parse(bad).unwrap_err().code, "BAD_REQUEST", "{bad}");
        }
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(Json::parse(&deep(DEPTH_MAX)).is_ok());
        assert!(Json::parse(&deep(DEPTH_MAX + 1)).is_err());
        assert!(Json::parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn a_line_that_would_take_much_memory_is_refused() {
        let many = |item: &str, bytes: usize| {
            format!("[{}]", vec![item; bytes / (item.len() + 1)].join(","))
        };
        for item in ["{\"\":0}", "0", "[]"] {
            let refusal = Json::parse(&many(item, LINE_BYTES_MAX)).unwrap_err();
            assert!(refusal.limit.contains("values that need over"), "{item}");
        }
        let event = r#"{"event_type":"x","subject":"y","payload":{"a":1,"b":2,"c":3,"d":4}}"#;
        assert!(Json::parse(&many(event, 1024 * (event.len() + 1))).is_ok());
        // One long text is what a line is for.
        assert!(Json::parse(&format!("\"{}\"", "x".repeat(LINE_BYTES_MAX - 2))).is_ok());
    }

    #[test]
    fn payloads_are_sorted_and_without_space() {
        let text = "{ \"b\" : [1, -2, 1.5, null, true], \"a\": {\"z\":\"\\u0041\",\"y\":18446744073709551615} }";
        let normal = "{\"a\":{\"y\":18446744073709551615,\"z\":\"A\"},\"b\":[1,-2,1.5,null,true]}";
        assert_eq!(normalise_object(text).unwrap(), normal);
        assert_eq!(normalise_object(normal).unwrap(), normal);
        assert!(normalise_object("[]").is_err());
    }
}
