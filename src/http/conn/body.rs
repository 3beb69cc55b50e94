//! The body's framing is removed as it arrives: a stated length, or chunks.

use crate::http::{ApiError, Code};
use crate::limits;

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes; at most [`limits::BODY_BYTES_MAX`].
    Known(usize),
    /// A chunk of length zero ends it.
    Chunked,
}

/// What of a body is still to come.
#[derive(Debug)]
pub(super) enum Decoder {
    /// So many bytes.
    Known { left: usize },
    /// Chunks, and within them here.
    Chunked(Chunked),
}

/// A place within chunks.
#[derive(Debug)]
pub(super) enum Chunked {
    /// In the hexadecimal digits of a length; `line` bytes of its line are read.
    Size { size: usize, line: usize },
    /// In the extensions after a length.
    Extension { size: usize, line: usize },
    /// Before the line feed after a length.
    SizeEnd { size: usize },
    /// In the bytes of a chunk.
    Data { left: usize },
    /// Before the carriage return after a chunk.
    DataCr,
    /// Before the line feed after a chunk.
    DataLf,
    /// In the lines after the last chunk: so far `bytes` of them, `line` of this one.
    Trailer { bytes: usize, line: usize },
    /// Before the line feed of a trailer line; the empty one ends the body.
    TrailerLf { bytes: usize, empty: bool },
}

impl From<Length> for Decoder {
    fn from(length: Length) -> Self {
        match length {
            Length::Known(left) => Self::Known { left },
            Length::Chunked => Self::Chunked(Chunked::Size { size: 0, line: 0 }),
        }
    }
}

impl Decoder {
    /// Moves bytes of the body from `input` to `body`. Returns how many bytes of `input` are consumed,
    /// and whether the body is whole.
    pub(super) fn advance(&mut self, input: &[u8], body: &mut Vec<u8>) -> Result<(usize, bool), ApiError> {
        match self {
            Self::Known { left } => {
                let take = input.len().min(*left);
                body.extend_from_slice(&input[..take]);
                *left -= take;
                Ok((take, *left == 0))
            }
            Self::Chunked(place) => place.advance(input, body),
        }
    }
}

impl Chunked {
    fn advance(&mut self, input: &[u8], body: &mut Vec<u8>) -> Result<(usize, bool), ApiError> {
        let mut used = 0;
        while let Some(&byte) = input.get(used) {
            if let Self::Data { left } = self {
                let take = (input.len() - used).min(*left);
                body.extend_from_slice(&input[used..used + take]);
                used += take;
                *left -= take;
                if *left == 0 {
                    *self = Self::DataCr;
                }
                continue;
            }
            used += 1;
            if let Self::TrailerLf { empty: true, .. } = self {
                return if byte == b'\n' { Ok((used, true)) } else { Err(malformed()) };
            }
            self.step(byte, body.len())?;
        }
        Ok((used, false))
    }

    /// Takes one byte that is no data; `received` bytes of data came before it.
    fn step(&mut self, byte: u8, received: usize) -> Result<(), ApiError> {
        *self = match (&*self, byte) {
            (Self::Size { size, line }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).map_or(0, |d| d as usize);
                let size = size * 16 + digit; // bounded below, so it never overflows
                if received + size > limits::BODY_BYTES_MAX {
                    return Err(ApiError::new(Code::PayloadTooLarge, "the body is too long"));
                }
                Self::Size { size, line: counted(*line)? }
            }
            (Self::Size { size, line: 1.. }, b'\r') => Self::SizeEnd { size: *size },
            (Self::Size { size, line: line @ 1.. }, b';') => {
                Self::Extension { size: *size, line: counted(*line)? }
            }
            (Self::Extension { size, .. }, b'\r') => Self::SizeEnd { size: *size },
            (Self::Extension { size, line }, _) if is_text(byte) => {
                Self::Extension { size: *size, line: counted(*line)? }
            }
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer { bytes: 0, line: 0 },
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: *size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { size: 0, line: 0 },
            (Self::Trailer { bytes, line }, b'\r') => Self::TrailerLf { bytes: *bytes, empty: *line == 0 },
            (Self::Trailer { bytes: limits::TRAILER_BYTES_MAX.., .. }, _) => {
                return Err(ApiError::new(Code::HeadTooLarge, "the trailer is too long"));
            }
            (Self::Trailer { bytes, line }, _) if is_text(byte) => {
                Self::Trailer { bytes: bytes + 1, line: line + 1 }
            }
            (Self::TrailerLf { bytes, .. }, b'\n') => Self::Trailer { bytes: *bytes, line: 0 },
            _ => return Err(malformed()),
        };
        Ok(())
    }
}

/// One byte more on the line before a chunk.
fn counted(line: usize) -> Result<usize, ApiError> {
    if line == limits::CHUNK_LINE_BYTES_MAX { Err(malformed()) } else { Ok(line + 1) }
}

/// A byte that may stand in an extension or a trailer.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

fn malformed() -> ApiError {
    ApiError::new(Code::BadRequest, "the chunks of the body are malformed")
}
