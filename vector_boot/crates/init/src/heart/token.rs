//! The boot token: the host's, or drawn here as soon as the kernel's pool of randomness is ready.
//!
//! A machine without a source of randomness fills its pool in a second or more. PID 1 does not wait for that:
//! the helper does, services without the token run meanwhile, and those that get it start when it is there.

use super::Heart;
use crate::helper_link::Purpose;
use crate::state::Level;
use rts::manifest::Pass;
use std::fs;
use std::io;
use wire::helper::Task;

/// Where QEMU's `-fw_cfg name=opt/vb/token` shows.
const TOKEN_FILE: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/vb/token/raw";
/// Hex digits of a token.
const TOKEN_BYTES: usize = 64;

impl Heart {
    /// Whether a service has to wait for the token.
    pub(super) fn waits_for_token(&self, i: usize) -> bool {
        let unit = self.units.get(i);
        self.token.is_none() && unit.is_some_and(|u| u.service.pass.contains(&Pass::Token))
    }

    /// Comes to hold the token if there is none yet and one can be had now.
    pub(super) fn keep_token(&mut self) {
        if self.token.is_some() {
            return;
        }
        let token = boot_token(self.setup.is_appliance())
            .and_then(|digits| sys::memfd::sealed("token", &digits));
        match token {
            Ok(token) => {
                self.token = Some(token);
                self.list_machine();
                self.unblock_all();
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !std::mem::replace(&mut self.randomness_asked, true) {
                    self.helper
                        .ask(Purpose::Randomness, &Task::Randomness, None);
                }
            }
            // Every beat tries again: no memory for a file of 64 bytes, for a moment.
            Err(e) => self
                .journal
                .say(Level::Warn, format_args!("boot token: {e}")),
        }
    }
}

/// The token that the host gave, or a new one, as hex digits.
fn boot_token(appliance: bool) -> io::Result<Vec<u8>> {
    if appliance && let Ok(given) = fs::read(TOKEN_FILE) {
        let digits = given.trim_ascii();
        if digits.len() == TOKEN_BYTES && digits.iter().all(u8::is_ascii_hexdigit) {
            return Ok(digits.to_ascii_lowercase());
        }
    }
    let mut random = [0u8; TOKEN_BYTES / 2];
    sys::random::fill_now(&mut random)?;
    Ok(random
        .iter()
        .flat_map(|b| format!("{b:02x}").into_bytes())
        .collect())
}
