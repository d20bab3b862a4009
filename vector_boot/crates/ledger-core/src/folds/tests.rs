//! The reducers against simple models, in any order and in any pieces; and bytes that never change.

use super::*;
use crate::hex;
use alloc::vec::Vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SPEC: &str = r#"{"fields":{
    "accounts":{"reducer":"map-join-lww","events":["set"],"key":"/account","value":"/state"},
    "all":{"reducer":"append","value":"/n"},
    "sums":{"reducer":"counter-gcounter","events":["set","added"],"value":"/n"},
    "tags":{"reducer":"set-or","events":["added"],"removes":["removed"],"value":"/tag"}}}"#;

fn spec(text: &str) -> Result<Spec, No> {
    Spec::parse(&Json::parse(text).unwrap())
}

#[derive(Debug, Clone)]
struct Event {
    id: u64,
    event_type: &'static str,
    actor: &'static str,
    payload: String,
}

impl Event {
    fn body(&self) -> Body<'_> {
        Body {
            timestamp_ns: 0,
            wall_ns: 0,
            ulid: [0; 16],
            tenant_tag: [0; 8],
            ns: "finance",
            actor: self.actor,
            tenant_id: "a",
            event_type: self.event_type,
            subject: "table",
            payload: &self.payload,
            causation_id: None,
            origin: None,
            sig: None,
        }
    }
}

fn fold<'e>(events: impl IntoIterator<Item = &'e Event>) -> Fold {
    let mut fold = Fold::new(spec(SPEC).unwrap());
    for event in events {
        fold.apply(event.id, &event.body()).unwrap();
    }
    fold
}

prop_compose! {
    fn events()(
        raw in proptest::collection::vec((0..3usize, 0..3usize, 0..5u8, 0..4u64, any::<bool>()), 0..60),
    ) -> Vec<Event> {
        let types = ["set", "added", "removed"];
        let actors = ["user:a", "user:b", "agent:c"];
        raw.into_iter().zip(1..).map(|((kind, actor, key, n, null), id)| {
            let state = if null { "null".to_string() } else { n.to_string() };
            let payload = format!("{{\"account\":\"k{key}\",\"n\":{n},\"state\":{state},\"tag\":[\"t{key}\"]}}");
            Event { id, event_type: types[kind], actor: actors[actor], payload }
        }).collect()
    }
}

proptest! {
    #[test]
    fn the_state_is_the_model_in_any_order_and_in_any_pieces(
        events in events(),
        shuffle in any::<u64>(),
        cut in 0..60usize,
    ) {
        let whole = fold(&events);
        let mut other: Vec<Event> = events.clone();
        let len = other.len();
        for at in 0..len {
            let to = (shuffle.rotate_left(at as u32) as usize).wrapping_mul(at + 7) % len;
            other.swap(at, to);
        }
        prop_assert_eq!(fold(&other).state(), whole.state());
        // As the incremental cache does it: a copy of what was folded, and the rest.
        let cut = cut.min(len);
        let mut pieces = fold(&events[..cut]).clone();
        for event in &events[cut..] {
            pieces.apply(event.id, &event.body()).unwrap();
        }
        prop_assert_eq!(pieces.state(), whole.state());
        prop_assert_eq!((pieces.events, pieces.skipped, pieces.size), (whole.events, whole.skipped, whole.size));

        let state = Json::parse(&whole.state()).unwrap();
        let (mut map, mut sums, mut set) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for event in &events {
            let payload = Json::parse(&event.payload).unwrap();
            let text = |key: &str| payload.get(key).unwrap().to_string();
            if event.event_type == "set" {
                map.insert(payload.get("account").unwrap().text().unwrap().to_string(), payload.get("state").unwrap().clone());
            }
            if event.event_type != "removed" {
                *sums.entry(event.actor.to_string()).or_insert(0) += payload.get("n").unwrap().unsigned().unwrap();
            }
            match event.event_type {
                "added" => { set.insert(text("tag")); }
                "removed" => { set.remove(&text("tag")); }
                _ => {}
            }
        }
        map.retain(|_, value| *value != Json::Null);
        prop_assert_eq!(state.get("accounts").unwrap(), &Json::Object(map));
        let total = sums.values().sum::<u64>();
        prop_assert_eq!(state.get("sums").unwrap().get("total"), Some(&Json::from(total)));
        let by: BTreeMap<_, _> = sums.into_iter().map(|(k, n)| (k, Json::from(n))).collect();
        prop_assert_eq!(state.get("sums").unwrap().get("by"), Some(&Json::Object(by)));
        let tags = state.get("tags").unwrap().to_string();
        prop_assert_eq!(tags, format!("[{}]", set.into_iter().collect::<Vec<_>>().join(",")));
        let Some(Json::List(all)) = state.get("all") else { panic!("a list") };
        prop_assert_eq!(all.len(), events.len());
    }

    #[test]
    fn no_spec_and_no_payload_panics(
        reducer in 0..5usize,
        pointer in "(/[a-z0-9~/]{0,6})?",
        payload in "\\{(\"[a-z/~]{0,3}\":(1|-1|1\\.5|\"x\"|\\[1,\\[2\\]\\]|\\{\"a\":null\\}),?){0,3}\\}",
    ) {
        let names = ["map-join-lww", "counter-gcounter", "set-or", "append", "other"];
        let text = format!("{{\"fields\":{{\"f\":{{\"reducer\":\"{}\",\"value\":{}}}}}}}", names[reducer], Json::from(pointer.as_str()));
        let Ok(spec) = spec(&text) else { return Ok(()) };
        let mut fold = Fold::new(spec);
        let event = Event { id: 1, event_type: "x", actor: "user:a", payload };
        fold.apply(1, &event.body()).unwrap();
        prop_assert_eq!(fold.events + fold.skipped, 1);
        prop_assert!(!fold.state().contains("1.5"));
    }
}

