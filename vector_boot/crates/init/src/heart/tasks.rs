//! The heart and its helper: the process, the boot's tasks, the answers, the scrub.

use super::standing::Trouble;
use super::{Ending, Heart, Held, VECTOR_BOOT, Watch};
use crate::helper_link::{Answer, Purpose};
use crate::state::descriptors::Kind;
use crate::state::records::Text;
use crate::state::{BY_HELPER, Fixed, Json, Level, Weight};
use rts::manifest::Verify;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use sys::events::Interest;
use sys::process::Exit;
use sys::spawn::{Child, Descriptors, Limit, Powers, Spawn};
use wire::helper::Task;

const SIGKILL: i32 = 9;
/// Pause between two tries to start the helper.
const HELPER_RETRY_NS: u64 = 1_000_000_000;
/// How long a killed helper may take to be gone; longer than that it hangs in the kernel.
const KILL_NS: u64 = 2_000_000_000;
/// A helper with nothing to do is let go after this long: more than lies between two tasks of one errand.
const IDLE_NS: u64 = 2_000_000_000;
/// How long one that was let go may take to end; longer than that it is stopped, and killed.
const END_NS: u64 = 2_000_000_000;
/// Helpers that may hang in the kernel before no more are started: each holds a process and a stack.
const LEFT_MAX: usize = 4;
/// Damaged blocks that are named; a model with more of them is not looked at any further.
const DAMAGED_MAX: u32 = 8;
/// oom_score_adj of the helper: as every process of root has it.
const HELPER_OOM: &CStr = c"0";
/// From the handoff; services that are not up by then do not hold up the rest of the boot any longer.
const SETTLE_NS: u64 = 15_000_000_000;
/// The data disk is looked at this often.
const LOOK_NS: u64 = 10_000_000_000;
/// Tensor blocks hashed in one task of the scrub: 4 MiB.
const SCRUB_BLOCKS: u32 = 64;

/// PID 1's helper.
#[derive(Default)]
pub struct HelperProcess {
    pub(super) child: Option<Child>,
    output: Option<File>,
    retry_at_ns: u64,
    /// When the present one was let go.
    let_go_ns: Option<u64>,
    /// When the present one was killed for missing a deadline.
    killed_ns: Option<u64>,
    /// Those that could not be killed, until the kernel lets them go.
    pub(super) left: heapless::Vec<Child, LEFT_MAX>,
    /// When one last answered or was last asked.
    looked_ns: u64,
}

impl Heart {
    pub(super) fn start_helper(&mut self) {
        let result = self.spawn_helper();
        if let Err(e) = result {
            self.helper_process.retry_at_ns = sys::clock::monotonic_ns() + HELPER_RETRY_NS;
            self.journal
                .say(Level::Error, format_args!("helper not started: {e}"));
        }
    }

    pub(super) fn spawn_helper(&mut self) -> std::io::Result<()> {
        let image = self.images.get(VECTOR_BOOT).map(|i| &i.held);
        let Some(Held::Yes(image)) = image else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let theirs = self.helper.renew()?;
        let (read, write) = std::io::pipe()?;
        let read = OwnedFd::from(read);
        sys::inherit::set_nonblocking(read.as_fd())?;
        let mut spawn = Spawn::new(
            &["vector_boot", "helper"],
            &[("VB_NAME", "helper")],
            &["helper"],
        )?;
        if self.setup.is_appliance() {
            spawn.powers = Powers::Bounded(crate::harden::HELPER);
            spawn.limits = vec![(Limit::Core, 0)];
            // PID 1's own is for users' services.
            spawn.oom_score_adj = Some(HELPER_OOM.to_owned());
        }
        let child = spawn.start(&Descriptors {
            image: image.as_fd(),
            stdio: [self.null.as_fd(), write.as_fd(), write.as_fd()],
            passed: &[theirs.as_fd()],
            cgroup: None,
            namespaces: &[],
        })?;
        let pid = Fixed::<12>::of(format_args!("{}", child.pid));
        self.journal.state.relist(
            &[Kind::Helper],
            0,
            &[(Kind::Helper, pid.as_str(), child.pidfd.as_fd())],
        );
        self.helper_process.child = Some(child);
        self.helper_process.let_go_ns = None;
        if let Some(socket) = self.helper.socket() {
            self.poller
                .add(socket, Watch::Helper.token(), Interest::Read)?;
        }
        self.poller
            .add(read.as_fd(), Watch::HelperOutput.token(), Interest::Read)?;
        self.helper_process.output = Some(File::from(read));
        self.helper.pump();
        Ok(())
    }

