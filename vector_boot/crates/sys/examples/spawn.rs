//! What the confinement adds to a start: the same program, started with and without it, in turn.
//!
//! Needs root: `cargo run --release -p sys --example spawn`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;
use sys::capability::Set;
use sys::namespace::{Away, Space};
use sys::spawn::{Descriptors, Identity, Limit, Powers, Spawn};

const ROUNDS: usize = 1000;

fn main() -> std::io::Result<()> {
    let begun = Instant::now();
    let kinds = [Space::Mount, Space::Ipc, Space::Uts, Space::Net];
    let cell = Away::leave(&kinds)?.home()?;
    println!("namespaces made: {} us", begun.elapsed().as_micros());
    let cell: Vec<BorrowedFd<'_>> = cell.iter().map(AsFd::as_fd).collect();
    let program = File::open("/bin/true")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut plain = Spawn::new(&["true"], &[], &[])?;
    plain.identity = Identity::Uid(65_534);
    let mut confined = Spawn::new(&["true"], &[], &[])?;
    confined.identity = plain.identity;
    confined.powers = Powers::Only(Set::NONE);
    confined.limits = vec![(Limit::Core, 0), (Limit::OpenFiles, 1024)];
    confined.oom_score_adj = Some(c"500".to_owned());
    confined.no_new_privileges = true;
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (i, times) in times.iter_mut().enumerate() {
            let (spawn, namespaces) = match i {
                0 => (&mut plain, &[][..]),
                1 => (&mut confined, &[][..]),
                _ => (&mut confined, &cell[..]),
            };
            let begun = Instant::now();
            let child = spawn.start(&Descriptors {
                image: program.as_fd(),
                stdio: [null.as_fd(), null.as_fd(), null.as_fd()],
                passed: &[],
                cgroup: None,
                namespaces,
            })?;
            times.push(begun.elapsed().as_nanos());
            sys::process::wait_for(child.pid)?;
        }
    }
    for (name, mut times) in ["uid alone", "limits and powers", "and a cell"]
        .into_iter()
        .zip(times)
    {
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or(0);
        println!(
            "{name}: median {} us, 10 % {} us, 90 % {} us",
            at(50) / 1000,
            at(10) / 1000,
            at(90) / 1000
        );
    }
    Ok(())
}
