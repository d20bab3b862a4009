//! One request over plain HTTP to an address: what a witness is asked by, and nothing more.
//!
//! A witness believes signatures and proofs alone, and so do we: whoever is on the way can keep an answer away, and
//! forge none. HTTP/1.0, so that an answer comes in one piece and ends with the connection. Names are not resolved:
//! nothing of ours asks a name server. Start with [`Target::parse`] and [`post`].

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A word of the manifest, 128 bytes, less `--url=`.
pub const URL_BYTES_MAX: usize = 122;
/// An answer is a few signature lines below a head: 16 KiB is a hundred times that.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Where a URL names no port.
const PORT: u16 = 80;

/// Where a witness listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    address: SocketAddr,
    /// What stands in front of `/add-checkpoint`.
    prefix: String,
}

impl Target {
    /// Reads `http://ADDRESS[:PORT][/PREFIX]`.
    ///
    /// # Errors
    /// A sentence with what is wrong.
    pub fn parse(url: &str) -> Result<Self, String> {
        let bad = |limit: &str| format!("url {url:?}: expected {limit}");
        if url.len() > URL_BYTES_MAX {
            return Err(format!("url: {} bytes, at most {URL_BYTES_MAX}", url.len()));
        }
        let form = "http://ADDRESS[:PORT][/PREFIX] with an address of numbers";
        let rest = url.strip_prefix("http://").ok_or_else(|| bad(form))?;
        let (host, prefix) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
        if !prefix.bytes().all(unreserved) {
            return Err(bad("a prefix of letters, digits, / - . _ and ~"));
        }
        let whole = host.parse::<SocketAddr>();
        let without_port = || {
            let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            let address = match bare {
                Some(six) => six.parse().map(std::net::IpAddr::V6).ok(),
                None => host.parse().map(std::net::IpAddr::V4).ok(),
            };
            address.map(|address| SocketAddr::new(address, PORT))
        };
        let address = whole.ok().or_else(without_port);
        Ok(Self {
            address: address.ok_or_else(|| bad(form))?,
            prefix: prefix.trim_end_matches('/').to_owned(),
        })
    }
}

/// Posts a body to `PREFIX/add-checkpoint` and gives back the answer's status and text.
///
/// # Errors
/// A sentence: no connection, no answer before `deadline`, or one that is none.
pub fn post(target: &Target, body: &str, deadline: Instant) -> Result<(u16, String), String> {
    let failed = |e: io::Error| format!("{}: {e}", target.address);
    let left = left_until(deadline).map_err(failed)?;
    let mut stream = TcpStream::connect_timeout(&target.address, left).map_err(failed)?;
    let left = left_until(deadline).map_err(failed)?;
    stream.set_write_timeout(Some(left)).map_err(failed)?;
    let request = format!(
        "POST {}/add-checkpoint HTTP/1.0\r\nHost: {}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        target.prefix,
        target.address,
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let bytes = read(&mut stream, deadline).map_err(failed)?;
    answer(&bytes).map_err(|why| format!("{}: {why}", target.address))
}

/// The time that is left; never none at all, which a socket takes for no limit.
fn left_until(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

/// All that comes until the connection ends.
fn read(stream: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        // A peer that drips bytes has no more time than one that is silent.
        stream.set_read_timeout(Some(left_until(deadline)?))?;
        let read = match stream.read(&mut piece) {
            // Said in the same words, whichever clock was first.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            read => read?,
        };
        match read {
            0 => return Ok(bytes),
            n if bytes.len() + n > ANSWER_BYTES_MAX => {
                let why = format!("an answer of more than {ANSWER_BYTES_MAX} bytes");
                return Err(io::Error::other(why));
            }
            n => bytes.extend_from_slice(piece.get(..n).unwrap_or_default()),
        }
    }
}

/// Status and text of an answer that is whole.
fn answer(bytes: &[u8]) -> Result<(u16, String), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "an answer that is no text")?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let status = status
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| digits.parse::<u16>().ok());
    let status = status.ok_or("no HTTP answer")?;
    let mut body = body;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a header without a colon")?;
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("an answer in pieces, which HTTP/1.0 does not know".to_owned());
        }
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.trim().parse::<usize>();
            let length = length.map_err(|_| "a length that is no number")?;
            body = body.get(..length).ok_or("an answer that was cut")?;
        }
    }
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_url_is_an_address_of_numbers_and_a_prefix() {
        let read = |url: &str| Target::parse(url).map(|t| (t.address.to_string(), t.prefix));
        for (url, address, prefix) in [
            ("http://192.0.2.1", "192.0.2.1:80", ""),
            ("http://192.0.2.1:8080/", "192.0.2.1:8080", ""),
            ("http://[2001:db8::1]/w/a/", "[2001:db8::1]:80", "/w/a"),
            ("http://[::1]:99/x~y", "[::1]:99", "/x~y"),
        ] {
            assert_eq!(read(url), Ok((address.to_owned(), prefix.to_owned())));
        }
        for bad in [
            "",
            "https://192.0.2.1",
            "http://witness.example/",
            "http://192.0.2.1:99999",
            "http://user@192.0.2.1/",
            "http://192.0.2.1/a b",
            "http://192.0.2.1/a\r\nX: y",
            "http://192.0.2.1/?q",
        ] {
            assert!(
                read(bad).is_err_and(|why| why.contains("expected")),
                "{bad}"
            );
        }
        let long = format!("http://192.0.2.1/{}", "a".repeat(URL_BYTES_MAX));
        assert!(read(&long).is_err_and(|why| why.contains("at most 122")));
    }

    #[test]
    fn an_answer_is_taken_whole_or_not_at_all() {
        let read = |text: &str| answer(text.as_bytes());
        assert_eq!(
            read("HTTP/1.1 409 Conflict\r\n\r\n40\n"),
            Ok((409, "40\n".to_owned()))
        );
        let with = |length: &str| {
            read(&format!(
                "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\nabc"
            ))
        };
        assert_eq!(with("3"), Ok((200, "abc".to_owned())));
        assert_eq!(with("2"), Ok((200, "ab".to_owned())));
        assert_eq!(with("4"), Err("an answer that was cut".to_owned()));
        for bad in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn nothing_that_a_witness_says_is_too_much(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            "HTTP/1\\.[01] [0-9x]{0,4} ?\r\n(Content-Length: ?[0-9]{0,25}\r\n)?\r\n\\PC{0,40}".prop_map(String::into_bytes),
        ], url in "http://[\\[\\]0-9a-f:./~@?]{0,40}") {
            let _ = answer(&bytes);
            let _ = Target::parse(&url);
        }
    }
}
