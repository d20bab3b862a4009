//! What a fold is: its fields, which events each of them chooses and what it takes of them.

use super::pointer::{find, is_pointer};
use crate::bus::No;
use crate::json::Json;
use crate::{Body, Hash, rules};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};

/// Longest spec, in canonical JSON.
pub const SPEC_BYTES_MAX: usize = 64 * 1024;
/// Fields of a spec.
const FIELDS_MAX: usize = 64;
/// Event types of one list.
const EVENTS_MAX: usize = 64;
/// Longest name of a field, and longest pointer.
const TEXT_BYTES_MAX: usize = 256;

/// How a field's values become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reducer {
    /// A map; of each key the value of the event with the greatest id. `null` takes a key out.
    MapJoinLww,
    /// A sum for each key, of numbers from 0 on.
    CounterGcounter,
    /// A set: an element is in it if it was added after it was removed last.
    SetOr,
    /// A list in the order of ids.
    Append,
}

impl Reducer {
    const ALL: [(&'static str, Self); 4] = [
        ("map-join-lww", Self::MapJoinLww),
        ("counter-gcounter", Self::CounterGcounter),
        ("set-or", Self::SetOr),
        ("append", Self::Append),
    ];
}

/// Where in an event a value lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Its actor.
    Actor,
    /// Its subject.
    Subject,
    /// At this JSON pointer in its payload.
    Pointer(String),
}

impl Source {
    fn parse(field: &'static str, json: &Json) -> Result<Self, No> {
        match json.text() {
            Some("actor") => Ok(Self::Actor),
            Some("subject") => Ok(Self::Subject),
            Some(text) if is_pointer(text) && text.len() <= TEXT_BYTES_MAX => {
                Ok(Self::Pointer(text.to_string()))
            }
            _ => Err(bad(
                field,
                json,
                "actor, subject or a JSON pointer into the payload",
            )),
        }
    }

    /// The value in an event.
    pub(super) fn of(&self, body: &Body<'_>, payload: &Json) -> Option<Json> {
        match self {
            Self::Actor => Some(Json::from(body.actor)),
            Self::Subject => Some(Json::from(body.subject)),
            Self::Pointer(pointer) => find(payload, pointer).cloned(),
        }
    }
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldSpec {
    /// How its values become one.
    pub reducer: Reducer,
    /// Event types that it takes; all if empty.
    pub events: BTreeSet<String>,
    /// Event types that take an element out of a set.
    pub removes: BTreeSet<String>,
    /// The subject that an event must have.
    pub subject: Option<String>,
    /// Under which key.
    pub key: Option<Source>,
    /// What.
    pub value: Option<Source>,
}

impl FieldSpec {
    /// Whether it takes this event.
    #[must_use]
    pub fn chooses(&self, body: &Body<'_>) -> bool {
        let listed = self.events.is_empty() || self.events.contains(body.event_type);
        let subject = self.subject.as_deref().is_none_or(|s| s == body.subject);
        subject && (listed || self.removes.contains(body.event_type))
    }

    fn parse(json: &Json) -> Result<Self, No> {
        let Json::Object(members) = json else {
            return Err(bad("spec.fields", json, "an object each"));
        };
        let name = json.get("reducer").and_then(Json::text);
        let reducer = Reducer::ALL.iter().find(|(n, _)| Some(*n) == name);
        let Some((_, reducer)) = reducer else {
            let limit = "map-join-lww, counter-gcounter, set-or or append";
            return Err(bad(
                "spec.reducer",
                json.get("reducer").unwrap_or(&Json::Null),
                limit,
            ));
        };
        let mut this = Self {
            reducer: *reducer,
            events: BTreeSet::new(),
            removes: BTreeSet::new(),
            subject: None,
            key: None,
            value: None,
        };
        for (key, value) in members {
            match key.as_str() {
                "reducer" => {}
                "events" => this.events = types("spec.events", value)?,
                "removes" => this.removes = types("spec.removes", value)?,
                "subject" => {
                    let text = value.text().filter(|text| rules::subject(text));
                    let text = text.ok_or_else(|| bad("spec.subject", value, "a subject"))?;
                    this.subject = Some(text.to_string());
                }
                "key" => this.key = Some(Source::parse("spec.key", value)?),
                "value" => this.value = Some(Source::parse("spec.value", value)?),
                other => {
                    let limit = "reducer, events, removes, subject, key or value";
                    return Err(bad("spec", &Json::from(other), limit));
                }
            }
        }
        if !this.removes.is_empty() && this.reducer != Reducer::SetOr {
            return Err(No::new("BAD_REQUEST", "spec.removes", "", "with set-or"));
        }
        if matches!(this.reducer, Reducer::SetOr | Reducer::Append) && this.key.is_some() {
            return Err(No::new(
                "BAD_REQUEST",
                "spec.key",
                "",
                "with map-join-lww or counter-gcounter",
            ));
        }
        Ok(this)
    }
}

/// A fold's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub(super) fields: BTreeMap<String, FieldSpec>,
    id: Hash,
}

impl Spec {
    /// Reads `{"fields":{NAME:{"reducer":...}}}`.
    ///
    /// # Errors
    /// BAD_REQUEST, TOO_LARGE.
    pub fn parse(json: &Json) -> Result<Self, No> {
        let text = json.to_string();
        if text.len() > SPEC_BYTES_MAX {
            let limit = format!("at most {SPEC_BYTES_MAX} bytes");
            return Err(No::new(
                "TOO_LARGE",
                "spec",
                &text.len().to_string(),
                &limit,
            ));
        }
        let fields = match json {
            Json::Object(members) if members.keys().eq(["fields"]) => json.get("fields"),
            _ => None,
        };
        let Some(Json::Object(fields)) = fields else {
            return Err(No::new(
                "BAD_REQUEST",
                "spec",
                "",
                "an object of fields alone",
            ));
        };
        if fields.is_empty() || fields.len() > FIELDS_MAX {
            let limit = format!("1 to {FIELDS_MAX}");
            return Err(No::new(
                "BAD_REQUEST",
                "spec.fields",
                &fields.len().to_string(),
                &limit,
            ));
        }
        let field = |(name, json): (&String, &Json)| {
            if name.len() > TEXT_BYTES_MAX {
                return Err(bad(
                    "spec.fields",
                    &Json::from(name.as_str()),
                    "names of at most 256 bytes",
                ));
            }
            Ok((name.clone(), FieldSpec::parse(json)?))
        };
        Ok(Self {
            fields: fields.iter().map(field).collect::<Result<_, _>>()?,
            id: *blake3::hash(text.as_bytes()).as_bytes(),
        })
    }

    /// The BLAKE3 of its canonical JSON.
    #[must_use]
    pub fn id(&self) -> Hash {
        self.id
    }
}

fn types(field: &'static str, json: &Json) -> Result<BTreeSet<String>, No> {
    let limit = "a list of at most 64 event types";
    let Json::List(items) = json else {
        return Err(bad(field, json, limit));
    };
    let event_type = |item: &Json| {
        let text = item.text().filter(|text| rules::event_type(text));
        text.map(str::to_string)
            .ok_or_else(|| bad(field, item, limit))
    };
    if items.len() > EVENTS_MAX {
        return Err(No::new("BAD_REQUEST", field, "", limit));
    }
    items.iter().map(event_type).collect()
}

fn bad(field: &'static str, value: &Json, limit: &str) -> No {
    No::new("BAD_REQUEST", field, &value.to_string(), limit)
}
