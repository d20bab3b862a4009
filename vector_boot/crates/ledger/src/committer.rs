//! The one thread that writes: takes events from all connections, makes them durable in groups,
//! then answers.
//!
//! Whatever waits while a group is synced becomes the next group. Nothing is answered before its
//! group frame is durable, and nobody who reads or listens slowly can hold the thread up: answers
//! are handed to callbacks that must not block.

mod upkeep;

use crate::blobs::{Blobs, Shelf};
use crate::boots::{self, Boots};
use crate::bus::Deliveries;
use crate::clock;
use crate::dedupe::{Dedupe, Seen};
use crate::device::Device;
use crate::fold::Fold;
use crate::folds::Kept;
use crate::index::{self, Index, Posted};
use crate::log::{Birth, Log, OpenError, Recovery, Stopped};
use crate::metrics::Metrics;
use crate::planes::{Decision, Moment, Planes};
use crate::proofs::Proofs;
use crate::proofs::leaves::Leaves;
use crate::reader::Reader;
pub use crate::refusal::Refusal;
use crate::scan::{self, Found};
use crate::ulids::Ulids;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use ledger_core::policy::Denials;
use ledger_core::{Body, Committed, GroupBuilder, Hash, Origin, Superblock, rules, ulid};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
pub use upkeep::{Answer, Done, Keep, Order};

/// Requests that may wait; beyond, the connections' threads wait.
const QUEUE_MAX: usize = 1024;
/// Bytes of events that may wait.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Events of one group; more wait for the next, so that the first is not kept waiting.
const GROUP_EVENTS_MAX: u32 = 4096;

/// An event that wants to be appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// Recognises repeats.
    pub origin: Option<Origin>,
    /// Namespace.
    pub ns: String,
    /// Actor.
    pub actor: String,
    /// Tenant.
    pub tenant_id: String,
    /// What happened.
    pub event_type: String,
    /// What it is about.
    pub subject: String,
    /// Normalised JSON object.
    pub payload: String,
    /// The event that caused it.
    pub causation_id: Option<u64>,
    /// CLOCK_MONOTONIC; the committer's clock if absent.
    pub timestamp_ns: Option<u64>,
    /// ULID chosen by the sender.
    pub ulid: Option<[u8; 16]>,
    /// The actor's key and its signature, see `ledger_core::keys`.
    pub sig: Option<Vec<u8>>,
}

impl Draft {
    /// What it takes of the queue.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let text = [
            &self.ns,
            &self.actor,
            &self.tenant_id,
            &self.event_type,
            &self.subject,
            &self.payload,
        ];
        text.iter().map(|t| t.len()).sum::<usize>() + size_of::<Self>()
    }

    /// The event as it lies in a frame, but for its tenant's tag.
    pub(crate) fn body(&self, wall_ns: u64) -> Body<'_> {
        Body {
            timestamp_ns: self.timestamp_ns.unwrap_or_default(),
            wall_ns,
            ulid: self.ulid.unwrap_or_default(),
            tenant_tag: [0; 8],
            ns: &self.ns,
            actor: &self.actor,
            tenant_id: &self.tenant_id,
            event_type: &self.event_type,
            subject: &self.subject,
            payload: &self.payload,
            causation_id: self.causation_id,
            origin: self.origin,
            sig: self.sig.as_deref(),
        }
    }
}

/// A durable event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its id.
    pub id: u64,
    /// Chain value of its frame.
    pub commit_id: Hash,
    /// Its ULID; zero for a repeat.
    pub ulid: [u8; 16],
    /// Whether it was there already.
    pub repeated: bool,
}

/// What happens with the outcome; called by the committer, so it must not block.
pub type Reply = Box<dyn FnOnce(Result<Vec<Receipt>, Refusal>) + Send>;

/// Makes events of the planes as they are when its turn comes, or of why its turn never comes.
type Decide = Box<dyn FnOnce(Result<(&Planes, &Moment), Refusal>) -> (Vec<Draft>, Reply) + Send>;

enum Work {
    Append(Vec<Draft>, Reply),
    Decide(Decide),
    /// As of its moment: what was decided by one must not be placed by another.
    Decided(Box<Unfit>),
}

/// A request on its way into a group.
struct Job {
    work: Work,
    bytes: usize,
}

impl Job {
    fn refuse(self, refusal: Refusal) {
        let reply = match self.work {
            Work::Append(_, reply) => reply,
            Work::Decided(unfit) => unfit.reply,
            Work::Decide(decide) => decide(Err(refusal.clone())).1,
        };
        reply(Err(refusal));
    }
}

