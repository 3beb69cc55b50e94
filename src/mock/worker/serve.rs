//! What a mock worker answers, and the slots behind it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use serde::Deserialize;
use serde_json::json;

use crate::api::Message;
use crate::http::{Answer, ApiError, Body, Code, Method, Request};
use crate::limits;
use crate::mock::desk::{self, Handler, Route};

/// Slots that pieces of work hold.
#[derive(Debug)]
pub(in crate::mock) struct Slots {
    total: u32,
    running: Mutex<u32>,
    /// Told when the last free slot is taken, and when one is free again.
    changed: Sender<()>,
}

impl Slots {
    pub(in crate::mock) fn new(total: u32, changed: Sender<()>) -> Self {
        Self { total, running: Mutex::new(0), changed }
    }

    pub(in crate::mock) fn total(&self) -> u32 {
        self.total
    }

    pub(in crate::mock) fn running(&self) -> u32 {
        *self.lock()
    }

    /// A slot for as long as it is held; none if none is free.
    fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut running = self.lock();
        if *running == self.total {
            return None;
        }
        *running += 1;
        self.tell_if(*running == self.total);
        Some(Slot(Arc::clone(self)))
    }

    fn tell_if(&self, changed: bool) {
        if changed {
            // Full: whoever listens has not looked yet, and will see this too.
            let _ = self.changed.try_send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        let mut running = self.0.lock();
        *running -= 1;
        self.0.tell_if(*running + 1 == self.0.total);
    }
}

/// What requests are answered from.
pub(super) struct Serving {
    pub(super) slots: Arc<Slots>,
    /// None: never.
    pub(super) loaded_at: Option<Instant>,
    pub(super) unready_health: bool,
    /// Ends the worker; none where shutdown is only answered.
    pub(super) end: Option<Sender<&'static str>>,
    /// Closed when the worker ends.
    pub(super) over: Receiver<()>,
}

/// A piece of work, as it is asked for.
#[derive(Deserialize)]
pub(in crate::mock) struct Work {
    #[serde(default)]
    prompt: String,
    #[serde(default = "work_ms")]
    ms: u64,
}

fn work_ms() -> u64 {
    200
}

/// Holds a slot for the time that is asked for, then answers with the prompt's words in reverse. `over` is closed
/// when the worker ends.
pub(in crate::mock) fn work(
    slots: &Arc<Slots>,
    over: &Receiver<()>,
    asked: &Work,
) -> Result<Answer, ApiError> {
    let time = Duration::from_millis(asked.ms);
    if time > limits::MOCK_WORK_MAX {
        return Err(ApiError::argument("ms", "at most ten minutes"));
    }
    let _slot = slots.take().ok_or_else(|| ApiError::new(Code::Overloaded, "no slot is free"))?;
    match over.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => {
            let words: Vec<_> = asked.prompt.split_whitespace().rev().collect();
            Ok(Answer::json(200, &json!({ "text": words.join(" "), "words": words.len() })))
        }
        _ => Err(ApiError::new(Code::ShuttingDown, "the worker ends")),
    }
}

impl Serving {
    fn is_loaded(&self) -> bool {
        self.loaded_at.is_some_and(|at| at <= Instant::now())
    }

    fn health(&self) -> Answer {
        let (status, text) = match (self.unready_health, self.is_loaded()) {
            (true, _) => (500, "unwell, on request"),
            (false, true) => (200, "ok"),
            (false, false) => (503, "loading"),
        };
        Answer::json(status, &json!({ "status": text }))
    }

    fn complete(&self, asked: &Work) -> Result<Answer, ApiError> {
        if !self.is_loaded() {
            return Err(ApiError::new(Code::Overloaded, "the model is not loaded yet"));
        }
        work(&self.slots, &self.over, asked)
    }

    fn slots(&self) -> Answer {
        let running = self.slots.running();
        let slot = |id| json!({ "id": id, "is_processing": id < running });
        Answer::json(200, &(0..self.slots.total()).map(slot).collect::<Vec<_>>())
    }

    fn metrics(&self) -> Answer {
        let text = format!(
            "# HELP mock:requests_running Pieces of work that hold a slot.\n\
             # TYPE mock:requests_running gauge\n\
             mock:requests_running {}\n",
            self.slots.running()
        );
        Answer::bytes(200, "text/plain; version=0.0.4", Body::Owned(text.into_bytes()))
    }

    fn shut_down(&self) -> Answer {
        if let Some(end) = &self.end {
            // Full: it is ending already.
            let _ = end.try_send("POST /v1/shutdown");
        }
        Answer::json(200, &Message { message: "shutting down".into() })
    }
}

impl Handler for Serving {
    const ROUTES: &'static [Route] = &[
        Route { method: Method::Get, path: "/health", guarded: false },
        Route { method: Method::Get, path: "/slots", guarded: false },
        Route { method: Method::Get, path: "/metrics", guarded: false },
        Route { method: Method::Post, path: "/v1/completions", guarded: false },
        Route { method: Method::Post, path: "/v1/shutdown", guarded: true },
    ];

    fn answer(&self, request: &Request) -> Result<Answer, ApiError> {
        Ok(match request.head.path.as_str() {
            "/health" => self.health(),
            "/slots" => self.slots(),
            "/metrics" => self.metrics(),
            "/v1/completions" => self.complete(&desk::body(request)?)?,
            _ => self.shut_down(),
        })
    }
}
