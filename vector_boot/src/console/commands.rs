//! The table of commands: one for the serial console, the machine console and `ctl`.
//!
//! A command takes its words, a [`Context`] and an [`Out`], and answers with an exit code: 0 done,
//! 1 not done or not so, 2 asked wrongly. Adding one is one row in the table of its group.
//!
//! Start with [`Command`], [`find`] and [`run`].

mod evidence;
mod kernel;
pub mod machine;
pub mod model;
mod mutations;
mod network;
mod neural;
pub mod services;
mod traffic;
mod upgrade;
mod why;

use super::context::{Context, Power};
use super::text;
use serde_json::{Value, json};
use std::io::{self, Write};

/// Exit code of a command that did what it says.
pub const DONE: u8 = 0;
/// Exit code of a command that could not, or whose answer is no.
pub const FAILED: u8 = 1;
/// Exit code of a command that was asked wrongly.
pub const USAGE: u8 = 2;

/// Sections of `help`, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The machine as a whole.
    Machine,
    /// What it supervises.
    Services,
    /// The mapped package.
    Model,
    /// What was recorded.
    Evidence,
}

impl Group {
    const ALL: [Self; 4] = [Self::Machine, Self::Services, Self::Model, Self::Evidence];

    fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Services => "services",
            Self::Model => "model",
            Self::Evidence => "evidence",
        }
    }
}

/// What a word behind the command may be, for completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completes {
    /// A service of the manifest.
    Service,
    /// A tensor of the model.
    Tensor,
    /// A command.
    Command,
    /// One of these.
    Words(&'static [&'static str]),
}

/// One command.
pub struct Command {
    /// The word that chooses it.
    pub name: &'static str,
    /// Another word for it; empty if there is none.
    pub alias: &'static str,
    /// Section of `help`.
    pub group: Group,
    /// Words behind the name.
    pub usage: &'static str,
    /// First sentence for the list, all of it for `help CMD`.
    pub help: &'static str,
    /// What its words are, in order.
    pub completes: &'static [Completes],
    /// Whether a read-only console refuses it.
    pub changes: bool,
    /// Does it.
    pub run: fn(&[String], &mut Context<'_>, &mut Out<'_>) -> Outcome,
}

/// Exit code, or what was wrong.
pub type Outcome = Result<u8, Failure>;

/// Why a command did not do what it says.
#[derive(Debug)]
pub enum Failure {
    /// Asked wrongly: exit code 2.
    Usage(String),
    /// Could not: exit code 1.
    Failed(String),
    /// Nobody takes the output any more.
    Output(io::Error),
}

impl Failure {
    /// Asked wrongly.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// Could not.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) => f.write_str(text),
            Self::Output(e) => write!(f, "output: {e}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Output(e)
    }
}

/// Where a command writes.
pub struct Out<'w> {
    sink: &'w mut dyn Write,
    json: bool,
}

impl<'w> Out<'w> {
    /// Writes to `sink`, as JSON if asked.
    pub fn new(sink: &'w mut dyn Write, json: bool) -> Self {
        Self { sink, json }
    }

    /// Whether one line of JSON is wanted.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes one line for people; terminal controls in it are replaced.
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.sink, "{}", text::clean(line))?)
    }

    /// Writes lines for people.
    pub fn lines(&mut self, lines: &[String]) -> Result<(), Failure> {
        lines.iter().try_for_each(|line| self.line(line))
    }

    /// Writes one line of JSON.
    pub fn value(&mut self, value: &Value) -> Result<(), Failure> {
        let mut line = String::new();
        // JSON escapes controls below 0x20 only; the rest would still steer a terminal.
        for c in value.to_string().chars() {
            match c {
                c if text::is_unsafe(c) => line.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => line.push(c),
            }
        }
        Ok(writeln!(self.sink, "{line}")?)
    }

    /// Makes what was written visible now.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.sink.flush()?)
    }

    /// Writes the value as JSON, or the lines for people.
    pub fn either(&mut self, value: &Value, lines: &[String]) -> Result<(), Failure> {
        if self.json {
            self.value(value)
        } else {
            self.lines(lines)
        }
    }
}

