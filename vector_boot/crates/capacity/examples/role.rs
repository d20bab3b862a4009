//! Runs the capacity role alone, without the other services' code: `cargo run --example role -- state`.

fn main() -> std::process::ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    capacity::main(&words)
}
