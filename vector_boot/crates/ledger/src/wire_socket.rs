//! `ledger.wire`: postcard frames of our own services and of PID 1.
//!
//! One thread reads a connection and one writes it. Questions pipeline: any number up to
//! [`UNDER_WAY_MAX`] may be under way; beyond, the connection is not read until some answers are sent.

use crate::boots::Ended;
use crate::committer::{Draft, Ledger, Receipt, Refusal};
use crate::gate::{Gate, Permit};
use crate::identity;
use crate::identity::Caller;
use crate::json::{self, Json};
use crate::planes::{Decision, Moment, Planes};
use crate::visitors::Visit;
use crate::wire_calls;
use crossbeam::channel::{Receiver, Sender, unbounded};
use ipc::door::{BAD_FRAMES_MAX, HELLO_LIMIT};
use ipc::{Served, serve_hello};
use ledger_core::Origin;
use std::sync::Arc;
use std::time::Duration;
use sys::packet::PacketSocket;
use wire::ledger::{
    Append, AppendMany, Appended, AppendedMany, Head, HeadGet, LastBoot, LastBootGet, LastTime,
    LastTimeGet, PAYLOAD_BYTES_MAX,
};
use wire::{Frame, Kind, Message, PACKET_BYTES_MAX, Refused, Role};

/// What a frame is called of which no more is known than that its sender may not send it.
const FRAME: &str = "frame";
/// What an append is to the policy, over either socket.
const APPEND: &str = "append_event";
/// Questions of one connection whose answers are not sent yet.
pub const UNDER_WAY_MAX: usize = 256;
/// A peer that takes no answer for this long is dropped.
pub const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// One answer to write.
enum Answer {
    Appended(u64, Appended),
    Head(u64, Head),
    LastTime(u64, LastTime),
    LastBoot(u64, Box<Ended>),
    /// Whole already.
    Packet(Vec<u8>),
    Refused(u64, Refusal),
    /// None, to this or any later question: the ledger stops. Who asked sees the connection end and
    /// asks its successor, where an origin makes the repeat harmless.
    None,
}

/// Answers on their way to the writer, each with its permit: the queue is never longer than there are.
type Answers = Sender<(Answer, Permit)>;

/// Serves one connection until the peer goes.
pub fn serve(socket: PacketSocket, visit: &Visit, ledger: &Ledger) {
    let mut buf = vec![0; PACKET_BYTES_MAX].into_boxed_slice();
    let bounded = socket.set_timeout(HELLO_LIMIT);
    if bounded.is_err() || !greet(&socket, visit, &mut buf) {
        return;
    }
    let unbounded_reads = socket
        .set_timeout(WRITE_LIMIT)
        .and_then(|()| socket.receive_for_ever());
    let (Ok(()), Ok(writing)) = (unbounded_reads, socket.try_clone()) else {
        return;
    };
    let writing = Arc::new(writing);
    visit.tell_at_end(&writing);
    let (answers, to_write) = unbounded();
    let writer = std::thread::Builder::new()
        .name("wire-answers".to_owned())
        .spawn(move || write_answers(&writing, &to_write));
    let Ok(writer) = writer else { return };
    let gate = Arc::new(Gate::new(UNDER_WAY_MAX));
    let mut bad_frames = 0;
    let Ok(caller) = Caller::of(visit.served().role, None) else {
        return;
    };
    while let Ok(received) = socket.take(&mut buf) {
        let over = !received.descriptors.is_empty();
        if received.bytes == 0 && !over {
            break;
        }
        let packet = buf.get(..received.bytes).unwrap_or_default();
        let permit = gate.enter();
        let refusal = if over {
            Err(Refusal::new("BAD_REQUEST", "descriptors", "", "none"))
        } else if received.cut {
            let limit = format!("at most {PACKET_BYTES_MAX} bytes");
            Err(Refusal::new("BAD_REQUEST", "frame", "", &limit))
        } else {
            question(packet, &visit.served())
        };
        let id = Frame::open(packet).map_or(0, |f| f.id);
        if let (Ok(Question::Call), Ok(frame)) = (&refusal, Frame::open(packet)) {
            let call = wire_calls::Asked {
                frame,
                caller: &caller,
                ledger,
            };
            let answers = answers.clone();
            call.handle(Box::new(move |outcome| {
                answer(&answers, of_outcome(id, outcome), permit);
            }));
            continue;
        }
        match refusal {
            Ok(question) => {
                let question = within_quota(question, visit.served().role, ledger);
                handle(id, question, &caller, ledger, &answers, permit);
            }
            Err(refusal) => {
                bad_frames += 1;
                visit.complain(&refusal.reason());
                ledger.refused(&caller.plea(FRAME, ""), &refusal);
                answer(&answers, Answer::Refused(id, refusal), permit);
            }
        }
        if over || bad_frames >= BAD_FRAMES_MAX {
            break;
        }
    }
    drop(answers);
    // It ends once the last question under way is answered, or the peer takes no answer.
    let _ = writer.join();
    socket.shutdown();
}

