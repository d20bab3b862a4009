//! The time from NTP servers (RFC 4330, RFC 5905's rules for clients), as a state machine.
//!
//! Pure: takes `(now, ...)`, returns [`Action`]s. Time here is CLOCK_MONOTONIC; the wall clock is
//! never read, so that setting it disturbs nothing. What is found is the wall time at one moment of
//! CLOCK_MONOTONIC. Start with [`Sntp::tick`] and [`Sntp::answer`].

use std::net::SocketAddrV4;

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// Bytes of a packet without extensions.
pub const PACKET_BYTES: usize = 48;
/// How long an answer may take; more makes its time useless anyway.
const ANSWER_NS: u64 = 2 * S;
/// Between two rounds once the time is known: RFC 5905's default of 2^10 s.
const ROUND_NS: u64 = 1024 * S;
/// Pause after a round without a time, doubled up to [`ROUND_NS`]; never under 15 s (RFC 4330, 10).
const RETRY_FIRST_NS: u64 = 16 * S;
/// How long a server that says RATE is left alone, doubled each time up to a day.
const RATE_PAUSE_NS: u64 = 3600 * S;
const RATE_PAUSE_NS_MAX: u64 = 86_400 * S;
/// Root distance: half the delay to the reference and its dispersion (RFC 5905: MAXDIST is 1.5 s).
const DISTANCE_NS_MAX: u64 = 1500 * MS;
/// What servers may differ by beyond their own distances.
const AGREEMENT_NS: u64 = 100 * MS;
/// From 1900, where NTP counts from, to 1970.
const NTP_TO_UNIX_S: u64 = 2_208_988_800;

/// A time that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Who told it.
    pub server: SocketAddrV4,
    /// Nanoseconds since 1970 in UTC...
    pub wall_ns: u64,
    /// ...at this moment of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// How wrong it may be.
    pub error_ns: u64,
    /// Its distance from a reference clock, 1 to 15.
    pub stratum: u8,
    /// Servers that agree.
    pub agree: usize,
    /// Servers that answered.
    pub answered: usize,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this packet to the server at this place of the list, from a port of its own.
    Ask(usize, SocketAddrV4, [u8; PACKET_BYTES]),
    /// No answer of that server is awaited any more.
    Close(usize),
    /// This is the time.
    Found(Found),
    /// Say what was refused, of whom.
    Refused(String),
}

#[derive(Debug, Clone)]
struct Server {
    address: SocketAddrV4,
    /// The question under way: when it was sent, the number that must come back.
    asked: Option<(u64, u64)>,
    sample: Option<Found>,
    /// Not before then.
    rest_until: u64,
    rate_pause: u64,
    /// It said that it will not serve us.
    denied: bool,
}

/// The client of a list of servers.
#[derive(Debug, Clone)]
pub struct Sntp {
    servers: Vec<Server>,
    /// When the next round begins, or the one under way ends.
    next: u64,
    under_way: bool,
    /// When a question last went out to the network.
    begun: u64,
    failures: u32,
    /// The clock is never older than this: it tells the era of a 32-bit count of seconds.
    floor_ns: u64,
}

impl Sntp {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(floor_ns: u64) -> Self {
        Self {
            servers: Vec::new(),
            next: 0,
            under_way: false,
            begun: 0,
            failures: 0,
            floor_ns,
        }
    }

    /// Asks these servers from now on; the same list again changes nothing.
    #[must_use]
    pub fn use_servers(&mut self, now: u64, addresses: &[SocketAddrV4]) -> Vec<Action> {
        if self
            .servers
            .iter()
            .map(|s| s.address)
            .eq(addresses.iter().copied())
        {
            return Vec::new();
        }
        let close = (0..self.servers.len()).map(Action::Close).collect();
        let server = |address: &SocketAddrV4| Server {
            address: *address,
            asked: None,
            sample: None,
            rest_until: 0,
            rate_pause: RATE_PAUSE_NS,
            denied: false,
        };
        self.servers = addresses.iter().map(server).collect();
        self.under_way = false;
        self.failures = 0;
        self.next = now;
        close
    }

