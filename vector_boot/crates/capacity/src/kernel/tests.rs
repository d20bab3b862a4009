//! What the kernel promises: who may ask for what, tokens over their life, events and their bounds.

use super::*;
use crate::measure::Meter;
use std::path::Path;
use wire::capacity::Want;

const BOOT_TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const SECOND: u64 = 1_000_000_000;

fn kernel() -> Kernel {
    let node = Meter::new(Path::new("/nonexistent"), Vec::new()).node();
    let mut kernel = Kernel::new(node, &[7; 32]);
    kernel.boot(0, Some(BOOT_TOKEN)).unwrap();
    kernel
}

fn asker(role: Role) -> Asker {
    Asker {
        role,
        uid: role.uid(),
    }
}

fn wanted<'a>(workload_id: &'a str, permissions: u32) -> Request<'a> {
    let want = Want {
        min: 500,
        want: 1000,
        weight: 1,
    };
    Request {
        tenant_id: "acme",
        workload_id,
        axes: [Some(want); AXES],
        duration_s: 60,
        priority: 3,
        permissions,
    }
}

fn token_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Granted { token, .. } => token,
        Outcome::Refused { reason, .. } => panic!("{reason}"),
    }
}

fn operation<'a>(token: &'a str, operation: &'a str) -> Check<'a> {
    Check {
        token,
        operation,
        cpu_us: 0,
        memory_bytes: 0,
    }
}

fn types(kernel: &mut Kernel) -> Vec<&'static str> {
    kernel.take_events().iter().map(|e| e.event_type).collect()
}

#[test]
fn the_owner_needs_no_token_and_spends_from_the_appliances_lease() {
    let mut kernel = kernel();
    let decision = kernel.check_owner(0, &operation("", "tool:fs_read"));
    assert_eq!(decision.verdict, Verdict::Allowed);
    assert_eq!(decision.actor, OWNER_ACTOR);
    let slot = kernel.table().find(BOOT_TENANT, BOOT_WORKLOAD).unwrap();
    assert_eq!(kernel.table().get(slot).unwrap().1.checks, 1);
    let decision = kernel.check_owner(0, &operation("", "admin:ctl"));
    assert_eq!(decision.verdict, Verdict::NotPermitted);
    let decision = kernel.check(0, &operation("", "tool:fs_read"));
    assert_eq!(decision.verdict, Verdict::BadToken, "nobody vouches");
}

#[test]
fn while_load_is_shed_new_leases_leave_the_budget_free_and_old_ones_go_on() {
    let mut kernel = kernel();
    let user = asker(Role::User(30_001));
    let wanting = |workload| Request {
        tenant_id: "uid-30001",
        ..wanted(workload, 0)
    };
    let (first, second) = (wanting("first"), wanting("second"));
    token_of(kernel.request(0, user, &first).unwrap());
    kernel.set_shed(10_000);
    match kernel.request(SECOND, user, &second).unwrap() {
        Outcome::Refused { axes, reason } => {
            assert_eq!(axes, 0b11111);
            assert!(
                reason.starts_with("load shed: 10000 basis points"),
                "{reason}"
            );
        }
        Outcome::Granted { .. } => panic!("a new lease"),
    }
    token_of(kernel.request(SECOND, user, &first).unwrap());
    assert!(matches!(
        kernel.request(SECOND, asker(Role::Operator), &second),
        Ok(Outcome::Granted { .. })
    ));
    kernel.set_shed(0);
    token_of(kernel.request(2 * SECOND, user, &wanting("third")).unwrap());
}