enum Message {
    Job(Job),
    Order(Order, Answer),
    Stop,
}

impl Message {
    /// Answers what nobody takes any more.
    fn turn_away(self) {
        match self {
            Self::Job(job) => job.refuse(Refusal::closing()),
            Self::Order(_, answer) => answer(Err(Refusal::closing())),
            Self::Stop => {}
        }
    }
}

/// Where the log stands, for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Last durable event.
    pub id: u64,
    /// Chain value there.
    pub chain: Hash,
    /// Root of the tree there.
    pub root: Hash,
    /// Where the last group ends in the log; its offsets never repeat.
    pub end: u64,
    /// First event that is kept; those before it were dropped by a compaction.
    pub first_id: u64,
    /// The epoch.
    pub epoch: u64,
    /// Bytes of the segments that are kept.
    pub used: u64,
    /// Why nothing more is taken, if so.
    pub stopped: Option<Stopped>,
    /// Groups made durable since the start.
    pub groups: u64,
    /// Whether the service ends.
    pub closing: bool,
}

/// What waits for the committer.
#[derive(Default)]
struct Queued {
    /// Of events.
    bytes: usize,
    /// Nobody takes them any more.
    closed: bool,
}

/// Shared by the committer and the connections.
struct Shared {
    device: Arc<dyn Device>,
    superblock: Superblock,
    last_wall_ns: u64,
    boots: Boots,
    /// Last event that the start did not read.
    resumed_at: u64,
    index: Arc<Mutex<Index>>,
    /// Changed by the committer alone; ahead of `standing` while a group is under way.
    planes: Mutex<Planes>,
    deliveries: Deliveries,
    kept_folds: Kept,
    denials: Mutex<Denials>,
    standing: Mutex<Standing>,
    /// Opened by who first needs it.
    shelf: Shelf,
    moved: Condvar,
    queued: Mutex<Queued>,
    drained: Condvar,
    /// The committer's end of the channel; behind its end everybody's.
    receiver: Receiver<Message>,
    /// Nobody takes from it any more.
    ended: AtomicBool,
    metrics: Metrics,
    /// To the tree's tiles, behind durability.
    leaves: Leaves,
    proofs: Mutex<Option<Proofs>>,
}

impl Shared {
    /// The committer takes nothing any more: those who wait for it are told.
    fn end(&self) {
        let queued = self.queued.lock();
        queued.unwrap_or_else(PoisonError::into_inner).closed = true;
        self.drained.notify_all();
        // First, so that whoever sends behind the last look sees it.
        self.ended.store(true, Ordering::SeqCst);
        self.turn_away();
        let standing = self.standing.lock();
        standing.unwrap_or_else(PoisonError::into_inner).closing = true;
        self.moved.notify_all();
    }

    fn turn_away(&self) {
        self.receiver.try_iter().for_each(Message::turn_away);
    }
}

/// However the committer ends, also by a bug.
struct AtTheEnd(Arc<Shared>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A running ledger: append, look, wait.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
    sender: Sender<Message>,
}

/// The committer's end: stop it and wait.
pub struct Committer {
    ledger: Ledger,
    thread: JoinHandle<()>,
}

impl Committer {
    /// Opens the log (recovery included) and starts the thread.
    ///
    /// # Errors
    /// [`OpenError`] if the log cannot be read.
    pub fn start(device: Arc<dyn Device>, birth: &Birth) -> Result<(Self, Recovery), OpenError> {
        Self::start_with(device, birth, None)
    }

