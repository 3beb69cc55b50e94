//! How an answer goes out: at once, slowly, wrongly, or never.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::repository::Content;
use crate::limits;

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// All but those of the length and the range.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) content: Content,
    /// What of it is sent.
    pub(super) range: Range<u64>,
    /// Whether it is the body of a file.
    pub(super) is_bytes: bool,
}

impl Reply {
    pub(super) fn text(status: u16, kind: &str, text: impl Into<Vec<u8>>) -> Self {
        let content = Content::Memory(text.into().into());
        let headers = vec![("Content-Type", kind.to_owned())];
        Self { status, headers, range: 0..content.len(), content, is_bytes: false }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn is_partial(&self) -> bool {
        self.status == 206
    }
}

/// What is wrong with the way of an answer; nothing by default.
#[derive(Debug, Default)]
pub(super) struct Manner {
    pub(super) end: Option<(u64, End)>,
    pub(super) corrupt: Vec<u64>,
    /// Bytes a second.
    pub(super) rate: Option<u64>,
    pub(super) length_off: i64,
    pub(super) range_off: i64,
    pub(super) total_off: i64,
    pub(super) chunked: bool,
    pub(super) endless: bool,
}

/// How a body ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Cut,
    Reset,
    Stall,
}

impl Manner {
    /// Whether the connection is of use when the body is out.
    fn keeps(&self) -> bool {
        self.end.is_none() && self.length_off == 0 && !self.endless
    }

    /// Whether the bytes go out as they are in the file, as fast as they can.
    fn is_plain(&self) -> bool {
        self.corrupt.is_empty() && self.rate.is_none() && !self.chunked
    }

    fn head(&self, reply: &Reply) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", reply.status, phrase(reply.status));
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let Range { start, end } = reply.range;
        let off = |number: u64, by: i64| number.saturating_add_signed(by);
        if reply.is_partial() {
            let (first, last) = (off(start, self.range_off), off(end - 1, self.range_off));
            let total = off(reply.content.len(), self.total_off);
            head += &format!("Content-Range: bytes {first}-{last}/{total}\r\n");
        }
        if self.chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else if !self.endless {
            head += &format!("Content-Length: {}\r\n", off(end - start, self.length_off));
        }
        head + "\r\n"
    }
}

/// Writes `reply` in this `manner` and tells of each piece of its body. Whether the connection may be used
/// again.
pub(super) fn send(
    mut stream: &TcpStream,
    reply: &Reply,
    manner: &Manner,
    head_only: bool,
    mut sent: impl FnMut(u64),
) -> io::Result<bool> {
    let head = manner.head(reply).into_bytes();
    if head_only {
        stream.write_all(&head)?;
        return Ok(manner.keeps());
    }
    let Range { start, mut end } = reply.range;
    if let Some((after, _)) = manner.end {
        end = end.min(start.saturating_add(after));
    }
    match &reply.content {
        Content::Disk { file, .. } if manner.is_plain() => {
            stream.write_all(&head)?;
            let mut at = start;
            while at < end {
                let count =
                    usize::try_from(end - at).unwrap_or(usize::MAX).min(limits::MOCK_HUB_SENDFILE_BYTES);
                match rustix::fs::sendfile(stream, file, Some(&mut at), count)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => sent(count as u64),
                }
            }
        }
        content => copy(stream, head, content, start..end, manner, &mut sent)?,
    }
    if manner.endless && manner.end.is_none() {
        let zeros = [0; limits::MOCK_HUB_WRITE_BYTES];
        let mut pace = Pace::new(manner.rate);
        loop {
            let piece = &zeros[..pace.piece()];
            stream.write_all(piece)?;
            sent(piece.len() as u64);
            pace.wait(piece.len());
        }
    }
    match manner.end {
        // Nothing more goes out; the wait ends when either side closes.
        Some((_, End::Stall)) => while stream.read(&mut [0; 1024])? > 0 {},
        Some((_, End::Reset)) => rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?,
        Some((_, End::Cut)) | None => {}
    }
    Ok(manner.keeps())
}

/// Sends `head` and the bytes of `range` through memory, a piece at a time.
fn copy(
    mut stream: &TcpStream,
    head: Vec<u8>,
    content: &Content,
    range: Range<u64>,
    manner: &Manner,
    sent: &mut impl FnMut(u64),
) -> io::Result<()> {
    let (mut out, mut at) = (head, range.start);
    let mut pace = Pace::new(manner.rate);
    loop {
        let count = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(pace.piece());
        if manner.chunked {
            out.extend(format!("{count:x}\r\n").bytes());
        }
        let from = out.len();
        out.resize(from + count, 0);
        content.read_at(at, &mut out[from..])?;
        for wrong in manner.corrupt.iter().filter(|wrong| (at..at + count as u64).contains(wrong)) {
            out[from + usize::try_from(wrong - at).expect("it is in the piece")] ^= 0x55;
        }
        if manner.chunked && count > 0 {
            out.extend(b"\r\n");
        }
        at += count as u64;
        let is_last = at == range.end;
        if manner.chunked && is_last && manner.end.is_none() {
            out.extend(if count > 0 { b"0\r\n\r\n".as_slice() } else { b"\r\n" });
        }
        stream.write_all(&out)?;
        out.clear();
        sent(count as u64);
        if is_last {
            return Ok(());
        }
        pace.wait(count);
    }
}

/// Spreads bytes evenly over time.
struct Pace {
    rate: Option<u64>,
    due: Instant,
}

impl Pace {
    fn new(rate: Option<u64>) -> Self {
        Self { rate, due: Instant::now() }
    }

    /// What goes out at once.
    fn piece(&self) -> usize {
        let slices = limits::MOCK_HUB_SLICES_PER_SECOND;
        let slice = self.rate.map(|rate| usize::try_from(rate / slices).unwrap_or(usize::MAX).max(1));
        slice.unwrap_or(usize::MAX).min(limits::MOCK_HUB_WRITE_BYTES)
    }

    /// Waits until the next piece may go. Time in which the other side did not read is lost to it.
    fn wait(&mut self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let slice = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let now = Instant::now();
        self.due = self.due.max(now.checked_sub(4 * slice).unwrap_or(now)) + slice;
        std::thread::sleep(self.due.saturating_duration_since(now));
    }
}

/// Of the statuses that a hub answers with.
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Unnamed",
    }
}
