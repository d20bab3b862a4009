//! Brings PID 1's cgroups to what the lease table says: a thread that holds the newest wish and what
//! was applied, and sends the steps between them.
//!
//! A plan either applies whole or the old values stand; then the steps are computed again against the
//! wish of that moment, after a pause. The loop of the service only leaves its wish here.

use crate::kernel::Event;
use crate::outbox::{Outbox, cause};
use capacity_core::plan::{self, Knob, Leaves, Plan};
use ipc::{Connection, IpcError};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wire::capacity::{CgroupPlan, CgroupReadback, Knob as WireKnob, PLAN_LEAVES_MAX, Write};

/// Longest wait for PID 1's answer; its helper may have to reclaim memory.
const ANSWER: Duration = Duration::from_secs(5);
/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// What PID 1 answers where there are no cgroups to write.
const NO_CGROUPS: &str = "no cgroups";

#[derive(Debug, Clone, Default)]
struct Wish {
    epoch: u64,
    leaves: Leaves,
}

/// Where the service leaves its wishes.
#[derive(Clone)]
pub struct Planner(Arc<(Mutex<Wish>, Condvar)>);

impl Planner {
    /// Starts the thread towards PID 1's socket; `applied` is what an earlier run left.
    pub fn start(path: PathBuf, applied: Leaves, outbox: Outbox) -> std::io::Result<Self> {
        let planner = Self(Arc::default());
        let mine = planner.clone();
        std::thread::Builder::new()
            .name("planner".to_owned())
            .spawn(move || mine.run(&path, applied, &outbox))?;
        Ok(planner)
    }

    /// Leaves the newest wish; an older one that has not begun is forgotten.
    pub fn want(&self, epoch: u64, leaves: Leaves) {
        *self.lock() = Wish { epoch, leaves };
        self.0.1.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Wish> {
        // A wish is replaced whole, so a panic elsewhere leaves a whole one.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, path: &Path, mut applied: Leaves, outbox: &Outbox) {
        let mut connection = None;
        let mut pause = PAUSES.0;
        let mut said = String::new();
        let mut done = 0;
        loop {
            let wish = self.next(done);
            let plan = Plan::between(&applied, &wish.leaves);
            match carry_out(path, &mut connection, wish.epoch, &plan, &mut applied) {
                Ok(()) => {
                    if !plan.is_empty() {
                        let writes = plan.shrinks.len() + plan.grows.len();
                        say(outbox, "plan_applied", wish.epoch, writes, "");
                    }
                    done = wish.epoch;
                    (pause, said) = (PAUSES.0, String::new());
                }
                Err(Failure::NoCgroups) => {
                    if said != NO_CGROUPS {
                        log::info!("cgroup plans are not applied here: PID 1 has no cgroups");
                        said = NO_CGROUPS.to_owned();
                    }
                    (applied, done) = (wish.leaves, wish.epoch);
                }
                Err(Failure::NotApplied(why)) => {
                    if why != said {
                        log::error!("cgroup plan not applied: epoch={} why={why:?}", wish.epoch);
                        say(outbox, "plan_failed", wish.epoch, 0, &why);
                        said = why;
                    }
                    pause = wait(pause);
                }
                Err(Failure::Away(why)) => {
                    if why != said {
                        log::warn!("init.sock is not there, cgroup plans wait: {why}");
                        said = why;
                    }
                    pause = wait(pause);
                }
            }
        }
    }

    /// Waits for a wish newer than the one carried out.
    fn next(&self, done: u64) -> Wish {
        let mut wish = self.lock();
        while wish.epoch <= done {
            wish = self.0.1.wait(wish).unwrap_or_else(PoisonError::into_inner);
        }
        wish.clone()
    }
}

fn wait(pause: Duration) -> Duration {
    std::thread::sleep(pause);
    (pause * 2).min(PAUSES.1)
}

fn say(outbox: &Outbox, event_type: &'static str, epoch: u64, writes: usize, why: &str) {
    outbox.push(Event {
        event_type,
        subject: format!("epoch/{epoch}"),
        payload: json!({ "epoch": epoch, "writes": writes, "why": why }),
    });
}

enum Failure {
    /// PID 1 cannot be asked.
    Away(String),
    /// It could not, and the old values stand.
    NotApplied(String),
    /// There is nothing to apply to.
    NoCgroups,
}

/// Sends a plan in frames of at most [`PLAN_LEAVES_MAX`] writes, and notes in `applied` what each one
/// changed, so that after a failure in the middle only the rest is sent again.
fn carry_out(
    path: &Path,
    connection: &mut Option<Connection>,
    epoch: u64,
    plan: &Plan,
    applied: &mut Leaves,
) -> Result<(), Failure> {
    for part in parts(plan) {
        let frame = to_wire(epoch, &part);
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(path, ANSWER).map_err(|e| Failure::Away(cause(&e)))?,
        };
        let answer = open.ask(&frame, |f, _| {
            f.body::<CgroupReadback<'_>>()
                .map(|r| (r.epoch, r.applied, r.detail.to_owned()))
        });
        match answer {
            Ok((answered, true, _)) if answered == epoch => {
                *connection = Some(open);
                applied.retain(|slot, _| !part.removed.contains(slot));
                plan::write(applied, &part.shrinks);
                plan::write(applied, &part.grows);
            }
            Ok((_, false, detail)) => {
                *connection = Some(open);
                return Err(if detail.starts_with(NO_CGROUPS) {
                    Failure::NoCgroups
                } else {
                    Failure::NotApplied(detail)
                });
            }
            Ok((answered, true, _)) => {
                let why = format!("answer for epoch {answered}, asked for {epoch}");
                return Err(Failure::NotApplied(why));
            }
            Err(e @ IpcError::Refused { .. }) => {
                *connection = Some(open);
                return Err(Failure::NotApplied(cause(&e)));
            }
            Err(e) => return Err(Failure::Away(cause(&e))),
        }
    }
    Ok(())
}

