//! A process that becomes another program hands over exactly what it says, by choice and by crash.
//!
//! Each test starts this very executable as the predecessor; the successor is this executable too, and says what
//! it found. Start with [`role`].

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Output};
use sys::{handover, memfd};

/// What the successor is told to run, through the test harness: [`role`].
const WORDS: [&str; 4] = ["x", "--exact", "role", "--nocapture"];

fn start(role: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(&WORDS[1..])
        .env("ROLE", role)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Nothing in an ordinary run; the predecessor and the successor in processes of their own.
#[test]
fn role() {
    if let Some(mut taken) = handover::take() {
        if taken.descriptors.len() == 3 {
            // Hands on what it has just taken, among it the program, by crashing.
            let image = taken.descriptors.pop().unwrap();
            let last = memfd::create("words").unwrap();
            let words = WORDS.map(str::to_owned);
            let record = taken.record.into();
            handover::arm(image, &words, record, taken.descriptors, last.into()).unwrap();
            std::process::abort();
        }
        let text = |fd: OwnedFd| {
            let content = memfd::read_small(&fd.into(), 4096).unwrap();
            String::from_utf8_lossy(&content).into_owned()
        };
        let record = text(taken.record.into());
        let found: Vec<String> = taken.descriptors.into_iter().map(text).collect();
        let words: Vec<String> = std::env::args().collect();
        let env = std::env::vars().count();
        println!(
            "pid {}: {record}: {found:?}, {words:?}, env {env}",
            std::process::id()
        );
        // Whatever it was that made us: it is over.
        std::process::exit(0);
    }
    let Ok(role) = std::env::var("ROLE") else {
        return;
    };
    println!("predecessor {}", std::process::id());
    std::io::stdout().flush().unwrap();
    let image: OwnedFd = std::fs::File::open("/proc/self/exe").unwrap().into();
    let sealed = |content: &[u8]| memfd::sealed("t", content).unwrap();
    let (record, one, two) = (sealed(b"record"), sealed(b"one"), sealed(b"two"));
    let give = |record: &OwnedFd| {
        let words = WORDS.map(str::to_owned);
        handover::become_successor(
            image.as_fd(),
            &words,
            record.as_fd(),
            &[one.as_fd(), two.as_fd()],
        )
    };
    if role == "unsealed" {
        let mut record = memfd::create("t").unwrap();
        record.write_all(b"record").unwrap();
        panic!("{}", give(&record.into()));
    }
    if role == "no program" {
        let words = ["x".to_owned()];
        let error =
            handover::become_successor(record.as_fd(), &words, record.as_fd(), &[one.as_fd()]);
        println!("refused: {error}; there {}", handover::is_there());
        return;
    }
    if role == "give twice" {
        let words = WORDS.map(str::to_owned);
        let all = [one.as_fd(), two.as_fd(), image.as_fd()];
        panic!(
            "{}",
            handover::become_successor(image.as_fd(), &words, record.as_fd(), &all)
        );
    }
    if role == "give" {
        panic!("{}", give(&record));
    }
    let last = memfd::create("words").unwrap();
    let again = last.try_clone().unwrap();
    let words = WORDS.map(str::to_owned);
    handover::arm(image, &words, record, vec![one, again.into()], last.into()).unwrap();
    match role.as_str() {
        "signal" => sys::process::signal_self(11).unwrap(),
        "abort" => std::process::abort(),
        "panic" => handover::fall_back("a defect"),
        "disarmed" => {
            handover::disarm();
            std::process::abort();
        }
        _ => unreachable!(),
    }
    // A signal to ourselves is delivered before kill(2) returns.
    panic!("{role}: still here");
}

#[test]
fn the_successor_finds_what_was_handed_over_and_nothing_else() {
    let output = start("give");
    let text = said(&output);
    let pid = text
        .split("predecessor ")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    let wanted = format!("pid {pid}: record: [\"one\", \"two\"], {WORDS:?}, env 0");
    assert!(output.status.success() && text.contains(&wanted), "{text}");
}

#[test]
fn what_was_taken_can_be_handed_on() {
    let text = said(&start("give twice"));
    assert!(text.contains(": record: [\"one\", \"two\"]"), "{text}");
}

#[test]
fn a_record_that_is_not_sealed_is_none() {
    let output = start("unsealed");
    let text = said(&output);
    // Nobody handed anything over, and without a role that is an ordinary run.
    assert!(
        output.status.success() && !text.contains(": record"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_executed_leaves_the_process_as_it_was() {
    let text = said(&start("no program"));
    assert!(
        text.contains("refused: ") && text.contains("there false"),
        "{text}"
    );
}

#[test]
fn a_crash_makes_the_successor_that_was_prepared_and_leaves_last_words() {
    for (role, words) in [
        ("signal", "signal 11"),
        ("abort", "signal 06"),
        ("panic", "a defect"),
    ] {
        let output = start(role);
        let text = said(&output);
        let wanted = format!(": record: [\"one\", \"{words}\"], {WORDS:?}, env 0");
        assert!(
            output.status.success() && text.contains(&wanted),
            "{role}: {text}"
        );
    }
}

#[test]
fn what_was_disarmed_crashes_as_before() {
    use std::os::unix::process::ExitStatusExt;
    let output = start("disarmed");
    assert_eq!(output.status.signal(), Some(6), "{}", said(&output));
}
