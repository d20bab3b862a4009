//! What the manifest promises: the default agrees with its source, and every rule refuses by name.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    source::parse(text)
}

#[test]
fn the_compiled_default_is_its_source() {
    let source = parse(include_str!("../../default.toml")).unwrap();
    assert_eq!(default(), source);
    assert_eq!(
        DEFAULT,
        source.encode().unwrap(),
        "run: vector_boot rts manifest default.toml --out default.manifest"
    );
}

#[test]
fn the_default_starts_ledger_before_capacity_before_gateway() {
    let table = default();
    let order: Vec<&str> = table
        .start_order()
        .iter()
        .map(|i| table.services[usize::from(*i)].name.as_str())
        .collect();
    let place = |name| order.iter().position(|n| *n == name).unwrap();
    assert!(place("ledger") < place("capacity") && place("capacity") < place("gateway"));
    assert_eq!(order.len(), 5);
    assert_eq!(table.uid(table.index_of("gateway").unwrap()), Some(903));
}

#[test]
fn an_extension_keeps_the_default_and_replaces_what_has_its_name() {
    let table = parse(
        "extends = \"default\"\nhostname = \"mine\"\n[params]\n\"vb.net\" = \"off\"\n\
         [[root]]\nname = \"share\"\npath = \"/srv\"\nmode = \"ro\"\n\
         [[service]]\nname = \"app\"\nimage = \"app\"\nneeds = [\"gateway\"]\n\
         [[service]]\nname = \"net\"\nimage = \"vector_boot\"\nargs = [\"net\"]\nuid = 907\nrestart = \"never\"\n",
    )
    .unwrap();
    let names: Vec<&str> = table
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["ledger", "capacity", "gateway", "net", "console", "app"]
    );
    assert_eq!(table.services[3].restart, Restart::Never);
    assert_eq!(table.services[0], default().services[0]);
    assert_eq!(
        (table.roots.len(), table.roots[1].path.as_str()),
        (2, "/srv")
    );
    assert_eq!(table.uid(5), Some(30_005));
    let twice = "extends = \"default\"\n[[service]]\nname = \"app\"\nimage = \"x\"\n[[service]]\nname = \"app\"\nimage = \"x\"\n";
    assert!(
        parse(twice)
            .unwrap_err()
            .to_string()
            .contains("services: app stands twice")
    );
}

/// Every rule, by a source that breaks it and what the one line says.
#[test]
fn who_audits_is_told_to_those_who_record() {
    let key = "ab".repeat(32);
    let text =
        format!("extends = \"default\"\n[audit]\nrecipients = [\"{key}\"]\npaths = \"clear\"\n");
    let manifest = parse(&text).unwrap();
    let args = |name: &str| {
        let service = manifest.services.iter().find(|s| s.name.as_str() == name);
        let words = service.unwrap().args.iter().map(|w| w.as_str().to_owned());
        words.collect::<Vec<_>>()
    };
    let recipient = format!("--audit-recipient={key}");
    assert_eq!(args("ledger"), ["ledger".to_owned(), recipient]);
    assert_eq!(args("gateway"), ["gateway", "--audit-paths=clear"]);
    assert_eq!(args("capacity"), ["capacity"]);
    assert_eq!(
        Manifest::decode(&manifest.encode().unwrap()).unwrap(),
        manifest
    );
}

#[test]
fn a_witness_is_a_service_of_its_own() {
    let text = "extends = \"default\"\n[witness]\nurl = \"http://192.0.2.1/w\"\nkey = \"w.example+0123abcd+AAAA\"\n";
    let manifest = parse(text).unwrap();
    let service = manifest.services.last().unwrap();
    let words: Vec<&str> = service.args.iter().map(|w| w.as_str()).collect();
    let expected = [
        "witness",
        "--url=http://192.0.2.1/w",
        "--key=w.example+0123abcd+AAAA",
        "--every=3600",
    ];
    assert_eq!(words, expected);
    assert_eq!(service.needs.as_slice(), ["ledger"]);
    let ledger = manifest.index_of("ledger").unwrap();
    let last = manifest.services[ledger].args.last().unwrap();
    assert_eq!(last.as_str(), "--witness-key=w.example+0123abcd+AAAA");
    assert!(!service.core && service.uid == Some(909));
    assert_eq!(
        Manifest::decode(&manifest.encode().unwrap()).unwrap(),
        manifest
    );
}

