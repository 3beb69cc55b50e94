//! The hive's end: takes a worker's calls in the mood it is in, and may be away.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde_json::Value;

use crate::api::Message;
use crate::http::{
    Answer, Errand, Head, Method, Options, Peer, Request, Server, Service, Ticket, Timeouts, Verdict,
};
use crate::limits;
use crate::mock::desk;

/// What is waited for.
#[derive(Debug)]
pub(super) enum News {
    /// The worker called.
    Called(Call),
    /// The worker of this launch has ended.
    Exited(u32),
    /// Whoever asked for the check has enough.
    Interrupted,
}

/// A call of the worker.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) what: What,
    pub(super) at: Instant,
    pub(super) bearer: Option<String>,
    /// None if it is no JSON.
    pub(super) body: Option<Value>,
    /// What it was answered with.
    pub(super) status: u16,
}

/// What a call is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Ready,
    Heartbeat,
    /// Something that no worker has to call.
    Other(String),
}

struct Listening {
    mood: Arc<AtomicU16>,
    news: Sender<News>,
}

impl Service for Listening {
    fn on_head(&self, _head: &Head, _peer: &mut Peer) -> Result<(), Answer> {
        Ok(())
    }

    fn on_loop(&self, request: Request) -> Verdict {
        Verdict::Thread(request, Errand::new("check"))
    }

    fn on_thread(&self, request: Request, ticket: Ticket) {
        let what = match (&request.head.method, request.head.path.as_str()) {
            (Method::Post, "/v1/workers/ready") => What::Ready,
            (Method::Post, "/v1/heartbeat") => What::Heartbeat,
            (method, path) => What::Other(format!("{method} {path}")),
        };
        let known = !matches!(what, What::Other(_));
        let status = if known { self.mood.load(Ordering::SeqCst) } else { 404 };
        let bearer = desk::bearer(&request.head).map(str::to_owned);
        let body = serde_json::from_slice(&request.body).ok();
        // Full: who floods is not listened to.
        let _ = self.news.try_send(News::Called(Call { what, at: Instant::now(), bearer, body, status }));
        ticket.answer(Answer::json(status, &Message { message: "heard".to_owned() }));
    }
}

/// A hive that only listens, and can be made to misbehave.
pub(super) struct Ear {
    addr: SocketAddr,
    mood: Arc<AtomicU16>,
    news: Sender<News>,
    server: Option<Server>,
    /// Bound, and never listens: while the hive is away nobody else gets its port, a caller's own end of a
    /// connection included.
    _port: OwnedFd,
}

impl Ear {
    /// Listens on a free port of the loopback, in the mood for 200.
    pub(super) fn open(news: Sender<News>) -> io::Result<Self> {
        let port =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // As std sets it on a listener: so both may have the address, as long as one of them listens.
        sockopt::set_socket_reuseaddr(&port, true)?;
        rustix::net::bind(&port, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let bound = SocketAddr::try_from(rustix::net::getsockname(&port)?)?;
        let mood = Arc::new(AtomicU16::new(200));
        let mut ear = Self { addr: bound, mood, news, server: None, _port: port };
        ear.come_back()?;
        Ok(ear)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What calls are answered with from now on.
    pub(super) fn answer_with(&self, status: u16) {
        self.mood.store(status, Ordering::SeqCst);
    }

    /// Refuses connections from now on, and cuts those that there are.
    pub(super) fn go_away(&mut self) {
        self.server = None;
    }

    /// The port again, for whoever is not to speak HTTP there.
    pub(super) fn listener(&self) -> io::Result<TcpListener> {
        TcpListener::bind(self.addr)
    }

    /// Listens again.
    pub(super) fn come_back(&mut self) -> io::Result<()> {
        let listener = self.listener()?;
        self.serve(listener)
    }

    fn serve(&mut self, listener: TcpListener) -> io::Result<()> {
        let options =
            Options { threads: 1, max_connections: limits::MOCK_KEPT_MAX, timeouts: Timeouts::default() };
        let service = Listening { mood: Arc::clone(&self.mood), news: self.news.clone() };
        self.server = Some(Server::start(listener, options, Arc::new(service))?);
        Ok(())
    }
}
