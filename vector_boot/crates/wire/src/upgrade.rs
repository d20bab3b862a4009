//! `init.sock`: another package takes the place of the running one, and what came of it.

use crate::control::message;
use crate::{Kind, Message};
use serde::{Deserialize, Serialize};

/// Asks for another package; answered by [`crate::Done`] once that is recorded and begun. The package is the
/// file or block device whose descriptor comes along, else what `place` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade<'a> {
    /// `/dev/NAME`, the name of a partition, or `ROOT/PATH` below a root of the gateway; with a descriptor
    /// only how it is shown.
    pub place: &'a str,
    /// Whether the package is to be there after the next boot.
    pub keep: bool,
}

/// Asks for the package before; answered like [`Upgrade`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback;

/// Asks for [`UpgradeStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeGet;

/// How far an upgrade is. New steps are added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// None is under way.
    Idle,
    /// The package is read and verified.
    Checking,
    /// Its executables are copied into sealed memory.
    Loading,
    /// Its `vector_boot` takes over.
    Becoming,
    /// A service is being replaced.
    Replacing,
    /// What was replaced is watched.
    Watching,
    /// It is written to the package's device.
    Keeping,
    /// What was there before is being put back.
    Undoing,
}

impl Step {
    /// For people, programs and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Checking => "checking",
            Self::Loading => "loading",
            Self::Becoming => "becoming",
            Self::Replacing => "replacing",
            Self::Watching => "watching",
            Self::Keeping => "keeping",
            Self::Undoing => "undoing",
        }
    }
}

/// How the last upgrade since boot ended. New ends are added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// There was none.
    None,
    /// The package runs; it is gone with the next boot.
    UntilReboot,
    /// The package runs, and is on its device.
    Kept,
    /// What was there before runs again.
    RolledBack,
    /// Refused before anything was touched.
    Refused,
}

impl End {
    /// For people, programs and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::UntilReboot => "until reboot",
            Self::Kept => "kept",
            Self::RolledBack => "rolled back",
            Self::Refused => "refused",
        }
    }
}

/// How an upgrade stands, and how the last one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeStatus<'a> {
    /// How far the one under way is.
    pub step: Step,
    /// The service at hand; empty if none is.
    pub service: &'a str,
    /// Nanoseconds that its watch window has left.
    pub left_ns: u64,
    /// The package that runs, or ran before the upgrade under way.
    pub from: &'a str,
    /// The package of the upgrade under way or of the last one.
    pub to: &'a str,
    /// How the last one ended.
    pub end: End,
    /// Why it did not come to its end: a [`crate::why::Reason`] and what was seen; empty if it did.
    pub reason: &'a str,
    /// The package that `rollback` goes to; empty if there is none.
    pub before: &'a str,
    /// Upgrades and rollbacks since boot that came to their end.
    pub count: u32,
    /// Whether the package that runs is gone with the next boot.
    pub until_reboot: bool,
}

message! {
    Upgrade<'_> = Upgrade, Rollback = Rollback, UpgradeGet = UpgradeGet,
    UpgradeStatus<'_> = UpgradeStatus,
}