    /// As [`Self::start`], with snapshots of the index in a folder that exists.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        device: Arc<dyn Device>,
        birth: &Birth,
        index_folder: Option<&Path>,
    ) -> Result<(Self, Recovery), OpenError> {
        Self::begin(device, birth, index_folder, true)
    }

    /// As [`Self::start`], of a log whose service keeps its tiles elsewhere: where it fills, events are refused,
    /// and nothing is dropped unasked.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_keeping_all(
        device: Arc<dyn Device>,
        birth: &Birth,
    ) -> Result<(Self, Recovery), OpenError> {
        Self::begin(device, birth, None, false)
    }

    fn begin(
        device: Arc<dyn Device>,
        birth: &Birth,
        index_folder: Option<&Path>,
        makes_room: bool,
    ) -> Result<(Self, Recovery), OpenError> {
        let mut fold = Fold::kept_in(index_folder);
        let mut resumed = index_folder.and_then(|folder| {
            // What is wrong with the superblock, opening says.
            let (superblock, _) = scan::superblock(&*device).ok()??;
            index::resume(&*device, &superblock, folder)
        });
        if let Some(known) = &resumed
            && let Err(why) = fold.resume(known)
        {
            ::log::warn!("state of the log not taken, reading all of it: why=\"{why}\"");
            (fold, resumed) = (Fold::kept_in(index_folder), None);
        }
        // A compaction that was cut short is not finished where its summary cannot be read: the events that it
        // would drop are all that still tells.
        let is_lost = Cell::new(false);
        let mut take = |found: Found<'_>| {
            fold.found(&found);
            is_lost.set(fold.lost.is_some());
        };
        let may_drop = || !is_lost.get();
        let (log, recovery) =
            Log::open_from(device, birth, resumed.as_ref(), &mut take, &may_drop)?;
        let lost = fold.lost.take();
        if let Some(why) = &lost {
            ::log::error!("state of a compaction is lost: why=\"{why}\"");
        }
        // A compaction that was cut short is finished behind the scan.
        fold.index.forget_before(log.first().id + 1);
        let index = Arc::new(Mutex::new(fold.index));
        index::open_last(&index, log.device(), log.superblock(), log.head()).map_err(|error| {
            OpenError::Io {
                step: "index the open segment",
                error,
            }
        })?;
        let (sender, receiver) = bounded(QUEUE_MAX);
        let shared = Arc::new(Shared {
            device: log.device().clone(),
            superblock: *log.superblock(),
            last_wall_ns: fold.last_wall_ns,
            boots: fold.boots.clone(),
            resumed_at: resumed.map_or(0, |resumed| resumed.state.id),
            index,
            planes: Mutex::new(fold.planes),
            deliveries: Deliveries::default(),
            kept_folds: Kept::default(),
            denials: Mutex::default(),
            standing: Mutex::new(standing_of(&log, 0)),
            shelf: Shelf::default(),
            moved: Condvar::new(),
            queued: Mutex::default(),
            drained: Condvar::new(),
            receiver,
            ended: AtomicBool::new(false),
            metrics: Metrics::default(),
            leaves: Leaves::default(),
            proofs: Mutex::default(),
        });
        let ledger = Ledger {
            shared: shared.clone(),
            sender,
        };
        let mut writer = Writer {
            log,
            dedupe: fold.dedupe,
            ulids: fold.ulids,
            shared,
            boots: fold.boots,
            last_wall_ns: fold.last_wall_ns,
            random: clock::Random::default(),
            groups: 0,
            orders: VecDeque::new(),
            makes_room,
            tried: None,
            kept_free: 0,
            lost,
        };
        let thread = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || {
                let at_the_end = AtTheEnd(writer.shared.clone());
                writer.run(&at_the_end.0.receiver);
            })
            .map_err(|error| OpenError::Io {
                step: "start committer",
                error,
            })?;
        Ok((Self { ledger, thread }, recovery))
    }

    /// The running ledger.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether the thread has ended by itself: a bug, and nothing can be appended any more.
    #[must_use]
    pub fn died(&self) -> bool {
        self.thread.is_finished()
    }

    /// Finishes what is queued, then ends the thread. Those who wait are woken.
    pub fn stop(self) {
        // A committer that is gone already has nothing to finish.
        let _ = self.ledger.sender.send(Message::Stop);
        let _ = self.thread.join();
    }
}

