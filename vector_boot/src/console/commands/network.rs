//! What the role `net` says of the network, read from the file that it writes.
//!
//! The file is another's: it is read up to a limit, parsed strictly, and shown with controls taken out.

use crate::console::context::{Site, small_file};
use crate::console::text;
use serde_json::{Map, Value};

/// How the network is, as `net` wrote it, its times as seconds from now. `None` without the file.
pub fn read(site: &Site) -> Option<Map<String, Value>> {
    let written = small_file(&site.run.join("net/status.json")).ok()?;
    let Ok(Value::Object(mut network)) = serde_json::from_str(&written) else {
        return None;
    };
    let now = sys::clock::monotonic_ns();
    for name in ["renew", "rebind", "ends"] {
        let at = network.remove(&format!("{name}_ns"));
        let left = at
            .and_then(|at| at.as_u64())
            .map(|at| at.saturating_sub(now) / 1_000_000_000);
        network.insert(format!("{name}_s"), left.into());
    }
    if let Some(time) = network.get_mut("time").and_then(Value::as_object_mut) {
        let at = time.remove("at_ns").and_then(|at| at.as_u64());
        let since = at.map(|at| now.saturating_sub(at) / 1_000_000_000);
        time.insert("since_s".to_owned(), since.into());
    }
    Some(network)
}

/// A field's text; empty if it is none.
fn word(object: &Map<String, Value>, field: &str) -> String {
    match object.get(field) {
        Some(Value::String(text)) => text::clean(text),
        Some(Value::Number(n)) => n.to_string(),
        _ => String::new(),
    }
}

/// The texts of a list.
fn list(object: &Map<String, Value>, field: &str) -> String {
    let items = object.get(field).and_then(Value::as_array);
    let texts = items.into_iter().flatten().filter_map(Value::as_str);
    texts.map(text::clean).collect::<Vec<_>>().join(", ")
}

/// One line: `dhcp, 10.0.2.15/24 on eth0, 86390 s left`.
pub fn brief(network: &Map<String, Value>) -> String {
    let mut parts = vec![word(network, "plan")];
    match (
        word(network, "address"),
        word(network, "link"),
        word(network, "state"),
    ) {
        (address, link, _) if !address.is_empty() => parts.push(format!("{address} on {link}")),
        (_, link, state) if !link.is_empty() => parts.push(format!("{state} on {link}")),
        _ => parts.push("no link".to_owned()),
    }
    if let Some(left) = network.get("ends_s").and_then(Value::as_u64) {
        parts.push(format!("{left} s left"));
    }
    match parts.first().map(String::as_str) {
        Some("off") => "off".to_owned(),
        _ => parts.join(", "),
    }
}

/// Names and values for the table of `net`.
pub fn pairs(network: &Map<String, Value>) -> Vec<(&'static str, String)> {
    let mut pairs = vec![("plan", brief(network))];
    let state = word(network, "state");
    if !state.is_empty() {
        let server = word(network, "server");
        let times = ["renew_s", "rebind_s"].map(|t| word(network, t));
        let lease = match times {
            [renew, rebind] if !server.is_empty() => {
                format!("{state}, server {server}, renewed in {renew} s, by all in {rebind} s")
            }
            _ => state,
        };
        pairs.push(("lease", lease));
    }
    pairs.push(("routers", list(network, "routers")));
    pairs.push(("routes", list(network, "routes")));
    pairs.push(("domain", word(network, "domain")));
    if let Some(time) = network.get("time").and_then(Value::as_object) {
        pairs.push(("time", time_of(time)));
    }
    if let Some(counters) = network.get("counters").and_then(Value::as_object) {
        let counted = counters
            .iter()
            .map(|(name, n)| format!("{} {n}", text::clean(name)));
        pairs.push(("counters", counted.collect::<Vec<_>>().join(", ")));
    }
    pairs
}

fn time_of(time: &Map<String, Value>) -> String {
    let server = word(time, "server");
    if server.is_empty() {
        return match list(time, "servers") {
            none if none.is_empty() => "nobody is asked".to_owned(),
            servers => format!("not yet, asked {servers}"),
        };
    }
    let offset = time.get("offset_ns").and_then(Value::as_i64).unwrap_or(0);
    let sign = if offset < 0 { "ahead" } else { "behind" };
    format!(
        "{server} stratum {}, {} {sign}, {} s ago, {}",
        word(time, "stratum"),
        text::span(offset.unsigned_abs()),
        word(time, "since_s"),
        match word(time, "outcome") {
            none if none.is_empty() => "being set".to_owned(),
            outcome => outcome,
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::context::Held;

    fn written(text: &str) -> Option<Map<String, Value>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("net")).unwrap();
        std::fs::write(folder.path().join("net/status.json"), text).unwrap();
        read(&Site::new(folder.path().to_owned(), Held::default()))
    }

    #[test]
    fn a_lease_is_shown_with_what_is_left_of_it() {
        let ends = sys::clock::monotonic_ns() + 90_500_000_000;
        let text = format!(
            r#"{{"plan":"dhcp","link":"eth0","state":"bound","address":"10.0.2.15/24","server":"10.0.2.2","renew_ns":{ends},"rebind_ns":{ends},"ends_ns":{ends},"routers":["10.0.2.2"],"time":{{"servers":[],"server":null}}}}"#
        );
        let network = written(&text).unwrap();
        let brief = brief(&network);
        assert!(brief.starts_with("dhcp, 10.0.2.15/24 on eth0, "), "{brief}");
        assert!((80..=90).contains(&network["ends_s"].as_u64().unwrap()));
        let pairs = pairs(&network);
        assert!(
            pairs.contains(&("routers", "10.0.2.2".to_owned())),
            "{pairs:?}"
        );
        assert!(pairs.contains(&("time", "nobody is asked".to_owned())));
    }

    #[test]
    fn what_is_no_status_is_none_and_controls_are_taken_out() {
        for bad in ["", "[]", "{", "null", "{\"plan\":\"dhcp\"}x"] {
            assert_eq!(written(bad), None, "{bad}");
        }
        let strange = written(r#"{"plan":"\u001b[2Jx","link":7,"time":{"server":"a","offset_ns":-9223372036854775808}}"#).unwrap();
        let shown = format!("{:?}", pairs(&strange));
        assert!(
            !shown.contains('\u{1b}') && !shown.contains("\\u{1b}"),
            "{shown}"
        );
        assert_eq!(brief(&written("{}").unwrap()), ", no link");
    }
}
