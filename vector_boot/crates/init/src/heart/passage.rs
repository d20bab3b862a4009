//! An upgrade whose package has another `vector_boot`: PID 1 becomes that first, and the new one replaces the services.
//!
//! Before, the program is hashed, loaded and asked which record it takes, while the loop goes on. After, until
//! everything is of the new package, a crash or a hang of the new program makes it the old one again, which puts
//! the services back. `docs/upgrade.md` is the same in prose. Start with [`Heart::load_init`].

use super::upgrading::{Before, CUT_OFF, Preparing, Release, Stage, Wanted, cut, place_of};
use super::{Heart, Held, VECTOR_BOOT};
use crate::handover::{Cause, Passage, PassageFacts, Past, Running};
use crate::state::Level;
use crate::state::descriptors::Kind;
use crate::succession::Question;
use crate::supervisor::Phase;
use crate::upgrade::{Actions, Failure, Input, Plan, Side, Upgrade};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use sys::mapping::Mapping;
use sys::process::Exit;
use wire::upgrade::Step;
use wire::why::Reason;

/// A program on trial that gives no whole beat for so long hangs: a hundred beats, since an emulated machine that
/// is busy gives some of them late.
const HANG_LIMIT: Duration = Duration::from_secs(10);

impl Heart {
    // --- the way there -------------------------------------------------------------------------

    /// Whether that is another `vector_boot` than the one that runs, and one that is to run.
    pub(super) fn is_other_init(&mut self, digest: &str) -> bool {
        if self.params.get("vb.init") != "auto" || self.held.passage.is_some() {
            return false;
        }
        digest != self.running.digest
    }

    /// Hashes what runs and nobody has hashed: the executables of an ordinary process, and those that stand in for
    /// a package's that do not hold. What is the same by its content is not replaced.
    pub(super) fn learn_digests(&mut self) {
        for image in self.images.iter_mut().filter(|i| i.digest.is_empty()) {
            if let Held::Yes(fd) = &image.held
                && let Ok(bytes) = Mapping::of_whole_fd(fd)
            {
                image.digest = rts::Digest::of(&bytes).to_string();
            }
        }
        if self.running.digest.is_empty()
            && let Some(own) = self.images.get(VECTOR_BOOT)
        {
            self.running.digest.clone_from(&own.digest);
            self.held.running = self.running.clone();
        }
    }

    /// The package has another `vector_boot`: that is loaded alone, the rest is for it to do.
    pub(super) fn load_init(&mut self, blake3: String) {
        let leads_back =
            self.held.package.is_some() && self.found.as_ref().is_some_and(|f| !f.plain);
        if !leads_back {
            let why =
                "vector_boot: not the one that runs, limit where a package runs to come back to";
            return self.refuse_package(Reason::NeedsReboot, why);
        }
        if let Some(preparing) = self.preparing() {
            preparing.step = Step::Loading;
            preparing.init = Some(blake3.clone());
            preparing.wanted = vec![Wanted {
                name: "vector_boot".to_owned(),
                blake3,
                held: None,
            }];
        }
        self.load_from(0);
    }

    /// It is in hand: a program that cannot start here, or knows another record, is not to be PID 1.
    pub(super) fn ask_init(&mut self) {
        let Some(preparing) = self.preparing() else {
            return;
        };
        let image = preparing.wanted.first().and_then(|w| w.held.as_ref());
        let asked = image.map(|image| Question::put(image.as_fd()));
        match asked {
            Some(Ok(asked)) => {
                preparing.step = Step::Becoming;
                preparing.asked = Some(asked);
            }
            Some(Err(e)) => self.refuse_package(Reason::NeedsReboot, &format!("vector_boot: {e}")),
            None => self.refuse_package(Reason::UpgradeNotLoaded, "vector_boot: not in hand"),
        }
    }

