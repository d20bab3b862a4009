//! Services under the heart: what the policy decides is done here, and what they do is told to it.

use super::{Heart, Held, VECTOR_BOOT, Watch};
use crate::notify::Complaint;
use crate::post_mortem::{self, Traces};
use crate::state::{Fixed, Json, Level, Weight};
use crate::supervisor::{Action, Actions, Event, Phase};
use crate::why::{self, Facts};
use rts::manifest::{Pass, Verify};
use std::os::fd::AsFd;
use sys::events::Interest;
use sys::process::{Exit, Reaped};
use sys::spawn::Child;
use wire::control::Power;
use wire::why::Reason;

/// Dead children that are taken in one turn, so that ten thousand make no beat late.
const REAP_A_TURN: usize = 512;
/// Services, the helper and those that were left behind, and who is asked about a program.
const OWN_CHILDREN_MAX: usize = rts::manifest::SERVICES_MAX + 8;

impl Heart {
    /// Asks the policy and does what it says.
    pub(crate) fn decide(&mut self, event: Event) {
        let mut next = Some(event);
        let mut later: heapless::Deque<Event, 64> = heapless::Deque::new();
        while let Some(event) = next {
            let mut actions = Actions::new();
            self.supervisor
                .step(sys::clock::monotonic_ns(), event, &mut actions);
            for action in &actions {
                if let Some(follow) = self.perform(*action) {
                    // At most one follow-up a start, and fewer services than places.
                    let _ = later.push_back(follow);
                }
            }
            self.write_rows_of(event, &actions);
            next = later.pop_front();
        }
    }

