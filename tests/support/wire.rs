//! A server with a small service of every kind, and a client that speaks bytes.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rbee_hive::http::{
    Answer, ApiError, Body, Code, Errand, Head, Options, Peer, Pull, Request, Server, Service, Source,
    Ticket, Timeouts, Verdict,
};

/// Nothing here takes so long; a test that hangs fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running server and the far end of its service.
pub struct Rig {
    pub server: Server,
    /// Tickets of requests to `/park` and `/block`.
    pub parked: Receiver<Ticket>,
    /// Threads that serve `/block` go on when it is dropped.
    pub gate: Option<Sender<()>>,
    /// The feeds of `/events`, as they begin.
    pub feeds: Receiver<Feed>,
}

pub fn options() -> Options {
    Options { threads: 2, max_connections: 1024, timeouts: Timeouts::default() }
}

/// All deadlines at once; the sweep looks at them once a second.
pub fn impatient() -> Options {
    let short = Duration::from_millis(100);
    let timeouts = Timeouts {
        head: short,
        body: short,
        idle: short,
        write_stall: short,
        stream_keep_alive: short,
        linger: short,
    };
    Options { timeouts, ..options() }
}

impl Rig {
    pub fn start() -> Self {
        Self::with(options())
    }

    pub fn with(options: Options) -> Self {
        let (park, parked) = unbounded();
        let (begin, feeds) = unbounded();
        let (gate, opened) = unbounded();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::start(listener, options, Arc::new(Probe { park, begin, opened })).unwrap();
        Self { server, parked, gate: Some(gate), feeds }
    }

    pub fn connect(&self) -> Client {
        let socket = TcpStream::connect(self.server.local_addr()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Client { socket, read: Vec::new() }
    }

    /// One request on a connection of its own.
    pub fn get(&self, path: &str) -> Reply {
        let mut client = self.connect();
        client.get(path);
        client.reply()
    }

    pub fn parked(&self) -> Ticket {
        self.parked.recv_timeout(PATIENCE).expect("a request is parked")
    }

    pub fn feed(&self) -> Feed {
        self.feeds.recv_timeout(PATIENCE).expect("a stream has begun")
    }
}

/// Answers by path; see each arm.
struct Probe {
    park: Sender<Ticket>,
    begin: Sender<Feed>,
    opened: Receiver<()>,
}

impl Probe {
    fn source(&self) -> Box<dyn Source> {
        let (gone, dropped) = unbounded();
        let waiting = Arc::new(Mutex::new(VecDeque::new()));
        let feed = Feed { waiting: Arc::clone(&waiting), dropped };
        self.begin.send(feed).unwrap();
        Box::new(FeedSource { waiting, _gone: gone })
    }
}

impl Service for Probe {
    fn on_head(&self, head: &Head, _peer: &mut Peer) -> Result<(), Answer> {
        match &*head.path {
            "/forbidden" => Err(ApiError::new(Code::Forbidden, "no").into_answer(head.correlation)),
            _ => Ok(()),
        }
    }

    fn on_loop(&self, request: Request) -> Verdict {
        match &*request.head.path {
            "/echo" => Verdict::Answer(echo(&request)),
            "/nothing" => Verdict::Answer(Answer { status: 204, headers: vec![], body: Body::Owned(vec![]) }),
            "/evil" => Verdict::Answer(text(String::new()).with_header("X", "a\r\nInjected: yes")),
            "/big" => Verdict::Answer(text("x".repeat(request.head.query.parse().unwrap()))),
            "/events" => Verdict::Stream(self.source()),
            path => {
                let is_quick = path == "/quick";
                let within = request.head.query.strip_prefix("within_ms=").and_then(|ms| ms.parse().ok());
                let within = within.map_or(PATIENCE, Duration::from_millis);
                Verdict::Thread(request, Errand { name: "probe", within, is_quick })
            }
        }
    }

