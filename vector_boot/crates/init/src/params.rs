//! Kernel parameters: the `vb.` keys in force, and what modules are told.
//!
//! Pure: takes the text of `/proc/cmdline`. argv is never read, since the kernel passes words there
//! that it does not know. Hostile text leaves the defaults standing and is named in a complaint.

use std::fmt::Write as _;

/// The kernel's own limit (COMMAND_LINE_SIZE is 2048 on x86 and arm64); a longer text is not its.
const LINE_BYTES_MAX: usize = 4096;
/// Complaints that are worth reading; the rest are counted.
const COMPLAINTS_MAX: usize = 16;

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
    /// One of these words.
    Word(&'static [&'static str]),
}

/// Every key, its default and its rule. `docs/parameters.md` says the same for people.
const KEYS: &[(&str, &str, Rule)] = &[
    ("vb.rts", "auto", Rule::Text(128)),
    ("vb.manifest", "", Rule::Text(128)),
    ("vb.data", "auto", Rule::Text(128)),
    ("vb.console", "auto", Rule::Text(32)),
    (
        "vb.console_mode",
        "full",
        Rule::Word(&["full", "readonly", "off"]),
    ),
    (
        "vb.log",
        "info",
        Rule::Word(&["error", "warn", "info", "debug"]),
    ),
    // Below 25 ms the loop would be most of the machine; above 1 s the watchdog's margin is gone.
    ("vb.heartbeat_ms", "100", Rule::Number(25, 1000)),
    ("vb.net", "off", Rule::Text(64)),
    ("vb.http", "", Rule::Text(64)),
    ("vb.hostname", "", Rule::Text(63)),
    ("vb.require_signature", "0", Rule::Word(&["0", "1"])),
    (
        "vb.emergency",
        "console",
        Rule::Word(&["console", "reboot", "halt"]),
    ),
    ("vb.modules", "auto", Rule::Text(256)),
    ("vb.watchdog", "auto", Rule::Text(32)),
];

/// Keys that count before there is a manifest: only the command line can set them.
const EARLY: &[&str] = &[
    "vb.rts",
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
    /// One sentence a wrong key or value, naming key, value and limit.
    pub complaints: Vec<String>,
}

impl Params {
    /// The defaults, then the manifest's values, then the command line's.
    #[must_use]
    pub fn new<'m>(manifest: impl IntoIterator<Item = (&'m str, &'m str)>, line: &str) -> Self {
        let entries = KEYS
            .iter()
            .map(|(key, value, _)| Param {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
                source: Source::Default,
            })
            .collect();
        let mut this = Self {
            entries,
            modules: Vec::new(),
            complaints: Vec::new(),
        };
        for (key, value) in manifest {
            this.set(key, value, Source::Manifest);
        }
        this.read_line(line);
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
    #[must_use]
    pub fn of_module(&self, module: &str) -> String {
        let mut text = String::new();
        for (name, setting) in &self.modules {
            if name.replace('-', "_") == module.replace('-', "_") {
                let gap = if text.is_empty() { "" } else { " " };
                // Writing to a String cannot fail.
                let _ = write!(text, "{gap}{setting}");
            }
        }
        text
    }

    fn read_line(&mut self, line: &str) {
        let mut end = line.len().min(LINE_BYTES_MAX);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        if end < line.len() {
            self.complain(format!(
                "command line: {} bytes, limit {LINE_BYTES_MAX}; the rest is not read",
                line.len()
            ));
        }
        for word in words(line.get(..end).unwrap_or_default()) {
            let (key, value) = word.split_once('=').unwrap_or((&word, ""));
            if key.starts_with("vb.") {
                self.set(key, value.trim_matches('"'), Source::CommandLine);
            } else if let Some((module, setting)) = key.split_once('.')
                && !module.is_empty()
            {
                let gap = if word.contains('=') { "=" } else { "" };
                self.modules
                    .push((module.to_owned(), format!("{setting}{gap}{value}")));
            }
        }
    }

