//! What rules, grants and denials promise.

use super::*;
use crate::Body;
use proptest::prelude::*;
use std::borrow::ToOwned;
use std::format;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const S: u64 = 1_000_000_000;

fn ask(actor: &str, call: &str, on: &str) -> Ask {
    Ask {
        actor: actor.into(),
        tenant: "t".into(),
        call: call.into(),
        on: on.into(),
    }
}

fn body<'a>(event_type: &'a str, actor: &'a str, payload: &'a str, wall_ns: u64) -> Body<'a> {
    Body {
        timestamp_ns: 0,
        wall_ns,
        ulid: [0; 16],
        tenant_tag: [0; 8],
        ns: "policy",
        actor,
        tenant_id: "t",
        event_type,
        subject: "",
        payload,
        causation_id: None,
        origin: None,
        sig: None,
    }
}

fn set(policy: &mut Policy, id: u64, name: &str, text: &str) {
    let payload = Json::object([("name", name.into()), ("text", text.into())]).to_string();
    policy.apply(id, &body(SET, "user:operator", &payload, 0));
}

/// Decides and applies, as the committer does.
fn grant(
    policy: &mut Policy,
    id: u64,
    by: Option<&str>,
    to: &str,
    caps: &[&str],
    expires_s: Option<u64>,
) -> Result<(), No> {
    let caps: Vec<String> = caps.iter().map(|c| (*c).to_owned()).collect();
    let wish = Wish {
        by,
        tenant: "t",
        to,
        caps: &caps,
        expires_us: expires_s.map(|s| s * 1_000_000),
    };
    let payload = policy.grant(&wish, S)?.to_string();
    policy.apply(
        id,
        &body(GRANTED, by.unwrap_or("user:operator"), &payload, S),
    );
    Ok(())
}

#[test]
fn nothing_but_one_s_own_is_allowed_by_default() {
    let policy = Policy::default();
    for (call, allowed, rule) in [
        ("query", true, "nature:query"),
        ("proof.inclusion", true, "nature:proof.inclusion"),
        ("bus.publish", false, "default:deny"),
        ("job.claim", false, "default:deny"),
        ("exec", false, "default:deny"),
        ("policy.set", false, "owner:policy.set"),
        ("compact", false, "owner:compact"),
    ] {
        let verdict = policy.judge(&ask("agent:a", call, "x"), S);
        assert_eq!((verdict.allowed, &*verdict.rule), (allowed, rule), "{call}");
    }
    let verdict = policy.judge(&ask("agent:a", "exec", "run"), S);
    assert_eq!(verdict.reason, "caps missing: exec:run");
}

#[test]
fn the_rule_that_decides_is_named_by_its_line_and_a_denial_wins() {
    let mut policy = Policy::default();
    let text = "vb-policy 1\n# who may run\nallow exec on=run* tenant=t\n\ndeny exec actor=agent:trainee*\ndeny query actor=agent:mute\n";
    set(&mut policy, 5, "exec.rgs", text);
    assert_eq!(policy.revision(), 5);
    let rule = |actor: &str, call: &str, on: &str| {
        let verdict = policy.judge(&ask(actor, call, on), S);
        (verdict.allowed, verdict.rule, verdict.reason)
    };
    assert_eq!(
        rule("agent:a", "exec", "run-it"),
        (
            true,
            "exec.rgs:3".into(),
            "allow exec on=run* tenant=t".into()
        )
    );
    assert_eq!(rule("agent:trainee-1", "exec", "run").1, "exec.rgs:5");
    assert!(!rule("agent:trainee-1", "exec", "run").0);
    assert_eq!(rule("agent:mute", "query", "").1, "exec.rgs:6");
    assert_eq!(rule("agent:a", "exec", "stop").1, "default:deny");
    // Set anew it is replaced, empty it is gone; no rule gives a tenant what is the owner's.
    set(&mut policy, 6, "exec.rgs", "vb-policy 1\nallow *");
    assert_eq!(
        rule_of(&policy, "agent:x", "exec"),
        (true, "exec.rgs:2".into())
    );
    assert_eq!(
        rule_of(&policy, "agent:x", "policy.set"),
        (false, "owner:policy.set".into())
    );
    set(&mut policy, 7, "exec.rgs", "");
    assert_eq!(
        rule_of(&policy, "agent:x", "exec"),
        (false, "default:deny".into())
    );
}

