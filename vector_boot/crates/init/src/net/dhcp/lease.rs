//! A lease: what a server gave, judged. What is wrong in what must be right refuses the lease, what
//! is wrong in the rest is left out and named.
//!
//! Pure.

use super::message::{Refusal, Reply, option};
use crate::net::plan::is_host;
use std::net::Ipv4Addr;

/// Shortest lease that is taken: below, renewing would be most of what we do.
pub const LEASE_S_MIN: u32 = 30;
/// The number that stands for a lease without an end.
const FOREVER: u32 = u32::MAX;
/// A lease without an end, or a very long one, is asked about this often all the same: the network
/// may have become another.
const RENEW_S_MAX: u64 = 7 * 24 * 3600;
/// Routers, name servers (as many as resolvers read) and time servers that are kept.
const ROUTERS_MAX: usize = 4;
const DNS_MAX: usize = 3;
const NTP_MAX: usize = crate::net::plan::NTP_SERVERS_MAX;
/// Routes of option 121 that are kept.
const ROUTES_MAX: usize = 16;
/// What every host must take (RFC 791).
const MTU_MIN: u16 = 576;
/// Longest domain name, and label of one (RFC 1035).
const DOMAIN_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

const S: u64 = 1_000_000_000;

/// Where packets to a network go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub to: Ipv4Addr,
    /// Bits of it, 0 to 32.
    pub prefix: u8,
    /// Through whom; `None`: whoever answers on the link.
    pub via: Option<Ipv4Addr>,
}

/// An address for a time, and what comes with it. Its times are CLOCK_MONOTONIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Ours.
    pub address: Ipv4Addr,
    /// Bits of its network, 1 to 32.
    pub prefix: u8,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// Its hardware address, or that of the relay before it.
    pub server_mac: [u8; 6],
    /// Routers as named; the first is used if there are no routes.
    pub routers: Vec<Ipv4Addr>,
    /// Every route to be set.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain to search; empty for none.
    pub domain: String,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Bytes of a packet.
    pub mtu: Option<u16>,
    /// When its time began: when it was asked for.
    pub begun_ns: u64,
    /// When its server is asked to go on.
    pub renew_ns: u64,
    /// When every server is.
    pub rebind_ns: u64,
    /// When it ends; `None`: never.
    pub ends_ns: Option<u64>,
}

