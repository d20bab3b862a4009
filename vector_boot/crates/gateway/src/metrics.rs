//! Counters of the gateway, and the two forms in which `GET /metrics` tells them.
//!
//! Start with [`Metrics::count`].

use crate::answer::{Status, ToolResponse};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Upper bounds of the latency histogram, microseconds.
const LATENCY_US: [u64; 10] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 2_000_000,
];

/// Everything counted since the start.
pub struct Metrics {
    started: Instant,
    total: AtomicU64,
    successful: AtomicU64,
    failed: AtomicU64,
    denied: AtomicU64,
    violations: AtomicU64,
    reality_sum_hundredths: AtomicU64,
    reality_count: AtomicU64,
    latency_us_sum: AtomicU64,
    latency_us_max: AtomicU64,
    latency: [AtomicU64; LATENCY_US.len() + 1],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    unauthorized: AtomicU64,
    connections: AtomicU64,
    in_flight: AtomicU64,
    rows: AtomicU64,
}

/// A gauge that is up while this lives.
pub struct Raised<'m>(&'m AtomicU64);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    /// All zero, from now on.
    #[must_use]
    pub fn new(started: Instant) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            started,
            total: zero(),
            successful: zero(),
            failed: zero(),
            denied: zero(),
            violations: zero(),
            reality_sum_hundredths: zero(),
            reality_count: zero(),
            latency_us_sum: zero(),
            latency_us_max: zero(),
            latency: std::array::from_fn(|_| zero()),
            bytes_in: zero(),
            bytes_out: zero(),
            unauthorized: zero(),
            connections: zero(),
            in_flight: zero(),
            rows: zero(),
        }
    }

    /// Counts one call that was answered.
    pub fn count(&self, answer: &ToolResponse, duration_us: u64) {
        self.total.fetch_add(1, Relaxed);
        match answer.status {
            Status::Success => &self.successful,
            Status::Error => &self.failed,
            Status::Denied => &self.denied,
        }
        .fetch_add(1, Relaxed);
        if let Some(index) = answer.reality_index {
            // Scores are hundredths; rounding undoes the division.
            let hundredths = (index * 100.0).round() as u64;
            self.reality_sum_hundredths.fetch_add(hundredths, Relaxed);
            self.reality_count.fetch_add(1, Relaxed);
            self.violations
                .fetch_add(u64::from(hundredths < 50), Relaxed);
        }
        if answer.http == 401 {
            self.unauthorized.fetch_add(1, Relaxed);
        }
        self.rows
            .fetch_add(u64::from(answer.event_id.is_some()), Relaxed);
        self.latency_us_sum.fetch_add(duration_us, Relaxed);
        self.latency_us_max.fetch_max(duration_us, Relaxed);
        let bucket = LATENCY_US.iter().position(|b| duration_us <= *b);
        if let Some(count) = self.latency.get(bucket.unwrap_or(LATENCY_US.len())) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts a request that was turned away for want of a token.
    pub fn unauthorized(&self) {
        self.unauthorized.fetch_add(1, Relaxed);
    }

    /// Counts bytes of bodies.
    pub fn bytes(&self, read: usize, written: usize) {
        self.bytes_in.fetch_add(read as u64, Relaxed);
        self.bytes_out.fetch_add(written as u64, Relaxed);
    }

    /// Counts a connection while the result lives.
    pub fn connection(&self) -> Raised<'_> {
        self.connections.fetch_add(1, Relaxed);
        Raised(&self.connections)
    }

    /// Counts a call under way while the result lives.
    pub fn call(&self) -> Raised<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        Raised(&self.in_flight)
    }

    /// Open connections.
    #[must_use]
    pub fn connections_open(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Calls under way.
    #[must_use]
    pub fn calls_in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Whole seconds since the start.
    #[must_use]
    pub fn uptime_seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    fn reality_average(&self) -> f64 {
        let count = self.reality_count.load(Relaxed);
        if count == 0 {
            return 0.0;
        }
        self.reality_sum_hundredths.load(Relaxed) as f64 / 100.0 / count as f64
    }

    /// The product's own six members. A refused call failed as well.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "total_requests": self.total.load(Relaxed),
            "successful_requests": self.successful.load(Relaxed),
            "failed_requests": self.failed.load(Relaxed) + self.denied.load(Relaxed),
            "reality_violations": self.violations.load(Relaxed),
            "avg_reality_index": self.reality_average(),
            "uptime_seconds": self.uptime_seconds(),
        })
    }

    /// Prometheus text exposition, version 0.0.4.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let get = |c: &AtomicU64| c.load(Relaxed);
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, rows: &[(&str, String)]| {
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            for (labels, value) in rows {
                text.push_str(&format!("{name}{labels} {value}\n"));
            }
        };
        let one = |c: &AtomicU64| [("", get(c).to_string())];
        let outcome = [
            ("{outcome=\"success\"}", get(&self.successful).to_string()),
            ("{outcome=\"error\"}", get(&self.failed).to_string()),
            ("{outcome=\"denied\"}", get(&self.denied).to_string()),
        ];
        metric(
            "gateway_calls_total",
            "counter",
            "Tool calls answered.",
            &outcome,
        );
        metric(
            "gateway_reality_violations_total",
            "counter",
            "Calls below the Reality Index gate.",
            &one(&self.violations),
        );
        metric(
            "gateway_unauthorized_total",
            "counter",
            "Requests without a token in force.",
            &one(&self.unauthorized),
        );
        metric(
            "gateway_rows_total",
            "counter",
            "Calls with a durable ledger row.",
            &one(&self.rows),
        );
        metric(
            "gateway_body_bytes_in_total",
            "counter",
            "Bytes of request bodies.",
            &one(&self.bytes_in),
        );
        metric(
            "gateway_body_bytes_out_total",
            "counter",
            "Bytes of response bodies.",
            &one(&self.bytes_out),
        );
        metric(
            "gateway_connections",
            "gauge",
            "Open connections.",
            &one(&self.connections),
        );
        metric(
            "gateway_calls_in_flight",
            "gauge",
            "Calls under way.",
            &one(&self.in_flight),
        );
        metric(
            "gateway_reality_index_avg",
            "gauge",
            "Mean Reality Index of judged calls.",
            &[("", self.reality_average().to_string())],
        );
        metric(
            "gateway_uptime_seconds",
            "gauge",
            "Seconds since the start.",
            &[("", self.uptime_seconds().to_string())],
        );
        text.push_str("# HELP gateway_call_seconds Time of a call, its durable row included.\n# TYPE gateway_call_seconds histogram\n");
        let mut sum = 0;
        for (bound, count) in LATENCY_US.iter().zip(&self.latency) {
            sum += get(count);
            let bound = *bound as f64 / 1e6;
            text.push_str(&format!(
                "gateway_call_seconds_bucket{{le=\"{bound}\"}} {sum}\n"
            ));
        }
        let (total, seconds) = (get(&self.total), get(&self.latency_us_sum) as f64 / 1e6);
        text.push_str(&format!(
            "gateway_call_seconds_bucket{{le=\"+Inf\"}} {total}\ngateway_call_seconds_sum {seconds}\ngateway_call_seconds_count {total}\n"
        ));
        text
    }

    /// Values for the stats page, by the names of `wire::stats`.
    #[must_use]
    pub fn page(&self) -> [(&'static str, u64); 9] {
        let get = |c: &AtomicU64| c.load(Relaxed);
        [
            ("requests", get(&self.total)),
            ("succeeded", get(&self.successful)),
            ("failed", get(&self.failed)),
            ("denied", get(&self.denied)),
            ("bytes_in", get(&self.bytes_in)),
            ("bytes_out", get(&self.bytes_out)),
            ("latency_us_total", get(&self.latency_us_sum)),
            ("latency_us_max_gauge", get(&self.latency_us_max)),
            ("connections_gauge", get(&self.connections)),
        ]
    }
}