    pub(super) fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Start(i) => Some(self.start(i)),
            Action::Terminate(i) => {
                const SIGTERM: i32 = 15;
                if let Some(unit) = self.units.get(i) {
                    // One that is gone already will be reaped.
                    let _ = unit.signal(SIGTERM);
                }
                None
            }
            Action::Abort(i, cause) => {
                const SIGABRT: i32 = 6;
                if let Some(unit) = self.units.get_mut(i) {
                    unit.verdict = Some(cause);
                    self.journal.say(
                        Level::Warn,
                        format_args!(
                            "service aborted: name={} cause=\"{}\"",
                            unit.name(),
                            cause.as_str()
                        ),
                    );
                    // As above.
                    let _ = unit.signal(SIGABRT);
                }
                None
            }
            Action::Kill(i, cause) => {
                if let Some(unit) = self.units.get_mut(i) {
                    unit.verdict = Some(cause);
                    self.journal.say(
                        Level::Warn,
                        format_args!(
                            "service killed: name={} cause=\"{}\"",
                            unit.name(),
                            cause.as_str()
                        ),
                    );
                    unit.kill();
                }
                None
            }
            Action::Changed { unit, from, to } => {
                self.note_change(unit, from, to);
                None
            }
            Action::AllStopped => {
                self.all_stopped();
                None
            }
        }
    }

    pub(super) fn start(&mut self, i: usize) -> Event {
        // An image that ends before the next row is written leaves one that says that there may be a process.
        self.write_row(i);
        let now = sys::clock::monotonic_ns();
        let Some(unit) = self.units.get_mut(i) else {
            return Event::StartFailed(i);
        };
        // A user's program is exec'd by the jail, which is one of our roles, unless its manifest does without.
        let added = matches!(unit.service.image, rts::manifest::Image::Added(_));
        let runs = if added && unit.service.is_confined() {
            VECTOR_BOOT
        } else {
            unit.image
        };
        let result = match self.images.get(runs).map(|image| &image.held) {
            Some(Held::Yes(image)) => unit.start(
                image.as_fd(),
                self.null.as_fd(),
                now,
                &mut self.journal.state,
                &mut self.releaser,
            ),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        match result {
            Ok(()) => {
                if let Some(output) = &unit.output {
                    // Without a place in the poller its output is lost, the service is not.
                    let _ =
                        self.poller
                            .add(output.as_fd(), Watch::Output(i).token(), Interest::Read);
                }
                self.list_process(i);
                Event::Started(i)
            }
            Err(e) => {
                unit.last_exit = Fixed::of(format_args!("start: {e}"));
                let mut facts = Facts::new();
                facts.text("cause", unit.last_exit.as_str());
                let (state, name) = (&mut self.journal.state, unit.service.name.as_str());
                why::note(state, now, Reason::NotStarted, name, facts.as_str());
                self.journal.say(
                    Level::Error,
                    format_args!("service not started: name={} cause=\"{e}\"", unit.name()),
                );
                Event::StartFailed(i)
            }
        }
    }

    pub(super) fn note_change(&mut self, i: usize, from: Phase, to: Phase) {
        self.stir();
        let now = sys::clock::monotonic_ns();
        let restarts = self.supervisor.restarts(i);
        self.upgrade_sees(i, from, to);
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        let pid = unit.child.as_ref().map_or(0, |c| c.pid.unsigned_abs());
        let name = unit.service.name.as_str();
        if name == "console" {
            // One that was stopped shows nothing either: what follows, the last checkpoint among it, is told here.
            self.journal.console_is_up = to == Phase::Up;
        }
        match to {
            Phase::Up => {
                unit.ready_ns = now.saturating_sub(unit.started_ns);
                let ms = unit.ready_ns / 1_000_000;
                self.journal.say(
                    Level::Info,
                    format_args!("service up: name={name} pid={pid} ready_ms={ms}"),
                );
                self.journal.event(
                    Weight::Routine,
                    ["service_ready", name, ""],
                    format_args!(
                        "\"pid\":{pid},\"ready_us\":{},\"restarts\":{restarts}",
                        unit.ready_ns / 1000
                    ),
                );
                let label = Fixed::<48>::of(format_args!("ready:{name}"));
                if !self.ready_said
                    && self
                        .phases
                        .iter()
                        .all(|p| p.name.as_str() != label.as_str())
                {
                    let begin = unit.started_ns;
                    self.phase(label.as_str(), begin, now, String::new());
                }
            }
            Phase::Starting => {}
            Phase::Backoff | Phase::Failed | Phase::Waiting
                if matches!(from, Phase::Starting | Phase::Up)
                    || (from == Phase::Stopping && to != Phase::Waiting) =>
            {
                let (word, level) = match to {
                    Phase::Failed => ("service failed", Level::Error),
                    _ => ("service died", Level::Warn),
                };
                self.journal.say(
                    level,
                    format_args!(
                        "{word}: name={name} cause=\"{}\" restarts={restarts}",
                        unit.last_exit
                    ),
                );
                let kind = if to == Phase::Failed {
                    "service_failed"
                } else {
                    "service_restarted"
                };
                self.journal.event(
                    Weight::Important,
                    [kind, name, ""],
                    format_args!(
                        "\"cause\":\"{}\",\"restarts\":{restarts}",
                        Json(unit.last_exit.as_str())
                    ),
                );
            }
            Phase::Stopped => {
                // Nobody is to come back for it, but the one that an upgrade puts in its place.
                if !self.upgrades.is_running() {
                    unit.store
                        .clear(&mut self.journal.state, &mut self.releaser);
                }
                self.journal.say(
                    Level::Info,
                    format_args!("service stopped: name={name} cause=\"{}\"", unit.last_exit),
                );
                self.journal.event(
                    Weight::Important,
                    ["service_stopped", name, ""],
                    format_args!("\"cause\":\"{}\"", Json(unit.last_exit.as_str())),
                );
            }
            Phase::Waiting | Phase::Backoff | Phase::Failed | Phase::Stopping => {}
        }
    }

    /// Lets every service start that waits for nothing outside of the others any more.
    pub(super) fn unblock_all(&mut self) {
        for i in 0..self.units.len() {
            self.unblock(i);
        }
    }

    /// Lets a service start once everything that it needs from outside the other services is there.
    pub(crate) fn unblock(&mut self, i: usize) {
        let Some(unit) = self.units.get(i) else {
            return;
        };
        if unit.spawn.is_some() || unit.held_back {
            return;
        }
        let image = match self.images.get(unit.image).map(|image| &image.held) {
            Some(Held::Yes(_)) => true,
            Some(Held::Loading) | None => false,
            Some(Held::No(why)) => {
                let reason = format!("service {}: {why}", unit.name());
                self.degrade(reason);
                return;
            }
        };
        let storage = self.storage_ready || !crate::boot::needs_storage(&unit.service);
        // A manifest may want every tensor checked before anything runs but what tells a person.
        let trusted = self.manifest.verify == Verify::Lazy
            || self.tensors_verified
            || unit
                .service
                .pass
                .iter()
                .any(|p| matches!(p, Pass::Tty | Pass::Machine));
        // What the cell shows must be there before it is made; it is made while the image loads.
        let waits = self.waits_for_token(i);
        if !storage || !self.cell_is_there(i) || !image || !trusted || waits {
            return;
        }
        match crate::boot::prepare_unit(self, i) {
            Ok(()) => {
                self.list_unit(i);
                self.decide(Event::Unblocked(i));
            }
            Err(e) => {
                self.degrade(e);
                self.upgrade_lacks(i);
            }
        }
    }

    pub(super) fn read_output(&mut self, i: usize) {
        let now = sys::clock::monotonic_ns();
        let by = u8::try_from(i).unwrap_or(u8::MAX);
        if let Some(unit) = self.units.get_mut(i) {
            // At its end the descriptor is closed, which takes it out of the poller.
            let goes_on = unit.read_output(by, now, &mut self.journal);
            if unit.output_is_over()
                && let Some(output) = &unit.output
            {
                // Out of the poller until the next beat; staying in it only costs time.
                let _ = self.poller.remove(output.as_fd());
            }
            if !goes_on {
                self.list_process(i);
            }
        }
    }

    /// Looks again at the output and the messages that had more than their share.
    pub(super) fn renew_turns(&mut self) {
        for (i, unit) in self.units.iter_mut().enumerate() {
            let [output, notes] = unit.renew_turns();
            if output && let Some(fd) = unit.output.as_ref().map(AsFd::as_fd) {
                // A new process's output is in the poller already.
                let _ = self
                    .poller
                    .add(fd, Watch::Output(i).token(), Interest::Read);
            }
            if notes && let Some(fd) = unit.notify() {
                let _ = self
                    .poller
                    .add(fd, Watch::Notify(i).token(), Interest::Read);
            }
        }
    }

    pub(super) fn read_notes(&mut self, i: usize) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        let notes = unit.read_notes(i, &mut self.journal.state, &mut self.releaser);
        if unit.notes_are_over()
            && let Some(socket) = unit.notify()
        {
            // As with output.
            let _ = self.poller.remove(socket);
        }
        self.say_refused(i, notes.complaint);
        // In the order in which a life goes: its limits, its beginning, its course, its end.
        let limits = [
            notes
                .extend_ns
                .map(|by_ns| Event::Extend { unit: i, by_ns }),
            notes
                .watchdog_ns
                .map(|limit_ns| Event::WatchdogLimit { unit: i, limit_ns }),
        ];
        let course = [
            (notes.ready, Event::Ready(i)),
            (notes.ready || notes.alive, Event::Alive(i)),
            (notes.hangs, Event::Hangs(i)),
            (notes.ending, Event::Ending(i)),
        ];
        let course = course.into_iter().filter(|(said, _)| *said);
        for event in limits.into_iter().flatten().chain(course.map(|(_, e)| e)) {
            self.decide(event);
        }
    }

    /// Says what was wrong with a message; how many more there were is said when the process has ended.
    fn say_refused(&mut self, i: usize, complaint: Option<Complaint>) {
        if let (Some(unit), Some(complaint)) = (self.units.get(i), complaint) {
            self.journal.say(
                Level::Warn,
                format_args!("notify/{}: refused: {complaint}", unit.name()),
            );
        }
    }

    /// Takes what a process left in its notify socket, before the next one is started.
    fn take_last_notes(&mut self, i: usize) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        let complaint = unit.read_last_notes(i, &mut self.journal.state, &mut self.releaser);
        self.say_refused(i, complaint);
        if let Some(unit) = self.units.get(i).filter(|u| u.refused_notes > 1) {
            self.journal.say(
                Level::Warn,
                format_args!(
                    "notify/{}: refused: {} messages of the process that ended",
                    unit.name(),
                    unit.refused_notes
                ),
            );
        }
    }

    /// True if more dead children wait.
    #[inline(never)]
    pub(super) fn take_signals(&mut self) -> bool {
        const SIGINT: i32 = 2;
        const SIGUSR1: i32 = 10;
        const SIGUSR2: i32 = 12;
        const SIGTERM: i32 = 15;
        // Bounded: a standard signal is pending once.
        for _ in 0..16 {
            let Some((signal, sender)) = self.signals.take() else {
                break;
            };
            let appliance = self.setup.is_appliance();
            let power = match signal {
                SIGTERM | SIGINT if appliance => Power::Reboot,
                SIGTERM | SIGINT | SIGUSR2 => Power::Poweroff,
                SIGUSR1 => Power::Halt,
                _ => continue,
            };
            // The kernel itself sends one for these keys alone (reboot(2), LINUX_REBOOT_CMD_CAD_OFF).
            if appliance && signal == SIGINT && sender == 0 {
                self.begin_shutdown(power, Reason::CtrlAltDel, "user:keyboard");
            } else {
                self.begin_shutdown(power, Reason::SignalAsked, "user:signal");
            }
        }
        self.reap()
    }

    /// Services first, each with its post-mortem; then whoever else died.
    #[inline(never)]
    pub(super) fn reap(&mut self) -> bool {
        let children = self.units.iter();
        let dead = sys::process::ended(
            children.map(|u| u.child.as_ref().map(|child| child.pidfd.as_fd())),
        );
        for i in (0..self.units.len()).filter(|i| dead >> i & 1 == 1) {
            self.service_ended(i, None);
        }
        let mut own = self.own_children();
        for _ in 0..REAP_A_TURN {
            match sys::process::reap() {
                Ok(Some(reaped)) if own.contains(&reaped.pid) => {
                    self.child_ended(&reaped);
                    // Another may have been started for it.
                    own = self.own_children();
                }
                Ok(Some(_)) => self.beat.orphans += 1,
                Ok(None) | Err(_) => return false,
            }
        }
        true
    }

    /// Whose end somebody waits for. Gathered once a turn: an orphan costs no more than a look at these numbers.
    #[inline(never)]
    fn own_children(&self) -> heapless::Vec<i32, OWN_CHILDREN_MAX> {
        let helpers = self
            .helper_process
            .child
            .iter()
            .chain(&self.helper_process.left);
        let services = self.units.iter().filter_map(|u| u.child.as_ref());
        let asked = self.upgrades.asked();
        // There is a place for each.
        services
            .chain(helpers)
            .chain(asked)
            .map(|child| child.pid)
            .take(OWN_CHILDREN_MAX)
            .collect()
    }

    pub(super) fn child_ended(&mut self, reaped: &Reaped) {
        self.stir();
        let of_child = |child: &Option<Child>| child.as_ref().is_some_and(|c| c.pid == reaped.pid);
        if let Some(i) = self.units.iter().position(|u| of_child(&u.child)) {
            // It died after the look at the services; what it used is not known then.
            self.service_ended(i, Some(reaped));
        } else if of_child(&self.helper_process.child) {
            self.helper_ended(reaped.exit, sys::clock::monotonic_ns());
        } else if !self.left_helper_ended(reaped.pid)
            && !self.take_word_of_program(reaped.pid, reaped.exit)
        {
            self.beat.orphans += 1;
        }
    }

    /// A service's process is dead: the post-mortem while it is still there, unless it was `reaped` already; then
    /// it is buried, then the policy decides.
    fn service_ended(&mut self, i: usize, reaped: Option<&Reaped>) {
        self.stir();
        let now = sys::clock::monotonic_ns();
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        let looked = match (reaped, &unit.child) {
            (Some(reaped), _) => Some(*reaped),
            (None, Some(child)) => sys::process::look_at(child.pidfd.as_fd()).ok().flatten(),
            (None, None) => None,
        };
        let Some(ended) = looked else {
            return;
        };
        self.take_last_notes(i);
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        // What it said last belongs to the post-mortem: read it before the restart.
        let by = u8::try_from(i).unwrap_or(u8::MAX);
        unit.read_last_words(by, now, &mut self.journal);
        let asked = self.supervisor.phase(i) == Phase::Stopping && !self.supervisor.leaves(i);
        let success = ended.exit == Exit::Code(0);
        // Reading what the kernel counted costs more than all the rest: only where it may explain something.
        let expected = success || (asked && unit.verdict.is_none());
        let counts = if expected { None } else { unit.new_counts() };
        let traces = Traces {
            reaped: &ended,
            ran_ns: now.saturating_sub(unit.started_ns),
            verdict: unit.verdict,
            asked,
            counts: counts.as_ref(),
            status: unit.status.as_str(),
            lines: self.journal.state.last_lines(by),
        };
        let (reason, facts) = (post_mortem::reason(&traces), post_mortem::facts(&traces));
        let name = unit.service.name.as_str();
        self.journal.event(
            Weight::Important,
            ["service_exited", name, ""],
            format_args!("\"reason\":\"{}\",{}", reason.as_str(), facts.inside()),
        );
        why::note(&mut self.journal.state, now, reason, name, facts.as_str());
        if reaped.is_none()
            && let Some(child) = &unit.child
        {
            // It is dead: nothing can be in the way.
            let _ = sys::process::bury(child.pidfd.as_fd());
        }
        unit.ended(&ended, reason, now);
        if unit.leaf.is_some() {
            // What it left behind in its leaf would be a second instance of it.
            unit.kill();
        }
        self.list_process(i);
        self.decide(Event::Exited { unit: i, success });
    }
}
