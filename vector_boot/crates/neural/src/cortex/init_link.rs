//! The connection to PID 1: generations there, their status and its rows of the journal back.
//!
//! A connection that failed is made anew with the next question: PID 1 may have begun anew as well.

use super::ANSWER;
use ipc::{Connection, IpcError};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use wire::Done;
use wire::evolution::{Generation, GenerationGet, GenerationStatus};
use wire::neural::{JournalGet, JournalRow, ROWS_MAX};

/// The way to PID 1.
pub(super) struct InitLink {
    path: PathBuf,
    connection: Option<Connection>,
}

impl InitLink {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            connection: None,
        }
    }

    fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut Connection) -> Result<T, IpcError>,
    ) -> Result<T, IpcError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.path, ANSWER)?,
        };
        let answer = question(&mut connection);
        // After a refusal the conversation goes on; after anything else it is not known where it stands.
        if matches!(answer, Ok(_) | Err(IpcError::Refused { .. })) {
            self.connection = Some(connection);
        }
        answer
    }

    /// Gives PID 1 a generation; what was wrong, if it did not take it.
    pub(super) fn publish(&mut self, number: u64, sealed: &OwnedFd) -> Option<IpcError> {
        self.ask(|connection| {
            connection.send(&Generation { number }, Some(sealed.as_fd()))?;
            let (frame, _) = connection.receive()?;
            frame.body::<Done>()?;
            Ok(())
        })
        .err()
    }

    /// How PID 1 gets on with it.
    pub(super) fn status(&mut self) -> Option<GenerationStatus> {
        let answer = self.ask(|connection| {
            connection.ask(&GenerationGet, |frame, _| frame.body::<GenerationStatus>())
        });
        answer.ok()
    }

    /// PID 1's rows with greater numbers.
    pub(super) fn rows(&mut self, after: u64, mut take: impl FnMut(&[u8])) {
        let get = JournalGet {
            after,
            rows: ROWS_MAX,
        };
        // Without an answer they are asked for again: the ring keeps them for a while.
        let _ = self.ask(|connection| {
            connection.list(&get, |frame| {
                take(frame.body::<JournalRow<'_>>()?.row);
                Ok(())
            })
        });
    }
}
