//! Many calls in one request: concurrent, bounded, answered in the order asked.
//!
//! Each call is a call like any other: admitted, recorded and answered for itself. Start with
//! [`run`].

use crate::answer::{Fault, Status, ToolResponse};
use crate::call::{Bearer, Call, Gateway};
use crate::http::RESPONSE_BYTES_MAX;
use crate::tools::TORSION_UNKNOWN;
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Calls of one batch.
pub const BATCH_MAX: usize = 256;
/// Calls of one batch that are under way at once.
const CONCURRENT_MAX: usize = 32;
/// Kept free of the response limit for what surrounds the results.
const FRAME_BYTES: usize = 4 << 10;
/// A result without its data: scores, id and error.
const RESULT_BYTES_MAX: usize = 1 << 10;

/// Reads `{"requests":[...]}`. An item that is no call is answered in its place.
///
/// # Errors
/// What is wrong, with the limit.
pub fn parse(value: Value) -> Result<Vec<Result<Call, String>>, String> {
    let Value::Object(mut members) = value else {
        return Err("a batch is an object with requests".to_owned());
    };
    match members.remove("requests") {
        Some(Value::Array(items)) if items.len() <= BATCH_MAX => {
            Ok(items.into_iter().map(Call::parse).collect())
        }
        Some(Value::Array(items)) => Err(format!(
            "requests: {} calls, at most {BATCH_MAX}",
            items.len()
        )),
        _ => Err("requests: an array is needed".to_owned()),
    }
}

/// Makes the calls and writes the answer's JSON.
pub async fn run(
    gateway: &Arc<Gateway>,
    bearer: &Bearer,
    requests: Vec<Result<Call, String>>,
    arrived: Instant,
) -> Vec<u8> {
    let size = requests.len();
    let slots = Arc::new(Semaphore::new(CONCURRENT_MAX));
    let mut calls = JoinSet::new();
    for (place, request) in requests.into_iter().enumerate() {
        let (gateway, bearer, slots) = (gateway.clone(), bearer.clone(), slots.clone());
        calls.spawn(async move {
            // Never closed, so a slot always comes.
            let _slot = slots.acquire().await;
            let answer = match request {
                Ok(call) => gateway.call(&bearer, call, Instant::now()).await,
                Err(detail) => not_a_call(detail),
            };
            (place, answer)
        });
    }
    let mut results: Vec<Option<Vec<u8>>> = vec![None; size];
    let mut left = RESPONSE_BYTES_MAX - FRAME_BYTES - size * RESULT_BYTES_MAX;
    while let Some(ended) = calls.join_next().await {
        let Ok((place, answer)) = ended else {
            continue;
        };
        if let Some(result) = results.get_mut(place) {
            *result = Some(within(&mut left, answer));
        }
    }
    let missing = || plain(&not_a_call("the call failed inside the gateway".to_owned()));
    let mut body = br#"{"results":["#.to_vec();
    for (place, result) in results.into_iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        body.extend(result.unwrap_or_else(missing));
    }
    let ms = arrived.elapsed().as_micros() as f64 / 1e3;
    let tail = format!("],\"total_execution_time_ms\":{ms},\"batch_size\":{size}}}");
    body.extend_from_slice(tail.as_bytes());
    body
}

/// A result's JSON; without its data where the answer as a whole would become too large.
fn within(left: &mut usize, answer: ToolResponse) -> Vec<u8> {
    let body = plain(&answer);
    let over = body.len().saturating_sub(RESULT_BYTES_MAX);
    match left.checked_sub(over) {
        Some(rest) => {
            *left = rest;
            body
        }
        None => plain(&ToolResponse {
            status: Status::Error,
            data: Value::Null,
            error: Some(Fault {
                code: "response_too_large".to_owned(),
                message: "the tool ran; the batch's answer has no room for its data".to_owned(),
            }),
            ..answer
        }),
    }
}

fn plain(answer: &ToolResponse) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_default()
}

fn not_a_call(message: String) -> ToolResponse {
    let fault = Fault {
        code: "invalid_request".to_owned(),
        message,
    };
    ToolResponse::refused(Value::Null, TORSION_UNKNOWN, None, fault)
}
