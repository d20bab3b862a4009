//! What the outside is told: the `ToolResponse`, the problem document, and the HTTP status of each.
//!
//! Pure. Start with [`ToolResponse`] and [`Problem`].

use crate::reality::Reality;
use serde::Serialize;
use serde_json::Value;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// The tool did it.
    Success,
    /// The tool ran and could not, or the call was malformed.
    Error,
    /// The call was refused.
    Denied,
}

impl Status {
    /// As the ledger's rows have it.
    #[must_use]
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Denied => "denied",
        }
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Stable.
    pub code: String,
    /// For people.
    pub message: String,
}

/// The answer to one call.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolResponse {
    /// How it ended.
    pub status: Status,
    /// What the tool gave; null unless it succeeded.
    pub data: Value,
    /// How real the target was; null if it was not looked at.
    pub reality_index: Option<f64>,
    /// From the request's arrival to the answer, its durable record included.
    pub execution_time_ms: f64,
    /// Boundary cost of the tool.
    pub torsion_score: f64,
    /// The request's own id, or one of ours.
    pub id: Value,
    /// What went wrong; null on success.
    pub error: Option<Fault>,
    /// The row in the ledger; null where no row of its own was written.
    pub event_id: Option<u64>,
    /// Processes and machines that the data crossed.
    pub boundary_crossings: u32,
    /// Bytes of content moved.
    pub bytes_copied: u64,
    /// The HTTP status, if this call is the whole answer.
    #[serde(skip)]
    pub http: u16,
    /// When to come again.
    #[serde(skip)]
    pub retry_after_s: Option<u32>,
}

/// Every refusal that is no judgement on a target, with its HTTP status and title.
const CODES: &[(&str, u16, &str)] = &[
    ("bad_request", 400, "The request is malformed"),
    (
        "bad_json",
        400,
        "The body is not the JSON that is taken here",
    ),
    ("unauthorized", 401, "A token in force is needed"),
    (
        "not_permitted_by_token",
        403,
        "The token does not permit this",
    ),
    ("host_not_allowed", 403, "This host name is not served here"),
    (
        "origin_not_allowed",
        403,
        "Pages of this origin may not call",
    ),
    ("unknown_tool", 404, "There is no such tool"),
    ("not_found", 404, "There is no such resource"),
    (
        "method_not_allowed",
        405,
        "The resource does not take this method",
    ),
    ("request_timeout", 408, "The request did not arrive in time"),
    (
        "idempotency_in_progress",
        409,
        "The first call with this key is not over",
    ),
    ("body_too_large", 413, "The body is too large"),
    (
        "unsupported_media_type",
        415,
        "The body must be application/json",
    ),
    (
        "invalid_params",
        422,
        "The parameters are not what the tool takes",
    ),
    (
        "invalid_request",
        422,
        "The request is not what is taken here",
    ),
    (
        "idempotency_mismatch",
        422,
        "The key was used for another call",
    ),
    ("quota", 429, "The token's quota is used up for now"),
    ("gate", 429, "The machine sheds load"),
    ("circuit_open", 429, "The tool failed repeatedly and rests"),
    ("internal", 500, "The gateway failed"),
    (
        "capacity_unavailable",
        503,
        "The capacity kernel does not answer",
    ),
    ("ledger_unavailable", 503, "The ledger cannot record"),
    ("overloaded", 503, "Too many calls are under way"),
    ("stopping", 503, "The gateway is stopping"),
];

/// The HTTP status of a refusal's code: a judgement on a target is 400.
#[must_use]
pub fn http_of(code: &str) -> u16 {
    CODES.iter().find(|c| c.0 == code).map_or(400, |c| c.1)
}

/// The title of a refusal's code.
#[must_use]
pub fn title_of(code: &str) -> &'static str {
    let title = CODES.iter().find(|c| c.0 == code).map(|c| c.2);
    title.unwrap_or("The target is not what the tool needs")
}

impl ToolResponse {
    /// A call that did not come to its tool, or whose target was found wanting.
    #[must_use]
    pub fn refused(id: Value, torsion: f64, reality: Option<Reality>, fault: Fault) -> Self {
        let http = http_of(&fault.code);
        // Malformed calls are errors of the caller; all else was decided against it.
        let status = match http {
            404 | 422 | 500..=599 => Status::Error,
            _ => Status::Denied,
        };
        Self {
            status,
            data: Value::Null,
            reality_index: reality.map(|r| r.score.value()),
            execution_time_ms: 0.0,
            torsion_score: torsion,
            id,
            error: Some(fault),
            event_id: None,
            boundary_crossings: 0,
            bytes_copied: 0,
            http,
            retry_after_s: None,
        }
    }

    /// The JSON of this answer, a problem document where it is a refusal.
    #[must_use]
    pub fn body(&self) -> (Vec<u8>, &'static str) {
        let plain = |v: &Self| serde_json::to_vec(v).unwrap_or_default();
        let Some(fault) = self.error.as_ref().filter(|_| self.http != 200) else {
            return (plain(self), "application/json");
        };
        let problem = RefusedResponse {
            problem: Problem {
                r#type: "about:blank",
                title: title_of(&fault.code),
                code: &fault.code,
                detail: &fault.message,
            },
            response: self,
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        (body, PROBLEM)
    }
}

/// Media type of RFC 9457.
pub const PROBLEM: &str = "application/problem+json";

/// A problem document, RFC 9457, with a stable code. Refused calls carry the members of
/// [`ToolResponse`] as well, whose `status` is a word; all other problems carry the HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    code: &'a str,
    detail: &'a str,
}

#[derive(Serialize)]
struct RefusedResponse<'a> {
    #[serde(flatten)]
    problem: Problem<'a>,
    #[serde(flatten)]
    response: &'a ToolResponse,
}

/// The problem document of a request that was no call.
#[must_use]
pub fn problem(code: &str, detail: &str) -> (u16, Vec<u8>) {
    let http = http_of(code);
    let body = serde_json::json!({
        "type": "about:blank", "title": title_of(code), "status": http, "code": code, "detail": detail,
    });
    (http, body.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_sorted_by_status() {
        for pair in CODES.windows(2) {
            assert!(pair[0].1 <= pair[1].1, "{pair:?}");
        }
        let mut names: Vec<_> = CODES.iter().map(|c| c.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CODES.len());
    }

    #[test]
    fn a_refusal_carries_both_documents() {
        let fault = Fault {
            code: "target_missing".to_owned(),
            message: "m".to_owned(),
        };
        let answer =
            ToolResponse::refused(Value::from(7), 0.0, Some(Reality::parent_only()), fault);
        let (body, media) = answer.body();
        let v: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((answer.http, media), (400, PROBLEM));
        assert_eq!(v["status"], "DENIED");
        assert_eq!(v["reality_index"], 0.2);
        assert_eq!(v["code"], "target_missing");
        assert_eq!(v["error"]["code"], "target_missing");
        assert_eq!(v["id"], 7);
    }
}
