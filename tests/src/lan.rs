//! A wire to a machine under test, and the DHCP server at its other end, which lies as it is told.
//!
//! Each datagram of the Unix socket is one Ethernet frame. Bytes are written here by hand: what is
//! under test must not help to test itself. Start with [`Lan::serve`].

use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const SERVER_MAC: [u8; 6] = [2, 0xaa, 0, 0, 0, 1];
/// Who claims an address that is not his.
const THIEF_MAC: [u8; 6] = [2, 0xbb, 0, 0, 0, 6];
/// The server's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// What a client said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// DHCPDISCOVER.
    Discover,
    /// DHCPREQUEST.
    Request,
    /// DHCPDECLINE.
    Decline,
    /// An ARP probe for this address.
    Probe(Ipv4Addr),
}

/// What the server answers to everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A different lie each time.
    Lies,
    /// This address, which somebody else claims.
    Taken(Ipv4Addr),
    /// This address, for so many seconds.
    Honest(Ipv4Addr, u32),
}

/// The network at the other end of a machine's wire. Ends with the value.
pub struct Lan {
    folder: PathBuf,
    manner: Arc<Mutex<Manner>>,
    heard: Arc<Mutex<Vec<Asked>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lan {
    /// Serves the wire in this folder.
    #[must_use]
    pub fn serve(folder: &Path, manner: Manner) -> Self {
        let socket = UnixDatagram::bind(folder.join("host")).expect("the wire's end");
        // Only to look whether it is over.
        let look = Some(Duration::from_millis(200));
        socket.set_read_timeout(look).expect("a read timeout");
        let manner = Arc::new(Mutex::new(manner));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::new(AtomicBool::new(false));
        let (m, h, e) = (manner.clone(), heard.clone(), ends.clone());
        let guest = folder.join("guest");
        let thread = std::thread::spawn(move || {
            let mut lies = 0;
            let mut frame = [0; 2048];
            while !e.load(Ordering::Relaxed) {
                let Ok(bytes) = socket.recv(&mut frame) else {
                    continue;
                };
                let manner = *m.lock().unwrap_or_else(PoisonError::into_inner);
                let Some((asked, answer)) = answer(&frame[..bytes], manner, &mut lies) else {
                    continue;
                };
                h.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
                for frame in answer {
                    // A machine that is going down takes nothing.
                    let _ = socket.send_to(&frame, &guest);
                }
            }
        });
        Self {
            folder: folder.to_owned(),
            manner,
            heard,
            ends,
            thread: Some(thread),
        }
    }

    /// Answers so from now on.
    pub fn turn(&self, manner: Manner) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Everything that was asked since the beginning.
    #[must_use]
    pub fn heard(&self) -> Vec<Asked> {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The folder of the wire.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It holds nothing that could be lost.
            let _ = thread.join();
        }
    }
}

/// What is answered to one frame; nothing to what is no DHCP and no ARP.
fn answer(frame: &[u8], manner: Manner, lies: &mut usize) -> Option<(Asked, Vec<Vec<u8>>)> {
    let kind = frame.get(12..14)?;
    let client: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
    if kind == [8, 6] {
        let sender: [u8; 4] = frame.get(28..32)?.try_into().ok()?;
        let target: [u8; 4] = frame.get(38..42)?.try_into().ok()?;
        let target = Ipv4Addr::from(target);
        if sender != [0; 4] {
            return None;
        }
        let claims = match manner {
            Manner::Taken(address) if address == target => vec![arp_claim(target, client)],
            _ => Vec::new(),
        };
        return Some((Asked::Probe(target), claims));
    }
    let message = frame.get(14 + 28..).filter(|_| kind == [8, 0])?;
    if frame.get(14 + 22..14 + 24)? != [0, 67] {
        return None;
    }
    let xid: [u8; 4] = message.get(4..8)?.try_into().ok()?;
    // The message type is the first option of every client that we test.
    let asked = match message.get(240..243)? {
        [53, 1, 1] => Asked::Discover,
        [53, 1, 3] => Asked::Request,
        [53, 1, 4] => return Some((Asked::Decline, Vec::new())),
        _ => return None,
    };
    let kind = if asked == Asked::Discover { 2 } else { 5 };
    let replies = match manner {
        Manner::Taken(address) => vec![good(kind, address, 600, xid, client)],
        Manner::Honest(address, seconds) => vec![good(kind, address, seconds, xid, client)],
        Manner::Lies => {
            // A few at once: the client hears them all before it asks again.
            let from = *lies;
            *lies += 5;
            (from..*lies).map(|n| lie(n, kind, xid, client)).collect()
        }
    };
    Some((asked, replies))
}

fn good(kind: u8, address: Ipv4Addr, seconds: u32, xid: [u8; 4], client: [u8; 6]) -> Vec<u8> {
    let mut options = head(kind);
    options.extend([1, 4, 255, 255, 255, 0]);
    options.extend([51, 4]);
    options.extend(seconds.to_be_bytes());
    options.extend([3, 4, 10, 77, 0, 1]);
    options.extend([6, 8, 10, 77, 0, 1, 9, 9, 9, 9]);
    options.extend([15, 11]);
    options.extend(b"example.org");
    options.push(255);
    frame(&bootp(address, xid, client, &options, &[], &[]), client)
}

