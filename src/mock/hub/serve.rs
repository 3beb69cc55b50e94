//! The connections of the hub and of its CDN: a thread each, until the stand-in ends.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Options;
use super::body::{self, End, Manner, Reply};
use super::fault::{Asked, Fault, Rules};
use super::log::{Log, Seen, Side};
use super::repository::{Content, Repositories};
use super::route::{self, Locations, Routed};
use crate::limits;
use crate::mock::desk;
use crate::thread::Joined;

/// What all connections share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) url: String,
    pub(super) cdn_url: String,
    pub(super) log: Log,
    repositories: Mutex<Repositories>,
    rules: Mutex<Rules>,
    locations: Mutex<Locations>,
}

impl Shared {
    pub(super) fn new(options: Options, url: String, cdn_url: String) -> Self {
        Self {
            options,
            url,
            cdn_url,
            log: Log::default(),
            repositories: Mutex::default(),
            rules: Mutex::default(),
            locations: Mutex::default(),
        }
    }

    pub(super) fn repositories(&self) -> MutexGuard<'_, Repositories> {
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn locations(&self) -> MutexGuard<'_, Locations> {
        self.locations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections that are open, so that they can be closed.
#[derive(Debug, Default)]
struct Open {
    is_over: bool,
    next: u64,
    streams: BTreeMap<u64, TcpStream>,
}

impl Open {
    /// Notes a connection; `None` if there are too many, or it is over.
    fn add(&mut self, stream: &TcpStream) -> Option<u64> {
        if self.is_over || self.streams.len() >= limits::MOCK_KEPT_MAX {
            return None;
        }
        self.next += 1;
        self.streams.insert(self.next, stream.try_clone().ok()?);
        Some(self.next)
    }

