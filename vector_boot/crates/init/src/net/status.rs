//! How the network is, as one JSON object in `VB_RUN/net/status.json`: the console's `net` reads it.
//!
//! Pure. Times are CLOCK_MONOTONIC, so that a reader can say what is left without asking us.

use super::dhcp::lease::Lease;
use crate::state::Json;
use std::fmt::{Display, Write as _};
use sys::netlink::Link;

/// What is counted since the role's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// DHCP messages sent.
    pub sent: u64,
    /// Packets to the DHCP client's port.
    pub received: u64,
    /// Of these, those that were refused or had something left out.
    pub refused: u64,
    /// Leases begun or renewed.
    pub leases: u64,
    /// Addresses that a server refused, that somebody else had, or that ended.
    pub lost: u64,
    /// Changes of links.
    pub link_changes: u64,
    /// Questions to time servers.
    pub ntp_sent: u64,
    /// Times that were found.
    pub ntp_found: u64,
}

/// What is known of the clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Time {
    /// Who is asked.
    pub servers: Vec<String>,
    /// What was found last.
    pub found: Option<super::sntp::Found>,
    /// The clock was this far behind then.
    pub offset_ns: i64,
    /// How PID 1 took it: `set`, `refused: ...`; empty before.
    pub outcome: String,
}

/// Everything that is shown.
#[derive(Debug)]
pub struct Facts<'a> {
    /// `off`, `dhcp`, `static`.
    pub plan: &'a str,
    /// The link in use.
    pub link: Option<&'a Link>,
    /// All of them.
    pub links: Vec<&'a Link>,
    /// Where the DHCP client is; empty without one.
    pub state: &'a str,
    /// `ADDR/LEN`; empty without one.
    pub address: String,
    /// The lease in use.
    pub lease: Option<&'a Lease>,
    /// Routers of a fixed address.
    pub routers: Vec<String>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Routes as set.
    pub routes: Vec<String>,
    /// The clock.
    pub time: &'a Time,
    /// Counters.
    pub counters: &'a Counters,
}

/// As one line of JSON.
#[must_use]
pub fn text(f: &Facts<'_>) -> String {
    let mut out = String::with_capacity(1024);
    let links = f.links.iter().map(|l| {
        format!(
            "{{\"name\":\"{}\",\"mac\":\"{}\",\"carrier\":{},\"mtu\":{}}}",
            Json(&l.name),
            mac(l.mac),
            l.has_carrier,
            l.mtu
        )
    });
    let number = |n: Option<u64>| n.map_or("null".to_owned(), |n| n.to_string());
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "{{\"plan\":\"{}\",\"link\":{},\"links\":[{}],\"state\":\"{}\",\"address\":\"{}\",",
        f.plan,
        f.link
            .map_or("null".to_owned(), |l| format!("\"{}\"", Json(&l.name))),
        joined(links),
        f.state,
        f.address,
    );
    let _ = write!(
        out,
        "\"server\":{},\"routers\":[{}],\"routes\":[{}],\"dns\":[{}],\"domain\":\"{}\",\"ntp\":[{}],",
        f.lease
            .map_or("null".to_owned(), |l| format!("\"{}\"", l.server)),
        joined(f.routers.iter().map(quoted)),
        joined(f.routes.iter().map(quoted)),
        joined(f.dns.iter().map(quoted)),
        f.lease.map_or("", |l| l.domain.as_str()),
        joined(f.lease.iter().flat_map(|l| &l.ntp).map(quoted)),
    );
    let _ = write!(
        out,
        "\"renew_ns\":{},\"rebind_ns\":{},\"ends_ns\":{},",
        number(f.lease.map(|l| l.renew_ns)),
        number(f.lease.map(|l| l.rebind_ns)),
        number(f.lease.and_then(|l| l.ends_ns)),
    );
    let time = f.time;
    let _ = write!(
        out,
        "\"time\":{{\"servers\":[{}],\"server\":{},\"stratum\":{},\"offset_ns\":{},\"error_ns\":{},\"at_ns\":{},\"agree\":{},\"answered\":{},\"outcome\":\"{}\"}},",
        joined(time.servers.iter().map(quoted)),
        time.found
            .map_or("null".to_owned(), |t| format!("\"{}\"", t.server)),
        number(time.found.map(|t| t.stratum.into())),
        time.found
            .map_or("null".to_owned(), |_| time.offset_ns.to_string()),
        number(time.found.map(|t| t.error_ns)),
        number(time.found.map(|t| t.at_ns)),
        number(time.found.map(|t| t.agree as u64)),
        number(time.found.map(|t| t.answered as u64)),
        Json(&time.outcome),
    );
    let c = f.counters;
    let _ = write!(
        out,
        "\"counters\":{{\"sent\":{},\"received\":{},\"refused\":{},\"leases\":{},\"lost\":{},\"link_changes\":{},\"ntp_sent\":{},\"ntp_found\":{}}}}}",
        c.sent, c.received, c.refused, c.leases, c.lost, c.link_changes, c.ntp_sent, c.ntp_found
    );
    out
}

fn quoted(text: impl Display) -> String {
    format!("\"{text}\"")
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

/// `02:00:00:00:00:01`; empty without one.
#[must_use]
pub fn mac(mac: Option<[u8; 6]>) -> String {
    let bytes = mac.iter().flatten().map(|b| format!("{b:02x}"));
    bytes.collect::<Vec<_>>().join(":")
}
