//! Peers that do not speak HTTP: what no well-behaved server can be made to do.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use crate::thread::Joined;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It is accepted, and nothing ever comes back.
    Hang,
    /// What comes back is no HTTP.
    Garbage,
    /// It is reset.
    Reset,
}

/// Treats every connection of `listener` in this `manner`, until the thread is dropped.
///
/// # Errors
/// If the system has no thread to give.
pub fn serve(listener: TcpListener, manner: Manner) -> io::Result<Joined> {
    let listener = Arc::new(listener);
    let accepting = Arc::clone(&listener);
    // A listening socket that is shut down refuses: `accept` returns with an error.
    let wake = move || {
        let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
    };
    Joined::spawn("rude", wake, move || {
        let mut held = VecDeque::new();
        loop {
            match accepting.accept() {
                Ok((stream, _)) => held.extend(treat(stream, manner)),
                // Out of descriptors: one is let go. The end, once none is held.
                Err(_) if held.pop_front().is_some() => {}
                Err(_) => return,
            }
            if held.len() > limits::MOCK_KEPT_MAX {
                held.pop_front();
            }
        }
    })
}

/// The connection, if it is to be held open.
fn treat(mut stream: TcpStream, manner: Manner) -> Option<TcpStream> {
    // What fails here ends the connection, which is no loss.
    match manner {
        Manner::Hang => return Some(stream),
        Manner::Garbage => {
            // Read first: closing over unread bytes resets, and the garbage would not arrive.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            let _ = stream.read(&mut [0; 16 * 1024]);
            let _ = stream.write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n");
            let _ = stream.shutdown(Shutdown::Write);
        }
        Manner::Reset => {
            let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }
    }
    None
}
