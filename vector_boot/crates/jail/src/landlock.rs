//! Landlock: which files this process may still open, and to whom it may still speak.
//!
//! Every right is handled that the kernel's ABI knows, up to [`NEWEST`], so what a grant does not name
//! is refused. An older kernel handles fewer: ABI 1 files, 2 moves between folders, 3 truncation,
//! 4 TCP, 5 ioctl on devices, 6 signals and abstract sockets to the outside.

use crate::{Access, Grants, Profile};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use std::error::Error;

/// The newest ABI that these rules were tried on; one that the kernel has beyond it is not used.
const NEWEST: ABI = ABI::V7;

/// Restricts this thread and all that it starts; answers the ABI in force.
pub fn restrict(profile: Profile, grants: &Grants) -> Result<u32, String> {
    let found = sys::beneath::landlock_abi().ok_or("not in this kernel")?;
    match apply(profile, grants) {
        Ok(RulesetStatus::NotEnforced) => Err("not enforced".to_owned()),
        Ok(_) => Ok(found.min(NEWEST as u32)),
        Err(e) => {
            let cause = e.source().map(|cause| format!(": {cause}"));
            Err(format!("{e}{}", cause.unwrap_or_default()))
        }
    }
}

fn apply(profile: Profile, grants: &Grants) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if !profile.speaks_tcp() {
        rules = rules.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut rules = rules.create()?;
    for (fd, access) in &grants.0 {
        rules = rules.add_rule(PathBeneath::new(fd, rights(*access)))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// Never among them: executing, and making device nodes.
fn rights(access: Access) -> BitFlags<AccessFs> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = make_bitflags!(AccessFs::{
        WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
    });
    let own = make_bitflags!(AccessFs::{MakeSock | MakeFifo | MakeSym});
    match access {
        Access::Read => read,
        Access::Write => read | write,
        Access::Own => read | write | own,
    }
}
