//! The health gate under the heart: how the machine stands is gathered here, and what the gate says is done.

use super::{Ending, Heart};
use crate::gate::{self, Standing, Verdict};
use wire::control::Power;
use wire::why::Reason;

impl Heart {
    /// Looks whether the machine does its work, once a beat; an ordinary process is nobody's machine.
    pub(super) fn look_at_health(&mut self, now: u64) {
        let health = &self.manifest.health;
        let off = health.ready_s == 0 && health.failed_s == 0;
        if off || self.given_up || !self.setup.is_appliance() || !matches!(self.ending, Ending::No)
        {
            return;
        }
        let watched = |unit: &crate::unit::Unit| {
            let named = health
                .services
                .iter()
                .any(|name| name.as_str() == unit.name());
            unit.service.core && (named || health.services.is_empty())
        };
        let units = self.units.iter().enumerate().filter(|(_, u)| watched(u));
        let failing = units.filter_map(|(i, unit)| {
            let since = self.supervisor.failing_since(i, now)?;
            Some((unit.name(), now.saturating_sub(since)))
        });
        let standing = Standing {
            up_ns: now.saturating_sub(self.handoff_ns),
            ready_once: self.ready_said,
            failing: failing.max_by_key(|(_, ns)| *ns),
            // What the ledger holds in memory alone says nothing of the boot before.
            reboots_before: self.open.log.as_ref().and(self.last_boot.health_reboots()),
        };
        let (ill, reboots) = match gate::judge(health, &standing) {
            Verdict::Well => return,
            Verdict::Reboot(ill, count) => (ill.to_string(), Some(count)),
            Verdict::Emergency(ill) => (ill.to_string(), None),
        };
        self.degrade(ill);
        match (reboots, self.params.get("vb.emergency")) {
            (Some(count), _) => {
                self.health_reboots = count;
                self.begin_shutdown(Power::Reboot, Reason::Health, "service:init");
            }
            (None, "halt") => self.begin_shutdown(Power::Halt, Reason::Health, "service:init"),
            // A person is to look: another restart would be one too many.
            (None, _) => self.given_up = true,
        }
    }
}
