//! A model of a disk: what was not synced when the power went may be there, or not, or in part.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod folder;

use ledger::device::{Beside, Device};
use ledger_core::{SEGMENT_BYTES_MIN, SEGMENTS_OFFSET};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, Weak};

/// What the disk writes whole, but for a cut of the power.
pub const SECTOR: usize = 512;

/// Reproducible choices: a linear congruential sequence.
pub struct Chance(pub u64);

impl Chance {
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

/// What a machine has of power: so many writes and syncs, of its disk and of its files together.
#[derive(Clone, Default)]
pub struct Power(Arc<Mutex<Left>>);

#[derive(Clone, Copy, Default)]
enum Left {
    #[default]
    Enough,
    Operations(u64),
    Nothing,
}

/// Whether there was power for an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Powered {
    Yes,
    /// It went while the operation was under way.
    Going,
    No,
}

impl Power {
    /// It goes after so many operations.
    pub fn ends_after(&self, operations: u64) {
        *self.0.lock().unwrap() = Left::Operations(operations);
    }

    /// It is there to stay.
    pub fn stays(&self) {
        *self.0.lock().unwrap() = Left::Enough;
    }

    /// Whether it went.
    pub fn is_gone(&self) -> bool {
        matches!(*self.0.lock().unwrap(), Left::Nothing)
    }

    fn take(&self) -> Powered {
        let mut left = self.0.lock().unwrap();
        match &mut *left {
            Left::Enough => Powered::Yes,
            Left::Operations(0) => {
                *left = Left::Nothing;
                Powered::Going
            }
            Left::Operations(n) => {
                *n -= 1;
                Powered::Yes
            }
            Left::Nothing => Powered::No,
        }
    }
}

impl Powered {
    fn or_gone(self) -> io::Result<()> {
        match self {
            Self::Yes => Ok(()),
            Self::Going | Self::No => Err(io::Error::other("no power")),
        }
    }
}

/// A promise that a disk breaks: what a fault in the code that relies on it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// One sync in so many does nothing.
    Sync(u64),
    /// A superblock that replaces one becomes durable only with the fortieth sync behind it.
    Superblock,
}

#[derive(Default)]
struct State {
    durable: Vec<u8>,
    /// Every content that an unsynced sector had, in order.
    unsynced: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    power: Power,
    chance: u64,
    lie: Option<Lie>,
    /// Syncs since a superblock was written.
    superblock_waits: u64,
    fail_next_sync: bool,
    /// Writes give ENOSPC.
    full: bool,
    syncs: u64,
    /// What is done beside the commits.
    beside: Option<Weak<dyn Beside>>,
    pieces: u64,
}

