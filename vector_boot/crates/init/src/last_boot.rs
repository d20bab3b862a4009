//! How the boot before ended, judged from everything that outlived it.
//!
//! Pure. The ledger says whether an end was recorded, the watchdog's device whether it reset the machine, and
//! the kernel's persistent store what it said when it panicked. Start with [`judge`].

use crate::why::Facts;
use wire::ledger::LastBoot;
use wire::why::Reason;

/// What the ledger said of it, kept past its frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    boot_id: [u8; 16],
    event_id: u64,
    event_type: String,
    wall_ns: u64,
    timestamp_ns: u64,
    stopping: String,
    actor: String,
}

impl From<LastBoot<'_>> for Recorded {
    fn from(told: LastBoot<'_>) -> Self {
        Self {
            boot_id: told.boot_id,
            event_id: told.event_id,
            event_type: told.event_type.to_owned(),
            wall_ns: told.wall_ns,
            timestamp_ns: told.timestamp_ns,
            stopping: told.stopping.to_owned(),
            actor: told.stopping_actor.to_owned(),
        }
    }
}

impl Recorded {
    /// Restarts in a row by the health gate that its end was the last of.
    #[must_use]
    pub fn health_reboots(&self) -> u8 {
        crate::gate::reboots_of(&self.stopping)
    }
}

/// What the kernel's persistent store holds, as the helper reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// A panic, or the watchdog that caused one.
    pub reason: Reason,
    /// The kernel's own sentence.
    pub said: String,
}

impl Stored {
    /// Reads the helper's answer: the reason's word, a blank, the kernel's sentence.
    #[must_use]
    pub fn parse(detail: &str) -> Option<Self> {
        let (word, said) = detail.split_once(' ')?;
        Some(Self {
            reason: Reason::named(word)?,
            said: said.to_owned(),
        })
    }
}

/// Everything that outlived the boot before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence<'a> {
    /// What the ledger said; `None` while it has not answered.
    pub recorded: Option<&'a Recorded>,
    /// Whether the log outlives a boot at all.
    pub log_is_kept: bool,
    /// Whether the watchdog's device says that it reset the machine.
    pub watchdog_reset: bool,
    /// What the kernel stored.
    pub stored: Option<&'a Stored>,
}

/// Why the boot before ended, and what is known beside that.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> (Reason, Facts) {
    let mut facts = Facts::new();
    let known = evidence.recorded.filter(|r| r.boot_id != [0; 16]);
    let how = known.and_then(|r| word(&r.stopping, "how"));
    let reason = match (evidence.stored, evidence.recorded) {
        (Some(stored), _) => stored.reason,
        (None, _) if evidence.watchdog_reset => Reason::WatchdogReset,
        (None, None) => Reason::Unknown,
        (None, Some(_)) if !evidence.log_is_kept => Reason::Unknown,
        (None, Some(recorded)) if recorded.boot_id == [0; 16] => Reason::FirstBoot,
        (None, Some(_)) => match how {
            // An end of a later build is an end all the same.
            Some(how) => Reason::named(how).unwrap_or(Reason::Poweroff),
            None if known.is_some_and(|r| !r.stopping.is_empty()) => Reason::Poweroff,
            None => Reason::UncleanStop,
        },
    };
    if let Some(stored) = evidence.stored {
        facts.text("kernel", &stored.said);
    }
    if evidence.watchdog_reset {
        facts.add("watchdog_reset", format_args!("true"));
    }
    if let Some(how) = how {
        facts.text("how", how);
    }
    if let Some(recorded) = known {
        facts.text("asked", word(&recorded.stopping, "reason").unwrap_or(""));
        facts.text("actor", &recorded.actor);
        facts.count("last_event", recorded.event_id);
        facts.text("last_event_type", &recorded.event_type);
        facts.count("last_event_wall_us", recorded.wall_ns / 1000);
        facts.count("up_ms", recorded.timestamp_ns / 1_000_000);
        let id = u64::from_be_bytes(*recorded.boot_id.first_chunk().unwrap_or(&[0; 8]));
        facts.add("boot", format_args!("\"{id:016x}\""));
    }
    if evidence.recorded.is_none() {
        facts.text("note", "the ledger has not told yet");
    } else if !evidence.log_is_kept {
        facts.text("note", "no log outlives a boot here");
    }
    (reason, facts)
}

