//! The gateway: the only door for agents. Tools over HTTP, each call admitted by the capacity
//! kernel, judged on opened descriptors, and durable in the ledger before it is answered.
//!
//! Owns the listeners, the roots' descriptors, the table of tools and the path of a call
//! ([`call`]). Decisions are pure: [`reality`] scores facts, [`roots`] names places, [`answer`] maps
//! refusals to statuses, [`hosts`] knows our names, [`idempotency`] remembers answers. The shell
//! around them is [`serve`], [`http`], [`link`] and the files of [`tools`].
//!
//! Never here: privileges (every file is opened below a root that was passed in), tokens (the
//! capacity kernel knows them), payloads and tokens in the log. Start with [`call::Gateway::call`];
//! `docs/gateway.md` is the outside's view.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

pub mod answer;
pub mod asked;
pub mod batch;
pub mod call;
pub mod config;
pub mod guard;
pub mod hosts;
pub mod http;
pub mod idempotency;
pub mod journal;
pub mod link;
pub mod metrics;
pub mod peers;
pub mod reality;
pub mod refusals;
pub mod relief;
pub mod reply;
pub mod roots;
pub mod row;
pub mod serve;
pub mod strict;
pub mod target;
pub mod tools;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the role over the words behind its name: `serve`, with [`config::Options`].
pub fn main(words: &[OsString]) -> ExitCode {
    let options = match config::parse(words) {
        Ok(options) => options,
        Err(e) => {
            // Where stderr is gone there is nobody to tell.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match serve::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let causes = std::iter::successors(Some(&*e), |e| e.source());
            let text: Vec<String> = causes.map(ToString::to_string).collect();
            log::error!("cannot start: cause={}", text.join(": "));
            ExitCode::FAILURE
        }
    }
}
