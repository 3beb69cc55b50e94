//! The connection layer as one thing: started, asked, drained.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::Service;
use super::connection::Permits;
use super::event_loop::EventLoop;
use super::listener::Listener;
use super::pool::{Pool, Threads};
use super::ticket::{Inbox, Pulse, StreamWaker};
use crate::limits;
use crate::thread::Joined;

/// What an operator sets.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Request threads.
    pub threads: usize,
    /// Connections at once; who comes later takes the place of one that has no whole request or does not read its
    /// answer, or gets 503 where all are busy.
    pub max_connections: usize,
    /// How long clients may take.
    pub timeouts: Timeouts,
}

/// How long clients may take; the default is that of [`limits`]. Kept to a second.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// From the end of the head to the end of the body.
    pub body: Duration,
    /// A connection between requests.
    pub idle: Duration,
    /// A client that does not read what it is sent.
    pub write_stall: Duration,
    /// An event stream without an event, before a comment is sent.
    pub stream_keep_alive: Duration,
    /// A client that goes on sending after it was refused.
    pub linger: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: limits::HEAD_DEADLINE,
            body: limits::BODY_DEADLINE,
            idle: limits::KEEP_ALIVE_IDLE,
            write_stall: limits::WRITE_STALL,
            stream_keep_alive: limits::STREAM_KEEP_ALIVE,
            linger: limits::LINGER,
        }
    }
}

/// A running server. Dropping it cuts all connections and joins its threads, but for one that hangs.
pub struct Server {
    shared: Arc<Shared>,
    inboxes: Arc<[Arc<Inbox>]>,
    address: SocketAddr,
    /// Joined before the pool: while they run, requests may still come to it.
    loops: Vec<Joined>,
    pool: Threads,
}

/// What all loops of a server know.
#[derive(Debug)]
pub(super) struct Shared {
    /// Connections, those that are being refused for their number not counted.
    pub(super) connections: AtomicUsize,
    pub(super) connections_max: usize,
    /// Those that are being refused, in each loop.
    pub(super) refusing_max: usize,
    /// Event streams.
    pub(super) streams: Arc<Permits>,
    /// Until when requests under way are waited for, once the end has been announced.
    pub(super) stop: OnceLock<Instant>,
}

impl Server {
    /// Serves `listener` with `service`, on [`limits::EVENT_LOOPS`] loops and `options.threads` request
    /// threads.
    ///
    /// # Errors
    /// If the system has no threads or descriptors to give.
    pub fn start(listener: TcpListener, options: Options, service: Arc<dyn Service>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        rustix::net::listen(&listener, limits::LISTEN_BACKLOG)?; // it listens already; this only lets more wait
        // Inherited by every connection: an answer must not wait for the acknowledgement of the last.
        rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
        let address = listener.local_addr()?;
        let listener = Arc::new(Listener::new(listener));
        let connections_max = options.max_connections.clamp(1, limits::CONNECTIONS_MAX);
        let shared = Arc::new(Shared {
            connections: AtomicUsize::new(0),
            connections_max,
            refusing_max: (connections_max / 4).clamp(REFUSING_MIN, limits::REFUSING_MAX),
            streams: Arc::new(Permits::new((connections_max / 2).clamp(1, limits::STREAMS_MAX))),
            stop: OnceLock::new(),
        });
        let inboxes = (0..limits::EVENT_LOOPS)
            .map(|_| Inbox::new().map(Arc::new))
            .collect::<io::Result<Arc<[Arc<Inbox>]>>>()?;

        let (queue, threads) = Pool::start(options.threads, &service)?;
        let mut server = Self { shared, inboxes, address, loops: Vec::new(), pool: threads };
        let pool = queue; // on an error below it goes before the server, which waits for the threads
        for (n, name) in LOOP_NAMES.into_iter().enumerate() {
            let server_loop = EventLoop::new(
                Arc::clone(&listener),
                Arc::clone(&server.shared),
                [&server.inboxes[n], &server.inboxes[(n + 1) % limits::EVENT_LOOPS]].map(Arc::clone),
                options.timeouts,
                Arc::clone(&service),
                pool.clone(),
            )?;
            let (shared, inbox) = (Arc::clone(&server.shared), Arc::clone(&server.inboxes[n]));
            let stop = move || {
                shared.stop.get_or_init(Instant::now);
                inbox.put(|mail| mail.stop = true);
            };
            server.loops.push(Joined::spawn_vital(name, stop, move || server_loop.run())?);
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What tells the streams that their sources have something new.
    pub fn stream_waker(&self) -> StreamWaker {
        StreamWaker::new(Arc::clone(&self.inboxes))
    }

    /// What asks the event loops whether they turn.
    pub(crate) fn pulse(&self) -> Pulse {
        Pulse::new(Arc::clone(&self.inboxes))
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Stops listening, closes idle connections, ends streams, waits at most `within` for the answers of
    /// requests under way, cuts what is left, and joins all threads.
    ///
    /// Tells whether all have ended: a request thread that hangs is left behind, with all that it holds.
    pub fn drain(mut self, within: Duration) -> bool {
        let now = Instant::now();
        let _ = self.shared.stop.set(now.checked_add(within).unwrap_or(now));
        for inbox in &*self.inboxes {
            inbox.put(|mail| mail.stop = true);
        }
        self.loops.clear();
        self.pool.end()
    }
}

/// A few are told so in any case.
const REFUSING_MIN: usize = 4;

const LOOP_NAMES: [&str; limits::EVENT_LOOPS] = ["http-0", "http-1"];

impl Drop for Server {
    fn drop(&mut self) {
        self.loops.clear(); // before the pool, which its loops send to
    }
}
