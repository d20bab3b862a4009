//! The thread that gives out the answers of a crowd, while the committer fills the next group.
//!
//! To wake who waits takes about as long as to place its next event, and who is woken asks again at
//! once. What comes here is durable, or refused; the answers of one group are all given before the
//! first one of the next. The thread is started by the first crowd, and ends with this value.

use crossbeam::channel::{Receiver, Sender, bounded, never, select};
use std::io;
use std::thread::JoinHandle;

/// Answers that are worth it: waking the thread costs as much as giving out some.
pub const CROWD_MIN: usize = 8;

/// Gives out the answers of one group.
pub type Round = Box<dyn FnOnce() + Send>;

/// The thread, if there is one.
pub struct Answers {
    thread: Option<(Sender<Round>, JoinHandle<()>)>,
    given: Receiver<()>,
    /// A round is with the thread.
    busy: bool,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            thread: None,
            given: never(),
            busy: false,
        }
    }
}

impl Answers {
    /// Has a round given out, behind the one before.
    pub fn give(&mut self, round: Round) {
        self.finish();
        if self.thread.is_none()
            && let Err(e) = self.start()
        {
            ::log::info!("answers are given out by the committer: error=\"{e}\"");
        }
        match &self.thread {
            None => round(),
            Some((rounds, _)) => {
                rounds.send(round).expect(DIED);
                self.busy = true;
            }
        }
    }

    /// Waits until every answer is given out.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.busy) {
            self.given.recv().expect(DIED);
        }
    }

    /// The next message, if one comes before every answer is given out: who gets one asks again.
    pub fn meanwhile<T>(&mut self, messages: &Receiver<T>) -> Option<T> {
        if !self.busy {
            return None;
        }
        select! {
            recv(messages) -> message => message.ok(),
            recv(self.given) -> given => {
                given.expect(DIED);
                self.busy = false;
                messages.try_recv().ok()
            }
        }
    }

    fn start(&mut self) -> io::Result<()> {
        let (rounds, waiting) = bounded::<Round>(1);
        let (sender, given) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("answers".to_owned())
            .spawn(move || {
                // As the committer, which said so if it may not.
                let _ = sys::process::run_in_real_time();
                for round in waiting {
                    round();
                    if sender.send(()).is_err() {
                        return;
                    }
                }
            })?;
        (self.thread, self.given) = (Some((rounds, thread)), given);
        Ok(())
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if let Some((rounds, thread)) = self.thread.take() {
            drop(rounds);
            // One that is gone has nothing to end.
            let _ = thread.join();
        }
    }
}

/// Those who wait for answers would wait for ever: the committer ends too, and the service with it.
const DIED: &str = "the thread of the answers gives each round out";
