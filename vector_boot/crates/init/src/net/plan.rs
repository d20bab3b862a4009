//! What `vb.net` and `vb.ntp` ask for.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Servers that `vb.ntp` may name: four are what tells a liar from the others (RFC 5905).
pub const NTP_SERVERS_MAX: usize = 4;
/// Port of NTP.
const NTP_PORT: u16 = 123;

/// What `vb.net` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Loopback alone.
    Off,
    /// What a DHCP server gives.
    Dhcp,
    /// A fixed address.
    Static(Fixed),
}

/// A fixed address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// Ours.
    pub address: Ipv4Addr,
    /// Bits of the network, 1 to 32.
    pub prefix: u8,
    /// Where everything else goes.
    pub gateway: Option<Ipv4Addr>,
    /// A name server.
    pub dns: Option<Ipv4Addr>,
}

/// Whom `vb.ntp` asks for the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ntp {
    /// Nobody.
    Off,
    /// The servers of the lease, if it names any.
    Lease,
    /// These.
    Servers(Vec<SocketAddrV4>),
}

/// Whether an address can be one machine's: not nothing, loopback, multicast or reserved.
#[must_use]
pub fn is_host(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..)
}

/// Reads `off`, `dhcp` or `ADDR/LEN[,GATEWAY[,DNS]]`.
///
/// # Errors
/// What the value may be.
pub fn parse(text: &str) -> Result<Plan, &'static str> {
    const LIMIT: &str = "off|dhcp|ADDR/LEN[,GATEWAY[,DNS]]";
    match text {
        "" | "off" => return Ok(Plan::Off),
        "dhcp" => return Ok(Plan::Dhcp),
        _ => {}
    }
    let mut parts = text.split(',');
    let (address, prefix) = parts.next().and_then(|p| p.split_once('/')).ok_or(LIMIT)?;
    let host = |part: &str| part.parse().ok().filter(|a| is_host(*a)).ok_or(LIMIT);
    let mut optional = || match parts.next() {
        None | Some("") => Ok(None),
        Some(part) => host(part).map(Some),
    };
    let (gateway, dns) = (optional()?, optional()?);
    if parts.next().is_some() {
        return Err(LIMIT);
    }
    Ok(Plan::Static(Fixed {
        address: host(address)?,
        prefix: prefix
            .parse()
            .ok()
            .filter(|p| (1..=32).contains(p))
            .ok_or(LIMIT)?,
        gateway,
        dns,
    }))
}

/// Reads `off`, `dhcp` or `ADDR[:PORT],...`.
///
/// # Errors
/// What the value may be.
pub fn parse_ntp(text: &str) -> Result<Ntp, &'static str> {
    const LIMIT: &str = "off|dhcp|ADDR[:PORT],... with at most 4";
    match text {
        "off" => return Ok(Ntp::Off),
        "" | "dhcp" => return Ok(Ntp::Lease),
        _ => {}
    }
    let server = |part: &str| {
        let (address, port) = part
            .split_once(':')
            .map_or((part, None), |(a, p)| (a, Some(p)));
        let address = address.parse().ok().filter(|a| is_host(*a))?;
        let port = match port {
            None => NTP_PORT,
            Some(port) => port.parse().ok().filter(|p| *p > 0)?,
        };
        Some(SocketAddrV4::new(address, port))
    };
    let servers: Option<Vec<_>> = text.split(',').map(server).collect();
    let servers = servers.filter(|s| s.len() <= NTP_SERVERS_MAX);
    servers.map(Ntp::Servers).ok_or(LIMIT)
}

/// The host's name as servers are told it: a name of the DNS, or none.
#[must_use]
pub fn told_name(name: String) -> String {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if name.len() <= 63 && name.bytes().all(good) {
        name
    } else {
        String::new()
    }
}

/// The servers of a lease, at their port.
#[must_use]
pub fn ntp_of_lease(addresses: &[Ipv4Addr]) -> Vec<SocketAddrV4> {
    let servers = addresses.iter().take(NTP_SERVERS_MAX);
    servers.map(|a| SocketAddrV4::new(*a, NTP_PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_nonsense_is_refused() {
        let fixed = Fixed {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            dns: Some(Ipv4Addr::new(10, 0, 2, 3)),
        };
        assert_eq!(
            parse("10.0.2.15/24,10.0.2.2,10.0.2.3"),
            Ok(Plan::Static(fixed))
        );
        assert_eq!(parse("off"), Ok(Plan::Off));
        assert_eq!(parse("dhcp"), Ok(Plan::Dhcp));
        for bad in [
            "DHCP",
            "10.0.2.15",
            "10.0.2.15/33",
            "10.0.2.15/0",
            "300.1.1.1/8",
            "127.0.0.1/8",
            "224.0.0.1/8",
            "1.1.1.1/8,x",
            "1.1.1.1/8,0.0.0.0",
            "1.1.1.1/8,,,",
            "/",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_not_told() {
        for (name, told) in [
            ("vector", "vector"),
            ("a b", ""),
            ("(none)", ""),
            ("x\n", ""),
        ] {
            assert_eq!(told_name(name.to_owned()), told);
        }
    }

    #[test]
    fn time_servers_are_addresses_with_or_without_a_port() {
        let at = |a: [u8; 4], port| SocketAddrV4::new(a.into(), port);
        assert_eq!(parse_ntp("off"), Ok(Ntp::Off));
        assert_eq!(parse_ntp("dhcp"), Ok(Ntp::Lease));
        assert_eq!(
            parse_ntp("10.0.2.2:1123,1.2.3.4"),
            Ok(Ntp::Servers(vec![
                at([10, 0, 2, 2], 1123),
                at([1, 2, 3, 4], 123)
            ]))
        );
        for bad in [
            "pool.ntp.org",
            "1.2.3.4:0",
            "1.2.3.4:70000",
            "1.2.3.4,",
            "0.0.0.0",
            "239.1.1.1",
            "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4,1.1.1.5",
        ] {
            assert!(parse_ntp(bad).is_err(), "{bad}");
        }
    }
}