impl Ledger {
    /// Bytes that the log can have.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.superblock().device_bytes()
    }

    /// Hands events over; `reply` gets their receipts once all are durable, or one refusal for all.
    /// Waits while the queue is full.
    pub fn append(&self, drafts: Vec<Draft>, reply: Reply) {
        let bytes = drafts.iter().map(Draft::bytes).sum();
        let (shared, began) = (self.shared.clone(), Instant::now());
        let timed: Reply = Box::new(move |outcome| {
            if outcome.is_ok() {
                shared.metrics.append.add(began.elapsed());
            }
            reply(outcome);
        });
        self.queue(Work::Append(drafts, timed), bytes);
    }

    /// Reads the planes, checks and appends as one step: `decide` runs on the committer's thread, sees
    /// everything placed before it, and must be short. `bytes` bounds what its events will take, for the
    /// queue. `reply` gets the answer and the receipts once the group is durable; a refusal too waits
    /// for that, since it may rest on an event of the same group.
    /// Waits while the queue is full.
    pub fn decide<T: Send + 'static>(
        &self,
        bytes: usize,
        decide: impl FnOnce(&Planes, &Moment) -> Result<Decision<T>, Refusal> + Send + 'static,
        reply: impl FnOnce(Result<(T, Vec<Receipt>), Refusal>) + Send + 'static,
    ) {
        let decide = move |turn: Result<(&Planes, &Moment), Refusal>| -> (Vec<Draft>, Reply) {
            match turn.and_then(|(planes, moment)| decide(planes, moment)) {
                Ok(Decision { events, answer }) => (
                    events,
                    Box::new(move |outcome| reply(outcome.map(|receipts| (answer, receipts)))),
                ),
                Err(refusal) => (
                    Vec::new(),
                    Box::new(move |outcome| reply(outcome.and(Err(refusal)))),
                ),
            }
        };
        self.queue(Work::Decide(Box::new(decide)), bytes);
    }

    /// Has it decided and waits.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn decide_wait<T: Send + 'static>(
        &self,
        bytes: usize,
        decide: impl FnOnce(&Planes, &Moment) -> Result<Decision<T>, Refusal> + Send + 'static,
    ) -> Result<(T, Vec<Receipt>), Refusal> {
        let (sender, receiver) = bounded(1);
        self.decide(bytes, decide, move |outcome| {
            // The receiver waits below.
            drop(sender.send(outcome));
        });
        receiver.recv().unwrap_or_else(|_| Err(Refusal::closing()))
    }

    /// Folds that later ones go on from.
    pub(crate) fn kept_folds(&self) -> &Kept {
        &self.shared.kept_folds
    }

    /// Who is given what of the bus.
    pub(crate) fn deliveries(&self) -> &Deliveries {
        &self.shared.deliveries
    }

    /// Looks at the planes; what `look` says is given out once all that it saw is durable. It holds the
    /// committer up, so it must be short.
    ///
    /// # Errors
    /// READ_ONLY if what it saw never becomes durable: a sync failed.
    pub fn planes<T>(&self, look: impl FnOnce(&Planes) -> T) -> Result<T, Refusal> {
        let planes = self
            .shared
            .planes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (seen, through) = (look(&planes), planes.through);
        drop(planes);
        let mut standing = self
            .shared
            .standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while standing.id < through {
            if let Some(stopped) = &standing.stopped {
                return Err(stopped.into());
            }
            if standing.closing {
                return Err(Refusal::closing());
            }
            standing = self
                .shared
                .moved
                .wait(standing)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(seen)
    }

    /// The blobs.
    ///
    /// # Errors
    /// Why there are none.
    pub fn blobs(&self) -> Result<Arc<Blobs>, Refusal> {
        self.shared.shelf.blobs(self)
    }

    /// Looks at the planes as they are, durable or not: for what is bound by the log's own fate.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&Planes) -> T) -> T {
        look(
            &self
                .shared
                .planes
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// What was refused lately.
    pub(crate) fn denials(&self) -> MutexGuard<'_, Denials> {
        self.shared
            .denials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, work: Work, bytes: usize) {
        let bytes = bytes.min(QUEUE_BYTES_MAX);
        let mut queued = self
            .shared
            .queued
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while !queued.closed && queued.bytes + bytes > QUEUE_BYTES_MAX {
            queued = self
                .shared
                .drained
                .wait(queued)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if queued.closed {
            drop(queued);
            return Job { work, bytes }.refuse(Refusal::closing());
        }
        queued.bytes += bytes;
        drop(queued);
        self.send(Message::Job(Job { work, bytes }));
    }

    /// Hands a message to the committer. Behind its end who sends answers what it did not see any more, so nothing
    /// that was sent waits for nobody.
    fn send(&self, message: Message) {
        if let Err(unsent) = self.sender.send(message) {
            unsent.into_inner().turn_away();
        }
        if self.shared.ended.load(Ordering::SeqCst) {
            self.shared.turn_away();
        }
    }

    /// Has an epoch begun or old segments dropped, between two groups. Waits while the queue is full.
    pub fn order(&self, order: Order, answer: Answer) {
        self.send(Message::Order(order, answer));
    }

    /// As [`Self::order`], and waits for the outcome.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn order_wait(&self, order: Order) -> Result<Done, Refusal> {
        let (sender, receiver) = bounded(1);
        // The receiver waits below.
        self.order(order, Box::new(move |done| drop(sender.send(done))));
        receiver.recv().unwrap_or_else(|_| Err(Refusal::closing()))
    }

    /// Appends and waits.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn append_wait(&self, drafts: Vec<Draft>) -> Result<Vec<Receipt>, Refusal> {
        let (sender, receiver) = bounded(1);
        self.append(
            drafts,
            // The receiver waits below.
            Box::new(move |outcome| drop(sender.send(outcome))),
        );
        receiver.recv().unwrap_or_else(|_| Err(Refusal::closing()))
    }

    /// When the last event was written that was there when the log was opened, by the wall clock
    /// then; 0 for an empty log.
    #[must_use]
    pub fn last_wall_ns(&self) -> u64 {
        self.shared.last_wall_ns
    }

    /// How the boots ended that were in the log when it was opened.
    #[must_use]
    pub fn boots(&self) -> &Boots {
        &self.shared.boots
    }

    /// The last event that the start did not read, since a state of the log was kept behind it.
    #[must_use]
    pub fn resumed_at(&self) -> u64 {
        self.shared.resumed_at
    }

    /// Where the log stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let standing = self.shared.standing.lock();
        standing.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until an event behind `id` is durable or the service ends, at most `limit`.
    #[must_use]
    pub fn wait_past(&self, id: u64, limit: Duration) -> Standing {
        let deadline = Instant::now() + limit;
        let mut standing = self
            .shared
            .standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while standing.id <= id && !standing.closing {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                break;
            };
            (standing, _) = self
                .shared
                .moved
                .wait_timeout(standing, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        standing.clone()
    }

    /// A cursor over the durable events.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(
            self.shared.device.clone(),
            self.shared.superblock,
            self.shared.index.clone(),
        )
    }

    /// What is counted since the start.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Durable leaves, for the tree's tiles.
    pub(crate) fn leaves(&self) -> &Leaves {
        &self.shared.leaves
    }

    /// Who makes proofs; none before the service is ready, and none once it ends.
    #[must_use]
    pub fn proofs(&self) -> Option<Proofs> {
        let proofs = self.shared.proofs.lock();
        proofs.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says who makes proofs, who holds the ledger in turn: `None` lets both go.
    pub(crate) fn set_proofs(&self, proofs: Option<Proofs>) {
        let held = self.shared.proofs.lock();
        *held.unwrap_or_else(PoisonError::into_inner) = proofs;
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> &Mutex<Index> {
        &self.shared.index
    }

    /// Starts the thread that keeps the index's snapshots: work for after READY.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn keep_index(&self) -> io::Result<()> {
        let shared = &self.shared;
        index::start_keeper(&shared.index, &shared.device, &shared.superblock)
    }

    /// Writes what the index misses in its folder now: for who has no thread do it.
    pub fn keep_index_now(&self) {
        let shared = &self.shared;
        index::keep(
            &Arc::downgrade(&shared.index),
            &shared.device,
            &shared.superblock,
        );
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.shared.device
    }

    /// The superblock.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.shared.superblock
    }

    /// Bytes of events that wait.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        let queued = self.shared.queued.lock();
        queued.unwrap_or_else(PoisonError::into_inner).bytes
    }
}

