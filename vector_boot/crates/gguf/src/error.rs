//! Why a file is refused: which field, what it says, what it may say, where it stands.

use std::borrow::Cow;
use std::fmt;

/// Characters of a name or value that a message repeats; a hostile file must not fill the console.
const QUOTED_CHARS_MAX: usize = 80;

/// A rule of the format that the file breaks.
///
/// Displays as one line of printable ASCII and escaped text, whatever the file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufError {
    /// The field, as `docs/gguf.md` names it: `magic`, `tensor offset`, `array length`, ...
    pub field: &'static str,
    /// The key or tensor that the field belongs to, escaped and cut; empty for the file's own.
    pub subject: String,
    /// What the file says.
    pub value: String,
    /// What it may say.
    pub limit: Cow<'static, str>,
    /// Where the field begins, in bytes from the file's beginning.
    pub offset: u64,
}

impl GgufError {
    pub(crate) fn new(
        field: &'static str,
        offset: u64,
        value: impl fmt::Display,
        limit: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            field,
            subject: String::new(),
            value: value.to_string(),
            limit: limit.into(),
            offset,
        }
    }

    /// Names the key or tensor that the field belongs to.
    pub(crate) fn of(mut self, subject: &[u8]) -> Self {
        self.subject = quoted(subject);
        self
    }
}

/// Text from the file for a message: cut, and escaped so that it stays on its line.
pub(crate) fn quoted(text: &[u8]) -> String {
    // Four bytes a character at most, so this much text holds every character that is shown.
    let seen = text.get(..QUOTED_CHARS_MAX * 4).unwrap_or(text);
    let mut shown: String = String::from_utf8_lossy(seen)
        .chars()
        .take(QUOTED_CHARS_MAX)
        .flat_map(char::escape_default)
        .collect();
    if text.len() > seen.len() || String::from_utf8_lossy(seen).chars().count() > QUOTED_CHARS_MAX {
        shown.push_str("...");
    }
    shown
}

impl fmt::Display for GgufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field)?;
        if !self.subject.is_empty() {
            write!(f, " of {}", self.subject)?;
        }
        write!(
            f,
            " at byte {}: {}; {}",
            self.offset, self.value, self.limit
        )
    }
}

impl std::error::Error for GgufError {}
