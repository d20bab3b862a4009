//! JSON as strangers may send it: no duplicate keys, no deep nesting, nothing behind the value.
//!
//! serde_json keeps the last of two equal keys, which lets one text mean two things to two readers.
//!
//! Start with [`parse`].

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// Deepest nesting taken: a batch's call's parameter's object, and some.
pub const DEPTH_MAX: usize = 32;

/// Memory that the values of one body may take, as counted below: a body of small objects needs ninety
/// times its own bytes. A full batch of 256 calls with ten parameters each needs a third of it.
pub const COST_MAX: usize = 2 << 20;
/// A value in its list or object, with its key's header.
const COST_OF_VALUE: usize = 64;
/// The first node of an object that is not empty (a B-tree's, with room for eleven members).
const COST_OF_OBJECT: usize = 704;

/// Parses one value.
///
/// # Errors
/// The parser's message with line and column; it never quotes the text.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let left = Cell::new(COST_MAX);
    let strict = Strict {
        depth: DEPTH_MAX,
        left: &left,
    };
    let value = strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Strict<'c> {
    depth: usize,
    left: &'c Cell<usize>,
}

impl Strict<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        depth
            .map(|depth| Self { depth, ..self })
            .ok_or_else(|| E::custom(format_args!("nesting over {DEPTH_MAX}")))
    }

    fn pay<E: Error>(self, cost: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(cost);
        let too_much = || E::custom(format_args!("values that need over {COST_MAX} bytes"));
        self.left.set(left.ok_or_else(too_much)?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            self.pay(COST_OF_VALUE)?;
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if members.is_empty() {
                self.pay(COST_OF_OBJECT)?;
            }
            self.pay(COST_OF_VALUE)?;
            let value = map.next_value_seed(inner)?;
            if members.insert(key, value).is_some() {
                return Err(A::Error::custom("duplicate key"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ambiguous_and_endless_texts_are_refused() {
        for bad in [
            r#"{"a":1,"a":2}"#,
            r#"{"x":{"a":1,"\u0061":2}}"#,
            "{} {}",
            "",
            "NaN",
            "1e999",
            "{\"a\":1,}",
            "\u{feff}{}",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(b"\"\xff\"").is_err());
        let nest = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(parse(nest(DEPTH_MAX).as_bytes()).is_ok());
        assert!(parse(nest(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn a_body_that_would_take_much_memory_is_refused() {
        let many = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        for (item, count) in [("{\"\":0}", 100_000), ("0", 500_000), ("[]", 300_000)] {
            let error = parse(many(item, count).as_bytes()).unwrap_err().to_string();
            assert!(error.contains("values that need over"), "{error}");
        }
        let call = r#"{"tool":"x","params":{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8}}"#;
        assert!(parse(many(call, 256).as_bytes()).is_ok());
        let text = format!("\"{}\"", "x".repeat(1 << 20));
        assert!(parse(text.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn it_agrees_with_serde_json_on_what_it_takes(text in "[\\[\\]{}\":,0-9a-c.eE\\\\u -]{0,40}") {
            if let Ok(value) = parse(text.as_bytes()) {
                prop_assert_eq!(Some(value), serde_json::from_str::<Value>(&text).ok());
            }
        }
    }
}
