//! What a call gets, and what is recorded of it.

use crate::house::{House, authorization, post};
use serde_json::{Value, json};

#[test]
fn a_read_is_scored_recorded_and_answered() {
    let house = House::new();
    let got = house.tool("fs_read", json!({"path": "welcome.txt"}));
    assert_eq!(got.status, 200, "{got:?}");
    let v = got.json();
    assert_eq!(v["status"], "SUCCESS");
    assert_eq!(v["data"]["content"], "hello\n");
    assert_eq!(v["reality_index"], 1.0);
    assert_eq!(v["torsion_score"], 0.0);
    assert_eq!(v["error"], Value::Null);
    assert!(v["execution_time_ms"].as_f64().unwrap() > 0.0);
    let rows = house.log.rows.lock().unwrap();
    let row = &rows[v["event_id"].as_u64().unwrap() as usize - 1];
    assert_eq!(
        (row.event_type.as_str(), row.subject.as_str()),
        ("tool_called", "fs_read")
    );
    assert_eq!(row.actor, "agent:test");
    assert_eq!(row.payload["root"], "work");
    assert_eq!(row.payload["outcome"], "success");
    // The parameters are handed over to be sealed, and nothing else of the row tells them.
    let mut row = row.payload.clone();
    let seal = row.as_object_mut().unwrap().remove("seal").unwrap();
    let params: Value = serde_json::from_str(seal.as_str().unwrap()).unwrap();
    assert_eq!(params["path"], "welcome.txt");
    assert!(!row.to_string().contains("welcome"));
    assert_eq!(row["params_commitment"].as_str().unwrap().len(), 64);
}

#[test]
fn parameters_are_told_as_far_as_the_machine_says() {
    for (word, told) in [("clear", true), ("off", false)] {
        let house = House::asked(&[&format!("--audit-paths={word}")]);
        assert_eq!(
            house.tool("fs_read", json!({"path": "welcome.txt"})).status,
            200
        );
        assert_eq!(
            house.tool("fs_read", json!({"path": "welcome.not"})).status,
            400
        );
        let rows = house.log.rows.lock().unwrap();
        assert_eq!(rows.len(), 2, "{word}");
        for row in rows.iter().map(|row| &row.payload) {
            assert_eq!(row["params_commitment"].as_str().unwrap().len(), 64);
            assert!(row.get("seal").is_none(), "{word}: {row}");
            assert_eq!(row.get("params").is_some(), told, "{word}: {row}");
            assert_eq!(row.to_string().contains("welcome."), told, "{word}: {row}");
        }
    }
}

#[test]
fn without_a_token_in_force_nothing_is_told() {
    let house = House::new();
    let body = json!({"tool": "fs_read", "params": {"path": "welcome.txt"}}).to_string();
    for headers in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Basic dG9rZW46eA==\r\n",
    ] {
        let got = house.raw(&post("/tool", headers, &body));
        assert_eq!(got.status, 401, "{headers}");
        assert!(got.header("www-authenticate").is_some());
        assert!(!String::from_utf8_lossy(&got.body).contains("hello"));
    }
    assert_eq!(house.get("/tools", false).status, 401);
    assert_eq!(house.get("/health", false).status, 200);
    assert!(house.log.rows.lock().unwrap().is_empty());
    let twice = format!("{0}{0}", authorization());
    assert_eq!(house.raw(&post("/tool", &twice, &body)).status, 401);
}

