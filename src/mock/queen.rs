//! A queen: takes heartbeats, keeps the last of each hive, and tells them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;

use crate::api::{Heartbeat, HeartbeatWorker, Message};
use crate::client::{Heard, NotAHeartbeat, Realm};
use crate::http::{Answer, ApiError, Body, Code, Method, Request, Server};
use crate::id::Token;
use crate::mock::desk::{self, Handler, Inbox, Route};

/// How she is; the default asks for no token, says nothing and is well.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Heartbeats that do not carry it are 401.
    pub token: Option<Token>,
    /// Whether a line of each heartbeat goes to standard output.
    pub print: bool,
    /// What every heartbeat is answered with, until [`Queen::set_fault`] says otherwise.
    pub fault: Option<u16>,
}

/// The running stand-in.
pub struct Queen {
    server: Server,
    heartbeats: Inbox<Heartbeat>,
    court: Arc<Court>,
}

impl Queen {
    /// Listens.
    ///
    /// # Errors
    /// If the system has no thread or descriptor to give.
    pub fn start(listener: TcpListener, options: Options) -> io::Result<Self> {
        let Options { token, print, fault } = options;
        let heartbeats = Inbox::default();
        let court = Arc::new(Court {
            realm: Mutex::default(),
            fault: Mutex::new(fault),
            heartbeats: heartbeats.clone(),
            print,
        });
        let server = desk::serve(listener, 1, token, Arc::clone(&court))?;
        Ok(Self { server, heartbeats, court })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// What she takes, in the order of arrival; neither what she refuses nor what is old.
    pub fn heartbeats(&self) -> &Inbox<Heartbeat> {
        &self.heartbeats
    }

    /// The last heartbeat of each hive, by name.
    pub fn hives(&self) -> Vec<Heartbeat> {
        self.court.realm().hives().cloned().collect()
    }

    /// From now on every heartbeat is answered with this status and forgotten; `None`: she is well again.
    pub fn set_fault(&self, status: Option<u16>) {
        *self.court.fault.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

struct Court {
    realm: Mutex<Realm>,
    fault: Mutex<Option<u16>>,
    heartbeats: Inbox<Heartbeat>,
    print: bool,
}

impl Court {
    fn realm(&self) -> MutexGuard<'_, Realm> {
        self.realm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, heartbeat: Heartbeat) -> Result<Answer, ApiError> {
        let heard = self.realm().hear(heartbeat.clone());
        if self.print {
            desk::print(&line(&heartbeat, heard));
        }
        let message = match heard {
            Heard::New => "taken",
            Heard::Old => "a newer one is known",
            Heard::Full => return Err(ApiError::new(Code::Overloaded, "too many hives for a stand-in")),
        };
        if heard == Heard::New {
            self.heartbeats.put(heartbeat);
        }
        Ok(Answer::json(200, &Message { message: message.into() }))
    }
}

impl Handler for Court {
    const ROUTES: &'static [Route] = &[
        Route { method: Method::Post, path: "/heartbeat", guarded: true },
        Route { method: Method::Get, path: "/hives", guarded: true },
    ];

    fn answer(&self, request: &Request) -> Result<Answer, ApiError> {
        if request.head.path == "/hives" {
            return Ok(Answer::json(200, &json!({ "hives": self.realm().hives().collect::<Vec<_>>() })));
        }
        let heartbeat = Heartbeat::parse(&request.body).map_err(|error| refusal(&error))?;
        match *self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(status) => {
                Ok(Answer::bytes(status, "text/plain", Body::Owned(b"a fault on request\n".to_vec())))
            }
            None => self.take(heartbeat),
        }
    }
}

fn refusal(error: &NotAHeartbeat) -> ApiError {
    match error {
        NotAHeartbeat::TooLong => ApiError::new(Code::PayloadTooLarge, error.to_string()),
        NotAHeartbeat::Shape => ApiError::new(Code::InvalidJson, error.to_string()),
        NotAHeartbeat::Field { field, .. } => ApiError::argument(field, error.to_string()),
    }
}

/// One line; what came from outside is escaped.
fn line(heartbeat: &Heartbeat, heard: Heard) -> String {
    let workers: Vec<_> = heartbeat.workers.iter().map(worker).collect();
    format!(
        "heartbeat hive={} status={} boot={} seq={}{} url={} workers={} [{}]",
        heartbeat.hive_id.escape_debug(),
        format!("{:?}", heartbeat.status).to_lowercase(),
        heartbeat.boot_id.escape_debug(),
        heartbeat.sequence,
        if heard == Heard::New { "" } else { " ignored" },
        heartbeat.url.escape_debug(),
        heartbeat.workers.len(),
        workers.join(", "),
    )
}

fn worker(worker: &HeartbeatWorker) -> String {
    format!(
        "{} {} {} {} {}/{} {}",
        worker.worker_id,
        worker.state.as_str(),
        worker.device.escape_debug(),
        worker.model_ref.escape_debug(),
        worker.slots_available,
        worker.slots_total,
        worker.url.escape_debug(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HiveStatus;

    fn beat(hive: &str, boot: &str, sequence: u64) -> Heartbeat {
        Heartbeat {
            hive_id: hive.into(),
            timestamp: "2026-01-01T00:00:00.000Z".into(),
            status: HiveStatus::Ready,
            url: "http://127.0.0.1:1".into(),
            version: "0".into(),
            boot_id: boot.into(),
            sequence,
            workers: Vec::new(),
        }
    }

    #[test]
    fn a_line_holds_what_came_from_outside_escaped() {
        let line = line(&beat("h\n\x1b[2J", "a", 1), Heard::New);
        assert!(line.starts_with("heartbeat hive=h\\n\\u{1b}[2J status=ready boot=a seq=1 url="), "{line}");
    }
}
