//! The `jail` role: confines itself, then becomes a program that is not ours.
//!
//! PID 1 has given this process its uid, its cgroup and no privilege, and the program as a sealed memory
//! file behind the descriptor `image`. By hand (`vector_boot jail --profile gateway PROGRAM ARGS`) the
//! program is a file, which is copied into such a memory file first, so that both ways are the same.
//! Start with [`main`].

use crate::{Confinement, Exec, Grants, Profile, confine};
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use sys::inherit::Inherited;
use sys::park::Parked;

/// Largest program that is copied by hand; the appliance's come from the package.
const PROGRAM_BYTES_MAX: u64 = 1 << 30;
/// Variables that PID 1 makes for our own roles alone.
const OURS: &[&str] = &[
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "VB_NET",
    "VB_NTP",
];

/// Words: `[--profile NAME] [--] PROGRAM ARGS...`; without a profile `foreign`.
#[must_use]
pub fn main(words: &[OsString]) -> ExitCode {
    match run(words) {
        Ok(never) => match never {},
        Err((code, why)) => {
            eprintln!("<3>jail: {why}");
            ExitCode::from(code)
        }
    }
}

/// Wrong words.
const USAGE: u8 = 2;
/// As a shell has it for a program that cannot be executed.
const CANNOT_EXECUTE: u8 = 126;

fn run(words: &[OsString]) -> Result<Infallible, (u8, String)> {
    let (profile, words) = parse(words).map_err(|e| (USAGE, e))?;
    let program = words.first().cloned().unwrap_or_default();
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        (
            CANNOT_EXECUTE,
            format!("{}: {what}: {e}", program.display()),
        )
    };
    // Before the descriptors are taken: the grants copy those that are folders.
    let grants = Grants::of_role(profile);
    let mut inherited = Inherited::take();
    let image = match inherited.remove("image") {
        Some(image) => image,
        None => copy(&program).map_err(|e| failed("read", &e))?,
    };
    let argv: Vec<CString> =
        strings(words.iter().map(|w| w.as_bytes().to_vec())).map_err(|e| failed("words", &e))?;
    let env = environment(&mut inherited).map_err(|e| failed("environment", &e))?;
    let parked = Parked::new(image).map_err(|e| failed("park", &e))?;
    let confinement: Confinement = confine(profile, &grants, Exec::Parked(parked.number()));
    confinement.say();
    // Their numbers must not live on in the program.
    drop(grants);
    parked
        .execute(&argv, &env)
        .map_err(|e| failed("execute", &e))
}

fn parse(words: &[OsString]) -> Result<(Profile, &[OsString]), String> {
    let (profile, words) = match words {
        [option, name, rest @ ..] if option == "--profile" => {
            let names: Vec<&str> = Profile::all().map(Profile::name).collect();
            let text = name.to_string_lossy();
            let profile = Profile::of_name(&text);
            let profile =
                profile.ok_or(format!("--profile {text}: one of {}", names.join(", ")))?;
            (profile, rest)
        }
        all => (Profile::Foreign, all),
    };
    let words = match words {
        [dashes, rest @ ..] if dashes == "--" => rest,
        all => all,
    };
    match words {
        [] => Err("no program; jail [--profile NAME] PROGRAM [ARGS]".to_owned()),
        words => Ok((profile, words)),
    }
}

/// A file of the file system as the sealed memory file that PID 1 would have passed.
fn copy(path: &OsString) -> io::Result<OwnedFd> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > PROGRAM_BYTES_MAX {
        return Err(io::Error::other(format!(
            "{} bytes, a regular file of at most {PROGRAM_BYTES_MAX}",
            found.len()
        )));
    }
    let mut memory = sys::memfd::create("program")?;
    io::copy(&mut &file, &mut memory)?;
    sys::memfd::seal(&memory)?;
    sys::memfd::reopen(&memory)
}

/// The environment of the program: what PID 1 gave, with the descriptors that are left.
fn environment(inherited: &mut Inherited) -> io::Result<Vec<CString>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let kept: Vec<&str> = names
        .split(':')
        .filter(|n| *n != "image" && !n.is_empty())
        .collect();
    for name in &kept {
        if let Some(fd) = inherited.remove(name) {
            sys::inherit::keep_over_exec(fd)?;
        }
    }
    let vars = std::env::vars_os().filter(|(key, _)| !OURS.iter().any(|ours| key == ours));
    let mut env: Vec<Vec<u8>> = vars
        .map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat())
        .collect();
    if !kept.is_empty() {
        env.push(format!("LISTEN_PID={}", std::process::id()).into());
        env.push(format!("LISTEN_FDS={}", kept.len()).into());
        env.push(format!("LISTEN_FDNAMES={}", kept.join(":")).into());
    }
    strings(env.into_iter())
}

fn strings(list: impl Iterator<Item = Vec<u8>>) -> io::Result<Vec<CString>> {
    list.map(|bytes| CString::new(bytes).map_err(io::Error::from))
        .collect()
}