fn standing_of(log: &Log, groups: u64) -> Standing {
    Standing {
        id: log.head().id,
        chain: log.head().chain,
        root: log.head().tree.root(),
        end: log.end(),
        first_id: log.first().id + 1,
        epoch: log.epoch().0,
        used: log.used(),
        stopped: log.stopped().cloned(),
        groups,
        closing: false,
    }
}

/// The thread's state.
struct Writer {
    log: Log,
    dedupe: Dedupe,
    ulids: Ulids,
    shared: Arc<Shared>,
    /// As the log says it now.
    boots: Boots,
    last_wall_ns: u64,
    random: clock::Random,
    groups: u64,
    /// What was asked for while a group was filled.
    orders: VecDeque<(Order, Answer)>,
    /// Whether it drops what is oldest where the log fills.
    makes_room: bool,
    /// The segment in which room was made, or was found not to be had.
    tried: Option<u32>,
    /// Bytes that a compaction takes which waits for tiles; 0 while none does.
    kept_free: u64,
    /// Why the planes do not stand for every event so far: then nothing is written down for others.
    lost: Option<String>,
}

/// One request inside a group.
struct Placed {
    reply: Reply,
    outcome: Result<Vec<Receipt>, Refusal>,
}

/// A request that does not fit what is left of the group.
struct Unfit {
    drafts: Vec<Draft>,
    reply: Reply,
    moment: Moment,
}

