//! PID 1's end of the helper: a bounded queue of tasks, one under way, answers as they come.
//!
//! Every task has a deadline. A helper that misses one is killed by the heart, and one that cannot
//! even be killed is left behind; either way the queue goes on with the next helper.
//! Start with [`HelperLink::ask`].

use crate::heart::Ask;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::packet::{Mode, PacketSocket};
use wire::helper::{Outcome, Task};
use wire::{Frame, PACKET_BYTES_MAX};

/// Tasks that may wait: the boot asks for about four a service, and for two a root.
const QUEUE_MAX: usize = 192;
/// Helpers that may die over one task, which a disk that cannot be read would go on with for ever.
const DEATHS_MAX: u32 = 5;
/// Helpers that may miss the deadline of one task: the second shows that it is not the helper.
const LATE_MAX: u32 = 2;
/// Longest text of a task for `status`.
const WHAT_BYTES_MAX: usize = 120;

/// What a task was for, so that its answer finds its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Growing the data disk's partition before it is mounted.
    GrowPartition,
    /// Mounting the data disk.
    MountData,
    /// Growing its file system.
    GrowData,
    /// Mounting a read-only share under the root of this index.
    MountRoot(usize),
    /// Making folders and first files.
    Provision,
    /// The data folder's descriptor.
    OpenData,
    /// The descriptor of the root of this index.
    OpenRoot(usize),
    /// The last step of the storage.
    StorageReady,
    /// Whether the helper lives, and how full the data disk is.
    Look,
    /// Hashing the package outside its tensors.
    Verify,
    /// Loading the image of this index.
    Load(usize),
    /// Making the cell of the service of this index.
    Cell(usize),
    /// Hashing tensor blocks from this one on.
    Scrub(u64),
    /// A plan of the capacity kernel: connection, its generation, frame id, epoch.
    Leases(usize, u64, u64, u64),
    /// Setting the wall clock.
    Clock,
    /// Waiting for the kernel's pool of randomness.
    Randomness,
    /// Setting the kernel's switches that are not set before the services.
    Switches,
    /// A step of an upgrade.
    Upgrade(Ask),
    /// Reading the kernel's persistent store, or emptying it.
    Pstore,
    /// A knob of the cgroup of the service of this index.
    Tune(usize),
    /// Unmounting at the end.
    Unmount,
}

impl Purpose {
    /// How long it may take, twice what a slow disk needs. `docs/supervision.md` has the same table.
    #[must_use]
    pub fn limit_ns(self) -> u64 {
        const S: u64 = 1_000_000_000;
        match self {
            // It touches no disk: a helper that lives answers at once.
            Self::Look | Self::Clock => 5 * S,
            Self::Unmount => 10 * S,
            // The kernel reclaims a page at a time, and kills when nothing is left to reclaim.
            Self::Leases(..) | Self::Tune(_) => 30 * S,
            Self::Provision
            // Mounts and namespaces wait for other processors, no disk.
            | Self::Cell(_)
            | Self::OpenData
            | Self::OpenRoot(_)
            | Self::StorageReady
            // The kernel fills its pool by itself in a second or two.
            | Self::Randomness
            // Grace periods of RCU.
            | Self::Switches
            // Flash behind a firmware's call.
            | Self::Pstore
            | Self::GrowPartition => 30 * S,
            // 4 MiB each.
            Self::Scrub(_) => 60 * S,
            // A journal's replay, a whole executable, new group tables of a large disk.
            Self::MountData | Self::MountRoot(_) | Self::Verify | Self::Load(_) => 120 * S,
            // Both see all of a package, on a slow disk.
            Self::GrowData | Self::Upgrade(Ask::Keep) => 300 * S,
            Self::Upgrade(Ask::Open) => 30 * S,
            Self::Upgrade(Ask::Scrub(_)) => 60 * S,
            Self::Upgrade(_) => 120 * S,
        }
    }

    /// Whether it only reads, so that it can be broken off anywhere.
    fn only_reads(self) -> bool {
        matches!(
            self,
            Self::Verify | Self::Scrub(_) | Self::Load(_) | Self::Look | Self::Randomness
        )
    }
}

