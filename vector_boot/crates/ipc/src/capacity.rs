//! Client of the capacity kernel: admission, checks, and what an operator sees of it.
//!
//! Owns one connection to `capacity.sock` and copies answers out of its buffer, so that they
//! outlive the next question. Every wait has the deadline given at [`Client::connect`].
//!
//! Never here: policy, retries. After any error but [`IpcError::Refused`] the conversation may be
//! out of step (a late answer can still come), so drop the client and connect again.
//! Start with [`Client::check`].

use crate::{Connection, IpcError};
use std::path::Path;
use std::time::Duration;
use wire::capacity::{
    AXES, Check, Checked, Gate, GateVerdict, GatesGet, Grant, Identify, Identity, Lease, LeasesGet,
    Release, Request, Revoke, State, StateGet, Verdict,
};
use wire::{Done, WireError};

/// File name of the socket in the run folder.
pub const SOCKET_NAME: &str = "capacity.sock";

/// A conversation with the capacity kernel.
pub struct Client(Connection);

/// What the kernel says to one operation; [`wire::capacity::Checked`] that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may run.
    pub verdict: Verdict,
    /// The bucket that was empty; empty text when none was.
    pub bucket: String,
    /// Milliseconds until a retry may succeed.
    pub retry_after_ms: u32,
    /// Operations left in the narrowest bucket.
    pub remaining: u32,
    /// Bit per failing gate.
    pub gates_failed: u8,
    /// Grows with every structural change.
    pub epoch: u64,
    /// Who the token speaks for: the ledger's actor.
    pub actor: String,
    /// Whose capacity it is.
    pub tenant_id: String,
    /// Why it may not run, for people; empty when it may.
    pub reason: String,
}

/// What came of a request; [`wire::capacity::Grant`] that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Whether it was admitted.
    pub admitted: bool,
    /// The token; empty when refused.
    pub token: String,
    /// Granted basis points per axis.
    pub grants: [u16; AXES],
    /// Bit per axis (bit 0 = geo) that could not be met.
    pub axes_failed: u8,
    /// Bit per gate (fit, gluing, UV, isolation) that was failing.
    pub gates_failed: u8,
    /// Milliseconds until it expires; `u64::MAX` for never.
    pub expires_ms: u64,
    /// Lease slot.
    pub slot: u32,
    /// Why it was refused, for people; empty when admitted.
    pub reason: String,
}

/// Who a token speaks for; [`wire::capacity::Identity`] that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Whether it is in force.
    pub valid: bool,
    /// The ledger's actor.
    pub actor: String,
    /// The tenant.
    pub tenant_id: String,
    /// Its permission bits.
    pub permissions: u32,
    /// Why it is not in force; empty when it is.
    pub reason: String,
}

/// One lease; [`wire::capacity::Lease`] that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Slot.
    pub slot: u32,
    /// Tenant.
    pub tenant_id: String,
    /// Workload.
    pub workload_id: String,
    /// Basis points granted per axis.
    pub grants: [u16; AXES],
    /// Milliseconds until it expires; `u64::MAX` for never.
    pub expires_ms: u64,
    /// Priority.
    pub priority: u8,
    /// Checks made with it.
    pub checks: u64,
}

/// One gate; [`wire::capacity::Gate`] that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateRow {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub verdict: GateVerdict,
    /// Score in thousandths, 1000 is the threshold; `None` where nothing is measured here.
    pub score_milli: Option<u32>,
    /// Ticks since the verdict last changed.
    pub ticks: u64,
}

