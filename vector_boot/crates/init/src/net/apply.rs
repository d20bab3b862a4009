//! What a link was given, and how it is taken back: address, routes, size of packets.

use super::dhcp::lease::{self, Lease};
use super::plan::Fixed;
use std::net::Ipv4Addr;
use sys::netlink::{Address, Netlink, Note, Route};

/// What is to be on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The address, with the time after which the kernel takes it away by itself.
    pub address: Address,
    /// Routes, in their order.
    pub routes: Vec<Route>,
    /// Bytes of a packet.
    pub mtu: Option<u32>,
}

impl Setting {
    /// Of a lease, as of now.
    #[must_use]
    pub fn of_lease(link: u32, mtu_max: u32, lease: &Lease, now: u64) -> Self {
        let address = Address {
            link,
            address: lease.address,
            prefix: lease.prefix,
            // The kernel takes 0 for an error; an address of a second is gone before it matters.
            valid_s: lease.seconds_left(now).map(|s| s.max(1)),
        };
        let limit = if mtu_max == 0 { u32::MAX } else { mtu_max };
        Self {
            address,
            routes: routes(&address, &lease.routes),
            mtu: lease.mtu.map(|m| u32::from(m).min(limit)),
        }
    }

    /// Of a fixed address.
    #[must_use]
    pub fn of_fixed(link: u32, fixed: &Fixed) -> Self {
        let address = Address {
            link,
            address: fixed.address,
            prefix: fixed.prefix,
            valid_s: None,
        };
        let everything = |via| lease::Route {
            to: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            via: Some(via),
        };
        let wanted: Vec<_> = fixed.gateway.map(everything).into_iter().collect();
        Self {
            address,
            routes: routes(&address, &wanted),
            mtu: None,
        }
    }
}

/// Routes without a router first: the others may lead over them.
fn routes(address: &Address, wanted: &[lease::Route]) -> Vec<Route> {
    let mut routes: Vec<Route> = wanted
        .iter()
        .map(|r| Route {
            link: address.link,
            to: r.to,
            prefix: r.prefix,
            via: r.via,
            source: Some(address.address),
        })
        .collect();
    routes.sort_by_key(|r| r.via.is_some());
    routes
}

/// What is on the link now.
#[derive(Debug, Default)]
pub struct Applied {
    setting: Option<Setting>,
    /// Size of packets before we changed it.
    mtu_before: Option<u32>,
}

impl Applied {
    /// What was set.
    #[must_use]
    pub fn setting(&self) -> Option<&Setting> {
        self.setting.as_ref()
    }

    /// Puts a setting in the place of what was there. What cannot be set is said by `complain`.
    ///
    /// # Errors
    /// If there is no address: then nothing is there at all.
    pub fn set(
        &mut self,
        netlink: &mut Netlink,
        wanted: &Setting,
        mtu_now: u32,
        note: &mut dyn FnMut(Note),
        mut complain: impl FnMut(String),
    ) -> std::io::Result<()> {
        let same_address = self.setting.as_ref().is_some_and(|s| {
            (s.address.link, s.address.address, s.address.prefix)
                == (
                    wanted.address.link,
                    wanted.address.address,
                    wanted.address.prefix,
                )
        });
        if !same_address {
            self.clear(netlink, note, &mut complain);
        }
        netlink.add_address(&wanted.address, &mut *note)?;
        if let Some(mtu) = wanted.mtu
            && mtu != mtu_now
        {
            match netlink.set_mtu(wanted.address.link, mtu, &mut *note) {
                Ok(()) => {
                    self.mtu_before.get_or_insert(mtu_now);
                }
                Err(e) => complain(format!("MTU {mtu}: {e}")),
            }
        }
        let before = self.setting.replace(wanted.clone());
        let gone = before.iter().flat_map(|s| &s.routes);
        for route in gone.filter(|r| !wanted.routes.contains(r)) {
            if let Err(e) = netlink.remove_route(route, &mut *note) {
                complain(format!("route {}/{}: {e}", route.to, route.prefix));
            }
        }
        // Set again even if they were there: a link that was down has lost them.
        for route in &wanted.routes {
            if let Err(e) = netlink.add_route(route, &mut *note) {
                complain(format!("route {}/{}: {e}", route.to, route.prefix));
            }
        }
        Ok(())
    }

    /// Takes everything back.
    pub fn clear(
        &mut self,
        netlink: &mut Netlink,
        note: &mut dyn FnMut(Note),
        mut complain: impl FnMut(String),
    ) {
        let Some(setting) = self.setting.take() else {
            return;
        };
        for route in &setting.routes {
            if let Err(e) = netlink.remove_route(route, &mut *note) {
                complain(format!("route {}/{}: {e}", route.to, route.prefix));
            }
        }
        let address = &setting.address;
        if let Err(e) = netlink.remove_address(address, &mut *note) {
            complain(format!("address {}: {e}", address.address));
        }
        if let Some(mtu) = self.mtu_before.take()
            && let Err(e) = netlink.set_mtu(address.link, mtu, &mut *note)
        {
            complain(format!("MTU {mtu}: {e}"));
        }
    }
}
