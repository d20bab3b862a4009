//! The metabolic daemon (self-tuner): from the policy's wishes to orders, within `kernel.limits`.
//!
//! Owns: the eight settings in force and when each last changed. A wish near 0 means "as usual"; any
//! other moves its setting between "as usual" and a limit. Settings change rarely, by steps that matter,
//! and what they ask of single services is ordered a few services a beat.
//! Whatever the policy is: periods, shares and weights stay inside [`Limits`], no service is held below
//! what it has, none that gives its signs of life in time is restarted, and rows and events are bounded.
//!
//! Never here: allocation, a clock, a file. Start with [`Daemon::step`].

use crate::interrupts::Handler;
use crate::limits::Limits;
use crate::policy::CONTROLS;

/// Wishes up to this are none: what a small network says about a calm machine.
const CALM: f32 = 0.1;
/// Wishes are rounded to so many steps each way: less is no change worth making.
const STEPS: f32 = 8.0;
/// Services of one machine; the manifest's own limit.
pub const SERVICES_MAX: usize = rts::manifest::SERVICES_MAX;
/// Orders about single services in one beat.
const SERVICE_ORDERS: usize = 4;
/// Orders of one beat: a request to give memory back, a restart, and knobs of services.
pub const ORDERS_MAX: usize = 2 + SERVICE_ORDERS;
/// Time between two requests to give memory back.
const RECLAIM_PAUSE_NS: u64 = 5_000_000_000;
/// Time after which a knob that was not set is ordered again; each time twice as long, since a knob that the kernel
/// does not have is not set ever.
const LOST_PAUSE_NS: u64 = 10_000_000_000;
/// The pause is doubled at most so often: then it is ten minutes.
const LOST_DOUBLED_MAX: u32 = 6;
/// A service with less than this has nothing to give back that is worth a write.
const RECLAIM_BYTES_MIN: u64 = 4 << 20;
/// A raised interrupt's handler asks for at least this.
const REFLEX: f32 = 0.5;
/// Lines a second that a service always may write.
const LOG_LINES_MIN: f32 = 10.0;
const SECOND_NS: f64 = 1e9;

/// The controls, by their place among the policy's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Control {
    /// Time between two beats, ms. Above 0: slower; below: faster.
    Heartbeat,
    /// Bytes that the greatest service is asked to give back, every 5 s. Above 0 only.
    Reclaim,
    /// `memory.high` of services, as a share of their `memory.max`; 1: none. Above 0 only.
    MemoryHigh,
    /// Share of the budget that the capacity kernel is to keep free. Above 0 only.
    Shed,
    /// Share of its watchdog's time after which a silent service is restarted; 1: the supervisor's own rule. Above 0 only.
    Silence,
    /// Share of their log rate that services have. Below 0 only.
    LogRate,
    /// Factor of the cpu weight of core services.
    WeightCore,
    /// Factor of the cpu weight of the others.
    WeightRest,
}

impl Control {
    /// Every control, by its place.
    pub const ALL: [Self; CONTROLS] = [
        Self::Heartbeat,
        Self::Reclaim,
        Self::MemoryHigh,
        Self::Shed,
        Self::Silence,
        Self::LogRate,
        Self::WeightCore,
        Self::WeightRest,
    ];

    /// For people and events.
    #[must_use]
    pub fn name(self) -> &'static str {
        let names = wire::sensors::CONTROL_NAMES;
        names.get(self as usize).copied().unwrap_or_default()
    }
}

/// The settings in force, by control.
pub type Settings = [f32; CONTROLS];

/// Settings with which everything is as the manifest and the parameters have it.
#[must_use]
pub const fn usual(period_ms: f32) -> Settings {
    [period_ms, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
}

/// What the daemon knows of a service.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Service<'a> {
    /// The manifest's name.
    pub name: &'a str,
    /// Whether it is ready.
    pub up: bool,
    /// Whether the manifest calls it core.
    pub core: bool,
    /// Its memory.
    pub rss_bytes: Option<u64>,
    /// Its limit; 0 for none.
    pub memory_max: u64,
    /// The manifest's weight.
    pub cpu_weight: u16,
    /// Share of its watchdog's time that it has been silent; none without a watchdog.
    pub silence: Option<f32>,
}

/// A setting that changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Which.
    pub control: Control,
    /// What it was.
    pub before: f32,
    /// What it is.
    pub after: f32,
    /// What the policy, or an interrupt's handler, wished.
    pub wish: f32,
}

