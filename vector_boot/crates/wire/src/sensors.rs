//! The sensor page (`hw.mmio`): 4 KiB that PID 1 writes once a beat and services, console and Python read.
//!
//! Layout, little-endian, words of 8 bytes:
//!
//! | word | byte | holds |
//! |---|---|---|
//! | 0 | 0 | [`MAGIC`] |
//! | 1 | 8 | sequence, odd while a write is under way (see `sys::seqlock`) |
//! | 2 | 16 | [`VERSION`] in the low half, number of registers in the high half |
//! | 3 | 24 | beats so far, as a whole number |
//! | 4 to 35 | 32 | the registers, f32, two a word, the even one in the low half |
//! | 36 | 288 | raised interrupts, a bit each by its place in the table |
//! | 37 | 296 | generation of the mutated weights in use, as a whole number |
//! | 38 to 41 | 304 | what the policy wishes of each control, f32 as the registers |
//! | 42 to 45 | 336 | the controls as they are set, f32; all zero before the first beat that decides |
//! | 46 | 368 | number of PID 1's newest row of `cortex_journal` |
//! | 47 to 50 | 376 | that row's hash |
//!
//! So register `i` is the f32 at byte `32 + 4 i`. A register that nothing feeds reads NaN. Indices
//! are fixed for ever: new registers take the reserved ones. `docs/sensors.md` is the same in prose.
//!
//! Start with [`REGISTERS`] and [`Snapshot`].

/// `VBSENSE1` as a little-endian word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"VBSENSE1");
/// Grows when a register changes its meaning.
pub const VERSION: u32 = 1;
/// Bytes of the page.
pub const PAGE_BYTES: usize = 4096;
/// Word of version and count.
pub const VERSION_WORD: usize = 2;
/// Word of the beat count.
pub const BEAT_WORD: usize = 3;
/// First word of the registers.
pub const REGISTERS_WORD: usize = 4;
/// Registers of the page.
pub const COUNT: usize = 64;
/// First word behind the registers.
const DECISIONS_WORD: usize = REGISTERS_WORD + COUNT / 2;
/// Controls of the metabolic daemon.
pub const CONTROLS: usize = 8;
/// What the controls are called, by their place.
pub const CONTROL_NAMES: [&str; CONTROLS] = [
    "heartbeat_ms",
    "reclaim_bytes",
    "memory_high_share",
    "shed_share",
    "silence_share",
    "log_share",
    "weight_core",
    "weight_rest",
];
/// Words of a [`Decisions`].
const DECISIONS_WORDS: usize = 2 + CONTROLS + 1 + 4;
/// Words of the page behind magic and sequence: what a reader copies.
pub const BODY_WORDS: usize = DECISIONS_WORD + DECISIONS_WORDS - VERSION_WORD;

/// What a register is called and counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register {
    /// Its name, unique but for `reserved`.
    pub name: &'static str,
    /// Its unit; empty for plain numbers.
    pub unit: &'static str,
}

