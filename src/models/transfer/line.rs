//! One connection's share of the work: claim, ask, read, write, note.

use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::time::Instant;

use super::crew::{Crew, broken};
use super::{TransferError, disk};
use crate::limits::{TRANSFER_BUFFER_BYTES, TRANSFER_FLUSH};
use crate::models::remote::{Body, HubError};

/// What is still to be read of a body.
struct Stream<'a> {
    at: u64,
    end: u64,
    bytes: Box<dyn Read + Send + 'a>,
}

impl Crew<'_> {
    /// A line from its connection to its end.
    pub(super) fn line(&self, slot: usize) {
        let _duty = self.on_duty(slot);
        if let Err(error) = self.serve(slot) {
            self.lost(slot, error);
        }
    }

    fn serve(&self, slot: usize) -> Result<(), TransferError> {
        let buffer_bytes =
            usize::try_from(self.task.file.bytes).unwrap_or(usize::MAX).min(TRANSFER_BUFFER_BYTES);
        let mut buffer = vec![0; buffer_bytes];
        let mut connection = self.task.origin.connect().map_err(|error| broken(&error))?;
        if slot > 0 {
            self.partial.allow_holes().map_err(|error| disk(&error))?;
        }
        let mut next = self.claim(slot, &(0..0));
        while let Some((claim, _)) = next {
            let body = connection.open(self.task.file, claim.clone()).map_err(TransferError::Hub)?;
            next = self.drain(slot, body, claim, &mut buffer)?;
        }
        Ok(())
    }

    /// Reads a body, through all claims that it leads to. The first that it does not.
    fn drain(
        &self,
        slot: usize,
        body: Body<'_>,
        mut claim: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<Option<(Range<u64>, bool)>, TransferError> {
        let mut stream = Stream { at: body.from, end: claim.end, bytes: body.bytes };
        if stream.at > claim.start {
            return Err(TransferError::Hub(HubError::BadAnswer("it sends other bytes than was asked for")));
        }
        if stream.at < claim.start && !self.goes_on_without_ranges(slot) {
            return Ok(None);
        }
        loop {
            while stream.at < claim.start {
                stream.fill(buffer, claim.start).1?;
                self.still_wanted()?;
            }
            let mut left = Some(claim);
            while let Some(claim) = left {
                let (filled, read) = stream.fill(buffer, claim.end);
                if !filled.is_empty() {
                    self.partial.write(claim.start, filled).map_err(|error| disk(&error))?;
                }
                left = self.advance(slot, filled.len() as u64)?;
                read?;
            }
            if stream.at == stream.end {
                // A connection is kept once its body's end was seen.
                let _ = stream.bytes.read(&mut [0]);
            }
            match self.claim(slot, &(stream.at..stream.end)) {
                Some((next, true)) => claim = next,
                next => return Ok(next),
            }
        }
    }
}

impl Stream<'_> {
    /// Reads up to `end`, at most a buffer, and no longer than a progress may wait.
    fn fill<'b>(&mut self, buffer: &'b mut [u8], end: u64) -> (&'b [u8], Result<(), TransferError>) {
        let room = buffer.len().min(usize::try_from(end - self.at).unwrap_or(usize::MAX));
        let (mut filled, mut read) = (0, Ok(()));
        let began = Instant::now();
        while filled < room && began.elapsed() < TRANSFER_FLUSH {
            match self.bytes.read(&mut buffer[filled..room]) {
                Ok(0) => read = Err(HubError::Broken(ErrorKind::UnexpectedEof)),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => read = Err(HubError::Stalled),
                Err(error) => read = Err(HubError::Broken(error.kind())),
            }
            if read.is_err() {
                break;
            }
        }
        self.at += filled as u64;
        (&buffer[..filled], read.map_err(TransferError::Hub))
    }
}
