//! What happens to those who wait while the committer stops.

use super::*;
use crate::device::{Access, FileDevice};

fn ledger(folder: &Path) -> Committer {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join("log"))
        .unwrap();
    let birth = Birth {
        log_id: [1; 16],
        tag_key: [2; 32],
        wall_ns: 0,
        segment_bytes_max: 1024 * 1024,
    };
    let device = FileDevice::new(file, "log".to_owned(), Access::Write).unwrap();
    Committer::start(Arc::new(device), &birth).unwrap().0
}

#[test]
fn who_waits_for_room_behind_a_stop_is_refused_and_not_left_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let committer = ledger(folder.path());
    let ledger = committer.ledger().clone();
    let (held, hold) = bounded::<()>(0);
    let (busy, is_busy) = bounded::<()>(1);
    ledger.decide(
        0,
        move |_, _| {
            busy.send(()).unwrap();
            // Until the test lets go.
            let _ = hold.recv();
            Ok(Decision::only(()))
        },
        |_| (),
    );
    is_busy.recv().unwrap();
    // What `stop` sends first; the committer is busy, so the rest comes behind it.
    ledger.sender.send(Message::Stop).unwrap();
    let large = || {
        vec![Draft {
            payload: "x".repeat(QUEUE_BYTES_MAX),
            ..Draft::default()
        }]
    };
    let (refused, outcomes) = bounded(2);
    for _ in 0..2 {
        let (ledger, refused) = (ledger.clone(), refused.clone());
        std::thread::spawn(move || {
            ledger.append(
                large(),
                Box::new(move |outcome| refused.send(outcome.is_err()).unwrap()),
            );
        });
    }
    // One of the two fills the queue.
    while ledger.queued_bytes() < QUEUE_BYTES_MAX {
        std::thread::yield_now();
    }
    drop(held);
    for _ in 0..2 {
        assert_eq!(outcomes.recv_timeout(Duration::from_secs(60)), Ok(true));
    }
    committer.stop();
}
