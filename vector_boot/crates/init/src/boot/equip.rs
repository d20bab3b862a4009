//! What a service is started with: descriptors, environment, identity, its leaf in the cgroup tree.

use super::storage::service_folder;
use crate::cgroup::Leaf;
use crate::heart::{Heart, Held};
use crate::state::Level;
use rts::manifest::{self, Cap, Pass, Service};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use sys::capability::{Capability, Set};
use sys::spawn::{Limit, Powers, Spawn};

/// Open files of one service (RLIMIT_NOFILE): the gateway's 512 connections with a file each.
const OPEN_FILES_MAX: u64 = 2048;
const _: () = assert!(OPEN_FILES_MAX >= sys::release::OPEN_FILES);
/// Bytes that one service may lock in memory: what Linux gave everybody for long.
const LOCKED_BYTES_MAX: u64 = 64 << 10;
/// Realtime priority that the ledger's committer may take: the lowest, so that a commit does not wait for
/// the next tick behind whoever runs.
const COMMITTER_PRIORITY: u64 = 1;
/// What every service may have. No core dumps, no realtime, no POSIX message queues.
const LIMITS: &[(Limit, u64)] = &[
    (Limit::OpenFiles, OPEN_FILES_MAX),
    (Limit::Core, 0),
    (Limit::LockedMemory, LOCKED_BYTES_MAX),
    (Limit::RealtimePriority, 0),
    (Limit::MessageQueues, 0),
];
/// oom_score_adj: when the machine's memory is out, users' services go before ours; see `harden::OOM_SCORE_ADJ`.
const DIES_LATE: &CStr = c"-500";

/// Gathers what a service is started with.
///
/// # Errors
/// One sentence naming the service and what is missing.
pub fn prepare_unit(heart: &mut Heart, i: usize) -> Result<(), String> {
    let appliance = heart.setup.is_appliance();
    let Some(unit) = heart.units.get(i) else {
        return Ok(());
    };
    let (service, image) = (unit.service.clone(), unit.image);
    let name = service.name.as_str();
    let failed = |what: &str, e: io::Error| format!("service {name}: {what}: {e}");
    let jailed = matches!(service.image, manifest::Image::Added(_)) && service.is_confined();
    let mut passed = Vec::new();
    for pass in service.pass.iter() {
        collect(heart, name, pass, &mut passed).map_err(|e| failed(pass.as_str(), e))?;
    }
    if jailed {
        let fd = match heart.images.get(image).map(|i| &i.held) {
            Some(Held::Yes(fd)) => fd.try_clone().map_err(|e| failed("image", e))?,
            _ => return Err(format!("service {name}: image not in hand")),
        };
        passed.push(("image".to_owned(), fd));
    }
    let leaf = if appliance {
        match Leaf::new(
            name,
            service.memory_max_bytes,
            service.pids_max,
            service.cpu_weight,
        ) {
            Ok((leaf, complaints)) => {
                complaints
                    .iter()
                    .for_each(|c| heart.journal.say(Level::Warn, format_args!("{c}")));
                Some(leaf)
            }
            Err(e) => {
                heart
                    .journal
                    .say(Level::Warn, format_args!("service {name}: cgroup: {e}"));
                None
            }
        }
    } else {
        None
    };
    if let Some(unit) = heart.units.get_mut(i) {
        unit.passed = passed;
        unit.leaf = leaf;
    }
    equip_unit(heart, i)
}

