//! Files that the kernel answers in: kept open, read from their beginning into one buffer.
//!
//! Owns: the descriptors. A file that is not there is tried again now and then, since drivers and
//! mounts come late. Never here: waiting (all of these answer at once), allocation after
//! [`Sensors::new`]: `std` opens paths of this length by way of the stack.

use crate::sample::{self, CpuTimes, LinkCounts};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of the buffer: `/proc/meminfo` takes 1.5 KiB, `/proc/net/dev` 130 bytes a link.
const BUFFER_BYTES: usize = 4096;
/// Bytes read of `/proc/stat`, of which only the first line counts.
const STAT_BYTES: usize = 512;
/// Thermal zones that have a register.
pub(crate) const ZONES: usize = 4;

/// The kernel's files, under `/proc` and `/sys` or wherever a test has put them.
#[derive(Debug)]
pub struct Sensors {
    loadavg: Source,
    stat: Source,
    meminfo: Source,
    pressure: [Source; 3],
    zones: [Source; ZONES],
    links: Source,
    buffer: Box<[u8; BUFFER_BYTES]>,
}

/// Bytes of memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) total: Option<u64>,
    pub(crate) available: Option<u64>,
    pub(crate) cached: Option<u64>,
    pub(crate) dirty: Option<u64>,
}

impl Sensors {
    /// The files under these two folders.
    #[must_use]
    pub fn new(proc: &Path, sys: &Path) -> Self {
        let zone = |n: usize| Source::new(sys.join(format!("class/thermal/thermal_zone{n}/temp")));
        Self {
            loadavg: Source::new(proc.join("loadavg")),
            stat: Source::new(proc.join("stat")),
            meminfo: Source::new(proc.join("meminfo")),
            pressure: ["cpu", "memory", "io"]
                .map(|name| Source::new(proc.join("pressure").join(name))),
            zones: [zone(0), zone(1), zone(2), zone(3)],
            links: Source::new(proc.join("net/dev")),
            buffer: Box::new([0; BUFFER_BYTES]),
        }
    }

    /// Opens what was not there before among the files that are read every beat.
    pub(crate) fn reopen(&mut self) {
        self.loadavg.open();
        self.pressure.iter_mut().for_each(Source::open);
    }

    pub(crate) fn load(&mut self) -> Option<[f32; 3]> {
        sample::loadavg(self.loadavg.read(&mut self.buffer[..])?)
    }

    /// Some and full, of processor, memory and I/O.
    pub(crate) fn pressure(&mut self) -> [(Option<f32>, Option<f32>); 3] {
        let buffer = &mut self.buffer[..];
        self.pressure
            .each_mut()
            .map(|source| source.read(buffer).map_or((None, None), sample::pressure))
    }

    pub(crate) fn cpu(&mut self) -> Option<CpuTimes> {
        self.stat.open();
        sample::cpu_times(self.stat.read(self.buffer.get_mut(..STAT_BYTES)?)?)
    }

    pub(crate) fn memory(&mut self) -> Memory {
        self.meminfo.open();
        let Some(text) = self.meminfo.read(&mut self.buffer[..]) else {
            return Memory::default();
        };
        let field = |name| sample::meminfo(text, name);
        Memory {
            total: field("MemTotal"),
            available: field("MemAvailable"),
            cached: field("Cached"),
            dirty: field("Dirty"),
        }
    }

    pub(crate) fn zone(&mut self, zone: usize) -> Option<f32> {
        let source = self.zones.get_mut(zone)?;
        source.open();
        sample::temperature(source.read(&mut self.buffer[..])?)
    }

    pub(crate) fn links(&mut self) -> Option<LinkCounts> {
        self.links.open();
        self.links.read(&mut self.buffer[..]).map(sample::links)
    }
}

/// One file of the kernel.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: Option<File>,
    tried: bool,
}

impl Source {
    /// Opened when it is first read: nothing of this is on the way to the services.
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            tried: false,
        }
    }

    fn open(&mut self) {
        self.tried = true;
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
    }

    /// What the file says now. A read that fails closes it: a thermal zone can go away and come back.
    fn read<'b>(&mut self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        if !self.tried {
            self.open();
        }
        match self.file.as_ref()?.read_at(buffer, 0) {
            Ok(len) => buffer.get(..len),
            Err(_) => {
                self.file = None;
                None
            }
        }
    }
}
