//! What workers say of themselves, and what is asked of them.

use serde_json::json;

use crate::api::{Message, ReportedHealth, ReportedState};
use crate::http::auth::{Who, callback_run};
use crate::http::{Answer, ApiError, Body, Code, Request};
use crate::id::WorkerId;
use crate::lifecycle::fleet::{AskError, Beat};
use crate::lifecycle::picture::Snapshot;
use crate::limits::{LOG_TAIL_BYTES_MAX, PARALLEL_MAX};

use super::arguments::{Arguments, wrong};
use super::{Api, no_answer};

pub(super) fn worker(snapshot: &Snapshot, id: &WorkerId) -> Result<Answer, ApiError> {
    let entry = snapshot.worker(id).ok_or_else(|| not_found(snapshot, id))?;
    Ok(Answer::bytes(200, "application/json", Body::Shared(entry.json())))
}

pub(super) fn stop(api: &Api, id: WorkerId, force: bool) -> Result<Answer, ApiError> {
    let asked = api.inbox.stop(id.clone(), force).map_err(no_answer)?;
    asked.map_err(|_| not_found(&api.picture.snapshot(), &id))?;
    Ok(done(202, "the worker is being stopped"))
}

pub(super) fn ready(api: &Api, who: &Who, request: &Request) -> Result<Answer, ApiError> {
    let arguments = Arguments::parse(&request.body)?;
    let id = own_id(&arguments)?;
    for field in ["url", "model_ref", "backend", "device"] {
        arguments.needed_text(field)?;
    }
    let slots_total = arguments.number("slots_total", 1..=PARALLEL_MAX)?;
    let run = callback_run(who, &id)?;
    let answer = api.inbox.ready(id.clone(), run, slots_total).map_err(no_answer)?;
    answer.map_err(|error| refusal(api, &id, error))?;
    Ok(done(200, "ready"))
}

pub(super) fn heartbeat(api: &Api, who: &Who, request: &Request) -> Result<Answer, ApiError> {
    let arguments = Arguments::parse(&request.body)?;
    let id = own_id(&arguments)?;
    arguments.needed_text("timestamp")?;
    let health = arguments.word(
        "health_status",
        &[("healthy", ReportedHealth::Healthy), ("degraded", ReportedHealth::Degraded)],
    )?;
    let health = health.ok_or_else(|| ApiError::argument("health_status", "health_status is missing"))?;
    let state = arguments.word("state", &[("ready", ReportedState::Ready), ("busy", ReportedState::Busy)])?;
    let slots_total = arguments.number("slots_total", 1..=PARALLEL_MAX)?;
    let slots_available = arguments.number("slots_available", 0..=PARALLEL_MAX)?;
    if let (Some(total), Some(available)) = (slots_total, slots_available)
        && available > total
    {
        return Err(wrong("slots_available", "at most slots_total"));
    }
    let run = callback_run(who, &id)?;
    let beat = Beat { health, state, slots_total, slots_available };
    let answer = api.inbox.beat(id.clone(), run, beat).map_err(no_answer)?;
    answer.map_err(|error| refusal(api, &id, error))?;
    Ok(done(200, "noted"))
}

/// The end of a log, or of what the run before the last one wrote. A worker that was never launched has none
/// yet: that is an empty log.
pub(super) fn log_tail(api: &Api, id: &WorkerId, lines: usize, previous: bool) -> Result<Answer, ApiError> {
    known(api, id)?;
    let tail = if previous {
        api.logs.tail_of_previous(id, lines, LOG_TAIL_BYTES_MAX)
    } else {
        api.logs.tail(id, lines, LOG_TAIL_BYTES_MAX).map(Some)
    };
    let tail = tail.map_err(|error| {
        log::warn!("log not readable worker={id} error={error}");
        ApiError::new(Code::Internal, "the log cannot be read")
    })?;
    let no_run = || ApiError::new(Code::NotFound, "the log has no run before the last one");
    let tail = tail.ok_or_else(no_run)?;
    let text = tail.into_iter().fold(String::new(), |text, line| text + &line + "\n");
    Ok(Answer::bytes(200, "text/plain; charset=utf-8", Body::Owned(text.into_bytes())))
}

/// Checks that the worker lives or ended not long ago.
pub(super) fn known(api: &Api, id: &WorkerId) -> Result<(), ApiError> {
    let snapshot = api.picture.snapshot();
    let known = snapshot.worker(id).is_some() || snapshot.gone(id).is_some();
    if known { Ok(()) } else { Err(not_found(&snapshot, id)) }
}

fn own_id(arguments: &Arguments) -> Result<WorkerId, ApiError> {
    let text = arguments.needed_text("worker_id")?;
    text.parse().map_err(|_| wrong("worker_id", "1 to 64 characters of A-Z, a-z, 0-9 and -"))
}

fn refusal(api: &Api, id: &WorkerId, error: AskError) -> ApiError {
    match error {
        AskError::NotFound => not_found(&api.picture.snapshot(), id),
        AskError::OldRun => ApiError::new(Code::InvalidApiKey, "the token is of a launch that is over"),
        AskError::State => {
            ApiError::new(Code::WorkerState, "the worker's state or kind does not allow this callback")
        }
    }
}

fn not_found(snapshot: &Snapshot, id: &WorkerId) -> ApiError {
    let error = ApiError::new(Code::WorkerNotFound, "there is no such worker");
    match snapshot.gone(id) {
        Some(entry) => error.with_details(json!({ "last": entry.worker })),
        None => error,
    }
}

fn done(status: u16, message: &str) -> Answer {
    Answer::json(status, &Message { message: message.to_owned() })
}