#[test]
fn the_boot_token_calls_tools_and_nothing_else() {
    let mut kernel = kernel();
    let decision = kernel.check(0, &operation(BOOT_TOKEN, "tool:fs_read"));
    assert_eq!(decision.verdict, Verdict::Allowed);
    assert_eq!(
        (decision.actor.as_str(), decision.tenant.as_str()),
        (BOOT_ACTOR, BOOT_TENANT)
    );
    for other in [
        "ledger:append",
        "capacity:request",
        "admin:ctl",
        "plain",
        "bus:x",
        "",
        "tool: x",
        "tool:\n",
    ] {
        let decision = kernel.check(0, &operation(BOOT_TOKEN, other));
        assert_eq!(decision.verdict, Verdict::NotPermitted, "{other:?}");
        assert!(!decision.reason.is_empty());
    }
    let long = format!("tool:{}", "x".repeat(OPERATION_BYTES_MAX));
    let decision = kernel.check(0, &operation(BOOT_TOKEN, &long));
    assert_eq!(decision.verdict, Verdict::NotPermitted);
    for wrong in [
        "",
        "x",
        &BOOT_TOKEN[..63],
        &"a".repeat(5000),
        "vbt1.",
        "vbt1.AAAA",
    ] {
        let decision = kernel.check(0, &operation(wrong, "tool:fs_read"));
        assert_eq!(decision.verdict, Verdict::BadToken, "{wrong:?}");
    }
}

#[test]
fn nobody_but_operator_and_console_gives_admin() {
    for (role, permissions, fine) in [
        (Role::Operator, permission::ADMIN, true),
        (Role::Console, permission::ADMIN, true),
        (Role::Gateway, permission::ADMIN, false),
        (Role::Gateway, permission::TOOLS | permission::LEDGER, true),
        (Role::Cortex, permission::TOOLS, false),
        (Role::User(30_001), permission::TOOLS, false),
        (Role::User(30_001), permission::CAPACITY, true),
        (Role::Operator, 1 << 31, false),
    ] {
        let mut request = wanted("w", permissions);
        match role {
            Role::User(_) => request.tenant_id = "uid-30001",
            Role::Cortex => request.tenant_id = "system",
            _ => {}
        }
        let result = kernel().request(0, asker(role), &request);
        assert_eq!(result.is_ok(), fine, "{role:?} {permissions:#x} {result:?}");
        if let Err(no) = result {
            assert_eq!((no.code, no.field), ("POLICY_DENY", "permissions"));
        }
    }
}

#[test]
fn a_service_pays_for_itself_only() {
    let mut kernel = kernel();
    let refused = kernel
        .request(0, asker(Role::User(30_001)), &wanted("w", 0))
        .unwrap_err();
    assert_eq!(
        (refused.field, refused.limit.as_str()),
        ("tenant_id", "uid-30001 for user")
    );
    let mut own = wanted(BOOT_WORKLOAD, 0);
    own.tenant_id = BOOT_TENANT;
    let taken = kernel.request(0, asker(Role::Gateway), &own).unwrap();
    assert!(
        matches!(taken, Outcome::Refused { .. }),
        "the boot lease is not replaced"
    );
    assert!(kernel.revoke(0, asker(Role::Gateway), 0).is_err());
    assert!(kernel.revoke(0, asker(Role::Console), 0).is_ok());
}

#[test]
fn requests_are_refused_by_field_value_and_limit() {
    let mut kernel = kernel();
    let mut say = |change: &dyn Fn(&mut Request<'_>)| {
        let mut request = wanted("w", 0);
        change(&mut request);
        let no = kernel
            .request(0, asker(Role::Gateway), &request)
            .unwrap_err();
        (no.field, no.value)
    };
    assert_eq!(say(&|r| r.duration_s = 0), ("duration_s", "0".to_owned()));
    assert_eq!(say(&|r| r.duration_s = u32::MAX).0, "duration_s");
    assert_eq!(say(&|r| r.priority = 10), ("priority", "10".to_owned()));
    assert_eq!(
        say(&|r| r.workload_id = "a b"),
        ("workload_id", "a b".to_owned())
    );
    assert_eq!(say(&|r| r.tenant_id = "").0, "tenant_id");
    let bad = Some(Want {
        min: 2,
        want: 1,
        weight: 1,
    });
    assert_eq!(say(&|r| r.axes[3] = bad).0, "C_ptr");
    let bad = Some(Want {
        min: 0,
        want: 10_001,
        weight: 1,
    });
    assert_eq!(say(&|r| r.axes[0] = bad).0, "C_geo");
    let bad = Some(Want {
        min: 0,
        want: 1,
        weight: 0,
    });
    assert_eq!(say(&|r| r.axes[4] = bad).0, "C_obs");
}

