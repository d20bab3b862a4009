//! Typed clients of the services and of PID 1.