impl Lease {
    /// Judges an offer or acknowledgement whose time begins at `begun_ns`. Also gives what was left
    /// out and why.
    ///
    /// # Errors
    /// What makes the lease none.
    pub fn read(
        reply: &Reply,
        from: [u8; 6],
        begun_ns: u64,
    ) -> Result<(Self, Vec<Refusal>), Refusal> {
        let address = reply.address;
        if !is_host(address) {
            return Err(Refusal::new("address", address, "that of one machine"));
        }
        let prefix = match reply.address_of(option::SUBNET_MASK, "subnet mask")? {
            Some(mask) => prefix_of(mask)?,
            None => prefix_by_class(address),
        };
        let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let own = u32::from(address) & host;
        // In a network of one or two every number is a host's (RFC 3021).
        if prefix < 31 && (own == 0 || own == host) {
            let value = format!("{address}/{prefix}");
            return Err(Refusal::new(
                "address",
                value,
                "neither the network nor all of it",
            ));
        }
        let seconds = reply
            .seconds_of(option::LEASE_TIME, "lease time")?
            .ok_or_else(|| Refusal::new("lease time", "missing", "30 s or more"))?;
        if seconds < LEASE_S_MIN {
            return Err(Refusal::new(
                "lease time",
                format_args!("{seconds} s"),
                "30 s or more",
            ));
        }
        let mut left_out = Vec::new();
        let mut t1 = optional(reply.seconds_of(option::T1, "T1"), &mut left_out);
        let mut t2 = optional(reply.seconds_of(option::T2, "T2"), &mut left_out);
        if let Some(late) = t2.take_if(|t| *t == 0 || *t >= seconds) {
            left_out.push(Refusal::new(
                "T2",
                format_args!("{late} s"),
                "less than the lease",
            ));
        }
        if let Some(late) = t1.take_if(|t| *t == 0 || *t >= t2.unwrap_or(seconds)) {
            left_out.push(Refusal::new("T1", format_args!("{late} s"), "less than T2"));
        }
        let times = Times::of(seconds, t1, t2);
        let at = |s: u64| begun_ns.saturating_add(s.saturating_mul(S));
        let on_link = |a: &Ipv4Addr| {
            is_host(*a)
                && *a != address
                && (prefix == 32 || (u32::from(*a) ^ u32::from(address)) & !host == 0)
        };
        let routers = optional_list(
            reply.addresses_of(option::ROUTERS, "routers", ROUTERS_MAX),
            &mut left_out,
        );
        let routers = only(
            "routers",
            routers,
            "on the lease's network",
            on_link,
            &mut left_out,
        );
        let routes = match reply.option(option::ROUTES) {
            // RFC 3442: with routes the routers do not count.
            Some(bytes) => match routes_of(bytes) {
                Ok(routes) => only_routes(routes, on_link, &mut left_out),
                Err(refusal) => {
                    left_out.push(refusal);
                    by_router(&routers)
                }
            },
            None => by_router(&routers),
        };
        let dns = optional_list(
            reply.addresses_of(option::DNS, "name servers", DNS_MAX),
            &mut left_out,
        );
        let ntp = optional_list(
            reply.addresses_of(option::NTP, "time servers", NTP_MAX),
            &mut left_out,
        );
        let host_limit = "that of one machine";
        let lease = Self {
            address,
            prefix,
            server: reply.server,
            server_mac: from,
            routers,
            routes,
            dns: only(
                "name servers",
                dns,
                host_limit,
                |a| is_host(*a),
                &mut left_out,
            ),
            domain: optional(domain_of(reply.option(option::DOMAIN)), &mut left_out)
                .unwrap_or_default(),
            ntp: only(
                "time servers",
                ntp,
                host_limit,
                |a| is_host(*a),
                &mut left_out,
            ),
            mtu: optional(mtu_of(reply), &mut left_out),
            begun_ns,
            renew_ns: at(times.renew),
            rebind_ns: at(times.rebind),
            ends_ns: times.end.map(at),
        };
        Ok((lease, left_out))
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        self.ends_ns.is_some_and(|end| now >= end)
    }

    /// Whole seconds that are left; `None`: for ever.
    #[must_use]
    pub fn seconds_left(&self, now: u64) -> Option<u32> {
        let left = self.ends_ns?.saturating_sub(now) / S;
        // Longer than u32 can say is as good as its largest.
        Some(u32::try_from(left).unwrap_or(FOREVER - 1))
    }
}

/// Seconds from a lease's beginning.
struct Times {
    renew: u64,
    rebind: u64,
    end: Option<u64>,
}

impl Times {
    /// T1 and T2 as given, or half and seven eighths of the lease (RFC 2131, 4.4.5); never so early
    /// that a lease is asked about more than eight times, never so late that a network that became
    /// another goes unnoticed.
    fn of(seconds: u32, t1: Option<u32>, t2: Option<u32>) -> Self {
        let lease = u64::from(seconds);
        let earliest = lease / 8;
        let rebind = t2.map_or(lease * 7 / 8, u64::from).max(earliest);
        let renew = t1.map_or(lease / 2, u64::from).max(earliest);
        let renew = renew.min(rebind).min(RENEW_S_MAX);
        Self {
            renew,
            rebind,
            end: (seconds != FOREVER).then_some(lease),
        }
    }
}

fn prefix_of(mask: Ipv4Addr) -> Result<u8, Refusal> {
    let bits = u32::from(mask);
    let prefix = bits.leading_ones();
    // Ones, then zeroes, and not the whole internet.
    if bits.count_ones() != prefix || prefix == 0 {
        return Err(Refusal::new("subnet mask", mask, "ones, then zeroes"));
    }
    Ok(u8::try_from(prefix).unwrap_or(32))
}