/// Every command, group by group.
pub fn all() -> impl Iterator<Item = &'static Command> {
    let groups: [&'static [Command]; 11] = [
        machine::COMMANDS,
        why::COMMANDS,
        neural::COMMANDS,
        kernel::COMMANDS,
        services::COMMANDS,
        traffic::COMMANDS,
        upgrade::COMMANDS,
        model::COMMANDS,
        evidence::COMMANDS,
        mutations::COMMANDS,
        HELP,
    ];
    groups.into_iter().flatten()
}

/// The command of this name or alias.
pub fn find(name: &str) -> Option<&'static Command> {
    all().find(|c| c.name == name || (!c.alias.is_empty() && c.alias == name))
}

/// Runs one line and writes what it says, errors too; returns the exit code.
pub fn run_line(line: &str, context: &mut Context<'_>, sink: &mut dyn Write) -> u8 {
    let words = match super::words::split(line) {
        Ok(words) => words,
        Err(failure) => return report("line", &failure, false, sink),
    };
    match run(&words, context, sink) {
        Ok(code) => code,
        Err((name, json, failure)) => report(&name, &failure, json, sink),
    }
}

/// Runs one command; no words do nothing.
///
/// Errors: the failure with the command's name and whether JSON was asked for, for [`report`].
pub fn run(
    words: &[String],
    context: &mut Context<'_>,
    sink: &mut dyn Write,
) -> Result<u8, (String, bool, Failure)> {
    let Some((name, rest)) = words.split_first() else {
        return Ok(DONE);
    };
    let (rest, json) = take_json(rest);
    let failed = |failure| (name.clone(), json, failure);
    let Some(command) = find(name) else {
        let near = nearest(name)
            .map(|n| format!("; did you mean {n}?"))
            .unwrap_or_default();
        let text = format!("unknown command{near} (help lists them)");
        return Err(failed(Failure::usage(text)));
    };
    let mut out = Out::new(sink, json);
    if rest.iter().any(|w| w == "--help" || w == "-h") {
        return explain(command, &mut out).map_err(failed);
    }
    if command.changes && context.power == Power::ReadOnly {
        let text = "not here: vb.console_mode is readonly, which allows only commands that look";
        return Err(failed(Failure::failed(text)));
    }
    let done = (command.run)(&rest, context, &mut out);
    match done.and_then(|code| out.flush().map(|()| code)) {
        Err(Failure::Usage(text)) => {
            let usage = format!("{} {}", command.name, command.usage);
            Err(failed(Failure::Usage(format!(
                "{text}; usage: {}",
                usage.trim_end()
            ))))
        }
        other => other.map_err(failed),
    }
}

/// Writes what was wrong in one line and returns the exit code.
pub fn report(name: &str, failure: &Failure, json: bool, sink: &mut dyn Write) -> u8 {
    let exit = match failure {
        Failure::Usage(_) => USAGE,
        Failure::Failed(_) | Failure::Output(_) => FAILED,
    };
    let mut out = Out::new(sink, json);
    let line = format!("{}: {failure}", text::cut(name, 40));
    // Where the output went, nobody reads that it went.
    let _ = out.either(
        &json!({"error": failure.to_string(), "exit": exit}),
        &[line],
    );
    let _ = out.flush();
    exit
}

/// Takes `--json` out of the words, wherever it stands before `--`.
fn take_json(words: &[String]) -> (Vec<String>, bool) {
    let options = words.iter().position(|w| w == "--").unwrap_or(words.len());
    let wanted = |(at, word): &(usize, &String)| *at >= options || *word != "--json";
    let kept: Vec<String> = words
        .iter()
        .enumerate()
        .filter(wanted)
        .map(|(_, w)| w.clone())
        .collect();
    let json = kept.len() != words.len();
    (kept, json)
}

/// The command that a mistyped word most likely meant.
fn nearest(word: &str) -> Option<&'static str> {
    let word = word.get(..word.len().min(16))?;
    let near = all().map(|c| (distance(word, c.name), c.name)).min()?;
    (near.0 <= 2 && near.0 < near.1.len()).then_some(near.1)
}