fn rule_of(policy: &Policy, actor: &str, call: &str) -> (bool, String) {
    let verdict = policy.judge(&ask(actor, call, ""), S);
    (verdict.allowed, verdict.rule)
}

#[test]
fn documents_that_are_none_are_refused_with_their_line() {
    let policy = Policy::default();
    for (text, line) in [
        ("allow *", "line 1"),
        ("vb-policy 2\n", "line 1"),
        ("vb-policy 1\npermit *", "line 2"),
        ("vb-policy 1\nallow", "line 2"),
        ("vb-policy 1\nallow x on=a*b", "line 2"),
        ("vb-policy 1\nallow x on=a on=b", "line 2"),
        ("vb-policy 1\n\nallow x whom=a", "line 3"),
        ("vb-policy 1\nallow on=a", "line 2"),
    ] {
        let no = policy.compile("a", text).unwrap_err();
        assert_eq!((no.code, no.field), ("BAD_REQUEST", "text"));
        assert!(no.limit.contains(line), "{text}: {}", no.limit);
    }
    for name in ["", "a b", "nature", "grant", "default"] {
        assert_eq!(policy.compile(name, "").unwrap_err().field, "name");
    }
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    assert_eq!(policy.compile("a", &long).unwrap_err().code, "TOO_LARGE");
    let many = format!("vb-policy 1\n{}", "allow x\n".repeat(RULES_MAX + 1));
    assert_eq!(policy.compile("a", &many).unwrap_err().code, "QUOTA");
}

#[test]
fn a_chain_hands_on_no_more_than_it_has_and_falls_as_a_whole() {
    let mut policy = Policy::default();
    let code = |r: Result<(), No>| r.unwrap_err().code;
    grant(
        &mut policy,
        10,
        None,
        "agent:a",
        &["bus.*:q.*", "job.claim"],
        Some(100),
    )
    .unwrap();
    let p = &mut policy;
    assert_eq!(
        code(grant(
            p,
            11,
            Some("agent:b"),
            "agent:c",
            &["bus.publish:q.1"],
            Some(50)
        )),
        "POLICY_DENY"
    );
    assert_eq!(
        code(grant(
            p,
            11,
            Some("agent:a"),
            "agent:b",
            &["bus.publish"],
            Some(50)
        )),
        "POLICY_DENY"
    );
    assert_eq!(
        code(grant(p, 11, Some("agent:a"), "agent:b", &["*"], Some(50))),
        "POLICY_DENY"
    );
    assert_eq!(
        code(grant(
            p,
            11,
            Some("agent:a"),
            "agent:b",
            &["bus.publish:q.1"],
            Some(101)
        )),
        "POLICY_DENY"
    );
    assert_eq!(
        code(grant(
            p,
            11,
            Some("agent:a"),
            "agent:b",
            &["bus.publish:q.1"],
            None
        )),
        "POLICY_DENY"
    );
    grant(
        p,
        11,
        Some("agent:a"),
        "agent:b",
        &["bus.publish:q.1*"],
        Some(50),
    )
    .unwrap();
    grant(
        p,
        12,
        Some("agent:b"),
        "agent:c",
        &["bus.publish:q.1"],
        Some(40),
    )
    .unwrap();
    let may = |p: &Policy, actor: &str, on: &str, now: u64| {
        p.judge(&ask(actor, "bus.publish", on), now).allowed
    };
    assert!(
        may(p, "agent:a", "q.2", S) && may(p, "agent:b", "q.17", S) && may(p, "agent:c", "q.1", S)
    );
    assert!(!may(p, "agent:c", "q.17", S) && !may(p, "agent:a", "z", S));
    // Another tenant's agent of the same name has nothing.
    let other = Ask {
        tenant: "u".into(),
        ..ask("agent:a", "bus.publish", "q.2")
    };
    assert!(!p.judge(&other, S).allowed);
    // Time takes them from the end of the chain on.
    assert!(!may(p, "agent:c", "q.1", 40 * S) && may(p, "agent:b", "q.1", 40 * S));
    assert!(!may(p, "agent:b", "q.1", 50 * S) && may(p, "agent:a", "q.1", 50 * S));
    // A stranger and another tenant end nothing; whoever granted further up does, and all below goes.
    assert_eq!(
        p.revoke(11, Some(("agent:c", "t"))).unwrap_err().code,
        "POLICY_DENY"
    );
    assert_eq!(
        p.revoke(11, Some(("agent:a", "u"))).unwrap_err().code,
        "NOT_FOUND"
    );
    assert_eq!(p.revoke(99, None).unwrap_err().code, "NOT_FOUND");
    assert_eq!(p.revoke(12, Some(("agent:a", "t"))).unwrap().to, "agent:c");
    p.apply(13, &body(REVOKED, "agent:a", "{\"grant\":11}", S));
    assert!(
        may(p, "agent:a", "q.1", S) && !may(p, "agent:b", "q.1", S) && !may(p, "agent:c", "q.1", S)
    );
}

