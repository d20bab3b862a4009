//! PID 1 and its helper: blocking privileged acts, over a socketpair that only the two hold.

use crate::capacity::CgroupPlan;
use crate::control::message;
use crate::{Kind, Message};
use serde::{Deserialize, Serialize};

/// One act; the helper answers each with one [`Outcome`] of the same id, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "tasks are made rarely, one at a time, and encoded at once"
)]
pub enum Task<'a> {
    /// Mounts a block device of the appliance, read-only or read-write, nosuid and nodev.
    Mount {
        /// Device, `/dev/vda2`.
        source: &'a str,
        /// Where; made if absent.
        target: &'a str,
        /// `ext4`.
        fstype: &'a str,
        /// Whether nothing may be written.
        read_only: bool,
    },
    /// Makes a folder with this owner and mode, and leaves what is in it.
    Folder {
        /// Path.
        path: &'a str,
        /// Owner and group.
        uid: u32,
        /// Permission bits.
        mode: u32,
    },
    /// Writes a small file if it is absent.
    Seed {
        /// Path.
        path: &'a str,
        /// Owner and group.
        uid: u32,
        /// What it holds.
        content: &'a str,
    },
    /// Hashes everything outside the tensors of the package whose descriptor travels along.
    VerifyPackage,
    /// Copies a section of the package (descriptor along) into a sealed memfd, checked against its
    /// hash; the memfd comes back with the [`Outcome`].
    Load {
        /// Section's name.
        name: &'a str,
        /// The hash in hex that PID 1 read when it took the package: a disk may have changed since.
        blake3: &'a str,
    },
    /// Hashes one range of tensor blocks of the package.
    Scrub {
        /// First block.
        first: u64,
        /// How many.
        count: u32,
    },
    /// Flushes file systems and unmounts this one.
    Unmount {
        /// Where it is mounted.
        target: &'a str,
    },
    /// Carries out a plan for the leases' cgroups: the shrinks, the grows, then every knob is read
    /// back; where one failed the old values are written again.
    Leases(CgroupPlan),
    /// Opens a folder; its descriptor comes back, or none where it is not there.
    Open {
        /// Path.
        path: &'a str,
    },
    /// Looks at the file system under a folder: bytes that are available, and in the detail
    /// `read-only` if nothing can be written. Asked of an idle helper, it shows that one lives.
    Look {
        /// A folder of it; empty for none.
        path: &'a str,
    },
    /// Lets the last partition of a disk grow to the disk's end, if its table holds and that
    /// partition has this name. The figure is its new size, or 0 where there was nothing to do.
    GrowPartition {
        /// The partition's device, `/dev/vda2`.
        device: &'a str,
        /// The name that it must have.
        name: &'a str,
    },
    /// Lets a mounted ext4 grow to its device's end. The figure is its new size, or 0 where there
    /// was nothing to do; the detail its old size in decimal.
    GrowFileSystem {
        /// Its device.
        device: &'a str,
        /// Where it is mounted.
        target: &'a str,
    },
    /// Makes the cell of a service: namespaces, which come back as descriptors with the [`Outcome`].
    Cell(Cell<'a>),
    /// Sets the wall clock so that it shows, or will show, `wall_ns` at the moment `at_ns` of
    /// CLOCK_MONOTONIC: repeated, it sets the same.
    Clock {
        /// Nanoseconds since 1970 in UTC.
        wall_ns: u64,
        /// When, by CLOCK_MONOTONIC.
        at_ns: u64,
        /// At once; otherwise slowly.
        step: bool,
    },
    /// Waits until the kernel's pool of randomness is ready, so that PID 1 can draw a secret without waiting.
    Randomness,
    /// Sets the kernel's switches that are not set before the services. The figure is how many have their value;
    /// the detail's first line names what this kernel lacks, each other line what could not be set.
    Switches,
    /// Opens what may hold a package: a block device by its path, or with a folder's descriptor along a
    /// file below that folder. Its descriptor comes back.
    OpenPackage {
        /// `/dev/NAME`, or a path below the folder.
        path: &'a str,
    },
    /// Reads all of a package (descriptor along) but its sections and tensors: whose it is, for which
    /// processor, its manifest, its sections' hashes. They come back in sealed memory.
    Inspect {
        /// Trusted keys, one a line.
        keys: &'a str,
        /// Whether it must be signed by one of them.
        required: bool,
    },
    /// Writes the package (descriptor along) to a block device, reads it back and hashes all of it. The
    /// figure is its bytes, the detail the device.
    KeepPackage {
        /// The device that the running package lies on.
        device: &'a str,
    },
    /// Reads what a kernel that panicked left in the persistent store. The detail is the reason's
    /// word, a blank and the kernel's own sentence, or empty if there is nothing.
    Pstore {
        /// Empties the store instead.
        forget: bool,
    },
    /// Sets a knob of a service's cgroup below `/vb/system`, or has it give memory back.
    Tune {
        /// The service's name.
        service: &'a str,
        /// Which, and its value.
        knob: Tune,
    },
}

/// A knob of a service's cgroup that the metabolic daemon may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tune {
    /// `memory.reclaim`: bytes to give back now.
    Reclaim(u64),
    /// `memory.high` in bytes; 0 for none.
    MemoryHigh(u64),
    /// `cpu.weight`.
    CpuWeight(u16),
}

/// What a cell is made from. Who sees what follows from the profile; the rest is the manifest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell<'a> {
    /// The service's name.
    pub service: &'a str,
    /// The profile's name.
    pub profile: &'a str,
    /// Whether its program is not ours: a role's profile then never adds anything.
    pub foreign: bool,
    /// Its uid, which owns its `/tmp`.
    pub uid: u32,
    /// Whether it has a folder on the data disk.
    pub data: bool,
    /// Whether it has a notify socket.
    pub notify: bool,
    /// Whether it is in the machine's network.
    pub network: bool,
    /// Size of its `/tmp`; 0 is none.
    pub tmp_bytes: u64,
    /// Sockets of the services that it needs: file names in the run folder, a colon between.
    pub sockets: &'a str,
}

/// How an act ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome<'a> {
    /// Whether it was done.
    pub ok: bool,
    /// What was wrong, naming field, value and limit; when done, what the task says there.
    pub detail: &'a str,
    /// A figure of the act: bytes hashed, blocks checked.
    pub figure: u64,
}

message! { Task<'_> = HelperTask, Outcome<'_> = HelperOutcome }
