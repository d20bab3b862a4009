//! What a call is given: the request, who asks, the ledger, and the ways to answer.

use super::calls::Uploads;
use super::{Connection, Out, refused};
use crate::committer::{Draft, Ledger, Receipt};
use crate::enforce::Plea;
use crate::gate::Permit;
use crate::identity::Caller;
use crate::json::Json;
use crate::planes::{Decision, Moment, Planes};
use crate::refusal::Refusal;
use crossbeam::channel::Sender;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a subscription of a tenant's caller asks the policy again.
const JUDGE_PERIOD: Duration = Duration::from_millis(500);

/// One request, for its handler. What the handler returns as an error is the answer.
pub struct Call<'c> {
    /// Echoed in every line of the answer.
    pub id: &'c Json,
    /// The whole object.
    pub request: &'c Json,
    /// Who asks, and whose rights count.
    pub caller: &'c Caller,
    /// Who asks for what.
    pub(super) plea: Plea,
    pub(super) connection: &'c Connection<'c>,
}

impl Call<'_> {
    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.connection.ledger
    }

    /// A member that must be text.
    pub fn text(&self, key: &'static str) -> Result<&str, Refusal> {
        let text = self.optional_text(key)?;
        text.ok_or_else(|| Refusal::bad(key, "text"))
    }

    /// A member that is text, or absent, or null.
    pub fn optional_text(&self, key: &'static str) -> Result<Option<&str>, Refusal> {
        match self.request.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::bad(key, "text")),
        }
    }

    /// A member that is a number from 0 on, or absent, or null.
    pub fn optional_number(&self, key: &'static str) -> Result<Option<u64>, Refusal> {
        match self.request.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Unsigned(n)) => Ok(Some(*n)),
            Some(_) => Err(Refusal::bad(key, "a number from 0 on")),
        }
    }

    /// A member that names an actor; a bare name means `user:`. The caller's own where it is absent.
    pub fn actor(&self, key: &'static str) -> Result<String, Refusal> {
        Ok(match self.optional_text(key)? {
            None => self.caller.actor(),
            Some(bare) if !bare.contains(':') => format!("user:{bare}"),
            Some(full) => full.to_owned(),
        })
    }

    /// A line with the id and these members (`"key":value,...`); false once the peer is gone.
    pub fn line(&self, members: &str) -> bool {
        self.connection.out.line(&line(self.id, members))
    }

    /// As [`Self::line`], of members that hold a secret.
    pub fn secret_line(&self, members: &str) -> bool {
        let id = self.id.to_string();
        let parts = ["{\"id\":", &id, ",", members, "}"];
        self.connection.out.secret(&parts)
    }

    /// As [`Self::ok`], with members that hold a secret.
    pub fn secret_ok(&self, members: &[&str]) {
        let id = self.id.to_string();
        let parts = [&["{\"ok\":true,\"id\":", &id, ","], members, &["}"]].concat();
        self.connection.out.secret(&parts);
    }

    /// The answer, with these members.
    pub fn ok(&self, members: &str) {
        self.connection.out.line(&ok(self.id, members));
    }

    /// Says that the call is under way: at once where it is long, or once it has been silent for 50 ms.
    pub fn ack(&self) {
        let id = self.id;
        self.connection
            .out
            .line(&format!("{{\"ack\":true,\"id\":{id}}}"));
    }

    /// An acknowledgement of part of a call, with these members.
    pub fn ack_members(&self, members: &str) {
        let id = self.id;
        self.connection
            .out
            .line(&format!("{{\"ack\":true,\"id\":{id},{members}}}"));
    }

    /// The blobs that the connection is sending.
    pub fn uploads(&self) -> &RefCell<Uploads> {
        &self.connection.uploads
    }

    /// Ends the connection behind what was said on it.
    pub fn hang_up(&self) {
        self.connection.hung_up.set(true);
    }

    /// A progress line.
    pub fn progress(&self, percent: u64) {
        self.line(&format!("\"progress\":{percent}"));
    }

    /// The answer of a call that ends on another thread; waits while too many are under way.
    pub fn later(&self) -> Later {
        Later {
            id: self.id.clone(),
            answers: self.connection.answers.clone(),
            permit: self.connection.gate.enter(),
        }
    }

    /// Appends, if the policy still allows the call when it is the events' turn; `members` as in
    /// [`Self::decide`].
    pub fn append(
        &self,
        events: Vec<Draft>,
        members: impl FnOnce(&[Receipt]) -> String + Send + 'static,
    ) {
        if !self.plea.is_judged() {
            let later = self.later();
            let reply = move |outcome: Result<Vec<Receipt>, Refusal>| {
                later.end(outcome.map(|receipts| members(&receipts)));
            };
            return self.ledger().append(events, Box::new(reply));
        }
        let bytes = events.iter().map(Draft::bytes).sum();
        let decide = |_: &Planes, _: &Moment| Ok(Decision { events, answer: () });
        self.decide(bytes, decide, move |(), receipts| Ok(members(receipts)));
    }

    /// Has the committer decide ([`Ledger::decide_for`]); `members` makes the answer's members of what was
    /// decided and appended, once that is durable.
    pub fn decide<T: Send + 'static>(
        &self,
        bytes: usize,
        decide: impl FnOnce(&Planes, &Moment) -> Result<Decision<T>, Refusal> + Send + 'static,
        members: impl FnOnce(T, &[Receipt]) -> Result<String, Refusal> + Send + 'static,
    ) {
        self.decide_for(self.plea.clone(), bytes, decide, members);
    }

    /// The same, of a call that does more than its name says.
    pub fn decide_for<T: Send + 'static>(
        &self,
        plea: Plea,
        bytes: usize,
        decide: impl FnOnce(&Planes, &Moment) -> Result<Decision<T>, Refusal> + Send + 'static,
        members: impl FnOnce(T, &[Receipt]) -> Result<String, Refusal> + Send + 'static,
    ) {
        let later = self.later();
        let (timed, began) = (self.ledger().clone(), Instant::now());
        self.ledger()
            .decide_for(plea, bytes, decide, move |outcome| {
                later.end(outcome.and_then(|(answer, receipts)| {
                    if !receipts.is_empty() {
                        timed.metrics().append.add(began.elapsed());
                    }
                    members(answer, &receipts)
                }));
            });
    }

    /// Tells this connection from all others that there are.
    pub fn connection_number(&self) -> u64 {
        // Its writing half lives as long as it does, and so do the threads that could mistake it.
        Arc::as_ptr(&self.connection.out) as u64
    }

    /// Takes one of the connection's subscriptions, or refuses.
    pub fn stream(&self) -> Result<Stream, Refusal> {
        let permit = self.connection.subscriptions.try_enter().ok_or_else(|| {
            let limit = format!("at most {} a connection", self.connection.subscriptions_max);
            Refusal::new("QUOTA", "subscriptions", "", &limit)
        })?;
        Ok(Stream {
            id: self.id.clone(),
            ledger: self.ledger().clone(),
            out: self.connection.out.clone(),
            plea: self.plea.clone(),
            judged: Cell::new(Instant::now()),
            _permit: permit,
        })
    }
}