/// Edit distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (pair, y) in row.windows(2).zip(b.bytes()) {
            let &[diagonal, above] = pair else { continue };
            left = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

const HELP: &[Command] = &[Command {
    name: "help",
    alias: "?",
    group: Group::Machine,
    usage: "[CMD]",
    help: "Lists the commands, or explains one.",
    completes: &[Completes::Command],
    changes: false,
    run: help,
}];

fn help(words: &[String], _: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = super::words::Words::parse(words, &[], &[], 1)?;
    if let Some(name) = words.argument(0) {
        let command = find(name).ok_or_else(|| Failure::usage(format!("no command \"{name}\"")))?;
        return explain(command, out);
    }
    if out.is_json() {
        let entries: Vec<Value> = all().map(described).collect();
        out.value(&json!({ "commands": entries }))?;
        return Ok(DONE);
    }
    for group in Group::ALL {
        out.line(&format!("{}:", group.name()))?;
        for command in all().filter(|c| c.group == group) {
            let head = format!("{} {}", command.name, command.usage);
            let first = command
                .help
                .split_inclusive(". ")
                .next()
                .unwrap_or_default();
            let first = first.trim_end().trim_end_matches('.');
            if head.trim_end().len() <= 28 {
                out.line(&format!("  {:<28}  {first}", head.trim_end()))?;
            } else {
                out.line(&format!("  {head}"))?;
                out.line(&format!("  {:<28}  {first}", ""))?;
            }
        }
    }
    out.line("Every command takes --json (one line); help CMD says more.")?;
    Ok(DONE)
}

fn described(command: &Command) -> Value {
    json!({
        "name": command.name,
        "alias": command.alias,
        "group": command.group.name(),
        "usage": command.usage,
        "help": command.help,
        "changes": command.changes,
    })
}

fn explain(command: &Command, out: &mut Out<'_>) -> Outcome {
    let usage = format!("{} {}", command.name, command.usage);
    let mut lines = vec![format!("usage: {} [--json]", usage.trim_end())];
    if !command.alias.is_empty() {
        lines.push(format!("also: {}", command.alias));
    }
    lines.extend(text::wrap(command.help, text::WIDTH - 2, "  "));
    out.either(&described(command), &lines)?;
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_command_explains_itself() {
        let mut names: Vec<_> = all()
            .flat_map(|c| [c.name, c.alias])
            .filter(|n| !n.is_empty())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for command in all() {
            assert!(command.help.ends_with('.'), "{}", command.name);
            assert!(
                command.help.split(". ").next().unwrap().len() <= 100,
                "{}",
                command.name
            );
        }
    }

    #[test]
    fn the_commands_that_the_design_names_are_there() {
        let named = "status services start stop restart signal log beat sensors hw interrupts journal tensors tensor ledger \
                     capacity gateway ps mem net mounts params boot why watchdog dmesg ready reboot poweroff halt help";
        for name in named.split_whitespace() {
            assert!(find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_typing_error_gets_a_suggestion_and_nonsense_none() {
        assert_eq!(nearest("statsu"), Some("status"));
        assert_eq!(nearest("powerof"), Some("poweroff"));
        assert_eq!(nearest("zzzzzz"), None);
        assert_eq!(nearest("q"), None);
    }

    #[test]
    fn json_is_an_option_until_the_options_end() {
        let words: Vec<String> = ["a", "--json", "--", "--json"].map(str::to_owned).into();
        assert_eq!(
            take_json(&words),
            (vec!["a".into(), "--".into(), "--json".into()], true)
        );
    }

    #[test]
    fn json_never_carries_a_terminal_control() {
        let mut sink = Vec::new();
        let value = json!({"text": "a\u{9b}\u{202e}\x1b\x7f"});
        Out::new(&mut sink, true).value(&value).unwrap();
        let line = String::from_utf8(sink).unwrap();
        assert!(!line.trim_end().chars().any(text::is_unsafe), "{line:?}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }
}
