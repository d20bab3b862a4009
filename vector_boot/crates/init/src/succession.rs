//! Whether the package's own `vector_boot` takes over, and everything that is asked of it before.
//!
//! A PID 1 that crashes takes the kernel with it, so what can be found out is found out first: hash, processor,
//! linkage, and whether the program starts at all and knows our record. Runs once, before the loop.
//! Start with [`follow`].

use crate::handover::{self, Cause, Holdings, Running};
use crate::package::{self, Found};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use sys::events::{Interest, Poller};
use sys::process::Exit;
use sys::spawn::{Child, Descriptors, Identity, Spawn};

/// For the answer of a program that starts in milliseconds; an emulated machine is 100 times slower.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Longest answer: a name, a word and a version.
const ANSWER_BYTES_MAX: usize = 64;
/// Nobody: the program that is asked gets no more than it needs to answer.
const NOBODY: u32 = 65534;

/// Becomes the package's `vector_boot` if that is another than the one that runs. Returns if it is not.
///
/// # Errors
/// Why it cannot be: then nothing has changed, and the one that runs goes on.
pub fn follow(found: &Found, held: &mut Holdings) -> Result<(), String> {
    let Some(wanted) = other_than(&held.running, found) else {
        return Ok(());
    };
    let short = wanted.get(..16).unwrap_or(wanted).to_owned();
    let failed =
        |why: &str| format!("package's vector_boot {short}: {why}, the initramfs's own runs");
    let image = package::load_binary(&found.file, wanted).map_err(|e| failed(&e))?;
    ask(image.as_fd()).map_err(|e| failed(&e))?;
    let place = held.package.as_ref().map_or("", |(_, place)| place);
    let theirs = Running {
        digest: wanted.to_owned(),
        from: format!("package {place}"),
    };
    let ours = std::mem::replace(&mut held.running, theirs);
    let own = held.initramfs.vector_boot.replace(image);
    held.own = own.map(|fd| (fd, ours.digest.clone()));
    held.cause = Cause::Package;
    held.left_ns = sys::clock::monotonic_ns();
    let error = held.give(None);
    // Still here: as if nothing had been.
    held.cause = Cause::First;
    held.left_ns = 0;
    held.running = ours;
    held.initramfs.vector_boot = held.own.take().map(|(fd, _)| fd);
    Err(failed(&format!("exec: {error}")))
}

/// The digest of the package's `vector_boot`, if it is another than the one that runs.
fn other_than<'f>(running: &Running, found: &'f Found) -> Option<&'f str> {
    found
        .image("vector_boot")
        .filter(|digest| *digest != running.digest)
}

/// Starts the program as nobody and asks which record and state it takes.
///
/// # Errors
/// What it answered, and how it ended.
pub fn ask(image: BorrowedFd<'_>) -> Result<(), String> {
    let failed = |e: io::Error| format!("ask which handover it takes: {e}");
    let mut asked = Question::put(image)?;
    let answer = read_answer(&mut asked.read, asked.child.pidfd.as_fd());
    asked.end();
    let exit = sys::process::wait_for(asked.child.pid).map_err(failed)?;
    judge(&answer.map_err(failed)?, exit)
}

/// A program that was asked, and has not ended yet: for who cannot wait.
pub struct Question {
    child: Child,
    read: File,
    until: Instant,
}