/// An answer that is still due.
pub struct Later {
    id: Json,
    answers: Sender<(String, Permit)>,
    permit: Permit,
}

impl Later {
    /// Answers; does not block, so the committer may call it.
    pub fn end(self, outcome: Result<String, Refusal>) {
        let answer = match outcome {
            Ok(members) => ok(&self.id, &members),
            Err(refusal) => refused(&self.id, &refusal),
        };
        // A peer that went does not need its answer.
        drop(self.answers.send((answer, self.permit)));
    }
}

/// What a subscription's thread writes to; dropping it makes room for another.
pub struct Stream {
    id: Json,
    /// The ledger.
    pub ledger: Ledger,
    out: Arc<Out>,
    plea: Plea,
    judged: Cell<Instant>,
    _permit: Permit,
}

impl Stream {
    /// A line with the id and these members; false once the peer is gone.
    pub fn line(&self, members: &str) -> bool {
        self.out.line(&line(&self.id, members))
    }

    /// The last line: why it ends.
    pub fn refuse(&self, refusal: &Refusal) {
        self.out.line(&refused(&self.id, refusal));
    }

    /// Whether the policy still allows the subscription, which is asked now and then; the peer is told if not.
    pub fn is_allowed(&self) -> bool {
        let due = self.judged.get().elapsed() >= JUDGE_PERIOD;
        if !due || !self.plea.is_judged() {
            return true;
        }
        self.judged.set(Instant::now());
        let allowed = self.ledger.allow(&self.plea);
        if let Err(refusal) = &allowed {
            self.ledger.refused(&self.plea, refusal);
            self.refuse(refusal);
        }
        allowed.is_ok()
    }

    /// Whether the peer went.
    pub fn is_gone(&self) -> bool {
        self.out.is_gone()
    }

    /// Runs `follow` on a thread of its own.
    pub fn spawn(self, follow: impl FnOnce(&Self) + Send + 'static) -> Result<(), Refusal> {
        std::thread::Builder::new()
            .name("subscription".to_owned())
            .spawn(move || follow(&self))
            .map_err(|e| Refusal::from(&e))?;
        Ok(())
    }
}

fn line(id: &Json, members: &str) -> String {
    format!("{{\"id\":{id},{members}}}")
}

fn ok(id: &Json, members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!("{{\"ok\":true,\"id\":{id}{comma}{members}}}")
}
