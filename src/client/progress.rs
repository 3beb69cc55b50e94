//! The stream of a download's progress.

use super::ClientError;
use super::resume::Resuming;
use super::stream::EventStream;
use crate::api::Progress;

/// The events of a download, each with its id: what [`HiveClient::progress`](super::HiveClient::progress) takes
/// to go on after it.
///
/// Waits for each. The last one is a [`Progress::Complete`] or a [`Progress::Error`]. When the connection ends it comes
/// back after the last event; what was seen may come again if the hive has been started anew. Ends with an error if the
/// hive refuses (it was started anew and knows of no such download: 404), or is away for
/// [`CLIENT_RETURN_WITHIN`](crate::limits::CLIENT_RETURN_WITHIN).
#[derive(Debug)]
pub struct ProgressEvents {
    stream: Resuming,
    /// The last event has been told.
    is_told: bool,
}

impl ProgressEvents {
    pub(super) fn new(stream: Resuming) -> Self {
        Self { stream, is_told: false }
    }

    pub(super) fn of(stream: EventStream) -> Self {
        Self::new(Resuming::once(stream))
    }

    /// The same, for who comes back himself: a connection that ends is an error at once.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.stream.forget_way();
        self
    }

    /// Comes back to a stream that has ended before its last event: after a start of the hive, what was seen last may
    /// have a number that another one has now.
    fn begin_again(&mut self) -> Result<(), ClientError> {
        self.stream.last = None;
        self.stream.connect()?;
        self.stream.forget_way();
        Ok(())
    }
}

impl Iterator for ProgressEvents {
    type Item = Result<(Option<u64>, Progress), ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = loop {
            match self.stream.next() {
                Some(Ok(event)) => break event,
                Some(Err(error)) => return Some(Err(error)),
                None if self.is_told || !self.stream.has_way() => return None,
                None => {
                    if let Err(error) = self.begin_again() {
                        self.stream.end();
                        return Some(Err(error));
                    }
                }
            }
        };
        let progress: Result<Progress, _> = serde_json::from_str(&event.data);
        self.is_told = matches!(progress, Ok(Progress::Complete { .. } | Progress::Error { .. }));
        Some(progress.map(|progress| (event.id, progress)).map_err(|error| {
            self.stream.end();
            ClientError::BadAnswer(error.to_string())
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::client::HiveClient;

    type Came = Vec<<ProgressEvents as Iterator>::Item>;

    /// What the client makes of a stream, and its request.
    fn stream(body: &str, last: Option<u64>) -> (Came, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = HiveClient::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        std::thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).unwrap();
                for piece in body.as_bytes().chunks(7) {
                    let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                    // The client may have enough of it before its end.
                    let _ = stream.write_all(&chunk);
                }
                String::from_utf8(request).unwrap()
            });
            let events = client.progress("d/1", last).unwrap().once().collect();
            (events, server.join().unwrap())
        })
    }

    #[test]
    fn events_come_with_their_ids_until_the_hive_says_that_it_is_done() {
        let (events, request) = stream(
            ": hello\n\nid: 4\ndata: {\"stage\":\"verifying\"}\n\n:\n\nid: 5\ndata: {\"stage\":\"complete\",\"local_path\":\"/m\"}\n\ndata: [DONE]\n\ndata: more\n\n",
            Some(3),
        );
        let events: Vec<_> = events.into_iter().map(Result::unwrap).collect();
        let complete = Progress::Complete { local_path: "/m".to_owned() };
        assert_eq!(events, [(Some(4), Progress::Verifying), (Some(5), complete)]);
        assert!(request.starts_with("GET /v1/models/download/progress?id=d%2F1 HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("\r\nlast-event-id: 3\r\n"), "{request}");
    }

    #[test]
    fn a_stream_that_breaks_gives_what_came_and_then_an_error_once() {
        let (events, _) = stream("data: {\"stage\":\"verifying\"}\n\ndata: {\"st", None);
        assert!(matches!(&events[..], [Ok((None, Progress::Verifying)), Err(_)]), "{events:?}");
        let (events, _) = stream("data: nonsense\n\ndata: {\"stage\":\"verifying\"}\n\n", None);
        assert!(matches!(&events[..], [Err(ClientError::BadAnswer(_))]), "{events:?}");
    }
}
