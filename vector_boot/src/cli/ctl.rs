//! The `ctl` role: the console's commands from a shell, over the same sockets.

use crate::console::commands;
use crate::console::context::{Context, Held, Site, Unattended, run_folder};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs `ctl [--run DIR] CMD...` over the words behind its name.
pub fn main(words: &[OsString]) -> ExitCode {
    let mut text = Vec::new();
    for word in words {
        match word.to_str() {
            Some(word) => text.push(word.to_owned()),
            None => return wrong(&format!("word {} is not UTF-8", word.display())),
        }
    }
    let (run, command) = match text.split_first() {
        Some((option, rest)) if option == "--run" => match rest.split_first() {
            Some((folder, command)) => (PathBuf::from(folder), command.to_vec()),
            None => return wrong("--run needs a folder"),
        },
        Some((option, rest)) if option.starts_with("--run=") => (
            PathBuf::from(option.trim_start_matches("--run=")),
            rest.to_vec(),
        ),
        _ => (run_folder(), text.clone()),
    };
    let command = if command.is_empty() {
        vec!["help".to_owned()]
    } else {
        command
    };
    let mut attention = Unattended;
    let site = Site::new(run, Held::default());
    let mut context = Context::new(&site, &mut attention);
    let stdout = io::stdout();
    // A terminal sees each line as it comes; a pipe gets blocks.
    let code = if stdout.is_terminal() {
        execute(&command, &mut context, &mut stdout.lock())
    } else {
        execute(
            &command,
            &mut context,
            &mut io::BufWriter::new(stdout.lock()),
        )
    };
    ExitCode::from(code)
}

/// Runs the command: its output goes to `sink`, what was wrong to stderr, with `--json` to `sink` too.
fn execute(command: &[String], context: &mut Context<'_>, sink: &mut dyn Write) -> u8 {
    match commands::run(command, context, sink) {
        Ok(code) => code,
        // `ctl log | head`: whoever read has what he wanted.
        Err((_, _, commands::Failure::Output(e))) if e.kind() == io::ErrorKind::BrokenPipe => {
            commands::FAILED
        }
        Err((name, true, failure)) => commands::report(&name, &failure, true, sink),
        Err((name, false, failure)) => {
            // What was written before the failure stands before it.
            let _ = sink.flush();
            commands::report(&name, &failure, false, &mut io::stderr())
        }
    }
}

fn wrong(what: &str) -> ExitCode {
    eprintln!("ctl: {what}; usage: vector_boot ctl [--run DIR] CMD...");
    ExitCode::from(commands::USAGE)
}