/// A disk; clones are the same one.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// Zeros, with room for so many of the smallest segments.
    pub fn new(segments: u64) -> Self {
        Self::of(&Power::default(), segments, 0)
    }

    /// As [`Self::new`], of a machine whose power it shares, with chances of its own.
    pub fn of(power: &Power, segments: u64, chance: u64) -> Self {
        let bytes = SEGMENTS_OFFSET + segments * SEGMENT_BYTES_MIN;
        Self(Arc::new(Mutex::new(State {
            durable: vec![0; usize::try_from(bytes).unwrap()],
            power: power.clone(),
            chance,
            ..State::default()
        })))
    }

    /// From now on it breaks a promise.
    pub fn lies(&self, lie: Option<Lie>) {
        self.0.lock().unwrap().lie = lie;
    }

    /// The process ended, the machine went on: everything is there as it was written.
    pub fn after_kill(&self) -> Self {
        let mut state = self.0.lock().unwrap();
        let unsynced = std::mem::take(&mut state.unsynced);
        Self(Arc::new(Mutex::new(State {
            unsynced,
            ..state.again()
        })))
    }

    /// Another disk with what is on this one now.
    pub fn copy(&self) -> Self {
        let state = self.0.lock().unwrap();
        let mut durable = state.durable.clone();
        for (n, contents) in &state.unsynced {
            durable[n * SECTOR..(n + 1) * SECTOR].copy_from_slice(contents.last().unwrap());
        }
        Self(Arc::new(Mutex::new(State {
            durable,
            ..State::default()
        })))
    }

    /// The power comes back: each unsynced sector holds what it held, or any of its contents, or the
    /// beginning of one with the rest of another.
    pub fn after_cut(&self, chance: &mut Chance) -> Self {
        let mut state = self.0.lock().unwrap();
        let unsynced = std::mem::take(&mut state.unsynced);
        for (n, contents) in unsynced {
            let at = n * SECTOR;
            let old: [u8; SECTOR] = state.durable[at..at + SECTOR].try_into().unwrap();
            let pick = |chance: &mut Chance| {
                let k = usize::try_from(chance.below(contents.len() as u64 + 1)).unwrap();
                contents.get(k).copied().unwrap_or(old)
            };
            let mut new = pick(chance);
            if chance.below(4) == 0 {
                let cut = usize::try_from(chance.below(SECTOR as u64)).unwrap();
                new[cut..].copy_from_slice(&old[cut..]);
            }
            state.durable[at..at + SECTOR].copy_from_slice(&new);
        }
        Self(Arc::new(Mutex::new(state.again())))
    }

    /// The power goes after so many writes and syncs.
    pub fn cut_after(&self, operations: u64) {
        self.0.lock().unwrap().power.ends_after(operations);
    }

    /// The next sync fails, and what it should have kept is lost.
    pub fn fail_next_sync(&self) {
        self.0.lock().unwrap().fail_next_sync = true;
    }

    /// Another disk with nothing but zeros from a byte on.
    pub fn cut_off(&self, at: usize) -> Self {
        let mut durable = self.durable();
        durable[at..].fill(0);
        Self(Arc::new(Mutex::new(State {
            durable,
            ..State::default()
        })))
    }

    /// The file system has no room for another byte.
    pub fn fill_up(&self) {
        self.0.lock().unwrap().full = true;
    }

    /// Bytes that survive a cut of the power now, for sure.
    pub fn durable(&self) -> Vec<u8> {
        self.0.lock().unwrap().durable.clone()
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.0.lock().unwrap().syncs
    }

    /// Pieces of work beside the commits that were done so far.
    pub fn pieces(&self) -> u64 {
        self.0.lock().unwrap().pieces
    }

    /// Some pieces of the work beside the commits: as a thread might do them, but at a moment that the seed
    /// chooses. Not amid a write of zeros, which may be such a piece, or keep others from it.
    fn work_beside(&self) {
        let (work, most) = {
            let mut state = self.0.lock().unwrap();
            let mut chance = Chance(state.chance);
            let most = chance.below(8);
            state.chance = chance.0;
            (state.beside.as_ref().and_then(Weak::upgrade), most)
        };
        let Some(work) = work else { return };
        let done = (0..most).take_while(|_| work.piece()).count();
        self.0.lock().unwrap().pieces += done as u64;
    }

    fn sync_now(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.power.take().or_gone()?;
        state.syncs += 1;
        if std::mem::take(&mut state.fail_next_sync) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let stays = state.lied();
        for (n, contents) in std::mem::take(&mut state.unsynced) {
            if stays(n) {
                state.unsynced.insert(n, contents);
                continue;
            }
            let at = n * SECTOR;
            state.durable[at..at + SECTOR].copy_from_slice(contents.last().unwrap());
        }
        Ok(())
    }

    /// Turns one bit over.
    pub fn flip(&self, at: u64) {
        self.0.lock().unwrap().durable[usize::try_from(at).unwrap()] ^= 4;
    }
}

impl State {
    /// The same disk at the next start.
    fn again(&mut self) -> Self {
        self.power.stays();
        Self {
            durable: self.durable.clone(),
            power: self.power.clone(),
            chance: self.chance,
            lie: self.lie,
            ..Self::default()
        }
    }

