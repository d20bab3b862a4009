//! Links the crate named by `--extern bare` on the terms of a bare target: no std, its own panic handler.
//!
//! Were std anywhere among that crate's dependencies, this handler would be the second one, which rustc refuses.
#![no_std]

extern crate bare as _;
// The check's own check: with it the compilation must fail.
#[cfg(with_std)]
extern crate std as _;

#[panic_handler]
fn stop(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