struct Job {
    purpose: Purpose,
    /// For people.
    what: String,
    id: u64,
    packet: Vec<u8>,
    descriptor: Option<OwnedFd>,
    /// Helpers that died while it was under way.
    deaths: u32,
    /// Helpers that missed its deadline.
    late: u32,
    /// When it was sent.
    sent_ns: u64,
    /// Its present helper has missed the deadline.
    overdue: bool,
}

/// The queue and the socket.
pub struct HelperLink {
    socket: Option<PacketSocket>,
    queue: VecDeque<Job>,
    current: Option<Job>,
    /// What is not tried again and why, until its answer is taken.
    given_up: Option<(Purpose, String)>,
    next_id: u64,
}

/// How a task ended.
pub struct Answer {
    /// Which one.
    pub purpose: Purpose,
    /// The figure, or what was wrong.
    pub result: Result<u64, String>,
    /// The figure that came along, whether or not it was done.
    pub figure: u64,
    /// What a task that was done says.
    pub detail: String,
    /// What came along.
    pub descriptors: Vec<OwnedFd>,
}

impl HelperLink {
    /// No helper yet; tasks may be queued.
    #[must_use]
    pub fn new() -> Self {
        Self {
            socket: None,
            queue: VecDeque::new(),
            current: None,
            given_up: None,
            next_id: 1,
        }
    }

