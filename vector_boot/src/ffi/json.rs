//! A metadata value as JSON, written piece by piece: nothing is copied, however long the value.
//!
//! Owns: the form, the same as `vector_boot gguf inspect --json --full` prints. Never here: limits of the format,
//! which bound the depth of arrays to eight. Start with [`write`].

use gguf::{Text, Value};
use std::fmt::{self, Write};

/// Writes one value. Floats keep a point or an exponent, so that a reader gives the type back.
pub fn write(value: &Value<'_>, out: &mut impl Write) -> fmt::Result {
    match value {
        Value::U8(n) => write!(out, "{n}"),
        Value::I8(n) => write!(out, "{n}"),
        Value::U16(n) => write!(out, "{n}"),
        Value::I16(n) => write!(out, "{n}"),
        Value::U32(n) => write!(out, "{n}"),
        Value::I32(n) => write!(out, "{n}"),
        Value::U64(n) => write!(out, "{n}"),
        Value::I64(n) => write!(out, "{n}"),
        Value::Bool(truth) => write!(out, "{truth}"),
        // Rust's shortest digits that give the same number again, which JSON reads too.
        Value::F32(n) if n.is_finite() => write!(out, "{n:?}"),
        Value::F64(n) if n.is_finite() => write!(out, "{n:?}"),
        Value::F32(n) => out.write_str(not_finite(f64::from(*n))),
        Value::F64(n) => out.write_str(not_finite(*n)),
        Value::String(text) => string(*text, out),
        Value::Array(array) => {
            out.write_char('[')?;
            for (place, element) in array.iter().enumerate() {
                if place > 0 {
                    out.write_char(',')?;
                }
                write(&element, out)?;
            }
            out.write_char(']')
        }
    }
}

/// Writes an array of strings.
pub fn texts<'a>(texts: impl Iterator<Item = &'a str>, out: &mut impl Write) -> fmt::Result {
    out.write_char('[')?;
    for (place, text) in texts.enumerate() {
        if place > 0 {
            out.write_char(',')?;
        }
        string(Text(text.as_bytes()), out)?;
    }
    out.write_char(']')
}

/// JSON has no such numbers; these are the names that JavaScript and Python know them by, as strings.
fn not_finite(n: f64) -> &'static str {
    match n {
        n if n.is_nan() => "\"NaN\"",
        n if n > 0.0 => "\"Infinity\"",
        _ => "\"-Infinity\"",
    }
}

/// U+FFFD stands for what is not UTF-8.
pub fn string(text: Text<'_>, out: &mut impl Write) -> fmt::Result {
    out.write_char('"')?;
    for chunk in text.as_bytes().utf8_chunks() {
        escaped(chunk.valid(), out)?;
        if !chunk.invalid().is_empty() {
            out.write_char('\u{fffd}')?;
        }
    }
    out.write_char('"')
}

/// Escapes what RFC 8259 (7) says must be: quote, backslash, and characters below a blank.
fn escaped(text: &str, out: &mut impl Write) -> fmt::Result {
    let mut rest = text;
    while let Some(at) = rest.find(|c| c < ' ' || c == '"' || c == '\\') {
        let (plain, from) = rest.split_at(at);
        out.write_str(plain)?;
        let mut characters = from.chars();
        match characters.next() {
            Some(c @ ('"' | '\\')) => write!(out, "\\{c}")?,
            Some(c) => write!(out, "\\u{:04x}", u32::from(c))?,
            None => {}
        }
        rest = characters.as_str();
    }
    out.write_str(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(value: &Value<'_>) -> serde_json::Value {
        let mut out = String::new();
        write(value, &mut out).unwrap();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{out}: {error}"))
    }

    #[test]
    fn numbers_keep_their_value_and_their_kind() {
        assert_eq!(json(&Value::U64(u64::MAX)), u64::MAX);
        assert_eq!(json(&Value::I64(i64::MIN)), i64::MIN);
        assert_eq!(json(&Value::Bool(true)), true);
        let one = json(&Value::F32(1.0));
        assert!(one.is_f64());
        for n in [f32::MIN_POSITIVE, f32::MAX, -0.1, 1e-40, 16_777_216.0] {
            assert_eq!(json(&Value::F32(n)).as_f64().unwrap() as f32, n);
        }
        assert_eq!(json(&Value::F64(f64::NEG_INFINITY)), "-Infinity");
        assert_eq!(json(&Value::F32(f32::NAN)), "NaN");
    }

    #[test]
    fn broken_text_is_shown_and_arrays_nest() {
        assert_eq!(
            json(&Value::String(Text(b"a\xff\"\\\x00\n"))),
            "a\u{fffd}\"\\\0\n"
        );
        let inner = [1u8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0xff, 7];
        let file = gguf::writer::Writer::new()
            .array("a", gguf::ValueType::Array, 1, &inner)
            .array("e", gguf::ValueType::U8, 0, &[])
            .finish()
            .unwrap();
        let index = gguf::Index::parse(&file).unwrap();
        assert_eq!(
            json(&index.get("a").unwrap()),
            serde_json::json!([[-1i8, 7]])
        );
        assert_eq!(json(&index.get("e").unwrap()), serde_json::json!([]));
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "\\PC*|[\\x00-\\x7f]*") {
            prop_assert_eq!(json(&Value::String(Text(text.as_bytes()))), text);
        }

        #[test]
        fn any_f64_comes_back(n in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            // Read by Rust: serde_json's own reader may be off by the last bit.
            let mut out = String::new();
            write(&Value::F64(n), &mut out).unwrap();
            prop_assert_eq!(out.parse::<f64>().unwrap(), n);
        }
    }
}