impl Question {
    /// Starts the program as nobody with the question.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn put(image: BorrowedFd<'_>) -> Result<Self, String> {
        let failed = |e: io::Error| format!("ask which handover it takes: {e}");
        let (read, write) = io::pipe().map_err(failed)?;
        let read = File::from(OwnedFd::from(read));
        sys::inherit::set_nonblocking(read.as_fd()).map_err(failed)?;
        let write = OwnedFd::from(write);
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(failed)?;
        let mut spawn = Spawn::new(&["vector_boot", handover::WORD], &[], &[]).map_err(failed)?;
        spawn.no_new_privileges = true;
        if sys::packet::own_uid() == 0 {
            spawn.identity = Identity::Uid(NOBODY);
        }
        let child = spawn
            .start(&Descriptors {
                image,
                stdio: [null.as_fd(), write.as_fd(), null.as_fd()],
                passed: &[],
                cgroup: None,
                namespaces: &[],
            })
            .map_err(|e| format!("start: {e}"))?;
        let until = Instant::now() + ANSWER_LIMIT;
        Ok(Self { child, read, until })
    }

    /// The process that answers.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Ends one that takes too long; its end is reaped as any.
    pub fn look(&self) {
        if Instant::now() >= self.until {
            self.end();
        }
    }

    fn end(&self) {
        const SIGKILL: i32 = 9;
        // One that has ended takes no notice.
        let _ = sys::process::signal(self.child.pidfd.as_fd(), SIGKILL);
    }

    /// What it said, now that it has ended; never waits.
    ///
    /// # Errors
    /// What it answered, and how it ended.
    pub fn judge(mut self, exit: Exit) -> Result<(), String> {
        let mut answer = [0; ANSWER_BYTES_MAX];
        // One write of one line; whoever writes it in pieces is no program of ours.
        let bytes = self.read.read(&mut answer).unwrap_or(0);
        judge(answer.get(..bytes).unwrap_or_default(), exit)
    }
}

/// What it says, and its end, as far as time and place allow.
fn read_answer(read: &mut File, process: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut poller = Poller::new()?;
    poller.add(read.as_fd(), 0, Interest::Read)?;
    let deadline = Instant::now() + ANSWER_LIMIT;
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut answer = Vec::new();
    let mut buf = [0; ANSWER_BYTES_MAX];
    while answer.len() < ANSWER_BYTES_MAX {
        match read.read(&mut buf) {
            Ok(0) => break,
            Ok(bytes) => answer.extend_from_slice(buf.get(..bytes).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if left().is_zero() {
                    break;
                }
                poller.wait(Some(left()))?;
            }
            Err(e) => return Err(e),
        }
    }
    // How it ended tells more than that it was stopped.
    poller.remove(read.as_fd())?;
    poller.add(process, 1, Interest::Read)?;
    poller.wait(Some(left()))?;
    Ok(answer)
}

/// Whether the answer is ours; if not, what it was, and how its giver ended.
fn judge(answer: &[u8], exit: Exit) -> Result<(), String> {
    let expected = handover::answer();
    let line = String::from_utf8_lossy(answer);
    let line = line.lines().next().unwrap_or_default();
    if line == expected {
        return Ok(());
    }
    let clean: String = line
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    Err(format!(
        "asked which handover it takes: answer {clean:?}, {exit}, limit {expected:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str) -> File {
        File::open(format!("/bin/{name}")).unwrap()
    }

    #[test]
    fn a_program_that_does_not_know_the_record_is_refused_by_what_it_says() {
        let refusal = ask(program("echo").as_fd()).unwrap_err();
        assert_eq!(
            refusal,
            "asked which handover it takes: answer \"handover\", exit code 0, limit \"vector_boot handover 4 state 3\""
        );
        let refusal = ask(program("false").as_fd()).unwrap_err();
        assert!(refusal.contains("answer \"\", exit code 1"), "{refusal}");
        let none = sys::memfd::sealed("none", b"no program").unwrap();
        let refusal = ask(none.as_fd()).unwrap_err();
        assert!(refusal.starts_with("start: "), "{refusal}");
    }

    #[test]
    fn only_the_whole_answer_counts() {
        let exit = Exit::Code(0);
        assert_eq!(judge(b"vector_boot handover 4 state 3\n", exit), Ok(()));
        for other in [
            "vector_boot handover 4 state 33\n",
            "vector_boot handover\n",
            "\nvector_boot handover 4 state 3\n",
            "",
        ] {
            judge(other.as_bytes(), exit).unwrap_err();
        }
    }
}