#[test]
fn a_capability_without_object_is_not_one_for_every_object() {
    let mut policy = Policy::default();
    grant(&mut policy, 1, None, "agent:a", &["exec:"], None).unwrap();
    assert!(policy.judge(&ask("agent:a", "exec", ""), S).allowed);
    assert!(!policy.judge(&ask("agent:a", "exec", "run"), S).allowed);
}

#[test]
fn grants_are_bounded_and_the_bound_says_nothing_of_other_tenants() {
    let mut policy = Policy::default();
    for id in 1..=GRANTS.each as u64 {
        grant(&mut policy, id, None, "agent:a", &["x"], Some(5)).unwrap();
    }
    assert_eq!(
        grant(&mut policy, 999, None, "agent:a", &["x"], None)
            .unwrap_err()
            .code,
        "QUOTA"
    );
    // Those that ended make room.
    let caps = ["x".to_owned()];
    let wish = Wish {
        by: None,
        tenant: "t",
        to: "agent:b",
        caps: &caps,
        expires_us: None,
    };
    assert!(policy.grant(&wish, 6 * S).is_ok());
}

#[test]
fn refusals_are_said_once_a_minute_each_and_summed() {
    let mut denials = Denials::default();
    let verdict = Verdict {
        allowed: false,
        rule: "default:deny".into(),
        reason: "no".into(),
    };
    let a = ask("agent:a", "exec", "run");
    assert_eq!(denials.denied(S, "t", &a, &verdict).unwrap().count, 1);
    for n in 0..1000 {
        assert_eq!(denials.denied(2 * S + n, "t", &a, &verdict), None);
    }
    assert!(denials.due(30 * S, false).is_empty());
    let due = denials.due(62 * S, false);
    assert_eq!((due.len(), due[0].count), (1, 1000));
    assert!(denials.due(200 * S, false).is_empty(), "said once");
    // A crowd: a bounded number of events a minute, and nothing is lost.
    let (mut said, mut sum) = (0u64, 0);
    for minute in 10..40u64 {
        for n in 0..500 {
            let someone = ask(&format!("agent:{n}"), "exec", "run");
            let told = denials.denied(minute * 60 * S + n, "t", &someone, &verdict);
            said += u64::from(told.is_some());
            sum += told.map_or(0, |d| d.count);
        }
        for told in denials.due(minute * 60 * S + 1000, false) {
            said += 1;
            sum += told.count;
        }
    }
    assert!(said <= 30 * 10 * 2, "of two tenants: {said}");
    let other = Ask {
        tenant: "u".into(),
        ..ask("agent:a", "exec", "run")
    };
    let told = denials.denied(39 * 60 * S + 2000, "u", &other, &verdict);
    assert!(told.is_some(), "one tenant's crowd silences no other");
    sum += denials
        .due(41 * 60 * S, true)
        .iter()
        .map(|d| d.count)
        .sum::<u64>();
    assert_eq!(sum, 30 * 500);
}

#[test]
fn a_refusal_keeps_little_of_what_was_asked_for() {
    let mut denials = Denials::default();
    let long = ask("agent:a", "bus.publish", &"x".repeat(1 << 20));
    let verdict = Policy::default().judge(&long, S);
    let told = denials.denied(S, "t", &long, &verdict).unwrap();
    assert_eq!((told.ask.on.len(), told.reason.len()), (256, 256));
    assert_eq!(denials.denied(S, "t", &long, &verdict), None);
    let sum = denials.due(0, true);
    assert_eq!((sum[0].ask.on.len(), sum[0].reason.len()), (256, 256));
}

