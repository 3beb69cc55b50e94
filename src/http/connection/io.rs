//! Reads and writes that never block, and the deadline for the next one.

use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Connection, Desk, Phase, Waits};

/// The connection is broken or done.
pub(super) struct Gone;

impl From<Errno> for Gone {
    fn from(_: Errno) -> Self {
        Self
    }
}

impl Connection {
    /// Writes what there is to write. `false` if the reader is behind: the socket will tell.
    pub(super) fn flush(&mut self, desk: &mut Desk) -> Result<bool, Gone> {
        // Most answers go from the desk to the socket in one write, and are never copied.
        let direct = self.output.is_empty();
        if !direct {
            self.output.extend_from_slice(&desk.output);
        }
        let waiting = if direct { &desk.output } else { &self.output[self.written..] };
        let sent = send_all(&self.socket, waiting)?;
        if sent > 0 {
            self.waits = Waits::Nothing; // progress: the deadline begins anew
        }
        if sent == waiting.len() {
            (self.output, self.written) = (Vec::new(), 0);
        } else if direct {
            self.output = desk.output[sent..].to_vec();
        } else {
            self.written += sent;
        }
        desk.output.clear();
        Ok(self.output.is_empty())
    }

    /// Reads behind what is `unread`. `false` if nothing has come: the socket will tell.
    pub(super) fn read_more(&mut self, unread: &mut Range<usize>, desk: &mut Desk) -> Result<bool, Gone> {
        if !self.readable {
            return Ok(false);
        }
        if unread.start > 0 {
            desk.input.copy_within(unread.clone(), 0);
            *unread = 0..unread.len();
        }
        let room = &mut desk.input[unread.end..];
        let wanted = room.len();
        match recv(&self.socket, room, RecvFlags::empty()) {
            Ok((0, _)) => Err(Gone),
            Ok((n, _)) => {
                unread.end += n;
                // Less than was asked for: the next byte will be an event. The end was one already.
                self.readable = n == wanted || self.hung_up;
                Ok(true)
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(false)
            }
            Err(Errno::INTR) => Ok(true),
            Err(broken) => Err(broken.into()),
        }
    }

    /// Sets the deadline for what it waits for now. One that runs already is not moved, unless there was
    /// progress.
    pub(super) fn rearm(&mut self, desk: &Desk) {
        let Self { phase, parser, input, output, .. } = self;
        let times = &desk.timeouts;
        let (waits, patience) = match phase {
            _ if !output.is_empty() => (Waits::Write, times.write_stall),
            Phase::Reading if parser.head().is_some() => (Waits::Body, times.body),
            Phase::Reading if input.is_empty() => (Waits::Idle, times.idle),
            Phase::Reading => (Waits::Head, times.head),
            Phase::Streaming(_) => (Waits::Stream, times.stream_keep_alive),
            Phase::Closing { .. } | Phase::Lingering { .. } => (Waits::Linger, times.linger),
            Phase::Serving(serving) => {
                (self.waits, self.deadline) = (Waits::Answer, Some(serving.until));
                return;
            }
        };
        if waits != self.waits {
            self.waits = waits;
            self.deadline = desk.now.checked_add(patience);
        }
    }
}

/// How many of `bytes` the socket took.
fn send_all(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    let mut sent = 0;
    while sent < bytes.len() {
        match send(socket, &bytes[sent..], SendFlags::NOSIGNAL) {
            Ok(n) => sent += n,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(broken) => return Err(broken),
        }
    }
    Ok(sent)
}
