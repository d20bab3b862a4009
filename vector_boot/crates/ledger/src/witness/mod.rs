//! The role `witness`: has somebody elsewhere sign the log's checkpoints (C2SP `tlog-witness`, add-checkpoint).
//!
//! A process of its own, since the ledger has no network: it asks the ledger over its socket, the witness over plain
//! HTTP, and hands the answer to the ledger, which believes signatures alone. Once at the start, then every hour, and
//! when it is told to end. It keeps nothing: what the witness signed last, the witness says itself.
//! Nobody waits for it: what fails is an event and is tried again, sooner at first.
//!
//! Never here: keys that sign. Start with [`main`]; when to ask is [`Pace`]'s. Source: <https://c2sp.org/tlog-witness>.

mod http;

use crate::cli::{Peer, body, cosign, running};
use crate::json::Json;
use clap::Parser;
use http::{Target, post};
use ledger_core::note::{KeyKind, Note, VerifierKey};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sys::events::{Interest, Poller, Signals};
use sys::inherit::notify;

/// For both exchanges with the witness.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(10);
/// For both at the end: with what may be under way then, less than the 15 s after which PID 1 kills; it waits for us.
const LAST_LIMIT: Duration = Duration::from_secs(2);
/// After the first failure in a row; doubled up to the period.
const RETRY_FIRST: Duration = Duration::from_secs(60);
/// Characters of what a failure says on the log.
const REASON_CHARS_MAX: usize = 200;
/// `signal(7)`.
const SIGTERM: i32 = 15;
/// `signal(7)`.
const SIGINT: i32 = 2;

/// The words behind the role's name.
#[derive(Parser)]
#[command(name = "witness", disable_version_flag = true)]
struct Words {
    /// Where the witness listens: http://ADDRESS[:PORT][/PREFIX]
    #[arg(long, value_parser = Target::parse)]
    url: Target,
    /// The witness's key: NAME+HASH+BASE64
    #[arg(long, value_name = "VKEY", value_parser = witness_key)]
    key: VerifierKey,
    /// Seconds between two checkpoints
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86400))]
    every: u64,
}

fn witness_key(text: &str) -> Result<VerifierKey, String> {
    let key = VerifierKey::parse(text).map_err(|e| e.to_string())?;
    match key.kind() {
        KeyKind::Witness => Ok(key),
        KeyKind::Log => Err("key: expected a witness's, not a log's".to_owned()),
    }
}

/// Runs the role over the words behind its name.
#[must_use]
pub fn main(words: &[OsString]) -> ExitCode {
    let name = OsString::from("witness");
    let words = match Words::try_parse_from(std::iter::once(&name).chain(words)) {
        Ok(words) => words,
        Err(e) => {
            // Nobody reads: nothing is left to say.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            ::log::error!("failed: reason=\"{e}\"");
            ExitCode::FAILURE
        }
    }
}

fn run(words: Words) -> std::io::Result<()> {
    let mut signals = Signals::new(&[SIGTERM, SIGINT])?;
    let mut poller = Poller::new()?;
    poller.add(signals.as_fd(), 0, Interest::Read)?;
    let carrier = Carrier {
        ledger: Peer::new(ipc::run_folder().join("ledger.sock")),
        target: words.url,
        key: words.key,
    };
    let mut pace = Pace::new(Duration::from_secs(words.every));
    // By hand there is nobody to tell.
    let _ = notify("READY=1");
    loop {
        let outcome = carrier.carry(EXCHANGE_LIMIT);
        carrier.tell(&outcome, &mut pace);
        if is_told_to_end(&mut signals, &mut poller, pace.wait(&outcome))? {
            let _ = notify("STOPPING=1");
            let outcome = carrier.carry(LAST_LIMIT);
            carrier.tell(&outcome, &mut pace);
            return Ok(());
        }
    }
}