    fn set(&mut self, key: &str, value: &str, source: Source) {
        let Some((_, _, rule)) = KEYS.iter().find(|(k, _, _)| *k == key) else {
            self.complain(format!("parameter {}: unknown", shown(key)));
            let (key, value) = (shown(key), shown(value));
            if self.entries.iter().all(|p| p.key != key)
                && self.entries.len() < KEYS.len() + COMPLAINTS_MAX
            {
                self.entries.push(Param {
                    key,
                    value,
                    source: Source::Unknown,
                });
            }
            return;
        };
        if source == Source::Manifest && EARLY.contains(&key) {
            self.complain(format!(
                "parameter {key}: from the manifest, limit the command line"
            ));
            return;
        }
        match rule.check(value) {
            Ok(()) => {
                if let Some(entry) = self.entries.iter_mut().find(|p| p.key == key) {
                    value.clone_into(&mut entry.value);
                    entry.source = source;
                }
            }
            Err(limit) => self.complain(format!(
                "parameter {key}: value {}, limit {limit}",
                shown(value)
            )),
        }
    }

    fn complain(&mut self, sentence: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(sentence);
        }
    }
}

impl Rule {
    fn check(self, value: &str) -> Result<(), String> {
        if value.chars().any(char::is_control) {
            return Err("no control characters".to_owned());
        }
        match self {
            Self::Text(most) if value.len() > most => Err(format!("{most} bytes")),
            Self::Text(_) => Ok(()),
            Self::Number(least, most) => match value.parse::<u64>() {
                Ok(n) if (least..=most).contains(&n) => Ok(()),
                _ => Err(format!("{least} to {most}")),
            },
            Self::Word(words) if words.contains(&value) => Ok(()),
            Self::Word(words) => Err(words.join("|")),
        }
    }
}

/// A hostile text made fit for a console line.
fn shown(text: &str) -> String {
    let clean: String = text
        .chars()
        .take(48)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if clean.is_empty() {
        "(empty)".to_owned()
    } else {
        clean
    }
}

/// Words of a command line: blanks separate, double quotes hold them together, as the kernel reads it.
fn words(line: &str) -> impl Iterator<Item = String> + '_ {
    let mut rest = line.chars();
    std::iter::from_fn(move || {
        let (mut word, mut quoted) = (String::new(), false);
        for c in rest.by_ref() {
            match c {
                '"' => {
                    quoted = !quoted;
                    word.push(c);
                }
                c if c.is_ascii_whitespace() && !quoted => {
                    if !word.is_empty() {
                        break;
                    }
                }
                c => word.push(c),
            }
        }
        (!word.is_empty()).then_some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_command_line_wins_over_the_manifest_and_that_over_the_default() {
        let p = Params::new(
            [("vb.heartbeat_ms", "200"), ("vb.log", "debug")],
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
        let p = Params::new([("vb.modules", "off"), ("vb.log", "debug")], "");
        assert_eq!((p.get("vb.modules"), p.get("vb.log")), ("auto", "debug"));
        assert_eq!(
            p.complaints,
            ["parameter vb.modules: from the manifest, limit the command line"]
        );
    }

    #[test]
    fn wrong_values_are_named_and_leave_the_default() {
        let p = Params::new(
            [],
            "vb.heartbeat_ms=7 vb.log=loud vb.nosuch=1 vb.heartbeat_ms",
        );
        assert_eq!(p.number("vb.heartbeat_ms"), 100);
        assert_eq!(
            p.complaints[0],
            "parameter vb.heartbeat_ms: value 7, limit 25 to 1000"
        );
        assert_eq!(
            p.complaints[1],
            "parameter vb.log: value loud, limit error|warn|info|debug"
        );
        assert_eq!(p.complaints[2], "parameter vb.nosuch: unknown");
        assert_eq!(p.all().last().map(|p| p.source), Some(Source::Unknown));
    }

    #[test]
    fn quotes_hold_blanks_together_and_module_words_reach_their_module() {
        let p = Params::new(
            [],
            r#"virtio_net.csum=1 "vb.hostname=a b" softdog.soft-margin=9 virtio-net.gso"#,
        );
        assert_eq!(p.get("vb.hostname"), "");
        let p2 = Params::new([], r#"vb.hostname="a b""#);
        assert_eq!(p2.get("vb.hostname"), "a b");
        assert_eq!(p.of_module("virtio_net"), "csum=1 gso");
        assert_eq!(p.of_module("softdog"), "soft-margin=9");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn any_line_leaves_every_key_with_a_value_that_its_rule_allows(line in "(vb\\.[a-z_]{1,12}=?|\\PC{0,20}|[\"= \\n]){0,40}") {
            let p = Params::new([], &line);
            for (key, _, rule) in KEYS {
                prop_assert!(rule.check(p.get(key)).is_ok());
            }
            prop_assert!(p.complaints.len() <= COMPLAINTS_MAX);
        }
    }
}
