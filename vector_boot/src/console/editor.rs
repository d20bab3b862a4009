//! The line editor: bytes in, actions out.
//!
//! Owns the line, the cursor, the history and the half-read key. A pure state machine: it reads no
//! terminal and writes none; [`super::screen`] shows what it holds, `super::serial` does what it asks.
//!
//! Never here: a panic on any byte, a line or a history without an end. Start with [`Editor::feed`].

use std::collections::VecDeque;

/// Longest line in bytes: commands fit in a fraction, and a stuck key stops here.
pub const LINE_BYTES_MAX: usize = 1024;
/// Lines remembered.
pub const HISTORY_MAX: usize = 100;
/// Longest escape sequence worth reading; the rest of a longer one is ordinary input.
const ESCAPE_BYTES_MAX: usize = 16;

const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
const ESCAPE: u8 = 0x1b;

/// Makes the byte that a terminal sends for Ctrl and a letter.
const fn control(letter: u8) -> u8 {
    letter & 0x1f
}

/// What the shell of the editor is to do. Redrawing is always due as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run this line; the editor holds an empty one already.
    Submit(String),
    /// Find completions for the text before the cursor, then [`Editor::insert`] them.
    Complete,
    /// Ctrl-C: the line is gone, begin a new one.
    Cancel,
    /// Ctrl-D on an empty line.
    Leave,
    /// Ctrl-L: clear the screen and draw the line again.
    Clear,
    /// The key does nothing here.
    Bell,
}

/// Where in a key of several bytes the input stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// Between keys.
    Ground,
    /// Behind ESC.
    Escape,
    /// Behind `ESC [`, this many bytes long, with the first parameter.
    Sequence {
        bytes: usize,
        first: u16,
        done: bool,
    },
    /// Behind `ESC O`.
    Application,
    /// In a UTF-8 character: bytes so far and bytes wanted.
    Character {
        bytes: [u8; 4],
        have: usize,
        want: usize,
    },
}

/// The line being edited.
#[derive(Debug, Clone)]
pub struct Editor {
    line: String,
    /// Byte offset into `line`, always at a border of characters.
    cursor: usize,
    history: VecDeque<String>,
    /// Place in `history` while browsing it.
    browsing: Option<usize>,
    /// The line as it was before browsing.
    stash: String,
    /// What Ctrl-U, Ctrl-K and Ctrl-W took last.
    killed: String,
    key: Key,
    after_return: bool,
}

impl Default for Editor {
    fn default() -> Self {
        Self {
            line: String::new(),
            cursor: 0,
            history: VecDeque::new(),
            browsing: None,
            stash: String::new(),
            killed: String::new(),
            key: Key::Ground,
            after_return: false,
        }
    }
}

impl Editor {
    /// The line and the byte offset of the cursor in it.
    pub fn line(&self) -> (&str, usize) {
        (&self.line, self.cursor)
    }

    /// The line up to the cursor.
    pub fn before_cursor(&self) -> &str {
        self.line.get(..self.cursor).unwrap_or_default()
    }

    /// Lines remembered, oldest first.
    #[cfg(test)]
    pub fn history(&self) -> impl Iterator<Item = &str> {
        self.history.iter().map(String::as_str)
    }

    /// Puts text at the cursor; `false` if the line would become longer than [`LINE_BYTES_MAX`].
    pub fn insert(&mut self, text: &str) -> bool {
        let fits = self.line.len().saturating_add(text.len()) <= LINE_BYTES_MAX;
        if fits {
            self.line.insert_str(self.cursor, text);
            self.cursor += text.len();
            self.browsing = None;
        }
        fits
    }

    /// Takes one byte of input.
    pub fn feed(&mut self, byte: u8) -> Option<Action> {
        let after_return = std::mem::take(&mut self.after_return);
        match self.key {
            Key::Ground => self.ground(byte, after_return),
            Key::Escape => self.escape(byte),
            Key::Sequence { bytes, first, done } => self.sequence(byte, bytes, first, done),
            Key::Application => {
                self.key = Key::Ground;
                self.letter(byte, 1)
            }
            Key::Character { bytes, have, want } => self.character(byte, bytes, have, want),
        }
    }

