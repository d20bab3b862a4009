//! The registers of the sensor page: what each is called, and the values of one beat.
//!
//! The table itself is `wire::sensors`, since services and console read it too; this adds what the
//! writer needs: registers that are only ever numbers or NaN.

use crate::system_model::Tensors;
use wire::sensors::Decisions;
pub use wire::sensors::{COUNT, REGISTERS, Register, Snapshot, index, index_of};

/// The values that the next page shows. What was never set is NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Registers(Snapshot);

impl Default for Registers {
    fn default() -> Self {
        Self(Snapshot::unknown())
    }
}

impl Registers {
    /// Sets a register; a value that is unknown or infinite becomes NaN.
    pub fn set(&mut self, register: usize, value: Option<f32>) {
        if let Some(place) = self.0.registers.get_mut(register) {
            *place = value.filter(|value| value.is_finite()).unwrap_or(f32::NAN);
        }
    }

    /// Sets a register to a count, rounded to the nearest f32.
    pub fn set_count(&mut self, register: usize, value: Option<u64>) {
        self.set(register, value.map(|value| value as f32));
    }

    /// A register's value; NaN past the table.
    #[must_use]
    pub fn get(&self, register: usize) -> f32 {
        self.0.registers.get(register).copied().unwrap_or(f32::NAN)
    }

    /// Sets the exact beat count beside the registers.
    pub fn set_beat(&mut self, beat: u64) {
        self.0.beat = beat;
    }

    /// Sets what was decided, beside the registers.
    pub fn set_decisions(&mut self, decisions: Decisions) {
        self.0.decisions = decisions;
    }

    /// Gives registers that nothing has fed yet the values of a model's `hw.mmio`, whose NaN are unknown; a sensor
    /// writes over them at its turn.
    pub fn begin_with(&mut self, tensors: &Tensors<'_>) {
        let Ok(Some(values)) = tensors.values("hw.mmio", &[COUNT as u64]) else {
            return;
        };
        for (register, value) in self.0.registers.iter_mut().zip(values.iter()) {
            if register.is_nan() && value.is_finite() {
                *register = value;
            }
        }
    }

    /// The page as it will be read.
    #[must_use]
    pub const fn snapshot(&self) -> &Snapshot {
        &self.0
    }
}
