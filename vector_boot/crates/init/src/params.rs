//! Kernel parameters: the `vb.` keys in force, and what modules are told.
//!
//! Pure: takes the text of `/proc/cmdline`. argv is never read, since the kernel passes words there
//! that it does not know. Hostile text leaves the defaults standing and is named in a complaint, each
//! key once. With a trusted key in the image the command line may only tighten: [`KEYS`] says for each
//! key what that means. Start with [`Params::new`].

use std::fmt::Write as _;

/// Twice the kernel's own limit (COMMAND_LINE_SIZE is 2048 on x86 and arm64); a longer text is not its.
const LINE_BYTES_MAX: usize = 4096;
/// Complaints with value and limit, one a line; further keys are named without.
const COMPLAINTS_MAX: usize = 16;
/// Characters of a key or value that are shown: enough to find it in the line.
const SHOWN_CHARS_MAX: usize = 48;
/// Bytes of a sentence that names further keys: one line of the log.
const NAMES_BYTES_MAX: usize = 200;

/// Where a value comes from; a later one wins over an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// The package's manifest.
    Manifest,
    /// The kernel command line.
    CommandLine,
    /// A key that nothing reads.
    Unknown,
}

impl Source {
    /// The word that the outside sees.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Manifest => "manifest",
            Self::CommandLine => "cmdline",
            Self::Unknown => "unknown",
        }
    }
}

/// What the command line may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandLine {
    /// It wins over the manifest.
    Wins,
    /// A trusted key is in the image: it only makes the machine more closed than what was signed.
    Tightens,
}

/// One parameter in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// With its `vb.`.
    pub key: String,
    /// As text.
    pub value: String,
    /// Where it comes from.
    pub source: Source,
}

/// What a value may be.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Any text up to this many bytes.
    Text(usize),
    /// A whole number in this range.
    Number(u64, u64),
    /// Text up to this many bytes that this reads.
    Read(usize, fn(&str) -> Result<(), &'static str>),
    /// One of these words.
    Word(&'static [&'static str]),
}