    /// A child has ended; whether it was the program that was asked.
    pub(super) fn take_word_of_program(&mut self, pid: i32, exit: Exit) -> bool {
        let Some(preparing) = self.preparing() else {
            return false;
        };
        match preparing.asked.take() {
            Some(asked) if asked.child().pid == pid => {
                match asked.judge(exit) {
                    Ok(()) => self.become_new(),
                    Err(e) => {
                        self.refuse_package(Reason::NeedsReboot, &format!("vector_boot: {e}"));
                    }
                }
                true
            }
            other => {
                preparing.asked = other;
                false
            }
        }
    }

    fn become_new(&mut self) {
        let Stage::Preparing(preparing) = std::mem::take(&mut self.upgrades.stage) else {
            return;
        };
        let Preparing {
            place,
            keep,
            found,
            mut wanted,
            ..
        } = *preparing;
        let program = wanted.pop().and_then(|w| Some((w.held?, w.blake3)));
        let (Some(found), Some((program, digest))) = (found, program) else {
            return self.refuse_package(Reason::UpgradeNotLoaded, "vector_boot: not in hand");
        };
        let running = Running {
            digest,
            from: format!("package {place}"),
        };
        self.leave_for((found.file, place), (program, running), keep);
    }

    /// Back to the package before, whose `vector_boot` ran here.
    pub(super) fn return_to(&mut self, before: Release, init: (OwnedFd, Running)) {
        let place = place_of(&before.name).to_owned();
        match before.found {
            Some(found) => self.leave_for((found.file, place), init, false),
            None => self.refuse_package(Reason::NeedsReboot, "package: not there any more"),
        }
    }

    fn leave_for(
        &mut self,
        goal: (std::fs::File, String),
        (program, running): (OwnedFd, Running),
        keep: bool,
    ) {
        if self.upgrades.on_device.is_none() {
            self.upgrades.on_device = self.found.as_ref().map(|f| f.digest.clone());
            self.upgrades.device = self.kept_on();
        }
        self.note_past();
        let facts = PassageFacts {
            keep,
            stopped: self.names_of_stopped(),
            ..PassageFacts::default()
        };
        let own = self.held.initramfs.vector_boot.as_ref();
        let own = own.and_then(|fd| fd.try_clone().ok());
        let back = self.held.package.as_ref();
        let back = back.and_then(|(file, place)| Some((file.try_clone().ok()?, place.clone())));
        let (Some(own), Some(back)) = (own, back) else {
            return self.refuse_package(Reason::NotExecuted, "no descriptor is free");
        };
        let passage = Passage {
            goal,
            left: (own, self.running.clone()),
            back,
            facts,
        };
        self.journal.say(
            Level::Info,
            format_args!(
                "upgrade: becoming vector_boot {}",
                crate::boot::short(&running.digest)
            ),
        );
        let error = self.become_program(program, running, passage);
        self.refuse_package(Reason::NotExecuted, &format!("vector_boot: {error}"));
    }

    // --- the new program -----------------------------------------------------------------------

    /// A program that came by an upgrade is its own image, whatever the one before listed.
    pub(super) fn take_own_image(&mut self) {
        if self.held.cause == Cause::Crash {
            return;
        }
        let own = self.held.initramfs.vector_boot.as_ref();
        let own = own.and_then(|fd| fd.try_clone().ok());
        let (Some(own), Some(image)) = (own, self.images.get_mut(VECTOR_BOOT)) else {
            return;
        };
        if let Held::Yes(old) = &image.held {
            self.journal.state.unlist(old.as_fd());
        }
        self.journal
            .state
            .list(Kind::Image, VECTOR_BOOT, &image.name, own.as_fd());
        image.digest.clone_from(&self.running.digest);
        image.held = Held::Yes(own);
    }

