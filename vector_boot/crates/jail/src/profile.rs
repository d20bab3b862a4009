//! The profiles: one for each role that is confined, and two for foreign programs.

/// What a process is confined as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The event store.
    Ledger,
    /// The capacity kernel.
    Capacity,
    /// The only door for agents.
    Gateway,
    /// Owns the terminal.
    Console,
    /// Owns links and addresses.
    Net,
    /// Judges mutations.
    Cortex,
    /// Has a witness elsewhere sign the log's checkpoints.
    Witness,
    /// A program of the appliance's user, without a network.
    Foreign,
    /// The same with TCP and UDP.
    ForeignOnline,
}

/// Every profile by its name.
const NAMES: &[(&str, Profile)] = &[
    ("ledger", Profile::Ledger),
    ("capacity", Profile::Capacity),
    ("gateway", Profile::Gateway),
    ("console", Profile::Console),
    ("net", Profile::Net),
    ("cortex", Profile::Cortex),
    ("witness", Profile::Witness),
    ("foreign", Profile::Foreign),
    ("foreign-online", Profile::ForeignOnline),
];

impl Profile {
    /// The profile of this name: a role's word, or `foreign`.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(n, _)| *n == name).map(|(_, p)| *p)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(_, p)| *p == self)
            .map_or("foreign", |(n, _)| *n)
    }

    /// Whether its processes may use TCP, where Landlock knows it. What a role has already been given
    /// as a listener is not touched by that.
    #[must_use]
    pub fn speaks_tcp(self) -> bool {
        matches!(self, Self::ForeignOnline | Self::Witness)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(_, p)| *p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_has_its_name() {
        for profile in Profile::all() {
            assert_eq!(Profile::of_name(profile.name()), Some(profile));
        }
        assert_eq!(Profile::of_name("init"), None);
    }
}