/// What a command line that only tightens may say; the value in force is always allowed.
#[derive(Debug, Clone, Copy)]
enum Tighter {
    /// Anything: it opens nothing, or what it names is checked by itself.
    Any,
    /// Nothing else.
    Nothing,
    /// This value.
    Only(&'static str),
    /// Everything but this value.
    Not(&'static str),
    /// Words behind the one in force; they stand from the most open to the most closed.
    Onwards(&'static [&'static str]),
    /// An address that only this machine reaches.
    Loopback,
}

/// Every key, its default, its rule, and what tightens it. `docs/parameters.md` says the same for people.
const KEYS: &[(&str, &str, Rule, Tighter)] = &[
    // Whatever it names is verified; without a package the machine is closed by other means.
    ("vb.rts", "auto", Rule::Text(128), Tighter::Any),
    // The initramfs's own could be older than what was signed.
    (
        "vb.init",
        "auto",
        Rule::Word(&["auto", "initramfs"]),
        Tighter::Nothing,
    ),
    ("vb.manifest", "", Rule::Text(128), Tighter::Nothing),
    // Disks are not signed: whoever can name another could exchange them too.
    ("vb.data", "auto", Rule::Text(128), Tighter::Any),
    // What may be said there is `vb.console_mode`'s.
    ("vb.console", "auto", Rule::Text(32), Tighter::Any),
    (
        "vb.console_mode",
        "full",
        Rule::Word(&["full", "readonly", "off"]),
        Tighter::Onwards(&["full", "readonly", "off"]),
    ),
    // What was refused is to be seen: more may be said, not less.
    (
        "vb.log",
        "info",
        Rule::Word(&["error", "warn", "info", "debug"]),
        Tighter::Onwards(&["error", "warn", "info", "debug"]),
    ),
    // Below 25 ms the loop would be most of the machine; above 1 s the watchdog's margin is gone.
    (
        "vb.heartbeat_ms",
        "100",
        Rule::Number(25, 1000),
        Tighter::Any,
    ),
    (
        "vb.net",
        "dhcp",
        Rule::Read(64, |text| crate::net::plan::parse(text).map(drop)),
        Tighter::Only("off"),
    ),
    // Whom it asks may set the clock.
    (
        "vb.ntp",
        "dhcp",
        Rule::Read(128, |text| crate::net::plan::parse_ntp(text).map(drop)),
        Tighter::Only("off"),
    ),
    ("vb.http", "", Rule::Text(64), Tighter::Loopback),
    ("vb.hostname", "", Rule::Text(63), Tighter::Any),
    (
        "vb.require_signature",
        "0",
        Rule::Word(&["0", "1"]),
        Tighter::Only("1"),
    ),
    (
        "vb.emergency",
        "console",
        Rule::Word(&["console", "reboot", "halt"]),
        Tighter::Onwards(&["console", "reboot", "halt"]),
    ),
    // Less is what a drill wants, and what was signed says.
    (
        "vb.upgrade_watch_s",
        "30",
        Rule::Number(0, 3600),
        Tighter::Nothing,
    ),
    // Whether programs may change the machine's tensors.
    (
        "vb.evolution",
        "off",
        Rule::Word(&["off", "on"]),
        Tighter::Only("off"),
    ),
    // Only modules of the image are ever loaded.
    ("vb.modules", "auto", Rule::Text(256), Tighter::Any),
    (
        "vb.watchdog",
        "auto",
        Rule::Read(8, |text| crate::watchdog::parse(text).map(drop)),
        Tighter::Not("off"),
    ),
];

/// Keys that count before there is a manifest: only the command line can set them.
const EARLY: &[&str] = &[
    "vb.rts",
    "vb.init",
    "vb.manifest",
    "vb.console",
    "vb.modules",
    "vb.require_signature",
    "vb.emergency",
];

/// All parameters, and what was wrong with the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    entries: Vec<Param>,
    modules: Vec<(String, String)>,
    command_line: CommandLine,
    /// Keys that were complained about, with where they stood, so that each is named once.
    named: Vec<(Source, String)>,
    /// Keys beyond [`COMPLAINTS_MAX`].
    unexplained: Vec<String>,
    /// Sentences that name what is wrong: key, value and limit of the first, the further keys alone.
    pub complaints: Vec<String>,
}

