//! What the neural runtime may ask of PID 1 at a beat; `heart::metabolism` does it.

use wire::helper::Tune;

/// Deeds of one beat at most: eight controls, six orders about services, four interrupts, period and log rates.
pub const DEEDS_MAX: usize = 24;

/// The deeds of one beat.
pub type Deeds = heapless::Vec<Deed, DEEDS_MAX>;

/// Where a row of the journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Its number; 0 if it was over the rate and only counted.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// Whether the ledger is to have it.
    pub tell: bool,
}

/// What came of another model's system tensors.
#[derive(Debug, Default)]
pub struct Taken {
    /// Why tensors were refused, for people; the default's stand in for them.
    pub refused: Vec<String>,
    /// Interrupts that were raised and are not in the new table: they are over.
    pub gone: Vec<Deed>,
}

/// Something that happened, or is to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Deed {
    /// An interrupt was raised or cleared.
    Interrupt {
        /// Which of the two.
        raised: bool,
        /// The register's name.
        register: &'static str,
        /// Its value.
        value: f32,
        /// On which side of the threshold it is raised.
        above: bool,
        /// The threshold.
        threshold: f32,
        /// What is done beside saying it.
        handler: &'static str,
        /// Its row.
        row: Recorded,
    },
    /// A control changed.
    Changed {
        /// Its name.
        control: &'static str,
        /// What it was.
        before: f32,
        /// What it is.
        after: f32,
        /// What was wished, from -1 to 1.
        wish: f32,
        /// Its row.
        row: Recorded,
    },
    /// The heart is to beat with this period.
    Period {
        /// Nanoseconds.
        ns: u64,
    },
    /// Log rates of services are to be asked for again.
    LogRates,
    /// A knob of a service's cgroup.
    Tune {
        /// Its place.
        service: usize,
        /// Which, and its value.
        knob: Tune,
    },
    /// A service is as good as silent.
    Restart {
        /// Its place.
        service: usize,
    },
}
