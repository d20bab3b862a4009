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
    // The path is not in the row, its keyed commitment is.
    assert!(!row.payload.to_string().contains("welcome"));
    assert_eq!(row.payload["params_commitment"].as_str().unwrap().len(), 64);
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
