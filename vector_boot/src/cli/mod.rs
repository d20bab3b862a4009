//! Command lines of the host-facing roles; each parses its words and calls its room.

pub mod ctl;
pub mod gguf;
pub mod initramfs;
pub mod rts;
