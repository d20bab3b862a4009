//! The engine: judges mutations, keeps the newest generation, writes the log a group at a time, goes back.
//!
//! One owner, no clock: times are arguments. What it answered is durable; what it did not answer may or may not be in
//! the log after a crash, and nothing lies between. Start with [`Engine::open`] and [`Engine::serve`].

use super::base::Base;
use super::canary::{canary, weights};
use super::channel::{Broken, Consumer};
use super::generation::{self, POLICY, POLICY_VALUES};
use super::log::{self, Chain, GROUP_BYTES_MAX, Kind, Place, Record, Scan};
use super::overlay::Overlay;
use super::quota::{BYTES_A_SECOND, MUTATIONS_A_SECOND, Quota};
use super::ring::{self, Head, Proposal, name_of};
use super::store::Store;
use super::{Verdict, history::History};
use std::io;
use wire::evolution::CONFIDENCE_MIN;

/// Bytes of a log before it is shortened to a snapshot: some thousands of generations to go back to.
pub const LOG_BYTES_MAX: u64 = 32 << 20;
/// Names that are never changed: the hard limits, the interrupt table, the live registers.
const PROTECTED: [&str; 2] = ["kernel.", "hw."];

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_MONOTONIC.
    pub monotonic_ns: u64,
    /// Since 1970.
    pub wall_ns: u64,
}

/// How the log was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opened {
    /// Generations in it.
    pub records: u64,
    /// Bytes of a write that a crash cut off.
    pub torn: u64,
    /// Whether it was set aside: of another base, or damaged beyond one group.
    pub set_aside: bool,
}

/// What one serving of a ring did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Mutations that have their answer.
    pub answered: usize,
    /// Of these, accepted.
    pub accepted: usize,
}

/// Why a generation cannot be gone back to.
#[derive(Debug)]
pub enum RollbackError {
    /// It never was, or is not in the log any more.
    Unknown {
        /// The oldest one that is.
        oldest: u64,
        /// The newest one.
        newest: u64,
    },
    /// It is the newest one.
    Current,
    /// The log could not be read or written.
    Log(io::Error),
}

impl std::fmt::Display for RollbackError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown { oldest, newest } => write!(f, "{oldest} to {newest}"),
            Self::Current => write!(f, "another than the newest"),
            Self::Log(e) => write!(f, "log: {e}"),
        }
    }
}

impl std::error::Error for RollbackError {}

/// Counts since the engine was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Mutations.
    pub accepted: u64,
    /// Mutations.
    pub refused: u64,
    /// Rollbacks.
    pub rolled_back: u64,
}

/// A mutation that may be taken, and the policy that it makes if it changes one.
type Taken<'s> = (Proposal<'s>, Option<Box<[f32; POLICY_VALUES]>>);

/// What lies over the base, as of one generation.
#[derive(Debug, Clone)]
struct State {
    overlay: Overlay,
    policy: Box<[f32; POLICY_VALUES]>,
}

/// Everything.
#[derive(Debug)]
pub struct Engine<'m> {
    base: Base<'m>,
    store: Store,
    state: State,
    places: Vec<Place>,
    /// With what is accepted but not yet written, and without.
    chain: Chain,
    durable: Chain,
    /// Accepted and not yet written.
    group: Vec<u8>,
    group_places: Vec<Place>,
    mutations: Quota,
    bytes: Quota,
    counts: Counts,
    history: History,
}