    fn end(&mut self) {
        self.is_over = true;
        for stream in self.streams.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn locked(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one side until the thread is dropped.
pub(super) fn start(listener: TcpListener, side: Side, shared: Arc<Shared>) -> io::Result<Joined> {
    let listener = Arc::new(listener);
    let open = Arc::new(Mutex::new(Open::default()));
    let (accepting, accepted) = (Arc::clone(&listener), Arc::clone(&open));
    let wake = move || {
        locked(&open).end();
        // A listening socket that is shut down refuses: `accept` returns with an error.
        let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
    };
    let name = match side {
        Side::Hub => "mock-hub",
        Side::Cdn => "mock-cdn",
    };
    Joined::spawn(name, wake, move || {
        // Ends when all connections have ended.
        std::thread::scope(|scope| {
            loop {
                let Ok((stream, _)) = accepting.accept() else {
                    if locked(&accepted).is_over {
                        return;
                    }
                    std::thread::sleep(limits::ACCEPT_PAUSE);
                    continue;
                };
                let Some(number) = locked(&accepted).add(&stream) else { continue };
                let (shared, accepted) = (&shared, &accepted);
                let talked = std::thread::Builder::new().name(format!("{name}-{number}")).spawn_scoped(
                    scope,
                    move || {
                        // What fails here ends the connection, which is no loss.
                        let _ = talk(shared, side, &stream);
                        locked(accepted).streams.remove(&number);
                    },
                );
                if talked.is_err() {
                    locked(accepted).streams.remove(&number);
                }
            }
        });
    })
}

/// The head of a request, as far as a hub cares.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// As sent, without the query.
    pub(super) path: String,
    query: String,
    pub(super) range: Option<String>,
    pub(super) if_range: Option<String>,
    /// The bearer token; an empty one if there was another `Authorization`.
    pub(super) token: Option<String>,
    /// Whether it is the last of its connection: it says so, or has a body, which would be taken for the next.
    is_last: bool,
}

impl Request {
    /// A value of the query, as sent.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v)
    }
}

/// Answers the requests of a connection, one after the other.
fn talk(shared: &Shared, side: Side, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::new();
    while let Some(request) = next_request(stream, &mut read)? {
        if !exchange(shared, side, stream, &request)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads up to the end of a head; `None` at the end of the connection. What was read beyond it stays.
fn next_request(mut stream: &TcpStream, read: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; limits::HEADERS_MAX];
        let mut head = httparse::Request::new(&mut headers);
        match head.parse(read) {
            Ok(httparse::Status::Complete(length)) => {
                let header = |name: &str| {
                    let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
                    std::str::from_utf8(header.value).ok().map(str::to_owned)
                };
                let target = head.path.unwrap_or_default();
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                let token = |text: String| text.strip_prefix("Bearer ").unwrap_or_default().to_owned();
                let wants_close =
                    header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                let has_body = header("content-length").is_some() || header("transfer-encoding").is_some();
                let request = Request {
                    is_last: wants_close || has_body || head.version == Some(0),
                    method: head.method.unwrap_or_default().to_owned(),
                    path: path.to_owned(),
                    query: query.to_owned(),
                    range: header("range"),
                    if_range: header("if-range"),
                    token: header("authorization").map(token),
                };
                read.drain(..length);
                return Ok(Some(request));
            }
            Ok(httparse::Status::Partial) if read.len() < limits::HEAD_BYTES_MAX => {}
            Ok(httparse::Status::Partial) | Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        read.extend_from_slice(&piece[..count]);
    }
}

/// Answers a request; whether the connection may be used again.
fn exchange(shared: &Shared, side: Side, stream: &TcpStream, request: &Request) -> io::Result<bool> {
    let is_head = request.method == "HEAD";
    let (mut reply, mut manner, mut hangs_up) = (None, Manner::default(), false);
    if is_head || request.method == "GET" {
        let Routed { place, subject, uses, reply: routed } = route::route(shared, side, request);
        let range = if is_head { 0..0 } else { routed.range.clone() };
        let (is_bytes, is_partial) = (routed.is_bytes && !is_head, routed.is_partial());
        let asked = Asked { place, subject: &subject, is_bytes, range, is_partial, uses };
        manner.rate = shared.options.rate.filter(|_| is_bytes);
        let mut spoilt = routed;
        for fault in shared.rules().strike(&asked) {
            hangs_up |= fault == Fault::HangUp;
            spoilt = spoil(request, spoilt, &mut manner, fault);
        }
        reply = Some(spoilt);
    }
    let mut reply =
        reply.unwrap_or_else(|| Reply::text(405, "text/plain", "GET or HEAD\n").with("Allow", "GET, HEAD"));
    if request.is_last {
        reply = reply.with("Connection", "close");
    }
    let number = shared.log.begin(Seen {
        side,
        method: request.method.clone(),
        path: request.path.clone(),
        range: request.range.clone(),
        with_token: request.token.is_some(),
        status: if hangs_up { 0 } else { reply.status },
        sent: 0,
        ended: false,
    });
    let sent = if hangs_up {
        Ok(false)
    } else {
        body::send(stream, &reply, &manner, is_head, |bytes| shared.log.sent(number, bytes))
    };
    let seen = shared.log.end(number);
    if let Some(seen) = seen.filter(|_| shared.options.print) {
        desk::print(&seen.to_string());
    }
    Ok(sent? && !request.is_last)
}

/// What becomes of a reply by a fault.
fn spoil(request: &Request, mut reply: Reply, manner: &mut Manner, fault: Fault) -> Reply {
    let html = |status, text: &str| {
        Reply::text(status, "text/html; charset=utf-8", format!("<!doctype html><title>{text}</title>\n"))
    };
    let redirected = |mut reply: Reply, to: String| {
        reply.status = 302;
        reply.content = Content::Memory(Vec::new().into());
        reply.range = 0..0;
        reply.with("Location", to)
    };
    match fault {
        Fault::Cut(after) => manner.end = Some((after, End::Cut)),
        Fault::Reset(after) => manner.end = Some((after, End::Reset)),
        Fault::Stall(after) => manner.end = Some((after, End::Stall)),
        // Nothing is sent at all.
        Fault::HangUp => {}
        Fault::Corrupt(at) => manner.corrupt.push(at),
        Fault::Rate(rate) => manner.rate = Some(rate),
        Fault::Status(status) => return html(status, "a fault on request"),
        Fault::TooMany(seconds) => {
            return html(429, "a fault on request").with("Retry-After", seconds.to_string());
        }
        Fault::Refuse(code) => return route::refuse(code, request.token.is_some()),
        Fault::Html => return html(200, "Please log in"),
        Fault::LengthOff(by) => manner.length_off = by,
        Fault::RangeOff(by) => manner.range_off = by,
        Fault::TotalOff(by) => manner.total_off = by,
        Fault::SizeOff(by) => route::lie_about_sizes(&mut reply, by),
        Fault::NoRanges => {
            reply.status = 200;
            reply.range = 0..reply.content.len();
        }
        Fault::Chunked => manner.chunked = !manner.endless,
        Fault::Endless => (manner.endless, manner.chunked) = (true, false),
        Fault::RedirectLoop => {
            let to = format!("{}?{}", request.path, request.query);
            return redirected(reply, to);
        }
        Fault::RedirectTo(url) => return redirected(reply, url),
        Fault::ExpireAfter(_) => return route::denied(),
    }
    reply
}
