//! The cells: what a process of each profile finds around it, before it confines itself.
//!
//! A cell is a set of namespaces that PID 1's helper makes once for a service and that each of its
//! processes enters before its program is executed. This is the one table of who sees what;
//! docs/SECURITY.md shows it to people, and a test holds the two together.
//! Start with [`View::of`].

use crate::Profile;

/// Folder of the sockets on the appliance, and in every cell.
pub const RUN: &str = "/run/vb";
/// Folder of the data on the appliance, and in the cells of services that have a part of it.
pub const DATA: &str = "/data";
/// Where a service finds its notify socket: the socket is its identity, so the cell holds this one alone.
pub const NOTIFY: &str = "/run/vb/notify";
/// Folder in which the role `net` writes `resolv.conf`, by renaming.
pub const NAMES: &str = "/run/vb/net";
/// cgroups of leases.
pub const LEASES: &str = "/sys/fs/cgroup/vb/lease";

/// What of `/proc` a cell has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proc {
    /// None.
    Nothing,
    /// These files of the machine alone.
    Figures(&'static [&'static str]),
    /// Its own processes; those of others are not there (`hidepid=invisible`).
    Own,
    /// All processes, as far as their files are open to everybody.
    All,
}

/// What of the network a cell has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// A namespace of its own without links; passed listeners work all the same.
    Nothing,
    /// The machine's.
    Machine,
    /// As the manifest says.
    Asked,
}

/// What of name resolution a cell has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Nothing.
    Nothing,
    /// [`NAMES`] to read.
    Reads,
    /// [`NAMES`] to write.
    Writes,
}

/// What a process of one profile finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Sockets in [`RUN`] beside its notify socket.
    pub sockets: &'static [&'static str],
    /// `/proc`, never to write.
    pub proc: Proc,
    /// Whether it finds `/sys`, to read.
    pub sys: bool,
    /// Whether it finds [`LEASES`], to read.
    pub leases: bool,
    /// Nodes in `/dev`.
    pub devices: &'static [&'static str],
    /// The network.
    pub network: Network,
    /// Name servers.
    pub names: Names,
}

/// A cell without anything but what the manifest adds.
const EMPTY: View = View {
    sockets: &[],
    proc: Proc::Nothing,
    sys: false,
    leases: false,
    devices: &[],
    network: Network::Nothing,
    names: Names::Nothing,
};

impl View {
    /// What a process of this profile finds. The manifest adds its folder on the data disk, `/tmp`, and to
    /// `foreign` the sockets of the services that it needs.
    #[must_use]
    pub const fn of(profile: Profile) -> Self {
        match profile {
            // All that it works with is passed to it.
            Profile::Ledger => EMPTY,
            Profile::Capacity => View {
                sockets: &["ledger.wire", "init.sock"],
                proc: Proc::Figures(&["stat", "meminfo", "loadavg"]),
                leases: true,
                ..EMPTY
            },
            Profile::Gateway => View {
                sockets: &["ledger.wire", "ledger.sock", "capacity.sock"],
                // Where its roots lie is read from its own descriptors.
                proc: Proc::Own,
                ..EMPTY
            },
            // It shows the machine to a person, so it sees the machine; its powers are none.
            Profile::Console => View {
                sockets: &[
                    "init.sock",
                    "ledger.sock",
                    "capacity.sock",
                    "evolution.sock",
                ],
                proc: Proc::All,
                sys: true,
                network: Network::Machine,
                names: Names::Reads,
                ..EMPTY
            },
            Profile::Net => View {
                sockets: &["init.sock"],
                network: Network::Machine,
                names: Names::Writes,
                ..EMPTY
            },
            Profile::Cortex => View {
                sockets: &["ledger.wire", "init.sock"],
                ..EMPTY
            },
            Profile::Witness => View {
                sockets: &["ledger.sock"],
                network: Network::Machine,
                ..EMPTY
            },
            Profile::Foreign | Profile::ForeignOnline => View {
                sockets: &["init.sock", "ledger.sock", "ledger.wire", "capacity.sock"],
                proc: Proc::Own,
                devices: &["null", "zero", "full", "random", "urandom"],
                network: Network::Asked,
                names: Names::Reads,
                ..EMPTY
            },
        }
    }

    /// What a program that is not ours finds under a role's profile: no processes of others, and the
    /// network only as its manifest says. A profile may take away, never add.
    #[must_use]
    pub const fn of_stranger(profile: Profile) -> Self {
        let view = Self::of(profile);
        View {
            proc: match view.proc {
                Proc::All => Proc::Own,
                other => other,
            },
            network: match view.network {
                Network::Machine => Network::Asked,
                other => other,
            },
            ..view
        }
    }

    /// Whether a service of this profile is in the machine's network, where its manifest says `asked`.
    #[must_use]
    pub const fn has_network(&self, asked: bool) -> bool {
        match self.network {
            Network::Nothing => false,
            Network::Machine => true,
            Network::Asked => asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_for_those_who_show_or_run_it_or_ask_for_it() {
        for profile in Profile::all() {
            let view = View::of(profile);
            let expected = match profile {
                Profile::Console | Profile::Net | Profile::Witness => [true, true],
                Profile::Foreign | Profile::ForeignOnline => [false, true],
                _ => [false, false],
            };
            assert_eq!(
                [view.has_network(false), view.has_network(true)],
                expected,
                "{profile:?}"
            );
        }
    }

    #[test]
    fn nobody_but_the_console_sees_processes_of_others() {
        for profile in Profile::all() {
            let all = View::of(profile).proc == Proc::All;
            assert_eq!(all, profile == Profile::Console, "{profile:?}");
        }
    }
}
