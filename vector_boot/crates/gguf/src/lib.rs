//! A bounds-checked, zero-copy index of GGUF files.
