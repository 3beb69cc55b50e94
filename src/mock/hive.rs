//! A hive that only listens: it answers the callbacks of workers and remembers them, to test a worker
//! alone. [`check`] goes further: it starts one and tries whether it keeps its contract.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::{Message, ReadyCallback, WorkerHeartbeat};
use crate::http::{Answer, ApiError, Code, Method, Request, Server};
use crate::id::{Token, WorkerId};
use crate::limits;
use crate::mock::desk::{self, Handler, Inbox, Route};

pub mod check;

/// What a worker said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callback {
    /// `POST /v1/workers/ready`.
    Ready(ReadyCallback),
    /// `POST /v1/heartbeat`.
    Heartbeat(WorkerHeartbeat),
}

/// How often a worker said what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Ready callbacks.
    pub ready: u64,
    /// Heartbeats.
    pub heartbeats: u64,
}

/// The running stand-in.
pub struct Hive {
    server: Server,
    callbacks: Inbox<Callback>,
    listening: Arc<Listening>,
}

impl Hive {
    /// Listens. With a `token`, callbacks that do not carry it are 401. `print` writes a line of each to
    /// standard output.
    ///
    /// # Errors
    /// If the system has no thread or descriptor to give.
    pub fn start(listener: TcpListener, token: Option<Token>, print: bool) -> io::Result<Self> {
        let callbacks = Inbox::default();
        let counts = Mutex::default();
        let listening = Arc::new(Listening { counts, callbacks: callbacks.clone(), print });
        let server = desk::serve(listener, 1, token, Arc::clone(&listening))?;
        Ok(Self { server, callbacks, listening })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// What workers say, in the order of arrival.
    pub fn callbacks(&self) -> &Inbox<Callback> {
        &self.callbacks
    }

    /// How often `worker` said what, so far.
    pub fn count(&self, worker: &WorkerId) -> Count {
        self.listening.counts().get(worker).copied().unwrap_or_default()
    }
}

struct Listening {
    counts: Mutex<BTreeMap<WorkerId, Count>>,
    callbacks: Inbox<Callback>,
    print: bool,
}

impl Listening {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, worker: &WorkerId, callback: Callback) -> Result<Answer, ApiError> {
        let mut counts = self.counts();
        if !counts.contains_key(worker) && counts.len() == limits::MOCK_KEPT_MAX {
            return Err(ApiError::new(Code::Overloaded, "too many workers for a stand-in"));
        }
        let count = counts.entry(worker.clone()).or_default();
        match &callback {
            Callback::Ready(_) => count.ready += 1,
            Callback::Heartbeat(_) => count.heartbeats += 1,
        }
        if self.print {
            desk::print(&line(&callback, *count));
        }
        drop(counts);
        self.callbacks.put(callback);
        Ok(Answer::json(200, &Message { message: "heard".into() }))
    }
}

/// What came from outside is escaped.
fn line(callback: &Callback, count: Count) -> String {
    match callback {
        Callback::Ready(ready) => format!(
            "ready worker={} n={} url={:?} model={:?} backend={:?} device={:?}",
            ready.worker_id, count.ready, ready.url, ready.model_ref, ready.backend, ready.device
        ),
        Callback::Heartbeat(beat) => format!(
            "heartbeat worker={} n={} health={:?} state={} slots={}/{}",
            beat.worker_id,
            count.heartbeats,
            beat.health_status,
            beat.state.map_or("?".into(), |state| format!("{state:?}").to_lowercase()),
            beat.slots_available.map_or("?".into(), |n| n.to_string()),
            beat.slots_total.map_or("?".into(), |n| n.to_string()),
        ),
    }
}

impl Handler for Listening {
    const ROUTES: &'static [Route] = &[
        Route { method: Method::Post, path: "/v1/workers/ready", guarded: true },
        Route { method: Method::Post, path: "/v1/heartbeat", guarded: true },
    ];

    fn answer(&self, request: &Request) -> Result<Answer, ApiError> {
        if request.head.path == "/v1/heartbeat" {
            let beat: WorkerHeartbeat = desk::body(request)?;
            self.hear(&beat.worker_id.clone(), Callback::Heartbeat(beat))
        } else {
            let ready: ReadyCallback = desk::body(request)?;
            self.hear(&ready.worker_id.clone(), Callback::Ready(ready))
        }
    }
}
