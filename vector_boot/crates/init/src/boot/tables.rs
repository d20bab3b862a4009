//! From the manifest to the tables of images, services and policies.

use crate::early::Initramfs;
use crate::handover::Running;
use crate::heart::{Held, Image};
use crate::package::{self, Found};
use crate::supervisor::{Policy, Restart, Strategy};
use crate::unit::Unit;
use rts::manifest::{self, Manifest, Service};
use std::os::fd::OwnedFd;

/// Bytes of executables that PID 1 loads itself: hashing them takes less than starting the helper for it.
const SMALL_BYTES_MAX: u64 = 512 * 1024;

/// `vector_boot` and `vb-services` first, then the added ones in the order of their first use.
pub(super) fn table_of_images(
    initramfs: &Initramfs,
    running: &Running,
    found: Option<&Found>,
    manifest: &Manifest,
) -> Vec<Image> {
    let copy = |fd: &Option<OwnedFd>| fd.as_ref().and_then(|fd| fd.try_clone().ok());
    let held = |fd: Option<OwnedFd>, name: &str| match fd {
        Some(fd) => Held::Yes(fd),
        None => Held::No(format!("image {name}: not in the initramfs")),
    };
    let packed = |name: &str| found.and_then(|f| f.image(name));
    let ours = initramfs.digests.iter().find(|(n, _)| n == "vb-services");
    let ours = ours.map(|(_, hex)| hex.as_str());
    let own = copy(&initramfs.services);
    let mut images = vec![Image {
        name: "vector_boot".to_owned(),
        digest: running.digest.clone(),
        held: held(copy(&initramfs.vector_boot), "vector_boot"),
        fallback: None,
    }];
    images.push(match packed("vb-services") {
        // The package brings other services than the initramfs: those are meant.
        Some(theirs) if ours.is_some_and(|o| o != theirs) || own.is_none() => Image {
            name: "vb-services".to_owned(),
            digest: theirs.to_owned(),
            held: Held::Loading,
            fallback: own,
        },
        _ => Image {
            name: "vb-services".to_owned(),
            digest: ours.unwrap_or_default().to_owned(),
            held: held(own, "vb-services"),
            fallback: None,
        },
    });
    for service in &manifest.services {
        let name = service.image.as_str();
        if images.iter().all(|i| i.name != name) {
            images.push(Image {
                name: name.to_owned(),
                digest: packed(name).unwrap_or_default().to_owned(),
                held: Held::Loading,
                fallback: None,
            });
        }
    }
    images
}

/// Loads what is small from a package that lies in memory; everything else is the helper's, since a disk may let
/// one wait.
pub(super) fn load_small_images(images: &mut [Image], found: &Found, degraded: &mut Vec<String>) {
    if !found.in_memory {
        return;
    }
    let mut room = SMALL_BYTES_MAX;
    let loading = images
        .iter_mut()
        .filter(|i| matches!(i.held, Held::Loading));
    for image in loading {
        let small = found
            .image_bytes(&image.name)
            .filter(|bytes| *bytes <= room);
        let Some(bytes) = small else {
            continue;
        };
        room -= bytes;
        image.held = match package::load_from_memory(found, &image.name) {
            Ok(held) => Held::Yes(held),
            Err(e) => match image.fallback.take() {
                Some(own) => {
                    degraded.push(format!("package: {e}; the initramfs's own runs"));
                    Held::Yes(own)
                }
                None => Held::No(e),
            },
        };
    }
}

/// The table of images of a manifest, none of them in hand.
pub fn table_of_names(manifest: &Manifest) -> Vec<Image> {
    let added = manifest.services.iter().map(|s| s.image.as_str());
    let mut images: Vec<Image> = Vec::new();
    for name in ["vector_boot", "vb-services"].into_iter().chain(added) {
        if images.iter().all(|i| i.name != name) {
            images.push(Image {
                name: name.to_owned(),
                digest: String::new(),
                held: Held::Loading,
                fallback: None,
            });
        }
    }
    images
}

/// What the manifest says of all services.
pub fn table_of_policies(units: &[Unit], manifest: &Manifest) -> Vec<Policy> {
    let each = units.iter().map(|u| policy_of(&u.service, manifest));
    each.collect()
}

pub fn table_of_units(manifest: &Manifest, images: &[Image]) -> Vec<Unit> {
    let place = |name: &str| images.iter().position(|i| i.name == name).unwrap_or(0);
    let units = manifest.services.iter().enumerate().map(|(i, service)| {
        let image = place(service.image.as_str());
        let uid = manifest.uid(i).unwrap_or(manifest::UID_ASSIGNED_FIRST);
        Unit::new(service.clone(), uid, image)
    });
    units.collect()
}

pub fn policy_of(service: &Service, manifest: &Manifest) -> Policy {
    const MS: u64 = 1_000_000;
    const S: u64 = 1_000_000_000;
    let needs = service
        .needs
        .iter()
        .filter_map(|n| manifest.index_of(n.as_str()));
    Policy {
        needs: needs
            .filter_map(|i| 1u32.checked_shl(u32::try_from(i).ok()?))
            .fold(0, |all, bit| all | bit),
        restart: match service.restart {
            manifest::Restart::Always => Restart::Always,
            manifest::Restart::OnFailure => Restart::OnFailure,
            manifest::Restart::Never => Restart::Never,
        },
        core: service.core,
        reports_ready: service.notify,
        backoff_first_ns: u64::from(service.backoff_ms_first) * MS,
        backoff_max_ns: u64::from(service.backoff_ms_max) * MS,
        healthy_ns: u64::from(service.backoff_reset_s) * S,
        intensity_max: service.intensity_max,
        intensity_ns: u64::from(service.intensity_s) * S,
        start_limit_ns: u64::from(service.start_timeout_ms) * MS,
        stop_limit_ns: u64::from(service.stop_timeout_ms) * MS,
        watchdog_ns: u64::from(service.watchdog_ms) * MS,
        extend_max_ns: u64::from(service.extend_ms_max) * MS,
        strategy: match service.strategy {
            manifest::Strategy::OneForOne => Strategy::OneForOne,
            manifest::Strategy::RestForOne => Strategy::RestForOne,
            manifest::Strategy::OneForAll => Strategy::OneForAll,
        },
    }
}