/// Answers the hello; `false` ends the connection.
fn greet(socket: &PacketSocket, visit: &Visit, buf: &mut [u8]) -> bool {
    let received = match socket.take(buf) {
        Ok(received) if received.bytes > 0 => received,
        Ok(_) => return false,
        Err(e) => {
            if e.kind() == std::io::ErrorKind::WouldBlock {
                visit.complain("no hello in time");
            }
            return false;
        }
    };
    let packet = buf.get(..received.bytes).unwrap_or_default();
    let whole = !received.cut && received.descriptors.is_empty();
    let mut out = [0; 256];
    let refused = match visit.served().open(packet) {
        Err(refused) => refused,
        Ok(_) => {
            if let Some(hello) = serve_hello(packet, &mut out).ok().filter(|_| whole) {
                return socket.send(hello, None).is_ok();
            }
            Refused {
                code: "BAD_REQUEST",
                field: "hello",
                value: "",
                limit: "the first frame, of a version spoken here",
            }
        }
    };
    visit.complain(&format!("{}: {}", refused.field, refused.limit));
    let id = Frame::open(packet).map_or(0, |f| f.id);
    if let Ok(packet) = wire::encode(id, &refused, &mut out) {
        // A peer that went does not need it.
        let _ = socket.send(packet, None);
    }
    false
}

fn answer(answers: &Answers, what: Answer, permit: Permit) {
    // A writer that is gone means that the peer is; the reader notices by itself.
    drop(answers.send((what, permit)));
}

/// What a peer asks.
enum Question {
    Append(Box<Draft>),
    Head,
    LastTime,
    LastBoot([u8; 16]),
    AppendMany(Vec<Draft>),
    /// One that [`wire_calls`] answers.
    Call,
    /// The frame is one, and what it asks for is refused for its content.
    Refused(Refusal),
}

/// Reads a packet; an error is a frame that is none, or not the peer's to send.
fn question(packet: &[u8], served: &Served) -> Result<Question, Refusal> {
    let frame = served.open(packet).map_err(|no| {
        let refusal = Refusal::new(code_of(no.code), no.field, no.value, no.limit);
        match refusal.code {
            "POLICY_DENY" => refusal.by("identity:kind"),
            _ => refusal,
        }
    })?;
    match frame.kind {
        Kind::LedgerAppend => {
            let append = body(&frame)?;
            Ok(match draft(&append, served) {
                Ok(draft) => Question::Append(Box::new(draft)),
                Err(refusal) => Question::Refused(refusal),
            })
        }
        Kind::LedgerAppendMany => {
            let many = body::<AppendMany<'_>>(&frame)?;
            let drafts: Result<Vec<Draft>, Refusal> = many
                .events
                .iter()
                .map(|append| draft(append, served))
                .collect();
            Ok(match drafts {
                Ok(drafts) if drafts.is_empty() => {
                    Question::Refused(Refusal::bad("events", "at least one"))
                }
                Ok(drafts) => Question::AppendMany(drafts),
                Err(refusal) => Question::Refused(refusal),
            })
        }
        kind if wire_calls::knows(kind) => Ok(Question::Call),
        Kind::LedgerHeadGet => body::<HeadGet>(&frame).map(|_| Question::Head),
        Kind::LedgerLastTimeGet => body::<LastTimeGet>(&frame).map(|_| Question::LastTime),
        Kind::LedgerLastBootGet => {
            body::<LastBootGet>(&frame).map(|get| Question::LastBoot(get.boot_id))
        }
        other => {
            let value = format!("{other:?}");
            let limit = "a question that docs/wire.md has for the ledger";
            Err(Refusal::new("BAD_REQUEST", "kind", &value, limit))
        }
    }
}

fn body<'p, M: Message + serde::Deserialize<'p>>(frame: &Frame<'p>) -> Result<M, Refusal> {
    let read = frame.body();
    read.map_err(|e| Refusal::new("BAD_REQUEST", "body", "", &e.to_string()))
}

fn within_quota(question: Question, role: Role, ledger: &Ledger) -> Question {
    let drafts = match &question {
        Question::Append(draft) => std::slice::from_ref(&**draft),
        Question::AppendMany(drafts) => drafts.as_slice(),
        _ => return question,
    };
    let allowed = Caller::of(role, None).and_then(|caller| {
        caller.may_fill(ledger)?;
        drafts
            .iter()
            .try_for_each(|draft| ledger.allow(&caller.plea(APPEND, &draft.ns)))
    });
    match allowed {
        Ok(()) => question,
        Err(refusal) => Question::Refused(refusal),
    }
}

