//! Descriptors that are slow to close, closed without holding up their owner.
//!
//! In an executable of their own, one after the other: whoever starts a child or releases descriptors holds for a
//! moment a copy of every descriptor of the process, and then the close that is to wait is not the last one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use sys::release::Releaser;

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::new(());

/// A connection whose closing waits for a peer that never reads, for longer than any test.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 3600,
    };
    nix::sys::socket::setsockopt(&near, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    near.set_nonblocking(true).unwrap();
    while (&near).write(&[0; 65_536]).is_ok() {}
    (near, far)
}

#[test]
fn a_socket_that_lingers_for_an_hour_holds_nobody() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (near, mut far) = lingering();
    let mut releaser = Releaser::default();
    releaser.take([OwnedFd::from(near)]);
    while !releaser.is_idle() {
        releaser.step();
        std::thread::sleep(Duration::from_millis(1));
    }
    // It is closed: what was sent comes, and then the end or a reset.
    let mut buf = vec![0; 1 << 20];
    while far.read(&mut buf).is_ok_and(|n| n > 0) {}
    // Whoever closes one in the ordinary way waits. Only now, when no releasing thread has a copy of it.
    let (trap, _its_far_end) = lingering();
    let (begin, begun) = std::sync::mpsc::channel();
    let trapped = std::thread::spawn(move || {
        begin.send(()).unwrap();
        drop(trap);
    });
    begun.recv().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!trapped.is_finished());
}

#[test]
fn many_are_closed_and_none_is_kept() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (read, mut write) = std::io::pipe().unwrap();
    let mut releaser = Releaser::default();
    let copies = (0..100).map(|_| OwnedFd::from(read.try_clone().unwrap()));
    releaser.take(copies);
    drop(read);
    let until = Instant::now() + Duration::from_secs(60);
    while write.write_all(b"x").is_ok() {
        assert!(Instant::now() < until, "a descriptor is still open");
        releaser.step();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(releaser.is_idle());
}
