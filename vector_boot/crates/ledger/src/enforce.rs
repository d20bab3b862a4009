//! The policy before every call of a tenant, and what is said of those that are refused.

use crate::clock;
use crate::committer::{Draft, Ledger};
use crate::planes::{Moment, Planes};
use crate::refusal::Refusal;
use ledger_core::json::Json;
use ledger_core::policy::{self, Ask, Denial, Verdict};

impl From<&Verdict> for Refusal {
    fn from(verdict: &Verdict) -> Self {
        // Without a field: the reason is the whole sentence.
        Self::new("POLICY_DENY", "", "", &verdict.reason).by(&verdict.rule)
    }
}

/// Asks the policy again, when it is the events' turn: a revocation may have been placed in between.
///
/// # Errors
/// `POLICY_DENY`.
pub fn still(ask: Option<&Ask>, planes: &Planes, moment: &Moment) -> Result<(), Refusal> {
    let verdict = ask.map(|ask| planes.policy.judge(ask, moment.wall_ns));
    match verdict.filter(|verdict| !verdict.allowed) {
        Some(verdict) => Err((&verdict).into()),
        None => Ok(()),
    }
}

impl Ledger {
    /// Asks the policy, and records a refusal. Not for the committer's thread.
    ///
    /// It does not wait until what it saw is durable: a grant or revocation that never becomes so
    /// leaves the log read-only, and nothing that rests on it is written either.
    ///
    /// # Errors
    /// `POLICY_DENY`.
    pub fn allow(&self, ask: &Ask) -> Result<(), Refusal> {
        let verdict = self.peek(|planes| planes.policy.judge(ask, clock::wall_ns()));
        if verdict.allowed {
            return Ok(());
        }
        if let Some(event) = self.denied(ask, &verdict) {
            // Nobody waits for it.
            self.append(vec![event], Box::new(drop));
        }
        Err((&verdict).into())
    }

    /// Counts a refusal; gives the event that is to be appended for it, if it is one's turn.
    pub fn denied(&self, ask: &Ask, verdict: &Verdict) -> Option<Draft> {
        let now = clock::monotonic_ns();
        let said = self.denials().denied(now, ask, verdict);
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
        ask,
        rule,
        reason,
        count,
    } = denial;
    let payload = Json::object([
        ("actor", ask.actor.as_str().into()),
        ("call", ask.call.as_str().into()),
        ("count", (*count).into()),
        ("on", ask.on.as_str().into()),
        ("reason", reason.as_str().into()),
        ("rule", rule.as_str().into()),
    ]);
    Draft {
        ns: "ledger".to_owned(),
        actor: "service:ledger".to_owned(),
        tenant_id: ask.tenant.clone(),
        event_type: policy::DENIED.to_owned(),
        subject: ask.actor.clone(),
        payload: payload.to_string(),
        ..Draft::default()
    }
}
