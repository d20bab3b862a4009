//! The DHCP client of one link (RFC 2131), as a state machine.
//!
//! Pure: takes `(now, Input)`, returns [`Action`]s, touches no socket and no clock. The shell sends
//! what it is told, and calls [`Client::step`] with [`Input::Tick`] when [`Client::deadline`] has
//! come. Must never: keep an address beyond its lease, send more than [`BURST`] messages at once and
//! one every [`PACE_NS`] after, stop trying while the link is there.
//! Start with [`Client::step`]; `docs/network.md` draws the states.

pub mod lease;
pub mod message;
#[cfg(test)]
mod tests;

use lease::Lease;
use message::{Asks, Kind, Refusal, Reply};
use std::net::Ipv4Addr;

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// Messages that may follow each other without a pause: a discovery, a request and their repeats.
pub const BURST: u32 = 6;
/// After that, one message each: a server that answers everything at once cannot make us faster.
pub const PACE_NS: u64 = 2 * S;
/// First pause before a repeat, doubled up to the last. RFC 2131, 4.1 has 4 s for the first; a
/// machine whose services wait for its network starts with half of it.
const REPEAT_FIRST_NS: u64 = 2 * S;
const REPEAT_LAST_NS: u64 = 64 * S;
/// Requests for an offer, and for an address that we had, before it is given up.
const REQUESTS_MAX: u32 = 4;
/// Pause after an address was refused or was taken by somebody else (RFC 2131, 3.1.5: at least 10 s).
const RETRY_FIRST_NS: u64 = 2 * S;
const DECLINE_PAUSE_NS: u64 = 10 * S;
/// Probes whether an address is taken, and their distance: RFC 5227's three with seconds between them
/// would be most of a boot. Who uses an address on the same wire answers within a millisecond.
const PROBES: u32 = 2;
const PROBE_NS: u64 = 100 * MS;
/// Between two questions to renew: half of what is left, but within these.
const RENEW_PAUSE_NS_MIN: u64 = 2 * S;
const RENEW_PAUSE_NS_MAX: u64 = 3600 * S;
/// How many discoveries pass over a server that went back on its offer.
const SHUNNED_TRIES: u32 = 2;

/// What happens to a client.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// The link's carrier came.
    CarrierUp,
    /// It went.
    CarrierDown,
    /// [`Client::deadline`] has come, or not yet.
    Tick,
    /// A server's message, and the hardware address that it came from.
    Reply(&'a Reply, [u8; 6]),
    /// Somebody with this hardware address says that it has this address.
    Claimed(Ipv4Addr, [u8; 6]),
    /// The kernel does not take what [`Action::Configure`] said, or has lost it.
    Unusable,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this message.
    Send {
        /// What it asks.
        asks: Asks,
        /// Its number.
        xid: u32,
        /// Seconds since the asking began.
        seconds: u16,
        /// To this server at this hardware address; `None`: to everybody.
        to: Option<(Ipv4Addr, [u8; 6])>,
    },
    /// Ask the link who has this address.
    Probe(Ipv4Addr),
    /// Give the link this address, and the rest of the lease.
    Configure(Box<Lease>),
    /// Take away what [`Action::Configure`] gave.
    Deconfigure(Ipv4Addr),
    /// Say that something was refused, from this server if one is known.
    Refused(Refusal, Option<Ipv4Addr>),
    /// Say what happened.
    Tell(Told),
}

/// What happened, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The server does not let us have the address.
    Nak(Ipv4Addr),
    /// Somebody else has the address.
    Taken(Ipv4Addr, [u8; 6]),
    /// The lease is over.
    Over(Ipv4Addr),
    /// Nobody answers about the address that we had before.
    Forgotten(Ipv4Addr),
}