#[test]
fn every_kind_of_call_gets_its_status_code_and_row() {
    let house = House::new();
    let at = |name: &str| house.path(&format!("work/{name}"));
    std::os::unix::fs::symlink("/etc/passwd", at("escape")).unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    std::fs::write(house.path("outside/secret"), "SECRET").unwrap();
    std::fs::hard_link(house.path("outside/secret"), at("linked")).unwrap();
    std::fs::write(at("binary"), [0xff, 0]).unwrap();
    std::fs::File::create(at("huge"))
        .unwrap()
        .set_len(20 << 30)
        .unwrap();
    let read = |path: &str| ("fs_read", json!({ "path": path }));
    let cases = [
        (read("welcome.txt"), 200, "", 1.0),
        (read("work/welcome.txt"), 200, "", 1.0),
        (read("binary"), 200, "not_utf8", 1.0),
        (read("none"), 400, "target_missing", 0.2),
        (read("none/none"), 400, "target_missing", 0.0),
        (read("folder"), 400, "not_a_file", 0.4),
        (read("escape"), 400, "symbolic_link", 0.0),
        (read("linked"), 400, "hard_linked", 0.4),
        (read("huge"), 400, "target_too_large", 0.4),
        (read("../outside/secret"), 400, "outside_root", 0.0),
        (read("/etc/passwd"), 400, "outside_root", 0.0),
        (read("a\u{0}b"), 400, "path_invalid", 0.0),
        (read(&"n".repeat(300)), 400, "path_invalid", 0.0),
        (read(&"d/".repeat(3000)), 400, "path_invalid", 0.0),
        (
            ("fs_list", json!({"path": "welcome.txt"})),
            400,
            "not_a_directory",
            0.4,
        ),
        (("fs_list", json!({})), 200, "", 1.0),
        (("process_list", json!({})), 200, "", 1.0),
        (
            ("fs_read", json!({"path": "x", "root": "none"})),
            400,
            "unknown_root",
            0.0,
        ),
        (
            (
                "fs_write",
                json!({"path": "share/x", "content": "", "create": true}),
            ),
            400,
            "read_only",
            0.4,
        ),
        (
            ("fs_write", json!({"path": "new", "content": ""})),
            400,
            "target_missing",
            0.2,
        ),
        (("fs_read", json!({})), 422, "invalid_params", -1.0),
        (
            ("fs_read", json!({"path": "x", "limit": 1u64 << 40})),
            422,
            "invalid_params",
            -1.0,
        ),
        (
            ("fs_read", json!({"path": "x", "extra": 1})),
            422,
            "invalid_params",
            -1.0,
        ),
        (("fs_reed", json!({})), 404, "unknown_tool", -1.0),
    ];
    for (n, ((tool, params), http, code, reality)) in cases.into_iter().enumerate() {
        let got = house.tool(tool, params.clone());
        let v = got.json();
        let about = format!("{tool} {params}: {v}");
        assert_eq!(got.status, http, "{about}");
        assert_eq!(v["error"]["code"].as_str().unwrap_or(""), code, "{about}");
        assert_eq!(
            v["reality_index"].as_f64().unwrap_or(-1.0),
            reality,
            "{about}"
        );
        assert_eq!(v["event_id"], n + 1, "{about}");
        let rows = house.log.rows.lock().unwrap();
        let row = rows.last().unwrap();
        assert_eq!(
            (row.subject.as_str(), &row.payload["code"]),
            (tool, &Value::from(code))
        );
        let refused = http != 200;
        assert_eq!(row.event_type == "tool_refused", refused, "{about}");
        if refused {
            assert_eq!(got.header("content-type"), Some("application/problem+json"));
            assert_eq!((&v["code"], &v["data"]), (&Value::from(code), &Value::Null));
        }
    }
    let metrics = house.get("/metrics", true).json();
    assert_eq!(metrics["total_requests"], 24);
    // Calls that were judged below the gate; what named no target was not judged.
    assert_eq!(metrics["reality_violations"], 15);
}

#[test]
fn a_write_is_read_back_and_an_idempotent_one_happens_once() {
    let house = House::new();
    let write = |params: Value| house.tool("fs_write", params);
    let text = |name: &str| std::fs::read_to_string(house.path(name)).unwrap();
    let v = write(json!({"path": "note", "content": "one", "create": true})).json();
    assert_eq!(
        (&v["data"]["created"], &v["data"]["size"]),
        (&json!(true), &json!(3))
    );
    let v = write(json!({"path": "note", "content": "dHdv", "encoding": "base64"})).json();
    assert_eq!(v["data"]["created"], false);
    assert_eq!(text("work/note"), "two");
    write(json!({"path": "note", "content": "+", "mode": "append"}));
    assert_eq!(text("work/note"), "two+");

    let body = |content: &str| {
        json!({"id": "a", "tool": "fs_write", "params":
            {"path": "log", "content": content, "mode": "append", "create": true}})
        .to_string()
    };
    let headers = format!("{}Idempotency-Key: k1\r\n", authorization());
    let first = house.raw(&post("/tool", &headers, &body("x")));
    let again = house.raw(&post("/tool", &headers, &body("x")));
    assert_eq!((first.status, &first.body), (200, &again.body));
    assert_eq!(text("work/log"), "x");
    let other = house.raw(&post("/tool", &headers, &body("y")));
    assert_eq!(
        (other.status, other.json()["code"].as_str()),
        (422, Some("idempotency_mismatch"))
    );
    let rows = house.log.rows.lock().unwrap();
    let replay = &rows[rows.len() - 2];
    assert_eq!(replay.payload["outcome"], "replayed");
    assert_eq!(replay.causation_id, first.json()["event_id"].as_u64());
}

