//! Delivery: which message goes to which connection, and again when it is not acknowledged in time.
//!
//! What is on the log (messages, acknowledgements, commits) is the plane's, in `ledger_core::bus`. Here
//! is what a restart may forget: who is connected, who holds which message until when. Messages are
//! found through the index and read when they are sent; only durable ones are.
//!
//! A [`group::Group`] is a consumer with its connections; each connection's subscription is a thread in
//! [`pump`], so that one that reads slowly holds up nobody.

mod group;
mod publish;
mod pump;

pub use group::{Group, Member};
pub use publish::{Message, Parts};
pub use pump::{Subscription, floors, run};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Who consumes: of a tenant, on a topic, by name; the connection's number where it has no name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Whose.
    pub tenant: String,
    /// Where.
    pub topic: String,
    /// Who.
    pub consumer: Name,
}

/// A consumer's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// What it acknowledges is remembered.
    Named(String),
    /// It is this connection and ends with it.
    Connection(u64),
}

/// The groups that have connections.
#[derive(Default)]
pub struct Deliveries(Mutex<BTreeMap<Address, Weak<Group>>>);

impl Deliveries {
    /// The group at this address of the consumer that is there since that event (0 for one without a name); made
    /// of `from`, the first event it is to look at, and `head`, the last one that is there.
    pub fn join(&self, address: &Address, since: u64, from: u64, head: u64) -> Arc<Group> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match groups.get(address).and_then(Weak::upgrade) {
            Some(group) if group.since() == since => return group,
            Some(gone) => gone.end(),
            None => {}
        }
        groups.retain(|_, group| group.strong_count() > 0);
        let group = Arc::new(Group::new(address.clone(), since, from, head));
        groups.insert(address.clone(), Arc::downgrade(&group));
        group
    }

    /// Ends the group at this address of the consumer that was there since that event: it was taken off the
    /// topic. Another of its name goes on.
    pub fn end(&self, address: &Address, since: u64) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there = groups.get(address).and_then(Weak::upgrade);
        if let Some(group) = there.filter(|group| group.since() == since) {
            groups.remove(address);
            group.end();
        }
    }

    /// The group at this address, if it has connections.
    pub fn find(&self, address: &Address) -> Option<Arc<Group>> {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.get(address).and_then(Weak::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_takes_another_s_name_has_a_group_of_its_own() {
        let deliveries = Deliveries::default();
        let address = Address {
            tenant: "a".into(),
            topic: "t".into(),
            consumer: Name::Named("c".into()),
        };
        let first = deliveries.join(&address, 5, 1, 9);
        assert!(Arc::ptr_eq(&first, &deliveries.join(&address, 5, 1, 9)));
        let second = deliveries.join(&address, 7, 1, 9);
        assert!(first.has_ended() && !second.has_ended());
        deliveries.end(&address, 5);
        assert!(!second.has_ended(), "it was the first that ended");
        deliveries.end(&address, 7);
        assert!(second.has_ended() && deliveries.find(&address).is_none());
    }
}
