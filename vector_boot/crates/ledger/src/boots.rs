//! How the boots in the log ended: what PID 1 asks for at the beginning of the next one.
//!
//! A boot is known by the id in the origin of PID 1's events. Whatever is written between the first
//! of them and the first of another boot counts to it. Start with [`Boots::ended_before`].

use ledger_core::{Body, Origin};
use serde::{Deserialize, Serialize};

/// Producer of PID 1's events.
const INIT: u32 = 0;
/// The event with which an orderly end begins.
const STOPPING: &str = "machine_stopping";

/// The name of [`Boots`] in a summary.
pub const SECTION: &str = "boots";

/// What the log says of one boot's end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which boot.
    pub boot_id: [u8; 16],
    /// Its last event.
    pub event_id: u64,
    /// What kind of event that was.
    pub event_type: String,
    /// When it was written, by the wall clock then.
    pub wall_ns: u64,
    /// When it happened, since that boot.
    pub timestamp_ns: u64,
    /// Payload of `machine_stopping`; empty without one.
    pub stopping: String,
    /// Who asked for the end.
    pub stopping_actor: String,
}

/// One event, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its id.
    pub id: u64,
    /// Who produced it, where that is known.
    pub origin: Option<Origin>,
    /// When it was written.
    pub wall_ns: u64,
    /// When it happened.
    pub timestamp_ns: u64,
    /// What happened.
    pub event_type: &'a str,
    /// Who did it.
    pub actor: &'a str,
    /// Its payload, where [`is_end`] asked for it.
    pub payload: &'a str,
}

impl<'a> Seen<'a> {
    /// Of an event.
    #[must_use]
    pub fn of(id: u64, body: &Body<'a>) -> Self {
        Self {
            id,
            origin: body.origin,
            wall_ns: body.wall_ns,
            timestamp_ns: body.timestamp_ns,
            event_type: body.event_type,
            actor: body.actor,
            payload: body.payload,
        }
    }
}

/// Whether an event ends a boot, so that its payload is wanted.
#[must_use]
pub fn is_end(origin: Option<Origin>, event_type: &str) -> bool {
    event_type == STOPPING && origin.is_some_and(|o| o.producer == INIT)
}

/// The two newest boots of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boots {
    newest: Option<Ended>,
    before: Option<Ended>,
}

impl Boots {
    /// Takes the next event in.
    pub fn see(&mut self, event: &Seen<'_>) {
        let boot = event.origin.filter(|o| o.producer == INIT);
        if let Some(origin) = boot
            && self
                .newest
                .as_ref()
                .is_none_or(|n| n.boot_id != origin.boot_id)
        {
            let boot_id = origin.boot_id;
            self.before = self.newest.replace(Ended {
                boot_id,
                ..Ended::default()
            });
        }
        let Some(newest) = &mut self.newest else {
            return;
        };
        newest.event_id = event.id;
        newest.wall_ns = event.wall_ns;
        newest.timestamp_ns = event.timestamp_ns;
        event.event_type.clone_into(&mut newest.event_type);
        if is_end(event.origin, event.event_type) {
            let most = wire::ledger::STOPPING_BYTES_MAX;
            // Cut JSON says nothing; that an end was recorded does.
            let payload = if event.payload.len() <= most {
                event.payload
            } else {
                "{}"
            };
            payload.clone_into(&mut newest.stopping);
            event.actor.clone_into(&mut newest.stopping_actor);
        }
    }

    /// Adds what is known of older boots, whose events a compaction dropped.
    pub fn add_older(&mut self, older: Self) {
        match &self.newest {
            None => *self = older,
            Some(newest) if self.before.is_none() => {
                let other = |boot: &Ended| boot.boot_id != newest.boot_id;
                self.before = older.newest.filter(other).or(older.before.filter(other));
            }
            Some(_) => {}
        }
    }

    /// The newest boot that is not `own`.
    #[must_use]
    pub fn ended_before(&self, own: &[u8; 16]) -> Option<&Ended> {
        let other = |boot: &&Ended| boot.boot_id != *own;
        let newest = self.newest.as_ref().filter(other);
        newest.or_else(|| self.before.as_ref().filter(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_init(boot: u8, sequence: u64) -> Option<Origin> {
        Some(Origin {
            boot_id: [boot; 16],
            producer: INIT,
            sequence,
        })
    }

    fn log(events: &[(Option<Origin>, &str)]) -> Boots {
        let mut boots = Boots::default();
        for (at, (origin, event_type)) in events.iter().enumerate() {
            let id = at as u64 + 1;
            boots.see(&Seen {
                id,
                origin: *origin,
                wall_ns: id * 100,
                timestamp_ns: id * 10,
                event_type,
                actor: "user:console",
                payload: "{\"how\":\"poweroff\"}",
            });
        }
        boots
    }

    #[test]
    fn an_empty_log_knows_no_boot_and_ones_own_does_not_count() {
        assert_eq!(Boots::default().ended_before(&[0; 16]), None);
        let boots = log(&[(of_init(1, 1), "machine_booted")]);
        assert_eq!(boots.ended_before(&[1; 16]), None);
        assert_eq!(boots.ended_before(&[2; 16]).unwrap().boot_id, [1; 16]);
    }

    #[test]
    fn an_end_that_was_recorded_is_told_with_who_asked() {
        let boots = log(&[
            (of_init(1, 1), "machine_booted"),
            (of_init(1, 2), "machine_stopping"),
            (of_init(1, 3), "service_stopped"),
        ]);
        let ended = boots.ended_before(&[2; 16]).unwrap();
        assert_eq!(
            (ended.event_id, ended.event_type.as_str()),
            (3, "service_stopped")
        );
        assert_eq!(ended.stopping, "{\"how\":\"poweroff\"}");
        assert_eq!(ended.stopping_actor, "user:console");
    }

    #[test]
    fn a_boot_that_ends_without_a_word_has_its_last_event() {
        let other = Some(Origin {
            boot_id: [1; 16],
            producer: 903,
            sequence: 1,
        });
        let boots = log(&[
            (of_init(7, 1), "machine_stopping"),
            (of_init(1, 1), "machine_booted"),
            (other, "machine_stopping"),
            (None, "tool_called"),
            // This boot's, whose ledger was restarted and reads the log anew.
            (of_init(2, 1), "machine_booted"),
            (None, "tool_called"),
        ]);
        let ended = boots.ended_before(&[2; 16]).unwrap();
        assert_eq!((ended.boot_id, ended.event_id), ([1; 16], 4));
        assert_eq!(ended.stopping, "", "only PID 1 says that the machine stops");
        assert_eq!((ended.wall_ns, ended.timestamp_ns), (400, 40));
    }
}
