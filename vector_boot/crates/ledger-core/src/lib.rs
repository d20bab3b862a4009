//! Event frames, the hash chain and its verification.