    /// Whether a sync does as it says; what it leaves out.
    fn lied(&mut self) -> impl Fn(usize) -> bool + use<> {
        let first = usize::try_from(SEGMENTS_OFFSET).unwrap() / SECTOR;
        let (nothing, no_superblock) = match self.lie {
            Some(Lie::Sync(n)) => {
                let mut chance = Chance(self.chance);
                let nothing = chance.below(n) == 0;
                self.chance = chance.0;
                (nothing, false)
            }
            Some(Lie::Superblock) => {
                let replaces = self.durable.first() != Some(&0);
                let waits = replaces && self.unsynced.range(..first).next().is_some();
                self.superblock_waits = if waits { self.superblock_waits + 1 } else { 0 };
                (false, waits && self.superblock_waits < 40)
            }
            _ => (false, false),
        };
        move |sector| nothing || no_superblock && sector < first
    }

    fn now(&self, sector: usize) -> [u8; SECTOR] {
        let at = sector * SECTOR;
        match self.unsynced.get(&sector).and_then(|c| c.last()) {
            Some(content) => *content,
            None => self.durable[at..at + SECTOR].try_into().unwrap(),
        }
    }
}

impl Device for Disk {
    fn capacity(&self) -> u64 {
        self.0.lock().unwrap().durable.len() as u64
    }
    fn sector_bytes(&self) -> u32 {
        SECTOR as u32
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let durable = state.durable.get(offset..offset + buf.len());
        buf.copy_from_slice(durable.ok_or(io::ErrorKind::UnexpectedEof)?);
        let end = (offset + buf.len()).div_ceil(SECTOR);
        for (n, contents) in state.unsynced.range(offset / SECTOR..end) {
            for (k, byte) in contents.last().unwrap().iter().enumerate() {
                if let Some(at) = (n * SECTOR + k).checked_sub(offset)
                    && at < buf.len()
                {
                    buf[at] = *byte;
                }
            }
        }
        Ok(())
    }
    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        // Afterwards it holds anything: what it held, or, as files do, zeros.
        let mut state = self.0.lock().unwrap();
        let mut chance = Chance(state.chance);
        let (zeros, powered) = (chance.below(2) == 0, state.power.take() != Powered::No);
        state.chance = chance.0;
        for sector in offset / SECTOR as u64..(offset + bytes) / SECTOR as u64 {
            if zeros && powered {
                let sector = usize::try_from(sector).unwrap();
                state.unsynced.entry(sector).or_default().push([0; SECTOR]);
            }
        }
        Ok(())
    }
    fn takes_beside(&self, work: &Arc<dyn Beside>) -> bool {
        self.0.lock().unwrap().beside = Some(Arc::downgrade(work));
        true
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.iter().any(|b| *b != 0) {
            self.work_beside();
        }
        let mut state = self.0.lock().unwrap();
        assert_eq!(offset % SECTOR as u64, 0, "writes are whole sectors");
        assert_eq!(bytes.len() % SECTOR, 0, "writes are whole sectors");
        if state.full {
            return Err(io::Error::from_raw_os_error(28));
        }
        let power = state.power.take();
        if power == Powered::No {
            return power.or_gone();
        }
        for (n, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            let at = usize::try_from(offset).unwrap() / SECTOR + n;
            assert!(
                (at + 1) * SECTOR <= state.durable.len(),
                "write past the device"
            );
            let sector: [u8; SECTOR] = sector.try_into().unwrap();
            if state.now(at) != sector {
                // The write that the power left under way may have arrived, too.
                state.unsynced.entry(at).or_default().push(sector);
            }
        }
        power.or_gone()
    }
    fn sync(&self) -> io::Result<()> {
        // Work goes on while a sync does: what is done before may have been left out by whoever asked, what
        // is done behind it is not durable.
        self.work_beside();
        let synced = self.sync_now();
        self.work_beside();
        synced
    }
    fn locate(&self, offset: u64) -> String {
        format!("model at byte {offset}")
    }
}
