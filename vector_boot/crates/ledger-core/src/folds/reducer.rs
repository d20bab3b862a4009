//! The reducers. Each keeps what it needs to be right whatever the order of events, and shows less.

use super::Size;
use super::spec::{FieldSpec, Reducer, Source};
use crate::Body;
use crate::json::{INTEGER_MAX, Json};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};

/// One value, or one entry, with what a tree of them needs.
const VALUE_BYTES: usize = 64;

/// One field's state.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// Of each key the greatest id, and its value; none where it was taken out.
    Map(BTreeMap<String, (u64, Option<Json>)>),
    /// Of each key the sum.
    Counter(BTreeMap<String, u64>),
    /// By its canonical JSON, of each element the greatest id of an addition and of a removal.
    Set(BTreeMap<String, Element>),
    /// By id.
    List(BTreeMap<u64, Json>),
}

#[derive(Debug, Clone)]
pub(super) struct Element {
    value: Json,
    added: u64,
    removed: u64,
}

/// Integers alone, and such that every reader has them exactly.
fn is_exact(json: &Json) -> bool {
    match json {
        Json::Null | Json::Bool(_) | Json::Text(_) => true,
        Json::Unsigned(n) => *n <= INTEGER_MAX,
        Json::Signed(n) => n.unsigned_abs() <= INTEGER_MAX,
        Json::Float(_) => false,
        Json::List(items) => items.iter().all(is_exact),
        Json::Object(members) => members.values().all(is_exact),
    }
}

/// What a value takes in memory, about: a list of empty lists takes some times its text.
fn bytes_of(json: &Json) -> usize {
    let inside: usize = match json {
        Json::Text(text) => text.len(),
        Json::List(items) => items.iter().map(bytes_of).sum(),
        Json::Object(members) => members.iter().map(|(k, v)| k.len() + bytes_of(v)).sum(),
        Json::Null | Json::Bool(_) | Json::Unsigned(_) | Json::Signed(_) | Json::Float(_) => 0,
    };
    inside + VALUE_BYTES
}

impl State {
    pub fn new(reducer: Reducer) -> Self {
        match reducer {
            Reducer::MapJoinLww => Self::Map(BTreeMap::new()),
            Reducer::CounterGcounter => Self::Counter(BTreeMap::new()),
            Reducer::SetOr => Self::Set(BTreeMap::new()),
            Reducer::Append => Self::List(BTreeMap::new()),
        }
    }

    /// Takes an event in; `None` if it has no value that could be.
    pub fn take(
        &mut self,
        id: u64,
        field: &FieldSpec,
        body: &Body<'_>,
        payload: &Json,
        size: &mut Size,
    ) -> Option<()> {
        let key = |default: &Source| {
            let key = field.key.as_ref().unwrap_or(default).of(body, payload)?;
            match key {
                Json::Text(text) => Some(text),
                Json::Unsigned(_) | Json::Signed(_) => Some(key.to_string()),
                _ => None,
            }
        };
        let value = match &field.value {
            Some(source) => source.of(body, payload),
            None => Some(payload.clone()),
        };
        let value = value.filter(is_exact);
        match self {
            Self::Map(map) => match (&field.key, value?) {
                (Some(source), value) => join(map, key(source)?, id, value, size),
                // Each member is a register of its own.
                (None, Json::Object(members)) => {
                    for (key, value) in members {
                        join(map, key, id, value, size);
                    }
                }
                (None, _) => return None,
            },
            Self::Counter(counts) => {
                let n = match (&field.value, value) {
                    (None, _) => 1,
                    (Some(_), value) => value?.unsigned()?,
                };
                let key = key(&Source::Actor)?;
                if !counts.contains_key(&key) {
                    size.add(key.len() + VALUE_BYTES);
                }
                let sum = counts.entry(key).or_default();
                *sum = sum.saturating_add(n).min(INTEGER_MAX);
            }
            Self::Set(set) => {
                let value = value?;
                let text = value.to_string();
                if !set.contains_key(&text) {
                    size.add(text.len() + bytes_of(&value));
                }
                let element = set.entry(text).or_insert(Element {
                    value,
                    added: 0,
                    removed: 0,
                });
                if field.removes.contains(body.event_type) {
                    element.removed = element.removed.max(id);
                } else {
                    element.added = element.added.max(id);
                }
            }
            Self::List(list) => {
                let value = value?;
                size.add(bytes_of(&value));
                list.insert(id, value);
            }
        }
        Some(())
    }

    /// What is shown, and hashed.
    pub fn json(&self) -> Json {
        match self {
            Self::Map(map) => {
                let there = |(key, (_, value)): (&String, &(u64, Option<Json>))| {
                    Some((key.clone(), value.clone()?))
                };
                Json::Object(map.iter().filter_map(there).collect())
            }
            Self::Counter(counts) => {
                let total = counts.values().fold(0u64, |a, n| a.saturating_add(*n));
                let by = counts.iter().map(|(key, n)| (key.clone(), Json::from(*n)));
                let by = Json::Object(by.collect());
                Json::object([("by", by), ("total", Json::from(total.min(INTEGER_MAX)))])
            }
            Self::Set(set) => {
                let inside = set.values().filter(|e| e.added > e.removed);
                Json::List(inside.map(|e| e.value.clone()).collect())
            }
            Self::List(list) => Json::List(list.values().cloned().collect()),
        }
    }
}

fn join(
    map: &mut BTreeMap<String, (u64, Option<Json>)>,
    key: String,
    id: u64,
    value: Json,
    size: &mut Size,
) {
    let value = Some(value).filter(|v| *v != Json::Null);
    let new = value.as_ref().map_or(0, bytes_of);
    match map.get_mut(&key) {
        None => {
            size.add(key.len() + new);
            map.insert(key, (id, value));
        }
        Some((last, old)) if *last < id => {
            size.replace(old.as_ref().map_or(0, bytes_of), new);
            (*last, *old) = (id, value);
        }
        Some(_) => {}
    }
}
