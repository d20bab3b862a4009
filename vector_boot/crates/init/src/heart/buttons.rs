//! The power button: a press ends the machine in order.

use super::{Heart, Watch};
use crate::state::Level;
use std::os::fd::AsFd;
use sys::events::Interest;
use sys::power_button::PowerButton;
use wire::control::Power;
use wire::why::Reason;

impl Heart {
    /// Finds the machine's buttons and watches them.
    pub(super) fn watch_buttons(&mut self) {
        if !self.setup.is_appliance() {
            return;
        }
        for (i, button) in PowerButton::all().into_iter().enumerate() {
            let token = Watch::Button(i).token();
            match self.poller.add(button.as_fd(), token, Interest::Read) {
                Ok(()) => self.buttons.push(Some(button)),
                Err(e) => {
                    self.journal
                        .say(Level::Warn, format_args!("power button: {e}"));
                    return;
                }
            }
        }
    }

    pub(super) fn read_button(&mut self, i: usize) {
        let Some(place) = self.buttons.get_mut(i) else {
            return;
        };
        match place.as_mut().map(PowerButton::take) {
            Some(Ok(true)) => {
                self.begin_shutdown(Power::Poweroff, Reason::PowerButton, "user:power-button");
            }
            Some(Ok(false)) | None => {}
            // Gone; closing it takes it out of the poller.
            Some(Err(_)) => *place = None,
        }
    }
}