    /// Starts a helper if a task waits and there is none.
    #[inline(never)]
    pub(super) fn wake_helper(&mut self, now: u64) {
        let full = self.helper_process.left.is_full();
        let wanted = self.helper_process.child.is_none() && !self.helper.is_idle();
        if wanted && now >= self.helper_process.retry_at_ns && !full {
            self.helper_process.killed_ns = None;
            self.start_helper();
            // Its predecessors may have left a task that is given up.
            self.settle_given_up();
        }
    }

    #[inline(never)]
    pub(super) fn tend_helper(&mut self, now: u64) {
        self.wake_helper(now);
        self.kill_late_helper(now);
        self.look(now);
        self.let_go_of_helper(now);
        self.helper.pump();
    }

    /// Takes over the helper of the PID 1 before, to end it: it stands at the other end of a socket that the exec
    /// closed, and may be in the middle of a task. Its successor begins with what is still to be done.
    /// Comes before the dead are reaped: it ends by itself when its socket does, and nobody would know it then.
    pub(super) fn end_helper_of_before(&mut self, child: Option<Child>) {
        let Some(child) = child else {
            return;
        };
        // One that is dead and not reaped takes the signal too; whoever refuses it is there no more.
        if sys::process::signal(child.pidfd.as_fd(), SIGKILL).is_ok() {
            self.helper_process.child = Some(child);
            self.helper_process.let_go_ns = Some(sys::clock::monotonic_ns());
        } else {
            self.journal.state.relist(&[Kind::Helper], 0, &[]);
        }
    }

    /// Clears the way for what the machine's end asks of the helper: nothing else that waits is of use to anybody
    /// any more, and a helper that only reads makes way for one that does not have to finish first.
    pub(super) fn clear_helper(&mut self) {
        if !self.helper.clear() {
            return;
        }
        if let Some(socket) = self.helper.socket() {
            // Closing it below takes it out as well.
            let _ = self.poller.remove(socket);
        }
        self.helper.dismiss();
        if let Some(child) = &self.helper_process.child {
            // One that is gone already will be reaped.
            let _ = sys::process::signal(child.pidfd.as_fd(), SIGKILL);
            self.helper_process.let_go_ns = Some(sys::clock::monotonic_ns());
        }
    }

    /// Lets a helper end that has nothing to do: most of the time there is nothing, and its memory is the
    /// larger part of what PID 1 costs.
    fn let_go_of_helper(&mut self, now: u64) {
        let process = &mut self.helper_process;
        let Some(child) = process
            .child
            .as_ref()
            .filter(|_| process.killed_ns.is_none())
        else {
            return;
        };
        match process.let_go_ns {
            None if self.helper.is_idle() && now.saturating_sub(process.looked_ns) >= IDLE_NS => {
                process.let_go_ns = Some(now);
                if let Some(socket) = self.helper.socket() {
                    // Closing it below takes it out as well.
                    let _ = self.poller.remove(socket);
                }
                self.helper.dismiss();
            }
            Some(since) if now.saturating_sub(since) >= END_NS => {
                process.killed_ns = Some(now);
                let text = format!(
                    "helper: pid {} was let go and has not ended within {} s",
                    child.pid,
                    END_NS / 1_000_000_000
                );
                self.trouble(Trouble::Helper, Some(text));
                // The next one's answer ends the trouble.
                self.helper
                    .ask(Purpose::Look, &Task::Look { path: "" }, None);
            }
            _ => {}
        }
    }

    /// How the helper ended: by being let go, or not.
    pub(super) fn helper_ended(&mut self, exit: Exit, now: u64) {
        self.journal.state.relist(&[Kind::Helper], 0, &[]);
        let process = &mut self.helper_process;
        process.child = None;
        if process.let_go_ns.take().is_some() {
            process.retry_at_ns = now;
            return;
        }
        process.retry_at_ns = now + HELPER_RETRY_NS;
        self.journal
            .say(Level::Warn, format_args!("helper died: cause=\"{exit}\""));
    }

