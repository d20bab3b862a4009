//! stub
use crate::committer::Ledger;
use std::os::unix::net::UnixStream;
/// Serves.
pub fn serve(_socket: UnixStream, _ledger: &Ledger) {}
