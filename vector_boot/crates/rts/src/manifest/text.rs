//! Bounded texts of the manifest: each type proves its length and its alphabet.
//!
//! A value of these types came through [`Name::new`] (or its sibling), whether from TOML or from postcard,
//! so nobody checks it again. They hold their bytes inline and never allocate.

use core::fmt;

use heapless::String as Fixed;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest [`Name`]: fits a section table entry, a cgroup folder and `LISTEN_FDNAMES` with room to spare.
pub const NAME_BYTES_MAX: usize = 32;
/// Longest [`Word`]: an argument is a path, an address or a flag, not a document.
pub const WORD_BYTES_MAX: usize = 128;
/// Longest [`Address`]: `[` + 39 + `]:65535` for IPv6, and under the 108 bytes of `sun_path` with its folder.
pub const ADDRESS_BYTES_MAX: usize = 64;

macro_rules! bounded_text {
    ($(#[$doc:meta])* $name:ident, $max:ident, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(Fixed<$max, u8>);

        impl $name {
            /// What a valid text looks like, for error messages.
            pub const RULE: &'static str = $rule;

            /// Takes `text` if it keeps the rule; `None` says that it does not.
            pub fn new(text: &str) -> Option<Self> {
                let valid: fn(&[u8]) -> bool = $valid;
                if !valid(text.as_bytes()) {
                    return None;
                }
                Fixed::try_from(text).ok().map(Self)
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl core::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                self.as_str()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Fixed::<$max, u8>::deserialize(deserializer)?;
                Self::new(text.as_str()).ok_or_else(|| D::Error::custom(Self::RULE))
            }
        }
    };
}

bounded_text!(
    /// The name of a service, an added file, a root or the machine.
    Name,
    NAME_BYTES_MAX,
    "1 to 32 of a-z, 0-9 and -, beginning with a letter or digit",
    |bytes| bytes.first().is_some_and(|b| *b != b'-')
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
);

impl Name {
    /// The name of a machine that has no other; short enough by sight, so it cannot fail.
    pub(super) fn fallback() -> Self {
        Self(Fixed::try_from("vector").unwrap_or_default())
    }
}

bounded_text!(
    /// The name of a descriptor in `LISTEN_FDNAMES`, and of a socket file in the run folder.
    FdName,
    NAME_BYTES_MAX,
    "1 to 32 of a-z, 0-9, - and ., beginning with a letter or digit",
    |bytes| bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
);

bounded_text!(
    /// A kernel parameter's key.
    Key,
    NAME_BYTES_MAX,
    "vb. and up to 29 of a-z, 0-9, _ and .",
    |bytes| bytes.strip_prefix(b"vb.").is_some_and(|rest| !rest.is_empty())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.'))
);

bounded_text!(
    /// One argument, path or parameter value.
    Word,
    WORD_BYTES_MAX,
    "up to 128 bytes without control characters",
    |bytes| bytes.iter().all(|b| !b.is_ascii_control())
);

bounded_text!(
    /// Where a service listens: `ADDR:PORT` for TCP, a file name in the run folder for Unix sockets.
    Address,
    ADDRESS_BYTES_MAX,
    "1 to 64 printable bytes without space or /",
    |bytes| !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_graphic() && *b != b'/')
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_alphabet_or_the_length_are_refused() {
        for bad in ["", "-a", "A", "a_b", "a.b", "a b", "ä", &"a".repeat(33)] {
            assert!(Name::new(bad).is_none(), "{bad:?}");
        }
        assert_eq!(Name::new(&"a".repeat(32)).map(|n| n.len()), Some(32));
        assert_eq!(Name::new("0-a").as_deref(), Some("0-a"));
    }

    #[test]
    fn a_descriptor_name_cannot_split_the_list_of_names_or_leave_its_folder() {
        for bad in ["a:b", "a/b", "..", ".x", ""] {
            assert!(FdName::new(bad).is_none(), "{bad:?}");
        }
        assert!(FdName::new("root.work").is_some());
    }

    #[test]
    fn decoding_applies_the_same_rule_as_new() {
        let bytes = postcard::to_extend("a_b", Vec::new()).unwrap();
        assert!(postcard::from_bytes::<Name>(&bytes).is_err());
        assert!(postcard::from_bytes::<Word>(&bytes).is_ok());
    }
}
