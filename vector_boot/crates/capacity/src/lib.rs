//! The capacity kernel service.
