//! Who may come in at a server's socket, how often a rude peer is spoken of, and when it is shown out.
//!
//! Pure: counts and times are arguments. Every server of frames uses the same rules with its own
//! [`Limits`], which `docs/wire.md` lists.
//!
//! Start with [`Limits::admit`] and [`Complaints::allow`].

use std::time::Duration;
use wire::Role;

/// From accepting a connection to its hello.
pub const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// What is no frame, or not to be sent by this peer, before the connection is closed.
pub const BAD_FRAMES_MAX: u32 = 16;
/// Seconds between two lines about one uid.
pub const COMPLAINT_SECONDS: u64 = 60;
/// Uids remembered for that: more than a machine has services that could be rude at the same time.
const UIDS_MAX: usize = 64;

/// Connections of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At once.
    pub all: usize,
    /// Of these, kept for the operator and the console: whatever the others do, a person gets in.
    pub kept: usize,
    /// Of users' services and strangers together: our own services get in whatever they do.
    pub users: usize,
    /// Of one uid that is neither the operator nor the console.
    pub of_uid: usize,
}

/// Which limit a new connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// [`Limits::all`], or what is not kept of it.
    All(usize),
    /// [`Limits::users`].
    Users(usize),
    /// [`Limits::of_uid`].
    OfUid(usize),
}

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All(n) => write!(f, "{n} connections"),
            Self::Users(n) => write!(f, "{n} connections of users"),
            Self::OfUid(n) => write!(f, "{n} connections of one uid"),
        }
    }
}

impl Limits {
    /// Whether one more connection of this role may come in, given the roles of those that are there.
    ///
    /// # Errors
    /// The limit that it is over.
    pub fn admit(&self, there: impl Iterator<Item = Role>, role: Role) -> Result<(), Over> {
        let (mut all, mut users, mut same) = (0, 0, 0);
        for other in there {
            all += 1;
            users += usize::from(is_user(other));
            same += usize::from(other == role);
        }
        if matches!(role, Role::Operator | Role::Console) {
            return if all < self.all {
                Ok(())
            } else {
                Err(Over::All(self.all))
            };
        }
        let open = self.all.saturating_sub(self.kept);
        if same >= self.of_uid {
            Err(Over::OfUid(self.of_uid))
        } else if is_user(role) && users >= self.users {
            Err(Over::Users(self.users))
        } else if all >= open {
            Err(Over::All(open))
        } else {
            Ok(())
        }
    }
}

fn is_user(role: Role) -> bool {
    matches!(role, Role::User(_) | Role::Stranger(_))
}

/// Lines about peers, which anybody can cause: one a minute and uid, the others are counted.
#[derive(Debug, Clone)]
pub struct Complaints {
    /// uid, when it was last spoken of, what was not said since; in no order.
    told: [Option<(u32, u64, u64)>; UIDS_MAX],
}

impl Default for Complaints {
    fn default() -> Self {
        Self {
            told: [None; UIDS_MAX],
        }
    }
}

impl Complaints {
    /// Whether a line about this uid may be written at this second; then how many were not written
    /// since the last one. A uid that finds no place pushes out the one that is silent for longest.
    pub fn allow(&mut self, uid: u32, second: u64) -> Option<u64> {
        let known = self
            .told
            .iter_mut()
            .flatten()
            .find(|(other, ..)| *other == uid);
        if let Some((_, last, unsaid)) = known {
            if second < last.saturating_add(COMPLAINT_SECONDS) {
                *unsaid = unsaid.saturating_add(1);
                return None;
            }
            *last = second;
            return Some(std::mem::take(unsaid));
        }
        // An empty place counts as the oldest.
        let place = self
            .told
            .iter_mut()
            .min_by_key(|place| place.map_or((0, 0), |(_, last, _)| (1, last)))?;
        *place = Some((uid, second, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        all: 20,
        kept: 3,
        users: 6,
        of_uid: 4,
    };

    /// Lets in whom it can of `crowd`, again and again, and counts who is in.
    fn crowd(there: &mut Vec<Role>, crowd: &[Role]) {
        for role in crowd.iter().cycle().take(crowd.len() * 50) {
            if LIMITS.admit(there.iter().copied(), *role).is_ok() {
                there.push(*role);
            }
        }
    }

    #[test]
    fn a_crowd_of_users_leaves_room_for_services_and_all_of_them_for_a_person() {
        let mut there = Vec::new();
        let users: Vec<Role> = (30_000..30_050).map(Role::User).collect();
        crowd(&mut there, &users);
        assert_eq!(there.len(), LIMITS.users);
        assert_eq!(
            LIMITS.admit(there.iter().copied(), Role::Stranger(7)),
            Err(Over::Users(6))
        );
        let services = [Role::Ledger, Role::Capacity, Role::Gateway, Role::Net];
        crowd(&mut there, &services);
        assert_eq!(there.len(), LIMITS.all - LIMITS.kept);
        crowd(&mut there, &[Role::Operator, Role::Console]);
        assert_eq!(there.len(), LIMITS.all);
        assert_eq!(
            LIMITS.admit(there.iter().copied(), Role::Operator),
            Err(Over::All(20))
        );
    }

    #[test]
    fn one_uid_has_its_share_and_no_more() {
        let mut there = Vec::new();
        crowd(&mut there, &[Role::User(30_001)]);
        crowd(&mut there, &[Role::Gateway]);
        assert_eq!(there.len(), 2 * LIMITS.of_uid);
        let over = LIMITS.admit(there.iter().copied(), Role::Gateway);
        assert_eq!(over.unwrap_err().to_string(), "4 connections of one uid");
    }

    #[test]
    fn a_uid_is_spoken_of_once_a_minute_and_nothing_is_lost_from_the_count() {
        let mut complaints = Complaints::default();
        assert_eq!(complaints.allow(7, 100), Some(0));
        assert!((0..99).all(|_| complaints.allow(7, 159).is_none()));
        assert_eq!(complaints.allow(8, 159), Some(0));
        assert_eq!(complaints.allow(7, 160), Some(99));
        assert_eq!(complaints.allow(7, 161), None);
    }

    #[test]
    fn more_uids_than_places_push_out_the_oldest_and_each_is_spoken_of() {
        let mut complaints = Complaints::default();
        for uid in 0..1000 {
            assert_eq!(complaints.allow(uid, 100 + u64::from(uid)), Some(0));
        }
        assert_eq!(complaints.allow(999, 1099), None);
    }
}