#[test]
fn a_leased_token_lives_until_release_revocation_renewal_or_expiry() {
    let mut kernel = kernel();
    let gateway = asker(Role::Gateway);
    let ask = |kernel: &mut Kernel, now| {
        token_of(
            kernel
                .request(now, gateway, &wanted("w", permission::TOOLS))
                .unwrap(),
        )
    };
    let allowed = |kernel: &mut Kernel, now, token: &str| {
        kernel.check(now, &operation(token, "tool:x")).verdict == Verdict::Allowed
    };
    let first = ask(&mut kernel, 0);
    assert!(allowed(&mut kernel, 0, &first));
    let second = ask(&mut kernel, 0);
    assert!(!allowed(&mut kernel, 0, &first) && allowed(&mut kernel, 0, &second));
    kernel.release(0, &second).unwrap();
    assert!(!allowed(&mut kernel, 0, &second) && kernel.release(0, &second).is_err());
    let third = ask(&mut kernel, 0);
    let slot = kernel.identify(0, &third).unwrap().slot;
    kernel.revoke(0, gateway, slot).unwrap();
    assert!(!allowed(&mut kernel, 0, &third));
    let fourth = ask(&mut kernel, 0);
    // Its own time ends it even before the tick that takes the lease away.
    assert!(
        allowed(&mut kernel, 59 * SECOND, &fourth) && !allowed(&mut kernel, 60 * SECOND, &fourth)
    );
    kernel.tick(60 * SECOND, [None; AXES], 0);
    assert_eq!(kernel.state().leases, 1);
    assert!(kernel.release(0, BOOT_TOKEN).is_err());
}

#[test]
fn a_token_of_an_earlier_run_is_refused_with_the_reason() {
    let old = token_of(
        kernel()
            .request(0, asker(Role::Gateway), &wanted("w", 1))
            .unwrap(),
    );
    let node = *kernel().table().node();
    let mut restarted = Kernel::new(node, &[8; 32]);
    restarted.boot(0, Some(BOOT_TOKEN)).unwrap();
    let decision = restarted.check(0, &operation(&old, "tool:x"));
    assert_eq!(decision.verdict, Verdict::BadToken);
    assert!(
        decision.reason.contains("ask for a new one"),
        "{}",
        decision.reason
    );
    let boot = restarted.check(0, &operation(BOOT_TOKEN, "tool:x"));
    assert_eq!(boot.verdict, Verdict::Allowed);
}

#[test]
fn an_empty_bucket_is_named_with_the_time_to_retry() {
    let mut kernel = kernel();
    let token = token_of(
        kernel
            .request(0, asker(Role::Gateway), &wanted("w", permission::TOOLS))
            .unwrap(),
    );
    // 10 % of 50,000 operations a second, a fifth of it at once.
    for _ in 0..1000 {
        assert_eq!(
            kernel.check(0, &operation(&token, "tool:x")).verdict,
            Verdict::Allowed
        );
    }
    let denied = kernel.check(0, &operation(&token, "tool:x"));
    assert_eq!(
        (denied.verdict, denied.bucket, denied.retry_after_ms),
        (Verdict::Quota, "ops", 1)
    );
    assert_eq!(denied.actor, "agent:w");
    assert_eq!(
        kernel
            .check(SECOND / 1000, &operation(&token, "tool:x"))
            .verdict,
        Verdict::Allowed
    );
    let never = Check {
        memory_bytes: u64::MAX,
        ..operation(&token, "tool:x")
    };
    let denied = kernel.check(10 * SECOND, &never);
    assert_eq!((denied.bucket, denied.retry_after_ms), ("memory", u32::MAX));
}