    /// An upgrade that the PID 1 before this one was at goes on here, once everything else is caught up on.
    pub(super) fn come_by_passage(&mut self, last_words: &str) {
        let Some(passage) = &self.held.passage else {
            return;
        };
        let facts = &passage.facts;
        self.upgrades.stopped.clone_from(&facts.stopped);
        self.upgrades.reason = match facts.reason.as_str() {
            "" if !self.is_way_back() => String::new(),
            "" => {
                let hangs = last_words == sys::handover::HANG_WORDS;
                let reason = if hangs {
                    Reason::InitHang
                } else {
                    Reason::InitCrash
                };
                cut(&format!("{}: {last_words}", reason.as_str()))
            }
            reason => reason.to_owned(),
        };
        let to = if self.is_way_back() {
            &passage.back.1
        } else {
            &passage.goal.1
        };
        self.upgrades.to.clone_from(to);
        // Said by the one before, and what is done about it follows.
        self.upgrades.cut_off = false;
        self.upgrades.stage = Stage::Arrived;
        self.guard_trial();
    }

    /// Goes on: once a turn of the loop.
    pub(super) fn go_on_with_passage(&mut self) {
        if let Some(asked) = self.preparing().and_then(|p| p.asked.as_ref()) {
            asked.look();
        }
        if self.behind.is_some() {
            return;
        }
        if std::mem::take(&mut self.upgrades.keep_again) {
            return self.keep_package();
        }
        if !matches!(self.upgrades.stage, Stage::Arrived) {
            return;
        }
        let Some(passage) = &self.held.passage else {
            return;
        };
        let (place, keep) = (passage.goal.1.clone(), passage.facts.keep);
        let file = passage.goal.0.try_clone().ok();
        let step = self.step_of_passage();
        self.prepare(file, place, keep, step);
        self.inspect();
    }

    pub(super) fn step_of_passage(&self) -> Step {
        if self.is_way_back() {
            Step::Undoing
        } else {
            Step::Becoming
        }
    }

    /// Whether this program came because another did not prove itself, or crashed between two packages, and puts
    /// the services back.
    pub(super) fn is_way_back(&self) -> bool {
        let comes_back = matches!(self.held.cause, Cause::Rollback | Cause::Crash);
        self.held.passage.is_some() && comes_back
    }

    /// Whether the services that run this program's file were started from another one.
    pub(super) fn was_another_program(&self) -> bool {
        let left = self.held.passage.as_ref().map(|p| &p.left.1.digest);
        left.is_some_and(|left| *left != self.running.digest)
    }