#[test]
fn a_batch_keeps_its_order_and_one_bad_call_spoils_no_other() {
    let house = House::new();
    for n in 0..64 {
        std::fs::write(house.path(&format!("work/f{n}")), n.to_string()).unwrap();
    }
    let mut requests: Vec<Value> = (0..64)
        .map(|n| json!({"id": n, "tool": "fs_read", "params": {"path": format!("f{n}")}}))
        .collect();
    requests.insert(7, json!("no call"));
    requests.insert(9, json!({"tool": "fs_read", "params": {"path": "../x"}}));
    let got = house.post("/batch", &json!({ "requests": requests }));
    let v = got.json();
    assert_eq!((got.status, &v["batch_size"]), (200, &json!(66)));
    let results = v["results"].as_array().unwrap();
    assert_eq!(results[7]["error"]["code"], "invalid_request");
    assert_eq!(results[9]["error"]["code"], "outside_root");
    let contents: Vec<_> = results
        .iter()
        .filter_map(|r| r["data"]["content"].as_str())
        .collect();
    let expected: Vec<String> = (0..64).map(|n| n.to_string()).collect();
    assert_eq!(contents, expected);
    let many = vec![json!({"tool": "process_list"}); 257];
    assert_eq!(
        house.post("/batch", &json!({ "requests": many })).status,
        422
    );
    assert_eq!(
        house.post("/batch", &json!({ "requests": [] })).json()["results"],
        json!([])
    );
}

#[test]
fn a_batch_has_the_limit_of_one_answer() {
    let house = House::new();
    std::fs::write(house.path("work/big"), vec![b'a'; 3 << 20]).unwrap();
    let call = json!({"tool": "fs_read", "params": {"path": "big"}});
    let got = house.post("/batch", &json!({ "requests": [call, call, call, call] }));
    assert!(got.body.len() <= 8 << 20, "{}", got.body.len());
    let v = got.json();
    let codes: Vec<_> = v["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["error"]["code"])
        .collect();
    assert_eq!(codes.iter().filter(|c| c.is_null()).count(), 2, "{codes:?}");
    assert_eq!(
        codes.iter().filter(|c| **c == "response_too_large").count(),
        2
    );
}

#[test]
fn the_capacity_kernel_decides() {
    use wire::capacity::Verdict;
    let mut house = House::new();
    let cases = [
        (Verdict::NotPermitted, 403),
        (Verdict::Quota, 429),
        (Verdict::Gate, 429),
    ];
    for (verdict, http) in cases {
        *house.rules.verdict.lock().unwrap() = Some(verdict);
        let got = house.tool("fs_read", json!({"path": "welcome.txt"}));
        assert_eq!(got.status, http, "{verdict:?}");
        assert_eq!(got.json()["data"], Value::Null);
        assert_eq!(got.header("retry-after"), (http == 429).then_some("2"));
    }
    // 403 has a row of its own, the others are summed and written at the end at the latest.
    assert_eq!(house.log.rows.lock().unwrap().len(), 1);
    house.stop();
    let rows = house.log.rows.lock().unwrap();
    let summed: Vec<_> = rows[1..]
        .iter()
        .map(|r| (&r.payload["code"], &r.payload["count"]))
        .collect();
    assert_eq!(summed.len(), 2);
    assert!(summed.iter().all(|(_, count)| **count == 1), "{summed:?}");
    assert_eq!(
        house.rules.checks.load(std::sync::atomic::Ordering::SeqCst),
        3
    );
}

#[test]
fn the_owner_at_the_unix_socket_needs_no_token() {
    use std::io::{BufReader, Write};
    let house = House::new();
    let mut stream =
        std::os::unix::net::UnixStream::connect(house.run().join("gateway.sock")).unwrap();
    let body = json!({"tool": "fs_read", "params": {"path": "welcome.txt"}}).to_string();
    stream.write_all(&post("/tool", "", &body)).unwrap();
    let got = crate::house::read(&mut BufReader::new(stream)).unwrap();
    assert_eq!(
        (got.status, &got.json()["data"]["content"]),
        (200, &json!("hello\n"))
    );
    let rows = house.log.rows.lock().unwrap();
    assert_eq!(rows[0].actor, "user:operator");
}
