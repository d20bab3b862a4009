//! What a beat and a tensor cost in memory: nothing.

use gguf::GgmlType;
use neural::{BeatInput, Runtime, ServiceSample, TURNS, dequant};
use std::time::Duration;
use wire::control::ServiceState;

fn input(beat: u64) -> BeatInput<'static> {
    const SERVICES: &[ServiceSample<'static>] = &[
        ServiceSample {
            name: "ledger",
            state: ServiceState::Up,
            restarts: 0,
            rss_bytes: Some(1),
        },
        ServiceSample {
            name: "gateway",
            state: ServiceState::Backoff,
            restarts: 3,
            rss_bytes: None,
        },
    ];
    BeatInput {
        now: Duration::from_millis(beat * 100),
        beat,
        period: Duration::from_millis(100),
        lateness: Duration::from_micros(30),
        work: Duration::from_micros(90),
        services: SERVICES,
        watchdog_slack: Some(Duration::from_secs(20)),
        mutation_generation: 0,
    }
}

#[test]
fn a_beat_allocates_nothing_with_sensors_or_without() {
    let (_page, mut runtime) = Runtime::create().unwrap();
    let data = std::fs::File::open(".").unwrap();
    runtime.set_data(Some(data.into()));
    let heap = allocation_counter::measure(|| {
        for beat in 1..=3 * TURNS {
            runtime.beat(&input(beat));
        }
    });
    assert_eq!(heap.count_total, 0);
}

#[test]
fn stats_of_a_tensor_allocate_nothing() {
    let data = vec![0x11; 1000 * GgmlType::Q4_1.block_bytes() as usize];
    let heap = allocation_counter::measure(|| {
        assert_eq!(dequant::stats(GgmlType::Q4_1, &data).unwrap().count, 32_000);
    });
    assert_eq!(heap.count_total, 0);
}

#[test]
fn the_default_model_has_the_same_bytes_everywhere() {
    let model = neural::default_model();
    assert_eq!(model.len(), DEFAULT_MODEL_BYTES);
    assert_eq!(blake3::hash(&model).to_string(), DEFAULT_MODEL_BLAKE3);
}

/// Both change together with `vectorland.version`, and the commit says so.
const DEFAULT_MODEL_BYTES: usize = 11_072;
const DEFAULT_MODEL_BLAKE3: &str =
    "129d3a67e8d3e7385b43ffaa3619d1de2991fe2dc22cbf77c4f372ba11af45cb";
