//! A command line becomes words, and words become options and arguments.
//!
//! Pure. Quotes work as in a shell (`"a b"`, `'{"x":1}'`, `\"`), nothing else does: no variables,
//! no pipes, no globbing. Start with [`split`] and [`Words::parse`].

use super::commands::Failure;

/// Words of one command line.
pub const WORDS_MAX: usize = 64;
/// Bytes of one command line from a program; a person's is shorter.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Splits a line into words.
///
/// Errors: a quote that is not closed, a line or a number of words past its limit.
pub fn split(line: &str) -> Result<Vec<String>, Failure> {
    if line.len() > LINE_BYTES_MAX {
        let found = line.len();
        return Err(Failure::usage(format!(
            "line is {found} bytes, at most {LINE_BYTES_MAX}"
        )));
    }
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                let next = chars
                    .next()
                    .ok_or_else(|| Failure::usage("nothing follows the last \\"))?;
                word.get_or_insert_default().push(next);
            }
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
        if words.len() > WORDS_MAX {
            return Err(Failure::usage(format!("line has over {WORDS_MAX} words")));
        }
    }
    if let Some(open) = quote {
        return Err(Failure::usage(format!("quote {open} is not closed")));
    }
    words.extend(word);
    Ok(words)
}

/// The words behind a command, options apart from arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    flags: Vec<&'static str>,
    values: Vec<(&'static str, String)>,
    /// What is no option, in order.
    pub arguments: Vec<String>,
}

impl Words {
    /// Tells options apart: `flags` stand alone, `valued` take the next word (or `--name=value`).
    /// Behind `--` everything is an argument. At most `arguments_max` arguments.
    ///
    /// Errors: an option not in the lists, one without its value, an argument too many.
    pub fn parse(
        words: &[String],
        flags: &[&'static str],
        valued: &[&'static str],
        arguments_max: usize,
    ) -> Result<Self, Failure> {
        let mut this = Self::default();
        let mut rest = words.iter();
        let mut options = true;
        while let Some(word) = rest.next() {
            let is_option = options && word.len() > 1 && word.starts_with('-');
            let (name, joined) = match word.split_once('=') {
                Some((name, value)) if is_option && word.starts_with("--") => (name, Some(value)),
                _ => (word.as_str(), None),
            };
            if options && word == "--" {
                options = false;
            } else if !is_option {
                this.arguments.push(word.clone());
            } else if let (Some(flag), None) = (flags.iter().find(|f| **f == name), joined) {
                this.flags.push(flag);
            } else if let Some(option) = valued.iter().find(|v| **v == name) {
                let value = joined.map(str::to_owned).or_else(|| rest.next().cloned());
                let value = value.ok_or_else(|| Failure::usage(format!("{name} needs a value")))?;
                this.values.push((option, value));
            } else {
                return Err(Failure::usage(format!("unknown option {name}")));
            }
        }
        if let Some(extra) = this.arguments.get(arguments_max) {
            return Err(Failure::usage(format!("unexpected argument \"{extra}\"")));
        }
        Ok(this)
    }

    /// Whether the flag was given.
    pub fn flag(&self, name: &str) -> bool {
        self.flags.contains(&name)
    }

    /// The last value given for the option.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    }

    /// The option's value as a number within bounds, or `default`.
    ///
    /// Errors: no number, or outside.
    pub fn number(&self, name: &str, default: u64, min: u64, max: u64) -> Result<u64, Failure> {
        self.value(name)
            .map_or(Ok(default), |text| number(name, text, min, max))
    }

    /// The argument at this place.
    pub fn argument(&self, at: usize) -> Option<&str> {
        self.arguments.get(at).map(String::as_str)
    }

    /// The argument at this place, which must be there.
    ///
    /// Errors: it is not.
    pub fn required(&self, at: usize, what: &str) -> Result<&str, Failure> {
        self.argument(at)
            .ok_or_else(|| Failure::usage(format!("{what} is missing")))
    }
}

/// Reads a number within bounds.
///
/// Errors: no number, or outside.
pub fn number(what: &str, text: &str, min: u64, max: u64) -> Result<u64, Failure> {
    let read = text.parse::<u64>().ok().filter(|n| (min..=max).contains(n));
    read.ok_or_else(|| {
        Failure::usage(format!(
            "{what} is \"{text}\", a number from {min} to {max}"
        ))
    })
}

/// Whether `text` matches a pattern of `*` (any run), `?` (one character) and literals.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut read) = (0, 0);
    // Where the last `*` stands and how much of the text it has taken: the only place to go back to.
    let mut star: Option<(usize, usize)> = None;
    while read < t.len() {
        match p.get(at) {
            Some('*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(c) if *c == '?' || Some(c) == t.get(read) => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((place, taken)) => {
                    star = Some((place, taken + 1));
                    at = place + 1;
                    read = taken + 1;
                }
                None => return false,
            },
        }
    }
    p.iter().skip(at).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(line: &str) -> Vec<String> {
        split(line).unwrap()
    }