/// Something to be done to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A service is to give back so many bytes.
    Reclaim {
        /// Its place.
        service: usize,
        /// How many.
        bytes: u64,
    },
    /// `memory.high` of a service; 0 for none.
    MemoryHigh {
        /// Its place.
        service: usize,
        /// Bytes.
        bytes: u64,
    },
    /// `cpu.weight` of a service.
    CpuWeight {
        /// Its place.
        service: usize,
        /// The weight.
        weight: u16,
    },
    /// A service is to be treated as one whose watchdog's time is over.
    Restart {
        /// Its place.
        service: usize,
    },
}

/// The orders of one beat.
pub type Orders = heapless::Vec<Order, ORDERS_MAX>;

/// The changes of one beat.
pub type Changes = heapless::Vec<Change, CONTROLS>;

/// What one service was last ordered to keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Applied {
    /// Tells that the place has another service now.
    name: u64,
    high: Option<u64>,
    weight: Option<u16>,
    /// When it is ordered once more, since an order was not carried out.
    again_ns: Option<u64>,
    /// How often that was so since a setting last changed.
    lost: u32,
}

/// The daemon.
#[derive(Debug, Clone)]
pub struct Daemon {
    settings: Settings,
    changed_ns: [Option<u64>; CONTROLS],
    applied: [Applied; SERVICES_MAX],
    next: usize,
    reclaimed_ns: Option<u64>,
    restarts: [Option<u64>; RESTARTS_MAX],
}

/// The greatest `restart_intensity`.
const RESTARTS_MAX: usize = 16;

impl Daemon {
    /// Everything as usual, with this time between two beats.
    #[must_use]
    pub const fn new(period_ms: f32) -> Self {
        Self {
            settings: usual(period_ms),
            changed_ns: [None; CONTROLS],
            applied: [Applied {
                name: 0,
                high: Some(0),
                weight: None,
                again_ns: None,
                lost: 0,
            }; SERVICES_MAX],
            next: 0,
            reclaimed_ns: None,
            restarts: [None; RESTARTS_MAX],
        }
    }

    /// Goes on behind an image that had these settings, as far as they are inside the limits; what it ordered of
    /// single services is ordered again.
    pub fn go_on(&mut self, settings: &Settings, limits: &Limits) {
        for control in Control::ALL {
            let place = control as usize;
            let (least, most) = range(control, limits);
            if let (Some(now), Some(then)) = (self.settings.get_mut(place), settings.get(place))
                && (least..=most).contains(then)
            {
                *now = *then;
            }
        }
        self.applied = [Applied::default(); SERVICES_MAX];
    }

    /// An order about this service was not carried out, or nobody knows: it is ordered again, later each time.
    pub fn lost(&mut self, now_ns: u64, service: &str) {
        let name = name_of(service);
        for applied in self.applied.iter_mut().filter(|a| a.name == name) {
            let pause = LOST_PAUSE_NS << applied.lost.min(LOST_DOUBLED_MAX);
            applied.again_ns = Some(now_ns.saturating_add(pause));
            applied.lost = applied.lost.saturating_add(1);
        }
    }

    /// The settings in force.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A setting.
    #[must_use]
    pub fn setting(&self, control: Control) -> f32 {
        self.settings.get(control as usize).copied().unwrap_or(0.0)
    }