    /// Kills a helper that missed a deadline, and leaves one behind that does not even die of that.
    fn kill_late_helper(&mut self, now: u64) {
        if let Some(what) = self.helper.overdue(now) {
            self.trouble(Trouble::Helper, Some(format!("helper: {what}")));
            self.helper_process.killed_ns = Some(now);
        }
        let Some(killed) = self.helper_process.killed_ns else {
            return;
        };
        let Some(child) = &self.helper_process.child else {
            return;
        };
        // Stopped, or waiting for a disk that does not answer: its successor tries again.
        // One that is gone already will be reaped.
        let _ = sys::process::signal(child.pidfd.as_fd(), SIGKILL);
        if now.saturating_sub(killed) < KILL_NS {
            return;
        }
        let Some(child) = self.helper_process.child.take() else {
            return;
        };
        let text = format!("helper: pid {} hangs in the kernel", child.pid);
        self.helper_process.killed_ns = None;
        self.helper_process.retry_at_ns = now;
        if let Some(socket) = self.helper.socket() {
            // Closing it below takes it out as well.
            let _ = self.poller.remove(socket);
        }
        // There is room: none is started where there is none.
        let _ = self.helper_process.left.push(child);
        self.helper.abandon();
        self.trouble(Trouble::HelperLeft, Some(text));
        self.settle_given_up();
    }

    fn settle_given_up(&mut self) {
        if let Some(answer) = self.helper.take_given_up() {
            self.take_answer(answer);
        }
    }

    /// A helper that was left behind is gone after all.
    pub(super) fn left_helper_ended(&mut self, pid: i32) -> bool {
        let left = &mut self.helper_process.left;
        let Some(at) = left.iter().position(|c| c.pid == pid) else {
            return false;
        };
        left.swap_remove(at);
        if left.is_empty() {
            self.trouble(Trouble::HelperLeft, None);
        }
        true
    }

    /// Asks how full the data disk is, when there is nothing else to ask.
    fn look(&mut self, now: u64) {
        let waited = now.saturating_sub(self.helper_process.looked_ns);
        if !self.data_opened || !self.helper.is_idle() || waited < LOOK_NS {
            return;
        }
        self.helper_process.looked_ns = now;
        let folder = self.setup.data_folder();
        let data = folder.display().to_string();
        if self.setup.is_appliance() && !self.mounted.contains(&data) {
            // In memory, where the answer comes out of the kernel's counters.
            if let Ok(space) = File::open(&folder).and_then(|f| sys::space::of_fd(&f)) {
                self.judge_data(space.available, "");
            }
            return;
        }
        self.helper
            .ask(Purpose::Look, &Task::Look { path: &data }, None);
    }

    pub(super) fn read_helper_output(&mut self) {
        use std::io::Read;
        let mut buf = [0u8; 2048];
        let Some(output) = &mut self.helper_process.output else {
            return;
        };
        match output.read(&mut buf) {
            Ok(0) => self.helper_process.output = None,
            Ok(bytes) => {
                let now = sys::clock::monotonic_ns();
                for line in buf
                    .get(..bytes)
                    .unwrap_or_default()
                    .split(|b| *b == b'\n')
                    .filter(|l| !l.is_empty())
                {
                    self.journal
                        .state
                        .push_line(now, BY_HELPER, Level::Info, line);
                }
            }
            Err(_) => {}
        }
    }

    pub(super) fn read_helper(&mut self, hung_up: bool) {
        while let Some(answer) = self.helper.take() {
            self.helper_process.looked_ns = sys::clock::monotonic_ns();
            self.trouble(Trouble::Helper, None);
            self.take_answer(answer);
            self.helper.pump();
        }
        if hung_up && let Some(socket) = self.helper.socket() {
            // The next one brings its own.
            let _ = self.poller.remove(socket);
        }
    }