impl Params {
    /// The defaults, then the manifest's values, then the command line's.
    #[must_use]
    pub fn new<'m>(
        manifest: impl IntoIterator<Item = (&'m str, &'m str)>,
        line: &str,
        command_line: CommandLine,
    ) -> Self {
        let entries = KEYS
            .iter()
            .map(|(key, value, ..)| Param {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
                source: Source::Default,
            })
            .collect();
        let mut this = Self {
            entries,
            modules: Vec::new(),
            command_line,
            named: Vec::new(),
            unexplained: Vec::new(),
            complaints: Vec::new(),
        };
        for (key, value) in manifest {
            this.set(key, value, Source::Manifest, "");
        }
        this.read_line(line);
        this.name_the_rest();
        this
    }

    /// The value of a key of [`KEYS`]; empty for any other.
    #[must_use]
    pub fn get(&self, key: &str) -> &str {
        self.entries
            .iter()
            .find(|p| p.key == key)
            .map_or("", |p| &p.value)
    }

    /// The value of a numeric key.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or(0)
    }

    /// Every parameter, in the order of the documentation; unknown keys last.
    #[must_use]
    pub fn all(&self) -> &[Param] {
        &self.entries
    }

    /// What the command line says to a module, `key=value` separated by blanks. The kernel takes
    /// `-` and `_` in names as one.
    ///
    /// # Errors
    /// A sentence with what it says, where it may say nothing.
    pub fn of_module(&self, module: &str) -> Result<String, String> {
        let mut text = String::new();
        for (name, setting) in &self.modules {
            if name.replace('-', "_") == module.replace('-', "_") {
                let gap = if text.is_empty() { "" } else { " " };
                // Writing to a String cannot fail.
                let _ = write!(text, "{gap}{setting}");
            }
        }
        if self.command_line == CommandLine::Tightens && !text.is_empty() {
            return Err(format!(
                "module {module}: parameters {}, limit none{BOUND}",
                shown(&text)
            ));
        }
        Ok(text)
    }

    fn read_line(&mut self, line: &str) {
        // A line that only tightens is held against what was signed, not against its own earlier words.
        let signed: Vec<String> = self.entries.iter().map(|p| p.value.clone()).collect();
        for (end, word) in words(line) {
            if end > LINE_BYTES_MAX {
                self.complaints.push(format!(
                    "command line: {} bytes, limit {LINE_BYTES_MAX}; the rest is not read",
                    line.len()
                ));
                return;
            }
            let (key, value) = split(word);
            let prefix = key.get(..3).unwrap_or_default();
            if prefix.eq_ignore_ascii_case("vb.") {
                let signed = KEYS
                    .iter()
                    .zip(&signed)
                    .find_map(|((k, ..), value)| (*k == key).then_some(value.as_str()));
                self.set(
                    key,
                    value.unwrap_or_default(),
                    Source::CommandLine,
                    signed.unwrap_or_default(),
                );
            } else if let Some((module, setting)) = key.split_once('.')
                && !module.is_empty()
            {
                let setting = match value {
                    Some(value) => format!("{setting}={value}"),
                    None => setting.to_owned(),
                };
                self.modules.push((module.to_owned(), setting));
            }
        }
    }

    /// Sets one key; `signed` is what the command line is held against where it only tightens.
    fn set(&mut self, key: &str, value: &str, source: Source, signed: &str) {
        let Some((_, _, rule, tighter)) = KEYS.iter().find(|(k, ..)| *k == key) else {
            if self.complain(source, key, |key| format!("parameter {key}: unknown"))
                && self.entries.len() < KEYS.len() + COMPLAINTS_MAX
            {
                self.entries.push(Param {
                    key: shown(key),
                    value: shown(value),
                    source: Source::Unknown,
                });
            }
            return;
        };
        if source == Source::Manifest && EARLY.contains(&key) {
            self.complain(source, key, |key| {
                format!("parameter {key}: from the manifest, limit the command line")
            });
            return;
        }
        let mut checked = rule.check(value);
        if source == Source::CommandLine
            && self.command_line == CommandLine::Tightens
            && checked.is_ok()
        {
            checked = tighter.check(value, signed).map_err(|l| l + BOUND);
        }
        match checked {
            Ok(()) => {
                if let Some(entry) = self.entries.iter_mut().find(|p| p.key == key) {
                    value.clone_into(&mut entry.value);
                    entry.source = source;
                }
            }
            Err(limit) => {
                self.complain(source, key, |key| {
                    format!("parameter {key}: value {}, limit {limit}", shown(value))
                });
            }
        }
    }

    /// Complains about a key once; says whether this is the first time.
    fn complain(
        &mut self,
        source: Source,
        key: &str,
        sentence: impl FnOnce(&str) -> String,
    ) -> bool {
        if self.named.iter().any(|(s, k)| *s == source && k == key) {
            return false;
        }
        self.named.push((source, key.to_owned()));
        if self.named.len() <= COMPLAINTS_MAX {
            self.complaints.push(sentence(&shown(key)));
        } else {
            self.unexplained.push(shown(key));
        }
        true
    }

    /// Names the keys that got no sentence of their own.
    fn name_the_rest(&mut self) {
        const LEAD: &str = "parameters refused as well:";
        let mut sentence = String::new();
        for key in std::mem::take(&mut self.unexplained) {
            if sentence.is_empty() || sentence.len() + 2 + key.len() > NAMES_BYTES_MAX {
                if !sentence.is_empty() {
                    self.complaints.push(sentence);
                }
                sentence = LEAD.to_owned();
            }
            sentence.push_str(if sentence == LEAD { " " } else { ", " });
            sentence.push_str(&key);
        }
        if !sentence.is_empty() {
            self.complaints.push(sentence);
        }
    }
}

/// Why a value that keeps its rule is refused all the same.
const BOUND: &str = " (a trusted key is in the image: the command line only tightens)";

