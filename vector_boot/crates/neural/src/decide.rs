//! What follows from the registers at a beat: interrupts, the policy's wishes, orders, rows.
//!
//! Owns: the tables and weights in force, the daemon, PID 1's ring of `cortex_journal`, and how often
//! anything may be written down. Start with [`Decider::beat`].
//!
//! Never here: allocation at a beat, waiting, a service.

use crate::default_policy;
use crate::interrupts::{Edge, Table};
use crate::journal::{Begun, Entry, Hash, Kind, Ring, Row, Subject};
use crate::limits::Limits;
use crate::metabolic::{self, Change, Control, Daemon, Order, Service, Settings};
use crate::policy::{CONTROLS, Health, Weights};
use crate::system_model::{ModelError, Tensors};
use std::fs::File;
use wire::sensors::{COUNT, Decisions, REGISTERS};

/// Rows, and events, that may come at once before the hourly rates count.
const BURST: f32 = 32.0;
/// Deeds of one beat at most: every edge, every control and every order.
pub const DEEDS_MAX: usize = crate::interrupts::EDGES_MAX + CONTROLS + metabolic::ORDERS_MAX;
/// A row keeps its system tensor's name; more of them are not there.
const REFUSALS_MAX: usize = 7;

/// Where a row of the journal went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Its number; 0 if it was over the rate, and is only counted.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// Whether the ledger is to have it.
    pub tell: bool,
}

/// Something that happened at a beat, and is to be done or said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Deed {
    /// An interrupt was raised or cleared.
    Interrupt(Edge, Recorded),
    /// A control changed.
    Changed(Change, Recorded),
    /// An order about a service; the ledger has the service's own events.
    Order(Order),
}

/// The deeds of one beat.
pub type Deeds = heapless::Vec<Deed, DEEDS_MAX>;

/// What a model's system tensors had wrong: the default's stand in.
pub type Refusals = heapless::Vec<ModelError, REFUSALS_MAX>;

/// One line of the table in force, for the console.
pub type LineState = (crate::interrupts::Line, bool, u32, Option<u64>);

/// The decisions of PID 1.
#[derive(Debug)]
pub struct Decider {
    table: Table,
    limits: Limits,
    /// None while it is the built-in one, which costs no memory.
    policy: Option<Box<Weights>>,
    generation: u64,
    health: Health,
    daemon: Daemon,
    wishes: [f32; CONTROLS],
    ring: Ring,
    rows: Bucket,
    events: Bucket,
    /// Rows that were over the rate since the last one.
    unsaid: u64,
    /// Interrupts that ended with the table that had them, until they are asked for.
    gone: Vec<Deed>,
}

impl Decider {
    /// Begins, or goes on where the image before was: with its ring, its raised lines and its settings.
    #[must_use]
    pub fn new(ring: Option<(File, u64)>, before: &Decisions, period_ms: f32, at_ns: u64) -> Self {
        let (file, base) = ring.unzip();
        let (ring, begun) = Ring::over(file, base.unwrap_or(0));
        let limits = Limits::DEFAULT;
        let mut decider = Self {
            table: Table::default(),
            limits,
            policy: None,
            generation: 0,
            health: Health::Good,
            daemon: Daemon::new(period_ms),
            wishes: [0.0; CONTROLS],
            ring,
            rows: Bucket::full(at_ns),
            events: Bucket::full(at_ns),
            unsaid: 0,
            gone: Vec::new(),
        };
        if before.settings != Settings::default() {
            decider.daemon.go_on(&before.settings, &limits);
        }
        if begun == Begun::Anew {
            let why = if before.journal_seq == 0 {
                "boot"
            } else {
                "the rows before are lost"
            };
            decider.ring.begin(why, at_ns, 0);
        }
        decider
    }

    /// Takes a model's system tensors in the place of those before; without a model all are the default's. What is
    /// wrong with one is answered, and written down.
    pub fn take_model(&mut self, tensors: Option<&Tensors<'_>>, at_ns: u64, beat: u64) -> Refusals {
        let mut refusals = Refusals::new();
        let mut note = |error| {
            let _no_place = refusals.push(error);
        };
        let limits = tensors.map_or(Ok(Limits::DEFAULT), Limits::from_tensors);
        self.limits = limits.map_err(&mut note).unwrap_or(Limits::DEFAULT);
        let table = tensors.map_or_else(|| Ok(Table::default()), Table::from_tensors);
        let table = table.map_err(&mut note).unwrap_or_default();
        let default = &default_policy::DEFAULT;
        let weights = tensors.map(|tensors| Weights::from_tensors(tensors, default));
        let weights = weights.and_then(|weights| weights.map_err(&mut note).ok());
        self.policy = weights.filter(|weights| weights != default).map(Box::new);
        self.generation = 0;
        for edge in self.table.replace(table) {
            let recorded = self.record(&row_of_edge(&edge, at_ns, beat));
            self.gone.push(Deed::Interrupt(edge, recorded));
        }
        for error in &refusals {
            let mut row = Row::new(Kind::ModelRefused, at_ns, beat);
            row.subject = Subject::new(error.tensor);
            self.ring.push(&row);
        }
        refusals
    }