    /// Makes a fresh pair: ours is kept, the other is the new helper's. A task that was under way
    /// when the last helper died is given again, since every task may be repeated, but not for ever.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub fn renew(&mut self) -> io::Result<OwnedFd> {
        let (ours, theirs) = PacketSocket::pair(Mode::NonBlocking)?;
        self.socket = Some(ours);
        if let Some(mut job) = self.current.take() {
            let seconds = job.purpose.limit_ns() / 1_000_000_000;
            if std::mem::take(&mut job.overdue) {
                job.late += 1;
            } else {
                job.deaths += 1;
            }
            if job.late >= LATE_MAX {
                let why = format!(
                    "{}: given up: {LATE_MAX} helpers had no answer within {seconds} s",
                    job.what
                );
                self.given_up = Some((job.purpose, why));
            } else if job.deaths >= DEATHS_MAX {
                let why = format!("{}: given up: {DEATHS_MAX} helpers died over it", job.what);
                self.given_up = Some((job.purpose, why));
            } else {
                self.queue.push_front(job);
            }
        }
        let theirs = OwnedFd::from(theirs);
        // Non-blocking is a property of each end; the helper waits.
        sys::inherit::set_blocking(theirs.as_fd())?;
        Ok(theirs)
    }

    /// Lets go of a helper that cannot be killed. What it was at is not tried again: whatever holds
    /// one helper in the kernel would hold the next.
    pub fn abandon(&mut self) {
        self.socket = None;
        if let Some(job) = self.current.take() {
            let why = format!("{}: its helper hangs in the kernel", job.what);
            self.given_up = Some((job.purpose, why));
        }
    }

    /// Lets go of a helper that has nothing to do: it ends when our end is closed. The room of the queue
    /// goes too: it was the boot that filled it.
    pub fn dismiss(&mut self) {
        self.socket = None;
        self.queue.shrink_to_fit();
    }

    /// Forgets what waits, since the machine ends. Whether what is under way is forgotten too: it only reads, and
    /// its helper is to be killed over it.
    pub fn clear(&mut self) -> bool {
        self.queue.clear();
        let reads = |job: &mut Job| job.purpose.only_reads();
        self.current.take_if(reads).is_some()
    }

    /// Our end, to be watched.
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.current.is_none()
    }

    /// Queues a task; `false` if the queue is full.
    pub fn ask(&mut self, purpose: Purpose, task: &Task<'_>, descriptor: Option<OwnedFd>) -> bool {
        if self.queue.len() >= QUEUE_MAX {
            return false;
        }
        let mut buf = vec![0u8; 8192];
        let id = self.next_id;
        let Ok(packet) = wire::encode(id, task, &mut buf) else {
            return false;
        };
        let packet = packet.to_vec();
        self.next_id += 1;
        // Services wait for their cells: those come before the hashing of a package, in their order.
        let is_cell = |purpose: &Purpose| matches!(purpose, Purpose::Cell(_));
        let place = if is_cell(&purpose) {
            let cells = self.queue.iter().take_while(|job| is_cell(&job.purpose));
            cells.count()
        } else {
            self.queue.len()
        };
        let job = Job {
            purpose,
            what: text_of(task),
            id,
            packet,
            descriptor,
            deaths: 0,
            late: 0,
            sent_ns: 0,
            overdue: false,
        };
        self.queue.insert(place, job);
        self.pump();
        true
    }

    /// Sends the next task if none is under way.
    pub fn pump(&mut self) {
        let (None, Some(socket)) = (&self.current, &self.socket) else {
            return;
        };
        let Some(mut job) = self.queue.pop_front() else {
            return;
        };
        match socket.send(&job.packet, job.descriptor.as_ref().map(AsFd::as_fd)) {
            Ok(()) => {
                job.sent_ns = sys::clock::monotonic_ns();
                self.current = Some(job);
            }
            // The helper is gone or not there yet: its successor gets the task.
            Err(_) => self.queue.push_front(job),
        }
    }

    /// Says once of each helper that it has missed the deadline of its task, and of which.
    pub fn overdue(&mut self, now: u64) -> Option<String> {
        let job = self.current.as_mut().filter(|job| !job.overdue)?;
        let limit = job.purpose.limit_ns();
        if now.saturating_sub(job.sent_ns) <= limit {
            return None;
        }
        job.overdue = true;
        Some(format!(
            "{}: no answer within {} s",
            job.what,
            limit / 1_000_000_000
        ))
    }

    /// Takes the answer in place of a task that is not tried again, once.
    pub fn take_given_up(&mut self) -> Option<Answer> {
        let (purpose, why) = self.given_up.take()?;
        Some(Answer {
            purpose,
            result: Err(why),
            figure: 0,
            detail: String::new(),
            descriptors: Vec::new(),
        })
    }

    /// Takes an answer, if one came. The next task is sent by [`HelperLink::pump`], so that what follows
    /// from this answer can come before what waits.
    pub fn take(&mut self) -> Option<Answer> {
        let mut buf = [0u8; 8192];
        let received = self
            .socket
            .as_ref()?
            .take(&mut buf)
            .ok()
            .filter(|received| received.bytes > 0)?;
        let bytes = received.bytes.min(PACKET_BYTES_MAX);
        let packet = buf.get(..bytes).unwrap_or_default();
        let opened = Frame::open(packet).and_then(|f| Ok((f.id, f.body::<Outcome<'_>>()?)));
        let job = self.current.take()?;
        let (mut figure, mut detail) = (0, String::new());
        let result = match opened {
            Ok((id, _)) if id != job.id => {
                Err(format!("helper's answer: id {id}, expected {}", job.id))
            }
            Ok((_, outcome)) => {
                figure = outcome.figure;
                if outcome.ok {
                    outcome.detail.clone_into(&mut detail);
                    Ok(outcome.figure)
                } else {
                    Err(outcome.detail.to_owned())
                }
            }
            Err(e) => Err(format!("helper's answer: {e}")),
        };
        Some(Answer {
            purpose: job.purpose,
            result,
            figure,
            detail,
            descriptors: received.descriptors,
        })
    }
}

/// A task in words, for `status`.
fn text_of(task: &Task<'_>) -> String {
    let mut text = match task {
        Task::Mount { source, target, .. } => format!("mount {source} on {target}"),
        Task::Folder { path, .. } => format!("folder {path}"),
        Task::Seed { path, .. } => format!("first file {path}"),
        Task::VerifyPackage => "hash the package".to_owned(),
        Task::Load { name, .. } => format!("load {name}"),
        Task::Cell(cell) => format!("cell of {}", cell.service),
        Task::Scrub { first, count } => format!("hash {count} tensor blocks from {first}"),
        Task::Unmount { target } => format!("unmount {target}"),
        Task::Leases(plan) => format!("cgroup plan {}", plan.epoch),
        Task::Open { path } => format!("open {path}"),
        Task::Look { path } => format!("look at {path}"),
        Task::GrowPartition { device, .. } => format!("grow partition {device}"),
        Task::Clock { .. } => "set the clock".to_owned(),
        Task::Randomness => "wait for randomness".to_owned(),
        Task::Switches => "set the kernel's switches".to_owned(),
        Task::OpenPackage { path } => format!("open package {path}"),
        Task::Inspect { .. } => "read the package".to_owned(),
        Task::KeepPackage { device } => format!("write the package to {device}"),
        Task::Pstore { .. } => "the kernel's persistent store".to_owned(),
        Task::Tune { service, .. } => format!("set a control of {service}"),
        Task::GrowFileSystem { target, .. } => format!("grow file system {target}"),
    };
    if text.len() > WHAT_BYTES_MAX {
        let end = (0..=WHAT_BYTES_MAX)
            .rev()
            .find(|i| text.is_char_boundary(*i));
        text.truncate(end.unwrap_or(0));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the helper at this end was asked.
    fn received(helper: &PacketSocket) -> (u64, String) {
        let mut buf = [0u8; 8192];
        let (bytes, _) = helper.receive(&mut buf).unwrap();
        let frame = Frame::open(buf.get(..bytes).unwrap()).unwrap();
        (frame.id, text_of(&frame.body::<Task<'_>>().unwrap()))
    }

    fn answer(helper: &PacketSocket, id: u64, figure: u64) {
        let mut buf = [0u8; 256];
        let outcome = Outcome {
            ok: true,
            detail: "",
            figure,
        };
        helper
            .send(wire::encode(id, &outcome, &mut buf).unwrap(), None)
            .unwrap();
    }

    #[test]
    fn a_missed_deadline_is_said_once_with_the_task_and_its_limit() {
        let mut link = HelperLink::new();
        let _theirs = link.renew().unwrap();
        assert_eq!(link.overdue(u64::MAX), None);
        assert!(link.ask(Purpose::Look, &Task::Look { path: "/data" }, None));
        let now = sys::clock::monotonic_ns();
        assert_eq!(link.overdue(now), None);
        let late = now + Purpose::Look.limit_ns() + 1;
        let said = link.overdue(late).unwrap();
        assert_eq!(said, "look at /data: no answer within 5 s");
        assert_eq!(link.overdue(late), None);
    }

    #[test]
    fn a_task_that_two_helpers_do_not_answer_is_given_up_and_the_next_one_runs() {
        let mut link = HelperLink::new();
        assert!(link.ask(Purpose::OpenData, &Task::Open { path: "/data" }, None));
        assert!(link.ask(Purpose::Look, &Task::Look { path: "" }, None));
        for _ in 0..LATE_MAX {
            let helper = PacketSocket::from_fd(link.renew().unwrap());
            link.pump();
            assert_eq!(received(&helper).1, "open /data");
            assert!(link.take().is_none());
            assert!(link.overdue(u64::MAX).is_some());
        }
        let helper = PacketSocket::from_fd(link.renew().unwrap());
        let gone = link.take_given_up().expect("an answer in its place");
        assert_eq!(gone.purpose, Purpose::OpenData);
        assert!(gone.result.unwrap_err().contains("30 s"));
        link.pump();
        let (id, what) = received(&helper);
        assert_eq!(what, "look at ");
        answer(&helper, id, 7);
        assert_eq!(link.take().unwrap().result, Ok(7));
        assert!(link.is_idle());
    }

    #[test]
    fn what_holds_a_helper_in_the_kernel_is_not_tried_again() {
        let mut link = HelperLink::new();
        let _theirs = link.renew().unwrap();
        assert!(link.ask(Purpose::Provision, &Task::Open { path: "/x" }, None));
        link.abandon();
        let gone = link.take_given_up().expect("an answer in its place");
        assert!(gone.result.unwrap_err().contains("hangs in the kernel"));
        assert!(link.is_idle() && link.socket().is_none());
    }

    #[test]
    fn an_answer_to_another_task_is_none() {
        let mut link = HelperLink::new();
        let helper = PacketSocket::from_fd(link.renew().unwrap());
        assert!(link.ask(Purpose::Look, &Task::Look { path: "" }, None));
        let (id, _) = received(&helper);
        answer(&helper, id + 1, 7);
        assert!(link.take().unwrap().result.unwrap_err().contains("id 2"));
    }

    #[test]
    fn a_task_that_kills_every_helper_is_given_up_and_the_next_one_runs() {
        let mut link = HelperLink::new();
        assert!(link.ask(Purpose::Verify, &Task::VerifyPackage, None));
        assert!(link.ask(
            Purpose::Load(0),
            &Task::Load {
                name: "x",
                blake3: ""
            },
            None
        ));
        for _ in 0..DEATHS_MAX {
            let helper = PacketSocket::from_fd(link.renew().unwrap());
            link.pump();
            assert_eq!(received(&helper).1, "hash the package");
            assert!(link.take().is_none(), "no answer came");
        }
        let helper = PacketSocket::from_fd(link.renew().unwrap());
        let answer = link.take_given_up().expect("an answer in its place");
        assert_eq!(answer.purpose, Purpose::Verify);
        assert!(answer.result.unwrap_err().contains("given up"));
        link.pump();
        assert_eq!(received(&helper).1, "load x");
    }

    #[test]
    fn at_the_end_nothing_waits_and_only_what_changes_something_is_finished() {
        let look = |link: &mut HelperLink| link.ask(Purpose::Look, &Task::Look { path: "" }, None);
        let unmount = Task::Unmount { target: "/data" };
        let mut link = HelperLink::new();
        let first = PacketSocket::from_fd(link.renew().unwrap());
        assert!(link.ask(Purpose::Verify, &Task::VerifyPackage, None) && look(&mut link));
        assert_eq!(received(&first).1, "hash the package");
        assert!(link.clear(), "a hash is broken off");
        link.dismiss();
        assert!(link.ask(Purpose::Unmount, &unmount, None));
        let second = PacketSocket::from_fd(link.renew().unwrap());
        link.pump();
        let (id, what) = received(&second);
        assert_eq!(what, "unmount /data");
        answer(&second, id, 0);
        assert_eq!(link.take().unwrap().purpose, Purpose::Unmount);
        assert!(link.is_idle());

        let mut link = HelperLink::new();
        let helper = PacketSocket::from_fd(link.renew().unwrap());
        let open = Task::Folder {
            path: "/data/work",
            uid: 0,
            mode: 0o700,
        };
        assert!(link.ask(Purpose::Provision, &open, None) && look(&mut link));
        assert!(!link.clear(), "a change is finished");
        assert!(link.ask(Purpose::Unmount, &unmount, None));
        let (id, _) = received(&helper);
        answer(&helper, id, 0);
        assert_eq!(link.take().unwrap().purpose, Purpose::Provision);
        link.pump();
        assert_eq!(received(&helper).1, "unmount /data");
    }

    #[test]
    fn cells_come_before_what_waits_and_in_their_order() {
        let cell = |service| {
            Task::Cell(wire::helper::Cell {
                service,
                profile: "foreign",
                foreign: true,
                uid: 30_000,
                data: false,
                notify: false,
                network: false,
                tmp_bytes: 0,
                sockets: "",
            })
        };
        let mut link = HelperLink::new();
        assert!(link.ask(Purpose::Verify, &Task::VerifyPackage, None));
        assert!(link.ask(Purpose::Cell(0), &cell("a"), None));
        assert!(link.ask(
            Purpose::Load(0),
            &Task::Load {
                name: "x",
                blake3: ""
            },
            None
        ));
        assert!(link.ask(Purpose::Cell(1), &cell("b"), None));
        let order: Vec<Purpose> = link.queue.iter().map(|job| job.purpose).collect();
        assert_eq!(
            order,
            [
                Purpose::Cell(0),
                Purpose::Cell(1),
                Purpose::Verify,
                Purpose::Load(0)
            ]
        );
    }
}
