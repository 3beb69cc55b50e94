//! The stream of a download's progress.

use super::ClientError;
use super::stream::EventStream;
use crate::api::Progress;

/// The events of a download, each with its id: what [`HiveClient::progress`](super::HiveClient::progress) takes
/// to go on after it.
///
/// Waits for each. Ends after the hive has said so; a stream that ends without that, or is silent for
/// [`CLIENT_SILENCE`](crate::limits::CLIENT_SILENCE), ends with an error.
#[derive(Debug)]
pub struct ProgressEvents(pub(super) EventStream);

impl Iterator for ProgressEvents {
    type Item = Result<(Option<u64>, Progress), ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = match self.0.next()? {
            Ok(event) => event,
            Err(error) => return Some(Err(error)),
        };
        let progress = serde_json::from_str(&event.data);
        Some(progress.map(|progress| (event.id, progress)).map_err(|error| {
            self.0.end();
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
            let events = client.progress("d/1", last).unwrap().collect();
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