    fn ground(&mut self, byte: u8, after_return: bool) -> Option<Action> {
        const A: u8 = control(b'a');
        const B: u8 = control(b'b');
        const C: u8 = control(b'c');
        const D: u8 = control(b'd');
        const E: u8 = control(b'e');
        const F: u8 = control(b'f');
        const K: u8 = control(b'k');
        const L: u8 = control(b'l');
        const N: u8 = control(b'n');
        const P: u8 = control(b'p');
        const U: u8 = control(b'u');
        const W: u8 = control(b'w');
        const Y: u8 = control(b'y');
        match byte {
            // A terminal that sends both ends one line, not two.
            b'\n' if after_return => None,
            b'\r' | b'\n' => {
                self.after_return = byte == b'\r';
                Some(self.submit())
            }
            b'\t' => Some(Action::Complete),
            A => self.go(0),
            E => self.go(self.line.len()),
            B => self.go(self.left()),
            F => self.go(self.right()),
            P => self.older(),
            N => self.newer(),
            BACKSPACE | DELETE => self.cut(self.left(), self.cursor, false),
            U => self.cut(0, self.cursor, true),
            K => self.cut(self.cursor, self.line.len(), true),
            W => self.cut(self.word_left(), self.cursor, true),
            Y => {
                let text = self.killed.clone();
                (!self.insert(&text)).then_some(Action::Bell)
            }
            C => {
                self.reset();
                Some(Action::Cancel)
            }
            D if self.line.is_empty() => Some(Action::Leave),
            D => self.cut(self.cursor, self.right(), false),
            L => Some(Action::Clear),
            ESCAPE => {
                self.key = Key::Escape;
                None
            }
            0x20..=0x7e => self.typed(char::from(byte)),
            0xc2..=0xdf => self.begin(byte, 2),
            0xe0..=0xef => self.begin(byte, 3),
            0xf0..=0xf4 => self.begin(byte, 4),
            _ => Some(Action::Bell),
        }
    }

    fn typed(&mut self, typed: char) -> Option<Action> {
        let mut room = [0u8; 4];
        (!self.insert(typed.encode_utf8(&mut room))).then_some(Action::Bell)
    }

    fn begin(&mut self, byte: u8, want: usize) -> Option<Action> {
        self.key = Key::Character {
            bytes: [byte, 0, 0, 0],
            have: 1,
            want,
        };
        None
    }

    fn character(
        &mut self,
        byte: u8,
        mut bytes: [u8; 4],
        have: usize,
        want: usize,
    ) -> Option<Action> {
        self.key = Key::Ground;
        if byte & 0xc0 != 0x80 {
            // Not a continuation: the broken character is dropped, this byte counts on its own.
            return self.ground(byte, false).or(Some(Action::Bell));
        }
        if let Some(slot) = bytes.get_mut(have) {
            *slot = byte;
        }
        if have + 1 < want {
            self.key = Key::Character {
                bytes,
                have: have + 1,
                want,
            };
            return None;
        }
        let text = bytes.get(..want).and_then(|b| std::str::from_utf8(b).ok());
        match text.and_then(|t| t.chars().next()) {
            Some(typed) if !super::text::is_unsafe(typed) => self.typed(typed),
            _ => Some(Action::Bell),
        }
    }

    fn escape(&mut self, byte: u8) -> Option<Action> {
        self.key = Key::Ground;
        match byte {
            b'[' => {
                self.key = Key::Sequence {
                    bytes: 0,
                    first: 0,
                    done: false,
                }
            }
            b'O' => self.key = Key::Application,
            ESCAPE => self.key = Key::Escape,
            b'b' => return self.go(self.word_left()),
            b'f' => return self.go(self.word_right()),
            b'd' => return self.cut(self.cursor, self.word_right(), true),
            BACKSPACE | DELETE => return self.cut(self.word_left(), self.cursor, true),
            _ => return Some(Action::Bell),
        }
        None
    }

    /// A control sequence: parameters 0x30..0x3f, intermediates 0x20..0x2f, one final byte (ECMA-48).
    fn sequence(&mut self, byte: u8, bytes: usize, first: u16, done: bool) -> Option<Action> {
        self.key = Key::Ground;
        if bytes >= ESCAPE_BYTES_MAX {
            return Some(Action::Bell);
        }
        let next = |first, done| Key::Sequence {
            bytes: bytes + 1,
            first,
            done,
        };
        match byte {
            b'0'..=b'9' if !done => {
                let digit = u16::from(byte - b'0');
                self.key = next(first.saturating_mul(10).saturating_add(digit), false);
                None
            }
            0x20..=0x3f => {
                self.key = next(first, true);
                None
            }
            // `ESC [ 1 ; 5 C`: a modifier makes a step a word.
            b'C' if done => self.go(self.word_right()),
            b'D' if done => self.go(self.word_left()),
            0x40..=0x7e => self.letter(byte, first),
            ESCAPE => {
                self.key = Key::Escape;
                None
            }
            _ => Some(Action::Bell),
        }
    }

