//! The gateway as a whole: real sockets, real files, peers that speak the real frames.

mod calls;
mod house;
mod manners;
mod peers;
mod restarts;