impl<'m> Engine<'m> {
    /// Replays the log of a store onto a base.
    ///
    /// # Errors
    /// As the store's calls. A log that does not fit the base is set aside and a new one begun.
    pub fn open(base: Base<'m>, mut store: Store) -> io::Result<(Self, Opened)> {
        let mut opened = Opened::default();
        let content = store.read_all()?;
        let found = match Scan::of(&content, &base.blake3()) {
            Ok(scan) => {
                opened.torn = scan.torn;
                if scan.torn > GROUP_BYTES_MAX as u64 {
                    opened.set_aside = true;
                    store.keep_aside(&content)?;
                }
                Some(scan)
            }
            Err(_) if content.is_empty() => None,
            Err(_) => {
                opened.set_aside = true;
                store.keep_aside(&content)?;
                None
            }
        };
        // A mapping must not see its file cut.
        drop(content);
        let scan = match found {
            Some(scan) => {
                store.cut(scan.end)?;
                scan
            }
            None => Self::begin(&base, &mut store)?,
        };
        let policy = base.policy(|_, bytes| bytes.to_vec());
        let mut this = Self {
            base,
            store,
            state: State {
                overlay: Overlay::default(),
                policy,
            },
            places: scan.places,
            chain: scan.chain,
            durable: scan.chain,
            group: Vec::new(),
            group_places: Vec::new(),
            mutations: Quota::new(MUTATIONS_A_SECOND),
            bytes: Quota::new(BYTES_A_SECOND),
            counts: Counts::default(),
            history: History::default(),
        };
        opened.records = this.places.len() as u64;
        let newest = this.generation();
        match this.state_at(newest)? {
            Some(state) => this.state = state,
            None => {
                // Its hashes hold, and still it does not lead here: it is of a base that looks the same.
                opened.set_aside = true;
                this.store.keep_aside(&this.store.read_all()?)?;
                let scan = Self::begin(&this.base, &mut this.store)?;
                (this.places, this.chain) = (scan.places, scan.chain);
                this.durable = this.chain;
            }
        }
        Ok((this, opened))
    }

    /// An engine whose log is in memory: for one process, and for a machine without a disk.
    ///
    /// # Errors
    /// As `memfd_create(2)`.
    pub fn in_memory(base: Base<'m>) -> io::Result<Self> {
        Self::open(base, Store::in_memory()?).map(|(engine, _)| engine)
    }

    fn begin(base: &Base<'_>, store: &mut Store) -> io::Result<Scan> {
        let (header, chain) = log::header(&base.blake3());
        store.replace(&header)?;
        Ok(Scan {
            places: Vec::new(),
            end: header.len() as u64,
            torn: 0,
            chain,
        })
    }

    /// The newest generation; with what is accepted but not yet written.
    #[must_use]
    pub fn generation(&self) -> u64 {
        let last = self.group_places.last().or(self.places.last());
        last.map_or(0, |place| place.generation)
    }