/// The ledger's own figures, out of its answer to `metrics`, as Prometheus text: what is a number, and histograms.
#[must_use]
pub fn of_ledger(told: &serde_json::Map<String, serde_json::Value>) -> String {
    let mut text = String::new();
    for (name, kind, help) in LEDGER {
        let Some(value) = told.get(*name) else {
            continue;
        };
        let mut rows = String::new();
        match (value, *kind) {
            (serde_json::Value::Number(n), "counter" | "gauge") => {
                rows.push_str(&format!("{name} {n}\n"));
            }
            (serde_json::Value::Object(histogram), "histogram") => {
                let number = |name| histogram.get(name).and_then(serde_json::Value::as_f64);
                let (Some(sum), Some(count)) = (number("sum"), number("count")) else {
                    continue;
                };
                let buckets = histogram.get("buckets").and_then(|b| b.as_array());
                for bucket in buckets.into_iter().flatten() {
                    let pair = |at| bucket.get(at).and_then(serde_json::Value::as_f64);
                    if let (Some(bound), Some(below)) = (pair(0), pair(1)) {
                        rows.push_str(&format!("{name}_bucket{{le=\"{bound}\"}} {below}\n"));
                    }
                }
                rows.push_str(&format!(
                    "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n"
                ));
            }
            _ => continue,
        }
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{rows}"
        ));
    }
    text
}

