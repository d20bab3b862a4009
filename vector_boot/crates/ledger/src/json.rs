//! JSON of both sockets: `ledger_core::json`, with refusals.

use crate::refusal::Refusal;
pub use ledger_core::json::Json;
use ledger_core::json::JsonError;

/// Longest line, as the protocol fixes.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;

impl From<JsonError> for Refusal {
    fn from(e: JsonError) -> Self {
        Self::bad("json", &e.0)
    }
}

/// The text of a payload, canonical.
///
/// # Errors
/// `BAD_REQUEST` if it is no object, or holds a number that not every reader has exactly.
pub fn payload_text(json: &Json) -> Result<String, Refusal> {
    match json {
        Json::Object(_) => json.payload().map_err(|e| Refusal::bad("payload", &e.0)),
        _ => Err(Refusal::bad("payload", "an object")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_wire_and_the_log_have_one_largest_number() {
        assert_eq!(wire::ledger::NUMBER_MAX, ledger_core::json::INTEGER_MAX);
    }
}
