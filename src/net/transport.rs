//! What ureq does its input and output through: a TCP socket that obeys one [`Deadline`]. TLS and a proxy
//! are ureq's own layers on top of it.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

use super::deadline::Deadline;

/// Opens the connections, and counts them: a post that opened none went over a kept one.
#[derive(Debug, Clone)]
pub struct Line {
    deadline: Arc<Deadline>,
    opened: Arc<AtomicU64>,
}

impl Line {
    /// A line whose every wait obeys `deadline`.
    pub fn new(deadline: Arc<Deadline>) -> Self {
        Self { deadline, opened: Arc::default() }
    }

    /// Connections opened so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// The first of `addrs` that answers; each gets its share of the time, so that one black hole does
    /// not hide the rest.
    fn open(&self, addrs: &[SocketAddr]) -> io::Result<TcpStream> {
        let mut failed = io::ErrorKind::AddrNotAvailable.into();
        for (addr, share) in addrs.iter().zip((1..=addrs.len() as u32).rev()) {
            match self.open_one(*addr, share) {
                Ok(stream) => return Ok(stream),
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    fn open_one(&self, addr: SocketAddr, share: u32) -> io::Result<TcpStream> {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &addr) {
            Err(Errno::INPROGRESS) => {
                self.deadline.wait(&socket, PollFlags::OUT, share)?;
                sockopt::socket_error(&socket)??;
            }
            done => done?,
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl<In: Transport> Connector<In> for Line {
    type Out = Either<In, Socket>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
        let stream = self.open(&details.addrs)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(Socket { stream, buffers, deadline: Arc::clone(&self.deadline) })))
    }
}

/// A non-blocking TCP connection. ureq's own timeouts are not looked at: the deadline covers them.
pub struct Socket {
    stream: TcpStream,
    buffers: LazyBuffers,
    deadline: Arc<Deadline>,
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let mut rest = &self.buffers.output()[..amount];
        while !rest.is_empty() {
            self.deadline.wait(&self.stream, PollFlags::OUT, 1)?;
            match self.stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(e) if is_passing(&e) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        loop {
            self.deadline.wait(&self.stream, PollFlags::IN, 1)?;
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(amount) => {
                    self.buffers.input_appended(amount);
                    return Ok(amount > 0);
                }
                Err(e) if is_passing(&e) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Between two posts an open connection has nothing to say: bytes, the end and errors all end it.
    fn is_open(&mut self) -> bool {
        matches!(self.stream.peek(&mut [0]), Err(e) if is_passing(&e))
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.stream).finish()
    }
}

fn is_passing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