    #[test]
    fn quotes_keep_words_together_and_nothing_else_is_special() {
        assert_eq!(words("  log  gateway -n 5 "), ["log", "gateway", "-n", "5"]);
        assert_eq!(
            words(r#"ledger query '{"type": "x"}' "a \" b" c\ d "" $HOME|*"#),
            [
                "ledger",
                "query",
                r#"{"type": "x"}"#,
                "a \" b",
                "c d",
                "",
                "$HOME|*"
            ]
        );
        assert!(words("").is_empty());
    }

    #[test]
    fn broken_lines_are_named() {
        for (line, reason) in [
            ("log 'x", "quote ' is not closed"),
            ("log \\", "nothing follows the last \\"),
            (&"a ".repeat(WORDS_MAX + 2), "line has over 64 words"),
            (
                &"a".repeat(LINE_BYTES_MAX + 1),
                "line is 65537 bytes, at most 65536",
            ),
        ] {
            assert_eq!(split(line).unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn options_may_stand_anywhere() {
        let parsed = Words::parse(
            &words("gateway -n 5 -f x --for=3 -- -n"),
            &["-f"],
            &["-n", "--for"],
            3,
        )
        .unwrap();
        assert_eq!(parsed.arguments, ["gateway", "x", "-n"]);
        assert!(parsed.flag("-f") && !parsed.flag("-x"));
        assert_eq!(parsed.number("-n", 1, 1, 9).unwrap(), 5);
        assert_eq!(parsed.number("--for", 1, 1, 9).unwrap(), 3);
        assert_eq!(parsed.number("--other", 7, 1, 9).unwrap(), 7);
    }

    #[test]
    fn wrong_options_are_usage_errors_with_their_limits() {
        let parse = |line: &str| Words::parse(&words(line), &["-f"], &["-n"], 1);
        assert_eq!(parse("-x").unwrap_err().to_string(), "unknown option -x");
        assert_eq!(parse("-n").unwrap_err().to_string(), "-n needs a value");
        assert_eq!(
            parse("a b").unwrap_err().to_string(),
            "unexpected argument \"b\""
        );
        let number = parse("-n 70000")
            .unwrap()
            .number("-n", 1, 1, 65536)
            .unwrap_err();
        assert_eq!(
            number.to_string(),
            "-n is \"70000\", a number from 1 to 65536"
        );
    }

    #[test]
    fn globs_match_whole_names() {
        for (pattern, text, expected) in [
            ("blk.0.*", "blk.0.attn_q.weight", true),
            ("blk.0.*", "blk.10.attn_q.weight", false),
            ("*.weight", "blk.0.attn_q.weight", true),
            ("*attn_?.w*t", "blk.0.attn_q.weight", true),
            ("blk", "blk.0", false),
            ("*", "", true),
            ("?", "", false),
            ("a*b*c", "aXbYbZc", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics_and_quoting_brings_a_word_through(line in ".{0,200}", word in "[^'\\\\]{0,40}") {
            let _ = split(&line);
            prop_assert_eq!(words(&format!("x '{word}'")), ["x".to_owned(), word]);
        }

        #[test]
        fn a_name_matches_itself_and_any_of_its_heads_with_a_star(name in "[a-z.]{0,30}", at in any::<proptest::sample::Index>()) {
            let head = &name[..at.index(name.len() + 1)];
            let pattern = format!("{head}*");
            prop_assert!(glob(&name, &name) && glob(&pattern, &name));
        }
    }
}