    /// There is a network, perhaps for the first time: what failed without one is tried again soon,
    /// but not sooner than a failure allows.
    pub fn network_came(&mut self, now: u64) {
        if !self.under_way && self.failures > 0 {
            self.failures = 0;
            self.next = now
                .max(self.begun.saturating_add(RETRY_FIRST_NS))
                .min(self.next);
        }
    }

    /// The question to this server did not leave this machine.
    #[must_use]
    pub fn not_sent(&mut self, now: u64, place: usize) -> Vec<Action> {
        self.begun = 0;
        self.unreachable(now, place)
    }

    /// Who is asked.
    pub fn servers(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.servers.iter().map(|s| s.address)
    }

    /// When [`Sntp::tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let asks = self.servers.iter().any(|s| !s.denied);
        (asks || self.under_way).then_some(self.next)
    }

    /// What the time brings. `number` gives random bits.
    #[must_use]
    pub fn tick(&mut self, now: u64, mut number: impl FnMut() -> u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.deadline().is_none_or(|at| now < at) {
            return actions;
        }
        if self.under_way {
            self.end_round(now, &mut actions);
            return actions;
        }
        for (i, server) in self.servers.iter_mut().enumerate() {
            if server.denied || now < server.rest_until {
                continue;
            }
            // RFC 5905 wants the time of sending there and back; a random number does the same, and
            // a stranger who does not see our packets cannot guess it.
            let number = number() | 1;
            server.asked = Some((now, number));
            server.sample = None;
            actions.push(Action::Ask(i, server.address, question(number)));
        }
        self.under_way = !actions.is_empty();
        self.next = if self.under_way {
            self.begun = now;
            now.saturating_add(ANSWER_NS)
        } else {
            // Everybody rests.
            let rests = self
                .servers
                .iter()
                .filter(|s| !s.denied)
                .map(|s| s.rest_until);
            rests
                .min()
                .unwrap_or(now)
                .max(now.saturating_add(RETRY_FIRST_NS))
        };
        actions
    }

    /// A packet of the server at this place.
    #[must_use]
    pub fn answer(&mut self, now: u64, place: usize, packet: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        let floor_ns = self.floor_ns;
        let Some(server) = self.servers.get_mut(place) else {
            return actions;
        };
        let Some((sent, number)) = server.asked else {
            return actions;
        };
        match read(packet, number, sent, now, floor_ns) {
            Ok(Reading::Time(found)) => {
                server.sample = Some(Found {
                    server: server.address,
                    ..found
                });
            }
            Ok(Reading::Kiss(code)) => {
                let said: String = code.iter().map(|b| char::from(*b)).collect();
                actions.push(Action::Refused(format!(
                    "{}: kiss of death {said}",
                    server.address
                )));
                match &code {
                    b"DENY" | b"RSTR" => server.denied = true,
                    _ => {
                        server.rest_until = now.saturating_add(server.rate_pause);
                        server.rate_pause = (server.rate_pause * 2).min(RATE_PAUSE_NS_MAX);
                    }
                }
            }
            // Not an answer to our question: the true one may still come.
            Ok(Reading::Other) => return actions,
            Err(refusal) => actions.push(Action::Refused(format!("{}: {refusal}", server.address))),
        }
        server.asked = None;
        actions.push(Action::Close(place));
        if self.servers.iter().all(|s| s.asked.is_none()) {
            self.end_round(now, &mut actions);
        }
        actions
    }

    /// The server cannot be reached.
    #[must_use]
    pub fn unreachable(&mut self, now: u64, place: usize) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(server) = self.servers.get_mut(place)
            && server.asked.take().is_some()
        {
            actions.push(Action::Close(place));
            if self.servers.iter().all(|s| s.asked.is_none()) {
                self.end_round(now, &mut actions);
            }
        }
        actions
    }

    fn end_round(&mut self, now: u64, actions: &mut Vec<Action>) {
        for (i, server) in self.servers.iter_mut().enumerate() {
            if server.asked.take().is_some() {
                actions.push(Action::Close(i));
            }
        }
        self.under_way = false;
        let samples: Vec<Found> = self
            .servers
            .iter_mut()
            .filter_map(|s| s.sample.take())
            .collect();
        match best(&samples) {
            Some(found) => {
                self.failures = 0;
                self.next = now.saturating_add(ROUND_NS);
                actions.push(Action::Found(found));
            }
            None => {
                if let [first, .., last] = samples.as_slice() {
                    let apart = offset(first).abs_diff(offset(last)) / u128::from(MS);
                    actions.push(Action::Refused(format!(
                        "servers: {} answers up to {apart} ms apart, limit most of them within {} ms",
                        samples.len(),
                        AGREEMENT_NS / MS
                    )));
                }
                let pause = (RETRY_FIRST_NS << self.failures.min(6)).min(ROUND_NS);
                self.failures = self.failures.saturating_add(1);
                self.next = now.saturating_add(pause);
            }
        }
    }
}

