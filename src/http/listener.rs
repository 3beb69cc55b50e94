//! The listening socket that the event loops share.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::net::{SocketFlags, acceptfrom_with};

use super::Peer;
use super::ticket::Caller;

pub(super) struct Listener {
    socket: TcpListener,
    /// Held while one caller is accepted.
    turn: Mutex<()>,
}

impl Listener {
    /// Shares `socket`, which does not block.
    pub(super) fn new(socket: TcpListener) -> Self {
        Self { socket, turn: Mutex::new(()) }
    }

    /// The connection of whoever waited longest.
    ///
    /// # Errors
    /// `AGAIN` if nobody waits; `MFILE` or `NFILE` only if somebody does. The system looks for a descriptor
    /// before it looks for a caller: without one it says so even if nobody waits, or if the caller is about
    /// to get the last one through another loop. No connection may be closed to make room for nobody.
    pub(super) fn accept(&self) -> Result<Caller> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match acceptfrom_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Err(Errno::MFILE | Errno::NFILE) if !self.has_caller() => Err(Errno::AGAIN),
            Err(error) => Err(error),
            Ok((socket, from)) => {
                let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                Ok(Caller { socket, peer: Peer::new(from.map(|from| from.ip())), tried: 0 })
            }
        }
    }

    fn has_caller(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
