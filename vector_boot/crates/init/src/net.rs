//! The `net` role: links and addresses, from the kernel parameter `vb.net`.
//!
//! Owns the interfaces. Today an address is given (`ADDR/LEN,GATEWAY[,DNS]`) or there is none.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

/// What `vb.net` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Loopback alone.
    Off,
    /// A fixed address.
    Static {
        /// Ours.
        address: Ipv4Addr,
        /// Bits of the network, 0 to 32.
        prefix: u8,
        /// Where everything else goes.
        gateway: Option<Ipv4Addr>,
        /// A name server.
        dns: Option<Ipv4Addr>,
    },
}

/// Reads `off` or `ADDR/LEN[,GATEWAY[,DNS]]`.
///
/// # Errors
/// One sentence naming the value and what it may be.
pub fn parse(text: &str) -> Result<Plan, String> {
    let wrong = || format!("vb.net: value {text}, limit off|ADDR/LEN[,GATEWAY[,DNS]]");
    if text.is_empty() || text == "off" {
        return Ok(Plan::Off);
    }
    let mut parts = text.split(',');
    let (address, prefix) = parts
        .next()
        .and_then(|p| p.split_once('/'))
        .ok_or_else(wrong)?;
    let mut optional = || match parts.next() {
        None | Some("") => Ok(None),
        Some(part) => part.parse().map(Some).map_err(|_| wrong()),
    };
    let (gateway, dns) = (optional()?, optional()?);
    let plan = Plan::Static {
        address: address.parse().map_err(|_| wrong())?,
        prefix: prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(wrong)?,
        gateway,
        dns,
    };
    if parts.next().is_some() {
        Err(wrong())
    } else {
        Ok(plan)
    }
}

/// Sets the links up and keeps watch.
pub fn main(_words: &[std::ffi::OsString]) -> ExitCode {
    sys::process::set_name("net");
    if let Err(e) = sys::network::set_up("lo") {
        eprintln!("<4>net: lo: {e}");
    }
    let plan = match parse(&std::env::var("VB_NET").unwrap_or_default()) {
        Ok(plan) => plan,
        Err(e) => {
            eprintln!("<3>net: {e}");
            Plan::Off
        }
    };
    let mut done = None;
    loop {
        // A link that comes later, or again, gets the same address.
        if let Plan::Static {
            address,
            prefix,
            gateway,
            ..
        } = plan
        {
            let link = first_link();
            if link.is_some() && link != done {
                match apply(
                    link.as_deref().unwrap_or_default(),
                    address,
                    prefix,
                    gateway,
                ) {
                    Ok(()) => eprintln!(
                        "net: link={} address={address}/{prefix}",
                        link.as_deref().unwrap_or_default()
                    ),
                    Err(e) => eprintln!("<3>net: {e}"),
                }
                done = link;
            }
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn apply(
    link: &str,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
) -> Result<(), String> {
    let step = |what: &str, result: std::io::Result<()>| {
        result.map_err(|e| format!("{link}: {what}: {e}"))
    };
    step("up", sys::network::set_up(link))?;
    step("address", sys::network::set_address(link, address, prefix))?;
    match gateway {
        Some(gateway) => step("route", sys::network::set_default_route(gateway)),
        None => Ok(()),
    }
}

/// The first Ethernet interface by name.
fn first_link() -> Option<String> {
    let entries = std::fs::read_dir("/sys/class/net").ok()?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    // ARPHRD_ETHER is 1, loopback 772.
    names.into_iter().find(|n| {
        std::fs::read_to_string(format!("/sys/class/net/{n}/type")).is_ok_and(|t| t.trim() == "1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_nonsense_is_named() {
        let Ok(Plan::Static {
            address,
            prefix,
            gateway,
            dns,
        }) = parse("10.0.2.15/24,10.0.2.2,10.0.2.3")
        else {
            panic!("not read");
        };
        assert_eq!((address, prefix), (Ipv4Addr::new(10, 0, 2, 15), 24));
        assert_eq!(
            (gateway, dns),
            (
                Some(Ipv4Addr::new(10, 0, 2, 2)),
                Some(Ipv4Addr::new(10, 0, 2, 3))
            )
        );
        assert_eq!(parse("off"), Ok(Plan::Off));
        for bad in [
            "dhcp",
            "10.0.2.15",
            "10.0.2.15/33",
            "300.1.1.1/8",
            "1.1.1.1/8,x",
            "1.1.1.1/8,,,",
            "/",
        ] {
            assert!(parse(bad).is_err_and(|e| e.contains(bad)), "{bad}");
        }
    }
}