    pub(super) fn take_answer(&mut self, answer: Answer) {
        if let Purpose::Upgrade(ask) = answer.purpose {
            return self.take_upgrade_answer(ask, answer);
        }
        let now = sys::clock::monotonic_ns();
        match (answer.purpose, answer.result) {
            (Purpose::Verify, Ok(bytes)) => {
                self.verified = true;
                self.journal
                    .say(Level::Info, format_args!("package verified: bytes={bytes}"));
                self.scrub_next = Some(0);
            }
            (Purpose::Verify, Err(e)) => {
                self.verified = true;
                self.degrade(format!("package: {e}"));
                // The tensors have hashes of their own, and a list that is checked by itself.
                self.scrub_next = Some(0);
            }
            (Purpose::Load(i), result) => {
                let fallback = self
                    .images
                    .get_mut(i)
                    .and_then(|image| image.fallback.take());
                let image = answer.descriptors.into_iter().next();
                let lost = result.is_err();
                let held = match (result, image, fallback) {
                    (Ok(_), Some(fd), _) => Held::Yes(fd),
                    (Ok(_), None, _) => Held::No("no image came back".to_owned()),
                    (Err(e), _, Some(own)) => {
                        self.degrade(format!("package: {e}; the initramfs's own runs"));
                        Held::Yes(own)
                    }
                    (Err(e), _, None) => Held::No(e),
                };
                if let Some(image) = self.images.get_mut(i) {
                    if lost {
                        image.digest.clear();
                    }
                    image.held = held;
                }
                self.list_machine();
                for unit in 0..self.units.len() {
                    if self.units.get(unit).is_some_and(|u| u.image == i) {
                        self.unblock(unit);
                    }
                }
            }
            (Purpose::Cell(i), result) => {
                let result = result.map(|_| (answer.descriptors, answer.detail));
                self.take_cell(i, result);
            }
            (Purpose::Scrub(first), Ok(0)) if self.blocks_damaged > 0 => {
                let damaged = self.blocks_damaged;
                self.journal.say(
                    Level::Error,
                    format_args!("tensors looked at: blocks={first} damaged={damaged}"),
                );
            }
            (Purpose::Scrub(first), Ok(0)) => {
                self.journal.say(
                    Level::Info,
                    format_args!("tensors verified: blocks={first}"),
                );
                self.tensors_verified = true;
                self.unblock_all();
            }
            (Purpose::Scrub(first), Ok(held)) => self.scrub_next = Some(first + held),
            (Purpose::Scrub(first), Err(e)) => {
                self.degrade(format!("tensors: {e}"));
                self.blocks_damaged += 1;
                if answer.figure > 0 && self.blocks_damaged < DAMAGED_MAX {
                    self.scrub_next = Some(first + answer.figure);
                }
            }
            (Purpose::Leases(slot, generation, id, epoch), result) => {
                self.answer_plan(slot, generation, id, epoch, &result);
            }
            (Purpose::Clock, result) => self.clock_set(&result),
            (Purpose::Tune(_), Ok(_)) => {}
            (Purpose::Tune(service), Err(e)) => {
                self.journal
                    .say(Level::Debug, format_args!("control not set: {e}"));
                self.tune_lost(service);
            }
            (Purpose::Switches, result) => {
                let switched = crate::harden::Switched::of_answer(result, &answer.detail);
                self.take_switches(switched);
                self.watch_completed_leaves();
            }
            // Every beat looks again, whatever the answer.
            (Purpose::Randomness, _) => self.keep_token(),
            (Purpose::Pstore, result) => self.take_stored(&result, &answer.detail),
            (Purpose::StorageReady, result) => {
                if let Err(e) = result {
                    self.degrade(e);
                }
                self.storage_ready = true;
                self.phase("storage", self.handoff_ns, now, String::new());
                self.unblock_all();
            }
            (Purpose::OpenData, Ok(_)) => {
                if let Some(folder) = answer.descriptors.into_iter().next() {
                    self.work.take_data(folder);
                    self.data_opened = true;
                }
            }
            (Purpose::OpenRoot(i), Ok(_)) => {
                let folder = answer.descriptors.into_iter().next();
                crate::boot::take_root(self, i, folder);
                self.list_machine();
            }
            (Purpose::OpenData | Purpose::OpenRoot(_), Err(e)) => self.degrade(e),
            (Purpose::Look, Ok(available)) => self.judge_data(available, &answer.detail),
            // An old mount that went away; nothing depends on it.
            (Purpose::Look, Err(_)) => {}
            (Purpose::GrowPartition | Purpose::GrowData, Ok(0)) => {}
            (Purpose::GrowPartition, Ok(_)) => {}
            (Purpose::GrowData, Ok(bytes)) => {
                let before: u64 = answer.detail.parse().unwrap_or(0);
                self.journal.say(
                    Level::Info,
                    format_args!("data disk grown: bytes={bytes} before={before}"),
                );
                self.journal.event(
                    Weight::Important,
                    ["data_grown", "machine", ""],
                    format_args!("\"bytes\":{bytes},\"bytes_before\":{before}"),
                );
            }
            // What is there works as it did; only the new room is not used.
            (Purpose::GrowPartition | Purpose::GrowData, Err(e)) => {
                self.journal
                    .say(Level::Warn, format_args!("data disk not grown: {e}"));
                self.journal.event(
                    Weight::Important,
                    ["data_not_grown", "machine", ""],
                    format_args!("\"reason\":\"{}\"", Json(&e)),
                );
            }
            (Purpose::MountData, Err(e)) => {
                self.degrade(format!("data disk: {e}; files of this boot end with it"));
            }
            (Purpose::MountData | Purpose::MountRoot(_), Ok(_)) => {}
            (Purpose::MountRoot(_) | Purpose::Provision, Err(e)) => self.degrade(e),
            (Purpose::Provision, Ok(_)) => {}
            // Answered above.
            (Purpose::Upgrade(_), _) => {}
            (Purpose::Unmount, result) => {
                if let Err(e) = result {
                    self.journal.tell_terminal(&e);
                }
                if self.helper.is_idle() {
                    self.ending = Ending::Over;
                }
            }
        }
    }