#[test]
fn denials_are_events_when_they_begin_and_when_they_end() {
    let mut kernel = kernel();
    kernel.take_events();
    let second = |kernel: &mut Kernel, tokens: &[&str]| {
        for token in tokens {
            kernel.check(0, &operation(token, "tool:x"));
        }
        kernel.tick(0, [None; AXES], 0);
        types(kernel)
    };
    let bad = "f".repeat(64);
    assert!(second(&mut kernel, &[BOOT_TOKEN]).is_empty());
    assert_eq!(
        second(&mut kernel, &[&bad, &bad, BOOT_TOKEN]),
        ["denial_began"]
    );
    assert!(second(&mut kernel, &[&bad]).is_empty());
    assert_eq!(second(&mut kernel, &[BOOT_TOKEN]), ["denial_ended"]);
    assert!(second(&mut kernel, &[]).is_empty());
    for _ in 0..1000 {
        kernel.check(0, &operation(BOOT_TOKEN, "admin:x"));
    }
    kernel.tick(0, [None; AXES], 0);
    let events = kernel.take_events();
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].subject.as_str(), &events[0].payload["denied"]),
        ("default/agents", &json!(1000))
    );
}

#[test]
fn every_lease_change_is_an_event_and_refusals_cannot_flood() {
    let mut kernel = kernel();
    assert_eq!(types(&mut kernel), ["lease_granted"]);
    let token = token_of(
        kernel
            .request(0, asker(Role::Gateway), &wanted("w", 1))
            .unwrap(),
    );
    kernel.release(0, &token).unwrap();
    kernel
        .request(0, asker(Role::Gateway), &wanted("w", 1))
        .unwrap();
    kernel.tick(61 * SECOND, [None; AXES], 0);
    assert_eq!(
        types(&mut kernel),
        [
            "lease_granted",
            "lease_released",
            "lease_granted",
            "lease_expired"
        ]
    );
    let mut huge = wanted("w", 1);
    huge.axes = [Some(Want {
        min: 9999,
        want: 9999,
        weight: 1,
    }); AXES];
    for _ in 0..100 {
        kernel.request(0, asker(Role::Gateway), &huge).unwrap();
    }
    assert_eq!(types(&mut kernel).len(), REFUSAL_EVENTS_MAX as usize);
    kernel.tick(62 * SECOND, [None; AXES], 0);
    kernel.request(0, asker(Role::Gateway), &huge).unwrap();
    assert_eq!(
        kernel.take_events()[0].payload["not_recorded_before"],
        json!(84)
    );
}

#[test]
fn payloads_hold_no_secret() {
    let mut kernel = kernel();
    let token = token_of(
        kernel
            .request(0, asker(Role::Gateway), &wanted("w", 1))
            .unwrap(),
    );
    kernel.check(0, &operation("vbt1.secretsecret", "tool:x"));
    kernel.tick(0, [None; AXES], 0);
    let said = format!("{:?}", kernel.take_events());
    assert!(!said.contains(BOOT_TOKEN) && !said.contains(&token) && !said.contains("secretsecret"));
}

#[test]
fn the_reserve_is_never_given_out() {
    let mut kernel = kernel();
    let mut all = wanted("w", 1);
    all.axes = [Some(Want {
        min: 0,
        want: 10_000,
        weight: 1000,
    }); AXES];
    kernel.request(0, asker(Role::Gateway), &all).unwrap();
    let state = kernel.state();
    assert_eq!(state.budget, [9000, 9500, 10_000, 8500, 9000]);
    assert_eq!(state.granted, state.budget);
}
