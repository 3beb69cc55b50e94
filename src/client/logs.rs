//! The stream of a log.

use super::ClientError;
use super::sse::Event;
use super::stream::EventStream;

/// The lines of a log as they come, each with its place: what
/// [`HiveClient::follow_logs`](super::HiveClient::follow_logs) takes to go on after it.
///
/// Waits for each. Ends when the worker is gone; a stream that ends without that, or is silent for
/// [`CLIENT_SILENCE`](crate::limits::CLIENT_SILENCE), ends with an error.
///
/// Each line has `\n` at its end. One of more than
/// [`FOLLOWER_LINE_BYTES_MAX`](crate::limits::FOLLOWER_LINE_BYTES_MAX) comes in several pieces, cut between
/// characters, of which the last alone has it.
#[derive(Debug)]
pub struct LogLines(pub(super) EventStream);

impl Iterator for LogLines {
    type Item = Result<(Option<u64>, String), ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = |event: Event| (event.id, event.data + if event.more { "" } else { "\n" });
        Some(self.0.next()?.map(line))
    }
}
