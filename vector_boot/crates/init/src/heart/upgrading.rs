//! Upgrades under the heart: a package is taken and checked, then what [`crate::upgrade`] asks for is done.
//!
//! Everything that reads the package is the helper's. While services are replaced the table holds those of both
//! packages, the new one's order first; afterwards it is that of the one that runs.
//! Start with [`Heart::take_upgrade`].

use super::{Ending, Heart, Held, Image, VECTOR_BOOT, Watch};
use crate::boot::short;
use crate::handover::Running;
use crate::helper_link::{Answer, Purpose};
use crate::package::{Found, Model};
use crate::state::records::UnitRow;
use crate::state::{BY_GONE, Json, Level, Weight};
use crate::succession::Question;
use crate::supervisor::{Event, Index, Phase, Supervisor, UNITS_MAX};
use crate::unit::{CellState, Unit};
use crate::upgrade::{Action, Actions, Change, Input, Plan, Planned, Side, Upgrade};
use heapless::Deque;
use rts::manifest::{self, Manifest, Pass, Service};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use sys::events::Interest;
use sys::spawn::Child;
use wire::helper::Task;
use wire::upgrade::{End, Step, UpgradeStatus};
use wire::why::Reason;
use wire::{Done, Refused, Role};

/// Longest name of a place: a path of a root.
const PLACE_BYTES_MAX: usize = 255;
/// Tensor blocks hashed in one task: 4 MiB, as the scrub does.
const SCRUB_BLOCKS: u32 = 64;
/// What services did since the last turn; a turn reaps fewer than that of ours.
const SEEN_MAX: usize = 2 * UNITS_MAX;
/// Time for the helper to end what it has under way before a rollback: a block of tensors, a look at a disk.
const GO_BACK_WAIT_NS: u64 = 5_000_000_000;
/// Beside a service's own limits for its stop and start: its cell, and a busy machine.
const SLACK_NS: u64 = 60_000_000_000;
/// Reasons are cut to fit an event.
const DETAIL_CHARS_MAX: usize = 120;

/// What of an upgrade the helper is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The package's descriptor.
    Open,
    /// What the running package's model is.
    InspectOwn,
    /// Whose the package is and what it holds.
    Inspect,
    /// Hashing it outside the tensors.
    Verify,
    /// Hashing its tensors from this block on.
    Scrub(u64),
    /// The executable of this place in the list of those that are needed.
    Load(usize),
    /// A folder for a service's data.
    Provision,
    /// Writing it to the package's device.
    Keep,
}

/// A service as one package has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    service: Service,
    uid: u32,
    /// Place in the table of images.
    image: usize,
}

/// A package, and what of it the machine runs.
pub(super) struct Release {
    pub(super) found: Option<Found>,
    pub(super) rts: Option<OwnedFd>,
    pub(super) model: Model,
    pub(super) name: String,
    pub(super) manifest: Manifest,
    pub(super) entries: Vec<Entry>,
    pub(super) tensors_verified: bool,
}

/// An executable that is needed and not in hand.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) blake3: String,
    pub(super) held: Option<OwnedFd>,
}

/// A package on its way.
pub(super) struct Preparing {
    pub(super) place: String,
    pub(super) keep: bool,
    pub(super) step: Step,
    pub(super) file: Option<File>,
    pub(super) found: Option<Found>,
    pub(super) manifest: Option<Manifest>,
    pub(super) wanted: Vec<Wanted>,
    /// Its `vector_boot`, where that is another than the one that runs: its digest, and the question.
    pub(super) init: Option<String>,
    pub(super) asked: Option<Question>,
}

/// Services on their way from one package to the other.
pub(super) struct Run {
    machine: Upgrade,
    /// Services of the old and of the new package, by their place in the table of both.
    sides: [Vec<Option<Entry>>; 2],
    /// The package that does not count now.
    other: Release,
    /// Which one counts.
    counts: Side,
    from: String,
    to: String,
    keep: bool,
    /// Bit per service that ran, or is to run.
    wanted: u32,
    /// The service that takes that side's entry once it has stopped.
    pending: Option<(Index, Side)>,
    /// The service that is to stop and stay so.
    leaving: Option<Index>,
}

/// What `rollback` goes to.
pub(super) enum Before {
    /// A package that can take over at once.
    Whole(Box<Release>),
    /// What is left of it over a crash: the package and what it is called. It is looked at as any that is new.
    File(File, String),
}

impl Before {
    /// As `status` names packages.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Whole(release) => &release.name,
            Self::File(_, name) => name,
        }
    }

    fn entries(&self) -> &[Entry] {
        match self {
            Self::Whole(release) => &release.entries,
            Self::File(..) => &[],
        }
    }
}

#[derive(Default)]
pub(super) enum Stage {
    #[default]
    Idle,
    /// The PID 1 before this one left it to this one, which has to catch up first.
    Arrived,
    Preparing(Box<Preparing>),
    Running(Box<Run>),
    Settling(Box<Run>, Side),
    Keeping,
}

/// Upgrades of this boot.
#[derive(Default)]
pub struct Upgrades {
    pub(super) stage: Stage,
    /// What `rollback` goes to.
    pub(super) before: Option<Before>,
    /// The `vector_boot` that belongs to it, where that is another.
    pub(super) before_init: Option<(OwnedFd, Running)>,
    /// What services did.
    pub(super) seen: Deque<(Index, Phase, Phase), SEEN_MAX>,
    /// What cannot be started.
    pub(super) unfit: u32,
    /// Digest of the package that the next boot finds, where that is known.
    pub(super) on_device: Option<String>,
    /// The device that it lies on.
    pub(super) device: Option<String>,
    /// The PID 1 before this one was in the middle of one: what it had stopped is to be started.
    pub(super) cut_off: bool,
    /// But for these services, which did not run when it began.
    pub(super) stopped: Vec<String>,
    /// The PID 1 before this one was writing the package to its device, which is begun again.
    pub(super) keep_again: bool,
    pub(super) to: String,
    pub(super) end: Option<End>,
    pub(super) reason: String,
    pub(super) count: u32,
    /// A person waits for the package before.
    asked_back: Option<AskedBack>,
}

/// Who wants the package before; what the helper has under way of this one is let end first.
#[derive(Clone, Copy)]
struct AskedBack {
    slot: usize,
    /// The connection in that slot.
    generation: u64,
    id: u64,
    role: Role,
    since_ns: u64,
}

impl Upgrades {
    /// Whether services are being replaced.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_) | Stage::Settling(..))
    }

    /// The program that was asked whether it can be PID 1.
    pub(super) fn asked(&self) -> Option<&Child> {
        match &self.stage {
            Stage::Preparing(preparing) => preparing.asked.as_ref().map(Question::child),
            _ => None,
        }
    }
}