/// Wall time less monotonic time.
fn offset(f: &Found) -> i128 {
    i128::from(f.wall_ns) - i128::from(f.at_ns)
}

/// The answer that most agree with, the surest of them; one alone is believed.
fn best(samples: &[Found]) -> Option<Found> {
    let agrees = |a: &Found, b: &Found| {
        let slack = u128::from(a.error_ns) + u128::from(b.error_ns) + u128::from(AGREEMENT_NS);
        offset(a).abs_diff(offset(b)) <= slack
    };
    let counted = samples
        .iter()
        .map(|a| (samples.iter().filter(|b| agrees(a, b)).count(), a));
    let (agree, found) =
        counted.max_by_key(|(agree, a)| (*agree, std::cmp::Reverse(a.error_ns)))?;
    (agree * 2 > samples.len()).then_some(Found {
        agree,
        answered: samples.len(),
        ..*found
    })
}

/// A client's packet: version 4, mode 3, and where the time of sending stands a number.
fn question(number: u64) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    if let Some(first) = packet.first_mut() {
        *first = 4 << 3 | 3;
    }
    if let Some(place) = packet.last_chunk_mut() {
        *place = number.to_be_bytes();
    }
    packet
}

/// What a packet says.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    Time(Found),
    Kiss([u8; 4]),
    Other,
}

fn read(packet: &[u8], number: u64, sent: u64, now: u64, floor_ns: u64) -> Result<Reading, String> {
    let wrong = |field: &str, value: &dyn std::fmt::Display, limit: &str| {
        Err(format!("{field} {value}, limit {limit}"))
    };
    let Some(p) = packet.first_chunk::<PACKET_BYTES>() else {
        return Ok(Reading::Other);
    };
    let word = |at: usize| {
        let bytes = p
            .get(at..)
            .and_then(|b| b.first_chunk())
            .copied()
            .unwrap_or([0; 4]);
        u32::from_be_bytes(bytes)
    };
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    let [first, stratum, ..] = *p;
    let (leap, version, mode) = (first >> 6, first >> 3 & 7, first & 7);
    // The origin is what we sent: everything else is not for us, whoever sent it.
    if mode != 4 || long(24) != number {
        return Ok(Reading::Other);
    }
    if !(3..=4).contains(&version) {
        return wrong("version", &version, "3 or 4");
    }
    if stratum == 0 {
        let code = word(12).to_be_bytes();
        let code = code.map(|b| if b.is_ascii_graphic() { b } else { b'?' });
        return Ok(Reading::Kiss(code));
    }
    if stratum > 15 {
        return wrong("stratum", &stratum, "1 to 15");
    }
    if leap == 3 {
        return wrong("leap", &leap, "a clock that is set");
    }
    // Fixed point of 16 and 16 bits.
    let short = |at: usize| u64::from(word(at)) * (S / 1000) / 65_536 * 1000;
    let distance = short(4) / 2 + short(8);
    if distance > DISTANCE_NS_MAX {
        return wrong(
            "root distance",
            &format_args!("{} ms", distance / MS),
            "1500 ms",
        );
    }
    let (received, answered) = (long(32), long(40));
    if received == 0 || answered == 0 {
        return wrong("timestamp", &0, "the server's time");
    }
    // What the server took, within one era; then what was under way.
    let took = answered.wrapping_sub(received);
    let trip = now.saturating_sub(sent);
    let took_ns = fraction_ns(took);
    if took >> 63 == 1 || took_ns > trip {
        return wrong(
            "time of answering",
            &format_args!("{} ms", took_ns / MS),
            "what passed here",
        );
    }
    let delay = trip - took_ns;
    Ok(Reading::Time(Found {
        server: SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0),
        wall_ns: wall_ns(answered, floor_ns).saturating_add(delay / 2),
        at_ns: now,
        error_ns: delay / 2 + distance,
        stratum,
        agree: 1,
        answered: 1,
    }))
}

