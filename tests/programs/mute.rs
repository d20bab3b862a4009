//! A user's service that says that it is ready, and then never gives a sign of life.

use std::os::unix::net::UnixDatagram;

fn main() {
    let to = std::env::var_os("NOTIFY_SOCKET").expect("a socket to notify");
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.send_to(b"READY=1", to).expect("a message");
    loop {
        std::thread::park();
    }
}
