//! What our own services use beside frames: the typed client of the JSON lines, over a real process.

use super::{LIMIT, Service, event};
use ipc::IpcError;
use ipc::lines::{Consume, Consumer, Effect, Filters, Lines, Message};
use std::path::Path;
use std::time::Duration;
use wire::work::{Publish, Qos};

/// Shorter than anything that is awaited, longer than nothing.
const A_MOMENT: Duration = Duration::from_millis(50);

fn lines(folder: &Path) -> Lines {
    Lines::connect(&folder.join(ipc::lines::SOCKET_NAME), LIMIT).unwrap()
}

fn consumer(folder: &Path, topic: &str) -> Consumer {
    let what = Consume {
        topic,
        consumer: "mailer",
        from: 1,
        lease: LIMIT,
        in_flight: 2,
    };
    lines(folder).consume(&what).unwrap()
}

fn next(consumer: &mut Consumer) -> Message {
    consumer.next(LIMIT).unwrap().expect("a message")
}

fn code<T: std::fmt::Debug>(outcome: Result<T, IpcError>) -> String {
    match outcome {
        Err(IpcError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

pub fn the_typed_client_consumes_queries_and_folds() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let service = Service::start(folder);
    let mut client = service.client();
    let publish = |n: u8| Publish {
        tenant_id: "",
        topic: "jobs.done",
        qos: Qos::ExactlyOnce,
        // Of a time gone by.
        ulid: Some([1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]),
        ttl_ms: None,
        headers: "{\"of\":\"a test\"}",
        payload: "{\"b\":[1,2],\"a\":\"\u{e9}\"}",
    };
    for n in [1, 2, 1] {
        client.publish(&publish(n)).unwrap();
    }
    let mut first = consumer(folder, "jobs.done");
    let [one, two] = [next(&mut first), next(&mut first)];
    assert_eq!(one.payload, "{\"a\":\"\u{e9}\",\"b\":[1,2]}");
    assert_eq!(
        (one.headers.as_str(), one.attempt),
        ("{\"of\":\"a test\"}", 1)
    );
    assert_ne!(one.ulid, two.ulid, "published twice, and one message");
    assert_eq!(first.next(A_MOMENT).unwrap(), None);

    // With its effect or not at all; again is the same, and has no second one.
    let effect = Effect {
        event_type: "mail_sent",
        subject: "one",
        payload: "{\"cents\":7}",
    };
    let root = Effect {
        event_type: "bus.published",
        ..effect
    };
    assert_eq!(
        code(first.ack_with(&one, "mail", "service:mailer", &[root])),
        "POLICY_DENY"
    );
    let acked = first
        .ack_with(&one, "mail", "service:mailer", &[effect])
        .unwrap();
    assert_eq!((acked.repeated, acked.events.len()), (false, 1));
    let again = first
        .ack_with(&one, "mail", "service:mailer", &[effect])
        .unwrap();
    assert_eq!((again.repeated, again.events.len()), (true, 0));
    assert_eq!(code(first.commit(&one, 2)), "NOT_QUORATE");
    first.commit(&one, 1).unwrap();
    // What a connection held is another's when it ends.
    drop(first);
    let mut second = consumer(folder, "jobs.done");
    let given = next(&mut second);
    assert_eq!((given.ulid == two.ulid, given.attempt), (true, 2));
    // Messages that come while an answer is awaited are not lost.
    client.publish(&publish(3)).unwrap();
    assert!(!second.ack(&given).unwrap().repeated);
    let third = next(&mut second);
    second.ack(&third).unwrap();
    assert_eq!(second.next(A_MOMENT).unwrap(), None);

    let mut asking = lines(folder);
    let mail = Filters {
        ns: "mail",
        ..Filters::default()
    };
    let mut found = Vec::new();
    let more = asking
        .query(&mail, 1, 10, |event| found.push(event))
        .unwrap();
    assert_eq!((found.len(), more), (1, None));
    assert_eq!(found[0].id, acked.events[0]);
    assert_eq!(
        (found[0].event_type.as_str(), found[0].payload.as_str()),
        ("mail_sent", "{\"cents\":7}")
    );
    let spec = "{\"fields\":{\"sums\":{\"reducer\":\"counter-gcounter\",\"value\":\"/cents\"}}}";
    let folded = asking.fold("mail", "sums", spec).unwrap();
    assert_eq!(
        folded.state,
        "{\"sums\":{\"by\":{\"service:mailer\":7},\"total\":7}}"
    );
    assert_eq!(folded.state_root.len(), 64);
    assert_eq!(code(asking.fold("mail", "sums", "{}")), "BAD_REQUEST");

    let started = Filters {
        event_type: "service_started",
        ..Filters::default()
    };
    let mut events = asking.subscribe(&started, 1).unwrap();
    assert_eq!(events.next(A_MOMENT).unwrap(), None);
    let id = client.append(&event("later")).unwrap().event_id;
    let told = events.next(LIMIT).unwrap().expect("an event");
    assert_eq!((told.id, told.subject.as_str()), (id, "later"));
    drop(service);
    assert!(matches!(
        events.next(LIMIT),
        Err(IpcError::Closed | IpcError::Io(_) | IpcError::Refused { .. })
    ));
}
