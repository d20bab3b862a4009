//! A message on its way in, whichever socket sends it: checked here, decided by the committer.

use crate::clock;
use crate::committer::Draft;
use crate::json::Json;
use crate::planes::{Decision, Moment, Planes};
use crate::refusal::Refusal;
use ledger_core::bus::{Publish, Published, Qos, ShardMap, Topic, lane_of, shard_of};
use ledger_core::ulid;

/// Headers and payload of a message: its line of delivery is at most as long as any.
const MESSAGE_BYTES_MAX: usize = 960 * 1024;
/// Headers of a message.
const HEADERS_MAX: usize = 64;
/// Longest time that a message may be worth something, in milliseconds: a year.
const TTL_MS_MAX: u64 = 366 * 24 * 3600 * 1000;

/// A message that is to be published.
pub struct Message {
    tenant: String,
    actor: String,
    topic: String,
    qos: Qos,
    ulid: [u8; 16],
    chosen: bool,
    ttl_ms: Option<u64>,
    headers: String,
    payload: String,
}

/// What a message is made of.
pub struct Parts<'p> {
    /// Whose.
    pub tenant: String,
    /// Who sends it.
    pub actor: String,
    /// Where.
    pub topic: &'p str,
    /// How often it may have its effect.
    pub qos: Qos,
    /// Its name, if the sender chose one.
    pub ulid: Option<[u8; 16]>,
    /// How long it is worth something.
    pub ttl_ms: Option<u64>,
    /// An object of texts.
    pub headers: Option<&'p Json>,
    /// Anything.
    pub payload: Option<&'p Json>,
}

impl Message {
    /// Checks what needs no plane.
    ///
    /// # Errors
    /// BAD_REQUEST, TOO_LARGE.
    pub fn of(parts: Parts<'_>) -> Result<Self, Refusal> {
        let ttl_ms = parts.ttl_ms;
        if let Some(ms) = ttl_ms.filter(|ms| *ms == 0 || *ms > TTL_MS_MAX) {
            let limit = format!("1 to {TTL_MS_MAX} milliseconds");
            return Err(Refusal::new("BAD_REQUEST", "ttl", &ms.to_string(), &limit));
        }
        let headers = headers(parts.headers)?;
        let payload = parts.payload.unwrap_or(&Json::Null).payload();
        let payload = payload.map_err(|e| Refusal::bad("payload", &e.0))?;
        let bytes = headers.len() + payload.len();
        if bytes > MESSAGE_BYTES_MAX {
            let limit = format!("at most {MESSAGE_BYTES_MAX} bytes with its headers");
            return Err(Refusal::new(
                "TOO_LARGE",
                "payload",
                &bytes.to_string(),
                &limit,
            ));
        }
        let made = || ulid::compose(clock::wall_ns(), clock::random());
        Ok(Self {
            tenant: parts.tenant,
            actor: parts.actor,
            topic: parts.topic.to_owned(),
            qos: parts.qos,
            ulid: parts.ulid.unwrap_or_else(made),
            chosen: parts.ulid.is_some(),
            ttl_ms,
            headers,
            payload,
        })
    }

    /// Its name.
    pub fn ulid(&self) -> [u8; 16] {
        self.ulid
    }

    /// Bounds what its event takes.
    pub fn bytes(&self) -> usize {
        self.headers.len() + self.payload.len() + 1024
    }

    /// The event that is there already, if one is, and its shard now.
    ///
    /// # Errors
    /// BAD_REQUEST, DUPLICATE, QUOTA.
    pub fn decide(
        self,
        planes: &Planes,
        moment: &Moment,
    ) -> Result<Decision<(Option<u64>, u16)>, Refusal> {
        let bus = &planes.bus;
        let publish = Publish {
            tenant: &self.tenant,
            topic: &self.topic,
            qos: self.qos,
            ulid: self.ulid,
            chosen: self.chosen,
        };
        let topic = bus.topic_at(&self.tenant, &self.topic, moment.wall_ns / 1_000_000);
        let map = topic.map_or_else(ShardMap::default, Topic::map);
        let shard = shard_of(lane_of(&self.ulid), map.shards);
        let seq = match bus.publish(&publish, moment.wall_ns)? {
            Published::There(id) => return Ok(Decision::only((Some(id), shard))),
            Published::New(seq) => seq,
        };
        let now_ms = moment.wall_ns / 1_000_000;
        let expires = self.ttl_ms.map_or_else(String::new, |ttl| {
            format!("\"expires_ms\":{},", now_ms.saturating_add(ttl))
        });
        let payload = format!(
            "{{\"bus\":{{{expires}\"qos\":\"{}\",\"seq\":{seq}}},\"headers\":{},\"payload\":{}}}",
            self.qos.as_str(),
            self.headers,
            self.payload,
        );
        let draft = Draft {
            ns: "bus".to_owned(),
            actor: self.actor,
            tenant_id: self.tenant,
            event_type: "bus.published".to_owned(),
            subject: self.topic,
            payload,
            ulid: Some(self.ulid),
            ..Draft::default()
        };
        Ok(Decision {
            events: vec![draft],
            answer: (None, shard),
        })
    }
}

fn headers(json: Option<&Json>) -> Result<String, Refusal> {
    match json {
        None | Some(Json::Null) => Ok("{}".to_owned()),
        Some(headers @ Json::Object(members))
            if members.len() <= HEADERS_MAX && members.values().all(|v| v.text().is_some()) =>
        {
            Ok(headers.to_string())
        }
        Some(_) => {
            let limit = format!("an object of at most {HEADERS_MAX} texts");
            Err(Refusal::bad("headers", &limit))
        }
    }
}
