//! C ABI and composition.
