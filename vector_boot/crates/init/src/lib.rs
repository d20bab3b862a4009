//! PID 1: boot, heartbeat, supervision.