fn any_cap() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "*", "a", "a:x", "a:x*", "a:*", "b*", "b.c", "b.c:x", "b.*:xy*", "c",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is granted by whom: nobody can do what the owner's grants do not allow somebody, and
    /// once all of those are revoked nobody can do anything.
    #[test]
    fn no_chain_makes_more_of_what_the_owner_gave(
        owners in prop::collection::vec((0..4u8, any_cap(), prop::option::of(2..9u64)), 1..4),
        others in prop::collection::vec((0..4u8, 0..4u8, any_cap(), prop::option::of(2..9u64)), 0..24),
    ) {
        let mut policy = Policy::default();
        let mut roots = Policy::default();
        let name = |n: u8| format!("agent:{n}");
        for (id, (to, cap, end)) in (1..).zip(&owners) {
            grant(&mut policy, id, None, &name(*to), &[cap], *end).unwrap();
            grant(&mut roots, id, None, &name(*to), &[cap], *end).unwrap();
        }
        for (id, (by, to, cap, end)) in (100..).zip(&others) {
            let _ = grant(&mut policy, id, Some(&name(*by)), &name(*to), &[cap], *end);
        }
        let allowed = |policy: &Policy, call: &str, on: &str, now: u64| {
            (0..4).any(|n| policy.judge(&ask(&name(n), call, on), now).allowed)
        };
        for call in ["a", "b", "b.c", "b.cd", "c", "d"] {
            for on in ["", "x", "xy", "y"] {
                for now in [1, 3, 5, 7, 20] {
                    prop_assert_eq!(
                        allowed(&policy, call, on, now * S),
                        allowed(&roots, call, on, now * S),
                    );
                }
            }
        }
        for id in 1..=owners.len() {
            let payload = format!("{{\"grant\":{id}}}");
            policy.apply(1000, &body(REVOKED, "user:operator", &payload, S));
        }
        prop_assert_eq!(policy.grants, grants::Grants::default());
    }

    #[test]
    fn hostile_payloads_and_documents_are_survived(text in ".{0,200}", kind in 0..3usize) {
        let mut policy = Policy::default();
        policy.apply(1, &body([SET, GRANTED, REVOKED][kind], "user:x", &text, 0));
        let payload = Json::object([("name", "a".into()), ("text", text.as_str().into())]);
        policy.apply(2, &body(SET, "user:x", &payload.to_string(), 0));
        let _ = policy.compile("a", &format!("vb-policy 1\n{text}"));
        let _ = Cap::parse(&text);
    }
}

#[test]
fn one_actor_s_flood_hides_no_other_s_refusal_and_equal_names_of_two_tenants_are_two() {
    let mut denials = Denials::default();
    let by = |rule: &str| Verdict {
        allowed: false,
        rule: rule.into(),
        reason: "no".into(),
    };
    let of = |tenant: &str, actor: &str| Ask {
        tenant: tenant.into(),
        ..ask(actor, "proof.inclusion", "7")
    };
    // What the owner alone is told of: an actor of many rules, others of its tenant, and its name in another.
    let flood = of("t", "agent:flood");
    let mut said = 0;
    for n in 0..10_000 {
        let rule = by(&format!("doc:{}", n % 40));
        said += u32::from(denials.denied(S + n, "system", &flood, &rule).is_some());
    }
    assert_eq!(said, super::denials::ACTOR_SAID_A_MINUTE_MAX);
    for asks in [
        of("t", "agent:quiet"),
        of("u", "agent:flood"),
        of("v", "agent:flood"),
    ] {
        let told = denials.denied(2 * S, "system", &asks, &by("identity:tenant"));
        let told = told.expect("said at once");
        assert_eq!((&*told.tenant, &told.ask, told.count), ("system", &asks, 1));
        assert_eq!(
            denials.denied(3 * S, "system", &asks, &by("identity:tenant")),
            None
        );
    }
    let sums = denials.due(0, true);
    let of_rule = |tenant: &str| {
        let mine = sums
            .iter()
            .filter(|d| d.ask.tenant == tenant && d.rule == "identity:tenant");
        mine.map(|d| d.count).collect::<Vec<_>>()
    };
    assert_eq!(
        (of_rule("t"), of_rule("u"), of_rule("v")),
        (vec![1], vec![1], vec![1])
    );
    let flooded: u64 = sums
        .iter()
        .filter(|d| d.ask == flood)
        .map(|d| d.count)
        .sum();
    assert_eq!(flooded + u64::from(said), 10_000, "nothing is lost");
}
