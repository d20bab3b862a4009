//! Opaque tokens: random texts of which only the hash is kept.
//!
//! The boot token is one, long-lived named tokens are others. A text is hashed (BLAKE3) and the hash
//! compared with every entry in constant time, so neither the table nor timing gives a token away.

/// Tokens at once; each check compares with all of them.
pub const TOKENS_MAX: usize = 64;
/// Shortest token text in characters: 128 bits in hex.
pub const TEXT_BYTES_MIN: usize = 32;

/// Who an opaque token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The ledger's actor, `agent:boot`.
    pub actor: Box<str>,
    /// The tenant.
    pub tenant: Box<str>,
    /// Permission bits.
    pub permissions: u32,
    /// The lease that it spends from, with the generation it was bound to.
    pub slot: u32,
    /// Generation of that lease; a revoked lease has another.
    pub generation: u32,
    /// When it ends, milliseconds since boot; `None` for never.
    pub expires_ms: Option<u64>,
}

/// Why a token is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpaqueError {
    /// Fewer than [`TEXT_BYTES_MIN`] characters.
    Short(usize),
    /// The table holds [`TOKENS_MAX`].
    Full,
}

impl std::fmt::Display for OpaqueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short(n) => write!(f, "token of {n} characters: at least {TEXT_BYTES_MIN}"),
            Self::Full => write!(f, "opaque tokens: at most {TOKENS_MAX}"),
        }
    }
}

impl std::error::Error for OpaqueError {}

/// Hashes of tokens and whom they speak for.
#[derive(Debug, Clone, Default)]
pub struct Opaque(Vec<(blake3::Hash, Bearer)>);

impl Opaque {
    /// Keeps a token's hash; a token that is there already gets the new bearer.
    ///
    /// # Errors
    /// [`OpaqueError`].
    pub fn insert(&mut self, text: &str, bearer: Bearer) -> Result<(), OpaqueError> {
        if text.len() < TEXT_BYTES_MIN {
            return Err(OpaqueError::Short(text.len()));
        }
        let hash = blake3::hash(text.as_bytes());
        self.0.retain(|(kept, _)| *kept != hash);
        if self.0.len() >= TOKENS_MAX {
            return Err(OpaqueError::Full);
        }
        self.0.push((hash, bearer));
        Ok(())
    }

    /// Who a token speaks for, expired or not.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&Bearer> {
        let hash = blake3::hash(text.as_bytes());
        // blake3::Hash compares in constant time; every entry is looked at.
        let mut found = None;
        for (kept, bearer) in &self.0 {
            if *kept == hash {
                found = Some(bearer);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(actor: &str) -> Bearer {
        Bearer {
            actor: actor.into(),
            tenant: "default".into(),
            permissions: 1,
            slot: 0,
            generation: 1,
            expires_ms: None,
        }
    }

    #[test]
    fn a_token_is_found_by_its_whole_text_only() {
        let text = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let mut table = Opaque::default();
        table.insert(text, bearer("agent:boot")).unwrap();
        assert_eq!(&*table.find(text).unwrap().actor, "agent:boot");
        for at in 0..text.len() {
            let mut other = text.as_bytes().to_vec();
            other[at] ^= 1;
            assert!(table.find(std::str::from_utf8(&other).unwrap()).is_none());
            assert!(table.find(&text[..at]).is_none());
        }
        table.insert(text, bearer("agent:other")).unwrap();
        assert_eq!(&*table.find(text).unwrap().actor, "agent:other");
    }

    #[test]
    fn the_table_is_bounded_and_refuses_what_can_be_guessed() {
        let mut table = Opaque::default();
        assert_eq!(
            table.insert("short", bearer("a")),
            Err(OpaqueError::Short(5))
        );
        for i in 0..TOKENS_MAX {
            table.insert(&format!("{i:064}"), bearer("a")).unwrap();
        }
        assert_eq!(
            table.insert(&"x".repeat(64), bearer("a")),
            Err(OpaqueError::Full)
        );
    }
}
