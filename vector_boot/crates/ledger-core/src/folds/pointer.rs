//! JSON pointers (RFC 6901): where in a payload a value lies.

use crate::json::Json;
use alloc::string::{String, ToString};

/// Whether the text is a pointer.
#[must_use]
pub fn is_pointer(text: &str) -> bool {
    let escapes = text
        .split('~')
        .skip(1)
        .all(|rest| rest.starts_with(['0', '1']));
    escapes && (text.is_empty() || text.starts_with('/'))
}

/// The value at a pointer.
#[must_use]
pub fn find<'j>(json: &'j Json, pointer: &str) -> Option<&'j Json> {
    let mut at = json;
    for token in pointer.split('/').skip(1) {
        at = match at {
            Json::Object(members) => members.get(&unescaped(token))?,
            Json::List(items) => items.get(index(token)?)?,
            _ => return None,
        };
    }
    Some(at)
}

fn unescaped(token: &str) -> String {
    if token.contains('~') {
        token.replace("~1", "/").replace("~0", "~")
    } else {
        token.to_string()
    }
}

fn index(token: &str) -> Option<usize> {
    let digits = token == "0" || token.starts_with(|c: char| ('1'..='9').contains(&c));
    token.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_6901() {
        let json = Json::parse(
            r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}"#,
        )
        .unwrap();
        for (pointer, value) in [
            ("/foo", r#"["bar","baz"]"#),
            ("/foo/0", "\"bar\""),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            assert!(is_pointer(pointer));
            assert_eq!(
                find(&json, pointer).unwrap().to_string(),
                value,
                "{pointer}"
            );
        }
        assert_eq!(find(&json, ""), Some(&json));
        for none in ["/foo/2", "/foo/00", "/foo/+1", "/bar", "/foo/0/x"] {
            assert_eq!(find(&json, none), None, "{none}");
        }
        for bad in ["foo", "/a~2", "/~"] {
            assert!(!is_pointer(bad), "{bad}");
        }
    }
}
