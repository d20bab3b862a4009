//! A process that becomes another program hands over exactly what it says, by choice and by crash.
//!
//! Each test starts this very executable as the predecessor; the successor is this executable too, and says what
//! it found. Start with [`role`].

use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Output};
use std::sync::mpsc::{Sender, channel};
use sys::handover::{Along, Next};
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

fn arm(
    image: OwnedFd,
    record: &OwnedFd,
    descriptors: &[OwnedFd],
    last_words: OwnedFd,
    along: Option<Along<'_>>,
) {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    handover::arm(Next {
        image,
        words: &WORDS.map(str::to_owned),
        env: &[],
        record: record.as_fd(),
        descriptors: &descriptors,
        last_words,
        along,
    })
    .unwrap();
}

/// How many rows there are, then kind and number of each: two that go along, one that is free, one that is closed.
fn state(first: &OwnedFd, second: &OwnedFd, free: &OwnedFd) -> std::fs::File {
    let mut state = memfd::create("t").unwrap();
    let closed = 400;
    let rows = [
        (7, first.as_raw_fd()),
        (0, free.as_raw_fd()),
        (1, second.as_raw_fd()),
        (1, closed),
    ];
    state.write_all(&4u32.to_le_bytes()).unwrap();
    for (kind, number) in rows {
        state.write_all(&i32::to_le_bytes(kind)).unwrap();
        state.write_all(&number.to_le_bytes()).unwrap();
    }
    memfd::seal_size(&state).unwrap();
    state
}

fn along(state: &std::fs::File) -> Along<'_> {
    Along {
        state: state.as_fd(),
        used_at: 0,
        rows_at: 4,
        rows: 4,
        row_bytes: 8,
        kind_at: 0,
        number_at: 4,
    }
}

/// A thread with a table of descriptors of its own: its number, and what makes it abort.
fn other_thread() -> (nix::unistd::Pid, Sender<()>) {
    let (tell, told) = channel();
    let (abort, asked) = channel();
    std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
        tell.send(nix::unistd::gettid()).unwrap();
        if asked.recv().is_ok() {
            std::process::abort();
        }
    });
    (told.recv().unwrap(), abort)
}

/// Nothing in an ordinary run; the predecessor and the successor in processes of their own.
#[test]
fn role() {
    if let Some(mut taken) = handover::take() {
        if taken.descriptors.len() == 3 {
            // Hands on what it has just taken, among it the program, by crashing.
            let image = taken.descriptors.pop().unwrap();
            let last = memfd::create("words").unwrap();
            let record = taken.record.into();
            arm(image, &record, &taken.descriptors, last.into(), None);
            std::process::abort();
        }
        let text = |fd: OwnedFd| {
            let content = memfd::read_small(&fd.into(), 4096).unwrap();
            // Last words have their time behind them.
            let text = content.split(|b| *b == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        };
        let record = text(taken.record.into());
        if let Some(state) = taken.state {
            let state = memfd::read_small(&state.into(), 4096).unwrap();
            let numbers = state[4..]
                .chunks(8)
                .map(|row| i32::from_le_bytes(row[4..].try_into().unwrap()));
            let along: Vec<_> = numbers
                .clone()
                .map(|n| handover::take_along(n).map(text))
                .collect();
            let again = numbers.filter_map(handover::take_along).count();
            println!("along {along:?}, again {again}");
        }
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
            &[],
            record.as_fd(),
            &[one.as_fd(), two.as_fd()],
            None,
        )
    };
    if role == "unsealed" {
        let mut record = memfd::create("t").unwrap();
        record.write_all(b"record").unwrap();
        panic!("{}", give(&record.into()));
    }
    if role == "no program" {
        let words = ["x".to_owned()];
        let error = handover::become_successor(
            record.as_fd(),
            &words,
            &[],
            record.as_fd(),
            &[one.as_fd()],
            None,
        );
        println!("refused: {error}; there {}", handover::is_there());
        return;
    }
    if role == "give twice" {
        let words = WORDS.map(str::to_owned);
        let all = [one.as_fd(), two.as_fd(), image.as_fd()];
        panic!(
            "{}",
            handover::become_successor(image.as_fd(), &words, &[], record.as_fd(), &all, None)
        );
    }
    if role == "give" {
        panic!("{}", give(&record));
    }
    // Its table of descriptors lacks what is opened from here on.
    let thread = role.ends_with("thread").then(other_thread);
    let last = memfd::create("words").unwrap();
    let again = last.try_clone().unwrap();
    if role.starts_with("along") {
        let state = state(&one, &two, &record);
        if role == "along by choice" {
            let words = WORDS.map(str::to_owned);
            let all = [one.as_fd(), again.as_fd()];
            let along = along(&state);
            let error = handover::become_successor(
                image.as_fd(),
                &words,
                &[],
                record.as_fd(),
                &all,
                Some(&along),
            );
            panic!("{error}");
        }
        arm(
            image,
            &record,
            &[one, again.into()],
            last.into(),
            Some(along(&state)),
        );
        // The numbers of the table are read when it happens.
        let (one, two) = (sealed(b"later one"), sealed(b"later two"));
        let mut table = &state;
        table.seek(std::io::SeekFrom::Start(8)).unwrap();
        table.write_all(&one.as_raw_fd().to_le_bytes()).unwrap();
        std::mem::forget((one, two));
        std::process::abort();
    }
    arm(image, &record, &[one, again.into()], last.into(), None);
    match role.as_str() {
        "signal to a thread" => {
            let (tid, _abort) = thread.unwrap();
            // A signal to the process that the kernel gives this thread first.
            let mut kill = Command::new("kill");
            let _ = kill.args(["-s", "SEGV", &tid.to_string()]).status();
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        "abort in a thread" => {
            thread.unwrap().1.send(()).unwrap();
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
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
        ("signal to a thread", "signal 11"),
        ("abort in a thread", "signal 06"),
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
fn what_is_listed_goes_along_by_choice_and_by_crash() {
    let text = said(&start("along by choice"));
    let wanted = "along [Some(\"one\"), None, Some(\"two\"), None], again 0";
    assert!(text.contains(wanted), "{text}");
    let text = said(&start("along by crash"));
    let wanted = "along [Some(\"later one\"), None, Some(\"two\"), None], again 0";
    assert!(text.contains(wanted), "{text}");
}

#[test]
fn what_was_disarmed_crashes_as_before() {
    use std::os::unix::process::ExitStatusExt;
    let output = start("disarmed");
    assert_eq!(output.status.signal(), Some(6), "{}", said(&output));
}
