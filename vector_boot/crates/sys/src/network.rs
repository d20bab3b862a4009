//! IPv4 interfaces: up, address, default route; by ioctl, which every kernel has.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Ends the name in `struct ifreq`.
const NAME_BYTES: usize = 16;

/// A socket to ask the kernel through.
fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that only we know.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= NAME_BYTES || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        // C's char is signed on x86_64 and unsigned on aarch64; the kernel reads bytes.
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

fn inet(address: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes of plain data with the family first; that is how the kernel reads them.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

fn ioctl(socket: &OwnedFd, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: `request` is a live ifreq, which is what these numbers read and write.
    if unsafe { libc::ioctl(socket.as_raw_fd(), number, std::ptr::from_mut(request)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets an interface up.
///
/// # Errors
/// As `ioctl(2)` with SIOCSIFFLAGS.
pub fn set_up(name: &str) -> io::Result<()> {
    let socket = control_socket()?;
    let mut r = request(name)?;
    ioctl(&socket, libc::SIOCGIFFLAGS, &mut r)?;
    // SAFETY: SIOCGIFFLAGS filled the flags member of the union.
    let flags = unsafe { r.ifr_ifru.ifru_flags };
    r.ifr_ifru.ifru_flags = flags | libc::IFF_UP as i16;
    ioctl(&socket, libc::SIOCSIFFLAGS, &mut r)
}

/// Gives an interface its address and prefix length (0 to 32).
///
/// # Errors
/// As `ioctl(2)` with SIOCSIFADDR and SIOCSIFNETMASK.
pub fn set_address(name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mask = u32::MAX
        .checked_shl(32u32.saturating_sub(u32::from(prefix)))
        .unwrap_or(0);
    let socket = control_socket()?;
    let mut r = request(name)?;
    r.ifr_ifru.ifru_addr = inet(address);
    ioctl(&socket, libc::SIOCSIFADDR, &mut r)?;
    let mut r = request(name)?;
    r.ifr_ifru.ifru_netmask = inet(Ipv4Addr::from(mask));
    ioctl(&socket, libc::SIOCSIFNETMASK, &mut r)
}

/// Sends everything else to this gateway. There already is fine.
///
/// # Errors
/// As `ioctl(2)` with SIOCADDRT.
pub fn set_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: all zeroes is a valid rtentry.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = inet(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = inet(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = inet(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: `route` is a live rtentry.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) } < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EEXIST) {
            Ok(())
        } else {
            Err(error)
        };
    }
    Ok(())
}