    /// The final byte of a cursor key; `first` is its number where it has one.
    fn letter(&mut self, byte: u8, first: u16) -> Option<Action> {
        match (byte, first) {
            (b'A', _) => self.older(),
            (b'B', _) => self.newer(),
            (b'C', _) => self.go(self.right()),
            (b'D', _) => self.go(self.left()),
            (b'H', _) | (b'~', 1 | 7) => self.go(0),
            (b'F', _) | (b'~', 4 | 8) => self.go(self.line.len()),
            (b'~', 3) => self.cut(self.cursor, self.right(), false),
            _ => Some(Action::Bell),
        }
    }

    fn go(&mut self, to: usize) -> Option<Action> {
        let moved = to != self.cursor;
        self.cursor = to;
        (!moved).then_some(Action::Bell)
    }

    /// Removes a range around or beside the cursor, which ends up at its beginning.
    fn cut(&mut self, from: usize, to: usize, keep: bool) -> Option<Action> {
        let Some(text) = self.line.get(from..to).filter(|t| !t.is_empty()) else {
            return Some(Action::Bell);
        };
        if keep {
            self.killed = text.to_owned();
        }
        self.line.replace_range(from..to, "");
        self.cursor = from;
        self.browsing = None;
        None
    }

    fn left(&self) -> usize {
        let mut before = self.before_cursor().char_indices();
        before.next_back().map_or(0, |(at, _)| at)
    }

    fn right(&self) -> usize {
        let next = self.after_cursor().chars().next();
        self.cursor + next.map_or(0, char::len_utf8)
    }

    fn after_cursor(&self) -> &str {
        self.line.get(self.cursor..).unwrap_or_default()
    }

    fn word_left(&self) -> usize {
        let word = self.before_cursor().trim_end();
        word.rfind(char::is_whitespace).map_or(0, |at| {
            at + word
                .get(at..)
                .and_then(|w| w.chars().next())
                .map_or(1, char::len_utf8)
        })
    }

    fn word_right(&self) -> usize {
        let rest = self.after_cursor();
        let word = rest.trim_start();
        let spaces = rest.len() - word.len();
        self.cursor + spaces + word.find(char::is_whitespace).unwrap_or(word.len())
    }

    fn older(&mut self) -> Option<Action> {
        let at = self.browsing.unwrap_or(self.history.len());
        let Some(older) = at.checked_sub(1) else {
            return Some(Action::Bell);
        };
        if self.browsing.is_none() {
            self.stash = std::mem::take(&mut self.line);
        }
        self.show(older)
    }

    fn newer(&mut self) -> Option<Action> {
        let Some(at) = self.browsing else {
            return Some(Action::Bell);
        };
        if at + 1 < self.history.len() {
            return self.show(at + 1);
        }
        self.browsing = None;
        self.line = std::mem::take(&mut self.stash);
        self.cursor = self.line.len();
        None
    }

    fn show(&mut self, at: usize) -> Option<Action> {
        self.line = self.history.get(at).cloned().unwrap_or_default();
        self.cursor = self.line.len();
        self.browsing = Some(at);
        None
    }

    fn submit(&mut self) -> Action {
        let line = std::mem::take(&mut self.line);
        self.reset();
        if !line.trim().is_empty() && self.history.back() != Some(&line) {
            if self.history.len() == HISTORY_MAX {
                self.history.pop_front();
            }
            self.history.push_back(line.clone());
        }
        Action::Submit(line)
    }

    fn reset(&mut self) {
        self.line.clear();
        self.cursor = 0;
        self.browsing = None;
        self.stash.clear();
    }
}

