//! The `net` role: links, addresses and routes, from the kernel parameter `vb.net`; the time, from
//! `vb.ntp`.
//!
//! Owns the interfaces and the folder `VB_RUN/net` with `resolv.conf` and `status.json`. One thread,
//! one epoll; decisions are in pure modules: `links` (which one), `dhcp` (whose address), `sntp`
//! (what time). Must never: sleep, resolve names, set the clock itself (PID 1 is asked, which judges
//! and has its helper do it). Everything that is read from a link is hostile.
//! Start with [`run::Role::run`]; `docs/network.md` is for people.

mod apply;
mod dhcp;
mod links;
mod packet;
pub mod plan;
mod quota;
mod resolv;
mod run;
mod sntp;
mod status;

use plan::{Ntp, Plan};
use std::process::ExitCode;

/// Sets the links up and keeps watch.
pub fn main(_words: &[std::ffi::OsString]) -> ExitCode {
    sys::process::set_name("net");
    // PID 1 has held both against their rules; what is wrong here closes rather than opens.
    let plan = plan::parse(&std::env::var("VB_NET").unwrap_or_default()).unwrap_or_else(|limit| {
        eprintln!("<3>net: VB_NET, limit {limit}");
        Plan::Off
    });
    let ntp =
        plan::parse_ntp(&std::env::var("VB_NTP").unwrap_or_default()).unwrap_or_else(|limit| {
            eprintln!("<3>net: VB_NTP, limit {limit}");
            Ntp::Off
        });
    match run::Role::open(plan, ntp).and_then(|mut role| role.run()) {
        Ok(never) => match never {},
        Err(e) => {
            // PID 1 starts us again; the kernel keeps the address as long as the lease lasts.
            eprintln!("<3>net: {e}");
            ExitCode::FAILURE
        }
    }
}
