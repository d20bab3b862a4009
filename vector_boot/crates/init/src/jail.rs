//! The `jail` role: becomes a user's program.
//!
//! PID 1 has already given this process its uid, its cgroup and no privilege; what is left is to
//! drop our own descriptors and to exec the program behind the descriptor named `image`, which is a
//! sealed memory file that was checked against the package.

use std::os::fd::AsFd;
use std::process::ExitCode;

/// Words: the program's name, then its arguments.
pub fn main(words: &[std::ffi::OsString]) -> ExitCode {
    let mut inherited = sys::inherit::Inherited::take();
    let Some(image) = inherited.remove("image") else {
        eprintln!("<3>jail: no descriptor named image: only PID 1 starts this role");
        return ExitCode::from(2);
    };
    if let Err(e) = sys::process::forbid_new_privileges() {
        eprintln!("<4>jail: no_new_privs: {e}");
    }
    let argv: Vec<String> = words
        .iter()
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    // `image` comes last and was closed on exec by `take`, like all the others; they are for the
    // program, so they are opened to it again.
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let kept: Vec<&str> = names
        .split(':')
        .filter(|n| *n != "image" && !n.is_empty())
        .collect();
    for name in &kept {
        if let Some(fd) = inherited.remove(name)
            && let Err(e) = sys::inherit::keep_over_exec(fd)
        {
            eprintln!("<4>jail: descriptor {name}: {e}");
        }
    }
    let mut env: Vec<String> = std::env::vars()
        .filter(|(key, _)| !key.starts_with("LISTEN_") && key != "VB_NET")
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if !kept.is_empty() {
        env.push(format!("LISTEN_PID={}", std::process::id()));
        env.push(format!("LISTEN_FDS={}", kept.len()));
        env.push(format!("LISTEN_FDNAMES={}", kept.join(":")));
    }
    let error = sys::process::become_program(image.as_fd(), &argv, &env);
    eprintln!(
        "<3>jail: {}: {error}",
        argv.first().map_or("", String::as_str)
    );
    ExitCode::from(127)
}
