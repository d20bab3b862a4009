//! Descriptors that a service leaves with PID 1 (`FDSTORE=1`) and finds again at its next start.
//!
//! Owns them, and keeps the state memfd's table true, so that they outlive a crash and an upgrade of PID 1 too.
//! Bounded by the manifest's `fd_store`. Start with [`FdStore::keep`].
//!
//! Never here: closing a descriptor, which may wait; [`Releaser`] does that.

use crate::notify::{Complaint, STORE_NAME_BYTES_MAX};
use crate::state::State;
use crate::state::descriptors::Kind;
use heapless::String;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::release::Releaser;

/// The store of one service.
#[derive(Debug, Default)]
pub struct FdStore {
    limit: u8,
    held: Vec<Stored>,
    changed: bool,
}

#[derive(Debug)]
struct Stored {
    name: String<STORE_NAME_BYTES_MAX>,
    fd: OwnedFd,
    /// Forgotten once its other end is gone.
    poll: bool,
}

impl FdStore {
    /// An empty store of so many places.
    #[must_use]
    pub fn new(limit: u8) -> Self {
        Self {
            limit,
            held: Vec::with_capacity(limit.into()),
            changed: false,
        }
    }

    /// Another manifest gives it so many places; what is in it already stays.
    pub fn set_limit(&mut self, limit: u8) {
        self.limit = limit;
    }

    /// Lists all of it under its service's place in the table of services, which an upgrade changes.
    pub fn list(&self, unit: usize, state: &mut State) {
        for stored in &self.held {
            state.list(kind(stored.poll), unit, &stored.name, stored.fd.as_fd());
        }
    }

    /// Keeps what came with a message of the service at `unit`, as far as there is room; the same open file under
    /// the same name once.
    pub fn keep(
        &mut self,
        unit: usize,
        (name, poll): (&str, bool),
        descriptors: Vec<OwnedFd>,
        state: &mut State,
        releaser: &mut Releaser,
    ) -> Option<Complaint> {
        let mut complaint = None;
        let mut rest = Vec::new();
        for fd in descriptors {
            let same = |s: &&mut Stored| {
                s.name.as_str() == name && sys::descriptor::is_same(s.fd.as_fd(), fd.as_fd())
            };
            if let Some(known) = self.held.iter_mut().find(same) {
                known.poll = poll;
                state.list(kind(poll), unit, name, known.fd.as_fd());
                rest.push(fd);
                continue;
            }
            if self.is_full() {
                self.forget_dead(state, releaser);
            }
            let stored = String::try_from(name).ok().filter(|_| !self.is_full());
            match stored {
                Some(name) if state.list(kind(poll), unit, &name, fd.as_fd()) => {
                    self.held.push(Stored { name, fd, poll });
                    self.changed = true;
                }
                _ => {
                    complaint = Some(Complaint::StoreFull { limit: self.limit });
                    rest.push(fd);
                }
            }
        }
        releaser.take(rest);
        complaint
    }

    /// Takes up what an earlier image of PID 1 kept; what does not fit is closed.
    pub fn go_on(&mut self, name: &str, poll: bool, fd: OwnedFd, releaser: &mut Releaser) {
        match String::try_from(name) {
            Ok(name) if !self.is_full() => {
                self.held.push(Stored { name, fd, poll });
                self.changed = true;
            }
            _ => releaser.take([fd]),
        }
    }

    /// Forgets all of this name.
    pub fn forget(&mut self, name: &str, state: &mut State, releaser: &mut Releaser) {
        self.forget_where(|s| s.name.as_str() == name, state, releaser);
    }

    /// Forgets all.
    pub fn clear(&mut self, state: &mut State, releaser: &mut Releaser) {
        self.forget_where(|_| true, state, releaser);
    }

    /// Forgets those whose other end is gone, unless the service asked that nobody looks.
    pub fn forget_dead(&mut self, state: &mut State, releaser: &mut Releaser) {
        let dead = |s: &Stored| s.poll && sys::descriptor::has_hung_up(s.fd.as_fd());
        self.forget_where(dead, state, releaser);
    }

    fn forget_where(
        &mut self,
        which: impl Fn(&Stored) -> bool,
        state: &mut State,
        releaser: &mut Releaser,
    ) {
        if !self.held.iter().any(&which) {
            return;
        }
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|s| which(s));
        self.held = kept;
        self.changed = true;
        for stored in gone {
            state.unlist(stored.fd.as_fd());
            releaser.take([stored.fd]);
        }
    }

    fn is_full(&self) -> bool {
        self.held.len() >= usize::from(self.limit)
    }

    /// Whether another list is to be passed than at the last start.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What is to be given back, in the order in which it came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.held.iter().map(|s| (s.name.as_str(), s.fd.as_fd()))
    }
}

fn kind(poll: bool) -> Kind {
    if poll {
        Kind::Stored
    } else {
        Kind::StoredUnpolled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::pipe;

    struct Bench {
        store: FdStore,
        state: State,
        releaser: Releaser,
    }

    impl Bench {
        fn new(limit: u8) -> Self {
            Self {
                store: FdStore::new(limit),
                state: State::new([0; 16]).unwrap(),
                releaser: Releaser::default(),
            }
        }

        fn keep(&mut self, name: &str, poll: bool, fds: Vec<OwnedFd>) -> Option<Complaint> {
            self.store
                .keep(3, (name, poll), fds, &mut self.state, &mut self.releaser)
        }

        /// Names in the store; the table of the state memfd must say the same.
        fn names(&self) -> Vec<&str> {
            let names: Vec<&str> = self.store.iter().map(|(name, _)| name).collect();
            let mut listed: Vec<_> = self.state.listed().map(|l| l.name.to_owned()).collect();
            let mut sorted = names.clone();
            sorted.sort_unstable();
            listed.sort_unstable();
            assert_eq!(sorted, listed);
            names
        }
    }

    fn end() -> OwnedFd {
        let (read, write) = pipe().unwrap();
        std::mem::forget(write);
        read.into()
    }

    #[test]
    fn what_is_kept_comes_back_in_order_and_once() {
        let mut b = Bench::new(4);
        let a = end();
        let again = a.try_clone().unwrap();
        assert_eq!(b.keep("a", true, vec![a, end()]), None);
        assert_eq!(b.keep("b", true, vec![end()]), None);
        assert_eq!(b.keep("a", true, vec![again]), None);
        assert_eq!(b.names(), ["a", "a", "b"]);
        assert!(b.store.take_change() && !b.store.take_change());
        b.store.forget("a", &mut b.state, &mut b.releaser);
        assert_eq!(b.names(), ["b"]);
        b.store.clear(&mut b.state, &mut b.releaser);
        assert_eq!(b.names(), [""; 0]);
        assert!(b.store.take_change());
    }

    #[test]
    fn a_full_store_refuses_by_its_limit_and_a_dead_one_makes_room() {
        let mut b = Bench::new(2);
        let (read, write) = pipe().unwrap();
        let (unpolled, other) = pipe().unwrap();
        assert_eq!(b.keep("dies", true, vec![read.into()]), None);
        assert_eq!(b.keep("stays", false, vec![unpolled.into()]), None);
        let full = Some(Complaint::StoreFull { limit: 2 });
        assert_eq!(b.keep("more", true, vec![end()]), full);
        drop((write, other));
        assert_eq!(b.keep("more", true, vec![end()]), None);
        assert_eq!(b.names(), ["stays", "more"]);
        assert_eq!(
            Bench::new(0).keep("x", true, vec![end()]),
            Some(Complaint::StoreFull { limit: 0 })
        );
    }
}