/// Feeds the bytes to an editor and checks what must hold after each of them.
#[cfg(test)]
pub fn fuzz_body(data: &[u8]) {
    let mut editor = Editor::default();
    for byte in data {
        let action = editor.feed(*byte);
        let (line, cursor) = editor.line();
        assert!(line.is_char_boundary(cursor));
        assert!(line.len() <= LINE_BYTES_MAX);
        assert!(!line.chars().any(super::text::is_unsafe));
        assert!(editor.history.len() <= HISTORY_MAX);
        if let Some(Action::Submit(line)) = action {
            assert!(line.len() <= LINE_BYTES_MAX);
            assert_eq!(editor.line(), ("", 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(keys: &str) -> (Editor, Vec<Action>) {
        let mut editor = Editor::default();
        let actions = keys.bytes().filter_map(|b| editor.feed(b)).collect();
        (editor, actions)
    }

    /// What the keys leave on the line, the cursor shown as `|`.
    fn edited(keys: &str) -> String {
        let (editor, _) = typed(keys);
        let (line, cursor) = editor.line();
        format!("{}|{}", &line[..cursor], &line[cursor..])
    }

    #[test]
    fn keys_do_what_their_names_say() {
        for (keys, expected) in [
            ("status", "status|"),
            ("status\x01", "|status"),
            ("status\x01x\x05y", "xstatusy|"),
            ("ab\x7f", "a|"),
            ("ab\x08", "a|"),
            ("one two\x17", "one |"),
            ("one two  \x17", "one |"),
            ("one\x17", "|"),
            ("one two\x15", "|"),
            ("one two\x1b[D\x1b[D\x0b", "one t|"),
            ("one\x15two\x19", "twoone|"),
            ("abc\x1b[D\x04", "ab|"),
            ("abc\x1b[H\x1b[3~", "|bc"),
            ("abc\x1bOH", "|abc"),
            ("abc\x1b[1~x\x1b[4~y", "xabcy|"),
            ("one two\x1b[1;5D", "one |two"),
            ("one two\x01\x1b[1;5C", "one| two"),
            ("one two\x1bb", "one |two"),
            ("gr\u{fc}n\x02\x02", "gr|\u{fc}n"),
            ("gr\u{fc}n\x02\x7f", "gr|n"),
            ("a\x1b[Z\x1b[200~b", "ab|"),
        ] {
            assert_eq!(edited(keys), expected, "{keys:?}");
        }
    }

    #[test]
    fn a_line_is_submitted_once_whatever_ends_it() {
        for end in ["\r", "\n", "\r\n"] {
            let (editor, actions) = typed(&format!("beat{end}"));
            assert_eq!(actions, [Action::Submit("beat".into())]);
            assert_eq!(editor.line(), ("", 0));
        }
        let (_, actions) = typed("a\r\rb\n\n");
        let lines: Vec<_> = ["a", "", "b", ""].map(|l| Action::Submit(l.into())).into();
        assert_eq!(actions, lines);
    }

    #[test]
    fn control_keys_ask_for_what_the_shell_does() {
        assert_eq!(typed("\t").1, [Action::Complete]);
        assert_eq!(typed("abc\x03").1, [Action::Cancel]);
        assert_eq!(edited("abc\x03"), "|");
        assert_eq!(typed("\x04").1, [Action::Leave]);
        assert_eq!(typed("a\x04").1, [Action::Bell]);
        assert_eq!(typed("\x0c").1, [Action::Clear]);
    }

    #[test]
    fn the_history_is_walked_and_the_line_before_it_kept() {
        assert_eq!(edited("one\rtwo\rthr\x1b[A"), "two|");
        assert_eq!(edited("one\rtwo\rthr\x1b[A\x10"), "one|");
        assert_eq!(edited("one\rtwo\rthr\x1b[A\x1b[A\x1b[A"), "one|");
        assert_eq!(edited("one\rtwo\rthr\x1b[A\x1b[B"), "thr|");
        assert_eq!(edited("one\rtwo\x1b[A!\r\x1b[A"), "one!|");
        let (editor, _) = typed("same\rsame\r  \rother\r");
        assert_eq!(editor.history().collect::<Vec<_>>(), ["same", "other"]);
    }

    #[test]
    fn the_history_forgets_the_oldest_and_the_line_stops_growing() {
        let mut editor = Editor::default();
        for number in 0..HISTORY_MAX + 7 {
            format!("{number}\r").bytes().for_each(|b| {
                editor.feed(b);
            });
        }
        assert_eq!(editor.history().count(), HISTORY_MAX);
        assert_eq!(editor.history().next(), Some("7"));
        let actions: Vec<_> = (0..LINE_BYTES_MAX + 3)
            .filter_map(|_| editor.feed(b'x'))
            .collect();
        assert_eq!(actions, [Action::Bell, Action::Bell, Action::Bell]);
        assert_eq!(editor.line().0.len(), LINE_BYTES_MAX);
    }

    #[test]
    fn broken_characters_and_terminal_controls_never_reach_the_line() {
        let mut editor = Editor::default();
        for byte in [
            0xc3, b'a', 0xff, 0xc2, 0x9b, 0xed, 0xa0, 0x80, 0xe2, 0x80, 0xae, b'b',
        ] {
            editor.feed(byte);
        }
        assert_eq!(editor.line().0, "ab");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            fuzz_body(&data);
        }

        #[test]
        fn text_typed_is_text_held(text in "[a-z\u{e4}\u{20ac}\u{1f600} ]{0,80}") {
            let (editor, _) = typed(&text);
            prop_assert_eq!(editor.line(), (text.as_str(), text.len()));
        }
    }
}