impl Unfit {
    fn into_job(self, bytes: usize) -> Job {
        Job {
            work: Work::Decided(Box::new(self)),
            bytes,
        }
    }
}

/// Why an event is not in the group.
enum NotPlaced {
    Refused(Refusal),
    /// The group has no room for it.
    Full(Box<Draft>),
}

/// What a group adds to the index and the planes.
struct Added {
    offset: u64,
    committed: Committed,
    wall_ns: u64,
    /// With its timestamp and ULID filled in.
    draft: Draft,
}

impl Writer {
    fn run(&mut self, receiver: &Receiver<Message>) {
        // Otherwise it waits for the next tick behind whoever runs when its sync is done.
        if let Err(e) = sys::process::run_in_real_time() {
            ::log::info!("committer without realtime priority: error=\"{e}\"");
        }
        self.log.zero_in_background();
        self.finish_epoch();
        // A job that did not fit the last group begins the next.
        let mut next: Option<Job> = None;
        let mut stopping = false;
        while !stopping || next.is_some() {
            let first = match next.take() {
                Some(job) => job,
                None => match receiver.recv() {
                    Ok(Message::Job(job)) => job,
                    Ok(Message::Order(order, answer)) => {
                        answer(self.obey(order));
                        continue;
                    }
                    Ok(Message::Stop) | Err(_) => break,
                },
            };
            let asked = self.group(first, receiver, &mut next, &mut stopping);
            // A decision that waits for its place must not have anything placed before it.
            if next.is_none() {
                // Who asks for nothing waits for what is under way, and begins nothing.
                if asked {
                    self.make_room();
                }
                while let Some((order, answer)) = self.orders.pop_front() {
                    answer(self.obey(order));
                }
            }
        }
    }