    /// The oldest generation that can be gone back to.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        log::oldest(&self.places)
    }

    /// The base.
    #[must_use]
    pub fn base(&self) -> &Base<'m> {
        &self.base
    }

    /// Counts since the engine was opened.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The newest verdicts.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Whether what is accepted outlives the process.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.store.is_durable()
    }

    /// Whether the disk failed, so that nothing is accepted until the log is read again.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.store.has_lost()
    }

    /// A tensor's bytes as they are now.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Vec<u8>> {
        let tensor = self.base.tensor(name)?;
        Some(self.state.overlay.read(name, 0, tensor.data))
    }

    /// The newest generation as it is published.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; generation::HEADER_BYTES];
        for value in self.state.policy.iter() {
            out.extend_from_slice(&value.to_le_bytes());
        }
        let ranges = self.state.overlay.write(&mut out, |name| !is_policy(name));
        let body = out.get(generation::HEADER_BYTES..).unwrap_or_default();
        let content: [u8; 32] = blake3::hash(body).into();
        let header = generation::header(
            self.generation(),
            out.len() as u64,
            &self.base.blake3(),
            &content,
            ranges,
        );
        if let Some(place) = out.get_mut(..header.len()) {
            place.copy_from_slice(&header);
        }
        out
    }

    /// Takes what a proposer submitted, as much as one group has room for: judges, writes, syncs, answers. The
    /// proposer sees the answers when the consumer is told to publish, which is the caller's after the generation is.
    ///
    /// # Errors
    /// [`Broken`], after what came before was answered.
    pub fn serve(&mut self, consumer: &mut Consumer, uid: u32, now: Now) -> Result<Served, Broken> {
        let mut answers = Vec::with_capacity(ring::SLOTS);
        let mut end = Ok(());
        while answers.len() < ring::SLOTS {
            match consumer.take() {
                Ok(Some((_, slot))) => answers.push(self.judge(slot, uid, now)),
                Ok(None) => break,
                Err(broken) => {
                    end = Err(broken);
                    break;
                }
            }
        }
        let written = self.commit();
        let mut served = Served::default();
        for (id, generation, verdict) in answers {
            let verdict = match verdict {
                Verdict::Accepted if !written => Verdict::JournalFailed,
                other => other,
            };
            served.answered += 1;
            served.accepted += usize::from(verdict == Verdict::Accepted);
            let generation = generation.min(self.generation());
            consumer.answer(id, generation, verdict);
        }
        end.map(|()| served)
    }

    /// Judges a private copy of a slot. What is accepted is applied at once and written with [`Self::commit`].
    pub fn judge(&mut self, slot: &[u8], uid: u32, now: Now) -> (u64, u64, Verdict) {
        let head = Head::read(slot);
        let verdict = match self.check(slot, now) {
            Ok((proposal, state)) => {
                self.take(&proposal, state, uid, now);
                Verdict::Accepted
            }
            Err(verdict) => verdict,
        };
        self.count(verdict);
        self.history
            .judged(&head, verdict, self.generation(), uid, now.wall_ns);
        (head.id, self.generation(), verdict)
    }

    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Accepted => self.counts.accepted += 1,
            _ => self.counts.refused += 1,
        }
    }

    /// Every rule, the cheap ones first. The policy that it makes comes along, if it changes one.
    fn check<'s>(&mut self, slot: &'s [u8], now: Now) -> Result<Taken<'s>, Verdict> {
        let head = Head::read(slot);
        if !head.confidence.is_finite() {
            return Err(Verdict::ConfidenceNotFinite);
        }
        if head.confidence <= CONFIDENCE_MIN {
            return Err(Verdict::ConfidenceTooLow);
        }
        let name = name_of(&head.name).ok_or(Verdict::NameMalformed)?;
        let tensor = self.base.tensor(name).ok_or(Verdict::TensorUnknown)?;
        if PROTECTED.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(Verdict::TensorProtected);
        }
        let blocks = tensor.blocks().ok_or(Verdict::TypeUnsupported)?;
        let proposal = Proposal::read(slot)?;
        let length = proposal.payload.len();
        let offset = usize::try_from(proposal.offset).map_err(|_| Verdict::RangeOutside)?;
        let end = offset.checked_add(length).ok_or(Verdict::RangeOutside)?;
        let range = tensor.data.get(offset..end).ok_or(Verdict::RangeOutside)?;
        if !offset.is_multiple_of(blocks.bytes) || !length.is_multiple_of(blocks.bytes) {
            return Err(Verdict::RangeOffBlock);
        }
        if proposal.base_generation != self.generation() {
            return Err(Verdict::GenerationStale);
        }
        if !self.mutations.take(now.monotonic_ns, 1) {
            return Err(Verdict::RateExceeded);
        }
        if !self.bytes.take(now.monotonic_ns, length as u64) {
            return Err(Verdict::QuotaExceeded);
        }
        if !self.state.overlay.has_room(length) {
            return Err(Verdict::OverlayFull);
        }
        let old = self.state.overlay.read(name, proposal.offset, range);
        if proposal.old_blake3 != *blake3::hash(&old).as_bytes() {
            return Err(Verdict::OldHashDiffers);
        }
        if proposal.payload_blake3 != *blake3::hash(proposal.payload).as_bytes() {
            return Err(Verdict::PayloadHashDiffers);
        }
        if !blocks.are_finite(proposal.payload) {
            return Err(Verdict::NotFinite);
        }
        let policy = self.try_policy(&proposal)?;
        if self.has_failed() {
            return Err(Verdict::JournalFailed);
        }
        Ok((proposal, policy))
    }

    /// The policy with this mutation, if it is one of the policy's and the canary lives.
    fn try_policy(
        &self,
        proposal: &Proposal<'_>,
    ) -> Result<Option<Box<[f32; POLICY_VALUES]>>, Verdict> {
        if !is_policy(proposal.tensor) {
            return Ok(None);
        }
        let mut policy = self.state.policy.clone();
        write_policy(
            &mut policy,
            proposal.tensor,
            proposal.offset,
            proposal.payload,
        );
        canary(&weights(&policy))?;
        Ok(Some(policy))
    }

    fn take(
        &mut self,
        proposal: &Proposal<'_>,
        policy: Option<Box<[f32; POLICY_VALUES]>>,
        uid: u32,
        now: Now,
    ) {
        let overlay = &mut self.state.overlay;
        overlay.patch(proposal.tensor, proposal.offset, proposal.payload);
        if let Some(policy) = policy {
            self.state.policy = policy;
        }
        self.append(&Record {
            kind: Kind::Mutation,
            why: Verdict::Accepted as u16,
            generation: self.generation() + 1,
            place: proposal.offset,
            wall_ns: now.wall_ns,
            uid,
            id: proposal.id,
            confidence: proposal.confidence,
            tensor: proposal.tensor,
            old_blake3: proposal.old_blake3,
            payload: proposal.payload,
        });
    }

    fn append(&mut self, record: &Record<'_>) {
        let begin = self.group.len();
        self.chain.push(record, &mut self.group);
        self.group_places.push(Place {
            kind: record.kind,
            generation: record.generation,
            restored: record.place,
            at: self.store.end() + begin as u64,
            // A record is bounded by its payload.
            bytes: (self.group.len() - begin) as u32,
        });
    }

    /// Writes and syncs what was accepted since the last time; whether it is durable. If not, the engine is back where
    /// it was; after a sync that failed it takes nothing more until it is opened again.
    pub fn commit(&mut self) -> bool {
        if self.group.is_empty() {
            return true;
        }
        if self.store.append(&self.group).is_ok() {
            self.places.append(&mut self.group_places);
            self.group.clear();
            self.durable = self.chain;
            if self.store.end() > LOG_BYTES_MAX {
                // A log that could not be shortened is still a log; the next group tries again.
                let _ = self.shorten();
            }
            return true;
        }
        self.chain = self.durable;
        let mutations = self
            .group_places
            .iter()
            .filter(|p| p.kind == Kind::Mutation);
        let lost = mutations.count() as u64;
        self.counts.accepted = self.counts.accepted.saturating_sub(lost);
        self.counts.refused += lost;
        self.group.clear();
        self.group_places.clear();
        let newest = self.generation();
        self.history.not_written(newest);
        if let Ok(Some(state)) = self.state_at(newest) {
            self.state = state;
        }
        false
    }

    /// Goes back to a generation: what it held becomes the newest one, under a number of its own.
    ///
    /// # Errors
    /// [`RollbackError`].
    pub fn roll_back(
        &mut self,
        to: u64,
        why: Verdict,
        uid: u32,
        now: Now,
    ) -> Result<u64, RollbackError> {
        let unknown = RollbackError::Unknown {
            oldest: self.oldest(),
            newest: self.generation(),
        };
        if to == self.generation() {
            return Err(RollbackError::Current);
        }
        // The base can always be gone back to: else what filled the overlay before a snapshot could never leave it.
        if to > self.generation() || (to != 0 && to < self.oldest()) {
            return Err(unknown);
        }
        let state = self.state_at(to).map_err(RollbackError::Log)?;
        let state = state.ok_or(unknown)?;
        let before = std::mem::replace(&mut self.state, state);
        let left = self.generation();
        self.append(&Record {
            kind: Kind::Rollback,
            why: why as u16,
            generation: left + 1,
            place: to,
            wall_ns: now.wall_ns,
            uid,
            id: 0,
            confidence: 0.0,
            tensor: "",
            old_blake3: [0; 32],
            payload: &[],
        });
        if !self.commit() {
            self.state = before;
            return Err(RollbackError::Log(io::Error::other("not written")));
        }
        self.counts.rolled_back += 1;
        self.history
            .rolled_back(why, self.generation(), to, uid, now.wall_ns);
        Ok(self.generation())
    }

    /// What a generation held, by the log; none if the log's hashes do not fit the base.
    fn state_at(&mut self, generation: u64) -> io::Result<Option<State>> {
        let Some(path) = log::path(&self.places, generation) else {
            return Ok(None);
        };
        let mut overlay = Overlay::default();
        for place in path {
            let bytes = self.store.read(place.at, place.bytes)?;
            let Some(record) = Record::read(&bytes) else {
                return Ok(None);
            };
            if !replay(&self.base, &mut overlay, &record) {
                return Ok(None);
            }
        }
        let policy = self.base.policy(|name, bytes| overlay.read(name, 0, bytes));
        Ok(Some(State { overlay, policy }))
    }

    /// Begins a new log with all that the newest generation changed; generations before it are forgotten.
    pub(super) fn shorten(&mut self) -> io::Result<()> {
        let mut ranges = Vec::new();
        self.state.overlay.write(&mut ranges, |_| true);
        let (header, mut chain) = log::header(&self.base.blake3());
        let mut content = header.to_vec();
        let generation = self.generation();
        chain.push(
            &Record {
                kind: Kind::Snapshot,
                why: 0,
                generation,
                place: 0,
                wall_ns: 0,
                uid: 0,
                id: 0,
                confidence: 0.0,
                tensor: "",
                old_blake3: [0; 32],
                payload: &ranges,
            },
            &mut content,
        );
        self.store.replace(&content)?;
        (self.chain, self.durable) = (chain, chain);
        self.places = vec![Place {
            kind: Kind::Snapshot,
            generation,
            restored: 0,
            at: header.len() as u64,
            bytes: (content.len() - header.len()) as u32,
        }];
        Ok(())
    }
}

