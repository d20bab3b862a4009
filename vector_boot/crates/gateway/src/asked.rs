//! The query of a URL below `/v1/ledger`, as members of the ledger's calls.
//!
//! Pure. Values that are no text of a filter are numbers; what is not known is refused, as everywhere. Start with [`of`].

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Longest query: a filter of each kind, with room.
const QUERY_BYTES_MAX: usize = 4096;
/// What may be asked of `/v1/ledger/events` beside filters.
const RANGE: [&str; 3] = ["from", "limit", "order"];
/// Filters whose value is an event's id.
const IDS: [&str; 2] = ["causation", "causation_id"];
/// Filters whose value is a text.
const TEXTS: [&str; 5] = ["actor", "event_type", "ns", "subject", "type"];

/// A query, decoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked(BTreeMap<String, String>);

/// Reads `name=value&name=value`, percent-encoded.
///
/// # Errors
/// What is wrong: encoding, a name that comes twice, length.
pub fn of(query: &str) -> Result<Asked, String> {
    if query.len() > QUERY_BYTES_MAX {
        return Err(format!("query: over {QUERY_BYTES_MAX} bytes"));
    }
    let mut asked = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name)?;
        let value = decoded(value)?;
        if asked.insert(name, value).is_some() {
            return Err("query: a name comes twice".to_owned());
        }
    }
    Ok(Asked(asked))
}

impl Asked {
    /// For a call without members.
    ///
    /// # Errors
    /// Anything was asked for.
    pub fn nothing(self) -> Result<Map<String, Value>, String> {
        self.numbers(&[])
    }

    /// Members that are numbers.
    ///
    /// # Errors
    /// Another name, or no number.
    pub fn numbers(self, names: &[&str]) -> Result<Map<String, Value>, String> {
        let mut members = Map::new();
        for (name, value) in self.0 {
            if !names.contains(&name.as_str()) {
                return Err(unknown(names));
            }
            let number = number(&name, &value)?;
            members.insert(name, number);
        }
        Ok(members)
    }

    /// Members of a query for events.
    ///
    /// # Errors
    /// Another name, or no number where one is needed.
    pub fn events(self) -> Result<Map<String, Value>, String> {
        let (mut members, mut filters) = (Map::new(), Map::new());
        for (name, value) in self.0 {
            let known = name.as_str();
            if known == "order" {
                members.insert(name, value.into());
            } else if RANGE.contains(&known) {
                let number = number(&name, &value)?;
                members.insert(name, number);
            } else if IDS.contains(&known) {
                let number = number(&name, &value)?;
                filters.insert(name, number);
            } else if TEXTS.contains(&known) {
                filters.insert(name, value.into());
            } else {
                return Err(unknown(&[&RANGE[..], &IDS, &TEXTS].concat()));
            }
        }
        members.insert("filters".to_owned(), filters.into());
        Ok(members)
    }

    /// Members of a query for one event.
    ///
    /// # Errors
    /// Anything was asked for.
    pub fn event(self, id: u64) -> Result<Map<String, Value>, String> {
        let mut members = self.nothing()?;
        members.insert("from".to_owned(), id.into());
        members.insert("limit".to_owned(), 1.into());
        Ok(members)
    }
}

fn unknown(names: &[&str]) -> String {
    match names {
        [] => "query: nothing can be asked for here".to_owned(),
        names => format!("query: expected one of {}", names.join(" ")),
    }
}

fn number(name: &str, value: &str) -> Result<Value, String> {
    let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let number = value.parse::<u64>().ok().filter(|_| plain);
    number
        .map(Value::from)
        .ok_or_else(|| format!("{name}: a number from 0 on is needed"))
}

fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                let both = high.zip(low).map(|(high, low)| high * 16 + low);
                let byte = both.and_then(|byte| u8::try_from(byte).ok());
                byte.ok_or("query: % and two hexadecimal digits are needed")?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).map_err(|_| "query: UTF-8 is needed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_query_becomes_the_members_of_a_call() {
        let asked = of("from=7&limit=2&order=desc&actor=user%3Ax&subject=a+b&causation_id=3");
        assert_eq!(
            Value::Object(asked.unwrap().events().unwrap()),
            json!({"from": 7, "limit": 2, "order": "desc",
                "filters": {"actor": "user:x", "subject": "a b", "causation_id": 3}})
        );
        let one = of("").unwrap().event(9).unwrap();
        assert_eq!(Value::Object(one), json!({"from": 9, "limit": 1}));
        let proof = of("event_id=1").unwrap().numbers(&["event_id"]).unwrap();
        assert_eq!(Value::Object(proof), json!({"event_id": 1}));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for query in [
            "from=1&from=2",
            "from=-1",
            "from=18446744073709551616",
            "from=",
            "tenant_id=other",
            "as=x",
            "actor=%",
            "actor=%2",
            "actor=%zz",
            "actor=%ff",
        ] {
            let refused = of(query).and_then(Asked::events);
            assert!(refused.is_err(), "{query}: {refused:?}");
        }
        assert!(of("x=1").unwrap().nothing().is_err());
        assert!(of(&"a=1&".repeat(2000)).is_err());
    }
}