#[test]
fn each_broken_rule_is_refused_by_field_value_and_limit() {
    let key_of_witness = "w.example+0123abcd+AAAA";
    let witness = |url: &str, key: &str, more: &str| {
        format!("extends = \"default\"\n[witness]\nurl = \"{url}\"\nkey = \"{key}\"\n{more}\n")
    };
    let key = |digit: char| format!("\"{}\"", digit.to_string().repeat(64));
    let service = |lines: &str| format!("[[service]]\nname = \"a\"\nimage = \"app\"\n{lines}\n");
    let cases = [
        (service("colour = 1"), "unknown field `colour`"),
        (service("wachtdog_ms = 1"), "unknown field `wachtdog_ms`: did you mean `watchdog_ms`?"),
        (service("restart = \"alway\""), "did you mean `always`?"),
        ("hostnam = \"x\"".into(), "line 1: unknown field `hostnam`: did you mean `hostname`?"),
        (
            "hostname = \"X\"".into(),
            "hostname: \"X\", expected 1 to 32 of",
        ),
        (
            service("[[service]]\nname = \"a\"\nimage = \"b\""),
            "services: a stands twice",
        ),
        (
            service("needs = [\"b\"]"),
            "service a: needs: \"b\", expected the name of a service",
        ),
        (service("needs = [\"a\"]"), "a cycle a -> a, expected none"),
        (
            service("needs = [\"b\"]\n[[service]]\nname = \"b\"\nimage = \"x\"\nneeds = [\"a\"]"),
            "a cycle a -> b -> a, expected none",
        ),
        (
            service("uid = 0"),
            "service a: uid: \"0\", expected 30000 to 59999",
        ),
        (
            service("uid = 901"),
            "uid: \"901\", expected 30000 to 59999",
        ),
        (
            service("uid = 30001\n[[service]]\nname = \"b\"\nimage = \"x\""),
            "service b: uid: 30001 stands twice",
        ),
        (
            service("cpu_weight = 0"),
            "service a: cpu_weight: 0, allowed 1 to 10000",
        ),
        (
            service("backoff_ms_max = 4000000"),
            "backoff_ms_max: 4000000, allowed 0 to 3600000",
        ),
        (
            service("backoff_ms_first = 9\nbackoff_ms_max = 8"),
            "backoff_ms_first: 9, allowed 0 to 8",
        ),
        (service("intensity_max = 10001"), "intensity_max: 10001"),
        (
            service("start_timeout_ms = 0"),
            "start_timeout_ms: 0, allowed 1 to 600000",
        ),
        (
            service("watchdog_ms = 5000"),
            "watchdog_ms: \"5000\", expected 0 without notify",
        ),
        (
            service("watchdog_ms = 1\nnotify = true"),
            "watchdog_ms: 1, allowed 100",
        ),
        (
            service("needs = [\"b\"]\n[[service]]\nname = \"b\"\nimage = \"x\"\nneeds = [\"c\"]\n\
                     [[service]]\nname = \"c\"\nimage = \"x\"\nneeds = [\"b\"]"),
            "a cycle b -> c -> b, expected none",
        ),
        (service("notify = true\nfd_store = 17"), "fd_store: 17, allowed 0 to 16"),
        (service("fd_store = 1"), "fd_store: \"1\", expected 0 without notify"),
        (service("extend_ms_max = 3600001"), "extend_ms_max: 3600001, allowed 0 to 3600000"),
        ("[health]\nready_s = 9".into(), "health: ready_s: 9, allowed 10 to 86400"),
        ("[health]\nfailed_s = 29".into(), "health: failed_s: 29, allowed 30 to 86400"),
        (
            "[health]\nready_s = 60\nreboots_max = 11".into(),
            "health: reboots_max: 11, allowed 1 to 10",
        ),
        (
            format!("{}[health]\nfailed_s = 60\nservices = [\"a\"]", service("")),
            "health: services: \"a\", expected the name of a core service",
        ),
        (
            format!("{}[health]\nready_s = 60\nservices = [\"a\"]", service("core = true")),
            "health: services: \"a\", expected none without failed_s",
        ),
        (
            service("memory_max_bytes = 4096"),
            "memory_max_bytes: 4096, allowed 262144",
        ),
        (
            service("pids_max = 5000000"),
            "pids_max: 5000000, allowed 0 to 4194304",
        ),
        (service("log_rate = 100001"), "log_rate: 100001"),
        (
            service("tmp_bytes = 1"),
            "tmp_bytes: 1, allowed 65536 to 1099511627776",
        ),
        (
            "[[service]]\nname = \"a\"\nimage = \"vb-services\"\nargs = [\"ledger\"]\nuid = 901\nnetwork = true"
                .into(),
            "service a: network: \"true\", expected none",
        ),
        (
            service("profile = \"root\""),
            "unknown variant `root`",
        ),
        (
            "[[service]]\nname = \"a\"\nimage = \"vb-services\"\nargs = [\"ledger\"]\nuid = 901\nprofile = \"net\""
                .into(),
            "service a: profile: \"net\", expected none",
        ),
        (
            "[[service]]\nname = \"a\"\nimage = \"vb-services\"\nargs = [\"ledger\"]\nuid = 901\nprofile = \"unconfined\""
                .into(),
            "service a: profile: \"unconfined\", expected none",
        ),
        (
            service("profile = \"unconfined\"\nnetwork = false"),
            "network: \"false\", expected true",
        ),
        (
            service("profile = \"unconfined\"\ntmp_bytes = 65536"),
            "tmp_bytes: \"65536\", expected 0",
        ),
        (
            service("restart = \"sometimes\""),
            "unknown variant `sometimes`",
        ),
        (
            service("restart = \"never\"\ncore = true"),
            "core: \"true\"",
        ),
        (
            service("pass = [\"root.x\"]"),
            "pass: \"x\", expected the name of a root",
        ),
        (
            service("pass = [\"disk\"]"),
            "pass: \"disk\", expected log, rts",
        ),
        (
            service("pass = [\"log\", \"log\"]"),
            "pass: Log stands twice",
        ),
        (
            service("caps = [\"sys_admin\"]"),
            "unknown variant `sys_admin`",
        ),
        (
            service("args = [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]"),
            "args: 9, allowed 0 to 8",
        ),
        (
            service("args = [\"a\\u0000b\"]"),
            "args: \"a\\0b\", expected up to 128 bytes",
        ),
        (
            service("listen = [{ name = \"h\", kind = \"tcp\", address = \"x:1\" }]"),
            "address: \"x:1\", expected ADDR:PORT",
        ),
        (
            service("listen = [{ name = \"h\", kind = \"tcp\", address = \"[::]:1\", mode = 1 }]"),
            "mode: \"1\", expected none",
        ),
        (
            service("listen = [{ name = \"h\", kind = \"unix_stream\", mode = 0o7777 }]"),
            "mode: 4095, allowed 0 to 511",
        ),
        (
            service("listen = [{ name = \"init.sock\", kind = \"unix_stream\" }]"),
            "address: \"init.sock\"",
        ),
        (
            service(
                "listen = [{ name = \"h\", kind = \"unix_stream\" }, { name = \"h\", kind = \"unix_stream\" }]",
            ),
            "listen names: h",
        ),
        (
            "[[service]]\nname = \"helper\"\nimage = \"x\"".into(),
            "service name: \"helper\"",
        ),
        (
            "[[service]]\nname = \"a\"\nimage = \"vb-services\"".into(),
            "service a: args: \"[]\", expected a role word",
        ),
        (
            format!("[audit]\nrecipients = [\"{}\"]", "0".repeat(64)),
            "audit: recipients: \"0000",
        ),
        (
            "extends = \"default\"\n[audit]\nrecipients = [\"00\"]".into(),
            "audit: recipients: \"00\", expected an X25519 public key: 64 hex digits",
        ),
        (
            format!("extends = \"default\"\n[audit]\nrecipients = [{0}, {0}]", key('1')),
            "expected each key once",
        ),
        (
            format!(
                "extends = \"default\"\n[audit]\nrecipients = [{},{},{},{},{}]",
                key('1'), key('2'), key('3'), key('4'), key('5')
            ),
            "audit: recipients: 5, allowed 0 to 4",
        ),
        (
            "extends = \"default\"\n[audit]\npaths = \"hidden\"".into(),
            "unknown variant `hidden`",
        ),
        (witness("https://w.example", key_of_witness, ""), "witness: url: \"https://w.example\", expected http://"),
        (witness("http://w.example", key_of_witness, ""), "witness: url: \"http://w.example\", expected http://"),
        (witness("http://192.0.2.1/?q", key_of_witness, ""), "witness: url: \"http://192.0.2.1/?q\", expected http://"),
        (witness("http://192.0.2.1", "w.example", ""), "witness: key: \"w.example\", expected the witness's key"),
        (witness(&format!("http://192.0.2.1/{}", "a".repeat(120)), key_of_witness, ""), "expected up to 128 bytes"),
        (witness("http://192.0.2.1", key_of_witness, "every_s = 59"), "witness: every_s: 59, allowed 60 to 3600"),
        (
            witness("http://192.0.2.1", key_of_witness, "").replace("extends = \"default\"\n", ""),
            "witness: url: \"http://192.0.2.1\", expected a service of vb-services whose role is ledger",
        ),
        (
            "[audit]\npaths = \"off\"".into(),
            "audit: paths: \"off\", expected a service of vb-services whose role is gateway",
        ),
        (
            "[[root]]\nname = \"r\"\npath = \"a/../b\"\nmode = \"ro\"".into(),
            "root r: path: \"a/../b\"",
        ),
        ("[params]\n\"vb.rts\" = \"x\"".into(), "params: \"vb.rts\""),
        (
            "[params]\n\"quiet\" = \"x\"".into(),
            "params: \"quiet\", expected vb.",
        ),
        (
            "[params]\n\"vb.x\" = 1.5".into(),
            "params: vb.x: \"float\", expected a text or an integer",
        ),
        (
            (0..33)
                .map(|i| format!("[[service]]\nname = \"s{i}\"\nimage = \"x\"\n"))
                .collect(),
            "services: 33, allowed 0 to 32",
        ),
    ];
    for (text, expected) in cases {
        let said = parse(&text).expect_err(&text).to_string();
        assert!(
            said.contains(expected) && !said.contains('\n'),
            "{text}\n said: {said}\n not: {expected}"
        );
    }
}

