//! drill
#![forbid(unsafe_code)]
fn main() {}
