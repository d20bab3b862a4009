//! Memory at rest: what a burst of work touched is given back when it is over.

use super::Heart;

/// Beats without a start, an end or a change before memory is given back, 3 s as a rule: work comes in bursts, and
/// a service that keeps ending is restarted by code that is still mapped.
const QUIET_BEATS: u64 = 30;

impl Heart {
    /// Something happened that touches more than a beat does.
    pub(super) fn stir(&mut self) {
        self.rest_at = Some(self.beat.count + QUIET_BEATS);
    }

    /// Gives memory back, once after each burst.
    pub(super) fn rest(&mut self) {
        if self.rest_at.is_none_or(|beat| self.beat.count < beat) {
            return;
        }
        self.rest_at = None;
        sys::reclaim::heap();
        sys::reclaim::stack();
        // On the appliance the image lies in memory; elsewhere PID 1 would wait for the disk that it lies on.
        if self.setup.is_appliance() {
            sys::reclaim::code();
        }
    }
}