/// Where a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// No carrier.
    Down,
    /// A pause after a failure.
    Waiting { until: u64 },
    /// Asking who has an address for us.
    Selecting(Exchange),
    /// Asking for the offered one.
    Requesting {
        exchange: Exchange,
        offer: Box<Lease>,
    },
    /// Asking whether the one that we had is still ours.
    Rebooting {
        exchange: Exchange,
        address: Ipv4Addr,
    },
    /// Given one; asking the link whether it is taken.
    Probing {
        lease: Box<Lease>,
        probes: u32,
        next: u64,
    },
    /// Using it.
    Bound(Box<Lease>),
    /// Using it, and asking its server to go on.
    Renewing {
        exchange: Exchange,
        lease: Box<Lease>,
    },
    /// Using it, and asking everybody to go on.
    Rebinding {
        exchange: Exchange,
        lease: Box<Lease>,
    },
}

/// One question and its repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exchange {
    xid: u32,
    begun: u64,
    /// When it is asked next.
    next: u64,
    /// How often it was asked.
    tries: u32,
    /// When it was first asked, once it was: a lease counts from there, whichever copy is answered.
    first_sent: Option<u64>,
}

/// The client of one link.
#[derive(Debug, Clone)]
pub struct Client {
    state: State,
    mac: [u8; 6],
    random: Random,
    allowance: Allowance,
    /// What the link was given.
    configured: Option<Ipv4Addr>,
    /// The lease that a lost carrier interrupted, or that is in force.
    last: Option<Box<Lease>>,
    /// Failures in a row, for the pause after the next.
    failures: u32,
    shunned: Option<Ipv4Addr>,
}

impl Client {
    /// A client without carrier.
    #[must_use]
    pub fn new(mac: [u8; 6], seed: u64) -> Self {
        Self {
            state: State::Down,
            mac,
            random: Random(seed | 1),
            allowance: Allowance::default(),
            configured: None,
            last: None,
            failures: 0,
            shunned: None,
        }
    }

