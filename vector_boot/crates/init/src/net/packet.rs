//! IPv4 with UDP, and ARP, written and read byte by byte: what DHCP travels in while there is no
//! address, and what asks whether an address is taken.
//!
//! Pure. What is read comes from anybody on the link.

use std::net::Ipv4Addr;

/// Ports of DHCP.
pub const SERVER_PORT: u16 = 67;
/// Ours.
pub const CLIENT_PORT: u16 = 68;
/// IPv4 without options, and UDP.
const HEADERS_BYTES: usize = 28;
const UDP: u8 = 17;
/// Of packets that we send; what Linux uses.
const TTL: u8 = 64;

/// A UDP payload with where it comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'p> {
    /// Sender.
    pub from: Ipv4Addr,
    /// Its port.
    pub from_port: u16,
    /// Receiver.
    pub to: Ipv4Addr,
    /// Its port.
    pub to_port: u16,
    /// What it holds.
    pub payload: &'p [u8],
}

/// Writes an IPv4 packet with a UDP datagram.
#[must_use]
pub fn write(datagram: &Datagram<'_>) -> Vec<u8> {
    let udp_bytes = u16::try_from(datagram.payload.len() + 8).unwrap_or(u16::MAX);
    let mut packet = Vec::with_capacity(HEADERS_BYTES + datagram.payload.len());
    packet.extend([0x45, 0x10]);
    packet.extend((udp_bytes.saturating_add(20)).to_be_bytes());
    // Identification 0 with don't-fragment (RFC 6864).
    packet.extend([0, 0, 0x40, 0, TTL, UDP, 0, 0]);
    packet.extend(datagram.from.octets());
    packet.extend(datagram.to.octets());
    let sum = checksum(&packet, 0);
    put(&mut packet, 10, sum);
    let begin = packet.len();
    for word in [datagram.from_port, datagram.to_port, udp_bytes, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(datagram.payload);
    let udp = packet.get(begin..).unwrap_or_default();
    // 0 means that there is none, so a sum that is 0 is written as its other form.
    let sum = match checksum(udp, pseudo(datagram.from, datagram.to, udp_bytes)) {
        0 => u16::MAX,
        sum => sum,
    };
    put(&mut packet, begin + 6, sum);
    packet
}

/// Reads an IPv4 packet with a UDP datagram.
///
/// # Errors
/// Field, value and limit in one sentence.
pub fn read(packet: &[u8], checksum_ready: bool) -> Result<Datagram<'_>, String> {
    let wrong = |field: &str, value: usize, limit: &str| {
        Err(format!("packet: {field} {value}, limit {limit}"))
    };
    let byte = |at: usize| packet.get(at).copied().unwrap_or(0);
    let half = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
    let address = |at| Ipv4Addr::new(byte(at), byte(at + 1), byte(at + 2), byte(at + 3));
    let header = usize::from(byte(0) & 15) * 4;
    if packet.len() < HEADERS_BYTES || byte(0) >> 4 != 4 || header < 20 {
        return wrong("length", packet.len(), "an IPv4 header and a UDP header");
    }
    let total = usize::from(half(2));
    // What is behind the total length is padding of the link.
    let Some(whole) = packet.get(..total).filter(|w| w.len() >= header + 8) else {
        return wrong("total length", total, "what came");
    };
    if checksum(whole.get(..header).unwrap_or_default(), 0) != 0 {
        return wrong("header checksum", half(10).into(), "the header's");
    }
    if byte(9) != UDP {
        return wrong("protocol", byte(9).into(), "17");
    }
    if half(6) & 0x3fff != 0 {
        return wrong("fragment", half(6).into(), "none");
    }
    let udp = whole.get(header..).unwrap_or_default();
    let udp_bytes = usize::from(half(header + 4));
    let Some(udp) = udp.get(..udp_bytes).filter(|u| u.len() >= 8) else {
        return wrong("UDP length", udp_bytes, "what came");
    };
    let (from, to) = (address(12), address(16));
    let given = half(header + 6);
    let sum = checksum(udp, pseudo(from, to, half(header + 4)));
    if checksum_ready && given != 0 && sum != 0 {
        return wrong("UDP checksum", given.into(), "the datagram's");
    }
    Ok(Datagram {
        from,
        from_port: half(header),
        to,
        to_port: half(header + 2),
        payload: udp.get(8..).unwrap_or_default(),
    })
}

/// The sum of UDP's pseudo header, not yet folded.
fn pseudo(from: Ipv4Addr, to: Ipv4Addr, udp_bytes: u16) -> u32 {
    let halves = |a: Ipv4Addr| (u32::from(a) >> 16) + (u32::from(a) & 0xffff);
    halves(from) + halves(to) + u32::from(UDP) + u32::from(udp_bytes)
}

