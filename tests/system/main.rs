//! The product on the host: the same runtime as an ordinary process, and the tools for packages and models.
#![forbid(unsafe_code)]

mod ordinary;
mod packages;