    /// The word for where it is, as RFC 2131 has it.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.state {
            State::Down => "down",
            State::Waiting { .. } => "init",
            State::Selecting(_) => "selecting",
            State::Requesting { .. } => "requesting",
            State::Rebooting { .. } => "rebooting",
            State::Probing { .. } => "probing",
            State::Bound(_) => "bound",
            State::Renewing { .. } => "renewing",
            State::Rebinding { .. } => "rebinding",
        }
    }

    /// The lease in use.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound(lease)
            | State::Renewing { lease, .. }
            | State::Rebinding { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// Whether it has asked so often without an answer that another link is worth a try.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        match self.state {
            State::Selecting(exchange) => exchange.tries >= REQUESTS_MAX,
            State::Waiting { .. } => self.failures >= REQUESTS_MAX,
            _ => false,
        }
    }

    /// Whether messages of servers are awaited.
    #[must_use]
    pub fn listens(&self) -> bool {
        !matches!(
            self.state,
            State::Down | State::Waiting { .. } | State::Bound(_) | State::Probing { .. }
        )
    }

    /// Whether it is being asked whether an address is taken.
    #[must_use]
    pub fn probes(&self) -> bool {
        matches!(self.state, State::Probing { .. })
    }

    /// When [`Input::Tick`] is due; `None`: never, as long as nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let asked = |e: &Exchange| e.next.max(self.allowance.next_ns());
        let end = self.last.as_ref().and_then(|l| l.ends_ns);
        let next = match &self.state {
            State::Down => None,
            State::Waiting { until } => Some(*until),
            State::Selecting(e)
            | State::Requesting { exchange: e, .. }
            | State::Rebooting { exchange: e, .. } => Some(asked(e)),
            State::Probing { next, .. } => Some(*next),
            State::Bound(lease) => Some(lease.renew_ns),
            State::Renewing { exchange, lease } => Some(asked(exchange).min(lease.rebind_ns)),
            State::Rebinding { exchange, .. } => Some(asked(exchange)),
        };
        match (next, end) {
            (Some(next), Some(end)) => Some(next.min(end)),
            (next, end) => next.or(end),
        }
    }

    /// One step.
    #[must_use]
    pub fn step(&mut self, now: u64, input: Input<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.expire(now, &mut actions);
        match input {
            Input::CarrierUp => self.carrier_up(now),
            Input::CarrierDown => self.carrier_down(),
            Input::Reply(reply, from) => self.answer(now, reply, from, &mut actions),
            Input::Claimed(address, mac) => self.claimed(now, address, mac, &mut actions),
            Input::Unusable => self.unusable(now, &mut actions),
            Input::Tick => {}
        }
        self.go_on(now, &mut actions);
        actions
    }

    /// Takes back what was configured, for another link to take over or for the end.
    #[must_use]
    pub fn release(&mut self) -> Vec<Action> {
        self.carrier_down();
        let mut actions = Vec::new();
        self.deconfigure(&mut actions);
        actions
    }

    // --- time ----------------------------------------------------------------------------------

    /// A lease that is over is not used any more, whatever else happens.
    fn expire(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.last.as_ref().is_none_or(|l| !l.is_over(now)) {
            return;
        }
        let over = self.last.take();
        if let (Some(lease), Some(_)) = (over, self.configured) {
            actions.push(Action::Tell(Told::Over(lease.address)));
            self.deconfigure(actions);
        }
        if !matches!(
            self.state,
            State::Down | State::Waiting { .. } | State::Selecting(_) | State::Requesting { .. }
        ) {
            self.select(now);
        }
    }

    /// What the time brings: repeats, probes, the end of pauses.
    fn go_on(&mut self, now: u64, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Waiting { until } if now >= *until => self.select(now),
            State::Requesting { exchange, offer }
                if exchange.tries >= REQUESTS_MAX && now >= exchange.next =>
            {
                self.shunned = Some(offer.server);
                self.fail(now, RETRY_FIRST_NS);
            }
            State::Rebooting { exchange, address }
                if exchange.tries >= REQUESTS_MAX && now >= exchange.next =>
            {
                // RFC 2131, 3.2 would let us use it on; the network may have become another.
                actions.push(Action::Tell(Told::Forgotten(*address)));
                self.last = None;
                self.deconfigure(actions);
                self.select(now);
            }
            State::Probing {
                lease,
                probes,
                next,
            } if now >= *next => {
                if *probes < PROBES {
                    actions.push(Action::Probe(lease.address));
                    *probes += 1;
                    *next = now + PROBE_NS;
                } else if lease.is_over(now) {
                    self.select(now);
                } else {
                    let lease = lease.clone();
                    self.bind(lease, actions);
                }
            }
            _ => {}
        }
        self.age(now);
        self.ask(now, actions);
    }

    /// From using a lease to renewing it and on. A late answer gives one that is past both times already.
    fn age(&mut self, now: u64) {
        if let State::Bound(lease) = &self.state
            && now >= lease.renew_ns
        {
            let lease = lease.clone();
            let exchange = self.exchange(now);
            self.state = State::Renewing { exchange, lease };
        }
        if let State::Renewing { lease, .. } = &self.state
            && now >= lease.rebind_ns
        {
            let lease = lease.clone();
            let exchange = self.exchange(now);
            self.state = State::Rebinding { exchange, lease };
        }
    }

    /// Sends the question that is due, if the allowance lets it.
    fn ask(&mut self, now: u64, actions: &mut Vec<Action>) {
        let (exchange, asks, to, pause) = match &mut self.state {
            State::Selecting(e) => {
                let pause = pause_after(e.tries);
                (e, Asks::Discover, None, pause)
            }
            State::Requesting { exchange: e, offer } => {
                let asks = Asks::Select {
                    address: offer.address,
                    server: offer.server,
                };
                let pause = pause_after(e.tries);
                (e, asks, None, pause)
            }
            State::Rebooting {
                exchange: e,
                address,
            } => {
                let pause = pause_after(e.tries);
                (e, Asks::Reboot(*address), None, pause)
            }
            State::Renewing { exchange, lease } => {
                let pause = renew_pause(now, lease.rebind_ns);
                let server = (lease.server, lease.server_mac);
                (exchange, Asks::Renew(lease.address), Some(server), pause)
            }
            State::Rebinding { exchange, lease } => {
                let pause = renew_pause(now, lease.ends_ns.unwrap_or(u64::MAX));
                (exchange, Asks::Renew(lease.address), None, pause)
            }
            _ => return,
        };
        if now < exchange.next || !self.allowance.take(now) {
            return;
        }
        exchange.tries = exchange.tries.saturating_add(1);
        exchange.first_sent.get_or_insert(now);
        exchange.next = now.saturating_add(self.random.about(pause));
        let seconds = now.saturating_sub(exchange.begun) / S;
        actions.push(Action::Send {
            asks,
            xid: exchange.xid,
            seconds: u16::try_from(seconds).unwrap_or(u16::MAX),
            to,
        });
    }

    // --- what others say -----------------------------------------------------------------------

    fn carrier_up(&mut self, now: u64) {
        if self.state != State::Down {
            return;
        }
        match &self.last {
            Some(lease) => {
                let address = lease.address;
                let exchange = self.exchange(now);
                self.state = State::Rebooting { exchange, address };
            }
            None => self.select(now),
        }
    }

    fn carrier_down(&mut self) {
        self.state = State::Down;
    }

    fn answer(&mut self, now: u64, reply: &Reply, from: [u8; 6], actions: &mut Vec<Action>) {
        let server = reply.server;
        let exchange = match &self.state {
            State::Selecting(e)
            | State::Requesting { exchange: e, .. }
            | State::Rebooting { exchange: e, .. }
            | State::Renewing { exchange: e, .. }
            | State::Rebinding { exchange: e, .. } => *e,
            _ => return,
        };
        // Not the answer to a question of ours: older, or a guess.
        let Some(first_sent) = exchange.first_sent.filter(|_| exchange.xid == reply.xid) else {
            return;
        };
        let expected = match (&self.state, reply.kind) {
            (State::Selecting(_), Kind::Offer) => {
                self.shunned != Some(server) || exchange.tries > SHUNNED_TRIES
            }
            (State::Selecting(_), _) | (_, Kind::Offer) => false,
            (State::Requesting { offer, .. }, _) => offer.server == server,
            (State::Renewing { lease, .. }, _) => lease.server == server,
            _ => true,
        };
        if !expected {
            return;
        }
        if reply.kind == Kind::Nak {
            actions.push(Action::Tell(Told::Nak(server)));
            if let State::Requesting { .. } = self.state {
                self.shunned = Some(server);
            }
            return self.give_up(now, RETRY_FIRST_NS, actions);
        }
        let (lease, left_out) = match Lease::read(reply, from, first_sent) {
            Ok(read) => read,
            Err(refusal) => {
                actions.push(Action::Refused(refusal, Some(server)));
                // A bad offer is passed over; a bad acknowledgement is no answer, so we ask again.
                return;
            }
        };
        let asked = match &self.state {
            State::Requesting { offer, .. } => offer.address,
            State::Rebooting { address, .. } => *address,
            State::Renewing { lease, .. } | State::Rebinding { lease, .. } => lease.address,
            _ => lease.address,
        };
        if lease.address != asked {
            let refusal = Refusal::new("address", lease.address, "the one asked for");
            actions.push(Action::Refused(refusal, Some(server)));
            return;
        }
        let lease = Box::new(lease);
        if let State::Selecting(_) = self.state {
            let exchange = Exchange {
                xid: exchange.xid,
                ..self.exchange(now)
            };
            self.state = State::Requesting {
                exchange,
                offer: lease,
            };
            return;
        }
        // What was left out is said when it counts, not for every offer.
        actions.extend(
            left_out
                .into_iter()
                .map(|r| Action::Refused(r, Some(server))),
        );
        if lease.is_over(now) {
            return;
        }
        if self.configured == Some(lease.address) {
            self.bind(lease, actions);
        } else {
            self.state = State::Probing {
                lease,
                probes: 0,
                next: now,
            };
        }
    }

    fn claimed(&mut self, now: u64, address: Ipv4Addr, mac: [u8; 6], actions: &mut Vec<Action>) {
        let State::Probing { lease, .. } = &self.state else {
            return;
        };
        if lease.address != address || mac == self.mac {
            return;
        }
        let server = lease.server;
        actions.push(Action::Tell(Told::Taken(address, mac)));
        if self.allowance.take(now) {
            actions.push(Action::Send {
                asks: Asks::Decline { address, server },
                xid: self.random.next(),
                seconds: 0,
                to: None,
            });
        }
        self.give_up(now, DECLINE_PAUSE_NS, actions);
    }

    fn unusable(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.last = None;
        self.deconfigure(actions);
        if self.state != State::Down {
            self.fail(now, RETRY_FIRST_NS);
        }
    }

    // --- transitions ---------------------------------------------------------------------------

    fn select(&mut self, now: u64) {
        self.state = State::Selecting(self.exchange(now));
    }

    fn bind(&mut self, lease: Box<Lease>, actions: &mut Vec<Action>) {
        self.failures = 0;
        self.shunned = None;
        self.configured = Some(lease.address);
        self.last = Some(lease.clone());
        actions.push(Action::Configure(lease.clone()));
        self.state = State::Bound(lease);
    }

    fn give_up(&mut self, now: u64, pause: u64, actions: &mut Vec<Action>) {
        self.last = None;
        self.deconfigure(actions);
        self.fail(now, pause);
    }

    fn fail(&mut self, now: u64, pause: u64) {
        let doubled = pause.saturating_mul(1 << self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        let pause = self.random.about(doubled.min(REPEAT_LAST_NS));
        self.state = State::Waiting {
            until: now.saturating_add(pause),
        };
    }

    fn deconfigure(&mut self, actions: &mut Vec<Action>) {
        actions.extend(self.configured.take().map(Action::Deconfigure));
    }

    fn exchange(&mut self, now: u64) -> Exchange {
        Exchange {
            xid: self.random.next(),
            begun: now,
            next: now,
            tries: 0,
            first_sent: None,
        }
    }
}

