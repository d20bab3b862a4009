//! RFC 5424 messages to a syslog peer: over TCP with octet counting (RFC 6587), over UDP one a datagram (RFC 5426).
//!
//! `<110>1 WALL_CLOCK - vector-boot NS EVENT_TYPE [ledger@32473 ...] JSON`. Facility 13 is the log audit; severity 6, or
//! 4 for what was denied. 32473 is the number that RFC 5612 keeps for who has none of their own.

use super::{Exported, Sink};
use ledger_core::time;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

/// Facility 13, severity 6.
const INFORMATIONAL: u8 = 13 * 8 + 6;
/// Facility 13, severity 4.
const WARNING: u8 = 13 * 8 + 4;
/// RFC 5424's limit of MSGID.
const MSGID_BYTES_MAX: usize = 32;
/// RFC 5424's limit of PROCID.
const PROCID_BYTES_MAX: usize = 128;
/// The largest datagram that every receiver should take (RFC 5426); what is longer goes without its text.
const DATAGRAM_BYTES_MAX: usize = 2048;
/// A peer that does not answer or takes nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who listens: `tcp://HOST:PORT`, `udp://HOST:PORT`; without a scheme TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Octet-counted over TCP.
    Tcp(String),
    /// A datagram each.
    Udp(String),
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, address) = text.split_once("://").unwrap_or(("tcp", text));
        let port = address.rsplit_once(':').map(|(_, port)| port);
        if port.is_none_or(|port| port.parse::<u16>().is_err()) {
            return Err("expected HOST:PORT".to_owned());
        }
        match scheme {
            "tcp" => Ok(Self::Tcp(address.to_owned())),
            "udp" => Ok(Self::Udp(address.to_owned())),
            _ => Err("expected tcp:// or udp://".to_owned()),
        }
    }
}

/// Sends messages.
pub enum Syslog {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over UDP.
    Udp(UdpSocket),
}

impl Syslog {
    /// Connects.
    ///
    /// # Errors
    /// As `connect(2)`, and the resolver's.
    pub fn connect(peer: &Peer) -> io::Result<Self> {
        match peer {
            Peer::Tcp(address) => {
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for address in address.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, PATIENCE) {
                        Ok(stream) => {
                            stream.set_write_timeout(Some(PATIENCE))?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(e) => last = e,
                    }
                }
                Err(last)
            }
            Peer::Udp(address) => {
                let to = address.to_socket_addrs()?.next();
                let to = to.ok_or(io::ErrorKind::NotFound)?;
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(to)?;
                Ok(Self::Udp(socket))
            }
        }
    }
}

impl Sink for Syslog {
    fn take(&mut self, event: &Exported) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                let message = message(event, &event.json);
                let frame = format!("{} {message}", message.len());
                stream.write_all(frame.as_bytes())
            }
            Self::Udp(socket) => {
                let whole = message(event, &event.json);
                let sent = match whole.len() > DATAGRAM_BYTES_MAX {
                    true => message(event, "too large for a datagram"),
                    false => whole,
                };
                socket.send(sent.as_bytes()).map(drop)
            }
        }
    }

    fn end(self: Box<Self>) -> io::Result<()> {
        match *self {
            // What was sent arrives; whether the peer kept it, syslog has no word for.
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Self::Udp(_) => Ok(()),
        }
    }
}

/// One message.
#[must_use]
pub fn message(event: &Exported, text: &str) -> String {
    let denied = event.event_type.ends_with("denied");
    let priority = if denied { WARNING } else { INFORMATIONAL };
    let cut = |text: &str, max: usize| text.chars().take(max).collect::<String>();
    let mut out = format!(
        "<{priority}>1 {} - vector-boot {} {} [ledger@32473 id=\"{}\" commit=\"{}\"",
        // RFC 5424 allows six digits of a second.
        micros(&time::rfc3339(event.wall_ns)),
        cut(&event.ns, PROCID_BYTES_MAX),
        cut(&event.event_type, MSGID_BYTES_MAX),
        event.id,
        event.commit_id,
    );
    for (name, value) in [
        ("actor", &event.actor),
        ("tenant", &event.tenant_id),
        ("type", &event.event_type),
        ("subject", &event.subject),
    ] {
        // Writing to a string cannot fail.
        let _ = write!(out, " {name}=\"{}\"", escaped(value));
    }
    // The mark says that UTF-8 follows.
    let _ = write!(out, "] \u{feff}{text}");
    out
}

fn micros(rfc3339: &str) -> String {
    let seconds = rfc3339.strip_suffix("Z").unwrap_or(rfc3339);
    format!("{}Z", seconds.get(..26).unwrap_or(seconds))
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '"' | '\\' | ']') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_rfc_5424_says() {
        let event = Exported {
            id: 7,
            wall_ns: 1_725_000_000_123_456_789,
            ns: "gateway".to_owned(),
            actor: "agent:a".to_owned(),
            tenant_id: "t".to_owned(),
            event_type: "policy.denied".to_owned(),
            subject: "a]b\"c\\d".to_owned(),
            commit_id: "00".to_owned(),
            json: "{}".to_owned(),
        };
        assert_eq!(
            message(&event, &event.json),
            "<108>1 2024-08-30T06:40:00.123456Z - vector-boot gateway policy.denied \
             [ledger@32473 id=\"7\" commit=\"00\" actor=\"agent:a\" tenant=\"t\" \
             type=\"policy.denied\" subject=\"a\\]b\\\"c\\\\d\"] \u{feff}{}"
        );
        let long = Exported {
            event_type: "a".repeat(64),
            ..event
        };
        let words: Vec<String> = message(&long, "").split(' ').map(str::to_owned).collect();
        assert_eq!(words[5].len(), MSGID_BYTES_MAX);
    }

    #[test]
    fn peers_are_named_by_scheme_host_and_port() {
        assert_eq!("a:514".parse(), Ok(Peer::Tcp("a:514".to_owned())));
        assert_eq!(
            "udp://[::1]:514".parse(),
            Ok(Peer::Udp("[::1]:514".to_owned()))
        );
        for bad in ["a", "a:x", "http://a:1", "a:99999", ""] {
            assert!(bad.parse::<Peer>().is_err(), "{bad}");
        }
    }
}
