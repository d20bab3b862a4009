//! Names of tenants and workloads: short, printable, safe in logs, paths of metrics and JSON.

/// Longest name in bytes: two of them keep a token's text under 300 characters.
pub const NAME_BYTES_MAX: usize = 64;

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Empty, or over [`NAME_BYTES_MAX`] bytes.
    Length(usize),
    /// A byte at this offset is not a letter, a digit or one of `. _ - : /`.
    Byte {
        /// Where.
        offset: usize,
        /// What.
        found: u8,
    },
}

impl std::fmt::Display for NameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length(n) => write!(f, "name of {n} bytes: 1 to {NAME_BYTES_MAX}"),
            Self::Byte { offset, found } => write!(
                f,
                "name byte {found:#04x} at {offset}: letters, digits and . _ - : /"
            ),
        }
    }
}

impl std::error::Error for NameError {}

/// Checks a name.
///
/// # Errors
/// [`NameError`].
pub fn check(text: &str) -> Result<&str, NameError> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(NameError::Length(text.len()));
    }
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"._-:/".contains(&b);
    match text.bytes().enumerate().find(|(_, b)| !fine(*b)) {
        Some((offset, found)) => Err(NameError::Byte { offset, found }),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        assert!(check("payment-service").is_ok());
        assert_eq!(check(""), Err(NameError::Length(0)));
        assert_eq!(check(&"x".repeat(65)), Err(NameError::Length(65)));
        assert_eq!(
            check("a b"),
            Err(NameError::Byte {
                offset: 1,
                found: b' '
            })
        );
        assert!(check("a\n").is_err() && check("é").is_err() && check("a\"").is_err());
    }
}
