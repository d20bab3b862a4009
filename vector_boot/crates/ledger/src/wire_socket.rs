//! `ledger.wire`: postcard frames of our own services and of PID 1.
//!
//! One thread reads a connection and one writes it. Appends pipeline: any number up to
//! [`UNDER_WAY_MAX`] may be under way; beyond, the connection is not read until some are answered.

use crate::committer::{Draft, Ledger, Receipt, Refusal};
use crate::gate::Gate;
use crate::{identity, json};
use crossbeam::channel::{Receiver, Sender, unbounded};
use ipc::{Served, serve_hello};
use ledger_core::Origin;
use std::sync::Arc;
use sys::packet::PacketSocket;
use wire::ledger::{Append, Appended, Head, PAYLOAD_BYTES_MAX};
use wire::{Frame, Kind, Message, PACKET_BYTES_MAX, Refused};

/// Appends of one connection that wait for their group.
const UNDER_WAY_MAX: usize = 256;

/// One answer to write.
enum Answer {
    Appended(u64, Appended),
    Head(u64, Head),
    Refused(u64, Refusal),
}

/// Serves one connection until the peer goes.
pub fn serve(socket: PacketSocket, ledger: &Ledger) {
    let mut buf = vec![0; PACKET_BYTES_MAX].into_boxed_slice();
    let Ok(served) = Served::of(&socket) else {
        return;
    };
    let hello = match socket.receive(&mut buf) {
        Ok((n, _)) if n > 0 => {
            let mut out = [0; 64];
            let packet = buf.get(..n).unwrap_or_default();
            serve_hello(packet, &mut out)
                .ok()
                .map(|answer| socket.send(answer, None))
        }
        _ => None,
    };
    if !matches!(hello, Some(Ok(()))) {
        return;
    }
    let Ok(writing) = socket.try_clone() else {
        return;
    };
    // Unbounded, yet never longer than UNDER_WAY_MAX appends and one answer to a question.
    let (answers, to_write) = unbounded();
    let writer = std::thread::Builder::new()
        .name("wire-answers".to_owned())
        .spawn(move || write_answers(&writing, &to_write));
    let Ok(writer) = writer else { return };
    let gate = Arc::new(Gate::new(UNDER_WAY_MAX));
    while let Ok((n, _)) = socket.receive(&mut buf) {
        if n == 0 {
            break;
        }
        let packet = buf.get(..n).unwrap_or_default();
        handle(packet, &served, ledger, &answers, &gate);
    }
    drop(answers);
    socket.shutdown();
    // It ends once the last append under way is answered.
    let _ = writer.join();
}

fn handle(
    packet: &[u8],
    served: &Served,
    ledger: &Ledger,
    answers: &Sender<Answer>,
    gate: &Arc<Gate>,
) {
    // A writer that is gone means that the peer is; the reader notices by itself.
    let answer = |a| drop(answers.send(a));
    let permit = gate.enter();
    let frame = match served.open(packet) {
        Ok(frame) => frame,
        Err(refused) => {
            let id = Frame::open(packet).map_or(0, |f| f.id);
            let refusal = Refusal::new(code_of(refused.code), "kind", "", refused.limit);
            return answer(Answer::Refused(id, refusal));
        }
    };
    let id = frame.id;
    match frame.kind {
        Kind::LedgerAppend => match draft(&frame, served) {
            Ok(draft) => {
                let answers = answers.clone();
                let reply = move |outcome: Result<Vec<Receipt>, Refusal>| {
                    let answer = match outcome.map(|r| r.first().copied()) {
                        Ok(Some(receipt)) => Answer::Appended(
                            id,
                            Appended {
                                event_id: receipt.id,
                                commit_id: receipt.commit_id,
                                repeated: receipt.repeated,
                            },
                        ),
                        Ok(None) => Answer::Refused(
                            id,
                            Refusal::new("INTERNAL", "events", "0", "one receipt"),
                        ),
                        Err(refusal) => Answer::Refused(id, refusal),
                    };
                    // A peer that went does not need its answer.
                    drop(answers.send(answer));
                    drop(permit);
                };
                ledger.append(vec![draft], Box::new(reply));
            }
            Err(refusal) => answer(Answer::Refused(id, refusal)),
        },
        Kind::LedgerHeadGet => {
            let standing = ledger.standing();
            answer(Answer::Head(
                id,
                Head {
                    event_id: standing.id,
                    chain: standing.chain,
                    writable: standing.stopped.is_none(),
                },
            ));
        }
        other => {
            let value = format!("{other:?}");
            let limit = "LedgerAppend or LedgerHeadGet";
            answer(Answer::Refused(
                id,
                Refusal::new("BAD_REQUEST", "kind", &value, limit),
            ));
        }
    }
}

fn code_of(code: &str) -> &'static str {
    match code {
        "POLICY_DENY" => "POLICY_DENY",
        _ => "BAD_REQUEST",
    }
}

fn draft(frame: &Frame<'_>, served: &Served) -> Result<Draft, Refusal> {
    let append: Append<'_> = frame
        .body()
        .map_err(|e| Refusal::new("BAD_REQUEST", "body", "", &e.to_string()))?;
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
        return Err(Refusal::new("BAD_ACTOR", "origin.producer", &value, &limit));
    }
    Ok(Draft {
        origin,
        ns: append.ns.to_owned(),
        actor: append.actor.to_owned(),
        tenant_id: append.tenant_id.to_owned(),
        event_type: append.event_type.to_owned(),
        subject: append.subject.to_owned(),
        payload: json::normalise_object(append.payload)?,
        causation_id: append.causation_id,
        timestamp_ns: append.timestamp_ns,
        ulid: None,
    })
}

fn write_answers(socket: &PacketSocket, answers: &Receiver<Answer>) {
    let mut buf = [0; 1024];
    for answer in answers {
        let sent = match &answer {
            Answer::Appended(id, body) => send(socket, *id, body, &mut buf),
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
        };
        if !sent {
            break;
        }
    }
    // Wakes the reader, if the peer stopped taking answers.
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