macro_rules! registers {
    ($($index:literal $constant:ident $name:literal $unit:literal $what:literal;)*) => {
        /// Index of each register.
        pub mod index {
            $(#[doc = $what] pub const $constant: usize = $index;)*
        }

        /// Every register, by its index.
        pub const REGISTERS: [Register; COUNT] = {
            let mut table = [Register { name: "reserved", unit: "" }; COUNT];
            $(table[$index] = Register { name: $name, unit: $unit };)*
            table
        };
    };
}

registers! {
    0 BEAT_COUNT "beat.count" "" "Beats so far; exact in the page's beat word.";
    1 BEAT_PERIOD "beat.period" "ms" "Time between two beats as it is set now.";
    2 BEAT_LATENESS "beat.lateness" "us" "How late this beat began.";
    3 BEAT_LATENESS_MAX "beat.lateness_max" "us" "The latest beat so far.";
    4 BEAT_WORK "beat.work" "us" "Processor time of the beat before.";
    5 LOAD_1 "load.1m" "" "Load average of a minute.";
    6 LOAD_5 "load.5m" "" "Load average of five minutes.";
    7 LOAD_15 "load.15m" "" "Load average of fifteen minutes.";
    8 CPU_USE "cpu.use" "%" "Processor time not idle since the last sample, of all processors together.";
    9 CPU_IOWAIT "cpu.iowait" "%" "Processor time idle while I/O was under way.";
    10 CPU_STEAL "cpu.steal" "%" "Processor time that the hypervisor gave to others.";
    11 CPU_COUNT "cpu.count" "" "Processors online.";
    12 MEMORY_TOTAL "memory.total" "bytes" "Memory of the machine.";
    13 MEMORY_AVAILABLE "memory.available" "bytes" "Memory that programs can still get without swapping.";
    14 MEMORY_CACHED "memory.cached" "bytes" "File contents kept in memory, the mapped model among them.";
    15 MEMORY_DIRTY "memory.dirty" "bytes" "File contents not yet written.";
    16 PSI_CPU_SOME "psi.cpu.some" "%" "Share of the last 10 s in which some task waited for a processor.";
    17 PSI_CPU_FULL "psi.cpu.full" "%" "Share of the last 10 s in which all tasks waited for a processor.";
    18 PSI_MEMORY_SOME "psi.memory.some" "%" "The same for memory.";
    19 PSI_MEMORY_FULL "psi.memory.full" "%" "The same for memory, all tasks.";
    20 PSI_IO_SOME "psi.io.some" "%" "The same for I/O.";
    21 PSI_IO_FULL "psi.io.full" "%" "The same for I/O, all tasks.";
    22 THERMAL_0 "thermal.0" "C" "Temperature of the first thermal zone.";
    23 THERMAL_1 "thermal.1" "C" "Temperature of the second thermal zone.";
    24 THERMAL_2 "thermal.2" "C" "Temperature of the third thermal zone.";
    25 THERMAL_3 "thermal.3" "C" "Temperature of the fourth thermal zone.";
    26 DISK_TOTAL "disk.data.total" "bytes" "Size of the data partition's file system.";
    27 DISK_FREE "disk.data.free" "bytes" "What services can still write there.";
    28 DISK_USE "disk.data.use" "%" "Share of the data partition in use.";
    29 NET_RX "net.rx" "bytes/s" "Received on all links but loopback since the last sample.";
    30 NET_TX "net.tx" "bytes/s" "Sent on all links but loopback since the last sample.";
    31 NET_ERRORS "net.errors" "" "Receive and send errors and drops so far.";
    32 SERVICES_UP "services.up" "" "Services that are ready.";
    33 SERVICES_FAILED "services.failed" "" "Services that are held or given up.";
    34 SERVICES_RESTARTS "services.restarts" "" "Restarts of all services so far.";
    35 SERVICES_RSS "services.rss" "bytes" "Memory of all services.";
    36 LEDGER_STATE "ledger.state" "" "State of the ledger: 0 waiting, 1 starting, 2 up, 3 stopping, 4 stopped, 5 backing off, 6 failed.";
    37 LEDGER_RESTARTS "ledger.restarts" "" "Restarts of the ledger so far.";
    38 LEDGER_RSS "ledger.rss" "bytes" "Memory of the ledger.";
    39 CAPACITY_STATE "capacity.state" "" "State of the capacity kernel, as for the ledger.";
    40 CAPACITY_RESTARTS "capacity.restarts" "" "Restarts of the capacity kernel so far.";
    41 CAPACITY_RSS "capacity.rss" "bytes" "Memory of the capacity kernel.";
    42 GATEWAY_STATE "gateway.state" "" "State of the gateway, as for the ledger.";
    43 GATEWAY_RESTARTS "gateway.restarts" "" "Restarts of the gateway so far.";
    44 GATEWAY_RSS "gateway.rss" "bytes" "Memory of the gateway.";
    45 CONSOLE_STATE "console.state" "" "State of the console, as for the ledger.";
    46 CONSOLE_RESTARTS "console.restarts" "" "Restarts of the console so far.";
    47 CONSOLE_RSS "console.rss" "bytes" "Memory of the console.";
    48 CAPACITY_LEASES "capacity.leases" "" "Leases held.";
    49 CAPACITY_DENIED "capacity.denied" "1/s" "Requests that the gates refused.";
    50 LEDGER_LAG "ledger.lag" "" "Events taken and not yet durable.";
    51 LEDGER_EVENTS "ledger.events" "1/s" "Events appended.";
    52 LEDGER_COMMITS "ledger.commits" "1/s" "Group commits.";
    53 GATEWAY_REQUESTS "gateway.requests" "1/s" "Requests taken.";
    54 GATEWAY_FAILED "gateway.failed" "1/s" "Requests that failed or were refused.";
    55 GATEWAY_LATENCY_MAX "gateway.latency_max" "us" "Slowest request, as the gateway's page says.";
    56 MUTATION_GENERATION "mutation.generation" "" "Generation of the mutated weights in use; 0 is the base.";
    57 WATCHDOG_SLACK "watchdog.slack" "ms" "Time left until the watchdog would fire.";
    58 MODEL_BYTES "model.bytes" "bytes" "Bytes of the mapped model.";
    59 MODEL_TENSORS "model.tensors" "" "Tensors of the mapped model.";
    60 INTERRUPTS_RAISED "interrupts.raised" "" "Lines of the interrupt table that are raised.";
    61 CONTROL_SHED "control.shed" "%" "Share of the budget that the capacity kernel is asked to keep free.";
    62 CAPACITY_GATES "capacity.gates" "" "Gates of the capacity kernel that do not pass.";
}

/// The page at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot {
    /// Layout version.
    pub version: u32,
    /// Registers that the writer knew.
    pub count: u32,
    /// Beats so far.
    pub beat: u64,
    /// The registers, by index; NaN is unknown.
    pub registers: [f32; COUNT],
    /// What was decided on them.
    pub decisions: Decisions,
}