    /// One beat: `wishes` by control, `period_ms` as the parameters have it.
    pub fn step(
        &mut self,
        now_ns: u64,
        wishes: &[f32; CONTROLS],
        limits: &Limits,
        period_ms: f32,
        services: &[Service<'_>],
    ) -> (Changes, Orders) {
        let (mut changes, mut orders) = (Changes::new(), Orders::new());
        for (control, wish) in Control::ALL.into_iter().zip(wishes) {
            self.set(now_ns, control, *wish, limits, period_ms, &mut changes);
        }
        if !changes.is_empty() {
            self.applied.iter_mut().for_each(|applied| applied.lost = 0);
        }
        self.reclaim(now_ns, services, &mut orders);
        self.restart_silent(now_ns, limits, services, &mut orders);
        for _ in services {
            if orders.is_full() {
                break;
            }
            self.next = (self.next + 1).checked_rem(services.len()).unwrap_or(0);
            self.apply((now_ns, self.next), limits, services, &mut orders);
        }
        (changes, orders)
    }

    fn set(
        &mut self,
        now_ns: u64,
        control: Control,
        wish: f32,
        limits: &Limits,
        period_ms: f32,
        changes: &mut Changes,
    ) {
        let after = setting(control, wish, limits, period_ms);
        let (Some(now), Some(changed)) = (
            self.settings.get_mut(control as usize),
            self.changed_ns.get_mut(control as usize),
        ) else {
            return;
        };
        let rests = changed.is_some_and(|then| {
            (now_ns.saturating_sub(then) as f64) < f64::from(limits.change_pause_ms) * 1e6
        });
        // Limits may come with another package; what is outside of them does not rest there.
        let (least, most) = range(control, limits);
        let inside = (least..=most).contains(now);
        if after == *now || (rests && inside) {
            return;
        }
        let change = Change {
            control,
            before: *now,
            after,
            wish,
        };
        if changes.push(change).is_ok() {
            *now = after;
            *changed = Some(now_ns);
        }
    }

    /// The greatest service gives back first.
    fn reclaim(&mut self, now_ns: u64, services: &[Service<'_>], orders: &mut Orders) {
        // Inside its limit, which is far below what u64 counts.
        let bytes = self.setting(Control::Reclaim) as u64;
        let rests = self
            .reclaimed_ns
            .is_some_and(|then| now_ns.saturating_sub(then) < RECLAIM_PAUSE_NS);
        if bytes == 0 || rests {
            return;
        }
        let with = services.iter().enumerate().filter(|(_, s)| s.up);
        let greatest = with.max_by_key(|(_, s)| s.rss_bytes.unwrap_or(0));
        if let Some((service, facts)) = greatest
            && let Some(rss) = facts.rss_bytes.filter(|rss| *rss >= RECLAIM_BYTES_MIN)
        {
            self.reclaimed_ns = Some(now_ns);
            // Never more than half of what it has.
            let bytes = bytes.min(rss / 2);
            let _no_place = orders.push(Order::Reclaim { service, bytes });
        }
    }

    fn restart_silent(
        &mut self,
        now_ns: u64,
        limits: &Limits,
        services: &[Service<'_>],
        orders: &mut Orders,
    ) {
        let patience = self.setting(Control::Silence);
        if patience >= 1.0 {
            return;
        }
        let silent = services
            .iter()
            .position(|s| s.up && s.silence.is_some_and(|silence| silence >= patience));
        let Some(service) = silent else {
            return;
        };
        // Whole and small by its bounds.
        let allowed = limits.restart_intensity as usize;
        let window_ns = f64::from(limits.restart_window_s) * SECOND_NS;
        let free =
            self.restarts.iter_mut().take(allowed).find(|then| {
                then.is_none_or(|then| now_ns.saturating_sub(then) as f64 >= window_ns)
            });
        if let Some(place) = free
            && orders.push(Order::Restart { service }).is_ok()
        {
            *place = Some(now_ns);
        }
    }

    fn apply(
        &mut self,
        (now_ns, place): (u64, usize),
        limits: &Limits,
        services: &[Service<'_>],
        orders: &mut Orders,
    ) {
        let share = self.setting(Control::MemoryHigh);
        let factors = [Control::WeightRest, Control::WeightCore].map(|c| self.setting(c));
        let (Some(service), Some(applied)) = (services.get(place), self.applied.get_mut(place))
        else {
            return;
        };
        let name = name_of(service.name);
        if applied.name != name {
            // Not ordered anything by this image; unless it goes on behind another, it has what the manifest says.
            let fresh = applied.name == 0 && applied.high == Some(0);
            *applied = Applied {
                name,
                high: fresh.then_some(0),
                weight: fresh.then_some(service.cpu_weight),
                ..Applied::default()
            };
        }
        if applied.again_ns.is_some_and(|then| now_ns >= then) {
            (applied.high, applied.weight, applied.again_ns) = (None, None, None);
        }
        let [rest, core] = factors;
        let factor = if service.core { core } else { rest };
        let weight = weight(service.cpu_weight, factor, limits);
        if applied.weight != Some(weight)
            && orders
                .push(Order::CpuWeight {
                    service: place,
                    weight,
                })
                .is_ok()
        {
            applied.weight = Some(weight);
        }
        // A service is held where it was when the setting came; it may shrink below.
        let settled = applied
            .high
            .is_some_and(|high| (high == 0) == (share >= 1.0));
        if service.memory_max == 0 || settled {
            return;
        }
        let bytes = memory_high(share, service);
        if let Some(bytes) = bytes
            && orders
                .push(Order::MemoryHigh {
                    service: place,
                    bytes,
                })
                .is_ok()
        {
            applied.high = Some(bytes);
        }
    }
}

/// `memory.high` of a service: its share of the limit, and never less than what it has and half as much again. 0
/// for none; nothing while its memory is not known.
fn memory_high(share: f32, service: &Service<'_>) -> Option<u64> {
    if share >= 1.0 {
        return Some(0);
    }
    let rss = service.rss_bytes?;
    // A share of a size: exact to the seven digits that matter.
    let part = (service.memory_max as f64 * f64::from(share)) as u64;
    Some(part.max(rss.saturating_add(rss / 2)))
}

/// The weight of a service whose manifest says `usual`, under a factor.
fn weight(usual: u16, factor: f32, limits: &Limits) -> u16 {
    let usual = f32::from(usual);
    let factor = factor.clamp(limits.cpu_weight_min / 100.0, limits.cpu_weight_max / 100.0);
    // cgroup-v2: weights are from 1 to 10,000.
    (usual * factor).round().clamp(1.0, 10_000.0) as u16
}

/// Lines a second that a service with this rate (0: any) may write under a setting of [`Control::LogRate`].
#[must_use]
pub fn log_rate(share: f32, rate: u32, limits: &Limits) -> u32 {
    if share >= 1.0 {
        return rate;
    }
    let most = limits.log_lines_per_s_max as u32;
    let whole = if rate == 0 { most } else { rate };
    // A share of a small number.
    let held = (whole as f32 * share.max(limits.log_share_min)).max(LOG_LINES_MIN);
    (held as u32).min(whole)
}

/// FNV-1a: tells names apart, nothing more; never 0.
fn name_of(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash | 1
}

/// What raised interrupts wish at least, whatever the policy says.
pub fn reflexes(wishes: &mut [f32; CONTROLS], handlers: impl Iterator<Item = Handler>) {
    for handler in handlers {
        let controls: &[Control] = match handler {
            Handler::Reclaim => &[Control::Reclaim],
            Handler::Shed => &[Control::Shed],
            Handler::Cool => &[Control::Shed, Control::Heartbeat],
            Handler::Log | Handler::Why => &[],
        };
        for control in controls {
            if let Some(wish) = wishes.get_mut(*control as usize) {
                *wish = wish.max(REFLEX);
            }
        }
    }
}

/// Least and most of a setting.
#[must_use]
pub fn range(control: Control, limits: &Limits) -> (f32, f32) {
    match control {
        Control::Heartbeat => (limits.heartbeat_ms_min, limits.heartbeat_ms_max),
        Control::Reclaim => (0.0, limits.reclaim_bytes_max),
        Control::MemoryHigh => (limits.memory_high_share_min, 1.0),
        Control::Shed => (0.0, limits.shed_share_max),
        Control::Silence => (limits.silence_share_min, 1.0),
        Control::LogRate => (limits.log_share_min, 1.0),
        Control::WeightCore | Control::WeightRest => {
            (limits.cpu_weight_min / 100.0, limits.cpu_weight_max / 100.0)
        }
    }
}

/// What a wish makes of a control.
fn setting(control: Control, wish: f32, limits: &Limits, period_ms: f32) -> f32 {
    let usual = usual(period_ms)
        .get(control as usize)
        .copied()
        .unwrap_or(0.0);
    let one_way = match control {
        Control::Reclaim | Control::MemoryHigh | Control::Shed | Control::Silence => wish.max(0.0),
        Control::LogRate => wish.min(0.0),
        Control::Heartbeat | Control::WeightCore | Control::WeightRest => wish,
    };
    if one_way.is_nan() || one_way.abs() < CALM {
        // A person's parameter is as usual, but not outside of the limits.
        let (least, most) = range(control, limits);
        return usual.clamp(least, most);
    }
    let step = (one_way.clamp(-1.0, 1.0) * STEPS).round() / STEPS;
    let (least, most) = range(control, limits);
    let end = match control {
        Control::MemoryHigh | Control::Silence | Control::LogRate => least,
        _ if step < 0.0 => least,
        _ => most,
    };
    let usual = usual.clamp(least, most);
    (usual + (end - usual) * step.abs()).clamp(least, most)
}
