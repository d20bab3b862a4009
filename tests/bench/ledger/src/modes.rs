//! Who asks: one client, 64 clients at a time, one client with batches of 64.
//!
//! A store that is a library is driven directly by a single client; behind 64 clients stands one
//! thread that takes whatever waits as one group, as the ledger's committer does.

use crate::{CONTENT_BYTES, Run};
use crossbeam::channel::{Receiver, bounded};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Clients at a time, and events a batch.
pub const MANY: usize = 64;

/// One of three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One client, an event a sync.
    One,
    /// 64 clients, each waiting for its event.
    Clients,
    /// One client, 64 events a sync.
    Groups,
}

/// All of them.
pub const MODES: [Mode; 3] = [Mode::One, Mode::Clients, Mode::Groups];

impl Mode {
    /// For the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Clients => "clients",
            Self::Groups => "groups",
        }
    }

    /// For the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::One => "one client, an event a sync",
            Self::Clients => "64 clients, each waiting for its event",
            Self::Groups => "one client, groups of 64",
        }
    }

    /// Events a request.
    pub fn batch(self) -> usize {
        if self == Self::Groups { MANY } else { 1 }
    }
}

/// A store that is a library.
pub trait Store: Send {
    /// Makes these events durable together.
    fn append(&mut self, events: &[Vec<u8>]);
    /// Groups and bytes so far, where it counts.
    fn written(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// The content of an event: letters, never the same twice in a row.
pub fn content(n: u64) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'a' + (state % 26) as u8
    };
    (0..CONTENT_BYTES).map(letter).collect()
}

/// Runs clients against a library.
pub fn drive(mode: Mode, limit: Duration, mut store: Box<dyn Store>) -> Run {
    if mode == Mode::Clients {
        return crowd(limit, store);
    }
    let events: Vec<Vec<u8>> = (0..mode.batch() as u64).map(content).collect();
    let (count, rate, p99_us) = repeat(limit, || store.append(&events));
    let count = count * events.len() as u64;
    Run {
        p99_us,
        ..finish(rate * events.len() as f64, count, &*store)
    }
}

/// Asks one after the other: how often, how often a second, and the 99th percentile in microseconds.
pub fn repeat(limit: Duration, mut ask: impl FnMut()) -> (u64, f64, f64) {
    let began = Instant::now();
    let mut times = Vec::new();
    let mut last = began;
    while last - began < limit {
        ask();
        let now = Instant::now();
        times.push((now - last).as_secs_f64() * 1e6);
        last = now;
    }
    let rate = times.len() as f64 / (last - began).as_secs_f64();
    times.sort_by(f64::total_cmp);
    let p99 = times.get(times.len() * 99 / 100);
    (times.len() as u64, rate, p99.copied().unwrap_or(f64::NAN))
}

fn finish(rate: f64, events: u64, store: &dyn Store) -> Run {
    let (groups, bytes) = store.written();
    Run {
        rate,
        groups,
        bytes,
        events,
        ..Run::default()
    }
}

/// Where a client sleeps until its answer is there. A channel would spin first, and 64 that spin are
/// all that two cores do.
#[derive(Default)]
pub struct Answer {
    given: Mutex<bool>,
    changed: Condvar,
}

impl Answer {
    /// Wakes the client.
    pub fn give(&self) {
        *self.given.lock().expect("answer") = true;
        self.changed.notify_one();
    }

    /// Sleeps until the answer is there, and takes it.
    pub fn wait(&self) {
        let given = self.given.lock().expect("answer");
        let mut given = self
            .changed
            .wait_while(given, |given| !*given)
            .expect("answer");
        *given = false;
    }
}

type Request = (Vec<u8>, Arc<Answer>);

fn crowd(limit: Duration, mut store: Box<dyn Store>) -> Run {
    let (sender, receiver) = bounded::<Request>(1024);
    let writer = std::thread::spawn(move || {
        let mut count = 0;
        while let Ok(first) = receiver.recv() {
            let (events, waiting) = take(first, &receiver);
            store.append(&events);
            count += events.len() as u64;
            for client in waiting {
                client.give();
            }
        }
        (count, store)
    });
    let began = Instant::now();
    clients(limit, |n, deadline| {
        let sender = sender.clone();
        let answer = Arc::new(Answer::default());
        let mut count = n as u64;
        while Instant::now() < deadline {
            count += MANY as u64;
            let request = (content(count), answer.clone());
            sender.send(request).expect("the writer lives");
            answer.wait();
        }
    });
    let elapsed = began.elapsed().as_secs_f64();
    drop(sender);
    let (count, store) = writer.join().expect("writer");
    finish(count as f64 / elapsed, count, &*store)
}

fn take(first: Request, receiver: &Receiver<Request>) -> (Vec<Vec<u8>>, Vec<Arc<Answer>>) {
    std::iter::once(first).chain(receiver.try_iter()).unzip()
}

/// Runs 64 clients until a moment from now.
pub fn clients(limit: Duration, client: impl Fn(usize, Instant) + Sync) {
    let deadline = Instant::now() + limit;
    std::thread::scope(|scope| {
        for n in 0..MANY {
            let client = &client;
            scope.spawn(move || client(n, deadline));
        }
    });
}