/// Message type and server.
fn head(kind: u8) -> Vec<u8> {
    let mut options = vec![53, 1, kind, 54, 4];
    options.extend(SERVER.octets());
    options
}

/// One of the ways to lie, in turn.
fn lie(n: usize, kind: u8, xid: [u8; 4], client: [u8; 6]) -> Vec<u8> {
    let ours = Ipv4Addr::new(10, 77, 0, 5);
    let mask = [1, 4, 255, 255, 255, 0];
    let lease = [51, 4, 0, 0, 14, 16];
    let with = |more: &[u8]| [&head(kind)[..], more].concat();
    let whole = [&mask[..], &lease].concat();
    let plain =
        |address, options: &[u8]| frame(&bootp(address, xid, client, options, &[], &[]), client);
    let said = |more: &[u8]| plain(ours, &with(&[more, &[255]].concat()));
    match n % 20 {
        // A lease of no time, and of one second.
        0 => said(&[&mask[..], &[51, 4, 0, 0, 0, 0]].concat()),
        1 => said(&[&mask[..], &[51, 4, 0, 0, 0, 1]].concat()),
        // Lengths that are wrong, that run out, that say nothing.
        2 => said(&[&mask[..], &[51, 3, 0, 14, 16]].concat()),
        3 => plain(ours, &with(&[&whole[..], &[3, 200, 10]].concat())),
        4 => plain(ours, &with(&[&whole[..], &[6]].concat())),
        5 => plain(ours, &with(&whole)),
        // Two lease times; a mask with a hole; no mask's worth.
        6 => said(&[&mask[..], &lease, &lease].concat()),
        7 => said(&[&[1, 4, 255, 0, 255, 0][..], &lease].concat()),
        8 => said(&[&[1, 4, 0, 0, 0, 0][..], &lease].concat()),
        // Addresses that no machine has.
        9 => plain(Ipv4Addr::LOCALHOST, &with(&[&whole[..], &[255]].concat())),
        10 => plain(
            Ipv4Addr::new(239, 1, 1, 1),
            &with(&[&whole[..], &[255]].concat()),
        ),
        11 => plain(
            Ipv4Addr::new(10, 77, 0, 255),
            &with(&[&whole[..], &[255]].concat()),
        ),
        // Overloads that lead to each other, and one that is none.
        12 => {
            let options = with(&[52, 1, 3, 255]);
            let (file, sname) = ([52, 1, 3, 12, 1, b'x', 255], [52, 1, 3, 255]);
            frame(&bootp(ours, xid, client, &options, &file, &sname), client)
        }
        13 => said(&[&whole[..], &[52, 1, 9]].concat()),
        14 => {
            let options = with(&[&whole[..], &[52, 1, 1, 255]].concat());
            frame(&bootp(ours, xid, client, &options, &[12; 128], &[]), client)
        }
        // Not from a server; not for us; not to this question.
        15 => plain(ours, &[&[53, 1, kind][..], &whole, &[255]].concat()),
        16 => frame(
            &bootp(
                ours,
                xid,
                [9; 6],
                &with(&[&whole[..], &[255]].concat()),
                &[],
                &[],
            ),
            client,
        ),
        17 => plain(ours, &with(&[&whole[..], &[255]].concat()))
            .iter()
            .enumerate()
            .map(|(i, b)| if i == 14 + 28 + 4 { !b } else { *b })
            .collect(),
        // A header whose sum is wrong; a packet that is cut.
        18 => {
            let mut bad = said(&whole);
            bad[24] ^= 1;
            bad
        }
        _ => said(&whole)[..200].to_vec(),
    }
}

/// A message of a server.
fn bootp(
    address: Ipv4Addr,
    xid: [u8; 4],
    client: [u8; 6],
    options: &[u8],
    file: &[u8],
    sname: &[u8],
) -> Vec<u8> {
    let mut m = vec![2, 1, 6, 0];
    m.extend(xid);
    m.resize(240, 0);
    m[16..20].copy_from_slice(&address.octets());
    m[28..34].copy_from_slice(&client);
    m[44..44 + sname.len()].copy_from_slice(sname);
    m[108..108 + file.len()].copy_from_slice(file);
    m[236..240].copy_from_slice(&[99, 130, 83, 99]);
    m.extend(options);
    m
}

/// A frame with IPv4 and UDP, without UDP's checksum.
fn frame(message: &[u8], client: [u8; 6]) -> Vec<u8> {
    let udp = u16::try_from(message.len() + 8).expect("a small message");
    let mut ip = vec![0x45, 0];
    ip.extend((udp + 20).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(SERVER.octets());
    ip.extend([255; 4]);
    let sum = ip
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
        .sum::<u32>();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("a small sum");
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = client.to_vec();
    frame.extend(SERVER_MAC);
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend([0, 67, 0, 68]);
    frame.extend(udp.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(message);
    frame
}

fn arp_claim(address: Ipv4Addr, client: [u8; 6]) -> Vec<u8> {
    let mut frame = client.to_vec();
    frame.extend(THIEF_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(THIEF_MAC);
    frame.extend(address.octets());
    frame.extend(client);
    frame.extend([0; 4]);
    frame
}
