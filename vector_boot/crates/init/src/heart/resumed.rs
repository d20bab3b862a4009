//! The heart of a PID 1 that goes on: first the services are watched again, then everything else is caught up on.
//!
//! Start with [`Heart::go_on`]. What takes longer is a step of a later beat, so that no step makes one late.

use super::{Ending, Heart, Held, Watch};
use crate::handover::{Cause, Holdings, Passage, Running};
use crate::helper_link::Purpose;
use crate::resume::Missed;
use crate::state::records::Text;
use crate::state::{Fixed, Json, Level, Weight};
use crate::supervisor::{Event, Phase};
use crate::why;
use rts::manifest::Verify;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use sys::events::Interest;
use sys::spawn::Child;
use wire::control::Power;
use wire::helper::Task;
use wire::why::Reason;

/// Bytes of the cause that an event has room for.
const CAUSE_CHARS_MAX: usize = 160;

/// What is still to be caught up on, one step a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// The sensors.
    Sensors,
    /// The package: header, manifest, the model's index.
    Package,
    /// What the boot had asked of the helper.
    Tasks,
    /// Descriptors that came along and are nobody's.
    Strays,
}

/// A PID 1 that goes on, until it has begun.
pub struct Resumed {
    left_ns: u64,
    cause: String,
    helper: Option<Child>,
    missed: heapless::Vec<(usize, Missed), { crate::supervisor::UNITS_MAX }>,
}

impl Heart {
    /// Takes up what the state says of the machine.
    pub(crate) fn take_up(
        &mut self,
        left_ns: u64,
        cause: String,
        helper: Option<Child>,
        missed: &[(usize, Missed)],
    ) {
        let state = &self.journal.state;
        self.beat.go_on(&state.beat());
        let texts = |what| {
            state
                .texts(what)
                .map(str::to_owned)
                .collect::<Vec<String>>()
        };
        self.mounted = texts(Text::Mounted);
        self.data_device = texts(Text::DataDevice).pop();
        if let Some(row) = state.machine() {
            self.ready_said = row.ready_said;
            self.storage_ready = row.storage_ready;
            self.data_writable = row.data_writable;
            self.verified = row.verified;
            self.switched = row.switched;
            self.tensors_verified = row.tensors_verified;
            self.blocks_damaged = row.blocks_damaged;
            self.scrub_next = row.scrub_next;
            self.power = match row.power {
                1 => Power::Reboot,
                3 => Power::Halt,
                _ => Power::Poweroff,
            };
            self.ending = match row.ending {
                0 => Ending::No,
                1 => Ending::Draining(sys::clock::monotonic_ns() + super::ending::DRAIN_NS),
                4 => Ending::Over,
                // The policy asks for the unmounting again.
                _ => Ending::Stopping,
            };
            if row.clock_set_ns > 0 {
                self.clock.was_set(row.clock_set_ns);
            }
        }
        self.resumed = Some(Resumed {
            left_ns,
            cause,
            helper,
            missed: missed.iter().copied().collect(),
        });
    }

    /// The first turn: every service is watched again, then what happened meanwhile is acted on.
    pub(super) fn begin_again(&mut self, resumed: Resumed) {
        self.lists = true;
        self.take_own_image();
        self.watch_notify_sockets();
        for (i, unit) in self.units.iter().enumerate() {
            if let Some(output) = &unit.output {
                // Without a place in the poller its output is lost, the service is not.
                let _ = self
                    .poller
                    .add(output.as_fd(), Watch::Output(i).token(), Interest::Read);
            }
        }
        for i in 0..self.units.len() {
            let row = self.journal.state.unit(i);
            let prepared = row.is_some_and(|row| row.prepared);
            if prepared && let Err(e) = crate::boot::equip_unit(self, i) {
                self.degrade(e);
            }
        }
        let console = self.units.iter().position(|u| u.name() == "console");
        self.journal.console_is_up = console.is_some_and(|i| self.supervisor.phase(i) == Phase::Up);
        for (i, missed) in &resumed.missed {
            self.settle_missed(*i, *missed);
        }
        self.end_helper_of_before(resumed.helper);
        // Whoever ended since the crash waits to be reaped; its signal may have been taken before.
        self.reap();
        let watched_ns = sys::clock::monotonic_ns();
        let crashes = self.journal.state.crashes();
        self.journal
            .state
            .set_crashes(&crate::state::records::CrashRow {
                watched_ns,
                ..crashes
            });
        // What the beginning touched is given back once all is caught up on.
        self.stir();
        self.find_cut_off();
        self.come_by_passage(&resumed.cause);
        self.say_resumed(resumed.left_ns, &resumed.cause, watched_ns);
        self.behind = Some(Behind::Sensors);
    }

    /// A service that is not what its row says.
    fn settle_missed(&mut self, i: usize, missed: Missed) {
        let now = sys::clock::monotonic_ns();
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        let by = u8::try_from(i).unwrap_or(u8::MAX);
        unit.read_last_words(by, now, &mut self.journal);
        // Whatever is left of it, or was just being started, would be a second instance.
        unit.kill();
        unit.child = None;
        self.list_process(i);
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        unit.last_exit = Fixed::of(format_args!("gone while PID 1 began again"));
        let name = unit.service.name.as_str();
        match missed {
            Missed::Unanswered => self.decide(Event::StartFailed(i)),
            Missed::Gone => {
                self.journal.event(
                    Weight::Important,
                    ["service_exited", name, ""],
                    format_args!("\"cause\":\"gone while PID 1 began again\""),
                );
                self.decide(Event::Exited {
                    unit: i,
                    success: false,
                });
            }
        }
    }