/// Cuts a plan to what a frame holds. What frees comes before what takes: a removed leaf holds its
/// share until it is gone, so what grows waits for a frame of its own.
fn parts(plan: &Plan) -> Vec<Plan> {
    let fits = plan.shrinks.len().max(plan.grows.len()) <= PLAN_LEAVES_MAX;
    if fits && plan.removed.is_empty() && !plan.is_empty() {
        return vec![plan.clone()];
    }
    let removals = plan.removed.chunks(PLAN_LEAVES_MAX).map(|slots| Plan {
        removed: slots.to_vec(),
        ..Plan::default()
    });
    let shrinks = plan.shrinks.chunks(PLAN_LEAVES_MAX).map(|steps| Plan {
        shrinks: steps.to_vec(),
        ..Plan::default()
    });
    let grows = plan.grows.chunks(PLAN_LEAVES_MAX).map(|steps| Plan {
        grows: steps.to_vec(),
        ..Plan::default()
    });
    removals.chain(shrinks).chain(grows).collect()
}

fn to_wire(epoch: u64, part: &Plan) -> CgroupPlan {
    // Parts were cut to what these vectors hold.
    CgroupPlan {
        epoch,
        shrinks: part.shrinks.iter().map(write_of).collect(),
        grows: part.grows.iter().map(write_of).collect(),
        removed: part.removed.iter().copied().collect(),
    }
}

fn write_of((slot, knob): &(u32, Knob)) -> Write {
    let knob = match *knob {
        Knob::CpuMaxUs(v) => WireKnob::CpuMaxUs(v),
        Knob::CpuWeight(v) => WireKnob::CpuWeight(v),
        Knob::MemoryMax(v) => WireKnob::MemoryMax(v),
        Knob::PidsMax(v) => WireKnob::PidsMax(v),
    };
    Write { slot: *slot, knob }
}

