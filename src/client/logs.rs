//! The stream of a log.

use super::ClientError;
use super::resume::Resuming;
use super::sse::Event;

/// The lines of a log as they come, each with its place: what
/// [`HiveClient::follow_logs`](super::HiveClient::follow_logs) takes to go on after it.
///
/// Waits for each. Ends when the worker is gone. When the connection ends it comes back after the last line; a line
/// is seen twice only if the log does not have that place any more, and then the last lines come again. Ends with an
/// error if the hive refuses (after a start that did not find the worker, 404), or is away for
/// [`CLIENT_RETURN_WITHIN`](crate::limits::CLIENT_RETURN_WITHIN).
///
/// Each line has `\n` at its end. One of more than
/// [`FOLLOWER_LINE_BYTES_MAX`](crate::limits::FOLLOWER_LINE_BYTES_MAX) comes in several pieces, cut between
/// characters, of which the last alone has it.
#[derive(Debug)]
pub struct LogLines(pub(super) Resuming);

impl LogLines {
    /// The same, for who comes back himself: a connection that ends is an error at once.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.0.forget_way();
        self
    }
}

impl Iterator for LogLines {
    type Item = Result<(Option<u64>, String), ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = |event: Event| (event.id, event.data + if event.more { "" } else { "\n" });
        Some(self.0.next()?.map(line))
    }
}
