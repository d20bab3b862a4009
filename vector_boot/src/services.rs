//! `vb-services`: ledger, capacity and gateway, apart from PID 1 so that what they link stays out of its memory.

fn main() {}
