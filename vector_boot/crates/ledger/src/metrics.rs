//! What the ledger counts of itself since its start, for `GET /metrics`: times as histograms.
//!
//! Counting is one addition, so nothing waits for it. Start with [`Metrics`]; the call `metrics` tells them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of a histogram's buckets, in microseconds: from a write into memory to a disk that hangs.
const BOUNDS_US: [u64; 12] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000,
];

/// Everything counted.
#[derive(Debug, Default)]
pub struct Metrics {
    /// From an append's arrival at the queue to its answer: durable.
    pub append: Histogram,
    /// A fold of a channel.
    pub fold: Histogram,
}

impl Metrics {
    /// Members of the answer to `metrics`; `ack_lag` is the most that a consumer of the bus is behind,
    /// `cache_rebuilds` how many parts of the index were built again from the log.
    #[must_use]
    pub fn members(&self, ack_lag: u64, cache_rebuilds: u64) -> String {
        format!(
            "\"gatos_bus_ack_lag\":{ack_lag},\"gatos_cache_rebuilds_total\":{cache_rebuilds},\"gatos_fold_latency_ms\":{},\"gatos_journal_append_latency_ms\":{}",
            self.fold.json(),
            self.append.json(),
        )
    }
}

/// Times, counted by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| us <= *bound);
        if let Some(count) = self.buckets.get(bucket.unwrap_or(BOUNDS_US.len())) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// `{"buckets":[[bound in ms, count up to it],...],"count":n,"sum":ms}`, the buckets cumulative.
    fn json(&self) -> String {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BOUNDS_US.len());
        for (bound, bucket) in BOUNDS_US.iter().zip(&self.buckets) {
            count += bucket.load(Relaxed);
            buckets.push(format!("[{},{count}]", ms(*bound)));
        }
        count += self.buckets.last().map_or(0, |last| last.load(Relaxed));
        let sum = ms(self.sum_us.load(Relaxed));
        format!(
            "{{\"buckets\":[{}],\"count\":{count},\"sum\":{sum}}}",
            buckets.join(",")
        )
    }
}

/// Milliseconds, as JSON writes them; exact below some thousands of years.
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_histogram_counts_each_time_once_and_its_buckets_add_up() {
        let metrics = Metrics::default();
        for us in [1, 50, 51, 3_000, 9_000_000] {
            metrics.append.add(Duration::from_micros(us));
        }
        let told: Value = serde_json::from_str(&format!("{{{}}}", metrics.members(7, 1))).unwrap();
        assert_eq!(told["gatos_bus_ack_lag"], 7);
        assert_eq!(told["gatos_cache_rebuilds_total"], 1);
        let append = &told["gatos_journal_append_latency_ms"];
        assert_eq!(append["count"], 5);
        assert_eq!(append["sum"], 9003.102);
        assert_eq!(append["buckets"][0], serde_json::json!([0.05, 2]));
        assert_eq!(append["buckets"][1], serde_json::json!([0.1, 3]));
        assert_eq!(append["buckets"][11], serde_json::json!([2500, 4]));
        assert_eq!(told["gatos_fold_latency_ms"]["count"], 0);
    }
}
