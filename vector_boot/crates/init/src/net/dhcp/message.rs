//! DHCP messages (RFC 2131, 2132, 3396): ours written, the servers' read.
//!
//! Pure. Every byte that is read comes from whoever is on the link. Nothing here follows a pointer or
//! goes back: each area of options is walked once, an overload names at most the two fixed fields,
//! and what is inside them cannot name another.

use std::fmt;
use std::net::Ipv4Addr;

/// Everything before the options (RFC 2131, figure 1), with the cookie.
const FIXED_BYTES: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// A message of BOOTP has 300 bytes; some relays drop shorter ones.
const MESSAGE_BYTES_MIN: usize = 300;
/// Largest message that we read: an Ethernet frame's, less the headers of IPv4 and UDP.
pub const MESSAGE_BYTES_MAX: usize = 1472;

/// Numbers of options (RFC 2132; 121 is RFC 3442).
pub mod option {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTERS: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOSTNAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const NTP: u8 = 42;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const MESSAGE_BYTES: u8 = 57;
    pub const T1: u8 = 58;
    pub const T2: u8 = 59;
    pub const CLIENT: u8 = 61;
    pub const ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// What we ask servers for, in the order of their use.
const WANTED: &[u8] = &[
    option::SUBNET_MASK,
    option::ROUTES,
    option::ROUTERS,
    option::DNS,
    option::DOMAIN,
    option::MTU,
    option::NTP,
    option::LEASE_TIME,
    option::SERVER,
    option::T1,
    option::T2,
];

/// What was wrong with what a server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The field or option.
    pub field: &'static str,
    /// What it held.
    pub value: String,
    /// What it may hold.
    pub limit: &'static str,
}

impl Refusal {
    /// Names field, value and limit.
    pub fn new(field: &'static str, value: impl fmt::Display, limit: &'static str) -> Self {
        Self {
            field,
            value: value.to_string(),
            limit,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, limit {}", self.field, self.value, self.limit)
    }
}

/// Who we are to servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Hardware address of the link.
    pub mac: [u8; 6],
    /// Name of the machine, told as option 12; empty for none.
    pub hostname: String,
}

/// What a message of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Who has an address for us?
    Discover,
    /// I take this one of yours.
    Select {
        /// The address offered.
        address: Ipv4Addr,
        /// Who offered it.
        server: Ipv4Addr,
    },
    /// I had this one before; is it still mine?
    Reboot(Ipv4Addr),
    /// I use this one; may I go on? Sent to one server to renew, to all to rebind.
    Renew(Ipv4Addr),
    /// Somebody else uses this one.
    Decline {
        /// The address.
        address: Ipv4Addr,
        /// Who gave it.
        server: Ipv4Addr,
    },
}

/// Writes a message of ours.
#[must_use]
pub fn write(asks: &Asks, who: &Identity, xid: u32, seconds: u16) -> Vec<u8> {
    let (kind, used) = match asks {
        Asks::Discover => (1, Ipv4Addr::UNSPECIFIED),
        Asks::Select { .. } | Asks::Reboot(_) => (3, Ipv4Addr::UNSPECIFIED),
        Asks::Renew(address) => (3, *address),
        Asks::Decline { .. } => (4, Ipv4Addr::UNSPECIFIED),
    };
    // Request, Ethernet, six bytes of address, no hops.
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend(xid.to_be_bytes());
    bytes.extend(seconds.to_be_bytes());
    // No broadcast flag: our socket takes what is sent to our hardware address, whatever its address.
    bytes.extend([0, 0]);
    bytes.extend(used.octets());
    bytes.extend([0; 12]);
    bytes.extend(who.mac);
    bytes.resize(FIXED_BYTES - COOKIE.len(), 0);
    bytes.extend(COOKIE);
    let mut add = |code: u8, value: &[u8]| {
        bytes.push(code);
        bytes.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
        bytes.extend(value.iter().take(usize::from(u8::MAX)));
    };
    add(option::MESSAGE_TYPE, &[kind]);
    let [a, b, c, d, e, f] = who.mac;
    add(option::CLIENT, &[1, a, b, c, d, e, f]);
    match asks {
        Asks::Select { address, server } | Asks::Decline { address, server } => {
            add(option::REQUESTED_ADDRESS, &address.octets());
            add(option::SERVER, &server.octets());
        }
        Asks::Reboot(address) => add(option::REQUESTED_ADDRESS, &address.octets()),
        Asks::Discover | Asks::Renew(_) => {}
    }
    if !matches!(asks, Asks::Decline { .. }) {
        let most = u16::try_from(MESSAGE_BYTES_MAX + 28).unwrap_or(u16::MAX);
        add(option::MESSAGE_BYTES, &most.to_be_bytes());
        add(option::PARAMETERS, WANTED);
        if !who.hostname.is_empty() {
            add(option::HOSTNAME, who.hostname.as_bytes());
        }
    }
    bytes.push(option::END);
    bytes.resize(bytes.len().max(MESSAGE_BYTES_MIN), option::PAD);
    bytes
}