    /// Lets the data disk's file system grow once nothing waits for the helper: a large disk takes its
    /// time, and services need not wait for it.
    pub(super) fn grow_data(&mut self) {
        if !self.storage_ready || !self.helper.is_idle() {
            return;
        }
        let Some(device) = self.data_device.take() else {
            return;
        };
        self.journal.state.clear_texts(Text::DataDevice);
        let target = self.setup.data_folder().display().to_string();
        let grow = Task::GrowFileSystem {
            device: &device,
            target: &target,
        };
        self.helper.ask(Purpose::GrowData, &grow, None);
    }

    /// Once the services are up, or have had their time, asks the helper for what nobody waits for: the kernel's
    /// other switches, the package's hashes. What runs was hashed by itself before it ran.
    pub(super) fn settle(&mut self, now: u64) {
        let late = now.saturating_sub(self.handoff_ns) > SETTLE_NS;
        // A PID 1 that goes on has no package before it has caught up.
        if self.settled || self.behind.is_some() || !(self.ready_said || late) {
            return;
        }
        self.settled = true;
        if self.setup.is_appliance() && !self.switched {
            self.helper.ask(Purpose::Switches, &Task::Switches, None);
        }
        if self.manifest.verify == Verify::Lazy && !self.verified {
            self.ask_verification();
        }
    }

    pub(super) fn ask_verification(&mut self) {
        if let Some(handle) = self
            .found
            .as_ref()
            .filter(|f| !f.plain)
            .and_then(|f| crate::package::handle(f).ok())
        {
            self.helper
                .ask(Purpose::Verify, &Task::VerifyPackage, Some(handle));
        }
    }

    /// Asks for the next piece of the scrub once every service is up.
    pub(super) fn scrub(&mut self) {
        let due = self.ready_said || self.manifest.verify == Verify::Eager;
        if !due || self.behind.is_some() || !self.helper.is_idle() {
            return;
        }
        let Some(first) = self.scrub_next.take() else {
            return;
        };
        self.scrub_from = Some(first);
        let Some(handle) = self
            .found
            .as_ref()
            .and_then(|f| crate::package::handle(f).ok())
        else {
            return;
        };
        self.helper.ask(
            Purpose::Scrub(first),
            &Task::Scrub {
                first,
                count: SCRUB_BLOCKS,
            },
            Some(handle),
        );
    }

    pub(super) fn queue_boot_tasks(&mut self) {
        crate::boot::queue_storage(self);
        if self.manifest.verify == Verify::Eager {
            self.ask_verification();
        }
        self.queue_images();
    }

    /// Asks for the executables that are not in hand.
    pub(super) fn queue_images(&mut self) {
        for i in 0..self.images.len() {
            let Some(image) = self
                .images
                .get(i)
                .filter(|image| matches!(image.held, Held::Loading))
            else {
                continue;
            };
            let name = image.name.clone();
            match self
                .found
                .as_ref()
                .and_then(|f| Some((f.image(&name)?, crate::package::handle(f).ok()?)))
            {
                Some((blake3, handle)) => {
                    let name = &name;
                    self.helper
                        .ask(Purpose::Load(i), &Task::Load { name, blake3 }, Some(handle));
                }
                None => {
                    if let Some(image) = self.images.get_mut(i) {
                        image.held = Held::No(format!("image {name}: in no package"));
                    }
                }
            }
        }
    }
}
