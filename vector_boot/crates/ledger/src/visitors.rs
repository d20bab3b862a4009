//! Who is connected, over both sockets, and what is said about those who are rude.
//!
//! Bounds: [`LIMITS`]. Start with [`Visitors::admit`].

use ipc::Served;
use ipc::door::{Complaints, Limits};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use sys::packet::PacketSocket;
use wire::Role;

/// Connections of both sockets together; each has two threads, a subscription one more.
pub const LIMITS: Limits = Limits {
    all: 64,
    kept: 8,
    users: 24,
    of_uid: 4,
};

/// Those of the gateway, which has one for each conversation of tokens' holders, 24 at most, beside its own.
const OF_GATEWAY: usize = 28;

/// For a peer that does not read what it is told at the end.
const FAREWELL_LIMIT: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Inside {
    roles: Vec<Role>,
    /// Gateways, who are told when the ledger stops.
    gateways: Vec<Weak<PacketSocket>>,
    complaints: Complaints,
}

/// The connections; clones are handles of the same.
#[derive(Clone, Default)]
pub struct Visitors(Arc<Mutex<Inside>>);

/// One connection; dropping it makes room.
pub struct Visit {
    visitors: Visitors,
    served: Served,
}

impl Visitors {
    /// Lets a peer in, or says why not.
    #[must_use]
    pub fn admit(&self, served: Served) -> Option<Visit> {
        let mut inside = self.inside();
        let limits = match served.role {
            Role::Gateway => Limits {
                of_uid: OF_GATEWAY,
                ..LIMITS
            },
            _ => LIMITS,
        };
        let admitted = limits.admit(inside.roles.iter().copied(), served.role);
        if admitted.is_ok() {
            inside.roles.push(served.role);
        }
        drop(inside);
        match admitted {
            Ok(()) => Some(Visit {
                visitors: self.clone(),
                served,
            }),
            Err(over) => {
                self.complain(served, &over.to_string());
                None
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inside().roles.len()
    }

    /// Tells gateways that a successor follows: calls wait for it.
    pub fn say_stopping(&self) {
        let gateways = std::mem::take(&mut self.inside().gateways);
        let mut buf = [0; 256];
        for socket in gateways.iter().filter_map(Weak::upgrade) {
            // One that cannot be told learns it by the connection's end.
            if let (Ok(()), Ok(packet)) = (
                socket.set_timeout(FAREWELL_LIMIT),
                wire::encode(0, &wire::STOPPING, &mut buf),
            ) {
                let _ = socket.send(packet, None);
            }
        }
    }

    /// Says what a peer did wrong, once a minute a uid.
    pub fn complain(&self, served: Served, what: &str) {
        let second = sys::clock::monotonic_ns() / 1_000_000_000;
        let (uid, role) = (served.peer.uid, served.role.name());
        match self.inside().complaints.allow(uid, second) {
            None => {}
            Some(0) => ::log::warn!("refused: role={role} uid={uid}: {what}"),
            Some(n) => {
                ::log::warn!(
                    "refused: role={role} uid={uid}: {what} (and {n} more since the last)"
                );
            }
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Every change is one call: nothing is half done where a thread panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visit {
    /// The peer.
    #[must_use]
    pub fn served(&self) -> Served {
        self.served
    }

    /// Notes the socket of one that is told when the ledger stops.
    pub fn tell_at_end(&self, socket: &Arc<PacketSocket>) {
        if self.served.role == Role::Gateway {
            let mut inside = self.visitors.inside();
            inside.gateways.retain(|gone| gone.strong_count() > 0);
            inside.gateways.push(Arc::downgrade(socket));
        }
    }

    /// See [`Visitors::complain`].
    pub fn complain(&self, what: &str) {
        self.visitors.complain(self.served, what);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut inside = self.visitors.inside();
        if let Some(at) = inside.roles.iter().position(|r| *r == self.served.role) {
            inside.roles.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::packet::Peer;

    #[test]
    fn the_gateway_gets_in_for_all_for_whom_it_speaks() {
        let visitors = Visitors::default();
        let served = Served {
            peer: Peer { pid: 1, uid: 903 },
            role: Role::Gateway,
        };
        let held: Vec<Visit> = std::iter::from_fn(|| visitors.admit(served)).collect();
        assert_eq!(held.len(), OF_GATEWAY);
    }

    #[test]
    fn whoever_goes_makes_room() {
        let visitors = Visitors::default();
        let uid = 30_001;
        let served = Served {
            peer: Peer { pid: 1, uid },
            role: Role::User(uid),
        };
        let mut held: Vec<Visit> = (0..LIMITS.of_uid)
            .map(|_| visitors.admit(served).unwrap())
            .collect();
        assert!(visitors.admit(served).is_none());
        held.pop();
        assert!(visitors.admit(served).is_some());
        drop(held);
        assert_eq!(visitors.count(), 0);
    }
}