/// Puts one record over a base; `false` if it does not fit.
fn replay(base: &Base<'_>, overlay: &mut Overlay, record: &Record<'_>) -> bool {
    match record.kind {
        Kind::Rollback => true,
        Kind::Snapshot => generation::ranges_of(record.payload).all(|range| match range {
            Ok(range) if in_base(base, range.tensor, range.offset, range.payload).is_some() => {
                overlay.patch(range.tensor, range.offset, range.payload);
                true
            }
            _ => false,
        }),
        Kind::Mutation => {
            let (tensor, offset) = (record.tensor, record.place);
            let Some(range) = in_base(base, tensor, offset, record.payload) else {
                return false;
            };
            let old = overlay.read(tensor, offset, range);
            let fits = record.old_blake3 == *blake3::hash(&old).as_bytes();
            if fits {
                overlay.patch(tensor, offset, record.payload);
            }
            fits
        }
    }
}

/// The base's bytes under a range of a tensor that may be changed.
fn in_base<'m>(base: &Base<'m>, tensor: &str, offset: u64, payload: &[u8]) -> Option<&'m [u8]> {
    if PROTECTED.iter().any(|prefix| tensor.starts_with(prefix)) {
        return None;
    }
    let offset = usize::try_from(offset).ok()?;
    let data = base.tensor(tensor)?.data;
    data.get(offset..offset.checked_add(payload.len())?)
}

fn is_policy(name: &str) -> bool {
    POLICY.iter().any(|(of, _)| *of == name)
}

/// Writes the bytes of a range of one of the policy's tensors into its values. They are whole f32: see [`Base`].
fn write_policy(policy: &mut [f32; POLICY_VALUES], tensor: &str, offset: u64, payload: &[u8]) {
    let before: usize = POLICY
        .iter()
        .take_while(|(name, _)| *name != tensor)
        .map(|(_, values)| values)
        .sum();
    let first = usize::try_from(offset / 4).unwrap_or(usize::MAX);
    let (values, _) = payload.as_chunks::<4>();
    let places = policy.iter_mut().skip(before.saturating_add(first));
    for (place, value) in places.zip(values) {
        *place = f32::from_le_bytes(*value);
    }
}