impl Rule {
    fn check(self, value: &str) -> Result<(), String> {
        if value.chars().any(char::is_control) {
            return Err("no control characters".to_owned());
        }
        match self {
            Self::Text(most) if value.len() > most => Err(format!("{most} bytes")),
            Self::Text(_) => Ok(()),
            Self::Read(most, _) if value.len() > most => Err(format!("{most} bytes")),
            Self::Read(_, read) => read(value).map_err(str::to_owned),
            Self::Number(least, most) => match value.parse::<u64>() {
                Ok(n) if (least..=most).contains(&n) => Ok(()),
                _ => Err(format!("{least} to {most}")),
            },
            Self::Word(words) if words.contains(&value) => Ok(()),
            Self::Word(words) => Err(words.join("|")),
        }
    }
}

impl Tighter {
    /// Whether `value` leaves the machine at least as closed as `signed`; else what would.
    fn check(self, value: &str, signed: &str) -> Result<(), String> {
        let fits = match self {
            _ if value == signed => true,
            Self::Any => true,
            Self::Nothing => false,
            Self::Only(closed) => value == closed,
            Self::Not(open) => value != open,
            Self::Onwards(words) => {
                let place = |word: &str| words.iter().position(|w| *w == word);
                place(value) >= place(signed)
            }
            Self::Loopback => value
                .parse::<std::net::SocketAddr>()
                .is_ok_and(|address| address.ip().is_loopback()),
        };
        if fits {
            return Ok(());
        }
        let signed = shown(signed);
        Err(match self {
            Self::Any | Self::Nothing => signed,
            Self::Only(closed) if signed == closed => signed,
            Self::Only(closed) => format!("{signed}|{closed}"),
            Self::Not(open) => format!("anything but {open}"),
            Self::Onwards(words) => {
                let from = words.iter().position(|w| *w == signed).unwrap_or(0);
                words.get(from..).unwrap_or_default().join("|")
            }
            Self::Loopback => format!("{signed} or a loopback address"),
        })
    }
}

/// A hostile text made fit for a console line.
fn shown(text: &str) -> String {
    let fit = |c: char| match c {
        ' ' => c,
        c if c.is_ascii_graphic() || c.is_alphanumeric() => c,
        // Among others what turns the direction of the line or moves the cursor.
        _ => '?',
    };
    let mut clean: String = text.chars().take(SHOWN_CHARS_MAX).map(fit).collect();
    if clean.is_empty() {
        return "(empty)".to_owned();
    }
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        // Writing to a String cannot fail.
        let _ = write!(clean, "...({} bytes)", text.len());
    }
    clean
}

/// Words of a command line and where each ends: blanks separate, double quotes hold them together, as
/// the kernel reads it.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = line.get(at..)?;
        let begin = at + rest.find(|c: char| !c.is_ascii_whitespace())?;
        let mut quoted = false;
        let word = line.get(begin..)?;
        let length = word
            .find(|c: char| {
                quoted ^= c == '"';
                c.is_ascii_whitespace() && !quoted
            })
            .unwrap_or(word.len());
        at = begin + length;
        Some((at, line.get(begin..at)?))
    })
}

