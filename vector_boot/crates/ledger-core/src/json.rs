//! JSON, read strictly and written canonically (RFC 8785).
//!
//! Read: duplicate keys, depth over [`DEPTH_MAX`], values that need over [`COST_MAX`] bytes and anything
//! behind the value are refused; NaN and infinities are no JSON, and numbers that overflow a double are
//! refused. Written: keys in the order of their UTF-16 units, no white space, numbers and escapes as
//! ECMAScript writes them. What is hashed, signed or stored is written here: [`payload`].

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt::{self, Write};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Deepest nesting.
pub const DEPTH_MAX: usize = 64;
/// Memory that the values of one text may take, as [`Strict`] counts it: a line of small objects needs
/// ninety times its own bytes. A batch of 1,024 events of twenty members each needs three quarters of it.
pub const COST_MAX: usize = 4 * 1024 * 1024;
/// Levels that the ledger puts around a value that it was given: it stores a message's payload beside the headers, and
/// tells it in an event in a line.
const AROUND_DEPTH: usize = 4;
/// Parts that came alone, each of [`COST_MAX`] at most, and are stored as one.
const PARTS_MAX: usize = 4;
/// A value in its list or object, with its key's header.
const COST_OF_VALUE: usize = 64;
/// The first node of an object that is not empty (a B-tree's, with room for eleven members).
const COST_OF_OBJECT: usize = 704;
/// 2^53 - 1: beyond, a double does not hold every integer, so RFC 8785 cannot write it without loss.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

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
    /// An object.
    Object(BTreeMap<String, Json>),
}

/// Why a text is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError(pub String);

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The canonical text of a JSON object that may be stored, hashed or signed: no number in it is beyond
/// ±[`INTEGER_MAX`].
///
/// # Errors
/// [`JsonError`] if it is no object, or not strict.
pub fn payload(text: &str) -> Result<String, JsonError> {
    match Json::stored(text)? {
        object @ Json::Object(_) => object.payload(),
        _ => Err(JsonError("not a JSON object".to_string())),
    }
}

impl Json {
    /// Parses a whole text.
    ///
    /// # Errors
    /// [`JsonError`] with the parser's words.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        Self::within(text, DEPTH_MAX, COST_MAX)
    }

    /// Parses what will be a part of what is stored, and must be told in a line then.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn part(text: &str) -> Result<Self, JsonError> {
        Self::within(text, DEPTH_MAX - AROUND_DEPTH, COST_MAX)
    }

    /// Parses what the ledger stored or tells: what it took, and what it put around that.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn stored(text: &str) -> Result<Self, JsonError> {
        Self::within(text, DEPTH_MAX + AROUND_DEPTH, PARTS_MAX * COST_MAX)
    }

    fn within(text: &str, depth: usize, cost: usize) -> Result<Self, JsonError> {
        let bad = |e: serde_json::Error| JsonError(e.to_string());
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let left = Cell::new(cost);
        let value = Strict(depth, &left)
            .deserialize(&mut deserializer)
            .map_err(bad)?;
        deserializer.end().map_err(bad)?;
        Ok(value)
    }

    /// The canonical text, if every number may be stored.
    ///
    /// # Errors
    /// [`JsonError`] that names the number.
    pub fn payload(&self) -> Result<String, JsonError> {
        match self.beyond() {
            None => Ok(self.to_string()),
            Some(number) => Err(JsonError(format!(
                "number {number} is beyond ±{INTEGER_MAX}, so not every reader has it exactly: send it as text"
            ))),
        }
    }

    /// The first number that not every reader has exactly.
    fn beyond(&self) -> Option<&Self> {
        // A double beyond is a whole number, and written like one.
        let limit = INTEGER_MAX as f64;
        match self {
            Self::Unsigned(n) => (*n > INTEGER_MAX).then_some(self),
            Self::Signed(n) => (n.unsigned_abs() > INTEGER_MAX).then_some(self),
            Self::Float(n) => (n.abs() > limit).then_some(self),
            Self::List(items) => items.iter().find_map(Self::beyond),
            Self::Object(members) => members.values().find_map(Self::beyond),
            Self::Null | Self::Bool(_) | Self::Text(_) => None,
        }
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
                .map(|(k, v)| (k.to_string(), v))
                .collect(),
        )
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_string())
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