    /// Whether this program has yet to prove itself: the one before comes back if it does not.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.held.passage.is_some() && self.held.cause == Cause::Upgrade
    }

    /// A beat was whole. While on trial the next one is awaited.
    pub(super) fn guard_trial(&mut self) {
        if self.is_on_trial()
            && let Err(e) = sys::handover::guard(HANG_LIMIT)
        {
            self.degrade(format!("no way back from a hang: {e}"));
        }
    }

    pub(super) fn begin_machine(&self, plan: Plan, actions: &mut Actions) -> Upgrade {
        let now = sys::clock::monotonic_ns();
        let (side, touched, failed) = if self.is_way_back() {
            // Said in words already.
            let cause = Reason::InitCrash;
            (Side::Old, u32::MAX, Some(Failure { cause, unit: None }))
        } else if self.is_on_trial() {
            (Side::New, 0, None)
        } else {
            return Upgrade::begin(now, plan, actions);
        };
        let mut machine = Upgrade::resume(plan, Side::Old, touched, failed);
        machine.step(now, Input::Became(side), actions);
        machine
    }

    /// What a crash leads to while services are replaced by a program that stays what it is: the package that runs.
    pub(super) fn way_back_in_place(&self, new: &Release) -> Option<Passage> {
        if self.held.passage.is_some() {
            // It has its own.
            return None;
        }
        let runs = self.found.as_ref().filter(|found| !found.plain)?;
        let goal = runs.file.try_clone().ok()?;
        let back = new.found.as_ref()?.file.try_clone().ok()?;
        let own = self.held.initramfs.vector_boot.as_ref()?.try_clone().ok()?;
        Some(Passage {
            goal: (goal, place_of(&self.package_name).to_owned()),
            left: (own, self.running.clone()),
            back: (back, place_of(&new.name).to_owned()),
            facts: PassageFacts {
                stopped: self.names_of_stopped(),
                ..PassageFacts::default()
            },
        })
    }

    fn names_of_stopped(&self) -> Vec<String> {
        let units = self.units.iter().enumerate();
        units
            .filter(|(i, _)| self.supervisor.phase(*i) == Phase::Stopped)
            .map(|(_, unit)| unit.name().to_owned())
            .collect()
    }

    // --- what the next image is to know --------------------------------------------------------

    /// Notes the upgrades so far.
    pub(super) fn note_past(&mut self) {
        let before = match &self.upgrades.before {
            Some(Before::Whole(release)) => {
                let found = release.found.as_ref().filter(|found| !found.plain);
                found.map(|found| (found.file.try_clone(), release.name.clone()))
            }
            Some(Before::File(file, name)) => Some((file.try_clone(), name.clone())),
            None => None,
        };
        let ups = &self.upgrades;
        self.held.past = Past {
            count: ups.count,
            on_device: ups.on_device.clone(),
            device: ups.device.clone(),
            keeping: matches!(ups.stage, Stage::Keeping),
            images: self.images.iter().map(|i| i.digest.clone()).collect(),
            before: before.and_then(|(file, name)| Some((file.ok()?, name))),
        };
    }

    /// Takes up what the image before noted.
    pub(crate) fn take_up_past(&mut self) {
        let past = std::mem::take(&mut self.held.past);
        self.upgrades.count = past.count;
        self.upgrades.on_device = past.on_device;
        self.upgrades.device = past.device;
        self.upgrades.before = past.before.map(|(file, name)| Before::File(file, name));
        for (image, digest) in self.images.iter_mut().zip(past.images) {
            image.digest = digest;
        }
        if past.keeping {
            self.upgrades.keep_again = true;
            self.upgrades.stage = Stage::Keeping;
        }
    }

    /// Everything is of one side; gives the program that belongs to the other one, where that is another.
    pub(super) fn end_passage(&mut self, side: Side) -> Option<(OwnedFd, Running)> {
        let passage = self.held.passage.take()?;
        // Without an alarm there is nothing to take back.
        let _ = sys::handover::unguard();
        (side == Side::New).then_some(passage.left)
    }

    /// What this program was to do cannot be done.
    pub(super) fn lose_passage(&mut self, reason: Reason, detail: &str) {
        let said = cut(&format!("{}: {detail}", reason.as_str()));
        self.journal
            .say(Level::Warn, format_args!("upgrade: going back: {said}"));
        if self.is_on_trial() {
            self.upgrades.reason = said;
            // Tried again by the next turn if it cannot be executed.
            self.upgrades.stage = Stage::Arrived;
            return self.give_back();
        }
        // The package before is gone: what runs goes on.
        self.upgrades.stage = Stage::Idle;
        self.upgrades.end = Some(wire::upgrade::End::RolledBack);
        self.end_passage(Side::Old);
        self.degrade(format!(
            "{CUT_OFF}{}: {said}; limit services of one package: upgrade again",
            cut(&self.package_name)
        ));
        self.upgrades.cut_off = true;
        self.stand_anew();
    }

    /// Becomes the program before, which puts the services back.
    pub(super) fn give_back(&mut self) {
        let Some(passage) = &self.held.passage else {
            return self.tell_upgrade(Input::NotBecame);
        };
        let error = match self.held.way_back(passage, self.upgrades.reason.clone()) {
            Ok(next) => self.leave_to(next),
            Err(e) => e,
        };
        self.degrade(format!("execute the vector_boot before: {error}"));
        self.tell_upgrade(Input::NotBecame);
    }
}
