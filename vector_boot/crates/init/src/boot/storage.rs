//! What lies on disks: mounts, folders, roots; asked of the helper, opened when they are there.

use crate::disks;
use crate::heart::Heart;
use crate::helper_link::Purpose;
use rts::manifest::{Pass, RootMode, Service};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use wire::helper::Task;

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
        let named = heart.params.get("vb.data").to_owned();
        let device = match named.as_str() {
            "auto" => disks::partition(&devices, "data"),
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
                heart.helper.ask(Purpose::MountData, &task, None);
                heart.mounted.push(data_text.clone());
            }
            None => {
                heart.degrade("data: no partition named data; files end with this boot".to_owned())
            }
        }
    } else {
        heart.helper.ask(
            Purpose::Provision,
            &Task::Folder {
                path: &data_text,
                uid: u32::MAX,
                mode: 0o700,
            },
            None,
        );
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
            let uid = if heart.setup.is_appliance() {
                owner.unwrap_or(0)
            } else {
                u32::MAX
            };
            heart.helper.ask(
                Purpose::Provision,
                &Task::Folder {
                    path: &path,
                    uid,
                    mode: 0o755,
                },
                None,
            );
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
        let uid = if heart.setup.is_appliance() {
            unit.uid
        } else {
            u32::MAX
        };
        heart.helper.ask(
            Purpose::Provision,
            &Task::Folder {
                path: &path,
                uid,
                mode: 0o700,
            },
            None,
        );
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

pub(super) fn service_folder(data: &Path, name: &str) -> PathBuf {
    data.join(format!("service.{name}"))
}

pub(super) fn root_path(data: &Path, path: &str) -> PathBuf {
    // An absolute path replaces the folder: `join` does that.
    data.join(path)
}

/// Opens the gateway's roots once the disks are there.
pub fn open_roots(heart: &mut Heart) {
    let data = heart.setup.data_folder();
    if let Ok(folder) = File::open(&data) {
        heart.work.take_data(folder.into());
    }
    let roots: Vec<_> = heart.manifest.roots.iter().cloned().collect();
    for root in roots {
        let name = root.name.as_str();
        let mounted = PathBuf::from(format!("/{name}"));
        let own_disk = heart.mounted.iter().any(|m| Path::new(m) == mounted);
        let path = if own_disk {
            mounted
        } else {
            root_path(&data, root.path.as_str())
        };
        match File::open(&path) {
            Ok(folder) => heart
                .open
                .roots
                .push((format!("root.{name}"), folder.into())),
            // A read-only root is there when somebody brought it.
            Err(e) if e.kind() == io::ErrorKind::NotFound && root.mode == RootMode::Ro => {}
            Err(e) => heart.degrade(format!("root {name}: {}: {e}", path.display())),
        }
    }
}