fn refused<'a>(
    code: &'static str,
    field: &'static str,
    value: &'a str,
    limit: &'a str,
) -> Refused<'a> {
    Refused {
        code,
        field,
        value,
        limit,
    }
}

pub(super) fn cut(text: &str) -> String {
    text.chars().take(DETAIL_CHARS_MAX).collect()
}

impl Heart {
    // --- asked by a person ---------------------------------------------------------------------

    /// A person wants another package; `false` ends the connection.
    pub(crate) fn take_upgrade(
        &mut self,
        (slot, id, role): (usize, u64, Role),
        ask: wire::upgrade::Upgrade<'_>,
        descriptor: Option<OwnedFd>,
    ) -> bool {
        let place = ask.place;
        if !self.is_free_for_upgrade() {
            return self.reply_busy(slot, id);
        }
        let printable = !place.is_empty() && !place.chars().any(char::is_control);
        if place.len() > PLACE_BYTES_MAX || !printable {
            let limit = "1 to 255 printable bytes";
            return self.reply(slot, id, &refused("BAD_REQUEST", "place", "", limit));
        }
        if ask.keep && self.kept_on().is_none() {
            let limit = "a machine whose package lies on a block device";
            return self.reply(slot, id, &refused("CONFLICT", "keep", "true", limit));
        }
        let source = match descriptor {
            Some(fd) => Ok((Some(fd), None)),
            None => self.find_place(place).map(|found| (None, Some(found))),
        };
        let (file, found) = match source {
            Ok(source) => source,
            Err(limit) => {
                return self.reply(slot, id, &refused("NOT_FOUND", "place", place, limit));
            }
        };
        self.journal.event(
            Weight::Important,
            ["command", "machine", crate::control::actor_of(role)],
            format_args!(
                "\"verb\":\"upgrade\",\"place\":\"{}\",\"keep\":{}",
                Json(&cut(place)),
                ask.keep
            ),
        );
        self.upgrades.to = place.to_owned();
        let file = file.map(File::from);
        self.prepare(file, place.to_owned(), ask.keep, Step::Checking);
        match found {
            Some((path, folder)) => {
                let task = Task::OpenPackage { path: &path };
                self.ask_of_upgrade(Ask::Open, &task, folder);
            }
            None => self.inspect(),
        }
        self.reply(slot, id, &Done { count: 0 })
    }

    /// A person wants the package before; `false` ends the connection.
    pub(crate) fn take_rollback(&mut self, slot: usize, id: u64, role: Role) -> bool {
        if !self.is_free_for_upgrade() {
            return self.reply_busy(slot, id);
        }
        self.upgrades.asked_back = Some(AskedBack {
            slot,
            generation: self.generation_of(slot),
            id,
            role,
            since_ns: sys::clock::monotonic_ns(),
        });
        true
    }

    /// Goes back once the helper has ended what it does with the package: call it before it is given more.
    pub(super) fn go_back_if_asked(&mut self, now: u64) {
        let Some(asked) = self.upgrades.asked_back else {
            return;
        };
        let late = now.saturating_sub(asked.since_ns) > GO_BACK_WAIT_NS;
        if !late && !self.helper.is_idle() {
            return;
        }
        self.upgrades.asked_back = None;
        let (slot, id) = (asked.slot, asked.id);
        if self.generation_of(slot) != asked.generation {
            // Who asked has gone, and nobody would hear of it.
            return;
        }
        let goes_on = if late || !self.is_free_for_upgrade() {
            self.reply_busy(slot, id)
        } else {
            self.go_back(slot, id, asked.role)
        };
        if !goes_on {
            self.hang_up(slot);
        }
    }

    fn go_back(&mut self, slot: usize, id: u64, role: Role) -> bool {
        let Some(before) = self.upgrades.before.take() else {
            let limit = "an upgrade before it";
            return self.reply(slot, id, &refused("CONFLICT", "rollback", "", limit));
        };
        self.journal.event(
            Weight::Important,
            ["command", "machine", crate::control::actor_of(role)],
            format_args!(
                "\"verb\":\"rollback\",\"to\":\"{}\"",
                Json(&cut(before.name()))
            ),
        );
        before.name().clone_into(&mut self.upgrades.to);
        // Another program is there at once, so the answer goes first.
        let goes_on = self.reply(slot, id, &Done { count: 0 });
        match (before, self.upgrades.before_init.take()) {
            (Before::Whole(before), Some(init)) => self.return_to(*before, init),
            (Before::Whole(before), None) => self.replace_all(*before, false),
            (Before::File(file, name), _) => {
                let place = place_of(&name).to_owned();
                self.prepare(Some(file), place, false, Step::Checking);
                self.inspect();
            }
        }
        goes_on
    }

    /// Answers how it stands.
    pub(crate) fn send_upgrade_status(&mut self, slot: usize, id: u64) -> bool {
        let now = sys::clock::monotonic_ns();
        let ups = &self.upgrades;
        let (step, unit, left_ns) = match &ups.stage {
            Stage::Idle => (Step::Idle, None, 0),
            Stage::Arrived => (self.step_of_passage(), None, 0),
            Stage::Preparing(p) => (p.step, None, 0),
            Stage::Running(run) => run.machine.progress(now),
            Stage::Settling(_, Side::New) => (Step::Watching, None, 0),
            Stage::Settling(_, Side::Old) => (Step::Undoing, None, 0),
            Stage::Keeping => (Step::Keeping, None, 0),
        };
        let from = match &ups.stage {
            Stage::Running(run) => run.from.clone(),
            _ => self.package_name.clone(),
        };
        let unit = unit.and_then(|i| self.units.get(i));
        let service = unit.map_or_else(String::new, |unit| unit.name().to_owned());
        let status = UpgradeStatus {
            step,
            service: &service,
            left_ns,
            from: &from,
            to: &ups.to.clone(),
            end: ups.end.unwrap_or(End::None),
            reason: &ups.reason.clone(),
            before: &ups
                .before
                .as_ref()
                .map_or_else(String::new, |b| b.name().to_owned()),
            count: ups.count,
            until_reboot: self.is_until_reboot(),
        };
        self.reply(slot, id, &status)
    }

    /// Whether the package that runs is gone with the next boot.
    pub(crate) fn is_until_reboot(&self) -> bool {
        let runs = self.found.as_ref().map(|f| f.digest.as_str());
        self.upgrades.on_device.is_some() && self.upgrades.on_device.as_deref() != runs
    }

    fn is_free_for_upgrade(&self) -> bool {
        let ups = &self.upgrades;
        ups.asked_back.is_none()
            && matches!(ups.stage, Stage::Idle)
            && matches!(self.ending, Ending::No)
    }

