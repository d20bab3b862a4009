//! What lies on disks: mounts, folders, roots; asked of the helper, opened when they are there.

use crate::disks;
use crate::heart::Heart;
use crate::helper::MEMORY;
use crate::helper_link::Purpose;
use rts::manifest::{Pass, RootMode, Service};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use wire::helper::Task;

/// The GPT name of the data disk's partition, the only one that ever grows.
const DATA_PARTITION: &str = "data";
/// What a new gateway root greets with.
const WELCOME: &str = "This is the folder `work` of a Vector Boot machine.\nTools read and write here; every call is in the ledger.\n";

/// Whether a service waits for the data disk.
#[must_use]
pub fn needs_storage(service: &Service) -> bool {
    service.data
        || service
            .pass
            .iter()
            .any(|p| matches!(p, Pass::Roots | Pass::Root(_)))
}

/// Asks the helper for everything that lies on disks.
pub fn queue_storage(heart: &mut Heart) {
    let data = heart.setup.data_folder();
    let data_text = data.display().to_string();
    let devices = if heart.setup.is_appliance() {
        disks::devices()
    } else {
        Vec::new()
    };
    if heart.setup.is_appliance() {
        // Below the disk, if there is one and it can be mounted: the root has no size.
        let task = Task::Mount {
            source: MEMORY,
            target: &data_text,
            fstype: MEMORY,
            read_only: false,
        };
        heart.helper.ask(Purpose::Provision, &task, None);
        let named = heart.params.get("vb.data").to_owned();
        let device = match named.as_str() {
            "auto" => disks::partition(&devices, DATA_PARTITION),
            "off" => None,
            path => devices.iter().find(|d| d.path == Path::new(path)),
        };
        match device {
            Some(device) => {
                let source = device.path.display().to_string();
                let task = Task::Mount {
                    source: &source,
                    target: &data_text,
                    fstype: "ext4",
                    read_only: device.read_only,
                };
                if !device.read_only && device.partition == DATA_PARTITION {
                    let grow = Task::GrowPartition {
                        device: &source,
                        name: DATA_PARTITION,
                    };
                    heart.helper.ask(Purpose::GrowPartition, &grow, None);
                }
                heart.helper.ask(Purpose::MountData, &task, None);
                heart.data_writable = !device.read_only;
                heart.data_device = (!device.read_only).then_some(source);
                heart.mounted.push(data_text.clone());
            }
            None => {
                heart.degrade("data: no partition named data; files end with this boot".to_owned())
            }
        }
    } else {
        make_folder(heart, &data_text, u32::MAX, 0o700);
    }
    let owner = heart
        .units
        .iter()
        .find(|u| {
            u.service
                .pass
                .iter()
                .any(|p| matches!(p, Pass::Roots | Pass::Root(_)))
        })
        .map(|u| u.uid);
    let roots: Vec<_> = heart.manifest.roots.iter().cloned().collect();
    for (i, root) in roots.iter().enumerate() {
        let path = root_path(&data, root.path.as_str()).display().to_string();
        if let Some(device) = disks::partition(&devices, root.name.as_str()) {
            let (source, target) = (
                device.path.display().to_string(),
                format!("/{}", root.name.as_str()),
            );
            let read_only = root.mode == RootMode::Ro || device.read_only;
            heart.helper.ask(
                Purpose::MountRoot(i),
                &Task::Mount {
                    source: &source,
                    target: &target,
                    fstype: "ext4",
                    read_only,
                },
                None,
            );
            heart.mounted.push(target);
        } else if root.mode == RootMode::Rw {
            let uid = owner_here(heart, owner.unwrap_or(0));
            make_folder(heart, &path, uid, 0o755);
            let welcome = format!("{path}/welcome.txt");
            heart.helper.ask(
                Purpose::Provision,
                &Task::Seed {
                    path: &welcome,
                    uid,
                    content: WELCOME,
                },
                None,
            );
        }
    }
    for i in 0..heart.units.len() {
        let Some(unit) = heart.units.get(i).filter(|u| u.service.data) else {
            continue;
        };
        let path = service_folder(&data, unit.name()).display().to_string();
        let uid = owner_here(heart, unit.uid);
        make_folder(heart, &path, uid, 0o700);
    }
    heart
        .helper
        .ask(Purpose::OpenData, &Task::Open { path: &data_text }, None);
    for (i, root) in roots.iter().enumerate() {
        let path = folder_of_root(heart, root.name.as_str(), root.path.as_str());
        let path = path.display().to_string();
        heart
            .helper
            .ask(Purpose::OpenRoot(i), &Task::Open { path: &path }, None);
    }
    // Answers come in order: when this one is there, all above are.
    let (mode, uid) = if heart.setup.is_appliance() {
        (0o711, 0)
    } else {
        (0o700, u32::MAX)
    };
    heart.helper.ask(
        Purpose::StorageReady,
        &Task::Folder {
            path: &data_text,
            uid,
            mode,
        },
        None,
    );
}

/// Asks for a folder of the data disk.
fn make_folder(heart: &mut Heart, path: &str, uid: u32, mode: u32) {
    let folder = Task::Folder { path, uid, mode };
    heart.helper.ask(Purpose::Provision, &folder, None);
}

/// Whose a folder becomes: as an ordinary process, all are our own.
fn owner_here(heart: &Heart, uid: u32) -> u32 {
    if heart.setup.is_appliance() {
        uid
    } else {
        u32::MAX
    }
}

pub fn service_folder(data: &Path, name: &str) -> PathBuf {
    data.join(format!("service.{name}"))
}

pub(super) fn root_path(data: &Path, path: &str) -> PathBuf {
    // An absolute path replaces the folder: `join` does that.
    data.join(path)
}

/// Where a root lies: a disk of its own, or a folder of the data disk.
fn folder_of_root(heart: &Heart, name: &str, path: &str) -> PathBuf {
    let mounted = PathBuf::from(format!("/{name}"));
    if heart.mounted.iter().any(|m| Path::new(m) == mounted) {
        mounted
    } else {
        root_path(&heart.setup.data_folder(), path)
    }
}

/// Takes what the helper opened for one of the gateway's roots.
pub fn take_root(heart: &mut Heart, i: usize, folder: Option<OwnedFd>) {
    let Some(root) = heart.manifest.roots.get(i) else {
        return;
    };
    let (name, mode) = (root.name.as_str().to_owned(), root.mode);
    match folder {
        Some(folder) => heart.open.roots.push((format!("root.{name}"), folder)),
        // A read-only root is there when somebody brought it.
        None if mode == RootMode::Ro => {}
        None => heart.degrade(format!("root {name}: its folder is not there")),
    }
}
