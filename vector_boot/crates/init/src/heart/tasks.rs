//! The heart and its helper: the process, the boot's tasks, the answers, the scrub.

use super::{Ending, Heart, Held, VECTOR_BOOT, Watch};
use crate::helper_link::{Answer, Purpose};
use crate::state::{BY_HELPER, Level};
use rts::manifest::Verify;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use sys::events::Interest;
use sys::spawn::{Child, Descriptors, Spawn};
use wire::helper::Task;

/// Pause between two tries to start the helper.
pub(super) const HELPER_RETRY_NS: u64 = 1_000_000_000;
/// Tensor blocks hashed in one task of the scrub: 4 MiB.
const SCRUB_BLOCKS: u32 = 64;

/// PID 1's helper.
#[derive(Default)]
pub struct HelperProcess {
    pub(super) child: Option<Child>,
    output: Option<File>,
    pub(super) retry_at_ns: u64,
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
        let child = spawn.start(&Descriptors {
            image: image.as_fd(),
            stdio: [self.null.as_fd(), write.as_fd(), write.as_fd()],
            passed: &[theirs.as_fd()],
            cgroup: None,
        })?;
        self.helper_process.child = Some(child);
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

    pub(super) fn retry_helper(&mut self, now: u64) {
        if self.helper_process.child.is_none() && now >= self.helper_process.retry_at_ns {
            self.start_helper();
            // Its predecessors may have left a task that is given up.
            self.read_helper(false);
        }
        if self.helper.is_stuck(now)
            && let Some(child) = &self.helper_process.child
        {
            // Stopped, or waiting for a disk that does not answer: its successor tries again.
            const SIGKILL: i32 = 9;
            let _ = sys::process::signal(child.pidfd.as_fd(), SIGKILL);
        }
        self.helper.pump();
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
            self.take_answer(answer);
        }
        if hung_up && let Some(socket) = self.helper.socket() {
            // The next one brings its own.
            let _ = self.poller.remove(socket);
        }
    }

    pub(super) fn take_answer(&mut self, answer: Answer) {
        let now = sys::clock::monotonic_ns();
        match (answer.purpose, answer.result) {
            (Purpose::Verify, Ok(bytes)) => {
                self.verified = true;
                self.journal
                    .say(Level::Info, format_args!("package verified: bytes={bytes}"));
                self.scrub_next = Some(0);
            }
            (Purpose::Verify, Err(e)) => self.degrade(format!("package: {e}")),
            (Purpose::Load(i), result) => {
                let fallback = self
                    .images
                    .get_mut(i)
                    .and_then(|image| image.fallback.take());
                let held = match (result, answer.descriptor, fallback) {
                    (Ok(_), Some(fd), _) => Held::Yes(fd),
                    (Ok(_), None, _) => Held::No("no image came back".to_owned()),
                    (Err(e), _, Some(own)) => {
                        self.degrade(format!("package: {e}; the initramfs's own runs"));
                        Held::Yes(own)
                    }
                    (Err(e), _, None) => Held::No(e),
                };
                if let Some(image) = self.images.get_mut(i) {
                    image.held = held;
                }
                for unit in 0..self.units.len() {
                    if self.units.get(unit).is_some_and(|u| u.image == i) {
                        self.unblock(unit);
                    }
                }
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
            (Purpose::Scrub(_), Err(e)) => self.degrade(format!("tensors: {e}")),
            (Purpose::Leases(slot, generation, id, epoch), result) => {
                self.answer_plan(slot, generation, id, epoch, &result);
            }
            (Purpose::StorageReady, result) => {
                if let Err(e) = result {
                    self.degrade(e);
                }
                self.storage_ready = true;
                self.phase("storage", self.handoff_ns, now, String::new());
                crate::boot::open_roots(self);
                self.unblock_all();
            }
            (Purpose::MountData, Err(e)) => {
                self.degrade(format!("data disk: {e}; files of this boot end with it"));
            }
            (Purpose::MountData | Purpose::MountRoot(_), Ok(_)) => {}
            (Purpose::MountRoot(_) | Purpose::Provision, Err(e)) => self.degrade(e),
            (Purpose::Provision, Ok(_)) => {}
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

    /// Asks for the next piece of the scrub once every service is up.
    pub(super) fn scrub(&mut self) {
        let due = self.ready_said || self.manifest.verify == Verify::Eager;
        if !due || !self.helper.is_idle() {
            return;
        }
        let Some(first) = self.scrub_next.take() else {
            return;
        };
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
        if let Some(handle) = self
            .found
            .as_ref()
            .filter(|f| !f.plain)
            .and_then(|f| crate::package::handle(f).ok())
        {
            self.helper
                .ask(Purpose::Verify, &Task::VerifyPackage, Some(handle));
        }
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
                .and_then(|f| crate::package::handle(f).ok())
            {
                Some(handle) => {
                    self.helper
                        .ask(Purpose::Load(i), &Task::Load { name: &name }, Some(handle));
                }
                None => {
                    if let Some(image) = self.images.get_mut(i) {
                        image.held = Held::No(format!("image {name}: no package"));
                    }
                }
            }
        }
    }
}
