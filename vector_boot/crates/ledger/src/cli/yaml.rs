//! The YAML that a fold's definition may be written in: mappings by indentation, lists of scalars, and
//! scalars; everything else of YAML is refused by line.
//!
//! A library would read anchors, tags, several documents and words that turn into booleans; a definition
//! that is hashed should have one meaning. So a plain scalar is text, unless it is a whole number,
//! `true`, `false` or `null`.

use crate::json::Json;
use std::collections::BTreeMap;

/// Deepest indentation; a definition needs four.
const DEPTH_MAX: usize = 16;

/// Why a text is not taken.
#[derive(Debug, PartialEq, Eq)]
pub struct YamlError {
    line: usize,
    why: &'static str,
}

impl std::fmt::Display for YamlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

struct Line<'t> {
    number: usize,
    indent: usize,
    text: &'t str,
}

/// Reads a text.
///
/// # Errors
/// [`YamlError`] with the line.
pub fn parse(text: &str) -> Result<Json, YamlError> {
    let mut lines = Vec::new();
    for (number, raw) in (1..).zip(text.lines()) {
        let content = raw.trim_start_matches(' ');
        let fail = |why| YamlError { line: number, why };
        if content.starts_with('\t') {
            return Err(fail("a tab in the indentation"));
        }
        if content.trim_end().is_empty() || content.starts_with('#') {
            continue;
        }
        if content == "---" || content == "..." || content.starts_with('%') {
            return Err(fail("one document alone, without a directive"));
        }
        lines.push(Line {
            number,
            indent: raw.len() - content.len(),
            text: content.trim_end(),
        });
    }
    let mut rest = lines.as_slice();
    let value = block(&mut rest, 0)?;
    match rest.first() {
        None => Ok(value),
        Some(line) => Err(error(line, "not indented as what it belongs to")),
    }
}

fn error(line: &Line<'_>, why: &'static str) -> YamlError {
    YamlError {
        line: line.number,
        why,
    }
}

/// The mapping or list with which `rest` begins.
fn block(rest: &mut &[Line<'_>], depth: usize) -> Result<Json, YamlError> {
    let Some(first) = rest.first() else {
        return Err(YamlError {
            line: 0,
            why: "nothing there",
        });
    };
    if depth > DEPTH_MAX {
        return Err(error(first, "nested too deep"));
    }
    if first.text.starts_with("- ") {
        return list(rest, first.indent);
    }
    let indent = first.indent;
    let mut members = BTreeMap::new();
    while let Some(line) = rest.first().filter(|line| line.indent == indent) {
        let (key, value) = member(line)?;
        *rest = rest.get(1..).unwrap_or_default();
        let value = match value {
            "" if rest.first().is_some_and(|next| {
                next.indent > indent || (next.indent == indent && next.text.starts_with("- "))
            }) =>
            {
                block(rest, depth + 1)?
            }
            "" => return Err(error(line, "a value")),
            text => scalar(line, text)?,
        };
        if members.insert(key, value).is_some() {
            return Err(error(line, "the key is there already"));
        }
    }
    Ok(Json::Object(members))
}

fn list(rest: &mut &[Line<'_>], indent: usize) -> Result<Json, YamlError> {
    let mut items = Vec::new();
    while let Some(line) = rest.first().filter(|line| line.indent == indent) {
        let Some(text) = line.text.strip_prefix("- ") else {
            break;
        };
        *rest = rest.get(1..).unwrap_or_default();
        items.push(scalar(line, text.trim())?);
    }
    Ok(Json::List(items))
}

fn member<'t>(line: &Line<'t>) -> Result<(String, &'t str), YamlError> {
    let (key, value) = match line.text.split_once(": ") {
        Some((key, value)) => (key, value.trim()),
        None => match line.text.strip_suffix(':') {
            Some(key) => (key, ""),
            None => return Err(error(line, "KEY: VALUE")),
        },
    };
    match scalar(line, key)? {
        Json::Text(key) => Ok((key, uncommented(value))),
        _ => Err(error(line, "a key that is text")),
    }
}

/// A comment behind a value begins with a blank and `#`; texts with one in them are quoted.
fn uncommented(value: &str) -> &str {
    if value.starts_with(['"', '\'']) {
        return value;
    }
    if value.starts_with('#') {
        return "";
    }
    value.split(" #").next().unwrap_or_default().trim_end()
}

fn scalar(line: &Line<'_>, text: &str) -> Result<Json, YamlError> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner
            .strip_suffix(']')
            .ok_or_else(|| error(line, "a list ends with ]"))?;
        let items = inner
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        return items
            .map(|item| flat(line, item))
            .collect::<Result<_, _>>()
            .map(Json::List);
    }
    flat(line, text)
}

fn flat(line: &Line<'_>, text: &str) -> Result<Json, YamlError> {
    if text.starts_with('"') {
        // YAML's double quotes are JSON's, and more that is refused here.
        return match Json::parse(text) {
            Ok(text @ Json::Text(_)) => Ok(text),
            _ => Err(error(line, "a text in quotes as JSON has them, alone")),
        };
    }
    if let Some(inner) = text.strip_prefix('\'') {
        let inner = inner
            .strip_suffix('\'')
            .filter(|inner| !inner.contains('\''));
        return inner
            .map(Json::from)
            .ok_or_else(|| error(line, "a quote that ends"));
    }
    if text.starts_with([
        '&', '*', '!', '|', '>', '{', '[', ']', '}', '%', '@', '`', '?', ',',
    ]) {
        return Err(error(
            line,
            "no anchor, tag, block text or mapping in a line",
        ));
    }
    if text.contains(": ") || text.contains(" #") {
        return Err(error(line, "quotes around a text with a colon or a #"));
    }
    Ok(match Json::parse(text) {
        Ok(plain @ (Json::Unsigned(_) | Json::Signed(_) | Json::Bool(_) | Json::Null)) => plain,
        _ => Json::from(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_definition_means_its_json() {
        let yaml = "# accounts\nfields:\n  accounts:   # by name\n    reducer: map-join-lww\n    events: [set, \"custom(x)\"]\n    key: /account\n    value: ''\n  tags:\n    reducer: set-or\n    removes:\n    - removed\n    - 'gone'\n    n: -7\n    yes: no\n    t: true\n";
        let json = r#"{"fields":{"accounts":{"events":["set","custom(x)"],"key":"/account","reducer":"map-join-lww","value":""},"tags":{"n":-7,"reducer":"set-or","removes":["removed","gone"],"t":true,"yes":"no"}}}"#;
        assert_eq!(parse(yaml).unwrap().to_string(), json);
    }

    #[test]
    fn what_has_more_than_one_meaning_is_refused_by_line() {
        for (yaml, line) in [
            ("", 0),
            ("a: 1\n---\nb: 2", 2),
            ("a: &x 1", 1),
            ("a: *x", 1),
            ("a: !!str 1", 1),
            ("a: |\n  text", 1),
            ("a: {b: 1}", 1),
            ("a: 1\na: 2", 2),
            ("a:\n\tb: 1", 2),
            ("a:\nb: 1", 1),
            ("a: 1\n   b: 1", 2),
            ("a: b: c", 1),
            ("a: \"x\" # y", 1),
            ("just text", 1),
            ("a: [b", 1),
            ("- a: 1", 1),
        ] {
            assert_eq!(parse(yaml).map_err(|e| e.line), Err(line), "{yaml:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ab:#'\"\\[\\]{}&*|,\\- \\n\\t0-9]{0,80}") {
            let _ = parse(&text);
        }
    }
}