/// Key and value of a word without the quotes around either, as the kernel's `next_arg` takes them off.
fn split(word: &str) -> (&str, Option<&str>) {
    fn bare(text: &str) -> &str {
        text.strip_prefix('"')
            .map_or(text, |inner| inner.strip_suffix('"').unwrap_or(inner))
    }
    match bare(word).split_once('=') {
        Some((key, value)) => (key, Some(bare(value))),
        None => (bare(word), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wins(manifest: &[(&str, &str)], line: &str) -> Params {
        Params::new(manifest.iter().copied(), line, CommandLine::Wins)
    }

    fn tightens(manifest: &[(&str, &str)], line: &str) -> Params {
        Params::new(manifest.iter().copied(), line, CommandLine::Tightens)
    }

    #[test]
    fn the_command_line_wins_over_the_manifest_and_that_over_the_default() {
        let p = wins(
            &[("vb.heartbeat_ms", "200"), ("vb.log", "debug")],
            "ro vb.heartbeat_ms=50 quiet",
        );
        assert_eq!(
            (
                p.number("vb.heartbeat_ms"),
                p.get("vb.log"),
                p.get("vb.rts")
            ),
            (50, "debug", "auto")
        );
        assert!(p.complaints.is_empty());
    }

    #[test]
    fn what_counts_before_the_manifest_cannot_be_set_by_it() {
        let p = wins(&[("vb.modules", "off"), ("vb.log", "debug")], "");
        assert_eq!((p.get("vb.modules"), p.get("vb.log")), ("auto", "debug"));
        assert_eq!(
            p.complaints,
            ["parameter vb.modules: from the manifest, limit the command line"]
        );
    }

    #[test]
    fn wrong_values_are_named_and_leave_the_default() {
        let p = wins(
            &[],
            "vb.heartbeat_ms=7 vb.log=loud vb.nosuch=1 vb.heartbeat_ms vb.log=louder",
        );
        assert_eq!(p.number("vb.heartbeat_ms"), 100);
        assert_eq!(
            p.complaints,
            [
                "parameter vb.heartbeat_ms: value 7, limit 25 to 1000",
                "parameter vb.log: value loud, limit error|warn|info|debug",
                "parameter vb.nosuch: unknown",
            ]
        );
        assert_eq!(p.all().last().map(|p| p.source), Some(Source::Unknown));
    }

    #[test]
    fn quotes_hold_blanks_together_and_module_words_reach_their_module() {
        let p = wins(
            &[],
            r#"virtio_net.csum=1 "vb.hostname=a b" softdog.soft-margin=9 virtio-net.gso"#,
        );
        assert_eq!(p.get("vb.hostname"), "a b");
        assert_eq!(wins(&[], r#"vb.hostname="a b""#).get("vb.hostname"), "a b");
        assert_eq!(wins(&[], r#"vb.hostname="a b"#).get("vb.hostname"), "a b");
        assert_eq!(p.of_module("virtio_net").unwrap(), "csum=1 gso");
        assert_eq!(p.of_module("softdog").unwrap(), "soft-margin=9");
    }

    #[test]
    fn kernel_words_and_scraps_of_keys_do_no_harm() {
        let p = wins(
            &[],
            "nokaslr init=/bin/sh single -- vb.= vb VB.RTS= .x a. = \" vb.log=debug",
        );
        assert_eq!(
            p.complaints,
            ["parameter vb.: unknown", "parameter VB.RTS: unknown"]
        );
        // A quote that nobody closes takes the rest of the line with it, as in the kernel.
        assert_eq!(p.get("vb.log"), "info");
    }

    #[test]
    fn a_line_that_is_too_long_counts_up_to_its_last_whole_word() {
        let line = format!("vb.log=debug {} vb.http=1.2.3.4:80", "x".repeat(4072));
        assert_eq!(
            line.get(..4096).unwrap().rsplit(' ').next(),
            Some("vb.http=1.")
        );
        let p = wins(&[], &line);
        assert_eq!((p.get("vb.log"), p.get("vb.http")), ("debug", ""));
        assert_eq!(
            p.complaints,
            ["command line: 4104 bytes, limit 4096; the rest is not read"]
        );
    }

    #[test]
    fn with_a_trusted_key_the_command_line_only_tightens() {
        let manifest = [
            ("vb.net", "dhcp"),
            ("vb.console_mode", "readonly"),
            ("vb.log", "warn"),
        ];
        // Key, what is let through beside the value in force, what is refused, and the limit it names.
        let table: &[(&str, &[&str], &[&str], &str)] = &[
            ("vb.rts", &["/dev/vdz", "off"], &[], ""),
            ("vb.init", &[], &["initramfs"], "auto"),
            ("vb.manifest", &[], &["/m"], "(empty)"),
            ("vb.data", &["off", "/dev/vdb2"], &[], ""),
            ("vb.console", &["ttyS1"], &[], ""),
            ("vb.console_mode", &["off"], &["full"], "readonly|off"),
            ("vb.log", &["info", "debug"], &["error"], "warn|info|debug"),
            ("vb.heartbeat_ms", &["25", "1000"], &[], ""),
            ("vb.net", &["off"], &["1.2.3.4/24"], "dhcp|off"),
            ("vb.ntp", &["off"], &["1.2.3.4:123"], "dhcp|off"),
            (
                "vb.http",
                &["127.0.0.1:80", "[::1]:80"],
                &["0.0.0.0:80", "127.0.0.1", "localhost:80"],
                "(empty) or a loopback address",
            ),
            ("vb.hostname", &["a"], &[], ""),
            ("vb.require_signature", &["1"], &[], ""),
            ("vb.emergency", &["reboot", "halt"], &[], ""),
            ("vb.upgrade_watch_s", &[], &["0"], "30"),
            ("vb.evolution", &[], &["on"], "off"),
            ("vb.modules", &["off", "virtio_blk"], &[], ""),
            ("vb.watchdog", &["10"], &["off"], "anything but off"),
        ];
        assert_eq!(
            table.iter().map(|row| row.0).collect::<Vec<_>>(),
            KEYS.iter().map(|row| row.0).collect::<Vec<_>>()
        );
        let base = tightens(&manifest, "");
        for (key, good, bad, limit) in table {
            for value in good.iter().copied().chain([base.get(key)]) {
                let p = tightens(&manifest, &format!("{key}={value}"));
                assert_eq!(
                    (p.get(key), p.complaints.len()),
                    (value, 0),
                    "{key}={value}"
                );
            }
            for value in *bad {
                let p = tightens(&manifest, &format!("{key}={value}"));
                assert_eq!(p.get(key), base.get(key), "{key}={value}");
                let limit = format!(
                    "parameter {key}: value {value}, limit {limit} (a trusted key is in the image: the command line only tightens)"
                );
                assert_eq!(p.complaints, [limit]);
                // Without a key it may.
                assert_eq!(wins(&manifest, &format!("{key}={value}")).get(key), *value);
            }
        }
    }

    #[test]
    fn what_was_tightened_may_be_opened_again_up_to_what_was_signed() {
        let p = tightens(&[], "vb.console_mode=off vb.console_mode=readonly");
        assert_eq!(
            (p.get("vb.console_mode"), p.complaints.len()),
            ("readonly", 0)
        );
    }

    #[test]
    fn with_a_trusted_key_modules_are_told_nothing() {
        let p = tightens(&[], "softdog.soft_noboot=1 rd.break");
        assert_eq!(
            p.of_module("softdog").unwrap_err(),
            "module softdog: parameters soft_noboot=1, limit none (a trusted key is in the image: the command line only tightens)"
        );
        assert_eq!(p.of_module("virtio_blk"), Ok(String::new()));
    }

    /// The keys that complaints name, one entry each time.
    fn named(p: &Params) -> Vec<String> {
        let mut keys = Vec::new();
        for sentence in &p.complaints {
            if let Some(rest) = sentence.strip_prefix("parameter ") {
                keys.push(rest.split(':').next().unwrap().to_owned());
            } else if let Some(rest) = sentence.strip_prefix("parameters refused as well: ") {
                keys.extend(rest.split(", ").map(str::to_owned));
            }
        }
        keys
    }

    /// One word, the key that is to be named for it, and the key and value that are to be in force.
    #[derive(Debug, Clone)]
    struct Piece {
        text: String,
        bad: Option<String>,
        good: Option<(&'static str, String)>,
    }

    fn piece(text: impl Into<String>, bad: Option<&str>) -> Piece {
        Piece {
            text: text.into(),
            bad: bad.map(str::to_owned),
            good: None,
        }
    }

    fn pieces() -> impl Strategy<Value = Piece> {
        const BARE: &[&str] = &[
            "nokaslr", "init", "single", "--", "vb", "=", "ro", "a.b=c", "vbx.y=1", "init=/x",
        ];
        prop_oneof![
            // No key of ours is that short, in capitals, or full of digits.
            "[a-z]{2}[0-9]{1,60}"
                .prop_map(|k| piece(format!("vb.{k}=1"), Some(&format!("vb.{k}")))),
            "[A-Z0-9_-]{0,9}".prop_map(|k| piece(format!("VB.{k}"), Some(&format!("VB.{k}")))),
            Just(piece("vb.=", Some("vb."))),
            any::<u128>()
                .prop_map(|n| n.saturating_add(1001))
                .prop_map(|n| { piece(format!("vb.heartbeat_ms={n}"), Some("vb.heartbeat_ms")) }),
            "-?[0-9]?[.x][0-9]{0,30}"
                .prop_map(|n| piece(format!("vb.heartbeat_ms={n}"), Some("vb.heartbeat_ms"))),
            "[a-z]{6,70}".prop_map(|v| piece(format!("vb.log={v}"), Some("vb.log"))),
            "[a-z]{64,200}".prop_map(|v| piece(format!("vb.hostname={v}"), Some("vb.hostname"))),
            prop::sample::select(BARE).prop_map(|w| piece(w, None)),
            (0..4_usize).prop_map(|i| {
                let value = ["full", "readonly", "off"].get(i).copied();
                match value {
                    Some(value) => Piece {
                        text: format!("vb.console_mode=\"{value}\""),
                        bad: None,
                        good: Some(("vb.console_mode", value.to_owned())),
                    },
                    None => piece("vb.console_mode", Some("vb.console_mode")),
                }
            }),
            "[a-z]{1,8} [a-z]{1,8}".prop_map(|v| Piece {
                text: format!("\"vb.data={v}\""),
                bad: None,
                good: Some(("vb.data", v)),
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn any_bytes_leave_every_key_with_a_value_that_its_rule_allows(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..5000),
                "(vb\\.[a-z_]{0,12}=?|\\PC{0,20}|[\"= \n\u{1b}\u{202e}]){0,200}".prop_map(String::into_bytes),
                "((vb\\.)?(rts|log|net|http|console_mode|heartbeat_ms)=[0-9a-z\"]{0,5}[ \t]?){0,80}".prop_map(String::into_bytes),
            ],
            bound in any::<bool>(),
        ) {
            let line = String::from_utf8_lossy(&bytes);
            let p = if bound { tightens(&[], &line) } else { wins(&[], &line) };
            for (key, default, rule, tighter) in KEYS {
                let value = p.get(key);
                prop_assert!(rule.check(value).is_ok());
                prop_assert!(!bound || tighter.check(value, default).is_ok());
            }
            // Every name is at least `vb.` and a blank of the line, so their sum has its limit too.
            let text: usize = p.complaints.iter().map(String::len).sum();
            prop_assert!(p.complaints.len() <= COMPLAINTS_MAX + 1 + LINE_BYTES_MAX.div_ceil(NAMES_BYTES_MAX / 2) && text < 32 * 1024);
            for sentence in &p.complaints {
                prop_assert!(sentence.len() < 700 && !sentence.chars().any(char::is_control), "{sentence}");
            }
            let mut keys: Vec<_> = p.named.clone();
            keys.sort_by(|a, b| a.1.cmp(&b.1));
            keys.dedup();
            prop_assert_eq!(keys.len(), p.named.len());
        }

        #[test]
        fn every_bad_key_is_named_once_and_good_ones_survive_beside_them(
            pieces in prop::collection::vec(pieces(), 0..60),
        ) {
            let mut line = String::new();
            let (mut bad, mut good) = (Vec::new(), std::collections::BTreeMap::new());
            for piece in pieces {
                if line.len() + 1 + piece.text.len() > LINE_BYTES_MAX {
                    continue;
                }
                line.push(' ');
                line.push_str(&piece.text);
                bad.extend(piece.bad.map(|key| shown(&key)));
                good.extend(piece.good);
            }
            let p = wins(&[], &line);
            bad.sort();
            bad.dedup();
            let mut found = named(&p);
            found.sort();
            prop_assert_eq!(found, bad, "{}", line);
            for (key, value) in good {
                prop_assert_eq!(p.get(key), value);
            }
        }
    }
}