/// Appends, if the policy still allows it when it is the events' turn.
fn append(caller: &Caller, ledger: &Ledger, events: Vec<Draft>, reply: crate::committer::Reply) {
    let first = events.first().map_or("", |draft| &draft.ns);
    let plea = events
        .iter()
        .fold(caller.plea(APPEND, first), |plea, draft| {
            plea.and(APPEND, &draft.ns)
        });
    if !plea.is_judged() {
        return ledger.append(events, reply);
    }
    let bytes = events.iter().map(Draft::bytes).sum();
    let decide = move |_: &Planes, _: &Moment| Ok(Decision { events, answer: () });
    ledger.decide_for(plea, bytes, decide, move |outcome| {
        reply(outcome.map(|((), receipts)| receipts));
    });
}

fn handle(
    id: u64,
    question: Question,
    caller: &Caller,
    ledger: &Ledger,
    answers: &Answers,
    permit: Permit,
) {
    match question {
        Question::Append(mut draft) => {
            if let Err(refusal) = crate::sealing::seal(ledger, &mut draft) {
                return answer(answers, Answer::Refused(id, refusal), permit);
            }
            let answers = answers.clone();
            let reply = move |outcome: Result<Vec<Receipt>, Refusal>| {
                let what = match outcome.map(|r| r.first().copied()) {
                    Ok(Some(receipt)) => Answer::Appended(
                        id,
                        Appended {
                            event_id: receipt.id,
                            commit_id: receipt.commit_id,
                            repeated: receipt.repeated,
                        },
                    ),
                    Ok(None) => {
                        Answer::Refused(id, Refusal::new("INTERNAL", "events", "0", "one receipt"))
                    }
                    Err(refusal) if refusal.is_of_a_stop() => Answer::None,
                    Err(refusal) => Answer::Refused(id, refusal),
                };
                answer(&answers, what, permit);
            };
            append(caller, ledger, vec![*draft], Box::new(reply));
        }
        Question::AppendMany(mut drafts) => {
            let sealed = drafts
                .iter_mut()
                .try_for_each(|draft| crate::sealing::seal(ledger, draft));
            if let Err(refusal) = sealed {
                return answer(answers, Answer::Refused(id, refusal), permit);
            }
            let answers = answers.clone();
            let reply = move |outcome: Result<Vec<Receipt>, Refusal>| {
                let packet = outcome.and_then(|receipts| {
                    let events = receipts.iter().map(wire_calls::of_receipt).collect();
                    wire_calls::packet(id, &AppendedMany { events })
                });
                answer(&answers, of_outcome(id, packet), permit);
            };
            append(caller, ledger, drafts, Box::new(reply));
        }
        // Answered before it comes here.
        Question::Call => {}
        Question::Head => {
            let standing = ledger.standing();
            let head = Head {
                event_id: standing.id,
                chain: standing.chain,
                writable: standing.stopped.is_none(),
            };
            answer(answers, Answer::Head(id, head), permit);
        }
        Question::LastTime => {
            let wall_ns = ledger.last_wall_ns();
            answer(answers, Answer::LastTime(id, LastTime { wall_ns }), permit);
        }
        Question::LastBoot(own) => {
            let ended = ledger.boots().ended_before(&own).cloned();
            let ended = Box::new(ended.unwrap_or_default());
            answer(answers, Answer::LastBoot(id, ended), permit);
        }
        Question::Refused(refusal) => {
            ledger.refused(&caller.plea(APPEND, ""), &refusal);
            answer(answers, Answer::Refused(id, refusal), permit);
        }
    }
}

fn of_outcome(id: u64, outcome: Result<Vec<u8>, Refusal>) -> Answer {
    match outcome {
        Ok(packet) => Answer::Packet(packet),
        Err(refusal) if refusal.is_of_a_stop() => Answer::None,
        Err(refusal) => Answer::Refused(id, refusal),
    }
}

fn code_of(code: &str) -> &'static str {
    match code {
        "POLICY_DENY" => "POLICY_DENY",
        _ => "BAD_REQUEST",
    }
}

