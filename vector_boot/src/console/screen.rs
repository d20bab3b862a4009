//! What of the line is visible, and the fewest bytes that bring a terminal there.
//!
//! Uses printable characters, backspace and carriage return alone, so that the simplest terminal
//! shows it right; never asks the terminal where its cursor is. A long line scrolls sideways.
//! Assumes one column a character. Start with [`Screen::draw`].

/// Columns where the terminal does not say: the width that serial terminals have had for ever.
pub const COLUMNS_DEFAULT: usize = 80;
/// Narrowest terminal that is believed.
const COLUMNS_MIN: usize = 20;

/// The row of the prompt, as the terminal shows it.
#[derive(Debug, Clone)]
pub struct Screen {
    columns: usize,
    shown: Vec<char>,
    cursor: usize,
    /// First character of the line that is visible.
    first: usize,
}

impl Screen {
    /// An empty row of a terminal this wide.
    pub fn new(columns: usize) -> Self {
        Self {
            columns: columns.max(COLUMNS_MIN),
            shown: Vec::new(),
            cursor: 0,
            first: 0,
        }
    }

    /// The terminal stands at the beginning of an empty row, whatever was shown before.
    pub fn forget(&mut self) {
        self.shown.clear();
        self.cursor = 0;
        self.first = 0;
    }

    /// The bytes that show `prompt` and `line` with the cursor at byte `cursor` of the line.
    pub fn draw(&mut self, prompt: &str, line: &str, cursor: usize) -> String {
        let prompt: Vec<char> = prompt.chars().collect();
        let text: Vec<char> = line.chars().collect();
        let at = line.get(..cursor).map_or(text.len(), |l| l.chars().count());
        // The last column stays free: a character there makes some terminals wrap at once.
        let room = self.columns.saturating_sub(prompt.len() + 1).max(1);
        self.scroll(at, text.len(), room);
        let visible = text.iter().skip(self.first).take(room);
        let row: Vec<char> = prompt.iter().chain(visible).copied().collect();
        let target = prompt.len() + at - self.first;
        self.change(row, target)
    }

    /// The bytes that empty the row and leave the cursor at its beginning.
    pub fn wipe(&mut self) -> String {
        let bytes = self.change(Vec::new(), 0);
        self.forget();
        bytes
    }

    fn scroll(&mut self, at: usize, length: usize, room: usize) {
        if length <= room {
            self.first = 0;
        } else if at < self.first || at > self.first + room {
            // A third of the row stays visible around the cursor, so that it does not scroll at once again.
            self.first = at.saturating_sub(room * 2 / 3);
        } else {
            self.first = self.first.min(length - room.min(length));
        }
    }

    fn change(&mut self, row: Vec<char>, target: usize) -> String {
        let same = row
            .iter()
            .zip(&self.shown)
            .take_while(|(a, b)| a == b)
            .count();
        let mut out = String::new();
        if row != self.shown {
            self.step_to(same, &mut out);
            out.extend(row.iter().skip(same));
            let leftover = self.shown.len().saturating_sub(row.len());
            out.extend(std::iter::repeat_n(' ', leftover));
            self.cursor = row.len() + leftover;
            self.shown = row;
        }
        self.step_to(target, &mut out);
        out
    }

    /// Moves left by backspaces or a carriage return, right by printing what is there.
    fn step_to(&mut self, target: usize, out: &mut String) {
        if target < self.cursor {
            let back = self.cursor - target;
            if back <= target + 1 {
                out.extend(std::iter::repeat_n('\u{8}', back));
            } else {
                out.push('\r');
                out.extend(self.shown.iter().take(target));
            }
        } else {
            let ahead = target - self.cursor;
            out.extend(self.shown.iter().skip(self.cursor).take(ahead));
        }
        self.cursor = target;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A terminal that knows printable characters, backspace and carriage return.
    #[derive(Default)]
    struct Dumb {
        row: Vec<char>,
        at: usize,
        bytes: usize,
    }

    impl Dumb {
        fn take(&mut self, text: &str) {
            for c in text.chars() {
                self.bytes += c.len_utf8();
                match c {
                    '\r' => self.at = 0,
                    '\u{8}' => self.at = self.at.checked_sub(1).expect("left of the row"),
                    c => {
                        assert!(!c.is_control(), "{c:?}");
                        if self.at == self.row.len() {
                            self.row.push(' ');
                        }
                        self.row[self.at] = c;
                        self.at += 1;
                    }
                }
            }
        }

        fn text(&self) -> String {
            self.row.iter().collect::<String>().trim_end().to_owned()
        }
    }

    #[test]
    fn typing_at_the_end_costs_one_byte_a_key() {
        let (mut screen, mut dumb) = (Screen::new(80), Dumb::default());
        dumb.take(&screen.draw("vb> ", "", 0));
        for n in 1..=6 {
            assert_eq!(screen.draw("vb> ", &"status"[..n], n), "status"[n - 1..n]);
        }
        assert_eq!(screen.draw("vb> ", "statu", 5), "\u{8} \u{8}");
    }

    #[test]
    fn a_notice_above_the_prompt_leaves_the_line_as_it_was() {
        let (mut screen, mut dumb) = (Screen::new(80), Dumb::default());
        dumb.take(&screen.draw("vb> ", "log gateway", 3));
        dumb.take(&screen.wipe());
        assert_eq!((dumb.text().as_str(), dumb.at), ("", 0));
        dumb.take(&screen.draw("vb> ", "log gateway", 3));
        assert_eq!((dumb.text().as_str(), dumb.at), ("vb> log gateway", 7));
    }

    proptest! {
        #[test]
        fn the_terminal_shows_the_line_around_the_cursor(
            steps in proptest::collection::vec(("[a-z\u{e4}]{0,200}", any::<proptest::sample::Index>()), 1..12),
            columns in 20usize..120,
        ) {
            let (mut screen, mut dumb) = (Screen::new(columns), Dumb::default());
            for (line, at) in steps {
                let borders: Vec<usize> = line.char_indices().map(|(i, _)| i).chain([line.len()]).collect();
                let cursor = borders[at.index(borders.len())];
                dumb.take(&screen.draw("vb> ", &line, cursor));
                let row = dumb.text();
                prop_assert!(row.chars().count() < columns);
                prop_assert!(row.starts_with("vb>"));
                prop_assert!(dumb.at < columns);
                // What stands left and right of the terminal's cursor stands so in the line.
                let left: String = dumb.row.iter().take(dumb.at).skip(4).collect();
                prop_assert!(line[..cursor].ends_with(&left));
                let right: String = dumb.row.iter().skip(dumb.at).collect();
                prop_assert!(line[cursor..].starts_with(right.trim_end()));
                if line.chars().count() + 5 <= columns {
                    let expected = format!("vb> {line}");
                    prop_assert_eq!(row, expected.trim_end());
                }
            }
        }
    }
}
