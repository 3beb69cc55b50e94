//! Bytes in, numbers and names out: never more than a header may have, and no memory for what is not there.

use std::io::{BufRead as _, BufReader, ErrorKind, Read};

use super::fault::{Fault, Part};
use crate::limits;

/// A header that is being read.
pub(super) struct Source<R> {
    from: BufReader<R>,
    at: u64,
    kept: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from: BufReader::with_capacity(limits::GGUF_READ_AHEAD_BYTES, from), at: 0, kept: 0 }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Announces that so much is read next.
    fn advance(&mut self, bytes: u64) -> Result<(), Fault> {
        self.at = self.at.checked_add(bytes).ok_or(Fault::TooLarge(Part::Header))?;
        if self.at > limits::GGUF_HEADER_BYTES_MAX { Err(Fault::TooLarge(Part::Header)) } else { Ok(()) }
    }

    /// Counts what is to be kept in memory.
    pub(super) fn keep(&mut self, bytes: u64) -> Result<(), Fault> {
        self.kept = self.kept.saturating_add(bytes);
        if self.kept > limits::GGUF_KEPT_BYTES_MAX { Err(Fault::TooLarge(Part::Kept)) } else { Ok(()) }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.advance(N as u64)?;
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    /// So many bytes, kept; the caller has bounded `length`.
    pub(super) fn bytes(&mut self, length: u64) -> Result<Vec<u8>, Fault> {
        self.advance(length)?;
        self.keep(length)?;
        let mut bytes = Vec::new();
        let read = (&mut self.from).take(length).read_to_end(&mut bytes)?;
        if (read as u64) < length { Err(Fault::Truncated) } else { Ok(bytes) }
    }

    pub(super) fn skip(&mut self, mut bytes: u64) -> Result<(), Fault> {
        self.advance(bytes)?;
        while bytes > 0 {
            let here = match self.from.fill_buf() {
                Ok(buffer) => buffer.len(),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            if here == 0 {
                return Err(Fault::Truncated);
            }
            let step = usize::try_from(bytes).map_or(here, |bytes| bytes.min(here));
            self.from.consume(step);
            bytes -= step as u64;
        }
        Ok(())
    }

    /// Skips a string.
    pub(super) fn skip_text(&mut self) -> Result<(), Fault> {
        let length = self.u64()?;
        self.skip(length)
    }
}