fn draft(append: &Append<'_>, served: &Served) -> Result<Draft, Refusal> {
    identity::may_append(served.role, append.ns, append.actor)?;
    identity::may_append_for(served.role, append.tenant_id)?;
    if append.payload.len() > PAYLOAD_BYTES_MAX {
        let value = append.payload.len().to_string();
        let limit = format!("at most {PAYLOAD_BYTES_MAX} bytes");
        return Err(Refusal::new("TOO_LARGE", "payload", &value, &limit));
    }
    let origin = append.origin.map(|o| Origin {
        boot_id: o.boot_id,
        producer: o.producer,
        sequence: o.sequence,
    });
    // A repeat is recognised by who produced it, so nobody may speak for another producer.
    if let Some(origin) = origin
        && origin.producer != served.role.uid()
        && served.role != wire::Role::Operator
    {
        let limit = format!("{} for this peer", served.role.uid());
        let value = origin.producer.to_string();
        let refusal = Refusal::new("BAD_ACTOR", "origin.producer", &value, &limit);
        return Err(refusal.by(identity::RULE_ACTOR));
    }
    let payload = Json::part(append.payload)?;
    identity::may_write(append.event_type, &payload)?;
    Ok(Draft {
        origin,
        ns: append.ns.to_owned(),
        actor: append.actor.to_owned(),
        tenant_id: append.tenant_id.to_owned(),
        event_type: append.event_type.to_owned(),
        subject: append.subject.to_owned(),
        payload: json::payload_text(&payload)?,
        causation_id: append.causation_id,
        timestamp_ns: append.timestamp_ns,
        ulid: None,
        sig: None,
    })
}

fn write_answers(socket: &PacketSocket, answers: &Receiver<(Answer, Permit)>) {
    // A refusal's texts are at most 128 characters of 4 bytes each, those of a boot's end 256 and 512 bytes.
    let mut buf = [0; 2048];
    for (answer, _permit) in answers {
        let sent = match &answer {
            Answer::Appended(id, body) => send(socket, *id, body, &mut buf),
            Answer::LastTime(id, body) => send(socket, *id, body, &mut buf),
            Answer::LastBoot(id, ended) => {
                let body = LastBoot {
                    boot_id: ended.boot_id,
                    event_id: ended.event_id,
                    event_type: &ended.event_type,
                    wall_ns: ended.wall_ns,
                    timestamp_ns: ended.timestamp_ns,
                    stopping: &ended.stopping,
                    stopping_actor: &ended.stopping_actor,
                };
                send(socket, *id, &body, &mut buf)
            }
            Answer::Packet(packet) => socket.send(packet, None).is_ok(),
            Answer::Head(id, body) => send(socket, *id, body, &mut buf),
            Answer::Refused(id, refusal) => {
                let body = Refused {
                    code: refusal.code,
                    field: refusal.field,
                    value: &refusal.value,
                    limit: &refusal.limit,
                };
                send(socket, *id, &body, &mut buf)
            }
            Answer::None => false,
        };
        if !sent {
            break;
        }
    }
    // Wakes the reader, if the peer stopped taking answers or gets none; what it waits for at the gate comes below.
    socket.shutdown();
    for _unwanted in answers {}
}

fn send<M: Message>(socket: &PacketSocket, id: u64, body: &M, buf: &mut [u8]) -> bool {
    match wire::encode(id, body, buf) {
        Ok(packet) => socket.send(packet, None).is_ok(),
        Err(e) => {
            ::log::warn!("answer too long: error=\"{e}\"");
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sys::packet::Peer;

    fn served(uid: u32) -> Served {
        Served {
            peer: Peer { pid: 1, uid },
            role: Role::of_uid(uid, 901),
        }
    }

    /// A frame with some bytes changed, and cut or made longer.
    fn mangled() -> impl Strategy<Value = Vec<u8>> {
        let append = Append {
            origin: Some(wire::ledger::Origin {
                boot_id: [7; 16],
                producer: 30_001,
                sequence: 1,
            }),
            ns: "user",
            actor: "service:uid-30001",
            tenant_id: "uid-30001",
            event_type: "tried",
            subject: "door",
            payload: "{\"a\":{\"b\":[1,2,{}]}}",
            causation_id: Some(3),
            timestamp_ns: None,
        };
        let mut buf = [0; 512];
        let whole = wire::encode(7, &append, &mut buf).unwrap().to_vec();
        let changes = proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6);
        (changes, 0..200usize, any::<bool>()).prop_map(move |(changes, bytes, longer)| {
            let mut packet = whole.clone();
            for (at, byte) in changes {
                let at = at % packet.len();
                packet[at] = byte;
            }
            if longer {
                packet.extend(std::iter::repeat_n(0xa5, bytes));
            } else if bytes < 100 {
                packet.truncate(bytes);
            }
            packet
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn no_packet_panics_and_a_user_writes_under_its_own_name_alone(packet in mangled()) {
            prop_assert!(question(&packet, &served(1000)).is_err(), "a stranger was heard");
            if let Ok(Question::Append(draft)) = question(&packet, &served(30_001)) {
                prop_assert_eq!(draft.actor, "service:uid-30001");
                prop_assert_eq!(draft.ns, "user");
                prop_assert_eq!(draft.tenant_id, "uid-30001");
                prop_assert!(draft.origin.is_none_or(|o| o.producer == 30_001));
            }
            for uid in [0, 902, 903, 905, 907] {
                let _ = question(&packet, &served(uid));
            }
        }
    }
}
