//! Every system call and every unsafe block outside the C ABI.
