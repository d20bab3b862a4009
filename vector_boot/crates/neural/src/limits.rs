//! `kernel.limits`: how far the metabolic daemon may go, whatever its policy wishes.
//!
//! The tensor is protected: no mutation touches it. A model may bring its own, which must lie inside the
//! bounds of [`LIMITS`]; those are the runtime's and nobody's to change.

use crate::system_model::{Fault, ModelError, Tensors};

/// The tensor.
pub const TENSOR: &str = "kernel.limits";
/// Numbers in it.
pub const LIMITS_COUNT: usize = 16;
const SHAPE: &[u64] = &[LIMITS_COUNT as u64];

/// One limit: its name, the default's value, and the bounds that a model's own must keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounded {
    /// What it is called in `vectorland.limits`.
    pub name: &'static str,
    /// The default.
    pub value: f32,
    /// The least that a model may say.
    pub least: f32,
    /// The most.
    pub most: f32,
}

macro_rules! limits {
    ($($index:literal $field:ident $value:literal $least:literal $most:literal $what:literal;)*) => {
        /// What the runtime keeps to.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct Limits { $(#[doc = $what] pub $field: f32,)* }

        /// Every limit, by its place in the tensor; the places behind them are reserved and 0.
        pub const LIMITS: [Bounded; LIMITS_COUNT] = {
            let reserved = Bounded { name: "reserved", value: 0.0, least: 0.0, most: 0.0 };
            let mut table = [reserved; LIMITS_COUNT];
            $(table[$index] = Bounded {
                name: stringify!($field), value: $value, least: $least, most: $most,
            };)*
            table
        };

        impl Limits {
            /// Those of the default model.
            pub const DEFAULT: Self = Self { $($field: $value,)* };

            fn of(values: &[f32; LIMITS_COUNT]) -> Self {
                let at = |place: usize| values.get(place).copied().unwrap_or_default();
                Self { $($field: at($index),)* }
            }
        }
    };
}

limits! {
    0 heartbeat_ms_min 25.0 25.0 100.0 "Shortest time between two beats.";
    1 heartbeat_ms_max 1_000.0 100.0 1_000.0 "Longest time between two beats: the watchdog's shortest timeout is many of them.";
    2 change_pause_ms 5_000.0 1_000.0 3_600_000.0 "Time between two changes of one control.";
    3 restart_intensity 2.0 0.0 16.0 "Silent services that are restarted...";
    4 restart_window_s 600.0 60.0 86_400.0 "...in so long.";
    5 silence_share_min 0.75 0.75 1.0 "Share of its watchdog's time after which a silent service may be restarted: who keeps to half of it, as sd_watchdog_enabled(3) has it, never is.";
    6 memory_high_share_min 0.5 0.25 1.0 "Share of its `memory.max` below which no service is held, nor below what it has.";
    7 reclaim_bytes_max 67_108_864.0 0.0 1_073_741_824.0 "Bytes that a service is asked to give back at once.";
    8 cpu_weight_min 25.0 10.0 100.0 "Least weight of a service whose manifest says 100.";
    9 cpu_weight_max 400.0 100.0 10_000.0 "Greatest weight of it.";
    10 log_share_min 0.1 0.05 1.0 "Share of its log rate that a service always has.";
    11 log_lines_per_s_max 1_000.0 10.0 100_000.0 "Lines a second of a service whose manifest sets no rate, while the policy holds logs back.";
    12 shed_share_max 0.75 0.0 0.9 "Share of the machine's budget that the capacity kernel is asked to keep free.";
    13 events_per_hour_max 60.0 0.0 3_600.0 "Changes of controls that go to the ledger.";
    14 rows_per_hour_max 360.0 0.0 3_600.0 "Rows about controls in the journal.";
}

impl Limits {
    /// Those of a model; the default's where it has none.
    ///
    /// # Errors
    /// Another shape or type, or a value out of its bounds.
    pub fn from_tensors(tensors: &Tensors<'_>) -> Result<Self, ModelError> {
        let Some(found) = tensors.finite(TENSOR, SHAPE)? else {
            return Ok(Self::DEFAULT);
        };
        let mut values = [0.0; LIMITS_COUNT];
        found.copy_to(&mut values);
        for (place, (value, limit)) in values.iter().zip(&LIMITS).enumerate() {
            if !(limit.least..=limit.most).contains(value) {
                return Err(ModelError {
                    tensor: TENSOR,
                    fault: Fault::Bounds {
                        place,
                        found: *value,
                        least: limit.least,
                        most: limit.most,
                    },
                });
            }
        }
        Ok(Self::of(&values))
    }
}