    fn reply_busy(&mut self, slot: usize, id: u64) -> bool {
        let limit = "one at a time, and none while the machine starts or ends";
        self.reply(
            slot,
            id,
            &refused("CONFLICT", "upgrade", "under way", limit),
        )
    }

    /// The device that the next boot finds its package on.
    pub(super) fn kept_on(&self) -> Option<String> {
        let noted = self.upgrades.device.clone();
        noted
            .or_else(|| Some(place_of(&self.package_name).to_owned()))
            .filter(|place| place.starts_with("/dev/") && self.setup.is_appliance())
    }

    /// Where a package of that name lies: a path, and the folder that it is below of.
    fn find_place(&self, place: &str) -> Result<(String, Option<OwnedFd>), &'static str> {
        const LIMIT: &str = "/dev/NAME, the name of a partition, or ROOT/PATH below a root";
        if !self.setup.is_appliance() {
            return Err("a descriptor, as ctl sends it");
        }
        if let Some(name) = place.strip_prefix("/dev/") {
            let plain = !name.is_empty() && !name.contains('/') && !name.contains("..");
            return plain.then(|| (place.to_owned(), None)).ok_or(LIMIT);
        }
        if let Some((root, path)) = place.split_once('/') {
            let wanted = format!("root.{root}");
            let (_, folder) = self
                .open
                .roots
                .iter()
                .find(|(name, _)| *name == wanted)
                .ok_or(LIMIT)?;
            let folder = folder.try_clone().map_err(|_| LIMIT)?;
            return Ok((path.to_owned(), Some(folder)));
        }
        let devices = crate::disks::devices();
        let device = crate::disks::partition(&devices, place).ok_or(LIMIT)?;
        Ok((device.path.display().to_string(), None))
    }

    // --- the package ---------------------------------------------------------------------------

    /// Begins with a package, or with nothing but its place.
    pub(super) fn prepare(&mut self, file: Option<File>, place: String, keep: bool, step: Step) {
        self.upgrades.stage = Stage::Preparing(Box::new(Preparing {
            place,
            keep,
            step,
            file,
            found: None,
            manifest: None,
            wanted: Vec::new(),
            init: None,
            asked: None,
        }));
    }

    pub(super) fn preparing(&mut self) -> Option<&mut Preparing> {
        match &mut self.upgrades.stage {
            Stage::Preparing(preparing) => Some(preparing),
            _ => None,
        }
    }

    fn ask_of_upgrade(&mut self, ask: Ask, task: &Task<'_>, descriptor: Option<OwnedFd>) {
        if !self.helper.ask(Purpose::Upgrade(ask), task, descriptor) {
            self.refuse_package(Reason::UpgradeRefused, "the helper's queue is full");
        }
    }

    /// Another handle of the package that is being looked at.
    fn its_handle(&mut self) -> Option<OwnedFd> {
        let preparing = self.preparing()?;
        let file = preparing
            .file
            .as_ref()
            .or(preparing.found.as_ref().map(|f| &f.file))?;
        file.as_fd().try_clone_to_owned().ok()
    }

    pub(super) fn inspect(&mut self) {
        let keys: String = self
            .trust
            .keys
            .iter()
            .map(rts::PublicKey::to_text)
            .collect();
        let task = Task::Inspect {
            keys: &keys,
            required: self.trust.required,
        };
        let own = self
            .found
            .as_ref()
            .filter(|f| !f.plain && f.model_digest.is_empty())
            .and_then(|f| crate::package::handle(f).ok());
        match (own, self.its_handle()) {
            (Some(own), _) => self.ask_of_upgrade(Ask::InspectOwn, &task, Some(own)),
            (None, Some(file)) => self.ask_of_upgrade(Ask::Inspect, &task, Some(file)),
            (None, None) => self.refuse_package(Reason::UpgradeRefused, "no descriptor is free"),
        }
    }

    /// The helper's answer to a step.
    pub(super) fn take_upgrade_answer(&mut self, ask: Ask, answer: Answer) {
        if ask == Ask::Keep {
            return self.kept(&answer.result);
        }
        if self.preparing().is_none() {
            return;
        }
        let mut descriptors = answer.descriptors.into_iter();
        let detail = match (ask, answer.result) {
            // The running package may be gone from its place; then its model counts as another.
            (Ask::InspectOwn, result) => {
                self.note_own_model(result.is_ok().then(|| descriptors.next()).flatten());
                return;
            }
            (_, Err(e)) => {
                let reason = match ask {
                    Ask::Load(_) | Ask::Provision => Reason::UpgradeNotLoaded,
                    _ => Reason::UpgradeRefused,
                };
                return self.refuse_package(reason, &e);
            }
            (_, Ok(figure)) => (figure, descriptors.next()),
        };
        match (ask, detail) {
            (Ask::Open, (_, Some(fd))) => {
                if let Some(preparing) = self.preparing() {
                    preparing.file = Some(fd.into());
                }
                self.inspect();
            }
            (Ask::Inspect, (_, Some(facts))) => self.take_facts(&facts.into()),
            (Ask::Verify, _) => self.scrub_new(0),
            (Ask::Scrub(first), (held, _)) if held > 0 => self.scrub_new(first + held),
            (Ask::Scrub(_), _) => self.choose_images(),
            (Ask::Load(place), (_, Some(image))) => {
                if let Some(wanted) = self.preparing().and_then(|p| p.wanted.get_mut(place)) {
                    wanted.held = Some(image);
                }
                self.load_from(place + 1);
            }
            (Ask::Provision, _) => self.prepared(),
            _ => self.refuse_package(Reason::UpgradeRefused, "nothing came back from the helper"),
        }
    }

    fn note_own_model(&mut self, facts: Option<OwnedFd>) {
        let own = self
            .found
            .as_ref()
            .and_then(|f| Found::of_facts(f.file.try_clone().ok()?, &facts?.into()).ok());
        if let Some(found) = &mut self.found {
            found.model_digest = own.map_or_else(|| "unknown".to_owned(), |own| own.model_digest);
        }
        self.inspect();
    }

    fn take_facts(&mut self, facts: &File) {
        let Some(preparing) = self.preparing() else {
            return;
        };
        let Some(file) = preparing.file.take() else {
            return;
        };
        match Found::of_facts(file, facts) {
            Ok(found) => preparing.found = Some(found),
            Err(e) => return self.refuse_package(Reason::UpgradeRefused, &e),
        }
        if self.held.passage.is_some() {
            // All of it was hashed by the PID 1 before; what is loaded is hashed anyway.
            return self.choose_images();
        }
        if let Some(handle) = self.its_handle() {
            self.ask_of_upgrade(Ask::Verify, &Task::VerifyPackage, Some(handle));
        }
    }

    fn scrub_new(&mut self, first: u64) {
        let count = SCRUB_BLOCKS;
        if let Some(handle) = self.its_handle() {
            self.ask_of_upgrade(
                Ask::Scrub(first),
                &Task::Scrub { first, count },
                Some(handle),
            );
        }
    }

    /// Decides what the manifest needs beside what is in hand.
    fn choose_images(&mut self) {
        self.learn_digests();
        let found = self.preparing().and_then(|p| p.found.as_ref());
        let Some((packed, theirs)) = found.map(|f| (f.images.clone(), f.manifest.clone())) else {
            return;
        };
        // A manifest that was named for the boot stands above that of every package.
        let named = !self.params.get("vb.manifest").is_empty();
        let mut manifest = match theirs {
            Some(theirs) if !named => *theirs,
            _ => self.manifest_of_table(),
        };
        crate::boot::add_cortex(&mut manifest, &self.params);
        if manifest.roots != self.manifest.roots {
            let why = "roots: other than the running ones, limit those that are mounted";
            return self.refuse_package(Reason::NeedsReboot, why);
        }
        // Said, since the place in the table is not that in the manifest.
        for i in 0..manifest.services.len() {
            let uid = manifest.uid(i);
            if let Some(service) = manifest.services.get_mut(i) {
                service.uid = uid;
            }
        }
        crate::boot::leave_out_terminals(&mut manifest, &self.open);
        let digest_of = |name: &str| packed.iter().find(|(n, ..)| n == name).map(|(.., hex)| hex);
        let mut wanted: Vec<Wanted> = Vec::new();
        for service in &manifest.services {
            let name = service.image.as_str();
            let known = matches!(service.image, manifest::Image::VectorBoot)
                || wanted.iter().any(|w| w.name == name);
            match digest_of(name) {
                _ if known => {}
                Some(blake3) => wanted.push(Wanted {
                    name: name.to_owned(),
                    blake3: blake3.clone(),
                    held: None,
                }),
                // The initramfs's own go on where the package brings none.
                None if name == "vb-services" => {}
                None => {
                    let why = format!("image {name}: in no section of the package");
                    return self.refuse_package(Reason::UpgradeRefused, &why);
                }
            }
        }
        let other = digest_of("vector_boot").filter(|init| self.is_other_init(init));
        if let Some(init) = other {
            return self.load_init(init.clone());
        }
        wanted.retain(|w| {
            let is_it = |image: &Image| {
                let held = matches!(image.held, Held::Yes(_));
                held && image.name == w.name && image.digest == w.blake3
            };
            !self.images.iter().any(is_it)
        });
        if let Some(preparing) = self.preparing() {
            preparing.step = Step::Loading;
            preparing.manifest = Some(manifest);
            preparing.wanted = wanted;
        }
        self.load_from(0);
    }

    pub(super) fn load_from(&mut self, place: usize) {
        let handle = self.its_handle();
        let wanted = self
            .preparing()
            .and_then(|p| p.wanted.get(place))
            .map(|w| (w.name.clone(), w.blake3.clone()));
        match wanted {
            Some((name, blake3)) => {
                let task = Task::Load {
                    name: &name,
                    blake3: &blake3,
                };
                self.ask_of_upgrade(Ask::Load(place), &task, handle);
            }
            None if self.preparing().is_some_and(|p| p.init.is_some()) => self.ask_init(),
            None => self.provision(),
        }
    }

    /// Folders for the data of services that have none yet. The last answer goes on.
    fn provision(&mut self) {
        let data = self.setup.data_folder();
        let appliance = self.setup.is_appliance();
        let Some(manifest) = self.preparing().and_then(|p| p.manifest.clone()) else {
            return;
        };
        let with_data = manifest.services.iter().enumerate().filter(|(_, s)| s.data);
        let folders: Vec<(String, u32)> = with_data
            .map(|(i, service)| {
                let path = crate::boot::service_folder(&data, service.name.as_str());
                let uid = manifest.uid(i).filter(|_| appliance).unwrap_or(u32::MAX);
                (path.display().to_string(), uid)
            })
            .collect();
        for (path, uid) in &folders {
            let task = Task::Folder {
                path,
                uid: *uid,
                mode: 0o700,
            };
            self.helper.ask(Purpose::Provision, &task, None);
        }
        // Answers come in order: when this one is there, all above are.
        self.ask_of_upgrade(Ask::Provision, &Task::Look { path: "" }, None);
    }

    fn prepared(&mut self) {
        let Stage::Preparing(preparing) = std::mem::take(&mut self.upgrades.stage) else {
            return;
        };
        let Preparing {
            place,
            keep,
            found,
            manifest,
            wanted,
            ..
        } = *preparing;
        let (Some(found), Some(manifest)) = (found, manifest) else {
            return;
        };
        for image in wanted {
            let Some(held) = image.held else { continue };
            self.keep_image(image.name, image.blake3, held);
        }
        let entries = self.entries_of(&manifest, &found);
        let kind = if found.signer.is_some() {
            "signed"
        } else {
            "unsigned"
        };
        let release = Release {
            name: format!("{place} {} {kind}", found.digest),
            rts: crate::package::handle(&found).ok(),
            model: found.model.clone(),
            found: Some(found),
            manifest,
            entries,
            tensors_verified: true,
        };
        self.replace_all(release, keep);
    }

    /// Puts an executable into the table, in a place that nobody uses any more if there is one.
    fn keep_image(&mut self, name: String, digest: String, held: OwnedFd) {
        let image = Image {
            name,
            digest,
            held: Held::Yes(held),
            fallback: None,
        };
        match self.images.iter_mut().find(|image| image.name.is_empty()) {
            Some(place) => *place = image,
            None => self.images.push(image),
        }
    }

    fn entries_of(&self, manifest: &Manifest, found: &Found) -> Vec<Entry> {
        let place = |service: &Service| {
            let name = service.image.as_str();
            let digest = found.image(name);
            let same = |image: &Image| {
                image.name == name && digest.is_none_or(|digest| image.digest == digest)
            };
            match service.image {
                manifest::Image::VectorBoot => VECTOR_BOOT,
                _ => self.images.iter().position(same).unwrap_or(VECTOR_BOOT),
            }
        };
        let services = manifest.services.iter().enumerate();
        services
            .map(|(i, service)| Entry {
                image: place(service),
                uid: manifest.uid(i).unwrap_or(manifest::UID_ASSIGNED_FIRST),
                service: service.clone(),
            })
            .collect()
    }

    /// Refuses a package before anything was touched.
    pub(super) fn refuse_package(&mut self, reason: Reason, detail: &str) {
        if self.held.passage.is_some() {
            return self.lose_passage(reason, detail);
        }
        self.upgrades.stage = Stage::Idle;
        self.upgrades.end = Some(End::Refused);
        let detail = cut(detail);
        self.upgrades.reason = format!("{}: {detail}", reason.as_str());
        let place = cut(&self.upgrades.to);
        self.journal.say(
            Level::Warn,
            format_args!(
                "upgrade refused: package=\"{place}\" reason={} cause=\"{detail}\"",
                reason.as_str()
            ),
        );
        self.record_of_init(
            reason,
            "upgrade_refused",
            format_args!(
                "\"package\":\"{}\",\"reason\":\"{}\",\"detail\":\"{}\"",
                Json(&place),
                reason.as_str(),
                Json(&detail)
            ),
        );
    }

    /// What is wrong with a machine whose PID 1 begins again now: it does not know what it was at.
    pub(super) fn upgrade_cut_off(&self) -> Option<String> {
        match &self.upgrades.stage {
            // Who comes finds the way back.
            Stage::Running(_) if self.held.passage.is_some() || self.held.retreat.is_some() => None,
            Stage::Running(run) => Some(format!(
                "{CUT_OFF}{}: services of two packages run, limit those of one: upgrade again",
                cut(&run.to)
            )),
            _ => None,
        }
    }

    /// A PID 1 that begins again finds whether the one before was in the middle of an upgrade.
    pub(super) fn find_cut_off(&mut self) {
        self.upgrades.cut_off = self.degraded.iter().any(|text| text.starts_with(CUT_OFF));
    }

    /// Starts what an upgrade that was cut off had stopped, until everything runs.
    fn mend_cut_off(&mut self) {
        if !self.upgrades.cut_off || !matches!(self.ending, Ending::No) {
            return;
        }
        let mut settled = true;
        for i in 0..self.units.len() {
            let phase = self.supervisor.phase(i);
            let name = self.units.get(i).map(|unit| unit.name());
            if phase == Phase::Stopped
                && self
                    .upgrades
                    .stopped
                    .iter()
                    .any(|n| Some(n.as_str()) == name)
            {
                continue;
            }
            settled &= !matches!(phase, Phase::Stopped | Phase::Stopping | Phase::Waiting);
            if phase == Phase::Stopped {
                self.unblock(i);
                self.decide(Event::Start(i));
            }
        }
        self.upgrades.cut_off = !settled;
    }

    // --- the services --------------------------------------------------------------------------

    /// Replaces what differs between the package that runs and this one, one by one.
    pub(super) fn replace_all(&mut self, mut new: Release, keep: bool) {
        if self.upgrades.on_device.is_none() {
            self.upgrades.on_device = self.found.as_ref().map(|f| f.digest.clone());
            self.upgrades.device = self.kept_on();
        }
        let olds = self.units.iter().map(|unit| Entry {
            service: unit.service.clone(),
            uid: unit.uid,
            image: unit.image,
        });
        let (old, old_manifest): (Vec<Entry>, _) = (olds.collect(), self.manifest_of_table());
        let of = |entries: &[Entry], name: &str| {
            entries
                .iter()
                .find(|e| e.service.name.as_str() == name)
                .cloned()
        };
        let mut table: Vec<Entry> = Vec::new();
        let mut sides = [Vec::new(), Vec::new()];
        let gone = old
            .iter()
            .filter(|e| of(&new.entries, e.service.name.as_str()).is_none());
        for entry in new.entries.iter().chain(gone) {
            let name = entry.service.name.as_str();
            let (before, after) = (of(&old, name), of(&new.entries, name));
            table.extend(before.clone().or_else(|| after.clone()));
            let [olds, news] = &mut sides;
            olds.push(before);
            news.push(after);
        }
        // Comes back from a package that did not prove itself: the one that is taken is the old one.
        let back = self.is_way_back();
        if back {
            sides.reverse();
        }
        if table.len() > UNITS_MAX {
            let why = format!(
                "services: {} of both packages, limit {UNITS_MAX}",
                table.len()
            );
            return self.refuse_package(Reason::NeedsReboot, &why);
        }
        let watch_ns = self.watch_of(&new.manifest);
        let model_differs = !self.has_model_of(&new);
        let plan = Plan {
            services: order_of(&sides, model_differs, self.was_another_program()),
            becomes: self.is_on_trial(),
            watch_ns,
        };
        let (from, to) = match self.held.passage.as_ref().filter(|_| back) {
            Some(passage) => (new.name.clone(), passage.back.1.clone()),
            None => (self.package_name.clone(), new.name.clone()),
        };
        self.journal.say(
            Level::Info,
            format_args!(
                "upgrade: from=\"{}\" to=\"{}\" services={} watch_s={}",
                cut(&from),
                cut(&to),
                plan.services.len(),
                watch_ns / 1_000_000_000
            ),
        );
        if !back {
            self.journal.event(
                Weight::Important,
                ["upgrade_started", "machine", ""],
                format_args!(
                    "\"from\":\"{}\",\"to\":\"{}\",\"services\":{},\"keep\":{keep}",
                    Json(&cut(&from)),
                    Json(&cut(&to)),
                    plan.services.len()
                ),
            );
        }
        self.held.retreat = self.way_back_in_place(&new);
        self.arrange(table);
        let wanted = (0..self.units.len())
            .filter(|i| match self.units.get(*i) {
                // Who was being replaced when a crash led back had been stopped.
                Some(unit) if back => !self.upgrades.stopped.iter().any(|n| n == unit.name()),
                _ => self.supervisor.phase(*i) != Phase::Stopped,
            })
            .fold(0, |mask, i| mask | bit(i));
        self.exchange(&mut new);
        // What was swapped out is the old package; its services are known from the table.
        let other = Release {
            manifest: old_manifest,
            entries: old,
            ..new
        };
        let mut actions = Actions::new();
        let machine = self.begin_machine(plan, &mut actions);
        self.upgrades.seen.clear();
        self.upgrades.unfit = 0;
        self.upgrades.stage = Stage::Running(Box::new(Run {
            machine,
            sides,
            other,
            counts: if back { Side::Old } else { Side::New },
            from,
            to,
            keep,
            wanted,
            pending: None,
            leaving: None,
        }));
        self.act(actions);
    }

    /// Seconds of the watch window: the command line's, else that of the package that is to run.
    fn watch_of(&self, manifest: &Manifest) -> u64 {
        const KEY: &str = "vb.upgrade_watch_s";
        let said = self.params.all().iter().find(|p| p.key == KEY);
        let asked = said.filter(|p| p.source == crate::params::Source::CommandLine);
        let signed = manifest.params.iter().find(|p| p.key.as_str() == KEY);
        let value = asked
            .map(|p| p.value.as_str())
            .or(signed.map(|p| p.value.as_str()));
        let seconds = value.and_then(|v| v.parse::<u64>().ok());
        seconds.unwrap_or(WATCH_S).min(WATCH_S_MAX) * 1_000_000_000
    }

    fn has_model_of(&self, new: &Release) -> bool {
        let own = self.found.as_ref().map(|f| f.model_digest.as_str());
        let theirs = new.found.as_ref().map(|f| f.model_digest.as_str());
        own == theirs && own.is_some_and(|own| !own.is_empty() && own != "unknown")
    }

    /// Lets the other package count.
    fn exchange(&mut self, other: &mut Release) {
        if !self.has_model_of(other) {
            self.work.outdate_model();
            self.generations.outdate();
        }
        std::mem::swap(&mut self.found, &mut other.found);
        std::mem::swap(&mut self.rts, &mut other.rts);
        std::mem::swap(&mut self.model, &mut other.model);
        std::mem::swap(&mut self.package_name, &mut other.name);
        std::mem::swap(&mut self.tensors_verified, &mut other.tensors_verified);
        // What was hashed so far was another package.
        self.scrub_next = None;
        let (bytes, tensors) = (self.model.bytes, u64::from(self.model.tensors));
        self.work.take_model(bytes, tensors);
    }

    /// The manifest with the services as the table has them.
    pub(super) fn manifest_of_table(&self) -> Manifest {
        let services = self.units.iter().map(|unit| Service {
            // Said, since the place in the table is not that in its manifest.
            uid: Some(unit.uid),
            ..unit.service.clone()
        });
        Manifest {
            services: services.collect(),
            ..self.manifest.clone()
        }
    }

    /// Makes the table that of these services, in their order: those that are there keep process, sockets and
    /// history, others begin as nothing but a row.
    fn arrange(&mut self, table: Vec<Entry>) {
        let now = sys::clock::monotonic_ns();
        let mut there: Vec<Option<Unit>> = std::mem::take(&mut self.units)
            .into_iter()
            .map(Some)
            .collect();
        let mut snapshots = Vec::with_capacity(table.len());
        let mut moved = [BY_GONE; UNITS_MAX];
        for entry in table {
            let name = entry.service.name.as_str();
            let at = there
                .iter()
                .position(|u| u.as_ref().is_some_and(|u| u.name() == name));
            let kept = at.and_then(|at| Some((at, there.get_mut(at)?.take()?)));
            match kept {
                Some((at, unit)) => {
                    if let Some(place) = moved.get_mut(at) {
                        *place = u8::try_from(self.units.len()).unwrap_or(BY_GONE);
                    }
                    snapshots.push(self.supervisor.snapshot(at));
                    self.units.push(unit);
                }
                None => {
                    let mut unit = Unit::new(entry.service, entry.uid, entry.image);
                    unit.held_back = true;
                    snapshots.push(None);
                    self.units.push(unit);
                }
            }
        }
        let manifest = self.manifest_of_table();
        let policies: Vec<_> = self
            .units
            .iter()
            .map(|unit| crate::boot::policy_of(&unit.service, &manifest))
            .collect();
        self.supervisor = Supervisor::resume(&policies, &snapshots, now);
        self.journal.state.move_writers(&moved);
        for (i, unit) in self.units.iter().enumerate() {
            unit.store.list(i, &mut self.journal.state);
            // Not in the poller at the moment: the next beat adds it under its new number.
            if let Some(output) = &unit.output {
                let token = Watch::Output(i).token();
                let _ = self.poller.change(output.as_fd(), token, Interest::Read);
            }
            if let Some(notify) = unit.notify() {
                let token = Watch::Notify(i).token();
                let _ = self.poller.change(notify, token, Interest::Read);
            }
        }
        self.move_memory_watch();
        for i in self.units.len()..UNITS_MAX {
            self.journal.state.set_unit(i, &UnitRow::default());
        }
        self.stand_anew();
    }

    /// Notes what became of a service.
    pub(super) fn upgrade_sees(&mut self, i: Index, from: Phase, to: Phase) {
        if matches!(self.upgrades.stage, Stage::Running(_)) {
            // More changes in one turn than places are those of services that flap: they were seen.
            let _ = self.upgrades.seen.push_back((i, from, to));
        }
    }

    /// Notes that a service cannot be started.
    pub(super) fn upgrade_lacks(&mut self, i: Index) {
        self.upgrades.unfit |= bit(i);
    }

    /// Goes on: once a turn of the loop.
    pub(super) fn go_on_upgrading(&mut self) {
        self.mend_cut_off();
        self.go_on_with_passage();
        match self.upgrades.stage {
            Stage::Idle | Stage::Arrived | Stage::Preparing(_) | Stage::Keeping => return,
            Stage::Settling(..) => return self.settle_upgrade(),
            Stage::Running(_) => {}
        }
        if !matches!(self.ending, Ending::No) {
            self.tell_upgrade(Input::Fail(Reason::Ending));
        }
        while let Some((i, from, to)) = self.upgrades.seen.pop_front() {
            self.judge_change(i, from, to);
        }
        let unfit = std::mem::take(&mut self.upgrades.unfit);
        for i in (0..UNITS_MAX).filter(|i| unfit & bit(*i) != 0) {
            self.tell_upgrade(Input::Unfit(i));
        }
        self.tell_upgrade(Input::Tick);
    }

    fn judge_change(&mut self, i: Index, from: Phase, to: Phase) {
        let Stage::Running(run) = &self.upgrades.stage else {
            return;
        };
        let (pending, leaving) = (run.pending, run.leaving);
        let input = match to {
            Phase::Stopped => match pending {
                Some((unit, side)) if unit == i => return self.apply(i, side),
                _ if leaving == Some(i) => Input::Stopped(i),
                _ => Input::Died(i),
            },
            Phase::Up if pending.is_none_or(|(unit, _)| unit != i) => {
                self.note_replaced(i);
                Input::Ready(i)
            }
            Phase::Backoff | Phase::Failed | Phase::Waiting
                if matches!(from, Phase::Starting | Phase::Up) =>
            {
                Input::Died(i)
            }
            _ => return,
        };
        self.tell_upgrade(input);
    }

    fn note_replaced(&mut self, i: Index) {
        let Stage::Running(run) = &self.upgrades.stage else {
            return;
        };
        let Some(unit) = self.units.get(i).filter(|_| run.machine.is_at(i)) else {
            return;
        };
        let digest = self
            .images
            .get(unit.image)
            .map_or("", |image| &image.digest);
        let back = run.machine.reason().is_some();
        self.journal.event(
            Weight::Important,
            ["service_replaced", unit.service.name.as_str(), ""],
            format_args!("\"image\":\"{}\",\"back\":{back}", short(digest)),
        );
    }

    pub(super) fn tell_upgrade(&mut self, input: Input) {
        let Stage::Running(run) = &mut self.upgrades.stage else {
            return;
        };
        let undoing = run.machine.reason().is_some();
        let mut actions = Actions::new();
        run.machine
            .step(sys::clock::monotonic_ns(), input, &mut actions);
        let turned = !undoing && run.machine.reason().is_some();
        if turned {
            self.turn_back();
        }
        self.act(actions);
    }

    /// From here on the old package counts.
    fn turn_back(&mut self) {
        let Stage::Running(mut run) = std::mem::take(&mut self.upgrades.stage) else {
            return;
        };
        if run.counts == Side::New {
            self.exchange(&mut run.other);
            run.counts = Side::Old;
        }
        run.pending = None;
        run.leaving = None;
        let failure = run.machine.reason();
        let unit = failure.and_then(|f| self.units.get(f.unit?));
        let detail = match unit {
            Some(unit) if unit.last_exit.as_str().is_empty() => unit.name().to_owned(),
            Some(unit) => format!("{}: {}", unit.name(), unit.last_exit.as_str()),
            None => String::new(),
        };
        let reason = failure.map_or("", |f| f.cause.as_str());
        let gap = if detail.is_empty() { "" } else { ": " };
        self.upgrades.reason = cut(&format!("{reason}{gap}{detail}"));
        let said = self.upgrades.reason.clone();
        self.journal
            .say(Level::Warn, format_args!("upgrade: going back: {said}"));
        self.upgrades.stage = Stage::Running(run);
    }

    fn act(&mut self, actions: Actions) {
        for action in actions {
            match action {
                Action::Install(i, side) => self.install(i, side),
                Action::Stop(i) => self.leave(i),
                Action::Become(Side::Old) => self.give_back(),
                Action::Become(Side::New) => self.tell_upgrade(Input::NotBecame),
                Action::Over(side) => {
                    if let Stage::Running(run) = std::mem::take(&mut self.upgrades.stage) {
                        self.upgrades.stage = Stage::Settling(run, side);
                    }
                    self.settle_upgrade();
                }
            }
        }
    }

    fn install(&mut self, i: Index, side: Side) {
        if let Stage::Running(run) = &mut self.upgrades.stage {
            run.pending = Some((i, side));
            run.leaving = None;
        }
        self.decide(Event::Stop(i));
        self.stopped_already(i);
    }

    fn leave(&mut self, i: Index) {
        if let Stage::Running(run) = &mut self.upgrades.stage {
            run.pending = None;
            run.leaving = Some(i);
        }
        let before = self.supervisor.phase(i);
        self.decide(Event::Stop(i));
        if before == Phase::Stopped {
            self.upgrade_sees(i, before, Phase::Stopped);
        }
    }

    /// A service that did not run has nothing to say about it: it is told for it.
    fn stopped_already(&mut self, i: Index) {
        let said = self
            .upgrades
            .seen
            .iter()
            .any(|(unit, _, to)| *unit == i && *to == Phase::Stopped);
        if self.supervisor.phase(i) == Phase::Stopped && !said {
            self.upgrade_sees(i, Phase::Stopped, Phase::Stopped);
        }
    }

    /// Gives a service that has stopped the entry of a side, and starts it.
    fn apply(&mut self, i: Index, side: Side) {
        let Stage::Running(run) = &mut self.upgrades.stage else {
            return;
        };
        run.pending = None;
        let starts = run.wanted & bit(i) != 0;
        let [old, new] = &run.sides;
        let entries = match side {
            Side::Old => old,
            Side::New => new,
        };
        let Some(entry) = entries.get(i).cloned().flatten() else {
            return self.tell_upgrade(Input::Unfit(i));
        };
        let (folder, http) = (
            self.setup.run_folder(),
            self.params.get("vb.http").to_owned(),
        );
        let appliance = self.setup.is_appliance();
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        let same_cell = unit.uid == entry.uid && has_same_cell(&unit.service, &entry.service);
        if !same_cell {
            unit.cell = CellState::Unasked;
        }
        let had_notes = unit.notify().is_some();
        let bound = unit.rebind(entry.service, entry.uid, (&folder, &http, appliance));
        unit.log_rate = self.work.log_rate(unit.service.log_rate);
        unit.image = entry.image;
        unit.spawn = None;
        unit.held_back = false;
        if let Some(socket) = unit.notify().filter(|_| !had_notes) {
            let token = Watch::Notify(i).token();
            // Unwatched it is never ready, which is seen.
            let _ = self.poller.add(socket, token, Interest::Read);
        }
        let service = unit.service.clone();
        let policy = crate::boot::policy_of(&service, &self.manifest_of_table());
        self.supervisor.reform(i, &policy);
        self.stand_anew();
        if let Err(e) = bound {
            self.degrade(format!("service {}: {e}", service.name.as_str()));
            return self.tell_upgrade(Input::Unfit(i));
        }
        if !starts {
            return self.tell_upgrade(Input::Ready(i));
        }
        self.unblock(i);
        self.decide(Event::Start(i));
    }

    /// The end: the table becomes that of the side that runs, once the helper has no question about it.
    fn settle_upgrade(&mut self) {
        if !self.helper.is_idle() {
            return;
        }
        let Stage::Settling(run, side) = std::mem::take(&mut self.upgrades.stage) else {
            return;
        };
        let Run {
            sides: [old, new],
            other,
            from,
            to,
            keep,
            ..
        } = *run;
        let entries = match side {
            Side::Old => old,
            Side::New => new,
        };
        let came_back = self.is_way_back();
        let init = self.end_passage(side);
        self.held.retreat = None;
        // Whatever was cut off before, everything is of one package now.
        self.degraded.retain(|text| !text.starts_with(CUT_OFF));
        // In the union's order, which begins with the new manifest's.
        self.arrange(entries.into_iter().flatten().collect());
        match side {
            Side::New => {
                self.upgrades.before = Some(Before::Whole(Box::new(other)));
                self.upgrades.before_init = init;
                self.upgrades.count = self.upgrades.count.saturating_add(1);
                self.upgrades.end = Some(End::UntilReboot);
                self.upgrades.reason.clear();
                self.journal.say(
                    Level::Info,
                    format_args!("upgrade done: from=\"{}\" to=\"{}\"", cut(&from), cut(&to)),
                );
                self.record_of_init(
                    Reason::Upgrade,
                    "upgrade_done",
                    format_args!(
                        "\"from\":\"{}\",\"to\":\"{}\"",
                        Json(&cut(&from)),
                        Json(&cut(&to))
                    ),
                );
            }
            Side::Old => {
                self.upgrades.end = Some(End::RolledBack);
                // Who had been stopped, and is the same in both packages, was not put back.
                self.upgrades.cut_off = came_back;
                let reason = self.upgrades.reason.clone();
                self.journal.say(
                    Level::Warn,
                    format_args!("rolled back: to=\"{}\" reason=\"{reason}\"", cut(&from)),
                );
                self.record_of_init(
                    Reason::Rollback,
                    "rolled_back",
                    format_args!(
                        "\"from\":\"{}\",\"to\":\"{}\",\"reason\":\"{}\"",
                        Json(&cut(&to)),
                        Json(&cut(&from)),
                        Json(&reason)
                    ),
                );
            }
        }
        self.release_images();
        if side == Side::New && keep {
            self.keep_package();
        }
        self.rearm();
    }

    /// Lets executables go that neither the running package nor the one before needs.
    fn release_images(&mut self) {
        for i in 0..self.images.len() {
            let before = self.upgrades.before.iter().flat_map(Before::entries);
            let used = i <= super::VB_SERVICES
                || self.units.iter().any(|u| u.image == i)
                || before.clone().any(|entry| entry.image == i);
            if let Some(image) = self.images.get_mut(i).filter(|_| !used) {
                if let Held::Yes(fd) = &image.held {
                    self.journal.state.unlist(fd.as_fd());
                }
                if let Some(fd) = &image.fallback {
                    self.journal.state.unlist(fd.as_fd());
                }
                *image = Image {
                    name: String::new(),
                    digest: String::new(),
                    held: Held::No("released".to_owned()),
                    fallback: None,
                };
            }
        }
    }

    pub(super) fn keep_package(&mut self) {
        let handle = self
            .found
            .as_ref()
            .and_then(|f| crate::package::handle(f).ok());
        let device = self.kept_on();
        let (Some(handle), Some(device)) = (handle, device) else {
            return self.kept(&Err("no device".to_owned()));
        };
        self.upgrades.stage = Stage::Keeping;
        let task = Task::KeepPackage { device: &device };
        let ask = Purpose::Upgrade(Ask::Keep);
        if !self.helper.ask(ask, &task, Some(handle)) {
            self.kept(&Err("the helper's queue is full".to_owned()));
        }
    }

    fn kept(&mut self, result: &Result<u64, String>) {
        self.upgrades.stage = Stage::Idle;
        self.note_kept(result);
        self.rearm();
    }

    fn note_kept(&mut self, result: &Result<u64, String>) {
        match result {
            Ok(bytes) => {
                self.upgrades.end = Some(End::Kept);
                self.upgrades.on_device = self.found.as_ref().map(|f| f.digest.clone());
                // Its tensors lay where the new ones are now.
                let device = self.kept_on().unwrap_or_default();
                let overwritten = |b: &Before| place_of(b.name()) == device;
                if self.upgrades.before.as_ref().is_some_and(overwritten) {
                    self.upgrades.before = None;
                    self.release_images();
                }
                self.journal.say(
                    Level::Info,
                    format_args!("package kept: device={device} bytes={bytes}"),
                );
                self.journal.event(
                    Weight::Important,
                    ["package_kept", "machine", ""],
                    format_args!("\"device\":\"{}\",\"bytes\":{bytes}", Json(&device)),
                );
            }
            Err(e) => {
                self.upgrades.reason = format!("{}: {}", Reason::NotKept.as_str(), cut(e));
                let reason = self.upgrades.reason.clone();
                self.degrade(format!("package not kept, {reason}"));
                self.journal.event(
                    Weight::Important,
                    ["package_not_kept", "machine", ""],
                    format_args!("\"reason\":\"{}\"", Json(&cut(&reason))),
                );
            }
        }
    }
}