/// RFC 8785, but that whole numbers beyond ±[`INTEGER_MAX`] keep their digits: an id is echoed as it came.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => b.fmt(f),
            Self::Unsigned(n) => n.fmt(f),
            Self::Signed(n) => n.fmt(f),
            Self::Float(n) => f.write_str(ryu_js::Buffer::new().format(*n)),
            Self::Text(text) => quote(f, text),
            Self::List(items) => {
                f.write_char('[')?;
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        f.write_char(',')?;
                    }
                    item.fmt(f)?;
                }
                f.write_char(']')
            }
            Self::Object(members) => {
                f.write_char('{')?;
                for (n, (key, value)) in in_utf16_order(members).into_iter().enumerate() {
                    if n > 0 {
                        f.write_char(',')?;
                    }
                    quote(f, key)?;
                    f.write_char(':')?;
                    value.fmt(f)?;
                }
                f.write_char('}')
            }
        }
    }
}

/// Members by the UTF-16 units of their keys, which is not the map's order where a key has characters
/// beyond the basic plane: their surrogates (D800 to DFFF) come before U+E000 to U+FFFF.
fn in_utf16_order(members: &BTreeMap<String, Json>) -> Vec<(&String, &Json)> {
    let mut all: Vec<_> = members.iter().collect();
    // In UTF-8 those begin with F0 and above.
    if members.keys().any(|key| key.bytes().any(|b| b >= 0xf0)) {
        all.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    }
    all
}