/// What the ledger tells, by name, type and sentence.
const LEDGER: &[(&str, &str, &str)] = &[
    (
        "gatos_journal_append_latency_ms",
        "histogram",
        "From an append's arrival to its durable answer, milliseconds.",
    ),
    (
        "gatos_fold_latency_ms",
        "histogram",
        "Time of a fold, milliseconds.",
    ),
    (
        "gatos_bus_ack_lag",
        "gauge",
        "Messages that the slowest consumer of the bus has not acknowledged.",
    ),
    (
        "gatos_cache_rebuilds_total",
        "counter",
        "Indexes built anew from the log.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Fault;
    use crate::reality::Reality;

    #[test]
    fn the_ledgers_figures_are_well_formed_and_what_makes_no_sense_is_left_out() {
        let told = serde_json::json!({
            "gatos_journal_append_latency_ms": {"buckets": [[0.05, 1], [0.1, 3]], "count": 4, "sum": 7.5},
            "gatos_fold_latency_ms": 3, "gatos_bus_ack_lag": 2, "gatos_cache_rebuilds_total": "x",
            "other": 1,
        });
        let text = of_ledger(told.as_object().unwrap());
        assert_eq!(
            text.lines()
                .filter(|l| !l.starts_with('#'))
                .collect::<Vec<_>>(),
            [
                "gatos_journal_append_latency_ms_bucket{le=\"0.05\"} 1",
                "gatos_journal_append_latency_ms_bucket{le=\"0.1\"} 3",
                "gatos_journal_append_latency_ms_bucket{le=\"+Inf\"} 4",
                "gatos_journal_append_latency_ms_sum 7.5",
                "gatos_journal_append_latency_ms_count 4",
                "gatos_bus_ack_lag 2",
            ]
        );
        assert!(text.contains("# TYPE gatos_bus_ack_lag gauge\n"));
    }

    #[test]
    fn calls_are_counted_once_each_and_the_text_is_well_formed() {
        let m = Metrics::new(Instant::now());
        let fault = || Fault {
            code: "target_missing".to_owned(),
            message: String::new(),
        };
        let denied = ToolResponse::refused(1.into(), 0.0, Some(Reality::parent_only()), fault());
        m.count(&denied, 120);
        m.count(
            &ToolResponse {
                status: Status::Success,
                reality_index: Some(1.0),
                ..denied
            },
            3_000_000,
        );
        let json = m.json();
        assert_eq!(json["total_requests"], 2);
        assert_eq!(json["failed_requests"], 1);
        assert_eq!(json["reality_violations"], 1);
        assert_eq!(json["avg_reality_index"], 0.6);
        let text = m.prometheus();
        assert!(text.contains("gateway_call_seconds_bucket{le=\"0.00025\"} 1\n"));
        assert!(text.contains("gateway_call_seconds_bucket{le=\"2\"} 1\n"));
        assert!(text.contains("gateway_call_seconds_bucket{le=\"+Inf\"} 2\n"));
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
        }
        for (name, _) in m.page() {
            assert!(wire::stats::word(name).is_some(), "{name}");
        }
    }
}
