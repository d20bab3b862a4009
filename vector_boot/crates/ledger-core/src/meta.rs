//! The small flat object with which the payload of a plane's event begins: what the plane itself reads.
//!
//! `{"bus":{"qos":"exactly_once","seq":7},"headers":{},"payload":...}`: numbers from 0 on, and texts
//! without quotes, escapes, commas or braces. So a plane takes an event in without parsing, or holding,
//! the megabyte that may follow. Its name sorts before all other members of the payload.

/// A payload's first member, which is a flat object.
#[derive(Debug, Clone, Copy)]
pub struct Meta<'a>(&'a str);

impl<'a> Meta<'a> {
    /// The object under `name`, if the payload begins with it.
    #[must_use]
    pub fn of(payload: &'a str, name: &str) -> Option<Self> {
        let rest = payload.strip_prefix("{\"")?.strip_prefix(name)?;
        let (inner, _) = rest.strip_prefix("\":{")?.split_once('}')?;
        Some(Self(inner))
    }

    fn value(&self, key: &str) -> Option<&'a str> {
        let of_pair = |pair: &'a str| {
            pair.strip_prefix('"')?
                .strip_prefix(key)?
                .strip_prefix("\":")
        };
        self.0.split(',').find_map(of_pair)
    }

    /// A number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.value(key)?.parse().ok()
    }

    /// A text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.value(key)?.strip_prefix('"')?.strip_suffix('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_member_is_read() {
        let payload = r#"{"bus":{"consumer":"a/b:c;d","qos":"x","seq":18446744073709551615},"headers":{"seq":1,"ttl":2}}"#;
        let meta = Meta::of(payload, "bus").unwrap();
        assert_eq!(meta.number("seq"), Some(u64::MAX));
        assert_eq!(meta.text("consumer"), Some("a/b:c;d"));
        assert_eq!(meta.number("ttl"), None);
        assert_eq!(meta.number("qos"), None);
        for other in [
            "{}",
            "",
            r#"{"a":1,"bus":{"seq":1}}"#,
            r#"{"bus":{"seq":1"#,
            r#"{"bus":7}"#,
        ] {
            assert!(Meta::of(other, "bus").is_none(), "{other}");
        }
    }
}