/// What a server's message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An address that we may ask for.
    Offer,
    /// It is ours.
    Ack,
    /// It is not.
    Nak,
}

/// A server's message to us, its options gathered and not yet judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Whose question it answers.
    pub xid: u32,
    /// What it is.
    pub kind: Kind,
    /// Who sent it: option 54.
    pub server: Ipv4Addr,
    /// The address for us; 0.0.0.0 in a [`Kind::Nak`].
    pub address: Ipv4Addr,
    options: Vec<(u8, Vec<u8>)>,
}

impl Reply {
    /// Reads a message that is for this hardware address.
    ///
    /// # Errors
    /// The first field that is not what it may be. `Ok(None)`: well-formed and for somebody else.
    pub fn read(bytes: &[u8], mac: [u8; 6]) -> Result<Option<Self>, Refusal> {
        const LENGTH: &str = "240 to 1472 bytes";
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::new("length", bytes.len(), LENGTH));
        }
        let fixed: &[u8; FIXED_BYTES] = bytes
            .first_chunk()
            .ok_or_else(|| Refusal::new("length", bytes.len(), LENGTH))?;
        let area = |from: usize, to: usize| fixed.get(from..to).unwrap_or_default();
        let word = |at: usize| area(at, at + 4).try_into().unwrap_or([0u8; 4]);
        match area(0, 3) {
            [2, 1, 6] => {}
            [1, ..] => return Ok(None),
            other => {
                return Err(Refusal::new(
                    "op, htype, hlen",
                    format_args!("{other:?}"),
                    "2, 1, 6",
                ));
            }
        }
        if area(28, 34) != mac {
            return Ok(None);
        }
        if word(236) != COOKIE {
            let limit = "99.130.83.99";
            return Err(Refusal::new("cookie", Ipv4Addr::from(word(236)), limit));
        }
        let mut options = Options::default();
        options.walk(bytes.get(FIXED_BYTES..).unwrap_or_default())?;
        let overload = match options.find(option::OVERLOAD) {
            None => 0,
            Some([n @ 1..=3]) => *n,
            Some(other) => return Err(Refusal::new("option 52", shown(other), "1, 2 or 3")),
        };
        // RFC 3396: the fields count as behind the options, file first.
        if overload & 1 != 0 {
            options.walk(area(108, 236))?;
        }
        if overload & 2 != 0 {
            options.walk(area(44, 108))?;
        }
        let kind = match options.find(option::MESSAGE_TYPE) {
            Some([2]) => Kind::Offer,
            Some([5]) => Kind::Ack,
            Some([6]) => Kind::Nak,
            other => {
                let value = shown(other.unwrap_or_default());
                return Err(Refusal::new("option 53", value, "2, 5 or 6"));
            }
        };
        let mut reply = Self {
            xid: u32::from_be_bytes(word(4)),
            kind,
            server: Ipv4Addr::UNSPECIFIED,
            address: word(16).into(),
            options: options.0,
        };
        reply.server = reply
            .address_of(option::SERVER, "option 54")?
            .filter(|s| crate::net::plan::is_host(*s))
            .ok_or_else(|| Refusal::new("option 54", "missing", "the server's address"))?;
        Ok(Some(reply))
    }

    /// The bytes of an option, all its pieces joined.
    #[must_use]
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        find(&self.options, code)
    }

    /// An option that is one address.
    ///
    /// # Errors
    /// A length that is not 4.
    pub fn address_of(&self, code: u8, field: &'static str) -> Result<Option<Ipv4Addr>, Refusal> {
        self.fixed::<4>(code, field)
            .map(|bytes| bytes.map(Ipv4Addr::from))
    }

    /// An option of addresses: the first `most` of them.
    ///
    /// # Errors
    /// A length that is not a multiple of 4, or none.
    pub fn addresses_of(
        &self,
        code: u8,
        field: &'static str,
        most: usize,
    ) -> Result<Vec<Ipv4Addr>, Refusal> {
        let Some(bytes) = self.option(code) else {
            return Ok(Vec::new());
        };
        if bytes.is_empty() || !bytes.len().is_multiple_of(4) {
            let value = format_args!("of {} bytes", bytes.len()).to_string();
            return Err(Refusal::new(field, value, "4 bytes an address"));
        }
        let (addresses, _) = bytes.as_chunks::<4>();
        Ok(addresses
            .iter()
            .take(most)
            .map(|a| Ipv4Addr::from(*a))
            .collect())
    }

    /// An option that is a number of seconds.
    ///
    /// # Errors
    /// A length that is not 4.
    pub fn seconds_of(&self, code: u8, field: &'static str) -> Result<Option<u32>, Refusal> {
        self.fixed::<4>(code, field)
            .map(|bytes| bytes.map(u32::from_be_bytes))
    }

    /// An option of exactly so many bytes.
    ///
    /// # Errors
    /// Another length.
    pub fn fixed<const N: usize>(
        &self,
        code: u8,
        field: &'static str,
    ) -> Result<Option<[u8; N]>, Refusal> {
        let limit = match N {
            2 => "2 bytes",
            _ => "4 bytes",
        };
        match self.option(code) {
            None => Ok(None),
            Some(bytes) => match bytes.try_into() {
                Ok(fixed) => Ok(Some(fixed)),
                Err(_) => Err(Refusal::new(field, shown(bytes), limit)),
            },
        }
    }
}

