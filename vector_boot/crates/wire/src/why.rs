//! Why something ended or began: the one spelling of every reason, and the frames that ask for it.
//!
//! `why` on the console, the ledger's events and the records in PID 1's state memfd all use
//! [`Reason`]; `docs/supervision.md` has the same table in prose. Numbers are never used twice.

use crate::control::message;
use crate::{Kind, Message};
use serde::{Deserialize, Serialize};

spelled! {
    /// A reason.
    Reason

    0 Unknown "unknown" "nothing is known";

    // How the boot before ended.
    1 FirstBoot "first_boot" "the log holds no earlier boot";
    2 Reboot "reboot" "restarted in order";
    3 Poweroff "poweroff" "powered off in order";
    4 Halt "halt" "halted in order";
    5 UncleanStop "unclean_stop" "stopped without an end being recorded";
    6 WatchdogReset "watchdog_reset" "reset by the watchdog";
    7 KernelPanic "kernel_panic" "the kernel panicked";

    // Who or what asked for an end.
    16 Command "command" "asked by a person";
    17 PowerButton "power_button" "the power button was pressed";
    18 CtrlAltDel "ctrl_alt_del" "Ctrl-Alt-Del was pressed";
    19 SignalAsked "signal_asked" "asked by a signal to PID 1";
    20 Emergency "emergency" "no core service can run";
    21 Health "health" "the machine did not do its work, says its health gate";

    // How a service's process ended.
    32 Exit "exit" "ended by itself";
    33 Signal "signal" "ended by a signal";
    34 OutOfMemory "out_of_memory" "killed because its memory was used up";
    35 StartTimeout "start_timeout" "killed because it was not ready in time";
    36 StopTimeout "stop_timeout" "killed because it did not stop in time";
    37 WatchdogTimeout "watchdog_timeout" "killed because it gave no sign of life";
    38 NotStarted "not_started" "could not be started";
    39 Stopped "stopped" "stopped as it was asked to";

    // What became of PID 1's own program.
    48 InitCrash "init_crash" "crashed and went on";
    49 InitPanic "init_panic" "met a defect of its own and went on";
    50 Upgrade "upgrade" "replaced by another program";
    51 Rollback "rollback" "replaced by the program before";
    52 UpgradeRefused "upgrade_refused" "another program was refused";
    53 Package "package" "replaced by the package's program";
    54 Fallback "fallback" "the package's program crashed, the initramfs's own runs";
    55 UpgradeNotLoaded "upgrade_not_loaded" "an executable of the package could not be had";
    56 NeedsReboot "needs_reboot" "the package needs a reboot";
    57 NotExecuted "not_executed" "the program could not be executed";
    58 InitHang "init_hang" "gave no beat";
    59 NotKept "not_kept" "the package's device could not be written";
    60 Ending "ending" "the machine was ending";
}

/// Asks for [`Why`] records, newest first, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyGet<'a> {
    /// Only records about this: `machine`, `init` or a service; empty for all.
    pub subject: &'a str,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why<'a> {
    /// Counts records since boot from 1; 0 is how the boot before ended.
    pub number: u64,
    /// When (CLOCK_MONOTONIC of this boot); 0 for what ended before it.
    pub at_ns: u64,
    /// Why.
    pub reason: Reason,
    /// `machine`, `init` or a service.
    pub subject: &'a str,
    /// What is known beside that: a JSON object.
    pub facts: &'a str,
}

/// Asks for [`Watchdog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogGet;

/// The hardware watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchdog<'a> {
    /// What the driver calls itself; empty without a watchdog.
    pub driver: &'a str,
    /// Whether it is a timer of the kernel's own, which a hung kernel takes along.
    pub software: bool,
    /// Whether it is running and fed.
    pub armed: bool,
    /// After how many seconds without food it bites.
    pub timeout_s: u32,
    /// Seconds left, where the driver tells.
    pub left_s: Option<u32>,
    /// Status bits of the last boot as the driver tells (`WDIOF_*`); bit 5 is a reset by it.
    pub boot_status: u32,
    /// How often it was fed.
    pub fed: u64,
    /// Beats at whose end it was not fed.
    pub held_back: u64,
}

/// Asks for one [`Pressure`] each, the machine's first, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureGet;

/// How one cgroup fares for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure<'a> {
    /// `machine` or a service.
    pub subject: &'a str,
    /// Share of the last 10 s in which something waited for memory, in hundredths of a percent.
    pub some_avg10: u32,
    /// Seconds in which it waited for memory beyond the trigger, since boot.
    pub stalls: u32,
    /// Nanoseconds since the last such second, 0 for none.
    pub stalled_ago_ns: u64,
    /// Processes that the kernel killed for want of memory, since boot.
    pub oom_kills: u32,
    /// How often an allocation met the limit.
    pub at_limit: u64,
    /// Most bytes ever in use, 0 where that is not known.
    pub peak_bytes: u64,
}

message! {
    WhyGet<'_> = WhyGet, Why<'_> = Why, WatchdogGet = WatchdogGet, Watchdog<'_> = Watchdog,
    PressureGet = PressureGet, Pressure<'_> = Pressure,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_one_number_and_one_spelling() {
        let mut words = BTreeSet::new();
        for reason in Reason::ALL {
            assert_eq!(Reason::of(*reason as u16), *reason);
            assert_eq!(Reason::named(reason.as_str()), Some(*reason));
            assert!(words.insert(reason.as_str()), "{reason:?}");
        }
        assert_eq!(Reason::of(u16::MAX), Reason::Unknown);
        assert_eq!(Reason::named("no such"), None);
    }
}
