//! What a beat and a tensor cost in memory: nothing.

use gguf::GgmlType;
use neural::policy::Weights;
use neural::{BeatInput, Runtime, ServiceSample, TURNS, dequant};
use std::time::Duration;
use wire::control::ServiceState;

fn input(beat: u64) -> BeatInput<'static> {
    const SERVICES: &[ServiceSample<'static>] = &[
        ServiceSample {
            name: "ledger",
            state: ServiceState::Up,
            restarts: 0,
            rss_bytes: Some(1 << 30),
            core: true,
            memory_max: 1 << 31,
            cpu_weight: 100,
            silence: None,
        },
        ServiceSample {
            name: "gateway",
            state: ServiceState::Up,
            restarts: 3,
            rss_bytes: None,
            core: false,
            memory_max: 0,
            cpu_weight: 100,
            silence: Some(0.9),
        },
    ];
    BeatInput {
        // Far enough apart that every setting may move at every beat.
        now: Duration::from_secs(beat * 10),
        beat,
        period: Duration::from_millis(100),
        lateness: Duration::from_micros(30),
        work: Duration::from_micros(90),
        services: SERVICES,
        watchdog_slack: Some(Duration::from_secs(20)),
        period_usual: Duration::from_millis(100),
        steady: true,
    }
}

/// Weights that wish for everything at once.
fn restless() -> Box<Weights> {
    let mut weights = Box::new(Weights::ZERO);
    weights.b2 = [5.0, 5.0, 5.0, 5.0, 5.0, -5.0, 5.0, -5.0];
    weights
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
fn a_beat_that_decides_orders_and_writes_rows_allocates_nothing() {
    let (_page, mut runtime) = Runtime::create().unwrap();
    runtime.beat(&input(1));
    runtime.take_model(None, Duration::ZERO);
    let (mut calm, mut weights) = (None, Some(restless()));
    let mut deeds = 0;
    let heap = allocation_counter::measure(|| {
        for beat in 2..=200 {
            // To and fro: every setting changes.
            if beat % 3 == 0 {
                std::mem::swap(&mut calm, &mut weights);
                calm = runtime.set_policy(calm, beat).unwrap();
            }
            deeds += runtime.beat(&input(beat)).len();
        }
    });
    assert_eq!(heap.count_total, 0);
    assert!(deeds > 100, "{deeds}");
    assert!(runtime.decider().unwrap().ring().chain().seq() > 30);
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
const DEFAULT_MODEL_BYTES: usize = 12_672;
const DEFAULT_MODEL_BLAKE3: &str =
    "4f8e150daa62353c0c35badd74846fef017c98084a32d7339cb63b883791f2cf";
