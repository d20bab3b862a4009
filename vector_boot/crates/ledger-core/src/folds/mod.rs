//! Folds: the state that the events of a namespace add up to, the same bytes on every machine.
//!
//! A [`Spec`] names fields; each is a reducer over the events that it chooses. Integers alone: an event
//! whose chosen value holds another number is passed over and counted. `map-join-lww`,
//! `counter-gcounter` and `set-or` do not depend on the order in which events are given, since each
//! event carries its id; `append` is in the order of ids. Reads no log: start with [`Fold::apply`].

mod pointer;
mod reducer;
mod spec;

pub use spec::{FieldSpec, Reducer, SPEC_BYTES_MAX, Source, Spec};

use crate::bus::No;
use crate::json::Json;
use crate::{Body, Hash};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use reducer::State;

/// Context of the hash that is a state's root.
pub const ROOT_CONTEXT: &str = "vb-fold-state v1";
/// Keys, elements and items of a state together.
pub const ENTRIES_MAX: usize = 64 * 1024;
/// Memory of a state's keys and values, counted as 64 bytes a value and what texts have.
pub const BYTES_MAX: usize = 8 * 1024 * 1024;

/// The root of a state: BLAKE3 in derive-key mode, with [`ROOT_CONTEXT`], of its canonical JSON.
#[must_use]
pub fn root_of(canonical: &str) -> Hash {
    blake3::derive_key(ROOT_CONTEXT, canonical.as_bytes())
}

/// A fold under way.
#[derive(Debug, Clone)]
pub struct Fold {
    spec: Spec,
    states: BTreeMap<String, State>,
    /// Events that a field took in.
    pub events: u64,
    /// Events that a field chose, but whose value it could not take.
    pub skipped: u64,
    size: Size,
}

/// What a state takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    entries: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
    }

    /// What is taken is known to be there.
    fn replace(&mut self, old: usize, new: usize) {
        self.bytes = (self.bytes + new).saturating_sub(old);
    }
}

impl Fold {
    /// Nothing folded yet.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        let states = spec
            .fields
            .iter()
            .map(|(name, field)| (name.clone(), State::new(field.reducer)))
            .collect();
        Self {
            spec,
            states,
            events: 0,
            skipped: 0,
            size: Size::default(),
        }
    }

    /// Takes an event in. Which ones are of its namespace and tenant is the caller's to say; each event
    /// may come once.
    ///
    /// # Errors
    /// TOO_LARGE once the state is.
    pub fn apply(&mut self, id: u64, body: &Body<'_>) -> Result<(), No> {
        let chosen = |field: &&FieldSpec| field.chooses(body);
        if !self.spec.fields.values().any(|field| chosen(&field)) {
            return Ok(());
        }
        let payload = Json::parse(body.payload).unwrap_or(Json::Null);
        for (name, field) in self
            .spec
            .fields
            .iter()
            .filter(|(_, field)| field.chooses(body))
        {
            let Some(state) = self.states.get_mut(name) else {
                continue;
            };
            match state.take(id, field, body, &payload, &mut self.size) {
                Some(()) => self.events += 1,
                None => self.skipped += 1,
            }
        }
        let Size { entries, bytes } = self.size;
        if entries > ENTRIES_MAX || bytes > BYTES_MAX {
            let value = format!("{entries} entries of {bytes} bytes at event {id}");
            let limit = format!("at most {ENTRIES_MAX} entries of {BYTES_MAX} bytes");
            return Err(No::new("TOO_LARGE", "state", &value, &limit));
        }
        Ok(())
    }

    /// The state's canonical JSON: an object of the fields.
    #[must_use]
    pub fn state(&self) -> String {
        let members = self.states.iter().map(|(name, s)| (name.clone(), s.json()));
        Json::Object(members.collect()).to_string()
    }

    /// Memory of its keys and values, as [`BYTES_MAX`] counts it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.size.bytes
    }
}

#[cfg(test)]
mod tests;
