//! The product on the host: the same runtime as an ordinary process, the tools for packages and models, the library.
#![forbid(unsafe_code)]

mod attacks;
mod bare;
mod c_abi;
mod crashes;
mod evolution;
mod floods;
mod frames;
mod jail;
mod ledger;
mod notify;
mod ordinary;
mod packages;
mod python;
mod upgrades;