/// Text between quotation marks, escaped where JSON demands it and nowhere else.
fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\') {
        let (plain, from) = rest.split_at(at);
        f.write_str(plain)?;
        let mut letters = from.chars();
        match letters.next() {
            Some(c @ ('"' | '\\')) => write!(f, "\\{c}")?,
            Some('\u{8}') => f.write_str("\\b")?,
            Some('\t') => f.write_str("\\t")?,
            Some('\n') => f.write_str("\\n")?,
            Some('\u{c}') => f.write_str("\\f")?,
            Some('\r') => f.write_str("\\r")?,
            Some(c) => write!(f, "\\u{:04x}", u32::from(c))?,
            None => {}
        }
        rest = letters.as_str();
    }
    f.write_str(rest)?;
    f.write_char('"')
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
        Ok(Json::Text(text.to_string()))
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
    use std::vec;

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
            "{\"a\":1,\"\\u0061\":2}",
            "{\"a\":{\"b\":1,\"b\":1}}",
            "[1,]",
            "{'a':1}",
            "\"\u{1}\"",
            "\"\\ud800\"",
            "\"\\udc00\\ud800\"",
            "01",
            "+1",
            ".5",
            "nul",
            "\u{feff}{}",
        ] {
            assert!(Json::parse(bad).is_err(), "{bad}");
        }
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(Json::parse(&deep(DEPTH_MAX)).is_ok());
        assert!(Json::parse(&deep(DEPTH_MAX + 1)).is_err());
        assert!(Json::parse(&"[".repeat(100_000)).is_err());
        assert!(Json::parse(&"{\"a\":".repeat(100_000)).is_err());
    }

    #[test]
    fn a_line_that_would_take_much_memory_is_refused() {
        const LINE: usize = 1024 * 1024;
        let many = |item: &str, bytes: usize| {
            format!("[{}]", vec![item; bytes / (item.len() + 1)].join(","))
        };
        for item in ["{\"\":0}", "0", "[]"] {
            let refusal = Json::parse(&many(item, LINE)).unwrap_err();
            assert!(refusal.0.contains("values that need over"), "{item}");
        }
        let event = r#"{"event_type":"x","subject":"y","payload":{"a":1,"b":2,"c":3,"d":4}}"#;
        assert!(Json::parse(&many(event, 1024 * (event.len() + 1))).is_ok());
        // One long text is what a line is for.
        assert!(Json::parse(&format!("\"{}\"", "x".repeat(LINE - 2))).is_ok());
    }

    #[test]
    fn what_was_taken_in_parts_is_read_whole() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        let around =
            |part: &str| format!("{{\"bus\":{{\"seq\":1}},\"headers\":{{}},\"payload\":{part}}}");
        // As a line and a frame could carry them.
        let dear = format!("[{}]", vec!["{\"\":0}"; COST_MAX / 832 - 1].join(","));
        assert!(Json::parse(&dear).is_ok());
        for part in [deep(DEPTH_MAX), dear] {
            let text = around(&part);
            assert!(Json::parse(&text).is_err());
            assert_eq!(payload(&text).as_deref(), Ok(&*text));
        }
        assert!(Json::part(&deep(DEPTH_MAX - AROUND_DEPTH)).is_ok());
        assert!(Json::part(&deep(DEPTH_MAX - AROUND_DEPTH + 1)).is_err());
    }

    fn canonical(text: &str) -> String {
        Json::parse(text).unwrap().to_string()
    }

    /// Sections 3.2.2 to 3.2.4 of RFC 8785.
    #[test]
    fn the_rfc_s_examples() {
        let sample = r#"{
            "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
            "literals": [null, true, false]
        }"#;
        let wanted = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        assert_eq!(canonical(sample), wanted);
        let keys = r#"{
            "\u20ac": "Euro Sign",
            "\r": "Carriage Return",
            "\ufb33": "Hebrew Letter Dalet With Dagesh",
            "1": "One",
            "\ud83d\ude00": "Emoji: Grinning Face",
            "\u0080": "Control",
            "\u00f6": "Latin Small Letter O With Diaeresis"
        }"#;
        let sorted = canonical(keys);
        let order: Vec<usize> = [
            "Carriage Return",
            "One",
            "Control",
            "Latin Small",
            "Euro Sign",
            "Emoji",
            "Hebrew",
        ]
        .iter()
        .map(|name| sorted.find(name).unwrap())
        .collect();
        assert!(order.is_sorted(), "{sorted}");
        assert!(sorted.starts_with("{\"\\r\":"), "{sorted}");
    }

    /// Appendix B of RFC 8785.
    #[test]
    fn the_rfc_s_numbers() {
        for (bits, wanted) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            let number = f64::from_bits(bits);
            assert_eq!(Json::Float(number).to_string(), wanted, "{bits:016x}");
            // Read again it is the same double, or the same whole number.
            assert_eq!(canonical(wanted), wanted, "{bits:016x}");
        }
    }

    #[test]
    fn payloads_are_canonical_objects_whose_numbers_every_reader_has_exactly() {
        let text = "{ \"b\" : [1, -2, 1.50, null, true, 1e2, -0, 5.0], \"a\": {\"z\":\"\\u0041\",\"y\":9007199254740991} }";
        let normal =
            "{\"a\":{\"y\":9007199254740991,\"z\":\"A\"},\"b\":[1,-2,1.5,null,true,100,0,5]}";
        assert_eq!(payload(text).unwrap(), normal);
        assert_eq!(payload(normal).unwrap(), normal);
        assert!(payload("[]").is_err());
        for number in [
            "9007199254740992",
            "-9007199254740992",
            "18446744073709551615",
            "18446744073709551616",
            "9007199254740992.0",
            "1e30",
            "-1e300",
        ] {
            let refused = payload(&format!("{{\"a\":[{{\"n\":{number}}}]}}")).unwrap_err();
            assert!(refused.0.contains("send it as text"), "{refused}");
        }
        assert!(payload("{\"n\":-9007199254740991,\"m\":9007199254740991.0}").is_ok());
    }

    fn any_json() -> impl proptest::strategy::Strategy<Value = Json> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            any::<i32>().prop_map(|n| Json::Signed(n.into())),
            any::<f64>()
                .prop_filter("finite", |n| n.is_finite())
                .prop_map(Json::Float),
            any::<String>().prop_map(Json::Text),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Json::List),
                proptest::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(Json::Object),
            ]
        })
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]

        #[test]
        fn what_is_written_is_read_again_and_written_the_same(json in any_json()) {
            let text = json.to_string();
            proptest::prop_assert_eq!(canonical(&text), text);
        }
    }
}