impl Client {
    /// Connects to the kernel's socket; no wait is longer than `limit`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, IpcError> {
        Connection::open(path, limit).map(Self)
    }

    /// Connects to `capacity.sock` in the run folder.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn open(limit: Duration) -> Result<Self, IpcError> {
        Self::connect(&crate::run_folder().join(SOCKET_NAME), limit)
    }

    /// Asks whether one operation may run now, and spends for it if so.
    ///
    /// # Errors
    /// [`IpcError`]. A denial is an answer, not an error.
    pub fn check(&mut self, check: &Check<'_>) -> Result<Decision, IpcError> {
        self.0.ask(check, |frame, _| {
            let c = frame.body::<Checked<'_>>()?;
            Ok(Decision {
                verdict: c.verdict,
                bucket: c.bucket.to_owned(),
                retry_after_ms: c.retry_after_ms,
                remaining: c.remaining,
                gates_failed: c.gates_failed,
                epoch: c.epoch,
                actor: c.actor.to_owned(),
                tenant_id: c.tenant_id.to_owned(),
                reason: c.reason.to_owned(),
            })
        })
    }

    /// Asks who a token speaks for, without spending.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn identify(&mut self, token: &str) -> Result<Bearer, IpcError> {
        self.0.ask(&Identify { token }, |frame, _| {
            let i = frame.body::<Identity<'_>>()?;
            Ok(Bearer {
                valid: i.valid,
                actor: i.actor.to_owned(),
                tenant_id: i.tenant_id.to_owned(),
                permissions: i.permissions,
                reason: i.reason.to_owned(),
            })
        })
    }

    /// Asks for capacity.
    ///
    /// # Errors
    /// [`IpcError`]; [`IpcError::Refused`] for a request that is malformed or that this role may
    /// not make. Not being admitted is an answer, not an error.
    pub fn request(&mut self, request: &Request<'_>) -> Result<Granted, IpcError> {
        self.0.ask(request, |frame, _| {
            let g = frame.body::<Grant<'_>>()?;
            Ok(Granted {
                admitted: g.admitted,
                token: g.token.to_owned(),
                grants: g.grants,
                axes_failed: g.axes_failed,
                gates_failed: g.gates_failed,
                expires_ms: g.expires_ms,
                slot: g.slot,
                reason: g.reason.to_owned(),
            })
        })
    }

    /// Gives capacity back with the token that carries it.
    ///
    /// # Errors
    /// [`IpcError`]; [`IpcError::Refused`] for a token that is not in force.
    pub fn release(&mut self, token: &str) -> Result<(), IpcError> {
        self.0
            .ask(&Release { token }, |f, _| f.body::<Done>().map(drop))
    }

    /// Takes a lease away.
    ///
    /// # Errors
    /// [`IpcError`]; [`IpcError::Refused`] for a slot without a lease.
    pub fn revoke(&mut self, slot: u32) -> Result<(), IpcError> {
        self.0
            .ask(&Revoke { slot }, |f, _| f.body::<Done>().map(drop))
    }

    /// Budgets and use as of the last tick.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn state(&mut self) -> Result<State, IpcError> {
        self.0.ask(&StateGet, |frame, _| frame.body::<State>())
    }

    /// Every lease in force, by slot.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn leases(&mut self) -> Result<Vec<LeaseRow>, IpcError> {
        let mut rows = Vec::new();
        self.0.list(&LeasesGet, |frame| -> Result<(), WireError> {
            let l = frame.body::<Lease<'_>>()?;
            rows.push(LeaseRow {
                slot: l.slot,
                tenant_id: l.tenant_id.to_owned(),
                workload_id: l.workload_id.to_owned(),
                grants: l.grants,
                expires_ms: l.expires_ms,
                priority: l.priority,
                checks: l.checks,
            });
            Ok(())
        })?;
        Ok(rows)
    }

    /// The four gates.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn gates(&mut self) -> Result<Vec<GateRow>, IpcError> {
        let mut rows = Vec::new();
        self.0.list(&GatesGet, |frame| -> Result<(), WireError> {
            let g = frame.body::<Gate<'_>>()?;
            rows.push(GateRow {
                name: g.name.to_owned(),
                verdict: g.verdict,
                score_milli: g.score_milli,
                ticks: g.ticks,
            });
            Ok(())
        })?;
        Ok(rows)
    }
}