/// What the runtime decided, beside the registers that it decided on.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Decisions {
    /// Raised interrupts, a bit each by its place in the table.
    pub raised: u64,
    /// Generation of the mutated weights in use; 0 is the base.
    pub generation: u64,
    /// What the policy wishes of each control, from -1 to 1.
    pub wishes: [f32; CONTROLS],
    /// The controls as they are set, by [`CONTROL_NAMES`].
    pub settings: [f32; CONTROLS],
    /// Number of PID 1's newest row of the journal.
    pub journal_seq: u64,
    /// That row's hash.
    pub journal_head: [u8; 32],
}

impl Snapshot {
    /// A page of this version on which nothing is known.
    #[must_use]
    pub const fn unknown() -> Self {
        Self {
            version: VERSION,
            count: COUNT as u32,
            beat: 0,
            registers: [f32::NAN; COUNT],
            decisions: Decisions {
                raised: 0,
                generation: 0,
                wishes: [0.0; CONTROLS],
                settings: [0.0; CONTROLS],
                journal_seq: 0,
                journal_head: [0; 32],
            },
        }
    }

    /// Reads the words from [`VERSION_WORD`] on.
    #[must_use]
    pub fn unpack(words: &[u64; BODY_WORDS]) -> Self {
        let mut words = words.iter().copied();
        let mut next = || words.next().unwrap_or(0);
        let (head, beat) = (next(), next());
        let registers = floats(&mut next);
        let (raised, generation) = (next(), next());
        let (wishes, settings) = (floats(&mut next), floats(&mut next));
        let journal_seq = next();
        let mut journal_head = [0; 32];
        for chunk in journal_head.chunks_exact_mut(8) {
            chunk.copy_from_slice(&next().to_le_bytes());
        }
        // The halves of a word.
        Self {
            version: head as u32,
            count: (head >> 32) as u32,
            beat,
            registers,
            decisions: Decisions {
                raised,
                generation,
                wishes,
                settings,
                journal_seq,
                journal_head,
            },
        }
    }

