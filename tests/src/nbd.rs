//! A disk that breaks when it is told to: an NBD server of one file, for QEMU's end of the protocol alone.
//!
//! Source: <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>, fixed newstyle, simple replies.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const OPTION_GO: u32 = 7;
const ACK: u32 = 1;
const INFO: u32 = 3;
const UNSUPPORTED: u32 = 0x8000_0001;
/// HAS_FLAGS and SEND_FLUSH.
const EXPORT_FLAGS: u16 = 0b101;
/// As the protocol numbers them.
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
/// No range breaks.
const NOWHERE: u64 = u64::MAX;

/// A served disk.
pub struct Disk {
    /// Writes at and behind this byte fail.
    broken_from: Arc<AtomicU64>,
}

impl Disk {
    /// Serves `image` at the socket `path`, to any number of machines one after the other.
    pub fn serve(image: &Path, path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket for the disk");
        let file = File::options().read(true).write(true).open(image);
        let file = Arc::new(file.expect("the disk's image"));
        let broken_from = Arc::new(AtomicU64::new(NOWHERE));
        let broken = broken_from.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (file, broken) = (file.clone(), broken.clone());
                // A machine that ends leaves in the middle of a request.
                std::thread::spawn(move || stream.and_then(|s| answer(s, &file, &broken)));
            }
        });
        Self { broken_from }
    }

    /// From now on writes at and behind this byte fail, as where the host's own disk is full: of all errors that is
    /// the one for which QEMU stops a machine without a word, unless it is told to pass it on.
    pub fn break_from(&self, byte: u64) {
        self.broken_from.store(byte, Ordering::SeqCst);
    }

    /// Nothing fails any more.
    pub fn mend(&self) {
        self.break_from(NOWHERE);
    }
}

fn answer(mut peer: UnixStream, file: &File, broken_from: &AtomicU64) -> io::Result<()> {
    greet(&mut peer, file.metadata()?.len())?;
    let mut data = Vec::new();
    loop {
        let mut head = [0; 28];
        peer.read_exact(&mut head)?;
        let kind = u16::from_be_bytes([head[6], head[7]]);
        let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let (cookie, offset) = (number(8), number(16));
        let length = u32::from_be_bytes(head[24..28].try_into().expect("4 bytes"));
        data.resize(length as usize, 0);
        let error = match kind {
            0 => errno(file.read_exact_at(&mut data, offset)),
            1 => {
                peer.read_exact(&mut data)?;
                let broken = offset + u64::from(length) > broken_from.load(Ordering::SeqCst);
                if broken {
                    ENOSPC
                } else {
                    errno(file.write_all_at(&data, offset))
                }
            }
            2 => return Ok(()),
            3 => 0,
            _ => EINVAL,
        };
        let mut reply = 0x6744_6698u32.to_be_bytes().to_vec();
        reply.extend(error.to_be_bytes());
        reply.extend(cookie.to_be_bytes());
        if kind == 0 && error == 0 {
            reply.extend(&data);
        }
        peer.write_all(&reply)?;
    }
}

fn errno(done: io::Result<()>) -> u32 {
    if done.is_ok() { 0 } else { EIO }
}

/// The handshake, up to the transmission.
fn greet(peer: &mut UnixStream, bytes: u64) -> io::Result<()> {
    peer.write_all(b"NBDMAGIC")?;
    peer.write_all(&OPTION_MAGIC.to_be_bytes())?;
    // FIXED_NEWSTYLE and NO_ZEROES.
    peer.write_all(&0b11u16.to_be_bytes())?;
    peer.read_exact(&mut [0; 4])?;
    loop {
        let mut head = [0; 16];
        peer.read_exact(&mut head)?;
        let option = u32::from_be_bytes(head[8..12].try_into().expect("4 bytes"));
        let length = u32::from_be_bytes(head[12..16].try_into().expect("4 bytes"));
        peer.read_exact(&mut vec![0; length as usize])?;
        let mut reply = |kind: u32, body: &[u8]| {
            let length = u32::try_from(body.len()).map_err(io::Error::other)?;
            peer.write_all(&REPLY_MAGIC.to_be_bytes())?;
            for word in [option, kind, length] {
                peer.write_all(&word.to_be_bytes())?;
            }
            peer.write_all(body)
        };
        if option == OPTION_GO {
            let mut export = 0u16.to_be_bytes().to_vec();
            export.extend(bytes.to_be_bytes());
            export.extend(EXPORT_FLAGS.to_be_bytes());
            reply(INFO, &export)?;
            return reply(ACK, &[]);
        }
        reply(UNSUPPORTED, &[])?;
    }
}