/// The internet checksum (RFC 1071) of bytes, on top of a sum; 0 over what holds its own.
fn checksum(bytes: &[u8], begin: u32) -> u16 {
    // At most 64 KiB of bytes: the sum stays below 2^32.
    let mut sum = bytes.chunks(2).fold(begin, |sum, pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        sum + u32::from(u16::from_be_bytes([
            pair.first().copied().unwrap_or(0),
            low,
        ]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded: it fits.
    !(sum as u16)
}

fn put(packet: &mut [u8], at: usize, word: u16) {
    if let Some(place) = packet.get_mut(at..at + 2) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

/// What one ARP packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Whether it asks; otherwise it answers.
    pub asks: bool,
    /// Hardware address of the sender.
    pub sender_mac: [u8; 6],
    /// Its address, 0.0.0.0 in a probe.
    pub sender: Ipv4Addr,
    /// Whom it asks for or answers.
    pub target: Ipv4Addr,
}

/// Bytes of ARP for IPv4 over Ethernet.
const ARP_BYTES: usize = 28;
/// Hardware Ethernet, protocol IPv4, their address lengths.
const ARP_BEGIN: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Writes an ARP packet; the target's hardware address is left empty, as in a probe.
#[must_use]
pub fn write_arp(arp: &Arp) -> Vec<u8> {
    let mut packet = ARP_BEGIN.to_vec();
    packet.extend([0, if arp.asks { 1 } else { 2 }]);
    packet.extend(arp.sender_mac);
    packet.extend(arp.sender.octets());
    packet.extend([0; 6]);
    packet.extend(arp.target.octets());
    packet
}

/// Reads an ARP packet for IPv4 over Ethernet; anything else is nothing to us.
#[must_use]
pub fn read_arp(packet: &[u8]) -> Option<Arp> {
    let packet: &[u8; ARP_BYTES] = packet.first_chunk()?;
    let (begin, rest) = packet.split_first_chunk::<6>()?;
    let (operation, rest) = rest.split_first_chunk::<2>()?;
    let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
    let (sender, rest) = rest.split_first_chunk::<4>()?;
    let target = rest.last_chunk::<4>()?;
    let asks = match operation {
        [0, 1] => true,
        [0, 2] => false,
        _ => return None,
    };
    (*begin == ARP_BEGIN).then_some(Arp {
        asks,
        sender_mac: *sender_mac,
        sender: (*sender).into(),
        target: (*target).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram(payload: &[u8]) -> Datagram<'_> {
        Datagram {
            from: Ipv4Addr::UNSPECIFIED,
            from_port: CLIENT_PORT,
            to: Ipv4Addr::BROADCAST,
            to_port: SERVER_PORT,
            payload,
        }
    }

    /// The packet that tcpdump shows for `printf hi | nc -u`, from 10.0.2.15:68 to 10.0.2.2:67.
    #[test]
    fn the_checksums_are_those_of_the_internet() {
        let packet = write(&Datagram {
            from: Ipv4Addr::new(10, 0, 2, 15),
            to: Ipv4Addr::new(10, 0, 2, 2),
            ..datagram(b"hi")
        });
        let header: Vec<u32> = packet[..20]
            .chunks(2)
            .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
            .collect();
        let sum: u32 = header.iter().sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(packet.len(), 30);
        assert_eq!(read(&packet, true).unwrap().payload, b"hi");
    }

    #[test]
    fn a_sum_that_is_not_ready_is_not_asked_for() {
        let mut packet = write(&datagram(b"hello"));
        packet[26] ^= 0x55;
        let refused = read(&packet, true).unwrap_err();
        assert!(refused.starts_with("packet: UDP checksum "), "{refused}");
        assert!(read(&packet, false).is_ok());
    }

    #[test]
    fn an_arp_probe_is_read_back() {
        let probe = Arp {
            asks: true,
            sender_mac: [2, 0, 0, 0, 0, 1],
            sender: Ipv4Addr::UNSPECIFIED,
            target: Ipv4Addr::new(10, 0, 2, 15),
        };
        let packet = write_arp(&probe);
        assert_eq!(read_arp(&packet), Some(probe));
        for cut in 0..packet.len() {
            assert_eq!(read_arp(&packet[..cut]), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payload in proptest::collection::vec(any::<u8>(), 0..1472), padding in 0usize..40) {
            let mut packet = write(&datagram(&payload));
            packet.resize(packet.len() + padding, 0xaa);
            prop_assert_eq!(read(&packet, true).unwrap(), datagram(&payload));
        }

        #[test]
        fn one_flipped_bit_is_found(payload in proptest::collection::vec(any::<u8>(), 1..64), bit in any::<prop::sample::Index>()) {
            let mut packet = write(&datagram(&payload));
            let bit = bit.index(packet.len() * 8);
            packet[bit / 8] ^= 1 << (bit % 8);
            // A checksum of 0 stands for none, which one flipped bit of it cannot reach but by its last.
            if packet[26..28] != [0, 0] {
                prop_assert!(read(&packet, true).is_err(), "bit {}", bit);
            }
        }

        #[test]
        fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..128), ready in any::<bool>()) {
            let _ = read(&packet, ready);
            let _ = read_arp(&packet);
        }
    }
}