#[test]
fn an_unassigned_uid_is_30000_and_its_index() {
    let table =
        parse("[[service]]\nname = \"a\"\nimage = \"x\"\n[[service]]\nname = \"b\"\nimage = \"x\"")
            .unwrap();
    assert_eq!(
        (table.uid(0), table.uid(1), table.uid(2)),
        (Some(30_000), Some(30_001), None)
    );
}

#[test]
fn the_fullest_manifest_fits_its_limit() {
    let name = |i: usize| Name::new(&format!("{i:0>32}")).unwrap();
    let word = || Word::new(&"w".repeat(WORD_BYTES_MAX)).unwrap();
    let mut table = Manifest::empty(name(0));
    for i in 0..ROOTS_MAX {
        let _ = table.roots.push(Root {
            name: name(i),
            path: word(),
            mode: RootMode::Rw,
        });
    }
    for i in 0..PARAMS_MAX {
        let _ = table.params.push(Param {
            key: Key::new(&format!("vb.{i:0>29}")).unwrap(),
            value: word(),
        });
    }
    for i in 0..SERVICES_MAX {
        let mut service = Service::new(name(i), Image::Added(name(99)));
        while service.args.push(word()).is_ok() {}
        for need in 0..NEEDS_MAX.min(i) {
            service.needs.push(name(need)).unwrap();
        }
        for j in 0..LISTEN_MAX {
            let text = format!("{i:0>16}{j:0>16}");
            let _ = service.listen.push(Listen {
                name: FdName::new(&text).unwrap(),
                kind: ListenKind::UnixStream,
                address: Address::new(&text).unwrap(),
                mode: 0o777,
            });
        }
        for root in 0..PASS_MAX {
            let _ = service.pass.push(Pass::Root(name(root)));
        }
        service.memory_max_bytes = 1 << 50;
        service.tmp_bytes = 1 << 40;
        service.pids_max = 4_194_304;
        table.services.push(service);
    }
    let bytes = table.encode().unwrap();
    assert!(bytes.len() <= MANIFEST_BYTES_MAX, "{}", bytes.len());
    assert_eq!(Manifest::decode(&bytes).unwrap(), table);
}

#[test]
fn truncated_at_every_byte_and_lengthened_it_is_refused() {
    for len in 0..DEFAULT.len() {
        assert!(Manifest::decode(&DEFAULT[..len]).is_err(), "{len}");
    }
    let mut longer = DEFAULT.to_vec();
    longer.push(0);
    assert_eq!(
        Manifest::decode(&longer),
        Err(ManifestError::bytes("trailing bytes", DEFAULT.len()))
    );
}

proptest! {
    #[test]
    fn what_decodes_encodes_to_a_manifest_that_is_equal(flips in proptest::collection::vec((0usize..500, any::<u8>()), 0..6)) {
        let mut bytes = DEFAULT.to_vec();
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Ok(table) = Manifest::decode(&bytes) {
            prop_assert_eq!(Manifest::decode(&table.encode().unwrap()).unwrap(), table);
        }
    }
}