/// The same bytes on every machine, for ever: the hashes are those of the `blake3` package of Python over
/// the texts here, the spec's by its `json` with sorted keys.
#[test]
fn golden_states_and_roots() {
    let events = [
        (
            "set",
            "user:a",
            r#"{"account":"alice","n":1,"state":{"open":true}}"#,
        ),
        ("set", "user:b", r#"{"account":"bob","n":2,"state":"new"}"#),
        ("added", "user:a", r#"{"n":9007199254740991,"tag":"é"}"#),
        ("added", "agent:c", r#"{"n":3,"tag":"z"}"#),
        ("removed", "agent:c", r#"{"n":1.5,"tag":"z"}"#),
        ("set", "user:a", r#"{"account":"bob","n":1,"state":null}"#),
        ("set", "user:b", r#"{"account":"carol","n":1,"state":-7}"#),
    ];
    let events: Vec<Event> = events
        .into_iter()
        .zip(1..)
        .map(|((event_type, actor, payload), id)| Event {
            id,
            event_type,
            actor,
            payload: payload.to_string(),
        })
        .collect();
    let fold = fold(&events);
    assert_eq!(
        fold.state(),
        r#"{"accounts":{"alice":{"open":true},"carol":-7},"all":[1,2,9007199254740991,3,1,1],"sums":{"by":{"agent:c":3,"user:a":9007199254740991,"user:b":3},"total":9007199254740991},"tags":["é"]}"#
    );
    assert_eq!((fold.events, fold.skipped), (19, 1));
    assert_eq!(hex(&root_of(&fold.state())), GOLDEN_ROOT);
    assert_eq!(hex(&root_of("{}")), GOLDEN_EMPTY);
    assert_eq!(hex(&spec(SPEC).unwrap().id()), GOLDEN_SPEC);
}

const GOLDEN_ROOT: &str = "4c2e5b4ede19853040dafcb39ed95b2bf03063d99b790bfe89a983edcb3cf212";
const GOLDEN_EMPTY: &str = "80d8983c0d9d0977e822f7d65bbec607c65a0704084acb2b729021a6820ff4f9";
const GOLDEN_SPEC: &str = "86a76b0542f14718821dea585db3dec462414075c7a956cbfda25995d9a14fb7";

#[test]
fn what_is_no_spec_is_refused_with_its_field() {
    for (text, field) in [
        ("{}", "spec"),
        ("[]", "spec"),
        (r#"{"fields":{}}"#, "spec.fields"),
        (r#"{"fields":{"a":1}}"#, "spec.fields"),
        (r#"{"fields":{"a":{}}}"#, "spec.reducer"),
        (r#"{"fields":{"a":{"reducer":"sum"}}}"#, "spec.reducer"),
        (r#"{"fields":{"a":{"reducer":"append","x":1}}}"#, "spec"),
        (
            r#"{"fields":{"a":{"reducer":"append","key":"/a"}}}"#,
            "spec.key",
        ),
        (
            r#"{"fields":{"a":{"reducer":"append","value":"a"}}}"#,
            "spec.value",
        ),
        (
            r#"{"fields":{"a":{"reducer":"append","events":["A"]}}}"#,
            "spec.events",
        ),
        (
            r#"{"fields":{"a":{"reducer":"append","removes":["a"]}}}"#,
            "spec.removes",
        ),
        (r#"{"fields":{"a":{"reducer":"append"}},"more":1}"#, "spec"),
    ] {
        assert_eq!(spec(text).unwrap_err().field, field, "{text}");
    }
}

#[test]
fn a_state_that_grows_too_large_is_refused() {
    let text = r#"{"fields":{"a":{"reducer":"append"}}}"#;
    let mut fold = Fold::new(spec(text).unwrap());
    let payload = format!("{{\"x\":\"{}\"}}", "y".repeat(1000 * 1000));
    let event = Event {
        id: 0,
        event_type: "x",
        actor: "user:a",
        payload,
    };
    let refused = (1..10).find_map(|id| fold.apply(id, &event.body()).err());
    assert_eq!(refused.unwrap().code, "TOO_LARGE");
}