/// Where a package lies, by its name.
pub(super) fn place_of(name: &str) -> &str {
    name.split(' ').next().unwrap_or_default()
}

/// How the sentence begins that a crash in the middle leaves.
pub(super) const CUT_OFF: &str = "upgrade cut off on the way to ";
/// The default window.
const WATCH_S: u64 = 30;
/// The longest one.
const WATCH_S_MAX: u64 = 3600;

fn bit(i: Index) -> u32 {
    u32::try_from(i)
        .ok()
        .and_then(|i| 1u32.checked_shl(i))
        .unwrap_or(0)
}

/// Whether a cell made for the one serves the other.
fn has_same_cell(a: &Service, b: &Service) -> bool {
    a.profile == b.profile
        && a.image == b.image
        && a.args.first() == b.args.first()
        && a.data == b.data
        && a.network == b.network
        && a.tmp_bytes == b.tmp_bytes
        && a.needs == b.needs
        && (a.notify || a.watchdog_ms > 0) == (b.notify || b.watchdog_ms > 0)
}

/// What changes, in the order of what needs what; what vanishes comes last, in the opposite order.
fn order_of(
    [old, new]: &[Vec<Option<Entry>>; 2],
    model_differs: bool,
    init_differs: bool,
) -> heapless::Vec<Planned, UNITS_MAX> {
    let mut services = heapless::Vec::new();
    let mut done: Vec<&str> = Vec::new();
    // Each pass takes what waits for nothing more; needs make no rings.
    for _ in 0..new.len() {
        for (unit, entry) in new.iter().enumerate() {
            let Some(entry) = entry else { continue };
            let name = entry.service.name.as_str();
            let waits = |n: &manifest::Name| !done.contains(&n.as_str());
            if done.contains(&name) || entry.service.needs.iter().any(waits) {
                continue;
            }
            done.push(name);
            let before = old.get(unit).and_then(Option::as_ref);
            let maps = entry.service.pass.iter().any(|p| matches!(p, Pass::Rts));
            let change = match before {
                None => Change::Add,
                Some(before)
                    if !is_same(before, entry)
                        || model_differs && maps
                        || init_differs && entry.image == VECTOR_BOOT =>
                {
                    Change::Replace
                }
                Some(_) => continue,
            };
            // There are never more than places.
            let _ = services.push(Planned {
                unit,
                change,
                limit_ns: limit_of(&entry.service),
            });
        }
    }
    for (unit, entry) in old.iter().enumerate().rev() {
        let gone = new.get(unit).is_some_and(Option::is_none);
        if let Some(entry) = entry.as_ref().filter(|_| gone) {
            let _ = services.push(Planned {
                unit,
                change: Change::Remove,
                limit_ns: limit_of(&entry.service),
            });
        }
    }
    services
}

fn is_same(a: &Entry, b: &Entry) -> bool {
    let of = |entry: &Entry| Service {
        uid: None,
        ..entry.service.clone()
    };
    a.uid == b.uid && a.image == b.image && of(a) == of(b)
}

fn limit_of(service: &Service) -> u64 {
    let own = u64::from(service.start_timeout_ms) + u64::from(service.stop_timeout_ms);
    own.saturating_mul(1_000_000).saturating_add(SLACK_NS)
}