/// Rests for this long, or until a signal comes: whether one did.
fn is_told_to_end(
    signals: &mut Signals,
    poller: &mut Poller,
    rest: Duration,
) -> std::io::Result<bool> {
    let until = Instant::now() + rest;
    loop {
        if signals.take().is_some() {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // It comes back after a minute at most.
        poller.wait(Some(left.max(Duration::from_millis(1))))?;
    }
}

/// How many events the witness signed for, or why it did not.
type Outcome = Result<u64, String>;

/// When to ask again, and what is worth an event.
struct Pace {
    every: Duration,
    retry: Duration,
    /// What was said of the failure that lasts.
    said: String,
}

impl Pace {
    fn new(every: Duration) -> Self {
        Self {
            every,
            retry: RETRY_FIRST.min(every),
            said: String::new(),
        }
    }

    /// Until the next try.
    fn wait(&mut self, outcome: &Outcome) -> Duration {
        if outcome.is_ok() {
            self.retry = RETRY_FIRST.min(self.every);
            return self.every;
        }
        let wait = self.retry;
        self.retry = (2 * self.retry).min(self.every);
        wait
    }

    /// Whether an outcome says something that was not said before.
    fn is_news(&mut self, outcome: &Outcome) -> bool {
        let reason = outcome.as_ref().err().cloned().unwrap_or_default();
        let news = self.said != reason;
        self.said = reason;
        news
    }
}

/// Between the ledger and the witness.
struct Carrier {
    ledger: Peer,
    target: Target,
    key: VerifierKey,
}

impl Carrier {
    /// Has the newest checkpoint signed.
    fn carry(&self, limit: Duration) -> Outcome {
        let mut left = limit;
        // From nothing on, which a witness that knows the log answers with what it signed last.
        match self.ask(0, &mut left)? {
            Answer::Signed(size) => Ok(size),
            Answer::Knows(old) => match self.ask(old, &mut left)? {
                Answer::Signed(size) => Ok(size),
                Answer::Knows(other) => Err(format!("it signed {old} events last, then {other}")),
            },
        }
    }

    /// `left` is the witness's time alone.
    fn ask(&self, old: u64, left: &mut Duration) -> Result<Answer, String> {
        let (hashes, text) = running(&self.ledger, old)?;
        let began = Instant::now();
        let answer = post(&self.target, &body(old, &hashes, &text), began + *left);
        *left = left.saturating_sub(began.elapsed());
        let (status, answer) = answer?;
        match status {
            200 => {
                let mut note = Note::parse(&text).map_err(|e| e.to_string())?;
                cosign(&mut note, &answer, std::slice::from_ref(&self.key))?;
                let answer = self.ledger.call(&Json::object([
                    ("type", "witness.add".into()),
                    ("checkpoint", note.to_string().as_str().into()),
                    ("witness", self.key.to_string().as_str().into()),
                ]))?;
                let size = answer.get("size").and_then(Json::unsigned);
                Ok(Answer::Signed(size.unwrap_or_default()))
            }
            409 => {
                let known = answer.trim_end().parse::<u64>();
                let known = known.map_err(|_| "status 409 without a size".to_owned())?;
                match known == old {
                    true => Err(format!(
                        "status 409 for the size {old} that it names itself"
                    )),
                    false => Ok(Answer::Knows(known)),
                }
            }
            422 => Err("the witness refuses: this log does not continue what it signed".to_owned()),
            403 | 404 => Err(format!(
                "status {status}: the witness does not know this log"
            )),
            other => Err(format!("status {other}")),
        }
    }

    /// Says what came of it where somebody looks; a failure that lasts is said once.
    fn tell(&self, outcome: &Outcome, pace: &mut Pace) {
        let news = pace.is_news(outcome);
        match outcome {
            Ok(size) => ::log::info!("witnessed: size={size} by={}", self.key.name()),
            Err(why) if news => {
                ::log::warn!("not witnessed: by={} reason={why:?}", self.key.name());
                if let Err(e) = self.record(why) {
                    ::log::warn!("not recorded: reason={e:?}");
                }
            }
            Err(_) => {}
        }
    }

    fn record(&self, why: &str) -> Result<(), String> {
        let reason: String = why.chars().take(REASON_CHARS_MAX).collect();
        let payload = Json::object([
            ("reason", reason.as_str().into()),
            ("witness", self.key.name().into()),
        ]);
        let event = Json::object([
            ("event_type", "checkpoint_not_witnessed".into()),
            ("subject", "log".into()),
            ("payload", payload),
        ]);
        let append = Json::object([
            ("type", "append_event".into()),
            ("ns", "witness".into()),
            ("actor", "service:witness".into()),
            ("event", event),
        ]);
        self.ledger.call(&append).map(drop)
    }
}

/// What a witness says to a size.
enum Answer {
    /// It signed this many events, and the ledger keeps it.
    Signed(u64),
    /// It signed this many last.
    Knows(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_sooner_at_first_and_said_once() {
        let mut pace = Pace::new(Duration::from_secs(300));
        let (signed, down) = (Ok(7), Err("down".to_owned()));
        let mut waits = |outcome: &Outcome| pace.wait(outcome).as_secs();
        assert_eq!(
            [&down, &down, &down, &down].map(&mut waits),
            [60, 120, 240, 300]
        );
        assert_eq!([&signed, &down].map(&mut waits), [300, 60]);
        let refused = Err("refused".to_owned());
        let mut news = |outcome: &Outcome| pace.is_news(outcome);
        assert_eq!(
            [&down, &down, &refused, &signed, &signed, &down].map(&mut news),
            [true, false, true, true, false, true]
        );
        assert_eq!(Pace::new(Duration::from_secs(1)).wait(&down).as_secs(), 1);
    }
}