/// Nanoseconds of a span of 32.32 bits.
fn fraction_ns(span: u64) -> u64 {
    let fraction = (u128::from(span & 0xffff_ffff) * u128::from(S)) >> 32;
    // Under one second.
    (span >> 32)
        .saturating_mul(S)
        .saturating_add(fraction as u64)
}

/// Nanoseconds since 1970 of a timestamp, in the first era in which that is not before the floor:
/// the count of seconds begins anew in 2036.
fn wall_ns(timestamp: u64, floor_ns: u64) -> u64 {
    let seconds = timestamp >> 32;
    let floor = floor_ns / S + NTP_TO_UNIX_S;
    // A clock a day before the floor is refused later, by name; it is not a clock of 2160.
    let earliest = floor.saturating_sub(86_400);
    let eras = earliest.saturating_sub(seconds).div_ceil(1 << 32);
    let since_1970 = (seconds + (eras << 32)).saturating_sub(NTP_TO_UNIX_S);
    since_1970
        .saturating_mul(S)
        .saturating_add(fraction_ns(timestamp & 0xffff_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    /// 2026-11-21 in nanoseconds since 1970.
    const WALL: u64 = 1_795_219_200 * S;
    const FLOOR: u64 = WALL - 100 * 86_400 * S;

    fn servers(count: u8) -> Vec<SocketAddrV4> {
        (1..=count)
            .map(|n| SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, n), 123))
            .collect()
    }

    fn timestamp(wall_ns: u64) -> u64 {
        let seconds = (wall_ns / S + NTP_TO_UNIX_S) & 0xffff_ffff;
        let fraction = (u128::from(wall_ns % S) << 32) / u128::from(S);
        seconds << 32 | u64::try_from(fraction).unwrap()
    }

    /// A good server's answer at this wall time.
    fn reply(question: &[u8; PACKET_BYTES], wall_ns: u64) -> [u8; PACKET_BYTES] {
        let mut p = [0; PACKET_BYTES];
        p[0] = 4 << 3 | 4;
        p[1] = 2;
        p[24..32].copy_from_slice(&question[40..]);
        p[32..40].copy_from_slice(&timestamp(wall_ns).to_be_bytes());
        p[40..48].copy_from_slice(&timestamp(wall_ns).to_be_bytes());
        p
    }

    fn asked(actions: &[Action]) -> Vec<(usize, [u8; PACKET_BYTES])> {
        let of = |a: &Action| match a {
            Action::Ask(i, _, packet) => Some((*i, *packet)),
            _ => None,
        };
        actions.iter().filter_map(of).collect()
    }

    fn found(actions: &[Action]) -> Option<Found> {
        actions.iter().find_map(|a| match a {
            Action::Found(found) => Some(*found),
            _ => None,
        })
    }

    fn refused(actions: &[Action]) -> String {
        let of = |a: &Action| match a {
            Action::Refused(text) => Some(text.clone()),
            _ => None,
        };
        actions.iter().find_map(of).unwrap_or_default()
    }

    /// A client in the middle of a round with so many servers, begun at 100 s.
    fn begun(count: u8) -> (Sntp, Vec<(usize, [u8; PACKET_BYTES])>) {
        let mut sntp = Sntp::new(FLOOR);
        let _ = sntp.use_servers(100 * S, &servers(count));
        let mut number = 0x0123_4567_89ab_cdef_u64;
        let questions = asked(&sntp.tick(100 * S, || {
            number = number.rotate_left(9);
            number
        }));
        assert_eq!(questions.len(), usize::from(count));
        (sntp, questions)
    }

    #[test]
    fn the_time_is_the_servers_and_half_the_way() {
        let (mut sntp, questions) = begun(1);
        let answer = reply(&questions[0].1, WALL);
        let actions = sntp.answer(100 * S + 40 * MS, 0, &answer);
        let found = found(&actions).unwrap();
        assert_eq!(found.at_ns, 100 * S + 40 * MS);
        assert!(found.wall_ns.abs_diff(WALL + 20 * MS) <= 1, "{found:?}");
        assert_eq!((found.error_ns / MS, found.stratum), (20, 2));
        assert_eq!(sntp.deadline(), Some(100 * S + 40 * MS + ROUND_NS));
    }

    #[test]
    fn what_is_not_the_answer_to_our_question_is_passed_over() {
        let (mut sntp, questions) = begun(1);
        let good = reply(&questions[0].1, WALL);
        let mut guess = good;
        guess[31] ^= 1;
        let mut client = good;
        client[0] = 4 << 3 | 3;
        for other in [&guess[..], &client[..], &good[..47], &[]] {
            assert_eq!(sntp.answer(100 * S, 0, other), []);
        }
        assert!(found(&sntp.answer(100 * S + MS, 0, &good)).is_some());
        assert_eq!(sntp.answer(100 * S + MS, 0, &good), [], "a second time");
    }

    #[test]
    fn a_server_that_is_not_set_or_far_from_one_that_is_is_refused_by_name() {
        type Change = fn(&mut [u8; PACKET_BYTES]);
        let cases: [(Change, &str); 7] = [
            (
                |p| p[0] = 3 << 6 | 4 << 3 | 4,
                "leap 3, limit a clock that is set",
            ),
            (|p| p[0] = 2 << 3 | 4, "version 2, limit 3 or 4"),
            (|p| p[1] = 16, "stratum 16, limit 1 to 15"),
            (
                |p| p[4..8].copy_from_slice(&[0, 4, 0, 0]),
                "root distance 2000 ms, limit 1500 ms",
            ),
            (|p| p[8..12].copy_from_slice(&[255; 4]), "limit 1500 ms"),
            (
                |p| p[40..48].fill(0),
                "timestamp 0, limit the server's time",
            ),
            (|p| p[32] ^= 1, "time of answering"),
        ];
        for (change, why) in cases {
            let (mut sntp, questions) = begun(1);
            let mut answer = reply(&questions[0].1, WALL);
            change(&mut answer);
            let actions = sntp.answer(100 * S + MS, 0, &answer);
            assert!(refused(&actions).contains(why), "{actions:?}");
            assert_eq!(found(&actions), None);
            assert!(sntp.deadline().unwrap() >= 116 * S, "a pause");
        }
    }

    #[test]
    fn a_kiss_of_death_is_obeyed() {
        let (mut sntp, questions) = begun(2);
        let mut deny = reply(&questions[0].1, WALL);
        deny[1] = 0;
        deny[12..16].copy_from_slice(b"DENY");
        assert!(refused(&sntp.answer(100 * S, 0, &deny)).ends_with("kiss of death DENY"));
        let mut rate = reply(&questions[1].1, WALL);
        rate[1] = 0;
        rate[12..16].copy_from_slice(b"RATE");
        let _ = sntp.answer(100 * S, 1, &rate);
        // One never again, the other after an hour.
        let (now, again) = loop {
            let now = sntp.deadline().unwrap();
            let asked = asked(&sntp.tick(now, || 7));
            if !asked.is_empty() {
                break (now, asked);
            }
        };
        assert_eq!(again[0].0, 1);
        assert!(now >= 3700 * S, "{now}");

        let (mut sntp, questions) = begun(1);
        let mut deny = reply(&questions[0].1, WALL);
        (deny[1], deny[12]) = (0, 0);
        deny[12..16].copy_from_slice(b"RSTR");
        let _ = sntp.answer(100 * S, 0, &deny);
        assert_eq!(sntp.deadline(), None);
    }

    #[test]
    fn the_many_outvote_the_liar_and_two_that_differ_are_not_believed() {
        let (mut sntp, questions) = begun(3);
        let year = 365 * 86_400 * S;
        let mut last = Vec::new();
        for (i, question) in &questions {
            let wall = if *i == 0 { WALL + year } else { WALL };
            last = sntp.answer(100 * S + MS, *i, &reply(question, wall));
        }
        let time = found(&last).unwrap();
        assert!(time.wall_ns.abs_diff(WALL) < S);
        assert_eq!((time.agree, time.answered), (2, 3));

        let (mut sntp, questions) = begun(2);
        let _ = sntp.answer(100 * S + MS, 0, &reply(&questions[0].1, WALL));
        let last = sntp.answer(100 * S + MS, 1, &reply(&questions[1].1, WALL + S));
        assert_eq!(found(&last), None);
        assert!(
            refused(&last).starts_with("servers: 2 answers up to "),
            "{last:?}"
        );
    }

    #[test]
    fn the_count_of_seconds_begins_anew_in_2036() {
        let later = 2_114_380_800 * S; // 2037-01-01
        assert_eq!(wall_ns(timestamp(later), FLOOR), later);
        assert_eq!(wall_ns(timestamp(WALL), FLOOR), WALL);
        assert_eq!(
            wall_ns(timestamp(FLOOR - 3600 * S), FLOOR),
            FLOOR - 3600 * S
        );
    }

    #[test]
    fn silence_is_asked_again_ever_more_rarely() {
        let (mut sntp, _) = begun(2);
        let mut asks = Vec::new();
        for _ in 0..40 {
            let now = sntp.deadline().unwrap();
            if !asked(&sntp.tick(now, || 7)).is_empty() {
                asks.push(now);
            }
        }
        let pauses: Vec<u64> = asks.windows(2).map(|w| (w[1] - w[0]) / S).collect();
        assert!(
            pauses[0] >= 16 && pauses.is_sorted() && *pauses.last().unwrap() >= 1024,
            "{pauses:?}"
        );
    }

    proptest! {
        /// Whatever comes, in whatever order: never a flood, never a spin, and it always asks again.
        #[test]
        fn no_answer_makes_it_misbehave(events in proptest::collection::vec((0u8..4, any::<[u8; PACKET_BYTES]>(), 0u64..3000 * S, any::<bool>()), 1..60)) {
            let (mut sntp, mut questions) = begun(4);
            let (mut now, mut rounds) = (100 * S, vec![100 * S]);
            for (place, noise, pause, keep) in events {
                let mut packet = noise;
                let place = usize::from(place);
                if let (true, Some((_, question))) = (keep, questions.iter().find(|(i, _)| *i == place)) {
                    packet[0] = 4 << 3 | 4;
                    packet[24..32].copy_from_slice(&question[40..]);
                }
                let _ = sntp.answer(now, place, &packet);
                let end = now + pause;
                while let Some(at) = sntp.deadline().filter(|at| *at <= end) {
                    prop_assert!(at >= now);
                    now = at;
                    let asked = asked(&sntp.tick(now, || 9));
                    if !asked.is_empty() {
                        rounds.push(now);
                        questions = asked;
                    }
                    prop_assert!(sntp.deadline().is_none_or(|at| at > now), "it would spin");
                }
                now = end;
            }
            for pair in rounds.windows(2) {
                prop_assert!(pair[1] - pair[0] >= 15 * S);
            }
        }
    }
}
