//! The body of a file, or of a part of it.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::{Body, BodyReader};

use crate::net::Deadline;

/// Reads so many bytes and no more, straight from the connection's buffer; every read has the whole time of a
/// stall.
///
/// The connection is kept if the answer ends with them, and closed otherwise, or if this is dropped before.
pub(super) struct Bytes {
    body: Option<BodyReader<'static>>,
    left: u64,
    /// What follows them, if the answer said how long it is.
    beyond: Option<u64>,
    deadline: Arc<Deadline>,
    stall: Duration,
}

impl Bytes {
    /// The first `count` bytes of `body`.
    pub(super) fn new(body: Body, count: u64, deadline: &Arc<Deadline>, stall: Duration) -> Self {
        let beyond = body.content_length().map(|length| length.saturating_sub(count));
        let body = Some(body.into_reader());
        Self { body, left: count, beyond, deadline: Arc::clone(deadline), stall }
    }

    fn finish(&mut self) {
        if let Some(mut body) = self.body.take().filter(|_| self.beyond == Some(0)) {
            // Nothing is left to wait for: this gives the connection back. All bytes are here, whatever it says.
            let _ = body.read(&mut [0]);
        }
    }
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(body) = self.body.as_mut().filter(|_| most > 0) else { return Ok(0) };
        self.deadline.begin(self.stall);
        let count = body.read(&mut buffer[..most])?;
        if count == 0 {
            self.body = None;
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        if self.left == 0 {
            self.finish();
        }
        Ok(count)
    }
}