/// Prepares the start of a service whose descriptors and leaf are in hand.
///
/// # Errors
/// One sentence naming the service and what is missing.
pub fn equip_unit(heart: &mut Heart, i: usize) -> Result<(), String> {
    let appliance = heart.setup.is_appliance();
    let (run, data) = (heart.setup.run_folder(), heart.setup.data_folder());
    let Some(unit) = heart.units.get(i) else {
        return Ok(());
    };
    let (service, uid) = (unit.service.clone(), unit.uid);
    let name = service.name.as_str();
    let failed = |what: &str, e: io::Error| format!("service {name}: {what}: {e}");
    let added = matches!(service.image, manifest::Image::Added(_));
    let jailed = added && service.is_confined();
    // Not by format!, a call for each byte, of which this is on the way to every service.
    let digit = |half: u8| char::from_digit(u32::from(half), 16);
    let boot_id: String = heart
        .journal
        .state
        .boot_id()
        .iter()
        .flat_map(|b| [digit(b >> 4), digit(b & 15)])
        .flatten()
        .collect();
    // The links of a host are not ours.
    let network = if appliance {
        [heart.params.get("vb.net"), heart.params.get("vb.ntp")]
    } else {
        ["off"; 2]
    }
    .map(str::to_owned);
    let Some(unit) = heart.units.get_mut(i) else {
        return Ok(());
    };
    // In its cell the service finds its own socket alone.
    let notify = if appliance && service.is_confined() {
        jail::cell::NOTIFY.to_owned()
    } else {
        run.join("notify").join(name).display().to_string()
    };
    let (run, data) = (
        run.display().to_string(),
        service_folder(&data, name).display().to_string(),
    );
    let mut env = vec![
        ("VB_RUN", run.as_str()),
        ("VB_BOOT_ID", &boot_id),
        ("VB_NAME", name),
    ];
    if !added || jailed {
        env.extend([("VB_NET", network[0].as_str()), ("VB_NTP", &network[1])]);
    }
    if unit.notify().is_some() {
        env.push(("NOTIFY_SOCKET", &notify));
    }
    let (watchdog_us, store) = (
        (u64::from(service.watchdog_ms) * 1000).to_string(),
        service.fd_store.to_string(),
    );
    if service.watchdog_ms > 0 {
        env.push(("WATCHDOG_USEC", &watchdog_us));
        env.push(("WATCHDOG_PID", sys::spawn::PID_OF_CHILD));
    }
    if service.fd_store > 0 {
        env.push(("FDSTORE", &store));
    }
    if service.data {
        env.push(("VB_DATA", &data));
    }
    let mut argv = match &service.image {
        manifest::Image::VectorBoot => vec!["vector_boot"],
        manifest::Image::Services => vec!["vb-services"],
        manifest::Image::Added(added) if !jailed => vec![added.as_str()],
        manifest::Image::Added(added) => vec![
            "vector_boot",
            "jail",
            "--profile",
            match service.profile {
                manifest::Profile::Foreign if service.network => "foreign-online",
                role => role.as_str(),
            },
            "--",
            added.as_str(),
        ],
    };
    argv.extend(service.args.iter().map(|a| a.as_str()));
    let mut spawn =
        Spawn::new(&argv, &env, &unit.descriptor_names()).map_err(|e| failed("command", e))?;
    if appliance {
        spawn.identity = sys::spawn::Identity::Uid(uid);
        spawn.powers = Powers::Only(powers_of(&service));
        spawn.limits = LIMITS.to_vec();
        if service.name.as_str() == wire::Role::Ledger.name() {
            let mine = |(limit, _): &(Limit, u64)| *limit != Limit::RealtimePriority;
            spawn.limits.retain(mine);
            spawn
                .limits
                .push((Limit::RealtimePriority, COMMITTER_PRIORITY));
        }
        // Users' services inherit PID 1's.
        spawn.oom_score_adj = (!added).then(|| DIES_LATE.to_owned());
    } else {
        spawn.dies_with_parent = true;
        // What needs no power is done here too.
        spawn.limits = LIMITS
            .iter()
            .copied()
            .filter(|(_, most)| *most == 0)
            .collect();
        if sys::capability::Set::own().is_ok_and(|own| own.holds(Capability::SetPcap)) {
            spawn.powers = Powers::Only(powers_of(&service));
        }
    }
    spawn.no_new_privileges = true;
    unit.spawn = Some(spawn);
    Ok(())
}

fn powers_of(service: &Service) -> Set {
    service.caps.iter().fold(Set::NONE, |powers, cap| {
        powers.and(Set::of(&[match cap {
            Cap::NetAdmin => Capability::NetAdmin,
            Cap::NetRaw => Capability::NetRaw,
        }]))
    })
}

fn collect(
    heart: &mut Heart,
    service: &str,
    pass: &Pass,
    passed: &mut Vec<(String, OwnedFd)>,
) -> io::Result<()> {
    let open = &heart.open;
    let one = match pass {
        Pass::Log => open.log.as_ref(),
        Pass::Rts => heart.rts.as_ref(),
        Pass::Token => heart.token.as_ref(),
        Pass::Sensors => heart.sensors.as_ref(),
        Pass::Tty => open.tty.as_ref(),
        Pass::Machine => open.machine.as_ref(),
        Pass::Proc => {
            passed.push(("proc".to_owned(), File::open("/proc")?.into()));
            return Ok(());
        }
        Pass::Stats => {
            let (page, _) = sys::seqlock::Writer::create("stats", wire::stats::MAGIC)?;
            heart.work.take_stats(service, page.as_fd());
            passed.push(("stats".to_owned(), page.into()));
            return Ok(());
        }
        Pass::Roots | Pass::Root(_) => {
            let wanted = |name: &str| match pass {
                Pass::Root(root) => name.strip_prefix("root.") == Some(root.as_str()),
                _ => true,
            };
            for (name, fd) in open.roots.iter().filter(|(name, _)| wanted(name)) {
                passed.push((name.clone(), fd.try_clone()?));
            }
            return Ok(());
        }
    };
    // What this machine does not have is simply not passed.
    if let Some(fd) = one {
        passed.push((pass.as_str().to_owned(), fd.try_clone()?));
    }
    Ok(())
}
