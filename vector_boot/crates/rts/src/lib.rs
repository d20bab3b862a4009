//! The RTS package format and the service manifest.