    fn on_thread(&self, request: Request, ticket: Ticket) {
        match &*request.head.path {
            "/thread" | "/quick" => ticket.answer(echo(&request)),
            "/park" => self.park.send(ticket).unwrap(),
            "/block" => {
                self.park.send(ticket).unwrap();
                self.opened.recv().unwrap_err();
            }
            "/late-events" => ticket.stream(self.source()),
            "/panic" => panic!("as asked"),
            "/drop" => drop(ticket),
            _ => ticket.error(ApiError::new(Code::NotFound, "no such path")),
        }
    }
}

pub fn text(body: String) -> Answer {
    Answer::bytes(200, "text/plain", Body::Owned(body.into_bytes()))
}

fn echo(request: &Request) -> Answer {
    let head = &request.head;
    let body = String::from_utf8_lossy(&request.body);
    text(format!("{} {}?{} {body}", head.method, head.path, head.query))
}

/// The far end of a stream.
pub struct Feed {
    waiting: Arc<Mutex<VecDeque<Vec<u8>>>>,
    dropped: Receiver<()>,
}

impl Feed {
    /// Puts an event in; an empty one ends the stream. The stream must be woken.
    pub fn put(&self, event: impl Into<Vec<u8>>) {
        self.waiting.lock().unwrap().push_back(event.into());
    }

    pub fn waiting(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }

    /// Waits until the server has dropped the source.
    pub fn is_dropped(&self) {
        let gone = self.dropped.recv_timeout(PATIENCE);
        assert_eq!(gone, Err(crossbeam_channel::RecvTimeoutError::Disconnected), "the source is dropped");
    }
}

struct FeedSource {
    waiting: Arc<Mutex<VecDeque<Vec<u8>>>>,
    _gone: Sender<()>,
}

impl Source for FeedSource {
    fn pull(&mut self, out: &mut Vec<u8>, room: usize) -> Pull {
        let mut waiting = self.waiting.lock().unwrap();
        while let Some(event) = waiting.pop_front() {
            if event.is_empty() {
                return Pull::End;
            }
            out.extend(event);
            if out.len() >= room {
                return Pull::More;
            }
        }
        Pull::Wait
    }
}

/// A connection.
pub struct Client {
    pub socket: TcpStream,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Client {
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).unwrap();
    }

    pub fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }

    pub fn shut_down(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// The next answer.
    pub fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        let length = reply.header("content-length").map_or(0, |n| n.parse().unwrap());
        reply.body = self.take(length);
        reply
    }

    /// The next answer's head.
    pub fn head(&mut self) -> Reply {
        let head = self.until("\r\n\r\n");
        let status =
            head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{head:?}"));
        Reply { status, head, body: String::new() }
    }

    /// The next chunk; empty for the last.
    pub fn chunk(&mut self) -> String {
        let length = usize::from_str_radix(self.until("\r\n").trim_end(), 16).unwrap();
        let data = self.take(length);
        assert_eq!(self.take(2), "\r\n");
        data
    }

    /// Everything up to `end`, which is included.
    pub fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|w| w == end.as_bytes()) {
                return self.take(at + end.len());
            }
            assert!(self.more(), "closed within {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    pub fn take(&mut self, length: usize) -> String {
        while self.read.len() < length {
            assert!(self.more(), "closed after {} of {length} bytes", self.read.len());
        }
        String::from_utf8(self.read.drain(..length).collect()).unwrap()
    }

    /// The server has closed the connection in order, and sent nothing more.
    pub fn is_closed(&mut self) {
        assert!(!self.more(), "unexpected {:?}", String::from_utf8_lossy(&self.read));
    }

    /// The connection is closed or reset, sooner or later.
    pub fn is_gone(&mut self) {
        let mut rest = [0; 4096];
        loop {
            match self.socket.read(&mut rest) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return,
                Err(e) => panic!("not closed: {e}"),
            }
        }
    }

    fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        let n = self.socket.read(&mut piece).unwrap();
        self.read.extend_from_slice(&piece[..n]);
        n > 0
    }
}
