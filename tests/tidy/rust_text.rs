//! Rust source without its comments, strings and character literals, so that rules see code only.

/// Replaces everything that is not code by spaces, keeping line breaks.
pub fn code_of(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = comment(rest)
            .or_else(|| raw_string(rest, at, bytes))
            .or_else(|| quoted(rest));
        match length {
            Some(length) => {
                let skipped = &bytes[at..(at + length).min(bytes.len())];
                out.extend(
                    skipped
                        .iter()
                        .map(|byte| if *byte == b'\n' { '\n' } else { ' ' }),
                );
                at += length;
            }
            None => {
                out.push(if bytes[at].is_ascii() {
                    char::from(bytes[at])
                } else {
                    '?'
                });
                at += 1;
            }
        }
    }
    out
}

/// Length of the comment that begins here.
fn comment(rest: &[u8]) -> Option<usize> {
    if rest.starts_with(b"//") {
        return Some(
            rest.iter()
                .position(|byte| *byte == b'\n')
                .unwrap_or(rest.len()),
        );
    }
    if !rest.starts_with(b"/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    Some(rest.len())
}

/// Length of the raw string `r"..."`, `r#"..."#` (or `br`, `cr`) that begins here, at the start of a word.
fn raw_string(rest: &[u8], at: usize, all: &[u8]) -> Option<usize> {
    let in_word = at > 0 && (all[at - 1].is_ascii_alphanumeric() || all[at - 1] == b'_');
    let prefix = [b"br".as_slice(), b"cr", b"r"]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix));
    let from = prefix.filter(|_| !in_word)?.len();
    let hashes = rest[from..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    if rest.get(from + hashes) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let body = from + hashes + 1;
    let close = rest[body..]
        .windows(end.len())
        .position(|window| window == end);
    Some(close.map_or(rest.len(), |close| body + close + end.len()))
}

/// Length of the string or character literal that begins here; a lifetime is code.
fn quoted(rest: &[u8]) -> Option<usize> {
    let quote = *rest.first()?;
    if quote == b'\'' {
        let escaped = rest.get(1) == Some(&b'\\');
        // A character is at most four bytes, so a closing quote further away belongs to something else.
        let closed = rest.iter().skip(2).take(4).position(|byte| *byte == b'\'');
        if !escaped && closed.is_none_or(|distance| distance > 0 && rest[1].is_ascii()) {
            return None;
        }
    } else if quote != b'"' {
        return None;
    }
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
    Some(rest.len())
}

#[test]
fn only_code_is_left() {
    let cases = [
        ("a // unsafe\nb", "a\nb"),
        ("a /* x /* y */ unsafe */ b", "a b"),
        ("f(\"unsafe \\\" {\") + 1", "f( ) + 1"),
        ("f(r#\"unsafe \" {\"#, br\"x\")", "f( , )"),
        ("'a' '\\'' '\\u{1f600}' '\u{e9}' x", "x"),
        ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
        ("for r in 0..1 { unsafe {} }", "for r in 0..1 { unsafe {} }"),
    ];
    for (source, code) in cases {
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&code_of(source)), words(code), "{source}");
        assert_eq!(
            code_of(source).matches('\n').count(),
            source.matches('\n').count()
        );
    }
}
