//! Memory at rest: what a burst of work touched is given back when it is over.

use super::Heart;

/// A second without a further start or end, as a rule, before memory is given back: work comes in bursts.
const QUIET_BEATS: u64 = 10;

impl Heart {
    /// Something happened that touches more than a beat does.
    pub(super) fn stir(&mut self) {
        self.rest_at.get_or_insert(self.beat.count + QUIET_BEATS);
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
