//! System calls: every one that the rooms make, and every `unsafe` block outside the C ABI.
//!
//! Owns nothing for long: each module wraps one kernel facility in types that cannot be misused.
//! Policy never lives here. Start with the module named after the facility.

pub mod beneath;
pub mod blockdev;
pub mod capability;
pub mod clock;
pub mod descriptor;
pub mod events;
pub mod folder;
pub mod handover;
pub mod inherit;
pub mod kernel_log;
pub mod link_socket;
pub mod machine;
pub mod mapping;
pub mod memfd;
pub mod namespace;
pub mod netlink;
pub mod packet;
pub mod park;
pub mod power_button;
pub mod process;
pub mod random;
pub mod reclaim;
pub mod region;
pub mod release;
pub mod seccomp;
pub mod secret;
pub mod seqlock;
pub mod shared;
pub mod space;
pub mod spawn;
pub mod terminal;
pub mod watchdog;