    /// The interrupts that ended with the tables before the last one taken.
    pub fn take_gone(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.gone)
    }

    /// The image before had these lines of the table raised.
    pub fn go_on_raised(&mut self, raised: u64) {
        // A table has at most 32 lines.
        self.table.go_on(raised as u32);
    }

    /// An order about this service was not carried out.
    pub fn lost(&mut self, now_ns: u64, service: &str) {
        self.daemon.lost(now_ns, service);
    }

    /// Swaps the policy; the one before is handed back, `None` for the built-in one.
    pub fn set_policy(
        &mut self,
        weights: Option<Box<Weights>>,
        generation: u64,
    ) -> Option<Box<Weights>> {
        self.generation = generation;
        std::mem::replace(&mut self.policy, weights)
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Weights {
        self.policy.as_deref().unwrap_or(&default_policy::DEFAULT)
    }

    /// The limits in force.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// One beat over these registers. While not `steady` (something starts, ends or is replaced) no setting moves.
    pub fn beat(
        &mut self,
        (now_ns, beat): (u64, u64),
        registers: &[f32; COUNT],
        period_ms: f32,
        services: &[Service<'_>],
        steady: bool,
    ) -> Deeds {
        let mut deeds = Deeds::new();
        for edge in self.table.step(now_ns, registers) {
            let recorded = self.record(&row_of_edge(&edge, now_ns, beat));
            let _no_place = deeds.push(Deed::Interrupt(edge, recorded));
        }
        (self.wishes, self.health) = self.policy().judged(registers);
        metabolic::reflexes(&mut self.wishes, self.table.handlers());
        if !steady {
            return deeds;
        }
        let (changes, orders) =
            self.daemon
                .step(now_ns, &self.wishes, &self.limits, period_ms, services);
        for change in changes {
            let recorded = self.record(&row_of_change(&change, now_ns, beat));
            let _no_place = deeds.push(Deed::Changed(change, recorded));
        }
        for order in orders {
            let _no_place = deeds.push(Deed::Order(order));
        }
        deeds
    }

    /// Writes a row, if the rate allows one.
    pub fn record(&mut self, row: &Row) -> Recorded {
        if !self.rows.take(row.at_ns, self.limits.rows_per_hour_max) {
            self.unsaid = self.unsaid.saturating_add(1);
            return Recorded {
                seq: 0,
                hash: [0; 32],
                tell: false,
            };
        }
        if self.unsaid > 0 {
            let mut lost = Row::new(Kind::Lost, row.at_ns, row.beat);
            lost.id = std::mem::take(&mut self.unsaid);
            self.ring.push(&lost);
        }
        // Generations are counted one by one.
        let generation = u32::try_from(self.generation).unwrap_or(u32::MAX);
        let Entry { seq, hash, .. } = self.ring.push(&Row { generation, ..*row });
        let tell = self.events.take(row.at_ns, self.limits.events_per_hour_max);
        Recorded { seq, hash, tell }
    }

    /// What the page shows.
    #[must_use]
    pub fn decisions(&self) -> Decisions {
        Decisions {
            raised: self.table.raised().into(),
            generation: self.generation,
            wishes: self.wishes,
            settings: *self.daemon.settings(),
            journal_seq: self.ring.chain().seq(),
            journal_head: self.ring.chain().head(),
        }
    }

    /// Generation of the weights in force.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// How the policy did in the last beat.
    #[must_use]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// PID 1's ring.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// A line of the interrupt table.
    #[must_use]
    pub fn line(&self, place: usize) -> Option<LineState> {
        self.table.line(place)
    }

    /// A setting in force.
    #[must_use]
    pub fn setting(&self, control: Control) -> f32 {
        self.daemon.setting(control)
    }
}

fn row_of_edge(edge: &Edge, at_ns: u64, beat: u64) -> Row {
    let kind = if edge.raised {
        Kind::Raised
    } else {
        Kind::Cleared
    };
    let name = REGISTERS.get(usize::from(edge.line.register));
    Row {
        code: edge.line.register,
        id: edge.place as u64,
        values: [edge.value, edge.line.threshold, f32::NAN, f32::NAN],
        subject: Subject::new(name.map_or("", |register| register.name)),
        ..Row::new(kind, at_ns, beat)
    }
}

fn row_of_change(change: &Change, at_ns: u64, beat: u64) -> Row {
    Row {
        code: change.control as u16,
        values: [change.before, change.after, change.wish, f32::NAN],
        subject: Subject::new(change.control.name()),
        ..Row::new(Kind::Control, at_ns, beat)
    }
}

/// What may happen so often an hour, and [`BURST`] at once.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f32,
    at_ns: u64,
}

impl Bucket {
    const fn full(at_ns: u64) -> Self {
        Self { left: BURST, at_ns }
    }

    fn take(&mut self, now_ns: u64, per_hour: f32) -> bool {
        let hours = now_ns.saturating_sub(self.at_ns) as f64 / 3.6e12;
        // A share of an hour's rate; rounding loses less than a row a year.
        let more = (hours * f64::from(per_hour)) as f32;
        // Too little to show in an f32 waits for the next look.
        if more >= 0.01 {
            self.left = (self.left + more).min(BURST);
            self.at_ns = now_ns;
        }
        if self.left < 1.0 || per_hour <= 0.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}
