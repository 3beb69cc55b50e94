//! The beginning of a file, for who wants its header and not the rest.

use std::io::{self, ErrorKind, Read};

use super::bytes::Bytes;
use super::origin::{HubConnection, Part};
use crate::limits::{HUB_HEADER_BYTES_MAX, HUB_WINDOW_BYTES_FIRST, HUB_WINDOW_BYTES_MAX};
use crate::models::remote::{HubError, RemoteFile};

/// Reads a file of the hub from its beginning, by requests for windows of it.
///
/// The first window is [`HUB_WINDOW_BYTES_FIRST`], each further one twice as long up to [`HUB_WINDOW_BYTES_MAX`].
/// What has been read when this is dropped, and the rest of a window, is all that is fetched. Beyond
/// [`HUB_HEADER_BYTES_MAX`] reading fails with [`ErrorKind::FileTooLarge`]. Nothing is tried twice; any error is the
/// last word, and [`HubReader::failed`] tells it.
pub(crate) struct HubReader {
    connection: HubConnection,
    file: RemoteFile,
    at: u64,
    window: u64,
    bytes: Option<Bytes>,
    failed: Option<HubError>,
}

impl HubReader {
    pub(super) fn new(connection: HubConnection, file: RemoteFile) -> Self {
        Self { connection, file, at: 0, window: HUB_WINDOW_BYTES_FIRST, bytes: None, failed: None }
    }

    /// What the hub did, if reading has failed for that.
    pub(crate) fn failed(&self) -> Option<HubError> {
        self.failed
    }

    fn next_window(&mut self) -> Result<Bytes, HubError> {
        let most = self.file.bytes.min(HUB_HEADER_BYTES_MAX);
        let end = most.min(self.at + self.window);
        self.window = HUB_WINDOW_BYTES_MAX.min(2 * self.window);
        let Part { from, bytes } = self.connection.fetch(&self.file, self.at..end, most)?;
        if from == self.at {
            Ok(bytes)
        } else {
            Err(HubError::BadAnswer("it knows ranges only now and then"))
        }
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, HubError> {
        let bytes = match self.bytes.take() {
            Some(bytes) => bytes,
            None => self.next_window()?,
        };
        let bytes = self.bytes.insert(bytes);
        let count = bytes.read(buffer).map_err(|error| self.connection.wire.failed(error.into()))?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Read for HubReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(error) = self.failed {
                return Err(io::Error::other(error));
            }
            if buffer.is_empty() || self.at == self.file.bytes {
                return Ok(0);
            }
            match self.read_some(buffer) {
                // The window is read.
                Ok(0) if self.at < HUB_HEADER_BYTES_MAX => self.bytes = None,
                Ok(0) => return Err(ErrorKind::FileTooLarge.into()),
                Ok(count) => return Ok(count),
                Err(error) => self.failed = Some(error),
            }
        }
    }
}
