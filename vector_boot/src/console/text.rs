//! How values look to a person: units, aligned columns, and nothing that a terminal would obey.
//!
//! Plain ASCII for what we write ourselves; what others wrote is shown with terminal controls
//! replaced. Pure. Start with [`Table`].

use std::fmt::Write as _;

/// Width that tables keep to where their content lets them.
pub const WIDTH: usize = 80;
/// Longest cell; a longer text is cut and marked.
const CELL_CHARS_MAX: usize = 400;

/// Whether a character could steer a terminal or hide what follows: controls and the marks that
/// turn the reading direction.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with every unsafe character shown as `?`; a tabulator becomes a space.
pub fn clean(text: &str) -> String {
    let shown = |c| match c {
        '\t' => ' ',
        c if is_unsafe(c) => '?',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// The text cut to at most this many characters, `...` where something was cut.
pub fn cut(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars_max.saturating_sub(3)).collect();
    kept + "..."
}

/// `1.5 MiB`; below 1 KiB the plain number of bytes.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    // The precision of f64 is far beyond the one digit shown.
    let mut value = n as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// `12.345 ms`, `120.5 ms`, `12.3 s`: three to five digits that matter.
pub fn span(ns: u64) -> String {
    // As above: f64 holds more than is shown.
    let ms = ns as f64 / 1e6;
    match ns {
        0..=99_999_999 => format!("{ms:.3} ms"),
        100_000_000..=9_999_999_999 => format!("{ms:.1} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

/// `42 s`, `3 min 07 s`, `2 h 05 min`, `3 d 04 h`: for spans that people live through.
pub fn age(ns: u64) -> String {
    let s = ns / 1_000_000_000;
    match s {
        0..=9 => format!("{}.{} s", s, ns / 100_000_000 % 10),
        10..=59 => format!("{s} s"),
        60..=3599 => format!("{} min {:02} s", s / 60, s % 60),
        3600..=86_399 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {:02} h", s / 86_400, s / 3600 % 24),
    }
}

/// Lower-case hex digits.
pub fn hex(raw: &[u8]) -> String {
    raw.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A bar of `#` that is `part` of `whole` of `width`; anything above nothing shows.
pub fn bar(part: u64, whole: u64, width: usize) -> String {
    if part == 0 || whole == 0 {
        return String::new();
    }
    let scaled = u128::from(part.min(whole)) * width as u128 / u128::from(whole);
    "#".repeat(usize::try_from(scaled).unwrap_or(width).max(1))
}

/// Which way a column leans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lean {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under one head, columns as wide as their widest cell.
#[derive(Debug)]
pub struct Table {
    head: Vec<(&'static str, Lean)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Columns by name; a name that begins with `>` makes a column of numbers.
    pub fn new(head: &[&'static str]) -> Self {
        let column = |name: &&'static str| match name.strip_prefix('>') {
            Some(rest) => (rest, Lean::Right),
            None => (*name, Lean::Left),
        };
        Self {
            head: head.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells are cleaned.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        let tidy = |c: String| cut(&clean(&c), CELL_CHARS_MAX);
        self.rows.push(cells.into_iter().map(tidy).collect());
    }

    /// The lines, head first; no line ends in spaces.
    pub fn lines(&self) -> Vec<String> {
        let head: Vec<String> = self.head.iter().map(|(n, _)| (*n).to_owned()).collect();
        let width = |at: usize| {
            let cells = std::iter::once(&head).chain(&self.rows);
            cells
                .filter_map(|r| r.get(at))
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let mut text = String::new();
            for ((cell, width), (_, lean)) in row.iter().zip(&widths).zip(&self.head) {
                let gap = if text.is_empty() { "" } else { "  " };
                // Writing to a String cannot fail.
                let _ = match lean {
                    Lean::Left => write!(text, "{gap}{cell:<width$}"),
                    Lean::Right => write!(text, "{gap}{cell:>width$}"),
                };
            }
            text.trim_end().to_owned()
        };
        std::iter::once(&head).chain(&self.rows).map(line).collect()
    }
}

/// Lines of `name  value` with the values below each other; an empty value is left out.
pub fn pairs(pairs: &[(&str, String)]) -> Vec<String> {
    let width = pairs.iter().map(|(n, _)| n.len()).max().unwrap_or(0);
    let shown = pairs.iter().filter(|(_, v)| !v.is_empty());
    shown
        .map(|(n, v)| format!("{n:<width$}  {}", clean(v)))
        .collect()
}

/// Words of a paragraph in lines of at most `width` columns.
pub fn wrap(text: &str, width: usize, indent: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_spans_carry_their_units() {
        let sizes = [0, 1023, 1024, 98_362_432, 1_048_524, 1 << 40, u64::MAX];
        let shown: Vec<_> = sizes.into_iter().map(bytes).collect();
        assert_eq!(
            shown,
            [
                "0 B",
                "1023 B",
                "1.0 KiB",
                "93.8 MiB",
                "1023.9 KiB",
                "1.0 TiB",
                "16384.0 PiB"
            ]
        );
        assert_eq!(span(1_234_567), "1.235 ms");
        assert_eq!(span(843_000_000), "843.0 ms");
        assert_eq!(span(12_345_000_000), "12.3 s");
        let ages = [
            1_500_000_000,
            42_000_000_000,
            187_000_000_000,
            7_500_000_000_000,
            273_600_000_000_000,
        ];
        let shown: Vec<_> = ages.into_iter().map(age).collect();
        assert_eq!(
            shown,
            ["1.5 s", "42 s", "3 min 07 s", "2 h 05 min", "3 d 04 h"]
        );
    }

    #[test]
    fn columns_line_up_and_numbers_lean_right() {
        let mut table = Table::new(&["NAME", ">BYTES", "NOTE"]);
        table.row(["a".into(), "7".into(), "first".into()]);
        table.row(["longer".into(), "1234567".into(), String::new()]);
        assert_eq!(
            table.lines(),
            [
                "NAME      BYTES  NOTE",
                "a             7  first",
                "longer  1234567"
            ]
        );
    }

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\u{9b}c\u{202e}d\te\r\n"), "a?[2Jb?c?d e??");
    }

    #[test]
    fn bars_show_the_smallest_share_and_never_overflow() {
        assert_eq!(bar(0, 10, 8), "");
        assert_eq!(bar(1, 1_000_000, 8), "#");
        assert_eq!(bar(u64::MAX, 1, 8), "########");
        assert_eq!(bar(5, 10, 8), "####");
    }

    proptest! {
        #[test]
        fn every_number_has_a_text_and_every_cut_keeps_its_length(n in any::<u64>(), text in ".{0,40}", max in 3usize..30) {
            prop_assert!(bytes(n).len() <= 12 && span(n).len() <= 16 && !age(n).is_empty());
            prop_assert!(cut(&text, max).chars().count() <= max.max(3));
            prop_assert!(!clean(&text).chars().any(is_unsafe));
        }

        #[test]
        fn wrapped_words_are_all_there(text in "[a-z ]{0,200}") {
            let lines = wrap(&text, 30, "");
            prop_assert_eq!(lines.join(" "), text.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
}