/// Options in the order of their first piece; their bytes together are never more than the message.
#[derive(Default)]
struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// Walks one area once, to its end mark.
    fn walk(&mut self, mut area: &[u8]) -> Result<(), Refusal> {
        loop {
            let Some((code, rest)) = area.split_first() else {
                return Err(Refusal::new("options", "without an end", "option 255 last"));
            };
            match *code {
                option::PAD => area = rest,
                option::END => return Ok(()),
                code => {
                    let whole = rest
                        .split_first()
                        .and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)));
                    let Some((value, rest)) = whole else {
                        let value = format!("{code} runs past its end");
                        return Err(Refusal::new("option", value, "its area"));
                    };
                    // RFC 3396: pieces of one option are one.
                    match self.0.iter_mut().find(|(c, _)| *c == code) {
                        Some((_, bytes)) => bytes.extend(value),
                        None => self.0.push((code, value.to_vec())),
                    }
                    area = rest;
                }
            }
        }
    }

    fn find(&self, code: u8) -> Option<&[u8]> {
        find(&self.0, code)
    }
}

fn find(options: &[(u8, Vec<u8>)], code: u8) -> Option<&[u8]> {
    let found = options.iter().find(|(c, _)| *c == code);
    found.map(|(_, bytes)| bytes.as_slice())
}

/// Hostile bytes, a few of them, fit for a line.
fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 8;
    let more = if bytes.len() > SHOWN_MAX { ".." } else { "" };
    let hex: Vec<String> = bytes
        .iter()
        .take(SHOWN_MAX)
        .map(|b| format!("{b:02x}"))
        .collect();
    match bytes {
        [] => "empty".to_owned(),
        _ => format!("{}{more} ({} bytes)", hex.join(" "), bytes.len()),
    }
}