    /// Makes jobs durable together: whether any of them asked for room.
    fn group(
        &mut self,
        first: Job,
        receiver: &Receiver<Message>,
        next: &mut Option<Job>,
        stopping: &mut bool,
    ) -> bool {
        let mut group = self.log.group();
        let mut placed = Vec::new();
        let mut added = Vec::new();
        let mut released = 0;
        let mut job = first;
        loop {
            let bytes = job.bytes;
            match self.place(&mut group, job, &mut added) {
                Ok(done) => placed.push(done),
                Err(unfit) if added.is_empty() => {
                    let more;
                    (group, more) = self.in_next_segment(unfit, bytes, &mut added);
                    placed.extend(more);
                }
                Err(unfit) => {
                    *next = Some(unfit.into_job(bytes));
                    break;
                }
            }
            released += bytes;
            if group.count() >= GROUP_EVENTS_MAX {
                break;
            }
            job = match receiver.try_recv() {
                Ok(Message::Job(job)) => job,
                Ok(Message::Order(order, answer)) => {
                    self.orders.push_back((order, answer));
                    break;
                }
                Ok(Message::Stop) => {
                    *stopping = true;
                    break;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            };
        }
        let asked = released > 0 || !added.is_empty();
        self.finish(group, placed, added, released);
        asked
    }

    /// Places what does not fit the rest of the segment in the next one, unless it would not fit
    /// there either.
    fn in_next_segment(
        &mut self,
        unfit: Unfit,
        bytes: usize,
        added: &mut Vec<Added>,
    ) -> (GroupBuilder, Vec<Placed>) {
        let mut widest = self.log.widest_group();
        // As long as it will be: times are numbers of variable length. What fits by a guess that is too
        // short would cost a segment each time it is refused.
        let moment = unfit.moment;
        let fits = unfit.drafts.iter().all(|d| {
            let body = Body {
                timestamp_ns: d.timestamp_ns.unwrap_or(moment.monotonic_ns),
                ..d.body(moment.wall_ns)
            };
            widest.push(&body).is_some()
        });
        if !fits {
            return (self.log.group(), vec![self.too_large(unfit)]);
        }
        let placed = match self.log.next_segment() {
            Ok(()) => {
                self.keep_state();
                let mut group = self.log.group();
                let placed = match self.place(&mut group, unfit.into_job(bytes), added) {
                    Ok(placed) => placed,
                    Err(unfit) => self.too_large(unfit),
                };
                return (group, vec![placed]);
            }
            Err(stopped) => Placed {
                reply: unfit.reply,
                outcome: Err((&stopped).into()),
            },
        };
        (self.log.group(), vec![placed])
    }

    fn too_large(&self, unfit: Unfit) -> Placed {
        let bytes: usize = unfit.drafts.iter().map(Draft::bytes).sum();
        let limit = format!(
            "at most {} bytes of events",
            self.shared.superblock.body_bytes_max()
        );
        let refusal = Refusal::new("TOO_LARGE", "events", &bytes.to_string(), &limit);
        Placed {
            reply: unfit.reply,
            outcome: Err(refusal),
        }
    }

    /// Puts a request's events into the group: all, or none. A request that does not fit comes back,
    /// decided: it is the first of the next group, so nothing is placed in between.
    fn place(
        &mut self,
        group: &mut GroupBuilder,
        job: Job,
        added: &mut Vec<Added>,
    ) -> Result<Placed, Unfit> {
        let shared = self.shared.clone();
        let mut planes = shared.planes.lock().unwrap_or_else(PoisonError::into_inner);
        let moment = Moment {
            wall_ns: clock::wall_ns(),
            monotonic_ns: clock::monotonic_ns(),
            next_id: group.next_id(),
        };
        let stopped = self.log.stopped().map(Refusal::from);
        let mut of = moment;
        let (drafts, reply) = match (job.work, &stopped) {
            (Work::Append(drafts, reply), _) => (drafts, reply),
            (Work::Decide(decide), None) => decide(Ok((&planes, &moment))),
            (Work::Decide(decide), Some(refusal)) => decide(Err(refusal.clone())),
            (Work::Decided(unfit), _) => {
                of = unfit.moment;
                (unfit.drafts, unfit.reply)
            }
        };
        if let Some(refusal) = stopped {
            let outcome = Err(refusal);
            return Ok(Placed { reply, outcome });
        }
        let stranger = |d: &&Draft| !planes.keys.own(&d.tenant_id, &d.actor, d.sig.as_deref());
        if drafts.iter().any(|d| stranger(&d)) {
            // It was when the signature was checked: revoked in between.
            let refusal = Refusal::new("BAD_SIG", "sig", "", "by a registered key of the actor");
            let outcome = Err(refusal);
            return Ok(Placed { reply, outcome });
        }
        let (mark, kept) = (group.mark(), added.len());
        let mut receipts = Vec::with_capacity(drafts.len());
        let mut repeats = Vec::new();
        let mut drafts = drafts.into_iter();
        while let Some(draft) = drafts.next() {
            let why = match self.repeat(&draft, added) {
                Ok(Some(receipt)) => {
                    repeats.push((receipts.len(), draft));
                    receipts.push(receipt);
                    continue;
                }
                Ok(None) => match self.place_one(group, draft, &of, added) {
                    Ok(receipt) => {
                        receipts.push(receipt);
                        continue;
                    }
                    Err(why) => why,
                },
                Err(refusal) => NotPlaced::Refused(refusal),
            };
            group.rewind(mark);
            let back = added.drain(kept..).map(|event| event.draft);
            return match why {
                NotPlaced::Refused(refusal) => {
                    drop(back);
                    Ok(Placed {
                        reply,
                        outcome: Err(refusal),
                    })
                }
                NotPlaced::Full(draft) => {
                    let mut all: Vec<Draft> = back.collect();
                    for (at, repeat) in repeats {
                        all.insert(at, repeat);
                    }
                    all.push(*draft);
                    all.extend(drafts);
                    Err(Unfit {
                        drafts: all,
                        reply,
                        moment: of,
                    })
                }
            };
        }
        for event in added.get(kept..).unwrap_or_default() {
            planes.apply(event.committed.id, &event.draft.body(event.wall_ns));
        }
        Ok(Placed {
            reply,
            outcome: Ok(receipts),
        })
    }

    /// Refuses a ULID that its sender chose before; not that of a message, which the bus knows again by
    /// topic and ULID.
    fn is_new(&self, draft: &Draft, added: &[Added]) -> Result<(), Refusal> {
        let ulid = draft.ulid.filter(|_| draft.event_type != "bus.published");
        let Some(ulid) = ulid else {
            return Ok(());
        };
        let same = |a: &&Added| a.draft.ulid == Some(ulid) && a.draft.tenant_id == draft.tenant_id;
        let here = added.iter().find(same).map(|a| a.committed.id);
        match here.or_else(|| self.ulids.event(&draft.tenant_id, &ulid)) {
            None => Ok(()),
            Some(id) => {
                let limit = format!("event {id} has it");
                Err(Refusal::new(
                    "DUPLICATE",
                    "ulid",
                    &ulid::text(&ulid),
                    &limit,
                ))
            }
        }
    }

    /// The receipt of an event that is there already.
    fn repeat(&self, draft: &Draft, added: &[Added]) -> Result<Option<Receipt>, Refusal> {
        if let Some(origin) = draft.origin {
            let here = added.iter().find(|a| a.draft.origin == Some(origin));
            let seen = match here {
                Some(a) => Seen::Event(a.committed.id, a.committed.chain),
                None => self.dedupe.seen(&origin),
            };
            match seen {
                Seen::New => {}
                Seen::Event(id, commit_id) => {
                    return Ok(Some(Receipt {
                        id,
                        commit_id,
                        ulid: [0; 16],
                        repeated: true,
                    }));
                }
                Seen::Forgotten => {
                    return Err(Refusal::new(
                        "DUPLICATE",
                        "origin",
                        &origin.sequence.to_string(),
                        "the sequence is older than those remembered",
                    ));
                }
            }
        }
        Ok(None)
    }

    fn place_one(
        &mut self,
        group: &mut GroupBuilder,
        mut draft: Draft,
        moment: &Moment,
        added: &mut Vec<Added>,
    ) -> Result<Receipt, NotPlaced> {
        self.may_take(&draft).map_err(NotPlaced::Refused)?;
        self.is_new(&draft, added).map_err(NotPlaced::Refused)?;
        let wall_ns = moment.wall_ns;
        let random = &mut self.random;
        let ulid = *draft
            .ulid
            .get_or_insert_with(|| ulid::compose(wall_ns, random.take()));
        draft.timestamp_ns.get_or_insert(moment.monotonic_ns);
        let body = draft.body(wall_ns);
        rules::stored(&body, group.next_id()).map_err(|broken| {
            let value = match broken {
                rules::Broken::Ns => draft.ns.clone(),
                rules::Broken::Actor => draft.actor.clone(),
                rules::Broken::Tenant => draft.tenant_id.clone(),
                rules::Broken::EventType => draft.event_type.clone(),
                rules::Broken::Causation(id) => id.to_string(),
                _ => String::new(),
            };
            let refusal = Refusal::new(broken.code(), broken.field(), &value, broken.limit());
            NotPlaced::Refused(refusal)
        })?;
        let Some(committed) = group.push(&body) else {
            return Err(NotPlaced::Full(Box::new(draft)));
        };
        added.push(Added {
            offset: self.log.segment_base() + committed.offset,
            committed,
            wall_ns,
            draft,
        });
        Ok(Receipt {
            id: committed.id,
            commit_id: committed.chain,
            ulid,
            repeated: false,
        })
    }

    fn finish(
        &mut self,
        group: GroupBuilder,
        placed: Vec<Placed>,
        added: Vec<Added>,
        released: usize,
    ) {
        let outcome = if added.is_empty() {
            Ok(())
        } else {
            self.log.commit(group)
        };
        match &outcome {
            Ok(()) if !added.is_empty() => {
                self.groups += 1;
                let mut index = self
                    .shared
                    .index
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if let Some(extent) = self.log.begun() {
                    index.begin(extent);
                }
                for event in &added {
                    let body = event.draft.body(event.wall_ns);
                    self.last_wall_ns = event.wall_ns;
                    self.boots.see(&boots::Seen::of(event.committed.id, &body));
                    self.ulids
                        .add(body.tenant_id, &body.ulid, event.committed.id);
                    index.add(&Posted::of(event.committed.id, event.offset, &body));
                    if let Some(origin) = &event.draft.origin {
                        self.dedupe
                            .add(origin, event.committed.id, &event.committed.chain);
                    }
                }
                drop(index);
                // Leaves count from 0.
                let first = added.first().map_or(0, |a| a.committed.id - 1);
                let leaves = added.iter().map(|a| a.committed.leaf);
                self.shared.leaves.push(first, leaves);
            }
            Ok(()) => {}
            Err(stopped) => ::log::error!("stopped writing: reason=\"{stopped}\""),
        }
        self.publish();
        for Placed {
            reply,
            outcome: placed,
        } in placed
        {
            reply(match &outcome {
                Err(stopped) => Err(stopped.into()),
                Ok(()) => placed,
            });
        }
        let mut queued = self
            .shared
            .queued
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        queued.bytes = queued.bytes.saturating_sub(released);
        drop(queued);
        self.shared.drained.notify_all();
    }

    fn publish(&self) {
        let mut standing = self
            .shared
            .standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *standing = standing_of(&self.log, self.groups);
        drop(standing);
        self.shared.moved.notify_all();
    }
}

#[cfg(test)]
mod tests;