/// 2, 4, 8 ... 64 s.
fn pause_after(tries: u32) -> u64 {
    (REPEAT_FIRST_NS << tries.min(5)).min(REPEAT_LAST_NS)
}

fn renew_pause(now: u64, until: u64) -> u64 {
    (until.saturating_sub(now) / 2).clamp(RENEW_PAUSE_NS_MIN, RENEW_PAUSE_NS_MAX)
}

/// Messages that may be sent now: a bucket of [`BURST`], filled by one each [`PACE_NS`].
#[derive(Debug, Clone, Default)]
struct Allowance {
    /// Up to when the messages that were sent have used the bucket.
    used_until: u64,
}

impl Allowance {
    fn next_ns(&self) -> u64 {
        self.used_until
            .saturating_sub(u64::from(BURST - 1) * PACE_NS)
    }

    fn take(&mut self, now: u64) -> bool {
        if now < self.next_ns() {
            return false;
        }
        self.used_until = self.used_until.max(now).saturating_add(PACE_NS);
        true
    }
}

/// xorshift64*: spreads repeats and numbers questions; a guesser on the same link sees both anyway.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        // The high half of the product is its good one.
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A time within a quarter of this one.
    fn about(&mut self, ns: u64) -> u64 {
        let quarter = ns / 4;
        let spread = u64::from(self.next()) * (quarter / 1024) / (u64::from(u32::MAX) / 2048);
        ns - quarter + spread.min(2 * quarter)
    }
}
