//! The neural runtime: sensors, dequantisation.
