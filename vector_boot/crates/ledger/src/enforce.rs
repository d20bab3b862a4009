//! Rights: what is judged before every call and again when it is its events' turn, and the one place
//! where a refusal by a rule becomes an event.
//!
//! A refusal is by a rule where it has one ([`Refusal::rule`]): of the policy, of the caller's identity, of
//! the types that calls alone write. Whoever answers with it has it recorded, once: the connection by
//! [`Ledger::refused`], the committer by [`Ledger::decide_for`].

use crate::clock;
use crate::committer::{Draft, Ledger, Receipt};
use crate::planes::{Decision, Moment, Planes};
use crate::refusal::Refusal;
use ledger_core::json::Json;
use ledger_core::policy::{self, Ask, Denial, Verdict};

/// What the event of a refusal takes at most.
const DENIAL_BYTES: usize = 4096;
/// Whose the record is of a refusal that its own tenant must not see.
const HIDDEN_TENANT: &str = "system";

impl From<&Verdict> for Refusal {
    fn from(verdict: &Verdict) -> Self {
        // Without a field: the reason is the whole sentence.
        Self::new("POLICY_DENY", "", "", &verdict.reason).by(&verdict.rule)
    }
}

/// Who asks for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plea {
    ask: Ask,
    /// What it does beside the call itself: an effect appends, whatever carries it.
    also: Vec<Ask>,
    /// Whether the policy is about the asker: a tenant's caller.
    judged: bool,
}

impl Plea {
    /// A call, of one whom the policy is about or not.
    #[must_use]
    pub fn new(ask: Ask, judged: bool) -> Self {
        let also = Vec::new();
        Self { ask, also, judged }
    }

    /// The same plea for something more.
    #[must_use]
    pub fn and(mut self, call: &str, on: &str) -> Self {
        let (call, on) = (call.to_owned(), on.to_owned());
        let more = Ask {
            call,
            on,
            ..self.ask.clone()
        };
        if more != self.ask && !self.also.contains(&more) {
            self.also.push(more);
        }
        self
    }

    /// Whether the policy is about the asker.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.judged
    }

    /// Asks the policy again, when it is the events' turn: a revocation may have been placed in between.
    ///
    /// # Errors
    /// `POLICY_DENY`.
    pub fn still(&self, planes: &Planes, moment: &Moment) -> Result<(), Refusal> {
        let judge = |ask| match planes.policy.judge(ask, moment.wall_ns) {
            verdict if verdict.allowed => Ok(()),
            verdict => Err(Refusal::from(&verdict)),
        };
        let asks = std::iter::once(&self.ask).chain(&self.also);
        asks.filter(|_| self.judged).try_for_each(judge)
    }
}

impl Ledger {
    /// Asks the policy. Not for the committer's thread.
    ///
    /// It does not wait until what it saw is durable: a grant or revocation that never becomes so
    /// leaves the log read-only, and nothing that rests on it is written either.
    ///
    /// # Errors
    /// `POLICY_DENY`.
    pub fn allow(&self, plea: &Plea) -> Result<(), Refusal> {
        let moment = Moment {
            wall_ns: clock::wall_ns(),
            monotonic_ns: 0,
            next_id: 0,
        };
        self.peek(|planes| plea.still(planes, &moment))
    }

    /// As [`Ledger::decide`], for an asker whose rights are judged again when it is its turn; a refusal by a
    /// rule is recorded in the same group.
    pub fn decide_for<T: Send + 'static>(
        &self,
        plea: Plea,
        bytes: usize,
        decide: impl FnOnce(&Planes, &Moment) -> Result<Decision<T>, Refusal> + Send + 'static,
        reply: impl FnOnce(Result<(T, Vec<Receipt>), Refusal>) + Send + 'static,
    ) {
        let ledger = self.clone();
        let judged = move |planes: &Planes, moment: &Moment| {
            let outcome = plea
                .still(planes, moment)
                .and_then(|()| decide(planes, moment));
            match outcome {
                Ok(Decision { events, answer }) => Ok(Decision {
                    events,
                    answer: Ok(answer),
                }),
                Err(refusal) => Ok(Decision {
                    events: ledger.record(&plea, &refusal).into_iter().collect(),
                    answer: Err(refusal),
                }),
            }
        };
        self.decide(bytes.saturating_add(DENIAL_BYTES), judged, move |outcome| {
            reply(outcome.and_then(|(answer, receipts)| Ok((answer?, receipts))));
        });
    }

    /// Records a refusal that is answered outside the committer's thread; nobody waits for it.
    pub fn refused(&self, plea: &Plea, refusal: &Refusal) {
        if let Some(event) = self.record(plea, refusal) {
            self.append(vec![event], Box::new(drop));
        }
    }

    /// Counts a refusal, if it is by a rule; gives the event that is to be appended for it, if it is one's
    /// turn.
    fn record(&self, plea: &Plea, refusal: &Refusal) -> Option<Draft> {
        let verdict = Verdict {
            allowed: false,
            rule: refusal.rule.clone()?,
            reason: refusal.reason(),
        };
        let tenant = match refusal.hidden {
            true => HIDDEN_TENANT,
            false => &plea.ask.tenant,
        };
        let now = clock::monotonic_ns();
        let said = self.denials().denied(now, tenant, &plea.ask, &verdict);
        said.map(|denial| event(&denial))
    }

    /// Appends the sums of refusals that are due; all of them at the `end`.
    pub fn say_denials(&self, end: bool) {
        let due = self.denials().due(clock::monotonic_ns(), end);
        if !due.is_empty() {
            self.append(due.iter().map(event).collect(), Box::new(drop));
        }
    }
}

fn event(denial: &Denial) -> Draft {
    let Denial {
        tenant,
        ask,
        rule,
        reason,
        count,
    } = denial;
    let mut payload = Json::object([
        ("actor", ask.actor.as_str().into()),
        ("call", ask.call.as_str().into()),
        ("count", (*count).into()),
        ("on", ask.on.as_str().into()),
        ("reason", reason.as_str().into()),
        ("rule", rule.as_str().into()),
    ]);
    if ask.tenant != *tenant
        && let Json::Object(members) = &mut payload
    {
        // Another tenant's actor may have the same name.
        members.insert("tenant_id".to_owned(), ask.tenant.as_str().into());
    }
    Draft {
        ns: "ledger".to_owned(),
        actor: "service:ledger".to_owned(),
        tenant_id: tenant.clone(),
        event_type: policy::DENIED.to_owned(),
        subject: ask.actor.clone(),
        payload: payload.to_string(),
        ..Draft::default()
    }
}
