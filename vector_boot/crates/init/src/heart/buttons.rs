//! The power button: a press ends the machine in order.

use super::{Heart, Watch};
use crate::state::Level;
use std::os::fd::AsFd;
use sys::events::Interest;
use sys::power_button::PowerButton;
use wire::control::Power;
use wire::why::Reason;

impl Heart {
    /// Finds the machine's buttons and watches them, once for each image of PID 1. They go along into the next:
    /// to close one waits for a grace period of RCU.
    pub(super) fn watch_buttons(&mut self) {
        if self.buttons.is_some() {
            return;
        }
        let mut watched = Vec::new();
        if !self.setup.is_appliance() {
            self.buttons = Some(watched);
            return;
        }
        let came: Vec<_> = self.buttons_of_before.drain(..).collect();
        let all = if came.is_empty() {
            PowerButton::all()
        } else {
            came
        };
        for (i, button) in all.into_iter().enumerate() {
            let token = Watch::Button(i).token();
            let added = self.poller.add(button.as_fd(), token, Interest::Read);
            if let Err(e) = &added {
                self.journal
                    .say(Level::Warn, format_args!("power button: {e}"));
            }
            watched.push(added.is_ok().then_some(button));
        }
        self.buttons = Some(watched);
        self.list_machine();
    }

    pub(super) fn read_button(&mut self, i: usize) {
        let Some(place) = self.buttons.as_mut().and_then(|all| all.get_mut(i)) else {
            return;
        };
        match place.as_mut().map(PowerButton::take) {
            Some(Ok(true)) => {
                self.begin_shutdown(Power::Poweroff, Reason::PowerButton, "user:power-button");
            }
            Some(Ok(false)) | None => {}
            // Gone; closing it takes it out of the poller.
            Some(Err(_)) => {
                if let Some(button) = place.as_ref() {
                    self.journal.state.unlist(button.as_fd());
                }
                *place = None;
            }
        }
    }
}