/// What a mask was before there were masks; servers may leave it out.
fn prefix_by_class(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

/// Routes of option 121: width, as many bytes of the network as it needs, router.
fn routes_of(mut bytes: &[u8]) -> Result<Vec<Route>, Refusal> {
    let wrong = |bytes: usize| {
        Refusal::new(
            "routes",
            format_args!("cut with {bytes} bytes left"),
            "whole routes",
        )
    };
    let mut routes = Vec::new();
    while let Some((prefix, rest)) = bytes.split_first() {
        if *prefix > 32 {
            return Err(Refusal::new(
                "routes",
                format_args!("width {prefix}"),
                "0 to 32",
            ));
        }
        let width = usize::from(prefix.div_ceil(8));
        let (network, rest) = rest
            .split_at_checked(width)
            .ok_or_else(|| wrong(bytes.len()))?;
        let (via, rest) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| wrong(bytes.len()))?;
        let mut to = [0; 4];
        for (slot, byte) in to.iter_mut().zip(network) {
            *slot = *byte;
        }
        // Bits beyond the width are nothing (RFC 3442).
        let mask = !u32::MAX.checked_shr((*prefix).into()).unwrap_or(0);
        let via = Ipv4Addr::from(*via);
        if routes.len() < ROUTES_MAX {
            routes.push(Route {
                to: Ipv4Addr::from(u32::from_be_bytes(to) & mask),
                prefix: *prefix,
                via: (!via.is_unspecified()).then_some(via),
            });
        }
        bytes = rest;
    }
    Ok(routes)
}

fn by_router(routers: &[Ipv4Addr]) -> Vec<Route> {
    let everything = |via| Route {
        to: Ipv4Addr::UNSPECIFIED,
        prefix: 0,
        via: Some(via),
    };
    routers
        .first()
        .copied()
        .map(everything)
        .into_iter()
        .collect()
}

fn only_routes(
    routes: Vec<Route>,
    on_link: impl Fn(&Ipv4Addr) -> bool,
    left_out: &mut Vec<Refusal>,
) -> Vec<Route> {
    let (good, bad): (Vec<Route>, Vec<Route>) = routes.into_iter().partition(|r| {
        let leads = r.prefix == 0 || is_host(r.to) || r.to.octets()[0] == 0 && r.prefix < 8;
        leads && r.via.as_ref().is_none_or(&on_link)
    });
    if let Some(r) = bad.first() {
        let via = r.via.map_or("the link".to_owned(), |v| v.to_string());
        let value = format!("{}/{} via {via}", r.to, r.prefix);
        left_out.push(Refusal::new(
            "routes",
            value,
            "through a host on the lease's network",
        ));
    }
    good
}

/// A domain name of letters, digits and hyphens; a final dot, or a final zero as some servers send, is
/// taken off.
fn domain_of(bytes: Option<&[u8]>) -> Result<Option<String>, Refusal> {
    let Some(bytes) = bytes else { return Ok(None) };
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    let label = |label: &[u8]| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && label.first() != Some(&b'-')
            && label.last() != Some(&b'-')
    };
    let good = bytes.len() <= DOMAIN_BYTES_MAX && bytes.split(|b| *b == b'.').all(label);
    match String::from_utf8(bytes.to_vec()) {
        Ok(name) if good => Ok(Some(name)),
        _ => {
            let value = format!("of {} bytes", bytes.len());
            Err(Refusal::new("domain", value, "a domain name"))
        }
    }
}

fn mtu_of(reply: &Reply) -> Result<Option<u16>, Refusal> {
    match reply
        .fixed::<2>(option::MTU, "MTU")?
        .map(u16::from_be_bytes)
    {
        Some(small) if small < MTU_MIN => Err(Refusal::new("MTU", small, "576 or more")),
        other => Ok(other),
    }
}

/// Keeps a value that is well-formed; notes one that is not.
fn optional<T>(read: Result<Option<T>, Refusal>, left_out: &mut Vec<Refusal>) -> Option<T> {
    read.unwrap_or_else(|refusal| {
        left_out.push(refusal);
        None
    })
}

fn optional_list(
    read: Result<Vec<Ipv4Addr>, Refusal>,
    left_out: &mut Vec<Refusal>,
) -> Vec<Ipv4Addr> {
    read.unwrap_or_else(|refusal| {
        left_out.push(refusal);
        Vec::new()
    })
}

/// Keeps the addresses that are good; notes the first that is not.
fn only(
    field: &'static str,
    addresses: Vec<Ipv4Addr>,
    limit: &'static str,
    good: impl Fn(&Ipv4Addr) -> bool,
    left_out: &mut Vec<Refusal>,
) -> Vec<Ipv4Addr> {
    if let Some(bad) = addresses.iter().find(|a| !good(a)) {
        left_out.push(Refusal::new(field, bad, limit));
    }
    addresses.into_iter().filter(good).collect()
}