/// Leaves that an earlier run left in the cgroup tree; their settings are taken as the smallest, so
/// that each is written anew.
pub fn found_leaves(folder: &Path) -> Leaves {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let slots = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut leaves = Leaves::new();
    for slot in slots {
        plan::write(&mut leaves, &[(slot, Knob::CpuMaxUs(0))]);
    }
    leaves
}

#[cfg(test)]
mod tests {
    use super::*;
    use capacity_core::plan::Knobs;
    use ipc::serve_hello;
    use sys::packet::{Mode, PacketListener};

    fn leaves(count: u32, memory_max: u64) -> Leaves {
        let knobs = Knobs {
            cpu_max_us: 1000,
            cpu_weight: 1,
            memory_max,
            pids_max: 1,
        };
        (0..count).map(|slot| (slot, knobs)).collect()
    }

    #[test]
    fn a_large_plan_shrinks_everywhere_before_it_grows_anywhere() {
        let mut desired = leaves(200, 10);
        desired.get_mut(&0).unwrap().memory_max = 90;
        let applied = leaves(250, 50);
        let frames: Vec<_> = parts(&Plan::between(&applied, &desired));
        assert!(frames.len() > 3);
        let first_grow = frames.iter().position(|f| !f.grows.is_empty()).unwrap();
        let last_free = frames
            .iter()
            .rposition(|f| !f.shrinks.is_empty() || !f.removed.is_empty())
            .unwrap();
        assert!(last_free < first_grow);
        let writes: usize = frames
            .iter()
            .map(|f| to_wire(7, f).shrinks.len() + f.grows.len())
            .sum();
        assert_eq!(writes, 200);
        let mixed = parts(&Plan::between(&leaves(3, 50), &leaves(2, 60)));
        assert_eq!(
            (mixed.len(), mixed[0].removed.len(), mixed[1].grows.len()),
            (2, 1, 2)
        );
        let whole = parts(&Plan::between(&leaves(3, 50), &leaves(3, 60)));
        assert_eq!(whole.len(), 1);
        assert!(parts(&Plan::default()).is_empty());
    }

    #[test]
    fn a_plan_that_failed_is_sent_again_until_it_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("init.sock");
        let listener = PacketListener::bind(&path, Mode::Blocking).unwrap();
        let outbox = Outbox::start(folder.path().join("ledger.wire"), [0; 16]).unwrap();
        let planner = Planner::start(path, Leaves::new(), outbox).unwrap();
        planner.want(3, leaves(1, 4096));
        let socket = listener.accept(Mode::Blocking).unwrap();
        let (mut buf, mut out) = (vec![0; 65_536], vec![0; 65_536]);
        let (n, _) = socket.receive(&mut buf).unwrap();
        let hello = serve_hello(&buf[..n], &mut out).unwrap();
        socket.send(hello, None).unwrap();
        for applied in [false, true] {
            let (n, _) = socket.receive(&mut buf).unwrap();
            let frame = wire::Frame::open(&buf[..n]).unwrap();
            let plan = frame.body::<CgroupPlan>().unwrap();
            assert_eq!((plan.epoch, plan.grows.len()), (3, 4));
            let answer = CgroupReadback {
                epoch: 3,
                applied,
                detail: if applied {
                    ""
                } else {
                    "memory.max: 4096 reads 8192"
                },
            };
            let packet = wire::encode(frame.id, &answer, &mut out).unwrap();
            socket.send(packet, None).unwrap();
        }
        // The next wish sends only what differs from what was applied.
        planner.want(4, leaves(1, 8192));
        let (n, _) = socket.receive(&mut buf).unwrap();
        let plan = wire::Frame::open(&buf[..n]).unwrap();
        let plan = plan.body::<CgroupPlan>().unwrap();
        assert_eq!((plan.grows.len(), plan.shrinks.len()), (1, 0));
    }
}