    fn say_resumed(&mut self, left_ns: u64, cause: &str, watched_ns: u64) {
        let us = watched_ns.saturating_sub(left_ns) / 1000;
        let (word, event, reason) = match self.held.cause {
            Cause::Upgrade => ("upgraded", "init_upgraded", Reason::Upgrade),
            Cause::Rollback => ("rolled back", "init_rolled_back", Reason::Rollback),
            _ if cause.starts_with("signal") => ("resumed", "init_resumed", Reason::InitCrash),
            _ => ("resumed", "init_resumed", Reason::InitPanic),
        };
        let crashes = self.journal.state.crashes().total;
        let cause: String = cause.chars().take(CAUSE_CHARS_MAX).collect();
        let mut facts = why::Facts::new();
        facts.text("cause", &cause);
        facts.count("us", us);
        facts.count("crashes", crashes.into());
        why::note(
            &mut self.journal.state,
            watched_ns,
            reason,
            why::INIT,
            facts.as_str(),
        );
        self.journal.say(
            Level::Warn,
            format_args!("{word}: cause=\"{cause}\" us={us} crashes={crashes}"),
        );
        self.journal.event(
            Weight::Important,
            [event, "init", ""],
            format_args!(
                "\"reason\":\"{}\",\"cause\":\"{}\",\"us\":{us},\"crashes\":{crashes}",
                reason.as_str(),
                Json(&cause)
            ),
        );
        for row in self.journal.state.phases() {
            self.phases.push(super::PhaseRecord {
                name: Fixed::of(format_args!("{}", row.name)),
                begin_ns: row.begin_ns,
                end_ns: row.end_ns,
                note: row.note.to_owned(),
            });
        }
        let note = format!("{cause}, crash {crashes}");
        self.phase(word, left_ns, watched_ns, note);
    }

    /// Becomes another program while every service lives on; it finds itself and the upgrade in the record,
    /// and everything else in the state memfd. Ask it first which record and state it takes
    /// ([`crate::succession::Question`]). Returns only if it cannot: then nothing has changed.
    pub(crate) fn become_program(
        &mut self,
        program: OwnedFd,
        running: Running,
        passage: Passage,
    ) -> io::Error {
        let mut next = match self.held.copy(Cause::Upgrade) {
            Ok(next) => next,
            Err(e) => return e,
        };
        next.initramfs.vector_boot = Some(program);
        next.running = running;
        next.passage = Some(passage);
        self.leave_to(next)
    }

    /// Gives way. Returns only if it cannot.
    pub(super) fn leave_to(&mut self, mut next: Holdings) -> io::Error {
        next.left_ns = sys::clock::monotonic_ns();
        self.list_all();
        let error = next.give(Some(&self.journal.state));
        self.arm();
        error
    }

    /// One step of what is still to be caught up on.
    pub(super) fn catch_up(&mut self) {
        let Some(behind) = self.behind else {
            return;
        };
        if !matches!(self.ending, Ending::No) {
            // The helper is for the end alone, and the folder that it would open could not be unmounted.
            return;
        }
        self.behind = match behind {
            Behind::Sensors => {
                self.take_up_sensors();
                Some(Behind::Package)
            }
            Behind::Package => {
                crate::boot::reopen_package(self);
                self.take_model();
                Some(Behind::Tasks)
            }
            Behind::Tasks => {
                self.take_up_tasks();
                Some(Behind::Strays)
            }
            Behind::Strays => {
                sys::handover::close_strays();
                None
            }
        };
    }

    fn take_up_sensors(&mut self) {
        let own = self.sensors_own.as_ref().map(|fd| fd.try_clone());
        let Some(Ok(page)) = own else {
            return;
        };
        match (self.setup.work)(Some(page.into())) {
            Ok((mut work, _)) => {
                for unit in &self.units {
                    for (_, page) in unit.passed.iter().filter(|(name, _)| name == "stats") {
                        work.take_stats(unit.name(), page.as_fd());
                    }
                }
                work.take_model(self.model.bytes, u64::from(self.model.tensors));
                self.work = work;
            }
            Err(e) => self.degrade(format!("sensor page: {e}")),
        }
    }

    /// Asks again for what the boot had asked of the helper and has not got.
    fn take_up_tasks(&mut self) {
        if !self.storage_ready {
            crate::boot::queue_storage(self);
        } else {
            let data = self.setup.data_folder().display().to_string();
            self.helper
                .ask(Purpose::OpenData, &Task::Open { path: &data }, None);
        }
        if self.tensors_verified {
            self.scrub_next = None;
        } else if !self.verified && self.manifest.verify == Verify::Eager {
            self.ask_verification();
        }
        self.queue_images();
        self.unblock_all();
        let loading = self.images.iter().any(|i| matches!(i.held, Held::Loading));
        if loading {
            self.journal
                .say(Level::Info, format_args!("images are asked for again"));
        }
    }
}
