//! The table behind `Idempotency-Key`: a repeated call is answered as the first was.
//!
//! Pure: time is an argument. Bounded: the oldest answer goes when the table is full. It lives in
//! memory, so a restart of the gateway forgets it. Start with [`Table::begin`].

use crate::answer::ToolResponse;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Answers kept.
pub const ENTRIES_MAX: usize = 1_024;
/// How long an answer is kept: longer than any client retries.
pub const KEPT: Duration = Duration::from_secs(600);
/// Longest key.
pub const KEY_BYTES_MAX: usize = 255;

/// Whose call with which key.
pub type Key = (String, String);

enum Entry {
    Running(String),
    Done(String, Box<ToolResponse>),
}

/// What a call with a key is to do.
#[derive(Debug)]
pub enum Begun {
    /// It is the first: run it, then [`Table::end`].
    First,
    /// The first one has not ended.
    Running,
    /// The key was used for other parameters.
    Mismatch,
    /// The first one's answer.
    Done(Box<ToolResponse>),
}

/// Every key in use.
#[derive(Default)]
pub struct Table {
    entries: HashMap<Key, Entry>,
    order: VecDeque<(Instant, Key)>,
}

impl Table {
    /// Asks for a key; `call` tells calls apart (their commitment).
    pub fn begin(&mut self, now: Instant, key: &Key, call: &str) -> Begun {
        self.expire(now);
        match self.entries.get(key) {
            None => {
                self.entries
                    .insert(key.clone(), Entry::Running(call.to_owned()));
                self.order.push_back((now, key.clone()));
                Begun::First
            }
            Some(Entry::Running(c) | Entry::Done(c, _)) if c != call => Begun::Mismatch,
            Some(Entry::Running(_)) => Begun::Running,
            Some(Entry::Done(_, answer)) => Begun::Done(answer.clone()),
        }
    }

    /// Keeps the answer of a first call, or forgets the key where the call may be tried again.
    pub fn end(&mut self, key: &Key, answer: Option<&ToolResponse>) {
        let Some(Entry::Running(call)) = self.entries.get_mut(key) else {
            return;
        };
        match answer {
            Some(answer) => {
                let done = Entry::Done(std::mem::take(call), Box::new(answer.clone()));
                self.entries.insert(key.clone(), done);
            }
            None => {
                self.entries.remove(key);
                self.order.retain(|(_, k)| k != key);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((since, key)) = self.order.front() {
            let old = now.saturating_duration_since(*since) > KEPT;
            if !old && self.order.len() < ENTRIES_MAX {
                return;
            }
            self.entries.remove(key);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Fault;

    fn answer(n: u64) -> ToolResponse {
        let fault = Fault {
            code: "x".to_owned(),
            message: String::new(),
        };
        ToolResponse::refused(n.into(), 0.0, None, fault)
    }

    fn key(n: usize) -> Key {
        ("agent:a".to_owned(), n.to_string())
    }

    #[test]
    fn the_first_answer_is_given_again() {
        let (mut t, now) = (Table::default(), Instant::now());
        assert!(matches!(t.begin(now, &key(1), "c"), Begun::First));
        assert!(matches!(t.begin(now, &key(1), "c"), Begun::Running));
        assert!(matches!(t.begin(now, &key(1), "other"), Begun::Mismatch));
        t.end(&key(1), Some(&answer(5)));
        match t.begin(now, &key(1), "c") {
            Begun::Done(a) => assert_eq!(a.id, 5),
            other => panic!("{other:?}"),
        }
        assert!(matches!(t.begin(now, &key(1), "other"), Begun::Mismatch));
        let later = now + KEPT + Duration::from_secs(1);
        assert!(matches!(t.begin(later, &key(1), "c"), Begun::First));
        t.end(&key(1), None);
        assert!(matches!(t.begin(later, &key(1), "c"), Begun::First));
    }

    #[test]
    fn the_table_stays_bounded() {
        let (mut t, now) = (Table::default(), Instant::now());
        for n in 0..ENTRIES_MAX * 3 {
            assert!(matches!(t.begin(now, &key(n), "c"), Begun::First));
            t.end(&key(n), Some(&answer(0)));
            assert!(t.entries.len() <= ENTRIES_MAX && t.order.len() <= ENTRIES_MAX);
        }
        assert!(matches!(t.begin(now, &key(0), "c"), Begun::First));
    }
}