    /// The words from [`VERSION_WORD`] on.
    #[must_use]
    pub fn pack(&self) -> [u64; BODY_WORDS] {
        let decisions = &self.decisions;
        let head = [
            u64::from(self.version) | u64::from(self.count) << 32,
            self.beat,
        ];
        let hash = decisions.journal_head.as_chunks::<8>().0;
        let all = head
            .into_iter()
            .chain(pairs(&self.registers))
            .chain([decisions.raised, decisions.generation])
            .chain(pairs(&decisions.wishes))
            .chain(pairs(&decisions.settings))
            .chain([decisions.journal_seq])
            .chain(hash.iter().map(|chunk| u64::from_le_bytes(*chunk)));
        let mut words = [0; BODY_WORDS];
        for (place, word) in words.iter_mut().zip(all) {
            *place = word;
        }
        words
    }
}

/// Two values a word, the even one in the low half.
fn pairs(values: &[f32]) -> impl Iterator<Item = u64> + '_ {
    let both = values.as_chunks::<2>().0.iter();
    both.map(|[even, odd]| u64::from(even.to_bits()) | u64::from(odd.to_bits()) << 32)
}

fn floats<const N: usize>(next: &mut impl FnMut() -> u64) -> [f32; N] {
    let mut values = [0.0; N];
    for two in values.as_chunks_mut::<2>().0 {
        let pair = next();
        // The halves of a word.
        *two = [
            f32::from_bits(pair as u32),
            f32::from_bits((pair >> 32) as u32),
        ];
    }
    values
}

/// Index of the register with this name.
#[must_use]
pub fn index_of(name: &str) -> Option<usize> {
    REGISTERS
        .iter()
        .position(|register| register.name == name && name != "reserved")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn pages_survive_packing_with_every_register_in_its_place() {
        let mut page = Snapshot::unknown();
        page.beat = u64::MAX;
        page.decisions = Decisions {
            raised: 0b101,
            generation: 7,
            wishes: [0.5; CONTROLS],
            settings: core::array::from_fn(|i| i as f32),
            journal_seq: 9,
            journal_head: core::array::from_fn(|i| i as u8),
        };
        for (i, register) in page.registers.iter_mut().enumerate() {
            *register = i as f32 - 0.5;
        }
        let words = page.pack();
        assert_eq!(Snapshot::unpack(&words), page);
        // Register 5 is the f32 at byte 32 + 4 * 5 of the page.
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = 32 + 4 * 5 - VERSION_WORD * 8;
        assert_eq!(bytes[at..at + 4], 4.5f32.to_le_bytes());
        // Setting 3 is the f32 at byte 336 + 4 * 3, the newest row's hash begins at byte 376.
        let at = 336 + 4 * 3 - VERSION_WORD * 8;
        assert_eq!(bytes[at..at + 4], 3f32.to_le_bytes());
        let at = 376 - VERSION_WORD * 8;
        assert_eq!(bytes[at..at + 32], page.decisions.journal_head);
    }

    #[test]
    fn unknown_registers_are_nan() {
        let page = Snapshot::unpack(&Snapshot::unknown().pack());
        assert!(page.registers.iter().all(|value| value.is_nan()));
        assert_eq!((page.version, page.count), (VERSION, 64));
    }

    #[test]
    fn names_are_unique_and_found() {
        for (i, register) in REGISTERS.iter().enumerate() {
            let expected = (register.name != "reserved").then_some(i);
            assert_eq!(index_of(register.name), expected);
        }
        assert_eq!(index_of("watchdog.slack"), Some(index::WATCHDOG_SLACK));
    }
}
