//! One exchange with a worker, without I/O: the bytes of the question, and a reader of the answer.

use std::net::SocketAddr;

use crate::id::Token;
use crate::limits;

/// Header lines of an answer; one with more is not understood.
const HEADERS_MAX: usize = 64;

/// The bytes of a GET.
pub(crate) fn get(to: SocketAddr, path: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: rbee-hive/{version}\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    )
    .into_bytes()
}

/// The bytes of a POST of `{}`.
pub(crate) fn post(to: SocketAddr, path: &str, token: &Token) -> Vec<u8> {
    let (version, token) = (env!("CARGO_PKG_VERSION"), token.secret());
    format!(
        "POST {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: rbee-hive/{version}\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
    )
    .into_bytes()
}

/// A worker's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Empty if it was not asked for.
    pub(crate) body: Vec<u8>,
}

/// Why there is no answer: it is no HTTP, too long, or was cut.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Garbage;

/// Reads one answer, at most [`limits::EXCHANGE_BYTES_MAX`] of it.
#[derive(Debug)]
pub(crate) struct ReplyReader {
    buffer: Vec<u8>,
    /// Where the answer that is being read begins: behind those with 1xx.
    start: usize,
    wants_body: bool,
}

/// How the end of a body is known.
#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

impl ReplyReader {
    /// A reader that is done with the head, or one that waits for the body too.
    pub(crate) fn new(wants_body: bool) -> Self {
        Self { buffer: Vec::new(), start: 0, wants_body }
    }

    /// Takes what came in. `None`: there must be more.
    pub(crate) fn on_bytes(&mut self, bytes: &[u8]) -> Result<Option<Reply>, Garbage> {
        self.buffer.extend_from_slice(bytes);
        match self.read(false)? {
            None if self.buffer.len() > limits::EXCHANGE_BYTES_MAX => Err(Garbage),
            reply => Ok(reply),
        }
    }

    /// Takes the end of the connection.
    pub(crate) fn on_end(&mut self) -> Result<Reply, Garbage> {
        self.read(true)?.ok_or(Garbage)
    }

    fn read(&mut self, ended: bool) -> Result<Option<Reply>, Garbage> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut head = httparse::Response::new(&mut headers);
            let bytes = &self.buffer[self.start..];
            let httparse::Status::Complete(head_bytes) = head.parse(bytes).map_err(|_| Garbage)? else {
                return Ok(None);
            };
            let status = head.code.ok_or(Garbage)?;
            if (100..200).contains(&status) {
                self.start += head_bytes;
                continue;
            }
            if !self.wants_body {
                return Ok(Some(Reply { status, body: Vec::new() }));
            }
            let body = body(&bytes[head_bytes..], framing(status, head.headers)?, ended)?;
            return Ok(body.map(|body| Reply { status, body }));
        }
    }
}

fn framing(status: u16, headers: &[httparse::Header<'_>]) -> Result<Framing, Garbage> {
    if matches!(status, 204 | 304) {
        return Ok(Framing::Length(0));
    }
    let values = |name: &'static str| headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name));
    let mut framing = Framing::Close;
    for header in values("content-length") {
        let text = std::str::from_utf8(header.value).map_err(|_| Garbage)?.trim();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let length = text.parse().ok().filter(|_| digits).ok_or(Garbage)?;
        if matches!(framing, Framing::Length(other) if other != length) {
            return Err(Garbage);
        }
        framing = Framing::Length(length);
    }
    for header in values("transfer-encoding") {
        match header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            true => framing = Framing::Chunked,
            false => return Err(Garbage),
        }
    }
    Ok(framing)
}

/// The body if `bytes` hold all of it.
fn body(bytes: &[u8], framing: Framing, ended: bool) -> Result<Option<Vec<u8>>, Garbage> {
    match framing {
        Framing::Length(length) => Ok(bytes.get(..length).map(<[u8]>::to_vec)),
        Framing::Close => Ok(ended.then(|| bytes.to_vec())),
        Framing::Chunked => unchunk(bytes),
    }
}

fn unchunk(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, Garbage> {
    let mut body = Vec::new();
    loop {
        let (head, size) = match httparse::parse_chunk_size(bytes).map_err(|_| Garbage)? {
            httparse::Status::Complete(parsed) => parsed,
            httparse::Status::Partial => return Ok(None),
        };
        if size == 0 {
            return Ok(Some(body)); // trailers say nothing that we ask for
        }
        let size = usize::try_from(size).ok().filter(|n| *n <= limits::EXCHANGE_BYTES_MAX).ok_or(Garbage)?;
        let Some(chunk) = bytes.get(head..head + size + 2) else { return Ok(None) };
        body.extend_from_slice(chunk.strip_suffix(b"\r\n").ok_or(Garbage)?);
        bytes = &bytes[head + size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer, if it is the same however the bytes are cut.
    fn reply(bytes: &[u8]) -> Result<Reply, Garbage> {
        let read = |piece: usize| {
            let mut reader = ReplyReader::new(true);
            for piece in bytes.chunks(piece) {
                if let Some(reply) = reader.on_bytes(piece)? {
                    return Ok(reply);
                }
            }
            reader.on_end()
        };
        let whole = read(usize::MAX);
        assert_eq!(whole, read(1));
        whole
    }

    fn ok(body: &str) -> Result<Reply, Garbage> {
        Ok(Reply { status: 200, body: body.into() })
    }

    #[test]
    fn bodies_with_a_length_in_chunks_and_up_to_the_end_are_understood() {
        assert_eq!(reply(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhix"), ok("hi"));
        assert_eq!(reply(b"HTTP/1.0 200 OK\r\n\r\nhi"), ok("hi"));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1;x=y\r\nh\r\nA\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(reply(chunked), ok("h0123456789"));
        assert_eq!(reply(b"HTTP/1.1 204 No\r\n\r\n"), Ok(Reply { status: 204, body: Vec::new() }));
    }

    #[test]
    fn interim_answers_are_skipped() {
        let bytes = b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 Hint\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhi";
        assert_eq!(reply(bytes), ok("hi"));
    }

    #[test]
    fn what_is_no_answer_is_garbage() {
        for bytes in [
            &b"hello\r\n\r\n"[..],
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhixx",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            b"HTTP/1.1 200 OK\r\n",
        ] {
            assert_eq!(reply(bytes), Err(Garbage), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn an_endless_answer_is_given_up_unless_its_status_is_enough() {
        let endless = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![b'x'; limits::EXCHANGE_BYTES_MAX]].concat();
        assert_eq!(ReplyReader::new(true).on_bytes(&endless), Err(Garbage));
        let status_only = ReplyReader::new(false).on_bytes(&endless);
        assert_eq!(status_only, Ok(Some(Reply { status: 200, body: Vec::new() })));
    }
}
