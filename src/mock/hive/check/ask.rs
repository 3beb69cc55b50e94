//! What the check asks a worker: with a hive's own words where there are such.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::limits;
use crate::process::exchange::{self, ReplyReader};

/// `GET /health` as a hive asks it: the status, or why there is none.
pub(super) fn health(addr: SocketAddr) -> Result<u16, String> {
    send(addr, &exchange::get(addr, "/health"))?.status(Instant::now() + limits::EXCHANGE_TIMEOUT)
}

/// `POST /v1/shutdown`, with a hive's own bytes if there is a token: the status, or why there is none.
pub(super) fn shutdown(addr: SocketAddr, token: Option<&crate::id::Token>) -> Result<u16, String> {
    let bytes = match token {
        Some(token) => exchange::post(addr, "/v1/shutdown", token),
        None => post(addr, "/v1/shutdown", "{}"),
    };
    send(addr, &bytes)?.status(Instant::now() + limits::EXCHANGE_TIMEOUT)
}

/// A POST that is under way.
pub(super) fn work(addr: SocketAddr, path: &str, body: &str) -> Result<Asked, String> {
    send(addr, &post(addr, path, body))
}

fn post(to: SocketAddr, path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn send(addr: SocketAddr, bytes: &[u8]) -> Result<Asked, String> {
    let sent = TcpStream::connect_timeout(&addr, limits::EXCHANGE_TIMEOUT).and_then(|mut stream| {
        stream.set_write_timeout(Some(limits::EXCHANGE_TIMEOUT))?;
        stream.write_all(bytes).map(|()| Asked(stream))
    });
    sent.map_err(|e| format!("it cannot be asked: {e}"))
}

/// A question that is not answered yet.
pub(super) struct Asked(TcpStream);

impl Asked {
    /// The status of the answer; waits for all of it until `deadline`.
    pub(super) fn status(mut self, deadline: Instant) -> Result<u16, String> {
        let (mut reader, mut block) = (ReplyReader::new(true), [0; limits::CLIENT_READ_BYTES]);
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let read = self.0.set_read_timeout(Some(left)).and_then(|()| self.0.read(&mut block));
            let reply = match read {
                Ok(0) => reader.on_end().map(Some),
                Ok(count) => reader.on_bytes(&block[..count]),
                Err(_) if Instant::now() >= deadline => {
                    return Err("no answer in time".to_owned());
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(format!("no answer: {e}")),
            };
            match reply {
                Ok(Some(reply)) => return Ok(reply.status),
                Ok(None) => {}
                Err(_) => return Err("an answer that is no HTTP, or is cut".to_owned()),
            }
        }
    }
}
