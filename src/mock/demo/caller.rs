//! A tiny client: a request and its answer, and a hive's events.

use std::io::{self, BufReader};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use serde_json::Value;
use ureq::Agent;

use crate::api::Worker;
use crate::limits;
use crate::thread::Joined;

use super::sse::Events;

/// Calls one server.
#[derive(Debug, Clone)]
pub struct Caller {
    agent: Agent,
    url: String,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its body; null if it is no JSON.
    pub body: Value,
    /// From the first byte sent to the last one received.
    pub took: Duration,
}

/// A worker, as an event told it at that moment.
pub type Seen = (Instant, Worker);

impl Caller {
    /// Calls the server at `url`, past any proxy.
    pub fn new(url: &str) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).proxy(None).build();
        Self { agent: config.new_agent(), url: url.to_owned() }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// If there is no answer within [`limits::DEMO_STEP`].
    pub fn get(&self, path: &str) -> Result<Reply, String> {
        let begun = Instant::now();
        let request = self.agent.get(format!("{}{path}", self.url));
        let answer = request.config().timeout_global(Some(limits::DEMO_STEP)).build().call();
        reply(&format!("GET {path}"), begun, answer)
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// If there is no answer within [`limits::DEMO_ENGINE`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Reply, String> {
        let begun = Instant::now();
        let request = self.agent.post(format!("{}{path}", self.url));
        let request = request.config().timeout_global(Some(limits::DEMO_ENGINE)).build();
        let answer = request.header("Content-Type", "application/json").send(body.to_string());
        reply(&format!("POST {path}"), begun, answer)
    }

    /// Follows `GET /v1/events`: each worker that is told of, until the stream ends. The thread ends with
    /// the stream.
    ///
    /// # Errors
    /// If there is no stream.
    pub fn events(&self) -> Result<(Receiver<Seen>, Joined), String> {
        let path = "/v1/events";
        let answer = self.agent.get(format!("{}{path}", self.url)).call();
        let answer = answer.map_err(|e| format!("GET {path}: {e}"))?;
        if answer.status() != 200 {
            return Err(format!("GET {path}: {}", answer.status()));
        }
        let stream = BufReader::new(answer.into_body().into_reader());
        let (seen, sees) = bounded(limits::EVENTS_KEPT);
        let follow = move || {
            let events = Events::new(stream).map_while(io::Result::ok);
            for event in events.filter(|event| event.name == "worker") {
                let Ok(worker) = serde_json::from_str(&event.data) else { return };
                if seen.send((Instant::now(), worker)).is_err() {
                    return;
                }
            }
        };
        let thread = Joined::spawn("events", || {}, follow).map_err(|e| e.to_string())?;
        Ok((sees, thread))
    }
}

fn reply(
    request: &str,
    begun: Instant,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Reply, String> {
    let said = answer.and_then(|answer| {
        let status = answer.status().as_u16();
        answer.into_body().read_to_string().map(|text| (status, text))
    });
    let (status, text) = said.map_err(|e| format!("{request}: {e}"))?;
    let body = serde_json::from_str(&text).unwrap_or_default();
    Ok(Reply { status, body, took: begun.elapsed() })
}