/// The value of a key of a normalised JSON object, if it is a plain word.
fn word<'j>(json: &'j str, key: &str) -> Option<&'j str> {
    let (_, rest) = json.split_once(key)?;
    let (value, _) = rest.strip_prefix("\":\"")?.split_once('"')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    Some(value).filter(|v| !v.is_empty() && v.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(stopping: &str) -> Recorded {
        Recorded {
            boot_id: [0xab; 16],
            event_id: 41,
            event_type: "service_stopped".to_owned(),
            wall_ns: 1_700_000_000_000_000_000,
            timestamp_ns: 12_345_678_901,
            stopping: stopping.to_owned(),
            actor: if stopping.is_empty() {
                ""
            } else {
                "user:console"
            }
            .to_owned(),
        }
    }

    fn of(recorded: &Recorded) -> Evidence<'_> {
        Evidence {
            recorded: Some(recorded),
            log_is_kept: true,
            ..Evidence::default()
        }
    }

    #[test]
    fn an_end_that_was_recorded_is_a_clean_one() {
        for (how, reason) in [
            ("reboot", Reason::Reboot),
            ("poweroff", Reason::Poweroff),
            ("halt", Reason::Halt),
        ] {
            let told = recorded(&format!(
                "{{\"how\":\"{how}\",\"reason\":\"power_button\"}}"
            ));
            let (found, facts) = judge(&of(&told));
            assert_eq!(found, reason);
            assert!(facts.as_str().contains("\"asked\":\"power_button\""));
            assert!(facts.as_str().contains("\"actor\":\"user:console\""));
            assert!(facts.as_str().contains("\"last_event\":41,"));
        }
    }

    #[test]
    fn no_end_recorded_is_an_unclean_stop_and_an_empty_log_the_first_boot() {
        let told = recorded("");
        let (reason, facts) = judge(&of(&told));
        assert_eq!(reason, Reason::UncleanStop);
        assert!(
            facts.as_str().contains("\"up_ms\":12345,"),
            "{}",
            facts.as_str()
        );
        assert!(facts.as_str().contains("\"boot\":\"abababababababab\""));
        assert_eq!(judge(&of(&Recorded::default())).0, Reason::FirstBoot);
    }

    #[test]
    fn the_watchdog_and_the_kernel_know_better_than_a_log_that_breaks_off() {
        let told = recorded("");
        let bitten = Evidence {
            watchdog_reset: true,
            ..of(&told)
        };
        assert_eq!(judge(&bitten).0, Reason::WatchdogReset);
        let stored = Stored::parse("kernel_panic Kernel panic - not syncing: sysrq").unwrap();
        let panicked = Evidence {
            stored: Some(&stored),
            ..of(&told)
        };
        let (reason, facts) = judge(&panicked);
        assert_eq!(reason, Reason::KernelPanic);
        assert!(
            facts
                .as_str()
                .starts_with("{\"kernel\":\"Kernel panic - not syncing")
        );
        // A stop that hung: what was asked for is told beside what ended it.
        let told = recorded("{\"how\":\"poweroff\"}");
        let hung = Evidence {
            watchdog_reset: true,
            ..of(&told)
        };
        let (reason, facts) = judge(&hung);
        assert_eq!(reason, Reason::WatchdogReset);
        assert!(facts.as_str().contains("\"how\":\"poweroff\""));
    }

    #[test]
    fn nothing_is_claimed_that_nobody_said() {
        assert_eq!(judge(&Evidence::default()).0, Reason::Unknown);
        let told = recorded("");
        let forgetful = Evidence {
            log_is_kept: false,
            ..of(&told)
        };
        assert_eq!(judge(&forgetful).0, Reason::Unknown);
        assert_eq!(Stored::parse("nonsense"), None);
        assert_eq!(Stored::parse("no_such_reason x"), None);
    }

    #[test]
    fn a_word_of_an_event_is_plain_or_none() {
        assert_eq!(word("{\"how\":\"halt\"}", "how"), Some("halt"));
        assert_eq!(word("{\"how\":\"a\\\"b\"}", "how"), None);
        assert_eq!(word("{\"how\":3}", "how"), None);
        assert_eq!(word("", "how"), None);
    }
}
